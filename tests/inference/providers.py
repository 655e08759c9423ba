"""Proposal providers made by hand: inference is exact with them without any training."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from tracestore.simulators.base import Simulator
from tracestore.store.job import Job
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution, from_parameters
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace

Rule = Callable[[Site, Distribution, float | None], Distribution | None]


class RuleProvider:
    """Proposes by a rule of the site, its prior and the value drawn before; checks the contract as it goes."""

    def __init__(self, program: Simulator, base_addresses: Collection[str], rule: Rule, **fields: str) -> None:
        self.rule = rule
        self.base_addresses = base_addresses
        self.job = Job("train", {"simulator": program.name, "fingerprint": program.fingerprint, **fields})
        self.sessions: list[RuleSession] = []

    def session(
        self, observations: Sequence[Mapping[str, np.ndarray]], num_slots: int, *, amortize_rejection: bool = False
    ) -> "RuleSession":
        self.sessions.append(RuleSession(self.rule, num_slots))
        return self.sessions[-1]


class RuleSession:
    def __init__(self, rule: Rule, num_slots: int) -> None:
        self.rule = rule
        self.num_slots = num_slots
        self.calls: list[int] = []
        self.assigned: list[int] = []
        self.num_scored = 0
        self.is_running: set[int] = set()

    def assign(self, slot: int, observation: int) -> None:
        assert 0 <= slot < self.num_slots
        self.assigned.append(observation)

    def propose(
        self,
        slots: Sequence[int],
        sites: Sequence[Site],
        priors: Sequence[Distribution],
        previous: Sequence[float | np.ndarray | None],
    ) -> list[Distribution | None]:
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < self.num_slots for slot in slots)
        assert all(site.is_controlled for site in sites)
        self.calls.append(len(slots))
        for slot, value in zip(slots, previous, strict=True):
            assert value is None or slot in self.is_running
            self.is_running.add(slot)
        return [self.rule(*request) for request in zip(sites, priors, previous, strict=True)]  # type: ignore[arg-type]

    def save(self, slot: int) -> object:
        return slot in self.is_running

    def restore(self, slot: int, saved: object) -> None:
        (self.is_running.add if saved else self.is_running.discard)(slot)

    def log_prob(self, batch: TraceBatch, observation: int | np.ndarray = 0) -> np.ndarray:
        self.num_scored += len(batch)
        sums = [sum(self._score(batch[row])) for row in range(len(batch))]
        return np.array([total if math.isfinite(total) else -math.inf for total in sums])

    def site_log_probs(self, batch: TraceBatch, observation: int | np.ndarray = 0) -> np.ndarray:
        return np.array([score for row in range(len(batch)) for score in self._score(batch[row])])

    def _score(self, trace: Trace) -> list[float]:
        found: list[float] = []
        offsets, previous = trace.layout.parameter_offsets, None
        for position, site in enumerate(trace.sites):
            if not site.is_controlled:
                continue
            prior = from_parameters(
                site.family, trace.parameters[offsets[position] : offsets[position + 1]], site.shape
            )
            value = trace.value(position)
            proposal = self.rule(site, prior, previous)  # type: ignore[arg-type]
            found.append((proposal or prior).log_prob(value))
            previous = value
        return found
