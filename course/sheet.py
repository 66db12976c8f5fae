"""What a judge writes on: a line for each thing that an exercise asks, and the reasons below it.

A student sees what was expected, what came, for which input, and where an error happened: never
the judge's own inside alone. A check that fails, or stops with an error, stops no other.
"""
import copy, sys, traceback
from pathlib import Path

import numpy as np
import torch

from support.files import InputError, read_json, read_records

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
        """One line for all [(given, expected)]: call(*given) must be what is expected.

        The student's function gets copies, and must leave them as they are.
        """
        for given, expected in cases:
            mine = copy.deepcopy(given)
            why = [f"given     {short(given)}", f"expected  {short(expected)}"]
            try:
                came = call(*mine)
                if not alike(came, expected, tolerance):
                    return self.line(False, what, *why, f"but came  {short(came)}")
            except (Exception, SystemExit) as error:
                return self.line(False, what, *why, f"but       {where(error)}")
            if not alike(mine, given):
                return self.line(False, what, "the result is right, but the input was changed",
                                 why[0], f"and is now {short(mine)}")
        return self.line(True, what)

    def refuses(self, what, call, values):
        """One line: call(value) must raise an InputError, a sentence for the user, every time."""
        for value in values:
            try:
                call(value)
                return self.line(False, what, f"{value!r} was taken")
            except InputError:
                pass
            except Exception as error:
                return self.line(False, what, f"{value!r}: expected an InputError, but came",
                                 where(error))
        return self.line(True, what)

    def ask(self, question):
        """An answer: the next one from the command line, else typed or piped; "" if none comes."""
        if self.answers:
            return self.answers.pop(0)
        print(f"  {question} ", end="", flush=True)
        answer = sys.stdin.readline().strip()
        if not sys.stdin.isatty():
            print(answer)  # a terminal has shown it already
        return answer

    def number(self, question, expected, tolerance):
        """A line for a question whose answer is a number. (A NOT does not tell it: then the next
        try would be no answer either.)"""
        answer = self.ask(question)
        came = f"{answer} is not right"
        try:
            right = abs(float(answer.replace(",", ".")) - expected) <= tolerance
        except ValueError:
            right, came = False, "expected a number; answers can also follow the exercise's number"
        return self.line(right, question, came)

def alike(came, expected, tolerance=0.0):
    """Whether two results agree: numbers to a tolerance relative to the largest one expected."""
    if expected is None or isinstance(expected, (str, bool)):
        return came == expected and type(came) is type(expected)
    if isinstance(expected, dict):
        return came.keys() == expected.keys() and all(
            alike(came[key], expected[key], tolerance) for key in expected)
    if isinstance(expected, (list, tuple)):
        pairs = list(zip(came, expected))
        return len(came) == len(expected) == sum(alike(*pair, tolerance) for pair in pairs)
    came, expected = np.asarray(came, dtype=float), np.asarray(expected, dtype=float)
    if came.shape != expected.shape:
        return False
    allowed = tolerance * np.abs(expected[np.isfinite(expected)]).max(initial=0)
    return np.allclose(came, expected, rtol=0, atol=allowed, equal_nan=True)

def short(x):
    """A value as a line for a reader."""
    if isinstance(x, torch.Tensor):
        x = x.detach().numpy()
    if isinstance(x, (np.ndarray, np.generic)):
        return np.array2string(np.asarray(x), precision=6, threshold=40, edgeitems=6)
    if isinstance(x, (tuple, list)) and x and not isinstance(x[0], str):
        return ", ".join(short(each) for each in x)
    text = repr(x)
    return text if len(text) < 300 else text[:300] + " and so on"

def where(error):
    """An error for a student: what, and the last line of a chapter that led to it."""
    text = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path.parent in (ROOT, ROOT / "support"):
            return f"{text}\n  in {path.name}, line {frame.lineno}, {frame.name}: {frame.line}"
    return text

# ---------------------------------------------------------------- what a run has left behind

def finished_run(sheet, name, **settings):
    """A line: runs/NAME is whole, and of classroom. Returns column -> means over seeds, or None."""
    words = "".join(f", {key} {value}" for key, value in settings.items())
    what = f"runs/{name} is a finished run of classroom{words}"
    try:
        config = read_json(ROOT / "runs" / name / "config.json")
        rows = read_records(ROOT / "runs" / name / "metrics.csv")
    except InputError as error:
        sheet.line(False, what, error)
        return None
    found = {key: config.get(key) for key in ("preset", *settings)}
    expected = len(config["seeds"]) * (config["total_tokens"] // config["interval_tokens"] + 1)
    right = found == {"preset": "classroom", **settings} and len(rows) == expected
    if not sheet.line(right, what, f"it has {len(rows)} of {expected} measurements, and {found}"):
        return None
    means = {}
    for column in ("tokens_seen", "val_loss", "bits_per_byte", "learning_rate"):
        by_interval = {}
        for row in rows:
            by_interval.setdefault(int(row["interval"]), []).append(float(row[column]))
        means[column] = np.array([np.mean(by_interval[i]) for i in sorted(by_interval)])
    return means

def ask_turn(sheet, name, means):
    """Two questions that whoever has looked at the run's report can answer."""
    loss = means["val_loss"]
    lowest = int(loss.argmin())
    sheet.number(f"runs/{name}: the interval of the lowest mean validation loss?", lowest, 0)
    sheet.number(f"runs/{name}: by how many nats is it higher at the end, to two decimals?",
                 loss[-1] - loss[lowest], 0.0051)
