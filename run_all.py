"""Chapter 6. The whole study with one command: text, tokenizer, training, statistics, report.

    python run_all.py                          the classroom study (1.5 minutes on two cores)
    python run_all.py --preset fresh           its control: no story seen twice
    python run_all.py --peak_lr 1e-3 --final_lr 1e-4 --out runs/slow      any setting
    python run_all.py --help                   all of them
    python run_all.py --preset ladder          the architecture study: many models, one budget
    torchrun --nproc-per-node 2 run_all.py     the seeds divided among processes that torch's
                                               launcher starts, here or on many machines

The same command continues an interrupted run, and the result is bit for bit that of a run never
interrupted. `main` is the table of contents; below it stands how seeds share the machines.
"""

import json, math, multiprocessing, os, shutil, signal, sys, textwrap, threading, time
from collections import namedtuple
from dataclasses import asdict
from multiprocessing.connection import wait

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from model import build
from tokenizer import InputError, write_csv, write_whole
from train import (RUNGS, Text, code_sha256, config_from, cores, evaluate, open_run, print_row,
                   read_checkpoint, read_config, run_sha256, settings_parser, train_seed)

def main():
    args, rank, n_ranks = arguments()
    # 1. The study (on the ladder one for each rung): its text, its tokenizer, and the folder that
    # remembers what it is.
    # EXERCISE 10: an option --arms that trains classroom, fresh and an arm of your own (say, with
    # train_stories 12) as three studies in runs/arms/NAME, and at the end prints telemetry.compare.
    # (Progress.show names a folder only on the ladder: else bars of equal seeds collide.)
    studies = open_studies(args)
    for config, out, _, _, facts in studies if not rank else []:
        print(f"{out.name}: {len(config.seeds)} seeds, {facts['train_documents']:,d} training "
              f"texts ({facts['train_tokens']:,d} tokens), {config.total_tokens:,d} tokens each")
    # 2. Training: one process a seed.
    jobs = [(study.config, seed, study.out) for study in studies for seed in study.config.seeds]
    ours = jobs[rank::n_ranks]  # every job once: with n processes, each n-th one from our number on
    problems = train_all(ours, 1 if n_ranks > 1 else args.workers, n_ranks == 1)
    for (_, seed, out), problem in problems:
        print(f"{out.name}: seed {seed} is left out: {problem}", file=sys.stderr)
    if n_ranks > 1:
        wait_for_all(ours if rank else jobs, problems)
    if rank:
        return  # process 0 alone writes the report
    # 3. What the seeds left behind, telemetry, statistics and the report.
    import stats, telemetry  # not above: workers import this file too and have no use for scipy
    try:
        for study in studies:
            gather(study, args.memorization)
            lines = telemetry.write_report(study.out)
        if args.preset == "ladder":
            lines = telemetry.write_ladder(studies[0].out.parent, [s.out for s in studies])
        for line in lines:
            print(textwrap.fill(line, shutil.get_terminal_size().columns, break_long_words=False))
    except (InputError, stats.InputError, OSError) as error:
        args.refuse(str(error))
    # The exit status is 1 if a seed that was to be trained is not complete.
    sys.exit(args.workers > 0 and not all(is_complete(*job) for job in jobs))

ONE_OF_EACH_KIND = "linear mlp-256 attention-4 transformer-2 rotary llama".split()

def arguments():
    """(the options, which of how many processes of torchrun this is: 0 of 1 without it)."""
    parser = settings_parser("Run a whole study; the same command continues it.")
    parser.add_argument("--workers", type=int, default=cores(), metavar="X",
                        help="seeds trained at once (0 or more; 0 analyses what is there; default: "
                        "one on each core; under torchrun always 1 a process)")
    parser.add_argument("--memorization", type=int, default=0, metavar="X",
                        help="sample so many stories of the best and the last checkpoint of a seed "
                        "and count what stands word for word in the training text (default 0)")
    parser.add_argument("--rungs", nargs="+", choices=[*RUNGS, "all"], metavar="X",
                        help="of the preset ladder: all, or some of " + ", ".join(RUNGS)
                        + f" (default {' '.join(ONE_OF_EACH_KIND)}); the report is of these alone")
    parser.set_defaults(refuse=parser.error)  # args.refuse(sentence) ends the program
    args = parser.parse_args()
    ladder, rank, size = args.preset == "ladder", "0", "1"
    if "RANK" in os.environ:
        rank, size = os.environ["RANK"], os.environ.get("WORLD_SIZE", "")
    for wrong, sentence in (
            (args.workers < 0, f"workers is {args.workers}; it must be 0 or more"),
            (args.memorization < 0, f"memorization is {args.memorization}; it must be 0 or more"),
            (args.rungs and not ladder, "--rungs goes with --preset ladder"),
            (ladder and (args.test_windows == 0 or args.train_file), "the ladder needs a test "
             "text: give a --corpus, no --train_file, and no --test_windows 0"),
            (not rank.isdecimal() or not size.isdecimal() or int(rank) >= int(size),
             f"RANK and WORLD_SIZE are {rank} and {size}, which torchrun does not set; unset "
             "them, or start with torchrun"),
            (args.restart and size != "1",
             "--restart and torchrun do not go together; give a new --out")):
        if wrong:
            parser.error(sentence)
    rungs = (args.rungs or ONE_OF_EACH_KIND) if ladder else [None]  # one study and no rung
    args.rungs = list(RUNGS) if "all" in rungs else list(dict.fromkeys(rungs))
    return args, int(rank), int(size)

Study = namedtuple("Study", "config out text tokenizer facts")

def open_studies(args):
    """A Study for each of args.rungs. All settings are checked before the first folder is made."""
    try:
        configs = [config_from(args, rung) for rung in args.rungs]
        if len(configs[0][0].seeds) < 2:
            raise InputError("a study needs 2 seeds or more; train.py trains a single one")
        if args.memorization and min(config.block_size for config, _ in configs) < 16:
            raise InputError("--memorization counts pieces of 16 tokens and a window is shorter; "
                             "leave it out, or raise --block_size")
        return [Study(*both, *open_run(*both, args.restart)) for both in configs]
    except (InputError, OSError) as error:
        args.refuse(str(error))

# ---------------------------------------------------------------- what complete seeds leave behind

def gather(study, n_stories):
    """metrics.csv of all complete seeds, samples.json, and what was asked for: test.csv,
    memorization.csv."""
    config, out, text, tokenizer, _ = study
    if changed(asdict(config), out):
        raise InputError(f"{out} holds another run now; this one was put aside with --restart")
    complete = [seed for seed in config.seeds if is_complete(config, seed, out)]
    if len(complete) < 2:
        raise InputError(f"{len(complete)} of {len(config.seeds)} seeds are complete in {out}; a "
                         "study needs 2: give the command again, with --workers 1 or more (a seed "
                         "with a left_out.txt would come to the same end)")
    # A complete seed has nothing left to train: this sets its tables right and reads them.
    rows = [row for seed in complete for row in train_seed(config, seed, text, out)]
    write_csv(out / "metrics.csv", rows[0], [row.values() for row in rows])
    # A story by the best and one by the last checkpoint of a seed.
    samples = {name: {"seed": complete[0], "interval": interval,
                      "story": tokenizer.decode(story).strip()}
               for name, interval, story in told_stories(study, complete[0], 1, 300)}
    write_whole(out / "samples.json", json.dumps(samples, indent=1) + "\n")
    if n_stories:
        write_memorization(study, complete[0], n_stories)
    if config.test_windows:
        write_test(study, complete)

def write_test(study, seeds):
    """test.csv: the loss of the best checkpoint of each seed on the windows of the test text."""
    config, rows = study.config, []
    model = build(config.model).to(config.device)
    for seed in seeds:
        saved = read_checkpoint(study.out / f"seed_{seed}" / "best.pt")
        if not saved:
            raise InputError(f"best.pt of seed {seed} in {study.out} is lost, and with it the "
                             f"test; delete seed_{seed} and give the command again, which trains "
                             "it anew, to the same bits")
        model.load_state_dict(saved["model"])
        starts = config.block_size * np.arange(config.test_windows)
        loss = evaluate(model, study.text.test, config, starts).mean()
        rows.append([seed, saved["rows"][-1]["interval"], loss])
    write_csv(study.out / "test.csv", ["seed", "interval", "test_loss"], rows)

def told_stories(study, seed, n_stories, length):
    """Yields (checkpoint's name, its interval, a story as ids), n_stories of each checkpoint."""
    end = study.tokenizer.end_id
    for name in ("best", "last"):
        saved = read_checkpoint(study.out / f"seed_{seed}" / f"{name}.pt")
        if not saved:
            print(f"{name}.pt of seed {seed} is lost: no story by it", file=sys.stderr)
            continue
        model, chance = build(study.config.model), torch.Generator().manual_seed(seed)
        model.load_state_dict(saved["model"])
        model.eval()  # no dropout, should a student add it
        for _ in range(n_stories):
            story = model.generate(torch.tensor([[end]]), length, temperature=0.8, stop=end,
                                   generator=chance)[0].tolist()
            yield name, saved["rows"][-1]["interval"], [i for i in story if i != end]

def write_memorization(study, seed, n_stories):
    """memorization.csv: of each sampled story, and of up to as many validation stories, all cut to
    one window, how many pieces of 16 tokens they have, and how many the training text has."""
    # (As bytes, which can be elements of a set: an array cannot.)
    pieces = lambda ids: [piece.tobytes() for piece in sliding_window_view(
        np.array(ids, dtype=np.int64), 16)] if len(ids) >= 16 else []
    text, length, end = study.text, study.config.block_size, study.tokenizer.end_id
    ends = np.flatnonzero(text.valid == end)[:n_stories]
    stories = [("validation text", story[story != end][:length])
               for story in np.split(text.valid, ends + 1)[: len(ends)]]
    for n, (name, interval, story) in enumerate(told_stories(study, seed, n_stories, length)):
        if sys.stderr.isatty():
            print(f"{name}: story {n % n_stories + 1} of {n_stories}", end="\r", file=sys.stderr)
        stories.append((f"{name} (interval {interval})", story))
    known = set(pieces(text.train))
    write_csv(study.out / "memorization.csv", ["source", "pieces", "verbatim"], [
        [source, len(pieces(story)), sum(piece in known for piece in pieces(story))]
        for source, story in stories])

# ---------------------------------------------------------------- one process a seed

def is_complete(config, seed, out):
    """Whether a seed's last.pt is of this run and holds every measurement of the study."""
    saved = read_checkpoint(out / f"seed_{seed}" / "last.pt")
    return bool(saved) and saved["run"] == run_sha256(out) and (
        len(saved["rows"]) == len(config.measured_steps))

def left_out(config, seed, out):
    """Why a seed came to an end that it would come to again (left_out.txt), or None."""
    path = out / f"seed_{seed}" / "left_out.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None

def wait_for_all(jobs, problems):
    """Wait until each seed is complete or left out, whichever process trains it; one of ours that
    is neither ends this process, and so torchrun all of them. Files tell, since a barrier of
    torch.distributed would give up long before a night is over."""
    if any(not left_out(*job) for job, _ in problems):
        sys.exit(1)
    for config, seed, out in jobs:
        table = out / f"seed_{seed}" / "metrics.csv"  # written after the checkpoint
        while not left_out(config, seed, out) and not (table.exists() and len(
                table.read_text(encoding="utf-8").splitlines()) > len(config.measured_steps)):
            time.sleep(1)

def train_all(jobs, n_workers, live=True):
    """Train each job (config, seed, out) that is not complete, n_workers at once. Returns
    [(job, what went wrong, in words)].

    Each seed has a process of its own with one thread, so the result does not depend on how many
    run at once. The processes are spawned (started afresh, not forked: alike on every
    system), and tell their progress by pipes.
    """
    # Linux's malloc then asks for large pages: 5 % faster with the published model, the same bits.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # read at a process's start
    context, progress, running = multiprocessing.get_context("spawn"), Progress(live), {}
    missing = [job for job in jobs if not is_complete(*job)]
    problems = [(job, why) for job in missing if (why := left_out(*job))]
    waiting = [(job, 3) for job in missing if n_workers and not left_out(*job)]
    while waiting or running:
        while waiting and len(running) < n_workers:
            (job, retries), (receiver, sender) = waiting.pop(0), context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(sender, *job),
                                      daemon=True)  # daemon: it ends when this process ends
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for us alone
            process.start()
            signal.signal(signal.SIGINT, handler)
            sender.close()  # our copy: while that is open, a dead worker's pipe has no end
            running[receiver] = job, retries, process
        for pipe in wait(list(running)):  # sleeps until a worker has news, or its pipe has closed
            job, retries, process = running[pipe]
            try:
                news = pipe.recv()
            except (EOFError, OSError):  # the worker has ended
                process.join()
                del running[pipe]
                if process.exitcode == 1:  # an error in the code, most likely a student's edit
                    sys.exit(f"Seed {job[1]} stopped with the error above (on Windows perhaps it "
                             "was ended from outside), and so does the run.")
                if process.exitcode and retries:  # killed: continue from its checkpoint
                    waiting.insert(0, (job, retries - 1))
                elif process.exitcode:
                    problems.append((job, "its process was ended 4 times from outside (exit code "
                                     f"{process.exitcode}; too little memory?)"))
                continue
            if isinstance(news, str):
                problems.append((job, news))
            else:
                progress.show(job, *news)
    return problems

def changed(mine, out):
    """Which of my settings or sums are others in config.json: the code may have been edited since
    the run began, or the folder holds another run, because somebody gave --restart meanwhile."""
    theirs = read_config(out)
    return [name for name, value in mine.items() if theirs.get(name) != value]

def worker(pipe, config, seed, out):
    """The life of a seed's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    told = 0.0

    def report(seed, tokens_seen, row):
        nonlocal told
        if row or time.monotonic() > told + 0.2:
            told = time.monotonic()
            pipe.send((tokens_seen, row))

    try:
        edited = changed(asdict(config) | code_sha256(), out)
        if edited:  # (this process has read the code just now)
            raise OSError(f"{' and '.join(edited)} changed while the run went on")
        train_seed(config, seed, Text(**np.load(out / "text.npz")), out, report)
    except (FloatingPointError, InputError, OSError) as error:
        pipe.send(str(error))

def end_with_parent():
    """A worker whose parent has died has nobody to work for."""
    multiprocessing.parent_process().join()
    os._exit(1)  # (sys.exit would end this thread alone)

# ---------------------------------------------------------------- live progress

class Progress:
    """A bar for each running seed on a terminal that can show it, else a line a measurement."""

    def __init__(self, live):
        self.seeds = {}  # running seed -> tokens and time at its first news, tokens now, all, loss
        self.n_lines = 0
        blocks = "█░".encode(sys.stdout.encoding or "ascii", errors="replace")
        self.live = (live and sys.stdout.isatty() and b"?" not in blocks
                     and os.environ.get("TERM") != "dumb")
        if self.live and os.name == "nt":
            os.system("")  # makes an older Windows console obey the codes below

    def show(self, job, tokens, row):
        config, seed, out = job
        name = f"{out.name} seed {seed}" if config.preset == "ladder" else f"seed {seed}"
        if not self.live:
            return print_row(name, tokens, row)
        total = config.measured_steps[-1] * config.tokens_per_step
        first, since, *_, loss = self.seeds.get(name, (tokens, time.monotonic(), math.nan))
        self.seeds[name] = first, since, tokens, total, row["val_loss"] if row else loss
        done = bool(row) and tokens == total
        order = sorted(self.seeds, key=lambda s: not (done and s == name))
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self.n_lines}F" if self.n_lines else ""  # back to the first line drawn
        print(up + "".join(f"\x1b[K{self.line(s, width)}\n" for s in order), end="", flush=True)
        self.n_lines = len(order) - done  # the line of a seed that is done stays above the others
        if done:
            del self.seeds[name]

    def line(self, name, width):
        first, since, tokens, total, loss = self.seeds[name]
        speed = (tokens - first) / max(time.monotonic() - since, 1e-9)
        left = (total - tokens) / speed if speed else 0
        words = (f"loss {loss:.3f} {left // 3600:3.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} "
                 f"left {speed:7,.0f} tokens/s")
        n = max(5, min(40, width - len(words) - max(10, len(name)) - 2))
        full = round(n * tokens / total)
        return f"{name:10s} {'█' * full}{'░' * (n - full)} {words}"[:width]

if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console that lacks a character shows "?"
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Nothing measured is lost; the same command continues from there"
                 + " (without --restart)" * ("--restart" in sys.argv) + ".")
    except (InputError, OSError) as error:  # of the run folder, or of the pipe that we print to
        sys.exit(f"run_all.py: {error}")
