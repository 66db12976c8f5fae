"""The judges of what changes in stats.py: exercises 8 and 17."""
import itertools, math

import numpy as np

import stats
from support.tables import read_table

def by_all_subsets(p):
    """Holm's adjusted p values as his proof has them, from all 2^m sets of tests.

    A test is rejected if every set that it belongs to is, by Bonferroni: size times least p.
    """
    known = np.where(np.isnan(p), 1, p)  # one without a p is never rejected, but belongs to sets
    adjusted = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for chosen in map(list, itertools.combinations(range(len(p)), size)):
            bound = min(1, size * known[chosen].min())
            adjusted[chosen] = np.maximum(adjusted[chosen], bound)
    return np.where(np.isnan(p), np.nan, adjusted)

def draw_p(rng):
    """Up to eight p values, with ties and nan, in no order."""
    p = 10 ** rng.uniform(-4, 0, rng.integers(1, 9))
    p = rng.choice(np.append(p, 1.0), len(p))
    p[rng.random(len(p)) < 0.15] = np.nan
    return p

def draw_differences(rng):
    """(D, its p): whole numbers, whose sums are exact, then in a unit in which they are not."""
    whole = rng.integers(-9, 10, rng.integers(1, 11)) * int(rng.choice([1, 1, 1234567]))
    numbers = whole.tolist()
    observed, as_large = abs(sum(numbers)), 0
    for signs in itertools.product([1, -1], repeat=len(numbers)):
        as_large += abs(sum(s * x for s, x in zip(signs, numbers))) >= observed
    return whole * 10.0 ** rng.uniform(-12, 6), as_large / 2 ** len(numbers)

def judge_8(sheet):
    """Holm's correction and the exact sign-flip test (stats.py)."""
    holm_cases, sign_cases = [], []
    for _ in range(150):
        p = draw_p(sheet.rng)
        holm_cases.append(((p,), by_all_subsets(p)))
        D, share = draw_differences(sheet.rng)
        sign_cases.append(((D,), share))
    sheet.cases("holm: any p, with ties, in any order, with nan", lambda p: stats.holm(p),
                holm_cases, 1e-9)
    sheet.cases("sign_flip_test: any differences, with ties and zeros, in any unit",
                lambda D: stats.sign_flip_test(D), sign_cases, 1e-9)
    if not sheet.failed:
        t = stats.pairwise_tests(read_table(stats.PUBLISHED)[0])
        print(f"       Of {len(t.p)} published pairs Bonferroni finds {sum(t.p_adjusted < 0.05)} "
              f"different, Holm {sum(stats.holm(t.p) < 0.05)}.")

def judge_17(sheet):
    """With two levels F is the square of the paired t, by pencil (pairwise_tests in stats.py)."""
    # Differences mean - a, mean, mean + a: their standard deviation is a.
    a, mean = int(sheet.rng.integers(1, 5)), int(sheet.rng.integers(5, 15))
    first = sheet.rng.integers(10, 30, 3)
    second = first + sheet.rng.permutation([mean - a, mean, mean + a])
    print(f"       Three seeds at one interval, {first}, and at another one, {second}")
    t = mean / a * math.sqrt(3)
    sheet.number("t, to one decimal, of the second less the first?", t, 0.051)
    sheet.number("the sum of squares of the effect, to one decimal?", 1.5 * mean ** 2, 0.051)
    sheet.number("the sum of squares of the error, to one decimal?", a ** 2, 0.051)
    sheet.number("F, to one decimal?", t ** 2, 0.051)
