"""Chapter 2. The model: a small Llama, from scratch.

    token ids -> embedding -> n_layer x [RMSNorm -> attention -> add, RMSNorm -> SwiGLU -> add]
              -> RMSNorm -> scores for the next token ("logits")

Four things set it apart from the GPT-2 that nanoGPT builds: RMSNorm for LayerNorm, rotary for
learned positions, SwiGLU for GELU, and no biases (Touvron et al. 2023, "LLaMA").

    python model.py      where the 4,262,144 parameters of the published model are, what a
                         training token costs, and what the rotary positions see (a second)

Shapes: B windows at once, T tokens in a window, C = n_embd numbers for each token, V tokens in
the vocabulary, H heads of D = C / H numbers.
"""
from support.program import Parser, run  # first: from here on Ctrl-C prints no traceback
import math
from dataclasses import dataclass
import torch
import torch.nn.functional as F
from torch import nn
from support.files import code_sha256, need

CODE_SHA256 = code_sha256(__file__)  # of this file as it was loaded: train.py notes it in every run

@dataclass
class ModelConfig:
    """The sizes of a model; the defaults are those of the published study."""

    vocab_size: int = 4096  # different tokens; as many as the tokenizer has
    block_size: int = 128  # tokens in a window: as far as the model can look back
    n_layer: int = 4  # blocks, one after another
    n_head: int = 4  # heads of attention in each block; they share n_embd
    n_embd: int = 256  # numbers that stand for a token, from the embedding to the output
    rope_base: float = 10000.0  # of the rotary positions; larger: the slow pairs turn slower
    norm_eps: float = 1e-6  # keeps a vector of zeros from being divided by 0
    init_std: float = 0.02  # standard deviation of the initial weights

    def __post_init__(self):
        fits = self.n_head > 0 and self.n_embd % (2 * self.n_head) == 0  # rotary takes pairs
        need(fits, f"n_embd is {self.n_embd}, but {self.n_head} heads of an even size need a "
             f"multiple of {2 * self.n_head}")

    @property
    def n_hidden(self):
        """Width of the feed-forward layer: 2/3 of 4C, rounded up to a multiple of 64.

        GPT-2's layer has two matrices of width 4C, SwiGLU three of this: as many parameters, but
        for the rounding (with C = 128: 12.5 % more).
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
        mean_square = x.square().mean(-1, keepdim=True)  # (B, T, 1)
        return x * torch.rsqrt(mean_square + self.eps) * self.weight

# ---------------------------------------------------------------- positions

def rotary_table(config):
    """The rotation of each position and pair of dimensions, as complex numbers, (T, D / 2).

    Pair i of position t turns by the angle t * base^(-2i / D): fast for the first pairs, hardly
    at all for the last (Su et al. 2021, "RoFormer", eq. 15).
    """
    D = config.n_embd // config.n_head
    frequency = config.rope_base ** (-torch.arange(0, D, 2) / D)  # (D / 2)
    angle = torch.outer(torch.arange(config.block_size), frequency)  # (T, D / 2)
    return torch.polar(torch.ones_like(angle), angle)  # length 1: they turn and do not stretch

# EXERCISE 18: from nothing: empty rotate, and refill it until `python test_all.py model` is green.
def rotate(x, table):
    """Turn each pair (x_2i, x_2i+1) by its position's angle: (B, T, H, D) -> (B, T, H, D).

    A pair is a point in the plane, hence a complex number, and to turn it is to multiply it by
    e^(i angle). The score of a query at t and a key at s then depends on their positions only
    through t - s, because turning both by the same angle changes no scalar product.
    """
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (B, T, H, D / 2), complex
    turned = pairs * table[:, None]  # table (T, 1, D / 2): the same for all windows and heads
    return torch.view_as_real(turned).flatten(-2)  # (B, T, H, D)

# ---------------------------------------------------------------- attention

# EXERCISE 15: how far is this from F.scaled_dot_product_attention on random q, k, v? Then break the
# mask on purpose, triu(2) for triu(1), call this function in Attention, and run classroom into
# runs/peeking. What becomes of the loss, and of the stories in the report? (Then undo it.)
def attention(q, k, v, is_causal=True):
    """Attention written out. Queries, keys and values are (B, H, T, D), and so is what returns.

        softmax(q k^T / sqrt(D)) v                        (Vaswani et al. 2017, eq. 1)

    The variance of a sum of D products grows with D, its size with sqrt(D): not divided by that,
    the scores of a wide head would make softmax pick a single token.
    is_causal: the future gets a score of minus infinity, hence a weight of 0.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, T): query t, key s
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)  # s > t
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1) @ v

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

    def forward(self, x, table):  # (B, T, C), (T, D / 2) -> (B, T, C)
        # Every head gets its own D of the C numbers.
        q = self.query(x).unflatten(-1, (self.n_head, -1))  # (B, T, H, D)
        k = self.key(x).unflatten(-1, (self.n_head, -1))
        v = self.value(x).unflatten(-1, (self.n_head, -1))
        # Here positions enter. They decide who is heard, not what is said: v does not turn.
        # Then H moves to the front, beside B, since each head works alone.
        q = rotate(q, table).transpose(1, 2)  # (B, H, T, D)
        k = rotate(k, table).transpose(1, 2)
        v = v.transpose(1, 2)
        # The same as `attention` above, which is there for reading and for the test; torch's
        # kernel is faster, since it never keeps the whole (T, T) scores.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        return self.output(y.transpose(1, 2).flatten(-2))  # the heads side by side, then mixed

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

# EXERCISE 3: LayerNorm and GELU at equal parameters. Three norms change, the block's two and
# Llama's last one, to LayerNorm without bias, and SwiGLU to two matrices of width 3/2 n_hidden with
# GELU between. Does classroom turn at the same interval? (The test of the formulas turns red.)
# EXERCISE 19: a setting `dropout`, 0 to 0.9 and 0 by default, of StudyConfig and ModelConfig.
# - In training this share of what attention and feed-forward add to x, drawn afresh at every step,
#   becomes 0, and the rest is divided by 1 - dropout.
# - At 0 not a bit changes. evaluate and generate leave nothing out; then training goes on with it.
# - Broken off and continued, a run comes to the same end.
# Run classroom with 0.2 into runs/dropout: does the loss still turn? (The judge asks where.)
class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in ("residual").

    Norm first: x + f(norm(x)). The paper of 2017 has norm(x + f(x)). With the norm inside, the
    sum runs from the embedding to the output and nothing on the way rescales it, so gradients
    reach the first block as well as the last from the start (Xiong et al. 2020).
    """

    def __init__(self, config):
        super().__init__()
        self.attention_norm = RMSNorm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config)
        self.feed_forward = SwiGLU(config)

    def forward(self, x, table):  # (B, T, C), (T, D / 2) -> (B, T, C)
        x = x + self.attention(self.attention_norm(x), table)
        return x + self.feed_forward(self.feed_forward_norm(x))

class Llama(nn.Module):
    """The language model. Its initial weights come from torch's global random generator."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config)  # blocks norm what they read; their sum is normed here
        # A buffer moves to the GPU with the model, but is not learned; not in checkpoints either.
        self.register_buffer("table", rotary_table(config), persistent=False)
        # KEEP: every matrix normal with standard deviation init_std, in the order of parameters();
        # the norms' weights stay at 1. (What torch drew above is overwritten, but has moved its
        # generator on.)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=config.init_std)

    def forward(self, tokens, targets=None):
        """Scores for the token after each one, and how wrong they are.

        tokens, targets: ids, (B, T) with T <= block_size. Returns (logits (B, T, V), loss). With
        targets, the loss is -log p(target), averaged over all B * T of them, in nats; else None.
        """
        x = self.embedding(tokens)  # (B, T, C)
        table = self.table[: tokens.shape[1]]  # (T, D / 2)
        for block in self.blocks:
            x = block(x, table)
        # Tied: the matrix that reads tokens in also scores them (Press and Wolf 2017).
        logits = F.linear(self.norm(x), self.embedding.weight)  # (B, T, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B * T, V), (B * T)
        return logits, loss

    # EXERCISE 4: for every new token this computes all keys and values again. Keep them instead:
    # - the same text, for any temperature, generator and stop;
    # - within the window, the matrix products of each token once (a tenth more is allowed);
    # - beyond block_size compute the window anew: in kept keys what was dropped lives on;
    # - forward gives the same loss; neither the next text nor a checkpoint holds anything kept.
    # Trap: with one query and many keys, is_causal=True shows it only the first.
    # EXERCISE 16: an argument top_k=None: draw only among the k likeliest tokens, in the
    # proportions that they have at this temperature, at every step. Without it, and with None, all
    # is as before; a k larger than the vocabulary is no error.
    @torch.no_grad()  # nothing is learned here, so nothing need be kept for gradients
    def generate(self, tokens, n_new, temperature=1.0, generator=None, stop=None):
        """Write on: (1, T) ids -> (1, T + n_new) ids, or fewer if the id `stop` comes up.

        temperature: below 1 plays safe, 0 always takes the likeliest. generator: the source of
        chance, a torch.Generator; without one, torch's own, and what is drawn after it changes.
        """
        for _ in range(n_new):
            logits, _ = self(tokens[:, -self.config.block_size :])  # it sees no further back
            logits = logits[:, -1]  # (1, V): what follows the others is known
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)  # (1, 1)
            else:
                probabilities = (logits / temperature).softmax(-1)
                new = torch.multinomial(probabilities, 1, generator=generator)  # (1, 1)
            tokens = torch.cat([tokens, new], dim=1)
            if new.item() == stop:
                break
        return tokens

def training_flops_per_token(config):
    """Floating-point operations for one token's forward and backward pass, matrix products only.

    A weight takes part in one multiplication and one addition a token forward, and in twice as
    many backward (gradients of weights and of inputs): 6 FLOPs. Attention multiplies q with k
    and the result with v: 2 * 2TC forward, 12TC in all, a layer; the causal half is not deducted
    (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B).
    """
    T, C = config.block_size, config.n_embd
    block = 4 * C * C + 3 * C * config.n_hidden  # attention's four matrices, SwiGLU's three
    weights = config.n_layer * block + config.vocab_size * C  # (reading a token in costs nothing)
    return 6 * weights + 12 * config.n_layer * T * C

# ================================================================ python model.py
# Stop reading here the first time.

def main():
    Parser(description="the published model in numbers").parse_args()
    config = ModelConfig()
    model = Llama(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"The published model: {config}\n")
    # Names are paths: blocks.0.attention_norm.weight is a norm, since no "attention." is in it.
    parts = {"embedding, also output": "embedding.", "attention": "attention.",
             "feed-forward": "feed_forward.", "norms": "norm."}
    for title, part in parts.items():
        n = sum(p.numel() for name, p in model.named_parameters() if part in name)
        bar = "#" * round(40 * n / total)
        print(f"  {title:24s}{n:>12,d}  {bar} {n / total:.1%}")
    print(f"  {'in all':24s}{total:>12,d}\n")
    flops = training_flops_per_token(config)
    # (The published budget is 9,766 steps of 2,048 tokens: the first number past 20 million.)
    print(f"A training token costs {flops:,d} FLOPs, {flops / total:.2f} for each parameter;")
    print(f"20,000,768 of them cost {flops * 20_000_768:.3g}.\n")
    radians = torch.angle(rotary_table(config)[1])  # (D / 2): from one token to the next
    turns = config.block_size * radians / (2 * math.pi)
    print("Turns that every fourth rotary pair of a head makes within one window:")
    print("  " + "  ".join(f"{turn:.3g}" for turn in turns[::4]))
    print("Which of them tell a token from its neighbour, and which only near from far?")

if __name__ == "__main__":
    run(main)
