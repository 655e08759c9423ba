"""Training a surrogate with one and two ranks: images per second, and the share of time that waits for data.

    python benchmarks/surrogate_ranks.py [--num-traces 2000] [--model flow] [--batch-size 64] [--seconds 30]
                                         [--device cpu] [--ranks 1,2] [--store FOLDER]

Every rank has one thread on a processor, so that two ranks have twice the cores of one. Prints a JSON line for each
number of ranks, and one for the loader alone, without a model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tracestore as ts

PROGRAM = """
import json, sys, torch
from dataclasses import replace
from tracestore.training import RECIPES, train_surrogate
torch.set_num_threads(1)
store, folder, model, fields = *sys.argv[1:4], json.loads(sys.argv[4])
train_surrogate(store, folder, config=replace(RECIPES[model], **fields))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-traces", type=int, default=2000)
    parser.add_argument("--model", choices=("flow", "gan"), default="flow")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--store")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or f"{folder}/showers"
        if args.store is None:
            from tracestore.simulators.shower import shower

            ts.simulate(shower, store, num_traces=args.num_traces, seed=1)
        for prefetch in (0, 2):
            print(json.dumps(read_alone(store, args.batch_size, prefetch)), flush=True)
        for num_ranks in map(int, args.ranks.split(",")):
            print(json.dumps(train_on(num_ranks, store, f"{folder}/{num_ranks}", args)), flush=True)


def read_alone(store: str, batch_size: int, prefetch: int) -> dict[str, object]:
    """Read an epoch, after one that warms the caches."""
    loader = ts.trace_loader(store, global_batch=batch_size, seed=1, prefetch=prefetch or None)
    for _ in range(2):
        num_images, begun, busy = 0, time.perf_counter(), time.process_time()
        for batch in loader:
            batch.as_arrays(["energy"], observations=["shower"])
            num_images += len(batch)
        passed, used = time.perf_counter() - begun, time.process_time() - busy
    return {
        "loader": {"prefetch": prefetch, "batch_size": batch_size},
        "images_per_second": round(num_images / passed),
        "images_per_processor_second": round(num_images / used),
    }


def train_on(num_ranks: int, store: str, folder: str, args: argparse.Namespace) -> dict[str, object]:
    """Train on some ranks and read what the summary says."""
    script = Path(f"{folder}.py")
    script.write_text(PROGRAM)
    fields = {
        "seconds": args.seconds, "num_validations": 1, "batch_size": args.batch_size, "device": args.device,
        "precision": args.precision, "max_validation_traces": 200,
    }  # fmt: skip
    words = [str(script), store, folder, args.model, json.dumps(fields)]
    torchrun = Path(sys.executable).with_name("torchrun")
    start = [sys.executable] if num_ranks == 1 else [str(torchrun), "--standalone", "--nproc-per-node", str(num_ranks)]
    subprocess.run([*start, *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    lines = (Path(folder) / "history.jsonl").read_text().splitlines()
    steps = [json.loads(line)["times"] for line in lines][2:]  # the first ones warm up
    summary = json.loads((Path(folder) / "surrogate.json").read_text())["summary"]
    seconds = {part: sum(step[part] for step in steps) for part in steps[0]}
    total = sum(seconds.values())
    return {
        "ranks": num_ranks,
        "model": args.model,
        "device": args.device,
        "images_per_second": round(len(steps) * args.batch_size / total, 1),
        "shares": {part: round(value / total, 4) for part, value in seconds.items()},
        "num_steps": summary["num_steps"],
    }


if __name__ == "__main__":
    main()
