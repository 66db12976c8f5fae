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
import stats, telemetry
from support.files import InputError, need, write_csv, write_whole
from support.figures import Line, line_chart
from support.page import number, p_text

# Waves are taken from this interval on. Trap: no cubic follows the sharp turn at the minimum,
# interval 4. With the turn among the points, all seeds would share the misfit.
START = 5
LATE = slice(12, 21)  # where our mean lies above the published one, chosen after seeing it
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
    far = np.abs(ours - published)
    alike = np.corrcoef(np.diff(ours)[START:], np.diff(published)[START:])[0, 1]
    yield (f"On the same 16 windows our mean lies {number(far.mean())} nats from the published one "
           f"on average over the {len(far)} intervals, {number(far.max())} at most.")
    yield (f"Ours is lowest at interval {ours.argmin()}, theirs at {theirs.minimum()}. "
           f"From interval {START + 1} on the changes of both means correlate {number(alike)}.")
    # Every seed becomes one number: a test of six against six, not of 54 against 54.
    a, b = run.published[:, LATE].mean(axis=1), theirs.loss[:, LATE].mean(axis=1)
    yield (f"Mean of intervals 12 to 20, chosen after seeing them (so this p is too small): ours "
           f"less theirs {welch_text(stats.welch(a, b))}.")
    # One of our seeds lies apart on these few windows. What remains without it?
    highest = a.argmax()
    yield (f"The same without our highest seed, {run.seeds[highest]}: "
           f"{welch_text(stats.welch(np.delete(a, highest), b))}.")
    # (Before interval 1 nothing was trained.)
    gap = (run.train_loss - theirs.train_loss)[:, 1:].mean(axis=0)
    end = stats.welch(run.train_loss[:, -1], theirs.train_loss[:, -1])
    yield (f"Mean training losses differ by {number(np.abs(gap).max())} nats at most; at the end "
           f"ours less theirs is {welch_text(end)}.")
    # Are the 16 windows like the others? (Before training all text is equally hard.)
    harder = run.mean()[1:] - ours[1:]
    yield (f"All {run.window_losses.shape[-1]:,d} windows are {number(harder.min())} to "
           f"{number(harder.max())} nats harder than the 16, from interval 1 on.")

def welch_text(welch):
    return (f"{number(welch.difference)} nats (95 %: {number(welch.low)} to {number(welch.high)}, "
            f"Welch over seeds, {p_text(welch.p)})")

# --------------------------------------------------- 2. waves, and the place in the text

def waves(loss, degree=3):
    """What is left of each row of loss (n, m) when its own polynomial trend is taken away: (n, m).

    Least squares; a cubic follows a slow rise that flattens, and leaves what comes and goes within
    a few intervals. Example: of a straight line nothing is left.
    """
    # From -1 to 1: powers of 1, 2, 3 ... 16 would differ too much in size to be exact.
    t = np.linspace(-1, 1, loss.shape[1])
    trend = np.polynomial.polynomial.polyfit(t, loss.T, degree)
    return loss - np.polynomial.polynomial.polyval(t, trend)

def recurrence(epochs):
    """After how many intervals do measurements fall at nearly the same place of the text?

    epochs (k): how often the text was read at each. Example: 2.333 epochs between two of them are
    7.0 after 3: at the same place again. 0: never, or the place hardly moves at all.
    """
    step = (epochs[-1] - epochs[0]) / (len(epochs) - 1)  # epochs between two measurements
    # Whole epochs bring the reader back to where it was.
    if abs(step - round(step)) < 0.03:
        return 0
    for lag in range(2, (len(epochs) - 1) // 2):
        if abs(lag * step - round(lag * step)) < 0.015:
            return lag
    return 0

def returning(wave, lag):
    """Which share of the variance of the mean wave depends on the place in the text?

    wave (n, m). The points i, i + lag, i + 2 lag ... of the mean over seeds fall at one place; the
    share is that of the variance between these groups (eta squared). Trap: noise has some too, here
    (16 points, lag 3) 0.16 on average, and in one study of 20 more than 0.44. nan without a lag.
    """
    mean = wave.mean(axis=0)
    if lag == 0 or len(mean) < 2 * lag:
        return np.nan
    # Variance between groups: each counts as often as it has points.
    between = 0.0
    for place in range(lag):
        group = mean[place::lag]
        between += len(group) * group.mean() ** 2  # the mean of a wave is 0
    return float(between / (mean**2).sum())

def describe(loss, epochs):
    """name -> number: what of the ups and downs is compared. loss (n, k) of one kind of windows."""
    mean = loss.mean(axis=0)
    lowest = int(mean.argmin())
    wave = waves(loss[:, START:])
    changes = np.diff(loss)[:, START:]  # (n, k - 1 - START); the first one ends at START + 1
    volatility = telemetry.derive(loss)["volatility"][:, START + 4 :]  # of five such changes
    return {
        "lowest mean loss (nats)": mean[lowest],
        "at interval": float(lowest),
        "rise from there to the end": mean[-1] - mean[lowest],
        f"share of changes from interval {START + 1} on that go up": (changes > 0).mean(),
        f"volatility from interval {START + 4} on": volatility.mean(),
        "size of the waves (sd, nats)": wave.std(axis=1).mean(),
        "correlation of two seeds' changes": telemetry.in_common(changes),
        "share of the mean wave that returns with the place": returning(wave, recurrence(epochs)),
    }

# ---------------------------------------------------------------- 3. parts of the windows

def windows_of(folder):
    """seed -> (k, n_windows) losses of each validation window, of a run whole or not."""
    found = {}
    for path in sorted(folder.glob("seed_*/val_windows.npy")):
        try:
            losses = np.load(path)
        except (ValueError, EOFError):
            raise InputError(f"{path} is damaged; make the run again") from None
        need(losses.ndim == 2 and len(losses) > START + 5 and losses.shape[1] >= N_PARTS,
             f"{path} has too few intervals or windows for waves: {START + 6} and {N_PARTS}")
        found[path.parent.name.removeprefix("seed_")] = losses
    need(found, f"{folder} holds no seed_N/val_windows.npy, the losses of its windows")
    return found

def part_curves(losses):
    """(k, n_windows) losses -> (N_PARTS, k): the mean curve of each part, neighbours together."""
    return telemetry.blocks(losses[None], N_PARTS)[0].T

def waves_in_parts(losses):
    """(size in a part, size in all, correlation of two parts, size of what is a part's own).

    losses (k, n_windows), of one seed. If all parts rose and fell together, the mean over all
    would wave as much as a part. A part's waves have the variance size^2, of which two parts
    share r, their correlation; 1 - r is a part's own.
    """
    parts = waves(part_curves(losses)[:, START:])  # (N_PARTS, m)
    together = waves(losses.mean(axis=1)[None, START:])
    size, r = parts.std(axis=1).mean(), telemetry.in_common(parts)
    return size, together.std(), r, size * np.sqrt(1 - r)

def parts_compared(folders):
    """(rows of parts.csv, a sentence a run)."""
    rows, sentences = [], []
    for folder in folders:
        mine = []
        for seed, losses in windows_of(folder).items():
            mine.append(waves_in_parts(losses))
            rows.append([folder.resolve().name, seed, *mine[-1]])
        _, _, r, own = np.array(mine).T
        seeds = "one seed" if len(mine) == 1 else f"{len(mine)} seeds"
        sentences.append(f"{folder.resolve().name}, {seeds}: two parts' waves correlate "
                         f"{r.min():.2f} to {r.max():.2f}; of a part's waves {own.min():.3f} to "
                         f"{own.max():.3f} nats are its own.")
    return rows, sentences

# ---------------------------------------------------------------- figures

def drawn(run, curves, first, y_label):
    """A chart of curves (name, style, y from interval `first` on) against tokens and epochs."""
    x = run.tokens[first:] / 1e6
    lines = [Line(name, x, y, style) for name, style, y in curves]
    return line_chart(lines, "training tokens (millions)", y_label,
                      second=("epochs", run.epochs[-1] / x[-1]), points=True)

def published_figure(run, theirs):
    # From interval 1 on: beside the descent from chance one sees little else.
    return drawn(run, [("published", "plain", theirs.mean()[1:]),
                       ("ours, the same 16", "plain", run.published.mean(axis=0)[1:]),
                       (f"ours, {run.window_losses.shape[-1]:,d}", "plain", run.mean()[1:])],
                 1, "mean validation loss (nats)")

def kinds_figure(run):
    """The waves of the mean curve, and of the two parts that are least alike."""
    # (n, k, N_PARTS) -> mean over seeds, a row a part.
    parts = waves(telemetry.blocks(run.window_losses, N_PARTS).mean(axis=0).T[:, START:])
    one, two = np.unravel_index(np.corrcoef(parts).argmin(), (N_PARTS, N_PARTS))
    return drawn(run, [("mean of all", "bold", waves(run.loss[:, START:]).mean(axis=0)),
                       (f"part {one + 1}", "plain", parts[one]),
                       (f"part {two + 1}", "plain", parts[two])],
                 START, "loss less its cubic curve (nats)")

# ---------------------------------------------------------------- the command line

def main():
    parser = support.program.Parser(description="The published study beside its repetition.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results", "paper"),
                        help="a run of the preset paper (default results/paper)")
    parser.add_argument("--out", type=Path, help="where tables and figures go (default: there)")
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="FOLDER",
                        help="further runs, of which the waves in parts are told")
    args = parser.parse_args()
    out, run = args.out or args.folder, telemetry.read_run(args.folder)
    theirs = telemetry.published_run()
    need(run.tokens.tolist() == theirs.tokens.tolist() and np.isfinite(run.published).all()
         and len(run.seeds) > 1 and run.window_losses is not None,
         f"{args.folder} does not repeat the published study: that takes a run of the preset "
         "paper, with 2 seeds or more and the losses of its windows")

    # The published seeds, ours on the windows that both have, ours on all of ours.
    three = {"published": theirs.loss, "ours, the same 16": run.published, "ours, all": run.loss}
    described = [describe(loss, run.epochs) for loss in three.values()]
    rows = [[what, *(column[what] for column in described)] for what in described[0]]
    parts, sentences = parts_compared([args.folder, *args.beside])
    print("1. Does it repeat?", *repeats(run, theirs), sep="\n  ")
    print(f"2. Waves, from interval {START} on", "published, ours on 16 windows, ours on all")
    for what, *values in rows:
        print(f"  {what:58s}" + "".join(f"{number(value):>10s}" for value in values))
    print("  The published mean less its cubic; every third falls at one place of the text:")
    mean = waves(theirs.loss[:, START:]).mean(axis=0)
    print("   " + "".join(f" {t}:{x:+.3f}" for t, x in enumerate(mean, START)))
    print("3. Parts of the validation windows", *sentences, sep="\n  ")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    write_csv(out / "published.csv", [
        "interval", "epochs", "published", "published_sd", "ours", "ours_sd", "difference",
        "difference_low", "difference_high", "ours_all_windows"], beside_published(run, theirs))
    write_csv(out / "waves.csv", ["", *three], rows)
    write_csv(out / "parts.csv", ["run", "seed", "size_in_a_part", "size_in_all", "correlation",
                                  "size_of_its_own"], parts)
    write_whole(out / "figures" / "published.svg", published_figure(run, theirs))
    write_whole(out / "figures" / "kinds.svg", kinds_figure(run))
    print(f"Tables and figures: {out}")

if __name__ == "__main__":
    support.program.run(main)
