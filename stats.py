"""Chapter 4. The tests: did anything change? A table of seeds by intervals, by hand.

Y is one matrix of shape (n, k): n subjects (here seeds), each measured at k levels (intervals).

    python stats.py FILE.csv [--dv val_loss] [--json]    the full analysis, in a second
    python stats.py                                      a lesson about two traps, two seconds

The docstrings work this table by hand. A cell is the grand mean 5, plus what its level adds
(-3 0 3), plus what its subject adds (-2 0 2), plus a residual that nothing explains:

    Y = 1 3  5     row means 3 5 7       residuals =  1  0 -1
        2 6  7     column means 2 5 8                 0  1 -1
        3 6 12                                       -1 -1  2

What is undefined is nan, never a guess; a table that cannot be judged is an InputError.
"""
import support.program  # first: from here on Ctrl-C prints no traceback
import json, math, textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats as scipy_stats

from support.files import InputError, need, printable
from support.page import p_text
from support.tables import for_json, read_table

ALPHA = 0.05  # a p below this counts as significant
PUBLISHED = Path(__file__).resolve().parent / "data" / "published_observations.csv"

# ---------------------------------------------------------------- the textbook's analysis
def rm_anova_textbook(Y):
    """The repeated-measures ANOVA as textbooks have it: Y (n, k) -> (SS_effect, SS_subject,
    SS_error, F). Do the levels differ by more than the residuals alone would make them differ? F
    compares two mean squares (SS / df) that both measure the noise if the levels do not differ.
    Example: 54, 24, 10 and F = 27 / 2.5 = 10.8. Trap: the last subtraction. Of small residuals it
    leaves no digit, or less than 0; rm_anova takes another way to the same numbers.
    """
    # EXERCISE 18: from nothing: empty this body, and refill it until `python test_all.py stats` is
    # green.
    Y = np.asarray(Y, dtype=np.float64)
    n, k = Y.shape
    grand = Y.mean()
    ss_total = ((Y - grand) ** 2).sum()                     # 88 in the example
    ss_effect = n * ((Y.mean(axis=0) - grand) ** 2).sum()   # 3 * (9 + 0 + 9) = 54
    ss_subject = k * ((Y.mean(axis=1) - grand) ** 2).sum()  # 3 * (4 + 0 + 4) = 24
    ss_error = ss_total - ss_effect - ss_subject            # 88 - 54 - 24 = 10
    f = (ss_effect / (k - 1)) / (ss_error / ((n - 1) * (k - 1)))
    return ss_effect, ss_subject, ss_error, f

# ---------------------------------------------------------------- without losing digits
# Ties must give exactly 0, whatever rounding does. (The first time, go on to `decompose`.)
# A stored number is wrong by up to eps/2 = 1.1e-16 of its size, and a residual by up to 2 eps. Rows
# that differ by exactly 0.1 differ in the computer by 0.1 and some rounding, and F would divide by
# it. So what is below ROUNDING times the largest number is no variation, what is CLEAR times as
# much is one, and what lies between is refused, because either guess could be wrong.
ROUNDING = 2 * np.finfo(np.float64).eps
CLEAR = 100
UNCLEAR = ("differences in this table are hardly larger than the rounding of its numbers; "
           "subtract one number from all of them first, or give more digits")

def checked(Y, least_levels=2):
    """Y (..., n, k) as float64. InputError names a cell that is no number, and tables too small."""
    Y = np.asarray(Y, dtype=np.float64)
    need(Y.ndim >= 2 and Y.shape[-2] >= 2 and Y.shape[-1] >= least_levels,
         f"need at least 2 rows (subjects) and {least_levels} columns (levels), got {Y.shape}")
    for place in np.argwhere(~np.isfinite(Y)):
        raise InputError(f"row {place[-2]}, column {place[-1]} (from 0) is {Y[tuple(place)]}")
    # Fourth powers will be added up, and floats end at 1e308 and 1e-308.
    size = np.abs(Y).max(axis=-2)  # (..., k)
    need(((size == 0) | (size > 1e-60) & (size < 1e60)).all(),
         "a level's numbers are beyond 1e60, or all within 1e-60 of 0; choose another unit")
    return Y

def rounding(Y, axis):
    """What may be rounding in Y, by its largest number along axis. Whole numbers are stored as they
    are; of them only the differences count, since means of these will be rounded."""
    whole = ((Y == np.round(Y)) & (np.abs(Y) < 2.0 ** 50)).all(axis=axis, keepdims=True)
    inexact = np.where(whole, Y - Y.min(axis=axis, keepdims=True), Y)
    return ROUNDING * np.abs(inexact).max(axis=axis, keepdims=True)

def snap(part, noise, axis):
    """A part of a table, exactly 0 if nothing in it is more than noise; InputError if unclear."""
    amount = np.abs(part).max(axis=axis, keepdims=True)
    need(((amount <= noise) | (amount >= CLEAR * noise)).all(), UNCLEAR)
    return np.where(amount > noise, part, 0)

def deviations(Y):
    """Y (n, k) minus each level's mean; exactly 0 at levels where all subjects are alike."""
    own = Y - Y[:1]  # first: means of numbers near 1e9 are rounded, their differences are not
    return snap(own - own.mean(axis=0), rounding(Y, 0), 0)

@dataclass
class Parts:
    """A table taken apart: cell = grand mean + level + subject + residual."""
    level: np.ndarray       # (..., 1, k), adds up to 0
    subject: np.ndarray     # (..., n, 1), adds up to 0
    residual: np.ndarray    # (..., n, k), adds up to 0 in each row and each column
    ss_effect: np.ndarray   # (...), sum of squares of the level over all n k cells
    ss_subject: np.ndarray  # (...), of the subject
    ss_error: np.ndarray    # (...), of the residual
    noise: np.ndarray       # (..., 1, 1), what may be rounding in any of them

def decompose(Y):
    """What is in each cell? Y (..., n, k), one table or many at once -> Parts.
    The textbook's sums of squares, but nothing large is ever subtracted from something large:
    each part is centred until it is small, and only then squared.
    """
    Y = checked(Y)
    n, k = Y.shape[-2:]
    both = (-2, -1)  # the axes of subjects and levels; a batch of tables has more before them
    # Centre first: take subject 0 off everybody. What they have in common is gone.
    first = Y[..., :1, :]                            # (..., 1, k)
    rest = Y - first                                 # (..., n, k)
    # (Of numbers near 1e9 a mean would lose digits: so the first level goes off before it.)
    level = first - first[..., :1] + rest.mean(axis=-2, keepdims=True)
    level = level - level.mean(axis=-1, keepdims=True)
    subject = rest.mean(axis=-1, keepdims=True) - rest.mean(axis=both, keepdims=True)
    # Rows and columns about their means, twice, because the first time still rounds.
    residual = rest
    for axis in (-1, -2, -1, -2):
        residual = residual - residual.mean(axis=axis, keepdims=True)
    # What of it is rounding? First the residual. If one is left, F compares level and subject with
    # it, and they count however small they are; if none is left, F would divide by rounding.
    noise = rounding(Y, both)
    residual = snap(residual, noise, both)
    noise_alone = np.where(residual.any(axis=both, keepdims=True), 0, noise)
    level = snap(level, noise_alone, both)
    subject = snap(subject, noise_alone, both)
    return Parts(level=level, subject=subject, residual=residual, noise=noise,
                 ss_effect=n * (level ** 2).sum(axis=both),
                 ss_subject=k * (subject ** 2).sum(axis=both),
                 ss_error=(residual ** 2).sum(axis=both))

# ---------------------------------------------------------------- do the level means differ?
@np.errstate(all="ignore")  # 0/0 is nan and x/0 is inf, here and below, on purpose
def f_and_epsilons(Y):
    """F and both epsilons of one table, or of thousands at once: Y (..., n, k) -> arrays (...).
    k levels can differ in d = k-1 independent ways. If the noise is equally large in all of them,
    epsilon is 1, if it lies in one alone, 1/d; both df of F are multiplied by it. Why its estimate
    has a ceiling stands at `epsilons`. With residuals R (tr adds up a diagonal),
        gg = tr(R'R)^2 / (d tr(R'R R'R))           (Box 1954; Greenhouse & Geisser 1959)
        hf = (n d gg - 2) / (d (n - 1 - d gg))     (Huynh & Feldt 1976), uncapped
    In words: gg is the squared sum of R'R's eigenvalues over d times the sum of their squares.
    Example: R'R = (2 1 -3, 1 2 -3, -3 -3 6), gg = 100 / (2 * 82) = 0.610, hf = (6 gg - 2) /
    (2 (2 - 2 gg)) = 1.0625. Trap: hf has a pole at gg = (n-1)/d, the largest gg that n-1 < d
    allows; towards it, hf says "no correction" whatever the truth.
    """
    parts = decompose(Y)
    n, k = parts.residual.shape[-2:]
    d = k - 1
    f = (parts.ss_effect / d) / (parts.ss_error / ((n - 1) * d))
    if k == 2:  # one difference has one variance: none is unequal
        return f, np.ones_like(f), np.ones_like(f)
    # R'R (k, k) and RR' (n, n) have one trace, SS_error, and one trace of the square: take the
    # smaller, for a table can be long. A symmetric matrix has as trace of its square the sum of its
    # squared entries.
    R = parts.residual
    R_turned = np.swapaxes(R, -1, -2)
    products = R @ R_turned if n < k else R_turned @ R
    gg = parts.ss_error ** 2 / (d * (products ** 2).sum(axis=(-2, -1)))
    room = n - 1 - d * gg
    room = np.where(room > 1e-12 * n, room, np.nan)  # at the pole hf is undefined
    return f, gg, (n * d * gg - 2) / (d * room)

@dataclass
class RMAnova:
    ss_effect: float   # sum of squares between levels
    ss_subject: float  # between subjects
    ss_error: float    # of the residuals
    df_effect: int     # k - 1
    df_error: int      # (n - 1)(k - 1)
    f: float           # MS_effect / MS_error, where MS = SS / df
    p: float           # if all differences between levels have one variance (sphericity)
    eta_sq_generalized: float  # SS_effect / all three SS (Olejnik & Algina 2003)
    eta_sq_partial: float      # SS_effect / (SS_effect + SS_error)
    epsilon_gg: float     # Greenhouse-Geisser's
    epsilon_hf: float     # Huynh-Feldt's, uncapped
    p_gg: float           # both df times epsilon_gg: verdicts rest on this one
    p_hf: float           # both df times epsilon_hf, 1 at most
    p_lower_bound: float  # both df times the least possible epsilon, 1/(k - 1)
    f_subject: float      # MS_subject / MS_error on n - 1 and df_error
    p_subject: float      # far too small where neighbouring levels correlate
    icc: float            # consistency of one measurement, ICC(C,1) (McGraw & Wong 1996)

@np.errstate(all="ignore")
def rm_anova(Y):
    """Do levels differ on average by more than the subjects' private ups and downs explain?
    Y (n, k) -> RMAnova. Example: F = 10.8, eta squared 54/88 and 54/64; of subjects F = 12 / 2.5,
    icc = 9.5 / (12 + 2 * 2.5). SS_error 0: F inf, p 0, epsilons nan if k > 2. Trap: neighbours
    in time correlate: then p and p_subject are far too small.
    """
    parts = decompose(Y)
    n, k = parts.residual.shape
    df_effect, df_error = k - 1, (n - 1) * (k - 1)
    f, gg, hf = map(float, f_and_epsilons(Y))
    # Noise in fewer directions has fewer degrees of freedom: p for four values of epsilon.
    least = np.nan if math.isnan(gg) else 1 / df_effect
    epsilon = np.array([1, gg, np.minimum(hf, 1), least])
    p, p_gg, p_hf, p_least = scipy_stats.f.sf(f, epsilon * df_effect, epsilon * df_error).tolist()
    # Do subjects differ, and how much of all variation is the levels'?
    effect, subject, error = parts.ss_effect, parts.ss_subject, parts.ss_error
    ms_subject = subject / (n - 1)
    ms_error = error / df_error
    f_subject = float(ms_subject / ms_error)
    return RMAnova(
        ss_effect=float(effect), ss_subject=float(subject), ss_error=float(error),
        df_effect=df_effect, df_error=df_error, f=f, p=p, p_gg=p_gg, p_hf=p_hf,
        p_lower_bound=p_least, epsilon_gg=gg, epsilon_hf=hf,
        eta_sq_generalized=float(effect / (effect + subject + error)),
        eta_sq_partial=float(effect / (effect + error)),
        f_subject=f_subject, p_subject=float(scipy_stats.f.sf(f_subject, n - 1, df_error)),
        icc=float((ms_subject - ms_error) / (ms_subject + (k - 1) * ms_error)))

# ---------------------------------------------------------------- sphericity
@dataclass
class Epsilons:
    gg: float           # Greenhouse-Geisser's: 1 if the noise is alike in all directions
    hf: float           # Huynh-Feldt's, uncapped
    lower_bound: float  # 1/(k - 1): all noise in one direction

def epsilons(Y):
    """How unequal is the noise in the k-1 directions of change? Y (n, k) -> Epsilons.
    Formulas and example: f_and_epsilons. Trap: residuals add up to 0 over n subjects, so at most
    r = n-1 of their k-1 variances (the eigenvalues of R'R) are not 0, and of r numbers sum^2 <=
    r * (sum of squares): gg <= (n-1)/(k-1), 0.25 for 6 by 21, even where the truth is 1.
    """
    _, gg, hf = f_and_epsilons(Y)
    return Epsilons(gg=float(gg), hf=float(hf), lower_bound=1 / (np.shape(Y)[-1] - 1))

@dataclass
class Mauchly:
    w: float = np.nan      # 1: all variances equal; 0: one of them is 0
    chi2: float = np.nan   # chi-square distributed on df, about, if the truth is a sphere
    df: float = np.nan     # k (k - 1) / 2 - 1, for k > 2
    p: float = np.nan
    defined: bool = False  # False: there is no test
    reason: str = ""       # why not; or why W is 0

def chi_square_of_w(log_w, n, k):
    """Mauchly's W -> (chi-square, df, p). rho and w2 correct for few subjects, as R does (Anderson
    1958); with many rho is 1 and w2 is 0."""
    d = k - 1
    df = d * (d + 1) // 2 - 1
    rho = 1 - (2 * d * d + d + 2) / (6 * d * (n - 1))
    chi2 = -(n - 1) * rho * log_w
    # (3 k is what R computes; the series itself has 3 d there, which changes little.)
    w2 = (d + 2) * (d - 1) * (d - 2) * (2 * d ** 3 + 6 * d * d + 3 * k + 2)
    w2 = w2 / (288 * ((n - 1) * d * rho) ** 2)
    p, p_more = scipy_stats.chi2.sf(chi2, [df, df + 4])
    return float(chi2), df, float(p + w2 * (p_more - p))

@np.errstate(all="ignore")
def mauchly(Y):
    """Do all differences between levels have one variance (sphericity), given this table?
    Y (n, k) -> Mauchly. W = product / mean^d of the variances along d = k-1 directions of change
    (Mauchly 1940): eigenvalues, squared singular values of the residuals over n-1. Example:
    squares 9 and 1, W = 9 * 1 / 5^2 = 0.36, rho = 0.5, chi2 = 1.02 on 2 df, p = 0.6. Trap: with
    n-1 < d some eigenvalues are 0, so W is 0 whatever the truth: there is no test. With n-1 little
    above d p is far too small: of spherical tables of 21 by 21 some 70 % have p < 0.05.
    """
    parts = decompose(Y)
    n, k = parts.residual.shape
    d = k - 1
    if k == 2:
        return Mauchly(reason="not applicable: 2 levels have a single difference")
    df = d * (d + 1) // 2 - 1
    if n - 1 < d:
        return Mauchly(df=df, reason=f"n-1 < k-1 ({n - 1} < {d}): W is 0 by construction")
    if not parts.residual.any():
        return Mauchly(df=df, reason="SS_error is 0: W is 0/0")
    roots = np.linalg.svd(parts.residual, compute_uv=False)[:d]  # rows add up to 0: the k-th is 0
    noise = parts.noise[0, 0]
    if ((roots > noise) & (roots < CLEAR * noise)).any():
        return Mauchly(df=df, reason=UNCLEAR)
    eigenvalues = np.where(roots > noise, roots, 0) ** 2 / (n - 1)
    log_w = np.log(eigenvalues / eigenvalues.mean()).sum()  # -inf if one of them is 0
    chi2, df, p = chi_square_of_w(log_w, n, k)
    p = min(p, 1.0)  # the series can pass 1 when n-1 is little above d
    why = "" if eigenvalues.all() else "W is exactly 0: levels are copies or mixtures of others"
    return Mauchly(w=float(np.exp(log_w)), chi2=chi2, df=df, p=p, defined=True, reason=why)

# ---------------------------------------------------------------- are the numbers roughly normal?
@dataclass
class Shapiro:
    w: np.ndarray  # about the squared correlation of the sorted values with a normal sample's
    p: np.ndarray  # both nan where the values do not differ

def shapiro(own):
    """Shapiro & Wilk's (1965) W and p of n deviations from a mean; nan if all are 0."""
    spread = np.ptp(own)
    if spread == 0 or not 3 <= len(own) <= 5000:  # (Royston 1995)
        return np.nan, np.nan
    return scipy_stats.shapiro(own / spread)  # scipy takes a spread of 1e-20 for none

def shapiro_by_level(Y):
    """At each level, could the subjects be a sample from a normal distribution?
    Y (n, k) -> Shapiro, arrays (k,). Example: 1 2 3 has W = 1, 5 7 12 (49/2) / 26 = 0.942; 3 6 6
    has 0.75, the least that three can have. Trap: six values seldom reject: large p prove little.
    """
    results = np.array([shapiro(own) for own in deviations(checked(Y)).T])  # (k, 2)
    return Shapiro(w=results[:, 0], p=results[:, 1])

def shapiro_residuals(Y):
    """Could the residuals be normal, as F assumes? Y (n, k) -> Shapiro of all together. Example: W
    = 0.844, p = 0.065. Trap: they add up to 0 in each row and column; p of such dependent values is
    rough, and those of a 2 x 2 table are plus and minus one number: nan."""
    residual = decompose(Y).residual
    w, p = (np.nan, np.nan) if residual.size == 4 else shapiro(residual.ravel())
    return Shapiro(w=float(w), p=float(p))

# ---------------------------------------------------------------- which levels differ?
@dataclass
class Pairs:
    """Arrays with one entry a pair of levels."""
    a: np.ndarray
    b: np.ndarray
    mean_diff: np.ndarray   # mean over the subjects of level a minus level b
    low: np.ndarray         # its 95 % confidence interval, not adjusted
    high: np.ndarray
    t: np.ndarray           # mean_diff in units of its standard error
    df: np.ndarray          # n - 1
    p: np.ndarray           # two-sided
    p_adjusted: np.ndarray  # p times the number of pairs, 1 at most (Bonferroni)
    d_z: np.ndarray         # mean_diff in units of the sd of the differences

def pair_indices(pairs, k):
    """`pairs` as pairwise_tests takes them -> arrays a, b. InputError for others."""
    if pairs is None:
        return np.triu_indices(k, 1)  # all a < b
    if isinstance(pairs, str) and pairs == "adjacent":
        return np.arange(k - 1), np.arange(1, k)
    for pair in pairs:
        need(len(pair) == 2 and set(pair) <= set(range(k)) and pair[0] != pair[1],
             f'pairs are None, "adjacent" or a list of two different levels 0 to {k - 1}')
    return np.array(pairs, dtype=int).reshape(-1, 2).T

@np.errstate(all="ignore")
def pairwise_tests(Y, pairs=None):
    """For each pair of levels: is the mean of the subjects' differences 0?
    Y (n, k) -> Pairs. pairs: None (all a < b), "adjacent", or a list of (a, b), else InputError.
    D = Y[:, a] - Y[:, b], t = mean(D) / (sd(D) / sqrt(n)) (Student 1908). Example: pair (0, 1): D
    = -2 -4 -3, mean -3, sd 1, t = -5.20, p = 0.035, times 3 pairs = 0.105. D constant: t inf, p
    0; all 0: nan. Trap: among many pairs little is found: ask for few, before you see the data.
    """
    # EXERCISE 17: by pencil: with two levels, rm_anova's F is the square of this t. The judge draws
    # a table of three seeds and asks for t, two sums of squares and F. Why must it be so?
    Y = checked(Y)
    n, k = Y.shape
    a, b = pair_indices(pairs, k)
    D = Y[:, a] - Y[:, b]                   # (n, number of pairs)
    own = D - D[:1]
    mean = D[:1] + own.mean(axis=0)         # (1, number of pairs)
    # What of it is rounding? As in decompose: beside true variation any mean counts.
    noise = rounding(Y, 0)
    noise = np.maximum(noise[:, a], noise[:, b])
    own = snap(own - own.mean(axis=0), noise, 0)
    mean = snap(mean, np.where(own.any(axis=0), 0, noise), 0)[0]
    sd = np.sqrt((own ** 2).sum(axis=0) / (n - 1))
    standard_error = sd / np.sqrt(n)
    half_width = scipy_stats.t.ppf(0.975, n - 1) * standard_error
    t = mean / standard_error
    p = 2 * scipy_stats.t.sf(np.abs(t), n - 1)
    # EXERCISE 8: two functions at the top level of this file.
    # holm(p), p (m,) -> (m,), in the order given: the smallest p times m, the next times m - 1, and
    # so on, none below the one before it, 1 at most. nan stays nan, and counts in m.
    # sign_flip_test(D), D (n,) -> p: the share of the 2^n choices of signs for D whose |mean| is as
    # large as D's own or larger. Equal counts as large, whatever rounding does, in any unit.
    # How small can that p be with 6 seeds, and does it survive times 210?
    p_adjusted = np.minimum(1, p * len(a))  # pairs without a p count among those asked for
    return Pairs(a=a, b=b, mean_diff=mean, low=mean - half_width, high=mean + half_width, t=t,
                 df=np.full(len(a), n - 1), p=p, p_adjusted=p_adjusted, d_z=mean / sd)

# ---------------------------------------------------------------- two independent samples
def mean_variance_n(x):
    """x (n,) -> its mean, its variance (with n - 1), n."""
    x = checked(np.reshape(x, (-1, 1)), least_levels=1)
    variance = (deviations(x) ** 2).sum() / (len(x) - 1)
    return float(x[0, 0] + (x - x[0]).mean()), variance, len(x)

@dataclass
class Welch:
    difference: float     # mean of a minus mean of b
    low: float = np.nan   # its 95 % confidence interval
    high: float = np.nan
    t: float = np.nan     # the difference in units of its standard error
    df: float = np.nan    # between the smaller n - 1 and n_a + n_b - 2
    p: float = np.nan     # two-sided

def welch(a, b):
    """Do two independent samples differ on average? a (n_a,), b (n_b,) -> Welch (Welch 1947).
    t = difference / sqrt(v_a + v_b), v the variance of each mean; no two variances are pooled.
    Example: 1 2 3 and 5 7 12: t = -6 / sqrt(1/3 + 13/3) = -2.78, df = 2.31, p = 0.09; nan where
    both are constant. Trap: seeds that both samples share are pairs: use pairwise_tests.
    """
    mean_a, variance_a, n_a = mean_variance_n(a)
    mean_b, variance_b, n_b = mean_variance_n(b)
    difference = mean_a - mean_b
    v_a, v_b = variance_a / n_a, variance_b / n_b  # of the means
    if v_a + v_b == 0:
        return Welch(difference)
    standard_error = math.sqrt(v_a + v_b)
    t = difference / standard_error
    df = float((v_a + v_b) ** 2 / (v_a ** 2 / (n_a - 1) + v_b ** 2 / (n_b - 1)))
    half_width = float(scipy_stats.t.ppf(0.975, df)) * standard_error
    return Welch(difference=difference, low=difference - half_width, high=difference + half_width,
                 t=t, df=df, p=float(2 * scipy_stats.t.sf(abs(t), df)))

@dataclass
class SdRatio:
    ratio: float  # sd of a over sd of b
    low: float    # its 95 % confidence interval
    high: float
    p: float      # two-sided

@np.errstate(all="ignore")
def sd_ratio(a, b):
    """Does one sample vary more than another? a (n_a,), b (n_b,) -> SdRatio.
    F = variance of a / variance of b on n_a - 1 and n_b - 1 df; p is twice the smaller tail.
    Example: 5 7 12 and 1 2 3: F = 13, ratio 3.61, p = 2 / (1 + 13) = 0.14. Both constant: nan.
    Trap: it takes the numbers as normal and independent; heavy tails look like an effect.
    """
    _, variance_a, n_a = mean_variance_n(a)
    _, variance_b, n_b = mean_variance_n(b)
    f = variance_a / variance_b
    df = n_a - 1, n_b - 1
    tails = scipy_stats.f.cdf(f, *df), scipy_stats.f.sf(f, *df)
    # If the true ratio is 1, f lies between these two in 95 % of studies.
    least, most = scipy_stats.f.ppf([0.025, 0.975], *df)
    return SdRatio(ratio=float(np.sqrt(f)), low=float(np.sqrt(f / most)),
                         high=float(np.sqrt(f / least)), p=float(min(2 * min(tails), 1)))

def paired_sd_ratio(a, b):
    """The same for pairs, a and b (n,) of the same subjects -> SdRatio; nan for n < 3 or constants.
    Where both variances are equal, a + b and a - b are uncorrelated (Pitman 1939, Morgan 1939).
    With r the correlation of a and b, t = (F - 1) sqrt((n - 2) / (4 F (1 - r^2))) on n - 2 df.
    Example: 5 7 12 and 1 2 3: r^2 = 49/52, t = 12 / sqrt(3) = 6.93, p = 0.09.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(a) < 3 or not (np.ptp(a) and np.ptp(b)):
        return SdRatio(np.nan, np.nan, np.nan, np.nan)
    f, df = a.var() / b.var(), len(a) - 2
    rest = max(1 - np.corrcoef(a, b)[0, 1] ** 2, 1e-15)  # what the pairs do not share
    t = (f - 1) * math.sqrt(df / (4 * f * rest))
    # The true ratios x of variances for which c = f / x would just not be significant: with c for F
    # the formula of t, squared and solved, says c + 1/c = 2 m. So x lies between f / c and f c.
    m = 1 + 2 * rest * scipy_stats.t.isf(0.025, df) ** 2 / df
    c = m + math.sqrt(m ** 2 - 1)
    return SdRatio(ratio=math.sqrt(f), low=math.sqrt(f / c), high=math.sqrt(f * c),
                   p=float(2 * scipy_stats.t.sf(abs(t), df)))

# ---------------------------------------------------------------- how much did the seed matter?
@dataclass
class Spread:
    sd: np.ndarray    # between the subjects (n - 1), at each level
    low: np.ndarray   # its 95 % confidence interval
    high: np.ndarray

def sd_between(Y):
    """At each level, how far apart are the subjects, and how well can so few of them tell?
    Y (n, k) -> Spread; interval sd sqrt((n-1) / q), q the quantiles of chi-square on n-1 df.
    Example: 1 2 3 has sd 1, interval 0.52 to 6.28. Trap: so wide an interval is no mistake; n
    values tell a sd no better (6 seeds: 0.62 to 2.45 times sd).
    """
    own = deviations(checked(Y, least_levels=1))
    df = len(own) - 1
    sd = np.sqrt((own ** 2).sum(axis=0) / df)
    shrink, stretch = np.sqrt(df / scipy_stats.chi2.ppf([0.975, 0.025], df))
    return Spread(sd=sd, low=sd * shrink, high=sd * stretch)

@dataclass
class MixedModel:
    fixed: np.ndarray  # (k,): the mean of level 0, then the other levels' differences from it
    se: np.ndarray     # (k,): their standard errors
    log_likelihood: float  # inf if nothing is left unexplained, nan for a constant table
    var_residual: float
    var_subject: float     # of the subjects' heights; 0 where the estimate would be negative

@np.errstate(all="ignore")
def mixed_model(Y, method="REML"):
    """How far is each level from level 0, if every subject has a random height of its own?
    Y (n, k) -> MixedModel, in R's notation y ~ level + (1 | subject); a full table has a closed
    form (Searle, Casella & McCulloch 1992). Maximum likelihood, "ML", divides by m = n; "REML",
    restricted, by m = n-1, as a sample's sd does. As lme4 prints it (+ k ln n for REML alone),
        log L = -1/2 [m k (1 + ln 2 pi) + m (k-1) ln s2 + m ln lam + k ln n]
    Example: REML s2 = 2.5, lam = 12, var_subject = 3.17; 2 (SE 1.37), +3 and +6 (SE 1.29).
    Trap: one SE for all differences (compound symmetry).
    """
    need(method in ("REML", "ML"), f'method is "REML" or "ML", not {method!r}')
    parts = decompose(Y)
    n, k = parts.residual.shape
    m = n - 1 if method == "REML" else n
    # s2 is the variance within subjects; lam, k times that of their means, is s2 + k var_subject.
    s2 = parts.ss_error / (m * (k - 1))
    lam = parts.ss_subject / m
    if lam < s2:  # subjects differ by less than chance makes them: the best variance is 0
        s2 = lam = (parts.ss_error + parts.ss_subject) / (m * k)
    var_subject = (lam - s2) / k
    minus_2_log = m * k * (1 + np.log(2 * np.pi)) + m * (k - 1) * np.log(s2) + m * np.log(lam)
    if method == "REML":
        minus_2_log += k * np.log(n)
    log_likelihood = np.nan if lam == 0 else -minus_2_log / 2
    # Level 0 carries the subjects' heights; in differences between levels they cancel.
    fixed = (parts.level - parts.level[0, 0])[0]
    fixed[0], _, _ = mean_variance_n(np.asarray(Y)[:, 0])
    se = np.full(k, np.sqrt(2 * s2 / n))
    se[0] = np.sqrt((s2 + var_subject) / n)
    return MixedModel(fixed=fixed, se=se, log_likelihood=float(log_likelihood),
                      var_residual=float(s2), var_subject=float(var_subject))

# ---------------------------------------------------------------- a lesson: two traps
def mauchly_as_published(Y):
    """(W, "p", zeros) as a package computed them for the published study: do not use. It leaves
    the eigenvalues that are 0 out of the product, 15 of d = 20, but not out of mean and power."""
    n, k = Y.shape
    d = k - 1
    roots = np.linalg.svd(decompose(Y).residual, compute_uv=False)
    eigenvalues = roots ** 2 / (n - 1)
    eigenvalues = eigenvalues[eigenvalues > 0.001]  # a number that has the unit of Y squared
    log_w = np.log(eigenvalues).sum() - d * np.log(eigenvalues.sum() / d)
    # For n-1 < d the series for p is out of its range: rho is negative, w2, meant to be small, 352.
    _, _, p = chi_square_of_w(log_w, n, k)
    return math.exp(log_w), p, d - len(eigenvalues)

def ar1(rng, shape, phi):
    """Noise of variance 1 that correlates phi with itself one level earlier: (..., k)."""
    x = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        x[..., t] = phi * x[..., t - 1] + math.sqrt(1 - phi ** 2) * x[..., t]
    return x

# EXERCISE 9: power by simulation: let `lesson` print a line for each n from 5 to 14. Add a change
# of 0.05 at the last level to 2,000 random tables (2000, n, 21) of sd 0.03, and hand them to
# rejection_rates. How many seeds find it 8 times of 10, by each of its three rates? And with
# ar1(..., 0.9) for the noise?
def rejection_rates(Y):
    """In what share of studies Y (..., n, k) is p < ALPHA? -> [uncorrected, by gg, by hf or nan]"""
    f, gg, hf = f_and_epsilons(Y)
    n, k = Y.shape[-2:]
    rates = []
    for epsilon in (np.ones_like(gg), gg, np.minimum(hf, 1)):
        p = scipy_stats.f.sf(f, epsilon * (k - 1), epsilon * (n - 1) * (k - 1))
        rates.append(np.nan if np.isnan(p).all() else float((p < ALPHA).mean()))
    return rates

def lesson(n_studies=2000):
    """Two traps, as lines for a reader: sphericity as published, and finding what is not there."""
    Y, _, _, _ = read_table(PUBLISHED)
    n, k = Y.shape
    yield f"1. MAUCHLY'S TEST OF THE PUBLISHED LOSSES, {n} SEEDS, {k} INTERVALS"
    yield f"  There is none: {mauchly(Y).reason}."
    for unit, size in (("nats", 1), ("bits", 1 / math.log(2))):
        w, p, zeros = mauchly_as_published(Y * size)
        yield f'  Leave the {zeros} zero eigenvalues out, in {unit}: W = {w:.1e}, "p" = {p:.1f}'
    yield "  The study's package printed the first, and 27.8 > 0.05 was read as sphericity."
    yield "  A true W is the same in every unit, and neither W nor p is ever above 1."
    yield f"\n2. HOW MANY OF {n_studies} STUDIES FIND WHAT IS NOT THERE, at a nominal 5 %?"
    yield "  neighbours correlate   uncorrected   Greenh.-Geisser   Huynh-Feldt"
    rng = np.random.default_rng(1)
    for phi in (0, 0.5, 0.9):
        rates = rejection_rates(ar1(rng, (n_studies, n, k), phi))
        yield "  {:20} {:11.1%} {:17.1%} {:13.1%}".format(phi, *rates)
    yield "  Uncorrected is wrong once neighbours correlate, Greenhouse-Geisser always below 5 %."
    yield "  Huynh-Feldt comes nearer, but jumps across a pole: no verdict rests on it."

# ================================================================ the whole analysis as a page
# Stop reading here the first time.
# ---------------------------------------------------------------- the whole analysis
def analyse(Y):
    """Everything above for one table: Y (n, k) -> dict of results. 6 x 21 take under 50 ms."""
    n, k = np.shape(Y)
    pairs = pairwise_tests(Y)
    adjacent = pairwise_tests(Y, "adjacent")
    # How many of the neighbours differ depends on how many pairs one asks for.
    counts = {}
    for name, p in (("all pairs", pairs.p_adjusted), ("adjacent only", adjacent.p_adjusted),
                    ("adjacent among all", pairs.p_adjusted[pairs.b == pairs.a + 1])):
        counts[name] = {"of": p.size, "significant": int((p < ALPHA).sum()),
                        "undefined": int(np.isnan(p).sum())}
    return {"n_subjects": n, "n_levels": k, "anova": rm_anova(Y), "mauchly": mauchly(Y),
            "epsilon_ceiling": min(1.0, (n - 1) / (k - 1)), "hf_unreliable": n < k,
            "shapiro": shapiro_by_level(Y), "shapiro_residuals": shapiro_residuals(Y),
            "mixed_ml": mixed_model(Y, "ML"), "mixed_reml": mixed_model(Y), "counts": counts,
            "sd_between": sd_between(Y), "pairs": pairs, "pairs_adjacent": adjacent}

def report_sphericity(r):
    """Lines on what the F test assumes."""
    A, M = r["anova"], r["mauchly"]
    for name, epsilon, p in (("Greenhouse-Geisser", A.epsilon_gg, A.p_gg),
                             ("Huynh-Feldt", A.epsilon_hf, A.p_hf),
                             ("lower bound", 1 / A.df_effect, A.p_lower_bound)):
        df_1, df_2 = np.minimum(epsilon, 1) * np.array([A.df_effect, A.df_error])
        yield f"  {name:18s} epsilon {epsilon:.5f}  df {df_1:.2f}, {df_2:.2f}  {p_text(p)}"
    yield f"  Greenhouse-Geisser's cannot exceed {r['epsilon_ceiling']:.4g}, (n-1)/(k-1) or 1"
    if r["hf_unreliable"]:
        yield "  Huynh-Feldt's is unreliable with fewer subjects than levels"
    if not M.defined:
        yield f"  Mauchly's test: undefined, {M.reason}"
        return
    yield f"  Mauchly's: W = {M.w:.4g}, chi2({M.df}) = {M.chi2:.2f}, {p_text(M.p)} {M.reason}"
    yield "  (Where n is little above k that p is far too small.)"

def report(r, dv, intervals, notes):
    """The result r of analyse() as lines for a reader, in the order of the functions above."""
    A, W, sd, n = r["anova"], r["shapiro"], r["sd_between"], r["n_subjects"]
    yield f"{dv}: {n} subjects (seeds) x {r['n_levels']} levels (intervals)"
    for note in notes:
        yield f"note: {note}"
    yield f"\nDO THE LEVELS DIFFER?  F({A.df_effect}, {A.df_error}) = {A.f:.2f}, {p_text(A.p)}"
    yield (f"  SS (df): levels {A.ss_effect:.5g} ({A.df_effect}), subjects {A.ss_subject:.5g} "
           f"({n - 1}), error {A.ss_error:.5g} ({A.df_error})")
    yield f"  eta squared: {A.eta_sq_generalized:.4f} generalized, {A.eta_sq_partial:.4f} partial"
    yield from report_sphericity(r)
    least = np.fmin.reduce(W.p)  # fmin passes over nan
    yield (f"\nNORMAL?  Shapiro-Wilk: smallest {p_text(least)} of {len(W.p)}, "
           f"{np.isnan(W.p).sum()} undefined")
    yield f"  residuals: {p_text(r['shapiro_residuals'].p)}"
    for name, m in (("ML", r["mixed_ml"]), ("REML", r["mixed_reml"])):
        yield f"\nMIXED MODEL, {name}: log-likelihood {m.log_likelihood:.4f}"
        yield (f"  level 0: {m.fixed[0]:.7g} (SE {m.se[0]:.2g}), contrasts' SE {m.se[1]:.2g}; "
               f"variances: {m.var_residual:.2g} residual, {m.var_subject:.2g} subject")
    yield f"\nWHICH LEVELS DIFFER?  Paired t tests, p < {ALPHA} after Bonferroni"
    for name, c in r["counts"].items():
        yield f"  {name:18s} {c['significant']} of {c['of']}, {c['undefined']} undefined"
    yield (f"\nDID THE SUBJECT MATTER?  F({n - 1}, {A.df_error}) = {A.f_subject:.2f}, "
           f"{p_text(A.p_subject)}, ICC(C,1) = {A.icc:.3f}")
    yield "  Caution: if neighbours in time correlate, this p is far too small: simulate"
    for j in (0, -1):
        yield f"  sd, interval {intervals[j]}: {sd.sd[j]:.4g} ({sd.low[j]:.4g} to {sd.high[j]:.4g})"

def main():
    """Print the analysis of a file, or the lesson."""
    parser = support.program.Parser(prog="stats.py", description="Compare intervals over seeds.")
    parser.add_argument("file", nargs="?", help="csv with columns seed, interval and the variable")
    parser.add_argument("--dv", default="val_loss", help="the variable to analyse")
    parser.add_argument("--json", action="store_true", help="print data for another program")
    args = parser.parse_args()
    if args.file is None:
        need(args.dv == "val_loss" and not args.json, "--json and --dv go with a file; name one")
        lines = lesson()
    else:
        Y, seeds, intervals, notes = read_table(args.file, args.dv)
        result = analyse(Y)
        lines = report(result, args.dv, intervals, notes)
    if args.json:
        result |= {"dv": args.dv, "seeds": seeds, "intervals": intervals, "notes": notes}
        lines = [json.dumps(for_json(result), allow_nan=False)]
    for line in "\n".join(lines).split("\n"):
        # ASCII, for a name of the user's own can hold any sign, and a terminal may lack it.
        line = printable(line).encode("ascii", "backslashreplace").decode("ascii")
        print(line if args.json else textwrap.fill(line, 79, subsequent_indent="    "))

if __name__ == "__main__":
    support.program.run(main)
