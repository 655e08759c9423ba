"""Rejection loops whose passes come from proposals: importance weights without the passes that were thrown away.

Naderiparizi et al. (AISTATS 2022), "Amortized Rejection Sampling in Universal Probabilistic Programming": integrate the
rejected passes out. With prior p, proposal r and the set A of accepted values z, a loop contributes the weight

    p(z) / r(z) * r(A) / p(A)

of its accepted pass alone. Neither probability of acceptance is known; independent unbiased estimates of r(A) and of
1 / p(A) in their place leave weights, and the evidence, unbiased:

* 1 / p(A): passes from the prior until a given number is accepted; the mean number of passes for each (geometric).
* r(A): passes from the proposal until ``n`` are accepted, after ``t`` passes; ``(n - 1) / (t - 1)`` (Haldane 1945,
  inverse binomial sampling). The accepted values do not depend on ``t``, so that the last of them is the one that the
  program goes on with.

A pass comes from the prior with the defensive probability and else from the network, so r >= defensive * p and the
ratio of densities is bounded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from tracestore.errors import InferenceError, SimulatorProtocolError
from tracestore.execution.proposing import Ask, Previous, ProposalController
from tracestore.simulators.recorder import Recorder, Value
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["AmortizedController", "LoopSettings", "log_mixture"]


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How much work goes into the acceptance probabilities of a loop."""

    defensive: float
    """Share of the prior, of whole traces outside of loops and of passes inside."""
    num_accepted: int = 10
    """Passes from the proposal that are accepted before the program goes on with the last of them; at least 2."""
    num_prior_accepted: int = 10
    """Passes from the prior that are accepted; at least 1."""


class _Source(Enum):
    """Where the controlled draws come from at the moment."""

    PRIOR = "prior"
    NETWORK = "network"
    TRIAL = "prior, without asking"


class AmortizedController(ProposalController):
    """Draws from a mixture of prior and network, outside of rejection loops and in each pass of them.

    Parameters
    ----------
    ask
        Returns the proposal for a site.
    settings
        Shares and numbers.
    """

    def __init__(self, ask: Ask, settings: LoopSettings) -> None:
        super().__init__(ask)
        self.settings = settings
        self.loop: AmortizedLoop | None = None
        self._source: _Source | None = None
        self._log_prior = 0.0
        self._log_network = 0.0
        self._log_loops = 0.0

    @property
    def make_loop(self) -> Callable[[Recorder], "AmortizedLoop"]:
        """What conducts the loops of the run."""
        return self._open

    def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
        """Draw from the prior or the network and add up the density under both."""
        source = self.loop.source(rng) if self.loop is not None else self._outside(rng)
        if not site.is_controlled or source is _Source.TRIAL:
            value = prior.sample(rng)
            return value, prior.log_prob(value)
        proposal = self.ask(site, prior, self.previous)
        value = (prior if proposal is None or source is _Source.PRIOR else proposal).sample(rng)
        log_prior = prior.log_prob(value)
        log_network = log_prior if proposal is None else proposal.log_prob(value)
        if math.isnan(log_network):
            message = f"The network scored the draw {value!r} at {site.address!r} with NaN; train it again."
            raise InferenceError(message, address=site.address)
        if self.loop is not None:
            self.loop.add(log_prior, log_network)
        else:
            self._log_prior += log_prior
            self._log_network += log_network
        self.previous = value
        self.log_proposal = log_mixture(self.settings.defensive, self._log_network, self._log_prior) + self._log_loops
        return value, log_prior

    def close_loop(self, log_proposal: float) -> None:
        """Take in the density of a loop's accepted pass, acceptance probabilities included."""
        self.loop = None
        self._log_loops += log_proposal
        self.log_proposal = log_mixture(self.settings.defensive, self._log_network, self._log_prior) + self._log_loops

    def _outside(self, rng: np.random.Generator) -> _Source:
        if self._source is None:
            self._source = choose_source(self.settings.defensive, rng)
        return self._source

    def _open(self, recorder: Recorder) -> "AmortizedLoop":
        if self.loop is not None:
            message = (
                "A rejection loop inside another one cannot be amortized; let the prior propose there, with"
                " `amortize_rejection=False`."
            )
            recorder.fatal = SimulatorProtocolError(message)
            raise recorder.fatal
        self.loop = AmortizedLoop(recorder, self)
        return self.loop


class AmortizedLoop:
    """Conducts one rejection loop: trials from the prior, then passes from the proposal, of which one is kept.

    Parameters
    ----------
    recorder
        Of the run.
    controller
        Of the run.
    """

    def __init__(self, recorder: Recorder, controller: AmortizedController) -> None:
        self.recorder = recorder
        self.controller = controller
        self._start = recorder.snapshot()
        self._state = controller.ask.save()
        self._previous: Previous = controller.previous
        self._trials, self._accepted_trials = 0, 0
        self._passes, self._accepted_passes = 0, 0
        self._source: _Source | None = None
        self._log_prior = 0.0
        self._log_network = 0.0

    @property
    def is_trying(self) -> bool:
        """Whether the passes are trials from the prior."""
        return self._accepted_trials < self.controller.settings.num_prior_accepted

    def source(self, rng: np.random.Generator) -> _Source:
        """Say where the draws of this pass come from."""
        if self._source is None:
            self._source = choose_source(self.controller.settings.defensive, rng)
        return self._source

    def add(self, log_prior: float, log_network: float) -> None:
        """Take in the density of a draw of this pass."""
        self._log_prior += log_prior
        self._log_network += log_network

    def start_attempt(self) -> None:
        """Begin a pass where the loop began."""
        self._source = _Source.TRIAL if self.is_trying else None
        self._log_prior = self._log_network = 0.0
        self.controller.previous = self._previous
        if not self.is_trying:
            self.controller.ask.restore(self._state)

    def end_attempt(self, *, is_accepted: bool) -> bool:
        """Count a pass; the loop ends with the last one that was wanted."""
        if self.is_trying:
            self._trials += 1
            self._accepted_trials += is_accepted
            self.recorder.forget_since(self._start)
            return False
        self._passes += 1
        self._accepted_passes += is_accepted
        if self._accepted_passes < self.controller.settings.num_accepted:
            self.recorder.forget_since(self._start)
            return False
        self.controller.close_loop(self._log_proposal())
        return True

    def leave(self) -> None:
        """Refuse a loop that the program left in a way of its own."""
        if self.controller.loop is self:
            message = (
                "A rejection loop was left by `break`, `return` or an error before its last pass; to amortize it, end"
                " it with `attempt.accept()` alone."
            )
            self.recorder.left_loop = SimulatorProtocolError(message)

    def _log_proposal(self) -> float:
        """Log of r(z) p(A) / r(A), with the estimates in place of the probabilities."""
        settings = self.controller.settings
        log_density = log_mixture(settings.defensive, self._log_network, self._log_prior)
        proposal_accepts = (settings.num_accepted - 1) / (self._passes - 1)
        trials_for_one = self._trials / self._accepted_trials
        return log_density - math.log(proposal_accepts) - math.log(trials_for_one)


def choose_source(defensive: float, rng: np.random.Generator) -> _Source:
    """Choose between prior and network."""
    return _Source.PRIOR if rng.random() < defensive else _Source.NETWORK


def log_mixture(defensive: float, log_network: float, log_prior: float) -> float:
    """Return the log of ``defensive * prior + (1 - defensive) * network``, of log densities."""
    prior_part = -math.inf if defensive == 0.0 else math.log(defensive) + log_prior
    network_part = -math.inf if defensive == 1.0 else math.log1p(-defensive) + log_network
    return float(np.logaddexp(prior_part, network_part))
