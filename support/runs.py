"""What a run folder can hold, read with a sentence for everything that is damaged.

Rows of seed and interval become matrices; a run that goes on is read as far as all its seeds are.
"""
from collections import Counter

import numpy as np

from support.files import need, read_json, read_records
from support.tables import cell_number

class Metrics:
    """The rows of a metrics.csv, dicts of column -> text, as matrices of n seeds by k intervals."""

    def __init__(self, rows, folder):
        self.damaged = f"a metrics.csv in {folder} is damaged"
        self.row_of = {}  # (seed, interval) -> row
        for row in rows:
            # (cell_number makes an int of what is whole.)
            place = tuple(cell_number(row.get(name, ""), self.damaged)
                          for name in ("seed", "interval"))
            need(place not in self.row_of and all(isinstance(x, int) for x in place),
                 f"{self.damaged}: seed and interval {place} come twice, or are no whole numbers")
            self.row_of[place] = row
        self.seeds = sorted({seed for seed, _ in self.row_of})
        # Of a run that goes on, only the intervals that all its seeds have reached.
        reached = Counter(interval for _, interval in self.row_of)
        self.intervals = sorted(t for t in reached if reached[t] == len(self.seeds))
        need(len(self.intervals) > 1, f"{self.damaged}: its seeds share fewer than 2 intervals")

    def matrix(self, column):
        """(n, k), one row a seed, one column an interval; nan where it has no number."""
        Y = np.full((len(self.seeds), len(self.intervals)), np.nan)
        for i, seed in enumerate(self.seeds):
            for j, interval in enumerate(self.intervals):
                cell = self.row_of[seed, interval].get(column, "")
                Y[i, j] = cell_number(cell, f"{self.damaged}, column {column}")
        return Y

def read_metrics(folder):
    """The Metrics of a run folder: of metrics.csv, or of a run that goes on those of its seeds."""
    paths = sorted(folder.glob("metrics.csv")) or sorted(folder.glob("seed_*/metrics.csv"))
    need(paths, f"{folder} has no metrics.csv, its own or of a seed; give the folder of a run")
    return Metrics([row for path in paths for row in read_records(path)], folder)

def read_window_losses(folder, seeds, intervals, loss):
    """(n, k, n_windows) of the seeds' val_windows.npy, whose means are `loss` (n, k); None if a
    seed has none."""
    paths = [folder / f"seed_{seed}" / "val_windows.npy" for seed in seeds]
    if not all(path.exists() for path in paths):
        return None
    # Of each seed the measured intervals, in float64: means of float32 would lose digits.
    try:
        every = [np.load(path)[intervals] for path in paths]
        losses = np.array(every, dtype=np.float64)
        right = np.allclose(losses.mean(axis=-1), loss, rtol=1e-5)
    except Exception:  # bytes that come from anywhere can raise almost anything
        right = False
    need(right, f"val_windows.npy in {folder} are damaged, or not of this metrics.csv")
    return losses

def read_settings(folder):
    """The settings of a folder's config.json, {} if there is none."""
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    need(isinstance(config, dict) and isinstance(config.get("seeds", []), list),
         f"{path} is damaged: it holds no settings")
    return config

def why_left_out(seed, folder):
    """Why a seed came to an end that it would come to again (left_out.txt), or None."""
    path = folder / f"seed_{seed}" / "left_out.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None

def left_out(folder, config, seeds):
    """A sentence about each seed that config.json asks for and that is not among `seeds`."""
    notes = []
    for seed in config.get("seeds", []):
        if seed not in seeds:
            why = why_left_out(seed, folder) or "it is not complete"
            notes.append(f"Seed {seed} is left out: {why}")
    return notes
