"""The judges of what changes in train.py: exercise 5, and 19, which changes model.py too."""
import contextlib, copy, math, tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import model, train
from course.judges_model import draw_tokens, enlarge, loss_by_formula, same_texts
from course.sheet import ROOT, ask_turn, finished_run, run_means, short
from support.files import InputError, need, read_json

# The settings that the judges train with: windows of 16 tokens, 4 in a step, 40 steps.
SMOKE = {"preset": "smoke", **train.PRESETS["smoke"]}

def option(name, value):
    """The setting to which `--name value` leads on the command line. InputError if to none."""
    parser = train.settings_parser("")
    args = parser.parse_args(["--preset", "smoke", f"--{name}", str(value)])
    return getattr(train.config_from(args)[0], name)

# A text that needs no stories and no tokenizer, so that losses on it stand as long as the loop.
IDS = np.arange(700) ** 2 % 293

def trained(config, tell=lambda *news: None, out=None):
    """The training and validation losses of seed 101 on IDS, (11, 2)."""
    text = train.Text(train=IDS[:500], valid=IDS[500:], target_bytes=300)
    with tempfile.TemporaryDirectory() as own:
        rows = train.train_seed(config, 101, text, Path(out or own), tell)
    return np.array([[row["train_loss"], row["val_loss"]] for row in rows])

def rate(tokens, settings):
    """What exercise 5 asks for, in its own words."""
    schedule = settings["schedule"]
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

def draw_rate(rng, schedule):
    """((tokens, settings), the rate there)."""
    peak = 10 ** rng.uniform(-5, -1)
    warmup, decay = int(rng.integers(3000)), int(rng.integers(3000, 9000))
    settings = {"schedule": schedule, "peak_lr": peak, "final_lr": peak * rng.uniform(),
                "warmup_tokens": warmup, "decay_tokens": decay}
    # Above all the places where one part of a schedule ends and the next begins.
    tokens = int(rng.choice([0, 1, warmup, decay, rng.integers(10**4)]))
    expected = rate(tokens, settings)
    if schedule == "cosine" and rng.integers(2):
        del settings["schedule"]  # it is the default
    return (tokens, settings), expected

def rates_used(schedule):
    """What the optimizer is told at every step of a training."""
    def note(optimizer, *more):
        used.append(optimizer.param_groups[0]["lr"])

    used = []
    with register_optimizer_step_pre_hook(note):
        trained(train.StudyConfig(**SMOKE, schedule=schedule))
    return np.array(used)

def judge_5(sheet):
    """A learning rate that stays constant (a setting `schedule` in train.py)."""
    def learning_rate(tokens, settings):
        config = train.StudyConfig(**SMOKE | settings)
        came = train.learning_rate(tokens, config)
        need(config == train.StudyConfig(**SMOKE | settings), "it changes the settings")
        return came

    schedules = ["cosine", "constant", "warmup"]
    for word in schedules:
        cases = [draw_rate(sheet.rng, word) for _ in range(200)]
        sheet.cases(f"the rates of {word!r}", learning_rate, cases, 1e-9)
    others = {"", "Constant", "linear", "warm-up", "none", "cosine ", "warmup+cosine", "1"}
    for field in fields(train.StudyConfig):
        if field.name == "schedule":  # perhaps a fourth word, among the student's own choices
            others |= set(field.metadata.get("choices") or []) - set(schedules)
    sheet.cases("--schedule on the command line", option,
                [(("schedule", word), word) for word in schedules])
    sheet.cases("any other word is refused", option,
                [(("schedule", word), InputError) for word in others])
    for word in ("constant", "warmup"):
        config = train.StudyConfig(**SMOKE)
        settings = {**vars(config), "schedule": word}
        starts = range(0, config.total_tokens, config.tokens_per_step)
        rates = [rate(tokens, settings) for tokens in starts]
        sheet.cases(f"a seed is trained by the rates of {word!r}", rates_used,
                    [((word,), np.array(rates))], 1e-9)
        # The run, and two numbers that its report shows.
        if finished_run(sheet, word, schedule=word):
            config = read_json(ROOT / "runs" / word / "config.json")
            rates = [rate(tokens, config) for tokens in run_means(word, "tokens_seen")]
            sheet.cases("it was trained by those rates", run_means,
                        [((word, "learning_rate"), np.array(rates))], 1e-6)
            ask_turn(sheet, word)

# Losses of seed 101 on IDS at intervals 1, 4, 7 and 10, from the code without dropout.
BEFORE_DROPOUT = np.array([[5.700763, 5.658364], [5.313504, 5.276428],
                           [5.029814, 5.045706], [4.876825, 4.964780]])

def judge_19(sheet):
    """Dropout (a setting in train.py, and Block in model.py)."""
    sheet.cases("StudyConfig and ModelConfig have `dropout`, 0 by default",
                lambda: [train.StudyConfig().dropout, model.ModelConfig().dropout],
                [((), [0, 0])])
    share = round(float(sheet.rng.uniform(0.2, 0.6)), 2)
    sheet.cases("--dropout on the command line", option, [(("dropout", share), share)])
    sheet.cases("less than 0 and more than 0.9 are refused", option,
                [(("dropout", value), InputError) for value in (-0.1, 0.95, 1.0, math.nan)])
    config = train.StudyConfig(**SMOKE, dropout=share)
    network = enlarge(model.Llama(config.model), sheet.rng)
    what_blocks_lose(sheet, network, share)
    nothing_left_out(sheet, network, config)
    nothing_at_zero(sheet)
    broken_off_and_continued(sheet, config)
    if finished_run(sheet, "dropout", dropout=0.2):
        ask_turn(sheet, "dropout")

def what_blocks_lose(sheet, network, share):
    """A line: what attention and feed-forward add in training, over what they add else."""
    config = network.config
    x = torch.randn(400, config.block_size, config.n_embd, dtype=torch.float64)
    table = network.table.to(torch.complex128)

    @torch.no_grad()
    def factors(part, silenced):
        # With the last matrix of the other part silenced, all that a block adds is from this one.
        block = copy.deepcopy(network.blocks[0]).double()
        block.get_submodule(silenced).weight.zero_()
        added = block.eval()(x, table) - x
        ratio = (block.train()(x, table) - x) / added
        values, counts = ratio.round(decimals=6).unique(return_counts=True)
        return values, counts / counts.sum()

    expected = np.array([0, 1 / (1 - share)]), np.array([share, 1 - share])
    sheet.cases(f"dropout={share}: what is added is multiplied by this, each this often", factors,
                [(("attention", "feed_forward.down"), expected),
                 (("feed_forward", "attention.output"), expected)], 0.02)

def nothing_left_out(sheet, network, config):
    """Three lines: evaluate and generate in the midst of training."""
    def evaluate(ids):
        network.train()
        return train.evaluate(network, ids, config), network.training

    ids = sheet.rng.integers(300, size=200)
    x, y = train.windows_at(ids, config.valid_starts, config)
    expected = loss_by_formula(network, x, y).mean(1).detach()
    sheet.cases("evaluate leaves nothing out, and leaves the model in training", evaluate,
                [((ids,), (expected, True))], 1e-5)
    network.train()
    same_texts(sheet, network, "generate leaves nothing out", 3, 20)
    sheet.line(network.training, "generate leaves the model in training")

def nothing_at_zero(sheet):
    """Two lines: without dropout all is as it was."""
    config = train.StudyConfig(**SMOKE, dropout=0.0)
    network = model.Llama(config.model).train()
    tokens, chance = draw_tokens(sheet.rng, network, 2, 16), torch.get_rng_state()
    same = torch.equal(network(tokens)[0], network.eval()(tokens)[0])
    untouched = torch.equal(torch.get_rng_state(), chance)
    sheet.line(same and untouched, "dropout=0: not a bit changes, and no chance is drawn",
               f"the same scores in training: {same}; chance as before: {untouched}")
    sheet.cases("dropout=0: seed 101 has the losses that it had before",
                lambda: trained(config)[1::3], [((), BEFORE_DROPOUT)], 1e-5)

def broken_off_and_continued(sheet, config):
    """Two lines: dropout acts to the end, and comes out of a break as it went in."""
    def power_cut(seed, tokens_seen, row):
        if tokens_seen > 1500 and row is None:
            raise InterruptedError

    def broken_off():
        with tempfile.TemporaryDirectory() as out:
            with contextlib.suppress(InterruptedError):
                trained(config, power_cut, out)
            return trained(config, out=out)

    with_it, without = trained(config), trained(replace(config, dropout=0.0))
    sheet.line((with_it != without)[1:, 0].all(), "the training loss of every interval is another",
               f"with and without: {short(with_it[:, 0])}, {short(without[:, 0])}")
    sheet.cases("broken off and continued it comes to the same end, bit for bit", broken_off,
                [((), with_it)])
