"""Chapter 7. Tests: each is a sentence that must hold, checked against something independent.

    python test_all.py                 all of them, offline (two minutes on two cores)
    python test_all.py stats           those of one file: data, tokenizer, model, train,
                                       telemetry, stats or run_all
    python test_all.py exercise 4      the judge of an exercise: what is right, what not yet

A test is a plain function whose name begins with test_FILE_; its docstring is the sentence. A
loop at the end of the file runs them. A test that passes with the code broken is worse than none.
"""

import atexit, contextlib, csv, functools, hashlib, io, itertools, json, math, multiprocessing, os
import random, re, runpy, shutil, socketserver, subprocess, sys, tempfile, threading, time
import traceback, warnings, xml.etree.ElementTree
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import scipy.linalg, scipy.stats
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import model, run_all, stats, telemetry, tokenizer, train
from data import download, stories
from tokenizer import BPETokenizer, InputError

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE / "data" / "published_observations.csv"
# SMOKE: windows of 16 tokens, 4 a step; 256 tokens an interval; 8 validation windows.
PAPER = train.StudyConfig("paper", **train.PRESETS["paper"])
SMOKE = replace(train.StudyConfig("smoke", **train.PRESETS["smoke"]), seeds=[101, 202])
SHORT = replace(SMOKE, total_tokens=768)  # measured at intervals 0 to 3

def same(got, expected, tolerance=1e-9):
    """Equal to a relative tolerance; nan, inf and 0 exactly."""
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=0)

def refused(call, *words):
    """call() raises an error of ours, and its message has all these words."""
    try:
        call()
    except (InputError, stats.InputError, FloatingPointError) as error:
        assert all(word in str(error) for word in words), str(error)
    else:
        raise AssertionError(f"accepted: {words}")

def folder():
    """A new folder, gone when Python ends."""
    path = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)

def said(function, *args):
    """What a function writes; what it returns, or its OSError's message, or its exit status."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
        try:
            result = function(*args)
        except (OSError, SystemExit) as end:
            result = end.code if isinstance(end, SystemExit) else str(end)
    out.seek(0)
    return out.read(), result

def command(program, *words):
    """What a program of the project prints, and its exit status. It runs in this process, which has
    imported torch already; an error that a user would see as a traceback fails the test."""
    with patch.object(sys, "argv", [program, *map(str, words)]), \
            patch.dict(os.environ, COLUMNS="80"):
        out, end = said(runpy.run_path, str(HERE / program), None, "__main__")
    return out, 0 if isinstance(end, dict) else end  # a dict is what the program has defined

def table_of(path):
    """The rows of a csv file, as lists of str."""
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))

def rows_of(path):
    """The rows of a metrics.csv but for the two columns that hold times."""
    return [row[:-2] for row in table_of(path)]

# ---------------------------------------------------------------- data

def test_data_stories_are_the_same_everywhere_and_never_come_twice():
    """The first 200 have a known sha256, so every machine trains on the same text; 8,000 of each
    stream, more than a million tokens, are all different, share none and use many words."""
    train, valid = (stories.first_stories(stream, 8000) for stream in ("train", "valid"))
    assert hashlib.sha256("\n".join(train[:200]).encode("utf-8")).hexdigest() == (
        "defd1c56e4e1f299063276af8609c218d2a5dc4c73a447f936f366b1628575c0")
    assert len({*train, *valid}) == 16_000
    words = set(re.findall("[a-z']+", " ".join(train[:5000]).lower()))
    assert len(words) >= 1500, len(words)

@contextlib.contextmanager
def a_server(body, refuse=(), ranges=True, cuts=0, kind="text/plain"):
    """Serve `body` on 127.0.0.1: yields (its url, a path to fetch to, the ranges asked for)."""
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            request = b"".join(iter(self.rfile.readline, b"\r\n")).decode()
            asked.append(re.search("bytes=([0-9-]*)", request)[1])
            first, last = asked[-1].split("-")
            piece = body[int(first) : int(last or len(body)) + 1] if ranges else body
            code = 200 if not ranges else 206 if piece else 416
            code = refuse[0] if len(asked) <= len(refuse) else code
            head = (f"HTTP/1.0 {code} -\nContent-Length: {len(piece)}\nContent-Type: {kind}\n"
                    f"Content-Range: bytes {asked[-1]}/{len(body)}\nRetry-After: 0\n\n")
            self.wfile.write(head.encode() + piece[: 90_000 if len(asked) <= cuts else None])
    asked, server = [], socketserver.TCPServer(("127.0.0.1", 0), Handler)
    with server, contextlib.ExitStack() as end, patch.object(download, "WAIT", 0), \
            patch.dict(os.environ, no_proxy="127.0.0.1"):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        end.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_address[1]}/a.txt", folder() / "a.txt", asked

def test_data_a_broken_download_continues_where_it_stopped():
    """Early ends are continued, by the next call too; where that is impossible, it begins anew."""
    text = b"0123456789" * 30_000
    with a_server(text, cuts=5) as (url, path, asked):
        Path(f"{path}.part").write_bytes(text)  # all is there, but nobody has looked at it
        assert "closed after 270,000 of 300,000 bytes" in said(download.fetch, url, path)[1]
        assert said(download.fetch, url, path) == ("a.txt: 300,000 bytes fetched\n", text)
        assert asked == ["300000-", "0-", "90000-", "180000-", "270000-"]
        assert said(download.fetch, url, path) == ("", text) and path.read_bytes() == text
    with a_server(text, ranges=False) as (url, path, _):
        Path(f"{path}.part").write_bytes(b"stale")
        assert said(download.fetch, url, path, 99)[1] == path.read_bytes() == text[:99]

def test_data_every_failure_of_a_download_is_one_clear_sentence():
    """Refusals, web pages, another text, no network: said, and nothing bad is kept."""
    right, wrong = (hashlib.sha256(text).hexdigest() for text in (b"right", b"wrong"))
    for body, server, expected, requests in (
            (b"right", {"refuse": [404]}, "moved", 1), (b"right", {"refuse": [503]}, b"right", 2),
            (b"right", {"refuse": [429]}, b"right", 2), (b"", {"refuse": [429] * 2}, "wait", 2),
            (b"right", {"kind": "text/html"}, "sent a web page", 4),
            (b"<!DOCTYPE html>", {}, "is a web page", 1),
            (b"wrong", {}, f"sha256 {wrong}, the known one is {right}", 1)):
        with a_server(body, **server) as (url, path, asked):
            path.write_bytes(b"damaged by something")
            _, result = said(download.fetch, url, path, None, right)
            assert expected in result and len(asked) == requests, (expected, result, asked)
            assert os.listdir(path.parent) == ["a.txt"] * (result == b"right")
    with a_server(b"", ranges=False) as (empty, path, _):
        assert "closed after 0 of 0 bytes" in said(download.fetch, empty, path)[1]
        assert not path.exists()
        # (The last url's server has gone.)
        assert re.search("--train_file.*--valid_file", said(download.fetch, url, path)[1])

def test_data_texts_are_split_into_documents():
    """TinyStories at separators, paragraphs apart, the cut end dropped; Shakespeare 90/5/5."""
    text = ("A caf\u00e9.\nIt shut.\n\nEnd.\n<|endoftext|>\n" * 3 + "A cut \u00e9").encode()[:-1]
    with a_server(text) as (url, path, _), patch.object(download, "DOWNLOADS", path.parent), \
            patch.dict(download.CORPORA, tinystories=(url + "{}", {"a": (len(text), "other")}),
                       tinyshakespeare=(url + "{}", {"input": (82, None)})):
        output, status = said(download.main, ["tinystories", "ptv"])
        for part in ("known one is other", hashlib.sha256(text).hexdigest(), "no corpus 'ptv'"):
            assert part in output and status == 2
        stories = said(download.load, "tinystories")[1][0]
        assert stories == {"a": ["A caf\u00e9.\n\nIt shut.\n\nEnd."] * 3}
        plays = said(download.load, "tinyshakespeare")[1][0]
        assert [len(plays[s][0]) for s in ("train", "valid", "test")] == [72, 4, 4]

# ---------------------------------------------------------------- tokenizer

NASTY = ["", " ", "a\x00b", "e\u0301\u0301", "\U0001f469\u200d\U0001f680 x", "a\r\n\r\n b",
         " \t x  ", "don't I'LL 12345 __x__ \u00b2\u0663", "<|endoftext|>",
         "\u3000\ufeff\u2028" * 70, "a" * 999]

def test_tokenizer_fast_ways_equal_the_obvious_ones():
    """On random text of few letters, full of ties and overlaps, both learn the same merges, and
    encoding equals applying every merge, one after another, to the whole chunk."""
    rng = random.Random(1)
    for alphabet, size in (("ab", 30), ("aab c", 60), ("xyz \u00e9\U0001f642'", 90), ("a", 9)) * 5:
        documents = ["".join(rng.choices(alphabet, k=rng.randrange(120))) for _ in range(12)]
        slow = tokenizer.slow_bpe(documents, 257 + size)
        assert slow == tokenizer.fast_bpe(documents, 257 + size)
        assert slow == tokenizer.fast_bpe(documents[::-1], 257 + size)  # ties by id, not by order
        for chunk in tokenizer.CHUNK.findall("".join(rng.choices(alphabet, k=500))):
            ids = list(chunk.encode("utf-8"))
            for i, pair in enumerate(slow):
                ids = tokenizer.merge(ids, pair, 257 + i)
            assert BPETokenizer(slow).encode(chunk) == ids

def test_tokenizer_merges_by_pencil():
    """In "abab ab" the pair (a, b) comes first; ties go to smaller ids; it stops when pairs do."""
    assert tokenizer.slow_bpe(["abab ab"], 300) == [(97, 98)]
    assert BPETokenizer([]).encode_documents(["a", "b"]) == [97, 256, 98, 256]
    assert tokenizer.slow_bpe(["ba ab ba ab"], 258) == [(32, 97)]  # " a", "ab", "ba": twice
    assert BPETokenizer.train(["xy"], 300).vocab_size == 257

def test_tokenizer_every_text_comes_back():
    """Every code point of Unicode and every nasty string survives; a lone surrogate is named. Any
    ids decode without an exception; ids that do not exist are refused."""
    learned = BPETokenizer.train(stories.first_stories("train", 50) + NASTY, 600)
    rng = random.Random(2)
    everything = "".join(map(chr, itertools.chain(range(0xD800), range(0xE000, 0x110000))))
    for text in [*NASTY, everything, everything[0x3000::-1]]:
        ids = learned.encode(text)
        assert learned.decode(ids) == text and tokenizer.END_ID not in ids
        chunks = tokenizer.CHUNK.findall(text)
        assert "".join(chunks) == text and max(map(len, chunks), default=0) <= 65
    refused(lambda: learned.encode("ab\ud800c"), "U+D800", "character 2")
    for _ in range(300):
        learned.decode(rng.choices(range(learned.vocab_size), k=9))
    for bad in (-1, learned.vocab_size):
        refused(lambda: learned.decode([bad]), f"no token {bad}")

def test_tokenizer_file_is_readable_and_whole():
    """The saved file shows how tokens are built, loads again, and nothing else loads."""
    path, learned = folder() / "tok.json", BPETokenizer.train(["the then there the"], 270)
    learned.save(path)
    text = path.read_text(encoding="utf-8")
    assert '"h + e"' in text and BPETokenizer.load(path).merges == learned.merges
    BPETokenizer.train([" " + "\U00010400" * 64] * 2, 400).save(path)  # the longest token
    assert len(BPETokenizer.load(path).pieces[-1]) == 257
    for bad in ("", "[]", "{}", text[:-9], '{"merges": [[257, 1, 999, ""]]}', "[" * 9999):
        path.write_text(bad, encoding="utf-8")
        refused(lambda: BPETokenizer.load(path), "tok.json", "train it again")

def test_tokenizer_program_spares_the_text():
    """--out may not be the text itself, and a mistake is one line; alone it is a lesson."""
    text = folder() / "a.txt"
    text.write_text("aa aa", encoding="utf-8")
    for words in (["train", text, "--out", text], ["show", f"{text}.json", "x"], ["x"]):
        out, status = command("tokenizer.py", *words)
        assert status == 2 and out.count("\n") == 1, out
    assert text.read_text(encoding="utf-8") == "aa aa"
    assert "1.4 characters a token" in command("tokenizer.py")[0]

def test_tokenizer_reads_documents():
    """Documents are separated by lines of <|endoftext|>; bad files are named in one sentence."""
    path = folder() / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n<|endoftext|>\r\n\n<|endoftext|>\nthree")
    assert tokenizer.read_documents(path) == ["one\ntwo", "three"]
    assert tokenizer.read_documents(path, 1) == ["one\ntwo"]
    for content, word in ((b"", "no text"), (b"a\xff", "not UTF-8")):
        path.write_bytes(content)
        refused(lambda: tokenizer.read_documents(path), "a.txt", word)
    for absent in (path.parent, path.with_name("none.txt")):
        refused(lambda: tokenizer.read_documents(absent), "cannot read", absent.name)

def test_tokenizer_of_characters_and_words():
    """The most frequent pieces are known, ties by the piece; the others become <unk>."""
    chars = tokenizer.CharTokenizer.train(["abba", "cab", "<unk>"], 4)
    assert chars.encode("abcd") == [2, 3, 1, 1] and chars.decode([3, 2, 1]) == "ba<unk>"
    words = tokenizer.WordTokenizer.train([" the cat <unk> \n the <unk> <unk> dog\n"], 99)
    assert list(words.ids) == ["<|endoftext|>", "<unk>", "\n", "the", "cat", "dog"]
    assert words.encode_documents(["the dog  saw\n", "cat"]) == [3, 5, 1, 2, 0, 4, 0]
    assert words.decode([3, 4]) == "the cat " and words.vocab_size == 6

# ---------------------------------------------------------------- model

TINY = model.ModelConfig(vocab_size=50, block_size=16, n_layer=2, n_head=2, n_embd=16)

EVERY_RUNG = [replace(TINY, architecture=kind, positions=positions) for kind, positions in (
    ("llama", "rotary"), ("llama", "learned"), ("transformer", "learned"),
    ("transformer", "rotary"), ("transformer", "none"), ("mlp", "none"), ("linear", "none"))]

def tiny_model(seed=0, config=TINY):
    torch.manual_seed(seed)
    return model.build(config), torch.randint(0, config.vocab_size, (3, config.block_size))

def test_model_has_the_published_size_and_cost():
    """4,262,144 parameters, and 27 MFLOP a training token. The formula for FLOPs equals torch's own
    count of matrix products, attention written out, of every rung and of the benchmark's ceiling.
    """
    table, _ = command("model.py")
    assert re.search("in all +4,262,144\n", table) and " 27,131,904 FLOPs" in table
    matrices = [p for p in model.Llama(model.ModelConfig()).parameters() if p.dim() == 2]
    assert all(0.019 < p.std() < 0.021 for p in matrices)
    for tiny in EVERY_RUNG:
        network, tokens = tiny_model(config=tiny)
        with patch.object(F, "scaled_dot_product_attention", model.attention), \
                FlopCounterMode(display=False) as counter:
            network(tokens, tokens)[1].backward()
        assert counter.get_total_flops() == model.training_flops_per_token(tiny) * tokens.numel()
    config = replace(SMOKE, windows_at_once=2)
    with FlopCounterMode(display=False) as counter:
        train.matrix_products(config)()
    assert counter.get_total_flops() == (
        model.training_flops_per_token(config.model) * config.tokens_per_step)

def test_model_cannot_see_the_future():
    """A changed token alters no earlier score, and every later one, on every rung."""
    for config in EVERY_RUNG:
        network, tokens = tiny_model(config=config)
        other = tokens.clone()
        other[:, 9] = (other[:, 9] + 1) % 50
        a, b = network(tokens)[0], network(other)[0]
        assert torch.equal(a[:, :9], b[:, :9]) and (a[:, 9:] != b[:, 9:]).any(-1).all()

def test_model_flat_rungs_are_their_formulas():
    """linear: b + the sum over the places of a matrix times the token there, zeros before the
    window; mlp: two hidden layers with max(0, x)."""
    for config in EVERY_RUNG[-2:]:
        network, tokens = tiny_model(config=config)
        E, *layers = (p.detach().numpy() for p in network.parameters())
        for t in (0, 7, 15):
            x = np.zeros((16, 16))  # (C, place): the last token in the last place
            x[:, 15 - t :] = E[tokens[0, : t + 1].numpy()].T
            x = x.ravel()
            for i in range(0, len(layers), 2):
                x = layers[i] @ (np.maximum(x, 0) if i else x) + layers[i + 1]
            np.testing.assert_allclose(network(tokens)[0][0, t].detach(), x, atol=1e-5)
    assert len(layers) == 2 and network.generate(tokens[:1, :3], 20).shape == (1, 23)

def test_model_positions_are_what_their_names_say():
    """Without positions one layer sees which tokens stand before, and not in which order; learned
    and rotary ones tell it. Learned ones tell the first place from the second."""
    every = itertools.product(("transformer", "llama"), ("none", "rotary", "learned"))
    for kind, positions in every:
        config = replace(TINY, n_layer=1, architecture=kind, positions=positions)
        network, tokens = tiny_model(config=config)
        for parameter in network.parameters():
            parameter.data.normal_()  # as wide as a trained model's
        swapped = tokens[:, [3, 1, 2, 0, *range(4, 16)]]
        a, b = network(tokens)[0][:, -1], network(swapped)[0][:, -1]
        assert torch.allclose(a, b, atol=1e-3) == (positions == "none"), config
        one = network(tokens[:, :1].expand(3, 2))[0]  # a token twice
        assert torch.allclose(one[:, 0], one[:, 1], atol=1e-3) == (positions != "learned"), config

def test_model_positions_are_relative():
    """The scalar product of two rotated vectors depends on their distance alone."""
    config = replace(TINY, block_size=64)
    q, k = torch.randn(2, 1, 1, 1, 8).double().expand(2, 1, 64, 1, 8)
    table = model.rotary_table(config).to(torch.complex128)
    scores = torch.einsum("btd,bsd->ts", *(model.rotate(x, table)[..., 0, :] for x in (q, k)))
    for distance in range(-60, 61, 7):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1], atol=1e-5)
    assert not torch.allclose(scores[0, 0], scores[0, 9], atol=1e-2)

def test_model_is_its_formulas():
    """The scores equal those of the formulas written out in numpy, in float64, with torch's
    attention and with ours."""
    network, tokens = tiny_model()
    w = {name: 8 * p.detach().double().numpy() for name, p in network.named_parameters()}
    network.load_state_dict({name: torch.from_numpy(v).float() for name, v in w.items()})
    T, H, D = TINY.block_size, TINY.n_head, 8
    norm = lambda x, weight: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    # Each pair (2i, 2i + 1) turns by the angle t * 10000^(-2i / D): a rotation is an exponential.
    turn = scipy.linalg.block_diag(*(
        [[0, -angle], [angle, 0]] for angle in 10000 ** (-np.arange(0, D, 2) / D)))
    rotated = lambda x: np.stack([scipy.linalg.expm(t * turn) @ x[t] for t in range(T)])
    x = w["embedding.weight"][tokens[0]]
    for layer in range(TINY.n_layer):
        part = lambda name: w[f"blocks.{layer}.{name}.weight"]
        a, y = norm(x, part("attention_norm")), np.zeros_like(x)
        q, k, v = (a @ part(f"attention.{name}").T for name in ("query", "key", "value"))
        for h in range(H):
            d = slice(h * D, h * D + D)
            weight = np.tril(np.exp(rotated(q[:, d]) @ rotated(k[:, d]).T / math.sqrt(D)))
            y[:, d] = weight / weight.sum(1, keepdims=True) @ v[:, d]
        x = x + y @ part("attention.output").T
        b = norm(x, part("feed_forward_norm"))
        gate, up = b @ part("feed_forward.gate").T, b @ part("feed_forward.up").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ part("feed_forward.down").T
    expected = norm(x, w["norm.weight"]) @ w["embedding.weight"].T
    for kernel in (F.scaled_dot_product_attention, model.attention):
        with patch.object(F, "scaled_dot_product_attention", kernel):
            np.testing.assert_allclose(network(tokens)[0][0].detach(), expected, 1e-3, 1e-3)

def test_model_ladder_transformer_is_torchs_own():
    """The ladder's transformer equals torch's own layers (norm first, GELU) with its weights in
    them, none of these small; the output of its llama is tied, as in llama."""
    network, tokens = tiny_model(config=EVERY_RUNG[2])
    for p in network.parameters():
        p.data = torch.randn_like(p)
    C, T = TINY.n_embd, TINY.block_size
    x = network.embedding(tokens) + network.place.weight
    for block in network.blocks:
        own, (up, _, down) = block.attention, block.feed_forward
        layer = torch.nn.TransformerEncoderLayer(
            C, TINY.n_head, 4 * C, 0.0, "gelu", batch_first=True, norm_first=True)
        for p, value in zip(layer.parameters(), (
                torch.cat([own.query.weight, own.key.weight, own.value.weight]),
                torch.zeros(3 * C), own.output.weight, torch.zeros(C), *up.parameters(),
                *down.parameters(), *block.attention_norm.parameters(),
                *block.feed_forward_norm.parameters()), strict=True):
            p.data = value.detach()
        x = layer(x, torch.nn.Transformer.generate_square_subsequent_mask(T), is_causal=True)
    x = F.layer_norm(x, [C], *network.norm.parameters()) @ network.output.weight.T
    torch.testing.assert_close(network(tokens)[0], x, atol=1e-3, rtol=1e-3)
    llama = model.build(EVERY_RUNG[1])
    assert llama.output.weight is llama.embedding.weight

def test_model_starts_at_chance_and_can_overfit():
    """The first loss is near ln(vocabulary); one batch can be learned by heart."""
    network, tokens = tiny_model()
    optimizer = train.make_optimizer(network, SMOKE)
    losses = [train.train_step(network, optimizer, tokens[:, :-1], tokens[:, 1:], 1e-2, SMOKE)[0]
              for _ in range(150)]
    assert abs(losses[0] - math.log(50)) < 0.02 and losses[-1] < 0.05, losses

def test_model_writes_without_disturbing_chance():
    """generate is repeatable, stops at `stop`, and leaves torch's global generator alone."""
    network, tokens = tiny_model()
    network.load_state_dict({k: 8 * v for k, v in network.state_dict().items()})  # not so even
    before = torch.get_rng_state()
    write = lambda: network.generate(tokens[:1, :3], 30, generator=torch.Generator().manual_seed(4))
    assert torch.equal(write(), write()) and write().shape == (1, 33)
    assert torch.equal(torch.get_rng_state(), before)
    greedy = network.generate(tokens[:1, :3], 5, temperature=0)[0]
    assert network.generate(tokens[:1, :3], 5, temperature=0, stop=greedy[3].item()).shape == (1, 4)
    for text, first in ((greedy, 3), (network.generate(tokens[:1], 5, temperature=0)[0], 16)):
        for t in range(first, first + 5):  # the likeliest after the last 16 that stand before
            assert network(text[None, max(0, t - 16) : t])[0][0, -1].argmax() == text[t]

# ---------------------------------------------------------------- train

def smoke_text():
    return train.prepare_text(SMOKE)[0]

def test_train_paper_preset_measures_where_the_study_did():
    """Steps 0, 489, 977 ... 9766 and tokens 0 ... 20,000,768, as in the published table."""
    steps, tokens = (stats.read_table(PUBLISHED, name)[0][0] for name in ("step", "tokens_seen"))
    assert PAPER.measured_steps == steps.tolist() and PAPER.measured_steps[-1] == 9766
    assert (2048 * steps).tolist() == tokens.tolist()
    rates = [train.learning_rate(t, PAPER) for t in (0, 5e5, 1e6, 1.05e7, 2e7, 3e7)]
    same(rates, [0, 2e-4, 4e-4, 2.2e-4, 4e-5, 4e-5])
    assert (PAPER.seeds, PAPER.weight_decay, PAPER.grad_clip, PAPER.beta2, PAPER.valid_start,
            PAPER.published_windows, PAPER.train_stories, PAPER.tokenizer_stories) == (
        [101, 202, 303, 404, 505, 606], 0.1, 1.0, 0.95, 9001, 16, 2000, 1000)

def test_train_fresh_text_is_never_repeated():
    """The control reads its text less than once; tokenizer and validation are classroom's."""
    fresh, classroom = (train.prepare_text(train.StudyConfig(**train.PRESETS[name]))
                        for name in ("fresh", "classroom"))
    total = train.StudyConfig().total_tokens
    assert 40 * len(classroom[0].train) < total < len(fresh[0].train)
    assert fresh[1].merges == classroom[1].merges
    assert np.array_equal(fresh[0].valid, classroom[0].valid)

def test_train_windows_follow_the_published_order():
    """A window starts at tokens_seen mod (N - block_size - 1), whatever the seed. Shuffled, the
    starts of an epoch are the same, each once, in an order that seed and epoch decide."""
    shuffled, T = replace(SMOKE, seed_decides="weights+order"), SMOKE.block_size
    for span in (983, 960):  # N - T - 1; 60 windows fill the second: no drift between epochs
        order = lambda config, seed: np.concatenate([train.window_starts(
            step, config, span + T + 1, seed) for step in range(40)])
        plain, one, two = order(SMOKE, 1), order(shuffled, 1), order(shuffled, 2)
        epoch, place = np.divmod(np.arange(40 * SMOKE.windows_per_step) * T, span)
        assert (plain == place).all() and (order(SMOKE, 2) == place).all()
        for e in range(2):
            assert sorted(plain[epoch == e]) == sorted(one[epoch == e]) == sorted(two[epoch == e])
        assert (one != two).any() and (one != plain).any()
    assert (one[epoch == 0] != one[epoch == 1]).any()

def test_train_evaluation_is_fixed_and_harmless():
    """Evaluation equals the loss window by window, and leaves the random generator alone."""
    text, network, before = smoke_text(), model.Llama(SMOKE.model), torch.get_rng_state()
    losses = train.evaluate(network, text.valid, replace(SMOKE, valid_start=30))
    assert torch.equal(torch.get_rng_state(), before) and losses.shape == (SMOKE.valid_windows,)
    for i, loss in enumerate(losses):
        window = torch.from_numpy(text.valid[30 + i * 16 : 30 + i * 16 + 17])[None]
        same(loss, network(window[:, :-1], window[:, 1:])[1].item(), 1e-5)

def test_train_row_is_what_its_names_say():
    """Standard errors, paired change, perplexity, bits per byte and epochs, by their formulas."""
    start = int(np.argmax(smoke_text().valid == 256)) - 60  # a story ends within the windows
    config = replace(SMOKE, valid_start=start, published_windows=3)
    (text, learned, _), rng = train.prepare_text(config), np.random.default_rng(0)
    now, before = rng.normal(3, 1, (2, 8))
    row = train.measure(config, 101, 8, text, now, before, [3.0, 5.0], [1.0, 2.0], 2.0, 9.0)
    targets = text.valid[start + 1 : start + 129]
    n_bytes = len(learned.decode(i for i in targets if i != 256).encode("utf-8"))
    expected = dict(
        val_loss=now.mean(), val_loss_se=scipy.stats.sem(now), val_ppl=math.exp(now.mean()),
        val_change_se=scipy.stats.sem(now - before), val_loss_published=now[:3].mean(),
        bits_per_byte=now.sum() * 16 / math.log(2) / n_bytes, train_loss=4, grad_norm=1.5,
        tokens_per_second=64, epochs=512 / (len(text.train) - 17), interval=2, tokens_seen=512)
    same([row[name] for name in expected], list(expected.values()))
    assert math.isnan(train.measure(SMOKE, 1, 0, text, now, None, [], [], 1, 1)["val_change_se"])
    for size, known in ((20, False), (60, True)):  # what is unknown has no known number of bytes
        text = train.prepare_text(replace(SMOKE, tokenizer="char", vocab_size=size))[0]
        row = train.measure(SMOKE, 1, 0, text, now, None, [], [], 1, 1)
        assert np.isfinite(row["bits_per_byte"]) == known

def test_train_steps_equal_a_loop_written_by_hand():
    """Eight steps, 3 of 4 windows at once, equal AdamW, clipping and schedule written out in
    float64 from their papers, and so do the training loss and gradient norm that are reported."""
    config = replace(SMOKE, total_tokens=512, interval_tokens=128, grad_clip=0.5, windows_at_once=3)
    text, losses, norms = smoke_text(), [], []
    torch.manual_seed(101)
    network = model.Llama(config.model).double()
    network.table = model.rotary_table(config.model).to(torch.complex128)
    state = {p: (torch.zeros_like(p), torch.zeros_like(p)) for p in network.parameters()}
    for step in range(8):
        starts = train.window_starts(step, config, len(text.train), 101)
        loss = sum(network(*train.windows_at(text.train, [s], config))[1] for s in starts) / 4
        gradients = torch.autograd.grad(loss, list(state))
        losses.append(loss.item())
        norms.append(math.sqrt(sum((g**2).sum().item() for g in gradients)))
        rate = train.learning_rate(step * 64, config)
        for (p, (m, v)), g in zip(state.items(), gradients):
            g = g * min(1.0, 0.5 / (norms[-1] + 1e-6))
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.95).add_(g**2, alpha=0.05)
            m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.95 ** (step + 1))
            p.data -= rate * (m_hat / (v_hat.sqrt() + 1e-8) + 0.1 * p.data)
    at = folder()
    rows = train.train_seed(config, 101, text, at)
    same([[row["train_loss"], row["grad_norm"]] for row in rows[1:]],
         np.transpose([losses, norms]).reshape(4, 2, 2).mean(1), 1e-5)  # two steps an interval
    trained = train.read_checkpoint(at / "seed_101" / "last.pt")["model"]
    for name, p in network.named_parameters():
        np.testing.assert_allclose(trained[name], p.detach(), atol=2e-5, err_msg=name)

def test_train_gradient_is_that_of_the_published_loop():
    """At the published size, 16 windows in passes of 4 give the gradient of 8 passes of 2 with
    attention written out, to 1e-5, and the same loss; the fused update is the plain one."""
    paper = train.StudyConfig(**train.PRESETS["paper"])
    x, y = torch.randint(4096, (2, 16, 128), generator=torch.Generator().manual_seed(1))
    results = []
    own = F.scaled_dot_product_attention
    for n, kernel, fused in ((4, own, True), (2, model.attention, False)):
        torch.manual_seed(5)
        network = model.Llama(paper.model)
        optimizer = train.make_optimizer(network, paper, fused)
        with patch.object(F, "scaled_dot_product_attention", kernel):
            config = replace(paper, windows_at_once=n, grad_clip=1e6)
            loss, norm = train.train_step(network, optimizer, x, y, 1e-4, config)
        results.append([torch.cat([t.double().flatten() for t in tensors]) for tensors in (
            [p.grad for p in network.parameters()], network.parameters(), torch.tensor([loss]))])
        same(norm, results[-1][0].norm().item(), 1e-4)
    for ours, published in zip(*results):
        assert (ours - published).norm() <= 1e-5 * published.norm()

def test_train_benchmark_measures_every_case():
    """The benchmark's shortest form gives five cases, with positive speeds, as strict JSON."""
    with patch.object(train, "cores", lambda: 2):
        out, _ = said(train.benchmark, True, 1, 0)
    table = json.loads(out[out.index("["):])
    assert [row["what"] for row in table] == ["matrix products", "study's loop", "published loop",
                                              "matrix products", "study's loop"]
    assert all(row["tokens_per_second"] > 0 < row["share_of_ceiling"] for row in table)

def test_train_continues_bit_for_bit():
    """Stopped in the middle of an interval, or by a full disk, and continued, a seed ends with the
    same bits. A full disk is one sentence, and nothing is half-written."""
    def stop(seed, tokens_seen, row):
        if tokens_seen == 576:
            sys.exit()

    text, (whole, *stopped) = smoke_text(), [folder() / "seed_101" for _ in range(3)]
    train.train_seed(SHORT, 101, text, whole.parent)
    said(train.train_seed, SHORT, 101, text, stopped[0].parent, stop)
    with patch.object(os, "fsync", side_effect=[None] * 10 + [OSError(28, "No space left")]):
        _, sentence = said(train.train_seed, SHORT, 101, text, stopped[1].parent)
    assert re.search("cannot write.*No space.*same command", sentence)
    assert not list(stopped[1].rglob("*.tmp"))
    for seed in stopped:
        assert len(train.read_checkpoint(seed / "last.pt")["rows"]) in (2, 3)
        train.train_seed(SHORT, 101, text, seed.parent)
        assert rows_of(seed / "metrics.csv") == rows_of(whole / "metrics.csv")
        for name in ("last.pt", "best.pt"):
            one, two = (train.read_checkpoint(x / name)["model"] for x in (seed, whole))
            assert all(torch.equal(one[k], two[k]) for k in one)
        assert np.array_equal(*(np.load(x / "val_windows.npy") for x in (seed, whole)))

def test_train_best_checkpoint_is_that_of_the_lowest_loss():
    """best.pt is of the first interval with the lowest validation loss, last.pt of the last."""
    at, losses = folder(), [mean + np.arange(8) for mean in (3.0, 2.0, 2.0, 4.0)]
    with patch.object(train, "evaluate", side_effect=losses):
        train.train_seed(SHORT, 101, smoke_text(), at)
    saved = [train.read_checkpoint(at / "seed_101" / f"{name}.pt") for name in ("best", "last")]
    assert [s["rows"][-1]["interval"] for s in saved] == [1, 3]

def test_train_damaged_files_are_noticed():
    """For a damaged checkpoint another one is used, or the seed starts again, and the same bits
    come out; damaged tables are written anew. A stranger's checkpoint cannot run code."""
    class Stranger:
        def __reduce__(self):
            return os.mkdir, (str(at / "harm"),)

    at, text = folder(), smoke_text()
    last, table, harm = at / "seed_101" / "last.pt", at / "seed_101" / "metrics.csv", io.BytesIO()
    train.train_seed(SHORT, 101, text, at)
    content, rows = last.read_bytes(), rows_of(table)
    torch.save({"model": Stranger()}, harm)
    signed = lambda data: data + hashlib.sha256(data).digest()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1  # a single bit
    for bad in (b"", content[:-100], signed(harm.getvalue()), signed(b"no checkpoint"), flipped):
        for n, news in ((1, "previous.pt, interval 2"), (2, "best.pt, interval 3"),
                        (3, "starts again")):
            for name in ("last.pt", "previous.pt", "best.pt")[:n]:
                last.with_name(name).write_bytes(bad)
            table.write_bytes(bad)
            out, _ = said(train.train_seed, SHORT, 101, text, at)
            assert rows_of(table) == rows and len(train.read_checkpoint(last)["rows"]) == 4
            assert out.count("not used") == n and news in out, out
            assert last.with_name("last.pt.damaged").read_bytes() == bad
    assert not (at / "harm").exists()
    (at / "seed_202").mkdir()  # one copied from another seed is not used either
    (at / "seed_202" / "last.pt").write_bytes(content)
    _, again = said(train.train_seed, SHORT, 202, text, at)
    assert {row["seed"] for row in again} == {202} and str(again[0]["val_loss"]) not in rows[1]

def test_train_never_mixes_two_runs():
    """A run that is put aside while it goes stops, and writes nothing into the new one, which
    starts afresh; a checkpoint copied from a run of other settings is not used; one more seed, or
    another rule for spikes, is no other run. Other instructions are told, and make none either. A
    damaged config.json is one sentence."""
    at, other = folder() / "run", replace(SHORT, peak_lr=1e-3, final_lr=1e-3)
    text, _, facts = train.open_run(SHORT, at)

    def put_aside(seed, tokens_seen, row):
        if row and row["interval"] == 1:
            said(train.open_run, other, at, True)

    assert "another run" in said(train.train_seed, SHORT, 101, text, at, put_aside)[1]
    assert not (at / "seed_101").exists() and (at.with_name("run.old1") / "seed_101").exists()
    config = json.loads((at / "config.json").read_text(encoding="utf-8"))
    assert config["peak_lr"] == 1e-3 and run_all.changed({"peak_lr": 4e-3, "n_layer": 1}, at) == [
        "peak_lr"]
    right = train.train_seed(other, 101, text, at)
    shutil.copy(at.with_name("run.old1") / "seed_101" / "last.pt", at / "seed_101" / "last.pt")
    out, again = said(train.train_seed, other, 101, text, at)
    assert "another seed or run" in out and "continues from previous.pt" in out, out
    assert [row["val_loss"] for row in again] == [row["val_loss"] for row in right]
    change = lambda **new: (at / "config.json").write_text(json.dumps(config | new), "utf-8")
    change(seeds=[1, 2], spike_factor=3.0, instructions="none known")
    assert run_all.is_complete(other, 101, at)
    change(weight_decay=0.2)
    assert not run_all.is_complete(other, 101, at)
    change(instructions="none known")
    assert "begun with none known instructions" in said(train.open_run, other, at)[0]
    for damaged in ("{", "[]", "[" * 10**5):
        (at / "config.json").write_text(damaged, "utf-8")
        refused(lambda: train.train_seed(other, 101, text, at), "config.json is damaged")
        refused(lambda: train.open_run(other, at), "neither empty nor a whole run")

def test_train_only_code_counts_as_an_edit():
    """Comments, blank lines and line ends do not change the fingerprint of a file; code does."""
    def fingerprint(source):
        with patch.object(Path, "read_bytes", lambda path: source + path.stem.encode()):
            return train.code_sha256()

    plain = fingerprint(b'x = 1\ny = "# no comment"\n')
    assert sorted(plain) == ["model.py", "tokenizer.py", "train.py"] and len({*plain.values()}) == 3
    assert plain == fingerprint(b'# why\r\nx = 1  # one\r\n\r\n\r\ny = "# no comment"\n')
    for edited in (b'x = 2\ny = "# no comment"\n', b'x = 1\ny = "# no  comment"\n', b"z = 3\n"):
        assert not set(plain.items()) & set(fingerprint(edited).items())  # in none of the three

def test_train_settings_are_checked():
    """Settings that cannot be are refused by name; every rung of the ladder fits its budget, with a
    warm-up of a tenth at most. A report asks for the same ranges as the settings."""
    for wrong, word in (({"seeds": [1, 1]}, "twice"), ({"n_head": 3}, "n_embd"),
                        ({"peak_lr": math.nan}, "peak_lr"), ({"corpus": "x"}, "corpus"),
                        ({"train_file": ["a"]}, "--valid_file"), ({"block_size": 0}, "block_size"),
                        ({"interval_tokens": 10**9}, "interval_tokens"),
                        ({"training_flops": 1.0}, "raise training_flops"),
                        ({"decay_tokens": 256}, "decay_tokens"),
                        ({"final_lr": 0.5}, "final_lr")):
        refused(lambda: replace(SMOKE, **wrong), word)
    refused(lambda: train.prepare_text(replace(SMOKE, valid_start=10**6)), "valid", "tokens")
    ladder = lambda *words: train.settings_parser("").parse_args(["--preset", "ladder", *words])
    for rung in train.RUNGS:
        config, _ = train.config_from(ladder("--training_flops", "6e11"), rung)
        assert 0 < config.warmup_tokens <= config.total_tokens / 10
        assert config.decay_tokens == config.total_tokens
    for rung in ("attention-1", "transformer-4"):  # (the windows of both are the preset's)
        config, _ = train.config_from(ladder(), rung)
        assert config == train.StudyConfig(preset="ladder", **train.PRESETS["ladder"]
                                           | train.RUNGS[rung])
    refused(lambda: train.config_from(ladder(), "mlp-512"), "rung mlp-512", "training_flops")
    refused(lambda: train.config_from(ladder("--total_tokens", "10000")), "leave out --total")
    limits = {f.name: (f.type, f.metadata["low"], f.metadata["high"])
              for f in fields(train.StudyConfig)[1:]}
    assert telemetry.RULES.items() <= limits.items()

# ---------------------------------------------------------------- telemetry

def test_telemetry_reproduces_the_published_measures():
    """Volatility, backslides, spikes and stable cells of the published observations. A jump
    is no spike by the published rule: among 5 values none is further than 2 sd from the mean."""
    Y = stats.read_table(PUBLISHED)[0]
    m = telemetry.derive(Y)
    mean = lambda name, at: m[name].mean(0)[list(at)].round(4).tolist()
    assert mean("volatility", (2, 5, 8, 12, 15, 18, 20)) == [
        2.8520, 1.9997, 0.1030, 0.0671, 0.0691, 0.0690, 0.0554]
    assert mean("backslide_frequency", (5, 8, 12, 15, 18, 20)) == [
        0.5, 3.0, 4.8333, 4.8333, 4.0, 3.0]
    assert np.nansum(m["spike"]) == np.nansum(m["spike_rate"]) == np.nansum(m["stable"]) == 0
    assert np.isfinite(m["spike_corrected"]).sum() == 108 and np.nansum(m["spike_corrected"]) == 3
    same(stats.sd_between(Y).sd[[0, 20]].round(4), [0.0167, 0.0355])
    jumps = np.outer(np.linspace(0.2, 5, 50), np.arange(30) >= 15) - 0.1 * np.arange(30)
    assert [telemetry.derive(jumps, window=w)["spike"][:, 15].sum() for w in (5, 6)] == [0, 50]
    assert np.nansum(telemetry.derive(jumps)["spike_corrected"]) == 50

def test_telemetry_measures_are_their_definitions():
    """Every measure equals its definition, cell by cell; batches change nothing. Patience p stops
    after p measurements without a new minimum."""
    Y = np.random.default_rng(5).normal(size=(5, 11)).cumsum(1)
    m, w = telemetry.derive(Y, window=4, spike_factor=1.3), 4  # with 1.3 spikes can fire
    assert telemetry.derive([[0, 0.02, 0], [0, 0.005, 0]])["spike"][:, 1].tolist() == [1, 0]
    low = np.quantile(m["volatility"][:, 2:], 0.25)
    for i, t in itertools.product(range(5), range(1, 11)):
        at, changes = (i, t), np.diff(Y[i])[:t]
        d, before, last = changes[-w:], changes[:-1][-w:], changes[-1]
        spikes = lambda sample: last > max(0.01, sample.mean() + 1.3 * sample.std())
        assert m["backslide_frequency"][at] == (d > 0).sum()
        same(m["backslide_magnitude"][at], max(last, 0))
        same(m["spike_rate"][at], m["spike"][i, 1 : t + 1][-w:].mean())
        if t >= 2:
            same(m["volatility"][at], d.std(ddof=1))
            assert m["spike"][at] == spikes(d)
            assert m["stable"][at] == (m["volatility"][at] <= low and (d > 0).sum() <= 1
                                       and m["spike_rate"][at] == 0)
        if t >= 3:
            assert m["spike_corrected"][at] == spikes(before)
            same(m["spike_rate_corrected"][at], m["spike_corrected"][i, 3 : t + 1][-w:].mean())
    batch = telemetry.derive(np.stack([Y, 2 * Y, Y[::-1]]), window=4, spike_factor=1.3)
    for name, value in m.items():
        np.testing.assert_array_equal(batch[name][0], value)
    assert telemetry.patience_stop([3, 3, 2], 1) == 1
    assert telemetry.patience_costs(np.array([[3, 2, 4, 5, 1], [5, 4, 3, 2, 1]])) == (
        "1: at 3.0, 0.500 nats lost; of 2: at 3.5, 0.500 nats lost; of 3: at 4.0, 0.000 nats lost")
    assert "Stop at interval 4: the other 80%" in command("telemetry.py")[0]  # the lesson

def published_run(at=None, published_less=0.0, loss=None, **more):
    """The published observations as a run folder, with or without a second validation loss; or
    another loss at the published tokens, and more in config.json."""
    at = at or folder()
    config = vars(PAPER) | {"text": "TinyStories", "train_documents": 2000,
                            "train_tokens": 428_628, **more}
    at.mkdir(parents=True, exist_ok=True)
    (at / "config.json").write_text(json.dumps(config), encoding="utf-8")
    Y, seeds, intervals, _ = stats.read_table(PUBLISHED)
    tokens = stats.read_table(PUBLISHED, "tokens_seen")[0][0]
    names = ("seed interval tokens_seen epochs train_loss val_loss val_loss_se val_change_se "
             "val_loss_published")
    tokenizer.write_csv(at / "metrics.csv", names.split(), [
        [s, i, int(tokens[i]), tokens[i] / 428_499, y if i else "", y, 0.03, 0.01 if i else "",
         y + published_less if published_less else ""]
        for s, row in zip(seeds, Y if loss is None else loss) for i, y in zip(intervals, row)])
    return telemetry.read_run(at)

def test_telemetry_audit_of_the_published_study():
    """The audit finds, from the numbers alone, what is known to weaken the published study."""
    run = published_run()
    lines = [" ".join(line(run).split()) for line in telemetry.AUDIT]
    known = (["46.7 times", "9.3"], ["131,072 tokens", "slides 11 are"],
             ["0.774 on", "0.7423 less", "every 3"], ["can never fire", "29 of 114"],
             ["does not exist", "0.250"],
             ["F = 1.003e+04", "F = 1216", "F = 45.86", "turn: F = 1.2;", "F = 1.718"],
             ["2000 simulated", "volatility in 90%"], ["initial weights. ", "the order of"],
             ["interval 4", "80% of the compute came", "2.800 to 3.901"])
    for line, words in zip(lines, known):
        assert all(word in line for word in words), line
    found = run.simulated
    (plain, gg, _), (_, gg_alone, _) = found["rates"]
    assert 0.86 < plain < 0.94 and 0.6 < gg < 0.73 and gg_alone < 0.06
    assert 0.22 < found["seed"][0] < 0.34 and 0.5 < found["seed"][1] < 0.64
    rises = found["rises"]  # some 60 % with shared noise
    assert 0.5 < rises[0] < 0.7 and rises[1] < 0.1, rises
    flat = telemetry.flat_curves(np.random.default_rng(0), (1000, 6, 21), 0.074, 0.77, -0.18)
    volatility = telemetry.derive(flat)["volatility"][..., 6:]  # a first drop only leaves this out
    plain, gg, _ = stats.rejection_rates(volatility)
    assert 0.93 < plain < 0.98 and 0.75 < gg < 0.85, (plain, gg)
    named = re.findall(r"p = [0-9.]+ \(interval (\d+);", telemetry.tests_section(run))
    assert named[0] == "1" and named[-1] in ("10", "15", "20"), named  # the true intervals
    verdicts = [answer.verdict.split(" H0")[0] for answer in run.answers]
    assert verdicts == ["fail to reject", "reject", "reject", "fail to reject"], run.answers
    # 32 blocks of 2 windows that are copies: the true error is sqrt(2) times the naive one.
    run.windows = np.repeat(np.random.default_rng(0).normal(size=(6, 21, 32)), 2, axis=-1)
    error = np.median(run.windows.std(-1, ddof=1)) / 8 * math.sqrt(2 * 63 / 62)
    assert f"observation the errors are {error:.3f} and" in " ".join(
        telemetry.audit_precision(run).split())

def test_telemetry_verdicts_can_go_both_ways():
    """RQ2 to RQ4 say yes to planted curves and no to others; RQ3's minimum comes from one half of
    the windows, its test from the other."""
    run, t = published_run(), np.arange(21)
    noise = 0.001 * np.random.default_rng(0).normal(size=(6, 21))
    falls, zigzag = 3 + 4 * np.exp(-t / 6) + noise, 3 - 0.1 * t + 0.3 * (t % 2) + noise
    for answer, yes, no in (
            (telemetry.answer_seeds, falls + 0.01 * np.arange(6)[:, None], falls),
            (telemetry.answer_shape, falls + 0.1 * np.maximum(t - 9, 0), falls),
            (telemetry.answer_phase, falls, zigzag)):
        for loss, verdict in ((yes, "reject H"), (no, "fail to reject H")):
            asked = replace(run, loss=loss)
            assert answer(asked).verdict.startswith(verdict), answer
    windows = np.repeat(falls[..., None] + 2, 4, axis=-1)
    windows[:, 4, ::2] -= 5
    windows[:, 9, 1::2] -= 9
    q = telemetry.planned(replace(run, loss=windows.mean(-1), windows=windows))
    assert telemetry.contrasts(q, "abcdefghijklmnopqrstu")[1][:2] == ["e minus u", q.mean_diff[1]]
    same(q.mean_diff, (windows[:, [0, 4], 1::2] - windows[:, [4, 20], 1::2]).mean((0, 2)))
    blocks = np.zeros((6, 21, 64))  # of 64 windows every second block of 4
    blocks[:, 7, (np.arange(64) // 4) % 2 == 0] = -1
    assert telemetry.planned(replace(run, windows=blocks)).a.tolist() == [0, 7]

def test_telemetry_stability_is_judged_by_simulation():
    """After the published descent, changes that grow make RQ1 say yes; changes of one size, which
    the seeds share, in few studies of 40. In these the end is found above the minimum as often as
    RQ3's t test finds it."""
    run, rng, t = published_run(), np.random.default_rng(0), np.arange(21)

    def study(changes, n_studies):
        loss = 3 + 0.05 * (t - 4) + changes.cumsum(1)
        loss[:, :5] = 3 + run.mean[:5] - run.mean[4] + 0.001 * rng.normal(size=(6, 5))
        new = replace(run, loss=loss)
        new.simulated = telemetry.false_positives(new, n_studies)
        return new, telemetry.answer_stability(new).verdict

    for _ in range(10):
        _, verdict = study(0.01 * rng.normal(size=(6, 21)) * np.where(t > 12, 20, 1), 1000)
        assert verdict.startswith("reject H01 (volatility after the turn"), verdict
    flat, verdicts = zip(*(study(0.03 * (rng.normal(size=21) + 0.5 * rng.normal(size=(6, 21))), 200)
                           for _ in range(40)))
    assert sum(verdict.startswith("reject") for verdict in verdicts) <= 5, verdicts
    ends = [telemetry.planned(each) for each in flat]
    rises = [q.mean_diff[-1] < 0 and q.p_adjusted[-1] < stats.ALPHA for q in ends]
    assert telemetry.rises_found(np.array([each.loss for each in flat]))[0] == np.mean(rises) > 0

def test_telemetry_correlation_over_time_is_found_again():
    """AR(1) rows of a known phi: estimated without bias, a straight line taken off each or not;
    and waves of degree 1 take off any line and nothing else."""
    rng, m = np.random.default_rng(2), 15
    for phi in (-0.3, 0.0, 0.5):
        x = stats.ar1(rng, (1500, 6, m), phi)
        drift = x + rng.normal(size=(1500, 6, 1)) * np.arange(m) + 7
        plain = np.mean([telemetry.over_time(rows) for rows in x])
        lines = np.mean([telemetry.over_time(telemetry.waves(rows, 1), lines=True)
                         for rows in drift])
        assert abs(plain - phi) < 0.03 and abs(lines - phi) < 0.03, (phi, plain, lines)
    wave = np.tile([1.0, -1, -1, 1], (2, 4))  # has no line in it
    same(telemetry.waves(wave + 3 * np.arange(16) + 5, 1), wave, 1e-9)

def test_telemetry_every_third_measurement_returns_to_its_place():
    """The published waves: of all 16, those at intervals 7, 10, ... 19 alone lie below at their
    place, and the place explains 0.73 of them; none of a straight line, all of a planted one."""
    wave = telemetry.waves(stats.read_table(PUBLISHED)[0][:, 5:])  # the trend's range matters
    mean = wave.mean(0)
    assert mean[2::3].round(3).tolist() == [-0.076, -0.027, -0.047, -0.040, -0.022]
    assert mean[1::3].min() > 0 and round(telemetry.returning(wave, 3), 2) == 0.73
    recurrence = lambda epochs: telemetry.recurrence(np.arange(21) * epochs)
    assert recurrence(1_000_400 / 428_499) == 3 and recurrence(0.02) == 0
    assert np.abs(telemetry.waves(np.arange(16.0)[None] ** 3)).max() < 1e-9
    same(telemetry.returning(np.tile([[1.0, 0, -1]], (2, 5)), 3), 1)

def four_runs():
    """(their folder, "one" read, the losses of "two"): the published numbers as "one"; "two", where
    its curves fan out and have waves; of that one seed, cut short as "three", whole as "four"."""
    at = folder()
    one = published_run(at / "one", published_less=0.25)
    t = np.arange(21)
    Z = one.loss + np.outer(np.arange(1, 7), t / 20 + 0.2 * (t % 2))
    header = "seed interval tokens_seen epochs val_loss bits_per_byte val_loss_published".split()
    for path, losses in (("two", Z), ("three/seed_1", Z[:1, :4]), ("four/seed_1", Z[:1])):
        (at / path).mkdir(parents=True)
        tokenizer.write_csv(at / path / "metrics.csv", header, [
            [s, t, one.tokens[t], one.epochs[t], y, y / 2, one.loss[0, t]]
            for s, row in zip(one.seeds, losses) for t, y in enumerate(row)])
    kind = np.where(np.arange(16) // 2 % 2, 50, -50)  # 8 parts, whose waves cancel in the mean
    for seed, row, other in zip(one.seeds, one.loss, Z):
        for path, loss in (("one", row), ("two", other)):
            (at / path / f"seed_{seed}").mkdir()
            np.save(at / path / f"seed_{seed}" / "val_windows.npy",
                    loss[:, None] + np.outer(t % 3 == 1, kind))
    return at, one, Z

def compared(at, *names):
    """What telemetry.compare says of these runs, and its table: what is compared -> the cells."""
    lines, table = telemetry.compare([at / name for name in names]), {}
    for what, *cells in table_of(at / names[0] / f"compared_with_{'_'.join(names[1:])}.csv"):
        table.setdefault(what, []).extend(cells)  # (on all windows, then on the published ones)
    return lines, table

def test_telemetry_compares_waves():
    """Waves and their correlations are those of the losses, between runs, on the published windows
    and in parts of the windows; their sizes are compared by a t test of logs, the variances between
    seeds by Pitman and Morgan's t."""
    at, one, Z = four_runs()
    (*_, correlations, _, sizes, spread), table = compared(at, "two", "one")
    waves = [telemetry.waves(X[:, 5:]) for X in (Z, one.loss)]
    logs = np.log([wave.std(1) for wave in waves])
    ratio, p = math.exp((logs[0] - logs[1]).mean()), scipy.stats.ttest_rel(*logs).pvalue
    assert f"over one: {ratio:.2f}, paired" in sizes and ratio > 1.6
    assert sizes.endswith(f" p = {telemetry.number(p)}")
    (u, r), (_, v) = np.cov(Z[:, -1], one.loss[:, -1])
    p = 2 * scipy.stats.t.sf(abs(u - v) / math.sqrt(u * v - r**2), 4)  # (2 / sqrt(n - 2) is 1)
    assert f"{u**0.5:.4f} and {v**0.5:.4f}, p = {telemetry.number(p)} (Pit" in spread and p < 0.1
    one_seed = [np.corrcoef(*pair)[0, 1] for pair in zip(*waves)]
    with_first = np.corrcoef(waves[1])[0]  # on the published windows "two" repeats the first seed
    for r in (one_seed, with_first):
        assert f" {telemetry.number(np.mean(r))}" in correlations, (correlations, r)
    assert float(re.search("([0-9.]+) .parts", correlations)[1]) > 0.99
    planted = telemetry.waves(50.0 * (np.arange(5, 21) % 3 == 1)[None])
    size, common, place, alike = (np.float64(table[name]) for name in table if "parts" in name)
    assert np.abs(size / planted.std() - 1).max() < 0.01 and min(*common, *place) > 0.97
    # Of the 28 pairs of parts 12 rise together, 16 in turn: on average -4/28.
    assert np.abs(alike + 4 / 28).max() < 0.03

def test_telemetry_compares_runs_whole_or_not():
    """Of two runs with the same seeds a planted difference is found, and the interaction is the
    anova of the difference; beside them a third still goes on, on the seeds of all."""
    at, one, Z = four_runs()
    lines, table = compared(at, "two", "one")
    a = stats.rm_anova((Z - one.loss)[:, 1:])
    assert f"F(19, 95) = {telemetry.number(a.f)}, epsilon" in lines[-3] and a.f > 5
    assert f"p = {telemetry.number(a.p_gg)} (Greenhouse" in lines[-3]
    lowest = [loss.mean(0).min() for loss in (Z, one.loss, one.loss[:1], one.loss + 0.25)]
    same(np.float64(table["lowest mean loss (nats)"]), lowest)
    assert table[""] == ["two", "one"] and float(table["at epoch"][1]) == one.epochs[4]
    bits, unknown = table["the same in bits per byte"]
    same(float(bits), lowest[0] / 2)
    lines, table = compared(at, "two", "one", "three")
    assert f"all have ({one.seeds[0]})" in lines[0] and "F(19, 95)" in lines[-3] and unknown == ""
    same(np.float64(table["lowest mean loss (nats)"][:3]), [
        Y[0].min() for Y in (Z, one.loss, Z[:, :4])])
    assert next(cells for what, cells in table.items() if "volatility" in what)[2] == ""
    assert "one seed in common" in compared(at, "four", "one")[0][-1]
    refused(lambda: telemetry.compare([at / "one", at]), "no metrics.csv")
    published_run(at / "three" / "one")  # two of one name
    assert "_one" in telemetry.compare([at / "one", at / "three" / "one"])[0]

def test_telemetry_beside_the_published_study():
    """A run of the published length is laid beside the published means, interval by interval."""
    text, drawing, _ = telemetry.beside_published(published_run(published_less=0.25))
    assert "by 0.250 nats on average over the 21" in " ".join(text.split())
    assert "correlate 1.00" in text and "lowest at interval 4" in text and "same 16" in drawing
    assert text.count("<tr>") == 22 + 12 and text.count("<td class=n>0.25</td>") == 21
    assert telemetry.beside_published(published_run()) == ("", None, None)
    wave = np.resize([0.2, -0.1, -0.1], 21)  # planted: two kinds of text that rise in turn
    windows = np.stack([wave, -wave] * 4, axis=-1) + np.zeros((6, 21, 8))
    text, drawing = telemetry.in_kinds(replace(
        published_run(), windows=windows, loss=windows.mean(-1)), 5)
    text = " ".join(text.split())
    assert "part 1" in drawing and "part 2" in drawing and "part 3" not in drawing
    size = telemetry.waves(wave[None, 5:]).std()
    assert f"size {size:.3f} in a part and 0.000 in all" in text, text
    assert "curve correlate -1.00 to 1.00: where" in text
    assert text.count(f"<td class=n>{size:.4g}</td>") == 8

def test_telemetry_ladder_tests_planted_claims():
    """Of rungs with planted losses, each read off its curve at the cost of the cheapest, a planted
    difference is found, none is not; fewer than 5 seeds are described; what was not trained is
    not claimed."""
    rng, at, base = np.random.default_rng(3), folder(), published_run()
    noise = rng.normal(0, 0.01, (6, 1))
    rungs = ("attention-1", "mlp-128", "rotary", "transformer-2")
    for name, shift, flops in zip(rungs, (0, 0.5, 0.2, 0.2), (1e6, 2e6, 1e6, 1e6)):
        loss = 3 - base.tokens / base.tokens[-1] + shift + noise + rng.normal(0, 0.01, (6, 1))
        published_run(at / name, loss=loss, parameters=10, flops_per_token=flops, **{
            f"{part}_{what}": 1 for part in ("train", "valid", "test")
            for what in ("tokens", "unknown")})
        tokenizer.write_csv(at / name / "test.csv", ["seed", "interval", "test_loss"],
                            [[s, 20, y] for s, y in zip(base.seeds, loss[:, -1])])
    said = telemetry.write_ladder(at, [at / name for name in rungs])
    assert "for 2e+13 FLOPs attention-1 has the lowest" in said[0], said
    # All fall by 1 over their budgets. In its last quarter the one stands at 7/8 of that on
    # average, the mlp, which costs twice as much, at 7/16: 0.44 above it, and 0.5 is planted.
    assert re.match(r"attention minus mlp \(attention-1, mlp-128 alone\): -0.9[34]\d nats, lower",
                    said[1]), said
    assert "rotary minus learned" in said[2] and "no difference shown" in said[2], said
    assert len(said) == 4 and "Test loss over the rungs" in (at / "report.html").read_text()
    rows = table_of(at / "rungs.csv")
    same(float(rows[2][6]), float(rows[2][4]) / math.log(2))
    assert len(table_of(at / "pairs.csv")) == 1 + 6
    table = at / "rotary" / "metrics.csv"
    lines = [line for line in table.read_text().splitlines() if not line.startswith("303,")]
    table.write_text("\n".join(lines), encoding="utf-8")
    few, whole = telemetry.read_rungs([at / "rotary", at / "transformer-2"]).values()
    assert few.seeds == whole.seeds and whole.loss.shape == (5, 21)
    assert whole.test.tolist() == whole.loss[:, -1].tolist()
    (at / "mlp-128" / "test.csv").unlink()
    refused(lambda: telemetry.write_ladder(at, [at / "mlp-128"]), "test.csv")
    published_run(at / "linear")  # no rung: its config.json has no number of parameters
    refused(lambda: telemetry.write_ladder(at, [at / "linear"]), "config.json")
    assert telemetry.claims({"rotary": [1.0], "llama": [1.0]}) == {}
    assert telemetry.claims_tested({"of four": noise[:4, 0]})[0][-1].startswith("described")

def test_telemetry_damaged_runs_are_one_sentence():
    """Of a config.json or metrics.csv that cannot be, the sentence names the setting or column."""
    at = published_run().folder
    right = json.loads((at / "config.json").read_text(encoding="utf-8"))
    table = (at / "metrics.csv").read_text(encoding="utf-8")
    for name, bad in (("vocab_size", 0), ("volatility_window", 5.0), ("spike_factor", 10**400),
                      ("train_tokens", 1.5), ("text", "\ud800"), ("stable_quantile", "x")):
        (at / "config.json").write_text(json.dumps(right | {name: bad}), encoding="utf-8")
        refused(lambda: telemetry.write_report(at), "damaged", "encode" if name == "text" else name)
    (at / "config.json").write_text(json.dumps(right), encoding="utf-8")
    for bad in (table.replace(",1001472,", ",inf,"), table.replace("tokens_seen", "tokens"),
                table.replace(",1001472,", ",0,")):
        (at / "metrics.csv").write_text(bad, encoding="utf-8")
        refused(lambda: telemetry.write_report(at), "damaged", "tokens_seen")

def test_telemetry_figures_are_whole():
    """Every figure is well-formed XML; also for 40 seeds, missing values and flat lines."""
    x = np.arange(30.0)
    many = [(f"seed {i}", x, np.sin(x + i)) for i in range(40)]
    for drawing in (telemetry.line_chart([*many, ("mean <all>", x, x * np.nan)], "x", "y & z"),
                    telemetry.line_chart([("flat", x, np.ones(30))], "x", "y", 2.5, log=True),
                    *(svg for svg, _ in telemetry.figures(published_run()).values())):
        root = xml.etree.ElementTree.fromstring(drawing)
        assert "nan" not in drawing.replace("nano", "") and root.tag.endswith("svg")

def test_telemetry_figures_point_the_right_way():
    """A curve that rises goes right and up; of the published study the events are its 3 corrected
    spikes and no other; where the loss rises all along, the later interval is the higher one."""
    x, run = np.arange(30.0), published_run()
    points = re.search('points="([^"]*)" stroke="#0072B2"', telemetry.line_chart(
        [("up", x, x)], "x", "y"))[1].split()
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in (points[0], points[-1]))
    assert x1 > x0 and y1 < y0  # in SVG y grows downwards
    events = telemetry.event_map(run)
    assert [events.count(f">{letter}</text>") for letter in "PCs"] == [0, 3, 0]
    rising, _ = telemetry.pair_map(replace(run, loss=run.loss[:, :1] + np.arange(21) ** 2
                                           + 0.01 * random_table(6, 21)))
    assert [rising.count(f">{sign}</text>") for sign in "+–"] == [210, 0]

# ---------------------------------------------------------------- stats

PENCIL = [[1, 3, 5], [2, 6, 7], [3, 6, 12]]  # the table that the docstrings work by hand
BUSH = np.array([[8, 7, 1, 6], [9, 5, 2, 5], [6, 2, 3, 8], [5, 3, 1, 9], [8, 4, 5, 8],
                 [7, 5, 6, 7], [10, 2, 7, 2], [12, 6, 8, 1.0]])  # Field's bushtucker trials
SLEEP = np.transpose([[.7, -1.6, -.2, -1.2, -.1, 3.4, 3.7, .8, 0, 2],
                      [1.9, .8, 1.1, .1, -.1, 4.4, 5.5, 1.6, 4.6, 3.4]])  # Student 1908

def random_table(n, k, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) + rng.normal(size=(n, 1)) + 0.3 * np.arange(k)

def test_stats_pencil_and_paper():
    """The example in every docstring holds (worked by hand)."""
    a, m, q = stats.rm_anova(PENCIL), stats.mauchly(PENCIL), stats.pairwise_tests(PENCIL)
    same([a.ss_effect, a.ss_subject, a.ss_error, a.f, a.epsilon_gg, a.epsilon_hf, a.f_subject],
         [54, 24, 10, 10.8, 100 / 164, 1.0625, 4.8])
    same([a.icc, a.eta_sq_generalized, a.eta_sq_partial], [9.5 / 17, 54 / 88, 54 / 64])
    same([m.w, m.chi2, m.df, m.p], [.36, -math.log(.36), 2, .6])
    same([q.mean_diff[0], q.t[0], q.d_z[0], q.p_adjusted[0]], [-3, -27 ** .5, -3, 3 * q.p[0]])
    same([stats.friedman(PENCIL).chi2, stats.friedman(PENCIL).p], [6, math.exp(-3)])
    same(stats.shapiro_by_level(PENCIL).w[[0, 2]], [1, 49 / 52], 1e-5)
    r, s = stats.mixed_model(PENCIL), stats.sd_between(PENCIL)
    same([r.var_residual, r.var_subject, *r.fixed], [2.5, 9.5 / 3, 2, 3, 6])
    same([r.low, r.high], [r.fixed + sign * 1.959963984540054 * r.se for sign in (-1, 1)])
    same([a.p_subject, a.p_hf], [scipy.stats.f.sf(4.8, 2, 4), a.p])  # of p, epsilon is at most 1
    same(stats.shapiro_residuals(PENCIL).w, scipy.stats.shapiro(
        [1, 0, -1, 0, 1, -1, -1, -1, 2]).statistic, 1e-6)
    same([s.sd[0], s.low[0], s.high[0]], [1, *((-1 / math.log(x)) ** .5 for x in (.025, .975))])

def test_stats_as_r_has_it():
    """ANOVA, epsilons, Mauchly, Shapiro: R base, car, afex, ez (exact arithmetic). Mixed model:
    lme4, nlme, statsmodels."""
    for Y in (BUSH, BUSH + 1e9, BUSH * 1e-9):
        a, m, w = stats.rm_anova(Y), stats.mauchly(Y), stats.shapiro_by_level(Y)
        same([a.f, a.p, a.eta_sq_generalized, a.epsilon_gg, a.epsilon_hf, a.p_gg, a.p_hf,
              a.p_lower_bound], [
            3.7938060309698454, .025570296863039386, .327424913835549, .5328455527984736,
            .6657636140973701, .06258412068696323, .048330613551943076, .09247085191467987])
        same([m.w, m.chi2, m.df, m.p],
             [.1362480293725348, 11.405981434056393, 5, .04684581230678965])
        same(w.w[[0, 3]], [.9815776981958939, .9005733729102117], 1e-6)  # single precision
        same(w.p[[0, 3]], [.9702866381555036, .2924090885146142], 1e-5)  # in scipy 1.11
    a, m = stats.rm_anova(SLEEP), stats.mauchly(SLEEP)
    same([a.f, a.epsilon_gg, a.epsilon_hf], [16.50088131609871, 1, 1])
    same([a.p, a.p_gg, a.p_hf, a.p_lower_bound], [.002832890197384271] * 4)
    assert not m.defined and "not applicable" in m.reason and np.isnan([m.w, m.df, m.p]).all()
    for Y, method, *expected in (
            (BUSH, "REML", -69.20110584895025, 6.098214285714286, 0, .8730846383451525),
            (BUSH, "ML", -72.1974665929683, 5.3359375, 0, .816695896585749),
            (SLEEP, "REML", -34.97794146135068, .7564444444444443, 2.848333333333334,
             .6003980161341123),
            (SLEEP, "ML", -35.25234636381799, .6808, 2.5635, .5695875700890953)):
        m = stats.mixed_model(Y, method)
        same([m.log_likelihood, m.var_residual, m.var_subject, m.se[0]], expected)
        same(m.se[1:], (2 * m.var_residual / len(Y)) ** .5)
    refused(lambda: stats.mixed_model(BUSH, "OLS"), "REML")

def test_stats_anova_by_brute_force():
    """Epsilon and W by orthonormal contrasts; turned about, the table gives the F of the subjects;
    batches agree."""
    for n, k in ((10, 4), (5, 7), (6, 21), (9, 9), *((2, k) for k in range(3, 9))):
        Y, d = random_table(n, k, n), k - 1
        a, m = stats.rm_anova(Y), stats.mauchly(Y)
        same([a.f_subject, a.p_subject], [stats.rm_anova(Y.T).f, stats.rm_anova(Y.T).p])
        C = scipy.linalg.helmert(k)
        M = C @ np.cov(Y.T) @ C.T
        gg = np.trace(M) ** 2 / (d * np.trace(M @ M))
        same([a.epsilon_gg, a.p_gg], [gg, scipy.stats.f.sf(a.f, gg * d, gg * d * (n - 1))])
        assert gg <= (n - 1) / d + 1e-12 and np.isnan([a.epsilon_hf, a.p_hf]).all() == (n == 2)
        assert m.defined == (n > d) and m.df == d * (d + 1) / 2 - 1
        assert m.defined or ("n-1 < k-1" in m.reason and np.isnan([m.w, m.chi2, m.p]).all())
        same(m.w, np.linalg.det(M) / (np.trace(M) / d) ** d if n > d else np.nan, 1e-7)
        batch = np.stack([[Y, Y[::-1] ** 2], [Y ** 3, 2 * Y]])
        same(np.array(stats.f_and_epsilons(batch))[:, 1, 1], [a.f, a.epsilon_gg, a.epsilon_hf])

def test_stats_pairs_and_friedman():
    """Pairs: scipy's ttest_rel, Bonferroni by the number asked for. Friedman: scipy; k = 2 too."""
    Y = random_table(6, 5)
    for pairs, asked in ((None, list(itertools.combinations(range(5), 2))),
                         ("adjacent", [(0, 1), (1, 2), (2, 3), (3, 4)]), ([(3, 1), (0, 4)],) * 2):
        q, (a, b) = stats.pairwise_tests(Y, pairs), np.transpose(asked)
        t, p = scipy.stats.ttest_rel(Y[:, a], Y[:, b])
        assert list(zip(q.a, q.b)) == asked and (q.df == 5).all()
        same([q.t, q.p, q.p_adjusted], [t, p, np.minimum(1, p * len(asked))])
        same([q.d_z, q.mean_diff], [t / 6 ** .5, (Y[:, a] - Y[:, b]).mean(axis=0)], 1e-7)
    q = stats.pairwise_tests(Y[:, [0, 0, 3]])  # an undefined pair counts among those asked for
    same(q.p_adjusted, np.minimum(1, 3 * np.array([np.nan, q.p[1], q.p[1]])))
    for wrong in ([(0, 0)], [(0, 5)], [(-1, 0)], "all", [(0, 1, 2)]):
        refused(lambda: stats.pairwise_tests(Y, wrong), "pairs")
    Y = np.random.default_rng(0).integers(0, 4, size=(6, 16))
    got, (chi2, p) = stats.friedman(Y), scipy.stats.friedmanchisquare(*Y.T)
    same([got.chi2, got.df, got.p], [chi2, 15, p])
    same(stats.friedman(SLEEP).chi2, 9)  # nine up, one tie: (9 - 0)^2 / 9, the sign test squared

def test_stats_published_analysis():
    """The published numbers (paper and repository) come from the published observations."""
    for dv, *published in (("val_loss", 10030.87, .9993, .15469), (
            "val_ppl", 21061.95, .9997, .0504), ("rolling_volatility", 15390.48, .9995, .13232)):
        Y, seeds, intervals, notes = stats.read_table(PUBLISHED, dv)
        a = stats.rm_anova(Y)
        assert published == [round(a.f, 2), round(a.eta_sq_generalized, 4), round(a.epsilon_gg, 5)]
        assert seeds == [101, 202, 303, 404, 505, 606] and len(notes) == 21 - len(intervals)
    loss = stats.read_table(PUBLISHED)[0]
    r, m = stats.analyse(loss), stats.mixed_model(loss, "ML")
    assert round(r["shapiro"].p.min(), 4) == .1477 and round(m.log_likelihood, 4) == 275.9623
    assert (round(m.fixed[0], 3), round(m.se[0], 3), round(m.se[1], 3)) == (8.355, .012, .015)
    assert [count["significant"] for count in r["counts"].values()] == [179, 12, 6]
    assert round(stats.rm_anova(loss[:, 1:]).f, 1) == 1215.9 and not r["mauchly"].defined

def test_stats_degenerate():
    """Undefined is nan, certain is inf, nothing warns, whatever the scale and offset."""
    x = np.random.default_rng(5).normal(size=8)
    for shift, size in itertools.product((0, 1e9), (1, 1e9, 1e-9, 1e200)):
        with warnings.catch_warnings(), np.errstate(all="warn"):
            warnings.simplefilter("error")
            r = stats.analyse((np.stack([x, x + .1, x + .3], 1) + shift) * size)
            a, q = r["anova"], r["pairs"]
            assert [a.ss_error, a.f, a.p, a.f_subject, a.icc] == [0, np.inf, 0, np.inf, 1]
            assert np.isnan([a.epsilon_gg, a.epsilon_hf, a.p_gg, a.p_hf, a.p_lower_bound]).all()
            assert (q.t == -np.inf).all() and (q.p_adjusted == 0).all() and (q.d_z == q.t).all()
            assert not r["mauchly"].defined and "SS_error" in r["mauchly"].reason
            r = stats.analyse((np.stack([x, (x + .1) - .1, x], 1) + shift) * size)
            assert np.isnan([r["anova"].f, r["friedman"].p, *r["pairs"].t, *r["pairs"].p]).all()
            assert r["counts"]["all pairs"] == {"of": 3, "significant": 0, "undefined": 3}
            r = stats.analyse((np.full((5, 4), .1) + shift) * size)
            assert np.isnan([r["anova"].f, r["anova"].icc, *r["shapiro"].p]).all()
            assert np.isnan(r["shapiro_residuals"].p) and (r["sd_between"].high == 0).all()
    rates = stats.rejection_rates(np.random.default_rng(6).normal(size=(9, 2, 5)))
    assert np.isnan(rates).tolist() == [False, False, True]  # hf of 2 subjects
    w = stats.shapiro_by_level(np.stack([x, x * 1e-25, np.full(8, .75)], 1))
    same(w.w, [w.w[0], w.w[0], np.nan], 1e-6)
    m = stats.mauchly(np.stack([x, x, x ** 2, x ** 3], 1))
    assert (m.w, m.chi2, m.p, m.defined) == (0, np.inf, 0, True)
    for bad in (np.nan, np.inf):
        refused(lambda: stats.rm_anova([[1, 2], [3, bad]]), "row 1", "column 1")
    refused(lambda: stats.rm_anova([[1, 2]]))

def table_file(content):
    """The path of a csv file with this content (str or bytes)."""
    path = folder() / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path

def test_stats_read_table():
    """Order, labels, gaps and extra columns do not matter; what cannot be read is one sentence."""
    head, rows = "seed,val_loss,interval,junk\n", [f"{row},z\n" for row in (
        "10,1.5,0 10,2,1 10,3,5 9,4,5 9,1e0,1 9,0,0 7,1,0 7,NaN,1 7,2,5 7,,2 9,nan,2").split()]
    for text in (head + "".join(rows), "\ufeff" + head + "".join(rows[::-1]) + "\n,,,\n"):
        Y, seeds, intervals, notes = stats.read_table(table_file(text))
        assert (Y.tolist(), seeds, intervals) == ([[0, 1, 4], [1.5, 2, 3]], [9, 10], [0, 1, 5])
        assert len(notes) == 2 and "interval 2" in notes[0] and "seed 7" in notes[1]
    ok = "seed,interval,val_loss\n1,0,1\n1,1,2\n2,0,3\n"
    for text, *words in (
            ("", "empty"), (ok + "2,1,inf\n", "line 5", "val_loss"), (ok + "2,1,x\n", "'x'"),
            (ok + "2,0,3\n", "line 5", "line 4"), (ok + "2,1\n", "line 5"), (b"\xff\xfe", "UTF-8"),
            (ok + "2,,4\n", "interval"), (ok + ",1,4\n", "column seed"), (ok, "seed 2"),
            (ok[:23], "no row"), ("a,b\n", "seed, interval, val_loss", "a, b"),
            (ok + "2,1,1_0", "1_0"), (ok[:35], "fewer than 2", "add some"),
            (ok + "2,1,\x00\n", "line 5"), (ok + "2,1," + "9" * 200000, "line 5")):
        path = table_file(text)
        out, status = command("stats.py", path)
        assert status == 2 and out.count("\n") == 1, out
        assert all(word in out.replace(str(path), "PATH") for word in words), out
    for path in (HERE, HERE / "absent.csv"):
        refused(lambda: stats.read_table(path), "cannot read")

def test_stats_report():
    """The report is ASCII in 79 columns, --json is strict JSON, a closed pipe is no error."""
    extreme = "seed,interval,d\u00e9\na,0,1e308\na,1,-1e308\na,2,1\nb,0,3\nb,1,2\nb,2,1\n"
    for path, dv in ((PUBLISHED, "rolling_volatility"), (table_file(extreme), "d\u00e9")):
        for options in ([], ["--json"]):
            text, status = command("stats.py", path, "--dv", dv, *options)
            assert not status and text.isascii()
            assert options or max(map(len, text.splitlines())) <= 79
        assert json.loads(text, parse_constant=refused)["pairs"]["t"]
    pipe = subprocess.Popen([sys.executable, str(HERE / "stats.py"), PUBLISHED],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pipe.stdout.close()
    assert pipe.stderr.read() == b"" and pipe.wait() == 0
    assert "Greenh" in "".join(stats.lesson(n_studies=50))

# ---------------------------------------------------------------- run_all

TINY_RUN = ["--preset", "smoke", "--seeds", "101", "202", "--total_tokens", "1536"]

@functools.cache
def whole_run():
    """The folder of a small study trained in this process, seed after seed, and never stopped."""
    at = folder()
    for seed in SMOKE.seeds:
        assert not command("train.py", "--seed", seed, *TINY_RUN, "--out", at)[1]
    out, status = command("run_all.py", *TINY_RUN, "--workers", 0, "--out", at)
    assert not status and "report.html" in out, out
    return at

def start(out, *words, **environment):
    """A process of run_all.py that trains the same study."""
    return subprocess.Popen([sys.executable, "run_all.py", *TINY_RUN, *words, "--out", out],
                            cwd=HERE, env={**os.environ, **environment}, stdout=subprocess.PIPE,
                            encoding="utf-8")

def test_run_all_is_the_same_after_a_kill():
    """A run killed in the middle and continued with other workers ends with the same bits."""
    at = folder()
    killed = start(at)
    next(line for line in killed.stdout if "interval   3" in line)
    killed.kill()
    killed.communicate()
    out, status = command("run_all.py", *TINY_RUN, "--out", at, "--workers", 1)
    assert not status and "report.html" in out, out
    assert rows_of(at / "metrics.csv") == rows_of(whole_run() / "metrics.csv")
    left = [p.name for p in at.rglob("*.tmp")]  # what a kill cuts stays under such a name: of
    assert len(left) <= 3, left  # run_all.py and of each worker, which ends with it, one file

def test_run_all_workers_end_with_their_parent():
    """A run of some minutes, killed at its start: no worker lives on and keeps its output open."""
    killed = start(folder(), "--total_tokens", "2560000")
    next(line for line in killed.stdout if "interval   1" in line)
    killed.kill()
    killed.communicate(timeout=60)

def test_run_all_restarts_a_killed_worker():
    """A worker that is killed is started again and ends with the same bits."""
    at, config, killed = folder(), replace(SMOKE, total_tokens=1536), []

    def kill_once(self, job, tokens, row):
        if row and row["interval"] == 3 and not killed:
            killed.append(multiprocessing.active_children()[0].kill())

    train.open_run(config, at)
    with patch.object(run_all.Progress, "show", kill_once):
        assert run_all.train_all([(config, seed, at) for seed in config.seeds], 2) == [] and killed
    for table in ("seed_101/metrics.csv", "seed_202/metrics.csv"):
        assert rows_of(at / table) == rows_of(whole_run() / table)

class Terminal(io.StringIO):
    """What a terminal is to Progress; screen() gives its lines after all that was written."""
    encoding, isatty = "utf-8", lambda self: True

    def screen(self):
        lines, at = {}, 0
        for up, words in re.findall(r"(?:\x1b\[(\d+)F)?\x1b\[K(.*)\n", self.getvalue()):
            at += 1 - int(up or 0)
            lines[at] = words
        return list(lines.values())

def test_run_all_draws_one_bar_for_each_seed():
    """On a terminal each running seed has one line, drawn anew in its place, never too long; one
    that is done stays above, whole, with its last loss. What is left is told from the speed."""
    for columns in 30, 120:
        screen, clock = Terminal(), Mock(return_value=0.0)
        with patch.object(sys, "stdout", screen), patch.object(time, "monotonic", clock), \
                patch.dict(os.environ, COLUMNS=str(columns), TERM="xterm"):
            progress = run_all.Progress(True)
            for seed, tokens, loss in (
                    (202, 256, 0), (101, 64, 0), (101, 256, 2.5), (101, 768, 1.5), (303, 0, 5.25),
                    (202, 512, 0), (303, 256, 0)):
                progress.show((SHORT, seed, HERE), tokens, {"val_loss": loss} if loss else None)
                clock.return_value += 0.5
        lines = screen.screen()
        assert [line[:8] for line in lines] == ["seed 101", "seed 202", "seed 303"], lines
        assert max(map(len, lines)) < columns and "░" not in lines[0]
        share = lines[1].count("█") / sum(map(lines[1].count, "█░"))
        assert abs(share - 2 / 3) < (0.1 if columns == 30 else 0.02), share
    for line, words in zip(lines, ("loss 1.500   0:00:00 left", "loss nan   0:00:03 left      85",
                                   "loss 5.250   0:00:02 left     256")):
        assert words in line, line

def test_run_all_divides_the_seeds_among_ranks():
    """Two processes with torchrun's RANK and WORLD_SIZE share the seeds; the first one alone
    reports, once all are done, and the bits are those of one process. Ranks cannot --restart."""
    at = folder()
    ranks = [start(at, RANK=str(i), WORLD_SIZE="2") for i in range(2)]
    out = [rank.communicate()[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert [("report.html" in o, "seed 101" in o, "seed 202" in o) for o in out] == [
        (True, True, False), (False, False, True)]
    assert rows_of(at / "metrics.csv") == rows_of(whole_run() / "metrics.csv")
    for rank, words, expected in (("1", ["--restart"], "--restart and torchrun"),
                                  ("2", [], "are 2 and 2"), ("x", [], "are x and 2")):
        with patch.dict(os.environ, RANK=rank, WORLD_SIZE="2"):
            out, status = command("run_all.py", *TINY_RUN, "--out", at, *words)
        assert status == 2 and expected in out, out

def test_run_all_leaves_out_a_seed_that_diverges():
    """A seed whose loss becomes nan stops with the step named, then and when asked again; the
    others go on, and the analysis says who is missing. Seeds trained one by one are collected."""
    at = folder()
    words = ["--preset", "smoke", "--total_tokens", "768", "--out", at]
    for seed in (101, 202):
        assert not command("train.py", "--seed", seed, *words)[1]
    out, status = command("run_all.py", "--workers", 0, *words)
    assert not status and "of 2 seeds" in out and "Seed 303 is left out: it is not" in out, out
    with patch.object(train, "learning_rate", lambda *_: math.nan):
        refused(lambda: train.train_seed(SHORT, 303, smoke_text(), at), "became nan at step 2")
    assert len(train.read_checkpoint(at / "seed_303" / "last.pt")["rows"]) == 1
    for _ in range(2):
        out, status = command("run_all.py", *words)
        assert status == 1 and "of 2 seeds" in out, out
        assert re.search(r"Seed 303 is left out: the loss became nan at\s+step 2", out), out
    assert stats.read_table(at / "metrics.csv")[1] == [101, 202]

def test_run_all_climbs_the_ladder():
    """Each rung is a run of its own at the same cost, judged on test windows by its best
    checkpoint; given again, the command changes nothing; a setting that cannot be begins none."""
    words = ("--preset ladder --rungs linear rotary --seeds 1 2 --n_embd 16 "
             "--block_size 16 --windows_per_step 2 --windows_at_once 2 --valid_windows 8 "
             "--test_windows 8 --train_stories 20 --tokenizer_stories 20 --vocab_size 50 "
             "--valid_stories 5 --training_flops 1.2e8 --warmup_tokens 0 "
             "--peak_lr 0.1 --final_lr 0.1 --out").split()  # so high that the best is not the last
    at = folder()
    out, status = command("run_all.py", *words, at)
    assert not status and "2 rungs, 2 seeds" in out, out
    _, *rungs = table_of(at / "rungs.csv")
    costs = [float(row[3]) for row in rungs]  # training FLOPs
    assert [row[0] for row in rungs] == words[3:5] and max(costs) < 1.04 * min(costs)
    config = model.ModelConfig(50, 16, 2, 4, 16, "transformer", "rotary")
    network, ids = model.build(config), np.load(at / "rotary" / "text.npz")["test"]
    network.load_state_dict(train.read_checkpoint(at / "rotary/seed_2/best.pt")["model"])
    x, y = (torch.from_numpy(ids[i : i + 128]).reshape(8, 16) for i in (0, 1))
    same(float(table_of(at / "rotary" / "test.csv")[2][2]), network(x, y)[1].item(), 1e-5)
    before = {p: p.read_bytes() for p in at.rglob("*.csv")}
    assert not command("run_all.py", *words, at)[1]
    assert before == {p: p.read_bytes() for p in at.rglob("*.csv")}
    for more, expected in (  # of the first, linear alone costs too much
            ("--rungs rotary linear --training_flops 4e7", "raise training_flops"),
            ("--preset smoke", "--rungs goes with")):
        out, status = command("run_all.py", *words, at / "none", *more.split())
        assert status == 2 and expected in out and not (at / "none").exists(), out

def test_run_all_finds_what_was_learned_by_heart():
    """Pieces of 16 tokens are counted where they stand, stories end where they end, and a model
    that can only recite its text is caught reciting it."""
    text = np.array([*range(40), 256, *range(60, 90), 256])
    reciter = Mock(**{"generate.return_value": torch.tensor([[256, *text[3:23], 999]])})
    saved, at = {"model": "", "rows": [{"interval": 7}]}, folder()
    valid = np.array([*range(60, 80), 256, *range(100, 110), 256, *range(8, 200)])
    study = run_all.Study(replace(SMOKE, block_size=21), at, train.Text(text, valid, [], 1),
                          BPETokenizer([]), {})
    with patch.object(run_all, "build", return_value=reciter), patch.object(
            run_all, "read_checkpoint", return_value=saved):
        said(run_all.write_memorization, study, 101, 2)
    rows = table_of(at / "memorization.csv")[1:]
    assert rows == [["validation text", "5", "5"], ["validation text", "0", "0"]] + [
        [f"{name} (interval 7)", "6", "5"] for name in ("best", "last") for _ in range(2)]
    table, drawing = telemetry.memorized(published_run(at))
    assert "0.8333" in table and "last (interval 7)" in drawing

def test_run_all_leaves_a_whole_report():
    """The report opens offline, has every section, and every file that README promises is there."""
    run = whole_run()
    text = (run / "report.html").read_text(encoding="utf-8")
    for heading in ("In short", "What happened", "The tests", "The audit", "The four answers",
                    "Two stories"):
        assert f"<h2>{heading}" in text
    assert text.count("<svg") == 6 and not re.search("(src|href)=", text) and ">nan<" not in text
    for name in ("config.json", "tokenizer.json", "telemetry.csv", "interval_summary.csv",
                 "anova.csv", "pairwise.csv", "samples.json", "figures/loss_by_seed.svg"):
        assert (run / name).stat().st_size > 100, name
    samples = json.loads((run / "samples.json").read_text(encoding="utf-8"))
    assert all(len(samples[name]["story"]) > 20 for name in ("best", "last"))
    assert stats.read_table(run / "metrics.csv")[0].shape == (2, 7)

def test_run_all_refuses_and_touches_nothing():
    """Other settings, other code, bad options: status 2, one sentence, and nothing is touched."""
    run, true = whole_run(), train.code_sha256()
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for words, expected in (
            ([*TINY_RUN, "--peak_lr", "0.5", "--out", run], "peak_lr (was 0.004, now 0.5)"),
            (["--preset", "smoke", "--seeds", "1"], "2 seeds"),
            ([*TINY_RUN, "--out", run / "seed_101"], "neither empty nor"),
            ([*TINY_RUN, "--restart", "--out", folder()], "0 of 2 seeds are complete"),
            (["--preset", "none"], "invalid choice"), (["--n_layer", "x"], "n_layer"),
            (["--n_embd", "9" * 400], "n_embd"),
            (["--workers", "-1", "--total_tokens", "1"], "workers is -1"),
            (["--train_file", "none.txt", "--valid_file", "none.txt"], "none.txt")):
        out, status = command("run_all.py", "--workers", 0, *words)
        assert status == 2 and expected in out, (words, out)
    with patch.object(train, "code_sha256", lambda: true | {"model.py": "of an edited file"}):
        out, status = command("run_all.py", *TINY_RUN, "--out", run)
    assert status == 2 and "model.py" in out and "--restart" in out, out
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

# ---------------------------------------------------------------- exercises and their judges

# EXERCISE 11: below are six bugs that a tired programmer makes. Write tests, each a function
# exercise_11_NAME(), that pass on the true code and fail on the bugs: every bug must be caught by
# one of them, and none by a test that looks into BUGS. (The file has such tests; write yours
# before you look.)

def peeking(q, k, v, is_causal=True):
    T = q.shape[-2]
    seen = torch.ones(T, T, dtype=torch.bool).tril(1)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -math.inf).softmax(-1) @ v

def ties_to_the_last(documents, vocab_size):
    turned = lambda counts, key, default: max(
        counts, key=lambda pair: (counts[pair], pair), default=default)
    with patch.object(tokenizer, "min", turned, create=True):
        return tokenizer.slow_bpe(documents, vocab_size)

def by_chance(model, ids, config, starts=None, *, true=train.evaluate):
    return true(model, ids, config, torch.randint(len(ids) - config.block_size, (
        config.valid_windows,)).numpy())

def without_decay(model, config, fused=True, *, true=train.make_optimizer):
    return true(model, replace(config, weight_decay=0.0), fused)

def population_sd(losses, window=5, *more, true=telemetry.derive, **named):
    m = true(losses, window, *more, **named)
    n = np.minimum(np.arange(m["volatility"].shape[-1]), window)
    return m | {"volatility": m["volatility"] * np.sqrt(np.maximum(n - 1, 0) / np.maximum(n, 1))}

def times_levels(Y, pairs=None, *, true=stats.pairwise_tests):
    t = true(Y, pairs)
    return replace(t, p_adjusted=np.minimum(1, t.p * np.shape(Y)[1]))

BUGS = {  # what is wrong -> how to have it so
    "attention sees one token of the future": (F, "scaled_dot_product_attention", peeking),
    "of equal counts the larger pair is merged": (tokenizer, "fast_bpe", ties_to_the_last),
    "evaluation draws its windows from the training's generator": (train, "evaluate", by_chance),
    "weight decay is left out": (train, "make_optimizer", without_decay),
    "volatility divides by n": (telemetry, "derive", population_sd),
    "Bonferroni counts the levels, not the pairs": (stats, "pairwise_tests", times_levels),
}

def fails(test):
    """Whether a test's assertion fails, whatever it prints; another error is the test's own."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            test()
    except AssertionError:
        return True
    return False

def judge_11():
    """Tests that catch six planted bugs (test_all.py)."""
    own = [test for name, test in globals().items() if name.startswith("exercise_11_")]
    yield "there are tests named exercise_11_...", bool(own)
    yield "all of them pass on the true code", bool(own) and not any(map(fails, own))
    for what, bug in BUGS.items():
        with patch.object(*bug):
            caught = [test.__name__[12:] for test in own if fails(test)]
        yield f"{what}: {', '.join(caught) or 'not caught'}", bool(caught)

def judge_1():
    """Digits one by one (the chunk pattern in tokenizer.py)."""
    find, before = tokenizer.CHUNK.findall, r" ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+"
    yield "no chunk holds two digits, of any script", all(
        sum(map(str.isdecimal, chunk)) < 2 for chunk in find("In 1984 7b: 3,050 \u0663\u0664."))
    yield "nothing is lost", all("".join(find(text)) == text for text in [*NASTY, "a1 22\u06f3 3b"])
    yield "letters, signs and spaces are cut as before", find("don't stop,  my_x!") == [
        "don", "'t", " stop", ",", " ", " my", "_", "x", "!"]
    sums = [f"{a} + {b} = {a + b}" for a in range(80, 99) for b in range(80, 99)]
    learned = BPETokenizer.train(sums, 400)
    yield "no token of two digits is learned from sums", not any(
        re.search(rb"\d\d", piece) for piece in learned.pieces)
    with patch.object(tokenizer, "CHUNK", re.compile(before)):
        long = len(BPETokenizer.train(sums, 400).encode(sums[-1]))
    now = len(learned.encode(sums[-1]))
    print(f"  {sums[-1]!r}: {long} tokens with digits together, {now} now")

def judge_4():
    """A cache of keys and values (generate in model.py)."""
    network, tokens = tiny_model()
    network.load_state_dict({k: 8 * v for k, v in network.state_dict().items()})
    seen = []  # how many tokens go through the model at a time
    network.embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0].numel()))

    def slow(text, n_new, temperature, chance):
        for _ in range(n_new):
            logits = network(text[:, -16:])[0][:, -1]
            new = logits.argmax(-1, keepdim=True) if temperature == 0 else torch.multinomial(
                (logits / temperature).softmax(-1), 1, generator=chance)
            text = torch.cat([text, new], dim=1)
        return text

    def both(prompt, n_new, temperature=0.0):
        ways = []
        for way in (slow, lambda *given: network.generate(*given[:3], generator=given[3])):
            seen.clear()
            ways.append((way(tokens[:1, :prompt], n_new, temperature,
                             torch.Generator().manual_seed(5)).tolist(), sum(seen)))
        return ways

    (_, before), (_, now) = both(3, 13)
    yield f"from 3 tokens to 16 the model sees {before} without, {now} now", now <= 16
    for prompt, n_new, what in ((3, 13, "within the window"), (1, 15, "from a single token"),
                                (10, 30, "beyond the window")):
        yield f"the same text {what}", all(len({str(text) for text, _ in both(
            prompt, n_new, temperature)}) == 1 for temperature in (0.0, 1.0))
    yield "and the same again: nothing is left over from the last text", (
        both(3, 13)[0][0] == both(3, 13)[1][0])
    yield "training sees the loss it saw", abs(network(tokens, tokens)[1].item() - F.cross_entropy(
        network(tokens)[0].flatten(0, 1), tokens.flatten()).item()) < 1e-6

def judge_5():
    """A learning rate that stays constant (a setting `schedule` in train.py)."""
    yield "StudyConfig has the setting schedule", hasattr(SMOKE, "schedule")
    config, at = replace(SMOKE, warmup_tokens=500), (0, 250, 500, 1000, 2560, 9999)
    rates = lambda kind: [train.learning_rate(t, replace(config, schedule=kind)) for t in at]
    cosine = [0, 0.002, 0.004, *(4e-4 + 1.8e-3 * (1 + math.cos(math.pi * x)) for x in (
        500 / 2060, 1, 1))]
    yield '"cosine" is what there was, and the default', np.allclose(rates("cosine"), cosine) and (
        SMOKE.schedule == "cosine")
    yield '"constant" is peak_lr all along', rates("constant") == [0.004] * 6
    yield '"warmup" rises as before, and stays', np.allclose(
        rates("warmup"), [0, 0.002, *[0.004] * 4])
    refused(lambda: replace(SMOKE, schedule="x"), "schedule")
    yield "another word is refused", True
    rows = train.train_seed(replace(SHORT, schedule="constant"), 101, smoke_text(), folder())
    yield "a seed trains by it", [row["learning_rate"] for row in rows] == [0.004] * 4

def judge_7():
    """A rule for spikes and one for stable phases (derive in telemetry.py)."""
    rng, t = np.random.default_rng(7), np.arange(60)
    restless = 1 + 2 * np.exp(-t / 3) + np.cumsum(rng.choice([-1, 1], (6, 60)) * rng.uniform(
        0.02, 0.05, (6, 60)), axis=1)
    spiky, quiet = restless.copy(), restless.copy()
    spikes = [(0, 20), (0, 40), (2, 12), (3, 55), (5, 33)]
    for seed, at in spikes:
        spiky[seed, at] += 0.5
    quiet[1:4, 30:50] = quiet[1:4, 30:31] + rng.uniform(-0.001, 0.001, (3, 20))
    falling = restless.copy()
    falling[4, 30:50] = falling[4, 30] - 0.05 * np.arange(20)
    find = lambda losses, name: {(int(i), int(j)) for i, j in np.argwhere(
        np.nan_to_num(telemetry.derive(losses)[name]) == 1)}
    own = telemetry.derive(restless)
    yield "derive also returns own_spike and own_stable", {"own_spike", "own_stable"} <= set(own)
    yield "what comes later changes no mark", all(
        {(i, j) for i, j in find(losses, name) if j < now} == find(losses[:, :now], name)
        for name in ("own_spike", "own_stable") for losses in (spiky, quiet)
        for now in (21, 40, 45))
    for name, losses, all_of, but in (
            ("own_spike", restless, set(), set()), ("own_spike", spiky, set(spikes), set()),
            ("own_spike", 20 * spiky, set(spikes), set()), ("own_stable", spiky, set(), set()),
            ("own_stable", falling, set(), set()),
            ("own_stable", quiet, {(i, j) for i in (1, 2, 3) for j in range(35, 50)},
             {(i, j) for i in (1, 2, 3) for j in range(30, 35)})):
        found = find(losses, name)
        yield (f"{name}: {len(all_of)} planted, {len(found & all_of)} found, and "
               f"{len(found - all_of - but)} where nothing was planted"), (
                   all_of <= found <= all_of | but)
    m = telemetry.derive(stats.read_table(PUBLISHED)[0])
    print(f"  in the published study: {np.nansum(m['own_spike']):.0f} spikes, "
          f"{np.nansum(m['own_stable']):.0f} stable cells, of {m['own_spike'].size}")

def judge_8():
    """Holm's correction and the exact sign-flip test (stats.py)."""
    yield "stats.py has holm(p) and sign_flip_test(D)", hasattr(stats, "holm") and hasattr(
        stats, "sign_flip_test")
    yield "holm: 0.01 0.04 0.03 0.005 become 0.03 0.06 0.06 0.02", np.allclose(
        stats.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    yield "holm: never above 1, and what is undefined stays so, but counts", np.allclose(
        stats.holm(np.array([0.6, np.nan, 0.01])), [1, np.nan, 0.03], equal_nan=True)
    for n in (3, 6, 9):
        D = random_table(n, 2)[:, 0] + 0.5
        by_scipy = scipy.stats.permutation_test((D,), np.mean, permutation_type="samples")
        yield (f"sign_flip_test: {n} differences, p = {by_scipy.pvalue:.4f} by scipy", abs(
            stats.sign_flip_test(D) - by_scipy.pvalue) < 1e-9)
    yield "sign_flip_test: 6 differences of one sign, p = 2/64", (
        stats.sign_flip_test(np.arange(1.0, 7)) == 2 / 64)
    t = stats.pairwise_tests(stats.read_table(PUBLISHED)[0])
    print(f"  of {len(t.p)} published pairs Bonferroni finds {sum(t.p_adjusted < 0.05)} different, "
          f"Holm {sum(stats.holm(t.p) < 0.05)}")

def judge(number):
    """Judge one exercise; the exit status is 1 if it is not done, or not right."""
    judges = {name[6:]: function for name, function in globals().items() if re.match(
        r"judge_\d", name)}
    if number in ("2", "3", "6", "9", "10"):
        sys.exit(f"Exercise {number} has no judge; README's exercises say what to expect.")
    if number not in judges:
        sys.exit(f"test_all.py: exercises with a judge are {', '.join(sorted(judges, key=int))}")
    print(f"Exercise {number}: {judges[number].__doc__}")
    try:
        for what, right in judges[number]():
            print(f"  {'ok ' if right else 'NOT'}  {what}")
            if not right:
                sys.exit("Not done yet.")
    except Exception as error:  # the student's code failed, and shall see where
        traceback.print_exc()
        sys.exit(f"Not done yet: {type(error).__name__} above.")
    print("Done.")

# ---------------------------------------------------------------- the runner

def main():
    groups = ["data", "tokenizer", "model", "train", "telemetry", "stats", "run_all"]
    chosen = sys.argv[1:] or groups
    torch.set_num_threads(1)  # two threads on one small matrix only wait for each other
    if chosen[0] == "exercise" and len(chosen) == 2:
        return judge(chosen[1])
    if not set(chosen) <= set(groups):
        sys.exit(f"test_all.py: choose from {' '.join(groups)}, or exercise N")
    tests = [(name, test) for name, test in globals().items()
             if name.startswith(tuple(f"test_{group}_" for group in chosen))]
    failed = 0
    for name, test in tests:
        started = time.perf_counter()
        try:
            test()
            result = "ok"
        except Exception:
            failed, result = failed + 1, "FAILED"
            traceback.print_exc()
        print(f"{result:6s} {name[5:].replace('_', ' '):64s} "
              f"{time.perf_counter() - started:5.1f} s", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(bool(failed))

if __name__ == "__main__":
    main()
