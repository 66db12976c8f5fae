"""Chapter 1. From text to numbers: byte-level byte-pair encoding (BPE), by hand.

A language model reads integers. BPE starts from the 256 possible bytes, so that no text is
ever unknown, and then joins, again and again, the two neighbours that stand together most
often. What is frequent ends up as one token (" the"), what is rare stays in pieces.

    python tokenizer.py                                        a lesson (a second)
    python tokenizer.py train stories.txt --vocab_size 4096 --out tok.json
    python tokenizer.py show tok.json "Once upon a time"       ids and pieces

Sources: Sennrich, Haddow and Birch (2016), "Neural Machine Translation of Rare Words with
Subword Units"; on bytes: Radford et al. (2019), GPT-2.
"""

import argparse, contextlib, csv, heapq, io, json, os, re, secrets, sys
from collections import Counter, defaultdict
from functools import cache
from itertools import chain, repeat
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"  # how a text file separates its documents
END_ID = 256  # KEEP: after the 256 bytes; no merge contains it, so no text can produce it
FIRST_MERGE_ID = 257

# Merges never cross the border of a chunk: an English ending ('s; but 'sofa is cut too, and I'LL
# not), or letters, digits or signs
# with at most one space before them, or a run of spaces that leaves the last one to the word after
# it. `re` has no \p{L}, so a letter is a word character that is neither digit nor underscore;
# together the alternatives take every character. At most 64 in a chunk, so that the time for a
# million letters without a space grows with their number, not with its square.
# EXERCISE 1: digits one by one, each a chunk of its own (judged; our stories have none). Then, in a
# copy of the project, words without the space before them: compare its classroom run with yours in
# bits per byte. Why not in loss?
CHUNK = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\s\w]|_){1,64}"
    r"|\s{1,64}(?!\S)|\s{1,64}")
LONGEST_CHUNK = 1 + 64 * 4  # bytes: a space, and characters of up to four

class InputError(ValueError):
    """The user's text, file or setting is wrong. The message says what, where, and what to do."""

# ---------------------------------------------------------------- the twenty obvious lines

def merge(ids, pair, new_id):
    """Replace every `pair` in `ids` by `new_id`: merge([1, 2, 3, 1, 2], (1, 2), 9) = [9, 3, 9]."""
    (left, right), out = pair, []
    for i in ids:
        if i == right and out and out[-1] == left:
            out[-1] = new_id
        else:
            out.append(i)
    return out

def slow_bpe(documents, vocab_size):
    """Learn the merges in the most obvious way: count all pairs anew for every merge.

    documents: list of str. Returns the list of merged pairs (left id, right id); the i-th of
    them becomes the token FIRST_MERGE_ID + i. `fast_bpe` must return the same.
    """
    chunks = [list(chunk.encode("utf-8")) for doc in documents for chunk in CHUNK.findall(doc)]
    merges = []
    while FIRST_MERGE_ID + len(merges) < vocab_size:
        counts = Counter(pair for ids in chunks for pair in zip(ids, ids[1:]))
        # The most frequent pair; of several the one with the smaller ids, not the one met first.
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break  # nothing stands together twice: another merge would learn nothing
        chunks = [merge(ids, best, FIRST_MERGE_ID + len(merges)) for ids in chunks]
        merges.append(best)
    return merges

# ---------------------------------------------------------------- the same, fast

def fast_bpe(documents, vocab_size):
    """The same merges as `slow_bpe`, a hundred times faster on 24 stories and more on more, by
    three ideas:

    1. a text has few *different* chunks: keep each once, with the number of times it occurs;
    2. a merge changes only the chunks that hold the pair: recount those, not the text;
    3. the best pair comes from a heap. Counts change all the time, so an entry may be stale:
       it is checked when it comes out, and put back with its true count ("lazy" heap).
    """
    frequency = Counter(chain.from_iterable(map(CHUNK.findall, documents)))
    chunks = [(list(chunk.encode("utf-8")), n) for chunk, n in frequency.items()]
    # pair -> how often it occurs; pair -> indices of the chunks that hold it, or once did
    counts, holders = defaultdict(int), defaultdict(set)
    for index, (ids, n) in enumerate(chunks):
        for pair in zip(ids, ids[1:]):
            counts[pair] += n
            holders[pair].add(index)
    heap = [(-n, pair) for pair, n in counts.items()]  # sorted as in slow_bpe
    heapq.heapify(heap)
    merges = []
    while heap and FIRST_MERGE_ID + len(merges) < vocab_size:
        negative_count, best = heapq.heappop(heap)
        if counts[best] != -negative_count:  # it fell; one that rose was pushed when it rose
            heapq.heappush(heap, (-counts[best], best))
            continue
        if counts[best] < 2:
            break
        new_id = FIRST_MERGE_ID + len(merges)
        merges.append(best)
        risen = set()  # only a pair with the new token can have become more frequent
        for index in holders.pop(best):
            ids, n = chunks[index]
            merged = merge(ids, best, new_id)
            if len(merged) == len(ids):
                continue  # an earlier merge took the pair away
            for pair in zip(ids, ids[1:]):  # out with the pairs of the old chunk
                counts[pair] -= n
            for pair in zip(merged, merged[1:]):
                counts[pair] += n
                if new_id in pair:
                    holders[pair].add(index)
                    risen.add(pair)
            chunks[index] = (merged, n)
        for pair in risen:
            heapq.heappush(heap, (-counts[pair], pair))
    return merges

# ---------------------------------------------------------------- encoding and decoding

class BPETokenizer:
    """Text to ids and back. `merges` is the list of pairs that `slow_bpe` returns."""

    end_id, unknown_id = END_ID, -1  # nothing is unknown: every byte is a token

    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.id_of = {pair: i for i, pair in enumerate(self.merges, FIRST_MERGE_ID)}
        self.ids_of = cache(self.encode_chunk)  # remembered, since a text repeats its words
        # The bytes of every token, built in the order in which they were learned.
        self.pieces = [bytes([i]) for i in range(256)] + [END_OF_TEXT.encode("utf-8")]
        for left, right in self.merges:
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.vocab_size = len(self.pieces)

    @classmethod
    def train(cls, documents, vocab_size):
        """Learn from a list of str. Fewer than `vocab_size` tokens if no pair occurs twice."""
        if vocab_size < FIRST_MERGE_ID:
            raise InputError(f"vocab_size is {vocab_size}; make it {FIRST_MERGE_ID} or more")
        for number, document in enumerate(documents, 1):
            check_encodable(document, f"document {number}")
        return cls(fast_bpe(documents, vocab_size))

    def encode_chunk(self, chunk):
        """Apply the merges in the order in which they were learned, as in training."""
        ids, none = list(chunk.encode("utf-8")), self.vocab_size  # none: larger than any id
        while True:
            # Of all neighbours the pair that was learned first has the smallest id. (The same as
            # min of [self.id_of.get(pair, none) for pair in zip(ids, ids[1:])], but faster.)
            new_id = min(map(self.id_of.get, zip(ids, ids[1:]), repeat(none)), default=none)
            if new_id == none:
                return ids
            ids = merge(ids, self.merges[new_id - FIRST_MERGE_ID], new_id)

    def encode(self, text):
        """The ids of `text`, a list of int. Raises InputError at a lone surrogate."""
        check_encodable(text, "the text")
        return list(chain.from_iterable(map(self.ids_of, CHUNK.findall(text))))

    def encode_documents(self, documents):
        """All documents in one list of ids, with the end-of-text token after each of them."""
        return list(chain.from_iterable([*self.encode(doc), self.end_id] for doc in documents))

    def decode(self, ids):
        """The text of `ids`. Any valid ids will do: bytes that are not UTF-8 become U+FFFD."""
        ids = list(ids)
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise InputError(f"there is no token {i}: ids go from 0 to {self.vocab_size - 1}")
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")

    def show(self, token_id):
        """A token for human eyes; what is not UTF-8 appears as \\x.."""
        return self.pieces[token_id].decode("utf-8", errors="backslashreplace")

    def save(self, path):
        """Write a JSON file with one line a token: its id, its two parts, and what they spell."""
        head = {"about": "byte-level BPE; ids 0 to 255 are the bytes, 256 is the end of text",
                "row": "[id, left id, right id, how it was built]", "chunk": CHUNK.pattern}
        head = json.dumps(head, indent=1).removesuffix("\n}")
        rows = ",\n  ".join(json.dumps([i, *pair, " + ".join(map(self.show, pair))])
                            for pair, i in self.id_of.items())
        write_whole(path, f'{head},\n "merges": [\n  {rows}\n ]\n}}\n')

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. Raises InputError if it is anything else."""
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            merges, sizes = {}, [1] * FIRST_MERGE_ID  # sizes: the bytes of every token
            for number, left, right, _ in saved["merges"]:
                merges[left, right] = number
                sizes.append(sizes[left] + sizes[right])
                if min(left, right) < 0 or END_ID in (left, right) or sizes[-1] > LONGEST_CHUNK:
                    raise ValueError("no merge of this program")
            if list(merges.values()) != list(range(FIRST_MERGE_ID, len(sizes))):
                raise ValueError("ids that are not in order, or a pair that comes twice")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; name a file that this "
                             "program saved") from None
        except (ValueError, TypeError, LookupError, RecursionError):
            raise InputError(f"{path} is no BPE tokenizer that this program saved; train it "
                             "again") from None
        if saved.get("chunk") != CHUNK.pattern:
            raise InputError(f"{path} was made with another chunk pattern than the one that "
                             "tokenizer.py has now; train it again")
        return cls(merges)

# ---------------------------------------------------------------- whole characters, whole words

class CharTokenizer:
    """BPE stands between two extremes: every character a token, or (WordTokenizer) every word.

    The most frequent ones of the training text are known. All others become <unk>, as rare words
    already have in Penn Treebank and WikiText-2; train.py counts them.
    """

    end_id, unknown_id = 0, 1
    space, split = "", staticmethod(list)  # what is put between pieces, and how text is cut
    # These three are the same as BPE's. (No load: train.py learns them anew. Of words, a run of
    # spaces comes back as one.)
    encode_documents, decode, show = (BPETokenizer.encode_documents, BPETokenizer.decode,
                                      BPETokenizer.show)

    def __init__(self, pieces):
        self.ids, self.vocab_size = {piece: i for i, piece in enumerate(pieces)}, len(pieces)
        self.pieces = [(piece + self.space).encode("utf-8") for piece in pieces]

    @classmethod
    def train(cls, documents, vocab_size):
        counts = Counter(chain.from_iterable(map(cls.split, documents)))
        for known in (END_OF_TEXT, "<unk>"):  # they have their ids
            del counts[known]
        by_frequency = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return cls([END_OF_TEXT, "<unk>", *by_frequency[: vocab_size - 2]])

    def encode(self, text):
        check_encodable(text, "the text")
        return [self.ids.get(piece, self.unknown_id) for piece in self.split(text)]

    def save(self, path):
        write_whole(path, json.dumps({"pieces": list(self.ids)}, indent=0) + "\n")

class WordTokenizer(CharTokenizer):
    """A word is what stands between spaces; the end of a line is one too."""

    space, split = " ", staticmethod(re.compile(r"\S+|\n").findall)

TOKENIZERS = {"bpe": BPETokenizer, "char": CharTokenizer, "word": WordTokenizer}

# ---------------------------------------------------------------- files

def check_encodable(text, name):
    """Raise InputError at the first lone surrogate, the one thing that UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds a lone surrogate (U+{ord(text[error.start]):04X}) at "
                         f"character {error.start}, which UTF-8 cannot hold; remove it") from None

def read_documents(path, limit=None):
    """The first `limit` documents of a UTF-8 text file, separated by lines of <|endoftext|>; reads
    no further. Raises InputError if the file is missing, empty or not UTF-8."""
    documents, lines = [], []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line in chain(file, [END_OF_TEXT]):
                if line.strip() != END_OF_TEXT:
                    lines.append(line)
                    continue
                document, lines = "".join(lines).strip(), []
                documents += [document] if document else []
                if len(documents) == limit:
                    break
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} after document "
                         f"{len(documents)}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if not documents:
        raise InputError(f"{path} holds no text; give a file with at least one story")
    return documents

def write_whole(path, content, keep=None):
    """Write str or bytes so that at every moment there is the old file, whole, or the new one:
    renaming is one indivisible step. keep: a name under which the old one stays (then for an
    instant `path` is neither). Raises OSError with a sentence for the user."""
    path = Path(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"  # others may write too
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "it is not an ordinary file")
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8", errors="replace")
                       if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name: a power cut may come between
        with contextlib.suppress(FileNotFoundError):
            if keep:
                os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error.strerror}; make room or choose another place "
                      "and give the same command again") from None

def write_csv(path, header, rows):
    """A csv file, by write_whole; floats with every digit they have, nan as an empty cell."""
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(
        ["" if cell != cell else cell for cell in row] for row in [header, *rows])
    write_whole(path, table.getvalue())

# ---------------------------------------------------------------- the command line

# EXERCISE 2: in the lesson, print the tokens a story takes with 257, 300, 500, 1000 and 2000
# entries, then the same for 200 texts as long, of 26 letters and the space drawn at random. What is
# left to compress in those?
def lesson():
    """Show what BPE learns first, and what it makes of a text unlike the one it learned from."""
    from data.stories import first_stories
    documents = first_stories("train", 200)
    tokenizer = BPETokenizer.train(documents, 1024)
    print("The first 16 merges learned from 200 stories, left|right:\n" + "  ".join(
        f"[{tokenizer.show(a)}|{tokenizer.show(b)}]" for a, b in tokenizer.merges[:16]))
    for text in (documents[0].split("\n")[0], "Zyzzyva quixotically jinxed 1729 gnus \u2603."):
        pieces = [tokenizer.show(i) for i in tokenizer.encode(text)]
        print(f"\n{len(text) / len(pieces):.1f} characters a token:\n" + "|".join(pieces))
    print("\nWhy is the second text so much longer in tokens? And what is its snowman made of?")

def main():
    parser = argparse.ArgumentParser(description="byte-level BPE; without a command, a lesson")
    commands = parser.add_subparsers(dest="command")
    train = commands.add_parser("train", help="learn a vocabulary from a text file")
    train.add_argument("textfile", help="documents separated by lines of " + END_OF_TEXT)
    train.add_argument("--vocab_size", type=int, default=4096, help="tokens in all (default 4096)")
    train.add_argument("--out", required=True, help="where to save the tokenizer")
    show = commands.add_parser("show", help="show the ids and pieces of a text")
    show.add_argument("tokenizer", help="a file that `train` saved")
    show.add_argument("text")
    for part in (parser, train, show):
        part.error = lambda message: parser.exit(2, f"tokenizer.py: {message}\n")
    args = parser.parse_args()
    try:
        if args.command == "train":
            if Path(args.out).resolve() == Path(args.textfile).resolve():
                raise InputError(f"--out {args.out} is the text itself; choose another name")
            tokenizer = BPETokenizer.train(read_documents(args.textfile), args.vocab_size)
            tokenizer.save(args.out)
            print(f"{tokenizer.vocab_size} tokens saved in {args.out}")
        elif args.command == "show":
            tokenizer = BPETokenizer.load(args.tokenizer)
            for i in tokenizer.encode(args.text):
                print(f"{i:6d}  [{tokenizer.show(i)}]".replace("\n", "\\n"))
        else:
            lesson()
    except (InputError, OSError) as error:
        parser.error(str(error))

if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console that lacks a character shows "?"
    main()
