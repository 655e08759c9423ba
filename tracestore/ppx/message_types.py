"""The messages of PPX as records. Must not know their bytes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracestore.traces.distributions import Distribution

__all__ = [
    "FAILURE",
    "Handshake",
    "HandshakeResult",
    "Message",
    "Observe",
    "ObserveResult",
    "Reset",
    "Run",
    "RunResult",
    "Sample",
    "SampleResult",
    "Tag",
    "TagResult",
]

FAILURE = "[failure]"
"""Address of a tag whose name says why a tracestore peer gives its run up; the peer sends `Reset` next."""


class _Comparable:
    """Messages are equal when their fields are, arrays element by element."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names: tuple[str, ...] = self.__slots__
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        return hash((type(self).__name__, getattr(self, "address", "")))


@dataclass(frozen=True, slots=True, eq=False)
class Handshake(_Comparable):
    """Sent by the inference side first."""

    system_name: str


@dataclass(frozen=True, slots=True, eq=False)
class HandshakeResult(_Comparable):
    """Tells who the program is."""

    system_name: str
    model_name: str


@dataclass(frozen=True, slots=True, eq=False)
class Run(_Comparable):
    """Starts one execution of the program."""


@dataclass(frozen=True, slots=True, eq=False)
class RunResult(_Comparable):
    """Ends an execution, with what the program returned."""

    result: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Sample(_Comparable):
    """Asks for the value of a draw."""

    address: str
    name: str
    prior: Distribution
    control: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class SampleResult(_Comparable):
    """The value of a draw."""

    value: float | int | NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Observe(_Comparable):
    """Conditions on a value; None leaves it to the inference side."""

    address: str
    name: str
    likelihood: Distribution
    value: float | NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ObserveResult(_Comparable):
    """Answers `Observe`; between tracestore peers with the value that was scored."""

    value: float | NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tag(_Comparable):
    """Records a value that is never scored."""

    address: str
    name: str
    value: float | NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class TagResult(_Comparable):
    """Answers `Tag`; between tracestore peers perhaps with a value."""

    value: float | NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reset(_Comparable):
    """The program was asked for something that it cannot do now; from the inference side, ends a run."""


Message = (
    Handshake
    | HandshakeResult
    | Run
    | RunResult
    | Sample
    | SampleResult
    | Observe
    | ObserveResult
    | Tag
    | TagResult
    | Reset
)
