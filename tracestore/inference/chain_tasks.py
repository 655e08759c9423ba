"""Chains on an executor: in turns, each of which takes every chain some units further and commits them.

A turn of a chain is a task: it brings the chain back from its newest state, does its units and commits them with the
state after them, under an id that stands for these units of this job. So a task that runs twice counts once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from tracestore.execution.tasks import ImportableSimulator
from tracestore.executors import Executor
from tracestore.formats.base import CodecChoice
from tracestore.formats.document import JSON, digest
from tracestore.inference.chain_plan import ChainPlan, ChainProgress
from tracestore.inference.chain_recipe import ChainRecipe
from tracestore.simulators.base import Simulator
from tracestore.storage import Storage
from tracestore.store.commit import CommittedSegment, commit_segment, find_committed
from tracestore.store.job import Job
from tracestore.store.trace_store import TraceStore

__all__ = ["ChainTask", "Turn", "run_chain_tasks"]

TURNS = 24
"""Turns of a whole chain, its warm-up included: what a killed worker loses is one of them."""

State = Mapping[str, Any]


class Turn(NamedTuple):
    """What one task does."""

    chain: int
    state: State | None
    """Of the chain before; None starts it."""
    stop: int
    """First unit that is left to the next turn."""


@dataclass(frozen=True, slots=True)
class ChainTask:
    """Does the turns of chains and commits them; runs on any worker, as often as asked."""

    storage: Storage
    backend: str
    codec: CodecChoice
    job: Job | None
    program: ImportableSimulator
    recipe: ChainRecipe

    def __call__(self, turn: Turn) -> tuple[int, CommittedSegment]:
        """Do a turn; returns the chain and what is committed."""
        key = "" if self.job is None else self.job.hash
        # the state says which units come next, and is what they are a function of
        before = digest(repr((key, self.program, turn)).encode())
        segment_id = f"{before[:32]}-{turn.chain:06d}"
        found = find_committed(self.storage, segment_id)
        if found is None:
            found = self._commit(segment_id, self.program.load(), turn)
        return turn.chain, found

    def _commit(self, segment_id: str, program: Simulator, turn: Turn) -> CommittedSegment:
        pieces = list(self.recipe.units(program, turn.chain, turn.state, stop=turn.stop))
        num_failed = sum(piece.num_failed for piece in pieces)
        state = {**cast("dict[str, JSON]", pieces[-1].state), "num_failed_in_turn": num_failed}
        return commit_segment(
            self.storage,
            self.backend,
            self.job,
            segment_id,
            [piece.batch for piece in pieces],
            work=[piece.work for piece in pieces],
            state=state,
            codec=self.codec,
        )


def run_chain_tasks(
    store: TraceStore,
    program: Simulator,
    recipe: ChainRecipe,
    states: Mapping[int, State],
    *,
    executor: Executor,
    progress: ChainProgress,
) -> None:
    """Run chains to their ends on an executor.

    Parameters
    ----------
    store
        Where they are written.
    program
        The simulator.
    recipe
        How chains are made.
    states
        Newest committed state of each chain that has one.
    executor
        Where they run.
    progress
        Told of the draws of each turn.

    Raises
    ------
    InvalidInputError
        When the simulator cannot be imported by name.
    SimulatorError
        When a worker has no such simulator.
    ExecutorError
        When workers die.
    """
    task = ChainTask(
        store.storage, store.backend, store.identity.codec, store.job, ImportableSimulator.of(program), recipe
    )
    newest: dict[int, State | None] = {number: states.get(number) for number in range(recipe.plan.num_chains)}
    try:
        while turns := _next_turns(recipe.plan, newest):
            for chain, found in executor.run(task, turns, label="chain"):
                state = cast("dict[str, Any]", found.state)
                progress.advance(found.num_traces, state["num_failed_in_turn"])
                newest[chain] = state
    finally:
        store.fold()  # what workers committed stays, whatever happened


def _next_turns(plan: ChainPlan, states: Mapping[int, State | None]) -> list[Turn]:
    """Return a turn for each chain that has units left."""
    length = -(-(plan.chunks_per_chain - plan.first_unit) // TURNS)
    turns = []
    for number, state in states.items():
        first = plan.first_unit if state is None else state["chunk"] + 1
        if first < plan.chunks_per_chain:
            turns.append(Turn(number, state, min(first + length, plan.chunks_per_chain)))
    return turns
