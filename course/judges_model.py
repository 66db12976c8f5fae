"""The judges of what changes in model.py, exercises 4 and 16, and a Llama written a second time.

What a model computes after a change is compared with `formula`, in float64 and without any trick,
and what it writes with `write`, which asks the formula for every token anew.
"""
import math
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import model
from course.sheet import short, where

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
        # Attention: every token hears those up to itself, as much as they answer its query.
        h = norm(x, part["attention_norm.weight"])
        q = (h @ part["attention.query.weight"].T).unflatten(-1, (H, D))
        k = (h @ part["attention.key.weight"].T).unflatten(-1, (H, D))
        v = (h @ part["attention.value.weight"].T).unflatten(-1, (H, D))
        scores = torch.einsum("tij,bthj,sik,bshk->bhts", R, q, R, k) / D ** 0.5
        heard = scores.masked_fill(future, -math.inf).softmax(-1)
        heard = torch.einsum("bhts,bshd->bthd", heard, v).flatten(-2)
        x = x + heard @ part["attention.output.weight"].T
        # Feed-forward: silu(gate) lets a part of the other path through.
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
            # In float32, for which torch draws other numbers than for float64.
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
    # What was kept of other texts and other weights must be gone.
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

    # Training comes after writing here, so that what generate has left behind would show.
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
    # Which tokens are drawn, and how often, as the formula has it.
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

    def of_one(tokens, temperature, stop):
        return network.generate(tokens, 30, temperature, stop=stop, top_k=1)

    # With a single token to draw from, chance is out, and the text is that of temperature 0.
    greedy = write(network, start, 30, 0, 1)
    stop = greedy[0, -5].item()
    stopped = write(network, start, 30, 0, 1, stop)
    sheet.cases("top_k=1: the likeliest at every step, at any temperature; stop ends it", of_one,
                [((start, 1.7, None), greedy), ((start, 0.6, stop), stopped)])
