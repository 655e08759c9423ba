"""The recorder: what one run of a simulator draws, observes and tags, as it happens, and the trace it becomes."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tracestore.errors import InvalidInputError, SimulatorProtocolError
from tracestore.simulators.sites import SiteTable, intern_layout
from tracestore.traces.address import REJECTION
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site, SiteKind
from tracestore.traces.trace import RESULT, Trace, TraceStatus

__all__ = ["CollapsedLoop", "Controller", "KeepPasses", "LoopRule", "Recorder", "Snapshot", "StopTrace", "Value"]

MAX_RESULT_NUMBERS = 1024
"""A return value with more numbers is not recorded as the trace's result."""

Value = float | int | NDArray[np.float64]

_SITES = SiteTable()


class Controller(Protocol):
    """Decides the value of every draw of a running simulator."""

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Return the value for a sample site and its log probability under ``prior``."""


class StopTrace(BaseException):
    """Ends the running trace from inside a draw; not an `Exception`, so that simulators do not swallow it.

    Parameters
    ----------
    status
        Status of the unfinished trace.
    reason
        Why it ended.
    """

    def __init__(self, status: TraceStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Recorder:
    """Records one run: every site with its value, log probability and parameters.

    Parameters
    ----------
    controller
        Decides the values of sample sites.
    rng
        Random numbers of this trace.
    observations
        Values to condition on, by name; None generates observations from the likelihoods.
    max_sites
        The run is stopped when it reaches more sites, those of collapsed passes included.
    make_loop
        Makes what conducts each loop over `rejection`; None keeps all passes.
    """

    def __init__(
        self,
        controller: Controller,
        rng: np.random.Generator,
        observations: Mapping[str, NDArray[np.generic]] | None,
        max_sites: int,
        *,
        make_loop: "Callable[[Recorder], LoopRule] | None" = None,
    ) -> None:
        self.controller = controller
        self.rng = rng
        self.given = observations
        self.max_sites = max_sites
        self.make_loop = make_loop
        self.num_open_loops = 0
        """Rejection loops that the run is in."""
        self.left_loop: Exception | None = None
        """What is wrong with how a loop was left, if the run ends well; an error that ends a run leaves loops, too."""
        self.fatal: Exception | None = None
        self.program: object = None
        """The function that runs, once it does."""
        self.is_over = False
        self.sites: list[Site] = []
        self.values: list[Value | None] = []
        self.log_probs: list[float] = []
        self.priors: list[Distribution | None] = []
        self.observed: dict[str, NDArray[np.generic]] = {}
        self.log_prior = 0.0
        self.log_likelihood = 0.0
        self._visits: dict[tuple[str, str], int] = {}
        self._num_forgotten = 0

    def sample(self, prior: Distribution, name: str, place: str, control: bool) -> Value:
        """Record a draw and return its value."""
        if self.num_open_loops:
            place = REJECTION + place
        if name and self.given is not None and name in self.given:
            return self.observe(prior, None, name, place, None)
        site = self._site(place, prior.suffix, SiteKind.SAMPLE, control, name, prior)
        try:
            value, log_prob = self.controller.draw(site, prior, self.rng)
        except Exception as error:
            self.fatal = error
            raise
        self._record(site, value, log_prob, prior)
        self.log_prior += log_prob
        return value

    def observe(
        self, likelihood: Distribution, value: ArrayLike | None, name: str, place: str, dtype: DTypeLike | None
    ) -> Value:
        """Score an observation and return its value."""
        site = self._site(place, likelihood.suffix, SiteKind.OBSERVE, False, name, likelihood)
        if name in self.observed:
            message = f"The observe name {name!r} is used twice in one trace; give each observe its own name."
            raise SimulatorProtocolError(message, name=name)
        array = self._observed_value(likelihood, value, name, dtype)
        returned: Value = array.item() if array.ndim == 0 else array  # type: ignore[assignment]
        log_prob = likelihood.log_prob(returned)
        if name:
            self.observed[name] = array
        self._record(site, None if name else returned, log_prob, likelihood)
        self.log_likelihood += log_prob
        return returned

    def tag(self, value: ArrayLike, name: str, place: str) -> None:
        """Record a value that is never scored."""
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            message = f"A tag must be a number or an array of numbers; {name or place!r} got {value!r}."
            raise InvalidInputError(message, name=name)
        array = array.astype(np.float64)
        suffix = "Tag" + (f"[{','.join(map(str, array.shape))}]" if array.shape else "")
        site = self._site(place, suffix, SiteKind.TAG, False, name, None, array.shape)
        self._record(site, array if array.shape else float(array), 0.0, None)

    def open_loop(self) -> "LoopRule":
        """Enter a rejection loop and return how it is conducted."""
        self.num_open_loops += 1
        return KeepPasses() if self.make_loop is None else self.make_loop(self)

    def close_loop(self) -> None:
        """Leave a rejection loop."""
        self.num_open_loops -= 1

    def snapshot(self) -> "Snapshot":
        """Remember what is recorded so far."""
        return Snapshot(len(self.sites), dict(self._visits), dict(self.observed), self.log_prior, self.log_likelihood)

    def forget_since(self, snapshot: "Snapshot") -> None:
        """Forget what was recorded after a snapshot; it still counts as length."""
        self._num_forgotten += len(self.sites) - snapshot.num_sites
        for column in (self.sites, self.values, self.log_probs, self.priors):
            del column[snapshot.num_sites :]
        self._visits, self.observed = dict(snapshot.visits), dict(snapshot.observed)
        self.log_prior, self.log_likelihood = snapshot.log_prior, snapshot.log_likelihood

    def finish(self, result: object, status: TraceStatus, failure: str, stream: int, seconds: float) -> Trace:
        """Turn what was recorded into a trace."""
        if status is TraceStatus.OK:
            self._tag_result(result)
            joint = self.log_prior + self.log_likelihood
            if math.isnan(joint):
                scores = list(zip(self.sites, self.log_probs, strict=True))
                bad = [site.address for site, log_prob in scores if math.isnan(log_prob)]
                # a sum of infinities of both signs is no number, too
                infinite = [site.address for site, log_prob in scores if math.isinf(log_prob)]
                what = (
                    f"at {bad[0]!r} is NaN"
                    if bad
                    else f"is NaN: infinities of both signs, the first at {infinite[0]!r}"
                )
                status, failure = TraceStatus.FAILED, f"the log probability {what}"
        return Trace(
            layout=intern_layout(self.sites),
            values=_flatten([value for value in self.values if value is not None]),
            log_probs=np.array(self.log_probs, np.float64),
            parameters=self._parameters(),
            observations=self.observed,
            log_prior=self.log_prior,
            log_likelihood=self.log_likelihood,
            stream=stream,
            status=status,
            failure=failure,
            seconds=seconds,
        )

    def _site(
        self,
        place: str,
        suffix: str,
        kind: SiteKind,
        control: bool,
        name: str,
        prior: Distribution | None,
        shape: tuple[int, ...] = (),
    ) -> Site:
        if len(self.sites) + self._num_forgotten >= self.max_sites:
            raise StopTrace(TraceStatus.CAPPED, f"the trace reached {self.max_sites} sites")
        visit = (place, suffix)
        instance = self._visits.get(visit, 0) + 1
        self._visits[visit] = instance
        return _SITES.site(place, suffix, instance, kind, control, name, prior, shape)

    def _record(self, site: Site, value: Value | None, log_prob: float, prior: Distribution | None) -> None:
        self.sites.append(site)
        self.values.append(value)  # None for a value kept as a named observation
        self.log_probs.append(log_prob)
        self.priors.append(prior if site.num_parameters else None)

    def _observed_value(
        self, likelihood: Distribution, value: ArrayLike | None, name: str, dtype: DTypeLike | None
    ) -> NDArray[np.generic]:
        if self.given is not None and name and name in self.given:
            found: ArrayLike = self.given[name]
        elif value is not None:
            found = value
        elif self.given is None:
            found = likelihood.sample(self.rng)
        else:
            label = repr(name) if name else "without a name"
            message = (
                f"The simulator observes {label} but no value was given for it; "
                f"given: {', '.join(map(repr, self.given)) or 'nothing'}."
            )
            self.fatal = InvalidInputError(message, name=name)
            raise self.fatal
        array = np.asarray(found, dtype)
        if array.dtype.kind not in "biuf":
            message = f"Observation {name!r} must be numeric; got dtype {array.dtype}."
            raise InvalidInputError(message, name=name)
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    def _tag_result(self, result: object) -> None:
        if result is None or any(site.name == RESULT for site in self.sites) or len(self.sites) >= self.max_sites:
            return
        if isinstance(result, bool | int | float | np.generic | np.ndarray):
            array = np.asarray(result)
            if array.dtype.kind in "biuf" and array.size <= MAX_RESULT_NUMBERS:
                self.tag(array, RESULT, RESULT)

    def _parameters(self) -> NDArray[np.float64]:
        known: dict[int, NDArray[np.float64]] = {}
        parts = []
        for prior in self.priors:
            if prior is not None:
                part = known.get(id(prior))
                if part is None:
                    part = known[id(prior)] = prior.parameters()
                parts.append(part)
        return np.concatenate(parts) if parts else np.empty(0)


class Snapshot(NamedTuple):
    """What a recorder had recorded at some moment."""

    num_sites: int
    visits: dict[tuple[str, str], int]
    observed: dict[str, NDArray[np.generic]]
    log_prior: float
    log_likelihood: float


class LoopRule(Protocol):
    """How one rejection loop of one run is conducted."""

    def start_attempt(self) -> None:
        """Prepare the next pass."""

    def end_attempt(self, *, is_accepted: bool) -> bool:
        """Take note of a pass; return whether the loop ends with it."""

    def leave(self) -> None:
        """Take note that the program has left the loop, at its end or before."""


class KeepPasses:
    """A loop as the program has it: every pass is recorded."""

    def start_attempt(self) -> None:
        """Let the program draw."""

    def end_attempt(self, *, is_accepted: bool) -> bool:
        """End with the accepted pass."""
        return is_accepted

    def leave(self) -> None:
        """Accept that it is over."""


class CollapsedLoop(KeepPasses):
    """A loop of which only the accepted pass is recorded.

    Parameters
    ----------
    recorder
        Of the run.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.start = recorder.snapshot()

    def end_attempt(self, *, is_accepted: bool) -> bool:
        """Forget a pass that was not accepted."""
        if not is_accepted:
            self.recorder.forget_since(self.start)
        return is_accepted


def _flatten(values: list[Value]) -> NDArray[np.float64]:
    try:
        return np.array(values, np.float64).reshape(-1) if values else np.empty(0)
    except ValueError:  # values of several shapes
        return np.concatenate([np.ravel(np.asarray(value, np.float64)) for value in values])
