"""Tests of the second study: python test_all.py studies"""
import csv, math, re, signal, subprocess, sys, time
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from studies import ladder
from support.files import read_records
from test_all import HERE, folder, refused, said, same

VOCABULARY = {"tinyshakespeare": 65, "ptb": 9_999, "wikitext-2": 33_277}  # of the published texts
ATTENTION = ladder.Rung("baseline", "attention", context=8, hidden=24, heads=4, layers=1,
                        positions="learned", epochs=3, windows_per_epoch=40, batch_size=16,
                        test_windows=50)
TRANSFORMER = replace(ATTENTION, model="transformer", layers=3)
PRE_NORM = replace(ATTENTION, model="pre-norm transformer", layers=2)
ROTARY = replace(PRE_NORM, positions="rotary")
MLP = replace(ATTENTION, model="mlp", heads=0, layers=0, positions="", hidden=24)
LINEAR = replace(MLP, model="linear", hidden=0)
ALL = [LINEAR, MLP, ATTENTION, TRANSFORMER, PRE_NORM, ROTARY]

def some_text(n=600, vocab_size=11):
    ids = np.random.default_rng(0).integers(0, vocab_size, n)
    return ladder.as_text(ids, ids[: n // 3], ids[n // 3 :], vocab_size)

def model_and_tokens(rung, n=5):
    torch.manual_seed(1)
    return ladder.build(rung, 11).eval(), torch.randint(11, (n, rung.context))

# ---------------------------------------------------------------- models and costs

def test_studies_ladder_parameters():
    """All 20 published models have exactly the published numbers of parameters."""
    rows = ladder.published_rows()
    assert len(rows) == 20
    for rung, record in rows:
        found = ladder.count_parameters(rung, VOCABULARY[rung.text])
        assert found == int(record["parameters"]), rung

def test_studies_ladder_published_flops():
    """The published formula gives the published FLOPs to the three digits printed."""
    for rung, record in ladder.published_rows():
        flops = ladder.flops_published(rung, int(record["parameters"]))
        assert f"{flops:.2e}" == f"{float(record['flops_as_published']):.2e}", rung

def test_studies_ladder_needed_is_executed():
    """A last block that computes only what the last position needs gives the same scores."""
    for rung in (ATTENTION, TRANSFORMER, PRE_NORM, ROTARY):
        model, tokens = model_and_tokens(rung)
        with torch.no_grad():
            needed, executed = model(tokens), model(tokens, whole=True)
            every = model(tokens, every=True)
        assert needed.shape == (5, 11) and every.shape == (5, 8, 11)
        torch.testing.assert_close(needed, executed, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(needed, every[:, -1], rtol=1e-4, atol=1e-5)

def test_studies_ladder_gradients_needed_are_executed():
    """The gradients are the same, too: needed or executed, the same is learned."""
    for rung in (TRANSFORMER, ROTARY):
        model, tokens = model_and_tokens(rung)
        gradients = []
        for whole in (False, True):
            model.zero_grad()
            model(tokens, whole=whole).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        for needed, executed in zip(*gradients):
            torch.testing.assert_close(needed, executed, rtol=1e-3, atol=1e-4)

def test_studies_ladder_flops_counted():
    """The counts by matrix products are those of torch's counter, attention written out."""
    def written_out(q, k, v, is_causal):
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v  # the mask costs no product
    for rung in ALL:
        for needed, every in ((True, False), (False, False), (False, True)):
            rung = replace(rung, every=every)
            model, tokens = model_and_tokens(rung, 3)
            with patch_attention(written_out), FlopCounterMode(display=False) as counter:
                model(tokens, every=every, whole=not needed).sum().backward()
            expected = 3 * ladder.flops_window(rung, 11, needed)
            assert counter.get_total_flops() == expected, (rung.model, needed, every)

def patch_attention(function):
    from unittest.mock import patch
    return patch.object(ladder.F, "scaled_dot_product_attention", function)

def test_studies_ladder_headline_costs():
    """A window costs mlp 2.57e7, attention 1.76e8 as executed and 2.64e7 as needed."""
    _, mlp, attention, _ = ladder.rungs_of("baseline")
    assert f"{ladder.flops_window(mlp, 65, False):.2e}" == "2.57e+07"
    assert f"{ladder.flops_window(attention, 65, False):.2e}" == "1.76e+08"
    assert f"{ladder.flops_window(attention, 65, True):.2e}" == "2.64e+07"

def test_studies_ladder_block_is_torchs():
    """Post-norm and pre-norm blocks compute what torch's encoder layer does with such weights."""
    for rung in (ATTENTION, PRE_NORM):
        torch.manual_seed(3)
        ours = ladder.Block(rung)
        theirs = nn.TransformerEncoderLayer(128, 4, rung.hidden, batch_first=True,
                                            norm_first=ours.pre_norm)
        inside = ours.attention
        projections = (inside.query, inside.key, inside.value)
        with torch.no_grad():
            weights = torch.cat([layer.weight for layer in projections])
            theirs.self_attn.in_proj_weight.copy_(weights)
            theirs.self_attn.in_proj_bias.copy_(torch.cat([layer.bias for layer in projections]))
        theirs.self_attn.out_proj = inside.output
        theirs.linear1, theirs.linear2 = ours.widen, ours.narrow
        theirs.norm1, theirs.norm2 = ours.norm1, ours.norm2
        x, future = torch.randn(2, 8, 128), torch.full((8, 8), -math.inf).triu(1)
        with torch.no_grad():
            expected = theirs.eval()(x, src_mask=future)
            torch.testing.assert_close(ours.eval()(x, False), expected, rtol=1e-4, atol=1e-5)

def test_studies_ladder_dropout_places():
    """In training, the written-out attention without its dropout is torch's; and dropout drops."""
    for rung in (ATTENTION, TRANSFORMER):
        model, tokens = model_and_tokens(rung)
        with torch.no_grad():
            expected = model(tokens, every=True)
            model.train()
            dropped = model(tokens, every=True)
            ones = lambda shape: torch.full(shape, 1 - ladder.DROPOUT)
            with patch_keep(ones):  # everything kept, and scaled so that it stays what it was
                got = model(tokens, every=True)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert (dropped - expected).abs().mean() > 0.01

def patch_keep(function):
    from unittest.mock import patch
    return patch.object(ladder, "keep_mask", function)

def test_studies_ladder_dropout():
    """One in ten is dropped at random, the rest grows by 10/9; whatever the number of numbers."""
    torch.manual_seed(0)
    x = ladder.dropout(torch.ones(1001, 1001), True)
    dropped = (x == 0).double()
    assert abs(dropped.mean() - 0.1) < 0.002  # 6 standard errors
    same(x.max().item(), 1 / 0.9, 1e-6)
    # Neighbours are independent: both dropped in one of 100 cases.
    assert abs((dropped[:, 1:] * dropped[:, :-1]).mean() - 0.01) < 0.001
    assert ladder.dropout(x, False) is x

def test_studies_ladder_causal():
    """A score at a position never depends on a later token; with a loss at every position too."""
    for rung in ALL:
        model, tokens = model_and_tokens(rung)
        changed = tokens.clone()
        changed[:, 5] = (changed[:, 5] + 1) % 11
        with torch.no_grad():
            difference = (model(tokens, every=True) - model(changed, every=True)).abs()
        assert difference[:, :5].max() < 1e-6 < 1e-3 < difference[:, 5:].max(), rung.model

def test_studies_ladder_rotary():
    """A rotary score depends on how far two places are apart, not on where they are."""
    inside = ladder.Attention(ROTARY, False)
    table = inside.angles.cos(), inside.angles.sin()
    q, k = torch.randn(1, 32).expand(8, 32), torch.randn(1, 32).expand(8, 32)
    scores = ladder.rotate(q, table) @ ladder.rotate(k, table).T
    for apart in range(-7, 8):
        diagonal = scores.diagonal(apart)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-4)
    assert scores[0].std() > 0.1
    # Halves: number i turns with number i + 16, by place * 10000 ** (-i / 16).
    one = torch.zeros(8, 32)
    one[:, 3] = 1
    turned, angle = ladder.rotate(one, table)[5], 5 * 10_000 ** (-3 / 16)
    same([turned[3].item(), turned[19].item()], [math.cos(angle), math.sin(angle)], 1e-5)

# ---------------------------------------------------------------- text and loop

def test_studies_ladder_continued():
    """Training that goes on from any checkpoint ends bit for bit like training never interrupted."""
    text = some_text()
    for rung in ALL + [replace(MLP, also_at=(13, 77, 130)), replace(ATTENTION, every=True)]:
        states = []
        whole = ladder.train(rung, 7, text, save=lambda state: states.append(copied(state)))
        assert [point["windows"] for point in whole] == rung.measured_at()
        for state in states[:-1]:
            again = ladder.train(rung, 7, text, copied(state))
            assert repr(again) == repr(whole), rung.model
        assert repr(ladder.train(rung, 8, text)) != repr(whole)

def copied(state):
    """A state as it is on the disk."""
    import io
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=True)

def test_studies_ladder_learns():
    """Each model learns a text in which every token follows from the one before it."""
    ids = np.arange(3000) * 7 % 11
    text = ladder.as_text(ids[:2000], ids[2000:2500], ids[2500:], 11)
    for rung in ALL:
        rung = replace(rung, windows_per_epoch=2000, test_windows=100)
        points = ladder.train(rung, 1, text)
        assert points[-1]["test_nll"] < 0.5 < math.log(11), (rung.model, points)

def test_studies_ladder_best_is_tested():
    """The test loss is that of the weights with the lowest validation loss, not of the last."""
    rung = replace(MLP, epochs=12, windows_per_epoch=300)
    ids = np.random.default_rng(0).integers(0, 11, 600)
    text = ladder.as_text(ids[:300], ids[300:450], ids[450:], 11)
    states = []
    points = ladder.train(rung, 2, text, save=lambda state: states.append(copied(state)))
    best = min(range(12), key=lambda i: points[i]["valid_nll"])
    assert best < 11  # random text: it learns by heart
    model = ladder.build(rung, text.vocab_size)
    model.load_state_dict(states[best]["model"])
    test = ladder.windows_of(text.test, rung)
    same(points[-1]["test_nll"], ladder.evaluate(model, test, rung), 0)
    assert points[-1]["test_nll"] != ladder.evaluate(ladder.build(rung, 11), test, rung)

def test_studies_ladder_evaluate():
    """The loss of the first windows, one token apart, is that of a slow loop over them."""
    text, rung = some_text(), replace(ATTENTION, test_windows=30)
    model, _ = model_and_tokens(rung)
    losses = []
    for start in range(30):
        window = torch.from_numpy(text.test[start : start + 8])[None]
        with torch.no_grad():
            scores = model(window, whole=True)[0].double()
        losses.append(-scores.log_softmax(0)[text.test[start + 8]].item())
    same(ladder.evaluate(model, ladder.windows_of(text.test, rung), rung), np.mean(losses), 1e-5)
