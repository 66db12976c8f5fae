"""Chapter 2. The model: a small Llama, from scratch; its parts, the whole, and simpler models.

    token ids -> embedding -> n_layer x [RMSNorm -> attention -> add, RMSNorm -> SwiGLU -> add]
              -> RMSNorm -> scores for the next token ("logits")

Four things set it apart from the GPT-2 that nanoGPT builds: RMSNorm for LayerNorm, rotary for
learned positions, SwiGLU for GELU, and no biases (Touvron et al. 2023, "LLaMA").

    python model.py      where the 4,262,144 parameters of the published model are, what a
                         training token costs, and what the rotary positions see (a second)

Shapes: B windows at once, T tokens in a window, C = n_embd numbers for each token, V tokens in
the vocabulary, H heads of D = C / H numbers.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

@dataclass
class ModelConfig:
    """The sizes of a model; the defaults are those of the published study."""

    vocab_size: int = 4096
    block_size: int = 128  # tokens in a window: as far as the model can look back
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 256
    architecture: str = "llama"  # this and the next two: for the ladder, at the end of the file
    positions: str = "rotary"
    n_flat: int = 256  # width of the hidden layers of `mlp`
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02

    def __post_init__(self):
        if self.n_embd % (2 * self.n_head):  # rotary positions take the dimensions in pairs
            raise ValueError(f"n_embd is {self.n_embd}, but {self.n_head} heads of an even size "
                             f"need a multiple of {2 * self.n_head}")

    @property
    def n_hidden(self):
        """Width of the feed-forward layer: 2/3 of 4C, rounded up to a multiple of 64.

        SwiGLU has three matrices where GELU has two; 2/3 makes the parameters equal, but for the
        rounding (with C = 128: 12.5 % more).
        """
        return 64 * math.ceil(8 * self.n_embd / 3 / 64)

# ---------------------------------------------------------------- normalisation

class RMSNorm(nn.Module):
    """Bring each token's vector to length sqrt(C), then let a learned weight scale each entry.

        y = x / sqrt(mean(x^2) + eps) * weight           (Zhang and Sennrich 2019, eq. 4)

    Unlike LayerNorm it neither subtracts the mean nor adds a bias.
    """

    def __init__(self, config):
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.n_embd))

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight

# ---------------------------------------------------------------- positions

def rotary_table(config):
    """The rotation of each position and pair of dimensions, as complex numbers, (T, D / 2).

    Pair i of position t turns by the angle t * base^(-2i / D): fast for the first pairs, hardly
    at all for the last (Su et al. 2021, "RoFormer", eq. 15).
    """
    D = config.n_embd // config.n_head
    frequency = config.rope_base ** (-torch.arange(0, D, 2) / D)  # (D / 2)
    angle = torch.outer(torch.arange(config.block_size), frequency)  # (T, D / 2)
    return torch.polar(torch.ones_like(angle), angle)

def rotate(x, table):
    """Turn each pair (x_2i, x_2i+1) by its position's angle: (B, T, H, D) -> (B, T, H, D).

    A pair is a point in the plane, hence a complex number, and to turn it is to multiply it by
    e^(i angle). The score of a query at t and a key at s then depends on their positions only
    through t - s, because turning both by the same angle changes no scalar product.
    """
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (B, T, H, D / 2)
    return torch.view_as_real(pairs * table[:, None]).flatten(-2)  # the same for all heads

# ---------------------------------------------------------------- attention

def attention(q, k, v, is_causal=True):
    """Causal attention written out, for reading, for the test and for the benchmark of the
    published loop: all (B, H, T, D). (`is_causal` is there so that it can stand in for torch's.)

        softmax(q k^T / sqrt(D), with the future at minus infinity) v   (Vaswani et al. 2017, eq. 1)

    The model calls torch's kernel, which computes the same without keeping the (T, T) scores.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v

class Attention(nn.Module):
    """Each token asks (query) all tokens up to itself (key) and takes from those that answer."""

    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        # Three separate matrices: splitting one wide product costs a copy in the backward pass.
        self.query = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.key = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.value = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x, table):  # (B, T, C) -> (B, T, C)
        q, k, v = (layer(x).unflatten(-1, (self.n_head, -1))  # each (B, T, H, D)
                   for layer in (self.query, self.key, self.value))
        q, k = rotate(q, table), rotate(k, table)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        return self.output(y.transpose(1, 2).flatten(-2))

# ---------------------------------------------------------------- feed-forward

class SwiGLU(nn.Module):
    """What a token does on its own: one path decides (gate) how much of the other passes.

        down( silu(gate(x)) * up(x) ),  silu(z) = z / (1 + e^-z)      (Shazeer 2020, eq. 6)
    """

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.n_hidden, bias=False)
        self.up = nn.Linear(config.n_embd, config.n_hidden, bias=False)
        self.down = nn.Linear(config.n_hidden, config.n_embd, bias=False)

    def forward(self, x):  # (B, T, C) -> (B, T, C)
        return self.down(F.silu(self.gate(x)) * self.up(x))

# ---------------------------------------------------------------- the whole model

class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in ("residual")."""

    def __init__(self, config):
        super().__init__()
        # EXERCISE 3: LayerNorm and GELU for RMSNorm and SwiGLU at equal parameters: two matrices of
        # width 3/2 n_hidden, no biases. (The test of the model's formulas goes red.)
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config)
        self.feed_forward = SwiGLU(config)

    def forward(self, x, table):
        x = x + self.attention(self.attention_norm(x), table)
        return x + self.feed_forward(self.feed_forward_norm(x))

@torch.no_grad()
def generate(model, tokens, n_new, temperature=1.0, generator=None, stop=None):
    """Write on: (1, T) ids -> (1, T + n_new) ids, or fewer if the id `stop` comes up.

    temperature: below 1 plays safe, 0 always takes the likeliest. generator: the source of
    chance, a torch.Generator; without one, torch's own, and what is drawn after it changes.
    """
    for _ in range(n_new):
        logits, _ = model(tokens[:, -model.config.block_size :])
        logits = logits[:, -1]  # (1, V): what follows the others is known
        if temperature == 0:
            new = logits.argmax(-1, keepdim=True)
        else:
            probabilities = (logits / temperature).softmax(-1)
            new = torch.multinomial(probabilities, 1, generator=generator)  # (1, 1)
        tokens = torch.cat([tokens, new], dim=1)
        if new.item() == stop:
            break
    return tokens

def with_loss(logits, targets):
    """(logits (B, T, V), mean of -log p(target) over all B * T, or None without targets)."""
    if targets is None:
        return logits, None
    return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

class Llama(nn.Module):
    """The language model. Its initial weights come from torch's global random generator."""

    # EXERCISE 4: for every new token this computes all keys and values again. Give Llama a
    # generate of its own that keeps them, and writes the same text, with any temperature and
    # `stop`. Beyond block_size, what was dropped lives on in kept keys: compute the window anew.
    # Attention and Block change with it, but must do as now for the models at the end of the file,
    # which keep this one. Trap: with one query and many keys, is_causal=True shows it the first.
    generate = generate

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config)
        self.register_buffer("table", rotary_table(config), persistent=False)  # not in checkpoints
        # KEEP: every matrix normal with standard deviation init_std, in the order of parameters();
        # the norms' weights stay at 1.
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=config.init_std)

    def forward(self, tokens, targets=None):
        """Scores for the token after each one, and how wrong they are.

        tokens, targets: ids, (B, T) with T <= block_size. Returns (logits (B, T, V), loss). With
        targets, the loss is -log p(target), averaged over all B * T of them, in nats; else None.
        """
        x = self.embedding(tokens)  # (B, T, C)
        table = self.table[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, table)
        # Tied: the matrix that reads tokens in also scores them (Press and Wolf 2017).
        logits = F.linear(self.norm(x), self.embedding.weight)  # (B, T, V)
        return with_loss(logits, targets)

def training_flops_per_token(config):
    """Floating-point operations for one token's forward and backward pass, matrix products only.

    A weight takes part in one multiplication and one addition a token forward, and in twice as
    many backward (gradients of weights and of inputs): 6 FLOPs. Attention multiplies q with k
    and the result with v: 2 * 2TC forward, 12TC in all, a layer; the causal half is not deducted
    (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B).
    """
    C, n_layer = config.n_embd, config.n_layer
    if config.architecture in FLAT:  # of the ladder, at the end of the file
        return 6 * sum(a * b for a, b in pairwise(flat_sizes(config)))
    # SwiGLU's three matrices, or the two of the ladder's transformer, to 4C numbers and back.
    feed_forward = 3 * C * config.n_hidden if config.architecture == "llama" else 8 * C * C
    weights = n_layer * (4 * C * C + feed_forward) + config.vocab_size * C
    return 6 * weights + 12 * n_layer * config.block_size * C

def main():
    config = ModelConfig()
    sizes = {name: p.numel() for name, p in Llama(config).named_parameters()}
    total = sum(sizes.values())
    print(f"The published model: {config}\n")
    for name, part in (("embedding, also output", "embedding."), ("attention", "attention."),
                       ("feed-forward", "feed_forward."), ("norms", "norm.")):
        n = sum(size for parameter, size in sizes.items() if part in parameter)
        print(f"  {name:24s}{n:>12,d}  {'#' * round(40 * n / total)} {n / total:.1%}")
    print(f"  {'in all':24s}{total:>12,d}\n")
    flops = training_flops_per_token(config)
    print(f"A training token costs {flops:,d} FLOPs, {flops / total:.2f} for each parameter;")
    print(f"20,000,768 of them cost {flops * 20_000_768:.3g}.\n")
    turns = config.block_size * torch.angle(rotary_table(config)[1]) / (2 * math.pi)  # [1]: a step
    print("Turns that every fourth rotary pair of a head makes within one window:")
    print("  " + "  ".join(f"{turn:.3g}" for turn in turns[::4]))
    print("Which of them tell a token from its neighbour, and which only near from far?")

# ================================================================ the architecture ladder
# Stop reading here the first time. Below stand the simpler models of a second study (arXiv
# 2512.20877), which climbs from a linear predictor to small transformers and asks what each step
# buys. Each has Llama's interface and, like it, predicts from the tokens of the window up to the
# present one. There are two classes; the rungs are settings of these (RUNGS in train.py).

FLAT = ("linear", "mlp")

def flat_sizes(config):
    """How many numbers go into, between and out of the layers of `linear` and `mlp`."""
    hidden = [] if config.architecture == "linear" else [config.n_flat] * 2
    return [config.block_size * config.n_embd, *hidden, config.vocab_size]

class Flat(nn.Module):
    """linear: the embeddings of the last T tokens side by side, and one linear layer to the scores.
    mlp: with two hidden ReLU layers between (Bengio et al. 2003).

    Only the embedding is shared by all places: beyond it, nothing learned of a word in one place
    helps it in another. Initial weights: torch's own, the embedding N(0, 1); with N(0, 0.02) and no
    norm after it the scores would start almost silent.
    """

    generate = generate

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        layers = [part for a, b in pairwise(flat_sizes(config))
                  for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])  # no ReLU on the scores

    def forward(self, tokens, targets=None):
        n = self.config.block_size
        x = F.pad(self.embedding(tokens), (0, 0, n - 1, 0))  # before the window: zeros
        x = x.unfold(1, n, 1).flatten(2)  # (B, T, C * n): of each position, the last n tokens
        return with_loss(self.layers(x), targets)

class GPT2Block(Block):
    """Llama's block with LayerNorm for RMSNorm and a plain GELU layer for SwiGLU, as in GPT-2; but
    attention has no biases here."""

    def __init__(self, config):
        super().__init__(config)
        C = config.n_embd
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(C), nn.LayerNorm(C)
        self.feed_forward = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))

class Transformer(Llama):
    """transformer: blocks much as in GPT-2 and an output matrix of its own; llama: Llama's blocks
    and tied output. Positions of both: learned (a vector added for each place), rotary or none.
    (Llama's blocks with rotary positions are Llama itself: see build.)"""

    generate = generate  # not Llama's, which exercise 4 replaces

    def __init__(self, config):
        super().__init__(config)
        C, V = config.n_embd, config.vocab_size
        self.output = nn.Linear(C, V, bias=False)
        if config.architecture == "transformer":
            self.blocks = nn.ModuleList(GPT2Block(config) for _ in range(config.n_layer))
            self.norm = nn.LayerNorm(C)
        else:
            self.output.weight = self.embedding.weight  # tied, as in llama
        self.place = nn.Embedding(config.block_size, C) if config.positions == "learned" else None
        if config.positions != "rotary":
            self.table.fill_(1)  # to turn by the angle 0 is not to turn
        for name, parameter in self.named_parameters():  # anew: Llama drew for parts of its own
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=config.init_std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens, targets=None):
        T = tokens.shape[1]
        x = self.embedding(tokens)  # (B, T, C)
        if self.place is not None:
            x = x + self.place.weight[:T]
        for block in self.blocks:
            x = block(x, self.table[:T])
        return with_loss(self.output(self.norm(x)), targets)

def build(config):
    """The model that `config` names, with fresh weights."""
    if config.architecture in FLAT:
        return Flat(config)
    published = (config.architecture, config.positions) == ("llama", "rotary")
    return Llama(config) if published else Transformer(config)

if __name__ == "__main__":
    main()
