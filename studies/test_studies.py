"""What must hold of the smaller studies: `python test_all.py studies` runs these and the ladder's.

Planted effects are found, absent ones are not, and published numbers come out again.
"""

import shutil
from dataclasses import replace
from unittest.mock import Mock, patch

import numpy as np
import scipy.stats
import torch
from torch.utils.flop_counter import FlopCounterMode

import model
import telemetry
import train
from studies import false_positives, memorization, replication, speed
from test_all import HERE, command, folder, refused, same, said, table_of

# ---------------------------------------------------------------- replication

def test_studies_every_third_measurement_returns_to_its_place():
    """The published waves: those at intervals 7, 10 ... 19 alone lie below at their place, and the
    place explains 0.73 of them, as scipy's anova of the three groups has it; a planted one, all."""
    wave = replication.waves(telemetry.published_run().loss[:, 5:])
    mean = wave.mean(axis=0)
    assert mean[2::3].round(3).tolist() == [-0.076, -0.027, -0.047, -0.040, -0.022]
    assert mean[1::3].min() > 0
    f = scipy.stats.f_oneway(mean[::3], mean[1::3], mean[2::3]).statistic
    same(replication.returning(wave), 2 * f / (2 * f + 13))
    assert round(replication.returning(wave), 2) == 0.73
    same(replication.returning(np.tile([[1.0, 0, -1]], (2, 5))), 1)

def test_studies_parts_tell_kinds_of_text_apart():
    """Two kinds of text that rise in turn: parts wave, their mean does not, and what a part has of
    its own is all of it; one kind: nothing is a part's own."""
    wave = np.resize([0.2, -0.1, -0.1], 21)
    size = replication.waves(wave[None, 5:]).std()
    in_turn = np.outer(wave, np.resize([1, -1], 8))  # (21, 8): each window a part
    part, together, r, own = replication.waves_in_parts(in_turn)
    # Of the 28 pairs of parts 12 rise together and 16 in turn.
    same([part, r, own], [size, -4 / 28, size * np.sqrt(32 / 28)], 1e-6)
    assert together < 1e-9
    alike = np.repeat(wave[:, None], 16, axis=1)  # two windows a part
    same(replication.waves_in_parts(alike)[:3], [size, size, 1], 1e-6)

def test_studies_repetition_is_laid_beside_the_published_study():
    """A repetition that is the published study but for 0.25 nats says so; the tables of
    results/paper come out again."""
    theirs = telemetry.published_run()
    run = replace(theirs, loss=theirs.loss + 0.5, published=theirs.loss + 0.25,
                  window_losses=np.zeros((6, 21, 16)))
    text = "\n".join(replication.repeats(run, theirs))
    for words in ("lies 0.250 nats", "means correlate 1.00", "0.250 to 0.250 nats harder"):
        assert words in text, text
    at, paper = folder(), HERE / "results" / "paper"
    beside = HERE / "results" / "paper_shuffled"
    out, _ = command("studies.replication", paper, "--beside", beside, "--out", at)
    for words in ("0.0322 nats", "correlate 0.753", "p = .13", "404: 0.0306 nats", "-0.0229 nats",
                  "7:-0.076", "shuffled, one seed: two parts' waves correlate 0.96 to 0.96"):
        assert words in out, out
    for name in ("published.csv", "waves.csv", "parts.csv"):
        for mine, kept in zip(table_of(at / name), table_of(paper / name), strict=True):
            assert mine[0] == kept[0]
            if mine[0] not in ("interval", "", "run"):  # the header
                same(np.array(mine[1:], float), np.array(kept[1:], float), 1e-6)
    for name in ("published.svg", "kinds.svg"):
        kept = paper / "figures" / name
        assert (at / "figures" / name).read_text("utf-8") == kept.read_text("utf-8")
    run = telemetry.read_run(paper)
    for other in (replace(run, epochs=run.epochs / 2), replace(run, published=run.loss * np.nan)):
        with patch.object(telemetry, "read_run", return_value=other):
            refused(lambda: replication.read_runs([paper]), "read 7 times")

# ---------------------------------------------------------------- false positives

def test_studies_false_alarms_are_those_of_the_simulation():
    """The anova of volatility rejects in some 96 % of flat studies, 81 % with Greenhouse-Geisser,
    if changes are as alike as the published ones seem; independent seeds and no trend in time give
    a test its 5 %; H01's test keeps its level and has its power."""
    alike = telemetry.Noise(size=1.0, between_seeds=0.77, phi=-0.19)
    losses = telemetry.flat_curves(np.random.default_rng(1), alike, (400, 6, 21))
    plain, gg, hf = false_positives.volatility_rejects(losses)
    assert 0.92 < plain < 0.98 and 0.74 < gg < 0.85, (plain, gg)
    losses[..., 0] += 5.0  # a descent to begin with changes nothing
    same(false_positives.volatility_rejects(losses), [plain, gg, hf])
    white = false_positives.seeds_reject(0.0, (2000, 6, 21))
    assert 0.03 < white[0] < 0.07, white

    run, rows = telemetry.published_run(), {}
    for test, what, *rate in false_positives.rates(run, 400):
        rows[test, what.split(" (")[0]] = rate
    assert 0.2 < rows["seeds differ", "alike over time"][0] < 0.38  # 28 % or so
    assert 0.9 < rows["volatility differs", "seeds alike as here"][0] < 0.97  # 93 % or so
    assert rows["volatility differs", "seeds independent"][1] < 0.05
    assert 0.02 < rows["H01: halves differ", "seeds alike as here"][0] < 0.09
    assert rows["H01: halves differ", "noise doubles: power"][0] > 0.7
    assert 0.5 < rows["H03: end above minimum", "seeds alike as here"][0] < 0.7
    assert rows["H03: end above minimum", "seeds independent"][0] < 0.1
    # Seeds of planted heights and intervals that go up and down are no noise.
    planted = 9.0 * np.arange(6)[:, None] + np.resize([0, 5], 200)
    noise = np.random.default_rng(0).normal(size=(6, 200))
    assert abs(false_positives.seed_noise(replace(run, loss=noise + planted))) < 0.1

# ---------------------------------------------------------------- memorization

def test_studies_what_was_learned_by_heart_is_found():
    """Pieces of 16 tokens are counted where they stand, stories end where they end, and a model
    that can only recite its text is caught reciting it."""
    at = folder()
    text = np.array([*range(40), 256, *range(60, 90), 256])
    valid = np.array([*range(60, 80), 256, *range(100, 130), 256, *range(8, 200), 256])
    np.savez(at / "text.npz", train=text, valid=valid)
    (at / "config.json").write_text('{"block_size": 21, "seeds": [7]}', encoding="utf-8")
    story = torch.tensor([[256, *text[3:23].tolist(), 999]])
    reciter = Mock()
    reciter.generate.return_value = story
    checkpoint = reciter, None, {"interval": 7}
    with patch.object(train, "load_model", autospec=True, return_value=checkpoint) as load:
        out, _ = command("studies.memorization", at, "--stories", 2)
    assert [call.args for call in load.mock_calls] == [(at, 7, "best"), (at, 7, "last")]
    (start, length), how = reciter.generate.call_args
    assert (start.tolist(), length, how["temperature"], how["stop"]) == ([[256]], 21, 0.8, 256)
    rows = table_of(at / "memorization.csv")[1:]
    assert rows == [["validation text", "5", "5"], ["validation text", "6", "0"]] + [
        [f"{name} (interval 7)", "6", "5"] for name in ("best", "last") for _ in range(2)], rows
    assert "83.3%" in out and command("studies.memorization", at)[0] in out
    assert "last (interval 7)" in (at / "memorization.svg").read_text("utf-8")

def test_studies_recitals_are_compared_story_by_story():
    """The chance that one story recites more than another is that of all pairs; the intervals of
    large samples are 1.96 standard errors to either side."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30) / 4, rng.integers(0, 4, 20) / 4
    more, equal = a[:, None] > b, a[:, None] == b  # (30, 20)
    same(memorization.superiority(a, b), more.mean() + equal.mean() / 2)
    a, b = rng.normal(0.5, 1, 300), rng.normal(0, 1, 200)
    more = a[:, None] > b
    # (The standard error of Mann and Whitney's share: DeLong et al. 1988.)
    for statistic, x, y in ((memorization.mean_difference, a, b),
                            (memorization.superiority, more.mean(axis=1), more.mean(axis=0))):
        middle, half = statistic(a, b), 1.96 * np.sqrt(x.var() / 300 + y.var() / 200)
        same(memorization.interval(statistic, a, b), [middle - half, middle + half], 0.02)

# ---------------------------------------------------------------- mistakes

def test_studies_users_mistakes_are_one_sentence():
    """What cannot be asked of a study: status 2, one line that says why, and nothing is written."""
    empty, classroom = folder(), HERE / "results" / "classroom"
    damaged, thin, nothing = folder(), folder(), folder()
    (damaged / "text.npz").write_bytes(b"damaged")
    shutil.copy(classroom / "config.json", damaged)
    (damaged / "memorization.csv").write_text("source,pieces,verbatim\nbest,3,4\n", "utf-8")
    (nothing / "config.json").write_text("{}", encoding="utf-8")
    (thin / "config.json").write_text('{"block_size": 16, "seeds": [7]}', encoding="utf-8")
    (thin / "memorization.csv").write_text("source,pieces,verbatim\na,1,1\nb,1,1\nc,1,1\n")
    for name, words, expected in (
            ("false_positives", ["--studies", 1], "--studies must lie between"),
            ("false_positives", [empty], "has no metrics.csv"),
            ("false_positives", [HERE / "results" / "paper_1000"], "it takes 2 and 12"),
            ("replication", [classroom], "does not repeat the published study"),
            ("replication", ["--beside", HERE / "results" / "paper_7037", "--out", empty],
             "needs 11 intervals, and the losses"),
            ("memorization", [empty], "give --stories 200"),
            ("memorization", [classroom, "--seed", 101], "--seed goes with --stories"),
            ("memorization", [empty, "--stories", 1], "--stories must lie between"),
            ("memorization", [classroom, "--stories", 2], "text.npz is missing or damaged"),
            ("memorization", [damaged, "--stories", 2], "text.npz is missing or damaged"),
            ("memorization", [damaged], "memorization.csv is damaged"),
            ("memorization", [thin, "--stories", 2], "too short"),
            ("memorization", [nothing, "--stories", 2], "no config.json with seeds"),
            ("memorization", [thin], "needs two stories"),
            ("speed", ["--rounds", 0], "must be positive"), ("speed", ["--round", 1], "--round"),
            ("speed", ["--against", empty], "holds no train.py")):
        out, status = command(f"studies/{name}.py", *words)
        assert status == 2 and expected in out and out.count("\n") == 1, (name, words, out)
    assert not list(empty.iterdir())

# ---------------------------------------------------------------- speed

def test_studies_speed_measures_what_it_says():
    """The matrix products of the ceiling are those of a training step, counted by torch; on one
    core two of the five cases are the same; a process that fails is a sentence."""
    config = train.StudyConfig(**train.PRESETS["paper"])
    network = model.Llama(config.model)
    step = speed.matrix_products(config, [p.shape for p in network.parameters() if p.dim() == 2])
    with FlopCounterMode(display=False) as counter:
        step()
    tokens = config.batch_size * config.block_size
    same(counter.get_total_flops(), tokens * model.training_flops_per_token(config.model))
    asked = []
    with patch.object(speed, "start_workers", lambda folders: folders), patch.object(
            speed, "ask", lambda pipes, *what: asked.append((len(pipes), *what)) or (3.0, None)):
        for n_cores, n_cases in ((1, 3), (2, 5)):
            asked.clear()
            _, rows = said(speed.ceiling, n_cores, 1e9, 1, 0.5)
            assert len(rows) == n_cases and rows[0]["gflop_per_second"] == 3.0
            assert len(asked) == 2 * n_cases  # each once to warm up, and once
    assert (1, speed.PUBLISHED, 2, 0.5) in asked and (2, speed.LOOP, 1, 0.5) in asked

def test_studies_speed_compares_two_copies():
    """A copy whose step sleeps is slower, with the same losses; copies whose second losses differ
    are not the same; a folder without the project is one sentence."""
    slow = folder() / "slow"
    shutil.copytree(HERE, slow, ignore=shutil.ignore_patterns(".*", "r*", "course", "studies"))
    with open(slow / "train.py", "a", encoding="utf-8") as file:
        file.write("\nquick = train_step\ndef train_step(*a):\n    time.sleep(2)\n    "
                   "return quick(*a)\n")
    _, found = said(speed.against, slow, 1, 0)
    assert found["same_losses"] and found["there"] < 2048 / 2, found
    losses = iter([1.0, 1.0, 1.0, 2.0, 0.0, 0.0])
    with patch.object(speed, "start_workers", lambda folders: folders), patch.object(
            speed, "ask", lambda pipes, *what: (3.0, next(losses))):
        assert not said(speed.against, slow, 1, 0)[1]["same_losses"]
