"""The judges of what changes in telemetry.py: exercises 7 and 12, rules for events.

The judge plants events into curves that it draws, so it knows where they are. Each curve has a size
and a height of its own: no number that a rule holds can fit them all.
"""
import numpy as np

import telemetry
from course.sheet import short, where

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
    """Changes with spikes and with falls: (d, cells that must be marked, cells that may be)."""
    d, h = draw_changes(rng)
    k = d.shape[1]
    must = np.zeros(d.shape, dtype=bool)
    for seed in range(len(d)):
        at = [t for t in range(FIRST, k - 15, 15) if rng.integers(2)]
        at += [t + 2 for t in at if rng.integers(2)]  # another one two intervals later
        at += [k - 1]  # and one at the end, where nobody knows the way back
        for t in at:
            must[seed, t] = True
            d[seed, t] += 10 * h[seed, 0]
            d[seed, t + 1 : t + 2] -= 10 * h[seed, 0]
        falls = [t for t in range(FIRST + 7, k - 15, 15) if rng.integers(2)]
        d[seed, falls] -= 10 * h[seed, 0]
    return d, must, must

def with_plateaus(rng):
    """The same with a stable phase, a steady fall or neither in a curve, and a calm in each."""
    d, h = draw_changes(rng)
    must, may = np.zeros(d.shape, dtype=bool), np.zeros(d.shape, dtype=bool)
    first_kind = rng.integers(3)
    for seed in range(len(d)):
        begin = int(rng.integers(45, d.shape[1] - 30))
        phase = slice(begin, begin + 20)
        kind = (first_kind + seed) % 3
        if kind == 0:
            d[seed, phase] = h[seed] * rng.uniform(-0.05, 0.05, 20)
            may[seed, phase] = True
            must[seed, begin + 5 : begin + 20] = True
        elif kind == 1:
            d[seed, phase] = -h[seed] * rng.uniform(0.5, 1)
        calm = int(rng.integers(FIRST + 1, 35))
        d[seed, calm : calm + 3] = h[seed] * rng.uniform(-0.05, 0.05, 3)
    return d, must, may

def losses_of(d, rng):
    """Curves with these changes, all above 0, at any height."""
    losses = np.cumsum(d, axis=1)
    lowest = np.abs(d).max(axis=1, keepdims=True) * rng.uniform(0.01, 3)
    return losses - losses.min(axis=1, keepdims=True) + lowest

def marks_line(sheet, what, name, draw, change):
    """A line: in 25 studies derive marks all cells that it must, and none that it may not.

    change(d, must, rng) cuts the changes off, or adds some, before the losses are made.
    """
    planted = found = 0
    for _ in range(25):
        d, must, may = draw(sheet.rng)
        d = change(d, must, sheet.rng)
        losses = losses_of(d, sheet.rng)
        try:
            marks = np.asarray(telemetry.derive(losses.copy())[name], dtype=float)
        except Exception as error:
            return sheet.line(False, what, where(error))
        if marks.shape != losses.shape or not np.isin(marks[~np.isnan(marks)], (0, 1)).all():
            return sheet.line(False, what, f"expected 1, 0 or nan in the shape {losses.shape}",
                              f"but came {short(marks)} in the shape {marks.shape}")
        # What was added at the end is not judged, only what it does to the marks before it.
        judged = slice(FIRST, min(must.shape[1], d.shape[1]))
        marked, must, may = marks[:, judged] == 1, must[:, judged], may[:, judged]
        planted, found = planted + must.sum(), found + (must & marked).sum()
        wrong = np.argwhere(must & ~marked | marked & ~may)
        if len(wrong):
            seed, t = wrong[0]
            asked = "is to be marked" if must[seed, t] else "is not to be marked"
            t += FIRST
            return sheet.line(False, what, f"interval {t} of seed {seed} {asked}; its change is "
                              f"{short(d[seed, t])}, and those before it are",
                              short(d[seed, t - 9 : t]))
    return sheet.line(True, f"{what}: {found} of {planted} planted are found, nothing else")

def judge_marks(sheet, name, draw):
    """The lines on one measure: whole curves, their beginnings, what comes later, more axes."""
    losses = losses_of(draw(sheet.rng)[0], sheet.rng)
    if not sheet.line(name in telemetry.derive(losses), f"derive returns {name!r}"):
        return

    def whole(d, must, rng):
        return d

    def cut(d, must, rng):  # where a mark must be, if any must
        last = max(np.argwhere(must)[:, 1], default=40)
        return d[:, : last + 1]

    def wild_later(d, must, rng):
        wild = 1000 * np.abs(d[:, 9:]).max() * rng.choice([-1, 1], (len(d), 60))
        return np.hstack([d, wild])

    marks_line(sheet, "curves of any size and height", name, draw, whole)
    marks_line(sheet, "curves that end at an event", name, draw, cut)
    marks_line(sheet, "the same whatever comes later", name, draw, wild_later)
    # A table alone has been judged above; here two of them at once must give the same marks.
    both = np.stack([losses, losses[::-1]])
    alone = [np.nan_to_num(telemetry.derive(each)[name]) for each in both]
    sheet.cases("several tables at once, (2, n, k)",
                lambda losses: np.nan_to_num(telemetry.derive(losses)[name]), [((both,), alone)])

def judge_7(sheet):
    """A spike rule of your own (derive in telemetry.py)."""
    judge_marks(sheet, "own_spike", with_spikes)

def judge_12(sheet):
    """A rule for stable phases of your own (derive in telemetry.py)."""
    judge_marks(sheet, "own_stable", with_plateaus)
