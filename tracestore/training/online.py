"""The verb `train_online`: simulates while it trains, on fresh prior traces, each used once."""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tracestore.errors import InvalidInputError
from tracestore.events import Event, Observer, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.execution.ahead import AheadWorkers
from tracestore.formats.document import digest
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.persistence import NETWORK_FILE, load_network, write_network
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.simulators.base import MAX_SITES, Simulator, as_simulator
from tracestore.store.job import Job
from tracestore.store.location import StorePath
from tracestore.traces.batch import TraceBatch
from tracestore.training.checkpoint import Checkpoints
from tracestore.training.communicator import Communicator, CommunicatorKind, open_communicator
from tracestore.training.config import TrainConfig
from tracestore.training.job import FEW_VALIDATION_TRACES, LARGEST_VALIDATION_SHARE, training_job
from tracestore.training.loop import TrainingLoop
from tracestore.training.memory import available_memory, require_memory
from tracestore.training.simulated_source import OnlinePlan, PriorTraces, SimulatedSource, Stretch, to_tensors
from tracestore.training.simulated_store import SimulatedStore
from tracestore.training.stages import begin_or_go_on, claim_together, finish_network

__all__ = ["resolve_online_config", "train_online"]

NUM_FIT_TRACES = 512
"""Traces from which inputs are standardized: the first of the training, which every rank makes for itself."""

Crew = AheadWorkers[Stretch, TraceBatch]


def train_online(
    simulator: Simulator | Callable[[], object],
    path: str | Path,
    *,
    num_traces: int,
    config: TrainConfig | None = None,
    store: StorePath | None = None,
    start: ProposalNetwork | None = None,
    workers: int = 0,
    max_sites: int = MAX_SITES,
    modules: Mapping[str, nn.Module] | None = None,
    observer: Observer | None = None,
    communicator: Communicator | None = None,
    ranks_by: CommunicatorKind = "auto",
) -> ProposalNetwork:
    """Train a proposal network on prior traces that are simulated meanwhile, each used once.

    The traces of each step are a function of simulator, ``config.seed`` and step: those that `tracestore.simulate`
    makes with this seed, in order. Neither workers nor ranks change them. Further traces, from streams of their own,
    are for validation. The same call on the same path continues an interrupted training, with the same result to the
    last bit on the same number of ranks of one kind of machine, or returns the finished network.

    The network grows as new addresses appear. Started by torchrun, mpiexec or srun, all ranks make this call together
    and each simulates its share; they agree on new addresses before every step, so that nothing is discarded.

    Parameters
    ----------
    simulator
        A simulator, or any function without arguments.
    path
        Folder for the network; it is created.
    num_traces
        Traces to train on. Failed ones among them are left out and counted.
    config
        What to train and how. ``epochs`` and ``batch_order`` mean nothing here; ``prefetch`` is the number of
        minibatches that workers make ahead, two per worker by default; ``patience`` counts validations, of which there
        are about twenty.
    store
        Where to write what is trained on, too; by default it is forgotten. Interrupted or not, in the end every trace
        is there once.
    start
        A network to go on from, with its weights and its standardization of observations; ``config.network`` then
        means nothing. It is not changed.
    workers
        Forked processes of each rank that simulate while the network learns; 0 simulates between the steps.
    max_sites
        Length cap of a trace, in sites.
    modules
        Modules of your own that embed observations, by the name of the observation.
    observer
        Told of progress, on rank 0.
    communicator
        The ranks; None opens the launcher's.
    ranks_by
        How ranks talk when they are opened here: ``torch`` or ``mpi``, by the launcher with ``auto``, or ``none``.

    Returns
    -------
    ProposalNetwork
        The network with the lowest validation loss, on the CPU. Where a proposal does not beat the prior on validation
        traces, the network leaves the draw to the prior.

    Raises
    ------
    StoreExistsError
        When a path holds another job's output; names the field that differs.
    InvalidInputError
        When a number is out of range, the first traces all fail, or there is no named observation.
    SimulatorError
        When a worker dies; the same call continues.
    RankMismatchError
        When ranks differ in code, configuration or simulator.
    NotEnoughMemoryError
        When the network's tables do not fit into memory.
    NonFiniteLossError
        When the loss stops being finite; traces are named by their streams.
    TrainingStoppedError
        When the system asked to stop; the same call continues.

    Examples
    --------
    >>> import tempfile
    >>> from tracestore.simulators import toys
    >>> folder = tempfile.mkdtemp()
    >>> network = train_online(toys.gum, folder + "/network", num_traces=200)
    >>> len(network.base_addresses), network.summary["num_training_traces"]
    (1, 200)
    """
    program, folder = as_simulator(simulator), Path(path)
    config = resolve_online_config(TrainConfig() if config is None else config, num_traces)
    if start is not None:
        config = replace(config, network=start.config)
    job = _online_job(program, config, num_traces, max_sites, start)
    is_finished = (folder / NETWORK_FILE).is_file() and store is None
    given = {} if modules is None else modules
    with ExitStack() as stack:
        # workers are forked before a message passing library starts its threads
        make = PriorTraces(program, config.seed, max_sites)
        crew = stack.enter_context(Crew(make, workers=0 if is_finished else workers, ahead=config.prefetch or None))
        ranks = open_communicator(ranks_by, device=config.device) if communicator is None else nullcontext(communicator)
        communicator = stack.enter_context(ranks)
        is_finished = claim_together(folder, job, config, communicator)
        kept = None
        if store is not None:
            plan = _plan(config, num_traces)
            kept = SimulatedStore(
                store, program, plan, seed=config.seed, max_sites=max_sites, communicator=communicator
            )
            stack.enter_context(kept)
        if not is_finished:
            started = time.perf_counter()
            _Online(crew, folder, config, num_traces, start, given, kept, observer, communicator).finish()
            if observer is not None and communicator.rank == 0:
                observer(PhaseFinished("train", time.perf_counter() - started))
        elif kept is not None:
            num_steps = int(load_network(folder, modules=given).summary["num_steps"])
            kept.complete(_plan(config, num_traces).first_stream(num_steps), crew)
        communicator.barrier()
    return load_network(folder, modules=given)


def resolve_online_config(config: TrainConfig, num_traces: int) -> TrainConfig:
    """Replace what is not set by defaults for a number of traces.

    Parameters
    ----------
    config
        Settings of the user.
    num_traces
        Traces to train on.

    Raises
    ------
    InvalidInputError
        When there are too few traces.

    Examples
    --------
    >>> resolve_online_config(TrainConfig(), 10_000).batch_size
    64
    """
    if num_traces < 2:
        message = f"`num_traces` must be at least 2; got {num_traces}."
        raise InvalidInputError(message, argument="num_traces", found=num_traces)
    # about a hundred steps, by a power of two, and more in long trainings
    batch_size = config.batch_size or min(256, max(16, 1 << (num_traces // 100).bit_length() >> 1))
    return replace(config, batch_size=min(batch_size, num_traces), epochs=1)


def _num_validation_traces(config: TrainConfig, num_traces: int) -> int:
    share = max(config.validation_fraction, min(FEW_VALIDATION_TRACES / num_traces, LARGEST_VALIDATION_SHARE))
    return max(1, min(round(share * num_traces), config.max_validation_traces))


def _plan(config: TrainConfig, num_traces: int) -> OnlinePlan:
    return OnlinePlan(num_traces, config.batch_size or 1, config.accumulate)


def _online_job(
    program: Simulator, config: TrainConfig, num_traces: int, max_sites: int, start: ProposalNetwork | None
) -> Job:
    source = {
        **program.identity,
        "snapshot": "simulated while training",
        "num_traces": num_traces,
        "max_sites": max_sites,
        "start": None if start is None else digest(b"".join(write_network(start).values())),
    }
    return training_job(source, config)


class _Online:
    """One training under way in its folder, on one rank."""

    def __init__(
        self, crew: Crew, folder: Path, config: TrainConfig, num_traces: int, start: ProposalNetwork | None,
        modules: Mapping[str, nn.Module], kept: SimulatedStore | None, observer: Observer | None,
        communicator: Communicator,
    ) -> None:  # fmt: skip
        self.crew, self.folder, self.config, self.modules = crew, folder, config, modules
        self.start, self.kept, self.communicator = start, kept, communicator
        self.observer = observer if communicator.rank == 0 else None
        self.source = SimulatedSource(
            _plan(config, num_traces), communicator.world, crew, self._shapes, None if kept is None else kept.keep
        )
        trainer, progress = begin_or_go_on(
            folder, config, self.source, self._new_network, modules=modules, communicator=communicator, grows=True
        )
        self.network = trainer.network
        self.num_simulated, self.validation = self._simulate_validation()
        checkpoints = Checkpoints(folder, config.keep_checkpoints)
        self.loop = TrainingLoop(checkpoints, trainer, progress, self.source, lambda: self.validation, self._tell)

    def finish(self) -> None:
        """Do the steps that are left, then write the finished network."""
        self.loop.finish()
        progress = self.loop.progress
        if self.kept is not None:
            self.kept.complete(self.source.next_stream, self.crew)
        num_validation = torch.tensor([sum(map(len, self.validation))])
        self.communicator.sum_(num_validation).wait()
        num_simulated = self.source.next_stream + self.num_simulated
        counts = {
            "num_traces": num_simulated,
            "num_failed": num_simulated - progress.num_traces - int(num_validation),
            "num_training_traces": progress.num_traces,
            "num_validation_traces": int(num_validation),
        }
        finish_network(
            self.folder,
            self.config,
            progress,
            lambda: self.validation,
            modules=self.modules,
            communicator=self.communicator,
            counts=counts,
        )

    def _new_network(self) -> ProposalNetwork:
        """Copy the network to start from, or set one up from the first traces, the same on every rank."""
        if self.start is not None:
            network = copy.deepcopy(self.start)
            network.active.fill_(True)  # what was left to the prior may learn, too
            return network
        batch = self._simulate_first()
        shapes = {name: column.shape[1:] for name, column in batch.observations.items()}
        network = ProposalNetwork(shapes, self.config.network, modules=self.modules)
        tensors = to_tensors(batch, shapes)
        network.observation.fit(tensors.observations)
        sites = network.unknown_sites(tensors)
        require_memory(network, sites, self.config.optimizer.num_moments, available_memory())
        return network

    def _simulate_first(self) -> TraceBatch:
        size, total = self.source.plan.batch_size, min(NUM_FIT_TRACES, self.source.num_traces)
        firsts = range(0, total, size)
        stretches = (Stretch("simulate", first, min(size, total - first)) for first in firsts)
        batch = TraceBatch.concatenate(list(self.crew.results(stretches)))
        good = batch.take(batch.status == 0)
        if not len(good):
            message = f"The first {total} traces of the simulator all failed; the first one: {batch.failures[0]}."
            raise InvalidInputError(message, num_failed=total)
        observed = {name: column for name, column in good.observations.items() if good.has_observation(name).any()}
        return replace(good, observations=observed)

    def _simulate_validation(self) -> tuple[int, list[TensorBatch]]:
        """Return the number of validation traces of all ranks, and this rank's share of those that did not fail."""
        size, total = self.source.plan.batch_size, _num_validation_traces(self.config, self.source.num_traces)
        firsts = range(0, total, size)[self.communicator.rank :: self.communicator.num_ranks]
        stretches = [Stretch("validation", first, min(size, total - first)) for first in firsts]
        started = time.perf_counter()
        self._observe(PhaseStarted("simulate", total))
        batches, done = [], 0
        for batch in self.crew.results(stretches):
            batches.append(to_tensors(batch, self._shapes()))
            done += len(batch) * self.communicator.num_ranks
            self._observe(PhaseAdvanced("simulate", min(done, total), total, note="for validation"))
        self._observe(PhaseFinished("simulate", time.perf_counter() - started))
        good = torch.tensor([sum(map(len, batches))])
        self.communicator.sum_(good).wait()
        if not good:
            message = f"All {total} validation traces of the simulator failed; repair it, or train on more traces."
            raise InvalidInputError(message, num_failed=total)
        return total, batches

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.network.observation.shapes

    def _observe(self, event: Event) -> None:
        if self.observer is not None:
            self.observer(event)

    def _tell(self, event: Event) -> None:
        """Count failed traces, which the loop does not see, as done."""
        if isinstance(event, PhaseStarted):
            event = replace(event, done=self.source.next_stream)
        elif isinstance(event, PhaseAdvanced):
            done = self.source.next_stream
            event = replace(event, done=done, failed=done - event.done)
        self._observe(event)
