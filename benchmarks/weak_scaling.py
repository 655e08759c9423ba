"""Weak scaling of training on tau decays: measured on 1 and 2 ranks, replayed for up to 1,024.

    OMP_NUM_THREADS=1 python -m benchmarks.weak_scaling [--html FILE] [--json FILE] [--launcher torch|mpi]

Every rank has the same number of traces in a step, so that the minibatch grows with the ranks. Four things are
**measured**, by `tracestore train` and by bare sums, in processes of this machine:

1. one rank, with half as many traces in a step, to tell what a step costs from what its traces cost;
2. one rank; 3. two ranks, started by torchrun or mpiexec;
4. sums of several sizes between two ranks.

From 1 and 2 come costs of a step, a trace and a site (`fit_costs`), from 4 latency and bandwidth (`fit_sums`). Larger
jobs are **replayed**: `BatchPlan` deals their minibatches, a step takes as long as its costliest rank, and the sum over
ranks comes on top, or is hidden behind the backward pass: two lines, between which the truth lies. A rank gives to the
sums what all tables together have, the most there can be. The replay knows no shared file system and no contention; its
ranks talk as two processes of this machine do, unless `--latency` and `--bandwidth` say what a network has.

Two ranks need two idle cores. The first ratio that is printed, of two processes that each train alone at one time to
twice the speed of one, says how much of that there was.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import tracestore as ts
from benchmarks.imbalance import repeat_runs
from tracestore.pages import render_document, write_page
from tracestore.pages.figures import figure_style, to_svg
from tracestore.samplers.cost_fit import fit_costs
from tracestore.simulators.catalog import resolve
from tracestore.sorting.execute import sort_store
from tracestore.training.communicator import open_communicator
from tracestore.training.curves import read_curves
from tracestore.training.history import read_history
from tracestore.training.scaling import SumModel, fit_sums, read_loads, replay_weak_scaling

BIN = Path(sys.executable).parent
RANKS = tuple(2**power for power in range(11))
SUM_BYTES = (4e3, 4e4, 4e5, 4e6, 4e7)
ALONE = "measured, two that train alone"
SKIP = 10
"""First steps that do not count."""


def start_words(launcher, num_ranks):
    if num_ranks == 1:
        return []
    if launcher == "mpi":
        return [str(BIN / "mpiexec"), "-n", str(num_ranks)]
    return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(num_ranks), "--no-python"]


def start(launcher, num_ranks, words):
    command = [*start_words(launcher, num_ranks), sys.executable, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors)
    return output


def train_words(store, folder, batch_size, args):
    code = "import sys; from tracestore.cli.command import main; sys.exit(main())"
    epochs = max(1, round(args.steps * batch_size / args.traces))
    settings = [f"network.max_instance={args.max_instance}", "patience=none", "checkpoint_seconds=1e6"]
    words = ["-c", code, "train", store, folder, "--epochs", epochs, "--batch-size", batch_size]
    return words + [word for setting in settings for word in ("--set", setting)]


def speed(folder):
    """Traces per second of the steps of rank 0, validation and checkpoints left out."""
    lines = list(read_history(folder))
    seconds = sum(sum(line["times"].values()) for line in lines[SKIP:])
    return (lines[-1]["num_traces"] - lines[SKIP - 1]["num_traces"]) / seconds


def measure_sums(path):
    """Run on each of some ranks: the median seconds of sums of several sizes."""
    torch.set_num_threads(1)
    found = []
    with open_communicator("auto") as ranks:
        for size in SUM_BYTES:
            tensor = torch.zeros(int(size) // 4)
            seconds = []
            for _ in range(15):
                ranks.barrier()
                begin = time.perf_counter()
                ranks.sum_(tensor).wait()
                seconds.append(time.perf_counter() - begin)
            found.append((size, float(np.median(seconds[3:]))))
        if ranks.rank == 0:
            Path(path).write_text(json.dumps(found))


def measure(folder, args):
    """All that is measured, as a dictionary."""
    traces = ts.simulate(resolve("tau"), folder / "unsorted", num_traces=args.traces, workers=2, seed=1)
    store = sort_store(traces, folder / "sorted")
    path = store.storage.url
    half, full = args.per_rank // 2, args.per_rank
    runs = {"half": (1, half), "one": (1, full), "two": (2, 2 * full)}
    for name, (num_ranks, batch_size) in runs.items():
        finish(start(args.launcher, num_ranks, train_words(path, folder / name, batch_size, args)))
        print(f"measured {name}: {num_ranks} ranks, {batch_size} traces, {speed(folder / name):,.0f}/s", flush=True)
    beside = [start("none", 1, train_words(path, folder / f"beside{number}", full, args)) for number in range(2)]
    for process in beside:
        finish(process)
    script = ["-m", "benchmarks.weak_scaling", "--measure-sums", folder / "sums.json"]
    finish(start(args.launcher, 2, script))
    sums = np.array(json.loads((folder / "sums.json").read_text()))
    curves = read_curves(folder / "two")
    loads = [read_loads(folder / name, store, skip=SKIP) for name in ("half", "one")]
    columns = [
        np.concatenate([getattr(one, name) for one in loads])
        for name in ("num_traces", "num_sites", "observation_bytes", "seconds")
    ]
    return {
        "store": store,
        "speeds": {1: speed(folder / "one"), 2: speed(folder / "two")},
        "beside": sum(speed(folder / f"beside{number}") for number in range(2)),
        "imbalance": curves.balance.imbalance,
        "reduced": float(curves.reduced_bytes.mean()),
        "dense": float(curves.dense_bytes.mean()),
        "costs": fit_costs(*columns),
        "sums": sums,
        "model": fit_sums(sums[:, 0], sums[:, 1]),
    }


def draw(measured, replayed):
    """Traces per second against ranks, with what is measured and what is replayed told apart."""
    with figure_style():
        figure = Figure(figsize=(10.5, 5.0), layout="constrained")
        speeds, share = figure.subplots(1, 2, width_ratios=(3, 2))
        ranks = np.array([step.num_ranks for step in replayed])
        one = measured["speeds"][1]
        visible, hidden = (
            np.array([getattr(step, name) for step in replayed]) for name in ("speed", "speed_of_hidden_sums")
        )
        speeds.plot(ranks, one * ranks, color="#8a949d", linewidth=1, linestyle=(0, (4, 3)), label="ideal")
        speeds.fill_between(ranks, visible, hidden, color="#b9d3dc", linewidth=0)
        speeds.plot(ranks, hidden, color="#5b9db3", linewidth=1.2, label="replayed, sums hidden")
        speeds.plot(ranks, visible, color="#1f6f8b", linewidth=1.8, label="replayed, sums after backward")
        speeds.plot(
            *zip(*measured["speeds"].items(), strict=True), "o", color="#d9822b", markersize=7, label="measured"
        )
        speeds.plot(2, measured["beside"], "o", color="#d9822b", markerfacecolor="none", markersize=7, label=ALONE)
        speeds.set(xscale="log", yscale="log", xlabel="ranks", ylabel="traces/s")
        speeds.legend(loc="upper left", frameon=False)
        share.plot(ranks, 100 * visible / (visible[0] * ranks), color="#1f6f8b", linewidth=1.8)
        share.plot(ranks, 100 * hidden / (hidden[0] * ranks), color="#5b9db3", linewidth=1.2)
        for number, found in measured["speeds"].items():
            share.plot(number, 100 * found / (one * number), "o", color="#d9822b", markersize=7)
        share.plot(2, 50 * measured["beside"] / one, "o", color="#d9822b", markerfacecolor="none", markersize=7)
        share.set(xscale="log", xlabel="ranks", ylabel="efficiency, % of one rank", ylim=(0, 110))
        for axes in (speeds, share):
            axes.set_xticks([1, 4, 16, 64, 256, 1024])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        speeds.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        return to_svg(figure, "Traces per second against ranks, measured and replayed")


def rows_of(measured, replayed, per_rank):
    """Ranks, source, traces/s, efficiency, imbalance, sums; texts."""
    one, alone = measured["speeds"][1], replayed[0]
    for number, found in measured["speeds"].items():
        imbalance = f"{measured['imbalance']:.3f}" if number > 1 else "1.000"
        yield (
            f"{number:,}",
            "measured",
            f"{number * per_rank:,}",
            f"{found:,.0f}",
            f"{found / one / number:.1%}",
            imbalance,
            "",
        )
    for step in replayed:
        yield (
            f"{step.num_ranks:,}",
            "replayed",
            f"{step.num_traces:,.0f}",
            f"{step.speed:,.0f}",
            f"{step.speed / alone.speed / step.num_ranks:.1%}",
            f"{step.imbalance:.3f}",
            f"{1e3 * step.sums:.2f} of {1e3 * (step.slowest + step.sums):.0f} ms",
        )


HEAD = ("ranks", "source", "traces of a step", "traces/s", "efficiency", "slowest / mean rank", "sums")


def tell(measured, used):
    """Sentences about what was measured, and what the replay uses."""
    costs, model, share = measured["costs"], measured["model"], measured["beside"] / measured["speeds"][1] / 2
    yield (
        f"Two processes that each train alone have {share:.1%} of twice the speed of one: what this machine leaves to "
        "two ranks."
    )
    yield (
        f"Costs, fitted to {costs.num_steps} steps (R2 {costs.r_squared:.2f}): {1e3 * costs.per_step:.2f} ms a step, "
        f"{1e3 * costs.cost.per_trace:.3f} ms a trace, {1e6 * costs.cost.per_site:.1f} us a site."
    )
    yield (
        f"Sums on two ranks: {1e6 * model.latency:.0f} us, {model.bytes_per_second / 1e9:.2f} GB/s; in the replay "
        f"{1e6 * used.latency:.0f} us and {used.bytes_per_second / 1e9:.2f} GB/s."
    )
    yield (
        f"Bytes that a rank gives to sums: {measured['reduced']:,.0f} measured on two ranks, {measured['dense']:,.0f} "
        "in the replay: the most there can be."
    )


def write_html(path, measured, replayed, facts, args):
    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = ""
    for name, *cells in rows_of(measured, replayed, args.per_rank):
        own = " class=own" if cells[0] == "measured" else ""
        body += f'<tr{own}><th scope="row">{name}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
    notes = "".join(f'<p class="note">{escape(fact)}</p>' for fact in facts)
    page = (
        f'<figure class="card">{draw(measured, replayed)}<figcaption>Points are measured on this machine. Lines are '
        "replayed: measured costs on the plans of larger jobs, and a model of the sum over ranks. No job of more than "
        "two ranks was run.</figcaption></figure>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><br>{notes}'
    )
    lead = f'<p class="lead">Tau decays, {args.per_rank} traces of each rank in a step.</p>'
    write_page(path, render_document("Weak scaling of training", lead, page, "benchmarks/weak_scaling.py"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--launcher", choices=("torch", "mpi"), default="torch")
    parser.add_argument("--per-rank", type=int, default=64, metavar="N", help="traces of each rank in a step")
    parser.add_argument("--traces", type=int, default=4000, metavar="N", help="traces to simulate")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="steps of each measured training, about")
    parser.add_argument("--max-instance", type=int, default=16, metavar="N", help="of the network")
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="of a network, instead of what is measured")
    parser.add_argument("--bandwidth", type=float, metavar="BYTES/S", help="of a network, instead of what is measured")
    parser.add_argument("--measure-sums", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_sums:
        measure_sums(args.measure_sums)
        return
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), args)
        runs = repeat_runs(measured["store"].runs, 8 * RANKS[-1] * args.per_rank)
    costs, model = measured["costs"], measured["model"]
    used = SumModel(
        latency=model.latency if args.latency is None else args.latency,
        bytes_per_second=model.bytes_per_second if args.bandwidth is None else args.bandwidth,
    )
    replayed = replay_weak_scaling(
        runs, costs, used, num_ranks=RANKS, traces_per_rank=args.per_rank, num_bytes=measured["dense"], num_steps=2000
    )
    facts = list(tell(measured, used))
    rows = list(rows_of(measured, replayed, args.per_rank))
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    for row in (HEAD, *rows):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    print(*facts, sep="\n")
    if args.html:
        write_html(args.html, measured, replayed, facts, args)
    if args.json:
        args.json.write_text(json.dumps([dict(zip(HEAD, row, strict=True)) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
