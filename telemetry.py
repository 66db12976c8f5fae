"""Chapter 5. Telemetry: how stable was the training, and what may one conclude from it?

From the validation losses of all seeds, a matrix (n_seeds, n_intervals), to stability measures,
figures, tables and the report. Nothing here trains anything, and nothing here needs torch.

    python telemetry.py runs/classroom                 rebuild tables, figures and report.html
    python telemetry.py runs/classroom runs/fresh      the same, and compare the two
    python telemetry.py                                a lesson: the published study's own data

Reading order: `derive` holds every measure; the drawing is 100 lines of SVG; `answers` and the
audit compute each sentence of the report from this run's data, so that none can go out of date.
"""

import html, json, math, sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import f as f_distribution

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
    spike_corrected: m and s from the window before d[t] (t >= 3), so that it can fire.
    stable: volatility in the lowest quantile of all, no spike and few backslides in the window.
    """
    Y = np.asarray(val_loss, dtype=np.float64)
    d = np.diff(Y, axis=-1, prepend=np.nan)
    empty = np.full(Y.shape, np.nan)
    m = {name: empty.copy() for name in (
        "volatility", "backslide", "backslide_magnitude", "backslide_frequency", "spike",
        "spike_rate", "spike_corrected", "spike_rate_corrected", "stable")}
    m["change"], later = d, slice(1, None)
    m["backslide"][..., later] = d[..., later] > 0
    m["backslide_magnitude"][..., later] = np.maximum(d[..., later], 0)
    m["spike"][..., 1:2] = d[..., 1:2] > spike_floor
    for t in range(1, Y.shape[-1]):
        first = max(1, t - window + 1)
        recent, before = d[..., first : t + 1], d[..., max(1, t - window) : t]
        if t >= 2:
            m["volatility"][..., t] = recent.std(axis=-1, ddof=1)
            # EXERCISE 7: a rule for spikes, and one for stable phases, that finds planted ones.
            m["spike"][..., t] = exceeds(d[..., t], recent, spike_factor, spike_floor)
        if t >= 3:
            m["spike_corrected"][..., t] = exceeds(d[..., t], before, spike_factor, spike_floor)
        m["backslide_frequency"][..., t] = m["backslide"][..., first : t + 1].sum(axis=-1)
        m["spike_rate"][..., t] = m["spike"][..., first : t + 1].mean(axis=-1)
        corrected = m["spike_corrected"][..., max(3, first) : t + 1]
        m["spike_rate_corrected"][..., t] = corrected.mean(axis=-1) if t >= 3 else np.nan
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
    windows: np.ndarray | None  # (n, k, n_windows) loss of each validation window
    measures: dict  # name -> (n, k), from derive
    notes: list  # sentences about what is left out

    @property
    def best(self):
        """Index of the interval with the lowest mean validation loss."""
        return int(self.loss.mean(0).argmin())

    @cached_property
    def simulated(self):
        return false_positives(self)

def read_run(folder):
    """Read config.json and metrics.csv of a run folder. InputError says what is missing."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rules = {name: config[name] for name in (
            "spike_factor", "spike_floor", "stable_quantile", "stable_backslides")}
        rules["window"] = config["volatility_window"]
    except OSError:
        raise InputError(f"{folder} is not the folder of a run: it has no config.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'} is damaged ({error}); restore it, or make the "
                         "run again with --restart") from None
    table = folder / "metrics.csv"
    loss, seeds, intervals, notes = stats.read_table(table)

    def column(name):
        Y, those, _, _ = stats.read_table(table, name)
        Y = Y[[seed in seeds for seed in those]]
        return np.pad(Y, ((0, 0), (len(intervals) - Y.shape[1], 0)), constant_values=np.nan)

    missing = [seed for seed in config["seeds"] if seed not in seeds]
    notes += [f"seed {seed} is not complete and is left out" for seed in missing]
    files = [folder / f"seed_{seed}" / "val_windows.npy" for seed in seeds]
    windows = np.stack([np.load(file) for file in files]) if all(f.exists() for f in files) else None
    return Run(folder, config, seeds, intervals, column("tokens_seen")[0], column("epochs")[0],
               loss, column("train_loss"), column("val_loss_se"), column("val_change_se"), windows,
               derive(loss, **rules), notes)

# ---------------------------------------------------------------- drawing

# Okabe and Ito's colours, told apart by colour-blind readers too; dashes for print in grey.
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9".split()
DASHES = ["", "8 3", "2 2", "10 3 2 3", "5 2", "14 4"]
FONT = 'font-family="system-ui, sans-serif" font-size="13"'

def ticks(low, high, n=6):
    """About n round numbers from low to high: ticks(0, 10) = 0 2 4 6 8 10."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / n))
    step *= next(s for s in (1, 2, 5, 10) if (high - low) / (s * step) <= n)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]

def line_chart(lines, x_label, y_label, log=False, top=None, marks=()):
    """An SVG drawing of lines [(label, x, y)]; labels starting with "mean" are bold and black.

    log: of the y axis. top: (label, factor) of a second x axis, whose values are x * factor.
    marks: points (x, y, text). More than 8 unnamed lines are drawn thin and grey.
    """
    left, right, upper, lower, width, height = 66, 150, 48 if top else 16, 48, 780, 400
    scale = (lambda v: np.log10(np.where(v > 0, v, np.nan))) if log else np.asarray
    xs = np.concatenate([x for _, x, _ in lines])
    ys = scale(np.concatenate([y for _, _, y in lines]).astype(float))
    x0, x1, y0, y1 = xs.min(), xs.max(), np.nanmin(ys), np.nanmax(ys)
    pad = 0.04 * (y1 - y0) or 0.5
    y0, y1 = y0 - pad, y1 + pad
    X = lambda x: left + (x - x0) / ((x1 - x0) or 1) * (width - left - right)
    Y = lambda y: height - lower - (scale(y) - y0) / (y1 - y0) * (height - upper - lower)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
           f'{FONT}><title>{html.escape(f"{y_label} against {x_label}")}</title>']
    text = lambda x, y, s, anchor="middle", more="": out.append(
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{html.escape(str(s))}</text>')
    stroke = lambda points, style: out.append(f'<polyline fill="none" {style} points="{points}"/>')
    y_ticks = ticks(y0, y1)
    if log:
        y_ticks = [10**e * m for e in range(math.floor(y0), math.ceil(y1) + 1) for m in (1, 2, 5)]
        y_ticks = [v for v in y_ticks if y0 <= math.log10(v) <= y1]
        y_ticks = [v for v in y_ticks if len(y_ticks) < 9 or math.log10(v) % 1 < 1e-9]
    for v in y_ticks:
        stroke(f"{left},{Y(v):.1f} {width - right},{Y(v):.1f}", 'stroke="#ddd"')
        text(left - 7, Y(v) + 4, f"{v:.6g}", "end")
    for v in ticks(x0, x1):
        stroke(f"{X(v):.1f},{height - lower} {X(v):.1f},{height - lower + 5}", 'stroke="#333"')
        text(X(v), height - lower + 19, f"{v:.6g}")
    for v in ticks(x0 * top[1], x1 * top[1], 8) if top else ():
        stroke(f"{X(v / top[1]):.1f},{upper} {X(v / top[1]):.1f},{upper - 5}", 'stroke="#333"')
        text(X(v / top[1]), upper - 9, f"{v:.6g}")
    if top:
        text((left + width - right) / 2, 15, top[0])
    out.append(f'<rect x="{left}" y="{upper}" width="{width - left - right}" '
               f'height="{height - upper - lower}" fill="none" stroke="#333"/>')
    text((left + width - right) / 2, height - 8, x_label)
    text(0, 0, y_label, more=f'transform="translate(15 {(upper + height - lower) / 2}) rotate(-90)"')
    many = sum(not label.startswith("mean") for label, _, _ in lines) > 8
    for i, (label, x, y) in enumerate(lines):
        mean, row = label.startswith("mean"), upper + 12 + 20 * min(i, 8 if many else i)
        style = f'stroke="{COLOURS[i % 6]}" stroke-dasharray="{DASHES[i % 6]}" stroke-width="1.8"'
        style = 'stroke="#000" stroke-width="3"' if mean else (
            'stroke="#888" stroke-width="0.7"' if many else style)
        points = [f"{X(a):.1f},{Y(b):.1f}" if np.isfinite(scale(b)) else "" for a, b in zip(x, y)]
        for piece in " ".join(p or "|" for p in points).split("|"):
            stroke(piece.strip(), style)
        if mean or not many or i == 0:
            row = upper + 12 + 20 * (1 if many and mean else i)
            stroke(f"{width - right + 10},{row} {width - right + 38},{row}", style)
            text(width - right + 44, row + 4, "each seed" if many and not mean else label, "start")
    for x, y, s in marks:
        out.append(f'<circle cx="{X(x):.1f}" cy="{Y(y):.1f}" r="6" fill="none" stroke="#000" '
                   'stroke-width="2"/>')
        text(X(x), Y(y) + 22, s, more='font-weight="bold"')
    return "\n".join(out) + "\n</svg>\n"

def cell_map(colours, letters, row_labels, column_labels, legend, x_label):
    """An SVG drawing of a table of cells: colours and letters (rows x columns), a legend below."""
    n, k = len(colours), len(colours[0])
    size = min(30, max(6, 640 // k))
    width, height = 80 + size * k + 20, size * n + 74
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(width, 640)} {height}" '
           f'role="img" {FONT}><title>{html.escape(x_label)}</title>']
    for i in range(n):
        out.append(f'<text x="74" y="{size * (i + 0.5) + 5:.0f}" text-anchor="end" '
                   f'font-size="{min(13, size)}">{row_labels[i]}</text>')
        for j in range(k):
            if colours[i][j]:
                x, y = 80 + size * j, size * i
                out.append(f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" '
                           f'fill="{colours[i][j]}"/>')
                if letters[i][j] and size > 9:
                    ink = "#fff" if colours[i][j] in ("#08306b", "#2171b5") else "#000"
                    out.append(f'<text x="{x + size / 2 - 0.5}" y="{y + size / 2 + 4}" fill="{ink}" '
                               f'text-anchor="middle" font-size="11">{letters[i][j]}</text>')
    for j in range(0, k, max(1, math.ceil(k * 22 / (size * k)))):
        out.append(f'<text x="{80 + size * (j + 0.5):.0f}" y="{size * n + 14}" '
                   f'text-anchor="middle" font-size="11">{column_labels[j]}</text>')
    out.append(f'<text x="80" y="{size * n + 33}">{html.escape(x_label)}</text>')
    x = 80
    for colour, words in legend:
        out.append(f'<rect x="{x}" y="{size * n + 46}" width="14" height="14" fill="{colour}" '
                   f'stroke="#999"/><text x="{x + 20}" y="{size * n + 58}">{html.escape(words)}</text>')
        x += 34 + 7.2 * len(words)
    return "\n".join(out) + "\n</svg>\n"

def figures(run):
    """name -> (SVG, caption) of every figure of the report."""
    unit, name = (1e6, "million") if run.tokens[-1] >= 2e6 else (1e3, "thousand")
    x, m, best = run.tokens / unit, run.measures, run.best
    x_label = f"training tokens ({name})"
    epochs = ("epochs", run.epochs[-1] / x[-1])
    by_seed = lambda Y: [(f"seed {s}", x, row) for s, row in zip(run.seeds, Y)]
    mean = lambda Y: (f"mean of {len(Y)}", x, Y.mean(0))
    letters = np.where(m["spike_corrected"] == 1, "C", np.where(m["stable"] == 1, "S", ""))
    letters = np.where(m["spike"] == 1, "P", letters)
    events = np.where(m["stable"] == 1, "#009E73", np.where(
        m["backslide"] == 1, "#F5C67A", "#E4EEF5")).astype(object)
    events[:, 0] = ""
    every = math.ceil(len(x) / 60)
    some = list(range(0, len(x), every))
    pairs = stats.pairwise_tests(run.loss[:, some])
    shade, signs = (np.full((len(some),) * 2, "", dtype=object) for _ in "12")
    for a, b, p, d in zip(pairs.a, pairs.b, pairs.p_adjusted, pairs.mean_diff):
        shade[b, a] = "#ffffff" if np.isnan(p) else ["#08306b", "#2171b5", "#9ecae1", "#eaf1f8"][
            int(np.searchsorted([0.001, 0.01, 0.05], p, side="right"))]
        signs[b, a] = "?" if np.isnan(p) else ("−" if d > 0 else "+") if p < 0.05 else ""
    return {
        "loss_by_seed": (line_chart(by_seed(run.loss) + [mean(run.loss)], x_label,
                                    "validation loss (nats)", top=epochs),
                         "Validation loss of every seed, and how often the text has been read."),
        "train_and_validation": (
            line_chart([("training", x, run.train_loss.mean(0)), ("mean validation", x,
                                                                  run.loss.mean(0))],
                       x_label, "loss (nats)", top=epochs, marks=[
                           (x[best], run.loss.mean(0)[best], f"lowest: {run.loss.mean(0)[best]:.3f}")]),
            "Training and validation loss, means over seeds. Where the first goes on falling and "
            "the second rises, the model learns the training text and no longer the language."),
        "volatility": (line_chart(by_seed(m["volatility"]) + [mean(m["volatility"])], x_label,
                                  "rolling volatility (nats, log scale)", log=True),
                       f"Standard deviation of the last {run.config['volatility_window']} changes. "
                       "The fall at the left is the first drop of the loss leaving the window."),
        "backslides": (line_chart(by_seed(m["backslide_frequency"]) + [mean(
            m["backslide_frequency"])], x_label, "backslides in the window"),
            f"How many of the last {run.config['volatility_window']} changes went up."),
        "events": (cell_map(events, letters, run.seeds, run.intervals, [
            ("#E4EEF5", "loss fell"), ("#F5C67A", "backslide"), ("#009E73", "S stable")],
            "interval   (P: spike as published, C: spike by the corrected rule)"),
            "Backslides, spikes and stable phases, seed by seed."),
        "pairs": (cell_map(shade, signs, [run.intervals[i] for i in some],
                           [run.intervals[i] for i in some], [
            ("#eaf1f8", "p ≥ .05"), ("#9ecae1", "< .05"), ("#2171b5", "< .01"),
            ("#08306b", "< .001"), ("#ffffff", "? undefined")],
            "earlier interval (column) against later (row); + the later loss is higher"),
            f"Which intervals differ: paired t tests of {len(pairs.p)} pairs, p after Bonferroni."),
    }

# ---------------------------------------------------------------- the tests of a run

def tested(run):
    """[(what, matrix)]: the variables of the repeated-measures ANOVA, with their ablations."""
    w, volatility = run.config["volatility_window"], run.measures["volatility"]
    return [(name, Y) for name, Y in (
        ("validation loss", run.loss), ("validation loss without interval 0", run.loss[:, 1:]),
        ("perplexity", np.exp(np.minimum(run.loss, 300))), ("volatility", volatility[:, 2:]),
        ("volatility without the first drop", volatility[:, w + 1 :]),
        ("volatility, windows that do not overlap", volatility[:, 2 * w :: w]))
        if Y.shape[1] >= 2]

def counted(run):
    """[(what, Friedman's test)] of the counts, from the first full window on."""
    w, m = run.config["volatility_window"], run.measures
    return [(name, stats.friedman(Y[:, w:])) for name, Y in (
        ("backslide frequency", m["backslide_frequency"]), ("spike rate", m["spike_rate"]),
        ("spike rate, corrected rule", m["spike_rate_corrected"])) if Y.shape[1] >= w + 2]

def planned(run):
    """The tests of chance (interval 0) against the minimum and of the minimum against the end.

    The minimum is chosen on one half of the validation windows and tested on the other, because
    what flatters a chosen minimum is the sample of windows, which all seeds share.
    """
    choose = test = run.loss
    if run.windows is not None:
        choose, test = run.windows[..., ::2].mean(-1), run.windows[..., 1::2].mean(-1)
    best, last = int(choose.mean(0).argmin()), run.loss.shape[1] - 1
    return stats.pairwise_tests(test, [pair for pair in ((0, best), (best, last))
                                       if pair[0] != pair[1]])

def fluctuations(run):
    """The changes from the second interval after the minimum on; if that is late, of the last
    half: (n, at least 3)."""
    k = run.loss.shape[1]
    return run.measures["change"][:, max(1, min(run.loss.mean(0).argmin() + 2, k // 2, k - 3)) :]

def in_common(d):
    """Mean correlation between the rows of d (n, m): how much of their ups and downs is shared."""
    d = d - d.mean(1, keepdims=True)
    length = np.sqrt((d**2).sum(1, keepdims=True))
    if d.shape[1] < 3 or not length.all():
        return math.nan
    return float(((d / length).sum(0) ** 2).sum() - len(d)) / (len(d) * (len(d) - 1))

def over_time(x):
    """Correlation of the rows of x (n, m) with themselves one interval later: AR(1)'s phi."""
    return float(np.clip((x[:, 1:] * x[:, :-1]).sum() / max((x**2).sum(), 1e-300), -0.9, 0.9))

def noise(rng, shape, phi):
    """Stationary noise of variance 1 that correlates phi from one interval to the next, AR(1)."""
    x = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        x[..., t] = phi * x[..., t - 1] + math.sqrt(1 - phi**2) * x[..., t]
    return x

def false_positives(run, n_studies=2000):
    """How often do the tests reject in studies like this one in which nothing happens?

    For volatility: changes with this run's correlations over time and between seeds (then with
    independent seeds) make curves that pass through `derive`, as measurements do. For the seed
    effect: deviations from the interval means, correlated over time as in this run, with the seed's
    own mean taken off (too little, if nothing happens) and not (too much, if something does).
    Returns a dict: the correlations, the rates [uncorrected, Greenhouse-Geisser, Huynh-Feldt], and
    seed_p, the share of the second kind of studies with a seed effect as large as this run's.
    """
    (n, k), d, w = run.loss.shape, fluctuations(run), run.config["volatility_window"]
    n_studies, rng = int(np.clip(5e6 // (n * k), 100, n_studies)), np.random.default_rng(1)
    phi, shared = over_time(d - d.mean(1, keepdims=True)), float(np.nan_to_num(in_common(d)))
    found = {"n": n_studies, "phi": phi, "shared": np.clip(shared, 0, 0.99), "volatility": [],
             "seed": []}
    for rho in (found["shared"], 0.0) if k > w + 2 else ():
        change = math.sqrt(rho) * noise(rng, (n_studies, 1, k), phi) + math.sqrt(
            1 - rho) * noise(rng, (n_studies, n, k), phi)
        volatility = derive(change.cumsum(-1), window=w)["volatility"][..., w + 1 :]
        F, gg, hf = stats.f_and_epsilons(volatility)
        df = volatility.shape[-1] - 1
        found["volatility"].append([float((f_distribution.sf(F, e * df, e * df * (n - 1))
                                           < stats.ALPHA).mean()) for e in (1, gg, np.minimum(hf, 1))])
    deviation = run.loss - run.loss.mean(0)
    for x in (deviation - deviation.mean(1, keepdims=True), deviation):
        found["seed_phi"] = [*found.get("seed_phi", []), over_time(x)]
        _, _, (_, ss_subject, ss_error), _ = stats.decompose(noise(rng, (n_studies, n, k), over_time(x)))
        F = ss_subject / ss_error * (k - 1)  # as in rm_anova, each divided by its df
        found["seed"].append(float((f_distribution.sf(F, n - 1, (n - 1) * (k - 1))
                                    < stats.ALPHA).mean()))
    found["seed_p"] = float((F >= stats.rm_anova(run.loss).f_subject).mean())
    return found

def patience_stop(loss, patience):
    """The interval at which training stops if `patience` measurements bring no new minimum:
    patience_stop([3, 2, 4, 5, 1], 2) = 3."""
    best = 0
    for t in range(1, len(loss)):
        best = t if loss[t] < loss[best] else best
        if t - best >= patience:
            return t
    return len(loss) - 1

# ---------------------------------------------------------------- the audit

def audit_epochs(run):
    train, best = run.train_loss.mean(0), run.best
    return (f"The training text was read {run.epochs[-1]:.1f} times; the mean validation loss was "
            f"lowest after {run.epochs[best]:.1f}. The training loss was {number(train[best])} there "
            f"and {number(train[-1])} at the end: what a model still learns after the turn is its "
            "text, not the language.")

def audit_precision(run):
    c, d = run.config, run.measures["change"][:, 1:]
    return (f"Each validation loss rests on {c['valid_windows'] * c['block_size']:,d} tokens; its "
            f"standard error over {c['valid_windows']} windows is about {np.median(run.se):.3f} nats, "
            f"that of a change {np.nanmedian(run.change_se):.3f}, because the windows are the same. "
            f"Of {(d > 0).sum()} backslides {((d > 0) & (d < 2 * run.change_se[:, 1:])).sum()} are "
            "smaller than two standard errors of the change: they may be the windows' accident.")

def audit_common(run):
    place = run.epochs[1:] % 1
    back = [i for i in range(1, min(10, len(place))) if abs((place[i] - place[0] + 0.5) % 1 - 0.5) < 0.03]
    return (f"The late changes of two seeds correlate {number(in_common(fluctuations(run)))} on "
            "average; what they share is not the seed's doing. " + (
                "Each seed read the text in an order of its own."
                if run.config["seed_decides"] != "weights" else
                "All seeds read the text in one order; the first measurements fell at the places "
                + ", ".join(f"{p:.2f}" for p in place[:6]) + " of it" + (
                    f", and every {back[0]} intervals at nearly the same place." if back else ".")))

def audit_rules(run):
    w, c = run.config["volatility_window"], run.config
    cells = run.loss.shape[0] * (run.loss.shape[1] - 2)
    fires = "can fire" if math.sqrt(w - 1) > c["spike_factor"] + 1e-9 else "can never fire"
    return (f"The published spike rule {fires} from interval 2 on: it asks for more than "
            f"{c['spike_factor']:g} standard deviations, and among {w} values none is further than "
            f"{math.sqrt(w - 1):.2f} from their mean. The stable-phase rule can accept at most "
            f"{math.floor(c['stable_quantile'] * (cells - 1)) + 1} of {cells} cells, by its own quantile.")

def audit_sphericity(run):
    (n, k), m = run.loss.shape, stats.mauchly(run.loss)
    return (f"Mauchly's test {f'exists, p = {number(m.p)}' if m.defined else f'does not exist: {m.reason}'}"
            f". With {n} seeds and {k} intervals epsilon cannot exceed {min(1, (n - 1) / (k - 1)):.3f}, "
            "whatever the truth; verdicts rest on Greenhouse-Geisser" + (
                ", since Huynh-Feldt is unreliable with fewer seeds than intervals." if n < k else "."))

def audit_ablations(run):
    return "; ".join(f"{name}: F = {number(stats.rm_anova(Y).f)}" for name, Y in tested(run)) + (
        ". An F that the first drop makes says nothing about the rest; perplexity is exp(loss), the "
        "same measurement twice.")

def audit_false_positives(run):
    found = run.simulated
    rates = [", ".join(f"{rate:.0%}" for rate in row) for row in found["volatility"]]
    return (f"Of {found['n']} simulated studies without any effect, a test at 5 % finds one " + (
        f"in volatility in {rates[0]} (uncorrected, Greenhouse-Geisser, Huynh-Feldt) if the changes of "
        f"the seeds correlate {found['shared']:.2f} as here, and in {rates[1]} if they are independent; "
        if rates else "") + "a seed effect in {:.0%} to {:.0%}, if deviations correlate {:.2f} to {:.2f} "
        "over time as here. Seeds that share text and order are not independent subjects.".format(
            *found["seed"], *found["seed_phi"]))

def audit_seed(run):
    order = run.config["seed_decides"] != "weights"
    return (f"The seed decided the initial weights{' and the order of the windows' * order}. Never "
            f"sampled, so in no error bar: {'the order of the windows, ' * (not order)}the training "
            "text, the tokenizer, the validation windows, the machine.")

def audit_stopping(run):
    each, last, stops, costs = run.loss.argmin(1), len(run.intervals) - 1, [], []
    for patience in (1, 2, 3):
        stop = [patience_stop(row, patience) for row in run.loss]
        stops.append(f"{np.mean(stop):.1f}")
        costs.append(f"{np.mean([r[: s + 1].min() - r.min() for r, s in zip(run.loss, stop)]):.3f}")
    return (f"Stop at interval {run.intervals[run.best]} (single seeds: {run.intervals[each.min()]} to "
            f"{run.intervals[each.max()]}); {1 - run.best / last:.0%} of the compute came after it. A "
            f"patience of 1, 2, 3 would have stopped at interval {', '.join(stops)} on average, and its "
            f"best loss been {', '.join(costs)} nats above the seed's lowest.")

AUDIT = [audit_epochs, audit_precision, audit_common, audit_rules, audit_sphericity,
         audit_ablations, audit_false_positives, audit_seed, audit_stopping]

# ---------------------------------------------------------------- the four answers

def answers(run):
    """[question, hypothesis, variables, verdict, evidence, audit lines against it, published]."""
    tests = [(name, a.p_gg, f"F = {number(a.f)}, p = {number(a.p_gg)}")
             for name, Y in tested(run)[3:] for a in [stats.rm_anova(Y)]]
    tests += [(name, t.p, "never varies" if math.isnan(t.p) else
               f"chi2 = {number(t.chi2)}, p = {number(t.p)}") for name, t in counted(run)]
    differ = [name for name, p, _ in tests if p < stats.ALPHA and name != "volatility"]
    anova, spread, contrasts = stats.rm_anova(run.loss), stats.sd_between(run.loss), planned(run)
    turned = contrasts.b[-1] == run.loss.shape[1] - 1 and contrasts.a[-1] > 0
    rises = turned and contrasts.mean_diff[-1] < 0 and contrasts.p_adjusted[-1] < stats.ALPHA
    stable = run.measures["stable"] == 1
    lasting = (stable[:, 1:] & stable[:, :-1]).mean(0).max()
    verdict = lambda yes, name: f"{'reject' if yes else 'fail to reject'} {name}"
    seed_p = run.simulated["seed_p"]
    return [
        ["RQ1. Do stability measures differ across training?", "H01: they do not",
         "volatility, backslide frequency, spike rate", verdict(differ, "H01") + (
             f" ({', '.join(differ)})" if differ else " once the first drop is left out"),
         "; ".join(f"{name}: {words}" for name, _, words in tests)
         + " (Greenhouse-Geisser; for counts Friedman).", "3, 6, 7", "reject H01"],
        ["RQ2. Do the trajectories of the seeds differ?", "H02: they do not", "validation loss",
         verdict(seed_p < stats.ALPHA, "H02"), f"F = {number(anova.f_subject)}, p = {number(seed_p)} "
         f"calibrated by the simulation of audit line 7; ICC(C,1) = {number(anova.icc)}; standard "
         "deviation between seeds " + " and ".join(
             f"{spread.sd[t]:.4f} (95 % interval {spread.low[t]:.4f} to {spread.high[t]:.4f}) at {at}"
             for t, at in ((0, "the start"), (-1, "the end"))) + ".", "3, 7, 8",
         "descriptive evidence only"],
        ["RQ3. Is learning non-monotonic?", "H03: the loss never rises again", "validation loss",
         verdict(rises, "H03"), "; ".join(
             f"interval {run.intervals[a]} minus {run.intervals[b]}: {d:.3f} nats, p = {number(p)}"
             for a, b, d, p in zip(contrasts.a, contrasts.b, contrasts.mean_diff,
                                   contrasts.p_adjusted))
         + " (Bonferroni). The minimum was chosen on " + (
             "the same windows." if run.windows is None else "one half of the windows and tested "
             "on the other."), "1, 2", "reject H03"],
        ["RQ4. Is there a stable phase?", "H04: there is none",
         "volatility, spike rate, backslide frequency", verdict(lasting >= 0.5, "H04"),
         f"{stable.sum()} of {stable[:, 2:].size} cells meet the rule; at most {lasting:.0%} of the "
         "seeds meet it in the same two intervals running (half of them would be a phase).", "4",
         "fail to reject H04"]]

def summary(run, answered):
    """The outcome in a few plain sentences, for the terminal and for the top of the report."""
    mean, best = run.loss.mean(0), run.best
    return [f"The mean validation loss of {len(run.seeds)} seeds fell from {mean[0]:.3f} (chance: "
            f"{math.log(run.config['vocab_size']):.3f}) to its lowest, {mean[best]:.3f} nats, at "
            f"interval {run.intervals[best]}, after {run.epochs[best]:.1f} epochs; " + (
                f"it came back up by {mean[-1] - mean[best]:.3f} to {mean[-1]:.3f} at the end."
                if best < len(mean) - 1 else "that is the end: it was still falling."),
            *(f"{row[0]} {row[3][0].upper()}{row[3][1:]}." for row in answered), *run.notes]

# ---------------------------------------------------------------- the tables

def number(x):
    """A number for reading: four digits, a dash if undefined."""
    return "–" if math.isnan(x) else f"{x:.4g}"

def table(header, rows):
    """An HTML table; numbers are shortened and set to the right, text is escaped."""
    row = lambda kind, cells: "<tr>" + "".join(
        f"<{kind} class=n>{number(x)}</{kind}>" if isinstance(x, (int, float))
        else f"<{kind}>{html.escape(x)}</{kind}>" for x in cells) + "</tr>\n"
    return f"<table>{row('th', header)}{''.join(row('td', cells) for cells in rows)}</table>\n"

def outcomes(run):
    """(header, rows) of interval_summary.csv: what each interval brought, means over seeds."""
    spread, mean, m = stats.sd_between(run.loss), run.loss.mean(0), run.measures
    columns = {"interval": run.intervals, "tokens": run.tokens, "epochs": run.epochs,
               "train loss": run.train_loss.mean(0), "val loss": mean, "sd": spread.sd,
               "sd low": spread.low, "sd high": spread.high, "perplexity": np.exp(run.loss).mean(0),
               "gain per million": -np.diff(mean, prepend=np.nan)
               / np.diff(run.tokens / 1e6, prepend=np.nan),
               **{name.replace("_", " "): m[name].mean(0) for name in (
                   "volatility", "backslide_frequency", "spike_rate", "spike_rate_corrected",
                   "stable")}}
    return list(columns), [[float(x) for x in row] for row in zip(*columns.values())]

def anovas(run):
    """(header, rows) of anova.csv: each variable's tests, normality and sphericity."""
    rows = []
    for name, Y in tested(run):
        a, levels, m = stats.rm_anova(Y), stats.shapiro_by_level(Y), stats.mauchly(Y)
        rows.append([name, f"{a.df_effect}, {a.df_error}", a.f, a.p, a.epsilon_gg, a.p_gg,
                     a.epsilon_hf, a.p_hf, a.p_lower_bound, a.eta_sq_generalized, a.eta_sq_partial,
                     float(np.fmin.reduce(levels.p)), stats.shapiro_residuals(Y).p,
                     f"W = {number(m.w)}, p = {number(m.p)}" if m.defined else m.reason])
    return ["variable", "df", "F", "p", "epsilon GG", "p GG", "epsilon HF", "p HF", "p lower bound",
            "eta2 generalized", "eta2 partial", "least p of Shapiro", "Shapiro, residuals",
            "Mauchly"], rows

def tests_section(run):
    """The tests as HTML: ANOVA, counts, mixed model, contrasts and pairs."""
    name = lambda a, b: f"interval {run.intervals[a]} minus {run.intervals[b]}"
    pairs, adjacent = stats.pairwise_tests(run.loss), stats.pairwise_tests(run.loss, "adjacent")
    models = {method: stats.mixed_model(run.loss, method) for method in ("ML", "REML")}
    few = [(kind, name(a, b), *map(float, row)) for kind, t in (
        ("planned", planned(run)), ("adjacent", adjacent)) for a, b, *row in zip(
            t.a, t.b, t.mean_diff, t.t, t.p_adjusted, t.d_z)]
    return "".join([
        "<p>Seeds are the subjects, intervals the levels. Read p GG (Greenhouse-Geisser): it allows "
        "for differences of unequal variance. Large p of Shapiro-Wilk do not prove normality.</p>",
        table(*anovas(run)),
        table(["counts: Friedman's test", "chi2", "df", "p"],
              [[what, t.chi2, t.df, t.p] for what, t in counted(run)]),
        "<h3>Mixed model: interval + (1 | seed)</h3>",
        table(["criterion", "log-likelihood", "interval 0", "SE", "SE of contrasts",
               "residual variance", "seed variance"],
              [[method, m.log_likelihood, float(m.fixed[0]), float(m.se[0]), float(m.se[1]),
                m.var_residual, m.var_subject] for method, m in models.items()]),
        table(["contrast with interval 0 (REML)", "estimate", "95 % from", "to"],
              [[f"interval {i}", *map(float, row)] for i, row in zip(run.intervals[1:], zip(
                  *(v[1:] for v in (models["REML"].fixed, models["REML"].low, models["REML"].high))
              ))][:: math.ceil(len(run.intervals) / 40)]),
        "<h3>Few planned contrasts, and all pairs</h3>",
        table(["", "contrast", "difference", "t", "p (Bonferroni)", "d_z"], few[:42]),
        f"<p>All pairs: {(pairs.p_adjusted < stats.ALPHA).sum()} of {len(pairs.p)} differ after "
        f"Bonferroni, among them {(pairs.p_adjusted[pairs.b == pairs.a + 1] < stats.ALPHA).sum()} of "
        f"the {len(adjacent.p)} adjacent ones; if only those are asked for, "
        f"{(adjacent.p_adjusted < stats.ALPHA).sum()}. Undefined: {np.isnan(pairs.p).sum()}.</p>"])

# ---------------------------------------------------------------- the report

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;
color:#222}table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}
td,th{border-bottom:1px solid #ccc;padding:2px 8px;text-align:left;vertical-align:top}.n{text-align:
right;white-space:nowrap}figure{margin:1.5em 0;break-inside:avoid}figcaption{font-size:14px;color:
#555}svg{width:100%;max-width:780px;height:auto}blockquote{white-space:pre-wrap;background:#f5f5f0;
padding:1em;margin:1em 0}@media print{body{font-size:11px;margin:0}table{font-size:7px}td,th{padding:
1px 3px}}"""

def write_report(folder):
    """Write tables, figures and report.html of a run; returns its summary, a list of sentences."""
    run = read_run(folder)
    c, mean, best, drawn = run.config, run.loss.mean(0), run.best, figures(run)
    answered, (header, rows), pairs = answers(run), outcomes(run), stats.pairwise_tests(run.loss)
    (run.folder / "figures").mkdir(exist_ok=True)
    for name, (svg, _) in drawn.items():
        write_whole(run.folder / "figures" / f"{name}.svg", svg)
    write_csv(run.folder / "interval_summary.csv", header, rows)
    write_csv(run.folder / "anova.csv", *anovas(run))
    write_csv(run.folder / "pairwise.csv", vars(pairs), zip(*(v.tolist() for v in vars(pairs).values())))
    write_csv(run.folder / "telemetry.csv", ["seed", "interval", "tokens_seen", *run.measures], [
        [seed, interval, int(run.tokens[t]), *(float(Y[i, t]) for Y in run.measures.values())]
        for i, seed in enumerate(run.seeds) for t, interval in enumerate(run.intervals)])
    figure = lambda name: "<figure>{}<figcaption>{}</figcaption></figure>".format(*drawn[name])
    order = lambda t: " ".join(str(run.seeds[i]) for i in run.loss[:, t].argsort()[:12])
    try:
        samples = json.loads((run.folder / "samples.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        samples = {}
    sections = {
        "In short": "".join(f"<p>{html.escape(line)}</p>" for line in summary(run, answered)),
        "What was asked": table(["question", "null hypothesis", "variables"],
                                [row[:3] for row in answered]),
        "What was done":
            f"<p>A Llama of {c['n_layer']} layers, {c['n_head']} heads and width {c['n_embd']} was "
            f"trained once for each seed, on {c['train_documents']:,d} documents of "
            f"{html.escape(c['corpus'])} ({c['train_tokens']:,d} tokens), and measured at fixed token "
            f"counts on the same {c['valid_windows']} windows of other documents.</p>"
            + table(["coverage", ""], [
                ["seeds complete", f"{len(run.seeds)} of {len(c['seeds'])}"],
                ["rows, each seed and interval once", run.loss.size],
                ["tokens of each seed at the end", f"{run.tokens[-1]:,.0f}"],
                ["epochs at the end", run.epochs[-1]]]),
        "What happened": figure("loss_by_seed") + figure("train_and_validation")
            + table(header, rows[:: math.ceil(len(rows) / 40)])
            + "<h3>What the endpoint says, and what the trajectory says</h3>" + table(
                ["", "endpoint", "trajectory"], [
                    ["mean validation loss", mean[-1],
                     f"{mean[best]:.4f} at interval {run.intervals[best]}"],
                    ["training tokens", f"{run.tokens[-1]:,.0f}", f"{run.tokens[best]:,.0f} needed"],
                    ["standard deviation between seeds", run.loss[:, -1].std(ddof=1),
                     f"{run.loss[:, best].std(ddof=1):.4g} at that interval"],
                    ["seeds from best to worst", order(-1), order(best)]]),
        "How stable it was": figure("volatility") + figure("backslides") + figure("events"),
        "The tests": tests_section(run) + figure("pairs"),
        "The audit: what this design can and cannot show": "<ol>" + "".join(
            f"<li>{html.escape(line(run))}</li>" for line in AUDIT) + "</ol>",
        "The four answers": table(["question", "verdict", "evidence", "weakened by audit line",
                                   "published verdict"], [[row[0], *row[3:]] for row in answered])
            + "<p>Published verdicts: arXiv 2606.13370. The paper itself reports Greenhouse-Geisser "
            "p values and names repetition of the corpus among the possible causes; the order of the "
            "text, the 16 validation windows and the spike rule are read from its author's "
            "repository.</p>",
        "Two stories": "".join(
            f"<p>By the {name} checkpoint of seed {story['seed']} (interval {story['interval']}):</p>"
            f"<blockquote>{html.escape(story['story'])}</blockquote>"
            for name, story in samples.items())}
    title = f"{c['preset']}: {len(run.seeds)} seeds, {len(run.intervals)} intervals"
    write_whole(run.folder / "report.html", '<!doctype html><html lang="en"><meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width">'
                f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
                + "".join(f"<h2>{heading}</h2>\n{body}\n" for heading, body in sections.items()))
    return [*summary(run, answered), f"The report: {run.folder / 'report.html'}"]

def compare(folders):
    """Draw the mean curves of several runs, and test arm by interval for the first two.

    The same seeds are in both arms, so the interaction is the repeated-measures ANOVA of the
    difference of the two matrices, without interval 0, where it is 0 by construction.
    """
    runs = [read_run(folder) for folder in folders]
    path = runs[0].folder / f"compared_with_{'_'.join(run.folder.name for run in runs[1:])}.svg"
    write_whole(path, line_chart([(run.folder.name, run.tokens / 1e3, run.loss.mean(0))
                                  for run in runs], "training tokens (thousand)",
                                 "mean validation loss (nats)"))
    lines, (one, two) = [f"The curves: {path}"], runs[:2]
    if one.seeds == two.seeds and one.intervals == two.intervals:
        a = stats.rm_anova((one.loss - two.loss)[:, 1:])
        lines.append(f"{one.folder.name} minus {two.folder.name} by interval: F({a.df_effect}, "
                     f"{a.df_error}) = {number(a.f)}, epsilon {number(a.epsilon_gg)}, p = "
                     f"{number(a.p_gg)} (Greenhouse-Geisser); at the end the difference is "
                     f"{(one.loss - two.loss)[:, -1].mean():.3f} nats")
    return lines

def lesson():
    """What the published study's own numbers say when one asks them again."""
    Y, seeds, _, _ = stats.read_table(Path(__file__).with_name("data") / "published_observations.csv")
    m, mean = derive(Y), Y.mean(0)
    print("The published study, mean validation loss of 6 seeds at 21 intervals:")
    print("  " + " ".join(f"{x:.2f}" for x in mean))
    print(f"Spikes by the published rule: {int(np.nansum(m['spike']))}; by the rule that leaves the "
          f"change out of its own threshold: {int(np.nansum(m['spike_corrected']))}.")
    print(f"After the turn, the changes of two seeds correlate {in_common(m['change'][:, 6:]):.2f}.")
    t = np.arange(5, 21)
    residual = mean[5:] - np.polyval(np.polyfit(t - 12, mean[5:], 3), t - 12)
    print("Mean loss minus its cubic trend, by interval (every third one is below, at one place\n"
          "of the text):\n  " + "  ".join(f"{i}:{r:+.3f}" for i, r in zip(t, residual)))
    print("Is that instability of the training, or a property of the text?")

def main():
    try:
        for folder in sys.argv[1:]:
            print("\n".join(write_report(folder)))
        if len(sys.argv) > 2:
            print("\n".join(compare(sys.argv[1:])))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    if len(sys.argv) == 1:
        lesson()

if __name__ == "__main__":
    main()
