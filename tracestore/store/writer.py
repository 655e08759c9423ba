"""Write traces into a store: buffer, seal a segment, publish a receipt; writers never coordinate."""

import itertools
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from tracestore.errors import InvalidInputError, StoreError
from tracestore.formats.base import CodecChoice, SegmentEntry, open_format
from tracestore.formats.document import JSON, encode_document
from tracestore.formats.segment_writer import require_codecs
from tracestore.storage import Storage, raise_if_full
from tracestore.store.fold import SEGMENTS
from tracestore.store.job import Job
from tracestore.store.receipt import RECEIPTS, Receipt, WorkCommit, to_ranges
from tracestore.traces.batch import TraceBatch

__all__ = ["StoreWriter", "place_segment"]

_LUMP_BYTES = 2**24


class StoreWriter:
    """Appends traces to a store; made by `TraceStore.writer`.

    Traces are buffered until a segment is full or old enough, ordered, sealed on disk and published by a receipt.
    Any number of writers, in any number of processes, may write to one store. Leaving the ``with`` block seals what is
    buffered and folds all receipts, so that readers that open the store see the traces; leaving it by an exception
    discards what is not sealed.

    Parameters
    ----------
    storage
        The store.
    backend
        Name of the segment format.
    job
        Job that the work belongs to.
    completed
        Units of work that are done already.
    segment_bytes
        Seal a segment when this many bytes are buffered; bounds the memory, see `TraceStore.writer`.
    segment_seconds
        Seal a segment when its first trace has waited this long, at the next append.
    order
        ``sorted``: rows of a segment by number of sites, trace type, layout, stream; ``written``: as appended.
    codec
        How observations are compressed.
    on_close
        Called once after the last receipt is published.

    Raises
    ------
    InvalidInputError
        When a limit is not positive or the order unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> from tracestore.store import TraceStore
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
    >>> store = TraceStore.create("written")
    >>> with store.writer() as writer:
    ...     writer.append(batch, work=[0])
    ...     writer.append(batch, work=[1])
    >>> len(store), sorted(store.completed_work())
    (6, [0, 1])
    """

    def __init__(
        self,
        storage: Storage,
        backend: str,
        job: Job | None,
        completed: Iterable[int],
        *,
        segment_bytes: int = 2**30,
        segment_seconds: float = 600.0,
        order: Literal["sorted", "written"] = "sorted",
        codec: CodecChoice = "auto",
        on_close: Callable[[], None] | None = None,
    ) -> None:
        if segment_bytes < 1 or segment_seconds <= 0 or order not in ("sorted", "written"):
            message = (
                "A writer needs positive `segment_bytes` and `segment_seconds`, and an `order` of 'sorted' or "
                f"'written'; got {segment_bytes}, {segment_seconds}, {order!r}."
            )
            raise InvalidInputError(message)
        require_codecs(codec)
        self.name = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
        self._storage = storage
        self._staging = storage.staging(self.name)
        self._format = open_format(backend)
        self._job = job
        self._completed = set(completed)
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._codec = codec
        self._keep_order = order == "written"
        self._on_close = on_close
        self._process = os.getpid()
        self._sequence = 0
        self._is_closed = False
        self._since: float | None = None
        self._placed: Receipt | None = None
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._forget()
            self._is_closed = True
            self._remove_staging()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of traces that are not sealed yet."""
        return self._num_bytes

    def append(self, batch: TraceBatch, *, work: Iterable[int] = (), state: JSON = None) -> None:
        """Add traces.

        Parameters
        ----------
        batch
            The traces; may be empty. The arrays must not change afterwards.
        work
            Units of work that this completes. All traces of a unit must come with the append that names it: they are
            published together, or not at all.
        state
            Anything, as JSON without NaN and infinities, that the job wants to find again when it resumes; published
            with the traces.

        Raises
        ------
        InvalidInputError
            When a unit is complete already, the state is not JSON, or an observation does not fit earlier ones.
        InsufficientSpaceError
            When a segment was sealed and the disk is full.
        """
        self._require_usable()
        if self._placed is not None:
            self.seal()
        ranges = to_ranges(work)
        units = {unit for first, last in ranges for unit in range(first, last + 1)}
        repeated = sorted(units & self._completed)
        if repeated:
            message = f"Units of work {repeated} are complete already; give new traces new numbers."
            raise InvalidInputError(message, work=repeated)
        if state is not None:
            encode_document({"state": state})
        self._require_same_shapes(batch)
        if len(batch):
            self._small.append(batch)
            self._small_bytes += batch.nbytes
            self._num_bytes += batch.nbytes
        if ranges or state is not None:
            self._commits.append(WorkCommit(ranges, state))
        self._completed |= units
        if self._small_bytes > _LUMP_BYTES:
            self._merge_small()
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if self._num_bytes >= self._segment_bytes or now - self._since >= self._segment_seconds:
            self.seal()

    def seal(self) -> SegmentEntry | None:
        """Write what is buffered as a segment and publish its receipt.

        Returns
        -------
        SegmentEntry or None
            None when no traces were buffered.

        Raises
        ------
        InsufficientSpaceError
            When the disk is full; the buffer is kept.
        """
        self._require_usable()
        self._merge_small()
        if not self._lumps and not self._commits:
            return None
        receipt = self._placed
        if receipt is None:
            receipt = Receipt(self.name, self._sequence, self._job, None, tuple(self._commits))
            if self._lumps:
                receipt = replace(receipt, segment=self._place(receipt))
            # should publishing fail, the next attempt must not write the traces again
            self._placed = receipt
        data, file = receipt.encode(), f"{RECEIPTS}/{receipt.name}.json"
        # a recovery may have published this very receipt in the meantime
        if not self._storage.create(file, data) and self._storage.read(file) != data:
            message = f"The receipt {receipt.name} exists with other content; two writers have the same name."
            raise StoreError(message, receipt=receipt.name)
        self._sequence += 1
        self._forget()
        return receipt.segment

    def close(self) -> None:
        """Seal what is buffered, and fold the receipts of all writers. Closing twice does nothing."""
        if self._is_closed:
            return
        self.seal()
        if self._on_close is not None:
            self._on_close()
        # not before: when the disk is too full to fold, closing again must try it again
        self._is_closed = True
        self._remove_staging()

    def _place(self, receipt: Receipt) -> SegmentEntry:
        """Write the buffer as a segment and put it in its place."""
        identity = uuid.uuid4().hex
        directory = self._staging / f"{self._sequence:08d}"
        try:
            directory.mkdir(parents=True)
            entry = self._format.write_segment(
                directory,
                self._lumps,
                segment_id=identity,
                keep_order=self._keep_order,
                codec=self._codec,
                is_remote=not self._storage.is_local,
                origin=receipt.origin(),
            )
            self._storage.place(directory, f"{SEGMENTS}/{identity}")
        except OSError as error:
            raise_if_full(error, self._storage.url)
            raise
        finally:
            # an empty folder would grow old, and a collector could remove it just when it is used again
            self._remove_staging()
        return entry

    def _forget(self) -> None:
        self._placed = None
        self._lumps: list[TraceBatch] = []
        self._small: list[TraceBatch] = []
        self._small_bytes = 0
        self._num_bytes = 0
        self._commits: list[WorkCommit] = []
        self._since = None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def _merge_small(self) -> None:
        """Join small batches, so that a segment is gathered from few arrays."""
        # batches of one type per observation only: joining casts to the first one's type
        for _, group in itertools.groupby(self._small, key=_observation_types):
            self._lumps.append(TraceBatch.concatenate(list(group)))
        self._small, self._small_bytes = [], 0

    def _require_same_shapes(self, batch: TraceBatch) -> None:
        for name, column in batch.observations.items():
            expected = self._shapes.setdefault(name, column.shape[1:])
            if column.shape[1:] != expected:
                message = (
                    f"Observation {name!r} has shape {column.shape[1:]} here and {expected} in an earlier append; "
                    "give observations of different shapes different names."
                )
                raise InvalidInputError(message, name=name)

    def _require_usable(self) -> None:
        if self._is_closed:
            message = "This writer is closed; make another with `store.writer()`."
            raise StoreError(message)
        if os.getpid() != self._process:
            message = "A writer belongs to the process that made it; make one in each process with `store.writer()`."
            raise StoreError(message)

    def _remove_staging(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)


def _observation_types(batch: TraceBatch) -> tuple[tuple[str, str], ...]:
    return tuple((name, column.dtype.str) for name, column in sorted(batch.observations.items()))


def place_segment(
    storage: Storage, backend: str, segment_id: str, batches: Iterable[TraceBatch], *, codec: CodecChoice = "auto"
) -> SegmentEntry:
    """Write a segment under a prescribed id, rows as given; publishes nothing.

    Parameters
    ----------
    storage
        The store.
    backend
        Name of the segment format.
    segment_id
        1 to 64 characters of ``0-9 a-z - _``.
    batches
        Its traces, in order.
    codec
        How observations are compressed.

    Raises
    ------
    StoreError
        When a segment of this id is there with other content.
    InsufficientSpaceError
        When the disk is full.
    """
    folder = f"{SEGMENTS}/{segment_id}"
    backend_format = open_format(backend)
    staging = storage.staging(f"{segment_id}-{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
        entry = backend_format.write_segment(
            staging,
            list(batches),
            segment_id=segment_id,
            keep_order=True,
            codec=codec,
            is_remote=not storage.is_local,
        )
        if not storage.place(staging, folder):
            found, _ = backend_format.read_seal(storage.below(folder), folder)
            if found != entry:
                message = f"Segment {segment_id} is there with other content; use another store or another plan."
                raise StoreError(message, segment=segment_id)
    except OSError as error:
        raise_if_full(error, storage.url)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return entry
