"""Chapter 5. The tests: did anything change? A table of seeds by intervals, by hand.

Y is one float64 matrix of shape (n, k): n subjects (seeds), each measured at k levels (intervals).

    python stats.py FILE.csv [--dv val_loss] [--json]    the full analysis, in under a second
    python stats.py                                      a lesson about two traps, two seconds

The docstrings work this table by hand. Row means are 3 5 7, level means 2 5 8.

    Y = 1 3  5     residuals =  1  0 -1
        2 6  7                  0  1 -1
        3 6 12                 -1 -1  2

An undefined number is nan, never a guess and never a warning. Rounding is not variation: what is
below ROUNDING times the largest number counts as exactly 0.
"""
import argparse, csv, json, math, os, sys, textwrap
from dataclasses import is_dataclass, make_dataclass
from itertools import compress

import numpy as np
from scipy import stats as scipy_stats

ALPHA = 0.05
ROUNDING = 8 * np.finfo(np.float64).eps  # a stored number is wrong by up to eps/2 of its size

# What the tests return: small dataclasses. Huynh-Feldt's epsilon is uncapped.
RMAnova = make_dataclass("RMAnova", (
    "ss_effect ss_subject ss_error df_effect df_error f p eta_sq_generalized eta_sq_partial "
    "epsilon_gg epsilon_hf p_gg p_hf p_lower_bound f_subject p_subject icc").split())
Epsilons = make_dataclass("Epsilons", "gg hf lower_bound".split())
Mauchly = make_dataclass("Mauchly", "w chi2 df p defined reason".split())
Shapiro = make_dataclass("Shapiro", "w p".split())
Pairs = make_dataclass("Pairs", "a b mean_diff t df p p_adjusted d_z".split())
Friedman = make_dataclass("Friedman", "chi2 df p".split())
Spread = make_dataclass("Spread", "sd low high".split())
MixedModel = make_dataclass(
    "MixedModel", "fixed se low high log_likelihood var_residual var_subject".split())

class InputError(ValueError):
    """A table that cannot be analysed; one sentence says where, why and what to do."""

# ---------------------------------------------------------------- taking a table apart
def scaled(Y):
    """Y (..., n, k) -> exact Y / 2**exponent, largest number in [0.5, 1); exponent (..., 1, 1).
    Raises InputError for nan, infinities and fewer than 2 rows or columns, as all
    below do that take a full table.
    """
    Y = np.asarray(Y, dtype=np.float64)
    if Y.ndim < 2 or min(Y.shape[-2:]) < 2:
        raise InputError(f"need at least 2 rows (subjects) and 2 columns (levels), got {Y.shape}")
    for *batch, i, j in np.argwhere(~np.isfinite(Y))[:1]:
        raise InputError(f"row {i}, column {j} (from 0) is {Y[(*batch, i, j)]}: correct or drop it")
    exponent = np.frexp(np.abs(Y).max(axis=(-2, -1), keepdims=True))[1]
    return np.ldexp(Y, -exponent), exponent

def decompose(Y):
    """What is in each cell? cell = grand mean + level + subject + residual.
    Y (..., n, k) -> level (..., 1, k), residual (..., n, k), (SS_effect, SS_subject, SS_error)
    each (...), exponent of their unit (see scaled). Example: level -3 0 3, SS = 3*18, 3*8, 10; with
    exponent 4 they come as level -3/16 0 3/16 and SS / 256. Trap: near 1e9 means lose digits: take
    the first row off first, centre twice.
    """
    Z, exponent = scaled(Y)
    n, k = Z.shape[-2:]
    residual = Z - Z[..., :1, :]
    level = Z[..., :1, :] - Z[..., :1, :1] + residual.mean(axis=-2, keepdims=True)
    subject = residual.mean(axis=-1, keepdims=True)
    for axis in (-1, -2, -1, -2):
        residual = residual - residual.mean(axis=axis, keepdims=True)
    level, subject, residual = (
        x * (np.abs(x).max(axis=(-2, -1), keepdims=True) > ROUNDING) for x in (
            level - level.mean(axis=-1, keepdims=True),
            subject - subject.mean(axis=-2, keepdims=True), residual))
    ss = [(x ** 2).sum(axis=(-2, -1)) for x in (level, subject, residual)]
    return level, residual, (n * ss[0], k * ss[1], ss[2]), exponent

# ---------------------------------------------------------------- do the level means differ?
@np.errstate(all="ignore")  # 0/0 is nan and x/0 is inf, here and below, on purpose
def f_and_epsilons(Y):
    """F and both epsilons of one table, or of thousands at once: Y (..., n, k) -> arrays (...).
    With d = k-1 and residuals R,  F = (SS_effect / d) / (SS_error / ((n-1) d)),
        gg = tr(R'R)^2 / (d tr(R'R R'R))           (Box 1954; Greenhouse & Geisser 1959)
        hf = (n d gg - 2) / (d (n - 1 - d gg))     (Huynh & Feldt 1976), uncapped
    Example: F = 27 / 2.5 = 10.8; R'R = (2 1 -3, 1 2 -3, -3 -3 6), gg = 100 / (2 * 82) = 0.610,
    hf = (6 gg - 2) / (2 (2 - 2 gg)) = 1.0625. Trap: hf has a pole at gg = (n-1)/d, the largest gg
    that n-1 < d allows; towards it, hf says "no correction" whatever the truth.
    """
    _, R, (ss_effect, _, ss_error), _ = decompose(Y)
    n, k = R.shape[-2:]
    d = k - 1
    F = (ss_effect / d) / (ss_error / ((n - 1) * d))
    if k == 2:  # one difference has one variance: none is unequal
        return F, np.ones_like(F), np.ones_like(F)
    R_t = np.swapaxes(R, -1, -2)
    # RR' or R'R, whichever is smaller: both have the trace SS_error and the same trace of the
    # square, which, since they are symmetric, is the sum of their squared entries.
    gram = R @ R_t if n < k else R_t @ R
    gg = ss_error ** 2 / (d * (gram ** 2).sum(axis=(-2, -1)))
    room = n - 1 - d * gg
    return F, gg, (n * d * gg - 2) / (d * np.where(room > 1e-12 * n, room, np.nan))

@np.errstate(all="ignore")
def rm_anova(Y):
    """Do levels differ on average by more than the subjects' private ups and downs explain?
    Y (n, k) -> RMAnova. F on d = k-1 and (n-1) d df; p_gg and p_hf multiply both by epsilon (hf
    at most 1), p_lower_bound by 1/d. eta_sq_generalized = SS_effect / (sum of all three SS)
    (Olejnik & Algina 2003), partial = SS_effect / (SS_effect + SS_error). f_subject = MS_subject /
    MS_error, icc = (MS_subject - MS_error) / (MS_subject + d MS_error) (McGraw & Wong 1996,
    ICC(C,1)). Example: 54/88, 54/64; f_subject = 12 / 2.5, icc = 9.5 / 17. SS_error 0: F inf, p 0,
    epsilons nan if k > 2. Trap: neighbours in time correlate: p and p_subject are far too small.
    """
    F, gg, hf = (float(x) for x in f_and_epsilons(Y))
    _, R, (effect, subject, error), exponent = decompose(Y)
    n, d = R.shape[0], R.shape[1] - 1
    df_error = (n - 1) * d
    ms_subject, ms_error = subject / (n - 1), error / df_error
    epsilon = np.array([1, gg, np.minimum(hf, 1), 1 / d if gg == gg else np.nan])
    p, *p_corrected = scipy_stats.f.sf(F, epsilon * d, epsilon * df_error).tolist()
    f_subject = ms_subject / ms_error
    return RMAnova(
        *np.ldexp([effect, subject, error], 2 * exponent[0, 0]).tolist(), d, df_error, F, p,
        float(effect / (effect + subject + error)), float(effect / (effect + error)), gg, hf,
        *p_corrected, float(f_subject), float(scipy_stats.f.sf(f_subject, n - 1, df_error)),
        float((ms_subject - ms_error) / (ms_subject + d * ms_error)))

# ---------------------------------------------------------------- sphericity
def epsilons(Y):
    """Over how many of the k-1 directions of change does the noise spread, as a share of k-1?
    Y (n, k) -> Epsilons: 1 is all alike (spherical), lower_bound = 1/(k-1). Formulas and example:
    f_and_epsilons. Trap: over n subjects residuals add up to 0, so at most r = n-1 of their k-1
    variances (eigenvalues of R'R) are not 0, and of r numbers sum^2 <= r * (sum of squares):
    gg <= (n-1)/(k-1), 0.25 for 6 by 21, even where the truth is 1.
    """
    _, gg, hf = f_and_epsilons(Y)
    return Epsilons(float(gg), float(hf), 1 / (np.shape(Y)[-1] - 1))

@np.errstate(all="ignore")
def mauchly(Y):
    """Do all differences between levels have one variance (sphericity), given this table?
    Y (n, k) -> Mauchly. M: the covariance of d = k-1 orthonormal contrasts; its eigenvalues are the
    squared singular values of the residuals over n-1. W = det M / (tr M / d)^d (Mauchly 1940),
    chi2 = -(n-1) rho ln W, rho = 1 - (2d^2+d+2) / (6 d (n-1)), p with R's second-order term.
    Example: squares 9 and 1, W = 9 * 1 / 5^2 = 0.36, rho = 0.5, chi2 = 1.02 on 2 df, p = 0.6.
    Trap: with n-1 < d the smallest eigenvalues are 0, so W is 0, whatever the truth: no test,
    and w, chi2 and p are nan; with n-1 little above d, p is far too small (21 subjects, 21 levels:
    some 70 % of spherical tables have p < 0.05).
    """
    _, residual, _, _ = decompose(Y)
    n, k = residual.shape
    d = k - 1
    df = d * (d + 1) // 2 - 1 if k > 2 else np.nan
    reason = ("not applicable: 2 levels have a single difference" if k == 2 else
              f"n-1 < k-1 ({n - 1} < {d}): W is 0 by construction" if n - 1 < d else
              "SS_error is 0: W is 0/0" if not residual.any() else "")
    if reason:
        return Mauchly(np.nan, np.nan, df, np.nan, False, reason)
    root = np.linalg.svd(residual, compute_uv=False)[:d]
    eigen = np.where(root > ROUNDING * max(n, k), root, 0) ** 2
    log_w = np.log(eigen / eigen.mean()).sum()
    rho = 1 - (2 * d * d + d + 2) / (6 * d * (n - 1))
    chi2 = -(n - 1) * rho * log_w
    w2 = ((d + 2) * (d - 1) * (d - 2) * (2 * d ** 3 + 6 * d * d + 3 * k + 2)
          / (288 * ((n - 1) * d * rho) ** 2))
    p1, p5 = scipy_stats.chi2.sf(chi2, [df, df + 4])
    p = min(1.0, float(p1 + w2 * (p5 - p1)))  # the series can pass 1 when n-1 is little above d
    reason = "" if eigen.all() else "W is exactly 0: levels are copies or mixtures of others"
    return Mauchly(float(np.exp(log_w)), float(chi2), df, p, True, reason)

# ---------------------------------------------------------------- are the numbers roughly normal?
def shapiro(x):
    """(W, p) of a sample (n,); nan if constant or not of 3 to 5000 values (Royston 1995)."""
    if not 3 <= len(x) <= 5000 or np.ptp(x) <= ROUNDING * np.abs(x).max():
        return np.nan, np.nan
    return tuple(scipy_stats.shapiro((x - x[0]) / np.ptp(x)))  # scipy takes a spread 1e-20 for 0

def shapiro_by_level(Y):
    """At each level, could the subjects be a sample from a normal distribution?
    Y (n, k) -> Shapiro, two arrays (k,). W: about the squared correlation of the sorted values with
    those a normal sample would have (Shapiro & Wilk 1965). Example: 1 2 3 has W = 1, 5 7 12 has
    W = (49/2) / 26 = 0.942; 3 6 6 has 0.75, the least that three can have, and so p = 0. Trap: six
    values seldom reject: a large p proves nothing.
    """
    return Shapiro(*np.array([shapiro(column) for column in scaled(Y)[0].T]).T)

def shapiro_residuals(Y):
    """Could the residuals of the additive model be normal, as F assumes? Y (n, k) -> Shapiro.
    Example: W = 0.844, p = 0.065. Trap: residuals sum to 0 in each row and column: p of dependent
    values is rough.
    """
    return Shapiro(*(float(x) for x in shapiro(decompose(Y)[1].ravel())))

# ---------------------------------------------------------------- which levels differ?
@np.errstate(all="ignore")
def pairwise_tests(Y, pairs=None):
    """For each pair of levels: is the mean of the subjects' differences 0?
    Y (n, k) -> Pairs, arrays with an entry a pair. pairs: None (all a < b), "adjacent", or a list
    of (a, b), read a minus b, else InputError. D = Y[:, a] - Y[:, b], d_z = mean(D) / sd(D), t =
    d_z sqrt(n) on n-1 df (Student 1908), p_adjusted = min(1, p * number of pairs) (Bonferroni).
    Example: pair (0, 1): D = -2 -4 -3, mean -3, sd 1, t = -5.20, p = 0.035, times 3 = 0.105.
    D constant: t inf, p 0; all 0: nan. Trap: ask for few pairs, before you see the data.
    """
    Z, exponent = scaled(Y)
    n, k = Z.shape
    every = np.transpose(np.triu_indices(k, 1))  # every (a, b) with a < b
    if pairs is None or isinstance(pairs, str) and pairs == "adjacent":
        pairs = every if pairs is None else every[every[:, 1] == every[:, 0] + 1]
    elif isinstance(pairs, str) or not all(
            len(pair) == 2 and set(pair) <= set(range(k)) and pair[0] != pair[1] for pair in pairs):
        raise InputError(f'pairs are None, "adjacent" or a list of different levels 0 to {k - 1}')
    a, b = np.array(pairs, dtype=int).reshape(-1, 2).T
    D = Z[:, a] - Z[:, b]  # (n, number of pairs)
    size = np.maximum(*np.abs(Z).max(axis=0)[np.array([a, b])])
    mean = D[0] + (D - D[0]).mean(axis=0)
    sd = np.where(np.ptp(D, axis=0) > ROUNDING * size, (D - D[0]).std(axis=0, ddof=1), 0)
    mean = np.where((sd > 0) | (np.abs(mean) > ROUNDING * size), mean, 0)
    t = mean / sd * np.sqrt(n)
    p = 2 * scipy_stats.t.sf(np.abs(t), n - 1)
    p_adjusted = np.minimum(1, p * len(a))  # Bonferroni; undefined pairs count in len(a)
    # EXERCISE 8: two functions at the top level of this file. holm(p), p (m,): p times m for the
    # smallest, m-1 for the next, ..., never below the one before, 1 at most, in the order given;
    # nan stays nan and counts in m. sign_flip_test(D), D (n,): the share of the 2^n choices of
    # signs of D whose |mean| is at least this large (as large counts, whatever rounding does). How
    # small can that p be with 6 seeds, and does it survive times 210?
    return Pairs(a, b, np.ldexp(mean, exponent[0]), t, a * 0 + n - 1, p, p_adjusted, mean / sd)

@np.errstate(all="ignore")
def friedman(Y):
    """Do levels differ in rank within subjects? For counts and others far from normal.
    Y (..., n, k) -> Friedman. Ranks r in each row (ties share), their sums R_j: chi2 = (k-1) sum
    (R_j - n(k+1)/2)^2 / (sum r^2 - n k (k+1)^2 / 4) on k-1 df (Friedman 1937; ties: Conover 1999).
    Example: R = 3 6 9, chi2 = 2 * 18 / (42 - 36) = 6, p = 0.05. Trap: rough for few subjects:
    of the 6^3 ways to rank 3 rows, 6 do it alike, so the exact p is 6/216 = 0.028.
    """
    level, residual, _, _ = decompose(Y)
    moves = (level + residual != 0).any(axis=(-2, -1), keepdims=True)
    ranks = scipy_stats.rankdata(scaled(Y)[0] * moves, axis=-1)
    n, k = ranks.shape[-2:]
    between = ((ranks.sum(axis=-2) - n * (k + 1) / 2) ** 2).sum(axis=-1)
    chi2 = (k - 1) * between / ((ranks ** 2).sum(axis=(-2, -1)) - n * k * (k + 1) ** 2 / 4)
    return Friedman(chi2, k - 1, scipy_stats.chi2.sf(chi2, k - 1))

# ---------------------------------------------------------------- how much did the seed matter?
@np.errstate(all="ignore")
def sd_between(Y, level=0.95):
    """At each level, how far apart are the subjects, and how well can so few of them tell?
    Y (n, k) -> Spread, arrays (k,): sd with n-1, interval sd sqrt((n-1) / q), q the quantiles of
    chi-square on n-1 df. Example: 1 2 3 has sd 1, interval 0.52 to 6.28. Trap: that is no
    mistake; n values tell a sd no better (6 seeds: 0.62 to 2.45 times sd).
    """
    Z, exponent = scaled(Y)
    constant = np.ptp(Z, axis=0) <= ROUNDING * np.abs(Z).max(axis=0)
    sd, df = np.where(constant, 0, (Z - Z[0]).std(axis=0, ddof=1)), len(Z) - 1
    sd = np.ldexp(sd, exponent[0])
    q = scipy_stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], df)
    return Spread(sd, *(sd * np.sqrt(df / x) for x in q))

@np.errstate(all="ignore")
def mixed_model(Y, method="REML"):
    """How far is each level from level 0, if every subject has a random height of its own?
    Y (n, k) -> MixedModel, in R's notation y ~ level + (1 | subject); a full table has a closed
    form (Searle, Casella & McCulloch 1992). d = k-1; m = n for ML, maximum likelihood, and n-1 for
    REML, restricted, as in a sample sd: s2 = SS_error / (m d) and lam = SS_subject / m, which
    estimates s2 + k var_subject; so var_subject = (lam - s2) / k; if that is negative, it is 0 and
    s2 = lam = (SS_error + SS_subject) / (m k). SE: sqrt((s2 + var_subject) / n), differences
    sqrt(2 s2 / n). log L = -1/2 [m k (1 + ln 2 pi) + m d ln s2 + m ln lam (+ k ln n if REML)], as
    in lme4. Example: REML s2 = 2.5, lam = 12, var_subject = 3.17; 2 (SE 1.37), +3 and +6 (SE 1.29).
    low, high: Wald 95 %. Trap: one SE for all differences (compound symmetry), a normal quantile
    for few subjects; ML variances are too small by (n-1)/n. s2 = 0: log L inf.
    """
    if method not in ("REML", "ML"):
        raise InputError(f'method is "REML" or "ML", not {method!r}')
    level, residual, (_, ss_subject, ss_error), exponent = decompose(Y)
    (n, k), e = residual.shape, exponent[0, 0]  # all in units of 2**e until the end
    m = n - 1 if method == "REML" else n
    s2, lam = ss_error / (m * (k - 1)), ss_subject / m
    if lam < s2:
        s2 = lam = (ss_error + ss_subject) / (m * k)
    var_subject = (lam - s2) / k
    log_det = m * (k - 1) * np.log(s2) + m * np.log(lam) + (k * np.log(n) if m < n else 0)
    first = scaled(Y)[0][:, 0]
    fixed = np.append(first[0] + (first - first[0]).mean(), (level - level[0, 0])[0, 1:])
    se = np.sqrt(np.append((s2 + var_subject) / n, np.full(k - 1, 2 * s2 / n)))
    wald = scipy_stats.norm.ppf(0.975) * se
    return MixedModel(
        *(np.ldexp(x, e) for x in (fixed, se, fixed - wald, fixed + wald)),
        float(-0.5 * (m * k * (1 + np.log(2 * np.pi) + 2 * e * np.log(2)) + log_det)),
        float(np.ldexp(s2, 2 * e)), float(np.ldexp(var_subject, 2 * e)))

# ---------------------------------------------------------------- from a file to a matrix
def complete(Y, seeds, intervals):
    """Leave out what is missing (nan): an interval that no seed has, then every seed with a gap.
    Y (n, k), labels -> Y, seeds, intervals, notes. InputError: infinities, fewer than 2 left.
    """
    Y = np.asarray(Y, dtype=np.float64).reshape(len(seeds), len(intervals))
    for i, j in np.argwhere(np.isinf(Y))[:1]:
        raise InputError(f"seed {seeds[i]}, interval {intervals[j]} is infinite: correct it")
    absent = np.isnan(Y).all(axis=0)
    notes = [f"interval {x} is missing for every seed" for x in compress(intervals, absent)]
    Y, intervals = Y[:, ~absent], list(compress(intervals, ~absent))
    gaps = np.isnan(Y)
    notes += [f"seed {seed} has no value at interval {', '.join(map(str, where))}"
              for seed, gap in zip(seeds, gaps) if (where := list(compress(intervals, gap)))]
    Y, seeds = Y[~gaps.any(axis=1)], list(compress(seeds, ~gaps.any(axis=1)))
    if min(Y.shape) < 2:
        raise InputError("; ".join(["fewer than 2 complete seeds or intervals are left: add some",
                                    *notes]))
    return Y, seeds, intervals, [note + ": dropped" for note in notes]

def number(text):
    """A finite number (int if whole), nan for a missing cell, None for anything else."""
    try:
        x = float(text or "nan")
    except ValueError:
        x = math.inf
    return None if math.isinf(x) or "_" in text else int(x) if x.is_integer() else x

def read_rows(path):
    """[(line number, cells)] of a csv file without blank rows; InputError if it is not one."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # -sig: skip a byte order mark
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}, after line {reader.line_num}: {error}: save it as csv in "
                         "UTF-8") from None
    return [(line, row) for line, row in rows if any(row)]

def read_table(path, dv="val_loss"):
    """Read the columns seed (any label), interval (a number) and dv of a csv, rows in any order.
    -> Y (n, k), seeds, intervals (both sorted), notes; "" and nan are missing (see complete).
    InputError names line and column of anything unclear.
    """
    rows = read_rows(path) or [(1, [])]
    header, wanted, table = rows[0][1], ("seed", "interval", dv), {}
    if any(header.count(name) != 1 for name in wanted):
        raise InputError(f"{path} needs the columns {', '.join(wanted)}, once each, and has "
                         f"{', '.join(header)[:99] or 'none: it is empty'}; rename or choose --dv")
    for line, row in rows[1:]:
        place, cells = f"{path}, line {line}", dict(zip(header, row))
        if len(row) != len(header):
            raise InputError(f"{place}: {len(row)} cells under {len(header)} columns: correct it")
        seed, interval, value = (number(cells[name]) for name in wanted)
        bad = ("seed" if not cells["seed"] else dv if value is None else
               "interval" if interval is None or interval != interval else None)
        if bad:
            raise InputError(f"{place}, column {bad}: {cells[bad][:40]!r} is not a "
                             f"{'label' if bad == 'seed' else 'finite number'}: correct it")
        if seed is None or not abs(seed) < 2 ** 53:  # any other label, nan included
            seed = cells["seed"]
        if table.setdefault((seed, interval), (line, value))[0] != line:
            raise InputError(f"{place}: seed {seed}, interval {interval} is in line "
                             f"{table[seed, interval][0]} already: delete one")
    if not table:
        raise InputError(f"{path} has no row below its header: add some")
    seeds = sorted({seed for seed, _ in table}, key=lambda seed: (isinstance(seed, str), seed))
    intervals = sorted({interval for _, interval in table})
    Y = [[table.get((seed, x), (0, math.nan))[1] for x in intervals] for seed in seeds]
    return complete(Y, seeds, intervals)

# ---------------------------------------------------------------- the whole analysis
def analyse(Y):
    """Everything above for one table: Y (n, k) -> dict of results. 6 x 21 take under 50 ms."""
    pairs, adjacent = pairwise_tests(Y), pairwise_tests(Y, "adjacent")
    families = {"all pairs": pairs.p_adjusted, "adjacent only": adjacent.p_adjusted,
                "adjacent among all": pairs.p_adjusted[pairs.b == pairs.a + 1]}
    counts = {name: {"of": p.size, "significant": int(sum(p < ALPHA)),
                     "undefined": int(sum(np.isnan(p)))} for name, p in families.items()}
    n, k = np.shape(Y)
    return {"n_subjects": n, "n_levels": k, "anova": rm_anova(Y), "mauchly": mauchly(Y),
            "epsilon_ceiling": min(1.0, (n - 1) / (k - 1)), "hf_unreliable": n < k,
            "friedman": friedman(Y), "shapiro": shapiro_by_level(Y), "counts": counts,
            "shapiro_residuals": shapiro_residuals(Y), "mixed_ml": mixed_model(Y, "ML"),
            "mixed_reml": mixed_model(Y), "sd_between": sd_between(Y), "pairs": pairs,
            "pairs_adjacent": adjacent}

def plain(x):
    """Dataclasses and arrays as dicts and lists for strict JSON: nan is null, inf "Infinity"."""
    x = vars(x) if is_dataclass(x) else x.tolist() if isinstance(x, (np.ndarray, np.generic)) else x
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, list):
        return [plain(value) for value in x]
    if isinstance(x, float) and not math.isfinite(x):
        return None if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"
    return x

def report(r, dv, intervals, notes):
    """The result r of analyse() as lines for a reader, in the order of the functions above."""
    A, M, W, sd = r["anova"], r["mauchly"], r["shapiro"], r["sd_between"]
    n, d, df_error = r["n_subjects"], A.df_effect, A.df_error
    yield f"{dv}: {n} subjects (seeds) x {d + 1} levels (intervals)"
    yield from (f"note: {note}" for note in notes)
    yield f"\nDO THE LEVELS DIFFER?  F({d}, {df_error}) = {A.f:.2f}, p = {A.p:.3g}"
    yield (f"  SS (df): levels {A.ss_effect:.5g} ({d}), subjects {A.ss_subject:.5g} ({n - 1}), "
           f"error {A.ss_error:.5g} ({df_error})")
    yield f"  eta squared: {A.eta_sq_generalized:.4f} generalized, {A.eta_sq_partial:.4f} partial"
    for name, epsilon, p in (("Greenhouse-Geisser", A.epsilon_gg, A.p_gg), (
            "Huynh-Feldt", A.epsilon_hf, A.p_hf), ("lower bound", 1 / d, A.p_lower_bound)):
        df = np.minimum(epsilon, 1) * np.array([d, df_error])
        yield f"  {name:18s} epsilon {epsilon:.5f}  df {df[0]:.2f}, {df[1]:.2f}  p = {p:.3g}"
    yield f"  Greenhouse-Geisser's cannot exceed {r['epsilon_ceiling']:.4g}, (n-1)/(k-1) or 1" + (
        "; Huynh-Feldt is unreliable" if r["hf_unreliable"] else "")
    yield "  Mauchly's test: " + (f"undefined, {M.reason}" if not M.defined else (
        f"W = {M.w:.4g}, chi2({M.df}) = {M.chi2:.2f}, p = {M.p:.3g} {M.reason}"
        + "(far too small where n is little above k)" * (n - 1 < 2 * d)))
    yield "  Friedman's test: chi2({df}) = {chi2:.2f}, p = {p:.3g}".format(**vars(r["friedman"]))
    least = 0 if np.isnan(W.p).all() else np.nanargmin(W.p)
    yield (f"\nNORMAL?  Shapiro-Wilk: smallest p = {W.p[least]:.4f} (interval {intervals[least]}; "
           f"{np.isnan(W.p).sum()} undefined)\n  residuals p = {r['shapiro_residuals'].p:.4f}")
    for name, m in (("ML", r["mixed_ml"]), ("REML", r["mixed_reml"])):
        yield (f"\nMIXED MODEL, {name}: log-likelihood {m.log_likelihood:.4f}\n  level 0 "
               f"{m.fixed[0]:.7g} (SE {m.se[0]:.2g}), contrasts' SE {m.se[1]:.2g}; variances: "
               f"{m.var_residual:.3g} residual, {m.var_subject:.3g} subject")
    yield f"\nWHICH LEVELS DIFFER?  Paired t tests, p < {ALPHA} after Bonferroni"
    for name, count in r["counts"].items():
        yield f"  {name:18s} {{significant}} of {{of}}, {{undefined}} undefined".format(**count)
    yield (f"\nDID THE SUBJECT MATTER?  F({n - 1}, {df_error}) = {A.f_subject:.2f}, "
           f"p = {A.p_subject:.3g}, ICC(C,1) = {A.icc:.3f}"
           "\n  Caution: if neighbours in time correlate, this p is far too small: simulate")
    for j in (0, d):
        yield f"  sd, interval {intervals[j]}: {sd.sd[j]:.4g} ({sd.low[j]:.4g} to {sd.high[j]:.4g})"

# ---------------------------------------------------------------- the command line
def ar1(rng, shape, phi):
    """Noise of variance 1 that correlates phi with itself one level earlier: (..., k)."""
    x = rng.normal(size=shape)
    for t in range(1, shape[-1]):
        x[..., t] = phi * x[..., t - 1] + math.sqrt(1 - phi ** 2) * x[..., t]
    return x

# EXERCISE 9: power by simulation: let `lesson` print a line for each n from 5 to 14. Add a change
# of 0.05 at the last level to 2,000 random tables (2000, n, 21) of sd 0.03, hand them to
# rejection_rates. How many seeds find it 8 times of 10, by each of its three rates? And with
# ar1(..., 0.9) for the noise?
def rejection_rates(Y):
    """Share of studies Y (..., n, k) with p < ALPHA: uncorrected, corrected by gg and by hf; nan
    where no p is defined (hf of 2 subjects)."""
    (F, gg, hf), (n, k) = f_and_epsilons(Y), Y.shape[-2:]
    all_p = [scipy_stats.f.sf(F, e * (k - 1), e * (n - 1) * (k - 1))
             for e in (1, gg, np.minimum(hf, 1))]
    return [math.nan if np.isnan(p).all() else float((p < ALPHA).mean()) for p in all_p]

def lesson(n=6, k=21, n_studies=2000):
    """Two traps, shown on random numbers without any effect, as lines for a reader."""
    rng, d = np.random.default_rng(1), k - 1
    Y = rng.normal(size=(n, k))
    yield f"1. MAUCHLY'S TEST, {n} SUBJECTS, {k} LEVELS, SPHERICAL TRUTH\n  {mauchly(Y).reason}"
    for unit, size in (("nats", 1), ("bits", 1 / math.log(2))):
        _, R, _, exponent = decompose(Y * size)
        eigen = np.linalg.svd(np.ldexp(R, exponent), compute_uv=False)[:n - 1] ** 2 / (n - 1)
        W = np.prod(eigen) / (eigen.sum() / d) ** d
        yield f"  Leave the {k - n} zero eigenvalues out, as a package may: W = {W:.2g} in {unit}"
    yield "  A true W is the same in every unit and never above 1."
    yield f"\n2. HOW MANY OF {n_studies} STUDIES FIND WHAT IS NOT THERE, at a nominal 5 %?"
    yield "  neighbours correlate   uncorrected   Greenh.-Geisser   Huynh-Feldt"
    for rho in (0, 0.5, 0.9):
        rates = rejection_rates(ar1(rng, (n_studies, n, k), rho))
        yield "  {:20} {:11.1%} {:17.1%} {:13.1%}".format(rho, *rates)

def main(argv=None):
    """Print the analysis of a file, or the lesson; returns 2 after a user's mistake, else None."""
    parser = argparse.ArgumentParser(prog="stats.py", description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"stats.py: {message}\n")
    parser.add_argument("file", nargs="?", help="csv with columns seed, interval and the variable")
    parser.add_argument("--dv", default="val_loss", help="the variable to analyse")
    parser.add_argument("--json", action="store_true", help="print data for another program")
    args = parser.parse_args(argv)
    if args.file is None and (args.json or args.dv != "val_loss"):
        parser.error("--json and --dv go with a file; name one")
    try:
        lines = lesson()
        if args.file is not None:
            Y, seeds, intervals, notes = read_table(args.file, args.dv)
            result = analyse(Y)
            lines = report(result, args.dv, intervals, notes)
            result |= {"dv": args.dv, "seeds": seeds, "intervals": intervals, "notes": notes}
            if args.json:
                return print(json.dumps(plain(result), allow_nan=False), flush=True)
        text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
        print("\n".join(textwrap.fill(line, 79) for line in text.split("\n")), flush=True)
    except InputError as error:
        print("stats.py:", *str(error).split(), file=sys.stderr)  # one line, whatever is in it
        return 2
    except BrokenPipeError:  # the reader (head, say) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        parser.error(str(error))

if __name__ == "__main__":
    sys.exit(main())
