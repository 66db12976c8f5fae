"""Chapter 3. Training: one seed, one plain loop, measured at fixed token counts.

A study trains the same model several times. This file holds all that one of these times needs:
the settings, the text, the loop, the measurement, and how a run survives an interruption.
run_all.py calls `train_seed` once for every seed, each in a process of its own.

    python train.py --preset smoke --seed 101 --out runs/try     one seed (some seconds)
    python train.py --help                                       every setting

StudyConfig and PRESETS say what a study is, `train_seed` is the loop, what stands between them
are its parts. Below it: checkpoints, the run folder (`open_run`), the benchmark. Order, learning
rate and measurement are those of the published study (arXiv 2606.13370 and its author's
repository) unless a setting says otherwise.
"""

import argparse, ast, contextlib, hashlib, io, json, math, multiprocessing, os, platform, signal
import sys, time
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F

from data.download import CORPORA, load
from data.stories import first_stories
from model import Llama, ModelConfig, attention, build, training_flops_per_token
from tokenizer import TOKENIZERS, InputError, read_documents, write_csv, write_whole

# ---------------------------------------------------------------- what a study is

def setting(default, unit, low, high, what):
    """A field of StudyConfig. What stands in its line is what --help says and what is checked."""
    values = (" or ".join(high) if isinstance(high, list) else
              f"{low} to {high} {unit}".strip() if high else unit)
    option = {"type": type(default), "help": f"{what} ({values}; default {default})"}
    value = {"default": default}
    if isinstance(default, list):
        option |= {"type": type(default[0]) if default else str, "nargs": "+", "action": "extend"}
        value = {"default_factory": default.copy}
    return field(**value, metadata={"low": low, "high": high, "option": option})

@dataclass
class StudyConfig:
    """Every setting of a study. The defaults are those of the preset `classroom`."""

    preset: str = "classroom"
    # text:         setting(default, unit, lowest, highest or the choices, what it is)
    corpus: str = setting("embedded", "", None, ["embedded", *CORPORA], "where text is from")
    train_file: list = setting([], "file", None, None, "training text in place of the corpus")
    valid_file: list = setting([], "file", None, None, "validation text in place of the corpus")
    train_stories: int = setting(24, "stories", 1, 10**5, "training text, from its start")
    valid_stories: int = setting(60, "stories", 1, 10**5, "validation text, from its start")
    tokenizer_stories: int = setting(24, "stories", 1, 10**5, "training text, from its start, that "
                                     "the tokenizer learns from, whatever train_stories is")
    tokenizer: str = setting("bpe", "", None, list(TOKENIZERS), "what becomes a token")
    vocab_size: int = setting(1024, "tokens", 3, 65536, "vocabulary; of bpe 257 or more")
    # model (the first three are for the ladder of architectures)
    architecture: str = setting("llama", "", None, ["llama", "transformer", "mlp", "linear"],
                                "what is trained")
    positions: str = setting("rotary", "", None, ["rotary", "learned", "none"],
                             "how attention knows them")
    n_flat: int = setting(256, "numbers", 1, 4096, "width of the hidden layers of mlp")
    block_size: int = setting(64, "tokens", 4, 2048, "length of a window")
    n_layer: int = setting(2, "layers", 1, 48, "depth")
    n_head: int = setting(4, "heads", 1, 64, "attention heads; n_embd / n_head must be even")
    n_embd: int = setting(128, "numbers", 4, 2048, "width: numbers that stand for a token")
    # training
    seeds: list = setting([101, 202, 303, 404, 505, 606], "", 0, 2**32 - 1, "one run for each")
    seed_decides: str = setting("weights", "", None, ["weights", "weights+order"],
                                "the initial weights only, or the order of the windows too")
    total_tokens: int = setting(225_280, "tokens", 1, 10**11, "budget, used in whole intervals")
    training_flops: float = setting(0.0, "FLOPs", 0, 1e21, "a budget that, if not 0, sets "
                                    "total_tokens and decay_tokens, interval_tokens to a 20th of "
                                    "them, and warmup_tokens to a 10th at most")
    windows_per_step: int = setting(16, "windows", 1, 1024, "windows in one optimizer step")
    windows_at_once: int = setting(16, "windows", 1, 1024, "of these, in one backward pass")
    peak_lr: float = setting(4e-3, "", 0, 1, "learning rate at the end of the warm-up")
    final_lr: float = setting(4e-4, "", 0, 1, "learning rate at the end of the decay")
    warmup_tokens: int = setting(11_264, "tokens", 0, 10**11, "the rate rises from 0 until here")
    decay_tokens: int = setting(225_280, "tokens", 1, 10**11, "the rate falls until here")
    beta1: float = setting(0.9, "", 0, 0.9999, "AdamW's memory of the gradient")
    beta2: float = setting(0.95, "", 0, 0.9999, "AdamW's memory of its square")
    weight_decay: float = setting(0.1, "", 0, 10, "AdamW's pull of all parameters towards 0")
    grad_clip: float = setting(1.0, "", 1e-6, 1e6, "longest gradient that a step may follow")
    device: str = setting("cpu", "", None, ["cpu", "cuda", "mps"], "where the tensors live")
    # measurement
    interval_tokens: int = setting(11_264, "tokens", 1, 10**11, "training between measurements")
    valid_start: int = setting(0, "tokens", 0, 10**9, "where the validation windows begin")
    valid_windows: int = setting(96, "windows", 2, 10**5, "validation windows, side by side")
    published_windows: int = setting(0, "windows", 0, 10**5, "of these, the published study's")
    test_windows: int = setting(0, "windows", 0, 10**5, "for judging the best checkpoint, once")
    # analysis
    volatility_window: int = setting(5, "intervals", 2, 1000, "changes behind a rolling measure")
    spike_factor: float = setting(2.0, "sd", 0, 100, "a spike exceeds the mean change by this")
    spike_floor: float = setting(0.01, "nats", 0, 100, "and is larger than this")
    stable_quantile: float = setting(0.25, "share", 0, 1, "volatilities below it are low")
    stable_backslides: int = setting(1, "backslides", 0, 1000, "at most, in a stable window")

    def __post_init__(self):
        for f in fields(self)[1:]:  # all but preset
            low, high, value = f.metadata["low"], f.metadata["high"], getattr(self, f.name)
            if isinstance(high, list) and value not in high:
                raise InputError(f"{f.name} is {value!r}; it must be {' or '.join(high)}")
            for v in value if isinstance(value, list) else [value]:
                if low is not None and not low <= v <= high:  # a nan fails here too
                    raise InputError(f"{f.name} is {v}; it must lie between {low} and {high}")
        try:
            flops = training_flops_per_token(self.model)
        except ValueError as error:
            raise InputError(str(error)) from None
        if self.training_flops:
            self.interval_tokens = int(self.training_flops / flops / 20)
            self.total_tokens = self.decay_tokens = 20 * self.interval_tokens
            self.warmup_tokens = min(self.warmup_tokens, self.total_tokens // 10)
        for right, otherwise in (
            (len(set(self.seeds)) == len(self.seeds), "a seed is given twice; name each once"),
            (bool(self.train_file) == bool(self.valid_file), "--train_file and --valid_file go "
             "together; give both or neither"),
            (self.tokens_per_step <= self.interval_tokens <= self.total_tokens / 3,
             f"interval_tokens is {self.interval_tokens}; it must lie between one step "
             f"({self.tokens_per_step} tokens) and a third of total_tokens ({self.total_tokens})"
             + "; raise training_flops" * bool(self.training_flops)),
            (self.total_tokens <= 10**4 * self.interval_tokens,
             "total_tokens must not be more than 10,000 times interval_tokens"),
            (self.published_windows <= self.valid_windows, "published_windows is too large"),
            (self.decay_tokens > self.warmup_tokens or self.final_lr == self.peak_lr,
             f"decay_tokens is {self.decay_tokens}; the decay must end after the warm-up, at "
             f"{self.warmup_tokens} tokens"),
            (self.final_lr <= self.peak_lr, f"final_lr is {self.final_lr}, above peak_lr, which is "
             f"{self.peak_lr}; lower it too"),
            (flops < 1e10,
             "this would be a model of more than a billion parameters; lower n_layer or n_embd"),
            (not (self.test_windows and self.train_file), "only a corpus has a test text; leave "
             "out --test_windows, or the files"),
            (self.device == "cpu" or getattr(torch, self.device).is_available(),
             f"torch finds no {self.device} on this machine; leave out --device"),
        ):
            if not right:
                raise InputError(otherwise)

    @property
    def model(self):
        return ModelConfig(self.vocab_size, self.block_size, self.n_layer, self.n_head, self.n_embd,
                           self.architecture, self.positions, self.n_flat)

    @property
    def tokens_per_step(self):
        return self.windows_per_step * self.block_size

    @property
    def measured_steps(self):
        """The steps after which to measure: the first ones at or past each whole interval."""
        return [math.ceil(i * self.interval_tokens / self.tokens_per_step)
                for i in range(self.total_tokens // self.interval_tokens + 1)]

# Each preset says where it differs from the defaults above.
PRESETS = {
    # Sizes tuned for a class, 1.5 minutes on two cores; so little text and so high a learning
    # rate that the loss turns within the budget, as it does in the published study.
    "classroom": {},
    # The control: all the same, but so much text that the budget is half an epoch of it.
    "fresh": {"train_stories": 2000},
    # The published study. It measured on 16 windows from token 9001 on: the first 16 of our 1,024.
    # It took 2 windows at once; 4 are the fastest here and give the same gradient. With all 16 the
    # scores alone (2,048 x 4,096 numbers) would be memory allocated and cleared at every step.
    "paper": dict(
        corpus="tinystories", train_stories=2000, valid_stories=1200, tokenizer_stories=1000,
        vocab_size=4096, block_size=128, n_layer=4, n_embd=256, total_tokens=20_000_000,
        peak_lr=4e-4, final_lr=4e-5, warmup_tokens=1_000_000, decay_tokens=20_000_000,
        interval_tokens=1_000_000, valid_start=9001, valid_windows=1024, published_windows=16,
        windows_at_once=4),
    # All that a study has, in seconds, for tests.
    "smoke": dict(
        train_stories=12, valid_stories=12, tokenizer_stories=12, vocab_size=300, block_size=16,
        n_layer=1, n_head=2, n_embd=16, seeds=[101, 202, 303], total_tokens=2560,
        windows_per_step=4, warmup_tokens=256, decay_tokens=2560, interval_tokens=256,
        valid_windows=8),
    # The architecture study: every rung at the same cost, on characters, 40 seconds each on two
    # cores. The rate stays constant after the warm-up, so that no point of a curve is favoured.
    "ladder": dict(
        tokenizer="char", vocab_size=60, architecture="transformer", positions="learned",
        train_stories=2000, tokenizer_stories=2000, seeds=[101, 202, 303], training_flops=3e11,
        peak_lr=1e-3, final_lr=1e-3, warmup_tokens=20_480, valid_windows=256, test_windows=256),
}

# The rungs of the ladder, each a study of its own: where it differs from the preset `ladder`,
# which is 2 layers, 4 heads, context 64, learned positions. (mlp-N: width; attention-N: one layer
# of N heads; transformer-N: layers; context-N: tokens.) What a rung sets overrides the command
# line.
RUNGS = {
    "linear": {"architecture": "linear"},
    **{f"mlp-{n}": {"architecture": "mlp", "n_flat": n} for n in (128, 256, 512)},
    **{f"attention-{n}": {"n_layer": 1, "n_head": n} for n in (1, 2, 4)},
    **{f"transformer-{n}": {"n_layer": n} for n in (2, 3, 4)},
    **{f"context-{n}": {"block_size": n} for n in (32, 128)},
    "rotary": {"positions": "rotary"}, "none": {"positions": "none"},
    "attention-4-rotary": {"n_layer": 1, "positions": "rotary"},
    "llama": {"architecture": "llama", "positions": "rotary"},
    "llama-learned": {"architecture": "llama"},
}

def settings_parser(description):
    """An argparse parser with every field of StudyConfig as an option."""
    parser = argparse.ArgumentParser(description=description + " Defaults are classroom's.")
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message}\n")
    parser.add_argument("--preset", default="classroom", choices=list(PRESETS),
                        help="the settings of a whole study (default classroom)")
    parser.add_argument("--out", type=Path, help="run folder (default runs/PRESET)")
    parser.add_argument("--restart", action="store_true", help="put the run in --out aside")
    for f in fields(StudyConfig)[1:]:
        parser.add_argument(f"--{f.name}", metavar="X", **f.metadata["option"])
    return parser

def config_from(args, rung=None):
    """(the StudyConfig of parsed options, run folder): the preset, and over it what was given; over
    both a rung of the ladder, whose folder lies below the run's."""
    given = {f.name: value for f in fields(StudyConfig)
             if (value := getattr(args, f.name)) is not None}
    config = StudyConfig(**PRESETS[args.preset] | given)
    for name in ("total_tokens", "interval_tokens", "decay_tokens"):
        if config.training_flops and name in given:
            raise InputError(f"training_flops sets {name}; leave out --{name}, or give "
                             "--training_flops 0 with it")
    if rung:  # the windows of another context are more or fewer, so that the tokens are the same
        own = {"block_size": config.block_size, **RUNGS[rung]}
        own |= {name: getattr(config, name) * config.block_size // own["block_size"] for name in (
            "windows_per_step", "windows_at_once", "valid_windows", "test_windows")}
        # (Of config it is a tenth of the training of another model already.)
        own["warmup_tokens"] = (PRESETS[args.preset] | given)["warmup_tokens"]
        try:
            config = replace(config, **own)
        except InputError as error:
            raise InputError(f"rung {rung}: {error}") from None
    return config, (args.out or Path("runs", args.preset)) / (rung or "")

# ---------------------------------------------------------------- the text

@dataclass
class Text:
    """What a worker needs of the text."""

    train: np.ndarray  # (n_train_tokens) ids
    valid: np.ndarray  # (n_valid_tokens) ids
    test: np.ndarray  # (n_test_tokens) ids, perhaps none
    target_bytes: int  # of the text that the validation windows ask for; 0 if some is unknown

def read_text(config):
    """({"train" (enough to train and for the tokenizer), "valid", "test": documents}, source)."""
    n_train, n_valid = max(config.train_stories, config.tokenizer_stories), config.valid_stories
    if config.train_file:
        read = lambda paths, n: [doc for path in paths for doc in read_documents(path, n)]
        documents = {"train": read(config.train_file, n_train),
                     "valid": read(config.valid_file, n_valid)}
        source = {"text": ", ".join(config.train_file)}
    elif config.corpus == "embedded":
        valid = first_stories("valid", 2 * n_valid)
        documents = {"train": first_stories("train", n_train), "valid": valid,
                     "test": valid[n_valid:]}  # as many more, none of them in valid
        source = {"text": "the project's own stories"}
    else:
        documents, files = load(config.corpus)
        source = {"text": config.corpus, "files": files}
    return {"train": documents["train"][:n_train], "valid": documents["valid"][:n_valid],
            "test": documents.get("test", []) if config.test_windows else []}, source

def prepare_text(config):
    """(Text, tokenizer, facts about both for config.json). InputError if the text is too short."""
    documents, facts = read_text(config)
    tokenizer = TOKENIZERS[config.tokenizer].train(
        documents["train"][: config.tokenizer_stories], config.vocab_size)
    if tokenizer.vocab_size < config.vocab_size:
        raise InputError(f"the text for the tokenizer yields {tokenizer.vocab_size} tokens and "
                         "no more; set --vocab_size to that, or give more --tokenizer_stories")
    documents["train"] = documents["train"][: config.train_stories]
    ids = {name: np.array(tokenizer.encode_documents(some), dtype=np.int64)
           for name, some in documents.items()}
    # The target of a token is the next one. (And window_starts needs one start to choose from.)
    first, n_targets = config.valid_start + 1, config.valid_windows * config.block_size
    needs = {"train": config.block_size + 2, "valid": first + n_targets}
    if config.test_windows:
        needs["test"] = config.test_windows * config.block_size + 1
    for name, need in needs.items():
        if len(ids[name]) < need:
            raise InputError(f"the {name} text has {len(ids[name])} tokens and these settings need "
                             f"{need}; give more, or lower block_size, valid_start or windows")
        joined = "\n\n".join(documents[name]).encode("utf-8")
        facts |= {f"{name}_documents": len(documents[name]), f"{name}_tokens": len(ids[name]),
                  f"{name}_unknown": int((ids[name] == tokenizer.unknown_id).sum()),
                  f"{name}_sha256": hashlib.sha256(joined).hexdigest()}
    facts["tokenizer_sha256"] = hashlib.sha256(repr(tokenizer.pieces).encode("utf-8")).hexdigest()
    # The end-of-text token spells nothing: it has no bytes. How many <unk> stands for, it hides.
    targets = [i for i in ids["valid"][first : first + n_targets] if i != tokenizer.end_id]
    known = tokenizer.unknown_id not in targets
    text = Text(**ids, target_bytes=known * sum(len(tokenizer.pieces[i]) for i in targets))
    return text, tokenizer, facts

# ---------------------------------------------------------------- the two schedules

def learning_rate(tokens_seen, config):
    """The rate of a step, from the tokens seen before it: linear from 0 to peak_lr over
    warmup_tokens, then half a cosine to final_lr at decay_tokens, then constant. (So the first
    step, of rate 0, moves no weight; but it begins AdamW's memory of the gradient.)"""
    # EXERCISE 5: a field `schedule` of StudyConfig, with choices as `device` has: "cosine" as here,
    # "constant" (peak_lr all along), "warmup" (the same rise, then peak_lr to the end). Any other
    # word is refused. Does the loss still turn?
    if tokens_seen < config.warmup_tokens:
        return config.peak_lr * tokens_seen / config.warmup_tokens
    decay = max(1, config.decay_tokens - config.warmup_tokens)
    progress = min(1.0, (tokens_seen - config.warmup_tokens) / decay)
    half_cosine = (1 + math.cos(math.pi * progress)) / 2  # from 1 to 0
    return config.final_lr + (config.peak_lr - config.final_lr) * half_cosine

def window_starts(step, config, n_tokens, seed):
    """Where in the training text the windows of a step begin: array of windows_per_step ints.

    As published: one after another from the start of the text, wrapping around, the same for
    every seed. With seed_decides = "weights+order": the same starts, those of each epoch in an
    order that the seed draws afresh. A pure function: there is no position to save or to lose.
    """
    # EXERCISE 6: a third choice of seed_decides, "order": every epoch shuffled, but alike for all
    # seeds. Or easy windows first (evaluate gives the loss of each; save those of a first run).
    # As published, windows start at 0 to span - 1 (one more would fit); an epoch is span tokens.
    T, span = config.block_size, n_tokens - config.block_size - 1
    numbers = step * config.windows_per_step + np.arange(config.windows_per_step)
    if config.seed_decides == "weights+order":
        epochs = numbers * T // span
        for epoch in np.unique(epochs):
            # The windows that start in this epoch: the first, and the first of the next one.
            first, end = math.ceil(epoch * span / T), math.ceil((epoch + 1) * span / T)
            order = np.random.default_rng([seed, epoch]).permutation(end - first)
            numbers[epochs == epoch] = first + order[numbers[epochs == epoch] - first]
    return numbers * T % span

# ---------------------------------------------------------------- one measurement

def windows_at(ids, starts, config):
    """Inputs and targets, (B, T) each: the target of a token is the token after it."""
    windows = ids[np.add.outer(starts, np.arange(config.block_size + 1))]  # (B, T + 1)
    windows = torch.from_numpy(windows).to(config.device)
    return windows[:, :-1], windows[:, 1:]

@torch.no_grad()
def evaluate(model, ids, config, starts=None):
    """The loss of each window, in nats a token: float64 array (n_windows).

    starts: where the windows begin in ids; by default the validation windows, valid_windows of them
    side by side from token valid_start on, the same for every seed.
    """
    # KEEP: the same windows every time, so that a difference between two measurements is the
    # model's, not the windows' (val_change_se in `measure`). And no chance in it: an evaluation
    # that draws from the training's random generator changes the training that it observes.
    if starts is None:
        starts = config.valid_start + config.block_size * np.arange(config.valid_windows)
    losses = []
    model.eval()  # no dropout, should a student add it
    for batch in np.array_split(starts, math.ceil(len(starts) / config.windows_at_once)):
        x, y = windows_at(ids, batch, config)
        logits, _ = model(x)
        # (As numbers: a small tensor kept from every batch would leave the memory in pieces.)
        losses += F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1).tolist()
    model.train()
    return np.array(losses)

def measure(config, seed, step, text, losses, before, train_losses, norms, seconds, elapsed):
    """One row of metrics.csv; undefined numbers are nan.

    losses, before: of the validation windows, now and an interval ago (None at the first);
    train_losses, norms: of the steps between; seconds: that these took; elapsed: of the seed so
    far, measurements included. The standard errors take windows as independent. In real text they
    are alike over dozens of neighbours, so these are far too small: a report's audit has better.
    """
    loss, n, tokens = losses.mean(), len(losses), step * config.tokens_per_step
    standard_error = lambda x: float(x.std(ddof=1) / math.sqrt(n))
    published = losses[: config.published_windows]
    return {
        "seed": seed, "interval": config.measured_steps.index(step), "step": step,
        "tokens_seen": tokens, "epochs": tokens / (len(text.train) - config.block_size - 1),
        "train_loss": float(np.mean(train_losses)) if train_losses else math.nan,
        "val_loss": float(loss), "val_loss_se": standard_error(losses),
        # Paired: what makes a window hard is in both losses and cancels in the difference.
        "val_change_se": math.nan if before is None else standard_error(losses - before),
        "val_loss_published": float(published.mean()) if len(published) else math.nan,
        "val_ppl": float(np.exp(min(loss, 700.0))),  # exp of more is no float64
        # Comparable between vocabularies, as the loss of a token is not (if nothing is unknown).
        "bits_per_byte": float(losses.sum() * config.block_size / math.log(2)
                               / (text.target_bytes or math.nan)),
        "learning_rate": learning_rate(tokens, config),  # of the step that comes next
        "grad_norm": float(np.mean(norms)) if norms else math.nan,
        "device": config.device, "precision": "float32",
        "tokens_per_second": len(norms) * config.tokens_per_step / seconds if norms else 0.0,
        "elapsed_seconds": elapsed,
    }

# ---------------------------------------------------------------- the loop

def cores():
    """How many cores this process may use: on a shared machine perhaps not all that there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

def one_thread():
    """Make this process compute with one thread, and keep the memory that it has."""
    torch.set_num_threads(1)  # KEEP: another number of threads adds in another order
    # Linux's malloc gives large blocks back to the system and gets them anew, cleared page by
    # page, at every step, until it sees one of almost 32 MiB freed (mallopt(3), dynamic threshold):
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # made and freed; 4 % faster on two busy cores

def make_optimizer(model, config, fused=True):
    """AdamW on every parameter, as published; train_step sets its rate. fused: the whole update in
    one pass over memory."""
    return torch.optim.AdamW(model.parameters(), betas=(config.beta1, config.beta2),
                             weight_decay=config.weight_decay, fused=fused)

def train_step(model, optimizer, x, y, rate, config):
    """One step of the optimizer on inputs x and targets y, (B, T): (loss, gradient norm).

    A few windows at a time; their gradients, weighted by their share, add up to that of all.
    """
    optimizer.zero_grad()
    total, n = 0.0, config.windows_at_once
    for part_x, part_y in zip(x.split(n), y.split(n)):
        loss = model(part_x, part_y)[1] * (len(part_x) / len(x))
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return total, norm.item()

def train_seed(config, seed, text, out, report=lambda *news: None):
    """Train one seed from where it stands to the end, into out/seed_N. Returns its rows.

    report(seed, tokens_seen, row) is called after every step, with a row after a measurement.
    Raises FloatingPointError, naming the step, when the loss is no longer finite; left_out.txt
    in the seed's folder then says so, and the same command would come to the same end. Raises
    OSError when the folder holds another run than at the beginning.
    """
    one_thread()
    torch.manual_seed(seed)  # KEEP: for the initial weights; window_starts takes the seed itself
    model = build(config.model).to(config.device)
    optimizer = make_optimizer(model, config)
    folder, step, rows, windows = out / f"seed_{seed}", 0, [], []
    identity = run_sha256(out)
    folder.mkdir(parents=True, exist_ok=True)
    saved = newest_checkpoint(folder, seed, identity)
    if saved:  # go on from there; what was trained after it is trained again
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, rows, windows = saved["step"], saved["rows"], list(saved["windows"].numpy())
        torch.set_rng_state(saved["chance"])
        write_tables(folder, rows, windows)

    for measured_step in config.measured_steps[len(rows) :]:  # the first is 0: before training
        train_losses, norms, started = [], [], time.perf_counter()
        while step < measured_step:
            starts = window_starts(step, config, len(text.train), seed)
            x, y = windows_at(text.train, starts, config)
            rate = learning_rate(step * config.tokens_per_step, config)
            loss, norm = train_step(model, optimizer, x, y, rate, config)
            step += 1
            check_finite("loss", loss, step, folder)
            train_losses.append(loss)
            norms.append(norm)
            report(seed, step * config.tokens_per_step, None)
        seconds = time.perf_counter() - started
        windows.append(evaluate(model, text.valid, config))
        elapsed = time.perf_counter() - started + (rows[-1]["elapsed_seconds"] if rows else 0)
        rows.append(measure(config, seed, step, text, losses=windows[-1],
                            before=windows[-2] if rows else None, train_losses=train_losses,
                            norms=norms, seconds=seconds, elapsed=elapsed))
        check_finite("validation loss", rows[-1]["val_loss"], step, folder)
        if run_sha256(out) != identity:  # --restart has put our run aside
            raise OSError(f"{out} holds another run now, and this one stops")
        save_checkpoint(folder, model, optimizer, step, rows, windows, identity)
        report(seed, step * config.tokens_per_step, rows[-1])
    return rows

def check_finite(name, loss, step, folder):
    if not math.isfinite(loss):
        sentence = f"the {name} became {loss} at step {step}"
        write_whole(folder / "left_out.txt", sentence + "\n")
        raise FloatingPointError(sentence)

# ---------------------------------------------------------------- what survives

def save_checkpoint(folder, model, optimizer, step, rows, windows, identity):
    """Everything that continuing needs in one file, last.pt; the seed's tables follow from it.

    First comes best.pt, if this is the lowest loss; then last.pt is renamed to previous.pt, then
    the new last.pt takes its place: a whole one is there at every moment. After a break, what was
    trained since the last measurement is computed again, to the same bits.
    """
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "rows": rows, "windows": torch.from_numpy(np.stack(windows)), "run": identity,
                "chance": torch.get_rng_state()}, buffer)  # (for a student's dropout on a CPU)
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    content = buffer.getbuffer()
    if all(rows[-1]["val_loss"] < row["val_loss"] for row in rows[:-1]):
        write_whole(folder / "best.pt", content)
    write_whole(folder / "last.pt", content, keep=folder / "previous.pt")
    write_tables(folder, rows, windows)

def read_checkpoint(path):
    """What `save_checkpoint` wrote, None if it is not there, False if it is damaged (and named)."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() != content[-32:]:
            raise ValueError  # torch.load alone overlooks half of all changed bits
        # KEEP: weights_only admits tensors, numbers and text, but no code of a stranger.
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not saved["rows"]:
            raise ValueError
        return {name: saved[name] for name in (
            "model", "optimizer", "step", "rows", "windows", "run", "chance")}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError, RuntimeError, UnpicklingError, EOFError) as error:
        if "memory" in str(error):  # the file may well be whole
            raise OSError(f"too little memory to read {path}: {error}") from None
        print(f"{path} is damaged, or not of this program, and is not used", file=sys.stderr)
        return False

def newest_checkpoint(folder, seed, identity):
    """The newest whole checkpoint of a seed, or None. If it is not last.pt it becomes last.pt, and
    says so; what is damaged, or of another seed or run, is renamed to NAME.pt.damaged."""
    there = any(folder.glob("*.pt"))
    for path in (folder / "last.pt", folder / "previous.pt", folder / "best.pt"):
        saved = read_checkpoint(path)
        if saved and saved["run"] == identity and saved["rows"][-1]["seed"] == seed:  # not a copy
            if path.name != "last.pt":
                print(f"{folder.name} continues from {path.name}, interval "
                      f"{len(saved['rows']) - 1}", file=sys.stderr)
                write_whole(folder / "last.pt", path.read_bytes())
            return saved
        if saved:
            print(f"{path} is of another seed or run, and is not used", file=sys.stderr)
        if saved is not None:  # else the next save would keep it, over a whole previous.pt
            os.replace(path, f"{path}.damaged")
    if there:
        print(f"{folder.name} has no whole checkpoint and starts again", file=sys.stderr)

def write_tables(folder, rows, windows):
    """metrics.csv and val_windows.npy (intervals x windows) of one seed."""
    content = io.BytesIO()
    np.save(content, np.stack(windows))
    write_whole(folder / "val_windows.npy", content.getvalue())
    write_csv(folder / "metrics.csv", rows[0], [row.values() for row in rows])

# ---------------------------------------------------------------- which run this is

def code_sha256():
    """file -> sha256 of its code: comments, blank lines and line ends do not count."""
    here = Path(__file__).resolve().parent
    return {name: hashlib.sha256(ast.unparse(ast.parse((here / name).read_bytes())).encode(
        "utf-8")).hexdigest() for name in ("model.py", "tokenizer.py", "train.py")}

# What in config.json may change without making another run of it: the last five are the analysis.
NOT_THE_RUN = """preset train_file valid_file text files seeds threads machine instructions
    volatility_window spike_factor spike_floor stable_quantile stable_backslides""".split()

def read_config(out):
    """config.json of the folder `out`; {} if there is none. InputError if it is damaged."""
    try:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{out / 'config.json'} is damaged; choose another folder with --out")

def run_sha256(out):
    """Which run the folder `out` holds: a sha256 of what its config.json says about the training.
    Of a folder without one (a lone train_seed) it is that of nothing."""
    kept = {name: value for name, value in sorted(read_config(out).items())
            if name not in NOT_THE_RUN}
    return hashlib.sha256(json.dumps(kept).encode("utf-8")).hexdigest()

def begun(out):
    """config.json of the run that the folder `out` holds, {} if it is empty or not there.
    InputError if it is anything else."""
    names = {path.name for path in out.glob("[!.]*")}
    with contextlib.suppress(InputError, NotADirectoryError):
        old = read_config(out)
        if old.keys() >= {"model.py", "seeds"} or not names:
            return old
    raise InputError(f"{out} is neither empty nor a whole run of this program; choose another "
                     "folder with --out, or clear this one yourself")

def open_run(config, out, restart=False):
    """Prepare the text and the run folder. Returns (Text, tokenizer, the content of config.json).

    A folder made by other settings, text or code is never mixed with this run: InputError says
    what differs. With `restart`, the old run is put aside under another name.
    """
    text, tokenizer, facts = prepare_text(config)
    identity = {**asdict(config), **facts, **code_sha256(), "torch": torch.__version__,
                "numpy": np.__version__, "python": "{}.{}".format(*sys.version_info)}
    instructions = torch.backends.cpu.get_cpu_capability()
    old, out = begun(out), out.resolve()
    if old and restart:
        aside = next(path for n in range(1, 10**6)
                     if not (path := out.with_name(f"{out.name}.old{n}")).exists())
        out.rename(aside)
        print(f"The old run is in {aside} now.")
    elif old:
        different = [f"{name} (was {old.get(name)}, now {new})" if len(f"{new}") < 60 else name
                     for name, new in identity.items() if old.get(name) != new]
        if different:
            raise InputError(f"{out} holds a run that differs in {', '.join(different)}. Choose "
                             "another folder with --out, or put the old run aside with --restart")
        if old.get("instructions", instructions) != instructions:  # several machines, one folder
            print(f"note: {out} was begun with {old['instructions']} instructions and goes on with "
                  f"{instructions}: right, but not the same to the last bit", file=sys.stderr)
    if restart or not old:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {out}: {error.strerror}; choose another "
                             "with --out") from None
        identity |= {"threads": 1, "machine": f"{platform.system()} {platform.machine()}",
                     "instructions": instructions,
                     "parameters": sum(p.numel() for p in build(config.model).parameters()),
                     "flops_per_token": training_flops_per_token(config.model)}
        write_whole(out / "config.json", json.dumps(identity, indent=1) + "\n")
    buffer = io.BytesIO()
    np.savez(buffer, **vars(text))
    write_whole(out / "text.npz", buffer.getvalue())  # for the processes that train
    tokenizer.save(out / "tokenizer.json")
    return text, tokenizer, identity

# ---------------------------------------------------------------- where the time goes

def matrix_products(config):
    """A function that makes the matrix products of one training step, and nothing else.

    For each weight x W forward, and backward g W^T (for x) and x^T g (for W), in attention q k^T
    and the product with v, with two backward for each. Their time is the least a step can take.
    Each has operands of its own, as in a step: what does not fit the cache comes from memory.
    """
    B, T, D = config.windows_at_once, config.block_size, config.n_embd // config.n_head
    # (outputs, inputs) of each matrix; that of the embedding makes the scores.
    weights = [p.shape for p in Llama(config.model).parameters() if p.dim() == 2]
    products = []  # (left, right, where to put the result)
    for m, n in weights:
        x, w, g, for_x, for_w, y = map(torch.randn, 2 * [(B * T, n), (n, m), (B * T, m)])
        products += [(x, w, y), (g, w.T, for_x), (x.T, g, for_w)]
    for _ in range(3 * config.n_layer):  # once forward, twice backward
        q, scores, for_q, for_scores = (torch.randn(B * config.n_head, T, n) for n in 2 * (D, T))
        products += [(q, q.mT, for_scores), (scores, q, for_q)]

    def run():
        for _ in range(config.windows_per_step // B):
            for left, right, result in products:
                torch.matmul(left, right, out=result)
    return run

def benchmark_worker(pipe):
    """One process of the benchmark: asked for (what, threads, seconds), it makes steps for so long
    and answers how many tokens a second they took, until nobody asks any more."""
    one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this
    config, kernel = StudyConfig(**PRESETS["paper"]), F.scaled_dot_product_attention
    x, y = torch.randint(config.vocab_size, (2, config.windows_per_step, config.block_size))
    loops = {"matrix products": matrix_products(config)}
    # As published: 2 windows at once, attention written out, an update in separate operations.
    for name, own, fused in (("study's loop", config, True),
                             ("published loop", replace(config, windows_at_once=2), False)):
        model = Llama(config.model)
        loops[name] = partial(train_step, model, make_optimizer(model, own, fused), x, y, 1e-4, own)
    with contextlib.suppress(EOFError, OSError):
        while True:
            what, threads, seconds = pipe.recv()
            torch.set_num_threads(threads)
            F.scaled_dot_product_attention = attention if what == "published loop" else kernel
            started, steps = time.perf_counter(), 0
            while not steps or time.perf_counter() < started + seconds:
                loops[what]()
                steps += 1
            pipe.send(steps * config.tokens_per_step / (time.perf_counter() - started))

def benchmark(as_json, rounds=6, seconds=1.5):
    """Measure the published model's step on this machine, in a minute and a half.

    The cases take turns, and a share is the median over the rounds of what a round says, so that
    whatever else the machine does hits all of them alike.
    """
    n, context = cores(), multiprocessing.get_context("spawn")
    once = [("matrix products", 1, 1), ("study's loop", 1, 1), ("published loop", 1, n),
            ("matrix products", n, 1), ("study's loop", n, 1)]
    pipes, speed = [], {case: [] for case in once}
    for _ in range(n):
        ours, theirs = context.Pipe()
        context.Process(target=benchmark_worker, args=(theirs,), daemon=True).start()
        theirs.close()  # so that the end of the process is the end of the pipe
        pipes.append(ours)
    for i, (what, workers, threads) in enumerate(rounds * once):
        print(f"measuring {i + 1} of {rounds * len(once)}: {what}", file=sys.stderr)
        try:
            for duration in (0, seconds):  # once to warm up, then for the result
                for pipe in pipes[:workers]:
                    pipe.send((what, threads, duration))
                tokens = sum([pipe.recv() for pipe in pipes[:workers]])
        except (EOFError, OSError):
            sys.exit("a process of the benchmark has failed or was ended; start it again")
        speed[what, workers, threads].append(tokens)
    flops = training_flops_per_token(ModelConfig())  # of the published model
    table = [{"what": what, "workers": workers, "threads": threads,
              "tokens_per_second": round(np.median(tokens)),
              "gflop_per_second": round(np.median(tokens) * flops / 1e9, 1),
              "share_of_ceiling": round(np.median(np.divide(
                  tokens, speed["matrix products", max(workers, threads), 1])), 3)}
             for (what, workers, threads), tokens in speed.items()]
    if as_json:
        return print(json.dumps(table, indent=1))
    for row in table:
        print("{what:16s}{workers:3d} worker(s) x{threads:3d} thread(s){tokens_per_second:8,d} "
              "tokens/s{gflop_per_second:8.1f} GFLOP/s{share_of_ceiling:7.1%}".format(**row))
    print("The share: of the matrix products alone on as many cores, the least a step can take.")

# ---------------------------------------------------------------- the command line

def main():
    parser = settings_parser("Train one seed of a study.")
    parser.add_argument("--seed", type=int, help="which one (default: the first of --seeds)")
    parser.add_argument("--benchmark", action="store_true",
                        help="measure how fast this machine trains the published model, instead")
    parser.add_argument("--json", action="store_true", help="print the benchmark as data")
    args = parser.parse_args()
    if args.benchmark:
        return benchmark(args.json)
    if args.json:
        parser.error("--json goes with --benchmark")
    try:
        config, out = config_from(args)
        seed = config.seeds[0] if args.seed is None else args.seed
        if seed not in config.seeds:
            raise InputError(f"seed {seed} is not one of the study's {config.seeds}")
        text, _, _ = open_run(config, out, args.restart)
        train_seed(config, seed, text, out, lambda seed, *news: print_row(f"seed {seed}", *news))
    except (InputError, OSError, FloatingPointError) as error:
        parser.error(str(error))

def print_row(name, tokens_seen, row):
    """Progress for a pipe or a log file: one plain line for each measurement."""
    if row:
        print(f"{name}  interval {row['interval']:3d}  {tokens_seen:>12,d} tokens  "
              f"validation loss {row['val_loss']:.4f}", flush=True)

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped." + ("" if "--benchmark" in sys.argv else
                 " Nothing measured is lost; the same command continues from there"
                 + " (without --restart)" * ("--restart" in sys.argv) + "."))
