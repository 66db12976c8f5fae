"""Exercise 11: six bugs that a tired programmer makes, and the judge of tests that catch them."""
import contextlib, importlib, io
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

import stats, telemetry, tokenizer, train
from course.sheet import where

# EXERCISE 11: write tests into test_all.py, functions exercise_11_NAME(), that catch the six bugs:
# - each passes on the true code, however often it runs;
# - every bug makes the assertion of at least one of them fail, every time that it is there;
# - they call the functions by their chapter (train.evaluate), and know nothing of this file.
# Each runs some forty times, so keep it under a second. (test_all.py has tests against these bugs
# already. Write yours before you look.)

def peeking(true):
    def attention(q, k, v, *more, is_causal=False, **named):
        if is_causal:
            named["attn_mask"] = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril(1)
        return true(q, k, v, *more, **named)
    return attention

def ties_to_the_last(true):
    def largest(counts, key, default):
        return max(counts, key=lambda pair: (counts[pair], pair), default=default)

    def bpe(documents, vocab_size):
        with patch.object(tokenizer, "min", largest, create=True):  # slow_bpe's choice, turned
            return tokenizer.slow_bpe(documents, vocab_size)
    return bpe

def by_chance(true):
    def evaluate(model, ids, config):
        return true(model, np.roll(ids, -int(torch.randint(len(ids), ()))), config)
    return evaluate

def without_decay(true):
    return lambda model, config: true(model, replace(config, weight_decay=0.0))

def population_sd(true):
    def derive(val_loss, volatility_window=5, **more):
        m = true(val_loss, volatility_window, **more)
        n = np.clip(np.arange(np.shape(val_loss)[-1]), 1, volatility_window)
        return m | {"volatility": m["volatility"] * np.sqrt((n - 1) / n)}
    return derive

def times_levels(true):
    def pairwise_tests(Y, pairs=None):
        tests = true(Y, pairs)
        return replace(tests, p_adjusted=np.minimum(1, tests.p * np.shape(Y)[1]))
    return pairwise_tests

BUGS = [  # what is wrong, whose function, its name, how to have it wrong
    ("attention sees one token of the future", F, "scaled_dot_product_attention", peeking),
    ("of equal counts the larger pair is merged", tokenizer, "fast_bpe", ties_to_the_last),
    ("evaluation draws windows, and from training's chance", train, "evaluate", by_chance),
    ("weight decay is left out", train, "make_optimizer", without_decay),
    ("volatility divides by n", telemetry, "derive", population_sd),
    ("Bonferroni counts the levels, not the pairs", stats, "pairwise_tests", times_levels),
]

def as_it_is(true):
    return true

def in_another_skin(true):
    """Without a bug. A test that fails on it looks at more than results."""
    return lambda *given, **named: true(*given, **named)

def fails(test, chapter, name, bug):
    """"" if the test passes with this bug in place; else why its assertion failed. Any other error
    is the test's own and goes on to the judge."""
    planted = patch.object(chapter, name, bug(getattr(chapter, name)))
    with planted, contextlib.redirect_stdout(io.StringIO()):
        try:
            test()
        except AssertionError as error:
            return where(error)
    return ""

def caught_by(test, rng):
    """The bugs that a test catches: on which it fails both times that they come. True code comes
    before, once or twice, so that no counting of calls helps; AssertionError if it fails on that.
    """
    caught = {what for what, *_ in BUGS}
    for i in rng.permutation(2 * len(BUGS)):
        what, chapter, name, bug = BUGS[i // 2]
        for no_bug in [in_another_skin, as_it_is, as_it_is][: rng.integers(2, 4)]:
            reason = fails(test, chapter, name, no_bug)
            if reason:
                raise AssertionError(f"it fails on the true {name}, {no_bug.__name__}: {reason}")
        if not fails(test, chapter, name, bug):
            caught.discard(what)
    return caught

def judge_11(sheet):
    """Tests that catch six planted bugs (test_all.py)."""
    tests = vars(importlib.import_module("test_all"))
    own = {name: test for name, test in tests.items() if name.startswith("exercise_11_")}
    sheet.line(own, "test_all.py has functions named exercise_11_NAME", "there is none")
    caught = {what: [] for what, *_ in BUGS}
    for name, test in own.items():
        try:
            for what in caught_by(test, sheet.rng):
                caught[what].append(name)
            sheet.line(True, f"{name} passes on the true code, before every bug")
        except Exception as error:
            sheet.line(False, f"{name}: so it catches nothing", where(error))
    for what, names in caught.items():
        sheet.line(names, f"{what}: {', '.join(names) or 'not caught'}")
