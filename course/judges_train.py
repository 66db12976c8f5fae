"""The judges of what changes in train.py: exercise 5, and 19, which changes model.py too."""
import contextlib, copy, math, tempfile
from dataclasses import asdict, fields
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

import model, train
from course.judges_model import draw_tokens, enlarge, loss_by_formula, same_texts
from course.sheet import ROOT, alike, ask_turn, finished_run, short
from support.files import need, read_json

# The settings that the judges train with: windows of 16 tokens, 4 in a step, 40 steps.
SMOKE = {"preset": "smoke", **train.PRESETS["smoke"]}

def option(name, value):
    """The setting to which `--name value` leads on the command line."""
    parser = train.settings_parser("")
    args = parser.parse_args(["--preset", "smoke", f"--{name}", str(value)])
    return getattr(train.config_from(args)[0], name)

def trained(config, ids, report=lambda *news: None, out=None):
    """column -> values of one seed, without the times. ids: (700,), a text without any sense."""
    text = train.Text(train=ids[:500], valid=ids[500:], target_bytes=300)
    with contextlib.ExitStack() as stack:
        out = out or stack.enter_context(tempfile.TemporaryDirectory())
        rows = train.train_seed(config, 101, text, Path(out), report)
    columns = set(rows[0]) - {"tokens_per_second", "elapsed_seconds"}
    return {column: [row[column] for row in rows] for column in columns}

SCHEDULES = ["cosine", "constant", "warmup"]

def rate(schedule, tokens, settings):
    """What exercise 5 asks for, in its own words."""
    peak, final = settings["peak_lr"], settings["final_lr"]
    warmup, decay = settings["warmup_tokens"], settings["decay_tokens"]
    if schedule == "constant":
        return peak
    if tokens < warmup:
        return peak * tokens / warmup
    if schedule == "warmup":
        return peak
    turn = min(1, (tokens - warmup) / (decay - warmup)) * math.pi / 2
    return final + (peak - final) * math.cos(turn) ** 2

def judge_5(sheet):
    """A learning rate that stays constant (a setting `schedule` in train.py)."""
    rates_of_schedules(sheet)
    words = ["", "Constant", "linear", "warm-up", "none", "cosine ", "warmup+cosine", None, 1]
    for field in fields(train.StudyConfig):
        if field.name == "schedule":  # a fourth word among the student's own choices
            words += set(field.metadata.get("choices") or []) - set(SCHEDULES)
    sheet.refuses("any other word is refused", lambda word: train.StudyConfig(schedule=word), words)
    sheet.cases("--schedule on the command line", option, [(("schedule", "warmup"), "warmup")])
    rates_of_a_training(sheet)
    # The runs, and two numbers that their reports show.
    for word in ("constant", "warmup"):
        means = finished_run(sheet, word, schedule=word)
        if means is None:
            continue
        config = read_json(ROOT / "runs" / word / "config.json")
        rates = np.array([rate(word, tokens, config) for tokens in means["tokens_seen"]])
        sheet.line(alike(means["learning_rate"], rates, 1e-6), "it was trained by those rates",
                   f"expected  {short(rates)}", f"but came  {short(means['learning_rate'])}")
        ask_turn(sheet, word, means)

def rates_of_schedules(sheet):
    """A line for each schedule: its rates, with any settings."""
    def learning_rate(schedule, tokens, settings):
        config = train.StudyConfig(**SMOKE | settings | schedule)
        before = asdict(config)
        came = train.learning_rate(tokens, config)
        need(asdict(config) == before, "learning_rate changes the settings")
        return came

    rng = sheet.rng
    for schedule in SCHEDULES:
        cases = []
        for _ in range(200):
            peak = 10 ** rng.uniform(-5, -1)
            warmup, decay = rng.integers(3000), rng.integers(3000, 9000)
            settings = {"peak_lr": peak, "final_lr": peak * rng.uniform(),
                        "warmup_tokens": int(warmup), "decay_tokens": int(decay)}
            # Above all the places where one part of a schedule ends and the next begins.
            tokens = int(rng.choice([0, 1, warmup, decay, rng.integers(10**4)]))
            named = {"schedule": schedule}
            if schedule == "cosine" and rng.integers(2):
                named = {}  # it is the default
            cases.append(((named, tokens, settings), rate(schedule, tokens, settings)))
        sheet.cases(f"the rates of {schedule!r}", learning_rate, cases, 1e-9)

def rates_of_a_training(sheet):
    """A line: what the optimizer is told at every step of a real training."""
    def rates_used(schedule):
        used, step = [], torch.optim.AdamW.step

        def spy(optimizer, *more, **named):
            used.append(optimizer.param_groups[0]["lr"])
            return step(optimizer, *more, **named)

        with patch.object(torch.optim.AdamW, "step", spy):
            trained(train.StudyConfig(**SMOKE, schedule=schedule), np.arange(700) % 300)
        return used

    config = train.StudyConfig(**SMOKE)
    tokens_seen = range(0, config.total_tokens, config.tokens_per_step)
    cases = []
    for word in ("constant", "warmup"):
        cases.append(((word,), [rate(word, tokens, asdict(config)) for tokens in tokens_seen]))
    sheet.cases("a seed is trained by them", rates_used, cases, 1e-9)

# Losses of seed 101 on fixed ids at intervals 1, 4, 7 and 10, from the code without dropout.
BEFORE_DROPOUT = {"train_loss": [5.700763, 5.313504, 5.029814, 4.876825],
                  "val_loss": [5.658364, 5.276428, 5.045706, 4.964780]}

def judge_19(sheet):
    """Dropout (a setting in train.py, and Block in model.py)."""
    defaults = [getattr(each(), "dropout", None) for each in (train.StudyConfig, model.ModelConfig)]
    sheet.line(defaults == [0, 0], "StudyConfig and ModelConfig have `dropout`, 0 by default",
               f"but it is {defaults[0]} and {defaults[1]}")
    if None in defaults:
        return
    share = round(float(sheet.rng.uniform(0.2, 0.6)), 2)
    sheet.cases("--dropout on the command line", option, [(("dropout", share), share)])
    sheet.refuses("less than 0 and more than 0.9 are refused",
                  lambda value: train.StudyConfig(dropout=value), [-0.1, 0.95, 1.0, math.nan])
    config = train.StudyConfig(**SMOKE, dropout=share)
    without = train.StudyConfig(**SMOKE, dropout=0.0)
    network = enlarge(model.Llama(config.model), sheet.rng)
    what_blocks_lose(sheet, network, share)
    nothing_left_out(sheet, network, config)
    nothing_at_zero(sheet, without)
    broken_off_and_continued(sheet, config, without)
    means = finished_run(sheet, "dropout", dropout=0.2)
    if means is not None:
        ask_turn(sheet, "dropout", means)

def what_blocks_lose(sheet, network, share):
    """Two lines: what attention and feed-forward add in training, next to what they add else."""
    x = 0.01 * torch.randn(100, network.config.block_size, network.config.n_embd)
    # With the last matrix of one part silenced, all that a block adds to x comes from the other.
    other = {"attention": "feed_forward.down", "feed_forward": "attention.output"}
    for part, silenced in other.items():
        block = copy.deepcopy(network.blocks[0]).requires_grad_(False)
        block.get_submodule(silenced).weight.zero_()
        # (x is small, so that little is lost when it is subtracted again.)
        added = block.eval()(x, network.table) - x
        ratio = (block.train()(x, network.table) - x) / added
        gone = ratio.abs() < 1e-3
        kept = (ratio - 1 / (1 - share)).abs() < 1e-3
        lost = gone.double().mean().item()
        right = (gone | kept).all() and abs(lost - share) < 0.02
        sheet.line(right, f"dropout={share}: {part} loses this share, and the rest is scaled",
                   f"expected {share:.0%} times 0 and {1 - share:.0%} times {1 / (1 - share):.3f}",
                   f"but came {lost:.1%} and {kept.double().mean():.1%}; ratios are, for example,",
                   short(ratio[0, 0, :6]))

def nothing_left_out(sheet, network, config):
    """Three lines: evaluate and generate in the midst of training."""
    def evaluate(ids):
        network.train()
        return train.evaluate(network, ids, config)

    ids = sheet.rng.integers(300, size=200)
    windows = torch.from_numpy(ids[: 8 * 16 + 1]).unfold(0, 17, 16)  # 8 of 16 tokens, and a target
    with torch.no_grad():
        expected = loss_by_formula(network, windows[:, :-1], windows[:, 1:]).mean(1)
    sheet.cases("evaluate leaves nothing out", evaluate, [((ids,), expected)], 1e-5)
    after_evaluate = network.training
    network.train()
    same_texts(sheet, network, "generate leaves nothing out", 3, 20)
    sheet.line(after_evaluate and network.training, "after each the model trains on with dropout",
               f"after evaluate: {after_evaluate}, after generate: {network.training}")

def nothing_at_zero(sheet, config):
    """Two lines: without dropout all is as it was."""
    network = model.Llama(config.model).train()
    tokens, chance = draw_tokens(sheet.rng, network, 2, 16), torch.get_rng_state()
    with torch.no_grad():
        same = torch.equal(network(tokens)[0], network.eval()(tokens)[0])
    untouched = torch.equal(torch.get_rng_state(), chance)
    sheet.line(same and untouched, "dropout=0: not a bit changes, and no chance is drawn",
               f"the same scores in training: {same}; chance as before: {untouched}")

    def train_seed_101(ids):
        columns = trained(config, ids)
        return {name: columns[name][1::3] for name in BEFORE_DROPOUT}

    # Numbers that need no text and no tokenizer, so that these losses stand as long as the loop.
    ids = np.arange(700) ** 2 % 293
    sheet.cases("dropout=0: seed 101 has the losses that it had before", train_seed_101,
                [((ids,), BEFORE_DROPOUT)], 1e-5)

class PowerCut(Exception):
    """What ends a training in the midst of an interval."""

def broken_off_and_continued(sheet, config, without):
    """Two lines: dropout acts to the end, and comes out of a break as it went in."""
    ids = sheet.rng.integers(300, size=700)
    whole = trained(config, ids)
    pairs = list(zip(whole["train_loss"], trained(without, ids)["train_loss"]))[1:]
    sheet.line(all(a != b for a, b in pairs), "the training loss of every interval is another",
               f"with and without: {short(pairs)}")

    def report(seed, tokens_seen, row):
        if tokens_seen > 1500 and row is None:
            raise PowerCut

    def broken_off(ids):
        with tempfile.TemporaryDirectory() as out:
            with contextlib.suppress(PowerCut):
                trained(config, ids, report, out)
            # The process that goes on has drawn other numbers.
            torch.manual_seed(int(sheet.rng.integers(2**31)))
            return trained(config, ids, out=out)

    sheet.cases("broken off and continued it comes to the same end, bit for bit", broken_off,
                [((ids,), whole)])
