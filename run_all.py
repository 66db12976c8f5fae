"""Chapter 6. The whole study with one command: text, tokenizer, training, statistics, report.

    python run_all.py                          the classroom study (a minute on two cores)
    python run_all.py --preset fresh           its control: no story seen twice
    python run_all.py --peak_lr 1e-3 --final_lr 1e-4 --out runs/slow      any setting
    python run_all.py --help                   all of them
    torchrun --nproc-per-node 2 run_all.py     the seeds divided among processes that torch's
                                               launcher starts, here or on many machines

The same command continues an interrupted run, and on one machine the result is bit for bit that of
a run never interrupted, but for the two columns of times. `main` is the table of contents; below
the line stands how seeds share the machine.
"""
import support.program  # first: from here on Ctrl-C prints no traceback

import json, os, shutil, sys, textwrap, time

import numpy as np

from support.files import InputError, need, sweep, write_csv, write_whole
from support.program import cores
from support.progress import Bars, can_draw
from support.runs import why_left_out
from support.workers import can_spawn, end_all, hear, start
from train import (Text, WriteConfig, config_from, differences, is_of, load_model, open_run,
                   print_row, read_checkpoint, read_config, run_sha256, settings_and_code,
                   settings_parser, telling_how_to_go_on, train_seed, write_on, write_tables)

def main():
    # What is asked for: the settings, the run folder, and which seeds this process is to train.
    # (All of them, unless torchrun has started n_ranks processes and this is number `rank`.)
    args = parse()
    config, out = config_from(args)
    need(len(config.seeds) >= 2, "a study needs 2 seeds or more; train.py trains a single one")
    rank, n_ranks = place_among_processes(args)
    seeds = config.seeds[rank::n_ranks]  # every n-th one from our number on
    n_workers = args.workers if n_ranks == 1 else 1

    # 1. The text becomes tokens, and a folder remembers what this study is. (Every process of
    # torchrun does this: all write the same, and each file whole.)
    _, described = open_run(config, out, args.restart)
    if rank == 0:
        print(f"{out.name}: {len(config.seeds)} seeds, {described['train_documents']:,d} stories "
              f"({described['train_tokens']:,d} tokens), {config.total_tokens:,d} tokens each")

    # 2. Training: each seed in a process of its own, some of them at once.
    with telling_how_to_go_on(args) as how:
        problems = train_all(config, out, seeds, n_workers, progress(config, n_ranks))
    for seed, problem in problems.items():
        print(f"seed {seed} is not complete: {problem}{how}", file=sys.stderr)
    if n_ranks > 1:
        wait_for_all(config, out, problems)
    if rank > 0:
        return 0  # process 0 alone writes the report

    # 3. What the seeds left behind becomes one table, and two stories to read.
    with telling_how_to_go_on(args):
        complete = gather(config, out)
    write_samples(out, complete[0])

    # 4. Telemetry, statistics, the report. The last line is its address, to click on.
    import telemetry  # not above: workers import this file too, and have no use for scipy
    columns = shutil.get_terminal_size().columns
    for line in telemetry.write_report(out):
        print(textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False))

    # The exit status: 1 if a seed that was to be trained is not complete.
    return int(args.workers > 0 and len(complete) < len(config.seeds))

def gather(config, out):
    """Write metrics.csv, the rows of all complete seeds. Returns these seeds."""
    complete, rows = [], []
    for seed in config.seeds:
        saved = read_complete(config, seed, out)
        if saved:
            complete.append(seed)
            rows += saved["rows"]
            # The checkpoint knows best: a table that is lost or was edited is set right.
            write_tables(out / f"seed_{seed}", saved["rows"], saved["window_losses"].numpy())
    need(len(complete) >= 2, f"{len(complete)} of {len(config.seeds)} seeds are complete in {out}; "
         "a study needs 2: give the command again, with --workers 1 or more (a seed with a "
         "left_out.txt would come to the same end)")
    write_csv(out / "metrics.csv", rows[0], [row.values() for row in rows])
    return complete

def write_samples(out, seed):
    """samples.json: a story by the best and one by the last checkpoint of a seed."""
    samples = {}
    for name in ("best", "last"):
        try:
            model, tokenizer, row = load_model(out, seed, name)
        except InputError as error:  # a lost file costs a story, not the report
            print(f"no story: {error}", file=sys.stderr)
            continue
        story = write_on(model, tokenizer, "", WriteConfig(chance=seed))
        samples[name] = {"seed": seed, "interval": row["interval"], "story": story.strip()}
    write_whole(out / "samples.json", json.dumps(samples, indent=1) + "\n")

# ================================================================ how seeds share the machine
# Stop reading here the first time. Below stand the options, one process for each seed and what
# happens when it dies, and the ranks of torchrun.

def parse():
    """The options of this program."""
    parser = settings_parser("Run a whole study; the same command continues it.")
    parser.add_argument("--workers", type=int, default=cores(), metavar="X",
                        help="seeds trained at once (0 or more; 0 analyses what is there; default: "
                        "one on each core; under torchrun always 1 a process)")
    args = parser.parse_args()
    need(args.workers >= 0, f"workers is {args.workers}; it must be 0 or more")
    need(args.workers > 0 or not args.restart, "--restart puts the run aside, and --workers 0 "
         "trains no new one; leave out one of them")
    need(args.workers == 0 or can_spawn(worker),
         "Python cannot start workers from here (a profiler, a debugger, a second %run); give "
         "`python run_all.py` by itself, or `python train.py --seed 101`, which starts no other "
         "process")
    return args

# ---------------------------------------------------------------- torchrun

def place_among_processes(args):
    """(which process of torchrun this is, how many there are): 0 of 1 without it."""
    if "RANK" not in os.environ:
        return 0, 1
    rank, size = os.environ["RANK"], os.environ.get("WORLD_SIZE", "")
    need(rank.isdecimal() and size.isdecimal() and int(rank) < int(size),
         f"RANK and WORLD_SIZE are {rank} and {size}, which torchrun does not set; unset them, or "
         "start with torchrun")
    need(size == "1" or not args.restart,
         "--restart and torchrun do not go together; give a new --out")
    return int(rank), int(size)

def wait_for_all(config, out, problems):
    """Wait until each seed is complete or left out, whichever process trains it. Files tell, since
    a barrier of torch.distributed would give up long before a night is over."""
    for seed in problems:  # an error here ends this process, and torchrun then ends the others
        need(why_left_out(seed, out) is not None,
             f"seed {seed} is not complete, so neither is the run")
    for seed in config.seeds:
        while why_left_out(seed, out) is None and not read_complete(config, seed, out):
            time.sleep(3)

# ---------------------------------------------------------------- one process a seed
#
#   this process   start  ->  worker(pipe, config, seed, out)      of seed 101
#                  <- (tokens, row) through its pipe, again and again
#                  <- a sentence, if it gives up
#                  <- the end of the pipe, when the process has ended, for whatever reason
#
# What a seed has learned is in its checkpoint, and nowhere else: so a dead worker is replaced by a
# new one, which goes on from there.

def read_complete(config, seed, out):
    """The last checkpoint of a seed if it is of this run and holds every measurement, or None."""
    saved = read_checkpoint(out / f"seed_{seed}" / "last.pt")
    if is_of(saved, seed, run_sha256(out)) and len(saved["rows"]) == len(config.measured_steps):
        return saved
    return None

def train_all(config, out, seeds, n_workers, show):
    """Train the seeds that are not complete, n_workers at once. Returns {seed: what went wrong}.

    Each seed has a process of its own with one thread, so the result does not depend on how many
    run at once. show(seed, tokens_seen, row) is called with the news of all.
    """
    # Linux's malloc then asks for large pages: 5 % faster with the published model, the same bits.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # read at a process's start
    # Which seeds are to be trained: not those that are complete, nor those that cannot be.
    missing = [seed for seed in seeds if not read_complete(config, seed, out)]
    problems = {seed: why_left_out(seed, out) for seed in missing if why_left_out(seed, out)}
    waiting = [seed for seed in missing if seed not in problems]
    if n_workers == 0:  # nothing is trained: what is there is analysed
        waiting = []
    n_killed = dict.fromkeys(waiting, 0)
    running = {}  # the pipe on which a worker's news come -> (seed, process)
    try:
        while waiting or running:
            # Start as many as may run at once.
            while waiting and len(running) < n_workers:
                seed = waiting.pop(0)
                pipe, process = start(worker, config, seed, out)
                running[pipe] = seed, process
            for pipe, news in hear(running):
                seed, process = running[pipe]
                if news is None:  # its process has ended
                    del running[pipe]
                    process.join()
                    end_if_code_failed(seed, process.exitcode)
                    n_killed[seed] += process.exitcode != 0
                    if process.exitcode and n_killed[seed] < 4:
                        waiting.insert(0, seed)  # it continues from its checkpoint
                    elif process.exitcode:
                        problems[seed] = killed_often(process, n_workers)
                elif isinstance(news, str):
                    problems[seed] = news
                else:
                    show(seed, *news)
    finally:
        # After Ctrl-C or an error: nobody works on, nothing half-written stays.
        end_all(running)
        sweep(out)
    return problems

def end_if_code_failed(seed, exitcode):
    """A worker that ends with 1 met an error in the code, most likely a student's edit: the next
    seed would meet it too, so the whole program ends."""
    if exitcode == 1:
        sys.exit(f"Seed {seed} stopped with the error above (on Windows perhaps it was ended from "
                 "outside), and so does the run.")

def killed_often(process, n_workers):
    """What is said of a seed that is given up."""
    fewer = f"fewer than {n_workers} --workers" if n_workers > 1 else "a smaller model"
    return (f"its process was ended 4 times from outside (exit code {process.exitcode}), most "
            f"likely for want of memory: try {fewer}")

def worker(pipe, config, seed, out):
    """The life of a seed's process: it trains, and sends its news through the pipe."""
    told = 0.0  # when the parent was last told something

    def tell(seed, tokens_seen, row):
        nonlocal told
        if row or time.monotonic() > told + 0.2:  # every step would be too much news
            told = time.monotonic()
            pipe.send((tokens_seen, row))

    try:
        # This process has read the code just now: is it still the one that the run began with?
        different = differences(settings_and_code(config), read_config(out))
        need(not different, f"the run and its code are no longer the same: {different}")
        train_seed(config, seed, Text(**np.load(out / "text.npz")), out, tell)
    # A sentence for the user goes through the pipe. Any other error is printed by Python as it is.
    except (FloatingPointError, InputError, OSError) as error:
        pipe.send(str(error))
    except (MemoryError, RuntimeError) as error:
        # (torch's words for it, on Linux and on Windows.)
        lacks = any(words in str(error) for words in ("allocate memory", "not enough memory"))
        if not isinstance(error, MemoryError) and not lacks:
            raise  # an error in the code
        pipe.send("there is too little memory; try fewer --workers, or a smaller model")

def progress(config, n_ranks):
    """A function of (seed, tokens seen, row or None) that shows the news of all seeds: bars on a
    terminal of our own, else a line a measurement."""
    if n_ranks > 1 or not can_draw(sys.stdout):
        return print_row
    bars = Bars(config.measured_steps[-1] * config.tokens_per_step)

    def show(seed, tokens_seen, row):
        bars.show(f"seed {seed}", tokens_seen, row and row["val_loss"])
    return show

if __name__ == "__main__":
    support.program.run(main)
