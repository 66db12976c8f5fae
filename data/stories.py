"""Text to learn from when there is no network: a generator of short children's stories.

What it teaches: a few pages of templates, one die and a hash make as many different stories as a
study asks for, the same on every machine, divided into training and validation by construction.

    python data/stories.py            prints three stories of the training stream, at once
    python data/stories.py 5 valid    five of the validation stream, <|endoftext|> between them
"""
import hashlib, re, sys
from functools import cache
from random import Random

# ---------------------------------------------------------------- 1. The dice and the templates
# A template is text with two kinds of holes:
#     [now|then|]   one of the alternatives, here one of two words or nothing; they may nest
#     {thing}       a fact: drawn from its list at first use, then the same all through the story;
#                   {a thing} puts "a" or "an" before it, a capital ({He}, {A thing}) stays one
# So "{A beast} [ran|hid]. The {beast} [sneezed|slept]." may become "An owl hid. The owl sneezed."

def pick(dice, items):
    """One item. KEEP: random() is the only one of Python's dice promised never to change."""
    return items[int(dice.random() * len(items))]

def tell(text, facts, lists, dice):
    """Fill every hole of a template; `facts` remembers what this story has settled so far."""
    while "[" in text:  # the innermost brackets first, so that no hole is left inside another
        text = re.sub(r"\[([^][]*)\]", lambda hole: pick(dice, hole[1].split("|")), text)
    return re.sub(r"\{([^}]*)\}", lambda hole: tell_fact(hole[1], facts, lists, dice), text)

def tell_fact(hole, facts, lists, dice):
    """'A beast' -> 'An owl', and whoever asks for 'beast' again gets the same owl."""
    *article, key = hole.lower().split()
    if key not in facts:
        facts[key] = tell(pick(dice, lists[key]), facts, lists, dice)
    text = facts[key]
    if article:
        text = ("an " if text[0] in "aeiou" else "a ") + text
    return text[0].upper() + text[1:] if hole[0].isupper() else text

# ---------------------------------------------------------------- 2. The people and the things
# Each list is "name: item/item/...;". An item fits wherever its list is used: no season in `day`,
# plurals made by adding s, every `craft` takes -er, -ing and -ed, every `number` -th, `tone` -ly.
WORDS = """
girl: Mia/Lily/Anna/Zoe/Ruby/Nora/Ella/Ivy/Clara/Maya/Lucy/Emma/Sara/Hana/Tess/Nina/Alma/Leila/
Amira/Priya/Iris/Greta/Molly/Keiko/Lena/Marta/Tara/Vera/Yara/Edith/Dora/Ada/Eva/Asha/Rita/Jana/
Elsa/Zita/Una/Bea/Cleo/Fay/Gina/Inga/Lola/Wilma/Paula/Rosie/Sonia/Thea/Uma/Nadia/Wanda/Olga/Gwen;
boy: Tom/Ben/Leo/Max/Sam/Finn/Omar/Jack/Noah/Theo/Luca/Eli/Hugo/Oscar/Milo/Felix/Ravi/Kofi/Owen/
Toby/Arlo/Emil/Ivan/Jamal/Kai/Liam/Nico/Otis/Pablo/Ralph/Simon/Tariq/Yusuf/Ali/Ian/Abel/Gus/Ned/
Axel/Cyril/Dan/Enzo/Hank/Igor/Joel/Karl/Rufus/Lars/Malik/Neil/Olaf/Pedro/Sven/Ugo/Rafael/Dario/Hal;
pet: Button/Clover/Pip/Biscuit/Pepper/Noodle/Bramble/Pebble/Waffle/Nutmeg/Sprout/Pickle/Dumpling/
Muffin/Cocoa/Sesame/Truffle/Domino/Fidget/Tuppence/Sultan/Mustard/Bubbles/Rascal/Toffee/Zigzag;
kin: Grandma/Grandpa/Mom/Dad/Aunt Tilda/Uncle Joe; friend: {hero}'s {bond} {pal}/{his} {bond} {pal};
bond: best friend/cousin/neighbor/classmate/oldest friend/playmate; how: {tone}ly/in {a tone} voice;
job: baker/miller/tailor/potter/farmer/sailor/weaver/dentist/doctor/plumber/florist/jeweler/
carpenter/shoemaker/librarian/beekeeper/barber/grocer/butcher/mayor/mason/tinker/tanner/joiner;
craft: paint/garden/juggl/danc/skat/explor/carv/climb/yodel/whistl/knitt/jogg/wrestl/drumm/box/hik/
bowl/ski/kayak/tumbl/fiddl/jok/sprint/fish/sketch/div/row/skipp/compos/weld/bak/snorkel;
tone: quiet/calm/kind/sweet/bright/frank/tender/earnest/wise/serious/polite/cheerful/pensive/
thoughtful/solemn/sincere/brisk/gracious/courteous/peaceful/mild/pleasant/cordial;
trait: {tone}/{tone}/lively/dreamy/merry/funny/inventive/freckled/curly-haired/sensible/long-legged/
sunny/shy/tidy/messy/witty/cheeky/loyal/busy/jolly/sleepy/nimble/bouncy/brainy/dimpled/rosy;
color: yellow/white/pink/red/orange/gray/turquoise/lilac/crimson/blue/green/purple/violet/black;
beast: bear/lion/tiger/whale/shark/zebra/camel/giraffe/panda/koala/parrot/penguin/pelican/lobster/
crab/turtle/beetle/dragon/elephant/hippo/kangaroo/flamingo/crocodile/seal/eagle/dolphin/llama/
gorilla/raccoon/lizard/spider/cricket/swan/snail/owl/falcon/mole/goat/toad/bat/beaver/frog;
food: plum/pear/apple/lemon/melon/apricot/fig/lime/onion/turnip/carrot/cucumber/pumpkin/leek/beet/
coconut/walnut/banana/mango/parsnip/pretzel/bagel/cupcake/almond/olive/quince/papaya/doughnut;
trinket: coin/stamp/feather/marble/ribbon/postcard/pinecone/pebble/ticket/magnet/thimble/puzzle/
teacup/bottle/seashell/map/poem/riddle/fossil/bell/whistle/shoelace/candle/medal/pencil;
vehicle: tractor/rocket/submarine/locomotive/helicopter/spaceship/truck/bulldozer/airplane/tram/
sailboat/robot/castle/pyramid/lighthouse/igloo/wagon/trolley/palace/glider/fort;
horn: trumpet/tuba/flute/harp/violin/cello/banjo/accordion/xylophone/clarinet/trombone/oboe;
wear: hat/cape/vest/crown/apron/helmet/cloak/sweater/raincoat/beret/poncho/bonnet/bathrobe;
number: four/six/seven/ten/eleven/thirteen/fourteen/fifteen/sixteen/seventeen/nineteen/eighteen;
who: [dreamed of becoming|planned to be] [{a craft}er|{a craft}er|{a job}] one day/came from a long
line of {job}s/practiced {craft}ing [day and night|before breakfast]/had {craft}ed since the age of
three/[drew|sketched] {beast}s on [napkins|envelopes|misty windows]/owned a stuffed {beast} with
[button eyes|one eye]/could imitate {a beast}'s [yawn|walk|sneeze]/laughed like {a beast};
habit: could balance {a food} on one finger/loved {food}s above all/collected {trinket}s/carried {a
trinket} around for luck/built {vehicle}s out of [cardboard|mashed potatoes]/slept in a bed shaped
like {a vehicle}/played the {horn} badly/was wild about {horn}s/talked to [clouds|statues]/always
wore {a color} {wear}/had inherited {number} {wear}s/asked {number} questions [a day|an hour];
home: {a color} [house|cottage|bungalow] [with a squeaky gate|with round windows|with a crooked
chimney|beside the windmill|near the railway|on {Number}th Street|opposite the {job}'s yard];
intro: Once there was {a trait} {kid} named {hero} who {who} and {habit}./There once was {a trait}
{kid} called {hero}. {He} {who}./{hero} was {a trait} {kid} who {who}. {He} lived in {home}./In
{home} lived {hero}, {a trait} {kid} who {habit}./Everyone [on the street|at school|in town] knew
{hero}, the {trait} {kid} who {habit}. What is more, {he} {who}./Have you met {hero}? {He} {who}.;
day: One [breezy|golden|mild|clear|fine] [morning|afternoon]/On
[Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday] [morning|afternoon]/Early one morning;
aside: A [bumblebee hummed|butterfly fluttered] past./Somewhere a [rooster crowed|cuckoo
called|woodpecker knocked]./The air smelled of [lilacs|{food}s]./A [pigeon|tomcat] watched.;
sad: {His} [shoulders drooped|chin wobbled|cheeks burned|heart sank|throat felt tight|lip trembled];
"""

# ---------------------------------------------------------------- 3. The plots
# "# title; names of facts", then lines with semicolons: each a set of facts that belong together,
# so that nobody loses a pond. The other lines are the story, with / between paragraphs. The cast:
# {hero} with {he} {him} {his}, and a child {pal} with {he2} {him2} {his2}: one girl and one boy, so
# "he" and "she" are never in doubt. Add a plot of your own at the end, without a semicolon in the
# story: print 50 and read. (It changes the text of every run, and the sum that a test knows.)
PLOTS = """
# Lost and found; thing; clue; animal; nook; need; swap
striped scarf; speckled feathers; chicken; in the henhouse; My eggs were shivering; woolen blanket
silver spoon; glossy feathers; magpie; in a hollow birch; I wanted a mirror; shiny brass doorknob
left slipper; muddy paw prints; puppy; under the porch; It smells so nicely of you; cozy old sock
knitted mitten; cheese crumbs; mouse; behind the pantry; I had no sleeping bag; padded matchbox
{intro} / {Day}, {his} {thing} was gone! {hero} searched under the [sofa|carpet|mattress] and inside
the [piano|oven|teapot]. "{A thing} cannot [walk|wander] away," said {friend}. "Look, {clue}!" /
They followed the trail like [detectives|bloodhounds], and {nook} sat {pet} the {animal} with the
{thing}. "Forgive me," {pet} [mumbled|muttered|squeaked]. "{need}." / {hero} dashed home and brought
{a swap} instead. "It is perfect!" cried {pet}. Every week, {hero} comes to admire {pet}'s {swap}.
# Broken and mended; thing; use; crack; tools; mark
kite; let it swoop over the meadow; its frame snapped; bamboo and twine; it flew twice as high
music box; wound it up too far; its key broke off; pliers and wire; it tinkled a brand-new tune
wooden cart; steered it downhill; a wheel rolled off; a hammer and nails; it squeaked a song
puppet; made it waltz and leap; a seam burst; a needle and thread; it waved with great elegance
{intro} / {Friend} lent {him} {a thing}. {Day}, {hero} {use}. {aside} [Then|Suddenly] {crack}.
{Sad}. "I could hide it [under my bed|in the compost]," {he} thought, but that idea felt as heavy as
[a brick|an anvil]. / So {he} confessed. {pal} took three long breaths. "Thank you for being
honest," {he2} said {how}. "The {job} can mend anything except burnt porridge." / The {job} brought
{tools}, the children helped, and soon the {thing} was whole again. In fact, {mark}!
# Afraid and brave; place; errand; sound; guess; truth
cellar; a jar of jam; a hollow groan; a grumpy ogre; a rusty pipe, gurgling to itself
attic; the sewing basket; a spooky flapping; a ghost; a bedsheet, drying in the draft
barn; a coil of rope; heavy breathing; a troll; the donkey, fast asleep and snoring
boathouse; the oars; a slow knocking; a one-legged pirate; a canoe, bumping against the dock
{intro} Only the {place} frightened {him}. / One [foggy|chilly|murky] evening, {kin} said, "Please
fetch {errand} from the {place}." From behind the door came {sound}. "That must be {guess}," {he}
[gasped|whispered]. / "You can be afraid and brave at the same time," said {friend} {how}, and lit a
lantern. [Step by step|Inch by inch], they crept in. The light trembled over [dusty
shelves|cobwebs|a ladder] and fell on {truth}. "So you are {guess}!" {hero} chuckled. Now, whenever
{he} hears {sound}, {he} just [waves hello|knocks back].
# Out of reach; thing; spot; vain; animal; deed; treat
kite; in the crown of an oak; No broom was long enough; squirrel; gnawed the string loose; hazelnuts
ring; in a crack of the pavement; All fingers were too thick; mouse; squeezed in after it; cheddar
cap; behind a thorny hedge; Every branch pricked and poked; hedgehog; rolled it out; raisins
bracelet; at the bottom of the brook; The water was icy and swift; otter; dived for it; fish sticks
{intro} / {Day}, {he} was [hopping|skipping|strolling] along with {his} {color} {thing}. {aside} One
[sneeze|stumble|gust of wind], and whoosh, there it was, {spot}! {vain}. / "You need an expert,"
said {friend} {how}. "Ask {pet} the {animal}!" {pet} nodded gravely and {deed}. "How can I thank
you?" cried {hero}. "Well, I do like {treat}," said {pet}. So they had a picnic with a
[mountain|bucket] of {treat}. Since then, {hero}'s pockets have been full of {treat}, just in case.
# Sharing; thing; alone; together
seesaw; it sat on the ground like a sleepy cow; up and down they flew, higher than the hollyhocks
rowboat; it spun like a dizzy top; they glided straight across the lake to a tiny, secret island
set of walkie-talkies; only static answered; mysterious codes crackled through the garden
red wagon; there was nobody to pull it; they took turns as horse and passenger, trotting uphill
{intro} / For {his} birthday, {kin} gave {him} a {thing}. "Mine, all mine!" {he} [sang|crowed].
{Friend} asked to join in. "No," said {hero}. {pal} [shrugged|sighed] and went off to count
[ants|chimneys|bicycles]. / But {alone}. "Some presents are like
[scissors|mittens|cymbals|chopsticks]," {kin} said {how}. "Half a pair is not much use." / {hero}
blushed and hurried after {pal}. "I was [selfish|greedy|a grouch]. Will you come back?" {pal}'s face
lit up. Soon {together}! "It is mine and yours," said {hero}. "You mean ours," said {pal}.
# A promise; duty; did; show; state; reward
water my tomatoes; watered every last tomato; The circus is here; the tomatoes were plump; the best
feed my goldfish; fed the goldfish; A juggler is in town; the fish blew fat bubbles; a pearly shell
brush my pony; combed the tangled mane; A hot-air balloon is landing; the pony gleamed; a long ride
shut my henhouse; bolted the door; The fireworks are starting; no hen was missing; a giant omelet
{intro} / "I am off to the [city|coast|mountains] until Sunday," the {job} told {him} one day. "Will
you {duty} each evening?" "I promise," said {hero}, and they shook hands like [sailors|kings]. / On
the second evening, {friend} came running. "Hurry! {show}!" {hero}'s feet [itched|twitched]. "My
promise comes first," {he} said {how}. "Then I shall help," said {pal}. "Four hands are quicker than
two." Together they {did} and missed nothing. / On Sunday, {state}, and the {job} gave {hero}
{reward}. {He} and {pal} shared it, because two of the four hands were {pal}'s.
# The race; race; goal; mishap; help; prize
sack; the elm; tumbled into the leaves; pulled {him2} out; gingerbread heart
scooter; the fountain; got stuck in a grate; lifted the wheel free; golden ribbon
barefoot; the bridge; trod on a thistle; plucked out the prickle; chocolate medal
sled; the frozen pond; plunged headfirst into a snowdrift; dug {him2} out; block of almond nougat
{intro} {Friend} was the fastest {kid2} in the [village|county], and {he2} said so ten times a day.
/ At the great {race} race, {he2} shot ahead like [an arrow|a startled rabbit]. Just before {goal},
{he2} {mishap}. "Ouch!" / Now {hero} could win! {He} glanced at {goal}. {He} glanced at {pal}. Then
{he} turned and {help}. They finished side by side, and the {job} cut the {prize} in two. {pal}
still [talks|boasts] about that race ten times a day, but now {he2} says "we" instead of "I."
# Baking; dish; slip; idea; rescue; title
gingerbread men; they had melted into a row; They are holding hands; iced them all; the Happy Chain
a plum cake; its middle had caved in; A crater needs lava; poured in hot custard; the Volcano
pancakes; one stuck to the ceiling; It must fall sometime; caught it with a plate; the Falling Star
a lemon jelly; it was as thin as rain; Bring straws; served it in tall glasses; the Lemon Lagoon
{intro} / {kin}'s birthday was near, so {he} decided to make {dish}. {Friend} [tied on an
apron|rolled up {his2} sleeves]. They stirred till their [wrists|elbows] were sore, and the kitchen
smelled of [vanilla|cinnamon|butter]. Then {hero} let out a [yelp|shriek]: {slip}! {Sad}. / "All is
[ruined|lost]," {he} [wailed|moaned]. "No, it is not," said {pal} {how}. "{idea}!" So they {rescue}.
/ "What on earth is this?" asked {kin}. "We call it {title}," {hero} announced. {kin} [burst out
laughing|clapped with delight]. {hero} wrote down the recipe, mistake and all.
# Planting and waiting; seed; sprout; grown; use
sunflower seed; a green loop; it towered above the roof; fed the sparrows all winter
pumpkin seed; a fat leaf; it was as round as a drum; cooked a steaming soup
bean; a curly shoot; it had climbed the drainpipe; filled three baskets with pods
poppy seed; a pale tip; its petals shone like silk; picked a bouquet for the breakfast table
{intro} / One spring day, {kin} gave {him} {a seed}. It needed soil, rain, sun and patience. "Where
can I buy patience?" [wondered|asked] {hero}. {kin} only smiled. / {He} pushed it into the earth.
Nothing! {He} sang it [lullabies|marches]. Still nothing! "Perhaps it is [shy|ticklish|asleep],"
said {friend}. So they turned away and counted to a thousand. / Soon {sprout} [peeped|poked] out. By
autumn, {grown}, and {he} {use}. The next spring, {he} gave {pal} {a seed}. "It needs soil, rain and
sun," {he} explained. "And patience?" asked {pal}. "You may borrow some of mine."
"""

# ---------------------------------------------------------------- 4. The two streams
@cache
def library():
    """The texts above, cut up once: {list: items} and, for each plot, (story, sets of facts)."""
    lists = {name: re.split(r"/\s*", items)
             for name, items in re.findall(r"(\w+): ([^;]+);", WORDS)}
    plots = []
    for block in PLOTS.split("\n# ")[1:]:
        lines = block.split("\n")
        (_, *names), *rows = [line.split("; ") for line in lines if ";" in line]
        sets = [dict(zip(names, row, strict=True)) for row in rows]
        plots.append((" ".join(line for line in lines if ";" not in line), sets))
    return lists, plots

def candidate(dice):
    """Draw a plot, a cast and a set of the plot's facts, then tell the story."""
    lists, plots = library()
    story, sets = pick(dice, plots)
    cast = pick(dice, ["girl she her her boy he him his", "boy he him his girl she her her"])
    facts = dict(zip("kid he him his kid2 he2 him2 his2".split(), cast.split()))
    facts |= {"hero": pick(dice, lists[facts["kid"]]), "pal": pick(dice, lists[facts["kid2"]])}
    facts |= {name: tell(text, facts, lists, dice) for name, text in pick(dice, sets).items()}
    return " ".join(tell(story, facts, lists, dice).split()).replace(" / ", "\n")

def stories(stream):
    """Endless stories of "train" or "valid": none comes twice, and none is in both."""
    # KEEP: one bit of the sha256 of its text decides to which of the two a story belongs.
    side, told, dice = ("train", "valid").index(stream), set(), Random(2612)
    while True:
        story = candidate(dice)
        digest = hashlib.sha256(story.encode()).digest()
        if digest[0] % 2 == side and digest not in told:
            told.add(digest)
            yield story

def first_stories(stream, n):
    """The first n stories of a stream, a list of str."""
    return [story for _, story in zip(range(n), stories(stream))]

# ---------------------------------------------------------------- 5. The command line
def main(arguments):
    """Print stories, return the exit status."""
    settings = arguments + ["3", "train"][len(arguments):]
    if not re.fullmatch("[1-9][0-9]{0,5} (train|valid)", " ".join(settings)):
        print("Give a number from 1 to 999999, then perhaps train or valid.", file=sys.stderr)
        return 2
    print("\n<|endoftext|>\n".join(first_stories(settings[1], int(settings[0]))))
    return 0

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
