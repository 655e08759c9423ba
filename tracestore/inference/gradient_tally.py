"""What each gradient-based chain did after its warm-up: acceptance, divergences, gradients, energies."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GradientTally"]


class GradientTally:
    """Counts of all chains, a number a chain.

    Parameters
    ----------
    num_chains
        Chains.
    move
        Name of their only move.

    Examples
    --------
    >>> tally = GradientTally(2, "hmc")
    >>> moved = np.array([True, False])
    >>> tally.count(moved, ~moved, np.array([0.9, 0.0]), 7, np.array([1.0, 2.0]))
    >>> [state["counts"] for state in tally.to_json()], [state["divergent"] for state in tally.to_json()]
    ([{'hmc': [1, 1, 0]}, {'hmc': [1, 0, 0]}], [0, 1])
    """

    def __init__(self, num_chains: int, move: str) -> None:
        self.move = move
        self.num_steps = 0
        """Steps of each chain."""
        self.num_gradients = 0
        """Gradients of each chain."""
        self.accepted = np.zeros(num_chains, np.int64)
        self.divergent = np.zeros(num_chains, np.int64)
        self.acceptance = np.zeros(num_chains)
        """Sum of the probabilities of acceptance."""
        self.energy = np.zeros((num_chains, 4))
        """Of the energies: mean, sum of squared deviations, sum of squared changes, last one."""

    def count(
        self,
        moved: NDArray[np.bool_],
        diverged: NDArray[np.bool_],
        probability: NDArray[np.float64],
        num_gradients: int,
        energy: NDArray[np.float64],
    ) -> None:
        """Count one step of all chains; energies are those at which the chains stand after it."""
        self.num_steps += 1
        self.num_gradients += num_gradients
        self.accepted += moved
        self.divergent += diverged
        self.acceptance += probability
        if self.num_steps > 1:
            self.energy[:, 2] += (energy - self.energy[:, 3]) ** 2
        off = energy - self.energy[:, 0]
        self.energy[:, 0] += off / self.num_steps
        self.energy[:, 1] += off * (energy - self.energy[:, 0])
        self.energy[:, 3] = energy

    def to_json(self) -> list[dict[str, Any]]:
        """Return the counts of each chain for its state."""
        return [
            {
                "counts": {self.move: [self.num_steps, int(self.accepted[chain]), 0]},
                "gradients": self.num_gradients,
                "divergent": int(self.divergent[chain]),
                "acceptance": float(self.acceptance[chain]),
                "energy": self.energy[chain].tolist(),
                "ebfmi": self._ebfmi(chain),
            }
            for chain in range(len(self.accepted))
        ]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over the counts of all chains from their states."""
        self.num_steps = states[0]["counts"][self.move][0]
        self.num_gradients = states[0]["gradients"]
        self.accepted = np.array([state["counts"][self.move][1] for state in states], np.int64)
        self.divergent = np.array([state["divergent"] for state in states], np.int64)
        self.acceptance = np.array([state["acceptance"] for state in states])
        self.energy = np.array([state["energy"] for state in states])

    def _ebfmi(self, chain: int) -> float | None:
        """Energy fraction of missing information (Betancourt 2016, section 2); None before it can be told."""
        _, spread, changes, _ = self.energy[chain].tolist()
        return changes / spread if spread > 0.0 and math.isfinite(changes) else None
