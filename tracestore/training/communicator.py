"""How the ranks of a training job talk: sums of tensors, small byte strings, and nothing else.

The seam between training and the libraries that move bytes. Nothing here knows networks, gradients or steps. The
implementations are `tracestore.training.torch_communicator` and `tracestore.training.mpi_communicator`; the second
needs an extra and is imported when it is asked for.

All ranks call the same operations in the same order, that is the whole contract. A rank that leaves a communicator's
block with an error, alone, ends the job: the others would wait for it forever. When all ranks leave with an error, as
they do for one that they have agreed on, each reports it in the ordinary way.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal, Protocol, Self, cast

import torch
from torch import Tensor

from tracestore.errors import InvalidInputError
from tracestore.samplers.world import World
from tracestore.training.torch_communicator import TorchCommunicator

__all__ = ["Communicator", "CommunicatorKind", "Handle", "SoleProcess", "local_device", "open_communicator"]

CommunicatorKind = Literal["auto", "none", "torch", "mpi"]
"""Who moves the bytes: "auto" goes by the launcher's variables, "none" leaves this process alone."""

_MPI = "tracestore.training.mpi_communicator"
"""Imported late: it needs the extra ``mpi``."""

_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""Where torchrun, Open MPI, MPICH and Slurm say which process of its machine this is."""


class Handle(Protocol):
    """A sum that has begun."""

    def wait(self) -> None:
        """Return when the tensor holds the sum (on an accelerator: when its stream is made to wait for that)."""
        ...

    def is_done(self) -> bool:
        """Ask without waiting; asking also lets some libraries get on with the work."""
        ...


class Communicator(Protocol):
    """The ranks of a job; use it as a context manager.

    Every operation is collective: all ranks call it, in the same order, with tensors of the same shape and type.
    Sums have the same bits on all ranks.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def num_ranks(self) -> int:
        """Processes that train together."""
        ...

    @property
    def world(self) -> World:
        """The place of this process, for samplers."""
        ...

    def sum_(self, tensor: Tensor) -> Handle:
        """Begin to sum a contiguous tensor over ranks, in place; leave it alone until the handle has been waited for.

        Parameters
        ----------
        tensor
            float32, float64, int64, int32 or uint8.
        """
        ...

    def gather(self, payload: bytes) -> list[bytes]:
        """Return the byte strings of all ranks, in the order of ranks; they may differ in length."""
        ...

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        ...

    def close(self) -> None:
        """Leave together with the other ranks."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; with an error, do not wait for other ranks."""
        ...


class SoleProcess:
    """A job of one rank: every operation is done at once.

    Examples
    --------
    >>> with SoleProcess() as communicator:
    ...     communicator.gather(b"rows"), communicator.num_ranks
    ([b'rows'], 1)
    """

    rank = 0
    num_ranks = 1
    world = World()

    def sum_(self, tensor: Tensor) -> Handle:
        """Leave the tensor as it is: it is the sum."""
        return _Done()

    def gather(self, payload: bytes) -> list[bytes]:
        """Return the byte string alone."""
        return [payload]

    def barrier(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let errors pass."""


class _Done:
    """The handle of a sum over one rank."""

    def wait(self) -> None:
        """Return at once."""

    def is_done(self) -> bool:
        """Say yes."""
        return True


def open_communicator(
    kind: CommunicatorKind = "auto", *, device: str | torch.device = "cpu", timeout_seconds: float = 1800.0
) -> Communicator:
    """Open the communicator of this job.

    "auto" uses, in this order: the process group of torch.distributed if the program has initialized one; torch's own
    for processes that torchrun started; mpi4py for processes that mpiexec or srun started. A job of one rank needs
    none of them.

    Parameters
    ----------
    kind
        Who moves the bytes.
    device
        Where the gradients are: on "cuda", torch uses NCCL for them.
    timeout_seconds
        How long torch waits for a rank that is alive but does not answer; MPI waits as long as the rank lives.

    Returns
    -------
    Communicator
        A context manager. See this module for what it does with errors.

    Raises
    ------
    InvalidInputError
        When the launcher's variables are missing or contradict each other, or the device is not there.
    MissingExtraError
        When mpi4py is needed and not installed.
    ExecutorError
        When the ranks do not find each other.

    Examples
    --------
    >>> with open_communicator("none") as communicator:
    ...     communicator.world
    World(rank=0, num_ranks=1, worker_of_rank=0, workers_per_rank=1)
    """
    if kind not in ("auto", "none", "torch", "mpi"):
        message = f"`kind` must be 'auto', 'none', 'torch' or 'mpi'; got {kind!r}."
        raise InvalidInputError(message, argument="kind", found=kind)
    _require_device(device)
    chosen = _launcher_kind() if kind == "auto" else kind
    if chosen == "torch":
        return TorchCommunicator.open(local_device(device), timeout_seconds=timeout_seconds)
    if chosen == "mpi":
        open_mpi = cast("Callable[[], Communicator]", importlib.import_module(_MPI).MPICommunicator)
        return open_mpi()
    return SoleProcess()


def local_device(device: str | torch.device, environment: Mapping[str, str] | None = None) -> torch.device:
    """Give each process of a machine an accelerator of its own: "cuda" becomes "cuda:1" in the second process.

    Parameters
    ----------
    device
        A device; one with a number, and the processor, stay as they are.
    environment
        Variables to read instead of those of this process.

    Raises
    ------
    InvalidInputError
        When the launcher's variable is not a number.

    Examples
    --------
    >>> local_device("cuda", {"LOCAL_RANK": "3"}), local_device("cpu")
    (device(type='cuda', index=3), device(type='cpu'))
    """
    found = torch.device(device)
    if found.type == "cpu" or ":" in str(found):
        return found
    variables = os.environ if environment is None else environment
    name = next((name for name in _LOCAL_RANKS if name in variables), None)
    if name is None:
        return torch.device(found.type, 0)
    if not variables[name].isdecimal():
        message = f"The variable {name} must be a whole number; got {variables[name]!r}."
        raise InvalidInputError(message, variable=name)
    return torch.device(found.type, int(variables[name]))


def _require_device(device: str | torch.device) -> None:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        message = f"There is no device {device!r}; use cpu, cuda, or cuda with a number such as cuda:1."
        raise InvalidInputError(message, device=str(device)) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        message = f"The device {device!s} is not there: this torch, or this machine, has no CUDA; use cpu."
        raise InvalidInputError(message, device=str(device))


def _launcher_kind() -> CommunicatorKind:
    if TorchCommunicator.is_initialized():
        return "torch"
    if not World.from_environment().is_distributed:
        return "none"
    # as for World, torchrun is the innermost launcher: its processes may live in an allocation that srun started
    if "WORLD_SIZE" in os.environ or not any(name in os.environ for name in _MPI_SIZES):
        return "torch"
    return "mpi"
