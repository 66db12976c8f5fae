"""How fast is a training step, and how fast could it be?

A step is mostly matrix products. This machine makes so many of them a second and no more: alone,
they take the least time that a step can take. So there are three numbers to compare, all of them
with the published model and in one run, on this machine:

    matrix products   those of one training step, nothing else: the ceiling
    this loop         train.train_step, as the study trains
    published loop    2 windows at once, attention written out, the optimizer in single operations

    python -m studies.speed                       a minute and a half
    python -m studies.speed --json                the same as data
    python -m studies.speed --against FOLDER      is a step here as fast as in another copy of the
                                                  project, an older commit, say? As exact?

The cases take turns, and a share is the median over the rounds of what each round says, so that
whatever else the machine does hits all of them alike.
"""
if __name__ == "__main__":  # so that `python studies/speed.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support.program
import contextlib, importlib, json, multiprocessing, signal, sys, time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from support.files import InputError, need
from support.workers import can_spawn

HERE = Path(__file__).resolve().parents[1]
PRODUCTS, LOOP, PUBLISHED = "matrix products", "this loop", "published loop"

# ---------------------------------------------------------------- what is timed

def matrix_products(config, shapes):
    """A function that makes the matrix products of one training step, and nothing else.

    shapes: (outputs, inputs) of each weight matrix; that of the embedding makes the scores. Each
    product has operands of its own, as in a step: what does not fit the cache comes from memory.
    """
    import torch  # here: a process of another folder imports it in its own time

    B, T, D = config.micro_batch_size, config.block_size, config.n_embd // config.n_head
    products = []  # (left, right, where to put the result)
    # A layer y = x W^T has three: y, and from g, the gradient of y, those of x and of W.
    for m, n in shapes:
        x, for_x = torch.randn(2, B * T, n).unbind()  # activations going in, their gradient
        w, for_w = torch.randn(2, m, n).unbind()
        y, g = torch.randn(2, B * T, m).unbind()
        products.append((x, w.T, y))
        products.append((g, w, for_x))
        products.append((g.T, x, for_w))
    # Attention multiplies q with k and the result with v: once forward, twice as much backward.
    for _ in range(3 * config.n_layer):
        q, for_q = torch.randn(2, B * config.n_head, T, D).unbind()
        scores, for_scores = torch.randn(2, B * config.n_head, T, T).unbind()
        products.append((q, q.mT, for_scores))
        products.append((scores, q, for_q))

    def step():
        # All windows of a step pass by, B at a time; operands are the same, numbers do not matter.
        for _ in range(config.batch_size // B):
            for left, right, result in products:
                torch.matmul(left, right, out=result)

    return step

def loops_of(folder):
    """(name -> a function that makes one step, tokens of a step), of the project in `folder`.

    Uses only names that every copy of the project has had; what ours alone has, ours alone does.
    """
    # What is loaded already, support/ say, makes room for the modules of the folder.
    theirs = {path.stem for path in Path(folder).glob("*.py")} | {"support", "data"}
    for name in list(sys.modules):
        if name.split(".")[0] in theirs:
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    train, model = importlib.import_module("train"), importlib.import_module("model")
    import torch

    # The same weights and windows in every copy, so that their losses can be compared.
    train.one_thread()
    config = train.StudyConfig(**train.PRESETS["paper"])
    torch.manual_seed(0)
    windows = config.tokens_per_step // config.block_size
    x, y = torch.randint(config.vocab_size, (2, windows, config.block_size))
    network = model.Llama(config.model)
    optimizer = train.make_optimizer(network, config)
    loops = {LOOP: partial(train.train_step, network, optimizer, x, y, 1e-4, config)}
    if Path(folder).resolve() == HERE:
        shapes = [p.shape for p in network.parameters() if p.dim() == 2]  # (norms have vectors)
        loops[PRODUCTS] = matrix_products(config, shapes)
        loops[PUBLISHED] = published_loop(config, x, y)
    return loops, config.tokens_per_step

def published_loop(config, x, y):
    """A function that makes one step as the published study does, by today's names."""
    import model, torch, train

    by_twos = replace(config, micro_batch_size=2)
    network = model.Llama(config.model)
    # (Not fused: an operation for each line of the formula, and for each parameter.)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    kernel = torch.nn.functional.scaled_dot_product_attention

    def step():
        # The model calls the kernel by this name; for one step it gets the formula instead.
        torch.nn.functional.scaled_dot_product_attention = model.attention
        try:
            train.train_step(network, optimizer, x, y, 1e-4, by_twos)
        finally:
            torch.nn.functional.scaled_dot_product_attention = kernel

    return step

def worker(pipe, folder):
    """The life of a process: asked for (what, threads, seconds), it makes steps for so long and
    answers (tokens a second, loss of the first step), until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this
    loops, tokens = loops_of(folder)
    import torch

    with contextlib.suppress(EOFError, OSError):
        while True:
            what, threads, seconds = pipe.recv()
            torch.set_num_threads(threads)
            # At least one step, however short the time.
            started, results = time.perf_counter(), []
            while not results or time.perf_counter() < started + seconds:
                results.append(loops[what]())
            elapsed = time.perf_counter() - started
            loss = results[0][0] if what == LOOP else None
            pipe.send((len(results) * tokens / elapsed, loss))

# ---------------------------------------------------------------- taking turns

def start_workers(folders):
    """A process for each folder; returns our ends of the pipes to them."""
    need(can_spawn(worker), "Python cannot start processes from here (a profiler, "
         "a debugger, a second %run); give `python -m studies.speed` by itself")
    context, pipes = multiprocessing.get_context("spawn"), []
    for folder in folders:
        ours, theirs = context.Pipe()
        context.Process(target=worker, args=(theirs, folder), daemon=True).start()
        theirs.close()  # so that the end of the process is the end of the pipe
        pipes.append(ours)
    return pipes

def ask(pipes, what, threads, seconds):
    """(tokens a second of all these processes together, loss of the first one's first step)."""
    try:
        for pipe in pipes:
            pipe.send((what, threads, seconds))
        answers = [pipe.recv() for pipe in pipes]
    except (EOFError, OSError):
        raise InputError("a process of the measurement has failed, or was ended (what it said "
                         "stands above); start it again") from None
    return sum(speed for speed, _ in answers), answers[0][1]

def ceiling(n_cores, flops_per_token, rounds, seconds):
    """A row a case: its speed, and its share of what as many cores can do in matrix products."""
    cases = [(PRODUCTS, 1, 1), (LOOP, 1, 1), (PUBLISHED, 1, n_cores),
             (PRODUCTS, n_cores, 1), (LOOP, n_cores, 1)]
    cases = list(dict.fromkeys(cases))  # (on one core the last two are the first two)
    pipes = start_workers([HERE] * n_cores)
    speeds = {case: [] for case in cases}
    # Round by round, not case by case: a machine that slows down meanwhile slows all cases.
    for i in range(rounds):
        for what, workers, threads in cases:
            print(f"round {i + 1} of {rounds}: {what}", file=sys.stderr)
            ask(pipes[:workers], what, threads, 0)  # a step to warm up, then the measurement
            speed, _ = ask(pipes[:workers], what, threads, seconds)
            speeds[what, workers, threads].append(speed)
    rows = []
    for (what, workers, threads), speed in speeds.items():
        # The ceiling is that of as many cores: one process on each, with one thread.
        most = speeds[PRODUCTS, max(workers, threads), 1]
        tokens = float(np.median(speed))
        share = float(np.median(np.divide(speed, most)))
        rows.append({"what": what, "workers": workers, "threads": threads,
                     "tokens_per_second": round(tokens),
                     "gflop_per_second": round(tokens * flops_per_token / 1e9, 1),
                     "share_of_ceiling": round(share, 3)})
    return rows

def against(folder, rounds, seconds):
    """A dict: both speeds, ours over theirs in each round, and whether the losses are the same."""
    folder = Path(folder).resolve()
    need((folder / "train.py").is_file(), f"{folder} holds no train.py, so no copy of the project")
    ours, theirs = start_workers([HERE, folder])
    # Two steps each, to warm up and to compare: the second loss is that of the changed weights.
    first = [ask([pipe], LOOP, 1, 0)[1] for pipe in (ours, theirs)]
    second = [ask([pipe], LOOP, 1, 0)[1] for pipe in (ours, theirs)]
    speeds = []
    for i in range(rounds):
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
        pair = {pipe: ask([pipe], LOOP, 1, seconds)[0] for pipe in pairing(ours, theirs, i)}
        speeds.append((pair[ours], pair[theirs]))
    ratios = [a / b for a, b in speeds]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).round(3).tolist()
    a, b = np.median(speeds, axis=0).round().astype(int).tolist()
    return {"here": a, "there": b, "ratio": middle, "lower_quartile": low, "upper_quartile": high,
            "same_losses": first[0] == first[1] and second[0] == second[1]}

def pairing(one, two, i):
    """Who goes first changes from round to round, so that a clock that slows hits both."""
    return (one, two) if i % 2 == 0 else (two, one)

# ---------------------------------------------------------------- the command line

def main():
    parser = support.program.Parser(description="How fast a step of the published model is.")
    parser.add_argument("--against", metavar="FOLDER", help="another copy of the project")
    parser.add_argument("--json", action="store_true", help="print data for another program")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each case (default 6)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each (default 1.5)")
    args = parser.parse_args()
    need(args.rounds > 0 and 0 <= args.seconds < 1e6, "--rounds and --seconds must be positive")
    if args.against:
        found = against(args.against, args.rounds, args.seconds)
        same = "the same to the last bit" if found["same_losses"] else "not the same"
        lines = [f"Tokens a second: here {found['here']:,d}, there {found['there']:,d}.",
                 f"Here over there, median of the rounds: {found['ratio']} (quartiles "
                 f"{found['lower_quartile']} to {found['upper_quartile']}).",
                 f"The losses of the first two steps are {same}."]
    else:
        from model import ModelConfig, training_flops_per_token
        flops_per_token = training_flops_per_token(ModelConfig())  # of the published model
        found = ceiling(support.program.cores(), flops_per_token, args.rounds, args.seconds)
        lines = []
        for row in found:
            lines.append(f"{row['what']:16s}{row['workers']:3d} process(es) x{row['threads']:3d} "
                         f"thread(s){row['tokens_per_second']:8,d} tokens/s"
                         f"{row['gflop_per_second']:8.1f} GFLOP/s{row['share_of_ceiling']:8.1%}")
        lines.append("The share: of the matrix products alone on as many cores.")
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines))

if __name__ == "__main__":
    support.program.run(main)
