"""What embedding an observation costs: kinds of embedding, number formats, memory formats, compiled or not.

    OMP_NUM_THREADS=1 python -m benchmarks.observation_embeddings [--kinds K ...] [--batches B ...] [--repeats R]
        [--no-compile] [--device cpu|cuda] [--json FILE]

One observation of 20x35x35 cells and the sizes of the paper (an embedding of 256). A pass is forward and backward
through `ObservationEmbedding` as it trains, standardization and the joint perceptron included, without the optimizer.

The convolutions `cnn2d` and `cnn3d` keep channels last in memory; variants that do not say so undo it.

All variants of a kind and a batch size take turns, a pass each, so that what others do on the machine strikes all
alike; on the CPU, times are CPU times of this process. Figures are medians, and ratios of each variant's time to that
of plain float32 in the same turn: median, with the range of the middle half of the turns. `difference` is the largest
difference of an embedded number from plain float32, over the standard deviation of the embedded numbers.

Compiled variants need a C++ compiler and are left out, with a word, where there is none.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from tracestore.networks.array_embeddings import ChannelsLast
from tracestore.networks.config import NetworkConfig
from tracestore.networks.observations import ObservationEmbedding

SHAPE = (20, 35, 35)
SIZE = 256
KINDS = ("light", "cnn2d", "cnn3d")
BATCHES = (16, 64)
NUM_WARM = 2
REFERENCE = "fp32"


@dataclass(frozen=True)
class Variant:
    """A way to compute the same embedding."""

    name: str
    is_half: bool = False
    is_channels_last: bool = False
    is_compiled: bool = False


VARIANTS = (
    Variant(REFERENCE),
    Variant("fp32 channels-last", is_channels_last=True),
    Variant("bf16", is_half=True),
    Variant("bf16 channels-last", is_half=True, is_channels_last=True),
    Variant("fp32 compiled", is_compiled=True),
    Variant("bf16 channels-last compiled", is_half=True, is_channels_last=True, is_compiled=True),
)


@dataclass(frozen=True)
class Row:
    """Figures of one variant."""

    kind: str
    batch: int
    variant: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    difference: float


def make_passes(kind, batch, variants, device):
    """Functions that do one pass each and return the embedding."""
    generator = torch.Generator().manual_seed(1)
    voxels = torch.rand(batch, *SHAPE, generator=generator).pow(8).to(device)
    passes = {}
    for variant in variants:
        torch.manual_seed(0)
        embedding = ObservationEmbedding({"voxels": SHAPE}, NetworkConfig(observation=kind, observation_size=SIZE))
        embedding.fit({"voxels": voxels})
        embedding.to(device)
        if not variant.is_channels_last:
            set_contiguous(embedding)
        passes[variant.name] = one_pass(embedding, variant, voxels)
    return passes


def set_contiguous(module):
    """Undo what the embeddings do by themselves."""
    for name, child in module.named_children():
        if isinstance(child, ChannelsLast):
            setattr(module, name, nn.Identity())
        else:
            set_contiguous(child)


def one_pass(embedding, variant, voxels):
    compiled = torch.compile(embedding) if variant.is_compiled else embedding
    device = voxels.device.type

    def run():
        embedding.zero_grad()
        half = torch.autocast(device, torch.bfloat16) if variant.is_half else contextlib.nullcontext()
        with half:
            found = compiled({"voxels": voxels})
        found.float().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return found.detach().float()

    return run


def measure(kind, batch, variants, device, repeats):
    """Rows of one kind and batch size."""
    passes = make_passes(kind, batch, variants, device)
    found = {}
    for _ in range(NUM_WARM):
        found = {name: run() for name, run in passes.items()}
    seconds = {name: [] for name in passes}
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(repeats):
        for name, run in passes.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    spread = float(found[REFERENCE].std())
    for name, taken in seconds.items():
        ratios = [mine / plain for mine, plain in zip(taken, seconds[REFERENCE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        difference = float((found[name] - found[REFERENCE]).abs().max()) / spread
        yield Row(kind, batch, name, 1e3 * statistics.median(taken), middle, low, high, difference)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled variants")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="append one line per row to this file")
    options = parser.parse_args()
    variants = VARIANTS
    if options.device == "cpu" and shutil.which("c++") is None:
        print("no C++ compiler: compiled variants are left out")
        options.no_compile = True
    if options.no_compile:
        variants = [variant for variant in VARIANTS if not variant.is_compiled]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}, {options.repeats} turns\n")
    print("| kind | batch | variant | ms | traces/s | time / fp32 | difference |")
    print("|---|---|---|---|---|---|---|")
    for kind in options.kinds:
        for batch in options.batches:
            for row in measure(kind, batch, variants, options.device, options.repeats):
                print(
                    f"| {row.kind} | {row.batch} | {row.variant} | {row.milliseconds:,.1f} | "
                    f"{1e3 * row.batch / row.milliseconds:,.0f} | {row.ratio:.2f} ({row.low:.2f}-{row.high:.2f}) | "
                    f"{row.difference:.1g} |",
                    flush=True,
                )
                if options.json:
                    with options.json.open("a") as file:
                        file.write(json.dumps({"torch": torch.__version__, **asdict(row)}) + "\n")


if __name__ == "__main__":
    main()
