"""What happened to the moves of a chain: accepted or not, where, and why not. Bounded, whatever the simulator does."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["MAX_ADDRESSES", "OTHER", "Tally"]

MAX_ADDRESSES = 1000
"""Addresses with counts of their own in a chain's state; the least visited ones are counted together."""
OTHER = "[other]"
"""Key of what is counted together."""
_MAX_REASONS = 20
_MAX_TEXT = 200


class Tally:
    """Counts of the moves of one chain since its warm-up ended, or in it.

    Parameters
    ----------
    moves
        Names of the moves in use.

    Examples
    --------
    >>> tally = Tally(["single"])
    >>> tally.count_address("mu~Normal#1", has_moved=True)
    >>> tally.addresses
    {'mu~Normal#1': [1, 1]}
    """

    def __init__(self, moves: Iterable[str]) -> None:
        self.moves = {name: [0, 0, 0] for name in moves}
        """By move: proposed, accepted, and ended by a failure of the simulator."""
        self.addresses: dict[str, list[int]] = {}
        """By address: single-site moves proposed and accepted."""
        self.failures: dict[str, int] = {}
        """Failed reruns by the simulator's failure."""
        self.impossible: dict[str, int] = {}
        """Reruns of likelihood zero by the observe at which it was found."""
        self.unscored: dict[str, int] = {}
        """Moves rejected by the address of the value outside its support."""

    @property
    def num_proposed(self) -> int:
        """Moves."""
        return sum(counts[0] for counts in self.moves.values())

    @property
    def num_accepted(self) -> int:
        """Moves that were accepted."""
        return sum(counts[1] for counts in self.moves.values())

    @property
    def num_failed(self) -> int:
        """Moves that a failure of the simulator ended."""
        return sum(counts[2] for counts in self.moves.values())

    def count_address(self, address: str, *, has_moved: bool) -> None:
        """Count a single-site move."""
        counts = self.addresses.get(address)
        if counts is None:
            counts = self.addresses[address] = [0, 0]
        counts[0] += 1
        counts[1] += has_moved

    def count_reason(self, reasons: dict[str, int], text: str) -> None:
        """Count why a move was rejected, in one of the dictionaries of reasons."""
        key = text[:_MAX_TEXT].encode(errors="replace").decode()  # the state is written as UTF-8
        if key not in reasons and len(reasons) >= _MAX_REASONS:
            key = OTHER
        reasons[key] = reasons.get(key, 0) + 1

    def reset(self) -> None:
        """Begin at zero."""
        for counts in self.moves.values():
            counts[:] = (0, 0, 0)
        self.addresses, self.failures, self.impossible, self.unscored = {}, {}, {}, {}

    def prune(self) -> None:
        """Count the least visited addresses together, so that their number is bounded."""
        if len(self.addresses) <= MAX_ADDRESSES + 1:
            return
        rest = self.addresses.pop(OTHER, [0, 0])
        order = sorted(self.addresses, key=lambda address: (-self.addresses[address][0], address))
        for address in order[MAX_ADDRESSES:]:
            counts = self.addresses.pop(address)
            rest = [rest[0] + counts[0], rest[1] + counts[1]]
        self.addresses[OTHER] = rest

    def to_json(self) -> dict[str, Any]:
        """Return the counts for the state of a chain."""
        return {
            "counts": {name: list(counts) for name, counts in self.moves.items()},
            "address_counts": {address: list(counts) for address, counts in self.addresses.items()},
            "rejections": {
                "failures": dict(self.failures),
                "impossible": dict(self.impossible),
                "unscored": dict(self.unscored),
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over counts from the state of a chain."""
        self.moves = {name: list(counts) for name, counts in state["counts"].items()}
        self.addresses = {address: list(counts) for address, counts in state["address_counts"].items()}
        reasons = state["rejections"]
        self.failures = dict(reasons["failures"])
        self.impossible = dict(reasons["impossible"])
        self.unscored = dict(reasons["unscored"])
