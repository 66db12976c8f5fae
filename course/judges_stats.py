"""The judges of what changes in stats.py: exercises 8 and 17."""
import itertools, math

import numpy as np

import stats

def holm_one_by_one(p):
    """Holm's adjusted p values: each p times the number of those that are not smaller, but not
    less than what a smaller one comes to."""
    known = np.where(np.isnan(p), 1, p)  # one without a p is never rejected, but counts
    adjusted = []
    for own in known:
        smaller = known[known <= own]
        products = [q * (known >= q).sum() for q in smaller]
        adjusted.append(min(1, max(products)))
    return np.where(np.isnan(p), np.nan, adjusted)

def judge_8(sheet):
    """Holm's correction and the exact sign-flip test (stats.py)."""
    rng = sheet.rng
    holm_cases, sign_cases = [], []
    for _ in range(150):
        # Up to eight p values, in no order, some of them equal, 1 or nan.
        values = [*10 ** rng.uniform(-4, 0, 8), 1, np.nan]
        p = rng.choice(values, rng.integers(1, 9))
        holm_cases.append(((p,), holm_one_by_one(p)))
        # Whole numbers, whose sums are exact; then in a unit in which they are not.
        whole = rng.integers(-9, 10, rng.integers(1, 11))
        signs = np.array(list(itertools.product([1, -1], repeat=len(whole))))
        as_large = abs(signs @ whole) >= abs(whole.sum())
        unit = 10 ** rng.uniform(-12, 6)
        sign_cases.append(((whole * unit,), as_large.mean()))
    sheet.cases("holm: any p, with ties, in any order, with nan", lambda p: stats.holm(p),
                holm_cases, 1e-9)
    sheet.cases("sign_flip_test: any differences, with ties and zeros, in any unit",
                lambda D: stats.sign_flip_test(D), sign_cases, 1e-9)

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
