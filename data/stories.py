"""Text to learn from when there is no network: a generator of short children's stories.

What it teaches: a few pages of templates, one die and a hash make as many different stories as a
study asks for, the same on every machine, divided into training and validation by construction.
The templates, and what their brackets mean, are in stories.txt beside this file.

    python -m data.stories            prints three stories of the training stream, at once
    python -m data.stories 5 valid    five of the validation stream, <|endoftext|> between them
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # so that `python data/stories.py` finds support/ too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support.program
import hashlib, re
from functools import cache
from random import Random

from support.files import END_OF_TEXT, need, read_text

TEMPLATES = Path(__file__).resolve().with_name("stories.txt")
CHOICE = re.compile(r"\[([^][]*)\]")  # [now|then|], without another one inside
FACT = re.compile(r"\{([^}]*)\}")  # {thing}, {a thing}, {A thing}
# One girl and one boy: whom "he" and "she" mean is never in doubt.
CAST = "kid he him his kid2 he2 him2 his2".split()
CASTS = ["girl she her her boy he him his", "boy he him his girl she her her"]

# ---------------------------------------------------------------- 1. Filling a template

def pick(dice, items):
    """One item. KEEP: random() is the only one of Python's dice promised never to change."""
    return items[int(dice.random() * len(items))]

def tell(text, facts, lists, dice):
    """Fill every hole of a template; `facts` remembers what this story has settled so far."""
    def choose(hole):
        return pick(dice, hole[1].split("|"))

    def settle(hole):
        return tell_fact(hole[1], facts, lists, dice)

    # The innermost brackets first, then those around them. Only then the facts, so that those in
    # the alternatives that were not taken are never drawn.
    while CHOICE.search(text):
        text = CHOICE.sub(choose, text)
    return FACT.sub(settle, text)

def tell_fact(hole, facts, lists, dice):
    """'A beast' -> 'An owl', and whoever asks for 'beast' again gets the same owl."""
    *article, key = hole.lower().split()
    if key not in facts:
        need(key in lists, f"{TEMPLATES}: {{{key}}} is neither a list nor a fact of its plot")
        # An item may have holes of its own: "{hero}'s {bond} {pal}".
        facts[key] = tell(pick(dice, lists[key]), facts, lists, dice)
    text = facts[key]
    if article:
        text = ("an " if text[0] in "aeiou" else "a ") + text
    return text[0].upper() + text[1:] if hole[0].isupper() else text

# ---------------------------------------------------------------- 2. The templates

@cache  # read once
def library():
    """stories.txt: ({name of a list: its items}, [(story, sets of facts)], one pair a plot)."""
    kept = []
    for line in read_text(TEMPLATES).splitlines():
        if not line.startswith(">"):
            kept.append(line)
    words, *blocks = "\n".join(kept).split("\n# ")
    lists = {}
    for name, items in re.findall(r"(\w+): ([^;]+);", words):
        lists[name] = re.split(r"/\s*", items)
    return lists, [read_plot(block.splitlines()) for block in blocks]

def read_plot(lines):
    """(story, [a set of facts {name: text}, ...]) of a plot's lines."""
    # Lines with semicolons are a table, "title; name; name" above its rows; the rest is the story.
    table = [line.split("; ") for line in lines if ";" in line]
    story = " ".join(line for line in lines if ";" not in line)
    need(len(table) > 1, f"{TEMPLATES}, plot {lines[0]!r}: it needs names of facts, as in "
         "'# title; name; name', and below a row of facts, all with semicolons between them")
    header, *rows = table
    title, *names = header
    sets = []
    for row in rows:
        need(len(row) == len(names), f"{TEMPLATES}, plot {title!r}: {'; '.join(row)} are "
             f"{len(row)} facts, and it needs {len(names)}")
        sets.append(dict(zip(names, row)))
    return story, sets

# ---------------------------------------------------------------- 3. The two streams

def candidate(dice):
    """One story: draw a plot, a cast and a set of the plot's facts, then fill the holes."""
    lists, plots = library()
    story, sets = pick(dice, plots)
    facts = dict(zip(CAST, pick(dice, CASTS).split()))
    facts["hero"] = pick(dice, lists[facts["kid"]])
    facts["pal"] = pick(dice, lists[facts["kid2"]])
    for name, text in pick(dice, sets).items():
        facts[name] = tell(text, facts, lists, dice)
    # One space between words, wherever the lines of the template ended; / ends a paragraph.
    words = tell(story, facts, lists, dice).split()
    return " ".join(words).replace(" / ", "\n")

def stories(stream):
    """Endless stories of "train" or "valid": none comes twice, and none is in both."""
    dice = Random(2612)
    side = ("train", "valid").index(stream)
    told = set()
    while True:
        story = candidate(dice)
        # KEEP: one bit of the sha256 of its text decides to which of the two a story belongs.
        digest = hashlib.sha256(story.encode("utf-8")).digest()
        if digest[0] % 2 == side and digest not in told:
            told.add(digest)
            yield story

def first_stories(stream, n):
    """The first n stories of a stream, a list of str."""
    return [story for _, story in zip(range(n), stories(stream))]

# ---------------------------------------------------------------- 4. The command line

def main():
    parser = support.program.Parser(description="print stories of the project's own")
    parser.add_argument("number", nargs="?", type=int, default=3, help="how many, 1 to 999999")
    parser.add_argument("stream", nargs="?", choices=["train", "valid"], default="train")
    chosen = parser.parse_args()
    need(1 <= chosen.number < 10**6, f"{chosen.number} stories: give a number from 1 to 999999")
    for n, story in zip(range(chosen.number), stories(chosen.stream)):
        if n > 0:
            print(END_OF_TEXT)
        print(story)

if __name__ == "__main__":
    support.program.run(main)
