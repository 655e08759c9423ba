"""Surrogates of showers: how fast, how alike after the same training time, and what they do to inference.

    python -m benchmarks.surrogates --out FOLDER --num-showers 200000 --workers 16 --device cuda --train 150
    python -m benchmarks.surrogates --smoke

Parts, each of which runs and is reported whatever became of the others (`--parts`):

* `train`: each model for the same wall time on the same showers; then, against 10,000 showers that nothing was trained
  on, at the same energies: area under the curve of a classifier on high-level features (0.5: not told apart), reduced
  chi-squares of the three profiles, and what else `tracestore compare` looks at;
* `transfer`: at equal total time, 100 to 200 GeV first and then the full range, against the full range from scratch;
* `speed`: showers per second of the simulator and of each model in one process, by batch size and precision, and the
  ratio to the simulator in this same run; with one thread on the processor, and on `--device`. Full Monte Carlo is not
  run here: what it costs is for the literature to say;
* `inference`: see `surrogate_inference.py`, with each trained model.

Finished surrogates and `results.json`, rewritten after each part, are left in `--out`; with `--models-from FOLDER` the
models of an earlier run are used instead of training.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import tracestore as ts
from benchmarks import surrogate_inference, surrogate_training
from tracestore.errors import StoreNotFoundError
from tracestore.simulators.shower import ShowerConfig, ShowerModel, shower, shower_simulator
from tracestore.surrogates import Surrogate, load_surrogate

MODELS = ("gan", "flow")
PARTS = ("train", "transfer", "speed", "inference")
NARROW = (100.0, 200.0)
BATCHES = (1, 16, 64, 256)
PRECISIONS = ("float32", "bfloat16", "int8")


class Results:
    """What was measured, printed and written as it comes.

    Parameters
    ----------
    path
        Of the file.
    head
        What machine, what options.
    """

    def __init__(self, path: Path, head: dict[str, object]) -> None:
        self.path = path
        self.content: dict[str, object] = {**head, "rows": []}
        self.start = time.perf_counter()
        self.say({"part": "head", **head})

    def say(self, row: dict[str, object]) -> None:
        """Print a row with the seconds since the beginning, and keep it."""
        self.content["rows"].append(row)
        shown = ", ".join(f"{key} {_short(value)}" for key, value in row.items() if key != "traceback")
        print(f"[{time.perf_counter() - self.start:6.1f} s] {shown}", flush=True)
        self.path.write_text(json.dumps(self.content, indent=1, default=str) + "\n", "utf-8")

    def run(self, part: str, rows: Callable[[], Iterator[dict[str, object]]]) -> None:
        """Run a part; what goes wrong is a row as well."""
        start = time.perf_counter()
        try:
            for row in rows():
                self.say({"part": part, **row})
        except Exception as error:  # noqa: BLE001  # the other parts shall run
            self.say({"part": part, "failed": repr(error), "traceback": traceback.format_exc()})
            traceback.print_exc()
        self.say({"part": part, "seconds": time.perf_counter() - start})


class Bench:
    """The parts, with what they share.

    Parameters
    ----------
    options
        The command line.
    scratch
        For stores.
    """

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch = options, scratch
        self.models: dict[str, Surrogate] = {}
        self._stores: dict[str, ts.TraceStore] = {}

    def store(self, name: str) -> ts.TraceStore:
        """Showers to train on (`full`, `narrow`) or to compare with (`test`)."""
        if name not in self._stores:
            many = self.options.num_showers
            program, number, seed = {
                "full": (shower, many, 1),
                "narrow": (shower_simulator(ShowerConfig(energy_range=NARROW)), max(200, many // 4), 2),
                "test": (shower, self.options.test_showers, 3),
            }[name]
            start = time.perf_counter()
            self._stores[name] = ts.simulate(
                program, self.scratch / name, num_traces=number, workers=self.options.workers, seed=seed
            )
            seconds = time.perf_counter() - start
            print(
                f"           {number:,} showers for {name!r} in {seconds:.1f} s, {number / seconds:,.0f}/s", flush=True
            )
        return self._stores[name]

    def load(self) -> None:
        """Take models that are there already."""
        for name in self.options.models:
            folder = (self.options.models_from or self.options.out) / name
            with contextlib.suppress(StoreNotFoundError):
                self.models[name] = load_surrogate(folder)

    def train(self) -> Iterator[dict[str, object]]:
        """Yield how alike each model is after the same time."""
        self.store("full"), self.store("test")
        for name in self.options.models:
            if name in self.models and self.options.models_from:
                yield from self._judged(name, {}, self.models[name])
                continue
            yield from self._trained(name, self.options.train, [("full", 1.0)], self.scratch / f"model-{name}")

    def transfer(self) -> Iterator[dict[str, object]]:
        """Yield what a narrow range of energies first is good for."""
        total = self.options.transfer or self.options.train / 3
        for name in self.options.models[:1]:
            steps = {"scratch": [("full", 1.0)], "transfer": [("narrow", 0.5), ("full", 0.5)]}
            for label, plan in steps.items():
                for store, _ in plan:
                    self.store(store)
                yield from self._trained(name, total, plan, self.scratch / f"{name}-{label}", label)

    def speed(self) -> Iterator[dict[str, object]]:
        """Yield rates, on one thread of the processor and on the device."""
        model, rng = ShowerModel(ShowerConfig()), np.random.default_rng(1)
        energies = rng.uniform(12.0, 498.0, 256)

        def simulate(number: int) -> None:
            for energy in energies[:number]:
                model.cells(float(energy), rng.standard_normal(2)).sample(rng).astype(np.float32)

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            simulator = rate(simulate, 16, self.options.seconds)
            yield {"what": "simulator, one core", "per_second": simulator}
            for device in self.options.speed_on or dict.fromkeys(["cpu", self.options.device]):
                for name, surrogate in self.models.items():
                    yield from self._rates(f"{name}, {device}", surrogate, device, simulator)
        finally:
            torch.set_num_threads(threads)

    def inference(self) -> Iterator[dict[str, object]]:
        """Yield posteriors with the simulator and with each model."""
        for name, surrogate in self.models.items():
            surrogate.model.to(self.options.device)
            folder = self.scratch / f"inference-{name}"
            rows = surrogate_inference.compare(
                surrogate, folder, num_draws=self.options.draws, workers=self.options.workers, seed=5
            )
            for row in rows:
                yield {"model": name, **row}

    def _trained(self, name, seconds, plan, folder, label="") -> Iterator[dict[str, object]]:
        surrogate, about = None, {}
        for number, (store, share) in enumerate(plan):
            last = number == len(plan) - 1
            surrogate, about = surrogate_training.train_for(
                share * seconds, self.store(store), folder if last else folder.with_name(folder.name + "-first"), name,
                start=surrogate, **self.options.settings,
            )  # fmt: skip
            yield {"what": f"{name} {label} on {store}".replace("  ", " "), **about}
        if not label:
            self.models[name] = surrogate
            surrogate.save(self.options.out / name)  # without the checkpoints of its training
            shutil.copy(folder / "history.jsonl", self.options.out / f"{name}-history.jsonl")
        yield from self._judged(f"{name} {label}".strip(), {"train_seconds": seconds}, surrogate)

    def _judged(self, what, about, surrogate) -> Iterator[dict[str, object]]:
        surrogate.model.to(self.options.device)
        yield {"what": what, **about, **surrogate_training.judge(surrogate, self.store("test"), seed=7)}

    def _rates(self, what, surrogate, device, simulator) -> Iterator[dict[str, object]]:
        surrogate.model.to(device)
        low, high = surrogate.label_ranges[0]
        labels = np.linspace(low, high, max(BATCHES))[np.random.default_rng(1).permutation(max(BATCHES))]
        for precision in PRECISIONS:
            for batch in self.options.batches:

                def generate(number: int, batch: int = batch, precision: str = precision) -> None:
                    surrogate.generate(labels[:number], seed=1, batch_size=batch, precision=precision)

                try:
                    number = max(batch, min(4 * batch, 64))
                    found = rate(generate, number, self.options.seconds)
                except Exception as error:  # noqa: BLE001  # not every precision is there on every device
                    yield {"what": what, "batch": batch, "precision": precision, "failed": repr(error)[:200]}
                    break
                yield {
                    "what": what,
                    "batch": batch,
                    "precision": precision,
                    "per_second": found,
                    "over_simulator": found / simulator,
                }


def rate(call: Callable[[int], None], number: int, seconds: float) -> float:
    """Showers per second of the clock, the best of the calls that begin within some seconds."""
    call(min(number, 16))
    best, until, calls = float("inf"), time.perf_counter() + seconds, 0
    while not calls or time.perf_counter() < until:
        start = time.perf_counter()
        call(number)
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return number / best


def _short(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for surrogates and results (default a temporary one)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--models-from", type=Path, help="folder with surrogates `gan` and `flow` of an earlier run")
    parser.add_argument("--num-showers", type=int, default=20_000)
    parser.add_argument("--test-showers", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speed-on", nargs="+", metavar="DEVICE", help="(default cpu and --device)")
    parser.add_argument("--train", type=float, default=120.0, help="seconds of each model")
    parser.add_argument("--transfer", type=float, help="seconds of each way in all (default a third of --train)")
    parser.add_argument("--batch-size", type=int, help="of training (default the recipe's)")
    parser.add_argument("--learning-rate", type=float, help="of training (default the recipe's)")
    parser.add_argument("--precision", help="of training (default the recipe's)")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=0.4, help="for each rate")
    parser.add_argument("--draws", type=int, default=20_000, help="of importance sampling")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the processor")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.num_showers, options.test_showers, options.train, options.transfer = 600, 400, 4.0, 4.0
        options.batch_size, options.batches, options.seconds, options.draws = 16, [1, 16], 0.05, 400
    given = {"batch_size": options.batch_size, "learning_rate": options.learning_rate, "precision": options.precision}
    options.settings = {"device": options.device, **{name: value for name, value in given.items() if value is not None}}
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="tracestore-surrogates-") as scratch:
        options.out = options.out or Path(scratch) / "out"
        options.out.mkdir(parents=True, exist_ok=True)
        if options.device.startswith("cuda"):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        head = {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
            "torch": torch.__version__,
            "options": {name: value for name, value in vars(options).items() if name != "smoke"},
        }
        results, bench = Results(options.out / "results.json", head), Bench(options, Path(scratch))
        bench.load()
        for part in options.parts:
            results.run(part, getattr(bench, part))
        return int(any("failed" in row for row in results.content["rows"] if "precision" not in row))


if __name__ == "__main__":
    sys.exit(main())
