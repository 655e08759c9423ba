"""Rejection loops of native code, recognized by the calls that lead to its draws.

A native library does not say where it draws again and again until something holds; a `Loop` does. It names the function
that contains the loop and the calls that this function makes in one pass, in terms of a draw's place: the chain of
functions, outermost first, with the address that each of them returns to. One step of the function is one of those
return addresses. A pass ends when the step with which the pass began comes again *after another one*. So several draws
in a row of one step belong to one pass, whether the step is a call that draws often or a small loop of its own; and the
same function called again later is another loop as soon as any draw is made in between by another step.

What it cannot see: a function that is called twice in a row from the same place, without a draw in between, looks like
one that draws again. Such functions must not be given as loops. `tracestore.simulators.base.ReplayController` tells:
when a draw that was kept is dropped by mistake, a collapsed trace does not replay.

Must not know which library draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracestore.errors import SimulatorProtocolError

if TYPE_CHECKING:
    from tracestore.native.call_stack import Place
    from tracestore.simulators.recorder import LoopRule, Recorder

__all__ = ["OWN", "Loop", "LoopTracker"]

OWN = ""
"""In place of a called function: draws that the function with the loop makes itself."""
SEPARATOR = " | "


@dataclass(frozen=True, slots=True)
class Loop:
    """A rejection loop in a function.

    Parameters
    ----------
    function
        Name of the function that contains it, as places give it.
    begins
        Functions of which it calls one for the first draw of a pass; `OWN` when it draws itself.
    includes
        Functions that it calls for the other draws of a pass, `OWN` where it draws itself.

    Examples
    --------
    >>> Loop("TauDecays::decay", ("TauDecays::isotropicDecay",), (OWN,)).begins
    ('TauDecays::isotropicDecay',)
    """

    function: str
    begins: tuple[str, ...]
    includes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A draw seen from one function of its chain that has a loop."""

    loop: Loop
    outside: str
    """The chain that led to the function."""
    frame: str
    """The function with the address that it returns to: the step of the loop."""
    is_first: bool
    """Whether a pass can begin with it."""
    is_later: bool
    """Whether it can come later in a pass."""


class OpenLoop:
    """A loop that the run is in."""

    __slots__ = ("first", "frame", "loop", "outside", "rule")

    def __init__(self, step: Step, rule: "LoopRule") -> None:
        self.loop, self.outside, self.first = step.loop, step.outside, step.frame
        self.frame = step.frame
        self.rule = rule

    def is_left_by(self, step: Step) -> bool:
        """Whether a draw is not of this loop."""
        if step.loop is not self.loop or step.outside != self.outside:
            return True
        return not step.is_later and step.frame != self.first


class LoopTracker:
    """Follows the draws of one library call after the other, and tells the recorder of passes.

    Parameters
    ----------
    loops
        The loops to recognize.
    """

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._by_function: dict[str, list[Loop]] = {}
        for loop in loops:
            self._by_function.setdefault(loop.function, []).append(loop)
        self._steps: dict[int, tuple[Step, ...]] = {}
        self._open: list[OpenLoop] = []
        self._recorder: Recorder | None = None

    def enter(self, place: "Place", recorder: "Recorder") -> None:
        """Take note of a draw before it is made.

        Parameters
        ----------
        place
            Where it is made.
        recorder
            Of the run.

        Raises
        ------
        SimulatorProtocolError
            When an engine wants another pass of a loop that the library has left.
        """
        steps = self._steps.get(place.id)
        if steps is None:
            steps = self._steps[place.id] = self._find_steps(place)
        if not steps and not self._open:
            return
        self._recorder = recorder
        depth = 0
        for step in steps:
            if depth < len(self._open):
                current = self._open[depth]
                if not current.is_left_by(step):
                    if step.frame == current.first != current.frame:
                        self._accept(depth + 1)
                        current.rule.end_attempt(is_accepted=False)
                        current.rule.start_attempt()
                    current.frame = step.frame
                    depth += 1
                    continue
                self._accept(depth)
            if step.is_first:
                rule = recorder.open_loop()
                self._open.append(OpenLoop(step, rule))
                rule.start_attempt()
                depth += 1
        self._accept(depth)

    def finish(self) -> None:
        """Take note that the library call has returned: the last passes were accepted."""
        self._accept(0)

    def abandon(self) -> None:
        """Leave all loops because the run ends in the middle of them."""
        while self._open:
            self._close(self._open.pop())

    def _accept(self, depth: int) -> None:
        """End the loops inside of a depth with the passes that they are in."""
        while len(self._open) > depth:
            loop = self._open.pop()
            try:
                if not loop.rule.end_attempt(is_accepted=True):
                    self._refuse(loop)
            finally:
                self._close(loop)

    def _close(self, loop: OpenLoop) -> None:
        loop.rule.leave()
        if self._recorder is not None:
            self._recorder.close_loop()

    def _refuse(self, loop: OpenLoop) -> None:
        message = (
            f"The rejection loop in {loop.loop.function} is conducted by a native library and cannot be run once more,"
            " so it cannot be amortized; let the prior propose there, with `amortize_rejection=False`."
        )
        error = SimulatorProtocolError(message)
        if self._recorder is not None:
            self._recorder.fatal = error
        raise error

    def _find_steps(self, place: "Place") -> tuple[Step, ...]:
        frames = place.text.split(SEPARATOR)
        names = [frame.rpartition("@")[0] for frame in frames]
        steps = []
        for depth, name in enumerate(names):
            for loop in self._by_function.get(name, ()):
                called = names[depth + 1] if depth + 1 < len(names) else OWN
                is_first, is_later = called in loop.begins, called in loop.includes
                if is_first or is_later:
                    steps.append(Step(loop, SEPARATOR.join(frames[:depth]), frames[depth], is_first, is_later))
        return tuple(steps)
