"""The recorder of a batched run: what many traces at once draw, observe and tag, and the rectangular batch they become.

The first axis of everything is the trace axis. All traces of a batch pass through the same sites, so that nothing here
loops over traces.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore.errors import InvalidInputError, SimulatorProtocolError
from tracestore.simulators.base import PriorController
from tracestore.simulators.batch_arrays import BatchArrays, NumpyArrays
from tracestore.simulators.recorder import MAX_RESULT_NUMBERS, Recorder
from tracestore.simulators.sites import intern_layout
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.distributions.base import plain_array
from tracestore.traces.distributions.row_draws import Rows
from tracestore.traces.layout import Layout, Site, SiteKind
from tracestore.traces.trace import RESULT, TraceStatus

__all__ = ["BatchController", "BatchPrior", "BatchRecorder", "BatchReplay", "read_rows", "refuse_loop"]

Values = NDArray[np.generic]

ROWS_AT_ONCE = 8192
"""Rows that are interleaved together, so that they stay in the processor's cache."""


class BatchController(Protocol):
    """Decides the values of every draw of a running batch."""

    def draw_rows(self, site: Site, rows: Rows, rng: np.random.Generator) -> tuple[Values, NDArray[np.float64]]:
        """Return one value a trace, shape ``(num_traces, *shape)``, and their log probabilities under the prior."""


class BatchPrior:
    """Draws every value from its prior."""

    def draw_rows(self, site: Site, rows: Rows, rng: np.random.Generator) -> tuple[Values, NDArray[np.float64]]:
        """Draw from the prior."""
        values = rows.sample(rng)
        return values, rows.log_prob(values)


class BatchReplay:
    """Gives each address the values of a recorded batch; addresses that it lacks draw from the prior.

    Parameters
    ----------
    values
        By address identity, shape ``(num_traces, *shape)``.

    Examples
    --------
    >>> import tracestore as ts
    >>> from tracestore.simulators.batched import BatchedSimulator, run_batch
    >>> coins = BatchedSimulator(lambda: ts.sample(ts.Bernoulli(0.5), name="heads"))
    >>> first = run_batch(coins, 4, np.random.default_rng(1))
    >>> again = run_batch(coins, 4, np.random.default_rng(2), controller=BatchReplay.of(first))
    >>> bool((again.values == first.values).all())
    True
    """

    def __init__(self, values: Mapping[int, Values]) -> None:
        self.values = values

    @staticmethod
    def of(batch: TraceBatch) -> "BatchReplay":
        """Replay a batch.

        Raises
        ------
        InvalidInputError
            When its traces do not share one layout.
        """
        if len(batch.layouts) != 1:
            message = f"A batch is replayed when its traces share one layout; this one has {len(batch.layouts)}."
            raise InvalidInputError(message, num_layouts=len(batch.layouts))
        layout = batch.layouts[0]
        table = batch.values.reshape(len(batch), layout.num_values)
        values: dict[int, Values] = {}
        for position, site in enumerate(layout.sites):
            if site.kind is SiteKind.SAMPLE:
                start, stop = layout.value_offsets[position : position + 2]
                values[site.id] = table[:, start:stop].reshape(len(batch), *site.shape)
        return BatchReplay(values)

    def draw_rows(self, site: Site, rows: Rows, rng: np.random.Generator) -> tuple[Values, NDArray[np.float64]]:
        """Replay the recorded values, or draw from the prior."""
        values = self.values.get(site.id)
        if values is None:
            values = rows.sample(rng)
        elif rows.prior.is_discrete and not rows.shape:
            values = values.astype(np.int64)
        return values, rows.log_prob(values)


class Resumed(NamedTuple):
    """One trace of an unfinished batch, to be run again alone with what it had drawn."""

    batch: "BatchRecorder"
    row: int

    def draw_rows(self, site: Site, rows: Rows, rng: np.random.Generator) -> tuple[Values, NDArray[np.float64]]:
        """Repeat a draw of the batch, or ask the batch's controller."""
        drawn = self.batch.drawn.get(site.id)
        if drawn is None:
            return self.batch.batch_controller.draw_rows(site, rows, rng)
        values = drawn[self.row : self.row + 1]
        return values, rows.log_prob(values)

    def observed(self, site: Site) -> Values | None:
        """Repeat a value that the batch drew from a likelihood."""
        drawn = self.batch.drawn.get(site.id)
        return None if drawn is None else drawn[self.row : self.row + 1]


class BatchRecorder(Recorder):
    """Records one batched run; has the methods of `Recorder`, with rows instead of values.

    Parameters
    ----------
    controller
        Decides the values of sample sites.
    rng
        Random numbers of the whole batch.
    num_traces
        Traces in the batch.
    observations
        Values to condition on, by name, the same for all traces; None generates observations from the likelihoods.
    max_sites
        The run is stopped when it reaches more sites.
    arrays
        What the program computes with.
    """

    def __init__(
        self,
        controller: BatchController,
        rng: np.random.Generator,
        num_traces: int,
        observations: Mapping[str, Values] | None,
        max_sites: int,
        arrays: BatchArrays | None = None,
    ) -> None:
        super().__init__(PriorController(), rng, observations, max_sites)
        self.arrays: BatchArrays = arrays or NumpyArrays()
        self.batch_controller = controller
        self.num_traces = num_traces
        self.drawn: dict[int, Values] = {}
        """Whatever was drawn, by address identity, observations from likelihoods included."""
        self._values: list[Values] = []
        self._scores: list[NDArray[np.float64]] = []
        self._numbers: list[NDArray[np.float64]] = []
        self._log_prior = np.zeros(num_traces)
        self._log_likelihood = np.zeros(num_traces)

    @property
    def num_open_loops(self) -> int:
        """Rejection loops that the run is in: none."""
        return 0

    @num_open_loops.setter
    def num_open_loops(self, number: int) -> None:
        if number:
            self.fatal = refuse_loop()
            raise self.fatal

    def sample(self, prior: Distribution, name: str, place: str, control: bool) -> Any:  # noqa: ANN401, FBT001
        """Record one draw a trace and return the values, shape ``(num_traces, *shape)``."""
        if name and self.given is not None and name in self.given:
            return self.observe(prior, None, name, place, None)
        rows = self._rows(prior)
        first = rows.first
        site = self._site(place, first.suffix, SiteKind.SAMPLE, control, name, first)
        try:
            values, log_probs = self.batch_controller.draw_rows(site, rows, self.rng)
        except Exception as error:
            self.fatal = error
            raise
        self.drawn[site.id] = values
        self._keep(site, values, log_probs, rows.parameters())
        self._log_prior += log_probs
        return self.arrays.give(values)

    def observe(
        self, likelihood: Distribution, value: ArrayLike | None, name: str, place: str, dtype: DTypeLike | None
    ) -> Any:  # noqa: ANN401
        """Score one observation a trace and return the values, shape ``(num_traces, *shape)``."""
        rows = self._rows(likelihood)
        first = rows.first
        site = self._site(place, first.suffix, SiteKind.OBSERVE, False, name, first)
        if name in self.observed:
            message = f"The observe name {name!r} is used twice in one trace; give each observe its own name."
            raise SimulatorProtocolError(message, name=name)
        values = self._observed_rows(site, rows, value, dtype)
        log_probs = rows.log_prob(values)
        if name:
            self.observed[name] = values
        self._keep(site, None if name else values, log_probs, rows.parameters())
        self._log_likelihood += log_probs
        return self.arrays.give(values if rows.shape else values.astype(np.float64, copy=False))

    def tag(self, value: ArrayLike, name: str, place: str) -> None:
        """Record values that are never scored, one a trace or the same for all."""
        array = plain_array(value)
        if array.dtype.kind not in "biuf":
            message = f"A tag must be a number or an array of numbers; {name or place!r} got {value!r}."
            raise InvalidInputError(message, name=name)
        values = self._read(array.astype(np.float64), f"the tag {name or place!r}")
        shape = values.shape[1:]
        suffix = "Tag" + (f"[{','.join(map(str, shape))}]" if shape else "")
        site = self._site(place, suffix, SiteKind.TAG, False, name, None, shape)
        self._keep(site, values, np.zeros(1), ())

    def finish_batch(
        self, result: object, status: TraceStatus, failure: str, stream: int, seconds: float
    ) -> TraceBatch:
        """Turn what was recorded into a batch.

        Parameters
        ----------
        result
            What the program returned.
        status, failure
            How the run ended.
        stream
            Number of the first trace.
        seconds
            Wall time of the run, of which each trace gets an equal share.
        """
        if status is TraceStatus.OK:
            self._tag_result(result)
        num_traces = self.num_traces
        statuses = np.full(num_traces, status, np.uint8)
        failures = dict.fromkeys(range(num_traces), failure) if status is not TraceStatus.OK else {}
        log_probs = _interleaved([scores[:, None] for scores in self._scores], num_traces)
        if status is TraceStatus.OK:
            failures = self._unscored(log_probs)
            statuses[list(failures)] = TraceStatus.FAILED
        return TraceBatch(
            layouts=(self.layout,),
            layout_index=np.zeros(num_traces, np.int32),
            values=_interleaved(
                [values.reshape(num_traces, math.prod(values.shape[1:])) for values in self._values], num_traces
            ),
            log_probs=log_probs,
            parameters=_interleaved(self._numbers, num_traces),
            observations=self.observed,
            log_prior=self._log_prior,
            log_likelihood=self._log_likelihood,
            log_proposal=np.full(num_traces, np.nan),
            log_weight=np.zeros(num_traces),
            stream=np.arange(stream, stream + num_traces, dtype=np.int64),
            status=statuses,
            seconds=np.full(num_traces, seconds / num_traces, np.float32),
            chain=np.zeros(num_traces, np.int32),
            draw=np.zeros(num_traces, np.int64),
            accepted=np.ones(num_traces, np.bool_),
            failures=failures,
        )

    @property
    def layout(self) -> Layout:
        """Layout of all traces so far."""
        return intern_layout(self.sites)

    def _rows(self, prior: Distribution) -> Rows:
        try:
            return Rows.of(prior, self.num_traces)
        except InvalidInputError as error:
            self.fatal = error
            raise

    def _keep(
        self, site: Site, values: Values | None, log_probs: NDArray[np.float64], numbers: Sequence[NDArray[np.float64]]
    ) -> None:
        self.sites.append(site)
        self._scores.append(log_probs)
        if values is not None:
            self._values.append(values)
        if site.num_parameters:
            self._numbers += numbers

    def _read(self, array: Values, what: str) -> Values:
        try:
            return read_rows(array, self.num_traces, what)
        except InvalidInputError as error:
            self.fatal = error
            raise

    def _observed_rows(self, site: Site, rows: Rows, value: ArrayLike | None, dtype: DTypeLike | None) -> Values:
        name = site.name
        if self.given is not None and name and name in self.given:
            array = self._numeric(self.given[name], name, dtype)
            return np.broadcast_to(array, (self.num_traces, *array.shape))
        if value is not None:
            array = self._numeric(value, name, dtype)
            if array.ndim == len(rows.shape):
                return np.broadcast_to(array, (self.num_traces, *array.shape))
            return self._read(array, f"the value of the observe {name or site.address!r}")
        if self.given is not None:
            label = repr(name) if name else "without a name"
            message = (
                f"The simulator observes {label} but no value was given for it; "
                f"given: {', '.join(map(repr, self.given)) or 'nothing'}."
            )
            self.fatal = InvalidInputError(message, name=name)
            raise self.fatal
        resumed = self.batch_controller.observed(site) if isinstance(self.batch_controller, Resumed) else None
        values = self._numeric(rows.sample(self.rng) if resumed is None else resumed, name, dtype)
        self.drawn[site.id] = values
        return values

    def _numeric(self, found: ArrayLike, name: str, dtype: DTypeLike | None) -> Values:
        array = np.asarray(plain_array(found), dtype)
        if array.dtype.kind not in "biuf":
            message = f"Observation {name!r} must be numeric; got dtype {array.dtype}."
            raise InvalidInputError(message, name=name)
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    def _tag_result(self, result: object) -> None:
        if result is None or any(site.name == RESULT for site in self.sites) or len(self.sites) >= self.max_sites:
            return
        if isinstance(result, bool | int | float | np.generic | np.ndarray) or hasattr(result, "__array__"):
            array = plain_array(result)
            if array.dtype.kind in "biuf" and math.prod(array.shape[1:]) <= MAX_RESULT_NUMBERS:
                self.tag(self._read(array, "what the program returns"), RESULT, RESULT)

    def _unscored(self, log_probs: NDArray[np.float64]) -> dict[int, str]:
        """Say of each trace whose log joint is no number, where that began."""
        failures = {}
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(np.isnan(self._log_prior + self._log_likelihood))
        table = log_probs.reshape(self.num_traces, -1)
        for row in wrong.tolist():
            bad, infinite = np.flatnonzero(np.isnan(table[row])), np.flatnonzero(np.isinf(table[row]))
            if len(bad):
                what = f"at {self.sites[bad[0]].address!r} is NaN"
            else:  # a sum of infinities of both signs is no number, too
                what = f"is NaN: infinities of both signs, the first at {self.sites[infinite[0]].address!r}"
            failures[row] = f"the log probability {what}"
        return failures


def read_rows(array: Values, num_traces: int, what: str) -> Values:
    """Read an array of a batched program as one row a trace.

    Parameters
    ----------
    array
        A number, the same for all traces, or an array of which the first axis has the size one or that of the batch.
    num_traces
        Traces in the batch.
    what
        What it is, for the message.

    Raises
    ------
    InvalidInputError
        When it has another first axis.

    Examples
    --------
    >>> read_rows(np.array([[1.0, 2.0]]), 3, "the tag 'x'").shape
    (3, 2)
    """
    if array.shape and array.shape[0] not in (1, num_traces):
        message = (
            f"Inside a batch of {num_traces} traces the first axis is the trace axis, so {what} must have the shape"
            f" (), ({num_traces}, ...) or (1, ...); got shape {array.shape}."
        )
        raise InvalidInputError(message, shape=array.shape, num_traces=num_traces)
    return np.broadcast_to(array, (num_traces, *array.shape[1:]))


def refuse_loop() -> SimulatorProtocolError:
    """Return the refusal of a rejection loop inside a batch."""
    message = (
        "A batched simulator cannot have a rejection loop: its traces would need different numbers of passes, and a"
        " batch is rectangular. Write the program for one trace with `simulator`, or draw from what is accepted."
    )
    return SimulatorProtocolError(message)


def _interleaved(columns: Sequence[NDArray[np.generic]], num_traces: int) -> NDArray[np.float64]:
    """Lay out columns trace by trace, flat; a column has a row for each trace or one for all."""
    ends = np.cumsum([0, *(column.shape[1] for column in columns)]).tolist()
    table = np.empty((num_traces, ends[-1]))
    for low in range(0, num_traces, ROWS_AT_ONCE):
        part = slice(low, low + ROWS_AT_ONCE)
        for column, start, stop in zip(columns, ends[:-1], ends[1:], strict=True):
            table[part, start:stop] = column[part] if len(column) > 1 else column
    return table.reshape(-1)
