"""Proposals for one observation: the network as an inference engine uses it, many running simulators at a time.

Shapes: B runs in one call, S slots, H recurrent state, V value embedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracestore.errors import InvalidInputError
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.training.steps import group_by_head, value_places

if TYPE_CHECKING:
    from tracestore.training.network import ProposalNetwork

__all__ = ["NetworkSession"]

Value = float | NDArray[np.float64]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: a wave is too small to share, and a forked worker has lost the others of its parent."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


class NetworkSession:
    """Recurrent state of all slots, in one slab per tensor.

    Satisfies `tracestore.execution.provider.ProposalSession`. Proposals of one call are computed together; the last
    digits may depend on which slots share a call, so engines keep the log q of the distribution they drew from.

    Parameters
    ----------
    network
        A trained network; it is not changed.
    observations
        Observed values by name, as the network was trained with.
    num_slots
        Number of slots.

    Raises
    ------
    InvalidInputError
        When the number of slots is not positive.
    """

    def __init__(
        self, network: "ProposalNetwork", observations: Mapping[str, NDArray[np.float32]], num_slots: int
    ) -> None:
        if num_slots < 1:
            message = f"`num_slots` must be positive; got {num_slots!r}."
            raise InvalidInputError(message, num_slots=num_slots)
        config, device = network.config, network.device
        self._network = network
        self._heads = network.head_list
        self._columns = network.columns
        with torch.no_grad(), _one_thread():
            self._embedding = network.embed({name: value[None] for name, value in observations.items()})
        self._state = torch.zeros(network.core.num_states, num_slots, config.recurrent_size, device=device)
        self._sample = torch.zeros(num_slots, config.sample_size, device=device)
        # per slot: row and prior of the last modelled site, while its value is not known yet
        self._open: list[tuple[int, NDArray[np.float64]] | None] = [None] * num_slots
        self._active: NDArray[np.bool_] = network.active.cpu().numpy()
        self._row_of_address: dict[int, int] = {}

    @_one_thread()
    @torch.no_grad()
    def propose(
        self,
        slots: Sequence[int],
        sites: Sequence[Site],
        priors: Sequence[Distribution],
        previous: Sequence[Value | None],
    ) -> list[Distribution | None]:
        """Propose for the next controlled site of several runs at once; see `ProposalSession.propose`."""
        self._take_previous(slots, previous)
        rows = [self._row(site) for site in sites]
        modelled = [place for place, row in enumerate(rows) if row >= 0]
        proposals: list[Distribution | None] = [None] * len(slots)
        if not modelled:
            return proposals
        parameters = [priors[place].parameters() for place in modelled]
        for place, found in zip(modelled, parameters, strict=True):
            self._open[slots[place]] = (rows[place], found)
        row_B = np.array([rows[place] for place in modelled], np.int64)
        instance_B = np.array([sites[place].instance for place in modelled], np.int64)
        state_BH = self._advance([slots[place] for place in modelled], row_B, instance_B)
        served = np.flatnonzero(self._active[row_B, instance_B])
        if len(served):
            chosen = [parameters[index] for index in served]
            for index, proposal, head in self._proposals(state_BH, row_B, served, chosen):
                place = modelled[index]
                proposals[place] = self._heads[head].distribution(proposal, priors[place])
        return proposals

    @_one_thread()
    @torch.no_grad()
    def log_prob(self, batch: TraceBatch) -> NDArray[np.float64]:
        """Score recorded traces under the proposals for this session's observation; see `ProposalSession.log_prob`."""
        if len(batch) == 0:
            return np.zeros(0)
        embedding_NE = self._embedding.expand(len(batch), -1)
        log_prob: NDArray[np.float64] = (
            self._network.trace_log_probs(self._network.steps(batch), embedding_NE).cpu().numpy()
        )
        return log_prob

    def _row(self, site: Site) -> int:
        row = self._row_of_address.get(site.id)
        if row is None:
            row = self._row_of_address[site.id] = self._network.vocabulary.find(site)
        return row

    def _take_previous(self, slots: Sequence[int], previous: Sequence[Value | None]) -> None:
        """Start slots anew where a trace starts; elsewhere embed the value that the last modelled site drew."""
        fresh = [slot for slot, value in zip(slots, previous, strict=True) if value is None]
        if fresh:
            self._state[:, fresh] = 0.0
            self._sample[fresh] = 0.0
            for slot in fresh:
                self._open[slot] = None
        drawn = [
            (slot, *last, float(value))
            for slot, value in zip(slots, previous, strict=True)
            if value is not None and (last := self._open[slot]) is not None
        ]
        if not drawn:
            return
        where, rows, priors, values = zip(*drawn, strict=True)
        for slot in where:
            self._open[slot] = None
        self._sample[list(where)] = self._embed_values(np.array(rows, np.int64), priors, np.array(values))

    def _embed_values(
        self, rows: NDArray[np.int64], priors: Sequence[NDArray[np.float64]], values: NDArray[np.float64]
    ) -> Tensor:
        network, device = self._network, self._network.device
        groups = group_by_head(rows, self._columns, self._heads, *_flatten(priors), device)
        count = torch.from_numpy(self._columns.num_entries[rows]).to(device)
        first = torch.from_numpy(self._columns.first_entry[rows]).to(device)
        place = value_places(groups, self._heads, torch.from_numpy(values).to(device), count)
        embedded: Tensor = network.value(first, count, place)
        return embedded

    def _advance(self, slots: list[int], rows: NDArray[np.int64], instances: NDArray[np.int64]) -> Tensor:
        """Advance the recurrent state of some slots by one site; returns the outputs, shape ``(B, H)``."""
        network, device = self._network, self._network.device
        x_BI = network.core_inputs(
            self._embedding.expand(len(slots), -1),
            torch.from_numpy(rows).to(device),
            torch.from_numpy(instances).to(device),
            self._sample[slots],
        )
        state_SBH = network.core.step(x_BI, self._state[:, slots])
        self._state[:, slots] = state_SBH
        return state_SBH[0]

    def _proposals(
        self, state_BH: Tensor, rows: NDArray[np.int64], served: NDArray[np.int64], priors: list[NDArray[np.float64]]
    ) -> list[tuple[int, NDArray[np.float64], int]]:
        """Return (position in the call, parameters of the proposal, head) for the served positions."""
        device = self._network.device
        state_GH = state_BH[torch.from_numpy(served).to(device)]
        found = []
        for group in group_by_head(rows[served], self._columns, self._heads, *_flatten(priors), device):
            proposal = self._heads[group.head](state_GH[group.index_G], group.rows_G, group.priors).cpu().numpy()
            found += [
                (int(served[index]), row, group.head)
                for index, row in zip(group.index_G.tolist(), proposal, strict=True)
            ]
        return found


def _flatten(arrays: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join arrays; returns the numbers and where each array starts."""
    sizes = np.array([len(array) for array in arrays], np.int64)
    return np.concatenate(arrays), np.cumsum(sizes) - sizes
