"""What makes the runs of the ladder survive: rows, checkpoints, one process a row, command line.

The part of studies/ladder.py that nobody needs to read the first time. Each model and seed that is
trained is a row of a table; the same command goes on with what is missing, from the last finished
epoch of what was under way, and the losses are to the last bit those of runs never interrupted.
"""
import support.program  # first: from here on Ctrl-C prints no traceback

import ast, hashlib, io, math, os, pickle, sys, time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from studies import ladder, ladder_report
from studies.ladder import FEWER, PARTS, PUBLISHED, PUBLISHED_EPOCHS, SEEDS, Rung, rungs_of
from support.files import InputError, code_text, need, read_records, sweep, write_csv, write_whole
from support.workers import can_spawn, end_all, hear, start

# ---------------------------------------------------------------- 1. Rows
# A row says everything that decides its result, then the result. Whatever a rung has as a field is
# a column, so that a csv tells on its own what was trained.
RESULTS = ["parameters", "flops_as_published", "flops_executed", "flops_needed", "best_at",
           "train_nll", "valid_nll", "test_nll", "seconds"]
ROW_FIELDS = ["row", *[field.name for field in fields(Rung)], "seed", "code", "text_sha256",
              *RESULTS]
POINT_FIELDS = ["row", "windows", "train_nll", "valid_nll", "test_nll"]
ANEW = "give --out another name"

@dataclass(frozen=True)
class Job:
    rung: Rung
    seed: int

    def row(self):
        """The row's name, also that of its checkpoint."""
        rung = self.rung
        loss = "every" if rung.every else "last"
        parts = [rung.part, rung.model.replace(" ", "_"), rung.context, rung.hidden, rung.heads,
                 rung.layers, rung.positions or "none", rung.batch_size, loss, self.seed]
        return "-".join(str(part) for part in parts)

    def cells(self):
        """The fields of its rung as they stand in the csv: column -> text."""
        cells = {name: str(value) for name, value in asdict(self.rung).items()}
        return cells | {"also_at": " ".join(str(n) for n in self.rung.also_at)}

def code_identity():
    """16 hex digits of the code between the KEEP lines; comments and docstrings do not count."""
    source = Path(ladder.__file__).read_text(encoding="utf-8")
    inside = source.split("# KEEP: from this line")[1].split("# KEEP: up to here")[0]
    lines = inside.partition("\n")[2].split("\n")
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            for row in range(node.body[0].lineno, node.body[0].end_lineno + 1):
                lines[row - 1] = ""
    return hashlib.sha256(code_text("\n".join(lines)).encode("utf-8")).hexdigest()[:16]

class Rows:
    """The two tables of a folder, each written whole: rows.csv, a line for each model and seed
    that is trained; points.csv, a line for each time that one of these was measured."""

    def __init__(self, out):
        self.path, self.points_path = out / "rows.csv", out / "points.csv"
        self.rows = read_numbers(self.path, ROW_FIELDS, ["seed", *RESULTS])
        self.points = read_numbers(self.points_path, POINT_FIELDS, POINT_FIELDS[1:])
        measured = {point["row"] for point in self.points}
        for record in self.rows:
            need(math.isfinite(record["test_nll"]) and record["row"] in measured,
                 f"{self.path}: {record['row']} has no test loss or no points in points.csv; "
                 "remove it, and it will be trained again")
        names = [record["row"] for record in self.rows]
        need(len(set(names)) == len(names), f"{self.path} has a row twice; remove one")

    def missing(self, jobs, texts):
        """The jobs without a row. InputError if there are rows of another text or other code."""
        found, code = {record["row"]: record for record in self.rows}, code_identity()
        for record in self.rows:
            need(record["code"] == code, f"{self.path} was made by other code (models, "
                 f"protocol or loop of studies/ladder.py); {ANEW}")
            text = texts.get(record["text"])
            need(text is None or text.sha256 == record["text_sha256"],
                 f"{self.path} has rows of another text called {record['text']}; {ANEW}")
        for job in jobs:
            record = found.get(job.row(), {})
            for name, cell in job.cells().items():
                need(record.get(name, cell) == cell,
                     f"{self.path}: {job.row()} has another {name}; {ANEW}")
        return [job for job in jobs if job.row() not in found]

    def add(self, job, text, points, seconds):
        """Write the row of a finished job, and before it its points: a row has them all."""
        name, rung, vocab_size = job.row(), job.rung, text.vocab_size
        # (A power cut between the two files leaves points without their row: they come anew.)
        self.points = [point for point in self.points if point["row"] != name]
        self.points += [{"row": name, **point} for point in points]
        # The result is the test loss of the weights that did best on the validation text.
        best = min(points, key=lambda point: point["valid_nll"])
        windows, parameters = rung.windows(), ladder.count_parameters(rung, vocab_size)
        self.rows.append(job.cells() | {
            "row": name, "seed": job.seed, "code": code_identity(), "text_sha256": text.sha256,
            "parameters": parameters,
            "flops_as_published": ladder.flops_published(rung, parameters),
            "flops_executed": windows * ladder.flops_window(rung, vocab_size, needed=False),
            "flops_needed": windows * ladder.flops_window(rung, vocab_size, needed=True),
            "best_at": best["windows"], "train_nll": best["train_nll"],
            "valid_nll": best["valid_nll"], "test_nll": points[-1]["test_nll"],
            "seconds": round(seconds, 1)})
        write_records(self.points_path, POINT_FIELDS, self.points)
        write_records(self.path, ROW_FIELDS, self.rows)

def write_records(path, columns, records):
    """A csv file of dicts, by write_whole."""
    cells = []
    for record in records:
        cells.append([record[column] for column in columns])
    write_csv(path, columns, cells)

def read_numbers(path, columns, numbers):
    """The records of a table, [] if there is none; InputError says which row is damaged."""
    records = read_records(path) if path.exists() else []
    for n, record in enumerate(records, 1):
        damaged = f"{path}, row {n} below the header, is damaged; remove it, or the file"
        need(list(record) == columns, damaged)
        try:
            for column in numbers:
                # An empty cell is what was not measured; a seed is 101, not 101.0.
                cell = record[column] or "nan"
                record[column] = int(cell) if cell.isdigit() else float(cell)
        except ValueError:
            raise InputError(damaged) from None
    return records

# ---------------------------------------------------------------- 2. One process a row

def work_on(pipe, job, text, checkpoint):
    """A worker: train one job from its last finished epoch and tell the parent through a pipe:
    ("windows", n) twice a second, ("point", point), ("done", (points, seconds)) or ("failed",
    sentence)."""
    torch.set_num_threads(1)
    try:
        pipe.send(("done", run_job(job, text, checkpoint, pipe)))
    except (InputError, OSError) as error:
        pipe.send(("failed", str(error)))

def run_job(job, text, checkpoint, pipe):
    """(points, seconds) of a job, from its checkpoint if there is one."""
    # What was begun by other code or on another text is not continued.
    identity = f"{job} {code_identity()} {text.sha256}"
    state = read_checkpoint(checkpoint, identity)
    windows = state["points"][-1]["windows"] if state else 0
    begin, told = time.perf_counter(), 0.0
    if state:
        begin -= state["seconds"]  # what earlier processes have spent on it counts, too

    def tick(n):
        nonlocal windows, told
        windows += n
        # Every step would be too much news.
        if time.perf_counter() - told > 0.5:
            told = time.perf_counter()
            pipe.send(("windows", windows))

    def save(state):
        need(math.isfinite(state["points"][-1]["valid_nll"]),
             f"the validation loss of {job.row()} is no number; nothing of it is kept")
        # A checkpoint is whole or absent: a kill while it is written leaves the one before.
        content = io.BytesIO()
        more = {"identity": identity, "seconds": time.perf_counter() - begin}
        torch.save(state | more, content)
        write_whole(checkpoint, content.getvalue())
        pipe.send(("point", state["points"][-1]))

    points = ladder.train(job.rung, job.seed, text, state, save, tick)
    return points, time.perf_counter() - begin

def read_checkpoint(path, identity):
    """What was saved at `path`, or None. InputError if it is damaged or of something else."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
        found = state["identity"]
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
        raise InputError(f"{path} is damaged; remove it, and its row begins anew") from None
    need(found == identity, f"{path} is of another text or other code; remove it, or {ANEW}")
    return state

class Progress:
    """What share of the work is done, and how long the rest will take at this pace."""

    def __init__(self, jobs, texts):
        self.work = {job: ladder.work(job.rung, texts[job.rung.text].vocab_size) for job in jobs}
        self.done = dict.fromkeys(jobs, 0.0)  # in the unit of `work`
        self.before = {}  # with how much of it a job began, from its checkpoint
        self.begin = time.perf_counter()

    def windows(self, job, n):
        self.done[job] = self.work[job] * n / job.rung.windows()
        self.before.setdefault(job, self.done[job])

    def line(self):
        total, done = sum(self.work.values()), sum(self.done.values())
        # Of the pace only what was done since this program began.
        pace = (done - sum(self.before.values())) / (time.perf_counter() - self.begin)
        left = f"{(total - done) / pace / 60:,.1f} minutes" if pace > 0 else "?"
        return f"{done / total:4.0%} done, {left} left"

def run_jobs(jobs, texts, rows, workers):
    """Train all jobs, `workers` at a time, each in a process of its own; a row for each."""
    need(can_spawn(work_on), "Python cannot start processes from here (a debugger, a second %run); "
         "give `python -m studies.ladder` by itself")
    progress = Progress(jobs, texts)
    waiting, running = list(jobs), {}  # running: the pipe of a worker -> (job, process)
    try:
        while waiting or running:
            # A process for each core that is free.
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                pipe, process = start(work_on, job, texts[job.rung.text], checkpoint_of(job, rows))
                running[pipe] = job, process
            # Sleep until one of them has something to tell.
            for pipe, news in hear(running):
                job, process = running[pipe]
                if news is None:
                    process.join()
                    need(process.exitcode != 1, f"{job.row()} stopped with the error above")
                if take(news, job, texts, rows, progress):
                    process.join()
                    del running[pipe]
            if support.program.is_terminal(sys.stderr):
                print(f"{progress.line():40}", end="\r", file=sys.stderr, flush=True)
    finally:
        end_all(running)  # what they have saved they find again

def checkpoint_of(job, rows):
    return rows.path.parent / "checkpoints" / f"{job.row()}.pt"

def take(news, job, texts, rows, progress):
    """Take the news of a worker, None if it has ended. Whether its job is finished."""
    need(news is not None, f"the worker of {job.row()} ended without a result, perhaps for lack of "
         "memory; the same command goes on")
    kind, content = news
    need(kind != "failed", content)
    if kind == "windows":
        progress.windows(job, content)
    elif kind == "point":
        progress.windows(job, content["windows"])
        print(f"{job.row()}: {content['windows']:,} windows, training {content['train_nll']:.4f}, "
              f"validation {content['valid_nll']:.4f}; {progress.line()}", flush=True)
    else:
        points, seconds = content
        rows.add(job, texts[job.rung.text], points, seconds)
        checkpoint_of(job, rows).unlink(missing_ok=True)
        print(f"{job.row()}: test {points[-1]['test_nll']:.4f}", flush=True)
    return kind == "done"

# ---------------------------------------------------------------- 3. The command line

def settings():
    """What the command line asks for. InputError or exit status 2, one sentence, if it is wrong."""
    parser = support.program.Parser(prog="ladder.py", description="the second study's ladder")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="of the published study, or "
                        "beyond it; without any: a small version of baseline, embedded stories")
    parser.add_argument("--seeds", nargs="+", type=int, help="baseline and sweep: 101 202 303 404 "
                        "505; the others the first three of them")
    parser.add_argument("--text", type=Path, help="folder with tinyshakespeare.txt, ptb/ and "
                        "wikitext-2/; without it they are downloaded")
    parser.add_argument("--out", type=Path, help="folder for rows, tables and figures; "
                        "runs/ladder, or runs/ladder_small")
    parser.add_argument("--workers", type=int, default=support.program.cores(), help="as many "
                        "as cores")
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    args = parser.parse_args()
    # (Apart, since both versions draw figures of one name.)
    published = args.part or args.report_only
    args.out = args.out or Path("runs/ladder" if published else "runs/ladder_small")
    for name in ("part", "seeds"):
        given = getattr(args, name) or []
        need(len(set(given)) == len(given), f"--{name}: one is given twice; name each once")
    need(all(0 <= seed < 2**63 for seed in args.seeds or []), "--seeds: whole numbers from 0 on")
    need(args.workers >= 1, "--workers: at least 1")
    return args

def jobs_of(part, seeds, vocab_size=65):
    """Every rung and seed of a part, seed by seed, so that early rows make whole tables."""
    seeds = seeds or (SEEDS if part in ("baseline", "sweep") else FEWER)
    return [Job(rung, seed) for seed in seeds for rung in rungs_of(part, vocab_size)]

def train_missing(parts, args, rows):
    """Train what `rows` lack of these parts."""
    # The texts that these parts need, each read once.
    names = sorted({rung.text for part in parts for rung in rungs_of(part)})
    texts = {name: ladder.load_text(name, args.text) for name in names}
    shakespeare = texts.get("tinyshakespeare")
    jobs = []
    for part in parts:
        jobs += jobs_of(part, args.seeds, shakespeare.vocab_size if shakespeare else 65)
    # All mistakes are found before anything is written: an hour later nobody looks.
    for job in jobs:
        ladder.check_text(texts[job.rung.text], job.rung)
    missing = rows.missing(jobs, texts)
    checkpoint_of(jobs[0], rows).parent.mkdir(parents=True, exist_ok=True)
    sweep(args.out)
    run_jobs(missing, texts, rows, args.workers)

def main():
    args = settings()
    parts, rows = args.part or ["small"], Rows(args.out)
    if args.report_only:
        # What is there decides what is complete: the small version, or all published parts.
        need(rows.rows, f"{args.out} has no rows yet; leave out --report_only to make some")
        small = ladder_report.select(rows.rows, part="small") == rows.rows
        parts = args.part or (["small"] if small else PARTS)
    else:
        train_missing(parts, args, rows)
    expected = {part: len(jobs_of(part, args.seeds)) for part in parts}
    ladder_report.write_report(args.out, rows.rows, rows.points, read_records(PUBLISHED),
                               read_records(PUBLISHED_EPOCHS), expected)
    print(f"{args.out / 'report.html'} has the tables and figures")
