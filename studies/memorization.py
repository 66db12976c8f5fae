"""What a model has learned by heart: how much of its stories stands in its training text?

A model whose validation loss rises while its training loss falls learns its text instead of its
language. Does it recite? Of each story that it writes, count the pieces of 16 tokens in a row, and
how many of them stand word for word in the training text. Validation stories, written by nobody who
knew the training text, tell how much of that is chance: the base rate.

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

from support.files import InputError, need, read_json, read_records, write_csv, write_whole
from support.figures import Line, line_chart
from support.page import number, p_text

PIECE = 16  # tokens: a phrase of so many is hardly ever met twice by chance
VALIDATION = "validation text"

# ---------------------------------------------------------------- counting

def pieces(ids, length=PIECE):
    """All runs of `length` neighbours in ids: [1, 2, 3] has (1, 2) and (2, 3). None if too short.

    As bytes, because those can be elements of a set, and an array cannot.
    """
    ids = np.asarray(ids, dtype=np.int64)  # the same bytes for the same ids, whatever they were
    found = []
    for first in range(len(ids) - length + 1):
        found.append(ids[first : first + length].tobytes())
    return found

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

def validation_stories(ids, end_id, n_stories, length):
    """The first n_stories of the validation text, each cut to `length` tokens."""
    ends = np.flatnonzero(ids == end_id)[:n_stories]
    stories = np.split(ids, ends + 1)[: len(ends)]  # cut after each end; the rest is left out
    return [(VALIDATION, story[story != end_id][:length]) for story in stories]

# ---------------------------------------------------------------- writing

def written_stories(folder, seed, end_id, n_stories):
    """(source, ids) of the stories that the best and the last checkpoint of a seed write."""
    import torch  # here, so that the tests of a count that is there need no torch
    from model import Llama, ModelConfig
    from train import one_thread, read_checkpoint

    one_thread()  # several would wait for each other at every token
    config = read_json(folder / "config.json")
    sizes = {name: config[name] for name in
             ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")}
    model, stories = Llama(ModelConfig(**sizes)), []
    for name in ("best", "last"):
        saved = read_checkpoint(folder / f"seed_{seed}" / f"{name}.pt")
        need(saved, f"{folder / f'seed_{seed}' / name}.pt is not there or damaged; stories need "
             "the checkpoints of a run: train it again, or name another --seed")
        model.load_state_dict(saved["model"])
        model.eval()  # no dropout, should a student add it
        # KEEP: the same chance for both checkpoints, and for everybody who repeats it.
        chance = torch.Generator().manual_seed(seed)
        interval = saved["rows"][-1]["interval"]
        for _ in range(n_stories):
            start = torch.tensor([[end_id]])  # after the end of a story another one begins
            story = model.generate(start, sizes["block_size"], temperature=0.8, stop=end_id,
                                   generator=chance)[0].numpy()
            stories.append((f"{name} (interval {interval})", story[story != end_id]))
    return stories

def write_counts(folder, seed, n_stories):
    """memorization.csv: a row a story, of the validation text and of both checkpoints."""
    from tokenizer import END_ID

    need((folder / "text.npz").is_file(), f"{folder} has no text.npz, the text of a run as numbers;"
         " name the folder of a run that was made here")
    try:
        with np.load(folder / "text.npz") as text:
            train, valid = text["train"], text["valid"]
    except (ValueError, KeyError, zipfile.BadZipFile):
        raise InputError(f"{folder / 'text.npz'} is damaged; the command that made the run makes it"
                         " again") from None
    length = int(read_json(folder / "config.json")["block_size"])
    need(length > PIECE, f"windows of {length} tokens are too short for pieces of {PIECE}")
    # The base rate first: read_shares keeps this order.
    stories = validation_stories(valid, END_ID, n_stories, length)
    stories += written_stories(folder, seed, END_ID, n_stories)
    write_csv(folder / "memorization.csv", ["source", "pieces", "verbatim"],
              count_verbatim(stories, train))

# ---------------------------------------------------------------- comparing

def read_shares(path):
    """source -> array: the share of each story's pieces that stand in the training text."""
    shares = {}
    for row in read_records(path):
        try:
            n, verbatim = int(row["pieces"]), int(row["verbatim"])
            need(0 <= verbatim <= n, "")
        except (KeyError, ValueError):
            need(False, f"{path} is damaged; make it again with --stories 200")
        if n:  # a story of fewer than 16 tokens has none
            shares.setdefault(row["source"], []).append(verbatim / n)
    need(len(shares) == 3, f"{path} needs stories of 16 tokens or more by both checkpoints and of "
         "the validation text; make it again with more --stories")
    return {source: np.array(x) for source, x in shares.items()}

def superiority(a, b):
    """P(A > B) + P(A = B) / 2 of one story of each: 0.5 if neither recites more, 1 if A always.

    Over all pairs of stories; Mann and Whitney's U counts the same.
    """
    more, equal = a[:, None] > b, a[:, None] == b  # (len(a), len(b))
    return float(more.mean() + equal.mean() / 2)

def bootstrap(a, b, n_times=2000):
    """95 % intervals of (difference of means, superiority): as if other stories had been written.

    Draws stories with replacement, each source by itself. Trap: it knows of the chance in writing,
    not of the seed; both checkpoints are of one.
    """
    rng = np.random.default_rng(0)
    found = []  # of each time, both numbers
    for _ in range(n_times):
        # As many stories as there were; some of them twice or more, some not at all.
        x, y = rng.choice(a, len(a)), rng.choice(b, len(b))
        found.append([x.mean() - y.mean(), superiority(x, y)])
    return np.quantile(found, [0.025, 0.975], axis=0).T.tolist()

def comparison(name_a, a, name_b, b):
    """A sentence: which recites more, by how much."""
    # By ranks, since shares are anything but normal: most are 0, some are 1.
    p = scipy.stats.mannwhitneyu(a, b).pvalue
    (low, high), (less, more) = bootstrap(a, b)
    return (f"{name_a} less {name_b}: {a.mean() - b.mean():+.1%} of the pieces (95 %: {low:+.1%} "
            f"to {high:+.1%}). A story of the first has the larger share with probability "
            f"{number(superiority(a, b))} ({number(less)} to {number(more)}), {p_text(p)} "
            "(Mann-Whitney over stories).")

def shares_figure(shares):
    """The stories of each source, sorted by how much of them stands in the training text."""
    lines = []
    for source, x in shares.items():
        lines.append(Line(source, np.linspace(0, 100, len(x)), np.sort(x)))
    return line_chart(lines, "stories, from least to most (%)", "share found in training text")

def main():
    parser = support.program.Parser(description="What a model recites from its training text.")
    parser.add_argument("folder", type=Path, help="the folder of a run")
    parser.add_argument("--stories", type=int, help="write so many by each checkpoint, and count")
    parser.add_argument("--seed", type=int, help="of which model (default: the run's first)")
    args = parser.parse_args()
    folder, table = args.folder, args.folder / "memorization.csv"
    if args.stories is not None:
        need(2 <= args.stories <= 10**5, "--stories must lie between 2 and 100000")
        seed = read_json(folder / "config.json")["seeds"][0] if args.seed is None else args.seed
        write_counts(folder, seed, args.stories)
    need(args.stories or args.seed is None, "--seed goes with --stories")
    need(table.is_file(), f"{folder} has no memorization.csv; give --stories 200 to make it")

    shares = read_shares(table)
    write_whole(folder / "memorization.svg", shares_figure(shares))
    print(f"{'source':24s}{'stories':>8s}{'mean':>8s}{'median':>8s}{'all of it':>11s}")
    for source, x in shares.items():
        whole = np.mean(x == 1)
        print(f"{source:24s}{len(x):8d}{x.mean():8.1%}{np.median(x):8.1%}{whole:11.1%}")
    # Last against best, and both against the base rate.
    by_name = list(shares.items())
    for one, other in ((2, 1), (2, 0), (1, 0)):
        print(comparison(*by_name[one], *by_name[other]))
    print(f"Counts and figure: {table}, {folder / 'memorization.svg'}")

if __name__ == "__main__":
    support.program.run(main)
