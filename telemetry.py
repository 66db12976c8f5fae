"""Chapter 4. Telemetry: how stable was the training, and what may one conclude from it?

From the validation losses of all seeds, a matrix (n_seeds, n_intervals), to stability measures,
figures, tables and the report. Nothing here trains anything, and nothing here needs torch.

    python telemetry.py runs/classroom                 rebuild tables, figures and report.html
    python telemetry.py runs/classroom runs/fresh      the same, and compare the two
    python telemetry.py                                a lesson: the published study's own data

Reading order: `derive` holds every measure; the drawing is 130 lines of SVG; the `audit_` and
`answer_` functions compute each sentence from the run's data, so that none can go out of date.
"""

import argparse, csv, html, json, math, sys
from collections import namedtuple
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError

import numpy as np
import scipy.stats

import stats
from stats import InputError
from tokenizer import write_csv, write_whole

# ---------------------------------------------------------------- the measures

def derive(val_loss, window=5, spike_factor=2.0, spike_floor=0.01, stable_quantile=0.25,
           stable_backslides=1):
    """Every stability measure: val_loss (..., n_seeds, n_intervals) -> dict of arrays like it.

    nan where a measure is not defined. With the change d[t] = val_loss[t] - val_loss[t-1]:
    volatility: sample standard deviation of the last `window` changes, at least 2 (t >= 2).
    backslide: d > 0; its magnitude max(d, 0); its frequency: how many in the window.
    spike: d > max(floor, m + factor s), m and s the mean and population standard deviation of
    the changes in the window *including d[t]*, as published; at t = 1 the floor alone. Trap: among
    w numbers none is further than sqrt(w-1) s from the mean, so 2 s is out of reach for w = 5.
    spike_corrected: m and s from the window before d[t] (t >= 3), so that it can fire. Trap: of
    normal changes around a constant it calls 9 % spikes (w = 5; d is then beyond 1.63 of t(4)).
    stable: volatility in the lowest quantile of all, no spike and few backslides in the window.
    """
    Y = np.asarray(val_loss, dtype=np.float64)
    d = np.diff(Y, axis=-1, prepend=np.nan)
    m = {name: np.full(Y.shape, np.nan) for name in (
        "volatility", "backslide", "backslide_magnitude", "backslide_frequency", "spike",
        "spike_rate", "spike_corrected", "spike_rate_corrected", "stable")}
    m |= {"change": d, "backslide_magnitude": np.maximum(d, 0)}
    m["backslide"][..., 1:] = d[..., 1:] > 0
    m["spike"][..., 1:2] = d[..., 1:2] > spike_floor
    for t in range(1, Y.shape[-1]):
        first = max(1, t - window + 1)
        recent, before = d[..., first : t + 1], d[..., max(1, t - window) : t]
        if t >= 2:
            m["volatility"][..., t] = recent.std(axis=-1, ddof=1)
            # EXERCISE 7: own_spike and own_stable, 1 or 0 like m["stable"], from losses up to t
            # alone; add both to m. A spike is a jump up of 0.5 nats for one interval (not the way
            # back) among changes of up to 0.05, and with all losses 20 times as large as well. A
            # stable phase is 20 intervals with changes below 0.003: mark its sixth at the latest,
            # nothing before or after it, and no steady fall.
            m["spike"][..., t] = exceeds(d[..., t], recent, spike_factor, spike_floor)
        if t >= 3:
            m["spike_corrected"][..., t] = exceeds(d[..., t], before, spike_factor, spike_floor)
            corrected = m["spike_corrected"][..., max(3, first) : t + 1]
            m["spike_rate_corrected"][..., t] = corrected.mean(axis=-1)
        m["backslide_frequency"][..., t] = m["backslide"][..., first : t + 1].sum(axis=-1)
        m["spike_rate"][..., t] = m["spike"][..., first : t + 1].mean(axis=-1)
    if Y.shape[-1] > 2:
        low = np.quantile(m["volatility"][..., 2:], stable_quantile, axis=(-2, -1), keepdims=True)
        m["stable"][..., 2:] = ((m["volatility"] <= low) & (m["spike_rate"] == 0)
                                & (m["backslide_frequency"] <= stable_backslides))[..., 2:]
    return m

def exceeds(d, sample, factor, floor):
    """d > max(floor, mean + factor * population sd of sample), beyond rounding."""
    distance = d - sample.mean(axis=-1)
    return (d > floor) & (distance > factor * sample.std(axis=-1) * (1 + 1e-9))

# ---------------------------------------------------------------- a run, read back

@dataclass
class Run:
    """What a run folder says: n seeds, k intervals."""

    folder: Path
    config: dict
    seeds: list
    intervals: list
    tokens: np.ndarray  # (k) seen so far
    epochs: np.ndarray  # (k) times the whole training text
    loss: np.ndarray  # (n, k) validation loss, nats a token
    train_loss: np.ndarray  # (n, k) mean since the last measurement; nan at interval 0
    se: np.ndarray  # (n, k) standard error of loss over the validation windows
    change_se: np.ndarray  # (n, k) of its change, paired over the windows; nan at interval 0
    published: np.ndarray  # (n, k) loss on the published study's windows; nan without
    seconds: np.ndarray  # (n, k) since the seed began; nan if not known
    windows: np.ndarray | None  # (n, k, n_windows) loss of each validation window
    measures: dict  # name -> (n, k), from derive
    notes: list  # sentences about what is left out

    @property
    def best(self):
        """Index of the interval with the lowest mean validation loss."""
        return int(self.loss.mean(0).argmin())

    @cached_property
    def results(self):
        """name -> all tests of each variable."""
        return {name: stats.analyse(Y) for name, Y in tested(self).items()}

    @cached_property
    def simulated(self):
        return false_positives(self)

    @cached_property
    def answers(self):
        return [answer(self) for answer in (answer_stability, answer_seeds, answer_shape,
                                            answer_phase)]

# What a config.json must hold for `derive`, in its order, and for a report: (type, least, most).
RULES = {"volatility_window": (int, 2, 1000), "spike_factor": (float, 0, 100),
         "spike_floor": (float, 0, 100), "stable_quantile": (float, 0, 1),
         "stable_backslides": (int, 0, 1000)}
LIMITS = RULES | {name: (int, 1, 10**15) for name in (
    "vocab_size n_layer n_head n_embd block_size valid_windows train_documents "
    "train_tokens").split()}

def read_run(folder):
    """Read config.json and metrics.csv of a run folder. InputError says what is missing."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} is not the folder of a run: it has no config.json")
    loss, seeds, intervals, notes = stats.read_table(folder / "metrics.csv")
    if len(intervals) < 4:
        raise InputError(f"{folder} has {len(intervals)} intervals; a report needs 4 or more")
    column = lambda name: np.array([[float(cells[seed, interval].get(name) or "nan")
                                     for interval in intervals] for seed in seeds])
    windows = None  # a published table comes without them
    try:
        with open(folder / "metrics.csv", encoding="utf-8-sig", newline="") as file:
            cells = {(int(row["seed"]), int(row["interval"])): row for row in csv.DictReader(file)}
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for name, (kind, least, most) in LIMITS.items():
            if type(config[name]) not in (kind, int) or not least <= config[name] <= most:
                raise ValueError(f"{name} is {config[name]!r:.40}")
        for name in ("preset", "text", "seed_decides"):
            config[name].encode("utf-8")
        files = [folder / f"seed_{seed}" / "val_windows.npy" for seed in seeds]
        if all(file.exists() for file in files):
            windows = np.stack([np.load(file) for file in files])
            if not np.allclose(windows.mean(-1), loss, rtol=1e-6):
                raise ValueError("the means of val_windows.npy are not the losses of metrics.csv")
        tokens, epochs, train_loss = map(column, ("tokens_seen", "epochs", "train_loss"))
        if (not (np.diff(tokens[0]) > 0).all() or not np.isfinite([tokens, epochs]).all()
                or (np.abs(train_loss) > 1e300).any() or tokens[0, 0] < 0):
            raise ValueError("tokens_seen, epochs or train_loss has a number that cannot be")
        for s in sorted({int(s) for s in config["seeds"]} - set(seeds)):
            why = folder / f"seed_{s}" / "left_out.txt"
            notes.append(f"Seed {s} is left out: " + (
                why.read_text(encoding="utf-8", errors="replace").strip() if why.is_file()
                else "it is not complete"))
        return Run(folder, config, seeds, intervals, tokens[0], epochs[0], loss, train_loss,
                   column("val_loss_se"), column("val_change_se"), column("val_loss_published"),
                   column("elapsed_seconds"), windows, derive(loss, *map(config.get, RULES)), notes)
    except (ValueError, TypeError, AttributeError, KeyError, EOFError, RecursionError,
            MemoryError, TokenError) as error:
        raise InputError(f"config.json, metrics.csv or a val_windows.npy in {folder} is damaged "
                         f"({type(error).__name__}: {error}"[:160] + "); the command that made "
                         "the run writes all but config.json again") from None

# ---------------------------------------------------------------- drawing

# Okabe and Ito's colours, told apart by colour-blind readers too; dashes for print in grey.
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9".split()
DASHES = ["", "8 3", "2 2", "10 3 2 3", "5 2", "14 4"]
# A sheet of 780 columns; the plot lies between LEFT and RIGHT, the legend to its right.
LEFT, RIGHT, TOP, BOTTOM = 66, 630, 14, 320

def svg(parts, width, height, title):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="13">'
            f'<title>{html.escape(title)}</title><rect width="100%" height="100%" fill="#fff"/>'
            + "\n".join(parts) + "</svg>\n")

def label(x, y, text, anchor="middle", more=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>'
            f"{html.escape(str(text))}</text>")

def stroke(points, style):
    return f'<polyline fill="none" points="{points}" {style}/>'

def ticks(low, high, n=6):
    """About n round numbers from low to high: ticks(0, 10) = 0 2 4 6 8 10."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / n))
    step *= next(s for s in (1, 2, 5, 10) if (high - low) / (s * step) <= n)
    return step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)

def line_chart(lines, x_label, y_label, epochs=None, log=False, mark=None):
    """An SVG drawing of lines [(name, x, y)]; "mean..." and "frontier" are bold and black.

    epochs: times the text at x = 1, for a second row of numbers below the axis. log: of y. mark:
    (x, y, text) of one point. A line of one point is a numbered dot. More than 8 seeds are grey.
    """
    height = np.log10 if log else np.asarray
    many = sum(name.startswith("seed") for name, *_ in lines) > 8
    lines = [(name, x, height(np.where(y > 0, y, np.nan) if log else y)) for name, x, y in lines]
    y_all = np.concatenate([y for *_, y in lines])
    x0, x1 = min(x.min() for _, x, _ in lines), max(x.max() for _, x, _ in lines)
    y0, y1 = (np.nanmin(y_all), np.nanmax(y_all)) if np.isfinite(y_all).any() else (0, 0)
    y0, y1 = y0 - 0.04 * (y1 - y0 or 1), y1 + 0.04 * (y1 - y0 or 1)
    X = lambda x: LEFT + (x - x0) / (x1 - x0 or 1) * (RIGHT - LEFT)
    Y = lambda y: BOTTOM - (y - y0) / (y1 - y0) * (BOTTOM - TOP)
    out = [label((LEFT + RIGHT) / 2, BOTTOM + 58, x_label + (", below: epochs" if epochs else "")),
           label(0, 0, y_label, more=f'transform="translate(15 {(TOP + BOTTOM) / 2}) rotate(-90)"')]
    for v in ticks(y0, y1):
        out.append(stroke(f"{LEFT},{Y(v):.1f} {RIGHT},{Y(v):.1f}", 'stroke="#ddd"'))
        out.append(label(LEFT - 7, Y(v) + 4, f"{10.0**v:.2g}" if log else f"{v:.6g}", "end"))
    for v in ticks(x0, x1):
        out.append(stroke(f"{X(v):.1f},{BOTTOM} {X(v):.1f},{BOTTOM + 5}", 'stroke="#333"'))
        out.append(label(X(v), BOTTOM + 19, f"{v:.6g}"))
        out += [label(X(v), BOTTOM + 36, f"{v * epochs:.3g}", more='fill="#777"')] if epochs else []
    out.append(stroke(f"{LEFT},{TOP} {LEFT},{BOTTOM} {RIGHT},{BOTTOM}", 'stroke="#333"'))
    legend = 0
    for i, (name, x, y) in enumerate(lines):
        bold = name.startswith(("mean", "frontier"))
        style = 'stroke="#000" stroke-width="3"' if bold else (
            'stroke="#888" stroke-width="0.7"' if many else f'stroke="{COLOURS[i % 6]}" '
            f'stroke-dasharray="{DASHES[(i + i // 6) % 6]}" stroke-width="1.8"')
        gaps = " ".join(f"{X(a):.1f},{Y(b):.1f}" if b == b else "|" for a, b in zip(x, y))
        out += [stroke(piece.strip(), style) for piece in gaps.split("|") if piece.strip()]
        if len(x) == 1:
            name = f"{i + 1}: {name}"
            out.append(f'<circle cx="{X(x[0]):.1f}" cy="{Y(y[0]):.1f}" r="4" fill="'
                       f'{COLOURS[i % 6]}"/>' + label(X(x[0]) + 6, Y(y[0]) - 4, i + 1, "start"))
        if bold or not many or i == 0:
            row, legend = TOP + 12 + 20 * legend, legend + 1
            out.append(stroke(f"{RIGHT + 10},{row} {RIGHT + 38},{row}", style))
            name = name if bold or not many else "each seed"
            out.append(label(RIGHT + 44, row + 4, name, "start"))
    if mark:
        x, y = X(mark[0]), Y(mark[1])
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#000"/>')
        out.append(label(x, y - 12, mark[2], more='font-weight="bold"'))
    width = RIGHT + 70 + 7.5 * max(len(name) for name, *_ in lines)
    return svg(out, max(780, round(width)), BOTTOM + 66, f"{y_label} against {x_label}")

def cell_map(colours, letters, rows, columns, legend, x_label):
    """An SVG drawing of a table: colours and letters (n, k), their names, and what colours mean."""
    (n, k), out, x = colours.shape, [], 80
    size = min(30, max(6, 640 // k))
    for i, j in np.argwhere(colours != ""):
        left, top = 80 + size * j, size * i
        out.append(f'<rect x="{left}" y="{top}" width="{size - 1}" height="{size - 1}" '
                   f'fill="{colours[i, j]}"/>')
        if letters[i, j]:
            out.append(label(left + size / 2, top + size / 2 + 4, letters[i, j]))
    for i in range(0, n, math.ceil(14 / size)):
        out.append(label(74, size * (i + 0.5) + 4, rows[i], "end"))
    for j in range(0, k, math.ceil(22 / size)):
        out.append(label(80 + size * (j + 0.5), size * n + 15, columns[j]))
    out.append(label(80, size * n + 35, x_label, "start"))
    for colour, words in legend:
        out.append(f'<rect x="{x}" y="{size * n + 46}" width="14" height="14" fill="{colour}" '
                   'stroke="#999"/>' + label(x + 20, size * n + 58, words, "start"))
        x += 40 + 7 * len(words)
    return svg(out, max(660, 100 + size * k), size * n + 70, x_label)

def figures(run):
    """name -> (SVG, caption) of every figure of the report."""
    million = run.tokens[-1] >= 2e6
    x, m, mean = run.tokens / (1e6 if million else 1e3), run.measures, run.loss.mean(0)
    x_label = f"training tokens ({'millions' if million else 'thousands'})"
    epochs, w = run.epochs[-1] / x[-1], run.config["volatility_window"]
    by_seed = lambda Y: [*((f"seed {seed}", x, y) for seed, y in zip(run.seeds, Y)),
                         (f"mean of {len(Y)}", x, Y.mean(0))]
    events = np.select([m["stable"] == 1, m["backslide"] == 1, m["backslide"] == 0],
                       ["#7CC7B0", "#F5C67A", "#E4EEF5"], "")
    letters = np.select([m["spike"] == 1, m["spike_corrected"] == 1, m["stable"] == 1],
                        ["P", "C", "s"], "")
    some = np.arange(0, len(x), math.ceil(len(x) / 60))  # at most 60 rows fit on a page
    t = stats.pairwise_tests(run.loss[:, some])
    shades, signs = np.full((2, len(some), len(some)), "", dtype="U7")
    shades[t.b, t.a] = np.select([t.p_adjusted < p for p in (0.001, 0.01, stats.ALPHA, 2)],
                                 ["#5B9BD5", "#9DC3E6", "#CFE2F3", "#F3F3F3"], "#FFFFFF")
    signs[t.b, t.a] = np.select([np.isnan(t.p), t.p_adjusted >= stats.ALPHA, t.mean_diff < 0],
                                ["?", "", "+"], "–")
    some_intervals = [run.intervals[i] for i in some]
    drawn = {
        "memorization": (memorized(run)[1], "What stands word for word in the training text."),
        "published": (beside_published(run)[1],
                      "The published study and its repetition, from interval 1 on."),
        "loss_by_seed": (line_chart(by_seed(run.loss), x_label, "validation loss (nats)", epochs),
                         "Validation loss of every seed."),
        "train_and_validation": (
            line_chart([("training", x, run.train_loss.mean(0)), ("mean validation", x, mean)],
                       x_label, "loss (nats)", epochs,
                       mark=(x[run.best], mean[run.best], f"lowest: {mean[run.best]:.3f}")),
            "Means over seeds. Where training loss falls and validation loss rises, the model "
            "learns its text by heart."),
        "volatility": (line_chart(by_seed(m["volatility"]), x_label, "volatility (nats, log scale)",
                                  epochs, log=True),
                       f"Standard deviation of the last {w} changes. While the first drop of the "
                       "loss is among them, it is all that one sees."),
        "backslides": (line_chart(by_seed(m["backslide_frequency"]), x_label, "backslides",
                                  epochs), f"How many of the last {w} changes went up."),
        "events": (cell_map(events, letters, run.seeds, run.intervals,
                            [("#E4EEF5", "loss fell"), ("#F5C67A", "backslide"),
                             ("#7CC7B0", "s: stable phase candidate")],
                            "interval (P: spike as published, C: spike by the corrected rule)"),
                   "What happened to each seed at each interval."),
        "pairs": (cell_map(shades, signs, some_intervals, some_intervals,
                           [("#F3F3F3", "p ≥ .05"), ("#CFE2F3", "< .05"), ("#9DC3E6", "< .01"),
                            ("#5B9BD5", "< .001"), ("#FFFFFF", "?: undefined")],
                           "interval (column) against a later one (row); +: the later is higher"),
                  f"Paired t tests of {len(t.p)} pairs of intervals, p after Bonferroni."),
    }
    return {name: drawing for name, drawing in drawn.items() if drawing[0]}

# ---------------------------------------------------------------- the tests of a run

def stability(measures, w):
    """name -> (..., n, k') for RQ1: the stability measures at the intervals whose window is free
    of the first drop; volatility also at intervals whose windows do not overlap."""
    V = measures["volatility"]
    matrices = {"volatility without the first drop": V[..., w + 1 :],
                "volatility, windows that do not overlap": V[..., 2 * w :: w], **{
                    name.replace("_", " "): measures[name][..., w + 1 :] for name in (
                        "backslide_frequency", "spike_rate", "spike_rate_corrected")}}
    return {name: Y for name, Y in matrices.items() if Y.shape[-1] >= 2}

def statistic(name, Y):
    """F of a volatility, Friedman's chi2 of a count, for one study or thousands: (..., n, k)."""
    return stats.f_and_epsilons(Y)[0] if "volatility" in name else stats.friedman(Y).chi2

def tested(run):
    """name -> matrix: the variables of the repeated-measures ANOVA, with their ablations."""
    late = stability(run.measures, run.config["volatility_window"])
    return {"validation loss": run.loss, "validation loss without interval 0": run.loss[:, 1:],
            "perplexity": np.exp(np.minimum(run.loss, 300)),
            "volatility": run.measures["volatility"][:, 2:],
            **{name: Y for name, Y in late.items() if "volatility" in name}}

def planned(run):
    """The tests of chance (interval 0) against the minimum and of the minimum against the end.

    The minimum is chosen on one half of the validation windows and tested on the other: that takes
    away what the sample of windows flatters a chosen minimum by, but not what ups and downs of the
    training do that all seeds share; audit line 7 says how often those alone reject.
    """
    choose = test = run.loss
    if run.windows is not None:  # the first half and the second: neighbours share stories
        half = run.windows.shape[-1] // 2
        choose, test = run.windows[..., :half].mean(-1), run.windows[..., half:].mean(-1)
    best, last = int(choose.mean(0).argmin()), run.loss.shape[1] - 1
    return stats.pairwise_tests(test, [(a, b) for a, b in ((0, best), (best, last)) if a != b])

def fluctuations(run):
    """The changes from the second interval after the minimum on: (n, m), m < 3 if it came late."""
    return run.measures["change"][:, run.best + 2 :]

def in_common(d):
    """Mean correlation between the rows of d (n, m): how much of their ups and downs is shared."""
    d = d - d.mean(1, keepdims=True) if d.size else d
    length = np.sqrt((d**2).sum(1, keepdims=True))
    if d.shape[1] < 3 or not length.all():
        return math.nan
    return float(((d / length).sum(0) ** 2).sum() - len(d)) / (len(d) * (len(d) - 1))

def waves(loss):
    """What is left of each row of loss (n, m) when its own cubic trend is taken away: (n, m).
    Trap: no cubic follows a sharp turn. Begin after it, or all seeds share the misfit."""
    t = np.linspace(-1, 1, loss.shape[1])
    fit = np.polynomial.polynomial.polyfit(t, loss.T, min(3, len(t) - 1))
    return loss - np.polynomial.polynomial.polyval(t, fit)

def recurrence(epochs):
    """After how many intervals do measurements fall at nearly the same place of the text? Or 0.
    Example: with 2.333 epochs between two of them, after 3."""
    place = epochs[1:] % 1  # as a share of the text
    near = lambda a, b: abs((a - b + 0.5) % 1 - 0.5) < 0.03
    again = [i for i in range(2, len(place) // 2) if not near(place[1], place[0]) and all(
        near(p, place[0]) for p in place[i : 3 * i : i])]
    return again[0] if again else 0

def returning(wave, lag):
    """The share of the mean wave's variance between the `lag` places of the text at which it is
    measured in turn; nan without such places. About (lag - 1) / (m - 4) if they do not matter
    and neighbours do not correlate."""
    mean = wave.mean(0)
    if not lag or len(mean) < 2 * lag:
        return math.nan
    turns = [mean[i::lag] for i in range(lag)]
    return sum(len(turn) * turn.mean() ** 2 for turn in turns) / max((mean**2).sum(), 1e-300)

def over_time(x):
    """Correlation of the rows of x (n, m) with themselves one interval later: the phi of AR(1).
    Trap: in rows whose mean was taken off it comes out too small, by about (1 + 3 phi) / m."""
    return float(np.clip((x[:, 1:] * x[:, :-1]).sum() / max((x**2).sum(), 1e-300), -0.99, 0.99))

def false_positives(run, n_studies=2000):
    """How often do the tests reject in studies like this one in which nothing happens?

    Stability: flat curves, whose changes have this run's size and its correlations over time and
    between seeds (in a second set, none between seeds), pass through `derive` as measurements do.
    In them the end is tested against the minimum too, which is chosen afterwards, as in RQ3.
    Seeds: deviations from the interval means, correlated over time as in this run, with the seed's
    own mean taken off (too little, if nothing happens) and not (too much, if something does).
    Returns a dict: the correlations; the rates of rejection; and p, for each name of `stability`
    and for "seed", the share of the studies with a statistic at least as large as this run's.
    """
    (n, k), d, w = run.loss.shape, fluctuations(run), run.config["volatility_window"]
    if math.isnan(in_common(d)):  # the loss turned late or never: the last half, less its trend
        d = run.measures["change"][:, 1 + k // 2 :]
        t = np.arange(d.shape[1]) - (d.shape[1] - 1) / 2
        d = d - np.outer(d @ t, t) / max(t @ t, 1)
    shared = in_common(d)
    phi, rng = over_time(d - d.mean(1, keepdims=True)), np.random.default_rng(1)
    n_studies = int(np.clip(1e6 // (n * k), 100, n_studies))
    as_extreme = lambda simulated, seen: math.nan if math.isnan(seen) else float(
        (1 + (simulated >= seen).sum()) / (1 + n_studies))
    found = {"n": n_studies, "shared": shared, "rates": [], "rises": [], "seed": [], "phis": [],
             "p": {}}
    for rho in (0.0 if math.isnan(shared) else min(max(shared, 0.0), 0.99), 0.0):
        change = (math.sqrt(rho) * stats.ar1(rng, (n_studies, 1, k), phi)
                  + math.sqrt(1 - rho) * stats.ar1(rng, (n_studies, n, k), phi))
        flat = d.std() * change.cumsum(-1)
        least = flat.mean(-2).argmin(-1)[:, None, None]
        rise = flat[..., -1] - np.take_along_axis(flat, least, -1)[..., 0]  # (n_studies, n)
        with np.errstate(invalid="ignore", divide="ignore"):  # where the end is the minimum
            t = rise.mean(-1) / rise.std(-1, ddof=1) * math.sqrt(n)
        found["rises"].append(float((4 * scipy.stats.t.sf(t, n - 1) < stats.ALPHA).mean()))
        null = stability(derive(flat, *map(run.config.get, RULES)), w)
        for name, Y in stability(run.measures, w).items():
            found["p"].setdefault(name, as_extreme(
                statistic(name, null[name]), float(statistic(name, Y))))
        found["rates"] += [stats.rejection_rates(Y) for Y in list(null.values())[:1]]
    deviation = run.loss - run.loss.mean(0)
    for x in (deviation - deviation.mean(1, keepdims=True), deviation):
        found["phis"].append(over_time(x))
        # Turned about, the seeds are the levels, and F is that of the seed effect.
        Y = np.swapaxes(stats.ar1(rng, (n_studies, n, k), found["phis"][-1]), -1, -2)
        F = stats.f_and_epsilons(Y)[0]
        found["seed"].append(stats.rejection_rates(Y)[0])
    found["p"]["seed"] = as_extreme(F, run.results["validation loss"]["anova"].f_subject)
    return found

def patience_stop(loss, patience):
    """Where training stops once `patience` measurements brought no new minimum, else the end.
    Example: patience_stop([3, 2, 4, 5, 1], 2) = 3."""
    for t in range(patience, len(loss)):
        if min(loss[t - patience + 1 : t + 1]) >= min(loss[: t - patience + 1]):
            return t
    return len(loss) - 1

# ---------------------------------------------------------------- the audit: a function a line

def audit_epochs(run):
    train, best, last = run.train_loss.mean(0), run.best, len(run.intervals) - 1
    after = ": what is learned after the turn is the training text itself"
    return f"""The training text was read {run.epochs[-1]:.1f} times; validation loss was lowest
        after {run.epochs[best]:.1f}{', at the end' if best == last else ''}. Training loss was
        {number(train[1])} at first, {number(train[best])} there and {number(train[-1])} at the
        end{after if 0 < best < last else ''}."""

def audit_precision(run):
    c, d = run.config, run.measures["change"][:, 1:]
    small = (d > 0) & (d < 2 * run.change_se[:, 1:])
    return f"""Each validation loss rests on {c['valid_windows'] * c['block_size']:,d} tokens. Its
        standard error over {c['valid_windows']} windows is about {np.median(run.se):.3f} nats, that
        of a change, on the same windows, {np.nanmedian(run.change_se):.3f}. Of {(d > 0).sum()}
        backslides {small.sum()} are smaller than two standard errors of the change, and may be an
        accident of the windows. Windows that share a story are not quite independent, so the
        true errors are somewhat larger."""

def audit_common(run):
    place, shared = run.epochs[1:] % 1, in_common(fluctuations(run))  # place: share of the text
    again = recurrence(run.epochs)
    where = "Each seed read the text in an order of its own."
    if run.config["seed_decides"] == "order":  # a class exercise
        where = "All seeds read the text in one shuffled order."
    elif run.config["seed_decides"] == "weights":
        where = f"""All seeds read the text in one order; the first measurements fell at
            {', '.join(f'{p:.2f}' for p in place[:6])} of it"""
        where += f", and every {again} intervals at nearly the same place." if again else "."
    if math.isnan(shared):
        return f"The loss turned too late, if at all, to see what fluctuations share. {where}"
    return f"""After the turn, the changes of two seeds correlate {number(shared)} on average; what
        they share is not the seed's doing. {where}"""

def audit_rules(run):
    c, volatility = run.config, run.measures["volatility"][:, 2:]
    w = min(c["volatility_window"], len(run.intervals) - 1)
    can = "can" if math.sqrt(w - 1) > c["spike_factor"] + 1e-9 else "can never"
    most = (volatility <= np.quantile(volatility, c["stable_quantile"])).sum()
    return f"""The published spike rule {can} fire after interval 1: it asks for more than
        {c['spike_factor']:g} standard deviations, and among {w} values none is further than
        {math.sqrt(w - 1):.2f} from their mean. The stable-phase rule can accept at most {most} of
        {volatility.size} cells, by its own quantile, and that many are quiet in any run."""

def audit_sphericity(run):
    (n, k), m = run.loss.shape, run.results["validation loss"]["mauchly"]
    test = f"exists: p = {number(m.p)}" if m.defined else f"does not exist: {m.reason}"
    few = "; with fewer seeds than intervals Huynh-Feldt is unreliable" if n < k else ""
    return f"""Mauchly's test {test}. The residuals of {n} seeds span {min(n, k) - 1} of the
        {k - 1} directions in which {k} intervals can differ, so epsilon is estimated at
        {min(1, (n - 1) / (k - 1)):.3f} or less, whatever the truth{few}. Read that of
        Greenhouse and Geisser."""

def audit_ablations(run):
    F = [f"{name}: F = {number(r['anova'].f)}" for name, r in run.results.items()]
    return f"""{'; '.join(F)}. An F with the first drop in it says little about the rest; perplexity
        is exp(loss), the same measurement twice."""

def audit_false_positives(run):
    s = run.simulated
    percent = [" / ".join(f"{rate:.0%}" for rate in rates) for rates in s["rates"]]
    as_here = "as here" if fluctuations(run).shape[1] > 2 else "as in the last half, less its trend"
    here = "" if math.isnan(s["shared"]) or not percent else f"""{percent[0]} if the changes of
        seeds correlate {s['shared']:.2f} {as_here}, and in """
    volatility = f"""a change of volatility in {here}{percent[1]} if seeds are independent
        (uncorrected / Greenhouse-Geisser / Huynh-Feldt), and """ if percent else ""
    return f"""In {s['n']} simulated studies without any effect, tests at 5 % find {volatility}a
        seed effect in {s['seed'][0]:.0%} to {s['seed'][1]:.0%}, if deviations correlate
        {s['phis'][0]:.2f} to {s['phis'][1]:.2f} over time as here (uncorrected), and an end above
        the minimum (RQ3) in {s['rises'][0]:.0%}, {s['rises'][1]:.0%} if seeds are independent."""

def audit_seed(run):
    order = run.config["seed_decides"] == "weights+order"
    return f"""The seed decided the initial weights{' and the order of the windows' * order}. Never
        varied, so in no error bar: {'the order of the windows, ' * (not order)}the training text,
        the tokenizer, the validation windows, the machine."""

def audit_stopping(run):
    each, steps, stops = run.loss.argmin(1), len(run.intervals) - 1, []
    for patience in (1, 2, 3):
        at = [patience_stop(list(row), patience) for row in run.loss]
        lost = np.mean([row[: t + 1].min() - row.min() for row, t in zip(run.loss, at)])
        stops.append(f"{patience}: at {np.mean(at):.1f}, {lost:.3f} nats lost")
    mean, hours = run.loss.mean(0), np.diff(run.seconds[:, [run.best, -1]]).sum() / 3600
    cost = "" if math.isnan(hours) else f", {hours:.2g} hours of one core,"
    return f"""Stop at interval {run.intervals[run.best]} (single seeds: {run.intervals[each.min()]}
        to {run.intervals[each.max()]}); {1 - run.best / steps:.0%} of the compute{cost} came after
        it, and took the mean loss from {mean[run.best]:.3f} to {mean[-1]:.3f}. With a
        patience of {'; of '.join(stops)} (means over seeds; where patience lasted, the end of the
        budget)."""

AUDIT = [audit_epochs, audit_precision, audit_common, audit_rules, audit_sphericity,
         audit_ablations, audit_false_positives, audit_seed, audit_stopping]

# ---------------------------------------------------------------- the four answers

Answer = namedtuple("Answer", "question null variables verdict evidence audit published")

def verdict(yes, name):
    return f"{'reject' if yes else 'fail to reject'} {name}"

def answer_stability(run):
    """RQ1, by p values from the simulation, Bonferroni over the measures."""
    p, w, whole = run.simulated["p"], run.config["volatility_window"], run.results["volatility"]
    parts = [f"volatility of all intervals, the first drop with it: F = {number(whole['anova'].f)}"]
    measures = stability(run.measures, w)
    adjusted = {name: min(1.0, len(measures) * p[name]) for name in measures}
    differ = [name for name in measures if adjusted[name] < stats.ALPHA]
    for name, Y in measures.items():
        value = float(statistic(name, Y))
        sign = "F" if "volatility" in name else "chi2"
        error = len(measures) * math.sqrt(max(p[name] * (1 - p[name]), 0) / run.simulated["n"])
        parts.append(f"{name}: never varies" if math.isnan(value) else f"{name}: {sign} = "
                     f"{number(value)}, p = {number(adjusted[name])} (give or take {error:.2g})")
    bend = derive(run.loss.mean(0)[None], *map(run.config.get, RULES))["volatility"][0, w + 1 :]
    if len(bend):
        parts.append(f"of the mean curve alone volatility goes from {number(bend[0])} to "
                     f"{number(bend[-1])}: so much is the curve's bend, not noise")
    result = verdict(differ, "H01") + (f" ({'; '.join(differ)})" if differ else "")
    return Answer("RQ1. Do stability measures differ across training?", "H01: they do not",
                  "volatility, backslide frequency, spike rate",
                  result if measures else "cannot be tested: too few intervals",
                  "; ".join(parts) + " (p by the simulation of audit line 7, Bonferroni).",
                  "3, 6, 7", "reject H01")

def answer_seeds(run):
    """RQ2, by the height of the curves: a p value from the simulation, and the spread."""
    result, p = run.results["validation loss"], run.simulated["p"]["seed"]
    sd, anova = result["sd_between"], result["anova"]
    return Answer("RQ2. Do the trajectories of the seeds differ?", "H02: they do not",
                  "validation loss", verdict(p < stats.ALPHA, "H02"), f"""mean height: F =
        {number(anova.f_subject)}, p = {number(p)} (by the simulation of audit line 7); ICC(C,1) =
        {number(anova.icc)}; standard deviation between seeds {sd.sd[0]:.4f} (95 %:
        {sd.low[0]:.4f} to {sd.high[0]:.4f}) at the start, {sd.sd[-1]:.4f} ({sd.low[-1]:.4f} to
        {sd.high[-1]:.4f}) at the end. The test sees a constant distance between curves, not curves
        that fan out: for those compare the two standard deviations.""", "3, 7, 8",
                  "descriptive evidence only")

def answer_shape(run):
    """RQ3: does the end lie above the minimum?"""
    t = planned(run)
    rises = t.mean_diff[-1] < 0 and t.p_adjusted[-1] < stats.ALPHA
    parts = [f"interval {run.intervals[a]} minus {run.intervals[b]}: {d:.3f} nats, p = {number(p)}"
             for a, b, d, p in zip(t.a, t.b, t.mean_diff, t.p_adjusted)]
    half = "the same" if run.windows is None else "the other half of the"
    return Answer("RQ3. Is learning non-monotonic?", "H03: the loss never rises again",
                  "validation loss", verdict(rises, "H03"), f"""{'; '.join(parts)} (Bonferroni). The
        minimum was chosen on {half} validation windows.""", "1, 2, 7", "reject H03")

def answer_phase(run):
    """RQ4: do half of the seeds meet the rule in the same two intervals running?"""
    stable = run.measures["stable"] == 1
    lasting = (stable[:, 1:] & stable[:, :-1]).mean(0).max()
    return Answer("RQ4. Is there a stable phase?", "H04: there is none",
                  "volatility, spike rate, backslide frequency", verdict(lasting >= 0.5, "H04"),
                  f"""{stable.sum()} of {stable[:, 2:].size} cells meet the rule; at most
        {lasting:.0%} of the seeds meet it in the same two intervals running, where half would be a
        phase. This is a rule without an error rate, not a test: a loss that falls ever more slowly
        always has such cells.""", "4", "fail to reject H04")

def summary(run):
    """The outcome in a few plain sentences, for the terminal and for the top of the report."""
    mean, best = run.loss.mean(0), run.best
    lowest = f"{mean[best]:.3f} nats, at interval {run.intervals[best]}"
    return [f"The mean validation loss of {len(run.seeds)} seeds began at {mean[0]:.3f} (chance: "
            f"{math.log(run.config['vocab_size']):.3f}) and was lowest, {lowest}, after "
            f"{run.epochs[best]:.1f} epochs; " + (
                f"at the end it stood {mean[-1] - mean[best]:.3f} higher, at {mean[-1]:.3f}."
                if best < len(mean) - 1 else "that is the end."),
            *(f"{a.question} {a.verdict[0].upper()}{a.verdict[1:]}." for a in run.answers),
            *run.notes]

# ---------------------------------------------------------------- tables and report

def number(x):
    """A number for reading: an int whole, a float with four digits, a dash if undefined."""
    return f"{x:,d}" if isinstance(x, int) else "–" if math.isnan(x) else f"{x:.4g}"

def table(header, rows):
    """An HTML table; numbers are shortened and set to the right, text is escaped."""
    cell = lambda x: f"<td class=n>{number(x)}</td>" if isinstance(x, (int, float)) else (
        f"<td>{html.escape(x)}</td>")
    return "<table>" + "".join(f"<tr>{''.join(map(cell, row))}</tr>\n"
                               for row in [header, *rows]) + "</table>\n"

def paragraphs(*texts):
    return "".join(f"<p>{html.escape(text)}</p>\n" for text in texts)

def outcomes(run):
    """name -> k numbers: what each interval brought, means over seeds."""
    result, m = run.results["validation loss"], run.measures
    sd, model = result["sd_between"], result["mixed_reml"]
    gain = -np.diff(run.loss.mean(0), prepend=np.nan) / np.diff(run.tokens / 1e6, prepend=np.nan)
    return {"interval": run.intervals, "tokens": run.tokens.astype(int).tolist(), **{
        name: values.tolist() for name, values in {
            "epochs": run.epochs, "train loss": run.train_loss.mean(0),
            "val loss": run.loss.mean(0), "sd": sd.sd, "sd from": sd.low, "sd to": sd.high,
            "perplexity": np.exp(run.loss).mean(0), "gain": gain,
            "contrast": np.append(0, model.fixed[1:]), "from": np.append(0, model.low[1:]),
            "to": np.append(0, model.high[1:]), "volatility": m["volatility"].mean(0),
            "backslides": m["backslide_frequency"].mean(0), "spikes": m["spike_rate"].mean(0),
            "corrected": m["spike_rate_corrected"].mean(0), "stable": m["stable"].mean(0)}.items()}}

def save_tables(run, drawings):
    """Write telemetry.csv, interval_summary.csv, anova.csv, pairwise.csv and the figures."""
    folder, columns = run.folder, outcomes(run)
    pairs = vars(run.results["validation loss"]["pairs"])
    anovas = {name: vars(r["anova"]) for name, r in run.results.items()}
    write_csv(folder / "telemetry.csv", ["seed", "interval", "tokens_seen", *run.measures],
              [[seed, interval, run.tokens[t], *(Y[i, t] for Y in run.measures.values())]
               for i, seed in enumerate(run.seeds) for t, interval in enumerate(run.intervals)])
    write_csv(folder / "interval_summary.csv", columns, zip(*columns.values()))
    write_csv(folder / "anova.csv", ["variable", *anovas["validation loss"]],
              [[name, *a.values()] for name, a in anovas.items()])
    write_csv(folder / "pairwise.csv", pairs, zip(*pairs.values()))
    (folder / "figures").mkdir(exist_ok=True)
    for name, (drawing, _) in drawings.items():
        write_whole(folder / "figures" / f"{name}.svg", drawing)

def tests_section(run):
    """The tests as HTML: one row a variable, and below all that stats.py says of each of them."""
    rows, few, details, w = [], [], "", run.config["volatility_window"]
    for name, r in run.results.items():
        a, least = r["anova"], float(np.fmin.reduce(r["shapiro"].p))
        rows.append([name, f"{a.df_effect}, {a.df_error}", a.f, a.p, a.epsilon_gg, a.p_gg, a.p_hf,
                     a.eta_sq_generalized, least, r["shapiro_residuals"].p])
        labels = run.intervals[2 * w :: w] if "overlap" in name else run.intervals[-r["n_levels"] :]
        text = "\n".join(stats.report(r, name, labels, []))
        details += (f"<details{' open' * (not details)}><summary>{name}</summary>"
                    f"<pre>{html.escape(text)}</pre></details>\n")
    for kind, t in (("planned", planned(run)),
                    ("adjacent", run.results["validation loss"]["pairs_adjacent"])):
        few += [[kind, f"{run.intervals[a]} minus {run.intervals[b]}", *map(float, more)]
                for a, b, *more in zip(t.a, t.b, t.mean_diff, t.t, t.p_adjusted, t.d_z)]
    counts = {name: stats.friedman(Y) for name, Y in stability(run.measures, w).items()
              if "volatility" not in name}
    return "".join([
        paragraphs("""Seeds are the subjects, intervals the levels. Read p GG (Greenhouse-Geisser),
            which allows for differences of unequal variance. Shapiro-Wilk: the least p of all
            levels, and that of the residuals; with few seeds a large p proves nothing."""),
        table(["repeated-measures ANOVA", "df", "F", "p", "epsilon GG", "p GG",
               "p HF", "eta2", "Shapiro, levels", "residuals"], rows),
        table(["counts: Friedman's test", "chi2", "df", "p"],
              [[name, float(f.chi2), f.df, float(f.p)] for name, f in counts.items()]),
        table(["contrast", "intervals", "difference", "t", "p (Bonferroni)", "d_z"], few[:42]),
        paragraphs("""Sphericity, mixed model, normality and all pairs of intervals, variable by
            variable, as python stats.py prints them:"""), details])

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;
color:#222}table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}
td{border-bottom:1px solid #ccc;padding:2px 8px;vertical-align:top}tr:first-child{font-weight:bold}
.n{text-align:right;white-space:nowrap}figure{margin:1.5em 0;break-inside:avoid}svg{width:100%;
max-width:780px;height:auto}summary{cursor:pointer}figcaption{font-size:14px;color:#555}blockquote,
pre{background:#f5f5f0;white-space:pre-wrap;padding:1em;margin:1em 0}@media print{body{font-size:
11px;margin:0}table{font-size:8px}td{padding:1px 3px}h2{break-after:avoid}}"""

def sections(run, drawings):
    """heading -> HTML of every section of the report, in the order in which a reader needs them."""
    c, mean, best = run.config, run.loss.mean(0), run.best
    columns, told = outcomes(run), run.folder / "samples.json"
    try:
        samples = [(name, s["seed"], s["interval"], html.escape(s["story"])) for name, s in
                   json.loads(told.read_text(encoding="utf-8")).items()] if told.exists() else []
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise InputError(f"{told} is damaged; delete it, and run_all.py makes it again") from None
    figure = "<figure>{}<figcaption>{}</figcaption></figure>\n"
    drawn = {name: figure.format(*drawing) for name, drawing in drawings.items()}
    ranked = lambda t: " ".join(str(run.seeds[i]) for i in run.loss[:, t].argsort()[:12])
    some = lambda *names: table(names, list(zip(*(columns[name] for name in names)))[
        :: math.ceil(len(mean) / 40)])  # at most 40 rows of a table fit on a page
    return {
        "In short": paragraphs(*summary(run)),
        "What was asked": table(["question", "null hypothesis", "variables"],
                                [answer[:3] for answer in run.answers]),
        "What was done": paragraphs(f"""A Llama of {c['n_layer']} layers, {c['n_head']} heads and
            width {c['n_embd']} was trained once for each seed on {c['train_documents']:,d}
            documents ({c['train_tokens']:,d} tokens; {c['text']}), and measured at fixed token
            counts on the same {c['valid_windows']} windows of other documents.""") + table([
                "coverage", ""], [["seeds complete", f"{len(run.seeds)} of {len(c['seeds'])}"],
                ["rows (no seed and interval twice)", run.loss.size],
                ["tokens of each seed at the end", f"{run.tokens[-1]:,.0f}"],
                ["epochs at the end", run.epochs[-1]]]),
        "What happened": drawn["loss_by_seed"] + drawn["train_and_validation"]
            + some(*list(columns)[:10]) + paragraphs("""sd: between seeds, with its 95 % interval.
                Gain: nats per million tokens.""")
            + table(["", "the endpoint says", "the trajectory says"], [
                ["mean validation loss", f"{mean[-1]:.4f}",
                 f"{mean[best]:.4f} at interval {run.intervals[best]}"],
                ["training tokens", f"{run.tokens[-1]:,.0f}", f"{run.tokens[best]:,.0f}"],
                ["sd between seeds", *(f"{run.loss[:, t].std(ddof=1):.4f}" for t in (-1, best))],
                ["seeds from best to worst", ranked(-1), ranked(best)]]),
        **({"Beside the published study": drawn["published"] + beside_published(run)[0]}
           if "published" in drawn else {}),
        "How stable it was": drawn["volatility"] + drawn["backslides"] + drawn["events"]
            + some("interval", *list(columns)[10:]) + paragraphs("""Contrast: with interval 0, by
                the mixed model (REML), with its Wald interval, which takes all seeds and intervals
                to vary alike: too narrow where sd is large, too wide where it is small. Spikes:
                their rate in the window, as published; corrected: by the rule that leaves a change
                out of its own threshold. Stable: share of the seeds."""),
        "The tests": tests_section(run) + drawn["pairs"],
        "The audit: what this design can and cannot show": "<ol>" + "".join(
            f"<li>{html.escape(line(run))}</li>\n" for line in AUDIT) + "</ol>",
        "The four answers": table(["question", "verdict", "evidence", "weakened by audit line",
                                   "published verdict"], [[answer.question, *answer[3:]]
                                                          for answer in run.answers])
            + paragraphs("""Published verdicts: arXiv 2606.13370. The paper itself gives
                Greenhouse-Geisser p values and names repetition of the corpus among the possible
                causes; the order of the text, the 16 validation windows and the spike rule are
                known from its author's repository."""),
        **({"What was learned by heart": drawn["memorization"] + memorized(run)[0]}
           if "memorization" in drawn else {}),
        "Two stories": "".join(
            f"<p>By the {name} checkpoint of seed {seed} (interval {interval}):</p>"
            f"<blockquote>{story}</blockquote>\n" for name, seed, interval, story in samples)}

def write_page(path, title, parts):
    """report.html: one file that needs nothing else. parts: heading -> HTML."""
    title = html.escape(title)
    write_whole(path, '<!doctype html><html lang="en"><meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width">'
                f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>" + "".join(
                    f"<h2>{heading}</h2>\n{body}\n" for heading, body in parts.items()))

def write_report(folder):
    """Write tables, figures and report.html of a run; returns its summary, a list of sentences."""
    run = read_run(folder)
    drawings = figures(run)
    save_tables(run, drawings)
    write_page(run.folder / "report.html", f"{run.config['preset']}: {len(run.seeds)} seeds, "
               f"{len(run.intervals)} intervals", sections(run, drawings))
    return [*summary(run), f"The report: {run.folder / 'report.html'}"]

# ---------------------------------------------------------------- runs side by side

def read_curves(folder):
    """(tokens (k), epochs (k), loss and bits per byte (n, k)) of a run, whole or not yet: from its
    metrics.csv, or else from those of its seeds, as far as all of them have come."""
    tables = sorted(folder.glob("metrics.csv")) or sorted(folder.glob("seed_*/metrics.csv"))
    seeds = {}
    try:
        for table in tables:
            with open(table, encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    seeds.setdefault(row["seed"], []).append(
                        [float(row.get(name) or "nan") for name in (
                        "tokens_seen", "epochs", "val_loss", "bits_per_byte")])
        k = min(map(len, seeds.values()), default=0)
        cube = np.array([rows[:k] for rows in seeds.values()])
        if (k < 2 or not np.isfinite(cube[..., :3]).all()
                or (cube[..., 0] != cube[0, :, 0]).any()):
            raise ValueError("fewer than 2 intervals, or different ones")
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{folder} has no metrics.csv, its own or of a seed, with curves to "
                         f"compare ({error!r:.100})") from None
    return cube[0, :, 0], cube[0, :, 1], cube[:, :, 2], cube[:, :, 3]

def after_turn(*losses):
    """The first interval after the minima of the curves losses (n, k): from there their waves are
    compared; 5 at least, and minima without 10 intervals after them do not count."""
    turns = [(int(loss.mean(0).argmin()) + 1, loss.shape[1]) for loss in losses]
    return max([5, *(turn for turn, k in turns if turn + 10 <= k)])

def character(tokens, epochs, loss, start, bits=None, window=5):
    """name -> number: what is compared between runs, of a matrix loss (n, k), from `start` on."""
    mean, best, late = loss.mean(0), int(loss.mean(0).argmin()), slice(start, None)
    found = {"lowest mean loss (nats)": mean[best],
             **({} if bits is None else {"the same in bits per byte": bits.mean(0)[best]}),
             "at million tokens": tokens[best] / 1e6,
             "at epoch": epochs[best], "rise from there to the end": mean[-1] - mean[best]}
    if loss.shape[1] > start + 5:  # else too short for more
        wave = waves(loss[:, late])
        found |= {"backslides, share of changes": (np.diff(loss)[:, late] > 0).mean(),
                  "volatility": derive(loss, window)["volatility"][:, window + 1 :].mean(),
                  "waves: their size (nats)": wave.std(), "waves: in common": in_common(wave),
                  "waves: share that returns with the place": returning(wave, recurrence(epochs))}
    if len(loss) > 1:
        spread = loss.std(0, ddof=1)
        found |= {"sd between seeds, mean": spread[1:].mean(), "sd between seeds, end": spread[-1]}
    return found

def memorized(run):
    """(HTML, SVG) of memorization.csv, which run_all.py --memorization writes; else ("", None)."""
    path = run.folder / "memorization.csv"
    if not path.exists():
        return "", None
    shares = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if int(row["pieces"]):
                    shares.setdefault(row["source"], []).append(
                        int(row["verbatim"]) / int(row["pieces"]))
        base, best, last = shares.values()
    except (ValueError, TypeError, KeyError, csv.Error):
        raise InputError(f"{path} is damaged; delete it; --memorization makes it again") from None
    tests = [scipy.stats.mannwhitneyu(last, other).pvalue for other in (best, base)]
    rows = [[name, len(x), float(np.mean(x)), float(np.median(x)), float(np.mean(np.equal(x, 1)))]
            for name, x in shares.items()]
    return table(["source", "stories", "share of pieces found, mean", "median", "whole stories"],
                 rows) + paragraphs(f"""Of each story the first {run.config['block_size']} tokens,
        sampled at temperature 0.8; a piece is 16 tokens in a row, found if the training text has
        them in that order. Mann-Whitney over stories, last checkpoint against the best: p =
        {number(tests[0])}; against the validation text, the base rate: p = {number(tests[1])}."""
        ), line_chart([(name, np.linspace(0, 100, len(x)), np.sort(x)) for name, x in
                       shares.items()], "stories, from least to most (%)", "share found verbatim")

PUBLISHED = Path(__file__).with_name("data") / "published_observations.csv"

def beside_published(run):
    """(HTML, SVG) of this run beside the published study, if it repeats it; else ("", None)."""
    (theirs, *_), tokens = stats.read_table(PUBLISHED), stats.read_table(PUBLISHED, "tokens_seen")
    if np.isnan(run.published).any() or run.tokens.tolist() != tokens[0][0].tolist():
        return "", None
    three = {"published": theirs, "ours, same 16": run.published,
             f"ours, {run.config['valid_windows']:,d}": run.loss}
    a, b, wide = (Y.mean(0) for Y in three.values())
    drawing = line_chart([(name, run.tokens[1:] / 1e6, Y.mean(0)[1:])
                          for name, Y in three.items()], "training tokens (millions)",
                         "mean validation loss (nats)", run.epochs[-1] / run.tokens[-1] * 1e6)
    start = after_turn(*three.values())
    traits = [character(run.tokens, run.epochs, Y, start) for Y in three.values()]
    gap, agree = np.abs(b - a).mean(), np.corrcoef(np.diff(a)[5:], np.diff(b)[5:])[0, 1]
    low, theirs_low = run.intervals[b.argmin()], run.intervals[a.argmin()]
    return paragraphs(f"""On the same 16 windows our mean differs from the published one by
        {gap:.3f} nats on average over the {len(a)} intervals; ours is lowest at interval {low},
        theirs at {theirs_low}; from interval 6 on our changes and theirs correlate {agree:.2f}.
        The {run.config['valid_windows']:,d} windows begin at the same token; the 16 are an easy
        sample, {(wide - b)[1:].min():.2f} to {(wide - b)[1:].max():.2f} nats below.""") + table(
        ["interval", "published", *list(three)[1:], "difference"],
        list(zip(run.intervals, *(x.tolist() for x in (a, b, wide, b - a))))) + paragraphs(
        f"What of the published ups and downs remains on more windows, from interval {start} on:"
        ) + table(["", *three], [[what, *(float(t[what]) for t in traits)]
                                 for what in traits[0]]), drawing

def compare(folders):
    """Draw the mean curves of several runs, tell their characters, and test two of a kind.

    With the same seeds in both, the interaction of arm and interval is the repeated-measures
    ANOVA of the difference of the two matrices, without interval 0, where it is 0 by
    construction; and the size of each seed's waves is compared by a paired t test of its log.
    """
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):  # A/run and B/run
        names = ["_".join(Path(folder).resolve().parts[-2:]) for folder in folders]
    runs = {name: read_curves(Path(folder)) for name, folder in zip(names, folders)}
    stem = Path(folders[0], f"compared_with_{'_'.join(list(runs)[1:])}")
    unit, scale = ("millions", 1e6) if max(run[0][-1] for run in runs.values()) >= 2e6 else (
        "thousands", 1e3)
    write_whole(f"{stem}.svg", line_chart(
        [(name, tokens / scale, loss.mean(0)) for name, (tokens, _, loss, _) in runs.items()],
        f"training tokens ({unit})", "mean validation loss (nats)"))
    start = after_turn(*(run[2] for run in runs.values()))
    table = {name: character(*run[:3], start, run[3]) for name, run in runs.items()}
    rows = [[what, *(float(table[name].get(what, math.nan)) for name in runs)]
            for what in max(table.values(), key=len)]
    write_csv(f"{stem}.csv", ["", *runs], rows)
    lines = [f"The curves and this table: {stem}.svg and .csv"] + [
        f"{what:42s}" + "".join(f"{cell:>14.14}" for cell in map(str, (
            name if isinstance(name, str) else number(name) for name in cells)))
        for what, *cells in [[f"From interval {start} on, where it says no more", *runs], *rows]]
    (one, _, Y, _), (two, _, Z, _) = list(runs.values())[:2]
    if len(Y) > 1 and Y.shape == Z.shape and Y.shape[1] > 10 and (one == two).all():
        a = stats.rm_anova((Y - Z)[:, 1:])
        w = stats.pairwise_tests(np.log([waves(X[:, start:]).std(1) for X in (Y, Z)]).T)
        lines += [f"{' minus '.join(list(runs)[:2])}, by interval: F({a.df_effect}, {a.df_error}) "
                  f"= {number(a.f)}, epsilon {number(a.epsilon_gg)}, p = {number(a.p_gg)} "
                  "(Greenhouse-Geisser)", f"Size of the waves, {' over '.join(list(runs)[:2])}: "
                  f"{math.exp(w.mean_diff[0]):.2f}, paired t({len(Y) - 1}) = {number(w.t[0])}, "
                  f"p = {number(w.p[0])}"]
    return lines

# ---------------------------------------------------------------- the architecture ladder

@dataclass
class Rung:
    """A rung of the ladder, of the n seeds that all rungs have: its cost and what it bought."""

    run: Run
    flops: np.ndarray  # (k) training FLOPs at each interval
    loss: np.ndarray  # (n, k) validation loss
    test: np.ndarray  # (n) test loss of each seed's best checkpoint

    def at(self, budget):
        """Validation loss (n) when `budget` FLOPs were spent: between measurements a line."""
        return np.array([np.interp(budget, self.flops, curve) for curve in self.loss])

def read_rungs(folders):
    """name -> Rung. InputError if one cannot be read, or if they share fewer than 2 seeds."""
    found = {}
    for folder in map(Path, folders):
        run = read_run(folder)
        try:
            with open(folder / "test.csv", encoding="utf-8", newline="") as file:
                test = {int(row["seed"]): float(row["test_loss"]) for row in csv.DictReader(file)}
            flops = run.tokens * float(run.config["flops_per_token"])
            for name in ("parameters", "train_unknown", "valid_unknown", "test_unknown",
                         "valid_tokens", "test_tokens"):
                int(run.config[name])
            found[folder.name] = run, flops, {
                seed: (loss, test[seed]) for seed, loss in zip(run.seeds, run.loss)}
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            raise InputError(f"test.csv or config.json in {folder} is damaged or not there "
                             f"({error!r:.99}); run_all.py writes test.csv again") from None
    seeds = sorted(set.intersection(*(set(each) for *_, each in found.values())))
    if len(seeds) < 2:
        raise InputError(f"fewer than 2 seeds are complete in all of {', '.join(found)}")
    return {name: Rung(run, flops, *(np.array([each[seed][i] for seed in seeds]) for i in (0, 1)))
            for name, (run, flops, each) in found.items()}

def claims(losses):
    """claim -> the difference of each seed (n), from rung -> losses (n), all at one cost. A claim
    about rungs that were not trained is left out."""
    of = lambda *names: [losses[name] for name in names if name in losses]
    pairs = {"attention minus mlp": (of("attention-1", "attention-2", "attention-4"),
                                     of("mlp-128", "mlp-256", "mlp-512")),
             "4 layers minus 2": (of("transformer-4"), of("transformer-2")),
             "context 128 minus 32": (of("context-128"), of("context-32")),
             "rotary minus learned, 1 layer": (of("attention-4-rotary"), of("attention-4")),
             "rotary minus learned, 2 layers": (of("rotary"), of("transformer-2")),
             "rotary minus learned, llama": (of("llama"), of("llama-learned"))}
    return {claim: np.mean(a, axis=0) - np.mean(b, axis=0) for claim, (a, b) in pairs.items()
            if a and b}

def claims_tested(found):
    """Planned contrasts, Bonferroni over them: rows of claim, difference, sd, t, p, verdict."""
    rows = []
    for claim, d in found.items():
        t = stats.pairwise_tests(np.stack([d, np.zeros(len(d))], axis=1))
        p = min(1.0, float(t.p[0]) * len(found)) if len(d) >= 5 else math.nan
        outcome = "described, not tested: fewer than 5 seeds" if math.isnan(p) else (
            "no difference shown" if p >= stats.ALPHA else "lower" if d.mean() < 0 else "higher")
        rows.append([claim, float(d.mean()), float(d.std(ddof=1)), float(t.t[0]), p, outcome])
    return rows

def rungs_tested(rungs):
    """HTML: do the rungs differ on the test text, and which of them? Seeds are the subjects."""
    Y, names = np.array([rung.test for rung in rungs.values()]).T, list(rungs)
    if len(Y) < 5 or len(names) < 2:
        return paragraphs("With fewer than 5 seeds or 2 rungs: described, not tested.")
    a, t = stats.rm_anova(Y), stats.pairwise_tests(Y)
    return paragraphs(f"""Test loss over the rungs: F({a.df_effect}, {a.df_error}) = {number(a.f)},
        epsilon {number(a.epsilon_gg)}, p = {number(a.p_gg)} (Greenhouse-Geisser).""") + table(
        ["pair", "difference", "t", "p (Bonferroni)"],
        [[f"{names[i]} minus {names[j]}", *map(float, more)] for i, j, *more in zip(
            t.a, t.b, t.mean_diff, t.t, t.p_adjusted)])

def ladder_figures(rungs, rows, unit):
    """(loss against FLOPs along training, with the frontier; test loss against parameters): SVG."""
    curves = [(name, np.log10(rung.flops[1:]), rung.loss.mean(0)[1:])
              for name, rung in rungs.items()]
    x = np.linspace(min(flops[0] for _, flops, _ in curves),
                    min(flops[-1] for _, flops, _ in curves), 60)
    lowest = np.min([np.interp(x, *curve[1:], left=np.inf) for curve in curves], axis=0)
    frontier = np.minimum.accumulate(lowest)  # the best that so many FLOPs or fewer can buy
    return line_chart([*curves, ("frontier", x, frontier)], "training FLOPs (powers of ten)",
                      f"validation loss (nats a {unit})"), line_chart(
        [(row[0], np.log10([row[1]]), np.array([row[4]])) for row in rows],
        "parameters (powers of ten)", f"test loss (nats a {unit})")

def write_ladder(folder, folders):
    """rungs.csv, claims.csv, curves.csv, figures and report.html of the rungs' folders; sentences.

    Every curve is read off at the same cost, that of the rung that spent least.
    """
    rungs = read_rungs(folders)
    budget, config = min(rung.flops[-1] for rung in rungs.values()), next(
        iter(rungs.values())).run.config
    unit = "word" if config["tokenizer"] == "word" else "character"
    header = ["rung", "parameters", "FLOPs a token", "training FLOPs", "test loss (nats)", "sd",
              f"bits a {unit}", "perplexity", "validation loss at equal FLOPs"]
    rows = [[name, int(rung.run.config["parameters"]), *map(float, (
        rung.run.config["flops_per_token"], rung.flops[-1], rung.test.mean(),
        rung.test.std(ddof=1), rung.test.mean() / math.log(2),
        np.exp(rung.test).mean() if unit == "word" else math.nan, rung.at(budget).mean()))]
            for name, rung in rungs.items()]
    about = ["claim", "difference (nats)", "sd", "t", "p (Bonferroni)", "verdict"]
    tests = claims_tested(claims({name: rung.at(budget) for name, rung in rungs.items()}))
    drawn = ladder_figures(rungs, rows, unit)
    write_csv(Path(folder, "rungs.csv"), header, rows)
    write_csv(Path(folder, "claims.csv"), about, tests)
    write_csv(Path(folder, "curves.csv"), ["rung", "training FLOPs", "validation loss", "sd"], [
        [name, *map(float, point)] for name, rung in rungs.items() for point in zip(
            rung.flops, rung.loss.mean(0), rung.loss.std(0, ddof=1))])
    for name, drawing in zip(("loss_by_flops", "loss_by_parameters"), drawn):
        write_whole(Path(folder, f"{name}.svg"), drawing)
    best = min(rows, key=lambda row: row[-1])
    unknown = ", ".join(f"{config[f'{part}_unknown']:,d} of {config[f'{part}_tokens']:,d}"
                        for part in ("train", "valid", "test"))
    said = [f"{len(rows)} rungs, {len(rungs[best[0]].test)} seeds, {config['text']}: at "
            f"{budget:.3g} FLOPs {best[0]} has the lowest validation loss, {best[-1]:.3f} nats a "
            f"{unit}; its test loss is {best[4]:.3f}.",
            *(f"{claim}: {d:+.3f} nats, {outcome}." for claim, d, *_, outcome in tests)]
    write_page(Path(folder, "report.html"), "The architecture ladder", {
        "In short": paragraphs(*said),
        "The rungs": table(header, rows) + paragraphs(f"""Means over seeds. Test loss: of each
            seed's best checkpoint by validation, judged once. Unknown, and so <unk>: {unknown}
            tokens of the training, validation and test text.""")
            + "".join(f"<figure>{drawing}</figure>\n" for drawing in drawn),
        "The claims": table(about, tests) + paragraphs(f"""Validation loss of each rung, read off
            its curve at {budget:.3g} training FLOPs; paired over seeds."""),
        "The tests": rungs_tested(rungs)})
    return [*said, f"The report: {Path(folder, 'report.html')}"]

def lesson():
    """What the published study's own numbers say when one asks them again, as lines."""
    Y = stats.read_table(PUBLISHED)[0]
    m, mean, t = derive(Y), Y.mean(0), np.arange(5, 21)
    residual = mean[5:] - np.polyval(np.polyfit(t - 12, mean[5:], 3), t - 12)
    shared = in_common(m["change"][:, 6:])
    yield "The published study, mean validation loss of 6 seeds at 21 intervals:"
    yield "  " + " ".join(f"{x:.2f}" for x in mean)
    yield (f"Spikes by the published rule: {np.nansum(m['spike']):.0f}; by the rule that leaves "
           f"the change out of its own threshold: {np.nansum(m['spike_corrected']):.0f}.")
    yield f"After the turn, the changes of two seeds correlate {shared:.2f}."
    yield "Mean loss minus its cubic trend; every third falls on one place of the text:"
    yield "  " + "  ".join(f"{i}:{r:+.3f}" for i, r in zip(t, residual))
    yield (f"Of these, {returning(waves(Y[:, 5:]), 3):.0%} of the variance returns with the place. "
           "Is that instability of the training, or a property of the text?")
    F = {"loss": Y, "loss without interval 0": Y[:, 1:], "volatility": m["volatility"][:, 2:],
         **{name: V for name, V in stability(m, 5).items() if "volatility" in name}}
    yield "F of the " + "; ".join(f"{name}: {float(stats.f_and_epsilons(X)[0]):,.2f}"
                                  for name, X in F.items())

def main():
    parser = argparse.ArgumentParser(description="Report on runs; without a folder, a lesson.")
    parser.add_argument("folders", nargs="*", help="run folders; several are compared")
    parser.error = lambda message: parser.exit(2, f"telemetry.py: {message}\n")
    folders = parser.parse_args().folders
    try:
        for folder in folders:
            if len(folders) == 1 or Path(folder, "metrics.csv").exists():
                print("\n".join(write_report(folder)))
        for line in compare(folders) if len(folders) > 1 else [] if folders else lesson():
            print(line)
    except (InputError, OSError) as error:
        parser.error(str(error))

if __name__ == "__main__":
    if sys.stdout:
        sys.stdout.reconfigure(errors="replace")  # a console that lacks a character shows "?"
    main()
