"""`TraceStore`: many segments as one sequence of traces, read from a pinned snapshot, added to by writers."""

import uuid as uuids
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Self, TypeVar

from tracestore.errors import InvalidInputError, StoreExistsError
from tracestore.events import Observer
from tracestore.executors import Executor
from tracestore.formats.base import CodecChoice, Verify
from tracestore.formats.document import JSON
from tracestore.formats.segment_writer import require_codecs
from tracestore.storage import Storage
from tracestore.store.fold import fold, pending_receipts
from tracestore.store.identity import StoreIdentity, create_identity, read_identity
from tracestore.store.job import Job
from tracestore.store.location import StorePath, to_location
from tracestore.store.manifest import latest_version, require_whole
from tracestore.store.segment_map import SegmentTraces, map_segments
from tracestore.store.stats import StoreStats, measure
from tracestore.store.workplace import StoreWorkplace

if TYPE_CHECKING:
    from dask.array import Array

__all__ = ["TraceStore"]

Result = TypeVar("Result")


class TraceStore(StoreWorkplace):
    """A store of traces on disk.

    Made by `create`, `open` or `open_or_create`. A store object reads one snapshot until `refresh`, whatever others
    write meanwhile. It may be handed to forked processes, and pickled: the copy opens the same snapshot.

    Examples
    --------
    >>> import numpy as np
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> from tracestore.traces import TraceBatch
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

    @classmethod
    def create(
        cls,
        path: StorePath,
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
            A directory that is empty or does not exist; a URL: ``s3://BUCKET/PREFIX``, ``memory://NAME``; or a
            `StoreLocation`, whose backend, codec and options then count.
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
        place = to_location(path, backend=backend, codec=codec, storage_options=storage_options or {})
        require_codecs(place.codec)
        storage = place.open()
        identity = StoreIdentity(
            place.backend, uuid or str(uuids.uuid4()), job, dict(attributes or {}), place.codec, copy_of
        )
        if not create_identity(storage, identity):
            message = f"{storage.url} is a store already; open it with `TraceStore.open`, or use another path."
            raise StoreExistsError(message, path=storage.url)
        return cls(storage, identity, 0, job, "first")

    @classmethod
    def open(
        cls,
        path: StorePath,
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
        storage = to_location(path, storage_options=storage_options or {}).open()
        identity = read_identity(storage)
        if version is None:
            version = latest_version(storage)
        else:
            require_whole(storage, version)
        return cls(storage, identity, version, identity.job, verify)

    @classmethod
    def at(cls, storage: Storage, version: int, verify: Verify = "first") -> Self:
        """Open a version of a store whose storage is open already."""
        identity = read_identity(storage)
        return cls(storage, identity, version, identity.job, verify)

    @classmethod
    def open_or_create(
        cls,
        path: StorePath,
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
        place = to_location(path, backend=backend, codec=codec, storage_options=storage_options or {})
        require_codecs(place.codec)
        storage = place.open()
        identity = StoreIdentity(place.backend, str(uuids.uuid4()), job, dict(attributes or {}), place.codec)
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

    def stats(self) -> StoreStats:
        """Count and measure what the store holds."""
        return measure(self._snapshot, num_pending=len(pending_receipts(self._storage, self.manifest)))

    def map_segments(
        self,
        function: Callable[[SegmentTraces], Result],
        *,
        executor: Executor | None = None,
        observer: Observer | None = None,
    ) -> list[Result]:
        """Call a function with each segment, wherever an executor runs it.

        Each segment is opened where the function runs, at this snapshot, and closed afterwards: a worker has one open
        at a time. What the function returns is sent back, so let it return sums, counts or histograms.

        Parameters
        ----------
        function
            Called with the traces of one segment, a `SegmentTraces`: it reads like a store, ``first_trace`` is the
            index of its first trace. It may be called twice for one segment, after the loss of a worker. Workers in
            other processes need to unpickle it; those of dask take any function.
        executor
            Where it runs; None is this process.
        observer
            Told of progress, in traces.

        Returns
        -------
        list
            What the function returned, in order of segments.

        Raises
        ------
        InvalidInputError
            When the function cannot be sent to the workers.
        ExecutorError
            When a worker dies.
        Exception
            What the function raised first, with a note that names the segment.

        Examples
        --------
        >>> import tracestore as ts
        >>> from tracestore.simulators.toys import gum
        >>> store = ts.simulate(gum, "mapped", num_traces=100, seed=1)
        >>> counts = store.map_segments(lambda part: int((part.values("mu")[0] > 1).sum()))
        >>> len(counts), sum(counts) == int((store.values("mu")[0] > 1).sum())
        (1, True)
        """
        return map_segments(self._snapshot, function, verify=self._verify, executor=executor, observer=observer)

    def to_dask(self, names: Collection[str] | None = None) -> "dict[str, Array]":
        """View columns, observations and values as dask arrays that read when they are computed.

        All arrays have one row per trace, in order of traces, and one chunk per segment, so that they fit together. A
        chunk is read by one task, which reads nothing else of its segment; the graph holds where the store is, not
        data. What is read is this snapshot, whatever is written later.

        Parameters
        ----------
        names
            Trace columns (``log_weight``, ``stream``, ...), observations, and names or full addresses of draws and
            tags, looked for in this order. By default all trace columns and all observations.

        Returns
        -------
        dict of str to dask.array.Array
            Trace columns, shape ``(len(store),)``. Observations, shape ``(len(store), *shape)``, as `take` gives them:
            zeros where the layout of a trace lacks it. Values of draws and tags, shape ``(len(store), *shape)``,
            float64, NaN where a trace lacks it; the last site of a trace wins when a name repeats.

        Raises
        ------
        MissingExtraError
            When dask is not installed.
        UnknownAddressError
            When there is nothing of a name.
        TraceTypeMismatchError
            When values of a name differ in shape between layouts; between segments, when they are computed.
        InvalidInputError
            When ``names`` is a text.

        Examples
        --------
        >>> import tracestore as ts
        >>> from tracestore.simulators.toys import gum
        >>> store = ts.simulate(gum, "arrays", num_traces=100, seed=1)
        >>> arrays = store.to_dask(["mu", "log_weight"])  # doctest: +SKIP
        >>> arrays["mu"].shape, arrays["mu"].chunks  # doctest: +SKIP
        ((100,), ((100,),))
        """
        from tracestore.store.dask_arrays import to_dask  # needs dask

        return to_dask(self._snapshot, self.snapshot_id, names, verify=self._verify)
