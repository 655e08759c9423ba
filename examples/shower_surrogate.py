"""The energy of an electron from a coarse calorimeter: with a simulator, with a surrogate of it, and with both.

A generative model is trained on showers of the simulator. Then it takes the place of the simulator in a program that
reads five sums of layers, each with noise, and the energy of one electron is inferred three times: with the simulator,
with the surrogate, and with the simulator and proposals that were learned on showers of the surrogate alone. The second
answer is as good as the surrogate. The third is exact: what is wrong with the proposals, importance weights correct.

    python examples/shower_surrogate.py                 ten minutes on two cores
    python examples/shower_surrogate.py --reduced       less than a minute; the surrogate is then a poor one
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tracestore as ts
from tracestore.simulators.shower import ShowerConfig, ShowerModel, draw_shower, shower_simulator
from tracestore.simulators.shower_geometry import ShowerBox

try:
    from tracestore.surrogates import Surrogate, draw_surrogate
    from tracestore.training.surrogate import train_surrogate
    from tracestore.training.surrogate_config import RECIPES
except ts.TracestoreError as error:
    sys.exit(f"error: {error}")

LOW, HIGH = 50.0, 250.0
PRIOR = ts.Uniform(LOW + 5.0, HIGH - 5.0)
"""A little inside of what the surrogate is trained on."""
NOISE = 0.15
"""Of a sum of layers, in GeV of visible energy; 100 GeV leave about 2.5."""
TRUTH = 140.0


@dataclass(frozen=True)
class Size:
    """How much is done."""

    num_showers: int
    seconds: float
    num_draws: int
    box: ShowerBox


FULL = Size(20_000, 300.0, 8_000, ShowerBox())
REDUCED = Size(400, 4.0, 1_000, ShowerBox(shape=(9, 9, 10), cell_size=14.0, layer_depth=12.75))


def readings(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum five groups of layers of one image, or of each."""
    layers = images.sum(axis=(-3, -2), dtype=np.float64)
    return np.asarray(layers.reshape(*layers.shape[:-1], 5, -1).sum(axis=-1))


def with_simulator(model: ShowerModel) -> ts.simulators.Simulator:
    """Return the program with the simulator; a network proposes its energy alone."""

    def program() -> None:
        energy = ts.sample(PRIOR, name="energy", address="energy")
        image = draw_shower(model, energy, control=False)
        ts.observe(ts.Normal(readings(image), NOISE), name="readings")

    return ts.simulators.Simulator(program, reentrant=True, name="simulator")


def with_surrogate(surrogate: Surrogate) -> ts.simulators.BatchedSimulator:
    """Return the same program with the surrogate, for many electrons at once."""

    def program() -> None:
        energies = ts.sample(PRIOR, name="energy", address="energy")
        images = draw_surrogate(surrogate, energies, control=False)
        ts.observe(ts.Normal(readings(images), NOISE), name="readings")

    return ts.simulators.BatchedSimulator(program, name="surrogate", batch_size=256)


def main() -> int:
    """Train a surrogate, and ask three times."""
    args = parse_arguments()
    size = REDUCED if args.reduced else FULL
    config = ShowerConfig(box=size.box, energy_range=(LOW, HIGH))
    model, rng = ShowerModel(config), np.random.default_rng(args.seed)
    shower = model.cells(TRUTH, rng.standard_normal(2)).sample(rng)
    seen = {"readings": readings(shower.astype(np.float32)) + NOISE * rng.standard_normal(5)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = ts.simulate(
            shower_simulator(config), folder / "showers", num_traces=size.num_showers, workers=args.workers
        )
        recipe = replace(RECIPES[args.model], seconds=size.seconds, batch_size=32)
        surrogate = train_surrogate(store, folder / "surrogate", config=recipe)
        print(f"{args.model} of {surrogate.num_parameters:,} parameters, {surrogate.summary['num_steps']} steps\n")
        answer(model, surrogate, seen, size, folder, args.workers)
    print(f"\nThe electron had {TRUTH:g} GeV.")
    return 0


def answer(
    model: ShowerModel,
    surrogate: Surrogate,
    seen: dict[str, NDArray[np.float64]],
    size: Size,
    folder: Path,
    workers: int,
) -> None:
    """Infer the energy in three ways, and print what comes out."""
    original, stand_in = with_simulator(model), with_surrogate(surrogate)
    traces = ts.simulate(stand_in, folder / "traces", num_traces=2 * size.num_draws, seed=1)
    network = ts.training.train(traces, folder / "network", config=ts.training.TrainConfig(epochs=5))
    engines, num_draws = ts.inference, size.num_draws
    ways: dict[str, Any] = {
        "simulator, prior draws": lambda to: engines.importance(
            original, seen, to, num_draws=num_draws, workers=workers
        ),
        "surrogate, prior draws": lambda to: engines.importance(stand_in, seen, to, num_draws=num_draws),
        "simulator, proposals of the surrogate": lambda to: engines.ic(
            original, seen, to, network=network, num_draws=num_draws // 8
        ),
    }
    print(f"{'':<40}{'energy, GeV':>18}{'draws':>8}{'ESS':>8}{'seconds':>9}")
    for number, (name, ask) in enumerate(ways.items()):
        start = time.perf_counter()
        posterior = ask(folder / f"posterior-{number}")
        spent = time.perf_counter() - start
        energy = f"{posterior.mean('energy'):.1f} +- {posterior.std('energy'):.1f}"
        print(f"{name:<40}{energy:>18}{len(posterior):>8}{posterior.ess:>8.0f}{spent:>9.1f}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", action="store_true", help="a small calorimeter and a few seconds of training")
    parser.add_argument("--model", choices=sorted(RECIPES), default="gan", help="of the surrogate (default gan)")
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of the electron (default 1)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ts.TracestoreError as error:
        sys.exit(f"error: {error}")
