"""Tau decays from end to end: simulate, sort, train, infer with three engines, report.

A tau lepton of unknown momentum decays (TAUOLA, unmodified Fortran); a calorimeter sees the products. Given what the
calorimeter saw in one event, what was the momentum, which way did the tau decay, and how much energy escaped unseen?

Every phase may be interrupted; the same command continues it. Everything is written below one directory.

    python examples/tau.py                     five to ten minutes on two cores
    python examples/tau.py --reduced           every phase at a toy size, within a minute
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from math import hypot
from pathlib import Path
from typing import Any

# threads that wait for each other give their core away meanwhile; torch looks at this when it is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tracestore as ts
from tracestore.events import Event, Observer, PhaseAdvanced, PhaseStarted
from tracestore.inference import Posterior, RMHConfig
from tracestore.progress import Progress
from tracestore.reports import write_report
from tracestore.simulators.tau import CHANNELS, tau, test_event
from tracestore.training import NetworkConfig, TrainConfig

VARIABLES = {
    "px": "px [GeV]",
    "py": "py [GeV]",
    "pz": "pz [GeV]",
    "channel": "decay channel",
    "energy_1": "leading product energy [GeV]",
    "energy_2": "second product energy [GeV]",
    "met": "missing transverse energy [GeV]",
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    num_traces: int
    training: TrainConfig
    num_ic: int
    num_rmh: int
    chains: int
    warmup: int
    thinning: int
    num_reference: int


FULL = Size(
    num_traces=20_000,
    # the first draws of TAUOLA choose the channel and the two-body angles; the network leaves the rest to the prior
    training=TrainConfig(network=NetworkConfig(max_instance=4), epochs=8),
    num_ic=40_000,
    num_rmh=40_000,
    chains=4,
    warmup=2_000,
    thinning=4,
    num_reference=100_000,
)
REDUCED = Size(
    num_traces=400,
    training=TrainConfig(network=NetworkConfig(core_size=16, observation_size=16, head_size=16), epochs=2),
    num_ic=200,
    num_rmh=400,
    chains=2,
    warmup=50,
    thinning=1,
    num_reference=400,
)


def main() -> int:
    """Run all phases, or what is left of them."""
    args = parse_arguments()
    size = REDUCED if args.reduced else FULL
    out = args.output
    out.mkdir(parents=True, exist_ok=True)
    phases = Phases(out / "phases.json")
    seed = args.seed

    # prior traces, by as many processes as there are workers
    with phases("simulate") as observer:
        traces = ts.simulate(
            tau, out / "traces", num_traces=size.num_traces, workers=args.workers, seed=seed, observer=observer
        )

    # the same traces in the order of their trace types, so that training reads neighbors together
    with phases("sort") as observer:
        in_order = ts.sort_store(out / "traces", out / "sorted", observer=observer)

    # a network that proposes every random draw of the simulator, given what the calorimeter saw
    use_threads(args.workers)
    with phases("train") as observer:
        network = ts.training.train(out / "sorted", out / "network", config=size.training, observer=observer)

    # one event whose truth is known, inferred in three ways that share nothing but the simulator
    seen, truth = test_event()
    posteriors: dict[str, Posterior] = {}
    common = {"workers": args.workers, "seed": seed + 1}
    with phases("infer: IC") as observer:
        posteriors["IC"] = ts.inference.ic(
            tau, seen, out / "posterior-ic", network=network, num_draws=size.num_ic, observer=observer, **common
        )
    with phases("infer: RMH") as observer:
        moves = RMHConfig(warmup=size.warmup, thinning=size.thinning)
        posteriors["RMH"] = ts.inference.rmh(
            tau, seen, out / "posterior-rmh", num_draws=size.num_rmh, chains=size.chains, config=moves,
            observer=observer, **common,
        )  # fmt: skip
    with phases("infer: prior IS") as observer:
        posteriors["prior IS"] = ts.inference.importance(
            tau, seen, out / "posterior-prior-is", num_draws=size.num_reference, observer=observer, **common
        )

    report = out / "report.html"
    if not (phases.is_finished("report") and report.exists()):
        spent = {name: seconds for name, seconds in phases.seconds.items() if name != "report"}
        with phases("report"):
            write_report(
                posteriors, report, truth=truth, names=VARIABLES, categories={"channel": CHANNELS},
                training_history=out / "network", phases=spent,
                jobs={"Prior traces": traces.job, "Sorted store": in_order.job, "Network": network.job},
                title="Posterior of one tau decay",
            )  # fmt: skip
    print_summary(posteriors, phases, report)
    return 0


def use_threads(number: int) -> None:
    """Let torch use so many threads."""
    import torch

    torch.set_num_threads(number)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("demo-output"), help="default: demo-output")
    parser.add_argument("--reduced", action="store_true", help="every phase at a toy size")
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of everything random (default 1)")
    return parser.parse_args()


class Phases:
    """Shows the progress of each phase and adds up its wall time over all calls, in a small file.

    Parameters
    ----------
    path
        The JSON file; written about once a second, so that a killed process loses no more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each phase, of earlier calls too."""
        return {name: record["seconds"] for name, record in self.records.items()}

    def is_finished(self, name: str) -> bool:
        """Tell whether a phase came to its end in this or an earlier call."""
        return bool(self.records.get(name, {}).get("finished"))

    @contextmanager
    def __call__(self, name: str) -> Iterator[Observer]:
        """Time a phase; gives the observer that shows its progress."""
        earlier = self.seconds.get(name, 0.0)
        was_finished = self.is_finished(name)
        start = saved = time.monotonic()
        first_done = 0
        with Progress() as progress:

            def observe(event: Event) -> None:
                nonlocal saved, was_finished, earlier, first_done
                progress(replace(event, phase=name))
                if isinstance(event, PhaseStarted):
                    first_done = event.done
                if isinstance(event, PhaseAdvanced) and event.done > first_done:
                    if was_finished:  # somebody removed the output: it is made anew
                        was_finished, earlier = False, 0.0
                    if time.monotonic() - saved >= 1:
                        saved = time.monotonic()
                        self._save(name, earlier + saved - start, finished=False)

            is_complete = False
            try:
                yield observe
                is_complete = True
            finally:
                if not was_finished:
                    self._save(name, earlier + time.monotonic() - start, finished=is_complete)

    def _save(self, name: str, seconds: float, *, finished: bool) -> None:
        if name != "report":
            self.records.pop("report", None)  # whatever is new has to be in it
        self.records[name] = {"seconds": round(seconds, 3), "finished": finished}
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.records, indent=2) + "\n")
        draft.replace(self.path)


def print_summary(posteriors: dict[str, Posterior], phases: Phases, report: Path) -> None:
    """Print what a reader wants first: times, diagnostics, agreement."""
    print(f"\n{'phase':<16} {'seconds':>8}")
    for name, seconds in phases.seconds.items():
        print(f"{name:<16} {seconds:8.1f}")
    print(f"{'total':<16} {sum(phases.seconds.values()):8.1f}")

    print(f"\n{'engine':<10} {'draws':>8} {'ESS':>7} {'k-hat':>6} {'R-hat':>6}  log evidence")
    for label, posterior in posteriors.items():
        line = f"{label:<10} {len(posterior):8,} {posterior.ess:7.0f}"
        if posterior.is_weighted:
            line += f" {posterior.khat:6.2f} {'':>6}  {posterior.log_evidence:.2f} +- {posterior.log_evidence_se:.2f}"
        else:
            line += f" {'':>6} {max(float(posterior.rhat(name)) for name in VARIABLES):6.3f}"
        print(line)

    print("\nlargest difference between two engines")
    for name, text in VARIABLES.items():
        print(f"{text:<32} {compare(posteriors, name)}")
    print(f"\nreport: {report}")


def compare(posteriors: dict[str, Posterior], name: str) -> str:
    """Say how far the two engines that differ most are apart in one variable."""
    differences = []
    for first, second in combinations(posteriors.values(), 2):
        if name == "channel":
            p, q = first.probabilities(name), second.probabilities(name)
            differences.append(max(abs(p.get(code, 0.0) - q.get(code, 0.0)) for code in p | q))
        else:
            error = hypot(float(first.mcse(name)), float(second.mcse(name)))
            differences.append(abs(float(first.mean(name)) - float(second.mean(name))) / error)
    return f"{max(differences):.2f}" + (" in probability" if name == "channel" else " standard errors")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command continues.")
    except ts.TracestoreError as error:
        sys.exit(f"error: {error}")
