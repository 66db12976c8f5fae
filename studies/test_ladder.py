"""Tests of the second study: python test_all.py studies"""
import io, math, os, subprocess, sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from studies import ladder, ladder_report, ladder_runs
from support import program
from test_all import CTRL_C, HERE, folder, refused, said, same, table_of

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
    """A last block that computes only what the last position needs: same scores, same gradients."""
    for rung in (ATTENTION, TRANSFORMER, PRE_NORM, ROTARY):
        model, tokens = model_and_tokens(rung)
        found = []
        for options in ({}, {"whole": True}, {"every": True}):
            model.zero_grad()
            scores = model(tokens, **options)
            scores = scores[:, -1] if options == {"every": True} else scores  # (5, 11)
            scores.square().sum().backward()
            found.append([scores] + [parameter.grad for parameter in model.parameters()])
        for needed, executed, every in zip(*found):
            torch.testing.assert_close(needed, executed, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(needed, every, rtol=1e-3, atol=1e-4)

def test_studies_ladder_flops_counted():
    """The counts by matrix products are those of torch's counter, attention written out."""
    def written_out(q, k, v, is_causal):
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v  # the mask costs no product
    for rung in ALL:
        for needed, every in ((True, False), (False, False), (False, True)):
            rung = replace(rung, every=every)
            model, tokens = model_and_tokens(rung, 3)
            name = "scaled_dot_product_attention"
            counter = FlopCounterMode(display=False)
            with patch.object(ladder.F, name, written_out), counter:
                model(tokens, every=every, whole=not needed).sum().backward()
            expected = 3 * ladder.flops_window(rung, 11, needed)
            assert counter.get_total_flops() == expected, (rung.model, needed, every)

def test_studies_ladder_headline_costs():
    """A window costs mlp 2.57e7, attention 1.76e8 as executed and 2.64e7 as needed."""
    found = {rung.model: rung for rung in ladder.rungs_of("baseline")}
    for model, needed, flops in (("mlp", False, "2.57e+07"), ("attention", False, "1.76e+08"),
                                 ("attention", True, "2.64e+07")):
        assert f"{ladder.flops_window(found[model], 65, needed):.2e}" == flops

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
    # Post-norm: attention's weights, and the ReLU layer. Pre-norm: attention's output, and the ReLU
    # layer twice. Of mlp both hidden layers.
    for rung, n_drops in ((ATTENTION, 2), (TRANSFORMER, 6), (PRE_NORM, 6), (MLP, 2)):
        model, tokens = model_and_tokens(rung)
        with torch.no_grad():
            expected = model(tokens, every=True)
            model.train()
            dropped = model(tokens, every=True)
            ones = Mock(side_effect=lambda shape: torch.full(shape, 1 - ladder.DROPOUT))
            # Everything is kept, and scaled so that it stays what it was.
            with patch.object(ladder, "keep_mask", ones):
                got = model(tokens, every=True)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert (dropped - expected).abs().mean() > 0.01 and ones.call_count == n_drops

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
    """Training that goes on from any checkpoint ends bit for bit as if never interrupted."""
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
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=True)

def test_studies_ladder_learns():
    """Each model learns a text in which every token follows from the one before it."""
    ids = np.arange(3000) * 7 % 11
    text = ladder.as_text(ids[:2000], ids[2000:2500], ids[2500:], 11)
    for rung in ALL:
        rung = replace(rung, windows_per_epoch=1000, test_windows=100)
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

def test_studies_ladder_texts():
    """Characters and words are cut as published; files of both kinds of folder are found."""
    text = "".join(np.random.default_rng(0).choice(list("ab\ncd"), 1_115_394))
    cut = ladder.characters(text)
    assert (len(cut.train), len(cut.valid), len(cut.test)) == (892_117, 111_669, 111_606)
    assert cut.vocab_size == 5 and "".join("\nabcd"[i] for i in cut.test[-9:]) == text[-9:]
    parts = {"train": "b a\nc " * 30_000, "valid": "c c\na", "test": " b "}
    cut = ladder.words(parts, "ptb")
    assert cut.train.tolist() == [1, 0, 2] * 26_666 + [1, 0] and cut.vocab_size == 3
    assert cut.valid.tolist() == [2, 2, 0] and cut.test.tolist() == [1]
    refused(lambda: ladder.words(parts | {"test": "b x"}, "ptb"), "test", "1 of 2")
    for name in ("ptb.{}.txt", "ptb/ptb.{}.txt"):
        place = folder()
        (place / "ptb").mkdir()
        for part in parts:
            (place / name.format(part)).write_text(parts[part], encoding="utf-8")
        assert ladder.load_text("ptb", place).sha256 == cut.sha256
    assert cut.sha256 != ladder.words(parts | {"test": "a"}, "ptb").sha256

# ---------------------------------------------------------------- rows and workers

TINY = [ladder_runs.Job(replace(rung, windows_per_epoch=4_000), 5) for rung in (MLP, ATTENTION)]
SCRIPT = """
import support.program
from pathlib import Path
import numpy as np
from studies.ladder import Rung, as_text
from studies.ladder_runs import Job, Rows, run_jobs

def main():
    rows, ids = Rows(Path(OUT)), np.random.default_rng(0).integers(0, 11, 600)
    texts = {"tinyshakespeare": as_text(ids, ids[:200], ids[200:], 11)}  # some_text() below
    run_jobs(rows.missing(JOBS, texts), texts, rows, 2)

if __name__ == "__main__":
    support.program.run(main)
"""

def start(out, jobs, *python):
    """Two jobs at a time as a program of their own, rows into the folder `out`."""
    script = SCRIPT.replace("OUT", repr(str(out))).replace("JOBS", repr(jobs))
    (out / "program.py").write_text(script, encoding="utf-8")
    return subprocess.Popen([sys.executable, *python, out / "program.py"], text=True, cwd=HERE,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env=os.environ | {"PYTHONPATH": str(HERE)})

def test_studies_ladder_interrupted():
    """Stopped by Ctrl-C and by the death of the parent, runs end with the same rows as without."""
    out = folder()
    (out / "checkpoints").mkdir()
    for python in (CTRL_C, []):
        running = start(out, TINY[:1], *python)
        first = running.stdout.readline()
        assert "000 windows" in first, first  # its first epoch is finished
        if not python:
            running.kill()
        rest = running.communicate(timeout=60)[0]  # ends when no worker holds the pipe any more
        assert "Traceback" not in rest and (running.returncode == 130 or not python), rest
        assert list((out / "checkpoints").glob("*.pt"))
    output = start(out, TINY).communicate(timeout=120)[0]
    rows = ladder_runs.Rows(out)
    assert len(rows.rows) == 2 and not list((out / "checkpoints").glob("*.pt")), output
    for job in TINY:
        got = ladder_report.select(rows.points, row=job.row())
        for point in ladder.train(job.rung, job.seed, some_text()):
            assert repr(got.pop(0)) == repr({"row": job.row(), **point})
    assert rows.missing(TINY, {}) == []

def test_studies_ladder_failing_worker():
    """A disk that fails, a damaged and a foreign checkpoint, an early end: a sentence, no row."""
    job = replace(TINY[0], rung=replace(TINY[0].rung, windows_per_epoch=10))
    for content, words in ((None, "cannot write"), (b"PK damaged", "is damaged; remove it"),
                           ("foreign", "of another text or other code")):
        rows, pipe = ladder_runs.Rows(folder()), Mock()
        path = ladder_runs.checkpoint_of(job, rows)
        if content:  # (without its folder no checkpoint can be written)
            path.parent.mkdir()
            path.write_bytes(b"PK damaged")
        if content == "foreign":
            torch.save({"identity": "of something else"}, path)
        ladder_runs.work_on(pipe, job, some_text(), path)
        news = pipe.send.call_args[0][0]
        refused(lambda: ladder_runs.take(news, job, {}, rows, None), words)
        assert not rows.path.exists()
    refused(lambda: ladder_runs.take(None, job, {}, rows, None), "ended without a result")
    with patch.object(ladder, "evaluate", return_value=math.nan):
        ladder_runs.work_on(pipe, TINY[0], some_text(), folder() / "a.pt")
    assert "is no number" in pipe.send.call_args[0][0][1], pipe.send.call_args
    # A process that ends with 1 met an error in the code, a student's edit perhaps.
    with patch.object(ladder_runs, "start", lambda *given: (0, Mock(exitcode=1))), patch.object(
            ladder_runs, "hear", lambda running: [(0, None)]):
        refused(lambda: ladder_runs.run_jobs([job], {job.rung.text: some_text()}, rows, 1),
                "with the error above")

def test_studies_ladder_identity():
    """Code between the KEEP lines makes other rows; comments, docstrings and the rest do not."""
    source, ours = Path(ladder.__file__).read_text(encoding="utf-8"), ladder_runs.code_identity()
    for old, new, changes in (("DROPOUT = 0.1", "DROPOUT = 0.2", True),
                              ("F.relu(layer(x))", "F.gelu(layer(x))", True),
                              ("model.train()", "model.train()  # KEEP: once more", False),
                              ("Rotary positions: turn", "Rotary: turn", False),
                              ("SEEDS = [101", "SEEDS = [100", False),
                              ("import hashlib", "import gc, hashlib", False)):
        assert source.count(old) == 1, old
        path = folder() / "ladder.py"
        path.write_text(source.replace(old, new), encoding="utf-8")
        with patch.object(ladder, "__file__", str(path)):
            assert (ladder_runs.code_identity() != ours) == changes, old

# ---------------------------------------------------------------- what the rows show

def ladder_main(*words):
    """What `python -m studies.ladder` prints with these arguments, and its exit status."""
    with patch.object(sys, "argv", ["ladder.py", *map(str, words)]):
        return said(program.run, ladder_runs.main)

def planted(losses, out):
    """Rows as if the jobs had been trained: losses(job) -> test loss, or None for no row."""
    rows = ladder_runs.Rows(out)
    with patch.object(ladder_runs, "write_records"):
        for part in ladder.PARTS:
            for job in ladder_runs.jobs_of(part, None):
                loss = losses(job)
                if loss is None:
                    continue
                text = ladder.Text(None, None, None, VOCABULARY[job.rung.text], job.rung.text)
                points = []
                for n, windows in enumerate(job.rung.measured_at()):
                    # The turn is at the second; validation prefers batches of 16.
                    valid = loss + 0.1 * abs(n - 1) + abs(job.rung.batch_size - 16)
                    points.append({"windows": windows, "train_nll": loss, "valid_nll": valid,
                                   "test_nll": loss + 1e-6 * (job.rung.windows() - windows)})
                rows.add(job, text, points, 1.0)
    ladder_runs.write_records(rows.path, ladder_runs.ROW_FIELDS, rows.rows)
    ladder_runs.write_records(rows.points_path, ladder_runs.POINT_FIELDS, rows.points)
    return rows

def planted_loss(job):
    """attention 2.0, mlp and linear 3.0, the sweep apart by 0.001, rotary worse; sd 0.016."""
    rung, noise = job.rung, 0.01 * (job.seed // 101 - 3)
    if rung.part == "sweep":
        return 2.5 + 0.001 * rung.layers + noise
    if rung.part == "beyond" and rung.also_at:
        return 1.5 + noise
    return {"attention": 2.0, "mlp": 3.0, "linear": 3.0}.get(rung.model, 2.2) + noise + (
        0.5 if rung.positions == "rotary" else 0)

def test_studies_ladder_verdicts():
    """What is planted in rows is found: who is ahead, by which count, and what is undecided."""
    out = folder()
    planted(planted_loss, out)
    text, status = ladder_main("--report_only", "--out", out)
    assert status == 0 and "Not complete" not in text, text
    claims = {}
    for line in text.splitlines():
        for words in ("as they were run", "mlp at what attention costs as executed",
                      "mlp at what attention costs as published", "every position", "3 - 2 layers",
                      "rotary -"):
            if words in line and "%" not in line:
                claims.setdefault(words, line)
    assert "-1.000" in claims["as they were run"]
    assert "first better, as published" in claims["as they were run"]
    # (mlp is planted at 1.49 after 1,373,487 windows, and 1.36 higher after 10,810.)
    executed, published = [claims[f"mlp at what attention costs as {count}"]
                           for count in ("executed", "published")]
    assert "+0.510" in executed and "second better" in executed
    assert "-0.853" in published and "first better" in published
    assert "-1.000" in claims["every position"] and "first better" in claims["every position"]
    assert "not decided" in claims["3 - 2 layers"] and "smaller than" in claims["3 - 2 layers"]
    assert "second better, as published" in claims["rotary -"] and "+0.500" in claims["rotary -"]
    assert "p < .001" in claims["rotary -"]
    low, high = ladder_report.one_more([1.0, 2.0, 3.0])
    same([low, high], [2 - 4.3026527 * (4 / 3) ** 0.5, 2 + 4.3026527 * (4 / 3) ** 0.5], 1e-6)
    inside = [row[-1] for row in table_of(out / "results.csv")[1:]]
    # (Published and planted: linear 3.05 and 3.0, attention 2.13 and 2.0, a transformer 2.20.)
    assert inside[:2] == ["no", "no"] and set(inside) == {"yes", "no"}, inside
    assert "ptb, ours: validation loss is lowest after epoch 2, 18.190 nats" in text, text
    chosen = [line.split()[1] for line in text.splitlines() if line.endswith("chosen")]
    assert chosen == ["16"] * 4
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "every position" in page

def test_studies_ladder_half_finished():
    """Whatever rows are there are reported, and what is missing is said."""
    some, more = iter(range(10_000)), iter(range(10_000))
    for kept in (lambda job: next(some) % 17 == 0, lambda job: next(more) % 40 == 0,
                 lambda job: job.rung.part == "sweep"):
        out = folder()
        planted(lambda job: planted_loss(job) if kept(job) else None, out)
        text, status = ladder_main("--report_only", "--out", out)
        assert status == 0 and "Not complete: baseline" in text, text
        assert "small version" not in text, text
    assert "Not complete" not in ladder_main("--report_only", "--part", "sweep", "--out", out)[0]

def test_studies_ladder_small_version():
    """Without a part: four models, three seeds, embedded stories; it says what it left out."""
    out = folder()
    with patch.object(ladder_runs, "run_jobs") as run_jobs:
        text, status = ladder_main("--out", out, "--workers", 3)
    jobs, texts, _, workers = run_jobs.call_args.args
    assert status == 0 and "left out: Tiny Shakespeare" in text and "0 of 12 rows" in text, text
    assert [job.rung.model for job in jobs] == ["linear", "mlp", "attention", "transformer"] * 3
    assert [job.seed for job in jobs[::4]] == [101, 202, 303] and workers == 3
    assert list(texts) == ["stories"] and len(texts["stories"].train) > 1_000_000
    assert sum(ladder.work(job.rung, 60) for job in jobs) < 2 * 180  # seconds, on two cores

def test_studies_ladder_rows_never_mix():
    """Rows of other code, another text or another protocol, and damaged ones, are refused."""
    out = folder()
    rows = planted(lambda job: 2.0 if job.rung.part == "baseline" else None, out)
    jobs = ladder_runs.jobs_of("baseline", None)
    texts = {"tinyshakespeare": ladder.Text(None, None, None, 65, "tinyshakespeare")}
    assert rows.missing(jobs, texts) == []
    other = {"tinyshakespeare": ladder.Text(None, None, None, 65, "other")}
    refused(lambda: rows.missing(ladder_runs.jobs_of("sweep", None), other), "another text")
    longer = [ladder_runs.Job(replace(job.rung, epochs=9), job.seed) for job in jobs]
    refused(lambda: rows.missing(longer, texts), "another epochs")
    with patch.object(ladder_runs, "code_identity", lambda: "other"):
        refused(lambda: rows.missing(jobs, texts), "other code")
    good = (out / "rows.csv").read_text(encoding="utf-8")
    first = good.splitlines()[1]
    for bad, words in ((good.replace("row,part", "part,row"), "row 1"),
                       (good.replace(",1.0\n", ",x\n", 1), "row 1"),
                       (good + first + "\n", "twice"), (good + "a,b\n", "row 21"),
                       (good.replace("baseline-linear", "baseline-lunar", 1), "no points")):
        (out / "rows.csv").write_text(bad, encoding="utf-8")
        refused(lambda: ladder_runs.Rows(out), words)

def test_studies_ladder_users_mistakes():
    """A mistake on the command line or in the text is one sentence with exit status 2."""
    out, texts = folder() / "new", folder()
    path = texts / "tinyshakespeare.txt"
    baseline = ["--part", "baseline", "--text", texts, "--out", out]
    for content, arguments, words in (
            (b"", ["--part", "all"], "invalid choice: 'all'"),
            (b"", ["--seeds", "7", "7"], "twice"), (b"", ["--seeds", "-7"], "from 0 on"),
            (b"", ["--workers", "0"], "at least 1"),
            (b"", ["--report_only", "--out", out], "no rows"),
            (b"", ["--part", "baseline", "--text", texts / "no"], "no folder"),
            (b"", ["--part", "words", "--text", texts], "the train text of ptb is not in"),
            (b"", baseline, "empty"), (b"ab" * 600, baseline, "too few for a window of 128"),
            (b"ab\ncd\xff", baseline, "line 2, is not UTF-8")):
        path.write_bytes(content)
        text, status = ladder_main(*arguments)
        assert status == 2 and words in text and len(text.splitlines()) == 1, text
    assert not out.exists()
