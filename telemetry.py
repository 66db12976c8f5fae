"""Chapter 5. Telemetry: how stable was the training, and what may one conclude from it?

From the validation losses of all seeds, a matrix of n seeds by k intervals, to measures of
stability, four answers and a report. Nothing here trains anything, and nothing needs torch.

    python telemetry.py runs/classroom                  tables, figures and report.html
    python telemetry.py runs/classroom runs/fresh       the same, and the two compared
    python telemetry.py runs/x --volatility_window 6    with another rule (see --help)
    python telemetry.py                                 a lesson: the published study's numbers

Each takes some three seconds a run. The measures, by hand, for one seed and a window of 3 changes:

    interval               0     1     2     3     4     5     6
    validation loss        9     5     3     3     5     6     6
    change                      -4    -2     0     2     1     0
    volatility                        1.41   2     2     1     1    sd of the last 3 changes
    backslide                    0     0     0     1     1     0    did the loss go up?
    backslide frequency          0     0     0     1     2     2    how many of the last 3 changes
    spike, as published          0     0     0     0     0     0    at 4: 2 is not above 0 + 2 * 1.63
    spike, corrected                         0     1     0     0    at 4: 2 is above -2 + 2 * 1.63
    stable                             0     0     0     0     0    5 and 6 are calm, but slide back
"""
import support.program  # first, so that Ctrl-C is one line from now on

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats

import stats
from support.figures import Line, line_chart, token_axis
from support.files import (InputError, need, printable, read_json, read_records, read_rows,
                           write_csv, write_whole)
from support.page import (answer_box, columns, details, figure, listing, number, p_text,
                          paragraphs, preformatted, quote, table, write_page)

# ---------------------------------------------------------------- the measures

def derive(val_loss, volatility_window=5, spike_factor=2.0, spike_floor=0.01,
           stable_quantile=0.25, stable_backslides=1):
    """Every measure of stability: val_loss (..., n, k) -> dict of arrays of the same shape.

    An array is nan where its measure is not defined. With d[t] = val_loss[t] - val_loss[t-1],
    all in nats, and the window of the last `volatility_window` changes, up to d[t]:

    change                d, from t = 1 on
    volatility            sample sd of the window, from t = 2 on
    backslide             1 where d > 0; its magnitude is max(d, 0), its frequency the number of
                          backslides in the window
    spike                 as published, see `spikes`; its rate is the share of the window
    spike_corrected       the rule that leaves a change out of its own threshold, from t = 3 on
    stable                1 for a candidate of a stable phase, see `stable_cells`, from t = 2 on
    """
    loss = np.asarray(val_loss, dtype=np.float64)
    window = volatility_window
    # The nan in front keeps d as long as the loss: d[t] is the change that ends at interval t.
    d = np.diff(loss, axis=-1, prepend=np.nan)
    backslide = np.where(np.isnan(d), np.nan, d > 0)
    spike = spikes(d, window, spike_factor, spike_floor, with_itself=True)
    corrected = spikes(d, window, spike_factor, spike_floor, with_itself=False)
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
    # EXERCISE 7: own_spike
    # EXERCISE 12: own_stable
    m["stable"] = stable_cells(m, stable_quantile, stable_backslides)
    return m

def rolling(measure, x, window, first, least=1):
    """measure(the last `window` values of x) at every interval; x (..., k) begins at `first`.

    nan until there are `least` values: a sample sd needs two of them.
    """
    out = np.full(x.shape, np.nan)
    for t in range(first + least - 1, x.shape[-1]):
        begin = max(first, t - window + 1)
        out[..., t] = measure(x[..., begin : t + 1], axis=-1)
    return out

def sample_sd(x, axis):
    return x.std(axis=axis, ddof=1)

def spikes(d, window, factor, floor, with_itself):
    """1 where a change d[t] is above `floor` and above m + factor s, else 0: d (..., k).

    m and s are the mean and the population sd of `window` changes: the last ones with d[t]
    among them (with_itself, as published; at t = 1 the floor decides alone), or those before it.
    Trap: among w numbers none is further than sqrt(w-1) s from their mean, which is 2 s for
    w = 5, so the published rule can never fire. Trap: of normal changes around a constant the
    corrected rule calls 9 % spikes (P(t(4) > 1.63) for w = 5), more while the window fills.
    """
    out = np.full(d.shape, np.nan)
    if with_itself:
        out[..., 1:2] = d[..., 1:2] > floor
    for t in range(2 if with_itself else 3, d.shape[-1]):
        end = t + 1 if with_itself else t
        sample = d[..., max(1, end - window) : end]
        distance = d[..., t] - sample.mean(axis=-1)
        # One of five numbers can lie exactly 2 sd from the mean; 1e-9 keeps rounding out of it.
        far = distance > factor * sample.std(axis=-1) * (1 + 1e-9)
        out[..., t] = far & (d[..., t] > floor)
    return out

def stable_cells(m, quantile, backslides):
    """1 where volatility is in the lowest `quantile` of all seeds and intervals, the published
    spike rate is 0, and at most `backslides` of the window's changes went up, else 0."""
    out = np.full(m["volatility"].shape, np.nan)
    if out.shape[-1] > 2:
        every = m["volatility"][..., 2:]
        low = np.quantile(every, quantile, axis=(-2, -1), keepdims=True)
        calm = (every <= low) & (m["spike_rate"][..., 2:] == 0)
        out[..., 2:] = calm & (m["backslide_frequency"][..., 2:] <= backslides)
    return out

# ---------------------------------------------------------------- a run, from files to matrices

@dataclass
class Run:
    """What a run folder says, n seeds by k intervals. Numbers that it does not hold are nan."""

    folder: Path
    config: dict  # of config.json
    seeds: list
    intervals: list
    tokens: np.ndarray  # (k), seen so far
    epochs: np.ndarray  # (k), times the whole training text
    loss: np.ndarray  # (n, k), validation loss in nats a token
    train_loss: np.ndarray  # (n, k), mean over the steps since the last measurement
    se: np.ndarray  # (n, k), standard error of loss over the validation windows
    change_se: np.ndarray  # (n, k), of its change, paired over the windows
    published: np.ndarray  # (n, k), loss on the published study's windows
    bits: np.ndarray  # (n, k), loss in bits a byte
    seconds: np.ndarray  # (n, k), since the seed began
    window_losses: np.ndarray | None = None  # (n, k, n_windows), if the run kept them
    notes: list = field(default_factory=list)  # sentences about what is left out
    rules: dict = field(default_factory=dict)  # options of `derive`

    def mean(self):
        """(k): the mean validation loss over seeds."""
        return self.loss.mean(axis=0)

    def minimum(self):
        """The index of the interval with the lowest mean validation loss, "the minimum"."""
        return int(self.mean().argmin())

    def measures(self):
        return derive(self.loss, **self.rules)

    def after_minimum(self):
        """(n, m): the changes from the second interval after the minimum on. The first is left
        out: it goes up because the minimum was chosen for being low."""
        return self.measures()["change"][:, self.minimum() + 2 :]

def read_run(folder, **rules):
    """The Run of a folder, complete or still going on; `rules` are options of `derive`.

    InputError says what is missing or damaged.
    """
    folder = Path(folder)
    rows = metrics_rows(folder)
    run = run_of(rows, folder, read_config(folder), rules)
    run.window_losses = read_window_losses(run)
    run.notes += what_is_left_out(run, rows)
    return run

def run_of(rows, folder, config, rules):
    """The Run that the rows of a metrics.csv make: dicts of column -> text, in any order."""
    cells = by_seed_and_interval(rows, folder)
    seeds = sorted({seed for seed, _ in cells})
    # Of a run that goes on, only the intervals that all its seeds have reached.
    intervals = []
    for interval in sorted({interval for _, interval in cells}):
        if all((seed, interval) in cells for seed in seeds):
            intervals.append(interval)

    def matrix(column):
        Y = np.full((len(seeds), len(intervals)), np.nan)
        for i, seed in enumerate(seeds):
            for j, interval in enumerate(intervals):
                Y[i, j] = number_in(cells[seed, interval], column, folder)
        return Y

    tokens = matrix("tokens_seen")
    run = Run(
        folder=folder, config=config, seeds=seeds, intervals=intervals, rules=rules,
        tokens=tokens[0], epochs=matrix("epochs")[0], loss=matrix("val_loss"),
        train_loss=matrix("train_loss"), se=matrix("val_loss_se"),
        change_se=matrix("val_change_se"), published=matrix("val_loss_published"),
        bits=matrix("bits_per_byte"), seconds=matrix("elapsed_seconds"))
    check_tokens_and_loss(run, tokens)
    return run

# ---------------------------------------------------------------- what chance does

# To say that something happened one has to know what happens by itself. The changes after the
# minimum tell how large chance is, and how alike it is from one interval and one seed to the next;
# studies simulated with such changes, and nothing else, tell what a test finds by chance.

@dataclass
class Noise:
    size: float  # sd of a change, nats
    shared: float  # mean correlation between two seeds
    phi: float  # correlation of a change with the one before
    where: str  # of which changes

def without_line(d):
    """Each row of d (..., m) less its own least-squares line.

    Changes with a slope are no noise: a loss that turns, or that falls ever more slowly, has them.
    """
    t = np.arange(d.shape[-1]) - (d.shape[-1] - 1) / 2
    d = d - d.mean(axis=-1, keepdims=True)
    slope = d @ t / max(t @ t, 1)
    return d - slope[..., None] * t

def in_common(d):
    """Mean correlation between the rows of d (n, m): how much of their ups and downs they share."""
    n, m = d.shape
    if n < 2 or m < 3 or not np.ptp(d, axis=1).all():
        return math.nan
    # The matrix of correlations holds n of the rows with themselves, which are 1.
    return float((np.corrcoef(d).sum() - n) / (n * (n - 1)))

def over_time(d, lines=False):
    """The phi of AR(1): how the rows of d (n, m) correlate with themselves one interval later.

    m-1 products stand over m squares, hence m / (m-1). A line taken off each row (lines=True)
    makes the ratio too small by (2 + 4 phi) / m, which is given back. Trap: so does a mean taken
    off, by (1 + 3 phi) / m, which is not.
    """
    m = d.shape[1]
    products, squares = (d[:, 1:] * d[:, :-1]).sum(), (d**2).sum()
    ratio = products / max(squares, 1e-300)
    if lines and m > 6:
        phi = (m * ratio + 2) / (m - 4)
    else:
        phi = m * ratio / max(m - 1, 1)
    return float(np.clip(phi, -0.99, 0.99))

def noise_of(run):
    """The Noise of a run: of its changes after the minimum, or, if too few, of its last half."""
    d, where = run.after_minimum(), "after the minimum"
    if d.shape[1] < 3:
        half = 1 + len(run.intervals) // 2
        d, where = run.measures()["change"][:, half:], "in the last half"
    d = without_line(d)
    n, m = d.shape
    # A line has two constants, which leave m - 2 of m changes free.
    size = math.sqrt((d**2).sum() / (n * max(m - 2, 1)))
    return Noise(size, in_common(d), over_time(d, lines=True), where)

def flat_curves(rng, shape, size, shared, phi):
    """Losses (n_studies, n, k) that go nowhere: their changes have the sd `size` and correlate
    phi over time, `shared` between seeds."""
    n_studies, n, k = shape
    common = stats.ar1(rng, (n_studies, 1, k), phi)
    own = stats.ar1(rng, (n_studies, n, k), phi)
    d = size * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
    return d.cumsum(axis=-1)

def flat_studies(run, n_studies=2000, seed=1):
    """flat_curves with the noise of this run, as many seeds and as many intervals."""
    noise, (n, k) = noise_of(run), run.loss.shape
    shared = 0.0
    if noise.shared > 0:  # (False for nan too)
        shared = min(noise.shared, 0.99)
    n_studies = int(np.clip(1e6 // (n * k), 100, n_studies))  # fewer of large tables
    rng = np.random.default_rng(seed)
    return flat_curves(rng, (n_studies, n, k), noise.size, shared, noise.phi)

def rises(loss):
    """How far does the end lie above the minimum of the mean curve? loss (..., n, k) -> (..., n)"""
    lowest = loss.mean(axis=-2, keepdims=True).argmin(axis=-1, keepdims=True)
    return loss[..., -1] - np.take_along_axis(loss, lowest, axis=-1)[..., 0]

def blocks(window_losses, n_blocks):
    """Means over neighbouring windows: (n, k, n_windows) -> (n, k, n_blocks).

    Windows resemble their neighbours, so that blocks are more nearly independent than windows.
    """
    n, k, n_windows = window_losses.shape
    size = max(1, n_windows // n_blocks)
    n_blocks = min(n_blocks, n_windows)
    return window_losses[..., : size * n_blocks].reshape(n, k, n_blocks, size).mean(axis=-1)

# ---------------------------------------------------------------- four answers

@dataclass
class Answer:
    """One question, what this run answers, and how the published study answered it."""

    question: str
    answer: str  # in plain words
    evidence: str  # the numbers behind it
    missed: str  # what this test would not have seen
    hypothesis: str  # "H03": the published null hypothesis
    verdict: str  # ours on it
    published: str  # the published one

def answers(run):
    """The four Answers of a run with 2 seeds and 4 intervals or more, in the order of reading."""
    return [answer_rise(run), answer_noise(run), answer_seeds(run), answer_phase(run)]

def interval_text(low, high):
    return f"95 %: {number(low)} to {number(high)}"

# Did the loss rise again? -------------------------------------------------------------

def held_out(run):
    """(loss on half of the windows, loss on the other half), each (n, k).

    The minimum is chosen on the first and tested on the second: on the windows on which it was
    chosen it is too low by luck. Every second of 16 blocks, since neighbours are alike; of a run
    without window losses the same twice.
    """
    if run.window_losses is None:
        return run.loss, run.loss
    parts = blocks(run.window_losses, 16)
    return parts[..., ::2].mean(axis=-1), parts[..., 1::2].mean(axis=-1)

def planned(run):
    """The paired t tests of interval 0 against the minimum and of the minimum against the end."""
    choose, test = held_out(run)
    best, last = int(choose.mean(axis=0).argmin()), choose.shape[1] - 1
    pairs = [(a, b) for a, b in ((0, best), (best, last)) if a != b]
    return stats.pairwise_tests(test, pairs)

def t_test_alone(rise):
    """In what share of studies does the t test of RQ3 find a rise? rise (n_studies, n) -> share"""
    with np.errstate(all="ignore"):  # where the end is the minimum, t is 0/0: no rise
        t = rise.mean(axis=-1) / rise.std(axis=-1, ddof=1) * math.sqrt(rise.shape[-1])
    p = 2 * 2 * scipy_stats.t.sf(np.abs(t), rise.shape[-1] - 1)  # Bonferroni over planned's two
    return float((p < stats.ALPHA).mean())

def answer_rise(run):
    """RQ3. The end above the minimum: by the t test, and by more than chance alone brings about.

    Trap: the t test takes seeds as independent. Where they share their ups and downs, an end that
    lies above the minimum by chance does so in all of them.
    """
    best, rise = run.minimum(), float(rises(run.loss).mean())
    test, simulated = planned(run), rises(flat_studies(run))
    by_chance = simulated.mean(axis=-1)
    # A share of n studies can be 0, a p value cannot: this run counts as one of them.
    p = (1 + (by_chance >= rise).sum()) / (1 + len(by_chance))
    tested = test.b[-1] == len(run.intervals) - 1 and test.a[-1] != 0
    risen = rise > 0 and tested and max(test.p_adjusted[-1], p) < stats.ALPHA
    risen = bool(risen and test.mean_diff[-1] < 0)
    if rise == 0:
        words = "No: it was lowest at the end."
    elif risen:
        words = f"Yes: by {number(rise)} nats after interval {run.intervals[best]}."
    else:
        words = f"Not shown: the end lies {number(rise)} nats above the minimum."
    evidence = "The minimum is the last interval."
    if tested:
        half = "" if run.window_losses is None else "the half of the windows that did not choose it"
        evidence = (
            f"From interval {run.intervals[test.a[-1]]} to the end, on {half or 'all windows'}: "
            f"{number(-test.mean_diff[-1])} nats ("
            f"{interval_text(-test.high[-1], -test.low[-1])}), t({test.df[-1]}) = "
            f"{number(abs(test.t[-1]))}, {p_text(test.p_adjusted[-1])} (Bonferroni over two). "
            f"Of {len(by_chance):,d} simulated studies that go nowhere a share of {number(p)} "
            "rise as far.")
    missed = (
        f"A rise below {number(np.quantile(by_chance, 0.95))} nats: so far 5 % of flat studies "
        f"with the noise of this one rise by chance. The t test alone finds a rise in "
        f"{t_test_alone(simulated):.0%} of them.")
    return Answer("Did the loss rise again?", words, evidence, missed, "H03",
                  "reject" if risen else "fail to reject", "reject")

# Did the noise change? ----------------------------------------------------------------

@dataclass
class Halves:
    """The changes after the minimum, first half against last; ratios of sds, first over last."""

    n: int  # changes in each half
    common: stats.VarianceRatio  # of the mean over seeds, what all have in common
    own: stats.Pairs | None  # of what is each seed's own, logs, over seeds; None if undefined
    p: float  # of both together

    def own_ratio(self):
        return math.nan if self.own is None else math.exp(self.own.mean_diff[0])

    def own_p(self):
        return math.nan if self.own is None else float(self.own.p[0])

def compare_halves(d):
    """Halves of changes d (n, m), m >= 6 and n >= 3; their lines are taken off first.

    Common part: F on (h-1, h-1), h = m // 2 (a middle change is left out). Own part: a paired
    t test over seeds of the log of the sds, since ratios are compared by their logs. p is twice
    the smaller of the two p values, 1 at most.
    """
    d = without_line(d)
    h = d.shape[1] // 2
    shared = d.mean(axis=0)
    own = d - shared
    common = stats.variance_ratio(shared[:h], shared[-h:])
    sds = np.stack([sample_sd(own[:, :h], 1), sample_sd(own[:, -h:], 1)], axis=1)  # (n, 2)
    test = stats.pairwise_tests(np.log(sds)) if (sds > 0).all() else None
    result = Halves(h, common, test, common.p)
    if not math.isnan(result.own_p()):
        result.p = min(1.0, 2 * np.fmin(common.p, result.own_p()))
        if math.isnan(common.p):
            result.p = result.own_p()
    return result

def halves_found(run, factor, n_studies=300):
    """In what share of studies like this one does compare_halves find noise that grows `factor`
    times from the first half to the last? For factor 1 that is its level."""
    m = run.after_minimum().shape[1]
    d = np.diff(flat_studies(run, n_studies, seed=2)[..., -m - 1 :])
    d[..., -(m // 2) :] *= factor
    found = [compare_halves(study).p < stats.ALPHA for study in d]
    return float(np.mean(found))

def as_published(run):
    """(F over all intervals, F once the first change has left the window, words on both)."""
    matrices = tested(run)
    everything = stats.rm_anova(matrices["volatility"])
    words = (f"As H01 was asked, over all intervals, volatility has F({everything.df_effect}, "
             f"{everything.df_error}) = {number(everything.f)}, {p_text(everything.p_gg)}")
    later = matrices.get("volatility without the first change")
    if later is not None:
        words += f"; once the first change has left the window, {number(stats.rm_anova(later).f)}"
    return everything, words + ". That is the descent; we ask another question."

def answer_noise(run):
    """RQ1. After the minimum, where no descent is in the way: are the changes of one size?"""
    n, m = run.after_minimum().shape
    everything, asked = as_published(run)
    words = ""
    if m < 1:
        words = "Not tested: the loss did not turn."
    elif m < 6:
        words = "Not tested: the loss turned too late."
    elif n < 3:
        words = "Not tested: too few seeds."
    evidence = f"{m} changes lie after the minimum, in {n} seeds; 6 and 3 are needed."
    missed = "Everything: without these changes there is no test."
    if not words:
        halves = compare_halves(run.after_minimum())
        words = noise_words(halves)
        evidence = (
            f"Standard deviations, first {halves.n} changes over last {halves.n}: what all seeds "
            f"share {number(halves.common.ratio)} "
            f"({interval_text(halves.common.low, halves.common.high)}), {p_text(halves.common.p)}; "
            f"what each has of its own {number(halves.own_ratio())}")
        if halves.own is not None:
            low, high = np.exp([halves.own.low[0], halves.own.high[0]])
            evidence += f" ({interval_text(low, high)}), {p_text(halves.own_p())}"
        evidence += f"; together {p_text(halves.p)}."
        missed = (
            f"In studies like this one a doubling of the noise is found {halves_found(run, 2):.0%} "
            f"of the time, a tripling {halves_found(run, 3):.0%}.")
    rejected = everything.p_gg < stats.ALPHA
    return Answer("Did its ups and downs change after the minimum?", words,
                  f"{evidence} {asked}", missed, "H01",
                  "reject, as it was asked" if rejected else "fail to reject", "reject")

def noise_words(halves):
    """What the two halves say, in plain words."""
    if math.isnan(halves.p):
        return "Not tested: the changes are all alike."
    if halves.p >= stats.ALPHA:
        return f"No change shown ({p_text(halves.p)})."
    # The part with the smaller p is the one that decided.
    ratio, whose = halves.common.ratio, "those that all seeds share"
    if not halves.common.p <= halves.own_p():
        ratio, whose = halves.own_ratio(), "those of each seed alone"
    became = f"fell to {number(1 / ratio)}"
    if ratio < 1:
        became = f"grew to {number(1 / ratio)}"
    return f"Yes: {whose} {became} times their size."

# Did the seed matter? -----------------------------------------------------------------

@dataclass
class Apart:
    """How far the seeds lie apart at one interval, beyond what their windows explain."""

    at: int  # index of the interval
    anova: stats.RMAnova  # blocks of windows are the subjects, seeds the levels
    p: float  # Greenhouse-Geisser, Bonferroni
    neighbours: float  # correlation of neighbouring blocks' residuals
    would_find: float  # sd between seeds that it finds 8 times of 10, nats

def seeds_apart(run):
    """[Apart at the minimum, Apart at the end]; [] without window losses for two blocks."""
    n_windows = 0 if run.window_losses is None else run.window_losses.shape[-1]
    n_blocks = min(32, n_windows // 3)
    if n_blocks < 2:
        return []
    found = []
    places = sorted({run.minimum(), len(run.intervals) - 1})
    for at in places:
        Y = blocks(run.window_losses, n_blocks)[:, at].T  # (n_blocks, n seeds)
        anova = stats.rm_anova(Y)
        residual = Y - Y.mean(axis=0) - Y.mean(axis=1, keepdims=True) + Y.mean()
        # F = (1 + n_blocks sd^2 / MS_error) times an F without effect: solved for the sd.
        df = anova.df_effect, anova.df_error
        needed = scipy_stats.f.isf(stats.ALPHA / len(places), *df) / scipy_stats.f.ppf(0.2, *df)
        error = anova.ss_error / anova.df_error
        found.append(Apart(
            at=at, anova=anova, p=min(1.0, len(places) * anova.p_gg),
            neighbours=over_time(residual.T),
            would_find=math.sqrt(max(needed - 1, 0) * error / n_blocks)))
    return found

def answer_seeds(run):
    """RQ2. At the minimum and at the end: are the seeds different models, and how different?

    The test takes blocks of neighbouring windows as subjects and seeds as levels; how much they
    differ is the sd between seeds. Trap: a p value is not a distance. With many windows the
    smallest difference is found, and the sd says whether anybody would care.
    """
    spread, apart = stats.sd_between(run.loss), seeds_apart(run)
    differ = any(each.p < stats.ALPHA for each in apart)
    end = number(spread.sd[-1])
    words = f"Not tested; they end {end} nats apart (sd)."
    if apart:
        words = f"Not shown; they end {end} nats apart (sd)."
    if differ:
        words = f"Yes: they end {end} nats apart (sd)."
    evidence = ""
    for name, at in (("at the minimum", run.minimum()), ("at the end", len(run.loss[0]) - 1)):
        evidence += (f"Standard deviation between seeds {name}: {number(spread.sd[at])} nats "
                     f"({interval_text(spread.low[at], spread.high[at])}). ")
    for each in apart:
        a = each.anova
        evidence += (f"Interval {run.intervals[each.at]}: F({a.df_effect}, {a.df_error}) = "
                     f"{number(a.f)}, {p_text(each.p)} (Greenhouse-Geisser, Bonferroni); "
                     f"neighbouring blocks correlate {number(each.neighbours, 2)}, the test takes "
                     "them as independent. ")
    missed = "Whether models differ is not tested: that takes the losses of windows."
    if apart:
        least = max(each.would_find for each in apart)
        missed = f"An sd between seeds below {number(least, 2)} nats: that is found 8 times of 10."
    verdict = "not tested"
    if apart:
        verdict = "reject" if differ else "fail to reject"
    return Answer("Did the seeds make different models?", words, evidence.strip(), missed, "H02",
                  verdict, "described only")

# Was there a stable phase? ------------------------------------------------------------

def answer_phase(run):
    """RQ4. What the published rule marks. It has no error rate, so there is nothing to reject."""
    stable = run.measures()["stable"]
    marked, cells = int(np.nansum(stable)), int(np.isfinite(stable).sum())
    words = f"The published rule cannot tell; it marks {marked} of {cells} cells."
    evidence = (
        f"At most {most_stable(run)} cells can be marked, by the rule's own quantile, and so many "
        "are calm in any run. A loss that falls ever more slowly has such cells too.")
    missed = ("A plateau: on a flat line with noise every second change is a backslide, which the "
              "rule forbids. It has no error rate.")
    return Answer("Was there a stable phase?", words, evidence, missed, "H04", "no test",
                  "fail to reject")

def most_stable(run):
    """How many cells the rule for stable phases can mark: those in its quantile of volatility."""
    volatility = run.measures()["volatility"][:, 2:]
    quantile = run.rules.get("stable_quantile", 0.25)
    return int((volatility <= np.quantile(volatility, quantile)).sum())

# ---------------------------------------------------------------- what the design cannot show

def limits(run):
    """Six sentences, computed from the run, so that none can go out of date."""
    return [limit_epochs(run), limit_precision(run), limit_common(run), limit_rules(run),
            limit_sphericity(run), limit_never_varied(run)]

def limit_epochs(run):
    train, best, last = run.train_loss.mean(axis=0), run.minimum(), len(run.intervals) - 1
    first = next((float(x) for x in train if not math.isnan(x)), math.nan)
    text = (f"The training text was read {number(run.epochs[-1])} times; the validation loss was "
            f"lowest after {number(run.epochs[best])}. Training loss: {number(first)} at first, "
            f"{number(train[best])} there, {number(train[-1])} at the end")
    if 0 < best < last and train[-1] < train[best]:
        return text + ": what is learned after the minimum is the training text itself."
    return text + "."

def limit_precision(run):
    change, error = run.measures()["change"], run.change_se
    tokens = run.config.get("valid_windows", 0) * run.config.get("block_size", 0)
    text = f"Each validation loss rests on {tokens:,d} tokens. "
    if np.isfinite(run.se).any():
        text += f"If all windows were independent its standard error were "
        text += f"{number(np.nanmedian(run.se), 2)} nats. "
    if run.window_losses is not None:
        parts = blocks(run.window_losses, 32)
        root = math.sqrt(parts.shape[-1])
        se = sample_sd(parts, -1) / root
        error = np.full(run.loss.shape, np.nan)
        error[:, 1:] = sample_sd(np.diff(parts, axis=1), -1) / root
        text += (f"Over {parts.shape[-1]} blocks of neighbours it is {number(np.median(se), 2)}, "
                 f"that of a change from one interval to the next "
                 f"{number(np.nanmedian(error), 2)}. ")
    up = change > 0
    small = up & (change < 2 * error)
    return text + (f"Of {up.sum()} backslides {small.sum()} are smaller than two such errors of a "
                   "change. For text of another kind none of this holds.")

def limit_common(run):
    shared, decides = in_common(run.after_minimum()), run.config.get("seed_decides", "weights")
    text = f"After the minimum the changes of two seeds correlate {number(shared, 2)} on average"
    if math.isnan(shared):
        text = "The loss turned too late, if at all, to see what the ups and downs share"
    if decides == "weights":
        return f"{text}: all seeds read one text in one order, which is the seed's doing in none."
    if decides == "order":
        return f"{text}: all seeds began with the same weights and read orders of their own."
    return f"{text}: each seed read the text in an order of its own; what they share is the text."

def limit_rules(run):
    window = min(run.rules.get("volatility_window", 5), len(run.intervals) - 1)
    factor, reach = run.rules.get("spike_factor", 2.0), math.sqrt(window - 1)
    can = "can" if reach > factor + 1e-9 else "can never"
    cells = np.isfinite(run.measures()["stable"]).sum()
    return (f"The published spike rule {can} fire after interval 1: it asks for more than "
            f"{factor:g} standard deviations, and among {window} values none is further than "
            f"{reach:.2f} of them from their mean. Its rule for stable phases can mark "
            f"{most_stable(run)} of {cells} cells at most.")

def limit_sphericity(run):
    (n, k), mauchly = run.loss.shape, stats.mauchly(run.loss)
    text = f"Mauchly's test of sphericity does not exist here ({mauchly.reason})"
    if mauchly.defined:
        text = f"Mauchly's test of sphericity gives {p_text(mauchly.p)}"
    return (f"{text}. The residuals of {n} seeds span {min(n, k) - 1} of the {k - 1} directions in "
            f"which {k} intervals can differ, so that epsilon is estimated at "
            f"{min(1, (n - 1) / (k - 1)):.3f} or less, whatever the truth.")

def limit_never_varied(run):
    decides = run.config.get("seed_decides", "weights")
    what = {"weights": "the initial weights", "order": "the order of the windows"}
    fixed = {"weights": "the order of the windows, ", "order": "the initial weights, "}
    return (f"The seed decided {what.get(decides, 'the initial weights and the order')}. Never "
            f"varied, and so in no interval above: {fixed.get(decides, '')}the training text, the "
            "tokenizer, the validation windows, the machine.")

# ================================================================
# Stop reading here the first time. Below: odd folders, the report, comparisons, the command line.

# ---------------------------------------------------------------- what a run folder can hold

def metrics_rows(folder):
    """The rows of metrics.csv, or of a run that goes on those of its seeds."""
    paths = sorted(folder.glob("metrics.csv")) or sorted(folder.glob("seed_*/metrics.csv"))
    need(paths, f"{folder} has no metrics.csv, its own or of a seed; give the folder of a run")
    rows = []
    for path in paths:
        rows += read_records(path)
    return rows

def damaged(folder, what):
    """The InputError about a metrics.csv that cannot be."""
    return InputError(f"a metrics.csv in {folder} is damaged: {what}; the command that made the "
                      "run writes it again")

def by_seed_and_interval(rows, folder):
    """(seed, interval) -> row; rows without a validation loss are left out."""
    cells = {}
    for row in rows:
        try:
            place = int(row["seed"]), int(row["interval"])
        except (KeyError, ValueError):
            raise damaged(folder, "seed and interval must be whole numbers") from None
        if place in cells:
            raise damaged(folder, f"seed {place[0]}, interval {place[1]} is there twice")
        if not math.isnan(number_in(row, "val_loss", folder)):
            cells[place] = row
    return cells

def number_in(row, column, folder):
    """The number in a cell; nan if the cell is empty or there is no such column."""
    cell = row.get(column) or "nan"
    try:
        return float(cell)
    except ValueError:
        raise damaged(folder, f"{column} is {cell[:40]!r}") from None

def check_tokens_and_loss(run, tokens):
    """InputError if the measurements cannot be one run's. tokens: (n, k)"""
    if len(run.intervals) < 2:
        raise damaged(run.folder, "its seeds share fewer than 2 intervals")
    if not (np.diff(tokens) > 0).all() or (tokens != tokens[0]).any() or tokens[0, 0] < 0:
        raise damaged(run.folder, "tokens_seen must grow, and alike for all seeds")
    if not np.isfinite(run.tokens).all() or not (np.abs(run.loss) < 1e300).all():
        raise damaged(run.folder, "a number in tokens_seen or val_loss is not finite")

def read_window_losses(run):
    """(n, k, n_windows) of the seeds' val_windows.npy, None if one has none."""
    paths = [run.folder / f"seed_{seed}" / "val_windows.npy" for seed in run.seeds]
    if not all(path.exists() for path in paths):
        return None
    try:
        every = [np.load(path) for path in paths]  # each (its intervals, n_windows)
        losses = np.array([each[run.intervals] for each in every], dtype=np.float64)
        right = np.allclose(losses.mean(axis=-1), run.loss, rtol=1e-5)
    except Exception:  # bytes that come from anywhere can raise almost anything
        right = False
    need(right, f"val_windows.npy in {run.folder} are damaged, or not of this metrics.csv; the "
                "command that made the run writes them again")
    return losses

def read_config(folder):
    """The settings of config.json, {} if there is none. Names that nobody asks for are ignored."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    config = read_json(path)
    need(isinstance(config, dict), f"{path} is damaged: it holds no settings")
    return config

# What a report says of a run's settings; all older runs have them under these names too.
COUNTS = ("vocab_size", "n_layer", "n_head", "n_embd", "block_size", "valid_windows",
          "train_documents", "train_tokens")

def check_for_report(run):
    """InputError unless there is enough for a report: two seeds, four intervals, the settings."""
    path = run.folder / "config.json"
    need(path.exists(), f"{run.folder} is not the folder of a run: it has no config.json")
    need(len(run.seeds) > 1, f"{run.folder} has 1 seed; a report needs 2 or more")
    need(len(run.intervals) > 3,
         f"{run.folder} has {len(run.intervals)} intervals; a report needs 4 or more")
    for name in COUNTS:
        value = run.config.get(name)
        need(type(value) is int and 0 < value < 10**15,
             f"{path} is damaged: {name} is {value!r:.40}; mend it, or make the run anew")
    seeds = run.config.get("seeds")
    need(isinstance(seeds, list), f"{path} is damaged: seeds must be a list")

def what_is_left_out(run, rows):
    """Sentences about seeds and intervals that were asked for and are not in the matrices."""
    notes = []
    seeds = run.config.get("seeds")
    for seed in seeds if isinstance(seeds, list) else []:
        if seed not in run.seeds:
            path = run.folder / f"seed_{seed}" / "left_out.txt"
            why = "it is not complete"
            if path.is_file():
                why = path.read_text(encoding="utf-8", errors="replace").strip()
            notes.append(f"Seed {seed} is left out: {why}")
    most = len({row["interval"] for row in rows})
    if most > len(run.intervals):
        notes.append(f"{most - len(run.intervals)} intervals are left out: not all seeds have "
                     "them")
    return notes

# ---------------------------------------------------------------- figures

def seed_lines(run, Y, unit):
    """Lines for a chart: Y (n, k) of each seed, thin if they are many, and their mean."""
    style = "grey" if len(Y) > 8 else "plain"
    lines = [Line(f"seed {seed}", run.tokens / unit, row, style) for seed, row in zip(run.seeds, Y)]
    if style == "grey":
        lines[0].name = "each seed"
    lines.append(Line(f"mean of {len(Y)}", run.tokens / unit, Y.mean(axis=0), "bold"))
    return lines

def figures(run):
    """name -> (SVG, caption) of every figure of the report."""
    unit, x_label = token_axis(run.tokens[-1])
    x, m, best = run.tokens / unit, run.measures(), run.minimum()
    shared = {"points": True}
    if run.epochs[-1] > 0:
        shared["second"] = ("epochs", run.epochs[-1] / x[-1])
    train, mean = run.train_loss.mean(axis=0), run.mean()
    mark = x[best], mean[best], f"lowest: {mean[best]:.3f}"
    both = [Line("training", x, train), Line("validation", x, mean, "bold")]
    window = run.rules.get("volatility_window", 5)
    return {
        "train_and_validation": (
            line_chart(both, x_label, "loss (nats)", mark=mark, **shared),
            "Means over seeds. Where training loss falls and validation loss rises, the model "
            "learns its text by heart."),
        "loss_by_seed": (
            line_chart(seed_lines(run, run.loss, unit), x_label, "validation loss (nats)",
                       **shared),
            "Validation loss of every seed."),
        "volatility": (
            line_chart(seed_lines(run, m["volatility"], unit), x_label, "volatility (nats)",
                       log_y=True, **shared),
            f"Standard deviation of the last {window} changes. While the first drop of the loss "
            "is among them, it is all that one sees."),
        "backslides": (
            line_chart(seed_lines(run, m["backslide_frequency"], unit), x_label, "backslides",
                       **shared),
            f"How many of the last {window} changes went up."),
    }

# ---------------------------------------------------------------- tables

def tested(run):
    """name -> (n, k): the published study's variables, and two of them without the first drop."""
    volatility = run.measures()["volatility"]
    # The first interval whose window no longer holds the first change.
    later = run.rules.get("volatility_window", 5) + 1
    matrices = {
        "validation loss": run.loss,
        "validation loss without interval 0": run.loss[:, 1:],
        "perplexity": np.exp(np.minimum(run.loss, 300)),
        "volatility": volatility[:, 2:],
        "volatility without the first change": volatility[:, later:],
    }
    return {name: Y for name, Y in matrices.items() if Y.shape[1] > 1}

def outcomes(run):
    """column -> k numbers: what each interval brought, means over seeds."""
    spread, columns_of = stats.sd_between(run.loss), {}
    per_million = np.diff(run.tokens / 1e6, prepend=np.nan)
    columns_of["interval"] = run.intervals
    columns_of["tokens"] = [int(tokens) for tokens in run.tokens]
    columns_of["epochs"] = run.epochs
    columns_of["train loss"] = run.train_loss.mean(axis=0)
    columns_of["val loss"] = run.mean()
    columns_of["sd"] = spread.sd
    columns_of["sd from"] = spread.low
    columns_of["sd to"] = spread.high
    columns_of["perplexity"] = np.exp(np.minimum(run.loss, 300)).mean(axis=0)
    columns_of["gain"] = -np.diff(run.mean(), prepend=np.nan) / per_million
    m = run.measures()
    for name in ("volatility", "backslide_frequency", "spike_rate", "spike_rate_corrected",
                 "stable"):
        columns_of[name.replace("_", " ")] = m[name].mean(axis=0)
    return columns_of

def save_tables(run, drawings):
    """Write telemetry.csv, interval_summary.csv, anova.csv, pairwise.csv and the figures."""
    measures, columns_of = run.measures(), outcomes(run)
    rows = []
    for i, seed in enumerate(run.seeds):
        for j, interval in enumerate(run.intervals):
            row = [seed, interval, run.tokens[j]]
            rows.append(row + [float(Y[i, j]) for Y in measures.values()])
    write_csv(run.folder / "telemetry.csv", ["seed", "interval", "tokens_seen", *measures], rows)
    write_csv(run.folder / "interval_summary.csv", columns_of, zip(*columns_of.values()))
    anovas = [[name, *vars(stats.rm_anova(Y)).values()] for name, Y in tested(run).items()]
    fields = vars(stats.rm_anova(run.loss))
    write_csv(run.folder / "anova.csv", ["variable", *fields], anovas)
    pairs = vars(stats.pairwise_tests(run.loss))
    write_csv(run.folder / "pairwise.csv", pairs, zip(*pairs.values()))
    (run.folder / "figures").mkdir(exist_ok=True)
    for name, (drawing, _) in drawings.items():
        write_whole(run.folder / "figures" / f"{name}.svg", drawing)

# ---------------------------------------------------------------- the report

def summary(run):
    """The outcome in plain sentences, for the terminal and for the top of the report."""
    mean, best = run.mean(), run.minimum()
    text = (f"The validation loss of {len(run.seeds)} seeds began at {number(mean[0])} nats "
            f"(guessing: {number(math.log(run.config['vocab_size']))}) and was lowest, "
            f"{number(mean[best])}, at interval {run.intervals[best]}, after "
            f"{number(run.epochs[best])} epochs")
    if best == len(mean) - 1:
        return text + ", the end."
    return text + f"; at the end it stood at {number(mean[-1])}."

def first_screen(run, found, drawing):
    """HTML: the figure, and beside it the four answers."""
    boxes = ""
    for each in found:
        small = f"{each.hypothesis}: {each.verdict}. Published: {each.published}."
        boxes += answer_box(each.question, each.answer, small)
    return paragraphs(summary(run)) + columns(figure(*drawing), boxes)

def evidence(found):
    """HTML: how each answer was reached, and what it would have missed."""
    html = ""
    for each in found:
        html += paragraphs(f"{each.question} {each.answer}", each.evidence,
                           f"What this would have missed: {each.missed}")
    return html + paragraphs(
        "H01 to H04 are the null hypotheses of the published study, arXiv 2606.13370: stability "
        "measures do not differ across training; trajectories of seeds do not differ; the loss "
        "never rises again; there is no stable phase. That the paper's text was read 46.7 times "
        "in one order, its 16 windows and its spike rule are known from its author's repository.")

def endpoint_and_trajectory(run):
    """HTML: what one would say who sees only the last measurement, and what the curve says."""
    best, mean, spread = run.minimum(), run.mean(), run.loss.std(axis=0, ddof=1)
    ranking = []
    for at in (-1, best):
        order = run.loss[:, at].argsort()[:12]
        ranking.append(" ".join(str(run.seeds[i]) for i in order))
    return table(
        ["", "the endpoint says", "the trajectory says"],
        [["mean validation loss", float(mean[-1]), float(mean[best])],
         ["interval", run.intervals[-1], run.intervals[best]],
         ["training tokens", int(run.tokens[-1]), int(run.tokens[best])],
         ["sd between seeds", float(spread[-1]), float(spread[best])],
         ["seeds from best to worst", *ranking]],
        "What one would report who measured once, and what the curve shows at its minimum.")

def some_columns(run, names, note):
    """A table of these columns of `outcomes`, of at most 40 intervals."""
    every = outcomes(run)
    rows = list(zip(*(every[name] for name in names)))
    return table(names, rows[:: math.ceil(len(rows) / 40)], note)

def tests_section(run):
    """HTML: one row a variable, the planned contrasts, and folded what stats.py prints."""
    rows = []
    for name, Y in tested(run).items():
        a = stats.rm_anova(Y)
        rows.append([name, f"{a.df_effect}, {a.df_error}", a.f, p_text(a.p), a.epsilon_gg,
                     p_text(a.p_gg), a.eta_sq_generalized])
    html = table(
        ["variable", "df", "F", "uncorrected", "epsilon", "Greenhouse-Geisser", "eta squared"],
        rows, "Do intervals differ? Seeds are the subjects; read the Greenhouse-Geisser p. An F "
        "with the first drop in it says little about the rest; perplexity is exp(loss), the same "
        "measurement twice.")
    kinds = (("planned", planned(run)), ("neighbours", stats.pairwise_tests(run.loss, "adjacent")))
    rows = []
    for kind, t in kinds:
        for i, (a, b) in enumerate(zip(t.a, t.b)):
            pair = f"{run.intervals[a]} minus {run.intervals[b]}"
            interval = f"{number(t.low[i])} to {number(t.high[i])}"
            rows.append([kind, pair, t.mean_diff[i], interval, t.t[i], p_text(t.p_adjusted[i])])
    html += details("Pairs of intervals", table(
        ["which", "intervals", "difference", "95 %", "t", "Bonferroni"], rows[:42],
        "Paired t tests over seeds; a negative difference means that the later one is higher."))
    text = "\n".join(stats.report(stats.analyse(run.loss), "val_loss", run.intervals, []))
    return html + details("The validation loss, as python stats.py prints it", preformatted(text))

def stories(run):
    """HTML of samples.json, a story by the best and one by the last checkpoint, if it is there."""
    path, html = run.folder / "samples.json", ""
    if not path.exists():
        return html
    samples = read_json(path)
    try:
        for name, sample in samples.items():
            html += paragraphs(f"By the {name} checkpoint of seed {sample['seed']}, interval "
                               f"{sample['interval']}:")
            html += quote(sample["story"])
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{path} is damaged; delete it, and run_all.py makes it again") from None
    return html

def what_was_done(run):
    c = run.config
    text = c.get("text", c.get("corpus", "a text"))
    return paragraphs(
        f"A model of {c['n_layer']} layers, {c['n_head']} heads and width {c['n_embd']} was "
        f"trained once for each seed on {c['train_documents']:,d} documents "
        f"({c['train_tokens']:,d} tokens; {text}), and measured at fixed token counts on the same "
        f"{c['valid_windows']:,d} windows of other documents.") + table(
            ["coverage", ""],
            [["seeds complete", f"{len(run.seeds)} of {len(c['seeds'])}"],
             ["measurements", run.loss.size],
             ["training tokens of each seed", int(run.tokens[-1])],
             ["epochs", float(run.epochs[-1])]],
            "What the numbers of this page rest on.") + paragraphs(*run.notes)

def report_sections(run, found, drawings):
    """heading -> HTML of the report below its first screen, in the order of reading."""
    loss_columns = ["interval", "tokens", "epochs", "train loss", "val loss", "sd", "sd from",
                    "sd to", "perplexity", "gain"]
    stability_columns = ["interval", "volatility", "backslide frequency", "spike rate",
                         "spike rate corrected", "stable"]
    return {
        "How these answers were reached": evidence(found),
        "What this design cannot show": listing(limits(run)),
        "What was done": what_was_done(run),
        "What happened": figure(*drawings["loss_by_seed"]) + endpoint_and_trajectory(run) + details(
            "Every interval", some_columns(
                run, loss_columns, "Means over seeds. sd: between seeds, with its 95 % interval; "
                "gain: nats a million tokens, negative where the loss rose.")),
        "How stable it was": columns(figure(*drawings["volatility"]),
                                     figure(*drawings["backslides"])) + details(
            "Every interval", some_columns(
                run, stability_columns, "Means over seeds. Spikes as published and by the rule "
                "that leaves a change out of its own threshold; stable: share of the seeds.")),
        "The tests": tests_section(run),
        "Two stories": stories(run),
    }

def write_report(folder, **rules):
    """Write tables, figures and report.html of a run; returns its summary, a list of sentences.

    rules: options of `derive`.
    """
    run = read_run(folder, **rules)
    check_for_report(run)
    drawings, found = figures(run), answers(run)
    save_tables(run, drawings)
    title = (f"{printable(run.folder.resolve().name)}: {len(run.seeds)} seeds, "
             f"{len(run.intervals)} intervals, preset {run.config.get('preset', '?')}")
    page = run.folder / "report.html"
    write_page(page, title, report_sections(run, found, drawings),
               lead=first_screen(run, found, drawings["train_and_validation"]))
    lines = [summary(run)]
    for each in found:
        lines.append(f"{each.question} {each.answer}")
    return [*lines, *run.notes, f"The report: {page.resolve().as_uri()}"]

# ---------------------------------------------------------------- runs side by side

def of_seeds(run, seeds):
    """The same Run, of these seeds alone."""
    rows = [run.seeds.index(seed) for seed in seeds]
    return replace(run, seeds=list(seeds), loss=run.loss[rows], bits=run.bits[rows])

def own_rises(run):
    """(n): how far the end of each seed lies above that seed's own minimum. Trap: a minimum is
    chosen for being low, so that even noise rises; compare such rises, do not test one against 0.
    """
    return run.loss[:, -1] - run.loss.min(axis=1)

def characters(run):
    """name -> number: what is compared between runs."""
    mean, best = run.mean(), run.minimum()
    found = {
        "lowest mean loss (nats)": mean[best],
        "the same in bits per byte": run.bits.mean(axis=0)[best],
        "at million tokens": run.tokens[best] / 1e6,
        "at epoch": run.epochs[best],
        "rise from there to the end": mean[-1] - mean[best],
        "million tokens at the end": run.tokens[-1] / 1e6,
        "sd between seeds at the end": math.nan,
    }
    if len(run.seeds) > 1:
        found["sd between seeds at the end"] = run.loss[:, -1].std(ddof=1)
    return found

def difference_words(one, two, a, b, paired):
    """The mean of a minus b, with its interval: over the seeds of both, or of two groups."""
    if not paired:
        w = stats.welch(a, b)
        return (f"{number(w.difference)} nats ({interval_text(w.low, w.high)}), "
                f"t({number(w.df)}) = {number(w.t)}, {p_text(w.p)} (Welch)")
    t = stats.pairwise_tests(np.stack([a, b], axis=1))
    return (f"{number(t.mean_diff[0])} nats ({interval_text(t.low[0], t.high[0])}), "
            f"t({t.df[0]}) = {number(t.t[0])}, {p_text(t.p[0])}")

def test_difference(one, A, two, B):
    """Sentences: how Run A, called `one`, differs from B."""
    shared = [seed for seed in A.seeds if seed in B.seeds]
    paired = len(shared) > 1
    if paired:
        A, B = of_seeds(A, shared), of_seeds(B, shared)
    if min(len(A.seeds), len(B.seeds)) < 2:
        return [f"{one} and {two} are described, not tested: that takes two seeds each."]
    if A.tokens[-1] != B.tokens[-1]:
        return [f"{one} and {two} are not tested against each other: they end after different "
                "numbers of tokens."]
    how = "seed by seed" if paired else "of different seeds"
    lines = [f"{one} minus {two}, {how}:"]
    for what, a, b in (
            ("rise of each seed from its own minimum", own_rises(A), own_rises(B)),
            ("loss at the minimum", A.loss[:, A.minimum()], B.loss[:, B.minimum()]),
            ("loss at the end", A.loss[:, -1], B.loss[:, -1])):
        lines.append(f"  {what}: {difference_words(one, two, a, b, paired)}")
    spread = stats.variance_ratio(A.loss[:, -1], B.loss[:, -1])
    lines.append(f"  sd between seeds at the end, ratio: {number(spread.ratio)} "
                 f"({interval_text(spread.low, spread.high)}), {p_text(spread.p)}")
    return lines

def names_of(folders):
    """A name for each folder; InputError if two are the same folder."""
    paths = [Path(folder).resolve() for folder in folders]
    need(len(set(paths)) == len(paths), "one folder is given twice; name different ones")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):  # A/run and B/run
        names = ["_".join(path.parts[-2:]) for path in paths]
    need(len(set(names)) == len(names), "two of the folders have one name; rename one")
    return [printable(name) for name in names]

def file_name(others):
    """compared_with_OTHERS, which stays short whatever their number: a name has 255 bytes."""
    name = "compared_with_" + "_".join(others)
    if len(name) > 60:
        name = f"compared_with_{others[0][:30]}_and_{len(others) - 1}_more"
    return name

def compare(folders):
    """Draw the mean curves of several runs, tell what they are like, and test the first against
    each of the others. Runs may go on still. Writes a figure and a table into the first folder;
    returns lines of text."""
    names = names_of(folders)
    runs = [read_run(folder) for folder in folders]
    unit, x_label = token_axis(max(run.tokens[-1] for run in runs))
    lines = []
    for name, run in zip(names, runs):
        # From interval 1 on: next to the descent from chance one sees nothing else.
        lines.append(Line(name, run.tokens[1:] / unit, run.mean()[1:]))
    stem = Path(folders[0]) / file_name(names[1:])
    drawing = line_chart(lines, x_label, "mean validation loss (nats)", points=True)
    write_whole(f"{stem}.svg", drawing)
    found = [characters(run) for run in runs]
    rows = []
    for what in found[0]:
        rows.append([what, *(float(each[what]) for each in found)])
    write_csv(f"{stem}.csv", ["", *names], rows)
    said = [f"{'':30s}" + "".join(f"{name[:15]:>16s}" for name in names)]
    for what, *numbers in rows:
        said.append(f"{what:30s}" + "".join(f"{number(x):>16s}" for x in numbers))
    for name, run in zip(names[1:], runs[1:]):
        said += test_difference(names[0], runs[0], name, run)
    return [*said, f"The curves and this table: {stem}.svg and .csv"]

# ---------------------------------------------------------------- the lesson and the command line

PUBLISHED = Path(__file__).resolve().parent / "data" / "published_observations.csv"

def published_run(**rules):
    """The Run that the published study's own table makes. Its text had 428,628 tokens."""
    config = {"vocab_size": 4096, "valid_windows": 16, "block_size": 128}
    run = run_of(read_records(PUBLISHED), PUBLISHED.parent, config, rules)
    run.epochs = run.tokens / (428_628 - 128 - 1)  # what fits before the text begins anew
    return run

def lesson(**rules):
    """What the published study's own numbers say when one asks them again, as lines."""
    run = published_run(**rules)
    m = run.measures()
    yield "The published study, mean validation loss of 6 seeds at 21 intervals:"
    yield "  " + " ".join(f"{x:.2f}" for x in run.mean())
    yield summary(run)
    for each in answers(run):
        yield f"\n{each.question} {each.answer}"
        yield f"  {each.evidence}\n  What this would have missed: {each.missed}"
        yield f"  {each.hypothesis}: {each.verdict}. Published: {each.published}."
    yield (f"\nSpikes by the published rule: {np.nansum(m['spike']):.0f}; by the rule that leaves "
           f"a change out of its own threshold: {np.nansum(m['spike_corrected']):.0f}.")
    yield "F over the intervals, p by Greenhouse-Geisser:"
    for name, Y in tested(run).items():
        a = stats.rm_anova(Y)
        yield f"  {name:40s} {a.f:10,.2f}  {p_text(a.p_gg)}"
    yield "What the design cannot show:"
    for each in limits(run):
        yield f"  {each}"

def parse_arguments():
    parser = support.program.Parser(description="Report on runs; without a folder, a lesson.")
    parser.add_argument("folders", nargs="*", help="run folders; several are compared")
    for name, kind, default, what in (
            ("volatility_window", int, 5, "intervals behind each rolling measure, 2 or more"),
            ("spike_factor", float, 2.0, "standard deviations above the mean that make a spike"),
            ("spike_floor", float, 0.01, "nats that a spike has at least"),
            ("stable_quantile", float, 0.25, "of volatility, for a stable phase, 0 to 1"),
            ("stable_backslides", int, 1, "in the window of a stable phase at most")):
        parser.add_argument(f"--{name}", type=kind, default=default,
                            help=f"{what} (default {default})")
    rules = vars(parser.parse_args())
    need(2 <= rules["volatility_window"] <= 1000, "--volatility_window is 2 to 1000")
    need(0 <= rules["stable_quantile"] <= 1, "--stable_quantile is 0 to 1")
    need(math.isfinite(rules["spike_factor"] + rules["spike_floor"]),
         "--spike_factor and --spike_floor are finite numbers")
    return rules.pop("folders"), rules

def main():
    folders, rules = parse_arguments()
    if not folders:
        print("\n".join(lesson(**rules)))
    for folder in folders:
        # A run that goes on has no metrics.csv of its own yet: it can be compared, no more.
        if len(folders) == 1 or Path(folder, "metrics.csv").exists():
            print("\n".join(write_report(folder, **rules)))
    if len(folders) > 1:
        print("\n".join(compare(folders)))

if __name__ == "__main__":
    support.program.run(main)
