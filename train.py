"""Chapter 3. Training: one seed, one plain loop, measured at fixed token counts.

A study is several runs of the same model, each from another seed. This file holds what one of them
needs: the settings, the text, two schedules, a measurement, a step, the loop.
run_all.py calls `train_seed` once for every seed, each in a process of its own.

    python train.py --preset smoke --out runs/try            one seed; a line for each measurement
    python train.py --write "One day, Mia" --out runs/try    what its model writes on
    python train.py --help                                   every setting

The first two take seconds. Order, learning rate and measurement are those of the published study
(arXiv 2606.13370 and its author's repository) unless a setting says otherwise.
"""
import support.program  # first: from here on Ctrl-C prints no traceback

import contextlib, hashlib, io, json, math, os, platform, sys, time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F

from data.download import CORPORA
from data.texts import read_texts
from model import CODE_SHA256 as MODEL_SHA256, Llama, ModelConfig, training_flops_per_token
from support.files import (InputError, code_sha256, need, printable, read_json, sweep, write_csv,
                           write_whole)
from support.settings import add_options, check_limits, given, setting
from tokenizer import CODE_SHA256 as TOKENIZER_SHA256, END_ID, BPETokenizer

# ---------------------------------------------------------------- what a study is

@dataclass
class StudyConfig:
    """Every setting of a study. The defaults are those of the preset `classroom`."""

    preset: str = "classroom"
    # Each is a setting(default, what it is, lowest, highest). The text:
    corpus: str = setting("embedded", "where the text is from", choices=["embedded", *CORPORA])
    train_file: list = setting([], "files of training text, instead of the corpus")
    valid_file: list = setting([], "files of validation text, instead of the corpus")
    train_stories: int = setting(24, "stories to train on", 1, 10**5)
    valid_stories: int = setting(60, "stories of validation text", 1, 10**5)
    tokenizer_stories: int = setting(24, "training stories the tokenizer learns from", 1, 10**5)
    vocab_size: int = setting(1024, "tokens in the vocabulary", 257, 65536)
    # The model:
    block_size: int = setting(64, "tokens in a window", 4, 2048)
    n_layer: int = setting(2, "layers", 1, 48)
    n_head: int = setting(4, "attention heads; n_embd / n_head must be even", 1, 64)
    n_embd: int = setting(128, "numbers that stand for a token", 4, 2048)
    # Training:
    seeds: list = setting([101, 202, 303, 404, 505, 606], "one run for each", 0, 2**32 - 1)
    seed_decides: str = setting("weights", "the initial weights, or the order of windows too",
                                choices=["weights", "weights+order"])
    total_tokens: int = setting(225_280, "tokens trained, in whole intervals", 1, 10**11)
    batch_size: int = setting(16, "windows in one optimizer step", 1, 1024)
    micro_batch_size: int = setting(16, "windows computed at once", 1, 1024)
    peak_lr: float = setting(4e-3, "learning rate at the end of the warm-up", 0, 1)
    final_lr: float = setting(4e-4, "learning rate at the end of the decay", 0, 1)
    warmup_tokens: int = setting(11_264, "tokens until the rate has risen to peak_lr", 0, 10**11)
    decay_tokens: int = setting(225_280, "tokens from the start until it is final_lr", 1, 10**11)
    weight_decay: float = setting(0.1, "AdamW's pull of all parameters towards 0", 0, 10)
    grad_clip: float = setting(1.0, "longest gradient that a step may follow", 1e-6, 1e6)
    device: str = setting("cpu", "where the tensors live", choices=["cpu", "cuda", "mps"])
    # Measurement:
    interval_tokens: int = setting(11_264, "tokens trained between measurements", 1, 10**11)
    valid_start: int = setting(0, "token at which the validation windows begin", 0, 10**9)
    valid_windows: int = setting(96, "validation windows, side by side", 2, 10**5)
    published_windows: int = setting(0, "of these, the published study's", 0, 10**5)

    def __post_init__(self):
        check_settings(self)

    @property
    def model(self):
        """The ModelConfig of this study."""
        return ModelConfig(vocab_size=self.vocab_size, block_size=self.block_size,
                           n_layer=self.n_layer, n_head=self.n_head, n_embd=self.n_embd)

    @property
    def valid_starts(self):
        """Where in the validation text its windows begin, side by side: (valid_windows) ints."""
        return self.valid_start + self.block_size * np.arange(self.valid_windows)

    @property
    def tokens_per_step(self):
        return self.batch_size * self.block_size

    @property
    def measured_steps(self):
        """The steps after which to measure: the first ones at or past each whole interval."""
        n_intervals = self.total_tokens // self.interval_tokens
        return [math.ceil(i * self.interval_tokens / self.tokens_per_step)
                for i in range(n_intervals + 1)]

# Each preset says where it differs from the defaults above.
# EXERCISE 20: why do the seeds of fresh end half a nat apart? Look at their training losses, and at
# when each begins to descend; then run fresh with a longer warm-up (--warmup_tokens 45056).
PRESETS = {
    # Sizes tuned for a class, a minute on two cores; so little text and so high a learning
    # rate that the validation loss turns: it falls, has its minimum within the budget, and rises
    # again, as it does in the published study.
    "classroom": {},
    # The control: all the same, but so much text that the budget is half an epoch of it.
    "fresh": {"train_stories": 2000},
    # The published study. It measured on 16 windows from token 9001 on: the first 16 of our 1,024.
    # It took 2 windows at once; 4 are faster and give, but for rounding, the same gradient.
    "paper": dict(
        corpus="tinystories", train_stories=2000, valid_stories=1200, tokenizer_stories=1000,
        vocab_size=4096, block_size=128, n_layer=4, n_embd=256, total_tokens=20_000_000,
        micro_batch_size=4, peak_lr=4e-4, final_lr=4e-5, warmup_tokens=1_000_000,
        decay_tokens=20_000_000, interval_tokens=1_000_000, valid_start=9001, valid_windows=1024,
        published_windows=16),
    # All that a study has, in seconds, for tests.
    "smoke": dict(
        train_stories=12, valid_stories=12, tokenizer_stories=12, vocab_size=300, block_size=16,
        n_layer=1, n_head=2, n_embd=16, seeds=[101, 202, 303], total_tokens=2560, batch_size=4,
        warmup_tokens=256, decay_tokens=2560, interval_tokens=256, valid_windows=8),
}

# ---------------------------------------------------------------- the text

@dataclass
class Text:
    """The text of a study in tokens: all that a process which trains needs of it."""

    train: np.ndarray  # (n_train_tokens) ids
    valid: np.ndarray  # (n_valid_tokens) ids
    target_bytes: int  # bytes of what the validation windows ask the model to predict

def prepare_text(config):
    """(Text, tokenizer, facts about both for config.json). InputError if the text is too short."""
    documents, facts = read_texts(config)

    # 1. Text to numbers. The tokenizer learns from the start of the training text, however much
    # of it is trained on: so `classroom` and `fresh` share a tokenizer, and their losses can be
    # compared.
    tokenizer = BPETokenizer.train(documents["train"][: config.tokenizer_stories],
                                   config.vocab_size)
    need(tokenizer.vocab_size == config.vocab_size,
         f"the text for the tokenizer yields {tokenizer.vocab_size} tokens and no more; set "
         "--vocab_size to that, or give more --tokenizer_stories")
    documents["train"] = documents["train"][: config.train_stories]

    # 2. Is it enough? The target of a token is the next one, so a window takes block_size + 1
    # tokens. (And window_starts needs one start to choose from.)
    first, last = config.valid_starts[[0, -1]]
    needed = {"train": config.block_size + 2, "valid": last + config.block_size + 1}
    ids = {}
    for name in ("train", "valid"):
        ids[name] = np.array(tokenizer.encode_documents(documents[name]), dtype=np.int64)
        need(len(ids[name]) >= needed[name],
             f"the {name} text has {len(ids[name])} tokens and these settings need {needed[name]}; "
             "give more text, or lower block_size, valid_start or valid_windows")
        # Sums of text and tokenizer tell this run from one with other text.
        content = "\n\n".join(documents[name]).encode("utf-8")
        facts[f"{name}_documents"] = len(documents[name])
        facts[f"{name}_tokens"] = len(ids[name])
        facts[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
    pieces = repr(tokenizer.pieces).encode("utf-8")
    facts["tokenizer_sha256"] = hashlib.sha256(pieces).hexdigest()

    # 3. How many bytes the validation windows ask for: by these, losses of different vocabularies
    # can be compared. (The end-of-text token is no text, and counts none.)
    targets = ids["valid"][first + 1 : needed["valid"]]
    target_bytes = sum(len(tokenizer.pieces[i]) for i in targets if i != END_ID)
    return Text(ids["train"], ids["valid"], target_bytes), tokenizer, facts

# ---------------------------------------------------------------- the two schedules

def learning_rate(tokens_seen, config):
    """The rate of a step, from the tokens seen before it: linear from 0 to peak_lr over
    warmup_tokens, then half a cosine down to final_lr at decay_tokens, then constant."""
    # EXERCISE 5: a setting `schedule` of StudyConfig, also on the command line, of three words:
    # - "cosine": as here, and the default;
    # - "constant": peak_lr all along, from the first step;
    # - "warmup": the same rise, then peak_lr to the end.
    # Run classroom with the last two into runs/constant and runs/warmup. Does the loss still turn?
    # (The judge asks where.)
    # 1. Warm-up. (The first step, of rate 0, moves no weight; but it begins AdamW's memory.)
    if tokens_seen < config.warmup_tokens:
        return config.peak_lr * tokens_seen / config.warmup_tokens
    # 2. After the decay.
    if tokens_seen >= config.decay_tokens:
        return config.final_lr
    # 3. Between them: progress goes from 0 to 1, the cosine's share from 1 to 0.
    progress = (tokens_seen - config.warmup_tokens) / (config.decay_tokens - config.warmup_tokens)
    share = (1 + math.cos(math.pi * progress)) / 2
    return config.final_lr + (config.peak_lr - config.final_lr) * share

def window_starts(step, config, n_tokens, seed):
    """Where in the training text the windows of a step begin: array of batch_size ints.

    As published: one after another from the start of the text, wrapping around, the same for
    every seed. With seed_decides = "weights+order": the same starts, those of each epoch in an
    order that the seed draws afresh.

    Example: a text of 22 tokens, windows of 4, two in a step. A window and its last target are 5
    tokens, so it could start at 0 to 17; the published loop leaves out the last place, hence at 0
    to 16. The steps take 0 4, 8 12, 16 3, 7 11, 15 2 ...: after 16 comes 20, which is 20 - 17.

    A pure function: there is no position in the text to save or to lose.
    """
    # EXERCISE 6: a third word for seed_decides, "shuffled": the windows of each epoch in a new
    # order that is the same for all seeds. Run classroom with it. How large are the ups and downs
    # after the turn, and how much do seeds share of them?
    T = config.block_size
    span = n_tokens - T - 1  # 17 places to start at; so many tokens are an epoch
    # Windows are numbered from the first of the whole training on; number i starts at i * T.
    numbers = step * config.batch_size + np.arange(config.batch_size, dtype=np.int64)
    if config.seed_decides == "weights+order":
        epochs = numbers * T // span
        for epoch in np.unique(epochs):
            # The windows that start in this epoch: from `first` up to that of the next epoch.
            first, end = math.ceil(epoch * span / T), math.ceil((epoch + 1) * span / T)
            order = np.random.default_rng([seed, epoch]).permutation(end - first)
            here = epochs == epoch
            numbers[here] = first + order[numbers[here] - first]
    return numbers * T % span

# ---------------------------------------------------------------- one measurement

def windows_at(ids, starts, config):
    """Inputs and targets, (B, T) each: the target of a token is the token after it."""
    places = np.add.outer(starts, np.arange(config.block_size + 1))  # (B, T + 1)
    windows = torch.from_numpy(ids[places]).to(config.device)
    return windows[:, :-1], windows[:, 1:]

@torch.no_grad()
def evaluate(model, ids, config):
    """The loss of each validation window, in nats a token: float64 array (valid_windows)."""
    # KEEP: the same windows every time and for every seed, so that a difference between two
    # measurements is the model's, not the windows'. And no chance in it: an evaluation that draws
    # from the training's random generator changes the training that it observes.
    starts = config.valid_starts
    n_batches = math.ceil(len(starts) / config.micro_batch_size)
    losses = []
    model.eval()  # no dropout, should a student add it
    for some in np.array_split(starts, n_batches):
        x, y = windows_at(ids, some, config)
        logits, _ = model(x)  # (B, T, V)
        # (cross_entropy wants the scores second: (B, V, T).)
        loss = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")  # (B, T)
        losses += loss.mean(1).tolist()
    model.train()
    return np.array(losses)

def standard_error(losses):
    """Of the mean of these losses, as if windows were independent. Neighbours are alike, so it is
    too small: the one to trust is by blocks of windows, in telemetry.py."""
    return float(losses.std(ddof=1) / math.sqrt(len(losses)))

def metrics_row(config, seed, step, text, losses, before, train_losses, norms, seconds, elapsed):
    """One row of metrics.csv, a dict; undefined numbers are nan.

    losses, before: of the validation windows, now and an interval ago (None at the first).
    train_losses, norms: of the steps between. seconds: that these steps took. elapsed: seconds of
    the seed so far, with measurements, without saving.
    """
    tokens = step * config.tokens_per_step
    loss = float(losses.mean())
    # nan, until there is something to say: nothing comes before the first measurement.
    change_se = published = train_loss = grad_norm = speed = math.nan
    if before is not None:
        # Paired: what makes a window hard is in both losses and cancels in the difference.
        change_se = standard_error(losses - before)
    if config.published_windows:
        published = float(losses[: config.published_windows].mean())
    if norms:
        train_loss, grad_norm = float(np.mean(train_losses)), float(np.mean(norms))
        speed = len(norms) * config.tokens_per_step / seconds
    # Comparable between vocabularies, as the loss of a token is not.
    nats = losses.sum() * config.block_size
    bits_per_byte = float(nats / math.log(2) / (text.target_bytes or math.nan))
    return {
        "seed": seed, "interval": config.measured_steps.index(step), "step": step,
        "tokens_seen": tokens, "epochs": tokens / (len(text.train) - config.block_size - 1),
        "train_loss": train_loss, "val_loss": loss, "val_loss_se": standard_error(losses),
        "val_change_se": change_se, "val_loss_published": published,
        "val_ppl": float(np.exp(min(loss, 700.0))),  # exp of more is no float64
        "bits_per_byte": bits_per_byte,
        "learning_rate": learning_rate(tokens, config),  # of the step that comes next
        "grad_norm": grad_norm, "device": config.device, "precision": "float32",
        "tokens_per_second": speed, "elapsed_seconds": elapsed,
    }

# ---------------------------------------------------------------- one step

BETAS = (0.9, 0.95)  # how long AdamW remembers the gradient and its square [as published]

def make_optimizer(model, config):
    """AdamW on every parameter, as published; train_step sets its rate."""
    return torch.optim.AdamW(model.parameters(), betas=BETAS, weight_decay=config.weight_decay,
                             fused=True)  # the whole update in one pass over memory

def train_step(model, optimizer, x, y, rate, config):
    """One step of the optimizer on inputs x and targets y, (B, T): (loss, gradient norm)."""
    # Forget the gradient of the step before: backward() adds to what is there.
    optimizer.zero_grad()
    total = 0.0
    # A few windows at a time; their gradients, weighted by their share, add up to that of all.
    n = config.micro_batch_size
    for part_x, part_y in zip(x.split(n), y.split(n)):
        loss = model(part_x, part_y)[1]  # (the scores, 8 MB, go at once: kept, they cost 2 %)
        loss = loss * (len(part_x) / len(x))
        loss.backward()
        total += loss.item()
    # A gradient longer than grad_clip is shortened to it; the norm returned is that before.
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    for group in optimizer.param_groups:  # one group: all parameters
        group["lr"] = rate
    optimizer.step()
    return total, norm.item()

# ---------------------------------------------------------------- the loop

def train_seed(config, seed, text, out, tell=lambda *news: None):
    """Train one seed from where it stands to the end, into out/seed_N. Returns its rows.

    tell(seed, tokens_seen, row) is called after every step, with a row after a measurement.
    Raises FloatingPointError, naming the step, when a loss is no longer finite.
    """
    one_thread()
    # The model and its optimizer. KEEP: the seed decides the initial weights, and nothing else
    # draws from torch's generator; window_starts takes the seed itself.
    torch.manual_seed(seed)
    model = Llama(config.model).to(config.device)
    optimizer = make_optimizer(model, config)
    folder = out / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    # Where this seed stands: at its beginning, or where its last checkpoint was written.
    run = run_sha256(out)  # which every checkpoint carries, so that none of another is used
    step, rows, window_losses = resume(folder, seed, run, model, optimizer)
    for next_measurement in config.measured_steps[len(rows) :]:  # the first is 0: untrained
        # Train until it is time to measure.
        train_losses, norms, started = [], [], time.perf_counter()
        while step < next_measurement:
            # The windows of this step, and how far to go.
            starts = window_starts(step, config, len(text.train), seed)
            x, y = windows_at(text.train, starts, config)
            rate = learning_rate(step * config.tokens_per_step, config)
            # Forward, backward, update.
            loss, norm = train_step(model, optimizer, x, y, rate, config)
            step += 1
            check_finite("loss", loss, step, folder)
            train_losses.append(loss)
            norms.append(norm)
            tell(seed, step * config.tokens_per_step, None)
        seconds = time.perf_counter() - started
        # Measure.
        before = window_losses[-1] if rows else None
        window_losses.append(evaluate(model, text.valid, config))
        elapsed = time.perf_counter() - started + (rows[-1]["elapsed_seconds"] if rows else 0)
        row = metrics_row(config, seed, step, text, window_losses[-1], before, train_losses, norms,
                          seconds, elapsed)
        check_finite("validation loss", row["val_loss"], step, folder)
        rows.append(row)
        # Save all of it, so that a kill or a power cut costs one interval at most.
        save_checkpoint(folder, model, optimizer, step, rows, window_losses, run)
        tell(seed, step * config.tokens_per_step, row)
    return rows

# ================================================================ what makes it survive and serve
# Stop reading here the first time. Below stand the checks of the settings, how a run survives an
# interruption, how it is told from another run, and the command line.

def check_settings(config):
    """InputError, in one sentence, at the first setting that cannot be."""
    check_limits(config)
    need(training_flops_per_token(config.model) < 1e10,
         "a token would cost this model more than 1e10 FLOPs; lower n_layer or n_embd")
    need(len(set(config.seeds)) == len(config.seeds) > 0,
         "seeds must name at least one, and none twice")
    need(bool(config.train_file) == bool(config.valid_file),
         "--train_file and --valid_file go together; give both or neither")
    need(config.tokens_per_step <= config.interval_tokens,
         f"interval_tokens is {config.interval_tokens}, and one step takes "
         f"{config.tokens_per_step}; raise it, or lower batch_size or block_size")
    need(3 <= config.total_tokens / config.interval_tokens <= 10**4,
         f"total_tokens is {config.total_tokens}; it must be 3 to 10,000 times interval_tokens, "
         f"which is {config.interval_tokens}")
    need(config.published_windows <= config.valid_windows,
         "published_windows is larger than valid_windows; lower it")
    need(config.final_lr <= config.peak_lr,
         f"final_lr is {config.final_lr}, above peak_lr, which is {config.peak_lr}; lower final_lr")
    need(config.decay_tokens > config.warmup_tokens or config.final_lr == config.peak_lr,
         f"decay_tokens is {config.decay_tokens}; the decay must end after the warm-up, at "
         f"{config.warmup_tokens} tokens")
    need(getattr(torch, config.device).is_available(),
         f"torch finds no {config.device} on this machine; leave out --device")

# ---------------------------------------------------------------- speed

def one_thread():
    """Make this process compute with one thread, and keep the memory that it has."""
    torch.set_num_threads(1)  # KEEP: another number of threads adds in another order
    # Linux's malloc gives large blocks back and gets them anew, cleared page by page, each step,
    # until it has seen one of almost 32 MiB freed (mallopt(3)). So one is: 4 % on two busy cores.
    torch.empty(2**25 - 2**16, dtype=torch.uint8)

# ---------------------------------------------------------------- what survives

def check_finite(name, loss, step, folder):
    """FloatingPointError if a loss is inf or nan. left_out.txt says so, since the same command
    would come to the same end."""
    if not math.isfinite(loss):
        sentence = f"the {name} became {loss} at step {step}"
        write_whole(folder / "left_out.txt", sentence + "\n")
        raise FloatingPointError(sentence)

def save_checkpoint(folder, model, optimizer, step, rows, window_losses, run):
    """Everything that continuing needs in one file, last.pt; the seed's tables follow from it.

    First comes best.pt, if this is the lowest loss; then last.pt is renamed to previous.pt, then
    the new last.pt takes its place: a whole one is there at every moment. After a break, what was
    trained since the last measurement is computed again, to the same bits.
    """
    # What is not in here follows from it, such as the place in the text from the step.
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "rows": rows, "window_losses": torch.from_numpy(np.stack(window_losses)),
                "run": run, "rng_state": torch.get_rng_state()},  # (for a student's dropout)
               buffer)
    # torch.load alone overlooks most changed bits: so a sum stands at the end.
    buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
    content = buffer.getbuffer()
    earlier = [row["val_loss"] for row in rows[:-1]]
    if rows[-1]["val_loss"] < min(earlier, default=math.inf):
        write_whole(folder / "best.pt", content)
    write_whole(folder / "last.pt", content, keep=folder / "previous.pt")
    write_tables(folder, rows, window_losses)

def write_tables(folder, rows, window_losses):
    """metrics.csv and val_windows.npy (intervals x windows) of one seed."""
    content = io.BytesIO()  # (in memory: the file is then written whole)
    np.save(content, np.stack(window_losses))
    write_whole(folder / "val_windows.npy", content.getvalue())
    write_csv(folder / "metrics.csv", rows[0], [row.values() for row in rows])

def read_checkpoint(path):
    """What `save_checkpoint` wrote; None if it is not there, or damaged, which is then said."""
    try:
        content = path.read_bytes()
        need(hashlib.sha256(content[:-32]).digest() == content[-32:], "the sum is another one")
        # KEEP: weights_only admits tensors, numbers and text, but no code of a stranger.
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (InputError, UnpicklingError, EOFError):
        print(f"{path} is damaged and is not used", file=sys.stderr)
        return None

def is_of(saved, seed, run):
    """Whether a checkpoint, if there is one, is of this seed and run."""
    return saved is not None and saved["run"] == run and saved["rows"][-1]["seed"] == seed

def newest_checkpoint(folder, seed, run):
    """The newest whole checkpoint of a seed, or None. It becomes last.pt if it is not; one that is
    damaged, or a copy from another seed or run, is renamed to NAME.pt.unused."""
    for path in (folder / "last.pt", folder / "previous.pt", folder / "best.pt"):
        saved = read_checkpoint(path)
        if is_of(saved, seed, run):
            if path.name != "last.pt":
                write_whole(folder / "last.pt", path.read_bytes())
            return saved
        if saved:
            print(f"{path} is of another seed or run and is not used", file=sys.stderr)
        if path.exists():  # else the next save would keep it, over a whole previous.pt
            os.replace(path, f"{path}.unused")
    return None

def resume(folder, seed, run, model, optimizer):
    """Put model and optimizer where the seed's newest checkpoint left them. Returns (step, rows,
    [losses of the validation windows at each measurement]): 0 and empty at the beginning."""
    saved = newest_checkpoint(folder, seed, run)
    if saved is None:
        return 0, [], []
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng_state"])
    window_losses = list(saved["window_losses"].numpy())
    write_tables(folder, saved["rows"], window_losses)  # whatever became of them
    return saved["step"], saved["rows"], window_losses

# ---------------------------------------------------------------- which run this is

# A sum of the code of each file that decides the training, taken when Python loaded it.
LOADED = {"model.py": MODEL_SHA256, "tokenizer.py": TOKENIZER_SHA256,
          "train.py": code_sha256(__file__)}

def check_loaded():
    """InputError if a file was edited after this Python loaded it, as happens in a notebook: the
    old code would train under the name of the new."""
    for name, loaded in LOADED.items():
        need(code_sha256(Path(__file__).with_name(name)) == loaded,
             f"{name} was edited after Python had loaded it; restart Python (in a notebook, the "
             "kernel) and try again")

def settings_and_code(config):
    """The part of config.json that needs no text."""
    return {**asdict(config), **LOADED, "torch": torch.__version__, "numpy": np.__version__,
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}

def read_config(out):
    """config.json of the folder `out`; {} if there is none. InputError if it is not of a run."""
    path, advice = out / "config.json", "choose another folder with --out, or move this one away"
    try:
        config = read_json(path) if path.exists() else {}
    except InputError as error:
        raise InputError(f"{error}; {advice}") from None
    need(config == {} or isinstance(config, dict) and "train.py" in config,
         f"{path} is not of this program; {advice}")
    return config

# What may change without making another run: the name of a file, say, or the machine.
NOT_THE_RUN = ["train_file", "valid_file", "text", "files", "notes", "threads", "machine",
               "instructions"]

def differences(described, old):
    """What makes a run and stands otherwise in `old`, in words; "" if nothing does."""
    return ", ".join(f"{name} (was {old.get(name)!s:.40}, now {value!s:.40})"
                     for name, value in described.items()
                     if name not in NOT_THE_RUN and old.get(name) != value)

def run_sha256(out):
    """A sum of what config.json says about the training of a seed (which other seeds there are
    changes nothing): every checkpoint carries it. Without config.json it is that of nothing."""
    kept = {name: value for name, value in read_config(out).items()
            if name not in [*NOT_THE_RUN, "preset", "seeds"]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode("utf-8")).hexdigest()

def open_run(config, out, restart=False):
    """Prepare the text and the run folder. Returns (Text, the content of config.json).

    A folder made by other settings, text or code is never mixed with this run: InputError says
    what differs. With `restart`, the old run is put aside under another name.
    """
    check_loaded()
    # What is there already: nothing, or a run.
    old = read_config(out)
    need(old or not any(out.glob("[!.]*")), f"{out} is neither empty nor a run of this program; "
         "choose another folder with --out, or clear this one yourself")
    # What this run is.
    text, tokenizer, facts = prepare_text(config)
    described = {
        **settings_and_code(config), **facts, "threads": 1,
        "machine": f"{platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability()}
    # Is it the same? Then it goes on; if there is none, or it was put aside, a new one begins.
    if old and restart:
        need(not out.is_symlink() and not Path.cwd().is_relative_to(out.resolve()),
             f"--restart cannot rename {out}, a link or the folder that you are in; name the run's "
             "folder itself, from outside")
        put_aside(out.resolve())
    elif old:
        different = differences(described, old)
        need(not different, f"{out} holds a run that differs in {different}. Choose another "
             "folder with --out, or put the old run aside with --restart")
        if old.get("instructions") != described["instructions"]:  # other rounding
            print(f"note: {out} was begun with {old.get('instructions')} instructions, and goes on "
                  f"with {described['instructions']}: not the same to the last bit",
                  file=sys.stderr)
    if restart or not old:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "config.json", json.dumps(described, indent=1) + "\n")
    sweep(out)  # what killed programs left half-written
    # For the processes that train, and for whoever wants to write with its models.
    buffer = io.BytesIO()
    np.savez(buffer, **vars(text))
    write_whole(out / "text.npz", buffer.getvalue())
    tokenizer.save(out / "tokenizer.json")
    return text, described

def put_aside(out):
    """Rename a run folder to the first free NAME.old1, NAME.old2 ..."""
    number = 1  # nothing is ever overwritten
    while out.with_name(f"{out.name}.old{number}").exists():
        number += 1
    aside = out.rename(out.with_name(f"{out.name}.old{number}"))
    print(f"The old run is in {aside} now.")

# ---------------------------------------------------------------- your own prompt

@dataclass
class WriteConfig:
    """How to write on: options of train.py too."""

    chance: int = setting(0, "of --write: decides what is drawn", 0, 2**63 - 1)
    temperature: float = setting(0.8, "of --write: 0 always takes the likeliest token", 0, 100)
    length: int = setting(300, "of --write: tokens at most", 1, 10**5)

def write_on(model, tokenizer, prompt, config):
    """The prompt and what the model writes after it, until the story ends. `config`: a
    WriteConfig. InputError if the prompt holds a lone surrogate."""
    # In the training text a story begins after the end of another: so does the prompt here.
    tokens = torch.tensor([[END_ID, *tokenizer.encode(prompt)]])  # (1, T)
    generator = torch.Generator().manual_seed(config.chance)
    model.eval()  # no dropout, should a student add it
    written = model.generate(tokens, config.length, config.temperature, generator, stop=END_ID)
    return tokenizer.decode([i for i in written[0].tolist() if i != END_ID])

def load_model(out, seed, name):
    """(model, tokenizer, last row) of the checkpoint `name`, "best" or "last", of a seed."""
    described = read_config(out)
    names = {f.name for f in fields(StudyConfig)} & described.keys()
    # (Without the device: it writes on the CPU, wherever it was trained.)
    config = StudyConfig(**{name: described[name] for name in names - {"device"}})
    model, tokenizer = Llama(config.model), BPETokenizer.load(out / "tokenizer.json")
    path = out / f"seed_{seed}" / f"{name}.pt"
    saved = read_checkpoint(path)
    if not saved and name == "last":  # perhaps a run is just renaming it
        saved = read_checkpoint(path.with_name("previous.pt"))
    need(saved, f"{path} is not there, or not whole")
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError:
        raise InputError(f"{path} is of another model than model.py builds from the config.json "
                         "of its run; train it anew, in another folder") from None
    return model, tokenizer, saved["rows"][-1]

def write(args):
    """--write: print what the best and the last checkpoint of a seed write after the prompt."""
    # What was asked, and of which model.
    own = given(args, StudyConfig)
    need(not own, f"--write takes its settings from the run; leave out --{', --'.join(own)}")
    how = WriteConfig(**given(args, WriteConfig))
    check_limits(how)
    need(how.temperature == 0 or how.temperature >= 0.01, "temperature must be 0, or 0.01 or more")
    out = args.out or Path("runs", args.preset)
    described = read_config(out)
    trained = [seed for seed in described.get("seeds", [])
               if (out / f"seed_{seed}" / "best.pt").exists()]
    need(trained, f"{out} holds no checkpoint; train first, or name a run's folder with --out")
    seed = trained[0] if args.seed is None else args.seed
    need(seed in trained, f"{out} holds no checkpoint of seed {seed}; it has {trained}")
    for name in ("model.py", "tokenizer.py"):
        if described.get(name) != LOADED[name]:  # exercise 16 is meant to be tried this way
            print(f"note: {name} was edited after this run, and writes as it is now")
    for name in ("best", "last"):
        model, tokenizer, row = load_model(out, seed, name)
        story = write_on(model, tokenizer, args.write, how)
        print(f"--- {name} checkpoint of seed {seed}: interval {row['interval']}, validation loss "
              f"{row['val_loss']:.3f}\n\n{printable(story)}\n", flush=True)

# ---------------------------------------------------------------- the command line

def settings_parser(description):
    """An argparse parser with every field of StudyConfig as an option."""
    parser = support.program.Parser(description=description + " Defaults are classroom's.")
    parser.add_argument("--preset", default="classroom", choices=list(PRESETS),
                        help="the settings of a whole study (default classroom)")
    parser.add_argument("--out", type=Path, help="run folder (default runs/PRESET)")
    parser.add_argument("--restart", action="store_true", help="put the run in --out aside")
    add_options(parser, StudyConfig)
    return parser

def config_from(args):
    """(the StudyConfig of parsed options, run folder)."""
    # Later names win: over the defaults stands the preset, and over that what was given.
    settings = {"preset": args.preset, **PRESETS[args.preset], **given(args, StudyConfig)}
    return StudyConfig(**settings), args.out or Path("runs", args.preset)

@contextlib.contextmanager
def telling_how_to_go_on(args):
    """Whoever stops the program, or reads of an error, hears how to go on: by the same command,
    but without --restart, which would put aside what is there now. Yields these last words."""
    without = "; when you give the command again, leave out --restart" if args.restart else ""
    try:
        yield without
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Nothing measured is lost; the same command continues from there"
                                f"{without}.") from None
    except (InputError, OSError) as error:
        if not without:
            raise
        raise type(error)(f"{error}{without}") from None

def print_row(seed, tokens_seen, row):
    """Progress for a pipe or a log file: one plain line for each measurement."""
    if row:
        print(f"seed {seed}  interval {row['interval']:3d}  {tokens_seen:>12,d} tokens  "
              f"validation loss {row['val_loss']:.4f}", flush=True)

def main():
    parser = settings_parser("Train one seed of a study, or let its model write.")
    parser.add_argument("--seed", type=int, metavar="X", help="which one (default: the first)")
    parser.add_argument("--write", metavar="TEXT", help="train nothing; print what the best and "
                        "the last checkpoint in --out write after TEXT, which may be empty")
    add_options(parser, WriteConfig)
    args = parser.parse_args()
    if args.write is not None:
        return write(args)
    need(not given(args, WriteConfig), "--chance, --temperature and --length go with --write")
    config, out = config_from(args)
    seed = config.seeds[0] if args.seed is None else args.seed
    need(seed in config.seeds, f"seed {seed} is not one of the study's {config.seeds}")
    text, _ = open_run(config, out, args.restart)
    with telling_how_to_go_on(args):
        train_seed(config, seed, text, out, print_row)
    print(f"Seed {seed} is complete: {out / f'seed_{seed}'}")

if __name__ == "__main__":
    support.program.run(main)
