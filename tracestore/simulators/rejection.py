"""Rejection loops, marked as such: a simulator says where it draws again and again until something holds.

Inside a loop the prior proposes unless an engine is told otherwise, since the draws that are thrown away would each
bring an importance weight, and products of those can have infinite variance (Naderiparizi et al., AISTATS 2022).
Markov engines keep every rejected draw: whether later ones are accepted may depend on them.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tracestore.errors import SimulatorProtocolError
from tracestore.simulators.recorder import KeepPasses
from tracestore.simulators.runtime import current_recorder

if TYPE_CHECKING:
    from tracestore.simulators.recorder import Recorder

__all__ = ["Attempt", "Rejection", "rejection"]


class Attempt:
    """One pass through a rejection loop."""

    def __init__(self) -> None:
        self.is_accepted = False

    def accept(self) -> None:
        """End the loop after this pass."""
        self.is_accepted = True


class Rejection:
    """A rejection loop; made by `rejection`."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None

    def __enter__(self) -> Self:
        self._recorder = recorder = current_recorder()
        if recorder is None:
            return self
        if recorder.make_loop is not None:
            message = (
                "A loop inside `with ts.rejection():` cannot be collapsed, since its passes cannot be told apart;"
                " write it as `for attempt in ts.rejection():` with `attempt.accept()`."
            )
            recorder.fatal = SimulatorProtocolError(message)
            raise recorder.fatal
        recorder.num_open_loops += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._recorder is not None:
            self._recorder.num_open_loops -= 1

    def __iter__(self) -> Iterator[Attempt]:
        recorder = current_recorder()
        rule = KeepPasses() if recorder is None else recorder.open_loop()
        try:
            while True:
                rule.start_attempt()
                attempt = Attempt()
                yield attempt
                if rule.end_attempt(is_accepted=attempt.is_accepted):
                    return
        finally:
            rule.leave()
            if recorder is not None:
                recorder.close_loop()


def rejection() -> Rejection:
    """Mark a rejection loop of the simulator.

    Iterated over, it yields attempts until one is accepted: the loop itself. As a context manager it marks a loop that
    the program conducts by itself.

    Returns
    -------
    Rejection
        For one loop.

    Raises
    ------
    SimulatorProtocolError
        When loops are to be collapsed and this one is a context manager.

    Examples
    --------
    A Beta(2, 2) draw from a pair of uniform ones:

    >>> import tracestore as ts
    >>> def beta():
    ...     for attempt in ts.rejection():
    ...         x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
    ...         if ts.sample(ts.Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x):
    ...             attempt.accept()
    ...     return x
    >>> 0.0 < beta() < 1.0
    True

    The same in a program that has its own loop:

    >>> def marked():
    ...     with ts.rejection():
    ...         while True:
    ...             x = ts.sample(ts.Uniform(0.0, 1.0), name="x")
    ...             if ts.sample(ts.Uniform(0.0, 1.0)) < 4.0 * x * (1.0 - x):
    ...                 return x
    >>> 0.0 < marked() < 1.0
    True
    """
    return Rejection()
