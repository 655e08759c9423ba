"""Chunks as tasks for any executor: which go together, how a worker finds the simulator, how traces are committed.

Tasks are idempotent. A piece of traces is committed under an id that always stands for the same work: that of its
first chunk, and of the chunk at which the stretch ends. So a task that runs twice, or on two workers at once, counts
once, and what was committed is not made again. Must not know where tasks run.
"""

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Protocol

from tracestore.errors import InvalidInputError, SimulatorError, StoreError, TracestoreError
from tracestore.events import Observer
from tracestore.execution.workers import Chunk, ChunkProgress
from tracestore.executors import Executor
from tracestore.formats.base import CodecChoice
from tracestore.formats.document import digest
from tracestore.simulators.base import Simulator
from tracestore.simulators.catalog import resolve
from tracestore.storage import Storage
from tracestore.store.commit import CommittedSegment, commit_segment, find_committed
from tracestore.store.job import Job
from tracestore.store.trace_store import TraceStore
from tracestore.traces.batch import TraceBatch

__all__ = [
    "ImportableSimulator",
    "Recipe",
    "StretchTask",
    "plan_stretches",
    "run_stretches",
    "segment_limit",
]

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 2**30
"""Buffered traces that make a segment, as in writers."""

_WRITING_FACTOR = 8
"""A worker needs up to this many times the bytes of its traces while it writes them."""

_FEW_TASKS, _MOST_TASKS, _JOINED_CHUNKS = 64, 1024, 4

_SEEN: dict[str, tuple[object, str]] = {}
"""Fingerprint of each simulator when it was first used here: a file may change after it was imported."""


@dataclass(frozen=True, slots=True)
class ImportableSimulator:
    """A simulator as it goes to workers: by name."""

    spec: str
    """``module:object``, for `resolve`."""
    name: str
    fingerprint: str

    @staticmethod
    def of(program: Simulator) -> "ImportableSimulator":
        """Find the name by which a simulator is imported.

        Parameters
        ----------
        program
            The simulator.

        Raises
        ------
        InvalidInputError
            When importing no name gives this very simulator.

        Examples
        --------
        >>> from tracestore.simulators.toys import gum
        >>> ImportableSimulator.of(gum).spec
        'tracestore.simulators.toys:gum'
        """
        function = program.function
        qualified = f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', '?')}"
        for spec in dict.fromkeys((program.name, qualified)):
            if _gives(spec, program):
                return ImportableSimulator(spec, program.name, program.fingerprint)
        message = (
            f"An executor's workers import the simulator by name, but {program.name!r} is {_what_is_wrong(qualified)}; "
            "put it into a module that workers can import, or give `workers=` instead of `executor=`."
        )
        raise InvalidInputError(message, argument="simulator", found=program.name)

    def load(self) -> Simulator:
        """Import the simulator where this runs.

        Raises
        ------
        SimulatorError
            When it cannot be imported here, or its code differs.
        """
        try:
            found = resolve(self.spec)
        except Exception as error:  # whatever a user's module raises
            message = (
                f"A worker cannot import the simulator {self.spec!r}: {type(error).__name__}: {error} "
                "Put its module where workers can import it, or give `workers=` instead of `executor=`."
            )
            raise SimulatorError(message, simulator=self.spec) from error
        program = copy(found)
        program.name = self.name
        function, fingerprint = _SEEN.get(self.spec, (None, ""))
        if function is not program.function:
            fingerprint = program.fingerprint
            _SEEN[self.spec] = program.function, fingerprint
        if fingerprint != self.fingerprint:
            message = (
                f"A worker has other code of the simulator {self.spec!r}: its fingerprint is {fingerprint} there and "
                f"{self.fingerprint} in this call; give workers the same code, restart those that imported it earlier, "
                "and repeat the call."
            )
            raise SimulatorError(message, simulator=self.spec, found=fingerprint, expected=self.fingerprint)
        return program


def _gives(spec: str, program: Simulator) -> bool:
    if _what_is_wrong(spec) != _OTHER:
        return False
    try:
        found = resolve(spec)
    except (TracestoreError, ImportError):
        return False
    if found is program or found.function is program.function:
        return True
    # a module that was imported again has equal functions; what closures hold is not in their source
    plain = getattr(program.function, "__code__", None) is not None and not program.function.__closure__
    return plain and (found.name, found.fingerprint) == (program.name, program.fingerprint)


_OTHER = "not what its name imports"


def _what_is_wrong(spec: str) -> str:
    module, _, path = spec.partition(":")
    if "<lambda>" in path:
        return "a lambda"
    if "<locals>" in path:
        return "defined inside another function"
    return f"defined in {module}" if module in ("__main__", "__mp_main__") else _OTHER


class Recipe(Protocol):
    """How the traces of a chunk are made, wherever it is done; travels pickled."""

    def make(self, program: Simulator, chunk: Chunk) -> TraceBatch:
        """Make the traces of a chunk: a function of the program, the recipe and the chunk."""


def plan_stretches(chunks: Sequence[Chunk], completed: Collection[int]) -> list[tuple[Chunk, ...]]:
    """Put consecutive chunks that are left into tasks. Pure.

    Chunks go into groups of equal size, counted from the first chunk of the job whatever is left of it, so that a
    repeated call cuts at the same places. Up to 64 chunks are groups of their own; then up to four go together, and
    more only where the groups would be more than 1,024: tasks enough for a thousand workers, and not too many
    segments. A group out of which something is done already gives a task for each stretch that is left.

    Parameters
    ----------
    chunks
        All chunks of the job, in order.
    completed
        Numbers of those that are done.

    Examples
    --------
    >>> from tracestore.execution.workers import plan_chunks
    >>> [[chunk.index for chunk in stretch] for stretch in plan_stretches(plan_chunks(5, 1), {1})]
    [[0], [2], [3], [4]]
    >>> stretches = plan_stretches(plan_chunks(15_000_000), set())
    >>> len(stretches), len(stretches[0])
    (1011, 58)
    """
    size = max(min(_JOINED_CHUNKS, math.ceil(len(chunks) / _FEW_TASKS)), math.ceil(len(chunks) / _MOST_TASKS))
    stretches: list[list[Chunk]] = []
    for place, chunk in enumerate(chunks):
        if chunk.index in completed:
            continue
        if place % size and stretches and stretches[-1][-1].index == chunk.index - 1:
            stretches[-1].append(chunk)
        else:
            stretches.append([chunk])
    return [tuple(stretch) for stretch in stretches]


def segment_limit(executor: Executor) -> int:
    """Bytes of traces that a worker keeps before it writes them: 1 GiB, less where memory is limited."""
    limit = executor.memory_limit
    return _SEGMENT_BYTES if limit is None else max(1, min(_SEGMENT_BYTES, limit // _WRITING_FACTOR))


@dataclass(frozen=True, slots=True)
class StretchTask:
    """Makes the traces of a stretch of chunks and commits them; runs on any worker, as often as asked."""

    storage: Storage
    backend: str
    codec: CodecChoice
    job: Job | None
    """What the store counts work for."""
    program: ImportableSimulator
    recipe: Recipe
    segment_bytes: int
    identity: str
    """Everything else that the traces depend on, the recipe included."""
    attempt: int = 0

    @staticmethod
    def into(
        store: TraceStore, program: ImportableSimulator, recipe: Recipe, *, segment_bytes: int, identity: str
    ) -> "StretchTask":
        """Task function for a store.

        Parameters
        ----------
        store
            Destination.
        program
            The simulator.
        recipe
            How its traces are made.
        segment_bytes
            Buffered traces that make a segment.
        identity
            Tells recipes apart, and calls whose chunks have the same numbers.
        """
        return StretchTask(
            store.storage,
            store.backend,
            store.identity.codec,
            store.job,
            program,
            recipe,
            segment_bytes,
            identity,
        )

    @property
    def prefix(self) -> str:
        """Common part of the ids of this call's segments, 16 hexadecimal digits."""
        job = None if self.job is None else self.job.hash
        facts = (job, self.program, self.segment_bytes, self.identity, self.attempt)
        return digest(repr(facts).encode())[:16]

    def __call__(self, stretch: tuple[Chunk, ...]) -> tuple[int, int, int]:
        """Commit what is not committed yet; traces, failed ones, and bytes of all of it."""
        program = self.program.load()
        prefix, end = self.prefix, stretch[-1].index + 1
        place = num_failed = nbytes = 0
        while place < len(stretch):
            segment_id = f"{prefix}-{stretch[place].index:010d}-{end:010d}"
            found = find_committed(self.storage, segment_id)
            if found is None:
                found = self._commit(segment_id, program, stretch[place:])
            # all chunks are of one size but the last one of the job
            place += math.ceil(found.num_traces / stretch[place].num_traces)
            num_failed += found.num_failed
            nbytes += found.nbytes
        return sum(chunk.num_traces for chunk in stretch), num_failed, nbytes

    def _commit(self, segment_id: str, program: Simulator, chunks: tuple[Chunk, ...]) -> CommittedSegment:
        batches = list(self._make(program, chunks))
        work = [chunk.index for chunk, _ in zip(chunks, batches, strict=False)]
        return commit_segment(self.storage, self.backend, self.job, segment_id, batches, work=work, codec=self.codec)

    def _make(self, program: Simulator, chunks: tuple[Chunk, ...]) -> Iterator[TraceBatch]:
        """Yield a batch for each chunk until the segment is full: a function of the first chunk, no clock decides."""
        num_bytes = 0
        for chunk in chunks:
            batch = self.recipe.make(program, chunk)
            yield batch
            num_bytes += batch.nbytes
            if num_bytes >= self.segment_bytes:
                return


def run_stretches(
    store: TraceStore,
    chunks: Sequence[Chunk],
    task: StretchTask,
    *,
    executor: Executor,
    observer: Observer | None = None,
    phase: str = "simulate",
) -> None:
    """Run the chunks that the store does not hold yet on an executor, and publish their traces.

    Parameters
    ----------
    store
        Destination; its completed work says which chunks are left.
    chunks
        All chunks of the job.
    task
        What a worker does.
    executor
        Where it does it.
    observer
        Told of progress.
    phase
        Name of the phase in progress events.

    Raises
    ------
    SimulatorError
        When a worker has no such simulator.
    ExecutorError
        When workers die.
    StoreError
        When another call keeps committing the same chunks, cut in another way.
    """
    store.fold()
    completed = store.completed_work()
    left = [chunk for chunk in chunks if chunk.index not in completed]
    progress = ChunkProgress(phase, chunks, left, observer)
    while left:
        # work that was set aside is done anew under other ids: those of receipts that do not count are taken
        key = None if store.job is None else store.job.hash
        attempt = sum(commit.set_aside and commit.job == key for commit in store.manifest.commits)
        try:
            for counts in executor.run(replace(task, attempt=attempt), plan_stretches(chunks, completed), label=phase):
                progress.advance(*counts)
        finally:
            store.fold()  # what workers committed stays, whatever happened
        completed = store.completed_work()
        before, left = len(left), [chunk for chunk in chunks if chunk.index not in completed]
        if len(left) >= before:
            message = (
                f"{len(left)} chunks of {store.storage.url} were committed twice, cut in different ways, and count not "
                "yet; make sure that one call alone runs this job, and repeat it."
            )
            raise StoreError(message, num_chunks=len(left))
        if left:
            logger.warning("%s: another call committed overlapping work; %d chunks are done again", phase, len(left))
            progress.restart(left)
    progress.finish()
