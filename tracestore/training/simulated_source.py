"""Minibatches of fresh prior traces: which random streams each step and rank gets, and the steps made of them.

The traces of a step are a function of simulator, seed and step; ranks share them, workers only make them earlier. Must
not know networks.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from tracestore.errors import InvalidInputError
from tracestore.execution.ahead import AheadWorkers
from tracestore.execution.prior_draws import PriorDraws
from tracestore.execution.workers import Chunk
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.world import World
from tracestore.simulators.base import Simulator
from tracestore.traces.batch import TraceBatch

__all__ = ["OnlinePlan", "PriorTraces", "SimulatedSource", "Stretch", "to_tensors"]

logger = logging.getLogger(__name__)

CHUNKS_OF_A_MINIBATCH = 64
"""Minibatches are shared out in about this many chunks, which are also what a store counts as done."""
NUM_VALIDATIONS = 20
"""Validations of a whole training, where it has so many steps."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive random streams."""

    purpose: str
    """What they are for: ``simulate``, as in stores of prior traces, or ``validation``."""
    first: int
    num_traces: int


class PriorTraces:
    """Makes the traces of a stretch: a function of simulator, seed and stretch.

    Parameters
    ----------
    program
        The simulator.
    seed
        Seed of the streams.
    max_sites
        Length cap of a trace, in sites.

    Examples
    --------
    >>> from tracestore.simulators import toys
    >>> traces = PriorTraces(toys.gum, 1, 100)
    >>> traces(Stretch("simulate", 7, 2)).stream.tolist()
    [7, 8]
    """

    def __init__(self, program: Simulator, seed: int, max_sites: int) -> None:
        self.program, self.seed, self.max_sites = program, seed, max_sites

    def __call__(self, stretch: Stretch) -> TraceBatch:
        """Run the simulator for each stream; failed runs are recorded as such."""
        draws = PriorDraws(self.seed, stretch.purpose, self.max_sites)
        return draws.make(self.program, Chunk(0, stretch.first, stretch.num_traces))


@dataclass(frozen=True, slots=True)
class OnlinePlan:
    """Which streams each step trains on, and each rank of it. Pure.

    Examples
    --------
    >>> plan = OnlinePlan(num_traces=150, batch_size=64, accumulate=2)
    >>> plan.num_steps, plan.num_minibatches, plan.minibatches_of(1)
    (2, 3, range(2, 3))
    >>> plan.share(2, World(0, 2)), plan.share(2, World(1, 2))
    (Stretch(purpose='simulate', first=128, num_traces=11), Stretch(purpose='simulate', first=139, num_traces=11))
    """

    num_traces: int
    """Traces of the whole training."""
    batch_size: int
    """Traces of a minibatch, all ranks together."""
    accumulate: int = 1
    """Minibatches of a step."""

    @property
    def chunk_size(self) -> int:
        """Traces of a chunk, the granule that ranks share: the largest that divides a minibatch into enough chunks."""
        most = max(1, self.batch_size // CHUNKS_OF_A_MINIBATCH)
        return max(size for size in range(1, most + 1) if self.batch_size % size == 0)

    @property
    def num_minibatches(self) -> int:
        """Minibatches of the whole training; the last may be smaller."""
        return -(-self.num_traces // self.batch_size)

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return -(-self.num_minibatches // self.accumulate)

    @property
    def validation_interval(self) -> int:
        """Steps from one validation to the next."""
        return max(1, self.num_steps // NUM_VALIDATIONS)

    def minibatches_of(self, step: int) -> range:
        """Return the minibatches of a step, which count from 0."""
        return range(step * self.accumulate, min((step + 1) * self.accumulate, self.num_minibatches))

    def first_stream(self, step: int) -> int:
        """Return the first stream of a step; past the last one, the number of traces."""
        return min(step * self.accumulate * self.batch_size, self.num_traces)

    def step_of(self, stream: int) -> int:
        """Return the step that begins with a stream."""
        return -(-stream // (self.accumulate * self.batch_size))

    def chunk(self, number: int) -> Stretch:
        """Return the streams of a chunk."""
        first = number * self.chunk_size
        return Stretch("simulate", first, min(self.chunk_size, self.num_traces - first))

    def chunks_before(self, stream: int) -> range:
        """Return the chunks that lie before a stream at which a step begins, or the end."""
        return range(-(-stream // self.chunk_size))

    def chunks_of(self, stretch: Stretch) -> range:
        """Return the chunks that a stretch is made of."""
        return range(stretch.first // self.chunk_size, -(-(stretch.first + stretch.num_traces) // self.chunk_size))

    def share(self, minibatch: int, world: World) -> Stretch:
        """Return the streams of a minibatch that fall to a rank; there may be none."""
        start = minibatch * self.batch_size
        stop = min(start + self.batch_size, self.num_traces)
        num_chunks = -(-(stop - start) // self.chunk_size)
        first, last = (
            min(start + self.chunk_size * (num_chunks * rank // world.num_ranks), stop)
            for rank in (world.rank, world.rank + 1)
        )
        return Stretch("simulate", first, last - first)


class SimulatedSource:
    """Steps of fresh prior traces, each used once; satisfies `tracestore.training.sources.BatchSource`.

    Traces that failed are left out of the steps.

    Parameters
    ----------
    plan
        Which streams each step has.
    world
        This rank among all.
    crew
        Makes the traces.
    shapes
        Called, when traces are there, for the shape of each named observation.
    keep
        Called with this rank's share of each minibatch, failed traces included, before it is trained on.
    """

    def __init__(
        self,
        plan: OnlinePlan,
        world: World,
        crew: AheadWorkers[Stretch, TraceBatch],
        shapes: Callable[[], Mapping[str, tuple[int, ...]]],
        keep: Callable[[TraceBatch, range], None] | None = None,
    ) -> None:
        self.plan, self.world = plan, world
        self.step = 0
        """Steps handed out."""
        self._crew, self._shapes, self._keep = crew, shapes, keep
        self._made: Iterator[TraceBatch] | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.plan.num_steps

    @property
    def num_traces(self) -> int:
        """Traces of the whole training, those that will fail included."""
        return self.plan.num_traces

    @property
    def next_stream(self) -> int:
        """Streams handed out."""
        return self.plan.first_stream(self.step)

    def __iter__(self) -> Iterator[tuple[TensorBatch, ...]]:
        """Yield this rank's share of each step up to the next validation; without parts where it has none."""
        if self._made is None:
            first = self.plan.accumulate * self.step
            self._made = self._crew.results(self._shares(range(first, self.plan.num_minibatches)))
        while self.step < self.num_steps:
            parts = []
            for share in self._shares(self.plan.minibatches_of(self.step)):
                batch = next(self._made)
                if self._keep is not None:
                    self._keep(batch, self.plan.chunks_of(share))
                tensors = to_tensors(batch, self._shapes())
                if len(tensors):
                    parts.append(tensors)
            self.step += 1
            yield tuple(parts)
            if self.is_at_validation:
                return

    @property
    def is_at_validation(self) -> bool:
        """Whether the step handed out last is followed by a validation."""
        return self.step % self.plan.validation_interval == 0 or self.step == self.num_steps

    def state_dict(self) -> Mapping[str, str | int]:
        """Describe the position after the step handed out last."""
        return {"next_stream": self.next_stream}

    def load_state_dict(self, state: Mapping[str, str | int]) -> None:
        """Go to a position saved by `state_dict`, before the first step is taken."""
        self.step = self.plan.step_of(int(state["next_stream"]))

    def _shares(self, minibatches: Sequence[int]) -> Iterator[Stretch]:
        shares = (self.plan.share(minibatch, self.world) for minibatch in minibatches)
        return (share for share in shares if share.num_traces)


def to_tensors(batch: TraceBatch, shapes: Mapping[str, tuple[int, ...]]) -> TensorBatch:
    """Return the traces that did not fail, for a network with certain observations.

    Parameters
    ----------
    batch
        Prior traces; ``trace_index`` of the result holds their streams.
    shapes
        Shape of each named observation; zeros where no trace has it.

    Raises
    ------
    InvalidInputError
        When traces have another observation, or one of another shape.
    """
    good = batch.take(batch.status == 0)
    for name, column in good.observations.items():
        if shapes.get(name) != column.shape[1:] and good.has_observation(name).any():
            stream = int(good.stream[good.has_observation(name)][0])
            found = f"shape {shapes[name]}" if name in shapes else "no such observation"
            message = (
                f"Observation {name!r} has shape {column.shape[1:]} in the trace of stream {stream}; the traces from "
                f"which the network was set up have {found}. Let every trace observe the same, or train from a store."
            )
            raise InvalidInputError(message, name=name, stream=stream)
    tensors = TensorBatch.from_batch(good, good.stream)
    absent = {name: torch.zeros(len(good), *shape) for name, shape in shapes.items() if name not in good.observations}
    observations = {name: column for name, column in tensors.observations.items() if name in shapes}
    return replace(tensors, observations={**observations, **absent})
