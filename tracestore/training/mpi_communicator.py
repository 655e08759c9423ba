"""A communicator over mpi4py, for jobs that mpiexec or srun has started."""

import logging
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from tracestore._extras import extra
from tracestore.errors import ExecutorError
from tracestore.samplers.world import World

with extra("mpi"):
    import mpi4py

__all__ = ["MPICommunicator"]

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""How long a rank that failed waits for the others to fail, too, before it stops the job."""

_POLL_SECONDS = 0.01
_LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Where MPICH, and Open MPI, say how many processes they have started."""


class MPICommunicator:
    """All ranks of an MPI job; see `tracestore.training.communicator`.

    Sums use the memory of tensors on the processor. Those on a GPU go through a copy on the processor, since few MPI
    libraries read the memory of GPUs: between GPUs, start the job with torchrun.

    MPI has no way to tell the others that one rank fails. A rank that leaves the block with an error therefore waits
    a few seconds for all others to leave it, too. If they do, it lets the error pass; else it prints its error and
    stops the whole job (``MPI_Abort``). What fails before the block is covered by ``mpiexec -n 2 python -m mpi4py
    SCRIPT``.

    Most MPI libraries move bytes only while a process is inside one of their functions: ask a handle whether it is
    done now and then, and the sum goes on meanwhile.

    Raises
    ------
    ExecutorError
        When there is no MPI library, or mpiexec belongs to another one.

    Examples
    --------
    >>> with MPICommunicator() as communicator:
    ...     communicator.gather(b"rows")
    [b'rows']
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI  # starts MPI, which the import of a module must not do
        except (ImportError, RuntimeError) as error:
            message = f"mpi4py {mpi4py.__version__} finds no MPI library: {error}; load or install one, such as MPICH."
            raise ExecutorError(message) from error
        self._mpi: Any = MPI
        self.world = World(MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size())
        self.rank, self.num_ranks = self.world.rank, self.world.num_ranks
        if not self.world.is_distributed:
            _refuse_foreign_launcher()
        self._ranks: Any = MPI.COMM_WORLD.Dup()  # apart from the program's own messages
        self._leavers: Any = MPI.COMM_WORLD.Dup()  # apart from sums that never end because a rank has left

    def sum_(self, tensor: Tensor) -> "_MPIHandle":
        """Begin to sum a contiguous tensor over ranks, in place.

        Raises
        ------
        ExecutorError
            When MPI fails; also when the handle is waited for.
        """
        host = tensor.detach().cpu()  # itself where it is on the processor already
        try:
            request = self._ranks.Iallreduce(self._mpi.IN_PLACE, host.numpy(), op=self._mpi.SUM)
        except self._mpi.Exception as error:
            raise self._failure(error) from error
        return _MPIHandle(self, request, tensor, host)

    def gather(self, payload: bytes) -> list[bytes]:
        """Return the byte strings of all ranks, in the order of ranks.

        Raises
        ------
        ExecutorError
            When MPI fails.
        """
        sizes = np.empty(self.num_ranks, np.int64)
        try:
            self._ranks.Allgather(np.array([len(payload)], np.int64), sizes)
            joined = bytearray(int(sizes.sum()))
            self._ranks.Allgatherv(payload, [joined, sizes.tolist(), None, self._mpi.BYTE])
        except self._mpi.Exception as error:
            raise self._failure(error) from error
        ends = np.cumsum(sizes).tolist()
        return [bytes(joined[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def barrier(self) -> None:
        """Wait until all ranks are here.

        Raises
        ------
        ExecutorError
            When MPI fails.
        """
        try:
            self._ranks.Barrier()
        except self._mpi.Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Wait for the other ranks, then give back what MPI keeps for this object."""
        if self._ranks is not None:
            ranks, self._ranks = self._ranks, None
            self._leavers.Barrier()
            self._leavers.Free()
            ranks.Free()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; with an error, stop the job unless all ranks leave."""
        if error is None or kind is None:
            self.close()
        elif self._ranks is not None and not self._all_leave():
            sys.excepthook(kind, error, traceback)
            logger.error("Rank %d stops the job: the other ranks would wait for it forever.", self.rank)
            sys.stdout.flush()
            sys.stderr.flush()
            self._mpi.COMM_WORLD.Abort(1)
            os._exit(1)  # some libraries return from Abort, and the error would be printed again

    def _all_leave(self) -> bool:
        request = self._leavers.Ibarrier()
        end = time.monotonic() + GRACE_SECONDS
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        self._ranks = None  # sums may have been left behind unfinished: keep them until the process ends
        return True

    def _failure(self, error: Exception) -> ExecutorError:
        message = f"MPI failed on rank {self.rank}: {error}; look for the error of another rank, which comes first."
        return ExecutorError(message, rank=self.rank)


class _MPIHandle:
    """A sum that has begun; `host` is the tensor or its copy on the processor."""

    def __init__(self, communicator: MPICommunicator, request: object, tensor: Tensor, host: Tensor) -> None:
        self._communicator = communicator
        self._request: Any = request
        self._tensor, self._host = tensor, host  # also keeps the memory alive that MPI writes to

    def wait(self) -> None:
        """Return when the tensor holds the sum."""
        try:
            self._request.Wait()
        except self._communicator._mpi.Exception as error:
            raise self._communicator._failure(error) from error
        if self._tensor.device.type != "cpu":
            self._tensor.copy_(self._host)

    def is_done(self) -> bool:
        """Ask without waiting; MPI gets on with the sum."""
        try:
            return bool(self._request.Test())
        except self._communicator._mpi.Exception as error:
            raise self._communicator._failure(error) from error


def _refuse_foreign_launcher() -> None:
    """Each process would think itself alone, and train for itself."""
    launched = max(int(os.environ.get(name, "1")) for name in _LAUNCHED)
    if launched > 1:
        message = (
            f"mpiexec started {launched} processes, but each is alone for the MPI library of mpi4py; use the mpiexec "
            "that belongs to this library."
        )
        raise ExecutorError(message, launched=launched)
