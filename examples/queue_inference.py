"""Rates of a queue from what was counted at its doors, and who was blocked inside.

A clinic with one nurse, one doctor and a single chair between them, simulated by unmodified ciw: a patient for whom no
chair is free stays with the nurse, who cannot see the next one meanwhile. How many patients come per hour, how fast the
doctor works, and what happened inside is unknown; known are, roughly, the number who came, the number who left, and
their mean time inside. The program never calls tracestore: its calls of Python's `random` become draws with priors.

Two engines answer. So does a loop around plain runs of ciw, seeded by itself and weighted by hand: it shares the queue
and the question with them, and nothing else.

    python examples/queue_inference.py                 less than a minute on two cores
    python examples/queue_inference.py --reduced       a few seconds
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tracestore as ts

try:
    import ciw
except ModuleNotFoundError:
    sys.exit("ciw is not installed; run: pip install 'tracestore[ciw]'")

HOURS = 6.0
NURSE_RATE = 4.0
"""Patients that the nurse sees in an hour, when she is not kept waiting."""
ARRIVAL_PRIOR = ts.Gamma(4.0, 2.0)
DOCTOR_PRIOR = ts.Gamma(4.0, 1.6)
NOISE = {"came": 1.5, "left": 1.5, "inside": 0.3}
"""Standard deviation of each number that is known: two counts, and hours."""
SEEN = {"came": 14.0, "left": 8.0, "inside": 1.4}
QUESTIONS = {
    "arrival_rate": "patients per hour",
    "doctor_rate": "doctor's patients per hour",
    "num_blocked": "patients kept by the nurse",
    "was_blocked": "probability of any",
}


@dataclass(frozen=True)
class Day:
    """What happened in the clinic."""

    came: int
    left: int
    inside: float
    num_blocked: int


def run_clinic(arrival_rate: float, doctor_rate: float) -> Day:
    """Simulate one day with ciw."""
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(arrival_rate), None],
        service_distributions=[ciw.dists.Exponential(NURSE_RATE), ciw.dists.Exponential(doctor_rate)],
        routing=[[0.0, 1.0], [0.0, 0.0]],
        number_of_servers=[1, 1],
        queue_capacities=[float("inf"), 1],
    )
    clinic = ciw.Simulation(network)
    clinic.simulate_until_max_time(HOURS)
    visits = clinic.get_all_records()
    starts = {visit.id_number: visit.arrival_date for visit in visits if visit.node == 1}
    stays = [visit.exit_date - starts[visit.id_number] for visit in visits if visit.node == 2]
    return Day(
        came=clinic.nodes[0].number_accepted_individuals,
        left=clinic.nodes[-1].number_of_completed_individuals,
        inside=float(np.mean(stays)) if stays else HOURS,
        num_blocked=sum(visit.time_blocked > 0.0 for visit in visits),
    )


@ts.simulator
def clinic() -> None:
    """Draw the unknown rates, let ciw simulate the day, and look at it from the doors."""
    arrival_rate = ts.sample(ARRIVAL_PRIOR, name="arrival_rate")
    doctor_rate = ts.sample(DOCTOR_PRIOR, name="doctor_rate")
    with ts.hijack("random"):
        day = run_clinic(arrival_rate, doctor_rate)
    ts.tag(day.num_blocked, name="num_blocked")
    ts.tag(day.num_blocked > 0, name="was_blocked")
    for name, scale in NOISE.items():
        ts.observe(ts.Normal(float(getattr(day, name)), scale), name=name)


def by_hand(number: int, seed: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Answer without tracestore: draw rates, run ciw, weigh each day by how well it fits.

    Returns
    -------
    tuple
        Mean and standard error by question, and the effective sample size.
    """
    rng = np.random.default_rng(seed)
    state = random.getstate()
    random.seed(seed)
    rows, log_weights = [], []
    for _ in range(number):
        rates = rng.gamma(4.0, 1 / 2.0), rng.gamma(4.0, 1 / 1.6)
        day = run_clinic(*rates)
        rows.append((*rates, day.num_blocked, day.num_blocked > 0))
        log_weights.append(sum(-0.5 * ((getattr(day, name) - SEEN[name]) / NOISE[name]) ** 2 for name in NOISE))
    random.setstate(state)
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    values = np.array(rows, np.float64)
    means = weights @ values
    errors = np.sqrt((weights[:, None] ** 2 * (values - means) ** 2).sum(0))
    found = {name: (float(mean), float(error)) for name, mean, error in zip(QUESTIONS, means, errors, strict=True)}
    return found, 1.0 / float(weights @ weights)


def main() -> int:
    """Ask two engines, and without any."""
    args = parse_arguments()
    number = 500 if args.reduced else 8_000
    start = time.perf_counter()
    reference, effective = by_hand(3 * number, args.seed)
    seconds = {"by hand": time.perf_counter() - start}
    print(f"Seen: {SEEN['came']:.0f} came, {SEEN['left']:.0f} left, {SEEN['inside']} hours inside on average.\n")
    with tempfile.TemporaryDirectory() as scratch:
        found = infer(Path(scratch), number, args.workers, args.seed, seconds)
        answers = [
            reference,
            *[{name: (one.mean(name), one.mcse(name)) for name in QUESTIONS} for one in found.values()],
        ]
        sizes = [effective, *[one.ess for one in found.values()]]
    print(f"{'':<28}", *[f"{name:>15}" for name in seconds])
    for name, text in QUESTIONS.items():
        print(f"{text:<28}", *[f"{answer[name][0]:8.2f} +- {answer[name][1]:.2f}" for answer in answers])
    print(f"\n{'ESS':<28}", *[f"{size:15.0f}" for size in sizes])
    print(f"{'seconds':<28}", *[f"{spent:15.1f}" for spent in seconds.values()])
    return 0


def infer(folder: Path, number: int, workers: int, seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    """Ask each engine; add the seconds it took."""
    common: dict[str, Any] = {"workers": workers, "seed": seed}
    engines: dict[str, Any] = {
        "prior IS": lambda: ts.inference.importance(clinic, SEEN, folder / "is", num_draws=number, **common),
        "RMH": lambda: ts.inference.rmh(clinic, SEEN, folder / "rmh", num_draws=number, chains=2, **common),
    }
    found = {}
    for name, ask in engines.items():
        start = time.perf_counter()
        found[name] = ask()
        seconds[name] = time.perf_counter() - start
    return found


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", action="store_true", help="a sixteenth of the draws")
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of everything random (default 1)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ts.TracestoreError as error:
        sys.exit(f"error: {error}")
