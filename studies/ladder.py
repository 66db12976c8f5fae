"""The second study: what does each step of an architecture buy, and what does it cost?

A further study beside the chapters, which it does not need. That study (arXiv 2512.20877) climbs
from a linear predictor over an MLP and one attention block to small transformers, on the characters
of Shakespeare and the words of two corpora, and finds that attention gets more out of a FLOP than
an MLP. Its public notebook tells how the runs were made. Here they are made again, over several
seeds, and their cost is counted in three ways.

    python -m studies.ladder                       small version, embedded stories: three minutes
    python -m studies.ladder --part baseline       the four published models: 5 core-hours
    python -m studies.ladder --part baseline sweep positions words beyond       22 core-hours
    python -m studies.ladder --report_only         tables and figures of the rows that are there

What is special about this study, and differs from train.py: **one prediction a window**. A sample
is a window of 128 characters and the one after it, and the loss is that one's alone. So a
transformer computes 128 vectors and uses one, while an MLP uses all that it computes. Keep an eye
on that: it decides who is ahead.

Printed: a line for each finished epoch, then the tables, which report.html in runs/ has too.
Read on in ladder_report.py (what the rows show); ladder_runs.py is what makes the runs survive.
"""
if __name__ == "__main__":  # so that `python studies/ladder.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support.program  # first: from here on Ctrl-C prints no traceback

import hashlib, math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from data import download, stories
from support.files import InputError, need, read_records, read_text

HERE = Path(__file__).resolve().parent.parent
PUBLISHED = HERE / "data" / "published_ladder.csv"  # the 20 results of its tables
PUBLISHED_EPOCHS = HERE / "data" / "published_ladder_epochs.csv"

# ---------------------------------------------------------------- 1. The rungs
# A rung is everything that decides a result, but for the text and the seed.

@dataclass(frozen=True)
class Rung:
    part: str  # baseline, sweep, positions, words; beyond: not in the published study; small
    model: str  # linear, mlp, attention, transformer, pre-norm transformer, transformer on ...
    text: str = "tinyshakespeare"  # or ptb, wikitext-2, stories
    context: int = 128  # tokens in a window, before the one to predict
    hidden: int = 0  # width of an mlp's two layers or of a block's ReLU layer; 0: there is none
    heads: int = 0  # of attention
    layers: int = 0  # blocks
    positions: str = ""  # learned or rotary; the flat models need none
    epochs: int = 3
    windows_per_epoch: int = 50_000  # an "epoch" here is only a number of windows
    batch_size: int = 64  # windows in one optimizer step
    test_windows: int = 10_000  # of validation and of test, the first ones
    every: bool = False  # a loss at every position of the window, not only after it
    also_at: tuple = ()  # windows after which to measure, too

    def measured_at(self):
        """After how many training windows the model is measured, in order."""
        epoch_ends = range(1, self.epochs + 1)
        points = {self.windows_per_epoch * end for end in epoch_ends} | set(self.also_at)
        return sorted(points)

    def windows(self):
        """How many windows it trains on in all."""
        return self.measured_at()[-1]

# ---------------------------------------------------------------- 2. The models
# KEEP: from this line to "up to here" stands what decides a row, beside rung, text and seed.
# A change of anything but comments there makes another study, whose rows do not mix with these.

N_EMBD = 128  # numbers that stand for one token
DROPOUT = 0.1  # share of numbers that are set to 0 in training, so that none is relied upon
LEARNING_RATE = 3e-4  # constant
CHUNK = 128  # windows at once in evaluation

def keep_mask(shape):
    """1.0 where a number is kept, 0.0 where it is dropped.

    F.dropout does the same and took a third of the time of a training step: it draws a whole
    random number for each. Two random bytes are enough: 6,554 of their 65,536 values mean "drop".
    """
    n = math.prod(shape)
    words = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-2**63, None)  # 8 bytes each
    dice = words.view(torch.int16)[:n].view(shape)  # each from -32,768 to 32,767
    threshold = round(DROPOUT * 65_536) - 32_768
    return torch.ge(dice, threshold, out=torch.empty(shape))

def dropout(x, training):
    """x with a tenth of its numbers dropped; the others grow, so that the mean stays."""
    if not training:
        return x
    return x * keep_mask(x.shape).mul_(1 / (1 - DROPOUT))

class Flat(nn.Module):
    """linear: the embeddings of the window side by side and one matrix to the scores.
    mlp: two hidden ReLU layers between, each with dropout (Bengio et al. 2003: one of tanh).

    Each place of the window has weights of its own, so beyond the embedding what is learned of
    one place helps in no other; and a window passes through every weight exactly once.
    """

    def __init__(self, rung, vocab_size):
        super().__init__()
        widths = [rung.context * N_EMBD, vocab_size]
        if rung.model == "mlp":
            widths[1:1] = [rung.hidden, rung.hidden]
        self.embedding = nn.Embedding(vocab_size, N_EMBD)
        pairs = zip(widths, widths[1:])
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairs)

    def forward(self, tokens, every=False, whole=False):
        """Scores (B, V) of the token after each window; every: (B, T, V), after each token."""
        x = self.embedding(tokens)  # (B, T, C)
        if every:
            # The prefix that ends at each token, as a window of its own: zeros stand before it.
            T = x.shape[1]
            x = F.pad(x, (0, 0, T - 1, 0)).unfold(1, T, 1).transpose(2, 3)  # (B, T, T, C)
        x = x.flatten(-2)
        for layer in self.layers[:-1]:
            x = dropout(F.relu(layer(x)), self.training)
        return self.layers[-1](x)

def rotate(x, table):
    """Rotary positions: turn number i and number i + D/2 of each vector by the place's angle."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]  # halves, not neighbours
    cos, sin = table
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

class Attention(nn.Module):
    """Causal attention with biases; x (B, T, C) to (B, T, C), or to (B, 1, C) if only the last
    position is wanted: then one query a head, but all keys and values."""

    def __init__(self, rung, drop_weights):
        super().__init__()
        self.heads, self.drop_weights = rung.heads, drop_weights
        self.query = nn.Linear(N_EMBD, N_EMBD)
        self.key = nn.Linear(N_EMBD, N_EMBD)
        self.value = nn.Linear(N_EMBD, N_EMBD)
        self.output = nn.Linear(N_EMBD, N_EMBD)
        # Added to the scores: 0 up to a place, minus infinity after it.
        future = torch.full((rung.context, rung.context), -math.inf).triu(1)
        self.register_buffer("future", future, persistent=False)
        # The angles of rotary positions: place times base ** -(0, 2/D, 4/D, ...).
        n = N_EMBD // rung.heads // 2
        speeds = 10_000.0 ** -(torch.arange(n) / n)
        angles = torch.arange(rung.context)[:, None] * speeds  # (T, D/2)
        self.rotary = rung.positions == "rotary"
        self.register_buffer("angles", angles, persistent=False)

    def split(self, x):
        """(B, T, C) -> (B, H, T, D): every head gets its own D of the C numbers."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, last):
        q = self.split(self.query(x[:, -1:] if last else x))
        k = self.split(self.key(x))
        v = self.split(self.value(x))
        if self.rotary:
            table = self.angles.cos(), self.angles.sin()
            k = rotate(k, table)
            q = rotate(q, (table[0][-1:], table[1][-1:]) if last else table)
        if self.drop_weights and self.training:
            # Written out: some weights are dropped after softmax.
            scores = (q * k.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, T or 1, T)
            if not last:
                scores = scores + self.future
            weights = scores.softmax(-1)
            y = (weights * keep_mask(weights.shape)) @ (v * (1 / (1 - DROPOUT)))
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=not last)
        return self.output(y.transpose(1, 2).flatten(2))

class Block(nn.Module):
    """Attention, then a ReLU layer for each position; each is added to what went in.

    Post-norm, as in 2017: LayerNorm after each addition. Pre-norm, as since GPT-2: before each
    part, so that a straight path leads through all additions. The two published models also put
    their dropout in different places.
    """

    def __init__(self, rung):
        super().__init__()
        self.pre_norm = rung.model.startswith("pre-norm")
        self.attention = Attention(rung, drop_weights=not self.pre_norm)
        self.norm1 = nn.LayerNorm(N_EMBD)
        self.norm2 = nn.LayerNorm(N_EMBD)
        self.widen = nn.Linear(N_EMBD, rung.hidden)
        self.narrow = nn.Linear(rung.hidden, N_EMBD)

    def relu_layer(self, x):
        return dropout(self.narrow(F.relu(self.widen(x))), self.training)

    def forward(self, x, last):
        """x (B, T, C) to (B, T, C); last: only the last position of it, (B, 1, C)."""
        wanted = x[:, -1:] if last else x
        if self.pre_norm:
            y = wanted + dropout(self.attention(self.norm1(x), last), self.training)
            return y + dropout(self.relu_layer(self.norm2(y)), self.training)  # twice dropped
        y = self.norm1(wanted + self.attention(x, last))
        return self.norm2(y + self.relu_layer(y))

class Transformer(nn.Module):
    """attention (one block) and transformer (several): embedding, places, blocks, scores."""

    def __init__(self, rung, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, N_EMBD)
        self.place = None
        if rung.positions == "learned":
            self.place = nn.Embedding(rung.context, N_EMBD)
        self.blocks = nn.ModuleList(Block(rung) for _ in range(rung.layers))
        self.norm = nn.LayerNorm(N_EMBD)
        self.output = nn.Linear(N_EMBD, vocab_size)

    def forward(self, tokens, every=False, whole=False):
        """Scores (B, V) of the token after each window; every: (B, T, V), after each token.

        Only the last position is used, so the last block computes no other. whole: it does, as
        the published code did, and the result is the same.
        """
        x = self.embedding(tokens)  # (B, T, C)
        if self.place is not None:
            x = x + self.place.weight
        for block in self.blocks[:-1]:
            x = block(x, last=False)
        x = self.blocks[-1](x, last=not (every or whole))
        if not every:
            x = x[:, -1]
        return self.output(self.norm(x))

def build(rung, vocab_size):
    """The rung's model with fresh weights, torch's own (and drawn by torch's generator)."""
    flat = rung.model in ("linear", "mlp")
    return Flat(rung, vocab_size) if flat else Transformer(rung, vocab_size)

# ---------------------------------------------------------------- 3. The loop

def windows_of(ids, rung):
    """Every window of a text and the token after it, (number of windows, T + 1); copies nothing."""
    return torch.from_numpy(ids).unfold(0, rung.context + 1, 1)

def train_epoch(model, optimizer, windows, rung, n, tick):
    """Train on n windows from random places. Their mean loss in nats."""
    model.train()
    # Places are drawn anew every time and with replacement, from the generator that
    # also draws weights and dropout; its state is in the checkpoint.
    places = torch.randint(len(windows), (n,))
    total = 0.0
    for batch in places.split(rung.batch_size):
        tokens = windows[batch]  # (B, T + 1)
        scores = model(tokens[:, :-1], every=rung.every)
        # One target a window, the token after it; or the next token at every position.
        targets = tokens[:, 1:] if rung.every else tokens[:, -1]
        loss = F.cross_entropy(scores.flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
        tick(len(batch))
    return total / n

@torch.no_grad()
def evaluate(model, windows, rung, tick=lambda n: None):
    """Mean loss in nats of the token after the first windows of a text, one token apart."""
    model.eval()
    total = 0.0
    windows = windows[: rung.test_windows]
    for tokens in windows.split(CHUNK):
        scores = model(tokens[:, :-1])
        total += F.cross_entropy(scores, tokens[:, -1], reduction="sum").item()
        tick(0)
    return total / len(windows)

def train(rung, seed, text, state=None, save=lambda state: None, tick=lambda n: None):
    """Train one rung with one seed; a list of points, one for each time it was measured.

    A point is a dict: windows so far, train_nll since the point before, valid_nll, test_nll of the
    best weights so far by validation (nan: not tested yet). state: what `save` was given, to go on
    from there; the result is the same to the last bit. tick(n): n more windows are trained; 0:
    testing.
    """
    torch.manual_seed(seed)
    model = build(rung, text.vocab_size)
    # Adam as published, no weight decay; "fused" is the same in one pass over the weights.
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    points, best = [], {}
    if state:
        points, best = state["points"], state["best"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
    training, valid, test = [windows_of(ids, rung) for ids in (text.train, text.valid, text.test)]
    for end in rung.measured_at()[len(points):]:
        start = points[-1]["windows"] if points else 0
        train_nll = train_epoch(model, optimizer, training, rung, end - start, tick)
        valid_nll = evaluate(model, valid, rung, tick)
        test_nll = points[-1]["test_nll"] if points else math.nan
        if valid_nll < min((point["valid_nll"] for point in points), default=math.inf):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            test_nll = math.nan  # not tested yet
        # The test is expensive: once, at the end, and all along only where a curve is wanted.
        if math.isnan(test_nll) and (end == rung.windows() or rung.also_at):
            test_nll = test_best(model, best, test, rung, tick)
        points.append({"windows": end, "train_nll": train_nll, "valid_nll": valid_nll,
                       "test_nll": test_nll})
        save({"points": points, "best": best, "model": model.state_dict(),
              "optimizer": optimizer.state_dict(), "generator": torch.get_rng_state()})
    return points

def test_best(model, best, test, rung, tick):
    """The loss on the test text of the weights `best`; the model keeps its own."""
    present = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    loss = evaluate(model, test, rung, tick)
    model.load_state_dict(present)
    return loss

# KEEP: up to here.

# ---------------------------------------------------------------- 4. Text

@dataclass
class Text:
    train: np.ndarray  # token ids, int64
    valid: np.ndarray
    test: np.ndarray
    vocab_size: int
    sha256: str  # of all this: rows of another text do not mix with these

WORDS = {"train": 80_000, "valid": 20_000, "test": 20_000}  # so many of each text are used
# The parts of a corpus and what their files are called in a folder given by --text.
FILES = {"tinyshakespeare": {"input": ("tinyshakespeare.txt", "input.txt")},
         "ptb": {part: (f"ptb.{part}.txt",) for part in WORDS},
         "wikitext-2": {part: (f"wiki.{part}.tokens", f"{part}.txt") for part in WORDS}}
SMALL_STORIES = 3_000  # of the embedded ones, in the small version

def load_text(name, folder=None):
    """The Text called `name`, from a folder or downloaded. InputError if it is missing or short."""
    if name == "stories":
        return characters("\n\n".join(stories.first_stories("train", SMALL_STORIES)))
    if folder:
        parts = {part: find(Path(folder), name, part) for part in FILES[name]}
    else:
        parts, _ = download.texts(name)
    return characters(parts["input"]) if name == "tinyshakespeare" else words(parts, name)

def find(folder, name, part):
    """The text of a part of a corpus, from the folder or the corpus's own folder in it."""
    need(folder.is_dir(), f"there is no folder {folder}; --text takes the folder of the texts")
    places = [folder / name / file for file in FILES[name][part]]
    places += [folder / file for file in FILES[name][part] if name in file or part in file]
    for path in places:
        if path.exists():
            return read_text(path).replace("\r\n", "\n")
    raise InputError(f"the {part} text of {name} is not in {folder}; it would be {places[0]}")

def characters(text):
    """Every character is a token. Cut in three as published: 80 %, 10 % and 10 %, nearly."""
    need(text, "the text is empty")
    vocabulary = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = np.array([vocabulary[character] for character in text])
    # The published cuts of a text of 1,115,394 characters, and the same shares of any other.
    first = len(ids) * 892_117 // 1_115_394
    second = len(ids) * (892_117 + 111_669) // 1_115_394
    last = len(ids) * 111_606 // 1_115_394  # (two characters before it belong to none)
    return as_text(ids[:first], ids[first:second], ids[len(ids) - last:], len(vocabulary))

def words(parts, name):
    """Every word is a token, line ends are none; of each part only the first words are used."""
    vocabulary = {word: i for i, word in enumerate(sorted(set(parts["train"].split())))}
    ids = {}
    for part, n in WORDS.items():
        used = parts[part].split()[:n]
        unknown = [word for word in used if word not in vocabulary]
        need(not unknown, f"the {part} text of {name} has words that its training text lacks, "
             f"{len(unknown)} of {len(used)}; replace them by a word that it has, such as <unk>")
        ids[part] = np.array([vocabulary[word] for word in used])
    return as_text(ids["train"], ids["valid"], ids["test"], len(vocabulary))

def as_text(train, valid, test, vocab_size):
    digest = hashlib.sha256(str(vocab_size).encode("ascii"))
    for ids in (train, valid, test):
        # (int32, little-endian: the same bytes on every machine; with the length between.)
        digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i4").tobytes())
    return Text(train.astype(np.int64), valid.astype(np.int64), test.astype(np.int64),
                vocab_size, digest.hexdigest()[:16])

def check_text(text, rung):
    """InputError if a part of the text is too short for one window and the token after it."""
    for part in WORDS:
        n = len(getattr(text, part))
        need(n > rung.context, f"the {part} part of {rung.text} has {n} tokens, too few for a "
             f"window of {rung.context} and the one after it; give a longer text")

# ---------------------------------------------------------------- 5. Three counts
# A matrix product of (n, a) by (a, b) takes 2 n a b operations: a multiplication and an addition
# for each. Training takes 3 times the forward pass: the backward pass makes two products of each,
# one for the gradient of the weights and one for that of what went in.

def flops_published(rung, parameters):
    """Of the whole training, by the published formula: 2 x parameters x context x windows in all.

    For every model alike. But a flat model passes a window through its weights once and not
    `context` times; training takes 6 operations a weight and not 2; the products of attention are
    not in it, and embeddings, which multiply nothing, are.
    """
    context = 64 if rung.part == "positions" else rung.context  # it wrote 64 for 128
    return 2 * parameters * rung.windows() * context

def flops_window(rung, vocab_size, needed):
    """Of one training window, by matrix products.

    needed: the last block only computes what the last position needs, which is keys and values of
    all positions, but query, output, ReLU layer and scores of one. Else: as published, all.
    (For one query less would do, since q (W x) = (q W) x asks for no keys; nobody computes so.)
    """
    T, C, V = rung.context, N_EMBD, vocab_size
    predictions = T if rung.every else 1
    if rung.layers == 0:
        inside = rung.hidden * rung.hidden + rung.hidden * V if rung.hidden else 0
        return 3 * 2 * (T * C * (rung.hidden or V) + inside) * predictions
    multiplications = predictions * C * V  # the scores
    for layer in range(1, rung.layers + 1):
        spare = needed and layer == rung.layers and not rung.every
        n = 1 if spare else T  # positions that the block computes
        multiplications += 2 * T * C * C  # keys and values
        multiplications += 2 * n * C * C  # queries and output
        multiplications += 2 * n * T * C  # queries times keys, weights times values
        multiplications += 2 * n * C * rung.hidden  # the ReLU layer's two
    return 3 * 2 * multiplications

def count_parameters(rung, vocab_size):
    with torch.device("meta"):  # tensors that have a shape and no numbers
        model = build(rung, vocab_size)
    return sum(parameter.numel() for parameter in model.parameters())

# ---------------------------------------------------------------- 6. What is run
PARTS = ["baseline", "sweep", "positions", "words", "beyond"]
SEEDS = [101, 202, 303, 404, 505]  # of baseline and sweep; positions and words take longer and have
FEWER = SEEDS[:3]  # these
BUDGET = 1e13  # operations for each model with a loss at every position

def number_or_zero(cell):
    return int(cell) if cell else 0

def published_rows():
    """The published table: a list of (Rung, record of the csv file)."""
    rows = []
    for record in read_records(PUBLISHED):
        part, model = record["part"], record["model"]
        corpus = model.partition(" on ")[2] or "tinyshakespeare"
        rung = Rung(part, model, corpus, int(record["context"]), number_or_zero(record["hidden"]),
                    number_or_zero(record["heads"]), number_or_zero(record["layers"]),
                    record["positions"], int(record["epochs"]), int(record["windows_per_epoch"]),
                    batch_size=32 if part == "words" else 64,
                    test_windows={"sweep": 5_000, "words": 20_000}.get(part, 10_000))
        rows.append((rung, record))
    return rows

def rungs_of(part, vocab_size=65):
    """The rungs of a part, those of a published one by their cost."""
    published = [rung for rung, _ in published_rows()]
    baseline = [rung for rung in published if rung.part == "baseline"]
    if part == "small":
        return [replace(rung, part=part, text="stories", context=64, windows_per_epoch=5_000,
                        test_windows=2_000) for rung in baseline]
    if part == "beyond":
        return longer(baseline, vocab_size) + at_every_position(baseline, vocab_size)
    rungs = [rung for rung in published if rung.part == part]
    return sorted(rungs, key=lambda rung: work(rung, vocab_size))

def longer(baseline, vocab_size):
    """linear and mlp, trained on to what attention costs by each of the three counts."""
    linear, mlp, attention, _ = baseline
    rungs = []
    for rung in (linear, mlp):
        published = flops_published(attention, count_parameters(attention, vocab_size))
        per_window = 2 * count_parameters(rung, vocab_size) * rung.context
        budgets = [round(published / per_window)]
        for needed in (True, False):
            cost = attention.windows() * flops_window(attention, vocab_size, needed)
            budgets.append(round(cost / flops_window(rung, vocab_size, needed)))
        epochs = budgets[-1] // rung.windows_per_epoch
        rungs.append(replace(rung, part="beyond", epochs=epochs, also_at=tuple(budgets)))
    return rungs

def at_every_position(baseline, vocab_size):
    """The four models with a loss at every position, BUDGET each, with three sizes of batch."""
    rungs = []
    for rung in baseline:
        for batch_size in (64, 16, 4):
            every = replace(rung, part="beyond", every=True, batch_size=batch_size, epochs=4)
            windows = BUDGET / flops_window(every, vocab_size, needed=False) / every.epochs
            rungs.append(replace(every, windows_per_epoch=round(windows)))
    return rungs

def work(rung, vocab_size):
    """About how many seconds one core needs: for the time left, and for the order of a part."""
    products = rung.windows() * flops_window(rung, vocab_size, needed=True) / 6e10
    # Adam passes over all weights in every step.
    steps = rung.windows() / rung.batch_size
    return products + steps * (0.001 + 3e-9 * count_parameters(rung, vocab_size))

if __name__ == "__main__":
    # The command line, rows that survive and processes that share the cores: no part of what is
    # studied; skip it at first.
    from studies.ladder_runs import main
    support.program.run(main)
