"""Progress as events: frozen records handed to an optional observer; knows nothing of terminals."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Event", "Observer", "PhaseAdvanced", "PhaseFinished", "PhaseStarted"]


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A phase of work begins."""

    phase: str
    """What is being done, in a word or two: ``simulate``, ``sort``, ``train``, ``infer``."""
    total: int
    """Units of work in the whole phase (traces, steps, bytes)."""
    done: int = 0
    """Units that an earlier, interrupted call finished already."""
    unit: str = "traces"
    """What is counted."""


@dataclass(frozen=True, slots=True)
class PhaseAdvanced:
    """Some more units of a phase are done."""

    phase: str
    done: int
    """Units done so far, those of earlier calls included."""
    total: int
    failed: int = 0
    """Units among them that are recorded failures."""
    note: str = ""
    """A short remark for people, such as the current loss."""
    nbytes: int = 0
    """Raw bytes that this call has dealt with so far, where bytes are what takes the time."""


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    """A phase of work is complete."""

    phase: str
    seconds: float
    """Wall time of this call."""


Event = PhaseStarted | PhaseAdvanced | PhaseFinished
Observer = Callable[[Event], None]
