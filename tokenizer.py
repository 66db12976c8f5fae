"""Chapter 1. From text to numbers: byte-level byte-pair encoding (BPE), by hand.

A language model reads integers. BPE starts from the 256 possible bytes, so that no text is
ever unknown, and then joins, again and again, the two neighbours that stand together most
often. What is frequent ends up as one token (" the"), what is rare stays in pieces.

    python tokenizer.py                                        a lesson (a second)
    python tokenizer.py train stories.txt --vocab_size 4096 --out tok.json
    python tokenizer.py show tok.json "Once upon a time"       ids and pieces

Sources: Sennrich, Haddow and Birch 2016 (BPE); Radford et al. 2019, "GPT-2" (of bytes). In all
chapters KEEP marks what results rest on, EXERCISE what a class changes (course/README.md). Where
exercise N has a judge, `python test_all.py exercise N` asks it.
"""
from support.program import Parser, run  # first: from here on Ctrl-C prints no traceback
import heapq, json, re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from support.files import (END_OF_TEXT, InputError, code_sha256, need, printable, read_documents,
                           read_json, write_whole)
CODE_SHA256 = code_sha256(__file__)  # of this file as loaded: train.py notes it in every run
END_ID = 256  # KEEP: after the 256 bytes; no merge contains it, so no text can produce it
FIRST_MERGE_ID = 257  # from here on every token is two others, joined

# Merges never cross the border of a chunk. "Ann's 3 dogs!  Sit" is Ann|'s| 3| dogs|!| | Sit: an
# English ending, or letters, digits or signs with at most one space before them, or a run of spaces
# that leaves the last one to the word after it. A letter is a word character (\w) that is neither
# digit nor underscore; together the alternatives take every character. At most 64 in a row: else
# the time for a million letters without a space would grow with the square of their number.
# EXERCISE 1: make " the" two chunks, " " and "the"; cut all else as it is. Predict: will the loss a
# token rise, and the bits a byte? Then `python run_all.py --out runs/words`, compared with
# runs/classroom. Why do the two measures disagree? (The judge asks for numbers. Then undo it.)
# EXERCISE 10: digits one by one: every digit, of any script and in a number of any length, a chunk
# of its own, with the space before it or without; cut all else as it is. The stories hold no
# digits: the judge learns from sums and shows what becomes of their tokens.
CHUNK = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\s\w]|_){1,64}"
    r"|\s{1,64}(?!\S)|\s{1,64}")

# ---------------------------------------------------------------- the twenty obvious lines

# EXERCISE 14: by pencil: `python test_all.py exercise 14` draws a short text. What are the first
# three merges? No two pairs tie there, and none crosses a chunk: a word and the space before it.
# EXERCISE 18: from nothing: empty slow_bpe and refill it with `merge` alone (of equal counts the
# pair of smaller ids), until `python test_all.py tokenizer` is green.
def slow_bpe(documents, vocab_size):
    """Learn the merges in the most obvious way: count all pairs anew for every merge.

    slow_bpe(["abab ab"], 300) = [(97, 98)]: the chunks "abab" and " ab" are [97, 98, 97, 98] and
    [32, 97, 98]. The pair (97, 98) stands there three times, (98, 97) and (32, 97) once. So it
    becomes token 257, the chunks become [257, 257] and [32, 257], and now no pair comes twice.

    documents: list of str. Returns the merged pairs (left id, right id) in the order in which
    they were learned; the i-th of them becomes the token FIRST_MERGE_ID + i.
    """
    chunks = [byte_ids(chunk) for document in documents for chunk in CHUNK.findall(document)]
    merges = []
    while FIRST_MERGE_ID + len(merges) < vocab_size:
        # How often each token stands before each other one.
        counts = Counter(pair for ids in chunks for pair in zip(ids, ids[1:]))
        # The most frequent pair; of several the one with the smaller ids, not the one met first.
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if counts[best] < 2:  # (without any pair, best is None, which counts 0)
            break  # nothing stands together twice: another merge would learn nothing
        new_id = FIRST_MERGE_ID + len(merges)
        chunks = [merge(ids, best, new_id) for ids in chunks]
        merges.append(best)
    return merges

def byte_ids(text):
    """The bytes of a str, as ids: byte_ids("aé") = [97, 195, 169], since é takes two bytes."""
    try:
        return list(text.encode("utf-8"))
    except UnicodeEncodeError:  # at a lone surrogate, the one thing that UTF-8 cannot hold
        raise InputError(f"the text holds half a character, in {text!a}; remove it") from None

def merge(ids, pair, new_id):
    """Replace every `pair` in `ids` by `new_id`: merge([1, 2, 3, 1, 2], (1, 2), 9) = [9, 3, 9]."""
    left, right = pair
    merged = []
    for i in ids:
        # After a merge the last entry is new_id and no `left`, so none is used twice: aaa, [aa, a].
        if i == right and merged and merged[-1] == left:
            merged[-1] = new_id
        else:
            merged.append(i)
    return merged

# ---------------------------------------------------------------- the same, fast

def fast_bpe(documents, vocab_size):
    """The same merges as `slow_bpe`: some 80 times faster on 24 stories, and more on more.

    1. A text has few *different* chunks: keep each once, with the number of times it occurs.
    2. A merge changes only the chunks that hold the pair: recount those, not the text.
    3. The best pair comes from a heap. Counts change all the time, so an entry may be stale: it is
       checked when it comes out, and put back with its true count ("lazy" heap).
    """
    occurrences = Counter(chunk for document in documents for chunk in CHUNK.findall(document))
    chunks = [(byte_ids(chunk), n) for chunk, n in occurrences.items()]
    counts = defaultdict(int)  # pair -> how often it occurs in the text
    holders = defaultdict(set)  # pair -> indices of the chunks that hold it, or once did
    for index, (ids, n) in enumerate(chunks):
        for pair in zip(ids, ids[1:]):
            counts[pair] += n
            holders[pair].add(index)
    heap = [(-n, pair) for pair, n in counts.items()]  # its smallest entry is slow_bpe's choice
    heapq.heapify(heap)
    merges = []
    while heap and FIRST_MERGE_ID + len(merges) < vocab_size:
        negative_count, best = heapq.heappop(heap)
        if counts[best] != -negative_count:  # stale: it fell (one that rises is pushed)
            heapq.heappush(heap, (-counts[best], best))
            continue
        if counts[best] < 2:
            break
        new_id = FIRST_MERGE_ID + len(merges)
        merges.append(best)
        for pair in merge_everywhere(chunks, counts, holders, best, new_id):
            heapq.heappush(heap, (-counts[pair], pair))
    return merges

def merge_everywhere(chunks, counts, holders, best, new_id):
    """Merge `best` and update the counts. Returns the pairs that may have risen: the new ones."""
    risen = set()
    for index in holders.pop(best):
        ids, n = chunks[index]
        merged = merge(ids, best, new_id)
        chunks[index] = (merged, n)
        for pair in zip(ids, ids[1:]):  # out with the pairs of the old chunk
            counts[pair] -= n
        for pair in zip(merged, merged[1:]):  # in with those of the new one
            counts[pair] += n
            if new_id in pair:  # (any other pair can only have lost places)
                holders[pair].add(index)
                risen.add(pair)
    return risen

# ---------------------------------------------------------------- encoding and decoding

class BPETokenizer:
    """Text to ids and back. `merges` is the list of pairs that `slow_bpe` returns."""

    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.id_of_pair = {pair: i for i, pair in enumerate(self.merges, FIRST_MERGE_ID)}
        self.encode_cached = cache(self.encode_chunk)  # remembered, since a text repeats its words
        # The bytes of every token, built in the order in which they were learned.
        self.pieces = [bytes([i]) for i in range(256)] + [END_OF_TEXT.encode("utf-8")]
        for left, right in self.merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.vocab_size = len(self.pieces)

    @classmethod
    def train(cls, documents, vocab_size):
        """Learn from a list of str. Fewer than `vocab_size` tokens if no pair occurs twice."""
        need(vocab_size > END_ID, f"vocab_size is {vocab_size}; make it {FIRST_MERGE_ID} or more")
        return cls(fast_bpe(documents, vocab_size))

    def encode_chunk(self, chunk):
        """Apply the merges in the order in which they were learned, as in training."""
        ids = byte_ids(chunk)
        never = self.vocab_size  # larger than any id: what a pair becomes that was never merged
        while True:
            # What each pair of neighbours becomes. The one learned first has the smallest id.
            new_ids = [self.id_of_pair.get(pair, never) for pair in zip(ids, ids[1:])]
            first_learned = min(new_ids, default=never)
            if first_learned == never:
                return ids
            ids = merge(ids, self.merges[first_learned - FIRST_MERGE_ID], first_learned)

    def encode(self, text):
        """The ids of `text`, a list of int. Raises InputError at a lone surrogate (byte_ids)."""
        return [i for chunk in CHUNK.findall(text) for i in self.encode_cached(chunk)]

    def encode_documents(self, documents):
        """All documents in one list of ids, with the end-of-text token after each of them."""
        return [i for document in documents for i in [*self.encode(document), END_ID]]

    def decode(self, ids):
        """The text of `ids`. Any valid ids will do: bytes that are not UTF-8 become U+FFFD."""
        content = bytearray()  # all bytes first: a character's may be spread over several tokens
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise InputError(f"there is no token {i} among {self.vocab_size}")
            content += self.pieces[i]
        return content.decode("utf-8", errors="replace")

    def show(self, token_id):
        """A token for human eyes; what is not UTF-8 appears as \\x.."""
        return self.pieces[token_id].decode("utf-8", errors="backslashreplace")

    def save(self, path):
        """Write a JSON file with one line a token: its id, its two parts, and how they spell."""
        head = {"about": "byte-level BPE; ids 0 to 255 are the bytes, 256 is the end of text",
                "row": "[id, left id, right id, how it was built]", "chunk": CHUNK.pattern}
        head = json.dumps(head, indent=1).removesuffix("\n}")
        rows = [json.dumps([i, left, right, f"{self.show(left)} + {self.show(right)}"])
                for (left, right), i in self.id_of_pair.items()]
        write_whole(path, head + ',\n "merges": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. Raises InputError if it is anything else."""
        return cls(read_merges(path))

# ================================================================ files, lesson, command line
# Stop reading here the first time.

def read_merges(path):
    """The merges in a file that `save` wrote. Raises InputError if it is anything else."""
    damaged = f"{path} is no BPE tokenizer that this program saved; train it again"
    saved, merges = read_json(path), []
    sizes = [1] * FIRST_MERGE_ID  # the bytes of every token
    try:
        for i, left, right, _ in saved["merges"]:
            need(i == len(sizes) and min(left, right) >= 0 and END_ID not in (left, right), damaged)
            merges.append((left, right))
            sizes.append(sizes[left] + sizes[right])
            # As long as a chunk at most: 40 tokens that double each time would fill the memory.
            need(sizes[-1] <= 1 + 64 * 4, damaged)
    except (TypeError, ValueError, LookupError):
        raise InputError(damaged) from None
    need(saved.get("chunk") == CHUNK.pattern, f"{path} was made with another chunk pattern than "
         "the one that tokenizer.py has now; train it again")
    return merges

# EXERCISE 2: in the lesson, print the tokens a story takes with 257, 300, 500, 1000 and 2000
# entries, then the same for 200 texts as long, of 26 letters and the space drawn at random. What is
# left to compress in those?
# EXERCISE 13: rank by tokens per byte, before you measure: your own name, the first sentence of a
# story, 40 random letters, a sentence in another script. Then `python tokenizer.py show
# runs/classroom/tokenizer.json "TEXT"` shows the tokens. Who pays most?
def lesson():
    """Show what BPE learns first, and what it makes of a text unlike the one it learned from."""
    from data.stories import first_stories
    documents = first_stories("train", 200)
    tokenizer = BPETokenizer.train(documents, 1024)
    print("The first 16 merges learned from 200 stories, left|right:")
    print("  ".join(f"[{tokenizer.show(a)}|{tokenizer.show(b)}]" for a, b in tokenizer.merges[:16]))
    for text in (documents[0].split("\n")[0], "Zyzzyva quixotically jinxed 1729 gnus \u2603."):
        pieces = [tokenizer.show(i) for i in tokenizer.encode(text)]
        print(f"\n{len(text) / len(pieces):.1f} characters a token:\n" + "|".join(pieces))
    print("\nWhy does the second text take twice as many tokens for as many letters? And what "
          "is its snowman made of?")

def main():
    parser = Parser(description="byte-level BPE; without a command, a lesson")
    commands = parser.add_subparsers(dest="command")
    train = commands.add_parser("train", help="learn a vocabulary from a text file")
    train.add_argument("textfile", help="documents separated by lines of " + END_OF_TEXT)
    train.add_argument("--vocab_size", type=int, default=4096, help="tokens in all (default 4096)")
    train.add_argument("--out", required=True, help="where to save the tokenizer")
    show = commands.add_parser("show", help="show the ids and pieces of a text")
    show.add_argument("tokenizer", help="a file that `train` saved")
    show.add_argument("text")
    args = parser.parse_args()
    if args.command == "train":
        need(Path(args.out).resolve() != Path(args.textfile).resolve(),
             f"--out {args.out} is the text itself; choose another name")
        tokenizer = BPETokenizer.train(read_documents(args.textfile), args.vocab_size)
        tokenizer.save(args.out)
        print(f"{tokenizer.vocab_size} tokens saved in {args.out}")
    elif args.command == "show":
        tokenizer = BPETokenizer.load(args.tokenizer)
        for i in tokenizer.encode(args.text):
            print(printable(f"{i:6d}  [{tokenizer.show(i)}]").replace("\n", "\\n"))
    else:
        lesson()

if __name__ == "__main__":
    run(main)
