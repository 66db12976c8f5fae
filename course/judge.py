"""The judges of the exercises: what is right, and what not yet.

    python test_all.py exercise 4            the same as  python -m course.judge 4
    python -m course.judge 5 12 0.78 9 0.99  with the answers to its questions, where none can ask

What to do stands in the chapters, at `# EXERCISE N:`. A judge prints a line for each thing that is
asked there, "ok" or "NOT", and after NOT what was expected, what came, and for which input.

Three rules keep a judge honest. Its cases are drawn afresh at every call, small and large, high and
low: numbers that fit one draw fit no other. It compares with something slower that nobody would
hand in (all subsets, all signs, a model written out in float64), never the new with itself. And
what the text says is tried, what the text leaves open is not.
"""
from support.program import run  # first: from here on Ctrl-C is one line

import contextlib, copy, itertools, math, re, subprocess, sys, tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import model, stats, telemetry, tokenizer, train
from course.bugs import judge_11  # with the text of the exercise
from course.sheet import ROOT, Sheet, alike, ask_turn, finished_run, short, where
from support.files import InputError, need, read_json

# ---------------------------------------------------------------- tokenizer.py

AS_GIVEN = re.compile(  # CHUNK before any exercise
    r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]{1,64}| ?\d{1,64}| ?(?:[^\s\w]|_){1,64}"
    r"|\s{1,64}(?!\S)|\s{1,64}")
PIECES = ["Mia", "sat", "don't", "'s", "I'LL", "été", "мир", "日本", "x", "_", "?!", "\U0001f642",
          " ", " ", " ", " ", "  ", "\n", "\n\n ", "\t", "²", "7", "19", "30512", "٣٤", "０５０５０",
          "a" * 70, "8" * 70]

def draw_texts(rng, cut):
    """[((text,), chunks)]: the chunks are those of CHUNK as given, each cut further by `cut`."""
    cases = []
    for _ in range(400):
        text = "".join(rng.choice(PIECES, rng.integers(1, 12)))
        chunks = [part for chunk in AS_GIVEN.findall(text) for part in cut(chunk)]
        cases.append(((text,), chunks))
    return cases

def judge_1(sheet):
    """Words without their space (CHUNK in tokenizer.py)."""
    def cut(chunk):
        return [" ", chunk[1:]] if re.fullmatch(r" [^\W\d_]+", chunk) else [chunk]

    sheet.cases("a space before a word is a chunk of its own, all else is cut as it was",
                lambda text: tokenizer.CHUNK.findall(text), draw_texts(sheet.rng, cut))
    means = finished_run(sheet, "words")
    if means is None:
        return
    try:
        run_of = tokenizer.BPETokenizer.load(ROOT / "runs" / "words" / "tokenizer.json")
        sheet.line(not any(re.match(rb" [a-z]", piece) for piece in run_of.pieces),
                   "it was run with words without their space", "it knows words with their space")
    except InputError as error:
        sheet.line(False, "it was run with the present CHUNK", error)
    lowest = int(means["val_loss"].argmin())
    sheet.number("runs/words: the lowest mean validation loss, to two decimals?",
                 means["val_loss"][lowest], 0.0051)
    sheet.number("runs/words: the mean bits_per_byte at that interval, to two decimals?",
                 means["bits_per_byte"][lowest], 0.0051)

def judge_10(sheet):
    """Digits one by one (CHUNK in tokenizer.py)."""
    def cut(chunk):  # a space before the digits becomes a part too
        return list(chunk) if chunk[-1].isdecimal() else [chunk]

    def find(text):  # " 7" and " ", "7" are the same here, for the exercise allows both
        chunks = tokenizer.CHUNK.findall(text)
        return [part for chunk in chunks for part in re.findall(r"^ (?=\d$)|.+", chunk, re.S)]

    sheet.cases("every digit is a chunk of its own, all else is cut as it was", find,
                draw_texts(sheet.rng, cut))
    sums = [f"{a} + {b} = {a + b}" for a, b in sheet.rng.integers(100, 1000, (400, 2))]
    learned = tokenizer.BPETokenizer.train(sums, 400)
    pairs = [piece for piece in learned.pieces if re.search(rb"\d\d", piece)]
    sheet.line(not pairs, "from sums no token of two digits is learned", f"but {pairs[:5]}")
    with patch.object(tokenizer, "CHUNK", AS_GIVEN):
        before = len(tokenizer.BPETokenizer.train(sums, 400).encode(sums[0]))
    print(f"       {sums[0]!r}: {before} tokens with digits together, "
          f"{len(learned.encode(sums[0]))} one by one")

def draw_merges(rng):
    """(text, [pair -> how often it occurs] before each of three merges, none of them a tie)."""
    steps = []
    while len(steps) < 3:
        syllables = [rng.choice(list("mnrst")) + rng.choice(list("aeio")) for _ in range(4)]
        words = ["".join(rng.choice(syllables, 2)) for _ in range(6)]
        chunks = [list(words[0])] + [["_", *word] for word in words[1:]]
        steps = []
        for _ in range(3):
            counts = Counter()
            for chunk in chunks:
                counts.update(f"{a}+{b}" for a, b in zip(chunk, chunk[1:]))
            (best, n), (_, second) = counts.most_common(2)
            if n == second:
                break  # a tie: draw another text
            steps.append(counts)
            chunks = [tokenizer.merge(chunk, best.split("+"), best.replace("+", ""))
                      for chunk in chunks]
    return " ".join(words), steps

def judge_14(sheet):
    """The first three merges of a short text, by pencil (slow_bpe in tokenizer.py)."""
    # A text has a number, so that its answers can follow on the command line.
    number = sheet.answers.pop(0) if sheet.answers else str(sheet.rng.integers(10**6))
    need(number.isdecimal(), "exercise 14 takes the number of a text, and then three merges")
    text, steps = draw_merges(np.random.default_rng(int(number)))
    print(f"       Text {number}:   {text}\n       Write a merge as left+right, a space as _: m+o "
          "or _+mo. None of the three is a tie.")
    answers = sheet.answers or sheet.ask("Three merges, a space between:").split()
    for i, counts in enumerate(steps):
        came = answers[i] if i < len(answers) else "nothing"
        most = max(counts.values())
        sheet.line(counts[came] == most, f"merge {i + 1}: {came}", f"after the right merges before "
                   f"it, it stands there {counts[came]} times, and another pair {most} times")
    if sheet.failed:
        print(f"       The same text again: python -m course.judge 14 {number} and three merges")

# ---------------------------------------------------------------- model.py

def draw_model(rng):
    """A tiny Llama with weights so large that its text is varied."""
    heads = int(rng.integers(1, 4))
    config = model.ModelConfig(
        vocab_size=int(rng.integers(30, 60)), block_size=int(rng.integers(12, 20)),
        n_layer=int(rng.integers(1, 4)), n_head=heads, n_embd=8 * heads)
    return enlarge(model.Llama(config), rng)

def enlarge(network, rng):
    """Add noise to every weight, the norms' too."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.from_numpy(rng.normal(0, 0.2, parameter.shape))
    return network

def draw_tokens(rng, network, *shape):
    return torch.from_numpy(rng.integers(network.config.vocab_size, size=shape))

def formula(network, tokens):
    """The scores (B, T, V) of a Llama by its papers' equations, in float64."""
    w = {name: p.double() for name, p in network.named_parameters()}
    config = network.config
    T, H, D = tokens.shape[1], config.n_head, config.n_embd // config.n_head
    # A rotation by t is exp(t G), where G holds the speed of each pair of dimensions.
    G = torch.zeros(D, D, dtype=torch.float64)
    for i in range(0, D, 2):
        G[i + 1, i] = config.rope_base ** (-i / D)
        G[i, i + 1] = -G[i + 1, i]
    R = torch.matrix_exp(torch.arange(T)[:, None, None] * G)  # (T, D, D)
    future = torch.ones(T, T).triu(1) > 0

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight

    x = w["embedding.weight"][tokens]
    for i in range(config.n_layer):
        part = {name.split(".", 2)[2]: p for name, p in w.items() if f"blocks.{i}." in name}
        h = norm(x, part["attention_norm.weight"])
        q = (h @ part["attention.query.weight"].T).unflatten(-1, (H, D))
        k = (h @ part["attention.key.weight"].T).unflatten(-1, (H, D))
        v = (h @ part["attention.value.weight"].T).unflatten(-1, (H, D))
        scores = torch.einsum("tij,bthj,sik,bshk->bhts", R, q, R, k) / D ** 0.5
        heard = scores.masked_fill(future, -math.inf).softmax(-1)
        heard = torch.einsum("bhts,bshd->bthd", heard, v).flatten(-2)
        x = x + heard @ part["attention.output.weight"].T
        h = norm(x, part["feed_forward_norm.weight"])
        gate = h @ part["feed_forward.gate.weight"].T
        gated = gate * gate.sigmoid() * (h @ part["feed_forward.up.weight"].T)
        x = x + gated @ part["feed_forward.down.weight"].T
    return norm(x, w["norm.weight"]) @ w["embedding.weight"].T

def loss_by_formula(network, x, y):
    """The loss of each token, (B, T)."""
    return F.cross_entropy(formula(network, x).transpose(1, 2), y, reduction="none")

@torch.no_grad()
def write(network, tokens, n_new, temperature, seed, stop=None):
    """What generate must write: every token from its whole window, by the formula."""
    chance = torch.Generator().manual_seed(seed)
    for _ in range(n_new):
        scores = formula(network, tokens[:, -network.config.block_size :])[:, -1]
        new = scores.argmax(-1, keepdim=True)
        if temperature > 0:
            shares = (scores / temperature).softmax(-1).float()
            new = torch.multinomial(shares, 1, generator=chance)
        tokens = torch.cat([tokens, new], dim=1)
        if new.item() == stop:
            break
    return tokens

def same_texts(sheet, network, what, prompt, n_new, stops=False, **more):
    """A line: generate writes what `write` writes, at three temperatures."""
    def generate(tokens, n_new, temperature, seed, stop=None):
        chance = torch.Generator().manual_seed(seed)
        return network.generate(tokens, n_new, temperature, chance, stop, **more)

    cases = []
    for temperature in (0, 1, float(sheet.rng.uniform(0.3, 2))):
        seed = int(sheet.rng.integers(2**31))
        given = (draw_tokens(sheet.rng, network, 1, prompt), n_new, temperature, seed)
        if stops:  # at a token that will come
            given += (write(network, *given)[0, prompt + n_new // 2].item(),)
        cases.append((given, write(network, *given)))
    return sheet.cases(what, generate, cases)

def judge_4(sheet):
    """A cache of keys and values (generate in model.py)."""
    network = draw_model(sheet.rng)
    config, names = network.config, sorted(network.state_dict())
    T, C = config.block_size, config.n_embd
    same_texts(sheet, network, "the same text within the window, at any temperature", 3, T - 3)
    same_texts(sheet, network, "from a single token", 1, T - 1)
    same_texts(sheet, network, "beyond the window", 5, 2 * T)
    same_texts(sheet, network, "from more tokens than a window holds", T + 7, 9)
    same_texts(sheet, network, "it ends with `stop`", 3, T - 4, stops=True)
    enlarge(network, sheet.rng)
    same_texts(sheet, network, "with other weights: nothing is left of the texts before", 4, 9)

    def by_torchs_own(tokens, n_new, temperature, seed):
        torch.manual_seed(seed)
        return network.generate(tokens, n_new)

    given = (draw_tokens(sheet.rng, network, 1, 2), 6, 1, 7)
    sheet.cases("without a generator: by torch's own", by_torchs_own,
                [(given, write(network, *given))])

    def training(x, y):
        loss = network(x, y)[1]
        return [loss.item(), *torch.autograd.grad(loss, list(network.parameters()))]

    x, y = draw_tokens(sheet.rng, network, 2, 3, T)
    loss = loss_by_formula(network, x, y).mean()
    expected = [loss.item(), *torch.autograd.grad(loss, list(network.parameters()))]
    sheet.cases("training has the loss and the gradients of the formulas", training,
                [((x, y), expected)], 1e-4)
    sheet.line(sorted(network.state_dict()) == names, "a checkpoint holds what it held",
               f"expected  {names}", f"but came  {sorted(network.state_dict())}")
    # T tokens once: 2 FLOPs for each weight, and attention's two products.
    weights = config.n_layer * (4 * C * C + 3 * C * config.n_hidden) + config.vocab_size * C
    limit = 1.1 * (2 * T * weights + 4 * config.n_layer * T * T * C)
    with FlopCounterMode(display=False) as counter:
        network.generate(draw_tokens(sheet.rng, network, 1, 3), T - 3)
    cost = counter.get_total_flops()
    sheet.line(0 < cost <= limit, f"from 3 tokens to {T}: {cost:,d} FLOPs in matrix products",
               f"one pass over {T} tokens, and a tenth, is {limit:,.0f}")

def judge_16(sheet):
    """Top-k sampling (generate in model.py)."""
    network = draw_model(sheet.rng)
    V = network.config.vocab_size
    same_texts(sheet, network, "without top_k all is as before", 3, 20)
    same_texts(sheet, network, "and with None, stop too", 3, 20, stops=True, top_k=None)
    start = draw_tokens(sheet.rng, network, 1, 4)
    for k, temperature in ((3, 0.3), (7, 3.0), (V + 5, float(sheet.rng.uniform(0.3, 3)))):
        with torch.no_grad():
            shares = (formula(network, start)[0, -1] / temperature).softmax(-1).numpy()
        likeliest = sorted(range(V), key=lambda token: -shares[token])[:k]
        expected = 2000 * shares[likeliest] / shares[likeliest].sum()
        what = f"top_k={k} of {V} tokens, temperature {temperature:.1f}: the shares in 2,000 draws"
        try:
            drawn = Counter(network.generate(start, 1, temperature, top_k=k)[0, -1].item()
                            for _ in range(2000))
        except Exception as error:
            sheet.line(False, what, where(error))
            continue
        counts = np.array([drawn[token] for token in likeliest])
        by_chance = 6 * np.sqrt(expected) + 6  # hardly ever is a count further off than that
        right = counts.sum() == 2000 and (abs(counts - expected) < by_chance).all()
        sheet.line(right, what, f"expected  about {short(expected.round())} of the {k} likeliest",
                   f"but came  {short(counts)}, and {2000 - counts.sum()} of others")
    greedy = write(network, start, 30, 0, 1)
    stop = greedy[0, -5].item()
    sheet.cases(
        "top_k=1: the likeliest at every step, whatever the temperature; stop ends it",
        lambda tokens, temperature, stop: network.generate(tokens, 30, temperature, stop=stop, top_k=1),
        [((start, 1.7, None), greedy), ((start, 0.6, stop), write(network, start, 30, 0, 1, stop))])

# ---------------------------------------------------------------- train.py

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
    rng = sheet.rng

    def learning_rate(schedule, tokens, settings):
        config = train.StudyConfig(**SMOKE | settings | schedule)
        before = asdict(config)
        came = train.learning_rate(tokens, config)
        need(asdict(config) == before, "learning_rate changes the settings")
        return came

    for schedule in ("cosine", "constant", "warmup"):
        cases = []
        for _ in range(200):
            peak, warmup = 10 ** rng.uniform(-5, -1), int(rng.integers(3000))
            settings = {"peak_lr": peak, "final_lr": peak * rng.uniform(), "warmup_tokens": warmup,
                        "decay_tokens": int(rng.integers(3000, 9000))}
            tokens = int(rng.choice([0, 1, warmup, settings["decay_tokens"], rng.integers(10**4)]))
            named = {} if schedule == "cosine" and rng.integers(2) else {"schedule": schedule}
            cases.append(((named, tokens, settings), rate(schedule, tokens, settings)))
        sheet.cases(f"the rates of {schedule!r}", learning_rate, cases, 1e-9)
    words = ["", "Constant", "linear", "warm-up", "none", "cosine ", "warmup+cosine", None, 1]
    sheet.refuses("any other word is refused", lambda word: train.StudyConfig(schedule=word), words)
    sheet.cases("--schedule on the command line", option, [(("schedule", "warmup"), "warmup")])

    def rates_used(schedule):
        used, step = [], torch.optim.AdamW.step

        def spy(optimizer, *more, **named):
            used.append(optimizer.param_groups[0]["lr"])
            return step(optimizer, *more, **named)

        with patch.object(torch.optim.AdamW, "step", spy):
            trained(train.StudyConfig(**SMOKE, schedule=schedule), rng.integers(300, size=700))
        return used

    cases = []
    for word in ("constant", "warmup"):
        rates = [rate(word, 64 * step, SMOKE | {"peak_lr": 4e-3, "final_lr": 4e-4})
                 for step in range(40)]
        cases.append(((word,), rates))
    sheet.cases("a seed is trained by them", rates_used, cases, 1e-9)
    for word in ("constant", "warmup"):
        means = finished_run(sheet, word, schedule=word)
        if means is None:
            continue
        config = read_json(ROOT / "runs" / word / "config.json")
        rates = np.array([rate(word, tokens, config) for tokens in means["tokens_seen"]])
        sheet.line(alike(means["learning_rate"], rates, 1e-6), "it was trained by those rates",
                   f"expected  {short(rates)}", f"but came  {short(means['learning_rate'])}")
        ask_turn(sheet, word, means)

# Losses of seed 101 on fixed ids at intervals 1, 4, 7 and 10, from the code without dropout.
BEFORE_DROPOUT = {"train_loss": [5.700763, 5.313504, 5.029814, 4.876825],
                  "val_loss": [5.658364, 5.276428, 5.045706, 4.964780]}

def judge_19(sheet):
    """Dropout (a setting in train.py, and Block in model.py)."""
    rng, share = sheet.rng, round(float(sheet.rng.uniform(0.2, 0.6)), 2)
    config = train.StudyConfig(**SMOKE, dropout=share)
    network = enlarge(model.Llama(config.model), rng)
    sheet.line(train.StudyConfig().dropout == model.ModelConfig().dropout == 0, "it is 0 by default")
    sheet.cases("--dropout on the command line", option, [(("dropout", share), share)])
    sheet.refuses("less than 0 and more than 0.9 are refused",
                  lambda value: train.StudyConfig(dropout=value), [-0.1, 0.95, 1.0, math.nan])
    # What a block adds to x. With one part silenced, all of it comes from the other.
    x = 0.01 * torch.randn(100, config.block_size, config.n_embd)
    for part, silenced in (("attention", "feed_forward.down"), ("feed_forward", "attention.output")):
        block = copy.deepcopy(network.blocks[0]).requires_grad_(False)
        block.get_submodule(silenced).weight.zero_()
        added = block.eval()(x, network.table) - x
        ratio = (block.train()(x, network.table) - x) / added
        kept = (ratio - 1 / (1 - share)).abs() < 1e-3
        gone = ratio.abs() < 1e-3
        sheet.line((kept | gone).all() and abs(gone.double().mean() - share) < 0.02,
                   f"dropout={share}: {part} loses this share, the rest is scaled by 1 / (1 - share)",
                   f"expected {share:.0%} zeros and {1 - share:.0%} times {1 / (1 - share):.3f}",
                   f"but came {gone.double().mean():.1%}, {kept.double().mean():.1%}; such as "
                   + short(ratio[0, 0, :4]))

    def evaluate(ids):
        network.train()
        return train.evaluate(network, ids, config)

    ids = rng.integers(300, size=200)
    windows = torch.from_numpy(ids[: 8 * 16 + 1]).unfold(0, 17, 16)
    with torch.no_grad():
        expected = loss_by_formula(network, windows[:, :-1], windows[:, 1:]).mean(1)
    sheet.cases("evaluate leaves nothing out", evaluate, [((ids,), expected)], 1e-5)
    network.train()
    same_texts(sheet, network, "generate leaves nothing out", 3, 20)
    sheet.line(network.training, "after them the model trains on with dropout")

    # At 0 everything is as it was.
    nothing = model.Llama(train.StudyConfig(**SMOKE, dropout=0.0).model).train()
    tokens, chance = draw_tokens(rng, nothing, 2, 16), torch.get_rng_state()
    with torch.no_grad():
        unchanged = torch.equal(nothing(tokens)[0], nothing.eval()(tokens)[0])
    sheet.line(unchanged and torch.equal(torch.get_rng_state(), chance),
               "dropout=0: not a bit changes, and no chance is drawn")
    def at_zero(ids):
        columns = trained(train.StudyConfig(**SMOKE, dropout=0.0), ids)
        return {name: columns[name][1::3] for name in BEFORE_DROPOUT}

    sheet.cases("dropout=0: seed 101 has the losses that it had before", at_zero,
                [((np.arange(700) ** 2 % 293,), BEFORE_DROPOUT)], 1e-5)

    # Broken off between two measurements, and continued by a process with other chance.
    ids = rng.integers(300, size=700)
    whole = trained(config, ids)
    without = trained(train.StudyConfig(**SMOKE, dropout=0.0), ids)
    pairs = list(zip(whole["train_loss"], without["train_loss"]))
    sheet.line(all(a != b for a, b in pairs[1:]), "the training loss of every interval is another")

    class PowerCut(Exception):
        pass

    def report(seed, tokens_seen, row):
        if tokens_seen > 1500 and row is None:
            raise PowerCut

    def broken_off(ids):
        with tempfile.TemporaryDirectory() as out:
            with contextlib.suppress(PowerCut):
                trained(config, ids, report, out)
            torch.manual_seed(int(rng.integers(2**31)))
            return trained(config, ids, out=out)

    sheet.cases("broken off and continued it comes to the same end, bit for bit", broken_off,
                [((ids,), whole)])
    means = finished_run(sheet, "dropout", dropout=0.2)
    if means is not None:
        ask_turn(sheet, "dropout", means)

# ---------------------------------------------------------------- telemetry.py

def draw_changes(rng):
    """Changes (n, k) of n losses, and their largest usual size (n, 1): eight falls of any size up to
    interval 8, then changes up and down by half that size to all of it."""
    n, k = 4, int(rng.integers(100, 130))
    h = 10 ** rng.uniform(-4, 1, (n, 1))
    d = h * rng.uniform(0.5, 1, (n, k)) * rng.choice([-1, 1], (n, k))
    d[:, 1:9] = -h * rng.uniform(5, 200, (n, 8))
    return d, h

def with_spikes(rng):
    """Changes with spikes, pairs of spikes and falls: (d, must be marked, may be marked)."""
    d, h = draw_changes(rng)
    must = np.zeros(d.shape, dtype=bool)
    for seed in range(len(d)):
        at = [t for t in range(20, d.shape[1] - 15, 15) if rng.integers(2)]
        at += [t + 2 for t in at if rng.integers(2)]  # two intervals after another one
        at += [d.shape[1] - 1]  # at the end, where nobody knows the way back
        for t in at:
            must[seed, t] = True
            d[seed, t] += 10 * h[seed, 0]
            d[seed, t + 1 : t + 2] -= 10 * h[seed, 0]
        falls = [t for t in range(27, d.shape[1] - 15, 15) if rng.integers(2)]
        d[seed, falls] -= 10 * h[seed, 0]
    return d, must, must

def with_plateaus(rng):
    """Changes with a plateau, a steady fall or neither in each seed, and a short calm in all."""
    d, h = draw_changes(rng)
    must = np.zeros(d.shape, dtype=bool)
    may = must.copy()
    for seed in range(len(d)):
        a = int(rng.integers(45, d.shape[1] - 30))
        kind = (seed + rng.integers(2)) % 3
        if kind == 0:
            d[seed, a : a + 20] = h[seed] * rng.uniform(-0.05, 0.05, 20)
            must[seed, a + 5 : a + 20] = True
            may[seed, a : a + 20] = True
        elif kind == 1:
            d[seed, a : a + 20] = -h[seed] * rng.uniform(0.5, 1)
        calm = int(rng.integers(21, 35))
        d[seed, calm : calm + 3] = h[seed] * rng.uniform(-0.05, 0.05, 3)
    return d, must, may

def judge_marks(sheet, name, draw):
    """Four lines on marks that derive makes: on whole tables, and three ways to look ahead."""
    rng = sheet.rng
    losses = np.cumsum(draw(rng)[0], axis=1) + 1e6
    if not sheet.line(name in telemetry.derive(losses), f"derive returns {name!r}"):
        return

    def marks_line(what, change=lambda d, must: d):
        planted = found = 0
        for _ in range(25):
            d, must, may = draw(rng)
            k = d.shape[1]
            d = change(d, must)
            Y = np.cumsum(d, axis=1)
            Y += abs(d).max(axis=1, keepdims=True) * rng.uniform(0, 3) - Y.min(axis=1, keepdims=True)
            seen = min(k, d.shape[1])
            try:
                marks = np.asarray(telemetry.derive(Y.copy())[name], dtype=float)
            except Exception as error:
                return sheet.line(False, what, where(error))
            if marks.shape != Y.shape or not np.isin(marks[~np.isnan(marks)], (0, 1)).all():
                return sheet.line(False, what, f"expected 1 or 0 in the shape {Y.shape}",
                                  f"but came {short(marks)} of shape {marks.shape}")
            marked = marks[:, 20:seen] == 1
            must, may = must[:, 20:seen], may[:, 20:seen]
            planted, found = planted + must.sum(), found + (must & marked).sum()
            wrong = np.argwhere(must & ~marked | marked & ~may)
            if len(wrong):
                i, t = wrong[0]
                asked = "expected" if must[i, t] else "not to be"
                return sheet.line(
                    False, what, f"{asked} marked: interval {t + 20} of seed {i}, with the changes",
                    short(d[i, t + 13 : t + 20]) + " before it, and its own " + short(d[i, t + 20]))
        return sheet.line(True, f"{what}: {found} of {planted} planted are found, nothing else")

    def cut(d, must):  # at a cell that must be marked, where there is one
        return d[:, : 1 + max(np.argwhere(must)[:, 1], default=40)]

    marks_line("losses of any height, each seed with changes of its own size")
    marks_line("the same when the losses end there, and nobody knows what comes", cut)
    marks_line("the same whatever comes later", lambda d, must: np.hstack(
        [d, 1000 * abs(d[:, 9:]).max() * rng.choice([-1, 1], (len(d), 60))]))
    stacked = np.stack([losses, losses[::-1]])
    sheet.cases("several tables at once, (2, n, k)",
                lambda losses: np.nan_to_num(telemetry.derive(losses)[name]),
                [((stacked,), [np.nan_to_num(telemetry.derive(each)[name]) for each in stacked])])

def judge_7(sheet):
    """A spike rule of your own (derive in telemetry.py)."""
    judge_marks(sheet, "own_spike", with_spikes)

def judge_12(sheet):
    """A rule for stable phases of your own (derive in telemetry.py)."""
    judge_marks(sheet, "own_stable", with_plateaus)

# ---------------------------------------------------------------- stats.py

def by_all_subsets(p):
    """Holm's adjusted p: the largest, over all sets of tests with this one, of size times least p."""
    known = np.where(np.isnan(p), 1, p)
    adjusted = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for chosen in map(list, itertools.combinations(range(len(p)), size)):
            bound = min(1, size * known[chosen].min())
            adjusted[chosen] = np.maximum(adjusted[chosen], bound)
    return np.where(np.isnan(p), np.nan, adjusted)

def judge_8(sheet):
    """Holm's correction and the exact sign-flip test (stats.py)."""
    rng = sheet.rng
    holm_cases, sign_cases = [], []
    for _ in range(150):
        p = 10 ** rng.uniform(-4, 0, rng.integers(1, 9))
        p = rng.choice(np.append(p, 1.0), len(p))  # ties, in no order
        p[rng.random(len(p)) < 0.15] = np.nan
        holm_cases.append(((p,), by_all_subsets(p)))
        # Whole numbers, so that all sums are exact; then in a unit of any size, where they are not.
        whole = rng.integers(-9, 10, rng.integers(1, 11)) * int(rng.choice([1, 1, 1234567]))
        sums = [sum(signed) for signed in itertools.product(*zip(whole.tolist(), (-whole).tolist()))]
        share = np.mean([abs(s) >= abs(sum(whole.tolist())) for s in sums])
        sign_cases.append(((whole * 10.0 ** rng.uniform(-12, 6),), share))
    sheet.cases("holm: any p, with ties, in any order, with nan", lambda p: stats.holm(p),
                holm_cases, 1e-9)
    sheet.cases("sign_flip_test: any differences, with ties and zeros, in any unit",
                lambda D: stats.sign_flip_test(D), sign_cases, 1e-9)
    if not sheet.failed:
        t = stats.pairwise_tests(stats.read_table(stats.PUBLISHED, "val_loss")[0])
        print(f"       Of {len(t.p)} published pairs Bonferroni finds {sum(t.p_adjusted < 0.05)} "
              f"different, Holm {sum(stats.holm(t.p) < 0.05)}.")

def judge_17(sheet):
    """With two levels F is the square of the paired t, by pencil (pairwise_tests in stats.py)."""
    a, mean = int(sheet.rng.integers(1, 5)), int(sheet.rng.integers(5, 15))
    first = sheet.rng.integers(10, 30, 3)
    print(f"       Three seeds at two intervals: {first} and {first + [mean - a, mean, mean + a]}")
    t = mean / a * math.sqrt(3)  # the sd of mean - a, mean, mean + a is a
    sheet.number("t, to one decimal, of the second interval less the first?", t, 0.051)
    sheet.number("the sum of squares of the effect, to one decimal?", 1.5 * mean ** 2, 0.051)
    sheet.number("the sum of squares of the error, to one decimal?", a ** 2, 0.051)
    sheet.number("F, to one decimal?", t ** 2, 0.051)

# ---------------------------------------------------------------- from nothing

def anova_by_models(Y):
    """Sums of squares as what linear models leave unexplained, when levels or subjects go."""
    n, k = Y.shape
    subject, level = np.indices(Y.shape).reshape(2, -1)

    def unexplained(*factors):
        X = np.hstack([np.eye(factor.max() + 1)[factor] for factor in factors])
        y = Y.ravel() - Y.mean()
        return ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum()

    error = unexplained(subject, level)
    effect, subjects = unexplained(subject) - error, unexplained(level) - error
    return effect, subjects, error, effect / (k - 1) / error * (n - 1) * (k - 1)

def judge_18(sheet):
    """One function from nothing: slow_bpe, rotate or rm_anova_textbook."""
    rng, cases = sheet.rng, []
    name = sheet.ask("Which one: slow_bpe, rotate or rm_anova_textbook?")
    groups = {"slow_bpe": "tokenizer", "rotate": "model", "rm_anova_textbook": "stats"}
    need(name in groups, "exercise 18 takes one of slow_bpe, rotate and rm_anova_textbook")
    for _ in range(20):
        if name == "slow_bpe":
            given = (["".join(rng.choice(list("aab bé"), 60)) for _ in range(3)],
                     int(rng.integers(257, 290)))
            cases.append((given, tokenizer.fast_bpe(*given)))
        elif name == "rotate":
            x, angle = torch.from_numpy(rng.normal(size=(2, 5, 3, 8))), torch.randn(5, 4).double()
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
            pairs = turn.view(5, 1, 4, 2, 2) @ x.view(2, 5, 3, 4, 2, 1)
            cases.append(((x, torch.polar(torch.ones_like(angle), angle)), pairs.view(x.shape)))
        else:
            Y = rng.normal(size=rng.integers(2, 9, 2)) * 10 ** rng.uniform(-3, 3)
            Y = Y + Y.std() * rng.normal(size=(len(Y), 1))
            cases.append(((Y,), anova_by_models(Y)))
    # What does the same elsewhere may not be called: it is broken while the judge looks.
    elsewhere = {"slow_bpe": (tokenizer, "fast_bpe"), "rotate": (model, "rotary_table"),
                 "rm_anova_textbook": (stats, "rm_anova")}
    module = {"slow_bpe": tokenizer, "rotate": model, "rm_anova_textbook": stats}[name]
    with patch.object(*elsewhere[name], None):
        sheet.cases(f"{name} is right on cases drawn afresh, on its own",
                    lambda *given: getattr(module, name)(*given), cases, 1e-6)
    tests = subprocess.run([sys.executable, "test_all.py", groups[name]], cwd=ROOT, text=True,
                           capture_output=True, encoding="utf-8", errors="replace")
    lines = tests.stdout.splitlines() or [tests.stderr.strip()[-300:]]
    sheet.line(tests.returncode == 0, f"python test_all.py {groups[name]}: {lines[-1]}",
               *[line for line in lines if line.startswith("FAILED")])

# ---------------------------------------------------------------- one judgement

# The ordinary tests to run after an exercise.
TESTS = {1: "tokenizer", 4: "model", 5: "train run_all", 7: "telemetry", 8: "stats",
         10: "tokenizer", 12: "telemetry", 16: "model", 19: "model train run_all"}

def judge(number, answers=()):
    """Judge one exercise. Returns 0 if all of it is right, else 1."""
    judges = {int(name[6:]): each for name, each in globals().items()
              if re.fullmatch(r"judge_\d+", name)}
    need(number in range(1, 21), "exercises go from 1 to 20")
    need(number in judges, f"exercise {number} has no judge; course/README.md says what to expect. "
         f"Those with one: {', '.join(map(str, sorted(judges)))}")
    print(f"Exercise {number}. {judges[number].__doc__}")
    sheet = Sheet(answers)
    train.one_thread()
    try:
        judges[number](sheet)
    except InputError:
        raise
    except Exception as error:
        sheet.line(False, "the rest could not be judged", where(error))
    if sheet.failed:
        print(f"Not done yet: {sheet.failed} NOT.")
        return 1
    print("Done.", end="")
    print(f" Now the ordinary tests: python test_all.py {TESTS[number]}" if number in TESTS else "")
    return 0

def main(words=None):
    """The number of an exercise, and perhaps answers to its questions."""
    words = sys.argv[1:] if words is None else words
    need(words and words[0].isdecimal(), "name an exercise by its number, such as exercise 4")
    return judge(int(words[0]), words[1:])

if __name__ == "__main__":
    run(main)
