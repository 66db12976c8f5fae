"""The judges of the exercises: what is right, and what not yet.

    python test_all.py exercise 4            the same as  python -m course.judge 4
    python -m course.judge 5 9 0.12 8 0.34   with the answers to its questions, where none can ask

What to do stands in the chapters, at `# EXERCISE N:`. A judge prints a line for each thing that is
asked there, "ok" or "NOT", and after NOT mostly what was expected, what came, for which input.

Three rules keep a judge honest. Its cases are drawn afresh at every call, small and large, high and
low: numbers that fit one draw fit no other. It compares with something slower that nobody would
hand in (all choices of signs, a model written out in float64), and with the student's own only
where the task is that two ways agree (19). What the text says is tried, what it leaves open is not.
"""
if __name__ == "__main__":  # so that `python course/judge.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.program import run  # first: from here on Ctrl-C prints no traceback

import sys

import train
from course.bugs import judge_11
from course.judges_model import judge_4, judge_16
from course.judges_stats import judge_8, judge_17
from course.judges_telemetry import judge_7, judge_12
from course.judges_tokenizer import judge_1, judge_10, judge_14
from course.judges_train import judge_5, judge_19
from course.sheet import Sheet, where
from support.files import need

JUDGES = {1: judge_1, 4: judge_4, 5: judge_5, 7: judge_7, 8: judge_8, 10: judge_10, 11: judge_11,
          12: judge_12, 14: judge_14, 16: judge_16, 17: judge_17, 19: judge_19}

# The ordinary tests that stay green if all is right. (In 1 some turn red until it is undone.)
TESTS = {4: "model", 5: "train run_all", 7: "telemetry", 8: "stats",
         10: "tokenizer", 12: "telemetry", 16: "model", 19: "model train run_all"}

def main(words=None):
    """Judge an exercise: its number, then perhaps the answers to its questions. Returns 0 if all of
    it is right, else 1."""
    number, *answers = (sys.argv[1:] if words is None else words) or [""]
    need(number.isdecimal(), "name an exercise by its number, such as exercise 4")
    need(number in map(str, JUDGES), f"exercise {number} has no judge; course/README.md says what "
         f"to expect. These have one: {', '.join(map(str, JUDGES))}")
    number = int(number)
    print(f"Exercise {number}. {JUDGES[number].__doc__}")
    sheet = Sheet(answers)
    train.one_thread()
    try:
        JUDGES[number](sheet)
    except Exception as error:
        sheet.line(False, "the rest could not be judged", where(error))
    if sheet.failed:
        print(f"Not done yet: {sheet.failed} NOT.")
    elif number in TESTS:
        print(f"Done. Now the ordinary tests: python test_all.py {TESTS[number]}")
    else:
        print("Done.")
    return min(sheet.failed, 1)

if __name__ == "__main__":
    run(main)
