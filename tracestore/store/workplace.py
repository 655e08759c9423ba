"""The writing half of a store: writers, segments under prescribed ids, publication, work that is done."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tracestore.formats.base import CodecChoice, SegmentEntry, SegmentReader, Verify
from tracestore.formats.document import JSON
from tracestore.storage import Storage
from tracestore.store.commit import CommittedSegment, commit_segment, find_committed
from tracestore.store.fold import Replacement, fold, publish_segments
from tracestore.store.identity import StoreIdentity
from tracestore.store.job import Job
from tracestore.store.manifest import Manifest, latest_version, read_manifest
from tracestore.store.sealed import find_segment
from tracestore.store.sequence import TraceSequence
from tracestore.store.snapshot import Snapshot, open_reader
from tracestore.store.work import completed_work, work_states
from tracestore.store.writer import StoreWriter, place_segment
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from tracestore.traces.layout import Layout

__all__ = ["StoreWorkplace"]


class StoreWorkplace(TraceSequence):
    """A pinned snapshot that can be added to; the base of `TraceStore`, which knows how stores are made and opened.

    Parameters
    ----------
    storage
        Where the store is.
    identity
        What was written when it was made.
    version
        The snapshot.
    job
        Job that work is counted for.
    verify
        When checksums of blocks are compared.
    """

    def __init__(
        self, storage: Storage, identity: StoreIdentity, version: int, job: Job | None, verify: Verify
    ) -> None:
        self._storage = storage
        self._identity = identity
        self._job = job
        self._verify: Verify = verify
        self._layouts: dict[int, Layout] = {}
        self._readers: dict[SegmentEntry, SegmentReader] = {}
        super().__init__(self._snapshot_of(version))

    @property
    def path(self) -> Path:
        """Directory of the store; of one on an object store, its URL as a path, for messages only."""
        return Path(self._storage.url)

    @property
    def storage(self) -> Storage:
        """Where the store is."""
        return self._storage

    @property
    def identity(self) -> StoreIdentity:
        """What was written when the store was made."""
        return self._identity

    @property
    def uuid(self) -> str:
        """Identity of the store; a copy has the same."""
        return self._identity.uuid

    @property
    def backend(self) -> str:
        """Format of the segments."""
        return self._identity.backend

    @property
    def job(self) -> Job | None:
        """The job that the store was made by, or was opened for."""
        return self._job

    @property
    def attributes(self) -> dict[str, JSON]:
        """Remarks of the user."""
        return cast("dict[str, JSON]", json.loads(json.dumps(self._identity.attributes)))

    @property
    def version(self) -> int:
        """Number of the snapshot; 0 is the empty store."""
        return self.manifest.version

    @property
    def snapshot_id(self) -> str:
        """Identity of the snapshot: equal ids mean equal traces in equal order."""
        return f"{self.version}-{self.manifest.checksum or self.uuid}"

    @property
    def verify_mode(self) -> Verify:
        """When checksums of blocks are compared."""
        return self._verify

    def completed_work(self) -> set[int]:
        """Units of work of this job that are published by now, receipts that are not folded yet included."""
        return completed_work(self._storage, self._newest_manifest(), self._job)

    def work_states(self) -> list[tuple[list[int], JSON]]:
        """Work and state of each append of this job that gave a state, in order of receipts.

        Receipts are in the order in which they were folded, then by name; those of one writer in the order of writing.
        """
        return work_states(self._storage, self._newest_manifest(), self._job)

    def refresh(self) -> None:
        """Pin the newest snapshot."""
        self._pin(latest_version(self._storage))

    def fold(self) -> int:
        """Publish what writers have sealed, and pin the newest snapshot.

        Returns
        -------
        int
            Number of the snapshot.
        """
        self._pin(fold(self._storage).version)
        return self.version

    def append(self, batch: TraceBatch, *, work: Iterable[int] = (), state: JSON = None) -> int:
        """Write traces as a segment of their own and publish it; for many small batches use one `writer`.

        Parameters
        ----------
        batch
            The traces.
        work, state
            As in `StoreWriter.append`.

        Returns
        -------
        int
            Number of the snapshot.
        """
        with self.writer() as writer:
            writer.append(batch, work=work, state=state)
        return self.version

    def writer(
        self,
        *,
        segment_bytes: int = 2**30,
        segment_seconds: float = 600.0,
        order: Literal["sorted", "written"] = "sorted",
        codec: CodecChoice | None = None,
    ) -> StoreWriter:
        """Make a writer for this job; closing it folds all receipts and refreshes this store.

        Parameters
        ----------
        segment_bytes
            Seal a segment when this many bytes are buffered. It bounds the memory: observations are written from where
            they are, sites take several times their bytes (4 to 7 were measured) while a segment is written.
        segment_seconds
            Seal a segment when its first trace has waited this long, at the next append.
        order
            ``sorted``: rows of a segment by number of sites, trace type, layout, stream; ``written``: as appended.
        codec
            How observations are compressed; as the store says by default.

        Raises
        ------
        InvalidInputError
            When a limit is not positive or the order unknown.
        """
        return StoreWriter(
            self._storage,
            self.backend,
            self._job,
            self.completed_work(),
            segment_bytes=segment_bytes,
            segment_seconds=segment_seconds,
            order=order,
            codec=self._identity.codec if codec is None else codec,
            on_close=self._fold_quietly,
        )

    def write_segment(self, segment_id: str, batches: Iterable[TraceBatch]) -> SegmentEntry:
        """Put a segment in place under a prescribed id, rows as given, without publishing it.

        For planned outputs: the bytes depend on the traces alone, so any process may write any segment, twice even.

        Parameters
        ----------
        segment_id
            1 to 64 characters of ``0-9 a-z - _``.
        batches
            Its traces, in order.

        Raises
        ------
        StoreError
            When a segment of this id is there with other content.
        InsufficientSpaceError
            When the disk is full.

        Examples
        --------
        >>> import numpy as np
        >>> from tracestore.simulators import toys, PriorController, run_trace
        >>> from tracestore.store import TraceStore
        >>> rng = np.random.default_rng(1)
        >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
        >>> store = TraceStore.create("planned")
        >>> entries = [store.write_segment(f"out-{number}", [batch]) for number in range(2)]
        >>> len(store), store.publish(entries), len(store)
        (0, 1, 6)
        """
        return place_segment(self._storage, self.backend, segment_id, batches, codec=self._identity.codec)

    def commit_segment(
        self, segment_id: str, batches: Iterable[TraceBatch], *, work: Iterable[int], state: JSON = None
    ) -> CommittedSegment:
        """Write a segment under a prescribed id and publish its work for this job, once: for tasks on workers.

        However many processes try, at the same time or one after another, the work is counted once. Nothing is folded;
        who started the tasks calls `fold` at the end.

        Parameters
        ----------
        segment_id
            1 to 64 characters of ``0-9 a-z - _``; always stands for the same work.
        batches
            The traces, which get the order of a writer; not touched when the segment is there already. When there are
            none, only work and state are recorded.
        work
            Units of work that are complete with it.
        state
            Anything, as JSON, that the job wants to find again.

        Returns
        -------
        CommittedSegment
            What counts: of the first attempt, when this is not the first.

        Raises
        ------
        StoreError
            When the id stands for other work.
        InsufficientSpaceError
            When the disk is full.

        Examples
        --------
        >>> import numpy as np
        >>> from tracestore.simulators import toys, PriorController, run_trace
        >>> from tracestore.store import TraceStore
        >>> rng = np.random.default_rng(1)
        >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
        >>> store = TraceStore.create("committed")
        >>> [store.commit_segment("piece-0", [batch], work=[0]).num_traces for _ in range(2)]
        [3, 3]
        >>> store.fold(), len(store), store.completed_work()
        (1, 3, {0})
        """
        return commit_segment(
            self._storage,
            self.backend,
            self._job,
            segment_id,
            batches,
            work=work,
            state=state,
            codec=self._identity.codec,
        )

    def committed(self, segment_id: str) -> CommittedSegment | None:
        """Say what is committed under an id; None when nothing is."""
        return find_committed(self._storage, segment_id)

    def find_segment(self, segment_id: str) -> SegmentEntry | None:
        """Entry of a segment that is in place, published or not; None when it is not there."""
        return find_segment(self._storage, self.backend, segment_id)

    def publish(self, segments: Sequence[SegmentEntry], *, replaces: Sequence[str] = ()) -> int:
        """Publish segments that are in place, in the order given, and pin the newest snapshot.

        Parameters
        ----------
        segments
            Entries from `write_segment`; those that are published already are left where they are, unless they are
            among those replaced, too.
        replaces
            Ids of segments that the new ones stand for.

        Returns
        -------
        int
            Number of the snapshot.

        Raises
        ------
        PublishConflictError
            When a segment to be replaced is gone.
        """
        self._pin(publish_segments(self._storage, [Replacement(tuple(segments), tuple(replaces))]).version)
        return self.version

    def _fold_quietly(self) -> None:
        self.fold()

    def _newest_manifest(self) -> Manifest:
        """Read what is published by now: work that is done is done, whatever this object has pinned."""
        newest = latest_version(self._storage)
        return self.manifest if newest == self.version else read_manifest(self._storage, newest)

    def _pin(self, version: int) -> None:
        if version != self.version:
            self._snapshot = self._snapshot_of(version)

    def _snapshot_of(self, version: int) -> Snapshot:
        manifest = read_manifest(self._storage, version)
        # readers of segments that stay are kept: their files are mapped and their blocks checked
        self._readers = {entry: self._readers.get(entry) or self._open_reader(entry) for entry in manifest.segments}
        return Snapshot(self._storage, manifest, list(self._readers.values()), self._layouts, self._open_reader)

    def _open_reader(self, entry: SegmentEntry) -> SegmentReader:
        return open_reader(self._storage, entry, self._verify, self._layouts)
