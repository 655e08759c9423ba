"""Step sizes of the joint random walk, adapted in warm-up and fixed afterwards."""

import math
from collections.abc import Mapping

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
        self._seen: dict[int, list[Step]] = {}
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
                    self._seen.setdefault(ident, []).append(entry.value)
        elif progress >= _COLLECT[1] and not self._has_measured:
            self._measure()

    def settle(self) -> None:
        """End the adaptation."""
        self._seen = {}

    def _measure(self) -> None:
        """Replace the prior's spreads by those of the chain."""
        self._has_measured = True
        for ident, values in self._seen.items():
            if len(values) >= _MIN_COUNT:
                spread = np.maximum(np.std(np.array(values), axis=0), _MIN_SHARE * np.asarray(self._spreads[ident]))
                self._spreads[ident] = spread if spread.ndim else float(spread)
        if self._seen:
            # the factor was tuned to the old spreads; a walk in d dimensions wants about 2.4 / sqrt(d)
            dimensions = sum(int(np.size(spread)) for spread in self._spreads.values())
            self._log_factor = math.log(2.4 / math.sqrt(dimensions))
            self._num_walks = 0
            self._apply()

    def _apply(self) -> None:
        factor = math.exp(self._log_factor)
        self.steps = {ident: spread * factor for ident, spread in self._spreads.items()}
