"""The judges of the exercises: what is right, and what not yet.

    python test_all.py exercise 4            the same as  python -m course.judge 4
    python -m course.judge 5 9 0.12 8 0.34   with the answers to its questions, where none can ask

What to do stands in the chapters, at `# EXERCISE N:`. A judge prints a line for each thing that is
asked there, "ok" or "NOT", and after NOT what was expected, what came, and for which input.

Three rules keep a judge honest. Its cases are drawn afresh at every call, small and large, high and
low: numbers that fit one draw fit no other. It compares with something slower that nobody would
hand in (all subsets, all signs, a model written out in float64), never the new with itself. And
what the text says is tried, what the text leaves open is not.

sheet.py is what a judge writes on; the judges stand in judges_CHAPTER.py and bugs.py.
"""
if __name__ == "__main__":  # so that `python course/judge.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.program import run  # first: from here on Ctrl-C prints no traceback

import subprocess, sys
from unittest.mock import patch

import numpy as np
import torch

import model, stats, tokenizer, train
from course.bugs import judge_11
from course.judges_model import judge_4, judge_16
from course.judges_stats import judge_8, judge_17
from course.judges_telemetry import judge_7, judge_12
from course.judges_tokenizer import judge_1, judge_10, judge_14
from course.judges_train import judge_5, judge_19
from course.sheet import ROOT, Sheet, where
from support.files import InputError, need

# ---------------------------------------------------------------- exercise 18: from nothing

def bpe_cases(rng):
    """Texts of few letters, full of ties, and what the fast way learns from them."""
    cases = []
    for _ in range(20):
        documents = ["".join(rng.choice(list("aab bé"), 60)) for _ in range(3)]
        given = (documents, int(rng.integers(257, 290)))
        cases.append((given, tokenizer.fast_bpe(*given)))
    return cases

def rotation_cases(rng):
    """Pairs turned by any angles, here with the matrix [[cos, -sin], [sin, cos]] of each."""
    cases = []
    for _ in range(20):
        x = torch.from_numpy(rng.normal(size=(2, 5, 3, 8)))
        angle = torch.from_numpy(rng.uniform(-9, 9, (5, 4)))
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
        turned = turn.view(5, 1, 4, 2, 2) @ x.view(2, 5, 3, 4, 2, 1)
        cases.append(((x, torch.polar(torch.ones_like(angle), angle)), turned.view(x.shape)))
    return cases

def anova_cases(rng):
    """Random tables. A sum of squares is what a linear model explains less without the factor."""
    cases = []
    for _ in range(20):
        n, k = rng.integers(2, 9, 2)
        Y = (rng.normal(size=(n, k)) + rng.normal(size=(n, 1))) * 10 ** rng.uniform(-3, 3)
        subject, level = np.indices(Y.shape).reshape(2, -1)

        def unexplained(*factors):
            X = np.hstack([np.eye(factor.max() + 1)[factor] for factor in factors])
            y = Y.ravel() - Y.mean()
            return ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum()

        error = unexplained(subject, level)
        effect, subjects = unexplained(subject) - error, unexplained(level) - error
        f = effect / (k - 1) / (error / ((n - 1) * (k - 1)))
        cases.append(((Y,), (effect, subjects, error, f)))
    return cases

# function -> its chapter, its cases, and what would do the work in its place
FROM_NOTHING = {"slow_bpe": (tokenizer, bpe_cases, "fast_bpe"),
                "rotate": (model, rotation_cases, "rotary_table"),
                "rm_anova_textbook": (stats, anova_cases, "decompose")}

def judge_18(sheet):
    """One function from nothing: slow_bpe, rotate or rm_anova_textbook."""
    name = sheet.ask(f"Which one: {', '.join(FROM_NOTHING)}?")
    need(name in FROM_NOTHING, f"exercise 18 takes the name of one: {', '.join(FROM_NOTHING)}")
    chapter, draw, helper = FROM_NOTHING[name]
    cases = draw(sheet.rng)
    # The judge takes the helper away, so the function has to stand on its own.
    with patch.object(chapter, helper, None):
        sheet.cases(f"{name} is right on cases drawn afresh, on its own",
                    lambda *given: getattr(chapter, name)(*given), cases, 1e-6)
    tests = subprocess.run([sys.executable, "test_all.py", chapter.__name__], cwd=ROOT,
                           capture_output=True, encoding="utf-8", errors="replace")
    lines = tests.stdout.splitlines() or [tests.stderr.strip()[-300:]]
    sheet.line(tests.returncode == 0, f"python test_all.py {chapter.__name__}: {lines[-1]}",
               *[line for line in lines if line.startswith("FAILED")])

# ---------------------------------------------------------------- one judgement

JUDGES = {1: judge_1, 4: judge_4, 5: judge_5, 7: judge_7, 8: judge_8, 10: judge_10, 11: judge_11,
          12: judge_12, 14: judge_14, 16: judge_16, 17: judge_17, 18: judge_18, 19: judge_19}

# The ordinary tests that stay green if all is right. (In 1 some turn red until it is undone.)
TESTS = {4: "model", 5: "train run_all", 7: "telemetry", 8: "stats",
         10: "tokenizer", 12: "telemetry", 16: "model", 19: "model train run_all"}

def judge(number, answers=()):
    """Judge one exercise. Returns 0 if all of it is right, else 1."""
    need(1 <= number <= 20, "exercises go from 1 to 20")
    need(number in JUDGES, f"exercise {number} has no judge; course/README.md says what to expect. "
         f"These have one: {', '.join(map(str, JUDGES))}")
    print(f"Exercise {number}. {JUDGES[number].__doc__}")
    sheet = Sheet(answers)
    train.one_thread()
    try:
        JUDGES[number](sheet)
    except InputError:
        raise  # an answer that is none: one sentence for the user
    except Exception as error:
        sheet.line(False, "the rest could not be judged", where(error))
    if sheet.failed:
        print(f"Not done yet: {sheet.failed} NOT.")
        return 1
    if number in TESTS:
        print(f"Done. Now the ordinary tests: python test_all.py {TESTS[number]}")
    else:
        print("Done.")
    return 0

def main(words=None):
    """words: the number of an exercise, and perhaps the answers to its questions."""
    words = sys.argv[1:] if words is None else words
    need(words and words[0].isdecimal(), "name an exercise by its number, such as exercise 4")
    return judge(int(words[0]), words[1:])

if __name__ == "__main__":
    run(main)
