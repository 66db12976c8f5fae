"""What a judge writes on: a line for each thing that an exercise asks, and the reasons below it.

A student sees what was expected, what came, for which input, and where an error happened: never
the judge's own inside alone. A check that fails, or stops with an error, stops no other.
"""
import copy, sys, traceback
from pathlib import Path

import numpy as np
import torch

from support.files import read_json
from support.tables import read_table

ROOT = Path(__file__).resolve().parent.parent

class Sheet:
    """The lines of one judgement."""

    def __init__(self, answers=()):
        self.answers = list(answers)  # to the judge's questions, from the command line
        self.rng = np.random.default_rng()  # its own: a student's seed changes nothing here
        self.failed = 0

    def line(self, right, what, *why):
        """Print one line, and below a NOT the reasons. Returns whether it is right."""
        print("  ok   " if right else "  NOT  ", what, sep="", flush=True)
        if not right:
            self.failed += 1
            for reason in why:
                print("         " + str(reason).replace("\n", "\n         "))
        return bool(right)

    def cases(self, what, call, cases, tolerance=0.0):
        """One line for all [(given, expected)]: call(*given) must be what is expected, or raise it,
        and leave what is given (a copy) as it is. Returns whether all are right."""
        for given, expected in cases:
            mine = copy.deepcopy(given)
            try:
                came = call(*mine)
                why = f"but came  {short(came)}"
                if alike(came, expected, tolerance):
                    if alike(mine, given):
                        continue
                    why = f"and came, but what was given is now {short(mine)}"
            except (Exception, SystemExit) as error:
                if type(error) is expected:
                    continue
                why = f"but       {where(error)}"
            return self.line(False, what, f"given     {short(given)}",
                             f"expected  {short(expected)}", why)
        return self.line(True, what)

    def ask(self, question):
        """An answer: the next one from the command line, else typed or piped; "" if none comes."""
        if self.answers:
            return self.answers.pop(0)
        print(f"  {question}", flush=True)
        return sys.stdin.readline().strip()

    def number(self, question, expected, tolerance):
        """A line for a question whose answer is a number. (A NOT does not tell it: then the next
        try would be no answer either.)"""
        answer = self.ask(question)
        try:
            came = float(answer.replace(",", "."))
        except ValueError:
            came = np.nan
        self.line(abs(came - expected) <= tolerance, question, f"expected the right number, but "
                  f"came {answer!r}; answers can also follow the exercise's number")

def alike(came, expected, tolerance=0.0):
    """Whether two results agree: numbers to a tolerance relative to the largest one expected."""
    if isinstance(expected, (list, tuple)):
        pairs = zip(came, expected)
        return len(came) == len(expected) and all(alike(*pair, tolerance) for pair in pairs)
    if not isinstance(expected, (int, float, np.ndarray, torch.Tensor)):
        return came == expected
    came, expected = np.asarray(came, dtype=float), np.asarray(expected, dtype=float)
    if came.shape != expected.shape:
        return False
    allowed = tolerance * np.abs(expected[np.isfinite(expected)]).max(initial=0)
    return np.allclose(came, expected, rtol=0, atol=allowed, equal_nan=True)

def short(x):
    """A value as a line for a reader."""
    if isinstance(x, (tuple, list)) and x:
        text = ", ".join(map(short, x))
    elif isinstance(x, (np.ndarray, np.generic, torch.Tensor)):
        text = np.array2string(np.asarray(x), precision=6, threshold=40, edgeitems=6)
    else:
        text = repr(x)
    return text if len(text) < 500 else text[:500] + " and so on"

def where(error):
    """An error for a student: what, and the last line of a chapter that led to it."""
    text = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path.parent == ROOT:
            return f"{text}\n  in {path.name}, line {frame.lineno}, {frame.name}: {frame.line}"
    return text

# ---------------------------------------------------------------- what a run has left behind

def finished_run(sheet, name, **settings):
    """A line: runs/NAME is a whole run of classroom with these settings. Returns whether it is."""
    asked = {"preset": "classroom", **settings}

    def found(folder):
        config = read_json(folder / "config.json")
        losses = read_table(folder / "metrics.csv")[0]
        n_intervals = config["total_tokens"] // config["interval_tokens"] + 1
        whole = losses.shape == (len(config["seeds"]), n_intervals)
        return {key: config.get(key) for key in asked}, whole

    return sheet.cases(f"runs/{name} has these settings, and is finished", found,
                       [((ROOT / "runs" / name,), (asked, True))])

def run_means(name, column):
    """Means over the seeds of runs/NAME, one for each interval."""
    return read_table(ROOT / "runs" / name / "metrics.csv", column)[0].mean(axis=0)

def ask_turn(sheet, name):
    """Two questions that whoever has looked at the run's report can answer."""
    loss = run_means(name, "val_loss")
    lowest = int(loss.argmin())
    sheet.number(f"runs/{name}: the interval of the lowest mean validation loss?", lowest, 0)
    sheet.number(f"runs/{name}: by how many nats is it higher at the end, to two decimals?",
                 loss[-1] - loss[lowest], 0.0051)
