"""Step sizes of the joint random walk, adapted in warm-up and fixed afterwards."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.inference.moves import Entry, Role
from tracestore.traces.distributions import from_parameters
from tracestore.traces.trace import Trace

__all__ = ["WalkScales"]

Step = float | NDArray[np.float64]

_TARGET_ACCEPTANCE = 0.3
_COLLECT = (0.3, 0.7)
"""Part of the warm-up in which the spread of the chain itself is measured."""
_MIN_COUNT = 20
_MIN_SHARE = 0.02
"""Smallest step before the common factor, as a share of the prior's standard deviation."""
_LOG_FACTOR_RANGE = 7.0


class WalkScales:
    """Standard deviations of the joint walk, by address identity: a spread per address times a common factor.

    The spread is the prior's standard deviation where an address was first met, later that of the chain. The factor
    follows the acceptance of the walk (Robbins and Monro). Addresses met only after warm-up do not walk.

    Parameters
    ----------
    factor
        The common factor to begin with.
    """

    def __init__(self, factor: float) -> None:
        self.steps: dict[int, Step] = {}
        self._spreads: dict[int, Step] = {}
        self._moments: dict[int, tuple[int, Step, Step]] = {}
        """Count, mean and sum of squared deviations of what the chain visited (Welford)."""
        self._log_factor = math.log(factor)
        self._num_walks = 0
        self._has_measured = False

    def learn(self, trace: Trace, entries: Mapping[int, Entry]) -> None:
        """Take in the walking addresses of a trace."""
        new = [ident for ident, entry in entries.items() if entry.role == Role.WALKED and ident not in self._spreads]
        if not new:
            return
        offsets = trace.layout.parameter_offsets
        for position, site in enumerate(trace.sites):
            if site.id in new:
                parameters = trace.parameters[offsets[position] : offsets[position + 1]]
                spread = np.nan_to_num(from_parameters(site.family, parameters, site.shape).stddev, nan=1.0, posinf=1.0)
                self._spreads[site.id] = spread if site.shape else float(spread)
        self._apply()

    def adapt(self, probability: float) -> None:
        """Move the factor by the acceptance probability of a walk."""
        self._num_walks += 1
        self._log_factor += 2.0 * self._num_walks**-0.6 * (probability - _TARGET_ACCEPTANCE)
        self._log_factor = min(max(self._log_factor, -_LOG_FACTOR_RANGE), _LOG_FACTOR_RANGE)
        self._apply()

    def collect(self, entries: Mapping[int, Entry], progress: float) -> None:
        """Take in where the chain stands, at a given share of the warm-up."""
        if _COLLECT[0] <= progress < _COLLECT[1]:
            for ident in self._spreads:
                entry = entries.get(ident)
                if entry is not None:
                    count, mean, squares = self._moments.get(ident, (0, 0.0, 0.0))
                    deviation = entry.value - mean
                    mean = mean + deviation / (count + 1)
                    self._moments[ident] = (count + 1, mean, squares + deviation * (entry.value - mean))
        elif progress >= _COLLECT[1] and not self._has_measured:
            self._measure()

    def settle(self) -> None:
        """End the adaptation."""
        self._moments = {}

    def to_json(self) -> dict[str, Any]:
        """Return all that the adaptation needs to go on."""
        return {
            "log_factor": self._log_factor,
            "num_walks": self._num_walks,
            "has_measured": self._has_measured,
            "spreads": [[ident, _plain(spread)] for ident, spread in self._spreads.items()],
            "moments": [
                [ident, count, _plain(mean), _plain(squares)] for ident, (count, mean, squares) in self._moments.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier `to_json`."""
        self._log_factor = state["log_factor"]
        self._num_walks = state["num_walks"]
        self._has_measured = state["has_measured"]
        self._spreads = {ident: _step(spread) for ident, spread in state["spreads"]}
        self._moments = {
            ident: (count, _step(mean), _step(squares)) for ident, count, mean, squares in state["moments"]
        }
        self._apply()

    def _measure(self) -> None:
        """Replace the prior's spreads by those of the chain."""
        self._has_measured = True
        for ident, (count, _, squares) in self._moments.items():
            if count >= _MIN_COUNT:
                measured = np.sqrt(np.maximum(np.asarray(squares) / count, 0.0))
                spread = np.maximum(measured, _MIN_SHARE * np.asarray(self._spreads[ident]))
                self._spreads[ident] = spread if spread.ndim else float(spread)
        if self._moments:
            # the factor was tuned to the old spreads; a walk in d dimensions wants about 2.4 / sqrt(d)
            dimensions = sum(int(np.size(spread)) for spread in self._spreads.values())
            self._log_factor = math.log(2.4 / math.sqrt(dimensions))
            self._num_walks = 0
            self._apply()

    def _apply(self) -> None:
        factor = math.exp(self._log_factor)
        self.steps = {ident: spread * factor for ident, spread in self._spreads.items()}


def _plain(step: Step) -> Any:  # noqa: ANN401  # what JSON holds
    return step.tolist() if isinstance(step, np.ndarray | np.generic) else step


def _step(plain: Any) -> Step:  # noqa: ANN401  # what JSON holds
    return np.asarray(plain, np.float64) if isinstance(plain, list) else float(plain)
