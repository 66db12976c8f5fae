"""The published study beside its repetition, and where the ups and downs of its curve come from.

The published study (arXiv 2606.13370) measures the validation loss of six seeds at 21 intervals,
and reads its ups and downs as instability of the training. The preset `paper` repeats it. Three
questions, a section each:

1. Does it repeat? Both curves on the same 16 validation windows, interval by interval.
2. Waves, what is left of a curve less its cubic trend: do they return with the place in the text?
3. Parts of the validation windows: do they rise and fall together, or in turn?

    python -m studies.replication                                  results/paper (some seconds)
    python -m studies.replication runs/paper --out somewhere       another run of the preset
    python -m studies.replication --beside results/paper_shuffled  the waves of further runs too

It prints its findings, and writes published.csv, waves.csv, parts.csv, figures/published.svg and
figures/kinds.svg into the run's folder, or into the one that --out names.
"""
if __name__ == "__main__":  # so that `python studies/replication.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support.program
from pathlib import Path

import numpy as np

import stats
import telemetry
from support.files import need, write_csv, write_whole
from support.figures import Line, line_chart
from support.page import number, p_text

# Waves are taken from this interval on. Trap: no cubic follows the sharp turn at the minimum,
# interval 4. With the turn among the points, all seeds would share the misfit.
START = 5
LATE = slice(12, 21)  # where our mean lies above the published one, chosen after seeing it
# The text is read 2.333 times between two measurements, so 7.0 times between every third: that
# falls at the same place of the text again. Measurements fall at 3 places in all.
PLACES = 3
N_PARTS = 8  # of the validation windows; neighbours together, as they come from the same stories

# ---------------------------------------------------------------- 1. does it repeat?

def beside_published(run, theirs):
    """Rows of published.csv: an interval each, both means on the same 16 windows, their sd over
    seeds, Welch's interval of the difference, and our mean on all windows."""
    rows = []
    for t, interval in enumerate(run.intervals):
        a, b = run.published[:, t], theirs.loss[:, t]
        welch = stats.welch(a, b)
        rows.append([interval, run.epochs[t], b.mean(), b.std(ddof=1), a.mean(), a.std(ddof=1),
                     welch.difference, welch.low, welch.high, run.loss[:, t].mean()])
    return rows

def repeats(run, theirs):
    """Sentences: how close the repetition comes, and what the differences may mean."""
    ours, published = run.published.mean(axis=0), theirs.mean()
    far = number(np.abs(ours - published).mean())
    yield f"On the same 16 windows our mean lies {far} nats from the published one on average."
    changes = np.diff([ours, published])[:, START:]
    yield (f"Ours is lowest at interval {ours.argmin()}, theirs at {theirs.minimum()}. "
           f"From interval {START + 1} on the changes of both means correlate "
           f"{number(np.corrcoef(changes)[0, 1])}.")
    # Every seed becomes one number: a test of six against six, not of 54 against 54.
    a = run.published[:, LATE].mean(axis=1)
    b = theirs.loss[:, LATE].mean(axis=1)
    yield ("Mean of intervals 12 to 20, chosen after seeing them (so this p is too small): ours "
           f"less theirs {welch_text(a, b)}.")
    # One of our seeds lies apart on these few windows. What remains without it?
    highest = a.argmax()
    others = welch_text(np.delete(a, highest), b)
    yield f"The same without our highest seed, {run.seeds[highest]}: {others}."
    end = welch_text(run.train_loss[:, -1], theirs.train_loss[:, -1])
    yield f"Training loss at the end: ours less theirs {end}."
    # Are the 16 windows like the others? (Before training all text is equally hard.)
    harder = run.mean()[1:] - ours[1:]
    yield (f"All {run.window_losses.shape[-1]:,d} windows are {number(harder.min())} to "
           f"{number(harder.max())} nats harder than the 16, from interval 1 on.")

def welch_text(a, b):
    welch = stats.welch(a, b)
    return (f"{number(welch.difference)} nats (95 %: {number(welch.low)} to {number(welch.high)}, "
            f"Welch over seeds, {p_text(welch.p)})")

# --------------------------------------------------- 2. waves, and the place in the text

def waves(loss):
    """What is left of each row of loss (n, m) when its own cubic trend is taken away: (n, m).

    Example: of a straight line nothing is left.
    """
    # Least squares; a cubic follows a slow rise that flattens, and leaves what comes and goes
    # within a few intervals.
    # t from -1 to 1: powers of 1, 2, 3 ... 16 would differ too much in size to be exact.
    t = np.linspace(-1, 1, loss.shape[1])
    trend = np.polynomial.polynomial.polyfit(t, loss.T, 3)
    return loss - np.polynomial.polynomial.polyval(t, trend)

def returning(wave):
    """Which share of the variance of the mean wave depends on the place in the text?

    wave (n, m). Every third point of the mean over seeds falls at one place; the share is that of
    the variance between these three groups (eta squared). Trap: noise has some too, of 16 points
    0.16 on average, and in one study of 20 more than 0.44.
    """
    mean = wave.mean(axis=0)
    # Variance between groups: each counts as often as it has points.
    between = 0.0
    for place in range(PLACES):
        group = mean[place::PLACES]
        between += len(group) * group.mean() ** 2  # the mean of a wave is 0
    return between / (mean**2).sum()

def describe(loss):
    """name -> number: what of the ups and downs is compared. loss (n, k) of one kind of windows."""
    mean = loss.mean(axis=0)
    wave = waves(loss[:, START:])
    changes = np.diff(loss)[:, START:]  # (n, k - 1 - START); the first one ends at START + 1
    volatility = telemetry.derive(loss)["volatility"][:, START + 4 :]  # of five such changes
    return {
        "lowest mean loss (nats)": mean.min(),
        "rise from there to the end": mean[-1] - mean.min(),
        f"share of changes from interval {START + 1} on that go up": (changes > 0).mean(),
        f"volatility from interval {START + 4} on": volatility.mean(),
        "size of the waves (sd, nats)": wave.std(axis=1).mean(),
        "share of the mean wave that returns with the place": returning(wave),
    }

# ---------------------------------------------------------------- 3. parts of the windows

def part_waves(window_losses):
    """(n, k, n_windows) losses -> (N_PARTS, m): the waves of each part, in the mean over seeds."""
    parts = telemetry.blocks(window_losses, N_PARTS).mean(axis=0)  # (k, N_PARTS)
    return waves(parts[START:].T)

def waves_in_parts(losses):
    """(size in a part, size in all, correlation of two parts, size of what is a part's own).

    losses (k, n_windows), of one seed.
    """
    parts = part_waves(losses[None])
    size = parts.std(axis=1).mean()
    # If all parts rose and fell together, the mean over all would wave as much as a part.
    together = waves(losses.mean(axis=1)[None, START:])
    # Of the variance of a part's waves, size^2, two parts share r, their correlation; the rest,
    # 1 - r of it, is a part's own.
    r = telemetry.in_common(parts)
    return size, together.std(), r, size * np.sqrt(1 - r)

def parts_compared(run):
    """(rows of parts.csv, a sentence about them)."""
    name = run.folder.resolve().name
    found = [waves_in_parts(losses) for losses in run.window_losses]
    rows = [[name, seed, *numbers] for seed, numbers in zip(run.seeds, found)]
    _, _, r, own = np.transpose(found)
    seeds = "one seed" if len(found) == 1 else f"{len(found)} seeds"
    return rows, (f"{name}, {seeds}: two parts' waves correlate {r.min():.2f} to {r.max():.2f}; of "
                  f"a part's waves {own.min():.3f} to {own.max():.3f} nats are its own.")

# ---------------------------------------------------------------- figures

def drawn(run, curves, first, y_label):
    """A chart of curves (name, style, y from interval `first` on) against tokens and epochs."""
    x = run.tokens[first:] / 1e6
    lines = [Line(name, x, y, style) for name, style, y in curves]
    return line_chart(lines, "training tokens (millions)", y_label,
                      second=("epochs", run.epochs[-1] / x[-1]), points=True)

def published_figure(run, theirs):
    # From interval 1 on: beside the descent from chance one sees little else.
    curves = [("published", "plain", theirs.mean()[1:]),
              ("ours, the same 16", "plain", run.published.mean(axis=0)[1:]),
              (f"ours, {run.window_losses.shape[-1]:,d}", "plain", run.mean()[1:])]
    return drawn(run, curves, 1, "mean validation loss (nats)")

def kinds_figure(run):
    """The waves of the mean curve, and of the two parts that are least alike."""
    parts = part_waves(run.window_losses)
    one, two = np.unravel_index(np.corrcoef(parts).argmin(), (N_PARTS, N_PARTS))
    curves = [("mean of all", "bold", waves(run.loss[:, START:]).mean(axis=0)),
              (f"part {one + 1}", "plain", parts[one]), (f"part {two + 1}", "plain", parts[two])]
    return drawn(run, curves, START, "loss less its cubic curve (nats)")

# ---------------------------------------------------------------- the command line

def read_runs(folders):
    """The Runs of these folders, of which the first repeats the published study."""
    runs = [telemetry.read_run(folder) for folder in folders]
    for run in runs:
        need(run.window_losses is not None and len(run.intervals) > START + 5
             and run.window_losses.shape[-1] >= N_PARTS, f"{run.folder} needs {START + 6} "
             f"intervals, and the losses of {N_PARTS} windows in each seed's val_windows.npy")
    run, theirs = runs[0], telemetry.published_run()
    need(run.tokens.tolist() == theirs.tokens.tolist() and np.isfinite(run.published).all()
         and len(run.seeds) > 1 and abs(run.epochs[PLACES] - 7) < 0.03,
         f"{run.folder} does not repeat the published study: that takes a run of the preset "
         "paper, its text read 7 times in 3 intervals, with 2 seeds or more")
    return runs, theirs

def main():
    parser = support.program.Parser(description="The published study beside its repetition.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results", "paper"),
                        help="a run of the preset paper (default results/paper)")
    parser.add_argument("--out", type=Path, help="where tables and figures go (default: there)")
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="FOLDER",
                        help="further runs, of which the waves in parts are told")
    args = parser.parse_args()
    runs, theirs = read_runs([args.folder, *args.beside])
    run, out = runs[0], args.out or args.folder
    (out / "figures").mkdir(parents=True, exist_ok=True)

    print("1. Does it repeat?", *repeats(run, theirs), sep="\n  ")
    header = ("interval epochs published published_sd ours ours_sd difference difference_low "
              "difference_high ours_all_windows")
    write_csv(out / "published.csv", header.split(), beside_published(run, theirs))
    write_whole(out / "figures" / "published.svg", published_figure(run, theirs))

    print(f"2. Waves, from interval {START} on", "published, ours on 16 windows, ours on all")
    # The published seeds, ours on the windows that both have, ours on all of ours.
    three = {"published": theirs.loss, "ours, the same 16": run.published, "ours, all": run.loss}
    columns = [describe(loss) for loss in three.values()]
    rows = []
    for what in columns[0]:
        values = [column[what] for column in columns]
        rows.append([what, *values])
        print(f"  {what:58s}" + "".join(f"{number(value):>10s}" for value in values))
    write_csv(out / "waves.csv", ["", *three], rows)
    print("  The published mean less its cubic; every third falls at one place of the text:")
    mean = waves(theirs.loss[:, START:]).mean(axis=0)
    print("   " + "".join(f" {t}:{x:+.3f}" for t, x in enumerate(mean, START)))

    print("3. Parts of the validation windows")
    parts = []
    for each in runs:
        rows, sentence = parts_compared(each)
        parts += rows
        print(f"  {sentence}")
    header = "run seed size_in_a_part size_in_all correlation size_of_its_own"
    write_csv(out / "parts.csv", header.split(), parts)
    write_whole(out / "figures" / "kinds.svg", kinds_figure(run))
    print(f"Tables and figures: {out}")

if __name__ == "__main__":
    support.program.run(main)
