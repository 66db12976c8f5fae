"""What a model has learned by heart: how much of its stories stands in its training text?

A model whose validation loss rises while its training loss falls learns its text instead of its
language. Does it recite? Of each story that it writes, count the pieces of 16 tokens in a row, and
how many of them stand word for word in the training text. Validation stories, none of which is in
the training text, tell what is common to all such stories: the base rate.

    python -m studies.memorization runs/classroom --stories 200   writes and counts (a minute)
    python -m studies.memorization runs/classroom                 the tests of the last count again

With --stories, one seed (the first, or --seed) writes that many stories by its best and by its last
checkpoint, at temperature 0.8, each at most one window long; the counts go to memorization.csv in
the run's folder. Both forms draw memorization.svg there and print a table and three comparisons.
"""
if __name__ == "__main__":  # so that `python studies/memorization.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support.program
import zipfile
from pathlib import Path

import numpy as np
import scipy.stats

from support.files import InputError, need, read_records, write_csv, write_whole
from support.figures import Line, line_chart
from support.page import number, p_text
from support.runs import read_settings
from tokenizer import END_ID

PIECE = 16  # tokens: a phrase of so many is hardly ever met twice by chance

# ---------------------------------------------------------------- counting

def pieces(ids):
    """All runs of PIECE neighbours in ids. Of 2, [1, 2, 3] has (1, 2) and (2, 3).

    As bytes, because those can be elements of a set, and an array cannot.
    """
    ids = np.asarray(ids, dtype=np.int64)  # the same bytes for the same ids, whatever they were
    return [ids[first : first + PIECE].tobytes() for first in range(len(ids) - PIECE + 1)]

def count_verbatim(stories, training_text):
    """Rows (source, pieces, of these in the training text). stories: (source, ids) pairs."""
    # The whole training text is one run of tokens: pieces may cross the end of a story. The end
    # is a token of its own there, and stories are counted without it, so that none is found so.
    known = set(pieces(training_text))
    rows = []
    for source, story in stories:
        mine = pieces(story)
        rows.append([source, len(mine), sum(piece in known for piece in mine)])
    return rows

def validation_stories(ids, n_stories, length):
    """(source, ids) of the first stories of the validation text, each cut to `length` tokens."""
    ends = np.flatnonzero(ids == END_ID)[:n_stories]
    stories = np.split(ids, ends + 1)[: len(ends)]  # cut after each end; the rest is left out
    return [("validation text", story[story != END_ID][:length]) for story in stories]

def written_stories(folder, seed, n_stories, length):
    """(source, ids) of the stories that the best and the last checkpoint of a seed write."""
    import torch, train  # here: loading them takes seconds, and to compare needs neither

    train.one_thread()  # several would wait for each other at every token
    start = torch.tensor([[END_ID]])  # after the end of a story another one begins
    stories = []
    for name in ("best", "last"):
        model, _, row = train.load_model(folder, seed, name)
        model.eval()  # no dropout, should a student add it
        # KEEP: the same chance for both checkpoints, and for everybody who repeats it.
        chance = torch.Generator().manual_seed(seed)
        for _ in range(n_stories):
            story = model.generate(start, length, temperature=0.8, stop=END_ID, generator=chance)
            story = story[0].numpy()
            stories.append((f"{name} (interval {row['interval']})", story[story != END_ID]))
    return stories

def write_counts(folder, seed, n_stories, length):
    """memorization.csv: a row a story, of the validation text and of both checkpoints."""
    need(length > PIECE, f"windows of {length} tokens are too short for pieces of {PIECE}")
    path = folder / "text.npz"  # the text of a run as numbers
    try:
        with np.load(path) as text:
            training_text, validation_text = text["train"], text["valid"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        raise InputError(f"{path} is missing or damaged; name the folder of a run that was made "
                         "here, or give the command again that made it") from None
    # The base rate first: read_shares keeps this order.
    stories = validation_stories(validation_text, n_stories, length)
    stories += written_stories(folder, seed, n_stories, length)
    write_csv(folder / "memorization.csv", ["source", "pieces", "verbatim"],
              count_verbatim(stories, training_text))

# ---------------------------------------------------------------- comparing

def read_shares(path):
    """source -> array: the share of each story's pieces that stand in the training text."""
    shares = {}
    for row in read_records(path):
        try:
            n, verbatim = int(row["pieces"]), int(row["verbatim"])
            need(0 <= verbatim <= n, "")
        except (KeyError, ValueError):  # (an InputError is a ValueError)
            raise InputError(f"{path} is damaged; make it again with --stories 200") from None
        if n:  # a story of fewer than 16 tokens has none
            shares.setdefault(row["source"], []).append(verbatim / n)
    # (From a single story nobody can tell how much stories differ.)
    need(len(shares) == 3 and min(map(len, shares.values())) > 1,
         f"{path} needs two stories of {PIECE} tokens or more by both checkpoints and of the "
         "validation text; make it again with more --stories")
    return {source: np.array(x) for source, x in shares.items()}

def mean_difference(a, b, axis=-1):
    return a.mean(axis=axis) - b.mean(axis=axis)

def superiority(a, b, axis=-1):
    """P(A > B) + P(A = B) / 2 of one story of each: 0.5 if neither recites more, 1 if A always.

    Mann and Whitney's U is the number of pairs of stories in which A has more, ties by half.
    """
    u = scipy.stats.mannwhitneyu(a, b, axis=axis).statistic
    return u / (a.shape[axis] * b.shape[axis])

def interval(statistic, a, b):
    """(low, high): the 95 % interval of statistic(a, b), as if other stories had been written.

    The bootstrap draws stories with replacement, each source by itself. Trap: it knows of the
    chance in writing, not of the seed; both checkpoints are of one.
    """
    found = scipy.stats.bootstrap((a, b), statistic, method="percentile",
                                  random_state=np.random.default_rng(0))
    return found.confidence_interval

def comparison(name_a, a, name_b, b):
    """A sentence: which recites more, by how much."""
    low, high = interval(mean_difference, a, b)
    less, more = interval(superiority, a, b)
    # By ranks, since shares are anything but normal: most are 0, some are 1.
    p = scipy.stats.mannwhitneyu(a, b).pvalue
    return (f"{name_a} less {name_b}: {mean_difference(a, b):+.1%} of a story's pieces (95 %: "
            f"{low:+.1%} to {high:+.1%}). A story of the first has the larger share with "
            f"probability {number(superiority(a, b))} ({number(less)} to {number(more)}), "
            f"{p_text(p)} (Mann-Whitney over stories).")

# ---------------------------------------------------------------- the command line

def main():
    parser = support.program.Parser(description="What a model recites from its training text.")
    parser.add_argument("folder", type=Path, help="the folder of a run")
    parser.add_argument("--stories", type=int, help="write so many by each checkpoint, and count")
    parser.add_argument("--seed", type=int, help="of which model (default: the run's first)")
    args = parser.parse_args()
    table, drawing = args.folder / "memorization.csv", args.folder / "memorization.svg"
    if args.stories is not None:
        need(2 <= args.stories <= 10**5, "--stories must lie between 2 and 100000")
        config = read_settings(args.folder)
        need(config.get("seeds") and "block_size" in config,
             f"{args.folder} is no run: it has no config.json with seeds and a block_size")
        seed = config["seeds"][0] if args.seed is None else args.seed
        write_counts(args.folder, seed, args.stories, config["block_size"])
    need(args.stories or args.seed is None, "--seed goes with --stories")
    need(table.is_file(), f"{args.folder} has no memorization.csv; give --stories 200 to make it")

    shares = read_shares(table)
    lines = []
    print(f"{'source':24s}{'stories':>8s}{'mean':>8s}{'median':>8s}{'all of it':>11s}")
    for source, x in shares.items():
        whole = np.mean(x == 1)
        print(f"{source:24s}{len(x):8d}{x.mean():8.1%}{np.median(x):8.1%}{whole:11.1%}")
        # The stories of a source, sorted by how much of them stands in the training text.
        lines.append(Line(source, np.linspace(0, 100, len(x)), np.sort(x)))
    write_whole(drawing, line_chart(lines, "stories, from least to most (%)",
                                    "share found in training text"))
    chance, best, last = shares.items()
    for one, other in ((last, best), (last, chance), (best, chance)):
        print(comparison(*one, *other))
    print(f"Counts and figure: {table}, {drawing}")

if __name__ == "__main__":
    support.program.run(main)
