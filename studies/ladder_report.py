"""What the rows of the ladder show: tables, claims with intervals, figures, one page.

The second half of studies/ladder.py, apart because it needs no model and no torch. Whatever rows
are there are reported, and what is missing is said:

    python -m studies.ladder --report_only --out results/ladder
"""
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

import stats
from support import page
from support.figures import Line, line_chart
from support.files import write_csv, write_whole

COUNTS = {"as published": "flops_as_published", "as executed": "flops_executed",
          "as needed": "flops_needed"}
MODELS = ["linear", "mlp", "attention", "transformer"]  # of baseline
TRAINED_ON = ["mlp", "linear"]  # to what attention costs
WORD_MODELS = {"ptb": "transformer on ptb", "wikitext-2": "transformer on wikitext-2"}

# ---------------------------------------------------------------- 1. Picking rows
# Rows come from csv files: a record is a dict of column -> text, but for the numbers of a result.

def select(records, **wanted):
    """The records whose columns have these values: select(rows, part="sweep", heads="2")."""
    found = []
    for record in records:
        # (An empty cell of the published table is a 0 in ours.)
        if all((record[name] or "0") == value for name, value in wanted.items()):
            found.append(record)
    return found

def like(record):
    """What tells a published model from the others, to `select` its rows by."""
    columns = ["part", "model", "context", "hidden", "heads", "layers", "positions"]
    return {name: record[name] or "0" for name in columns}

def losses(records):
    """Their test losses, an array with one number a seed."""
    return np.array([record["test_nll"] for record in records], dtype=float)

def mean(values):
    return float(np.mean(values)) if len(values) else math.nan

def sd(values):
    """Over seeds, n - 1; undefined for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

def one_more(values):
    """(low, high): where one more seed lies in 95 of 100 cases, mean -+ t sd sqrt(1 + 1/n).
    Example: 1 2 3: 2 -+ 4.30 * 1.155. Trap: it is wider than an interval of the mean."""
    if len(values) < 2:
        return math.nan, math.nan
    n = len(values)
    reach = scipy_stats.t.isf(0.025, n - 1) * sd(values) * math.sqrt(1 + 1 / n)
    return mean(values) - reach, mean(values) + reach

def nats(x, form=".3f"):
    """A loss for reading; three decimals, since a seed makes a hundredth."""
    return "–" if math.isnan(x) else format(x, form)

def in_words(record):
    """A model in words: "transformer, 3 layers, 4 heads, width 256, context 128"."""
    words = [record["model"]]
    for name, form in (("layers", "{} layers"), ("heads", "{} heads"), ("hidden", "width {}"),
                       ("context", "context {}"), ("positions", "{} positions")):
        if record[name]:
            words.append(form.format(record[name]))
    return ", ".join(words).replace(" 1 layers", " 1 layer").replace(" 1 heads", " 1 head")

# ---------------------------------------------------------------- 2. Loss against cost

def trained_on(rows, points, model):
    """The long runs of a flat model: (windows (m), test losses of the best so far (seeds, m),
    FLOPs (m), windows at the three costs of attention), or None. For these models executed and
    needed are the same."""
    # The long runs are those that were measured at the costs of attention, too.
    runs = [row for row in select(rows, part="beyond", model=model) if row["also_at"]]
    if not runs:
        return None
    # One curve a seed; all were measured after the same numbers of windows, and a window costs
    # the same from the first to the last.
    curves = [select(points, row=run["row"]) for run in runs]
    windows = np.array([point["windows"] for point in curves[0]], dtype=float)
    flops = windows / windows[-1] * runs[0]["flops_executed"]
    budgets = [int(n) for n in runs[0]["also_at"].split()]
    return windows, np.array([losses(curve) for curve in curves]), flops, budgets

def cost_lines(rows, points, part):
    """Lines of a figure: for each count the dots of all models, for each model a line through its
    dots, and where there are any the long runs."""
    # Of each model its rows, one a seed, all of the same cost, and the mean of their test losses.
    runs = {model: select(rows, part=part, model=model) for model in MODELS}
    runs = {model: found for model, found in runs.items() if found}
    height = {model: mean(losses(found)) for model, found in runs.items()}
    lines = []
    # The dots: a colour a count, so that one sees the models change places from count to count.
    for count, column in COUNTS.items():
        x = np.array([found[0][column] for found in runs.values()], dtype=float)
        titles = [f"{model}, {count}" for model in runs]
        lines.append(Line(count, x, np.array(list(height.values())), "dots", titles))
    # The lines: from the cheapest count of a model to the dearest, and its long runs.
    for model, found in runs.items():
        costs = [float(found[0][column]) for column in COUNTS.values()]
        lines.append(Line(model, np.sort(costs), np.full(3, height[model])))
        curve = trained_on(rows, points, model)
        if curve and part == "baseline":
            windows, loss, flops, _ = curve
            late = windows >= 50_000  # before that the loss falls so far that it hides the rest
            name = f"{model}, trained on"
            lines.append(Line(name, flops[late], loss.mean(axis=0)[late], "same"))
    return lines

def cost_table(rows, part):
    """Header and table: of every model its test loss, and what its training costs by each count."""
    table = []
    for model in MODELS:
        found = select(rows, part=part, model=model)
        if found:
            costs = [float(found[0][column]) for column in COUNTS.values()]
            test = losses(found)
            table.append([model, found[0]["parameters"], nats(mean(test)), nats(sd(test)),
                          len(found), *costs])
    return ["model", "parameters", "test loss", "sd", "seeds", *COUNTS], table

# ---------------------------------------------------------------- 3. Published beside ours

def results(rows, published):
    """Header and table: of every published model its test loss, and ours over seeds."""
    table = []
    for record in published:
        ours, theirs = losses(select(rows, **like(record))), float(record["test_nll"])
        # The published loss is one seed's: is it where one more seed of ours would be?
        low, high = one_more(ours)
        inside = ""
        if len(ours) > 1:
            inside = "yes" if low <= theirs <= high else "no"
        table.append([record["part"], in_words(record), nats(theirs), nats(mean(ours)),
                      nats(sd(ours)), len(ours), nats(low), nats(high), inside])
    return ["part", "model", "published", "ours", "sd", "seeds", "one more, from", "to",
            "published inside"], table

def every_position(rows):
    """model -> {batch: its rows} of the runs with a loss at every position."""
    found = {}
    for row in select(rows, part="beyond", every="True"):
        found.setdefault(row["model"], {}).setdefault(int(row["batch_size"]), []).append(row)
    return found

def valid_loss(records):
    """The mean over seeds of the lowest validation loss."""
    return mean([record["valid_nll"] for record in records])

def best_batch(batches):
    """The rows of the batch with the lowest validation loss: the test decides nothing."""
    return min(batches.values(), key=valid_loss, default=[])

def every_table(rows):
    """Header and table: the models with a loss at every position, by the size of their batch."""
    table = []
    for model, batches in every_position(rows).items():
        for batch, found in sorted(batches.items()):
            chosen = "chosen" if found is best_batch(batches) else ""
            test = losses(found)
            table.append([model, batch, nats(valid_loss(found)), nats(mean(test)), nats(sd(test)),
                          len(found), chosen])
    return ["model", "windows a batch", "validation loss", "test loss", "sd", "seeds", ""], table

# ---------------------------------------------------------------- 4. The claims

@dataclass
class Claim:
    words: str  # "first - second": what is compared
    first: np.ndarray  # test losses, one a seed
    second: np.ndarray
    published: float = math.nan  # the published loss of the first minus that of the second

    def verdict(self, test):
        """What the seeds say, in words; test: Welch's of both, or None."""
        if test is None:
            return "not run yet with two seeds"
        if test.low <= 0 <= test.high:
            said = "not decided by these seeds"
        else:
            said = "first better" if test.difference < 0 else "second better"
            if not math.isnan(self.published):
                agree = (test.difference < 0) == (self.published < 0)
                said += ", as published" if agree else ", against what was published"
        # Each published loss comes from one seed. Single runs of two models that are equally good
        # differ, in 95 of 100 cases, by up to 1.96 standard deviations of such a difference, or t
        # of them, which is more, where few seeds tell what a standard deviation is.
        chance = scipy_stats.t.isf(0.025, test.df) * math.hypot(sd(self.first), sd(self.second))
        if abs(self.published) < chance:
            said += f"; the published difference is smaller than what seeds make (±{chance:.3f})"
        return said

    def row(self):
        """The claim as a row of a table: what was published, ours with its interval, a verdict."""
        enough = min(len(self.first), len(self.second)) > 1
        # (Not as pairs, though both may have the same seeds: other models draw other numbers from
        # a seed. With pairs the verdicts on sweeps and positions are the same.)
        test = stats.welch(self.first, self.second) if enough else None
        numbers = [test.difference, test.low, test.high] if test else [math.nan] * 3
        p = page.p_text(test.p) if test else ""
        return [self.words, nats(self.published, "+.3f"), *[nats(x, "+.3f") for x in numbers], p,
                self.verdict(test)]

def claim_table(rows, points, published):
    """Header and table: every claim of the published study that a difference of losses can test."""
    claims = cost_claims(rows, points, published) + sweep_claims(rows, published)
    header = ["first - second", "published", "ours", "95 % from", "to", "p", "verdict"]
    return header, [claim.row() for claim in claims]

def compare(words, rows, published, first, second):
    """A Claim of the published tables; first, second: what to `select` the two models by."""
    theirs = [float(select(published, **side)[0]["test_nll"]) for side in (first, second)]
    ours = [losses(select(rows, **side)) for side in (first, second)]
    return Claim(words, ours[0], ours[1], theirs[0] - theirs[1])

def cost_claims(rows, points, published):
    """Is attention ahead, at which cost, counted how, and trained how?"""
    attention = {"part": "baseline", "model": "attention"}
    mlp = {"part": "baseline", "model": "mlp"}
    # First the published protocol, whatever it cost.
    claims = [compare("attention - mlp, as they were run", rows, published, attention, mlp)]
    # Then the flat models, trained on to what attention costs by each count.
    for model in TRAINED_ON:
        curve = trained_on(rows, points, model)
        for count, loss in zip(("as published", "as needed", "as executed"), at_budgets(curve)):
            claims.append(Claim(f"attention - {model} at what attention costs {count}",
                                losses(select(rows, **attention)), loss))
    # Last, with a loss at every position, as transformers usually have it, at one cost.
    every = every_position(rows)
    for first, second in (("attention", "mlp"), ("attention", "linear"),
                          ("transformer", "attention")):
        claims.append(Claim(f"{first} - {second}, a loss at every position, 1e13 FLOPs each",
                            losses(best_batch(every.get(first, {}))),
                            losses(best_batch(every.get(second, {})))))
    return claims

def at_budgets(curve):
    """The test losses (seeds) of a flat model at the three costs of attention, in the order in
    which studies/ladder.py writes them; empty ones without a long run."""
    if curve is None:
        return [[], [], []]
    windows, loss, _, budgets = curve
    return [loss[:, windows == budget].ravel() for budget in budgets]

def sweep_claims(rows, published):
    """More layers, more heads, more context; rotary positions for learned ones."""
    claims = []
    for model, column, unit, values in (("transformer", "layers", "layers", ["2", "3", "4"]),
                                        ("mlp", "hidden", "hidden units", ["128", "256", "512"]),
                                        ("attention", "heads", "heads", ["1", "2", "4"]),
                                        ("linear", "context", "characters", ["32", "64", "128"])):
        # Each step, and both at once.
        for more, less in ((1, 0), (2, 1), (2, 0)):
            words = f"{model}: {values[more]} - {values[less]} {unit}"
            first = {"part": "sweep", "model": model, column: values[more]}
            claims.append(compare(words, rows, published, first, first | {column: values[less]}))
    rotary = {"part": "positions", "positions": "rotary"}
    learned = {"part": "positions", "positions": "learned"}
    return claims + [compare("rotary - learned positions", rows, published, rotary, learned)]

# ---------------------------------------------------------------- 5. Words, epoch by epoch

def word_lines(rows, points, epochs):
    """Validation loss over the epochs, ours (mean over seeds) and published, if ours is there."""
    lines = []
    for corpus, model in WORD_MODELS.items():
        runs = select(rows, part="words", model=model)
        if runs:
            # One curve a seed, and their mean.
            curves = []
            for run in runs:
                curves.append([point["valid_nll"] for point in select(points, row=run["row"])])
            ours = np.mean(curves, axis=0)
            theirs = [float(record["valid_nll"]) for record in select(epochs, model=model)]
            lines.append(Line(f"{corpus}, ours", np.arange(1, len(ours) + 1), ours))
            lines.append(Line(f"{corpus}, published", np.arange(1, 9), np.array(theirs), "same"))
    return lines

def where_it_turns(line):
    """A sentence: the first study's question, asked of words."""
    turn = int(np.argmin(line.y))
    return (f"{line.name}: validation loss is lowest after epoch {turn + 1}, {line.y[turn]:.3f} "
            f"nats a word, and {line.y[-1] - line.y[turn]:.2f} higher after epoch {len(line.y)}.")

# ---------------------------------------------------------------- 6. The page

LEFT_OUT = ("The small version left out: Tiny Shakespeare (it reads the project's own stories), "
            "contexts of 128 characters (it has 64), nine of ten training windows, 8,000 of 10,000 "
            "test windows, two of five seeds, the sweeps, positions, words, and what is beyond. "
            "Its models are far from trained: look at the costs, not at the ranks.")

def write_report(out, rows, points, published, epochs, expected):
    """Write all tables and figures that the rows allow, and print what they say.

    rows, points: the records of rows.csv and points.csv; published, epochs: those of the published
    tables; expected: part -> the number of its rows when it is complete.
    """
    # What is missing comes first.
    lacking = []
    for part, n in expected.items():
        found = len(select(rows, part=part))
        if found < n:
            lacking.append(f"{part}: {found} of {n} rows")
    lead = ["Not complete: " + ", ".join(lacking) + "."] if lacking else []
    part = "small" if "small" in expected else "baseline"
    if part == "small":
        lead.append(LEFT_OUT)
    # Of the small version there is this figure with its table, and no more.
    sections = {}
    header, table = cost_table(rows, part)
    if table:
        drawing = line_chart(cost_lines(rows, points, part), "FLOPs of the whole training",
                             "test loss (nats)", log_x=True)
        write_whole(out / "nll_by_flops.svg", drawing)
        caption = ("A horizontal line is one model, its dots are three counts of one training; "
                   "a falling line is a flat model trained on. "
                   "Which model is the cheaper one depends on the count.")
        note = ("FLOPs of the whole training: by the published formula; by the matrix products "
                "that the published code executes; by those that the last position needs.")
        sections["Loss and three counts of its cost"] = (
            page.figure(drawing, caption) + page.table(header, table, note))
        print_table(header, table)
    if select(rows, part="small") != rows:
        add_tables(out, rows, points, published, sections)
        add_words(out, word_lines(rows, points, epochs), sections)
    print("\n".join(lead))
    page.write_page(out / "report.html", "The second study, as it was really run", sections,
                    page.paragraphs(*lead))

def add_tables(out, rows, points, published, sections):
    """The three tables of the study itself: csv files, sections of the page, and printed."""
    for name, heading, (header, table), note in (
            ("results", "Published beside ours", results(rows, published),
             "Test loss in nats a token. Published: one seed. Ours: mean and sd over seeds, and "
             "where one more seed of ours would lie in 95 of 100 cases."),
            ("claims", "The claims", claim_table(rows, points, published),
             "Differences of test loss in nats, negative where the first is better; 95 % interval "
             "and p over seeds (Welch), each for itself. At what attention costs: trained on until "
             "the named count is equal; the test loss of the best validation loss so far."),
            ("every_position", "With a loss at every position", every_table(rows),
             "1e13 executed FLOPs each. A transformer gets 128 predictions of a window for the "
             "price of one, a flat model pays for each. Tested on the token after a window.")):
        if table:
            write_csv(out / f"{name}.csv", header, table)
            sections[heading] = page.table(header, table, note)
            print_table(header, table)

def add_words(out, lines, sections):
    if lines:
        drawing = line_chart(lines, "epochs of 79,935 windows", "validation loss (nats a word)")
        write_whole(out / "words.svg", drawing)
        turns = [where_it_turns(line) for line in lines]
        sections["Words"] = page.figure(drawing, "Validation loss by words.") + page.listing(turns)
        print("\n".join(turns))

def shown(cell):
    """A cell as text: words as they are, four digits of a number."""
    return cell if isinstance(cell, str) else f"{cell:,.4g}"

def print_table(header, table):
    """A table on the terminal, columns as wide as their widest cell."""
    lines = [header]
    for row in table:
        lines.append(list(map(shown, row)))
    widths = []
    for column in zip(*lines):
        widths.append(max(map(len, column)))
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths)]
        print("  ".join(cells).rstrip())
    print()
