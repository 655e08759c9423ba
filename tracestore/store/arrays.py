"""Dense arrays of named sites and observations, for programs that know no traces; reads a segment at a time."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore.errors import InvalidInputError
from tracestore.formats.base import SegmentReader
from tracestore.store.snapshot import Snapshot
from tracestore.traces.fixed_sites import FixedSites, require_names
from tracestore.traces.layout import Layout

__all__ = ["TraceArrays", "as_arrays"]

_BUFFER_BYTES = 2**24
"""Observations that are converted at once."""


@dataclass(frozen=True, slots=True, eq=False)
class TraceArrays:
    """Two arrays with one row per trace, and what their columns are; unpacks as ``theta, x``.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.simulate(gum, "traces", num_traces=100, seed=1)
    >>> arrays = store.as_arrays(["mu"])
    >>> theta, x = arrays
    >>> theta.shape, x.shape, arrays.columns
    ((100, 1), (100, 2), ('mu',))
    >>> {name: array.shape for name, array in arrays.as_dict().items()}
    {'mu': (100, 1), 'obs0': (100, 1), 'obs1': (100, 1)}
    """

    theta: NDArray[np.floating]
    """Values of the sites, shape ``(N, num_columns)``."""
    x: NDArray[np.floating]
    """The observation, shape ``(N, *shape)``, or several of them side by side, shape ``(N, F)``."""
    columns: tuple[str, ...]
    """What each column of theta is: ``mu``, ``momentum[0]``, ..."""
    indices: NDArray[np.int64]
    """The trace of each row, shape ``(N,)``."""
    site_shapes: Mapping[str, tuple[int, ...]]
    """Shape of each site's value, in the order of theta."""
    observation_shapes: Mapping[str, tuple[int, ...]]
    """Shape of each observation, in the order of x."""

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        return iter((self.theta, self.x))

    def __len__(self) -> int:
        """Traces."""
        return len(self.theta)

    def as_dict(self) -> dict[str, NDArray[np.floating]]:
        """View the arrays by name of site and of observation, shape ``(N, *shape)`` each, ``(N, 1)`` for scalars."""
        flat_x = self.x.reshape(len(self.x), sum(map(_width, self.observation_shapes.values())))
        views: dict[str, NDArray[np.floating]] = {}
        for flat, shapes in ((self.theta, self.site_shapes), (flat_x, self.observation_shapes)):
            start = 0
            for name, shape in shapes.items():
                stop = start + _width(shape)
                views[name] = flat[:, start:stop].reshape(len(flat), *(shape or (1,)))
                start = stop
        return views


@dataclass(frozen=True, slots=True)
class _Part:
    """What is read of one segment."""

    snapshot: Snapshot
    segment: int
    """Position of the segment."""
    first: int
    """Index of the segment's first trace."""
    rows: NDArray[np.int64]
    """Rows of the segment, ascending."""
    places: slice | NDArray[np.int64]
    """Where they go."""

    @property
    def reader(self) -> SegmentReader:
        """Reader of the segment; the snapshot has it, and limits what all of them keep in memory."""
        return self.snapshot.segment(self.segment)


def as_arrays(
    snapshot: Snapshot,
    names: Collection[str],
    *,
    observations: Collection[str] | None = None,
    indices: ArrayLike | None = None,
    dtype: DTypeLike = np.float32,
    folder: Path | str | None = None,
) -> TraceArrays:
    """Read named sites and observations as two arrays; see `TraceSequence.as_arrays`.

    Parameters
    ----------
    snapshot
        The traces.
    names
        Draws and tags.
    observations
        Names of the observations.
    indices
        The traces.
    dtype
        Type of both arrays.
    folder
        Where the arrays are kept.

    Raises
    ------
    InvalidInputError
        When an argument is out of range.
    UnknownAddressError
        When no trace has a site.
    TraceTypeMismatchError
        When not every trace has a site once, in one shape.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.toys import gum
    >>> store = ts.simulate(gum, "traces", num_traces=100, seed=1)
    >>> theta, x = store.as_arrays(["mu"], observations=["obs1"], indices=[5, 3])
    >>> theta.tolist() == [[np.float32(store[5]["mu"])], [np.float32(store[3]["mu"])]]
    True
    """
    if np.dtype(dtype).kind != "f":
        message = f"`dtype` must be a type of floats; got {np.dtype(dtype).name}."
        raise InvalidInputError(message, argument="dtype")
    shapes = _observation_shapes(snapshot, observations)
    index = _select(snapshot, indices)
    parts = list(_split(snapshot, index))
    sites = FixedSites(names, shapes, layouts=lambda: (layout for part in parts for layout, _ in _layouts(part, set())))
    known: set[int] = set()
    for part in parts:
        for layout, trace in _layouts(part, known):
            sites.check(layout, trace)
    theta_shape = (len(index), sum(map(_width, sites.shapes.values())))
    x_width = sum(map(_width, shapes.values()))
    single = next(iter(shapes.values())) if len(shapes) == 1 else ()
    x_shape = (len(index), *(single or (x_width,)))
    with _Files(folder, np.dtype(dtype)) as files:
        theta, x = files.make("theta", theta_shape), files.make("x", x_shape)
        for part in parts:
            _fill(part, sites.shapes, shapes, theta, x.reshape(len(index), x_width))
        theta, x = files.finish("theta", theta), files.finish("x", x)
    return TraceArrays(theta, x, sites.columns, index, sites.shapes, shapes)


class _Files:
    """Where arrays are made: in memory, or in files that get their names when they are complete."""

    def __init__(self, folder: Path | str | None, dtype: np.dtype[np.generic]) -> None:
        self._folder = None if folder is None else Path(folder)
        self._dtype = dtype
        self._unfinished: dict[str, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._unfinished.values():
            path.unlink(missing_ok=True)

    def make(self, name: str, shape: tuple[int, ...]) -> NDArray[np.floating]:
        """Make an array to be filled."""
        if self._folder is None:
            return np.empty(shape, self._dtype)
        path = self._folder / f"{name}.npy"
        if path.exists():
            message = f"{path} exists already; give another `folder`, or remove the file."
            raise InvalidInputError(message, argument="folder", path=str(path))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._unfinished[name] = path.with_suffix(".npy.part")
        return np.lib.format.open_memmap(self._unfinished[name], "w+", self._dtype, shape)

    def finish(self, name: str, array: NDArray[np.floating]) -> NDArray[np.floating]:
        """Give a file its name, and map it so that what is written to the array stays in memory."""
        if self._folder is None:
            return array
        if isinstance(array, np.memmap):
            array.flush()
        path = self._unfinished.pop(name).replace(self._folder / f"{name}.npy")
        mapped: NDArray[np.floating] = np.load(path, mmap_mode="c")
        return mapped


def _observation_shapes(snapshot: Snapshot, observations: Collection[str] | None) -> dict[str, tuple[int, ...]]:
    known = {name: info.shape for name, info in snapshot.observations.items()}
    if not known:
        message = f"{snapshot.storage.url} has no observations; `values` reads sites alone."
        raise InvalidInputError(message, argument="observations")
    if observations is None:
        return known
    asked = require_names(observations, "observations")
    unknown = [name for name in asked if name not in known]
    if unknown:
        message = f"There is no observation {unknown[0]!r}; observations: {', '.join(known)}."
        raise InvalidInputError(message, argument="observations", name=unknown[0])
    return {name: known[name] for name in asked}


def _select(snapshot: Snapshot, indices: ArrayLike | None) -> NDArray[np.int64]:
    """Decide which traces are read; failed ones are left out, or refused when they are asked for."""
    is_good = snapshot.column("status") == 0
    if indices is None:
        index: NDArray[np.int64] = np.flatnonzero(is_good)
    else:
        given = np.asarray(indices)
        is_mask = given.dtype == np.bool_ and given.shape == is_good.shape
        chosen = np.flatnonzero(given) if is_mask else given
        if chosen.ndim != 1 or (chosen.dtype.kind not in "iu" and len(chosen)):
            message = (
                f"`indices` must be integers, shape (M,), or a mask, shape ({len(is_good)},); got {given.dtype} of "
                f"shape {given.shape}."
            )
            raise InvalidInputError(message, argument="indices")
        index = chosen.astype(np.int64)
        index = np.where(index < 0, index + len(is_good), index)
        outside = chosen[(index < 0) | (index >= len(is_good))]
        if len(outside):
            message = f"`indices` has {int(outside[0])}, but there are {len(is_good)} traces."
            raise InvalidInputError(message, argument="indices")
        failed = index[~is_good[index]]
        if len(failed):
            message = (
                f"Trace {int(failed[0])} failed, as did {len(failed) - 1} more of `indices`; leave them out: their "
                "`status` is not 0."
            )
            raise InvalidInputError(message, argument="indices", trace=int(failed[0]))
    if not len(index):
        message = (
            f"There are no traces to read: {len(is_good)} in the store, {int(is_good.sum())} of them without failure."
        )
        raise InvalidInputError(message, argument="indices")
    return index


def _split(snapshot: Snapshot, index: NDArray[np.int64]) -> Iterator[_Part]:
    """Group traces by segment, in the order of the store within each, so that blocks are decoded once."""
    is_ascending = bool((index[1:] >= index[:-1]).all())
    order = None if is_ascending else np.argsort(index, kind="stable")
    ordered = index if order is None else index[order]
    bounds = np.searchsorted(ordered, snapshot.first)
    for place, (low, high) in enumerate(pairwise(bounds.tolist())):
        if low < high:
            first = int(snapshot.first[place])
            places = slice(low, high) if order is None else order[low:high]
            yield _Part(snapshot, place, first, ordered[low:high] - first, places)


def _layouts(part: _Part, known: set[int]) -> Iterator[tuple[Layout, int]]:
    """Yield layouts that are not known yet, each with the first of the traces that has it."""
    reader = part.reader
    runs = reader.runs
    run = np.searchsorted(runs.first, part.rows, "right") - 1
    numbers, first = np.unique(runs.layout[run], return_index=True)
    for number, identity, row in zip(numbers, runs.layout_id[run[first]], part.rows[first], strict=True):
        if int(identity) not in known:
            known.add(int(identity))
            yield reader.layouts[number], part.first + int(row)


def _fill(
    part: _Part,
    sites: Mapping[str, tuple[int, ...]],
    observations: Mapping[str, tuple[int, ...]],
    theta: NDArray[np.floating],
    x: NDArray[np.floating],
) -> None:
    """Copy what is read of one segment to its places."""
    reader = part.reader
    start = 0
    for name, shape in sites.items():
        found = reader.values(name)
        assert found is not None, "checked above: every row has the site"
        values, rows = found
        if not np.array_equal(rows, part.rows):
            values = values[np.searchsorted(rows, part.rows)]
        theta[part.places, start : start + _width(shape)] = values.reshape(len(values), _width(shape))
        start += _width(shape)
    start = 0
    for name, shape in observations.items():
        _fill_observation(part, reader, name, x[:, start : start + _width(shape)])
        start += _width(shape)


def _fill_observation(part: _Part, reader: SegmentReader, name: str, out: NDArray[np.floating]) -> None:
    info = reader.observations[name]
    width = _width(info.shape)
    most = max(1, _BUFFER_BYTES // max(1, width * np.dtype(info.dtype).itemsize))
    buffer: NDArray[np.generic] = np.empty((min(most, len(part.rows)), *info.shape), info.dtype)
    for low in range(0, len(part.rows), most):
        rows = part.rows[low : low + most]
        target = buffer[: len(rows)]
        is_range = int(rows[-1] - rows[0]) == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        reader.fill_observation(name, slice(int(rows[0]), int(rows[-1]) + 1) if is_range else rows, target)
        if isinstance(part.places, slice):
            first = part.places.start + low
            out[first : first + len(rows)] = target.reshape(len(rows), width)
        else:
            out[part.places[low : low + most]] = target.reshape(len(rows), width)


def _width(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
