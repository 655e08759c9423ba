"""Many traces as flat columns: the one form in which traces move between simulators, stores and networks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.errors import InvalidInputError, UnknownAddressError
from tracestore.traces.layout import Layout
from tracestore.traces.trace import Trace, TraceStatus

__all__ = ["TRACE_COLUMNS", "TraceBatch"]

TRACE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("log_prior", "float64"),
    ("log_likelihood", "float64"),
    ("log_proposal", "float64"),
    ("log_weight", "float64"),
    ("stream", "int64"),
    ("status", "uint8"),
    ("seconds", "float32"),
    ("chain", "int32"),
    ("draw", "int64"),
    ("accepted", "bool"),
)
"""Names and dtypes of the columns with one number per trace."""


@dataclass(frozen=True, eq=False)
class TraceBatch:
    """N traces as columns, ordered trace by trace and, inside a trace, site by site.

    Examples
    --------
    >>> from tracestore.simulators import toys, PriorController, run_trace
    >>> rng = np.random.default_rng(1)
    >>> batch = TraceBatch.from_traces([run_trace(toys.gum, PriorController(), rng) for _ in range(3)])
    >>> len(batch), len(batch.layouts), batch.observations["obs0"].shape
    (3, 1, (3,))
    >>> values, present = batch.named("mu")
    >>> values.shape, bool(present.all())
    ((3,), True)
    """

    layouts: tuple[Layout, ...]
    """The distinct layouts of the batch."""
    layout_index: NDArray[np.int32]
    """Position of each trace's layout in ``layouts``, shape ``(N,)``."""
    values: NDArray[np.float64]
    """Stored values, flat."""
    log_probs: NDArray[np.float64]
    """Log probabilities, one per site, flat."""
    parameters: NDArray[np.float64]
    """Prior and likelihood parameters, flat."""
    observations: Mapping[str, NDArray[np.generic]]
    """Named observations, shape ``(N, *shape)``; a constant one is a broadcast view with stride 0 along axis 0.

    A trace whose layout lacks the named observe has zeros there.
    """
    log_prior: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    log_proposal: NDArray[np.float64]
    log_weight: NDArray[np.float64]
    stream: NDArray[np.int64]
    status: NDArray[np.uint8]
    seconds: NDArray[np.float32]
    chain: NDArray[np.int32]
    draw: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    failures: Mapping[int, str] = field(default_factory=dict)
    """Reason of each trace that failed, by row."""

    def __len__(self) -> int:
        return len(self.layout_index)

    def __iter__(self) -> Iterator[Trace]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Trace:
        """One trace as a view of its row."""
        if not -len(self) <= index < len(self):
            message = f"Trace {index} is outside a batch of {len(self)} traces."
            raise IndexError(message)
        row = index % len(self)
        layout = self.layouts[self.layout_index[row]]
        observed = set(layout.observed_names)
        return Trace(
            layout=layout,
            values=self.values[self.value_offsets[row] : self.value_offsets[row + 1]],
            log_probs=self.log_probs[self.site_offsets[row] : self.site_offsets[row + 1]],
            parameters=self.parameters[self.parameter_offsets[row] : self.parameter_offsets[row + 1]],
            observations={
                name: np.asarray(column[row]) for name, column in self.observations.items() if name in observed
            },
            status=TraceStatus(int(self.status[row])),
            failure=self.failures.get(row, ""),
            **{name: getattr(self, name)[row].item() for name, _ in TRACE_COLUMNS if name != "status"},
        )

    @cached_property
    def num_sites(self) -> NDArray[np.int64]:
        """Sites of each trace, shape ``(N,)``."""
        return self._per_trace([layout.num_sites for layout in self.layouts])

    @cached_property
    def trace_types(self) -> NDArray[np.uint64]:
        """Trace type of each trace, shape ``(N,)``."""
        return np.array([layout.trace_type for layout in self.layouts], np.uint64)[self.layout_index]

    @cached_property
    def site_offsets(self) -> NDArray[np.int64]:
        """Where each trace starts in ``log_probs`` and ``address_ids``, shape ``(N + 1,)``."""
        return _offsets(self.num_sites)

    @cached_property
    def value_offsets(self) -> NDArray[np.int64]:
        """Where each trace starts in ``values``, shape ``(N + 1,)``."""
        return _offsets(self._per_trace([layout.num_values for layout in self.layouts]))

    @cached_property
    def parameter_offsets(self) -> NDArray[np.int64]:
        """Where each trace starts in ``parameters``, shape ``(N + 1,)``."""
        return _offsets(self._per_trace([layout.num_parameters for layout in self.layouts]))

    @cached_property
    def address_ids(self) -> NDArray[np.uint64]:
        """Address identity of every site, flat."""
        parts = [self.layouts[index].address_ids for index in self.layout_index]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    @property
    def log_joint(self) -> NDArray[np.float64]:
        """Log prior plus log likelihood, shape ``(N,)``."""
        return self.log_prior + self.log_likelihood

    @property
    def nbytes(self) -> int:
        """Bytes of the columns; a constant observation counts once."""
        columns: list[NDArray[np.generic]] = [self.layout_index, self.values, self.log_probs, self.parameters]
        columns += [getattr(self, name) for name, _ in TRACE_COLUMNS]
        observed = sum(
            column[:1].nbytes if is_constant(column) else column.nbytes for column in self.observations.values()
        )
        return sum(column.nbytes for column in columns) + observed

    def take(self, indices: ArrayLike) -> "TraceBatch":
        """Copy some traces, in the order asked for.

        Parameters
        ----------
        indices
            Rows, shape ``(M,)``, or a boolean mask, shape ``(N,)``.
        """
        chosen = np.asarray(indices)
        rows = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        rows = np.where(rows < 0, rows + len(self), rows)
        failures = {}
        if self.failures:
            found = ((place, self.failures.get(int(row))) for place, row in enumerate(rows))
            failures = {place: reason for place, reason in found if reason is not None}
        return TraceBatch(
            layouts=self.layouts,
            layout_index=self.layout_index[rows],
            values=_gather(self.values, self.value_offsets, rows),
            log_probs=_gather(self.log_probs, self.site_offsets, rows),
            parameters=_gather(self.parameters, self.parameter_offsets, rows),
            observations={
                name: _repeat(column[0], len(rows)) if is_constant(column) else column[rows]
                for name, column in self.observations.items()
            },
            failures=failures,
            **{name: getattr(self, name)[rows] for name, _ in TRACE_COLUMNS},
        )

    def named(self, name: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Values of one name or address over all traces.

        Parameters
        ----------
        name
            A site's name or full address; the last site of a trace wins when it repeats.

        Returns
        -------
        values : ndarray
            Shape ``(N, *shape)``; zeros where absent.
        present : ndarray of bool
            Shape ``(N,)``.

        Raises
        ------
        UnknownAddressError
            When no layout of the batch has it.
        TraceTypeMismatchError
            When its values differ in shape between layouts.
        """
        present = np.zeros(len(self), np.bool_)
        if name in self.observations:
            for place, layout in enumerate(self.layouts):
                if name in layout.observed_names:
                    present |= self.layout_index == place
            return self.observations[name], present
        found = {place: layout.index_of(name) for place, layout in enumerate(self.layouts)}
        found = {place: positions for place, positions in found.items() if positions}
        if not found:
            message = f"No trace of this batch has a site {name!r}."
            raise UnknownAddressError(message, name=name)
        shape = next(self.layouts[place].sites[positions[-1]].shape for place, positions in found.items())
        values = np.zeros((len(self), *shape))
        for place, positions in found.items():
            layout, position = self.layouts[place], positions[-1]
            start, stop = layout.value_offsets[position : position + 2]
            rows = np.flatnonzero(self.layout_index == place)
            index = self.value_offsets[rows, None] + np.arange(start, stop)
            values[rows] = self.values[index].reshape(len(rows), *layout.sites[position].shape)
            present[rows] = True
        return values, present

    def has_observation(self, name: str) -> NDArray[np.bool_]:
        """Whether each trace reached the named observe, shape ``(N,)``."""
        holders = [name in layout.observed_names for layout in self.layouts]
        return np.array(holders, np.bool_)[self.layout_index]

    @staticmethod
    def from_traces(traces: Sequence[Trace]) -> "TraceBatch":
        """Gather traces into columns.

        Parameters
        ----------
        traces
            At least one trace.

        Raises
        ------
        InvalidInputError
            When there is no trace, or one observation name has several shapes.
        """
        if not traces:
            message = "A batch needs at least one trace; got none."
            raise InvalidInputError(message)
        places: dict[Layout, int] = {}
        layout_index = [places.setdefault(trace.layout, len(places)) for trace in traces]
        columns = {name: np.array([getattr(trace, name) for trace in traces], dtype) for name, dtype in TRACE_COLUMNS}
        return TraceBatch(
            layouts=tuple(places),
            layout_index=np.array(layout_index, np.int32),
            values=np.concatenate([trace.values for trace in traces]),
            log_probs=np.concatenate([trace.log_probs for trace in traces]),
            parameters=np.concatenate([trace.parameters for trace in traces]),
            observations=_gather_observations(traces),
            failures={row: trace.failure for row, trace in enumerate(traces) if trace.status is not TraceStatus.OK},
            **columns,
        )

    @staticmethod
    def concatenate(batches: "Sequence[TraceBatch]") -> "TraceBatch":
        """Join batches, in order.

        Raises
        ------
        InvalidInputError
            When there is no batch, or one observation name has several shapes.
        """
        if not batches:
            message = "Concatenation needs at least one batch; got none."
            raise InvalidInputError(message)
        if len(batches) == 1:
            return batches[0]
        places: dict[Layout, int] = {}
        indices = []
        for batch in batches:
            table = np.array([places.setdefault(layout, len(places)) for layout in batch.layouts], np.int32)
            indices.append(table[batch.layout_index] if len(table) else batch.layout_index)
        starts = np.cumsum([0, *(len(batch) for batch in batches)])
        names = dict.fromkeys(name for batch in batches for name in batch.observations)
        failures = {
            int(start) + row: reason
            for start, batch in zip(starts, batches, strict=False)
            for row, reason in batch.failures.items()
        }
        flat = {
            name: np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("values", "log_probs", "parameters", *(name for name, _ in TRACE_COLUMNS))
        }
        return TraceBatch(
            layouts=tuple(places),
            layout_index=np.concatenate(indices),
            observations={name: _join_observation(name, batches) for name in names},
            failures=failures,
            **flat,
        )

    def _per_trace(self, per_layout: list[int]) -> NDArray[np.int64]:
        return np.array(per_layout, np.int64)[self.layout_index] if per_layout else np.empty(0, np.int64)


_GATHERED_ROWS = 4096


def is_constant(column: NDArray[np.generic]) -> bool:
    """Whether a column is one row seen many times: a broadcast view, which stores need to hold only once."""
    return column.strides[0] == 0 and len(column) > 0


def _repeat(row: NDArray[np.generic], num_traces: int) -> NDArray[np.generic]:
    return np.broadcast_to(row, (num_traces, *row.shape))


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _gather(flat: NDArray[np.float64], offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Copy the ragged rows of a flat column without a loop over traces, some at a time: indices need memory, too."""
    sizes = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]) if len(ends) else 0, flat.dtype)
    for low in range(0, len(rows), _GATHERED_ROWS):
        part = slice(low, low + _GATHERED_ROWS)
        first = int(ends[low] - sizes[low])
        index = np.repeat(offsets[rows[part]] - (ends[part] - sizes[part]) + first, sizes[part])
        index += np.arange(len(index))
        out[first : first + len(index)] = flat[index]
    return out


def _gather_observations(traces: Sequence[Trace]) -> dict[str, NDArray[np.generic]]:
    names = dict.fromkeys(name for trace in traces for name in trace.observations)
    columns: dict[str, NDArray[np.generic]] = {}
    for name in names:
        found = [trace.observations.get(name) for trace in traces]
        first = next(value for value in found if value is not None)
        if all(value is first for value in found) and len(found) > 1:
            columns[name] = _repeat(first, len(found))
            continue
        dtype = np.result_type(*(value.dtype for value in found if value is not None))
        column = np.zeros((len(found), *first.shape), dtype)
        for row, value in enumerate(found):
            if value is not None:
                _require_shape(name, first.shape, value.shape)
                column[row] = value
        columns[name] = column
    return columns


def _join_observation(name: str, batches: Sequence[TraceBatch]) -> NDArray[np.generic]:
    parts = [batch.observations.get(name) for batch in batches]
    first = next(part for part in parts if part is not None)
    num_traces = sum(map(len, batches))
    if all(part is not None and is_constant(part) and np.array_equal(part[0], first[0]) for part in parts):
        return _repeat(first[0], num_traces)
    dtype = np.result_type(*(part.dtype for part in parts if part is not None))
    joined = np.zeros((num_traces, *first.shape[1:]), dtype)
    start = 0
    for batch, part in zip(batches, parts, strict=True):
        if part is not None:
            _require_shape(name, first.shape[1:], part.shape[1:])
            joined[start : start + len(batch)] = part
        start += len(batch)
    return joined


def _require_shape(name: str, expected: tuple[int, ...], found: tuple[int, ...]) -> None:
    if expected != found:
        message = (
            f"Observation {name!r} has shape {found} in one trace and {expected} in another; "
            "give observations of different shapes different names."
        )
        raise InvalidInputError(message, name=name, expected=expected, found=found)
