"""Programs that several ranks run together, and how the tests start them; this file is also the script of each rank."""

import contextlib
import functools
import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tracestore.errors import InvalidInputError, MissingExtraError, RankMismatchError
from tracestore.networks.tables import Table
from tracestore.traces.layout import Site, SiteKind
from tracestore.training.agreement import agree_on_sites, require_same
from tracestore.training.communicator import Communicator, SoleProcess, open_communicator
from tracestore.training.gradient_sync import GradientSync

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
TIMEOUT_SECONDS = 120
JOBS = [("torch", 2), ("torch", 3), ("mpi", 2), ("mpi", 3)]
"""Who moves the bytes, and how many ranks."""


def start_ranks(kind: str, num_ranks: int, program: str, folder: Path) -> list[tuple[int, str, str]]:
    """Run a program of this file; exit status, stdout and stderr of each rank, or of the whole job for MPI."""
    return _start_mpi(num_ranks, program, folder) if kind == "mpi" else _start_torch(num_ranks, program, folder)


def run_ranks(kind: str, num_ranks: int, program: str, folder: Path) -> list[Any]:
    """Run a program of this file that ends well; what it returned on each rank."""
    ended = start_ranks(kind, num_ranks, program, folder)
    assert all(status == 0 for status, _, _ in ended), "\n".join(errors for _, _, errors in ended)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num_ranks)]


@functools.cache
def run_good_programs(kind: str, num_ranks: int) -> list[dict[str, Any]]:
    """Run all that ends well, once for all tests of this process: to start Python and torch takes the longest."""
    with tempfile.TemporaryDirectory() as folder:
        return run_ranks(kind, num_ranks, "good_programs", Path(folder))


def _start_mpi(num_ranks: int, program: str, folder: Path) -> list[tuple[int, str, str]]:
    pytest.importorskip("mpi4py")
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed")
    done = subprocess.run(
        [str(MPIEXEC), "-n", str(num_ranks), sys.executable, __file__, program, str(folder)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    return [(done.returncode, done.stdout, done.stderr)]


def _start_torch(num_ranks: int, program: str, folder: Path) -> list[tuple[int, str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # ranks are forks of one process that has loaded this file and done nothing else
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ranks = [
        context.Process(target=_be_rank, args=(program, folder, {**common, "RANK": str(rank)}))
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    end = time.monotonic() + TIMEOUT_SECONDS
    for process in ranks:
        process.join(max(end - time.monotonic(), 0.1))
    hanging = [rank for rank, process in enumerate(ranks) if process.exitcode is None]
    for rank in hanging:
        ranks[rank].kill()
        ranks[rank].join()
    said = [((folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text()) for rank in range(num_ranks)]
    assert not hanging, f"ranks {hanging} hang\n{said}"
    return [(process.exitcode or 0, *texts) for process, texts in zip(ranks, said, strict=True)]


def _be_rank(program: str, folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    for stream, name in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{environment['RANK']}.{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
    main(program, str(folder))


# -------------------------------------------------------------------------------------------------------- communication


def talk(communicator: Communicator) -> dict[str, Any]:
    rank, num_ranks = communicator.rank, communicator.num_ranks
    result: dict[str, Any] = {"world": (communicator.world.rank, communicator.world.num_ranks)}
    for dtype in (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8):
        tensor = torch.arange(5, dtype=dtype) * (rank + 1)
        communicator.sum_(tensor).wait()
        result[str(dtype)] = tensor
    tensors = [torch.full((1000 * (index + 1),), 10.0**index) for index in range(4)]
    handles = [communicator.sum_(tensor) for tensor in tensors]
    communicator.gather(b"between")
    result["asking"] = all(isinstance(handle.is_done(), bool) for handle in handles)
    for handle in reversed(handles):
        handle.wait()
    result["in flight"] = [tensor.unique() for tensor in tensors]
    result["part"] = torch.ones(6)
    communicator.sum_(result["part"][2:4]).wait()
    numbers = torch.rand(100_001, generator=torch.Generator().manual_seed(rank)) - 0.5
    communicator.sum_(numbers).wait()
    result["bits"] = numbers
    result["gather"] = [payload.hex() for payload in communicator.gather(bytes(range(rank * 3)))]
    result["gather nothing"] = [len(payload) for payload in communicator.gather(b"")]
    communicator.barrier()
    result["order"] = [payload.decode() for payload in communicator.gather(f"rank {rank} of {num_ranks}".encode())]
    return result


def agree(communicator: Communicator) -> dict[str, Any]:
    rank, last = communicator.rank, communicator.num_ranks - 1
    require_same(communicator, {"torch": "2.13.0", "snapshot": "9f"})
    result: dict[str, Any] = {}
    facts = {"tracestore": "0.2.0", "config": f"hash of {min(rank, 1)}", "torch": "2.13.0"}
    if rank == last:
        facts["extra"] = "here"
    try:
        require_same(communicator, facts)
    except RankMismatchError as error:
        result["mismatch"] = str(error)
        result["different"] = error.fields["different"]
    result["none"] = agree_on_sites(communicator, [])
    sites = {
        0: [raw("f~Uniform#11"), raw("b~Normal#1", name="mu", family="Normal")],
        1: [raw("f~Uniform#2"), raw("f~Uniform#11"), raw("v~Normal#1", shape=(2, 3), num_parameters=12)],
    }.get(rank, [])
    result["sites"] = [site.record for site in agree_on_sites(communicator, sites)]
    result["by base"] = [site.record for site in agree_on_sites(communicator, sites, key=lambda site: site.base)]
    only_last = [raw("late~Uniform#1")] if rank == last else []
    result["one rank"] = [site.address for site in agree_on_sites(communicator, only_last)]
    return result


def raw(address: str, *, name="", family="Uniform", shape=(), num_parameters=2) -> Site:
    return Site(address, SiteKind.SAMPLE, True, name, family, shape, num_parameters)


# -------------------------------------------------------------------------------------------------------------- errors


def fail_alone(communicator: Communicator) -> None:
    if communicator.rank == 1:
        message = "this rank alone"
        raise ValueError(message)
    communicator.sum_(torch.ones(3)).wait()


def fail_in_the_middle(communicator: Communicator) -> None:
    """The sum of one rank is under way when another one fails."""
    handle = communicator.sum_(torch.ones(3_000_000))
    if communicator.rank == 1:
        message = "this rank alone"
        raise ValueError(message)
    handle.wait()
    communicator.barrier()


def fail_together(communicator: Communicator) -> None:
    require_same(communicator, {"torch": f"2.{communicator.rank}"})


def vanish(communicator: Communicator) -> None:
    """A rank that is killed says nothing."""
    if communicator.rank == 1:
        os._exit(3)
    communicator.sum_(torch.ones(3)).wait()


# ----------------------------------------------------------------------------------------------------------- gradients


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = Table(4, 2)
        self.bias = Table(2)


class SmallNetwork(nn.Module):
    """Tables and layers, each of which a minibatch may leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.observation = nn.Linear(3, 4)
        self.value = Table(4)
        self.core = nn.Linear(4, 4)
        self.rare = nn.Linear(4, 1)
        self.heads = Heads()
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.grow(7)

    def grow(self, num_rows: int) -> None:
        for table in (self.value, self.heads.weight, self.heads.bias):
            start = len(table)
            rows = torch.arange(start, start + num_rows).float().view(-1, 1)
            table.append(0.1 * torch.sin(rows + torch.arange(float(table.weight.shape[1]))))

    def loss(self, batch: "Minibatch") -> Tensor:
        """The sum over sites of what the chosen parts compute."""
        x = batch.x
        if "observation" in batch.parts:
            x4 = torch.tanh(self.observation(x))
        else:
            x4 = torch.cat([x, x[:, :1]], dim=1)
        if "value" in batch.parts:
            x4 = x4 + self.value(batch.rows)
        if "core" in batch.parts:
            x4 = torch.tanh(self.core(x4))
        total = x4.square().sum()
        if "heads" in batch.parts:
            weight, bias = self.heads.weight(batch.rows), self.heads.bias(batch.rows)
            total = total + torch.einsum("pi,pio->po", x4, weight).add(bias).square().sum()
        if "rare" in batch.parts:
            total = total + self.rare(x4).square().sum()
        return total

    def touched(self, batches: "list[Minibatch]") -> dict[str, Tensor]:
        touched = {}
        for name, part in (("value", "value"), ("heads.weight", "heads"), ("heads.bias", "heads")):
            rows = [batch.rows for batch in batches if part in batch.parts]
            if rows:
                touched[f"{name}.weight"] = torch.cat(rows).unique()
        return touched


SEGMENTS = (("heads.",), ("rare.", "core."), ("value.", "observation."))
ALL_PARTS = ("observation", "value", "core", "heads", "rare")


@dataclass
class Minibatch:
    rows: Tensor
    x: Tensor
    parts: tuple[str, ...] = ALL_PARTS


@dataclass
class Step:
    ranks: list[list[Minibatch]]
    """The minibatches of each rank."""
    new_rows: int = 0
    """By how much the network grows before."""
    set_to_none: bool = True


def minibatch(rows: list[int], seed: int, parts: tuple[str, ...] = ALL_PARTS) -> Minibatch:
    x = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(seed))
    return Minibatch(torch.tensor(rows), x, parts)


def scenario(name: str, num_ranks: int) -> list[Step]:
    """The steps of a scenario: a pure function, the same on every rank and in the test."""
    ranks = range(num_ranks)
    without = tuple(part for part in ALL_PARTS if part not in ("core", "rare", "heads"))
    match name:
        case "all rows on all ranks":
            return [Step([[minibatch([0, 1, 2, 3, 4, 5, 6, 6], rank)] for rank in ranks])]
        case "disjoint rows":
            return [Step([[minibatch([rank, rank, 3 + rank], rank)] for rank in ranks])]
        case "one rank without traces":
            return [Step([[minibatch([2, 5], 1)] if rank == 0 else [] for rank in ranks])]
        case "no traces at all":
            return [Step([[] for _ in ranks])]
        case "one rank lacks parameters":
            return [Step([[minibatch([1, 4], rank, without if rank == 0 else ALL_PARTS)] for rank in ranks])]
        case "all ranks lack parameters":
            return [Step([[minibatch([1, 4], rank, without)] for rank in ranks])]
        case "new rows between steps":
            return [
                Step([[minibatch([0, 6, rank], 10 * rank + number)] for rank in ranks], new_rows=new)
                for number, new in enumerate((0, 3, 0, 60))
            ] + [Step([[minibatch([69, 8 + rank], rank)] for rank in ranks])]
        case "several minibatches a step":
            # the parts of the first have no gradient in the last
            first = [minibatch([0, 3], 5), minibatch([3, 3], 6, ("heads",))]
            return [Step([[*first[: 1 + rank], minibatch([rank, 6], rank, ("observation",))] for rank in ranks])]
        case "gradients set to zero":
            return [
                Step([[minibatch([number, rank], 7 * rank + number)] for rank in ranks], set_to_none=False)
                for number in range(4)
            ]
    seed = int(name.removeprefix("random "))
    return random_steps(seed, num_ranks)


def random_steps(seed: int, num_ranks: int) -> list[Step]:
    generator = torch.Generator().manual_seed(seed)

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    steps, num_rows = [], 7
    for _ in range(25):
        new_rows = draw(6) if draw(5) == 0 else 0
        num_rows += new_rows
        ranks = []
        for _ in range(num_ranks):
            batches = []
            for _ in range(draw(4)):
                parts = tuple(part for part in ALL_PARTS if draw(3))
                batches.append(minibatch([draw(num_rows) for _ in range(1 + draw(6))], draw(1_000_000), parts))
            ranks.append(batches)
        steps.append(Step(ranks, new_rows))
    return steps


SCENARIOS = (
    "all rows on all ranks",
    "disjoint rows",
    "one rank without traces",
    "no traces at all",
    "one rank lacks parameters",
    "all ranks lack parameters",
    "new rows between steps",
    "several minibatches a step",
    "gradients set to zero",
    *(f"random {seed}" for seed in range(4)),
)


def follow(steps: list[Step], communicator: Communicator, which: Callable[[Step], list[Minibatch]]) -> list[Any]:
    """Train for some steps; the gradients of each, dense, and which rows those of tables have."""
    torch.manual_seed(1)
    network = SmallNetwork()
    sync = GradientSync(network, communicator, segments=SEGMENTS)
    recorded = []
    for step in steps:
        if step.new_rows:
            network.grow(step.new_rows)
        network.zero_grad(set_to_none=step.set_to_none)
        recorded.append(train_step(network, sync, which(step)))
    return recorded


def train_step(network: SmallNetwork, sync: GradientSync, batches: list[Minibatch]) -> dict[str, Any]:
    first, last = batches[:-1], batches[-1] if batches else None
    statistics = torch.tensor([0.0, 0.0], dtype=torch.float64)
    for batch in first:
        loss = network.loss(batch)
        statistics += torch.tensor([loss.item(), len(batch.rows)], dtype=torch.float64)
        if loss.requires_grad:
            loss.backward()
    sync.begin(network.touched(batches))
    if last is not None:
        loss = network.loss(last)
        statistics += torch.tensor([loss.item(), len(last.rows)], dtype=torch.float64)
        sync.backward(loss)
    statistics = sync.finish(statistics)
    result: dict[str, Any] = {"statistics": statistics}
    for name, parameter in network.named_parameters():
        grad = parameter.grad
        if grad is not None and grad.is_sparse:
            result[f"rows of {name}"] = grad.coalesce().indices()[0]
        result[name] = None if grad is None else grad.to_dense().clone()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad.to_dense())
    result["weights"] = [parameter.detach().clone() for parameter in network.parameters()]
    record = sync.record
    result["bytes"] = (record.reduced_bytes, record.dense_bytes)
    result["seconds"] = (record.waited_seconds, record.total_seconds)
    return result


def follow_all(communicator: Communicator) -> dict[str, Any]:
    rank, num_ranks = communicator.rank, communicator.num_ranks
    return {name: follow(scenario(name, num_ranks), communicator, lambda step: step.ranks[rank]) for name in SCENARIOS}


def follow_alone(name: str, num_ranks: int) -> list[Any]:
    """The same steps in one process, which has the minibatches of all ranks."""
    everything = lambda step: [batch for batches in step.ranks for batch in batches]  # noqa: E731
    return follow(scenario(name, num_ranks), SoleProcess(), everything)


def different_networks(communicator: Communicator) -> str:
    network = SmallNetwork()
    network.grow(1 + communicator.rank)
    try:
        GradientSync(network, communicator).begin({})
    except RankMismatchError as error:
        return str(error)
    return "nothing"


def undeclared_rows(communicator: Communicator) -> dict[str, str]:
    result = {}
    network = SmallNetwork()
    sync = GradientSync(network, communicator, segments=SEGMENTS)
    for case, declared in (("no row", []), ("other rows", [1, 5])):
        sync.begin({"value.weight": torch.tensor(declared, dtype=torch.int64)})
        if communicator.rank == 0:
            sync.backward(network.value(torch.tensor([1, 2, 6])).sum())
        try:
            sync.finish(torch.zeros(1, dtype=torch.float64))
        except InvalidInputError as error:
            result[case] = str(error)
        network.zero_grad()
    return result


def good_programs(communicator: Communicator) -> dict[str, Any]:
    programs = (talk, agree, follow_all, different_networks, undeclared_rows)
    return {program.__name__: program(communicator) for program in programs}


PROGRAMS: dict[str, Callable[[Communicator], Any]] = {
    program.__name__: program for program in (good_programs, fail_alone, fail_in_the_middle, fail_together, vanish)
}


def main(program: str, folder: str) -> None:
    torch.set_num_threads(1)
    with contextlib.suppress(MissingExtraError):
        vars(importlib.import_module("tracestore.training.mpi_communicator"))["GRACE_SECONDS"] = 1.0
    with open_communicator(timeout_seconds=60) as communicator:
        result = PROGRAMS[program](communicator)
        torch.save(result, Path(folder) / f"{communicator.rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
