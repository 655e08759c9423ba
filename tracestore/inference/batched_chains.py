"""Many Markov chains that step together: each step is one call of a batched simulator.

All chains share one layout. A step proposes for all chains, runs the program once with the proposed values, and accepts
chain by chain. A run that the program fails is a rejection for all chains. That keeps the posterior, too: on the space
of all chains together, states at which the program fails have density zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InferenceError
from tracestore.inference.batched_moves import BatchMove, Proposal, SiteTable, propose_single, propose_walk
from tracestore.inference.batched_steps import BatchedSteps
from tracestore.inference.rmh_config import RMHConfig
from tracestore.inference.tally import Tally
from tracestore.simulators.batched import BatchedSimulator, run_batch
from tracestore.traces.batch import TraceBatch
from tracestore.traces.trace import TraceStatus

__all__ = ["BatchedChains", "Standing"]

_MAX_STARTS = 1000
"""Prior draws of a chain after which it has no start."""
_MAX_FAILED_STEPS = 50
"""Failed runs in a row after which the chains give up."""
_CHAIN_BITS = 40
"""A draw's stream number is its chain, shifted by this, plus its position in the chain."""


class Standing:
    """Where chains stand: one row a chain of everything that a trace holds.

    Parameters
    ----------
    batch
        Traces of one layout.
    """

    def __init__(self, batch: TraceBatch) -> None:
        self.layout = batch.layouts[0]
        self.values = batch.values.reshape(len(batch), -1)
        self.log_probs = batch.log_probs.reshape(len(batch), -1)
        self.parameters = batch.parameters.reshape(len(batch), -1)
        self.log_prior = batch.log_prior
        self.log_likelihood = batch.log_likelihood
        self.observations = dict(batch.observations)

    @property
    def log_joint(self) -> NDArray[np.float64]:
        """Log prior plus log likelihood of each chain."""
        return self.log_prior + self.log_likelihood

    def take_over(self, other: "Standing", rows: NDArray[np.bool_]) -> None:
        """Move some chains to where they stand in another."""
        for name in ("values", "log_probs", "parameters", "log_prior", "log_likelihood"):
            getattr(self, name)[rows] = getattr(other, name)[rows]
        for name, column in self.observations.items():
            if column.strides[0]:  # one that the program makes of its draws
                self.observations[name] = np.where(
                    rows.reshape(-1, *[1] * (column.ndim - 1)), other.observations[name], column
                )

    def to_batch(self, draw: int, *, accepted: NDArray[np.bool_]) -> TraceBatch:
        """Copy what stands into a batch of draws, one a chain."""
        num_chains = len(self.values)
        chain = np.arange(num_chains, dtype=np.int64)
        return TraceBatch(
            layouts=(self.layout,),
            layout_index=np.zeros(num_chains, np.int32),
            values=self.values.reshape(-1).copy(),
            log_probs=self.log_probs.reshape(-1).copy(),
            parameters=self.parameters.reshape(-1).copy(),
            observations=dict(self.observations),
            log_prior=self.log_prior.copy(),
            log_likelihood=self.log_likelihood.copy(),
            log_proposal=np.full(num_chains, np.nan),
            log_weight=np.zeros(num_chains),
            stream=(chain << _CHAIN_BITS) + draw,
            status=np.zeros(num_chains, np.uint8),
            seconds=np.zeros(num_chains, np.float32),
            chain=chain.astype(np.int32),
            draw=np.full(num_chains, draw, np.int64),
            accepted=accepted,
        )


@dataclass(slots=True)
class BatchedChains:
    """Many chains of one posterior.

    Parameters
    ----------
    program
        The simulator.
    observations
        Values of the named observes.
    num_chains
        Chains.
    config
        Moves, warm-up and thinning; of the moves ``single`` and ``walk``.
    rng
        Random numbers of all chains.
    max_sites
        Length cap of a trace.

    Examples
    --------
    >>> import tracestore as ts
    >>> def program():
    ...     mu = ts.sample(ts.Normal(1.0, 5.0**0.5), name="mu")
    ...     for name in ("obs0", "obs1"):
    ...         ts.observe(ts.Normal(mu, 2.0**0.5), name=name)
    >>> given = {"obs0": np.array(8.0), "obs1": np.array(9.0)}
    >>> config = RMHConfig(warmup=50)
    >>> chains = BatchedChains(BatchedSimulator(program), given, 500, config, np.random.default_rng(1), 100)
    >>> chains.start()
    >>> chains.warm_up()
    >>> draws = np.concatenate([chains.draw(number).named("mu")[0] for number in range(20)])
    >>> bool(abs(draws.mean() - 7.25) < 0.1)
    True
    """

    program: BatchedSimulator
    observations: Mapping[str, NDArray[np.generic]]
    num_chains: int
    config: RMHConfig
    rng: np.random.Generator
    max_sites: int
    standing: Standing = field(init=False)
    sites: SiteTable = field(init=False)
    steps: BatchedSteps = field(init=False)
    tally: Tally = field(init=False)
    """Counts of all chains together since the warm-up."""
    walk_share: float = field(init=False, default=0.5)
    """Probability that a step is a joint walk."""
    _num_failed_in_row: int = field(init=False, default=0)

    def start(self) -> None:
        """Stand each chain at the most likely one of a few prior draws.

        Raises
        ------
        InferenceError
            When a chain finds no draw that explains the observation.
        """
        seen: list[NDArray[np.float64]] = []
        is_placed = np.zeros(self.num_chains, np.bool_)
        reason = "the likelihood was zero"
        for attempt in range(1, _MAX_STARTS + 1):
            batch = run_batch(
                self.program, self.num_chains, self.rng, observations=self.observations, max_sites=self.max_sites
            )
            reason = next(iter(batch.failures.values()), reason)
            if len(batch.failures) < self.num_chains:
                is_placed |= self._place(batch, is_placed, seen)
            if is_placed.all() and attempt >= self.config.starts:
                break
        else:
            message = (
                f"No start for {int((~is_placed).sum())} of {self.num_chains} chains: {_MAX_STARTS} prior draws of each"
                f" had a likelihood of zero or failed ({reason}). Check the observation, or observe with a distribution"
                " of unbounded support."
            )
            raise InferenceError(message)
        self.steps = BatchedSteps(self.sites, self.config.joint_scale, self.config.single_scale)
        if len(self.sites.columns):
            self.steps.begin(self.sites.coordinates(np.concatenate(seen)))
        self.walk_share = self._share_of_walks()
        self.tally = Tally(self._moves())

    def warm_up(self) -> None:
        """Walk to where the posterior is, adapting the steps."""
        total = self.config.warmup
        for number in range(total):
            self._step(adapts=True)
            if len(self.sites.columns):
                coordinates = self.sites.coordinates(self.standing.values)
                self.steps.collect(coordinates, number / total, (number + 1) / total)
        self.tally.reset()

    def draw(self, number: int) -> TraceBatch:
        """Step on and return a draw of each chain.

        Parameters
        ----------
        number
            Position of the draws within their chains.
        """
        moved = np.zeros(self.num_chains, np.bool_)
        for _ in range(self.config.thinning):
            moved |= self._step(adapts=False)
        return self.standing.to_batch(number, accepted=moved)

    def _place(
        self, batch: TraceBatch, is_placed: NDArray[np.bool_], seen: list[NDArray[np.float64]]
    ) -> NDArray[np.bool_]:
        """Move chains to more likely draws; returns which chains have a place to stand."""
        ok = batch.status == TraceStatus.OK
        if len(batch.layouts) > 1:  # failed traces end early; the others keep their rows
            rows = np.flatnonzero(ok)
            batch = batch.take(np.where(ok, np.arange(self.num_chains), rows[0]))
            used = np.unique(batch.layout_index)
            if len(used) > 1:
                raise self._changed()
            batch = _of_one_layout(batch, int(used[0]))
        found = Standing(batch)
        if not hasattr(self, "standing"):
            self.standing = found
            names = None if self.config.joint_names is None else frozenset(self.config.joint_names)
            self.sites = SiteTable(found.layout, names)
            self._require_draws()
            better = ok & np.isfinite(found.log_joint)
        else:
            if found.layout != self.standing.layout:
                raise self._changed()
            is_more = ~is_placed | (found.log_likelihood > self.standing.log_likelihood)
            better = ok & np.isfinite(found.log_joint) & is_more
            self.standing.take_over(found, better)
        if len(seen) < self.config.starts:
            seen.append(found.values[ok].copy())
        return np.asarray(better)

    def _step(self, *, adapts: bool) -> NDArray[np.bool_]:
        """Move all chains once; returns which of them moved."""
        rng, standing, kernel_share = self.rng, self.standing, self.config.kernel_share
        is_walk = self.walk_share > 0.0 and bool(rng.random() < self.walk_share)
        if is_walk:
            proposal = propose_walk(self.sites, standing.values, self.steps.walk(self.num_chains, rng))
        else:
            proposal = propose_single(self.sites, standing.values, self.steps.single, kernel_share, rng)
        probability, found = self._probability(proposal)
        moved = rng.random(self.num_chains) < probability
        if found is not None:
            standing.take_over(found, moved)
        self._count("walk" if is_walk else "single", proposal, moved, has_failed=found is None)
        if adapts and is_walk:
            self.steps.adapt_walk(probability)
        elif adapts:
            stepped = proposal.redrawn < 0
            self.steps.adapt_single(proposal.chosen[stepped], probability[stepped])
        return moved

    def _probability(self, proposal: Proposal) -> tuple[NDArray[np.float64], Standing | None]:
        """Run the program where the chains want to go; returns acceptance probabilities, and None where it failed."""
        standing = self.standing
        move = BatchMove(self.sites, standing.values, proposal)
        batch = run_batch(
            self.program, self.num_chains, self.rng, controller=move, observations=self.observations,
            max_sites=self.max_sites, isolate_failures=False,
        )  # fmt: skip
        is_failed = batch.status != TraceStatus.OK
        if is_failed.all():
            self._require_some_run(next(iter(batch.failures.values())))
            return np.zeros(self.num_chains), None
        self._num_failed_in_row = 0
        if batch.layouts[0] != standing.layout:
            raise self._changed()
        found = Standing(batch)
        with np.errstate(invalid="ignore"):
            log_ratio = found.log_joint - standing.log_joint + proposal.correction
        fresh = np.flatnonzero(proposal.redrawn >= 0)
        if len(fresh):  # the prior proposed: its densities cancel against the target's
            place = np.array(self.sites.positions)[proposal.redrawn[fresh]]
            log_ratio[fresh] += standing.log_probs[fresh, place] - found.log_probs[fresh, place]
        # an infinite density would never be left again
        is_possible = ~move.is_rejected & ~is_failed & np.isfinite(found.log_joint)
        with np.errstate(over="ignore"):
            probability = np.where(is_possible, np.exp(np.minimum(log_ratio, 0.0)), 0.0)
        return np.where(np.isnan(probability), 0.0, probability), found

    def _count(self, name: str, proposal: Proposal, moved: NDArray[np.bool_], *, has_failed: bool) -> None:
        counts = self.tally.moves[name]
        counts[0] += self.num_chains
        counts[1] += int(moved.sum())
        counts[2] += self.num_chains if has_failed else 0
        if name == "single":
            num_sites = len(self.sites.sites)
            proposed = np.bincount(proposal.chosen, minlength=num_sites)
            accepted = np.bincount(proposal.chosen[moved], minlength=num_sites)
            for number in np.flatnonzero(proposed).tolist():
                known = self.tally.addresses.setdefault(self.sites.sites[number].address, [0, 0])
                known[0] += int(proposed[number])
                known[1] += int(accepted[number])

    def _share_of_walks(self) -> float:
        weights = self.config.move_weights
        if not self.sites.in_joint.any():
            return 0.0
        return 0.5 if weights is None else weights.get("walk", 0.0) / sum(weights.values())

    def _moves(self) -> tuple[str, ...]:
        return tuple(name for name, share in (("single", 1.0 - self.walk_share), ("walk", self.walk_share)) if share)

    def _require_draws(self) -> None:
        if not self.sites.sites:
            message = (
                f"The simulator {self.program.name!r} makes no draw that is not observed; there is nothing to infer."
            )
            raise InferenceError(message, simulator=self.program.name)

    def _require_some_run(self, failure: str) -> None:
        self._num_failed_in_row += 1
        if self._num_failed_in_row > _MAX_FAILED_STEPS:
            message = (
                f"The simulator {self.program.name!r} failed in {_MAX_FAILED_STEPS} steps in a row, the last time with:"
                f" {failure}. Batched chains cannot tell which of them it failed for; give such a program zero"
                " likelihood where it fails, or run it with fewer than 16 chains."
            )
            raise InferenceError(message, failure=failure)

    def _changed(self) -> InferenceError:
        message = (
            f"The sites of {self.program.name!r} differ from one run to another. Batched chains need the same draws and"
            " observes in every run; write a program with branches for one trace, with `simulator`."
        )
        return InferenceError(message, simulator=self.program.name)


def _of_one_layout(batch: TraceBatch, index: int) -> TraceBatch:
    return replace(batch, layouts=(batch.layouts[index],), layout_index=np.zeros(len(batch), np.int32))
