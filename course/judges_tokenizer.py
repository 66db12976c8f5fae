"""The judges of what changes in tokenizer.py: exercises 1, 10 and 14."""
import re
from collections import Counter
from unittest.mock import patch

import numpy as np

import tokenizer
from course.sheet import ROOT, finished_run, run_means
from support.files import need

AS_GIVEN = re.compile(  # CHUNK before any exercise
    r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\s\w]|_){1,64}"
    r"|\s{1,64}(?!\S)|\s{1,64}")
# What texts are drawn from: words, numbers, signs and spaces, of several scripts, short and long.
PIECES = ["Mia", "sat", "don't", "'s", "I'LL", "été", "мир", "日本", "x", "_", "?!", "\U0001f642",
          " ", " ", " ", " ", "  ", "\n", "\n\n ", "\t", "²", "7", "19", "30512", "٣٤", "０５０５０",
          "a" * 70, "8" * 70]

def draw_texts(rng, cut):
    """[((text,), chunks)]: the chunks are those of CHUNK as given, each cut further by `cut`."""
    cases = []
    for _ in range(400):
        text = "".join(rng.choice(PIECES, rng.integers(1, 12)))
        chunks = [part for chunk in AS_GIVEN.findall(text) for part in cut(chunk)]
        cases.append(((text,), chunks))
    return cases

def judge_1(sheet):
    """Words without their space (CHUNK in tokenizer.py)."""
    def cut(chunk):
        return [" ", chunk[1:]] if re.fullmatch(r" [^\W\d_]+", chunk) else [chunk]

    def with_space(path):  # (what was made with another CHUNK than the present one is not loaded)
        pieces = tokenizer.BPETokenizer.load(ROOT / path).pieces
        return [piece for piece in pieces if re.match(rb" [a-z]", piece)]

    sheet.cases("a space before a word is a chunk of its own, all else is cut as it was",
                lambda text: tokenizer.CHUNK.findall(text), draw_texts(sheet.rng, cut))
    # The run, and two numbers that its report shows.
    if finished_run(sheet, "words"):
        sheet.cases("it was run so: no token is a word with its space", with_space,
                    [(("runs/words/tokenizer.json",), [])])
        sheet.number("runs/words: the mean validation loss at the end, to two decimals?",
                     run_means("words", "val_loss")[-1], 0.0051)
        sheet.number("runs/words: the mean bits_per_byte at the end, to two decimals?",
                     run_means("words", "bits_per_byte")[-1], 0.0051)

def judge_10(sheet):
    """Digits one by one (CHUNK in tokenizer.py)."""
    def cut(chunk):  # a space before the digits becomes a part too
        return list(chunk) if chunk[-1].isdecimal() else [chunk]

    def find(text):  # " 7" and " ", "7" are the same here, for the exercise allows both
        chunks = tokenizer.CHUNK.findall(text)
        return [part for chunk in chunks for part in re.findall(r"^ (?=\d$)|.+", chunk, re.S)]

    sheet.cases("every digit is a chunk of its own, all else is cut as it was", find,
                draw_texts(sheet.rng, cut))
    # Sums, in which pairs of digits are frequent: as given, they become tokens.
    sums = [f"{a} + {b} = {a + b}" for a, b in sheet.rng.integers(100, 1000, (400, 2))]
    now = tokenizer.BPETokenizer.train(sums, 400).encode(sums[0])
    with patch.object(tokenizer, "CHUNK", AS_GIVEN):
        before = tokenizer.BPETokenizer.train(sums, 400).encode(sums[0])
    print(f"       {sums[0]!r}, learned from sums: {len(now)} tokens, and {len(before)} before")

def draw_merges(rng):
    """(text, [pair -> how often it occurs] before each of three merges, none of them a tie)."""
    syllables = [rng.choice(list("mnrst")) + rng.choice(list("aeio")) for _ in range(4)]
    # Four syllables make six words, so that some pairs of letters come often.
    words = ["".join(rng.choice(syllables, 2)) for _ in range(6)]
    chunks = [list(words[0])] + [["_", *word] for word in words[1:]]
    steps = []
    for _ in range(3):
        counts = Counter()
        for chunk in chunks:
            for left, right in zip(chunk, chunk[1:]):
                counts[f"{left}+{right}"] += 1
        most = max(counts.values(), default=0)
        best = [pair for pair in counts if counts[pair] == most]
        if len(best) != 1:
            return draw_merges(rng)  # a tie, or no pair is left: another text
        steps.append(counts)
        pair = best[0].split("+")
        joined = "".join(pair)
        chunks = [tokenizer.merge(chunk, pair, joined) for chunk in chunks]
    return " ".join(words), steps

def judge_14(sheet):
    """The first three merges of a short text, by pencil (slow_bpe in tokenizer.py)."""
    # A text has a number, so that its answers can follow on the command line.
    number = sheet.answers.pop(0) if sheet.answers else str(sheet.rng.integers(10**6))
    need(number.isdecimal(), "exercise 14 takes the number of a text, and then three merges")
    text, steps = draw_merges(np.random.default_rng(int(number)))
    print(f"       Text {number}:   {text}\n       Write a merge as left+right, a space as _: m+o "
          "or _+mo. None of the three is a tie.\n"
          f"       The same text again: python -m course.judge 14 {number}")
    for place, counts in zip(("first", "second", "third"), steps):
        came = sheet.ask(f"The {place} merge?")
        most = max(counts.values())
        sheet.line(counts[came] == most, f"the {place} merge: {came}", "after the right merges "
                   f"it stands there {counts[came]} times, and another pair {most} times")
