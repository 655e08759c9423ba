"""A million posterior draws: memory while they are written and while they are summarized, and the seconds of both.

    OMP_NUM_THREADS=1 python -m benchmarks.posterior_memory [--draws N] [--path FOLDER]

Importance sampling and Markov chains on the Gaussian with unknown mean, of which the chains keep every draw. Each step
runs in a process of its own; memory is the largest resident size above that after the imports, mapped pages of the
store included.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.test_open import measure_apart

IMPORTS = """
import numpy
import tracestore as ts
from tracestore.inference import Posterior, importance, rmh
from tracestore.posteriors.diagnosis import diagnose
from tracestore.simulators.toys import gum
from tracestore.store import TraceStore
import tracestore.formats.arrow
observed = {"obs0": 8.0, "obs1": 9.0}
path, num_draws = sys.argv[1], int(sys.argv[2])
step("imports")
"""
WRITE = {
    "importance": "importance(gum, observed, path, num_draws=num_draws, seed=1)",
    "rmh": "rmh(gum, observed, path, num_draws=num_draws, chains=4, seed=1)",
}
READ = {
    "summary()": "print(Posterior(TraceStore.open(path)).summary(), file=sys.stderr)",
    "diagnose()": "print(Posterior(TraceStore.open(path)).diagnose(), file=sys.stderr)",
    "ess, log evidence or R-hat": (
        "one = Posterior(TraceStore.open(path)); one.ess; one.log_evidence if one.is_weighted else one.rhat('mu')"
    ),
}


def measure(code: str, path: Path, num_draws: int) -> tuple[float, float, float, float]:
    """Wall and CPU seconds of a step, bytes above the imports: at its peak, and the process's own at the end."""
    found = measure_apart(f"{IMPORTS}{code}; step('step')\n", path, num_draws)
    wall, cpu, peak, own, _ = found["step"]
    return wall, cpu, peak - found["imports"][2], own - found["imports"][3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1_000_000, help="a multiple of 4")
    parser.add_argument("--path", type=Path, help="where to keep the stores")
    arguments = parser.parse_args()
    print("| engine | step | draws | wall s | CPU s | peak, MB above the imports | own at the end, MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="tracestore-memory-") as folder:
        for engine, write in WRITE.items():
            path = (arguments.path or Path(folder)) / f"{engine}-{arguments.draws}"
            for step, code in {"write": write, **READ}.items():
                wall, cpu, peak, own = measure(code, path, arguments.draws)
                cells = (
                    engine, step, f"{arguments.draws:,}", f"{wall:.1f}", f"{cpu:.1f}", f"{peak / 1e6:,.0f}",
                    f"{own / 1e6:,.0f}",
                )  # fmt: skip
                print("| " + " | ".join(cells) + " |", flush=True)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            print(f"| {engine} | on disk: {size / 1e6:,.0f} MB | | | | | |", flush=True)


if __name__ == "__main__":
    main()
