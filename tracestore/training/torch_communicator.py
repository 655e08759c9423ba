"""A communicator over torch.distributed: gloo between processors, NCCL between GPUs."""

import datetime as dt
import os
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Self

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from tracestore.errors import ExecutorError, InvalidInputError
from tracestore.samplers.world import World

__all__ = ["TorchCommunicator"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells its processes."""


class TorchCommunicator:
    """The ranks of a process group of torch.distributed; see `tracestore.training.communicator`.

    A group that the program has initialized is used and left as it is. One that `open` made is destroyed at the end;
    after an error this is done at once, which breaks the connections, and the other ranks fail in their next sum
    instead of waiting.

    Tensors on a device that the group has no backend for go through a copy on a device that it has.

    Examples
    --------
    >>> TorchCommunicator.is_initialized()
    False
    """

    _num_opened: ClassVar[int] = 0
    """Groups that this process has opened so far, the same number on all ranks."""

    def __init__(self, *, owns_group: bool) -> None:
        self._owns_group = owns_group
        self.world = World(distributed.get_rank(), distributed.get_world_size())
        self.rank, self.num_ranks = self.world.rank, self.world.num_ranks
        backends = str(distributed.get_backend_config())  # such as "cpu:gloo,cuda:nccl"
        self._devices = [part.split(":")[0] for part in backends.split(",")]

    @staticmethod
    def is_initialized() -> bool:
        """Whether the program has a process group already."""
        return distributed.is_available() and distributed.is_initialized()

    @classmethod
    def open(cls, device: torch.device, *, timeout_seconds: float) -> Self:
        """Use the process group of the program, or make one of torchrun's variables.

        Parameters
        ----------
        device
            Where the gradients are; a GPU becomes the process's current one.
        timeout_seconds
            How long to wait for a rank that does not answer.

        Raises
        ------
        InvalidInputError
            When torchrun's variables are missing, or the device is not there.
        ExecutorError
            When the ranks do not find each other.
        """
        if cls.is_initialized():
            return cls(owns_group=False)
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            message = (
                f"torch.distributed needs the variables of torchrun; {', '.join(missing)} missing: start the program "
                "with `torchrun --nproc-per-node 2`, or initialize a process group."
            )
            raise InvalidInputError(message, missing=tuple(missing))
        backend = "gloo"
        if device.type == "cuda":
            if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
                message = (
                    f"Rank {os.environ['RANK']} should use {device}, but this machine has "
                    f"{torch.cuda.device_count()} GPUs; start as many processes on it as it has GPUs."
                )
                raise InvalidInputError(message, device=str(device))
            torch.cuda.set_device(device)  # NCCL takes the current device
            backend = "cpu:gloo,cuda:nccl"
        timeout = dt.timedelta(seconds=timeout_seconds)
        try:
            store, rank, num_ranks = next(rendezvous("env://", timeout=timeout))
            # a group of an earlier training has left its addresses in the store
            store = PrefixStore(f"tracestore-{cls._num_opened}", store)
            distributed.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=timeout)
        except (RuntimeError, ValueError) as error:
            message = (
                f"Rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} does not find the others at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {error}; check that all have been started."
            )
            raise ExecutorError(message, rank=os.environ["RANK"]) from error
        cls._num_opened += 1
        return cls(owns_group=True)

    def sum_(self, tensor: Tensor) -> "_TorchHandle":
        """Begin to sum a contiguous tensor over ranks, in place.

        Raises
        ------
        ExecutorError
            When another rank is gone; also when the handle is waited for.
        """
        there = tensor if tensor.device.type in self._devices else tensor.to(self._devices[0])
        work = self._call(lambda: distributed.all_reduce(there, async_op=True))
        assert work is not None  # it is None only for ranks outside the group
        return _TorchHandle(self, work, tensor, there)

    def gather(self, payload: bytes) -> list[bytes]:
        """Return the byte strings of all ranks, in the order of ranks.

        Raises
        ------
        ExecutorError
            When another rank is gone.
        """
        sizes = torch.zeros(self.num_ranks, dtype=torch.int64)
        sizes[self.rank] = len(payload)
        self.sum_(sizes).wait()
        together = torch.zeros(int(sizes.sum()), dtype=torch.uint8)
        places = torch.split(together, sizes.tolist())
        if payload:
            places[self.rank].copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        # each byte is zero on all ranks but one, so that the sum joins the pieces
        self.sum_(together).wait()
        return [place.numpy().tobytes() for place in places]

    def barrier(self) -> None:
        """Wait until all ranks are here.

        Raises
        ------
        ExecutorError
            When another rank is gone.
        """
        self.sum_(torch.zeros(1, dtype=torch.int64)).wait()

    def close(self) -> None:
        """Wait for the other ranks, then destroy the process group if it was made here.

        Raises
        ------
        ExecutorError
            When another rank is gone.
        """
        if self._owns_group:
            self._owns_group = False
            try:
                self.barrier()  # rank 0 may hold the meeting point of the others
            finally:
                distributed.destroy_process_group()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; with an error, break the connections."""
        if error is None:
            self.close()
        elif self._owns_group:
            self._owns_group = False
            if "cuda" not in self._devices:  # NCCL would wait for what it has begun; the end of the process stops it
                distributed.destroy_process_group()

    def _call(self, operation: Callable[[], "distributed.Work | None"]) -> "distributed.Work | None":
        try:
            return operation()
        except RuntimeError as error:
            message = (
                f"Rank {self.rank} has lost another rank, or waited for it in vain: {error}; look for that rank's own "
                "error, which comes first."
            )
            raise ExecutorError(message, rank=self.rank) from error


class _TorchHandle:
    """A sum that has begun; `there` is the tensor or its copy where the backend works."""

    def __init__(
        self, communicator: TorchCommunicator, work: "distributed.Work", tensor: Tensor, there: Tensor
    ) -> None:
        self._communicator = communicator
        self._work = work
        self._tensor, self._there = tensor, there

    def wait(self) -> None:
        """Return when the tensor holds the sum."""
        self._communicator._call(self._finish)

    def is_done(self) -> bool:
        """Ask without waiting."""
        return self._work.is_completed()

    def _finish(self) -> None:
        self._work.wait()
        if self._there is not self._tensor:
            self._tensor.copy_(self._there)
            self._there = self._tensor
