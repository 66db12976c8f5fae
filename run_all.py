"""Chapter 6. The whole study with one command: text, tokenizer, training, statistics, report.

    python run_all.py                          the classroom study (two minutes on two cores)
    python run_all.py --preset fresh           its control: no story seen twice
    python run_all.py --peak_lr 1e-3 --out runs/slow      any setting of train.StudyConfig
    python run_all.py --help                   all of them
    torchrun --nproc-per-node 2 run_all.py     the seeds divided among processes, that torch's
                                               launcher starts, here or on many machines

The same command continues an interrupted run, and the result is bit for bit that of a run never
interrupted. `main` is the table of contents; below it stands how seeds share the machines.
"""

import json, math, multiprocessing, os, shutil, signal, sys, textwrap, threading, time
from multiprocessing.connection import wait

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from model import Llama
from tokenizer import END_ID, InputError, write_csv, write_whole
from train import (Text, code_sha256, config_from, open_run, print_row, read_checkpoint,
                   settings_parser, train_seed)

def main():
    parser = settings_parser("Run a whole study; the same command continues it.")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="X",
                        help="seeds trained at once (0 or more; 0 analyses what is there; default: "
                        "one on each core; under torchrun always 1 a process)")
    parser.add_argument("--memorization", type=int, default=0, metavar="X",
                        help="sample so many stories of the best and the last checkpoint of a seed "
                        "and count what stands word for word in the training text (default 0)")
    args = parser.parse_args()
    # torchrun tells each process which of how many it is; without it there is one.
    ranks = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")] if (
        "RANK" in os.environ) else ["0", "1"]
    # 1. Text and tokenizer, and the folder that remembers what this run is.
    try:
        config, out = config_from(args)
        for name in ("workers", "memorization"):
            if getattr(args, name) < 0:
                raise InputError(f"{name} is {getattr(args, name)}; it must be 0 or more")
        if len(config.seeds) < 2:
            raise InputError("a study needs 2 seeds or more; train.py trains a single one")
        if not all(map(str.isdecimal, ranks)) or not int(ranks[0]) < int(ranks[1]):
            raise InputError(f"RANK and WORLD_SIZE are {' and '.join(ranks)}, which torchrun does "
                             "not set; unset them, or start with torchrun")
        rank, n_ranks = map(int, ranks)
        if n_ranks > 1 and args.restart:
            raise InputError("--restart and torchrun do not go together; give a new --out")
        text, tokenizer, facts = open_run(config, out, args.restart)
    except (InputError, OSError) as error:
        parser.error(str(error))
    if not rank:
        print(f"{config.preset}: {len(config.seeds)} seeds, {facts['train_documents']:,d} training "
              f"stories ({facts['train_tokens']:,d} tokens), {config.total_tokens:,d} tokens each")
    # 2. Training: one process a seed.
    ours = config.seeds[rank::n_ranks]
    problems = train_all(config, ours, out, 1 if n_ranks > 1 else args.workers, n_ranks == 1)
    for seed, problem in problems.items():
        print(f"seed {seed} is left out: {problem}", file=sys.stderr)
    if n_ranks > 1:
        wait_for_all(config, ours if rank else config.seeds, out, problems)
    if rank:
        return
    # 3. What the seeds left behind: their measurements in one table, and stories they tell.
    import stats, telemetry  # not above: workers import this file too and have no use for scipy
    try:
        # A complete seed has nothing left to train: this sets its tables right and reads them.
        complete = [seed for seed in config.seeds if is_complete(config, seed, out)]
        if len(complete) < 2:
            raise InputError(f"{len(complete)} of {len(config.seeds)} seeds are complete; a study "
                             "needs 2: give the command again, without --workers 0")
        rows = [row for seed in complete for row in train_seed(config, seed, text, out)]
        write_csv(out / "metrics.csv", rows[0], [row.values() for row in rows])
        write_samples(config, tokenizer, out, rows[0]["seed"])
        if args.memorization > 0:
            write_memorization(config, text, out, rows[0]["seed"], args.memorization)
        # 4. Telemetry, statistics and the report.
        for line in telemetry.write_report(out):
            print(textwrap.fill(line, shutil.get_terminal_size().columns, break_long_words=False))
    except (InputError, stats.InputError, OSError) as error:
        parser.error(str(error))
    sys.exit(len(complete) < len(config.seeds) and args.workers > 0)

def storytellers(config, out, seed, length):
    """Yields (checkpoint's name, its interval, a function that tells another story as ids)."""
    for name in ("best", "last"):
        saved = read_checkpoint(out / f"seed_{seed}" / f"{name}.pt")
        if saved:
            model, chance = Llama(config.model), torch.Generator().manual_seed(seed)
            model.load_state_dict(saved["model"])
            yield name, saved["rows"][-1]["interval"], lambda: [i for i in model.generate(
                torch.tensor([[END_ID]]), length, temperature=0.8, stop=END_ID, generator=chance
                )[0].tolist() if i != END_ID]

def write_samples(config, tokenizer, out, seed):
    """samples.json: a story by the best and one by the last checkpoint of a seed."""
    samples = {name: {"seed": seed, "interval": interval, "story": tokenizer.decode(tell()).strip()}
               for name, interval, tell in storytellers(config, out, seed, 300)}
    write_whole(out / "samples.json", json.dumps(samples, indent=1) + "\n")

def write_memorization(config, text, out, seed, n_stories):
    """memorization.csv: of each sampled story, and of as many validation stories, all cut to one
    window, how many pieces of 16 tokens they have, and how many of those the training text has."""
    pieces = lambda ids: [piece.tobytes() for piece in sliding_window_view(
        np.array(ids, dtype=np.int64), 16)] if len(ids) >= 16 else []
    known, length, rows = set(pieces(text.train)), config.block_size, []
    ends = np.flatnonzero(text.valid == END_ID)[: n_stories]
    stories = [("validation text", story[story != END_ID][: length]) for story in
               np.split(text.valid, ends + 1)[: len(ends)]]
    for name, interval, tell in storytellers(config, out, seed, length):
        for number in range(n_stories):
            if sys.stderr.isatty():
                print(f"{name}: story {number + 1} of {n_stories}", end="\r", file=sys.stderr)
            stories.append((f"{name} (interval {interval})", tell()))
    for source, story in stories:
        rows.append([source, len(pieces(story)), sum(p in known for p in pieces(story))])
    write_csv(out / "memorization.csv", ["source", "pieces", "verbatim"], rows)

# ---------------------------------------------------------------- one process a seed

def is_complete(config, seed, out):
    """Whether a seed's checkpoint is that of its last measurement."""
    saved = read_checkpoint(out / f"seed_{seed}" / "last.pt")
    return bool(saved) and len(saved["rows"]) == len(config.measured_steps)

def left_out(seed, out):
    """Why a seed came to an end that the same command would repeat, or None."""
    path = out / f"seed_{seed}" / "left_out.txt"
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None

def wait_for_all(config, seeds, out, problems):
    """Wait until each seed is complete or left out, whichever process trains it; one of ours that
    is neither ends this process, and so torchrun all of them. Files tell, since a barrier of
    torch.distributed would give up long before a night is over."""
    if any(not left_out(seed, out) for seed in problems):
        sys.exit(1)
    for seed in seeds:
        table = out / f"seed_{seed}" / "metrics.csv"  # written after the checkpoint
        while not left_out(seed, out) and not (table.exists() and len(
                table.read_text(encoding="utf-8").splitlines()) > len(config.measured_steps)):
            time.sleep(1)

def train_all(config, seeds, out, n_workers, live=True):
    """Train every seed that is not complete, n_workers at once: {seed: what went wrong, in words}.

    Each seed has a process of its own with one thread, so the result does not depend on how many
    run at once. The processes are spawned, as on every system, and tell their progress by pipes.
    """
    context, progress = multiprocessing.get_context("spawn"), Progress(config, live)
    missing = [seed for seed in seeds if not is_complete(config, seed, out)]
    problems = {seed: why for seed in missing if (why := left_out(seed, out))}
    waiting = [seed for seed in missing if n_workers and seed not in problems]
    running, retries = {}, dict.fromkeys(waiting, 3)
    while waiting or running:
        while waiting and len(running) < n_workers:
            seed, (ours, theirs) = waiting.pop(0), context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(theirs, config, seed, out),
                                      daemon=True)  # daemon: it ends when this process ends
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for us alone
            process.start()
            signal.signal(signal.SIGINT, handler)
            theirs.close()
            running[ours] = seed, process
        for pipe in wait(list(running)):
            seed, process = running[pipe]
            try:
                news = pipe.recv()
                if isinstance(news, str):
                    problems[seed] = news
                else:
                    progress.show(*news)
            except (EOFError, OSError):  # the worker has ended
                process.join()
                del running[pipe]
                if process.exitcode == 1:  # an error in the code, most likely a student's edit
                    sys.exit(f"Seed {seed} stopped with the error above, and so does the run.")
                if process.exitcode and retries[seed]:  # killed: continue from its checkpoint
                    retries[seed] -= 1
                    waiting.insert(0, seed)
                elif process.exitcode:
                    problems[seed] = ("its process was ended 4 times from outside (exit code "
                                      f"{process.exitcode}; too little memory?)")
    return problems

def worker(pipe, config, seed, out):
    """The life of a seed's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    told = 0.0

    def report(seed, tokens_seen, row):
        nonlocal told
        if row or time.monotonic() > told + 0.2:
            told = time.monotonic()
            pipe.send((seed, tokens_seen, row))

    try:
        # This process has read the code just now; it may have been edited since the run began.
        begun = json.loads((out / "config.json").read_text(encoding="utf-8"))
        edited = [name for name, sha in code_sha256().items() if sha != begun[name]]
        if edited:
            raise OSError(f"{' and '.join(edited)} changed while the run went on")
        train_seed(config, seed, Text(**np.load(out / "text.npz")), out, report)
    except (FloatingPointError, OSError) as error:
        pipe.send(str(error))

def end_with_parent():
    """A worker whose parent has died has nobody to work for."""
    multiprocessing.parent_process().join()
    os._exit(1)

# ---------------------------------------------------------------- live progress

class Progress:
    """A bar for each running seed on a terminal that can show it, else a line a measurement."""

    def __init__(self, config, live):
        self.total = config.measured_steps[-1] * config.tokens_per_step
        self.seeds = {}  # running seed -> (tokens and time at its first news, tokens now, loss)
        self.n_lines = 0
        try:
            "█░".encode(sys.stdout.encoding or "ascii")
            self.live = live and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        except UnicodeEncodeError:
            self.live = False
        if self.live and os.name == "nt":
            os.system("")  # makes an older Windows console obey the codes below

    def show(self, seed, tokens, row):
        if not self.live:
            return print_row(seed, tokens, row)
        first, since, _, loss = self.seeds.get(seed, (tokens, time.monotonic(), 0, math.nan))
        self.seeds[seed] = first, since, tokens, row["val_loss"] if row else loss
        done = bool(row) and tokens == self.total
        order = sorted(self.seeds, key=lambda s: not (done and s == seed))
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self.n_lines}F" if self.n_lines else ""  # back to the first line drawn
        print(up + "".join(f"\x1b[K{self.line(s, width)}\n" for s in order), end="", flush=True)
        self.n_lines = len(order) - done  # the line of a seed that is done stays above the others
        if done:
            del self.seeds[seed]

    def line(self, seed, width):
        first, since, tokens, loss = self.seeds[seed]
        speed = (tokens - first) / max(time.monotonic() - since, 1e-9)
        left = (self.total - tokens) / speed if speed else 0
        words = (f"loss {loss:.3f} {left // 3600:3.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} "
                 f"left {speed:7,.0f} tokens/s")
        n = max(5, min(40, width - len(words) - 12))
        full = round(n * tokens / self.total)
        return f"seed {seed:<5d} {'█' * full}{'░' * (n - full)} {words}"[:width]

if __name__ == "__main__":
    if sys.stdout:
        sys.stdout.reconfigure(errors="replace")  # a console that lacks a character shows "?"
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Nothing measured is lost; the same command continues from there.")
    except OSError as error:  # of a file in the run folder, or of the pipe that we print to
        sys.exit(f"run_all.py: {error}")
