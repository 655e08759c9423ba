"""Dask arrays of a snapshot, one chunk per segment; knows nothing of what is computed with them.

A task carries where the store is, which snapshot is read and what of it. The place in the array tells the segment; the
manifest is read once in each process.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tracestore._extras import extra
from tracestore.errors import InvalidInputError, StoreError, TraceTypeMismatchError, UnknownAddressError
from tracestore.formats.base import SegmentReader, Verify
from tracestore.storage import Storage
from tracestore.store.manifest import Manifest, read_manifest
from tracestore.store.segment_map import reachable
from tracestore.store.snapshot import Snapshot, open_reader
from tracestore.traces.batch import TRACE_COLUMNS

with extra("sort"):
    import dask.array as da
    from dask.base import tokenize

__all__ = ["to_dask"]

_MOST_MANIFESTS = 4
"""Snapshots that a process remembers."""

_MOST_PREFIX = 40
"""Characters of a name in the names of tasks."""


@dataclass(frozen=True, slots=True)
class _Pinned:
    """A snapshot, wherever it is read."""

    url: str
    version: int
    checksum: str
    """Of the manifest."""
    verify: Verify = field(compare=False)
    storage: Storage = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of an array, one for each trace."""

    shape: tuple[int, ...]
    """Shape of one."""
    dtype: str
    read: "_Read"
    """How those of a segment are read."""


_Read: TypeAlias = Callable[[SegmentReader, str, _Rows], NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class _ReadChunk:
    """Reads the rows of one segment, by the place of the chunk."""

    pinned: _Pinned
    name: str
    rows: _Rows

    def __call__(self, block_id: tuple[int, ...]) -> NDArray[np.generic]:
        pinned, position = self.pinned, block_id[0]
        entry = _manifest_of(pinned).segments[position]
        try:
            # a reader of its own: nothing of the segment is kept, and threads share nothing
            reader = open_reader(pinned.storage, entry, pinned.verify, {})
            return self.rows.read(reader, self.name, self.rows)
        except Exception as error:
            error.add_note(f"with {self.name!r} of segment {entry.id} of {pinned.url}: number {position}")
            raise


def to_dask(
    snapshot: Snapshot, identity: str, names: Collection[str] | None = None, *, verify: Verify = "first"
) -> dict[str, da.Array]:
    """Make lazy arrays of a snapshot; see `TraceStore.to_dask`.

    Parameters
    ----------
    snapshot
        The traces.
    identity
        Equal for equal snapshots: names of tasks derive from it.
    names
        Trace columns, observations, names and addresses; all columns and observations by default.
    verify
        When checksums of blocks are compared.

    Raises
    ------
    InvalidInputError
        When ``names`` is a text.
    UnknownAddressError
        When there is nothing of a name.
    TraceTypeMismatchError
        When values of a name differ in shape between layouts.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.simulate(gum, "arrays", num_traces=100, seed=1)
    >>> arrays = store.to_dask(["mu", "log_weight"])
    >>> arrays["mu"].shape, arrays["mu"].chunks
    ((100,), ((100,),))
    >>> int((arrays["mu"] > 1).sum()) == int((store.values("mu")[0] > 1).sum())
    True
    """
    if isinstance(names, str):
        message = f"`names` must be a list of names; got the text {names!r}. Write [{names!r}]."
        raise InvalidInputError(message, argument="names", found=names)
    known = {name: _Rows((), np.dtype(dtype).str, _read_column) for name, dtype in TRACE_COLUMNS}
    for name, info in snapshot.observations.items():
        known.setdefault(name, _Rows(info.shape, info.dtype, _read_observation))
    asked = list(known) if names is None else list(dict.fromkeys(names))
    sites = [name for name in asked if name not in known]
    known.update(_find_sites(snapshot, sites, known, verify))
    manifest, storage = snapshot.manifest, reachable(snapshot.storage)
    pinned = _Pinned(storage.url, manifest.version, manifest.checksum, verify, storage)
    return {name: _array(_ReadChunk(pinned, name, known[name]), manifest, identity) for name in asked}


def _array(read: _ReadChunk, manifest: Manifest, identity: str) -> da.Array:
    name, rows = read.name, read.rows
    meta = np.empty((0,) * (1 + len(rows.shape)), rows.dtype)
    # dashboards group tasks by what is before the dash
    label = re.sub(r"\W+", "_", name)[:_MOST_PREFIX]
    key = f"tracestore_{label}-{tokenize(identity, read.pinned.url, name, rows.shape, rows.dtype)}"
    untyped: Any = da
    if not manifest.segments:
        return cast("da.Array", untyped.from_array(np.empty((0, *rows.shape), rows.dtype), name=key))
    chunks = (tuple(entry.num_traces for entry in manifest.segments), *((size,) for size in rows.shape))
    return cast("da.Array", untyped.map_blocks(read, name=key, chunks=chunks, dtype=rows.dtype, meta=meta))


def _find_sites(
    snapshot: Snapshot, names: Collection[str], known: Mapping[str, _Rows], verify: Verify
) -> dict[str, _Rows]:
    """Find the shapes of values, from the dictionaries of segments, until each name was met in one."""
    found: dict[str, _Rows] = {}
    for entry in snapshot.manifest.segments:
        missing = [name for name in names if name not in found]
        if not missing:
            break
        # a reader of its own: of the thousands that may be looked at, none stays open
        reader = open_reader(snapshot.storage, entry, verify, {})
        for name in missing:
            shapes = reader.shapes_of(name)
            if len(shapes) > 1:
                message = (
                    f"Values of {name!r} differ in shape between layouts: {sorted(shapes)}; ask for full addresses."
                )
                raise TraceTypeMismatchError(message, name=name)
            found.update((name, _Rows(shape, "<f8", _read_sites)) for shape in shapes)
    for name in names:
        if name not in found:
            message = (
                f"No trace of {snapshot.storage.url} has a site {name!r}; columns and observations: "
                f"{', '.join(known)}; `addresses` lists all addresses."
            )
            raise UnknownAddressError(message, name=name)
    return found


def _read_column(reader: SegmentReader, name: str, _: _Rows) -> NDArray[np.generic]:
    return reader.column(name)


def _read_observation(reader: SegmentReader, name: str, rows: _Rows) -> NDArray[np.generic]:
    shape = (reader.num_traces, *rows.shape)
    info = reader.observations.get(name)
    if info is None:
        return np.broadcast_to(np.zeros((), rows.dtype), shape)
    if info.constant:
        shared = reader.constant_observation(name, np.arange(reader.num_traces))
        if shared is not None:
            return np.broadcast_to(shared.astype(rows.dtype), shape)
    out = np.empty(shape, rows.dtype)
    reader.fill_observation(name, slice(0, reader.num_traces), out)
    return out


def _read_sites(reader: SegmentReader, name: str, rows: _Rows) -> NDArray[np.generic]:
    shape = (reader.num_traces, *rows.shape)
    found = reader.values(name)
    if found is None:
        return np.broadcast_to(np.array(np.nan), shape)
    values, places = found
    if values.shape[1:] != rows.shape:
        message = (
            f"Values of {name!r} differ in shape between segments: {rows.shape} and {values.shape[1:]}; ask for full "
            "addresses."
        )
        raise TraceTypeMismatchError(message, name=name)
    if len(values) == shape[0]:
        return values.astype(rows.dtype, copy=False)
    out = np.full(shape, np.nan)
    out[places] = values
    return out


@lru_cache(_MOST_MANIFESTS)
def _manifest_of(pinned: _Pinned) -> Manifest:
    manifest = read_manifest(pinned.storage, pinned.version)
    if manifest.checksum != pinned.checksum:
        message = (
            f"Version {pinned.version} of {pinned.url} is not the one that the arrays were made from; there is another "
            "store at this place now. Call `to_dask` again."
        )
        raise StoreError(message, url=pinned.url, version=pinned.version)
    return manifest
