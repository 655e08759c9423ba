"""The reading half of a store: traces of a pinned snapshot by index, by column, by name."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import SegmentEntry, SegmentReader
from tracestore.store.addresses import AddressBook
from tracestore.store.arrays import TraceArrays, as_arrays
from tracestore.store.manifest import Manifest
from tracestore.store.runs import RunDirectory, TraceTypeInfo
from tracestore.store.snapshot import Snapshot
from tracestore.store.trace_types import TraceTypeBook
from tracestore.traces.batch import TraceBatch
from tracestore.traces.layout import Layout, Site
from tracestore.traces.trace import Trace

__all__ = ["TraceSequence"]


class TraceSequence:
    """Traces of a snapshot; the base of `TraceStore`, which decides which snapshot.

    Parameters
    ----------
    snapshot
        What is read.

    Examples
    --------
    >>> from tracestore.store import TraceStore
    >>> list(TraceStore.create("no-traces").batches(10))
    []
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __len__(self) -> int:
        return self._snapshot.num_traces

    def __getitem__(self, index: int) -> Trace:
        if not -len(self) <= index < len(self):
            message = f"Trace {index} is outside a store of {len(self)} traces."
            raise IndexError(message)
        return self.take([index])[0]

    def __iter__(self) -> Iterator[Trace]:
        return (trace for batch in self.batches(256) for trace in batch)

    def take(
        self,
        indices: ArrayLike,
        *,
        observations: Collection[str] | None = None,
        out: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> TraceBatch:
        """Read traces in the order asked for.

        Parameters
        ----------
        indices
            Shape ``(M,)``; repeats are allowed, negative ones count from the end; or a mask, shape ``(len(store),)``.
        observations
            Names of the observations to read; all by default.
        out
            Arrays to read observations into, by name, shape ``(M, *shape)``: a loop that gives the same ones again
            spares the memory of fresh ones, which costs about as much as the reading. The batch refers to them.

        Returns
        -------
        TraceBatch
            Fresh arrays but for `out`; an observation that all these traces share is a broadcast view.

        Raises
        ------
        InvalidInputError
            When an index is out of range, an observation unknown, or an array of `out` does not fit.
        ChecksumError
            When a byte changed since it was sealed; names file and block.
        """
        return self._snapshot.take(indices, observations=observations, out=out)

    def batches(self, size: int, *, observations: Collection[str] | None = None) -> Iterator[TraceBatch]:
        """Yield all traces in order, `size` at a time; the last batch may be shorter.

        Parameters
        ----------
        size
            Traces in a batch.
        observations
            Names of the observations to read; all by default.

        Raises
        ------
        InvalidInputError
            When the size is not positive.
        """
        if size < 1:
            message = f"`size` must be at least 1; got {size}."
            raise InvalidInputError(message, argument="size")
        snapshot = self._snapshot
        return (
            snapshot.take(np.arange(start, min(start + size, snapshot.num_traces)), observations=observations)
            for start in range(0, snapshot.num_traces, size)
        )

    def column(self, name: str) -> NDArray[np.generic]:
        """Read one number per trace, shape ``(len(store),)``.

        Parameters
        ----------
        name
            A name of `TRACE_COLUMNS`: ``log_prior``, ``log_weight``, ``stream``, ``chain``, ...

        Raises
        ------
        InvalidInputError
            When there is no such column.
        """
        return self._snapshot.column(name)

    def values(self, name: str) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """Read all values of one name or address, touching nothing else.

        Parameters
        ----------
        name
            Name or full address of a sample, tag or observe; the last site of a trace wins when it repeats.

        Returns
        -------
        values : ndarray
            Shape ``(M, *shape)``, in order of traces.
        indices : ndarray of int64
            The traces that have it, shape ``(M,)``.

        Raises
        ------
        UnknownAddressError
            When no trace has it.
        TraceTypeMismatchError
            When its values differ in shape between layouts.
        """
        return self._snapshot.values(name)

    def values_by_segment(self, name: str) -> Iterator[tuple[NDArray[np.generic], NDArray[np.int64]]]:
        """Read the values of one name or address lazily, a segment at a time, touching nothing else.

        Parameters
        ----------
        name
            As in `values`; nothing is yielded when no trace has it.

        Yields
        ------
        values : ndarray
            Shape ``(M, *shape)``, in order of traces.
        indices : ndarray of int64
            The traces of the store that have it, shape ``(M,)``.

        Raises
        ------
        TraceTypeMismatchError
            When its values differ in shape between layouts of a segment.
        """
        return self._snapshot.values_by_segment(name)

    def as_arrays(
        self,
        names: Collection[str],
        *,
        observations: Collection[str] | None = None,
        indices: ArrayLike | None = None,
        dtype: DTypeLike = np.float32,
        folder: Path | str | None = None,
    ) -> TraceArrays:
        """Read sites that every trace has once, and observations, as two dense arrays: ``theta, x``.

        They are what code for a fixed number of parameters trains from. Of the traces nothing else is read; beside the
        arrays, the memory needed is that of one site's values in one segment.

        Parameters
        ----------
        names
            Names or full addresses of draws and tags. A scalar is one column, a value of shape ``(3,)`` three.
        observations
            Names of the observations; all by default, in the order of `observation_shapes`.
        indices
            The traces, as in `take`; by default all that did not fail.
        dtype
            Type of both arrays.
        folder
            Keep the arrays in files there, ``theta.npy`` and ``x.npy``, instead of in memory. They come back mapped;
            changes of the arrays do not reach the files.

        Returns
        -------
        TraceArrays
            Unpacks as ``theta``, shape ``(N, num_columns)``, and ``x``: shape ``(N, *shape)`` for one observation,
            ``(N, 1)`` when it is a scalar, and ``(N, F)`` for several, flat and side by side.

        Raises
        ------
        InvalidInputError
            When there is no name, no trace, or no such observation; a trace failed or lacks an observation; a file
            exists.
        UnknownAddressError
            When no trace has a site; lists those that every trace has.
        TraceTypeMismatchError
            When a trace lacks a site or has several of one name, or values differ in shape; names the trace.
        """
        return as_arrays(self._snapshot, names, observations=observations, indices=indices, dtype=dtype, folder=folder)

    def observation(self, name: str, index: int) -> NDArray[np.generic]:
        """Read a named observation of one trace.

        Raises
        ------
        InvalidInputError
            When there is no such observation.
        """
        return cast("NDArray[np.generic]", self.take([index], observations=[name]).observations[name][0])

    @property
    def observation_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each named observation of a trace."""
        return {name: info.shape for name, info in self._snapshot.observations.items()}

    def failures(self) -> dict[int, str]:
        """Reasons of the traces that failed, by index."""
        return self._snapshot.failures()

    @property
    def manifest(self) -> Manifest:
        """The pinned version: the segments and receipts that it lists."""
        return self._snapshot.manifest

    @property
    def addresses(self) -> AddressBook:
        """All addresses, in order of their dense numbers, which never change."""
        return self._snapshot.addresses

    @property
    def trace_type_book(self) -> TraceTypeBook:
        """Trace types that occur more than once in a segment, in order of their dense numbers, which never change."""
        return self._snapshot.trace_type_book

    def sites(self) -> list[Site]:
        """Return the distinct sites of all traces; those of failed traces are among them."""
        return list(dict.fromkeys(site for reader in self._snapshot.segments() for site in reader.sites()))

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """All layouts by id, built when touched."""
        return self._snapshot.layouts

    @property
    def runs(self) -> RunDirectory:
        """Where traces of one layout lie side by side."""
        return self._snapshot.runs

    @property
    def trace_types(self) -> list[TraceTypeInfo]:
        """Trace types, the most frequent first."""
        return self.runs.trace_types()

    @property
    def segments(self) -> Sequence[SegmentEntry]:
        """Segments, in order of traces."""
        return self._snapshot.manifest.segments

    @property
    def first_traces(self) -> NDArray[np.int64]:
        """Index of the first trace of each segment, shape ``(num_segments,)``."""
        return self._snapshot.first[:-1]

    def codecs(self) -> dict[str, Counter[str]]:
        """Codecs of each observation that varies: how many segments have it with which."""
        found: dict[str, Counter[str]] = {}
        for reader in self._snapshot.segments():
            for name, codec in reader.codecs().items():
                found.setdefault(name, Counter())[codec] += 1
        return found

    def segment(self, index: int) -> SegmentReader:
        """Reader of a segment by position."""
        return self._snapshot.segment(index)
