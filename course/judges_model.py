"""The judges of what changes in model.py, exercises 4 and 16, and a Llama written a second time.

What a model computes is compared with `formula`, in float64 and without any trick, and what it
writes with `write`, which asks the formula for every token anew.
"""
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import model

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
    w = {name.removesuffix(".weight"): p.double() for name, p in network.named_parameters()}
    config = network.config
    T, H, D = tokens.shape[1], config.n_head, config.n_embd // config.n_head
    # A rotation by t is exp(t G), where G holds the speed of each pair of dimensions.
    G = torch.zeros(D, D, dtype=torch.float64)
    for i in range(0, D, 2):
        G[i + 1, i] = config.rope_base ** (-i / D)
        G[i, i + 1] = -G[i + 1, i]
    R = torch.matrix_exp(torch.arange(T)[:, None, None] * G)  # (T, D, D)
    future = torch.ones(T, T).triu(1) > 0

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * w[name]

    def heads(x, name):
        return (x @ w[name].T).unflatten(-1, (H, D))

    x = w["embedding"][tokens]
    for i in range(config.n_layer):
        # Attention: every token hears those up to itself, as much as they answer its query.
        part = f"blocks.{i}.attention"
        h = norm(x, part + "_norm")
        q = torch.einsum("tij,bthj->bthi", R, heads(h, part + ".query"))
        k = torch.einsum("sij,bshj->bshi", R, heads(h, part + ".key"))
        scores = torch.einsum("bthi,bshi->bhts", q, k) / D ** 0.5
        shares = scores.masked_fill(future, -torch.inf).softmax(-1)
        heard = torch.einsum("bhts,bshd->bthd", shares, heads(h, part + ".value"))
        x = x + heard.flatten(-2) @ w[part + ".output"].T
        # Feed-forward: silu(gate) lets a part of the other path through.
        part = f"blocks.{i}.feed_forward"
        h = norm(x, part + "_norm")
        gate = F.silu(h @ w[part + ".gate"].T)
        gated = gate * (h @ w[part + ".up"].T)
        x = x + gated @ w[part + ".down"].T
    return norm(x, "norm") @ w["embedding"].T

def loss_by_formula(network, x, y):
    """The loss of each token, (B, T)."""
    return F.cross_entropy(formula(network, x).transpose(1, 2), y, reduction="none")

@torch.no_grad()
def write(network, tokens, n_new, temperature, seed, stop=None, top_k=None):
    """What generate must write: every token from its whole window, by the formula."""
    chance = torch.Generator().manual_seed(seed)
    if top_k == 1:
        temperature = 0  # chance has nothing to choose from
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
        if temperature == 1:  # by default, as is torch's own generator
            torch.manual_seed(seed)
            return network.generate(tokens, n_new, stop=stop, **more)
        chance = torch.Generator().manual_seed(seed)
        return network.generate(tokens, n_new, temperature, chance, stop, **more)

    cases = []
    for temperature in (0, 1, float(sheet.rng.uniform(0.3, 2))):
        seed = int(sheet.rng.integers(2**31))
        given = (draw_tokens(sheet.rng, network, 1, prompt), n_new, temperature, seed)
        if stops:  # at a token that will come
            given += (write(network, *given, **more)[0, prompt + n_new // 2].item(),)
        cases.append((given, write(network, *given, **more)))
    sheet.cases(what, generate, cases)

def judge_4(sheet):
    """A cache of keys and values (generate in model.py)."""
    def with_gradients(loss):
        return [loss.item(), *torch.autograd.grad(loss, list(network.parameters()))]

    network = draw_model(sheet.rng)
    T, names = network.config.block_size, list(network.state_dict())
    same_texts(sheet, network, "the same text at any temperature, from a single token", 1, T - 1)
    same_texts(sheet, network, "beyond the window", 5, 2 * T)
    same_texts(sheet, network, "from more tokens than a window holds", T + 7, 9)
    same_texts(sheet, network, "it ends with `stop`", 3, T - 4, stops=True)
    # What was kept of other texts and other weights must be gone.
    enlarge(network, sheet.rng)
    same_texts(sheet, network, "with other weights: nothing is left of the texts before", 4, 9)
    # Training comes after writing here, so that what generate has left behind would show.
    x, y = draw_tokens(sheet.rng, network, 2, 3, T)
    sheet.cases("training has the loss and the gradients of the formulas",
                lambda x, y: with_gradients(network(x, y)[1]),
                [((x, y), with_gradients(loss_by_formula(network, x, y).mean()))], 1e-4)
    sheet.cases("a checkpoint holds what it held", lambda: list(network.state_dict()),
                [((), names)])
    # T tokens once: a third of what training on them costs, and a tenth more.
    limit = 1.1 * T * model.training_flops_per_token(network.config) / 3
    with FlopCounterMode(display=False) as counter:
        network.generate(draw_tokens(sheet.rng, network, 1, 3), T - 3)
    cost = counter.get_total_flops()
    sheet.line(0 < cost <= limit, f"from 3 tokens to {T}: {cost:,d} FLOPs in matrix products",
               f"one pass over {T} tokens, and a tenth, is {limit:,.0f}")

def judge_16(sheet):
    """Top-k sampling (generate in model.py)."""
    def draws(k, temperature):
        drawn = Counter()
        for _ in range(2000):
            drawn[network.generate(start, 1, temperature, top_k=k)[0, -1].item()] += 1
        counts = [drawn[token] for token in ranking[:k]]
        return np.array(counts), 2000 - sum(counts)

    network = draw_model(sheet.rng)
    V = network.config.vocab_size
    same_texts(sheet, network, "without top_k all is as before", 3, 20)
    same_texts(sheet, network, "and with None, stop too", 3, 20, stops=True, top_k=None)
    same_texts(sheet, network, "top_k=1: the likeliest at every step", 4, 30, top_k=1)
    same_texts(sheet, network, "and then too `stop` ends it", 4, 30, stops=True, top_k=1)
    start = draw_tokens(sheet.rng, network, 1, 4)
    scores = formula(network, start)[0, -1].detach().numpy()
    ranking = np.argsort(-scores)  # the likeliest token first
    for k, temperature in ((3, 0.3), (7, 3.0), (V + 5, float(sheet.rng.uniform(0.3, 3)))):
        shares = np.exp(scores[ranking[:k]] / temperature)
        expected = 2000 * shares / shares.sum()
        most = expected.max()
        by_chance = 6 * most ** 0.5 + 6  # hardly ever is a count further off than that
        sheet.cases(f"top_k={k} of {V} tokens, temperature {temperature:.1f}: 2,000 draws of the "
                    "likeliest, and none of others", draws,
                    [((k, temperature), (expected, 0))], by_chance / most)
