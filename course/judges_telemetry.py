"""The judges of what changes in telemetry.py: exercises 7 and 12, rules for events.

The judge plants events into curves that it draws, so it knows where they are. Each curve has a size
and a height of its own: no number that a rule holds can fit them all.
"""
import numpy as np

import telemetry
from course.sheet import short
from support.files import need

FIRST = 20  # marks before this interval are not judged

def draw_changes(rng):
    """Changes d (n, k) without any event, and h (n, 1): after eight falls, up to interval 8, every
    change lies between h/2 and h, up or down."""
    n, k = 4, int(rng.integers(100, 130))
    h = 10 ** rng.uniform(-4, 1, (n, 1))
    d = h * rng.uniform(0.5, 1, (n, k)) * rng.choice([-1, 1], (n, k))
    d[:, 1:9] = -h * rng.uniform(5, 200, (n, 8))
    return d, h

def with_spikes(rng):
    """Changes with spikes and falls, and the right marks: 1 at a spike, else 0."""
    d, h = draw_changes(rng)
    # None, one spike and the way back, or two of them.
    kinds = np.array([[0, 0, 0, 0], [1, -1, 0, 0], [1, -1, 1, -1]])
    events = np.zeros(d.shape)
    for t in range(FIRST, d.shape[1] - 15, 15):
        events[:, t : t + 4] = kinds[rng.integers(3, size=len(d))]
        events[:, t + 7] = -rng.integers(2, size=len(d))  # perhaps a fall
    events[:, -1] = 1  # a spike at the end, where nobody knows the way back
    return d + 10 * h * events, events == 1

def with_plateaus(rng):
    """Changes with a stable phase, and the right marks: 1 in it, nan where 0 is right too."""
    d, h = draw_changes(rng)
    marks = np.zeros(d.shape)
    begin = rng.integers(45, d.shape[1] - 30)
    phase = slice(begin, begin + 20)
    # Two curves have a phase, one falls steadily instead, one has neither.
    d[:2, phase] = h[:2] * rng.uniform(-0.05, 0.05, (2, 20))
    marks[:2, phase] = 1
    marks[:2, begin : begin + 5] = np.nan
    d[2, phase] = -h[2] * rng.uniform(0.5, 1)
    # And all have three small changes, which are no phase.
    calm = rng.integers(FIRST + 1, 35)
    d[:, calm : calm + 3] = h * rng.uniform(-0.05, 0.05, (4, 3))
    return d, marks

def losses_of(d, rng):
    """Curves with these changes, all above 0, at any height."""
    losses = np.cumsum(d, axis=1)
    lowest = np.abs(d).max(axis=1, keepdims=True) * rng.uniform(0.01, 3)
    return losses - losses.min(axis=1, keepdims=True) + lowest

def cut(d, marks, rng):
    """Changes that end where a mark must be; and then something wild may follow."""
    end = 1 + rng.choice(np.flatnonzero((marks == 1).any(axis=0)))
    wild = rng.choice([-1, 1], (len(d), rng.choice([0, 60])))
    wild = 1000 * np.abs(d).max() * wild
    return np.hstack([d[:, :end], wild]), marks[:, :end]

def first_wrong(marks, expected, d):
    """The first wrong one of some marks, in words. expected: nan where anything is right."""
    marked = marks[:, : expected.shape[1]] == 1
    wrong = (marked != expected) & ~np.isnan(expected)
    wrong[:, :FIRST] = False
    if not wrong.any():
        return "nothing"
    seed, t = np.argwhere(wrong)[0]
    asked = "is to be marked" if expected[seed, t] else "is not to be marked"
    changes = short(list(d[seed, t - 9 : t + 1]))
    return f"interval {t} of seed {seed} {asked}; its change is the last of {changes}"

def judge_marks(sheet, name, draw):
    """Three lines on one measure."""
    def marks_of(losses):
        measures = telemetry.derive(losses)
        need(name in measures, f"derive returns no {name!r}")
        marks = np.asarray(measures[name], dtype=float)
        need(np.isin(marks[~np.isnan(marks)], (0, 1)).all(), "there is more than 1, 0 and nan")
        return marks

    def wrong_in(study, kind):
        rng = np.random.default_rng(study)
        d, expected = draw(rng)
        if kind == "cut":
            d, expected = cut(d, expected, rng)
        losses = losses_of(d, rng)
        before = losses.copy()
        marks = marks_of(losses)
        need((losses == before).all(), "derive changes the losses")
        if kind == "two":
            marks = marks_of(np.stack([losses[::-1], losses]))[1]
        return first_wrong(marks, expected, d)

    studies = sheet.rng.integers(10**9, size=40).tolist()
    kinds = {"whole": "curves of any size and height", "two": "two tables at once, (2, n, k)",
             "cut": "curves that end earlier, or go on in another way"}
    for kind, what in kinds.items():
        sheet.cases(f"{name} in {what}: what is wrong?", wrong_in,
                    [((study, kind), "nothing") for study in studies])

def judge_7(sheet):
    """A spike rule of your own (derive in telemetry.py)."""
    judge_marks(sheet, "own_spike", with_spikes)

def judge_12(sheet):
    """A rule for stable phases of your own (derive in telemetry.py)."""
    judge_marks(sheet, "own_stable", with_plateaus)
