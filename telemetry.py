"""Chapter 5. Telemetry: how stable was the training, and what may one conclude from it?

From the validation losses of all seeds, a matrix of n seeds by k intervals, to measures of
stability, four answers and a report. Nothing here trains anything, and nothing needs torch.

    python telemetry.py runs/classroom                  tables, figures, report.html: two seconds
    python telemetry.py runs/classroom runs/fresh       the same, and the two compared
    python telemetry.py runs/x --volatility_window 6    with another rule (see derive)
    python telemetry.py                                 a lesson: the published study's numbers

The measures, by hand, for one seed and a window of 3 changes (the spikes: below):

    interval               0     1     2     3     4     5     6
    validation loss        9     5     3     3     5     6     6
    change                      -4    -2     0     2     1     0
    volatility                        1.41   2     2     1     1    sd of the last 3 changes
    backslide                    0     0     0     1     1     0    did the loss go up?
    backslide frequency          0     0     0     1     2     2    how many of the last 3 changes
    spike, as published          0     0     0     0     0     0
    spike, corrected                         0     1     0     0
    stable                             0     0     0     0     0    5, 6: sd <= 1, but 2 backslides

At interval 4 the loss went up by 2. As published a spike is above mean + 2 sd (by n) of -2 0 2,
which is 0 + 2 * 1.63 = 3.27; without itself, of -4 -2 0, it is -2 + 2 * 1.63 = 1.27.
"""
import support.program  # first: from here on Ctrl-C prints no traceback

import inspect, math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats
from scipy.signal import detrend as without_line  # each row less its own least-squares line

import stats
from stats import ALPHA, SdRatio
from support.figures import Line, line_chart, token_axis
from support.files import (InputError, need, printable, read_json, read_records, write_csv,
                           write_whole)
from support.page import (answer_box, columns, details, figure, listing, number, p_text, paragraphs,
                          quote, subsection, table, write_page)
from support.runs import Metrics, left_out, read_metrics, read_settings, read_window_losses

# ---------------------------------------------------------------- the measures
def derive(val_loss, volatility_window=5, spike_factor=2.0, spike_floor=0.01,
           stable_quantile=0.25, stable_backslides=1):
    """Every measure of stability: val_loss (..., n, k) -> dict of arrays of the same shape.
    Changes, sds and magnitudes are in nats, marks are 0 or 1, frequencies counts, rates shares;
    nan where a measure is not defined. The window of interval t holds the last
    `volatility_window` changes, up to d[t] = val_loss[t] - val_loss[t-1]:

    change                 d, from t = 1 on
    volatility             sample sd of the window, from t = 2 on
    backslide              1 where d > 0; magnitude: max(d, 0); frequency: how many in the window
    spike, spike_corrected 1 where d is above `spike_floor` and more than `spike_factor` sds above
                           a mean, see `spikes`; their rates are shares of the window
    stable                 1 for a candidate of a stable phase, see `stable_cells`
    InputError: a window below 2, or a quantile beyond 0 to 1."""
    need(volatility_window >= 2, "volatility_window must be 2 or more: an sd takes two changes")
    need(0 <= stable_quantile <= 1, "stable_quantile must lie between 0 and 1")
    loss = np.asarray(val_loss, dtype=np.float64)
    window = volatility_window
    # The nan in front keeps d as long as the loss: d[t] is the change that ends at interval t.
    d = np.diff(loss, axis=-1, prepend=np.nan)
    backslide = np.where(np.isnan(d), np.nan, d > 0)
    # Twice the same rule: with d[t] in its own threshold, as published, and without.
    spike = spikes(d, window, spike_factor, spike_floor, with_itself=True)
    corrected = spikes(d, window, spike_factor, spike_floor, with_itself=False)
    # Sds, counts and shares over the window of every interval.
    m = {
        "change": d,
        "volatility": rolling(sample_sd, d, window, first=1, least=2),
        "backslide": backslide,
        "backslide_magnitude": np.maximum(d, 0),
        "backslide_frequency": rolling(np.sum, backslide, window, first=1),
        "spike": spike,
        "spike_rate": rolling(np.mean, spike, window, first=1),
        "spike_corrected": corrected,
        "spike_rate_corrected": rolling(np.mean, corrected, window, first=3),
    }
    m["stable"] = stable_cells(m, stable_quantile, stable_backslides)
    return m

# Its options, and what the published study chose.
RULES = {name: option.default for name, option in inspect.signature(derive).parameters.items()
         if name != "val_loss"}

def rolling(measure, x, window, first, least=1):
    """measure(the last `window` values of x) at every interval; x (..., k), defined from `first`
    on. nan until there are `least` values: a sample sd needs two of them."""
    out = np.full(x.shape, np.nan)
    for t in range(first + least - 1, x.shape[-1]):
        begin = max(first, t - window + 1)  # the first windows are not full yet
        out[..., t] = measure(x[..., begin : t + 1], axis=-1)
    return out

def sample_sd(x, axis=-1):
    """With n - 1: the mean was taken from the same numbers."""
    return x.std(axis=axis, ddof=1)

# EXERCISE 7: in derive, m["own_spike"], 1 at a spike, else 0 (or nan), by your own rule. A curve
# falls until interval 8; then its changes lie between h/2 and h, up or down, and h is unknown.
# - A spike lifts the loss of one interval by 10 h. Another may follow two intervals later.
# - Neither the way back nor a fall by 10 h is one. Marks before interval 20 are not judged.
# - A mark rests on its own seed's losses up to its interval, whatever their height and size.
def spikes(d, window, factor, floor, with_itself):
    """1 where a change d[t] is above `floor` and above mean + factor * sd, else 0: d (..., k).
    Mean and population sd of `window` changes: the last ones with d[t] among them (with_itself,
    as published; at t = 1 the floor decides alone), or those before it. Trap: among w numbers
    none is further than sqrt(w-1) sds from their mean, which is 2 for w = 5: as published, with
    factor 2, the rule never fires after t = 1. Trap: of normal changes around a constant the
    corrected rule calls 9 % spikes (P(t(4) > 1.63) for w = 5), and more while the window fills."""
    out = np.full(d.shape, np.nan)
    # At t = 1 there is one change; a threshold from changes before it needs two of these.
    if with_itself:
        out[..., 1:2] = d[..., 1:2] > floor
    for t in range(2 if with_itself else 3, d.shape[-1]):
        end = t + 1 if with_itself else t
        sample = d[..., max(1, end - window) : end]
        distance = d[..., t] - sample.mean(axis=-1)
        # Of five numbers one can lie exactly 2 sds from the mean. That is not more than 2 sds, and
        # rounding must not make it so: hence 1e-9.
        far = distance > factor * sample.std(axis=-1) * (1 + 1e-9)
        out[..., t] = far & (d[..., t] > floor)
    return out

# EXERCISE 12: in derive, m["own_stable"], 1 in a stable phase, else 0 (or nan). Curves as in 7.
# - A phase is 20 changes in a row of at most h/20. Mark from its sixth, or sooner, to its last.
# - Three such changes are none, nor is a steady fall of h/2 to h, however even.
# - A phase begins after interval 40. Marks before interval 20 are not judged.
# - A mark rests on its own seed's losses up to its interval, whatever their height and size.
def stable_cells(m, quantile, backslides):
    """1 where volatility is in the lowest `quantile` of all, with no spike and at most `backslides`
    backslides in the window. Trap: by its own quantile the rule marks about a quarter of cells at
    most (more if volatilities tie), and on a flat plateau every second change is a backslide."""
    volatility = m["volatility"]
    # One threshold for all seeds and intervals of a study.
    low = np.nanquantile(volatility, quantile, axis=(-2, -1), keepdims=True)
    calm = (volatility <= low) & (m["spike_rate"] == 0) & (m["backslide_frequency"] <= backslides)
    return np.where(np.isnan(volatility), np.nan, calm)

# ---------------------------------------------------------------- a run, as matrices
@dataclass
class Run:
    """What a run folder says, n seeds by k intervals. Numbers that it does not hold are nan."""
    folder: Path
    config: dict  # of config.json, {} without one
    seeds: list
    intervals: list
    tokens: np.ndarray  # (k), seen so far
    epochs: np.ndarray  # (k), times the whole training text
    loss: np.ndarray  # (n, k), validation loss in nats a token
    train_loss: np.ndarray  # (n, k), mean over the steps since the last measurement
    published: np.ndarray  # (n, k), loss on the published study's windows
    bits: np.ndarray  # (n, k), loss in bits a byte
    window_losses: np.ndarray | None = None  # (n, k, n_windows), if the run kept them
    rules: dict = field(default_factory=RULES.copy)  # options of `derive`

    def mean(self):
        """(k): the mean validation loss over seeds."""
        return self.loss.mean(axis=0)

    def minimum(self):
        """The index of the interval with the lowest mean validation loss, "the minimum"."""
        return int(self.mean().argmin())

    def measures(self):
        """Everything that `derive` makes of the losses."""
        return derive(self.loss, **self.rules)

    def after_minimum(self):
        """(n, m): the changes from the second interval after the minimum on. The first is left
        out: it goes up because the minimum was chosen for being low."""
        return np.diff(self.loss)[:, self.minimum() + 1 :]

def read_run(folder, **rules):
    """The Run of a folder, complete or still going on; `rules` are options of `derive`.
    InputError says what is missing or damaged."""
    folder = Path(folder)
    run = run_of(read_metrics(folder), folder, read_settings(folder), rules)
    run.window_losses = read_window_losses(folder, run.seeds, run.intervals, run.loss)
    return run

def run_of(metrics, folder, config, rules):
    """The Run that Metrics make, one matrix a column."""
    tokens, loss = metrics.matrix("tokens_seen"), metrics.matrix("val_loss")
    # (nan is neither equal to itself nor larger than anything.)
    need((np.diff(tokens) > 0).all() and (tokens == tokens[0]).all(),
         f"{metrics.damaged}: tokens_seen must grow, for all seeds alike")
    need(np.isfinite(loss).all(), f"{metrics.damaged}: a val_loss is missing")
    return Run(folder, config, metrics.seeds, metrics.intervals, tokens=tokens[0], loss=loss,
               epochs=metrics.matrix("epochs")[0], train_loss=metrics.matrix("train_loss"),
               published=metrics.matrix("val_loss_published"),
               bits=metrics.matrix("bits_per_byte"), rules=RULES | rules)

# ---------------------------------------------------------------- four answers
HYPOTHESES = (
    "Null hypotheses of the published study (arXiv 2606.13370): stability measures do not differ "
    "across training (H01), nor seeds (H02); the loss never rises again (H03); there is no stable "
    "phase (H04). Its order of text, 16 windows and spike rule: from its author's repository.")
MIN_CHANGES = 6  # from the second after the minimum on: fewer do not tell how large chance is

@dataclass
class Answer:
    """One question, what this run answers, and how the published study answered it."""
    question: str
    answer: str  # in plain words
    evidence: str  # the numbers behind it
    missed: str  # what this test would not have seen
    hypothesis: str  # "H03": the published null hypothesis
    verdict: str  # ours on it
    published: str  # theirs

def answers(run):
    """The four Answers of a run with 2 seeds and 4 intervals or more, in the order of reading."""
    return [answer_rise(run), answer_noise(run), answer_seeds(run), answer_phase(run)]

# Did the loss rise again? The end lies above the minimum in almost every curve, also of pure noise.
# So we ask two things: do the seeds agree (a t test), and do studies that are flat but for noise
# seldom rise as far (a simulation)?

def rises(loss):
    """How far does the end lie above the minimum of the mean curve? loss (..., n, k) -> (..., n)"""
    lowest = loss.mean(axis=-2, keepdims=True).argmin(axis=-1, keepdims=True)
    return loss[..., -1] - np.take_along_axis(loss, lowest, axis=-1)[..., 0]

def held_out_test(run):
    """The paired t test of the end against the minimum, as stats.Pairs; None if both are one.
    On the windows on which it was chosen, a minimum is too low by luck. So the windows are cut into
    16 neighbouring blocks: the first, third, fifth ... choose it, the second, fourth, sixth ...
    test it. Without window losses, the same do both."""
    choose = test = run.loss
    if run.window_losses is not None:
        parts = blocks(run.window_losses, 16)
        choose, test = parts[..., ::2].mean(axis=-1), parts[..., 1::2].mean(axis=-1)
    best, last = int(choose.mean(axis=0).argmin()), choose.shape[1] - 1
    return None if best == last else stats.pairwise_tests(test, [(last, best)])

def answer_rise(run):
    """H03. The end above the minimum: by the t test, and by more than chance alone brings about.
    Trap: the t test takes seeds as independent. Where they share their ups and downs, an end that
    lies above the minimum by chance does so in all of them. Trap: the simulated noise is estimated
    from few changes. Of flat studies with 6 seeds 10 to 20 % "rise", not 5 %."""
    # First hurdle. Twice p (Bonferroni): the published study tested two things, a descent and a
    # rise, and the question here is one of these two.
    t, agreed = held_out_test(run), False
    evidence = "On the windows that choose, the end is the minimum: nothing to test."
    if t is not None:
        twice = float(np.minimum(1, 2 * t.p[0]))
        agreed = t.mean_diff[0] > 0 and twice < ALPHA
        where = "all windows" if run.window_losses is None else "windows that did not choose it"
        evidence = (f"From the minimum, interval {run.intervals[t.b[0]]}, to the end, on {where}: "
                    f"{t_text(t, twice)} (Bonferroni).")
    # Second hurdle: how far do flat studies rise? A share of them can be 0, a p value cannot:
    # hence this run counts as one of them.
    rise = float(rises(run.loss).mean())
    flat = rises(flat_studies(run))  # (n_studies, n)
    by_chance = flat.mean(axis=1)
    p = (1 + (by_chance >= rise).sum()) / (1 + len(by_chance))
    # (A true rise as large as what chance exceeds in 5 % of studies ends above that as often as
    # below it: hence "about half" in what this would have missed.)
    # In words: no rise, one that cannot be judged, one that chance makes, or seldom makes.
    m, verdict = noise_of(run).m, "fail to reject"
    words = f"Not shown: the end lies {number(rise)} nats above the minimum."
    if rise <= 0:
        words = "No: it was lowest at the end."
    elif run.after_minimum().shape[1] < MIN_CHANGES:
        words = f"Not tested: that takes {MIN_CHANGES + 1} intervals after the minimum."
        verdict = "not tested"
    elif agreed and p < ALPHA:
        words = f"Yes: by {number(rise)} nats after interval {run.intervals[run.minimum()]}."
        verdict = "reject"
    return Answer(
        "Did the loss rise again?", words,
        f"{evidence} Flat studies, simulated with the noise estimated from {m} changes, rise as "
        f"far with {p_text(p)}; the t test alone finds a rise in {t_test_alone(flat):.0%} of them.",
        f"A true rise of {number(np.quantile(by_chance, 0.95), 2)} nats is found in about half of "
        "studies like this one, a smaller one less often. (The noise is an estimate: more than 5% "
        "of flat studies pass, 10 to 20% of those with 6 seeds.)", "H03", verdict, "reject")

# Did the noise change? What all seeds share is one series of changes; what each has of its own is
# one series a seed. Both are cut into halves, and their sds (standard deviations) compared.

@dataclass
class Halves:
    """The changes after the minimum, first half against last; ratios of sds, first over last."""
    common: SdRatio  # of the mean over seeds: what all have in common
    own: SdRatio  # of what is left, each seed's own: over seeds
    p: float  # of both together

def compare_halves(d):
    """Halves of changes d (n, m), m >= MIN_CHANGES and n >= 3; each seed's line is taken off first:
    after a turn the changes drift, at first the loss rises fast and then slowly, and that is no
    noise.
    Common part: F on (h-1, h-1), h = m // 2 (a middle change is left out). Own part: a paired t
    test over seeds of the logs of the sds, since ratios are compared by their logs. Trap: the own
    parts of two seeds mirror each other, so that this test would always reject."""
    # Rounded to 12 digits, so that what is nothing but rounding becomes 0.
    d = without_line(d).round(12)
    h = d.shape[1] // 2
    # The common part is the mean over seeds, the rest is each seed's own.
    shared = d.mean(axis=0)
    own = (d - shared).round(12)
    common = stats.sd_ratio(shared[:h], shared[-h:])
    # (A seed whose own part is 0 is a copy; then there is nothing to compare.)
    sds = np.stack([sample_sd(own[:, :h]), sample_sd(own[:, -h:])], axis=1)  # (n, 2)
    each = SdRatio(*[math.nan] * 4)
    if sds.all():
        t = stats.pairwise_tests(np.log(sds))
        ratio, low, high = np.exp([t.mean_diff[0], t.low[0], t.high[0]])
        each = SdRatio(ratio, low, high, float(t.p[0]))
    # Two looks at one question: twice the smaller p, or the other if one is undefined.
    p = [part.p for part in (common, each) if not math.isnan(part.p)]
    p = len(p) * min(p, default=math.nan)
    return Halves(common, each, float(np.minimum(p, 1)))

def answer_noise(run):
    """H01. After the minimum, where no descent is in the way: are the changes of one size?"""
    d = run.after_minimum()
    n, m = d.shape
    words, evidence, missed = "Not tested: the loss did not turn.", "", "Everything."
    if run.minimum() < len(run.intervals) - 1:
        words = f"Not tested: that takes {MIN_CHANGES + 1} intervals after it, and 3 seeds."
    if m >= MIN_CHANGES and n >= 3:
        halves = compare_halves(d)
        words = halves_words(halves)
        evidence = ("How large are the changes (sd), first half over last? What all seeds share: "
                    f"{ratio_text(halves.common)}. Each seed's own: {ratio_text(halves.own)}. "
                    f"Together {p_text(halves.p)}. ")
        missed = (f"If all noise doubles, that is found in {halves_found(run, 2):.0%} of studies "
                  f"like this one; if it triples, in {halves_found(run, 3):.0%}.")
    # H01 as the published study asked it: over all intervals, the descent among them.
    tests = anovas(run)
    asked, later = tests["volatility"], tests.get("volatility without the first change")
    evidence += f"Over all intervals, as H01 asks, volatility has {f_text(asked, asked.p_gg)}"
    if later:
        evidence += f"; without the first change {f_text(later, later.p_gg)}"
    evidence += (". That is still the descent, and these p are not valid: seeds that share their "
                 "ups and downs are no independent subjects. We ask another question.")
    verdict = "reject (all intervals)" if asked.p_gg < ALPHA else "fail to reject"
    return Answer("After the minimum, did the ups and downs change size?", words, evidence, missed,
                  "H01", verdict, "reject")

# Did the seed matter? All seeds are measured on the same windows of text, so that windows can take
# the place of subjects and seeds that of levels: the same rm_anova as ever, turned about.

@dataclass
class Apart:
    """Do the seeds differ at one interval, by more than their windows explain?"""
    where: str  # "at the minimum" or "at the end"
    anova: stats.RMAnova  # blocks of windows are the subjects, seeds the levels
    p: float  # Greenhouse-Geisser, Bonferroni
    neighbours: float  # correlation of the residuals of neighbouring blocks
    would_find: float  # sd between seeds that is found 8 times of 10, nats

def seeds_apart(run):
    """[Apart at the minimum, Apart at the end], one if they are one; [] without window losses."""
    if run.window_losses is None or run.window_losses.shape[-1] < 6:
        return []
    n_blocks = min(32, run.window_losses.shape[-1] // 3)
    # (One place if the minimum is the end.)
    found, places = [], {run.minimum(): "at the minimum", len(run.intervals) - 1: "at the end"}
    for at, where in places.items():
        # The subjects are blocks of windows: what is hard for one seed is hard for all.
        Y = blocks(run.window_losses, n_blocks)[:, at].T  # (n_blocks, n seeds)
        a = stats.rm_anova(Y)
        # They are taken as independent. Are neighbours alike in what is hard for one seed only?
        residual = stats.decompose(Y).residual
        found.append(Apart(where, a, p=float(np.minimum(1, len(places) * a.p_gg)),
                           neighbours=over_time(residual.T),
                           would_find=sd_found(a, n_blocks, ALPHA / len(places))))
    return found

def answer_seeds(run):
    """H02. At the minimum and at the end: are the seeds different models, and how different?
    Trap: a p value is not a distance. With many windows the smallest difference is found; the sd
    between seeds says whether anybody would care."""
    # How far apart? That needs no test.
    spread, evidence = stats.sd_between(run.loss), "Standard deviation (sd) between seeds"
    for where, at in (("minimum", run.minimum()), ("end", -1)):
        sd = ci_text(spread.sd[at], spread.low[at], spread.high[at], " nats")
        evidence += f", at the {where} {sd}"
    # More than windows explain?
    yes, no, missed = [], [], "An sd between seeds that is found in 80 % of studies:"
    for each in seeds_apart(run):
        places = yes if each.p < ALPHA else no
        places.append(each.where)
        evidence += (f". Tested {each.where}: {f_text(each.anova, each.p)} (Greenhouse-Geisser, "
                     "Bonferroni); neighbouring blocks of windows, taken as independent, "
                     f"correlate {number(each.neighbours, 2)}")
        missed += f" {each.where} {number(each.would_find, 2)} nats,"
    # In words: one answer for both places, or a clause for each.
    verdict, start, missed = "fail to reject", "Not shown", f"{missed} a smaller one less often."
    if yes:
        verdict, start = "reject", f"Yes {yes[0]}, not shown {no[0]}" if no else "Yes"
    elif not no:
        verdict, start = "not tested", "Not tested"
        missed = "Everything: that takes the losses of 6 windows or more."
    words = f"{start}: about {number(spread.sd[-1], 2)} nats apart at the end."
    return Answer("Did the seeds make different models?", words, f"{evidence}.", missed,
                  "H02", verdict, "described only")

# Was there a stable phase? The published rule tests nothing: it marks cells, also of flat studies.

def answer_phase(run):
    """H04. What the published rule marks, and why that cannot tell."""
    stable = run.measures()["stable"][:, 2:]
    words = f"Cannot tell: the published rule marks {stable.sum():.0f} of {stable.size} cells."
    # What does it mark where nothing happens?
    flat = derive(flat_studies(run, 500), **run.rules)["stable"][..., 2:]
    evidence = (f"Its quantile lets it mark about {run.rules['stable_quantile']:.0%} of cells (a "
                "seed at an interval) at most, unless volatilities tie, and a loss that falls ever "
                f"more slowly always has some. It marks {flat.mean():.1%} of the cells of flat "
                f"studies with this noise, and {stable.mean():.1%} here.")
    missed = ("A plateau: there about half of all changes go up, and the rule allows "
              f"{run.rules['stable_backslides']} in {run.rules['volatility_window']}.")
    return Answer("Was there a stable phase?", words, evidence, missed,
                  "H04", "no test", "fail to reject")

# ---------------------------------------------------------------- what the design cannot show
def limits(run):
    """Six statements; what can be is computed from the run, and cannot go out of date."""
    n, k = run.loss.shape
    # What all seeds share is what the seed does not decide.
    orders = run.config.get("seed_decides") == "weights+order"
    shared = "the text" if orders else "the order of the text"
    common = in_common(run.after_minimum())
    # What can the published rule for spikes fire on?
    window, factor = run.rules["volatility_window"], run.rules["spike_factor"]
    n_values = min(window, k - 1)
    reach = math.sqrt(n_values - 1)  # the farthest of so many numbers, in their sds
    can = "can" if reach > factor + 1e-9 else "can never"
    m = run.measures()
    fired = [np.nansum(m["spike"]), np.nansum(m["spike_corrected"])]
    return [
        limit_epochs(run),
        limit_precision(run),
        f"All seeds share {shared}. After the minimum the changes of two seeds correlate "
        f"{number(common, 2)} on average; what they share is not the seed's doing.",
        f"The published spike rule {can} fire after interval 1: it asks for more than {factor:g} "
        f"sds, and among {n_values} values none is further than {reach:.2f} from their mean. It "
        f"marks {fired[0]:.0f} changes; with each left out of its own threshold, {fired[1]:.0f}.",
        f"The residuals of {n} seeds span {min(n, k) - 1} of the {k - 1} directions in which {k} "
        f"intervals can differ: epsilon is {min(1, (n - 1) / (k - 1)):.3f} at most, whatever the "
        "truth, and Mauchly's test of sphericity takes as many seeds as intervals.",
        "Never varied: the training text, the tokenizer, the validation windows.",
    ]

# ================================================================ what the answers stand on
# Stop reading here the first time. Below: tools of the answers, simulations, the
# report, comparisons, the command line.

# ---------------------------------------------------------------- tools of the answers
def blocks(window_losses, n_blocks):
    """Means over neighbouring windows: (n, k, n_windows) -> (n, k, n_blocks).
    Windows resemble their neighbours, so that blocks are more nearly independent than windows."""
    n, k, n_windows = window_losses.shape
    n_blocks = min(n_blocks, n_windows)
    size = n_windows // n_blocks
    return window_losses[..., : size * n_blocks].reshape(n, k, n_blocks, size).mean(axis=-1)

def in_common(d):
    """Mean correlation between the rows of d (n, m): how much of their ups and downs they share."""
    n, m = d.shape
    if n < 2 or m < 3 or not np.ptp(d, axis=1).all():
        return math.nan
    # The matrix of correlations holds n of the rows with themselves, which are 1.
    return float((np.corrcoef(d).sum() - n) / (n * (n - 1)))

def halves_words(halves):
    """What two halves say, in plain words: the part with the smaller p decides."""
    if not halves.p < ALPHA:
        return f"No change shown ({p_text(halves.p)})."
    # (A part whose p is undefined decides nothing.)
    parts = {"what all seeds share": halves.common, "what each seed has of its own": halves.own}
    whose = min(parts, key=lambda name: np.nan_to_num(parts[name].p, nan=1.0))
    verb = "grew" if parts[whose].ratio < 1 else "fell"
    return f"Yes: {whose} {verb} to {number(1 / parts[whose].ratio, 2)} times its size."

def limit_epochs(run):
    """How often was the text read, and what does the training loss say?"""
    train, best = run.train_loss.mean(axis=0), run.minimum()
    text = (f"The training text was read {number(run.epochs[-1])} times; the validation loss was "
            f"lowest after {number(run.epochs[best])}. Training loss was {number(train[1])} at "
            f"first, {number(train[best])} there and {number(train[-1])} at the end")
    if train[-1] < train[best] and answer_rise(run).verdict == "reject":
        text += ": what is learned while validation loss rises is the training text itself"
    return f"{text}."

def limit_precision(run):
    """How well is a validation loss known? Over blocks, since windows resemble neighbours."""
    if run.window_losses is None:
        return "How well each validation loss is known takes the losses of its windows."
    parts = blocks(run.window_losses, 32)  # (n, k, 32)
    # The standard error of a mean of blocks, and of a change of it on the same blocks.
    error = sample_sd(parts) / math.sqrt(parts.shape[-1])
    of_change = sample_sd(np.diff(parts, axis=1)) / math.sqrt(parts.shape[-1])
    return (f"Over {parts.shape[-1]} blocks of validation windows the standard error of a loss is "
            f"{number(np.median(error), 2)} nats, of a change {number(np.median(of_change), 2)}: "
            "other windows would give other numbers.")

def ci_text(x, low, high, unit=""):
    """A number with its 95 % confidence interval."""
    return f"{number(x)}{unit} (95 %: {number(low)} to {number(high)})"

def ratio_text(x):
    """A SdRatio in words."""
    return f"{ci_text(x.ratio, x.low, x.high)}, {p_text(x.p)}"

def t_text(t, p, unit="nats"):
    """The first of some paired t tests, with a p that may be adjusted."""
    difference = ci_text(t.mean_diff[0], t.low[0], t.high[0], f" {unit}")
    return f"{difference}, t({t.df[0]}) = {number(t.t[0])}, {p_text(p)}"

def f_text(anova, p):
    """F with its plain degrees of freedom, and the corrected p, which is the one to read."""
    return f"F({anova.df_effect}, {anova.df_error}) = {number(anova.f)}, {p_text(p)}"

# ---------------------------------------------------------------- studies that go nowhere
# To say that something happened, one has to know what happens by itself. The changes after the
# minimum tell how large chance is, and how alike from one interval and one seed to the next.
# Studies simulated with such changes, and nothing else, tell what a test finds by chance.

@dataclass
class Noise:
    size: float  # sd of a change, nats
    between_seeds: float  # mean correlation of the changes of two seeds
    phi: float  # correlation of a change with the one before
    m: int = 0  # changes a seed from which all this is estimated

def noise_of(run):
    """The Noise after the minimum or, with fewer than 3 changes there, of the last half: an
    estimate, from few changes."""
    d = run.after_minimum()
    if d.shape[1] < 3:
        d = np.diff(run.loss)[:, len(run.intervals) // 2 :]
    d = without_line(d)
    n, m = d.shape
    # A line has two constants, which leave m - 2 of m changes free.
    size = math.sqrt((d**2).sum() / (n * max(m - 2, 1)))
    return Noise(size, in_common(d), over_time(d, lines=True), m)

def over_time(d, lines=False):
    """The phi of AR(1): how the rows of d (n, m) correlate with themselves one interval later.
    m-1 products stand over m squares, hence m / (m-1). A line taken off each row (lines=True)
    makes the plain ratio too small by (2 + 4 phi) / m, which is given back. Trap: so does a mean
    taken off, by (1 + 3 phi) / m, which is not."""
    m = d.shape[1]
    products, squares = (d[:, 1:] * d[:, :-1]).sum(), (d**2).sum()
    ratio = products / max(squares, 1e-300)
    phi = m * ratio / max(m - 1, 1)
    if lines and m > 6:  # ratio = phi - (2 + 4 phi) / m, solved for phi
        phi = (m * ratio + 2) / (m - 4)
    return float(np.clip(phi, -0.99, 0.99))

def flat_curves(rng, noise, shape):
    """Losses, shape (n_studies, n, k), that go nowhere, with this Noise in their changes."""
    n_studies, n, k = shape
    # A negative correlation of all with all cannot be simulated so, and is chance anyway.
    share = float(np.clip(np.nan_to_num(noise.between_seeds), 0, 0.99))
    # What all seeds of a study share, and what each has of its own: their variances add up.
    common = stats.ar1(rng, (n_studies, 1, k), noise.phi)
    own = stats.ar1(rng, (n_studies, n, k), noise.phi)
    d = noise.size * (math.sqrt(share) * common + math.sqrt(1 - share) * own)
    return d.cumsum(axis=-1)

def flat_studies(run, n_studies=2000):
    """flat_curves with the noise of this run, as many seeds and intervals: (n_studies, n, k).
    (Their minimum may lie anywhere, that of a real curve after its descent only: over more
    intervals chance rises further, which makes a true rise harder to show, not easier.)"""
    return flat_curves(np.random.default_rng(1), noise_of(run), (n_studies, *run.loss.shape))

# ---------------------------------------------------------------- what a test would have missed
def t_test_alone(rise):
    """Share of studies in which the t test of end against minimum alone finds a rise, of thousands
    at once: rise (n_studies, n) -> share. (Simulated studies have no windows to hold out.)"""
    with np.errstate(all="ignore"):  # where the end is the minimum, t is 0/0: no rise
        t = rise.mean(axis=1) / sample_sd(rise) * math.sqrt(rise.shape[1])
    p = 2 * scipy_stats.t.sf(np.abs(t), rise.shape[1] - 1)
    return float((2 * p < ALPHA).mean())

def halves_found(run, factor, n_studies=300):
    """In what share of studies like this one does compare_halves find noise that grows `factor`
    times from the first half to the last? For factor 1 that is its level."""
    m = run.after_minimum().shape[1]
    # As many changes as this run has, the last half of them made larger.
    d = np.diff(flat_studies(run, n_studies)[..., -m - 1 :])
    d[..., -(m // 2) :] *= factor
    found = [compare_halves(study).p < ALPHA for study in d]
    return float(np.mean(found))

def sd_found(anova, n_blocks, alpha):
    """The sd between seeds, in nats, that the anova of seeds_apart finds 8 times of 10.
    F is (1 + n_blocks sd^2 / MS_error) times an F without effect. It is significant 8 times of 10
    if its 20 % quantile just is: solved for the sd."""
    # The test corrects its df by epsilon; how F itself scatters is taken from the plain ones.
    e = anova.epsilon_gg
    needed = scipy_stats.f.isf(alpha, e * anova.df_effect, e * anova.df_error)
    quantile = scipy_stats.f.ppf(0.2, anova.df_effect, anova.df_error)
    ms_error = anova.ss_error / anova.df_error
    return math.sqrt((needed / quantile - 1) * ms_error / n_blocks)

# ---------------------------------------------------------------- figures and tables
def seed_lines(run, Y, unit):
    """Lines for a chart: Y (n, k) of each seed, grey if they are many, and their mean."""
    style = "grey" if len(Y) > 8 else "plain"
    lines = [Line(f"seed {seed}", run.tokens / unit, row, style) for seed, row in zip(run.seeds, Y)]
    return [*lines, Line(f"mean of {len(Y)}", run.tokens / unit, Y.mean(axis=0), "bold")]

def figures(run):
    """name -> (SVG, caption) of every figure of the report."""
    unit, x_label = token_axis(run.tokens[-1])
    x, best, mean = run.tokens / unit, run.minimum(), run.mean()
    # Epochs stand below the tokens, and points tell their numbers.
    more = {"points": True}
    if np.isfinite(run.epochs[-1]):
        more["second"] = "epochs", run.epochs[-1] / x[-1]
    both = [Line("training", x, run.train_loss.mean(axis=0)), Line("validation", x, mean, "bold")]
    mark = x[best], mean[best], f"lowest: {mean[best]:.3f}"
    losses = seed_lines(run, run.loss, unit)
    volatilities = seed_lines(run, run.measures()["volatility"], unit)
    return {
        "train_and_validation": (
            line_chart(both, x_label, "loss (nats)", mark=mark, **more),
            "Where training loss falls while validation loss rises, text is learned by heart."),
        "loss_by_seed": (line_chart(losses, x_label, "validation loss (nats)", **more),
                         "Validation loss of each seed."),
        "volatility": (
            line_chart(volatilities, x_label, "volatility (nats)", log_y=True, **more),
            "While the first drop of the loss is in its window, it is all that one sees."),
    }

def anovas(run):
    """variable -> RMAnova: the published study's, and two of them without the first drop."""
    volatility = run.measures()["volatility"]
    # The first interval whose window does not hold the first change.
    later = 1 + run.rules["volatility_window"]
    matrices = {"val_loss": run.loss, "val_loss without interval 0": run.loss[:, 1:],
                "val_ppl": np.exp(np.minimum(run.loss, 100)), "volatility": volatility[:, 2:],
                "volatility without the first change": volatility[:, later:]}
    return {name: stats.rm_anova(Y) for name, Y in matrices.items() if Y.shape[1] > 1}

def save_tables(run, drawings):
    """Write telemetry.csv, interval_summary.csv, anova.csv, pairwise.csv and the figures."""
    folder, measures, spread = run.folder, run.measures(), stats.sd_between(run.loss)
    # The measures of every seed at every interval.
    rows = []
    for i, seed in enumerate(run.seeds):
        for j, interval in enumerate(run.intervals):
            cells = [float(Y[i, j]) for Y in measures.values()]
            rows.append([seed, interval, run.tokens[j], *cells])
    write_csv(folder / "telemetry.csv", ["seed", "interval", "tokens_seen", *measures], rows)
    # Means over seeds, and the sd between them.
    every = {"interval": run.intervals, "tokens_seen": run.tokens, "val_loss": run.mean(),
             "sd": spread.sd, "sd_low": spread.low, "sd_high": spread.high}
    for name, Y in measures.items():
        every[name] = Y.mean(axis=0)
    write_csv(folder / "interval_summary.csv", every, zip(*every.values()))
    # The tests of five variables, and all pairs of intervals.
    rows = [[name, *vars(anova).values()] for name, anova in anovas(run).items()]
    write_csv(folder / "anova.csv", ["variable", *stats.RMAnova.__dataclass_fields__], rows)
    pairs = vars(stats.pairwise_tests(run.loss))
    write_csv(folder / "pairwise.csv", pairs, zip(*pairs.values()))
    (folder / "figures").mkdir(exist_ok=True)
    for name, (drawing, _) in drawings.items():
        write_whole(folder / "figures" / f"{name}.svg", drawing)

# ---------------------------------------------------------------- the report
def summary(run):
    """The outcome in a sentence, for the terminal and for the top of the report."""
    mean, best = run.mean(), run.minimum()
    return (f"The mean validation loss of {len(run.seeds)} seeds began at {number(mean[0])} nats "
            f"and was lowest, {number(mean[best])}, at interval {run.intervals[best]}, after "
            f"{number(run.epochs[best])} epochs; at the end it stood at {number(mean[-1])}.")

def two_stories(run):
    """HTML of samples.json, a story by the best and one by the last checkpoint, if it is there."""
    path, html = run.folder / "samples.json", ""
    samples = read_json(path) if path.exists() else {}
    try:
        for name, sample in samples.items():
            html += paragraphs(f"By the {name} checkpoint of seed {sample['seed']}, interval "
                               f"{sample['interval']}:") + quote(sample["story"])
    except (AttributeError, TypeError, KeyError):
        raise InputError(f"{path} is damaged; remove it, and the report has no stories") from None
    return html

def what_was_done(run):
    """HTML: the study in a sentence, as config.json has it (an old one may lack a number)."""
    c = run.config
    return paragraphs(
        f"A model of {c.get('n_layer')} layers, {c.get('n_head')} heads and width "
        f"{c.get('n_embd')}, trained once a seed on {c.get('train_documents')} documents "
        f"({c.get('train_tokens')} tokens; {c.get('text')}), {run.tokens[-1]:,.0f} tokens in all, "
        f"and measured on the same {c.get('valid_windows')} windows of {c.get('block_size')} "
        "tokens of other documents.", *left_out(run.folder, run.config, run.seeds))

def report_sections(run, found, drawings):
    """heading -> HTML of the report below its first screen, in the order of reading."""
    parts = []
    for each in found:
        parts.append(subsection(f"{each.question} {each.answer}", paragraphs(
            each.evidence, f"What this would have missed: {each.missed}")))
    evidence = columns(parts[0] + parts[2], parts[1] + parts[3], even=True)
    tests = []
    for name, a in anovas(run).items():
        tests.append([name, f_text(a, a.p_gg), a.epsilon_gg, a.eta_sq_generalized])
    tests = table(["variable", "F, p by Greenhouse-Geisser", "epsilon", "eta squared"], tests,
                  "Do intervals differ? An F with the first drop of the loss in it says little "
                  "about the rest; perplexity (val_ppl) is exp(val_loss), measured twice. "
                  "More tests of the losses: python stats.py and the path of metrics.csv.")
    return {
        "How these answers were reached": evidence + paragraphs(HYPOTHESES),
        "What this design cannot show": listing(limits(run)),
        "What was done": what_was_done(run),
        "What happened": columns(figure(*drawings["loss_by_seed"]),
                                 figure(*drawings["volatility"]), even=True),
        "The tests": details("Repeated-measures ANOVA, variable by variable", tests),
        "Two stories": two_stories(run),
    }

def write_report(folder, **rules):
    """Write tables, figures and report.html of a run by the rules of `derive` -> sentences."""
    run = read_run(folder, **rules)
    n, k = run.loss.shape
    need(run.config, f"{folder} is not the folder of a run: it has no config.json")
    need(n > 1 and k > 3, f"a report needs 2 seeds and 4 intervals; {folder} has {n} and {k}")
    drawings, found = figures(run), answers(run)
    save_tables(run, drawings)
    # The first screen answers without a scroll: the figure, and beside it the four answers.
    boxes = ""
    for each in found:
        boxes += answer_box(each.question, each.answer, f"{each.hypothesis}: {each.verdict}. "
                            f"Published: {each.published}.")
    lead = paragraphs(summary(run)) + columns(figure(*drawings["train_and_validation"]), boxes)
    # Below it stands what is behind the answers.
    name, preset = run.folder.resolve().name, run.config.get("preset", "of another kind")
    page = run.folder / "report.html"
    write_page(page, f"{printable(name)}: {n} seeds, {k} intervals ({preset})",
               report_sections(run, found, drawings), lead=lead)
    lines = [summary(run)]
    lines += [f"{each.question} {each.answer}" for each in found]
    lines += left_out(run.folder, run.config, run.seeds)
    return [*lines, f"The report: {page.resolve().as_uri()}"]

# ---------------------------------------------------------------- runs side by side
def key_numbers(run, unit):
    """name -> number: what is compared between runs; their losses are in `unit`."""
    mean, best = run.mean(), run.minimum()
    sd = sample_sd(run.loss[:, -1]) if len(run.seeds) > 1 else math.nan
    return {f"lowest mean loss ({unit})": mean[best],
            "the same in bits per byte": run.bits.mean(axis=0)[best],
            "at million tokens": run.tokens[best] / 1e6, "at epoch": run.epochs[best],
            "rise from there to the end": mean[-1] - mean[best], "sd between seeds at the end": sd}

def test_difference(one, A, two, B, unit):
    """Lines: how Run A, called `one`, differs from Run B, seed by seed."""
    seeds = [seed for seed in A.seeds if seed in B.seeds]
    if len(seeds) < 2 or A.tokens[-1] != B.tokens[-1]:
        return [f"{one} and {two} are not tested: that takes two shared seeds, and equal tokens."]
    # Losses of the seeds that both have, (n, k): the same seed began with the same weights.
    a = A.loss[[A.seeds.index(seed) for seed in seeds]]
    b = B.loss[[B.seeds.index(seed) for seed in seeds]]
    ends = np.stack([a[:, -1], b[:, -1]], axis=1)  # (n, 2)
    # Trap: each seed's own minimum was chosen for being low, so that even noise rises from it.
    rise = stats.pairwise_tests(ends - np.stack([a.min(axis=1), b.min(axis=1)], axis=1))
    end = stats.pairwise_tests(ends)
    spread = stats.paired_sd_ratio(a[:, -1], b[:, -1])
    return [f"{one} minus {two}, seed by seed:",
            f"  rise from the seed's own minimum: {t_text(rise, rise.p[0], unit)}",
            "    (of use for runs of equal noise and as many intervals: noise alone rises, too)",
            f"  loss at the end: {t_text(end, end.p[0], unit)}",
            f"  sd between seeds at the end, ratio: {ratio_text(spread)}"]

def compare(folders):
    """Draw the mean curves of runs, whole or going on, tell what they are like, and test the first
    against each other one. Figure and table go into the first folder; returns lines of text."""
    names = [printable(Path(folder).resolve().name) for folder in folders]
    need(len(set(names)) == len(names), "two of the folders have one name; rename one")
    runs = [read_run(folder) for folder in folders]
    # Tokens of other tokenizers are other tokens: then losses are compared in bits a byte.
    # (An old config.json has no sum of its tokenizer, but the size of its vocabulary.)
    unit = "nats"
    sums, sizes = [{run.config.get(name) for run in runs} - {None}
                   for name in ("tokenizer_sha256", "vocab_size")]
    if len(sums) > 1 or len(sizes) > 1:
        unit = "bits per byte"
        for run in runs:
            need(np.isfinite(run.bits).all(), f"{run.folder} has no bits per byte to compare")
            run.loss = run.bits
    one, x_label = token_axis(max(run.tokens[-1] for run in runs))
    # From interval 1 on: next to the descent of an untrained model one sees nothing else.
    curves = [Line(name, run.tokens[1:] / one, run.mean()[1:]) for name, run in zip(names, runs)]
    drawing = line_chart(curves, x_label, f"mean validation loss ({unit})", points=True)
    # (A file's name has 255 bytes at most, and a letter up to four.)
    file = Path(folders[0]) / ("compared_with_" + "_".join(names[1:]))[:58]
    write_whole(f"{file}.svg", drawing)
    # One row a number, one column a run: as csv, and as lines for a terminal.
    found = [key_numbers(run, unit) for run in runs]
    rows, lines = [], [f"{'':30s}" + "".join(f"{name:>16.15}" for name in names)]
    for what in found[0]:
        values = [each[what] for each in found]
        rows.append([what, *values])
        lines.append(f"{what:30s}" + "".join(f"{number(x):>16s}" for x in values))
    write_csv(f"{file}.csv", ["", *names], rows)
    for name, run in zip(names[1:], runs[1:]):
        lines += test_difference(names[0], runs[0], name, run, unit)
    return [*lines, f"The curves and this table: {file}.svg and .csv"]

# ---------------------------------------------------------------- lesson and command line
def published_run(**rules):
    """The Run that the published study's own table makes."""
    run = run_of(Metrics(read_records(stats.PUBLISHED), "data"), stats.PUBLISHED.parent, {}, rules)
    run.epochs = run.tokens / (428_628 - 128 - 1)  # its tokens, less a window and 1: window_starts
    return run

def lesson(**rules):
    """What the published study's own numbers say when one asks them again, as lines."""
    run = published_run(**rules)
    yield "The published study, mean validation loss of 6 seeds at 21 intervals:"
    yield "  " + " ".join(f"{x:.2f}" for x in run.mean())
    yield summary(run)
    for each in answers(run):
        yield f"\n{each.question} {each.answer}\n  {each.evidence}"
        yield f"  What this would have missed: {each.missed}"
        yield f"  {each.hypothesis}: {each.verdict}. Published: {each.published}."
    for each in limits(run):
        yield f"  {each}"

def main():
    parser = support.program.Parser(description="Report on runs; without a folder, a lesson.")
    parser.add_argument("folders", nargs="*", help="run folders; several are compared")
    # What each option means stands at derive.
    for name, default in RULES.items():
        parser.add_argument(f"--{name}", type=type(default), default=default,
                            help=f"see derive in telemetry.py (default: {default})")
    rules = vars(parser.parse_args())
    folders = rules.pop("folders")
    if not folders:
        print("\n".join(lesson(**rules)))
    for folder in folders:
        # (Among several, a run that goes on, without a metrics.csv yet, is only compared.)
        if len(folders) == 1 or Path(folder, "metrics.csv").exists():
            print("\n".join(write_report(folder, **rules)))
    if len(folders) > 1:
        print("\n".join(compare(folders)))

if __name__ == "__main__":
    support.program.run(main)
