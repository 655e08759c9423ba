"""The verb `train`: one call that starts, resumes or returns a training, on one rank or many."""

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tracestore.errors import InvalidInputError
from tracestore.events import Observer, PhaseFinished
from tracestore.formats.document import digest
from tracestore.networks.network import ProposalNetwork
from tracestore.networks.persistence import load_network, write_network
from tracestore.networks.user_modules import ModuleRecord
from tracestore.samplers.policy import BatchPolicy
from tracestore.samplers.selection import Subset, select_traces
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.samplers.torch_loader import TraceLoader, trace_loader
from tracestore.store.location import StorePath
from tracestore.store.trace_store import TraceStore
from tracestore.training.checkpoint import Checkpoints
from tracestore.training.communicator import Communicator, CommunicatorKind, open_communicator
from tracestore.training.config import TrainConfig
from tracestore.training.job import describe_store, resolve_config, split_columns, training_job
from tracestore.training.loop import TrainingLoop
from tracestore.training.memory import available_memory, require_memory
from tracestore.training.sources import StoreSource
from tracestore.training.stages import begin_or_go_on, claim_together, finish_network

__all__ = ["train"]

NUM_FIT_TRACES = 1024
"""Traces from which inputs are standardized."""


def train(
    store: TraceStore | StorePath,
    path: str | Path,
    *,
    config: TrainConfig | None = None,
    start: ProposalNetwork | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    observer: Observer | None = None,
    communicator: Communicator | None = None,
    ranks_by: CommunicatorKind = "auto",
) -> ProposalNetwork:
    """Train a proposal network on a store of prior traces.

    The same call on the same path continues an interrupted training, with the same result to the last bit on the same
    number of ranks of one kind of machine, or returns the finished network. Traces whose simulator failed are not
    trained on; the network's ``summary`` counts them.

    Started by torchrun, mpiexec or srun, all ranks make this call together and train one network; the losses are those
    of one rank up to rounding.

    Parameters
    ----------
    store
        A store or its path.
    path
        Folder for the network; it is created.
    config
        What to train and how; sizes that are not set are chosen by the size of the store.
    start
        A network to go on from, with its weights and its standardization of observations; ``config.network`` then
        means nothing. It is not changed.
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
        When the path holds another job's output; names the field that differs.
    InvalidInputError
        When the store has too few good traces or no named observation.
    RankMismatchError
        When ranks differ in code, configuration or data.
    NotEnoughMemoryError
        When the network's tables do not fit into memory.
    NonFiniteLossError
        When the loss stops being finite.
    TrainingStoppedError
        When the system asked to stop; the same call continues.

    Examples
    --------
    >>> import tempfile, tracestore as ts
    >>> from tracestore.simulators import toys
    >>> folder = tempfile.mkdtemp()
    >>> store = ts.simulate(toys.gum, folder + "/traces", num_traces=200, seed=1)
    >>> network = train(store, folder + "/network", config=TrainConfig(epochs=1))
    >>> len(network.base_addresses), network.summary["num_traces"]
    (1, 200)
    """
    config = TrainConfig() if config is None else config
    opened = store if isinstance(store, TraceStore) else TraceStore.open(store)
    folder, given = Path(path), {} if modules is None else modules
    ranks = open_communicator(ranks_by, device=config.device) if communicator is None else nullcontext(communicator)
    with ranks as communicator:
        resolved = resolve_config(config if start is None else replace(config, network=start.config), opened)
        job = training_job({**describe_store(opened), **_describe_start(start), **_describe_modules(given)}, resolved)
        if not claim_together(folder, job, resolved, communicator):
            started = time.perf_counter()
            _Training(opened, folder, resolved, start, given, observer, communicator).finish()
            if observer is not None and communicator.rank == 0:
                observer(PhaseFinished("train", time.perf_counter() - started))
        communicator.barrier()
    return load_network(folder, modules=given)


class _Training:
    """One training under way in its folder, on one rank."""

    def __init__(
        self, store: TraceStore, folder: Path, config: TrainConfig, start: ProposalNetwork | None,
        modules: Mapping[str, nn.Module], observer: Observer | None, communicator: Communicator,
    ) -> None:  # fmt: skip
        self.store, self.folder, self.config, self.modules = store, folder, config, modules
        self.start, self.communicator = start, communicator
        source = StoreSource(self._loader("train"), config.epochs or 1, config.accumulate)
        self.num_training_traces = source.loader.plan.num_traces
        # all rows are there from the start, so that ranks need not agree on new ones in every step
        trainer, progress = begin_or_go_on(
            folder, config, source, self._new_network, modules=modules, communicator=communicator, grows=False
        )
        checkpoints = Checkpoints(folder, config.keep_checkpoints)
        self.loop = TrainingLoop(checkpoints, trainer, progress, source, lambda: self._loader("validation"), observer)

    def finish(self) -> None:
        """Do the steps that are left, then write the finished network."""
        self.loop.finish()
        num_good = int((split_columns(self.store)[0] == 0).sum())
        counts = {
            "num_traces": len(self.store),
            "num_failed": len(self.store) - num_good,
            "num_training_traces": self.num_training_traces,
            "num_validation_traces": num_good - self.num_training_traces,
        }
        finish_network(
            self.folder,
            self.config,
            self.loop.progress,
            lambda: self._loader("validation"),
            modules=self.modules,
            communicator=self.communicator,
            counts=counts,
        )

    def _new_network(self) -> ProposalNetwork:
        """Copy the network to start from, or set one up, with rows for all addresses of the store."""
        network = self._fitted_network() if self.start is None else copy.deepcopy(self.start)
        network.active.fill_(True)  # what was left to the prior may learn, too
        sites = network.missing(sorted(self.store.sites(), key=lambda site: (site.base, site.instance)))
        require_memory(network, sites, self.config.optimizer.num_moments, available_memory())
        network.grow(sites)
        return network

    def _fitted_network(self) -> ProposalNetwork:
        """Set up a network whose inputs are standardized to a part of the store."""
        status, stream = split_columns(self.store)
        good = np.flatnonzero(select_traces(status, stream, "train", self.config.validation_fraction))
        chosen = np.random.default_rng(self.config.seed).choice(good, min(NUM_FIT_TRACES, len(good)), replace=False)
        chosen.sort()
        batch = TensorBatch.from_batch(self.store.take(chosen), chosen)
        for name, values in batch.observations.items():
            bad = chosen[~torch.isfinite(values).reshape(len(values), -1).all(dim=1).numpy()]
            if len(bad):
                message = (
                    f"Observation {name!r} is not finite in traces {', '.join(map(str, bad[:8]))} of the store "
                    f"{self.store.storage.url}; train on a store without them."
                )
                raise InvalidInputError(message, name=name, traces=tuple(bad.tolist()))
        network = ProposalNetwork(self.store.observation_shapes, self.config.network, modules=self.modules)
        network.observation.fit(batch.observations)
        return network

    def _loader(self, subset: Subset) -> TraceLoader:
        batch_size = self.config.batch_size or 1
        order = "sequential" if subset == "validation" else self.config.batch_order
        return trace_loader(
            self.store,
            policy=BatchPolicy.local(batch_size, order=order),
            seed=self.config.seed,
            subset=subset,
            validation_fraction=self.config.validation_fraction,
            world=self.communicator.world,
            prefetch=self.config.prefetch or None,
        )


def _describe_start(start: ProposalNetwork | None) -> dict[str, object]:
    return {} if start is None else {"start": digest(b"".join(write_network(start).values()))}


def _describe_modules(modules: Mapping[str, nn.Module]) -> dict[str, object]:
    return {f"modules.{name}": ModuleRecord.of(module).class_name for name, module in sorted(modules.items())}
