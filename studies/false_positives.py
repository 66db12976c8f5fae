"""How often do the tests reject where nothing happens?

A p value keeps its promise of 5 % only for data as the test assumes them. The seeds of a study
share the order of the text and the validation windows, and neighbours in time are alike: they are
not independent subjects. So make studies in which nothing happens, but whose noise is like that of
a real one, hand them to the tests, and count. What exceeds 5 % are false alarms.

    python -m studies.false_positives                      like the published study (three seconds)
    python -m studies.false_positives results/paper results/classroom --out results/paper

It prints how the noise of each study looks, and a table; --out writes false_positives.csv too.
telemetry.py has the noise of a run (`noise_of`) and the studies that go nowhere (`flat_curves`).
"""
if __name__ == "__main__":  # so that `python studies/false_positives.py` finds the chapters too
    import os, sys
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support.program
import math
from pathlib import Path

import numpy as np

import stats
import telemetry
from support.files import need, write_csv
from support.page import number

DESCENT = 6  # the first interval whose five changes leave the first one, the descent, out

# ---------------------------------------------------------------- how often each test rejects

def volatility_rejects(losses):
    """Shares of the studies, losses (n_studies, n, k), whose anova finds that volatility differs
    between intervals, from DESCENT on: [uncorrected, Greenhouse-Geisser, Huynh-Feldt]."""
    volatility = telemetry.derive(losses)["volatility"]  # (n_studies, n, k)
    return stats.rejection_rates(volatility[..., DESCENT:])

def seeds_reject(phi, shape):
    """The same shares for a difference between seeds, in noise that correlates phi in time.

    Turned about, seeds are the levels and intervals the subjects, and F is that of the seeds.
    """
    losses = stats.ar1(np.random.default_rng(2), shape, phi)
    return stats.rejection_rates(np.swapaxes(losses, -1, -2))

def seed_noise(run):
    """The phi in time of what each seed has of its own, at least.

    Its mean is taken off, too, which is too much where nothing sets seeds apart: then the truth
    is higher.
    """
    # What all seeds do at an interval is no difference between them.
    own = run.loss - run.loss.mean(axis=0)
    return telemetry.over_time(own - own.mean(axis=1, keepdims=True))

def rates(run, n_studies=1000):
    """Rows (test, noise, share uncorrected, with Greenhouse-Geisser, with Huynh-Feldt).

    The first rows are the published tests, asked of studies without any effect; then come the
    tests of H01 and H03 as telemetry.py has them, of H01's its power as well.
    """
    # Two kinds of studies without any effect: like this one ...
    noise = telemetry.noise_of(run)
    here = f"seeds alike as here ({noise.between_seeds:.2f})"
    like = telemetry.flat_studies(run, n_studies)
    # ... and with seeds that share nothing, as the tests assume.
    noise.between_seeds = 0.0
    independent = telemetry.flat_curves(np.random.default_rng(1), noise, like.shape)
    kinds = {here: like, "seeds independent": independent}

    rows = []
    # The published question: does volatility differ between intervals?
    for what, losses in kinds.items():
        rows.append(["volatility differs", what, *volatility_rejects(losses)])
    # The published description of seeds, were it a test: do their curves differ in height?
    phi = seed_noise(run)
    rows.append(["seeds differ", f"alike over time ({phi:.2f})", *seeds_reject(phi, like.shape)])
    # Ours of H01, which has one p and so one rate. With noise that truly grows, the share of the
    # studies in which it is found is no false alarm but the power of the test.
    if run.after_minimum().shape[1] >= telemetry.MIN_CHANGES and len(run.loss) >= 3:
        for factor, what in ((1, here), (2, "noise doubles: power")):
            found = telemetry.halves_found(run, factor, n_studies)
            rows.append(["H01: halves differ", what, found, math.nan, math.nan])
    # A part of ours of H03, which for this reason asks for more than the t test.
    for what, losses in kinds.items():
        found = telemetry.t_test_alone(telemetry.rises(losses))
        rows.append(["H03: end above minimum", what, found, math.nan, math.nan])
    return rows

# ---------------------------------------------------------------- the command line

def show(name, run, rows):
    noise = telemetry.noise_of(run)
    print(f"{name}: changes have an sd of {number(noise.size)} nats, correlate "
          f"{noise.between_seeds:.2f} between seeds and {noise.phi:.2f} over time.")
    for test, what, *found in rows:
        cells = ["" if math.isnan(rate) else f"{rate:.1%}" for rate in found]
        print(f"  {test:24s}{what:30s}" + "".join(f"{cell:>8s}" for cell in cells))

def main():
    parser = support.program.Parser(description="How often tests reject where nothing happens.")
    parser.add_argument("folders", nargs="*", type=Path, help="runs, beside the published table")
    parser.add_argument("--out", type=Path, help="a folder for false_positives.csv")
    parser.add_argument("--studies", type=int, default=1000, help="simulated (default 1000)")
    args = parser.parse_args()
    need(20 <= args.studies <= 10**5, "--studies must lie between 20 and 100000")
    runs = {"published": telemetry.published_run()}
    for folder in args.folders:
        run = telemetry.read_run(folder)
        n, k = run.loss.shape
        need(n >= 2 and k >= 12, f"{folder} has {n} seeds and {k} intervals; it takes 2 and 12")
        runs[folder.resolve().name] = run

    table = []
    for name, run in runs.items():
        rows = rates(run, args.studies)
        show(name, run, rows)
        table += [[name, *row] for row in rows]
    print(f"Shares of {args.studies:,d} studies without any effect that are called significant at "
          "5 %:\nuncorrected, with Greenhouse-Geisser's correction, with Huynh-Feldt's.")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write_csv(args.out / "false_positives.csv",
                  ["study", "test", "noise", "rate", "rate_gg", "rate_hf"], table)

if __name__ == "__main__":
    support.program.run(main)
