"""Tables that describe a posterior: one row a variable, a move of a chain, or an address."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

__all__ = ["AddressAcceptance", "MoveAcceptance", "Summary", "SummaryRow", "Trajectories"]


@dataclass(frozen=True, slots=True)
class MoveAcceptance:
    """How often one kind of move was accepted in one chain, after warm-up."""

    chain: int
    move: str
    num_proposed: int
    num_accepted: int
    num_failed: int
    """Moves rejected because the simulator failed or reached the length cap."""

    @property
    def rate(self) -> float:
        """Share of the proposed moves that were accepted; NaN when none was proposed."""
        return self.num_accepted / self.num_proposed if self.num_proposed else math.nan


@dataclass(frozen=True, slots=True)
class AddressAcceptance:
    """How often moves of one draw were accepted, over all chains, after warm-up."""

    address: str
    num_proposed: int
    num_accepted: int

    @property
    def rate(self) -> float:
        """Share of the proposed moves that were accepted; NaN when none was proposed."""
        return self.num_accepted / self.num_proposed if self.num_proposed else math.nan


@dataclass(frozen=True, slots=True)
class Trajectories:
    """What a chain that follows gradients did, after warm-up."""

    chain: int
    move: str
    num_steps: int
    num_gradients: int
    num_divergent: int
    """Trajectories given up because their energy, which should stay the same, grew without bound."""
    acceptance: float
    """Mean probability of acceptance; NaN before the first step."""
    step_size: float
    ebfmi: float | None
    """Energy fraction of missing information (Betancourt 2016); None when the chain is too short to tell."""


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One scalar variable."""

    name: str
    """Name or address; an element of a vector has its index in brackets."""
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    """At the probabilities of the summary."""
    ess: float | None
    """None where it does not apply, as the note says."""
    mcse: float | None
    """Monte-Carlo standard error of the mean."""
    rhat: float | None
    """None for weighted draws and where it does not apply, as the note says."""
    presence: float
    """Posterior probability that the variable exists; the other columns are given that it does."""
    note: str = ""
    """What is special, in words."""


class Summary(Sequence[SummaryRow]):
    """Rows of a posterior summary; prints as a table.

    Parameters
    ----------
    rows
        One row a scalar variable.
    probabilities
        Probabilities of the quantiles.
    """

    def __init__(self, rows: Sequence[SummaryRow], probabilities: Sequence[float]) -> None:
        self.rows = tuple(rows)
        self.probabilities = tuple(probabilities)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> SummaryRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SummaryRow]: ...
    def __getitem__(self, index: int | slice) -> SummaryRow | Sequence[SummaryRow]:
        return self.rows[index]

    def __iter__(self) -> Iterator[SummaryRow]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        header = ["", "mean", "sd", *(f"{100 * p:g}%" for p in self.probabilities), "ess", "mcse", "rhat", "note"]
        lines = [header] + [
            [
                row.name,
                *(f"{number:.4g}" for number in (row.mean, row.sd, *row.quantiles)),
                *("-" if number is None else f"{number:{form}}" for number, form in _judged(row)),
                row.note,
            ]
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if column in (0, len(header) - 1) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def _judged(row: SummaryRow) -> tuple[tuple[float | None, str], ...]:
    return (row.ess, ".0f"), (row.mcse, ".2g"), (row.rhat, ".3f")
