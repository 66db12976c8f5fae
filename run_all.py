"""Chapter 6. The whole study with one command: text, tokenizer, training, statistics, report.

    python run_all.py                          the classroom study (two minutes on two cores)
    python run_all.py --preset fresh           its control: no story seen twice
    python run_all.py --peak_lr 1e-3 --out runs/slow      any setting of train.StudyConfig
    python run_all.py --help                   all of them

The same command continues an interrupted run, and the result is bit for bit that of a run never
interrupted. `main` is the table of contents; below it stands how seeds share the machine.
"""

import argparse, json, multiprocessing, os, shutil, signal, sys, textwrap
import threading, time
from multiprocessing.connection import wait
from pathlib import Path

import torch

from model import Llama
from tokenizer import END_ID, InputError, write_csv, write_whole
from train import add_settings, config_from, open_run, print_row, read_checkpoint, train_seed

def main():
    parser = argparse.ArgumentParser(description="run a whole study, or continue it")
    parser.add_argument("--out", type=Path, help="run folder (default runs/PRESET)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="X",
                        help="seeds trained at once, each on one core (0 or more: with 0, what is "
                        "there is analysed and nothing trained; default: one per core)")
    parser.add_argument("--restart", action="store_true", help="delete what --out holds of a run")
    add_settings(parser)
    args = parser.parse_args()
    out = args.out or Path("runs") / args.preset
    # 1. Text and tokenizer, and the folder that remembers what this run is.
    try:
        if args.workers < 0:
            raise InputError(f"workers is {args.workers}; it must be 0 or more")
        config = config_from(args)
        text, tokenizer, facts = open_run(config, out, args.restart)
    except (InputError, OSError) as error:
        parser.error(str(error))
    print(f"{config.preset}: {len(config.seeds)} seeds, {facts['train_documents']:,d} training "
          f"stories ({facts['train_tokens']:,d} tokens), {config.total_tokens:,d} tokens a seed")
    # 2. Training: one process a seed.
    try:
        problems = train_all(config, text, out, args.workers)
    except KeyboardInterrupt:
        sys.exit("\nStopped. Nothing measured is lost; the same command continues from there.")
    # 3. What the seeds left behind: their measurements in one table, and stories they tell.
    import telemetry  # here, not above: workers import this file too and have no use for scipy
    try:
        # A complete seed has nothing left to train: this sets its tables right and reads them.
        rows = [row for seed in config.seeds if tokens_left(config, seed, out) == 0
                for row in train_seed(config, seed, text, out)]
        if not rows:
            raise InputError("no seed is complete, so there is nothing to analyse")
        write_csv(out / "metrics.csv", rows[0], [row.values() for row in rows])
        write_samples(config, tokenizer, out, rows[0]["seed"])
        # 4. Telemetry, statistics and the report.
        for line in telemetry.write_report(out):
            print(textwrap.fill(line, shutil.get_terminal_size().columns, break_long_words=False))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit("\n".join(problems) or None)

def write_samples(config, tokenizer, out, seed):
    """samples.json: a story by the best and one by the last checkpoint of a seed."""
    samples = {}
    for name in ("best", "last"):
        saved = read_checkpoint(out / f"seed_{seed}" / f"{name}.pt")
        if saved:
            model = Llama(config.model)
            model.load_state_dict(saved["model"])
            ids = model.generate(torch.tensor([[END_ID]]), 300, temperature=0.8, stop=END_ID,
                                 generator=torch.Generator().manual_seed(seed))[0].tolist()
            samples[name] = {"seed": seed, "interval": saved["rows"][-1]["interval"],
                             "story": tokenizer.decode(i for i in ids if i != END_ID).strip()}
    write_whole(out / "samples.json", json.dumps(samples, indent=1) + "\n")

# ---------------------------------------------------------------- one process a seed

def tokens_left(config, seed, out):
    """How much of a seed is still to be trained, judged by its checkpoint."""
    saved = read_checkpoint(out / f"seed_{seed}" / "last.pt")
    steps = config.measured_steps[-1] - (saved["step"] if saved else 0)
    # A seed that has not even measured its untrained model is not complete either.
    return max(steps, not saved) * config.windows_per_step * config.block_size

def train_all(config, text, out, n_workers):
    """Train every seed that is not complete, n_workers at once. Returns what went wrong, in words.

    Each seed has a process of its own with one thread, so the result does not depend on how many
    run at once. The processes are spawned, as on every system, and tell their progress by pipes.
    """
    context, progress = multiprocessing.get_context("spawn"), Progress(config)
    waiting = [seed for seed in config.seeds if n_workers and tokens_left(config, seed, out)]
    running, problems, lives = {}, [], dict.fromkeys(waiting, 3)
    while waiting or running:
        while waiting and len(running) < n_workers:
            seed, (ours, theirs) = waiting.pop(0), context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(theirs, config, seed, text, out),
                                      daemon=True)  # daemon: ends when this process ends
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
                    problems.append(f"seed {seed} is left out: {news}")
                else:
                    progress.show(*news)
            except EOFError:  # the worker has ended
                process.join()
                del running[pipe]
                if process.exitcode == 1:  # an error in the code, most likely a student's edit
                    sys.exit(f"Seed {seed} stopped with the error above, and so does the run.")
                if process.exitcode and lives[seed]:  # killed: it continues from its checkpoint
                    lives[seed] -= 1
                    waiting.insert(0, seed)
                elif process.exitcode:
                    problems.append(f"seed {seed} is left out: its process was ended 4 times from "
                                    f"outside (exit code {process.exitcode}; too little memory?)")
    return problems

def worker(pipe, config, seed, text, out):
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
        train_seed(config, seed, text, out, report)
    except (FloatingPointError, OSError) as error:
        pipe.send(str(error))

def end_with_parent():
    """A worker whose parent has died has nobody to work for."""
    multiprocessing.parent_process().join()
    os._exit(1)

# ---------------------------------------------------------------- live progress

class Progress:
    """A bar for each running seed on a terminal that can show it, else a line a measurement."""

    def __init__(self, config):
        self.total = config.measured_steps[-1] * config.windows_per_step * config.block_size
        self.seeds = {}  # running seed -> (tokens and time at its first news, tokens now, loss)
        self.n_lines = 0
        try:
            "█░".encode(sys.stdout.encoding or "ascii")
            self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        except UnicodeEncodeError:
            self.live = False
        if self.live and os.name == "nt":
            os.system("")  # makes an older Windows console obey the codes below

    def show(self, seed, tokens, row):
        if not self.live:
            return print_row(seed, tokens, row)
        first, since, _, loss = self.seeds.get(seed, (tokens, time.monotonic(), 0, float("nan")))
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
        words = (f"loss {loss:.3f} {speed:7,.0f} tokens/s"
                 f" {left // 3600:3.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} left")
        n = max(5, min(40, width - len(words) - 12))
        full = round(n * tokens / self.total)
        return f"seed {seed:<5d} {'█' * full}{'░' * (n - full)} {words}"[:width]

if __name__ == "__main__":
    main()
