"""A store of what was simulated for a training: every trace once, whatever was interrupted.

Ranks write their shares while they train. What a killed job had not sealed, or had trained on but not written, is made
again at the end: traces are a function of their stream.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from tracestore.execution.ahead import AheadWorkers
from tracestore.execution.generate import simulate_job
from tracestore.simulators.base import Simulator
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch
from tracestore.training.communicator import Communicator
from tracestore.training.simulated_source import OnlinePlan, Stretch

if TYPE_CHECKING:
    from tracestore.store.writer import StoreWriter

__all__ = ["SimulatedStore"]


class SimulatedStore:
    """One rank's part in writing a store; a context manager that publishes what was kept, also on errors.

    Parameters
    ----------
    path
        The store. It is that of `tracestore.simulate` with the same seed, number of traces and chunk size.
    program
        The simulator.
    plan
        Says how streams are cut into chunks.
    seed, max_sites
        As in `tracestore.simulate`.
    communicator
        The ranks; all make this object together.

    Raises
    ------
    StoreExistsError
        When the path holds another job's store; names the field that differs.
    """

    def __init__(
        self,
        path: StorePath,
        program: Simulator,
        plan: OnlinePlan,
        *,
        seed: int,
        max_sites: int,
        communicator: Communicator,
    ) -> None:
        job = simulate_job(
            program, plan.num_traces, seed=seed, max_sites=max_sites, chunk_size=min(plan.chunk_size, plan.num_traces)
        )
        if communicator.rank == 0:
            TraceStore.open_or_create(path, job)
        communicator.barrier()
        self.store = TraceStore.open_or_create(path, job)
        self._plan, self._communicator = plan, communicator
        self._completed = self.store.completed_work()
        self._writer: StoreWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.publish()

    def keep(self, batch: TraceBatch, chunks: range) -> None:
        """Write whole chunks, unless they are written already.

        Parameters
        ----------
        batch
            Their traces, in order.
        chunks
            Their numbers.
        """
        new = [chunk for chunk in chunks if chunk not in self._completed]
        if not new:
            return
        if len(new) < len(chunks):
            size = self._plan.chunk_size
            batch = TraceBatch.concatenate(
                [batch.take(range((chunk - chunks.start) * size, self._end(chunk, chunks))) for chunk in new]
            )
        if self._writer is None:
            self._writer = self.store.writer()
        self._writer.append(batch, work=new)
        self._completed.update(new)

    def publish(self) -> None:
        """Seal what was kept, so that readers see it."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()  # only whole chunks were kept

    def complete(self, stream: int, crew: AheadWorkers[Stretch, TraceBatch]) -> None:
        """Write what is missing of the chunks before a stream; all ranks call this together.

        Parameters
        ----------
        stream
            Where a step begins, or the end.
        crew
            Makes the traces.
        """
        self.publish()
        self._communicator.barrier()
        self._completed = self.store.completed_work()  # of all ranks
        mine = [
            chunk
            for chunk in self._plan.chunks_before(stream)
            if chunk not in self._completed and chunk % self._communicator.num_ranks == self._communicator.rank
        ]
        for chunk, batch in zip(mine, crew.results(map(self._plan.chunk, mine)), strict=True):
            self.keep(batch, range(chunk, chunk + 1))
        self.publish()
        self._communicator.barrier()
        if self._communicator.rank == 0:
            self.store.fold()

    def _end(self, chunk: int, chunks: range) -> int:
        """Return where a chunk ends among the rows of a stretch."""
        start = self._plan.chunk(chunks.start).first
        stretch = self._plan.chunk(chunk)
        return stretch.first + stretch.num_traces - start
