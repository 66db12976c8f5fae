"""From a csv file to a matrix of seeds by intervals, with a sentence for everything unclear; and
from matrices to JSON that any program can read."""
import math, re
from dataclasses import is_dataclass

import numpy as np

from support.files import need, read_rows

def cell_number(text, place):
    """The number in a cell (int if whole), nan if it is missing; InputError for anything else."""
    if text.lower() in ("", "na", "nan"):  # R writes NA, pandas nothing
        return math.nan
    try:
        x = float(text)
    except ValueError:
        x = math.inf
    # float("1_0") is 10 for Python, and a slip of the finger for everybody else.
    need(math.isfinite(x) and "_" not in text, f"{place}: {text[:40]!r} is not a finite number")
    return int(x) if x.is_integer() else x

def cell_seed(text, place):
    """The label in a cell: an int where it is one ("101.0" too), else text on one line."""
    need(text.lower() not in ("", "na", "nan"), f"{place}: {text!r} is not a label")
    if re.fullmatch(r"-?\d{1,15}(\.0*)?", text):
        return int(float(text))
    return " ".join(text.split())

def read_table(path, dv="val_loss"):
    """Read the columns seed (any label), interval (a number) and dv of a csv, rows in any order.
    -> Y (n, k), seeds, intervals (both sorted), notes; empty, NA and nan are missing (see
    complete). InputError names line and column of anything unclear.
    """
    rows = read_rows(path)
    need(rows, f"{path} is empty")
    _, header = rows[0]
    for name in ("seed", "interval", dv):
        need(header.count(name) == 1, f"{path} needs the columns seed, interval, {dv}, once each, "
             f"and has {', '.join(header)[:99]}; rename them or choose --dv")
    value_of, line_of = {}, {}  # (seed, interval) -> the value there; the line where it stands
    for line, cells in rows[1:]:
        place = f"{path}, line {line}"
        need(len(cells) == len(header), f"{place}: {len(cells)} cells under {len(header)} columns")
        row = dict(zip(header, cells))
        key = (cell_seed(row["seed"], f"{place}, column seed"),
               cell_number(row["interval"], f"{place}, column interval"))
        need(not math.isnan(key[1]), f"{place}, column interval: a number is missing")
        need(key not in line_of, f"{place}: seed {key[0]}, interval {key[1]} is in line "
             f"{line_of.get(key)} already; delete one")
        line_of[key] = line
        value_of[key] = cell_number(row[dv], f"{place}, column {dv}")
    need(value_of, f"{path} has no row below its header; add some")
    # Labels sorted, numbers before texts; a pair that has no row is missing.
    seeds = sorted({seed for seed, _ in value_of}, key=lambda seed: (isinstance(seed, str), seed))
    intervals = sorted({interval for _, interval in value_of})
    Y = np.full((len(seeds), len(intervals)), math.nan)
    for (seed, interval), value in value_of.items():
        Y[seeds.index(seed), intervals.index(interval)] = value
    return complete(Y, seeds, intervals)

def complete(Y, seeds, intervals):
    """Leave out what is missing (nan): an interval that no seed has, then every seed with a gap.
    Y (n, k), labels -> Y, seeds, intervals, notes. InputError if fewer than 2 are left.
    """
    missing = np.isnan(Y)
    measured = np.flatnonzero(~missing.all(axis=0))
    whole = np.flatnonzero(~missing[:, measured].any(axis=1))
    notes = []
    for j in np.flatnonzero(missing.all(axis=0)):
        notes.append(f"interval {intervals[j]} is missing for every seed: dropped")
    for i, gaps in enumerate(missing[:, measured]):
        if gaps.any():
            where = ", ".join(str(intervals[j]) for j in measured[gaps])
            notes.append(f"seed {seeds[i]} has no value at interval {where}: dropped")
    need(len(whole) >= 2 and len(measured) >= 2, "; ".join(
        ["fewer than 2 complete seeds or intervals are left: add some", *notes]))
    return (Y[np.ix_(whole, measured)], [seeds[i] for i in whole],
            [intervals[j] for j in measured], notes)

def for_json(x):
    """Dataclasses and arrays as dicts and lists for strict JSON: nan is null, inf "Infinity"."""
    if is_dataclass(x):
        x = vars(x)
    if isinstance(x, np.ndarray):
        x = x.tolist()
    if isinstance(x, dict):
        return {key: for_json(value) for key, value in x.items()}
    if isinstance(x, list):
        return [for_json(value) for value in x]
    if isinstance(x, float) and not math.isfinite(x):
        return None if math.isnan(x) else str(x).replace("inf", "Infinity")
    return x
