"""Chapter 4. Telemetry: how stable was the training, and what may one conclude from it?

From the validation losses of all seeds, a matrix (n_seeds, n_intervals), to stability measures,
figures, tables and the report. Nothing here trains anything, and nothing here needs torch.

    python telemetry.py runs/classroom                 rebuild tables, figures and report.html
    python telemetry.py runs/classroom runs/fresh      the same, and compare the two
    python telemetry.py                                a lesson: the published study's own data

Reading order: `derive` holds the measures of each seed (only `stable` looks at the others, for its
quantile; what all seeds have in common stands from `in_common` on); the figures are SVG, written
by hand; the `audit_` and `answer_` functions compute each sentence from the run's data, so that
none can go out of date.
"""

import argparse, contextlib, html, json, math, sys
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

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
    normal changes around a constant it calls 9 % spikes (w = 5: P(t(4) > 1.63)), and more while
    the window fills. spike_rate, spike_rate_corrected: share of the window's changes.
    stable: volatility in the lowest quantile of all, no spike and few backslides in the window.
    """
    Y = np.asarray(val_loss, dtype=np.float64)
    # The nan in front keeps d as long as Y: d[t] is the change that ends at interval t.
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
            # back) among changes of up to 0.05; find the same if all losses are 20 times as large.
            # A stable phase is 20 intervals with changes below 0.003: mark from its sixth at the
            # latest to its last, nothing outside it, and no steady fall, however even.
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
    """d > max(floor, mean + factor * population sd of sample), beyond rounding (hence 1e-9: of five
    values one can lie 2 sd from the mean, and must not become a spike by its last digit)."""
    distance = d - sample.mean(axis=-1)
    return (d > floor) & (distance > factor * sample.std(axis=-1) * (1 + 1e-9))

# ---------------------------------------------------------------- a run, from files to matrices

# What `derive` needs of config.json, in its order, and a report besides: (type, least, most).
# (StudyConfig checks them too, but a report needs no torch.)
RULES = {"volatility_window": (int, 2, 1000), "spike_factor": (float, 0, 100),
         "spike_floor": (float, 0, 100), "stable_quantile": (float, 0, 1),
         "stable_backslides": (int, 0, 1000)}
LIMITS = RULES | {name: (int, 1, 10**15) for name in (
    "vocab_size n_layer n_head n_embd block_size valid_windows train_documents "
    "train_tokens").split()}

@dataclass
class Run:
    """What a run folder says: n seeds, k intervals. Numbers that it does not hold are nan."""

    folder: Path
    config: dict  # {} of a run that is read only to be compared
    seeds: list
    intervals: list
    tokens: np.ndarray  # (k) seen so far
    epochs: np.ndarray  # (k) times the whole training text
    loss: np.ndarray  # (n, k) validation loss, nats a token
    train_loss: np.ndarray  # (n, k) mean since the last measurement
    se: np.ndarray  # (n, k) standard error of loss over the validation windows
    change_se: np.ndarray  # (n, k) of its change, paired over the windows
    published: np.ndarray  # (n, k) loss on the published study's windows
    bits: np.ndarray  # (n, k) loss in bits a byte
    seconds: np.ndarray  # (n, k) since the seed began
    windows: np.ndarray | None  # (n, k, n_windows) loss of each validation window
    notes: list  # sentences about what is left out

    window = property(lambda run: run.config["volatility_window"])  # in intervals
    mean = property(lambda run: run.loss.mean(0))  # (k) over seeds
    best = property(lambda run: int(run.mean.argmin()))  # index of the interval with the lowest
    # (n, m): the changes after the turn, m < 3 if it came late; without the first one (hence + 2),
    # which goes up because best is the minimum
    fluctuations = property(lambda run: run.measures["change"][:, run.best + 2 :])
    # Computed when first asked for, then kept: measures, tests by variable, simulation, answers.
    measures = cached_property(lambda run: run.derive(run.loss))
    results = cached_property(lambda run: {name: stats.analyse(Y) for name, Y in tested(
        run.loss, run.measures, run.window).items()})
    simulated = cached_property(lambda run: false_positives(run))
    beside = cached_property(lambda run: beside_published(run))
    learned = cached_property(lambda run: memorized(run))
    test = cached_property(lambda run: test_losses(run))  # (n), of a rung of the ladder
    flops = property(lambda run: run.tokens * float(run.config["flops_per_token"]))  # (k) spent
    answers = cached_property(lambda run: [answer(run) for answer in (
        answer_stability, answer_seeds, answer_shape, answer_phase)])

    def derive(self, loss):
        return derive(loss, *map(self.config.get, RULES))

    def with_loss(self, loss):
        """This run with another loss (published windows, say) in place of its own."""
        return replace(self, loss=loss, bits=loss * np.nan, windows=None)

@contextlib.contextmanager
def damaged(what, remedy):
    """For `with`: whatever goes wrong inside is the fault of a file, and becomes one sentence."""
    try:
        yield
    except (OSError, InputError, NameError, ImportError, AssertionError):
        raise  # a sentence of its own, or a mistake in the code
    except Exception as error:  # bytes that come from anywhere can raise almost anything
        raise InputError(f"{what} ({type(error).__name__}: {str(error):.100}); {remedy}") from None

def read_records(path):
    """The rows of a csv file as dicts: column -> text. InputError if it cannot be read."""
    header, *rows = [cells for _, cells in stats.read_rows(path)] or [[]]
    return [dict(zip(header, row)) for row in rows]

def read_run(folder):
    """The Run of a folder, for a report. InputError says what is missing or damaged."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} is not the folder of a run: it has no config.json")
    _, seeds, intervals, notes = stats.read_table(folder / "metrics.csv")
    if len(intervals) < 4:
        raise InputError(f"{folder} has {len(intervals)} intervals; a report needs 4 or more")
    run = read_curves(folder, seeds, intervals)
    with damaged(f"{folder / 'config.json'} is damaged", "mend it, or make the run anew"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for name, (kind, least, most) in LIMITS.items():
            if type(config[name]) not in (kind, int) or not least <= config[name] <= most:
                raise ValueError(f"{name} is {config[name]!r:.40}")
        (config["preset"] + config["text"] + config["seed_decides"]).encode("utf-8")  # are text
        for seed in sorted({int(seed) for seed in config["seeds"]} - set(seeds)):
            why = folder / f"seed_{seed}" / "left_out.txt"
            notes.append(f"Seed {seed} is left out: " + (
                why.read_text(encoding="utf-8", errors="replace").strip() if why.is_file()
                else "it is not complete"))
    return replace(run, config=config, notes=notes)

def read_curves(folder, seeds=None, intervals=None):
    """The Run of a folder without its config: of these seeds and intervals; or, for comparing, of
    a run whole or not yet, the intervals that all its seeds have reached."""
    tables = sorted(folder.glob("metrics.csv")) or sorted(folder.glob("seed_*/metrics.csv"))
    if not tables:
        raise InputError(f"{folder} has no metrics.csv, its own or of a seed, to compare")
    with damaged(f"a metrics.csv or val_windows.npy in {folder} is damaged",
                 "the command that made the run writes it again"):
        cells = {(int(row["seed"]), int(row["interval"])): row
                 for table in tables for row in read_records(table)}
        if seeds is None:
            seeds = list(dict.fromkeys(seed for seed, _ in cells))  # each once
            intervals = [interval for interval in sorted({interval for _, interval in cells})
                         if all((seed, interval) in cells for seed in seeds)]
        tokens, epochs, loss, train_loss, *others = (
            np.array([[float(cells[seed, interval].get(name) or "nan") for interval in intervals]
                      for seed in seeds]) for name in (
                "tokens_seen epochs val_loss train_loss val_loss_se val_change_se "
                "val_loss_published bits_per_byte elapsed_seconds").split())
        if (len(intervals) < 2 or not (np.diff(tokens) > 0).all() or (tokens != tokens[0]).any()
                or not np.isfinite([tokens, epochs, loss]).all() or tokens[0, 0] < 0
                or (np.abs(train_loss) > 1e300).any()):
            raise ValueError("fewer than 2 intervals, or in tokens_seen, epochs, val_loss or "
                             "train_loss a number that cannot be")
        files, windows = [folder / f"seed_{seed}" / "val_windows.npy" for seed in seeds], None
        if all(file.exists() for file in files):  # a published table comes without them
            windows = np.float64([np.load(file)[: len(intervals)] for file in files])
            if not np.allclose(windows.mean(-1), loss, rtol=1e-6):
                raise ValueError("the means of val_windows.npy are not the losses of metrics.csv")
    return Run(folder, {}, seeds, intervals, tokens[0], epochs[0], loss, train_loss, *others,
               windows, [])

# ---------------------------------------------------------------- drawing: SVG is text

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

def axes(lines, x_label, y_label, epochs, log):
    """X and Y, which turn numbers into places on the sheet, and the parts of both axes."""
    x_low, x_high = min(x.min() for _, x, _ in lines), max(x.max() for _, x, _ in lines)
    y = np.concatenate([y[np.isfinite(y)] for *_, y in lines])
    y_low, y_high = (y.min(), y.max()) if y.size else (0, 0)
    margin = 0.04 * (y_high - y_low or 1)
    y_low, y_high = y_low - margin, y_high + margin
    # In SVG y grows downwards. (`or 1`: where all numbers are equal, no division by zero.)
    X = lambda x: LEFT + (x - x_low) / (x_high - x_low or 1) * (RIGHT - LEFT)
    Y = lambda y: BOTTOM - (y - y_low) / (y_high - y_low) * (BOTTOM - TOP)
    # (Text times a truth value: the text, or nothing. It saves an if here and in the sentences.)
    out = [label((LEFT + RIGHT) / 2, BOTTOM + 58, x_label + ", below: epochs" * bool(epochs)),
           label(0, 0, y_label, more=f'transform="translate(15 {(TOP + BOTTOM) / 2}) rotate(-90)"')]
    for v in ticks(y_low, y_high):
        out.append(stroke(f"{LEFT},{Y(v):.1f} {RIGHT},{Y(v):.1f}", 'stroke="#ddd"'))
        out.append(label(LEFT - 7, Y(v) + 4, f"{10.0**v:.2g}" if log else f"{v:.6g}", "end"))
    for v in ticks(x_low, x_high):
        out.append(stroke(f"{X(v):.1f},{BOTTOM} {X(v):.1f},{BOTTOM + 5}", 'stroke="#333"'))
        out.append(label(X(v), BOTTOM + 19, f"{v:.6g}"))
        out += [label(X(v), BOTTOM + 36, f"{v * epochs:.3g}", more='fill="#777"')] if epochs else []
    out.append(stroke(f"{LEFT},{TOP} {LEFT},{BOTTOM} {RIGHT},{BOTTOM}", 'stroke="#333"'))
    return X, Y, out

def line_chart(lines, x_label, y_label, epochs=None, log=False, mark=None):
    """An SVG drawing of lines [(name, x, y)]; "mean..." and "frontier" are bold and black.

    epochs: times the text at x = 1, for a second row of numbers below the axis. log: of y. mark:
    (x, y, text) of one point. A line of one point is a numbered dot. More than 8 seeds are grey.
    Lines that share a first name (mlp-128, mlp-256) share their colour."""
    if log:
        lines = [(name, x, np.log10(np.where(y > 0, y, np.nan))) for name, x, y in lines]
    X, Y, out = axes(lines, x_label, y_label, epochs, log)
    many = sum(name.startswith("seed") for name, *_ in lines) > 8
    row, families = TOP + 12, []  # row: of the legend
    for i, (name, x, y) in enumerate(lines):
        families.append(name.split("-")[0])
        first = list(dict.fromkeys(families)).index(families[-1])
        dash = first + 3 * (first // 6) + families[:-1].count(families[-1])
        bold, colour = name.startswith(("mean", "frontier")), COLOURS[first % 6]
        style = 'stroke="#000" stroke-width="3"' if bold else (
            'stroke="#888" stroke-width="0.7"' if many else f'stroke="{colour}" '
            f'stroke-dasharray="{DASHES[dash % 6]}" stroke-width="1.8"')
        # Where y is nan (the one number that is not equal to itself) the line is cut.
        points = " ".join(f"{X(a):.1f},{Y(b):.1f}" if b == b else "|" for a, b in zip(x, y))
        out += [stroke(piece.strip(), style) for piece in points.split("|") if piece.strip()]
        if len(x) == 1:
            name = f"{i + 1}: {name}"
            out.append(f'<circle cx="{X(x[0]):.1f}" cy="{Y(y[0]):.1f}" r="4" fill="{colour}"/>'
                       + label(X(x[0]) + 6, Y(y[0]) - 4, i + 1, "start"))
        if bold or not many or i == 0:  # of many seeds the first stands for all
            name = name if bold or not many else "each seed"
            out.append(stroke(f"{RIGHT + 10},{row} {RIGHT + 38},{row}", style))
            out.append(label(RIGHT + 44, row + 4, name, "start"))
            row += 20
    if mark:
        x, y = X(mark[0]), Y(mark[1])
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#000"/>')
        out.append(label(x, y - 12, mark[2], more='font-weight="bold"'))
    width = RIGHT + 70 + 7.5 * max(len(name) for name, *_ in lines)
    return svg(out, max(780, round(width)), BOTTOM + 66, f"{y_label} against {x_label}")

def cell_map(kinds, letters, rows, columns, legend, x_label):
    """An SVG drawing of a table (n, k). kinds: which entry of the legend [(colour, words)] each
    cell is, -1 for none; letters: what stands in it; rows, columns: their names."""
    (n, k), out, x = kinds.shape, [], 80
    size = min(30, max(6, 640 // k))
    for i, j in np.argwhere(kinds >= 0):
        out.append(f'<rect x="{80 + size * j}" y="{size * i}" width="{size - 1}" '
                   f'height="{size - 1}" fill="{legend[kinds[i, j]][0]}"/>')
        if letters[i, j]:
            out.append(label(80 + size * (j + 0.5), size * (i + 0.5) + 4, letters[i, j]))
    for i in range(0, n, math.ceil(14 / size)):  # as many names as have room
        out.append(label(74, size * (i + 0.5) + 4, rows[i], "end"))
    for j in range(0, k, math.ceil(22 / size)):
        out.append(label(80 + size * (j + 0.5), size * n + 15, columns[j]))
    out.append(label(80, size * n + 35, x_label, "start"))
    for colour, words in legend:
        out.append(f'<rect x="{x}" y="{size * n + 46}" width="14" height="14" fill="{colour}" '
                   'stroke="#999"/>' + label(x + 20, size * n + 58, words, "start"))
        x += 40 + 7 * len(words)
    return svg(out, max(660, 100 + size * k), size * n + 70, x_label)

def token_axis(most):
    """(the unit of an axis that goes up to so many tokens, its label)."""
    unit, word = (1e6, "millions") if most >= 2e6 else (1e3, "thousands")
    return unit, f"training tokens ({word})"

def event_map(run):
    m = run.measures
    kinds = np.select([m["stable"] == 1, m["backslide"] == 1, m["backslide"] == 0], [2, 1, 0], -1)
    letters = np.select([m["spike"] == 1, m["spike_corrected"] == 1, m["stable"] == 1],
                        ["P", "C", "s"], "")
    legend = [("#E4EEF5", "loss fell"), ("#F5C67A", "backslide"),
              ("#7CC7B0", "s: stable phase candidate")]
    return cell_map(kinds, letters, run.seeds, run.intervals, legend,
                    "interval (P: spike as published, C: spike by the corrected rule)")

def pair_map(run):
    some = np.arange(0, len(run.mean), math.ceil(len(run.mean) / 60))  # 60 rows fit on a page
    t, names = stats.pairwise_tests(run.loss[:, some]), [run.intervals[i] for i in some]
    kinds, signs = np.full((len(some), len(some)), -1), np.full((len(some), len(some)), "")
    level = sum(t.p_adjusted < p for p in (stats.ALPHA, 0.01, 0.001))  # 0 to 3: how many it passes
    kinds[t.b, t.a] = np.where(np.isnan(t.p), 4, level)
    signs[t.b, t.a] = np.select([np.isnan(t.p), level == 0, t.mean_diff < 0], ["?", "", "+"], "–")
    legend = [("#F3F3F3", "p ≥ .05"), ("#CFE2F3", "< .05"), ("#9DC3E6", "< .01"),
              ("#5B9BD5", "< .001"), ("#FFFFFF", "?: undefined")]
    return cell_map(kinds, signs, names, names, legend,
                    "interval (column) against a later one (row); +: the later is higher"), (
        f"Paired t tests of {len(t.p)} pairs of intervals, p after Bonferroni.")

def figures(run):
    """name -> (SVG, caption) of every figure of the report."""
    unit, x_label = token_axis(run.tokens[-1])
    x, m, mean, best = run.tokens / unit, run.measures, run.mean, run.best
    chart = lambda lines, y_label, **more: line_chart(
        lines, x_label, y_label, run.epochs[-1] / x[-1], **more)
    by_seed = lambda Y, y_label, **more: chart(
        [*((f"seed {seed}", x, y) for seed, y in zip(run.seeds, Y)),
         (f"mean of {len(Y)}", x, Y.mean(0))], y_label, **more)
    drawn = {
        "memorization": (run.learned[1], "What stands word for word in the training text."),
        "published": (run.beside[1],
                      "The published study and its repetition, from interval 1 on."),
        "kinds": (run.beside[2], "The mean loss less its cubic curve, in all windows and in those "
                  "two parts of them whose waves are least alike."),
        "loss_by_seed": (by_seed(run.loss, "validation loss (nats)"),
                         "Validation loss of every seed."),
        "train_and_validation": (
            chart([("training", x, run.train_loss.mean(0)), ("mean validation", x, mean)],
                  "loss (nats)", mark=(x[best], mean[best], f"lowest: {mean[best]:.3f}")),
            "Means over seeds. Where training loss falls and validation loss rises, the model "
            "learns its text by heart."),
        "volatility": (by_seed(m["volatility"], "volatility (nats, log scale)", log=True),
                       f"Standard deviation of the last {run.window} changes. While the first drop "
                       "of the loss is among them, it is all that one sees."),
        "backslides": (by_seed(m["backslide_frequency"], "backslides"),
                       f"How many of the last {run.window} changes went up."),
        "events": (event_map(run), "What happened to each seed at each interval."),
        "pairs": pair_map(run)}
    return {name: (drawing, caption) for name, (drawing, caption) in drawn.items() if drawing}

# ---------------------------------------------------------------- the tests of a run

def stability(measures, w, best):
    """name -> (..., n, k') for RQ1: the stability measures at the intervals whose w changes all
    come after the turn, the interval with index `best`; volatility also where their windows do not
    overlap. Trap: while a window holds a part of the descent, its volatility is the descent's.
    Where the turn comes too late for two such intervals: all from w+1 on."""
    k = measures["volatility"].shape[-1]
    turn = max(best, 1)  # (best is 0 where the loss only rises: the first change is left out too)
    late = turn + w > k - 2
    start = w + 1 if late else turn + w
    last = start + (k - 1 - start) % w  # from here by steps of w to the last interval
    matrices = {"volatility without the first drop" if late else "volatility after the turn":
                measures["volatility"][..., start:],
                "volatility, windows that do not overlap": measures["volatility"][..., last::w]}
    for name in ("backslide_frequency", "spike_rate", "spike_rate_corrected"):
        matrices[name.replace("_", " ")] = measures[name][..., start:]
    return {name: Y for name, Y in matrices.items() if Y.shape[-1] >= 2}

def statistic(name, Y):
    """F of a volatility, Friedman's chi2 of a count, for one study or thousands: (..., n, k)."""
    return stats.f_and_epsilons(Y)[0] if "volatility" in name else stats.friedman(Y).chi2

def tested(loss, measures, w):
    """name -> matrix: the variables of the repeated-measures ANOVA, with their ablations."""
    volatility, best = measures["volatility"], int(loss.mean(0).argmin())
    matrices = {"validation loss": loss, "validation loss without interval 0": loss[:, 1:],
                "perplexity": np.exp(np.minimum(loss, 300)), "volatility": volatility[:, 2:],
                "volatility without the first drop": volatility[:, w + 1 :]} | {
        name: Y for name, Y in stability(measures, w, best).items() if "volatility" in name}
    return {name: Y for name, Y in matrices.items() if Y.shape[1] >= 2}

PARTS = 8  # neighbours are in one part, so that each is of one kind of text, if there are kinds

def in_parts(run, n_parts=PARTS):
    """Losses (n, k, n_parts): means over neighbouring windows (where there are fewer than n_parts,
    each is a part); nan of a run whose windows are not there."""
    if run.windows is None:
        return np.full((*run.loss.shape, n_parts), np.nan)
    size = max(1, run.windows.shape[-1] // n_parts)
    return run.windows[..., : size * n_parts].reshape(*run.loss.shape, -1, size).mean(-1)

def planned(run):
    """The tests of chance (interval 0) against the minimum and of the minimum against the end.

    The minimum is chosen on every second block of validation windows (a 16th of them each, since
    neighbours are alike) and tested on the others, which were not chosen for being low. Trap: ups
    and downs of the training, of one seed or of all, are in both; audit line 7 says how often those
    alone reject."""
    choose = test = run.loss
    if run.windows is not None:
        choose, test = (in_parts(run, 16)[..., first::2].mean(-1) for first in (0, 1))
    best, last = int(choose.mean(0).argmin()), run.loss.shape[1] - 1
    return stats.pairwise_tests(test, [(a, b) for a, b in ((0, best), (best, last)) if a != b])

def contrasts(t, names):
    """Rows of paired t tests: which minus which, difference, t, p after Bonferroni, d_z."""
    return [[f"{names[a]} minus {names[b]}", *row] for a, b, *row in zip(
        t.a, t.b, t.mean_diff, t.t, t.p_adjusted, t.d_z)]

def in_common(d):
    """Mean correlation between the rows of d (n, m): how much of their ups and downs is shared."""
    n, m = d.shape
    if n < 2 or m < 3 or not np.ptp(d, axis=1).all():
        return math.nan
    return float(np.corrcoef(d).sum() - n) / (n * (n - 1))  # n: those of the rows with themselves

def waves(loss, degree=3):
    """What is left of each row of loss (n, m) when its own cubic trend is taken away, or one of
    another degree: (n, m). Trap: no cubic follows a sharp turn. Begin after it, or all seeds share
    the misfit."""
    t = np.linspace(-1, 1, loss.shape[1])  # (powers of 1 to 16 would be too unlike to be exact)
    degree = min(degree, max(len(t) - 2, 0))  # (a curve through every point would leave nothing)
    fit = np.polynomial.polynomial.polyfit(t, loss.T, degree)
    return loss - np.polynomial.polynomial.polyval(t, fit)

def recurrence(epochs):
    """After how many intervals do measurements fall at nearly the same place of the text? Or 0.
    Example: with 2.333 epochs between two of them, after 3."""
    step = (epochs[-1] - epochs[0]) / (len(epochs) - 1)
    off = lambda i: abs(i * step - round(i * step))  # how far from whole epochs, after i intervals
    if off(1) < 0.03:
        return 0  # (the place hardly moves)
    return next((i for i in range(2, (len(epochs) - 1) // 2) if off(i) < 0.015), 0)

def returning(wave, lag):
    """How much of the mean of the waves (n, m) depends on the place in the text? Its points i, i +
    lag, i + 2 lag ... fall at one place: the share of the variance that lies between these groups
    (eta squared). Independent noise has (lag - 1) / (m - 4) or a little less; of 16 points at lag 3
    that is 0.16, and one study in 20 has more than 0.44. nan if no place returns (lag 0)."""
    mean = wave.mean(0)
    if not lag or len(mean) < 2 * lag:
        return math.nan
    groups = [mean[i::lag] for i in range(lag)]
    return sum(len(group) * group.mean() ** 2 for group in groups) / max((mean**2).sum(), 1e-300)

def patience_stop(loss, patience):
    """Where training stops once `patience` measurements brought no new minimum, else the end.
    Example: patience_stop([3, 2, 4, 5, 1], 2) = 3."""
    for t in range(patience, len(loss)):
        if min(loss[t - patience + 1 : t + 1]) >= min(loss[: t - patience + 1]):
            return t
    return len(loss) - 1

def patience_costs(loss):
    """In words: where a patience of 1, 2 and 3 stops the seeds of loss (n, k), and how far the
    lowest loss until then lies above the lowest of all; means over seeds."""
    said = []
    for patience in (1, 2, 3):
        at = [patience_stop(list(row), patience) for row in loss]
        lost = np.mean([row[: t + 1].min() - row.min() for row, t in zip(loss, at)])
        said.append(f"{patience}: at {np.mean(at):.1f}, {lost:.3f} nats lost")
    return "; of ".join(said)

def over_time(x, lines=False):
    """The phi of AR(1): how the rows of x (n, m) correlate with themselves one interval later.

    m-1 products over m squares: hence m / (m-1). A line taken off each row (lines) makes the ratio
    too small by (2 + 4 phi) / m, which is given back. (test_all.py tries both.) Trap: so does a
    mean taken off, by (1 + 3 phi) / m, which is not."""
    m, ratio = x.shape[1], (x[:, 1:] * x[:, :-1]).sum() / max((x**2).sum(), 1e-300)
    phi = (m * ratio + 2) / (m - 4) if lines and m > 6 else m * ratio / max(m - 1, 1)
    return float(np.clip(phi, -0.99, 0.99))

def flat_curves(rng, shape, size, rho, phi):
    """Losses (n_studies, n, k) that go nowhere: their changes have the sd `size` and correlate phi
    over time, rho between seeds."""
    shared, own = (stats.ar1(rng, (shape[0], n, shape[2]), phi) for n in (1, shape[1]))
    return size * (math.sqrt(rho) * shared + math.sqrt(1 - rho) * own).cumsum(-1)

def rises_found(loss):
    """(share of the studies (n_studies, n, k) whose paired t test finds the end above the minimum,
    as in RQ3; by how much it lies above, (n_studies))."""
    least = loss.mean(-2).argmin(-1)[:, None, None]
    rise = loss[..., -1] - np.take_along_axis(loss, least, -1)[..., 0]  # (n_studies, n)
    p = 2 * scipy.stats.ttest_1samp(rise, 0, axis=-1).pvalue  # Bonferroni over the two tests
    return float((p < stats.ALPHA).mean()), rise.mean(-1)  # (p is nan where the end is the minimum)

def false_positives(run, n_studies=2000):
    """How often do the tests reject in studies like this one in which nothing happens?

    Stability, and the end against the minimum: flat curves, whose changes have the size of this
    run's after the turn, less each seed's straight line, and their correlations over time and
    between seeds (in a second set, none between seeds). Seeds:
    deviations from the interval means, correlated over time as in this run, with the seed's own
    mean taken off (too little, if nothing happens) and not (too much, if something does).
    Returns a dict: the correlations, the rates of rejection, and p of each name of `stability`, of
    "seed" and of "rise": the share of the studies with a statistic at least as large as this run's.
    """
    p_of = lambda simulated, seen: math.nan if math.isnan(seen) else float(
        (1 + (simulated >= seen).sum()) / (1 + len(simulated)))
    (n, k), d, rng = run.loss.shape, run.fluctuations, np.random.default_rng(1)
    where = "after the turn"
    if math.isnan(in_common(d)):  # the loss turned late or never
        where, d = "in the last half", run.measures["change"][:, 1 + k // 2 :]
    # A loss that turns, or falls ever more slowly, has changes with a trend, which all seeds share
    # and which is no noise.
    d = waves(d, degree=1)
    shared, phi = in_common(d), over_time(d, lines=True)
    size = math.sqrt((d**2).sum() / (n * max(d.shape[1] - 2, 1)))  # sd; a line has two constants
    shape = int(np.clip(1e6 // (n * k), 100, n_studies)), n, k  # fewer studies of large tables
    alike = 0.0 if math.isnan(shared) else min(max(shared, 0.0), 0.99)
    flat = [flat_curves(rng, shape, size, rho, phi) for rho in (alike, 0.0)]
    (share, rises), (share_alone, _) = map(rises_found, flat)
    null = [stability(run.derive(loss), run.window, run.best) for loss in flat]
    found = {"n": shape[0], "shared": shared, "where": where, "phis": [], "seed": [],
             "rates": [stats.rejection_rates(next(iter(each.values()))) for each in null if each],
             "rises": [share, share_alone],
             "p": {name: p_of(statistic(name, null[0][name]), statistic(name, Y))
                   for name, Y in stability(run.measures, run.window, run.best).items()}}
    found["p"]["rise"] = p_of(rises, run.mean[-1] - run.mean.min())
    deviation = run.loss - run.mean
    for x in (deviation - deviation.mean(1, keepdims=True), deviation):
        found["phis"].append(over_time(x))
        # Turned about, the seeds are the levels, and F is that of the seed effect.
        turned = np.swapaxes(stats.ar1(rng, shape, found["phis"][-1]), -1, -2)
        found["seed"].append(stats.rejection_rates(turned)[0])
    F = run.results["validation loss"]["anova"].f_subject
    found["p"]["seed"] = p_of(stats.f_and_epsilons(turned)[0], F)  # of the larger correlation
    return found

# ---------------------------------------------------------------- the audit: a function a line
# What weakens the conclusions from this run, computed from its own data.

def audit_epochs(run):
    train, best, last = run.train_loss.mean(0), run.best, len(run.intervals) - 1
    after = ": what is learned after the turn is the training text itself" * (0 < best < last)
    return f"""The training text was read {run.epochs[-1]:.1f} times; validation loss was lowest
        after {run.epochs[best]:.1f}{', at the end' * (best == last)}. Training loss: {train[1]:.4g}
        at first, {number(train[best])} there, {train[-1]:.4g} at the end{after}."""

def audit_precision(run):
    c, rises, error = run.config, run.measures["backslide"] == 1, run.change_se
    alike = "Windows resemble their neighbours, so true errors are larger."
    if run.windows is not None:
        blocks = in_parts(run, 32)
        of_blocks = lambda x: x.std(-1, ddof=1) / math.sqrt(x.shape[-1])
        error = np.insert(of_blocks(np.diff(blocks, axis=1)), 0, np.nan, axis=1)
        alike = f"""But windows resemble their neighbours. With every
            {run.windows.shape[-1] // blocks.shape[-1]} in a row as one observation the errors are
            {np.median(of_blocks(blocks)):.3f} and {np.nanmedian(error):.3f}; for text of another
            kind none of these holds."""
    small = rises & (run.measures["change"] < 2 * error)
    return f"""Each validation loss rests on {c['valid_windows'] * c['block_size']:,d} tokens. Its
        standard error over {c['valid_windows']} windows is about {np.median(run.se):.3f} nats, that
        of a change on the same windows {np.nanmedian(run.change_se):.3f}. {alike} Of {rises.sum()}
        backslides {small.sum()} are smaller than two such errors of the change, perhaps accidents
        of the windows."""

def audit_common(run):
    shared, again = in_common(run.fluctuations), recurrence(run.epochs)
    less = in_common(waves(run.fluctuations, degree=1)) if shared == shared else shared
    where = "Each seed read the text in an order of its own."
    if run.config["seed_decides"] == "order":  # a class exercise
        where = "All seeds read the text in one shuffled order."
    elif run.config["seed_decides"] == "weights":
        where = f"""All seeds read the text in one order; the first measurements fell at
            {', '.join(f'{place:.2f}' for place in run.epochs[1:7] % 1)} of it"""
        where += f", and every {again} intervals at nearly the same place." if again else "."
    if math.isnan(shared):
        return f"The loss turned too late, if at all, to see what fluctuations share. {where}"
    return f"""After the turn, the changes of two seeds correlate {number(shared)} on average, and
        {number(less)} less each seed's straight line; what they share is not the seed's doing.
        {where}"""

def audit_rules(run):
    c, volatility = run.config, run.measures["volatility"][:, 2:]
    w = min(run.window, len(run.intervals) - 1)
    can = "can" if math.sqrt(w - 1) > c["spike_factor"] + 1e-9 else "can never"
    most = (volatility <= np.quantile(volatility, c["stable_quantile"])).sum()
    return f"""The published spike rule {can} fire after interval 1: it asks for more than
        {c['spike_factor']:g} standard deviations, and among {w} values none is further than
        {math.sqrt(w - 1):.2f} of them from their mean. The stable-phase rule can accept at most
        {most} of {volatility.size} cells, by its own quantile, and that many are quiet in any
        run."""

def audit_sphericity(run):
    (n, k), m = run.loss.shape, run.results["validation loss"]["mauchly"]
    test = f"exists: p = {number(m.p)}" if m.defined else f"does not exist: {m.reason}"
    few = "; with fewer seeds than intervals Huynh-Feldt is unreliable" * (n < k)
    return f"""Mauchly's test {test}. The residuals of {n} seeds span {min(n, k) - 1} of the {k - 1}
        directions in which {k} intervals can differ: Greenhouse and Geisser estimate epsilon at
        {min(1, (n - 1) / (k - 1)):.3f} or less, whatever the truth{few}. Theirs is the one to
        read."""

def audit_ablations(run):
    F = [f"{name}: F = {number(r['anova'].f)}" for name, r in run.results.items()]
    return f"""{'; '.join(F)}. An F with the first drop in it says little about the rest; perplexity
        is exp(loss), the same measurement twice."""

def audit_false_positives(run):
    s, volatility = run.simulated, ""
    if s["rates"]:
        alike, alone = (" / ".join("–" if rate != rate else f"{rate:.0%}" for rate in rates)
                        for rates in s["rates"])
        here = "" if math.isnan(s["shared"]) else f"""{alike} if the changes of seeds correlate
            {s['shared']:.2f} as {s['where']}, each less its straight line, and in """
        volatility = f"""a change of volatility in {here}{alone} if seeds are independent
            (uncorrected / Greenhouse-Geisser / Huynh-Feldt), and """
    return f"""In {s['n']} simulated studies without any effect, tests at 5 % find {volatility}a
        seed effect in {s['seed'][0]:.0%} to {s['seed'][1]:.0%}, if deviations correlate
        {s['phis'][0]:.2f} to {s['phis'][1]:.2f} over time as here (uncorrected), and, by the t
        test of RQ3, an end above the minimum in {s['rises'][0]:.0%}, {s['rises'][1]:.0%} if seeds
        are independent."""

def audit_seed(run):
    order = run.config["seed_decides"] == "weights+order"
    return f"""The seed decided the initial weights{' and the order of the windows' * order}. Never
        varied, so in no error bar: {'the order of the windows, ' * (not order)}the training text,
        the tokenizer, the validation windows, the machine."""

def audit_stopping(run):
    mean, best, each = run.mean, run.best, run.loss.argmin(1)
    hours = np.diff(run.seconds[:, [best, -1]]).sum() / 3600
    cost = "" if math.isnan(hours) else f", {hours:.2g} hours of one core,"
    return f"""Stop at interval {run.intervals[best]} (single seeds: {run.intervals[each.min()]}
        to {run.intervals[each.max()]}); {1 - best / (len(mean) - 1):.0%} of the compute{cost} came
        after it, and took the mean loss from {mean[best]:.3f} to {mean[-1]:.3f}. With a patience of
        {patience_costs(run.loss)} (means over seeds; where patience lasted, the end of the
        budget)."""

AUDIT = [audit_epochs, audit_precision, audit_common, audit_rules, audit_sphericity,
         audit_ablations, audit_false_positives, audit_seed, audit_stopping]

# ---------------------------------------------------------------- the four answers

Answer = namedtuple("Answer", "question null variables verdict evidence audit published")

def verdict(yes, name):
    return f"{'reject' if yes else 'fail to reject'} {name}"

def answer_stability(run):
    """RQ1, by p values from the simulation, Bonferroni over the measures."""
    measures, differ = stability(run.measures, run.window, run.best), []
    w, F = run.window, run.results["volatility"]["anova"].f
    said = [f"volatility of all intervals, with the descent in its windows: F = {number(F)}"]
    for name, Y in measures.items():
        value, p = statistic(name, Y), run.simulated["p"][name]
        adjusted, sign = min(1.0, len(measures) * p), "F" if "volatility" in name else "chi2"
        # A share p of n simulated studies has the standard error sqrt(p (1 - p) / n).
        error = len(measures) * math.sqrt(max(p * (1 - p), 0) / run.simulated["n"])
        said.append(f"{name}: never varies" if math.isnan(value) else f"{name}: {sign} = "
                    f"{number(value)}, p = {number(adjusted)} (give or take {error:.2g})")
        differ += [name] if adjusted < stats.ALPHA else []
    alike = run.derive(run.mean[None])["volatility"][0, w + 1 :]
    if len(alike):
        said.append(f"from interval {run.intervals[w + 1]} on volatility goes from "
                    f"{number(run.measures['volatility'][:, w + 1].mean())} to "
                    f"{number(run.measures['volatility'][:, -1].mean())}, that of the mean curve "
                    f"from {number(alike[0])} to {number(alike[-1])}: so much have all in common")
    when = "; ".join(differ) or "after the turn" * any("turn" in name for name in measures)
    result = verdict(differ, "H01") + f" ({when})" * bool(when)
    return Answer(
        "RQ1. Do stability measures differ across training?", "H01: they do not",
        "volatility, backslide frequency, spike rate",
        result if measures else "cannot be tested: too few intervals",
        f"{'; '.join(said)} (p by the simulation of audit line 7, Bonferroni).", "3, 6, 7",
        "reject H01")

def answer_seeds(run):
    """RQ2, by the height of the curves: a p value from the simulation, and the spread."""
    result, p = run.results["validation loss"], run.simulated["p"]["seed"]
    sd, anova = result["sd_between"], result["anova"]
    apart = ", but they end further apart than they began" * bool(sd.low[-1] > sd.high[0])
    return Answer(
        "RQ2. Do the trajectories of the seeds differ?", "H02: they do not", "validation loss",
        verdict(p < stats.ALPHA, "H02") + f" (by their mean height{apart})",
        f"""mean height: F = {number(anova.f_subject)}, p = {number(p)} (by the simulation of audit
        line 7); ICC(C,1) = {number(anova.icc)}; standard deviation between seeds {sd.sd[0]:.4f}
        (95 %: {sd.low[0]:.4f} to {sd.high[0]:.4f}) before training, {sd.sd[-1]:.4f}
        ({sd.low[-1]:.4f} to {sd.high[-1]:.4f}) at the end. The test sees a constant distance
        between curves; that they end further apart is shown only if these two do not meet.""",
        "3, 7, 8", "descriptive evidence only")

def answer_shape(run):
    """RQ3: does the end lie above the minimum, by the paired t test and by the simulation?"""
    rows, simulated = contrasts(planned(run), run.intervals), run.simulated["p"]["rise"]
    _, last_difference, _, last_p, _ = rows[-1]
    # Minimum minus end. (If the end is the minimum there is only interval 0 minus it, above 0.)
    rises = last_difference < 0 and max(last_p, simulated) < stats.ALPHA
    said = [f"interval {pair}: {d:.3f} nats, p = {number(p)}" for pair, d, _, p, _ in rows]
    half = "the same" if run.windows is None else "another half of the"
    return Answer(
        "RQ3. Is learning non-monotonic?", "H03: the loss never rises again", "validation loss",
        verdict(rises, "H03"), f"""{'; '.join(said)} (Bonferroni). The minimum was chosen on {half}
        validation windows. Of the simulated studies without effect (audit line 7) a share of
        {number(simulated)} rise as far by chance.""", "1, 2, 7", "reject H03")

def answer_phase(run):
    """RQ4: do half of the seeds meet the rule in the same two intervals running?"""
    stable = run.measures["stable"] == 1
    lasting = (stable[:, 1:] & stable[:, :-1]).mean(0).max()
    return Answer(
        "RQ4. Is there a stable phase?", "H04: there is none",
        "volatility, spike rate, backslide frequency", verdict(lasting >= 0.5, "H04"),
        f"""{stable.sum()} of {stable[:, 2:].size} cells meet the rule; at most {lasting:.0%} of the
        seeds meet it in the same two intervals running, where half would be a phase. The rule has
        no error rate, it is no test: a loss that falls ever more slowly always has such cells.""",
        "4", "fail to reject H04")

def summary(run):
    """The outcome in a few plain sentences, for the terminal and for the top of the report."""
    mean, best = run.mean, run.best
    end = "that is the end" if best == len(mean) - 1 else (
        f"at the end it stood {mean[-1] - mean[best]:.3f} higher, at {mean[-1]:.3f}")
    return [f"The mean validation loss of {len(run.seeds)} seeds began at {mean[0]:.3f} (chance: "
            f"{math.log(run.config['vocab_size']):.3f}) and was lowest, {mean[best]:.3f} nats, at "
            f"interval {run.intervals[best]}, after {run.epochs[best]:.1f} epochs; {end}.",
            *(f"{a.question} {a.verdict[0].upper()}{a.verdict[1:]}." for a in run.answers),
            *run.notes]

# ---------------------------------------------------------------- tables (csv) and report (HTML)

def number(x):
    """A number for reading: an int whole, a float with four digits, a dash if undefined."""
    return f"{x:,d}" if isinstance(x, int) else "–" if math.isnan(x) else f"{x:.4g}"

def table(header, rows):
    """An HTML table; numbers are shortened and set to the right, text is escaped."""
    cell = lambda x: f"<td>{html.escape(x)}</td>" if isinstance(x, str) else (
        f"<td class=n>{number(x)}</td>")
    return "<table>" + "".join(f"<tr>{''.join(map(cell, row))}</tr>\n"
                               for row in [header, *rows]) + "</table>\n"

def paragraphs(*texts):
    return "".join(f"<p>{html.escape(text)}</p>\n" for text in texts)

def outcomes(run):
    """name -> k numbers: what each interval brought, means over seeds."""
    m = {name: Y.mean(0) for name, Y in run.measures.items()}
    sd, model = (run.results["validation loss"][name] for name in ("sd_between", "mixed_reml"))
    gain = -np.diff(run.mean, prepend=np.nan) / np.diff(run.tokens / 1e6, prepend=np.nan)
    return {"interval": run.intervals, "tokens": run.tokens.astype(int).tolist(),
            "epochs": run.epochs, "train loss": run.train_loss.mean(0), "val loss": run.mean,
            "sd": sd.sd, "sd from": sd.low, "sd to": sd.high,
            "perplexity": np.exp(run.loss).mean(0), "gain": gain,
            "contrast": np.append(0, model.fixed[1:]), "from": np.append(0, model.low[1:]),
            "to": np.append(0, model.high[1:]), "volatility": m["volatility"],
            "backslides": m["backslide_frequency"], "spikes": m["spike_rate"],
            "corrected": m["spike_rate_corrected"], "stable": m["stable"]}

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
    rows, details, w = [], "", run.window
    for name, r in run.results.items():
        a, least = r["anova"], np.fmin.reduce(r["shapiro"].p)
        rows.append([name, f"{a.df_effect}, {a.df_error}", a.f, a.p, a.epsilon_gg, a.p_gg, a.p_hf,
                     a.eta_sq_generalized, least, r["shapiro_residuals"].p])
        labels = run.intervals[:: -w if "overlap" in name else -1][: r["n_levels"]][::-1]
        text = "\n".join(stats.report(r, name, labels, []))
        details += (f"<details{' open' * (not details)}><summary>{name}</summary>"
                    f"<pre>{html.escape(text)}</pre></details>\n")
    adjacent = run.results["validation loss"]["pairs_adjacent"]
    few = [[kind, *row] for kind, t in (("planned", planned(run)), ("adjacent", adjacent))
           for row in contrasts(t, run.intervals)]
    counts = [[name, *vars(stats.friedman(Y)).values()] for name, Y in stability(
        run.measures, w, run.best).items() if "volatility" not in name]
    return "".join([
        paragraphs("""Seeds are the subjects, intervals the levels. Read p GG (Greenhouse-Geisser),
            which allows for differences of unequal variance. Shapiro-Wilk: the least p of all
            levels, and that of the residuals; with few seeds a large p proves nothing."""),
        table(["repeated-measures ANOVA", "df", "F", "p", "epsilon GG", "p GG",
               "p HF", "eta2", "Shapiro, levels", "residuals"], rows),
        table(["counts: Friedman's test", "chi2", "df", "p"], counts),
        table(["contrast", "intervals", "difference", "t", "p (Bonferroni)", "d_z"], few[:42]),
        paragraphs("""Sphericity, mixed model, normality and all pairs of intervals, variable by
            variable, as python stats.py prints them:"""), details])

def endpoint_and_trajectory(run):
    """HTML: what one would say who sees only the last measurement, and what the curve says."""
    mean, best = run.mean, run.best
    ranked = lambda t: " ".join(str(run.seeds[i]) for i in run.loss[:, t].argsort()[:12])
    lowest = f"{mean[best]:.4f} at interval {run.intervals[best]}"
    return table(["", "the endpoint says", "the trajectory says"], [
        ["mean validation loss", f"{mean[-1]:.4f}", lowest],
        ["training tokens", f"{run.tokens[-1]:,.0f}", f"{run.tokens[best]:,.0f}"],
        ["sd between seeds", *(f"{run.loss[:, t].std(ddof=1):.4f}" for t in (-1, best))],
        ["seeds from best to worst", ranked(-1), ranked(best)]])

def stories(run):
    """HTML of samples.json, a story by the best and one by the last checkpoint, if there is one."""
    path = run.folder / "samples.json"
    with damaged(f"{path} is damaged", "delete it, and run_all.py makes it again"):
        samples = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return "".join(
            f"<p>By the {name} checkpoint of seed {s['seed']} (interval {s['interval']}):</p>"
            f"<blockquote>{html.escape(s['story'])}</blockquote>\n" for name, s in samples.items())

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;
color:#222}table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}
td{border-bottom:1px solid #ccc;padding:2px 8px;vertical-align:top}tr:first-child{font-weight:bold}
.n{text-align:right;white-space:nowrap}figure{margin:1.5em 0;break-inside:avoid}svg{width:100%;
max-width:780px;height:auto}summary{cursor:pointer}figcaption{font-size:14px;color:#555}blockquote,
pre{background:#f5f5f0;white-space:pre-wrap;padding:1em;margin:1em 0}@media print{body{font-size:
11px;margin:0}table{font-size:8px}td{padding:1px 3px}h2{break-after:avoid}}"""

def sections(run, drawings):
    """heading -> HTML of every section of the report, in the order in which a reader needs them."""
    c, columns = run.config, outcomes(run)
    show = lambda *names: "".join("<figure>{}<figcaption>{}</figcaption></figure>\n".format(
        *drawings[name]) for name in names if name in drawings)
    some = lambda *names: table(names, list(zip(*(columns[name] for name in names)))[
        :: math.ceil(len(run.mean) / 40)])  # at most 40 rows of a table fit on a page
    kind = c.get("architecture", "llama")  # linear and mlp have no layers and heads to name
    parts = f"{c['n_layer']} layers, {c['n_head']} heads, " * (kind not in ("linear", "mlp"))
    return {
        "In short": paragraphs(*summary(run)),
        "What was asked": table(["question", "null hypothesis", "variables"],
                                [answer[:3] for answer in run.answers]),
        "What was done": paragraphs(f"""A model ({kind}, {parts}width {c['n_embd']}) was trained
            once for each seed on {c['train_documents']:,d} documents ({c['train_tokens']:,d}
            tokens; {c['text']}), and measured at fixed token counts on the same
            {c['valid_windows']} windows of other documents.""") + table(
            ["coverage", ""], [["seeds complete", f"{len(run.seeds)} of {len(c['seeds'])}"],
                               ["rows (no seed and interval twice)", run.loss.size],
                               ["tokens of each seed at the end", f"{run.tokens[-1]:,.0f}"],
                               ["epochs at the end", run.epochs[-1]]]),
        "What happened": show("loss_by_seed", "train_and_validation") + some(*list(columns)[:10])
            + paragraphs("sd: between seeds, with its 95 % interval. Gain: nats per million "
                         "tokens.") + endpoint_and_trajectory(run),
        "Beside the published study": show("published", "kinds") + run.beside[0],
        "How stable it was": show("volatility", "backslides", "events")
            + some("interval", *list(columns)[10:]) + paragraphs("""Contrast: with interval 0, by
                the mixed model (REML); its Wald interval takes all seeds and intervals to vary
                alike: too narrow where sd is large, too wide where it is small. Spikes: their rate
                in the window, as published; corrected: by the rule that leaves a change out of its
                own threshold. Stable: share of the seeds."""),
        "The tests": tests_section(run) + show("pairs"),
        "The audit: what this design can and cannot show": "<ol>" + "".join(
            f"<li>{html.escape(line(run))}</li>\n" for line in AUDIT) + "</ol>",
        "The four answers": table(
            ["question", "verdict", "evidence", "weakened by audit line", "published verdict"],
            [[answer.question, *answer[3:]] for answer in run.answers]) + paragraphs("""Published
                verdicts: arXiv 2606.13370. The paper itself gives Greenhouse-Geisser p values and
                names repetition of the corpus among the possible causes; the order of the text,
                the 16 windows and the spike rule are known from its author's repository."""),
        "What was learned by heart": show("memorization") + run.learned[0],
        "Two stories": stories(run)}

def write_page(path, title, parts):
    """report.html: one file that needs nothing else. parts: heading -> HTML, left out if empty."""
    title = html.escape(title)
    write_whole(path, '<!doctype html><html lang="en"><meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width">'
                f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>" + "".join(
                    f"<h2>{heading}</h2>\n{body}\n" for heading, body in parts.items() if body))

def write_report(folder):
    """Write tables, figures and report.html of a run; returns its summary, a list of sentences."""
    run = read_run(folder)
    drawings = figures(run)
    save_tables(run, drawings)
    title = (f"{run.folder.resolve().name} (preset {run.config['preset']}): {len(run.seeds)} "
             f"seeds, {len(run.intervals)} intervals")
    write_page(run.folder / "report.html", title, sections(run, drawings))
    return [*summary(run), f"The report: {run.folder / 'report.html'}"]

# ---------------------------------------------------------------- runs side by side

def of_shared_seeds(runs):
    """The same runs, but of the seeds alone that all have. (None: those are without any.)"""
    seeds = [seed for seed in runs[0].seeds if all(seed in run.seeds for run in runs)]
    rows = lambda run: [run.seeds.index(seed) for seed in seeds]
    return [replace(run, seeds=seeds, **{
        name: Y[rows(run)] for name, Y in vars(run).items()
        if isinstance(Y, np.ndarray) and Y.ndim > 1}) for run in runs]  # (n, k) or more

def after_turn(*losses):
    """The first interval after the minima of the curves losses (n, k): from there their waves are
    compared; 5 at least, and minima without 10 intervals after them do not count."""
    turns = [(int(loss.mean(0).argmin()) + 1, loss.shape[1]) for loss in losses]
    return max([5, *(turn for turn, k in turns if turn + 10 <= k)])

def character(run, start):
    """name -> number: what is compared between runs, of their waves from interval `start` on."""
    loss, mean, best = run.loss, run.mean, run.best
    found = {"lowest mean loss (nats)": mean[best],
             "the same in bits per byte": run.bits.mean(0)[best],
             "at million tokens": run.tokens[best] / 1e6,
             "at epoch": run.epochs[best], "rise from there to the end": mean[-1] - mean[best]}
    if len(mean) > start + 5:  # else too short for more
        found |= {"backslides, share of changes": (np.diff(loss)[:, start:] > 0).mean(),
                  f"volatility (5 changes), from interval {start + 4}": derive(loss)[
                      "volatility"][:, start + 4 :].mean()}
        # In parts each number is a mean over the parts, of all windows it is that of the one.
        for name, several in (("waves", [loss]), ("in parts", in_parts(run).transpose(2, 0, 1))):
            each = [waves(Y[:, start:]) for Y in several]
            found |= {f"{name}: {what}": np.mean(x) for what, x in (
                ("their size (nats)", [w.std() for w in each]),
                ("in common", [in_common(w) for w in each]),
                ("share that returns with the place", [
                    returning(w, recurrence(run.epochs)) for w in each]))}
        # Do parts rise and fall together, whatever the seed? (each: now the waves of the parts.)
        found["correlation of two parts"] = in_common(np.array([w.mean(0) for w in each]))
    if len(loss) > 1:
        spread = loss.std(0, ddof=1)
        found |= {"sd between seeds, mean": spread[1:].mean(), "sd between seeds, end": spread[-1]}
    return found

def side_by_side(runs, start):
    """Rows of a table: what is compared, and the number of each run, nan where undefined."""
    found = [character(run, start) for run in runs]
    # Every name once, in the order of the run that has most: a dict keeps the order of its keys.
    names = dict.fromkeys(sum(map(list, sorted(found, key=len, reverse=True)), []))
    rows = [[name, *(each.get(name, math.nan) for each in found)] for name in names]
    return [row for row in rows if not np.isnan(row[1:]).all()]

def memorized(run):
    """(HTML, SVG) of memorization.csv, which run_all.py --memorization writes; else ("", None)."""
    path, shares = run.folder / "memorization.csv", {}
    if not path.exists():
        return "", None
    with damaged(f"{path} is damaged", "delete it; --memorization makes it again"):
        for row in read_records(path):
            if int(row["pieces"]):
                shares.setdefault(row["source"], []).append(
                    int(row["verbatim"]) / int(row["pieces"]))
    if len(shares) != 3:
        return paragraphs("Too few stories of 16 tokens or more, or a checkpoint is lost."), None
    base, best, last = shares.values()
    tests = [scipy.stats.mannwhitneyu(last, other).pvalue for other in (best, base)]
    rows = [[name, len(x), np.mean(x), np.median(x), np.mean(np.equal(x, 1))]
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
    """(HTML, SVG, SVG of in_kinds) of this run beside the published study, if it repeats it; else
    ("", None, None)."""
    (theirs, *_), tokens = stats.read_table(PUBLISHED), stats.read_table(PUBLISHED, "tokens_seen")
    if np.isnan(run.published).any() or run.tokens.tolist() != tokens[0][0].tolist():
        return "", None, None
    windows = f"{run.config['valid_windows']:,d}"
    three = {"published": theirs, "ours, same 16": run.published, f"ours, {windows}": run.loss}
    a, b, wide = (Y.mean(0) for Y in three.values())
    x, start = run.tokens[1:] / 1e6, after_turn(*three.values())
    drawing = line_chart([(name, x, Y.mean(0)[1:]) for name, Y in three.items()],
                         "training tokens (millions)", "mean validation loss (nats)",
                         run.epochs[-1] / x[-1])
    agree, easy = np.corrcoef(np.diff(a)[5:], np.diff(b)[5:])[0, 1], (wide - b)[1:]
    kinds, waving = ("", None) if run.windows is None else in_kinds(run, start)
    return paragraphs(f"""On the same 16 windows our mean differs from the published one by
        {np.abs(b - a).mean():.3f} nats on average over the {len(a)} intervals; ours is
        lowest at interval {run.intervals[b.argmin()]}, theirs at {run.intervals[a.argmin()]};
        from interval 6 on our changes and theirs correlate {agree:.2f}. The {windows} windows
        begin at the same token; from interval 1 on the 16 are {easy.min():.2f} to {easy.max():.2f}
        nats easier."""
        ) + table(["interval", *three, "difference"], zip(run.intervals, a, b, wide, b - a)
        ) + paragraphs(f"""What of the published ups and downs remains on more windows, from
        interval {start} on:""") + table(["", *three], side_by_side(
            map(run.with_loss, three.values()), start)) + kinds, drawing, waving

def in_kinds(run, start):
    """(HTML, SVG): the waves in each part of the validation windows, and what is left in all."""
    parts = [run.with_loss(losses) for losses in in_parts(run).transpose(2, 0, 1)]
    each = np.array([waves(part.loss[:, start:]) for part in parts])  # (PARTS, n, m)
    whole, means, x = waves(run.loss[:, start:]), each.mean(1), run.tokens[start:] / 1e6
    alike = np.corrcoef(means)
    pairs = alike[np.triu_indices(len(means), 1)]
    two = np.unravel_index(alike.argmin(), alike.shape)  # the parts that are least alike
    drawing = line_chart(
        [("mean", x, whole.mean(0)), *((f"part {j + 1}", x, means[j]) for j in two)],
        "training tokens (millions)", "loss less its cubic curve (nats)", run.epochs[-1] * 1e6
        / run.tokens[-1])
    return paragraphs(f"""The same in {len(parts)} equal parts of the {run.windows.shape[-1]:,d}
        windows, neighbours together. The waves of a seed have the size
        {each.std((1, 2)).mean():.3f} in a part and {whole.std():.3f} in all; between two parts
        those of the mean curve correlate {pairs.min():.2f} to {pairs.max():.2f}: where text of
        different kinds rises and falls in turn, a mean over all hides it.""") + table(
        ["part", *range(1, len(parts) + 1)], side_by_side(parts, start)), drawing

def interaction(runs, start):
    """Sentences on the first two of name -> Run, on the seeds that both have. The interaction of
    arm and interval is the repeated-measures ANOVA of their difference, without interval 0, where
    it is 0 by construction; the sizes of their waves are compared by a t test of logs, variances
    between seeds by Pitman and Morgan's test. Before that, do the waves of one seed look alike in
    both? If not, what the arms differ in has made them."""
    (one, two), (A, B) = list(runs)[:2], of_shared_seeds(list(runs.values())[:2])
    if not A.seeds or len(A.tokens) <= start + 5 or not np.array_equal(A.tokens, B.tokens):
        return [f"{one} and {two} are not tested against each other: that takes seeds that both "
                f"have, and the same intervals, {start + 6} or more."]
    stack = lambda X: in_parts(X).transpose(0, 2, 1).reshape(-1, len(X.tokens))  # (n PARTS, k)
    alike = {where: np.mean([in_common(waves(np.array(pair)[:, start:])) for pair in zip(*losses)])
             for where, losses in (("all windows", (A.loss, B.loss)),
                                   ("the published windows", (A.published, B.published)),
                                   ("parts of the windows", (stack(A), stack(B))))}
    said = [f"Waves of one seed in {one} and in {two} correlate " + ", ".join(
        f"{number(r)} ({where})" for where, r in alike.items() if r == r)]
    if len(A.seeds) < 2:
        return [*said, f"{one} and {two} have one seed in common: described, not tested."]
    a = stats.rm_anova((A.loss - B.loss)[:, 1:])
    # Logs, because sizes are compared by their ratio: the mean difference of logs is its log.
    w = stats.pairwise_tests(np.log([waves(X.loss[:, start:]).std(1) for X in (A, B)]).T)
    # cov(a + b, a - b) = var(a) - var(b): if variances are equal, sum and difference of pairs do
    # not correlate. (Where one of them is constant, as for a run and itself, there is no p.)
    ends = np.array([A.loss[:, -1], B.loss[:, -1]])
    both = ends.sum(0), ends[0] - ends[1]
    p = scipy.stats.pearsonr(*both).pvalue if np.ptp(both, axis=1).all() else math.nan
    return [*said, f"{one} minus {two}, by interval: F({a.df_effect}, {a.df_error}) = "
            f"{number(a.f)}, epsilon {number(a.epsilon_gg)}, p = {number(a.p_gg)} "
            "(Greenhouse-Geisser)",
            f"Size of the waves, {one} over {two}: {math.exp(w.mean_diff[0]):.2f}, paired "
            f"t({len(A.seeds) - 1}) = {number(w.t[0])}, p = {number(w.p[0])}",
            "Standard deviation between seeds at the end: {:.4f} and {:.4f}, p = ".format(
                *ends.std(1, ddof=1)) + number(p) + " (Pitman-Morgan)"]

def compare(folders):
    """Draw the mean curves of several runs, tell their characters, and test the first two."""
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):  # A/run and B/run
        names = ["_".join(Path(folder).resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        raise InputError("two of the folders have one name; name different ones, or rename one")
    whole = {name: read_curves(Path(folder)) for name, folder in zip(names, folders)}
    runs = dict(zip(names, of_shared_seeds(list(whole.values()))))
    seeds = f"of the seeds that all have ({', '.join(map(str, runs[names[0]].seeds))})"
    if not runs[names[0]].seeds:
        runs, seeds = whole, "each of its own seeds, since none is in all"
    stem = Path(folders[0], f"compared_with_{'_'.join(names[1:])}")
    unit, x_label = token_axis(max(run.tokens[-1] for run in runs.values()))
    # (From interval 1 on: next to the descent from chance one sees nothing else.)
    write_whole(f"{stem}.svg", line_chart(
        [(name, run.tokens[1:] / unit, run.loss.mean(0)[1:]) for name, run in runs.items()],
        x_label, "mean validation loss (nats)"))
    start = after_turn(*(run.loss for run in runs.values()))
    rows = side_by_side(runs.values(), start)
    if all(np.isfinite(run.published).all() for run in runs.values()):
        rows += [["On the published study's windows", *names], *side_by_side(
            [run.with_loss(run.published) for run in runs.values()], start)]
    write_csv(f"{stem}.csv", ["", *names], rows)
    shown = [[f"From interval {start} on, where it says no more", *names],
             *([cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows)]
    return [f"The curves and this table, {seeds}: {stem}.svg and .csv",
            *(f"{what:42s}" + "".join(f"{cell:>16.15}" for cell in row) for what, *row in shown),
            *interaction(whole, start)]

# ---------------------------------------------------------------- the ladder: models at one cost

def read_rungs(folders):
    """name -> Run, of the seeds that are complete in all. InputError if these are fewer than 2."""
    rungs = of_shared_seeds([read_run(folder) for folder in folders])
    for run in rungs:
        with damaged(f"config.json in {run.folder} is damaged", "make the rung anew"):
            float(run.config["flops_per_token"])
            for name in ("parameters", "train_unknown", "valid_unknown", "test_unknown",
                         "train_tokens", "valid_tokens", "test_tokens"):
                format(run.config[name], ",d")
    if len(rungs[0].seeds) < 2:
        raise InputError("fewer than 2 seeds are complete in all of "
                         + ", ".join(run.folder.name for run in rungs))
    return {run.folder.name: run for run in rungs}

def test_losses(run):
    """(n): the loss of each seed's best checkpoint on the test text, which run_all.py measures."""
    with damaged(f"test.csv in {run.folder} is damaged or not there", "run_all.py writes it again"):
        loss = {int(row["seed"]): float(row["test_loss"])
                for row in read_records(run.folder / "test.csv")}
        return np.array([loss[seed] for seed in run.seeds])

def claims(losses):
    """claim -> the difference of each seed (n), from rung -> losses (n), all at one cost. A claim
    about rungs that were not trained is left out."""
    found = {}
    for claim, *sides in (
            ("attention minus mlp", "attention-1 attention-2 attention-4",
             "mlp-128 mlp-256 mlp-512"),
            ("4 layers minus 2", "transformer-4", "transformer-2"),
            ("context 128 minus 32", "context-128", "context-32"),
            ("rotary minus learned, 1 layer", "attention-4-rotary", "attention-4"),
            ("rotary minus learned, 2 layers", "rotary", "transformer-2"),
            ("rotary minus learned, llama", "llama", "llama-learned")):
        trained = [[name for name in side.split() if name in losses] for side in sides]
        if all(trained):
            if sum(map(len, trained)) < len(" ".join(sides).split()):
                claim += f" ({', '.join(sum(trained, []))} alone)"
            a, b = (np.mean([losses[name] for name in side], axis=0) for side in trained)
            found[claim] = a - b
    return found

def claims_tested(found):
    """Planned contrasts, Bonferroni over them: rows of claim, difference, sd, t, p, verdict."""
    rows = []
    for claim, d in found.items():
        t = stats.pairwise_tests(np.stack([d, np.zeros(len(d))], axis=1))
        p = min(1.0, t.p[0] * len(found)) if len(d) >= 5 else math.nan
        outcome = "described, not tested: fewer than 5 seeds" if math.isnan(p) else (
            "no difference shown" if p >= stats.ALPHA else "lower" if d.mean() < 0 else "higher")
        rows.append([claim, d.mean(), d.std(ddof=1), t.t[0], p, outcome])
    return rows

def rungs_tested(rungs):
    """(a sentence: do the rungs differ on the test text?, rows of all pairs of them). Seeds are the
    subjects."""
    Y, names = np.array([rung.test for rung in rungs.values()]).T, list(rungs)
    if len(Y) < 5 or len(names) < 2:
        return "With fewer than 5 seeds or 2 rungs: described, not tested.", []
    a = stats.rm_anova(Y)
    return (f"""Test loss over the rungs: F({a.df_effect}, {a.df_error}) = {number(a.f)}, epsilon
        {number(a.epsilon_gg)}, p = {number(a.p_gg)} (Greenhouse-Geisser).""",
            [row[:4] for row in contrasts(stats.pairwise_tests(Y), names)])

def ladder_figures(rungs, unit):
    """name -> SVG: loss against FLOPs, with the frontier; test loss against parameters."""
    curves = [(name, np.log10(rung.flops[1:]), rung.loss.mean(0)[1:])
              for name, rung in rungs.items()]
    x = np.linspace(min(flops[0] for _, flops, _ in curves),
                    min(flops[-1] for _, flops, _ in curves), 60)
    lowest = np.min([np.interp(x, *curve[1:], left=np.inf) for curve in curves], axis=0)
    # (Before its first measurement, left, a rung has nothing to offer: its loss is infinite.)
    frontier = np.minimum.accumulate(lowest)  # the best that so many FLOPs or fewer can buy
    dots = [(name, np.log10([rung.config["parameters"]]), rung.test.mean(keepdims=True))
            for name, rung in rungs.items()]
    curves.insert(0, ("frontier", x, frontier))  # below the others: one of them lies on it
    return {"loss_by_flops": line_chart(curves, "training FLOPs (powers of ten)",
                                        f"validation loss (nats a {unit})"),
            "loss_by_parameters": line_chart(dots, "parameters (powers of ten)",
                                             f"test loss (nats a {unit})")}

def write_ladder(folder, folders):
    """rungs.csv, claims.csv, pairs.csv, curves.csv, figures and report.html of the rungs' folders;
    sentences. Every curve is read off at the same costs: the mean over the last quarter of what the
    rung spent that spent least. Trap: at a single cost each rung stands at another place of the
    text, and the curves wobble with the place."""
    folder, rungs = Path(folder), read_rungs(folders)
    config = next(iter(rungs.values())).config
    budget = min(rung.flops[-1] for rung in rungs.values())
    costs = budget * np.linspace(0.75, 1, 26)
    losses = {name: np.array([np.interp(costs, rung.flops, curve).mean() for curve in rung.loss])
              for name, rung in rungs.items()}  # (n): between measurements a line
    unit = {"word": "word", "char": "character"}.get(config.get("tokenizer"), "token")
    rows = []
    for name, rung in rungs.items():
        # (Two nans, so that their mean and sd are nan too.)
        perplexity = np.exp(rung.test) if unit == "word" else np.full(2, math.nan)
        rows.append([name, rung.config["parameters"],
                     float(rung.config["flops_per_token"]), rung.flops[-1], rung.test.mean(),
                     rung.test.std(ddof=1), rung.test.mean() / math.log(2), perplexity.mean(),
                     perplexity.std(ddof=1), losses[name].mean()])
    tests, drawings = claims_tested(claims(losses)), ladder_figures(rungs, unit)
    differ, pairs = rungs_tested(rungs)
    tables = {
        "rungs": (["rung", "parameters", "FLOPs a token", "training FLOPs", "test loss (nats)",
                   "sd", f"bits a {unit}", "perplexity", "sd of perplexity",
                   "validation loss at equal FLOPs"], rows),
        "claims": (["claim", "difference (nats)", "sd", "t", "p (Bonferroni)", "verdict"], tests),
        "pairs": (["pair", "difference of test loss", "t", "p (Bonferroni)"], pairs),
        "curves": (["rung", "training FLOPs", "validation loss", "sd"], [
            [name, *point] for name, rung in rungs.items() for point in zip(
                rung.flops, rung.loss.mean(0), rung.loss.std(0, ddof=1))])}
    for name, (header, cells) in tables.items():
        write_csv(folder / f"{name}.csv", header, cells)
    for name, drawing in drawings.items():
        write_whole(folder / f"{name}.svg", drawing)
    best = min(losses, key=lambda name: losses[name].mean())
    unknown = ", ".join(f"{config[f'{part}_unknown']:,d} of {config[f'{part}_tokens']:,d}"
                        for part in ("train", "valid", "test"))
    said = [f"{len(rows)} rungs, {len(losses[best])} seeds, {config['text']}: for {budget:.3g} "
            f"FLOPs {best} has the lowest validation loss, {losses[best].mean():.3f} nats a "
            f"{unit}; its test loss is {rungs[best].test.mean():.3f}.",
            *(f"{claim}: {d:+.3f} nats, {outcome}." for claim, d, *_, outcome in tests)]
    write_page(folder / "report.html", "The architecture ladder", {
        "In short": paragraphs(*said),
        "The rungs": table(*tables["rungs"]) + paragraphs(f"""Means over seeds. Test loss: of each
            seed's best checkpoint by validation, judged once. Unknown, and so <unk>: {unknown}
            tokens of the training, validation and test text.""") + "".join(
            f"<figure>{drawing}</figure>\n" for drawing in drawings.values()),
        "The claims": table(*tables["claims"]) + paragraphs(f"""Validation loss of each rung, read
            off its curve over the last quarter of {budget:.3g} training FLOPs; paired over
            seeds."""),
        "The tests": paragraphs(differ) + table(*tables["pairs"])})
    return [*said, f"The report: {folder / 'report.html'}"]

# ---------------------------------------------------------------- the command line

def lesson():
    """What the published study's own numbers say when one asks them again, as lines."""
    Y = stats.read_table(PUBLISHED)[0]
    m, wave = derive(Y), waves(Y[:, 5:])
    yield "The published study, mean validation loss of 6 seeds at 21 intervals:"
    yield "  " + " ".join(f"{x:.2f}" for x in Y.mean(0))
    yield (f"Spikes by the published rule: {np.nansum(m['spike']):.0f}; by the rule that leaves "
           f"the change out of its own threshold: {np.nansum(m['spike_corrected']):.0f}.")
    yield f"After the turn, the changes of two seeds correlate {in_common(m['change'][:, 6:]):.2f}."
    yield "Mean loss minus its cubic trend; every third falls on one place of the text:"
    yield "  " + "  ".join(f"{t}:{x:+.3f}" for t, x in enumerate(wave.mean(0), 5))
    # (46.68 epochs in 20 intervals are 2.334 each: 3 intervals are 7 whole epochs, nearly.)
    yield (f"Of these, {returning(wave, 3):.0%} of the variance returns with the place. "
           "Is that instability of the training, or a property of the text?")
    mean, best, last = Y.mean(0), int(Y.mean(0).argmin()), Y.shape[1] - 1
    yield (f"Stop at interval {best}: the other {1 - best / last:.0%} of the compute took "
           f"the mean loss from {mean[best]:.3f} to {mean[-1]:.3f}. With a patience of "
           f"{patience_costs(Y)}.")
    yield "F (p by Greenhouse-Geisser) of the"
    for name, X in tested(Y, m, 5).items():
        a = stats.rm_anova(X)
        yield f"  {name:40s} {a.f:10,.2f}  ({a.p_gg:.2g})"

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
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console that lacks a character shows "?"
    main()
