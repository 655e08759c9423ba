"""`TraceStore`: many segments as one sequence of traces, read from a pinned snapshot, added to by writers."""

import json
import uuid as uuids
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, cast

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.formats.base import CodecChoice, SegmentEntry, SegmentReader, Verify
from tracestore.formats.document import JSON
from tracestore.formats.segment_writer import require_codecs
from tracestore.storage import Location, Storage, open_storage
from tracestore.store.fold import completed_units, fold, pending_receipts, plan_fold, publish_segments
from tracestore.store.identity import StoreIdentity, create_identity, read_identity
from tracestore.store.job import Job
from tracestore.store.manifest import latest_version, read_manifest
from tracestore.store.receipt import expand_ranges, read_receipt
from tracestore.store.sealed import find_segment
from tracestore.store.sequence import TraceSequence
from tracestore.store.snapshot import Snapshot, open_reader
from tracestore.store.stats import StoreStats, measure
from tracestore.store.writer import StoreWriter, place_segment
from tracestore.traces.batch import TraceBatch

if TYPE_CHECKING:
    from tracestore.traces.layout import Layout

__all__ = ["TraceStore"]


class TraceStore(TraceSequence):
    """A store of traces on disk.

    Made by `create`, `open` or `open_or_create`. A store object reads one snapshot until `refresh`, whatever others
    write meanwhile. It may be handed to forked processes, and pickled: the copy opens the same snapshot.

    Examples
    --------
    >>> import numpy as np
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> traces = [run_trace(toys.gum, PriorController(), rng, stream=stream) for stream in range(10)]
    >>> store = TraceStore.create("traces")
    >>> with store.writer() as writer:
    ...     writer.append(TraceBatch.from_traces(traces))
    >>> len(store), store[3]["mu"] == traces[3]["mu"], len(store.trace_types)
    (10, True, 1)
    >>> values, indices = store.values("mu")
    >>> values.shape, len(TraceStore.open("traces").take([7, 1, 1]))
    ((10,), 3)
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

    @classmethod
    def create(
        cls,
        path: Location,
        *,
        job: Job | None = None,
        attributes: Mapping[str, JSON] | None = None,
        backend: str = "arrow",
        codec: CodecChoice = "auto",
        uuid: str | None = None,
        copy_of: Mapping[str, JSON] | None = None,
        storage_options: Mapping[str, object] | None = None,
    ) -> Self:
        """Make an empty store.

        Parameters
        ----------
        path
            A directory that is empty or does not exist, or a URL: ``s3://BUCKET/PREFIX``, ``memory://NAME``.
        job
            What the store is the output of.
        attributes
            Remarks of the user, as JSON.
        backend
            Format of the segments: ``arrow``, the fastest on local disks, or ``zarr``, which any Zarr reader opens.
        codec
            How observations are compressed: ``none``, ``lz4``, ``zstd``, or ``auto``, which tries a sample of each
            observation in each segment; or a dict of these by name of observation.
        uuid
            Identity of the store; random by default.
        copy_of
            What the store is a copy of; for conversions.
        storage_options
            For URLs: options of the object store, such as ``endpoint`` and ``region``.

        Raises
        ------
        StoreExistsError
            When there is a store, or the directory is not empty.
        InvalidInputError
            When backend, codec or kind of location is unknown.
        StoreError
            When the place cannot publish files safely: no hard links, no conditional creation.

        Examples
        --------
        >>> len(TraceStore.create("empty", attributes={"for": "a first look"}))
        0
        """
        require_codecs(codec)
        storage = open_storage(path, storage_options)
        identity = StoreIdentity(backend, uuid or str(uuids.uuid4()), job, dict(attributes or {}), codec, copy_of)
        if not create_identity(storage, identity):
            message = f"{storage.url} is a store already; open it with `TraceStore.open`, or use another path."
            raise StoreExistsError(message, path=storage.url)
        return cls(storage, identity, 0, job, "first")

    @classmethod
    def open(
        cls,
        path: Location,
        *,
        version: int | None = None,
        verify: Verify = "first",
        storage_options: Mapping[str, object] | None = None,
    ) -> Self:
        """Open a store for reading, at its newest snapshot.

        Parameters
        ----------
        path
            The store.
        version
            An older snapshot, by number.
        verify
            When checksums of blocks are compared: at their first touch, always, or never.
        storage_options
            For URLs: options of the object store.

        Raises
        ------
        StoreNotFoundError
            When the path is not a store, or has no such version.
        UnsupportedVersionError
            When a newer release wrote it.
        InvalidInputError
            When ``verify`` is not one of the three.

        Examples
        --------
        >>> store = TraceStore.create("opened")
        >>> TraceStore.open("opened", version=0).version
        0
        """
        if verify not in ("first", "always", "off"):
            message = f"`verify` must be 'first', 'always' or 'off'; got {verify!r}."
            raise InvalidInputError(message, argument="verify")
        storage = open_storage(path, storage_options)
        identity = read_identity(storage)
        return cls(storage, identity, latest_version(storage) if version is None else version, identity.job, verify)

    @classmethod
    def open_or_create(
        cls,
        path: Location,
        job: Job,
        *,
        append: bool = False,
        attributes: Mapping[str, JSON] | None = None,
        backend: str = "arrow",
        codec: CodecChoice = "auto",
        storage_options: Mapping[str, object] | None = None,
    ) -> Self:
        """Continue the store of a job, or make it.

        Receipts that an interrupted call left are folded, so that `completed_work` and the traces agree.

        Parameters
        ----------
        path
            The store, or where it is to be.
        job
            The job; an existing store must have the same one.
        append
            Add to a store of another job. The work of each job is counted for itself: afterwards `job` is this one.
        attributes, backend, codec, storage_options
            As in `create`; an existing store keeps what it has.

        Raises
        ------
        StoreExistsError
            When the store belongs to another job; names the field that differs.

        Examples
        --------
        >>> store = TraceStore.open_or_create("job", Job("simulate", {"seed": 1}))
        >>> TraceStore.open_or_create("job", Job("simulate", {"seed": 1})).job == store.job
        True
        """
        require_codecs(codec)
        storage = open_storage(path, storage_options)
        identity = StoreIdentity(backend, str(uuids.uuid4()), job, dict(attributes or {}), codec)
        if create_identity(storage, identity):
            return cls(storage, identity, 0, job, "first")
        identity = read_identity(storage)
        manifest = fold(storage)
        if not append and (identity.job is None or job.hash not in manifest.jobs):
            job.require_same(identity.job, storage.url)
        return cls(storage, identity, manifest.version, job, "first")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._storage, self._identity, self.version, self._job, self._verify)

    def __repr__(self) -> str:
        return f"TraceStore({self._storage.url!r}, version={self.version}, num_traces={len(self)})"

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

    def stats(self) -> StoreStats:
        """Count and measure what the store holds."""
        return measure(self._snapshot, num_pending=len(pending_receipts(self._storage, self.manifest)))

    def completed_work(self) -> set[int]:
        """Units of work of this job that are published, receipts that are not folded yet included."""
        manifest = self.manifest
        return completed_units(manifest, plan_fold(manifest, pending_receipts(self._storage, manifest)), self._job)

    def work_states(self) -> list[tuple[list[int], JSON]]:
        """Work and state of each append of this job that gave a state, in order of receipts.

        Receipts are in the order in which they were folded, then by name; those of one writer in the order of writing.
        """
        manifest = self.manifest
        pending = plan_fold(manifest, pending_receipts(self._storage, manifest)).commits
        key = None if self._job is None else self._job.hash
        states = []
        for commit in (*manifest.commits, *pending):
            if commit.has_state and not commit.set_aside and commit.job == key:
                receipt, _ = read_receipt(self._storage, commit.receipt, expected=commit.checksum)
                states += [(expand_ranges(part.work), part.state) for part in receipt.commits if part.state is not None]
        return states

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
            Seal a segment when this many bytes are buffered; bounds the memory.
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
        >>> rng = np.random.default_rng(1)
        >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
        >>> store = TraceStore.create("planned")
        >>> entries = [store.write_segment(f"out-{number}", [batch]) for number in range(2)]
        >>> len(store), store.publish(entries), len(store)
        (0, 1, 6)
        """
        return place_segment(self._storage, self.backend, segment_id, batches, codec=self._identity.codec)

    def find_segment(self, segment_id: str) -> SegmentEntry | None:
        """Entry of a segment that is in place, published or not; None when it is not there."""
        return find_segment(self._storage, self.backend, segment_id)

    def publish(self, segments: Sequence[SegmentEntry], *, replaces: Sequence[str] = ()) -> int:
        """Publish segments that are in place, in the order given, and pin the newest snapshot.

        Parameters
        ----------
        segments
            Entries from `write_segment`; those that are published already are left where they are.
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
        self._pin(publish_segments(self._storage, segments, replaces=replaces).version)
        return self.version

    def _fold_quietly(self) -> None:
        self.fold()

    def _pin(self, version: int) -> None:
        if version != self.version:
            self._snapshot = self._snapshot_of(version)

    def _snapshot_of(self, version: int) -> Snapshot:
        manifest = read_manifest(self._storage, version)
        # readers of segments that stay are kept: their files are mapped and their blocks checked
        self._readers = {
            entry: self._readers.get(entry) or open_reader(self._storage, entry, self._verify, self._layouts)
            for entry in manifest.segments
        }
        return Snapshot(self._storage, manifest, list(self._readers.values()), self._layouts)
