"""How the chains of a job are made, wherever that is done: everything that they depend on but the simulator."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracestore.execution.pieces import Piece
from tracestore.execution.provider import ProposalProvider
from tracestore.execution.streams import TraceStreams
from tracestore.inference.chain import Chain
from tracestore.inference.chain_plan import ChainPlan
from tracestore.inference.independence import IndependenceSource
from tracestore.inference.rerun import Target
from tracestore.inference.rmh_config import RMHConfig
from tracestore.simulators.base import Simulator

__all__ = ["ChainRecipe"]


@dataclass(frozen=True, slots=True)
class ChainRecipe:
    """Makes the units of chains; a unit is a function of the recipe, the simulator and the state before it."""

    engine: str
    seed: int
    plan: ChainPlan
    config: RMHConfig
    moves: tuple[tuple[str, float], ...]
    """Names of the moves in use and their probabilities."""
    observations: Mapping[str, NDArray[np.generic]]
    max_sites: int
    network: ProposalProvider | None = None

    def units(
        self, program: Simulator, number: int, state: Mapping[str, Any] | None, *, stop: int | None = None
    ) -> Iterator[Piece]:
        """Start or restore a chain and do the units that are left, up to one that stops.

        Parameters
        ----------
        program
            The simulator.
        number
            The chain.
        state
            Its newest committed state, if there is one.
        stop
            First unit not to do; None does all.
        """
        plan, streams, chain = self.plan, TraceStreams(self.seed, self.engine), self._chain(program, number)
        if state is not None:
            chain.restore(state)
        first = plan.first_unit if state is None else state["chunk"] + 1
        for unit in range(first, plan.chunks_per_chain if stop is None else stop):
            rng = streams.generator(plan.stream(number, unit))
            failed, place = chain.num_failed, unit - plan.first_unit
            batch = None
            if unit == plan.first_unit:
                chain.start(rng)
            elif unit < 0:
                chain.warm_up(rng, plan.warm_steps(unit), unit=place)
            else:
                batch = chain.run(rng, *plan.draws(unit), unit=place)
            yield Piece(
                chain.nothing() if batch is None else batch,
                plan.work(number, unit),
                {**chain.to_json(), "chunk": unit},
                max(chain.num_failed - failed, 0),
            )

    def _chain(self, program: Simulator, number: int) -> Chain:
        config = self.config
        names = None if config.joint_names is None else frozenset(config.joint_names)
        target = Target(program, self.observations, self.max_sites, config, self.moves, names)
        source = None
        if self.network is not None:
            source = IndependenceSource(
                program, self.observations, self.network,
                seed=self.seed, defensive=config.defensive, num_slots=config.num_slots, max_sites=self.max_sites,
            )  # fmt: skip
        return Chain(target, number, source)
