"""Proposals for one observation: the network as an inference engine uses it, many running simulators at a time.

The recurrent state is advanced only when a proposal needs it: sites that the prior serves wait in their slot's queue,
and a trace that meets no further proposal never pays for them.

Shapes: B runs in one call, S slots, H recurrent state, V value embedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracestore.errors import InvalidInputError
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.training.proposals import Head
from tracestore.training.steps import HeadGroup, group_by_head, value_places

if TYPE_CHECKING:
    from tracestore.training.network import ProposalNetwork

__all__ = ["NetworkSession"]

Value = float | NDArray[np.float64]


@dataclass(slots=True)
class _Visit:
    """A modelled site that a slot has visited."""

    row: int
    instance: int
    prior: NDArray[np.float64]
    value: float | None = None
    """What was drawn there; None until the slot reports it."""


@dataclass(slots=True)
class _Slot:
    """One running simulator."""

    last: _Visit | None = None
    """The site up to which the recurrent state has advanced."""
    queue: list[_Visit] = field(default_factory=list)
    """Sites visited since."""


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
        self._device = device
        self._heads = network.head_list
        self._columns = network.columns
        with torch.no_grad(), _one_thread():
            self._embedding = network.embed({name: value[None] for name, value in observations.items()})
        self._state = torch.zeros(network.core.num_states, num_slots, config.recurrent_size, device=device)
        self._nothing = torch.zeros(config.sample_size, device=device)
        self._slots = [_Slot() for _ in range(num_slots)]
        self._active: list[list[bool]] = network.active.tolist()
        self._row_of_address: dict[int, int] = {}

    def propose(
        self,
        slots: Sequence[int],
        sites: Sequence[Site],
        priors: Sequence[Distribution],
        previous: Sequence[Value | None],
    ) -> list[Distribution | None]:
        """Propose for the next controlled site of several runs at once; see `ProposalSession.propose`."""
        served = []
        for place, (slot, site, prior, value) in enumerate(zip(slots, sites, priors, previous, strict=True)):
            self._take_previous(slot, value)
            row = self._row(site)
            if row >= 0:
                self._slots[slot].queue.append(_Visit(row, site.instance, prior.parameters()))
                if self._active[row][site.instance]:
                    served.append(place)
        proposals: list[Distribution | None] = [None] * len(slots)
        if served:
            found = self._serve([slots[place] for place in served])
            for place, (proposal, head) in zip(served, found, strict=True):
                proposals[place] = head.distribution(proposal, priors[place])
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

    def _take_previous(self, slot: int, value: Value | None) -> None:
        """Start a slot anew where a trace starts; elsewhere note what the last modelled site drew."""
        state = self._slots[slot]
        if value is None:
            if state.last is not None:
                self._state[:, slot] = 0.0
            self._slots[slot] = _Slot()
            return
        visit = state.queue[-1] if state.queue else state.last
        if visit is not None and visit.value is None:
            visit.value = float(value)

    @_one_thread()
    @torch.no_grad()
    def _serve(self, slots: list[int]) -> list[tuple[NDArray[np.float64], Head]]:
        """Advance some slots through their queues; returns parameters and head of the proposal at the last site."""
        queues = [self._slots[slot].queue for slot in slots]
        before = [self._slots[slot].last for slot in slots]
        samples = self._embed_values([[last, *queue[:-1]] for last, queue in zip(before, queues, strict=True)])
        state_SBH = self._state[:, slots]
        for step in range(max(map(len, queues))):
            live = [place for place, queue in enumerate(queues) if step < len(queue)]
            visits = [queues[place][step] for place in live]
            x_BI = self._network.core_inputs(
                self._embedding.expand(len(live), -1),
                torch.tensor([visit.row for visit in visits], device=self._device),
                torch.tensor([visit.instance for visit in visits], device=self._device),
                torch.stack([samples[place][step] for place in live]),
            )
            state_SBH[:, live] = self._network.core.step(x_BI, state_SBH[:, live])
        self._state[:, slots] = state_SBH
        last = [queue[-1] for queue in queues]
        for slot, visit in zip(slots, last, strict=True):
            self._slots[slot] = _Slot(last=visit)
        return self._proposals(state_SBH[0], last)

    def _embed_values(self, runs: Sequence[Sequence[_Visit | None]]) -> list[list[Tensor]]:
        """Embed what was drawn at the sites before each step; zeros before the first site of a trace."""
        visits = [visit for run in runs for visit in run if visit is not None]
        if not visits:
            return [[self._nothing] * len(run) for run in runs]
        rows, groups = self._group(visits)
        values = torch.tensor([visit.value for visit in visits], dtype=torch.float64, device=self._device)
        count = torch.from_numpy(self._columns.num_entries[rows]).to(self._device)
        first = torch.from_numpy(self._columns.first_entry[rows]).to(self._device)
        place = value_places(groups, self._heads, values, count)
        embedded = iter(self._network.value(first, count, place).unbind(0))
        return [[self._nothing if visit is None else next(embedded) for visit in run] for run in runs]

    def _proposals(self, state_BH: Tensor, visits: Sequence[_Visit]) -> list[tuple[NDArray[np.float64], Head]]:
        """Apply the heads; returns parameters and head of each proposal."""
        found: dict[int, tuple[NDArray[np.float64], Head]] = {}
        for group in self._group(visits)[1]:
            head = self._heads[group.head]
            proposal = head(state_BH.index_select(0, group.index_G), group.rows_G, group.priors).cpu().numpy()
            found.update((place, (row, head)) for place, row in zip(group.index_G.tolist(), proposal, strict=True))
        return [found[place] for place in range(len(visits))]

    def _group(self, visits: Sequence[_Visit]) -> tuple[NDArray[np.int64], tuple[HeadGroup, ...]]:
        """Return the rows of visits, and the visits grouped by head."""
        rows = np.array([visit.row for visit in visits], np.int64)
        sizes = np.array([len(visit.prior) for visit in visits], np.int64)
        parameters = np.concatenate([visit.prior for visit in visits])
        starts = np.cumsum(sizes) - sizes
        return rows, group_by_head(rows, self._columns, self._heads, parameters, starts, self._device)
