"""Chapter 5. Telemetry: how stable was the training, and what may one conclude from it?

From the validation losses of all seeds, a matrix (n_seeds, n_intervals), to stability measures,
figures, tables and the report. Nothing here trains anything, and nothing here needs torch.

    python telemetry.py runs/classroom                 rebuild tables, figures and report.html
    python telemetry.py runs/classroom runs/fresh      the same, and compare the two
    python telemetry.py                                a lesson: the published study's own data

Reading order: `derive` holds every measure; the drawing is 100 lines of SVG; `answers` and the
audit compute each sentence of the report from this run's data, so that none can go out of date.
"""

import csv, html, io, json, math, sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import f as f_distribution

import stats
from stats import InputError
from tokenizer import write_whole

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
           f'{FONT}><title>{y_label} against {x_label}</title>']
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
           f'role="img" {FONT}><title>{x_label}</title>']
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
    out.append(f'<text x="80" y="{size * n + 33}">{x_label}</text>')
    x = 80
    for colour, words in legend:
        out.append(f'<rect x="{x}" y="{size * n + 46}" width="14" height="14" fill="{colour}" '
                   f'stroke="#999"/><text x="{x + 20}" y="{size * n + 58}">{words}</text>')
        x += 34 + 7.2 * len(words)
    return "\n".join(out) + "\n</svg>\n"

def figures(run):
    """name -> (SVG, caption) of every figure of the report."""
    unit, name = (1e6, "million") if run.tokens[-1] >= 2e6 else (1e3, "thousand")
    x, m, best = run.tokens / unit, run.measures, run.loss.mean(0).argmin()
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
    candidates = [
        ("validation loss", run.loss), ("validation loss without interval 0", run.loss[:, 1:]),
        ("perplexity", np.exp(np.minimum(run.loss, 300))), ("volatility", volatility[:, 2:]),
        ("volatility without the first drop", volatility[:, w + 1 :]),
        ("volatility, windows that do not overlap", volatility[:, 2 * w :: w])]
    return [(name, Y) for name, Y in candidates if Y.shape[1] >= 2]

def counted(run):
    """[(what, Friedman's test)] of the counts, from the first full window on."""
    w = run.config["volatility_window"]
    return [(name, stats.friedman(run.measures[key][:, w:])) for name, key in (
        ("backslide frequency", "backslide_frequency"), ("spike rate", "spike_rate"),
        ("spike rate, corrected rule", "spike_rate_corrected")) if run.loss.shape[1] >= w + 2]

def planned(run):
    """(best interval, tests): chance against the minimum, the minimum against the last interval.

    The minimum is chosen on one half of the validation windows and tested on the other, because
    what flatters a chosen minimum is the sample of windows, which all seeds share.
    """
    choose = test = run.loss
    if run.windows is not None:
        choose, test = run.windows[..., ::2].mean(-1), run.windows[..., 1::2].mean(-1)
    best, last = int(choose.mean(0).argmin()), run.loss.shape[1] - 1
    return best, stats.pairwise_tests(test, [p for p in ((0, best), (best, last)) if p[0] != p[1]])

def fluctuations(run):
    """The changes after the loss has turned (or of the second half): (n, from 3 on)."""
    k = run.loss.shape[1]
    return run.measures["change"][:, max(1, min(run.loss.mean(0).argmin() + 2, k // 2, k - 3)) :]

def in_common(d):
    """Mean correlation of the rows of d: how much of the ups and downs all seeds share."""
    d = d - d.mean(1, keepdims=True)
    size = np.sqrt((d**2).sum(1))
    if d.shape[1] < 3 or not size.all():
        return math.nan
    r = (d / size[:, None]) @ (d / size[:, None]).T
    return float((r.sum() - len(d)) / (len(d) * (len(d) - 1)))

def false_positives(run, n_studies=2000):
    """How often the tests reject on studies like this one in which nothing happens.

    Simulates flat curves: their changes have this run's spread, its correlation from interval to
    interval (AR(1)) and, in half of the studies, between seeds. They pass through `derive`, as the
    measurements do. Returns (rows (test, correlation, rate uncorrected, Greenhouse-Geisser,
    Huynh-Feldt), p of the seed effect calibrated by the correlated half, number of studies).
    """
    n, k = run.loss.shape
    n_studies, rng = int(min(n_studies, max(100, 5e6 // (n * k)))), np.random.default_rng(1)
    d = fluctuations(run)
    d = d - d.mean(1, keepdims=True)
    phi = float(np.clip((d[:, 1:] * d[:, :-1]).sum() / max((d**2).sum(), 1e-300), -0.9, 0.9))
    w, rows, seed_p = run.config["volatility_window"], [], math.nan
    for rho in (float(np.clip(np.nan_to_num(in_common(d)), 0, 0.99)), 0.0):
        common, own = rng.normal(size=(n_studies, 1, k)), rng.normal(size=(n_studies, n, k))
        change = math.sqrt(rho) * common + math.sqrt(1 - rho) * own
        for t in range(1, k):
            change[..., t] = phi * change[..., t - 1] + math.sqrt(1 - phi**2) * change[..., t]
        Y = d.std() * np.cumsum(change, axis=-1)
        volatility = derive(Y, window=w)["volatility"]
        for name, Z in (("validation loss", Y), ("volatility without the first drop",
                                                 volatility[..., w + 1 :])):
            if Z.shape[-1] >= 2 and d.any():
                F, gg, hf = stats.f_and_epsilons(Z)
                df = Z.shape[-1] - 1
                rows.append((name, rho, *((f_distribution.sf(F, e * df, e * df * (n - 1)) < 0.05)
                                          .mean() for e in (1, gg, np.minimum(hf, 1)))))
        _, _, (_, ss_subject, ss_error), _ = stats.decompose(Y)
        F = ss_subject / (n - 1) / (ss_error / ((n - 1) * (k - 1))) if d.any() else np.zeros(1)
        rows.append(("seed effect", rho, (f_distribution.sf(F, n - 1, (n - 1) * (k - 1)) < 0.05)
                     .mean(), math.nan, math.nan))
        seed_p = float((F >= stats.rm_anova(run.loss).f_subject).mean()) if rho or \
            math.isnan(seed_p) else seed_p
    return rows, phi, seed_p, n_studies

# ---------------------------------------------------------------- the audit
# One function a line of the audit: a sentence with its numbers, computed from this run.

def audit_epochs(run):
    best, train = int(run.loss.mean(0).argmin()), run.train_loss.mean(0)
    return (f"The text was read {run.epochs[-1]:.1f} times; the mean validation loss turned after "
            f"{run.epochs[best]:.2f}. The training loss was {number(train[best])} there and "
            f"{number(train[-1])} at the end: what is still learned then is this text.")

def audit_precision(run):
    c, d = run.config, run.measures["change"][:, 1:]
    small = int(((d > 0) & (d < 2 * run.change_se[:, 1:])).sum())
    return (f"Each validation loss rests on {c['valid_windows'] * c['block_size']:,d} tokens in "
            f"{c['valid_windows']} windows; its standard error over windows is about "
            f"{np.median(run.se):.3f} nats, that of a change {np.nanmedian(run.change_se):.3f}. "
            f"{small} of {int((d > 0).sum())} backslides are smaller than two standard errors.")

def audit_common(run):
    place = run.epochs % 1
    fixed = run.config["seed_decides"] == "weights"
    steps = [i for i in range(1, min(10, len(place) - 1))
             if abs((place[i + 1] - place[1] + 0.5) % 1 - 0.5) < 0.03]
    return (f"After the turn, the changes of two seeds correlate {number(in_common(fluctuations(run)))}"
            f" on average; what they share is not the seed's doing. " + (
                "All seeds read the text in the same order, and interval 1 to 6 ended at the places "
                + " ".join(f"{p:.2f}" for p in place[1:7]) + " of it" + (
                    f"; every {steps[0]} intervals the place is nearly the same." if steps else ".")
                if fixed else "Each seed read the windows in an order of its own."))

def audit_rules(run):
    w, c = run.config["volatility_window"], run.config
    reach = math.sqrt(w - 1)
    can = "can fire" if reach > c["spike_factor"] + 1e-9 else "can never fire after interval 1"
    cells = run.loss.shape[0] * max(0, run.loss.shape[1] - 2)
    most = min(cells, math.floor(c["stable_quantile"] * (cells - 1)) + 1) if cells else 0
    return (f"The published spike rule asks for more than {c['spike_factor']:g} standard deviations; "
            f"among {w} values at most {reach:.2f} are possible, so it {can}. The stable-phase rule "
            f"can accept at most {most} of {cells} cells, by its own quantile, ties aside.")

def audit_sphericity(run):
    n, k = run.loss.shape
    m = stats.mauchly(run.loss)
    return (f"Mauchly's test {'exists: p = ' + number(m.p) if m.defined else 'does not exist: ' + m.reason}"
            f". With {n} seeds and {k} intervals, epsilon cannot exceed {min(1, (n - 1) / (k - 1)):.3f}"
            " whatever the truth" + (", and Huynh-Feldt's is unreliable; verdicts rest on "
                                     "Greenhouse-Geisser." if n < k else "."))

def audit_ablations(run):
    F = {name: stats.rm_anova(Y).f for name, Y in tested(run)}
    return "; ".join(f"{name}: F = {number(f)}" for name, f in F.items()) + (
        ". What the first drop does to an F says nothing about the rest; perplexity is exp(loss), "
        "the same measurement twice.")

def audit_false_positives(run):
    rows, phi, _, n_studies = false_positives(run)
    return (f"In {n_studies} simulated studies without any effect (changes correlate {phi:.2f} from "
            "interval to interval), a test at 5 % rejects: " + "; ".join(
                f"{name}, seeds correlating {rho:.2f}: {a:.0%}" + (
                    f" uncorrected, {g:.0%} Greenhouse-Geisser, {h:.0%} Huynh-Feldt"
                    if not math.isnan(g) else "") for name, rho, a, g, h in rows) + ".")

def audit_seed(run):
    order = "" if run.config["seed_decides"] == "weights" else " and the order of the windows"
    rest = "the order of the windows, " if not order else ""
    return (f"The seed decided the initial weights{order}. Never varied, so never in any error bar: "
            f"{rest}the training text, the tokenizer, the validation windows, the machine.")

def audit_stopping(run):
    each, mean = run.loss.argmin(1), run.loss.mean(0)
    best, steps = int(mean.argmin()), len(mean) - 1
    parts = []
    for patience in (1, 2, 3):
        stop = [patience_stop(row, patience) for row in run.loss]
        cost = np.mean([row[: s + 1].min() - row.min() for row, s in zip(run.loss, stop)])
        parts.append(f"{patience}: at {np.mean(stop):.1f}, {cost:.3f} nats above the best")
    return (f"Stop at interval {run.intervals[best]} (single seeds: {run.intervals[each.min()]} to "
            f"{run.intervals[each.max()]}); {(steps - best) / steps:.0%} of the compute came after "
            f"it. Patience of {'; of '.join(parts)} (means over seeds).")

def patience_stop(loss, patience):
    """The interval at which training stops if `patience` measurements bring no new minimum."""
    best = 0
    for t in range(1, len(loss)):
        best = t if loss[t] < loss[best] else best
        if t - best >= patience:
            return t
    return len(loss) - 1

AUDIT = [audit_epochs, audit_precision, audit_common, audit_rules, audit_sphericity,
         audit_ablations, audit_false_positives, audit_seed, audit_stopping]

# ---------------------------------------------------------------- the four answers

def answers(run):
    """[(question, hypothesis, variables, verdict, evidence, audit lines that weaken it, published)]."""
    w, (best, contrasts) = run.config["volatility_window"], planned(run)
    anovas = {name: stats.rm_anova(Y) for name, Y in tested(run)[3:]}
    tests = [(name, a.f, a.p_gg, f"F = {number(a.f)}, p = {number(a.p_gg)}")
             for name, a in anovas.items()]
    tests += [(name, t.chi2, t.p, f"chi2 = {number(t.chi2)}, p = {number(t.p)}")
              for name, t in counted(run)]
    fair = [name for name, _, p, _ in tests if p < 0.05 and name != "volatility"]
    anova, spread = stats.rm_anova(run.loss), stats.sd_between(run.loss)
    seed_p, rise = false_positives(run)[2], contrasts.mean_diff[-1:] * -1
    up = bool((contrasts.p_adjusted[-1:] < 0.05).any() and (rise > 0).any() and best
              and best < len(run.intervals) - 1)
    stable = run.measures["stable"] == 1
    phase = (stable[:, 1:] & stable[:, :-1]).mean(0)
    found = bool((phase >= 0.5).any())
    reject = lambda yes, name: f"reject {name}" if yes else f"fail to reject {name}"
    return [
        ("RQ1. Do stability measures differ across training?", "H01: no difference",
         "volatility, backslide frequency, spike rate", reject(fair, "H01") + (
             f" ({', '.join(fair)})" if fair else " (once the first drop is left out)"),
         "; ".join(f"{name}: {words}" for name, _, _, words in tests)
         + " (Greenhouse-Geisser; Friedman for counts).", "3, 6, 7", "reject H01"),
        ("RQ2. Do the trajectories of the seeds differ?", "H02: no seed effect",
         "validation loss by seed", reject(seed_p < 0.05, "H02"),
         f"F = {number(anova.f_subject)}; calibrated by the simulation of audit line 7, "
         f"p = {number(seed_p)}. ICC(C,1) = {number(anova.icc)}; standard deviation between seeds "
         f"{spread.sd[0]:.4f} (95 % interval {spread.low[0]:.4f} to {spread.high[0]:.4f}) at the start "
         f"and {spread.sd[-1]:.4f} ({spread.low[-1]:.4f} to {spread.high[-1]:.4f}) at the end.",
         "3, 7, 8", "descriptive evidence only"),
        ("RQ3. Is learning non-monotonic?", "H03: the loss never rises again",
         "validation loss by interval", reject(up, "H03"),
         " ".join(f"Interval {run.intervals[a]} against {run.intervals[b]}: difference {d:.3f} nats, "
                  f"adjusted p = {number(p)}." for a, b, d, p in zip(
                      contrasts.a, contrasts.b, contrasts.mean_diff, contrasts.p_adjusted))
         + " The minimum was chosen on " + ("one half of the validation windows and tested on the "
                                            "other." if run.windows is not None else "the same "
                                            "windows on which it was tested."), "1, 2", "reject H03"),
        ("RQ4. Is there a stable phase?", "H04: none", "volatility, spike rate, backslides",
         reject(found, "H04"),
         f"{int(stable.sum())} of {stable[:, 2:].size} cells meet the rule; at most "
         f"{phase.max(initial=0):.0%} of the seeds meet it in two intervals running.", "4",
         "fail to reject H04")]

def summary(run):
    """The outcome in a few plain sentences, for the terminal and for the top of the report."""
    mean = run.loss.mean(0)
    best, chance = int(mean.argmin()), math.log(run.config["vocab_size"])
    back = mean[-1] - mean[best]
    return [f"The mean validation loss of {len(run.seeds)} seeds fell from {mean[0]:.3f} (chance: "
            f"{chance:.3f}) to its lowest, {mean[best]:.3f} nats, at interval {run.intervals[best]}, "
            f"after {run.epochs[best]:.1f} epochs; " + (
                f"it came back up by {back:.3f} to {mean[-1]:.3f} at the end." if best < len(mean) - 1
                else "that is the end: it was still falling."),
            *(f"{question} {verdict[0].upper()}{verdict[1:]}."
              for question, _, _, verdict, *_ in answers(run)), *run.notes]

# ---------------------------------------------------------------- the report

def number(x, digits=4):
    """A number for reading: few digits, nan as a word."""
    return "undefined" if x is None or math.isnan(x) else f"{x:.{digits}g}"

def table(header, rows):
    """An HTML table; numbers are shortened, text is escaped."""
    cell = lambda x: html.escape(number(x) if isinstance(x, float) else str(x))
    return ("<table><tr>" + "".join(f"<th>{cell(h)}</th>" for h in header) + "</tr>" + "".join(
        "<tr>" + "".join(f"<td>{cell(x)}</td>" for x in row) + "</tr>\n" for row in rows)
        + "</table>")

def write_csv(path, header, rows):
    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\n").writerows([header, *rows])
    write_whole(path, content.getvalue())

def write_tables(run):
    """telemetry.csv, interval_summary.csv, anova.csv and pairwise.csv. Returns the last three."""
    names, m, loss = list(run.measures), run.measures, run.loss
    write_csv(run.folder / "telemetry.csv", ["seed", "interval", "tokens_seen", *names],
              [[s, i, int(run.tokens[t]), *("" if np.isnan(m[name][r, t]) else float(m[name][r, t])
                                            for name in names)]
               for r, s in enumerate(run.seeds) for t, i in enumerate(run.intervals)])
    spread, gain = stats.sd_between(loss), np.diff(loss.mean(0), prepend=np.nan)
    gain = -gain / np.diff(run.tokens / 1e6, prepend=np.nan)
    outcomes = (["interval", "tokens seen", "epochs", "train loss", "val loss", "sd", "sd low",
                 "sd high", "perplexity", "nats gained per million tokens", "volatility",
                 "backslides in window", "spike rate", "spike rate (corrected)", "stable share"],
                [[i, int(run.tokens[t]), *(float(v[t]) for v in (
                    run.epochs, run.train_loss.mean(0), loss.mean(0), spread.sd, spread.low,
                    spread.high, np.exp(loss).mean(0), gain, *(m[name].mean(0) for name in (
                        "volatility", "backslide_frequency", "spike_rate", "spike_rate_corrected",
                        "stable"))))] for t, i in enumerate(run.intervals)])
    anova = (["variable", "levels", "df", "df error", "F", "p", "epsilon GG", "p GG", "epsilon HF",
              "p HF", "p lower bound", "eta2 generalized", "eta2 partial"],
             [[name, Y.shape[1], a.df_effect, a.df_error, a.f, a.p, a.epsilon_gg, a.p_gg, a.epsilon_hf,
               a.p_hf, a.p_lower_bound, a.eta_sq_generalized, a.eta_sq_partial]
              for name, Y in tested(run) for a in [stats.rm_anova(Y)]])
    t = stats.pairwise_tests(loss)
    write_csv(run.folder / "interval_summary.csv", *outcomes)
    write_csv(run.folder / "anova.csv", *anova)
    write_csv(run.folder / "pairwise.csv", list(vars(t)), zip(*(v.tolist() for v in vars(t).values())))
    return outcomes, anova, t

def normality(run):
    """Rows (what, W, p) of Shapiro-Wilk: the smallest p of the levels, and the residuals."""
    for name, Y in tested(run):
        levels, residuals = stats.shapiro_by_level(Y), stats.shapiro_residuals(Y)
        if not np.isnan(levels.p).all():
            j = int(np.nanargmin(levels.p))
            yield f"{name}: least normal of {Y.shape[1]} levels", float(levels.w[j]), float(levels.p[j])
        yield f"{name}: residuals", residuals.w, residuals.p

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;
color:#222}table{border-collapse:collapse;font-size:13px;margin:1em 0;display:block;overflow-x:auto}
td,th{border-bottom:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top}
figure{margin:1.5em 0;break-inside:avoid}figcaption{font-size:14px;color:#555}
svg{width:100%;max-width:780px;height:auto}blockquote{white-space:pre-wrap;background:#f6f6f2;
padding:1em;margin:1em 0}@media print{body{font-size:11px}table{display:table;font-size:8px}}"""

def write_report(folder):
    """Write tables, figures and report.html of a run; returns its summary, a list of sentences."""
    run = read_run(folder)
    outcomes, anova, pairs = write_tables(run)
    drawn, c, mean = figures(run), run.config, run.loss.mean(0)
    (run.folder / "figures").mkdir(exist_ok=True)
    for name, (svg, _) in drawn.items():
        write_whole(run.folder / "figures" / f"{name}.svg", svg)
    figure = lambda name: "<figure>{}<figcaption>{}</figcaption></figure>".format(*drawn[name])
    best, contrasts = planned(run)
    low = int(mean.argmin())
    spread, order = run.loss.std(0, ddof=1), lambda t: list(np.argsort(run.loss[:, t]))
    adjacent = stats.pairwise_tests(run.loss, "adjacent")
    mixed = [(method, stats.mixed_model(run.loss, method)) for method in ("ML", "REML")]
    try:
        samples = json.loads((run.folder / "samples.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        samples = {}
    sections = [
        ("In short", "<p>" + "</p><p>".join(map(html.escape, summary(run))) + "</p>"),
        ("What was asked", table(
            ["question", "null hypothesis", "variables"], [row[:3] for row in answers(run)])),
        ("What was done",
         f"<p>A Llama of {c['n_layer']} layers, {c['n_head']} heads and width {c['n_embd']} was "
         f"trained {len(run.seeds)} times on {c['train_documents']:,d} stories "
         f"({c['train_tokens']:,d} tokens, {html.escape(c['corpus'])}), and measured every "
         f"{c['interval_tokens']:,d} tokens on the same {c['valid_windows']} windows of "
         f"{c['valid_documents']:,d} other stories. The seeds differ in "
         f"{'the initial weights' if c['seed_decides'] == 'weights' else 'weights and order'}.</p>"
         + table(["coverage", ""], [
             ["seeds complete", f"{len(run.seeds)} of {len(c['seeds'])}"], ["rows", run.loss.size],
             ["duplicate rows", 0], ["tokens at the end", f"{int(run.tokens[-1]):,d}"],
             ["epochs at the end", float(run.epochs[-1])]])),
        ("What happened", figure("loss_by_seed") + figure("train_and_validation") + table(*outcomes)
         + "<h3>The endpoint and the trajectory</h3>" + table(
             ["", "the endpoint says", "the trajectory says"],
             [["mean validation loss", float(mean[-1]), f"{mean[low]:.4f} at interval {low}"],
              ["training needed (tokens)", f"{int(run.tokens[-1]):,d}", f"{int(run.tokens[low]):,d}"],
              ["standard deviation between seeds", float(spread[-1]), f"{spread[low]:.4f} there"],
              ["seeds from best to worst", " ".join(str(run.seeds[i]) for i in order(-1)),
               " ".join(str(run.seeds[i]) for i in order(low))]])),
        ("How stable it was", figure("volatility") + figure("backslides") + figure("events")),
        ("The tests", "<p>Seeds are the subjects, intervals the levels. Read p GG: it allows for "
         "unequal variances of the differences.</p>" + table(*anova) + table(
             ["count (Friedman's test)", "chi2", "df", "p"],
             [[name, t.chi2, t.df, t.p] for name, t in counted(run)])
         + "<h3>Normality and sphericity</h3>" + table(
             ["Shapiro-Wilk", "W", "p"], normality(run)) + table(
             ["Mauchly", "W", "chi2", "df", "p", ""],
             [[name, m.w, m.chi2, m.df, m.p, m.reason] for name, Y in tested(run)
              for m in [stats.mauchly(Y)]])
         + "<h3>Mixed model: interval + (1 | seed)</h3>" + table(
             ["criterion", "log-likelihood", "intercept", "SE", "SE of contrasts",
              "residual variance", "seed variance"],
             [[method, m.log_likelihood, float(m.fixed[0]), float(m.se[0]), float(m.se[1]),
               m.var_residual, m.var_subject] for method, m in mixed]) + table(
             ["contrast with interval 0 (REML)", "estimate", "low", "high"],
             [[f"interval {i}", *map(float, v)] for i, v in zip(run.intervals[1:], zip(
                 mixed[1][1].fixed[1:], mixed[1][1].low[1:], mixed[1][1].high[1:]))][:60])
         + "<h3>Planned contrasts, and all pairs</h3>" + table(
             ["planned", "difference", "t", "p adjusted", "d_z"],
             [[f"interval {run.intervals[a]} - {run.intervals[b]}", *map(float, v)] for a, b, *v in zip(
                 contrasts.a, contrasts.b, contrasts.mean_diff, contrasts.t, contrasts.p_adjusted,
                 contrasts.d_z)])
         + f"<p>Significant after Bonferroni: {(pairs.p_adjusted < 0.05).sum()} of {len(pairs.p)} "
         f"pairs; of the {len(adjacent.p)} adjacent pairs "
         f"{(pairs.p_adjusted[pairs.b == pairs.a + 1] < 0.05).sum()} among all, "
         f"{(adjacent.p_adjusted < 0.05).sum()} if only these are asked for. "
         f"{np.isnan(pairs.p).sum()} are undefined.</p>" + figure("pairs")),
        ("The audit: what this design can and cannot show",
         "<ol><li>" + "</li><li>".join(html.escape(line(run)) for line in AUDIT) + "</li></ol>"),
        ("The four answers", table(
            ["question", "verdict", "evidence", "weakened by audit", "published verdict"],
            [(row[0], *row[3:]) for row in answers(run)])),
        ("Two stories", "".join(
            f"<p>By the {name} checkpoint (seed {s['seed']}, interval {s['interval']}):</p>"
            f"<blockquote>{html.escape(s['story'])}</blockquote>" for name, s in samples.items())),
    ]
    title = f"{c['preset']}: {len(run.seeds)} seeds, {len(run.intervals)} intervals"
    write_whole(run.folder / "report.html",
                f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
                f'content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
                f"<h1>{title}</h1>" + "".join(f"<h2>{h}</h2>\n{body}\n" for h, body in sections))
    return [*summary(run), f"The report: {run.folder / 'report.html'}"]

def main():
    if len(sys.argv) < 2:
        return lesson()
    try:
        for folder in sys.argv[1:]:
            print("\n".join(write_report(folder)))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")

if __name__ == "__main__":
    main()
