"""Proposals for one or more observations: the network as an engine uses it, many running simulators at a time.

The recurrent state is advanced only when a proposal needs it: sites that the prior serves wait in their slot's queue,
and a trace that meets no further proposal never pays for them.

Shapes: B runs in one call, S slots, K observations, E embedding of one, H recurrent state, V value embedding.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracestore.errors import InvalidInputError
from tracestore.networks.proposals import Head
from tracestore.networks.steps import HeadGroup, make_elements
from tracestore.networks.trace_network import TraceNetwork
from tracestore.traces.batch import TraceBatch
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site

__all__ = ["NetworkSession"]

Value = float | NDArray[np.float64]

MAX_EMBEDDED = 64
"""Observations embedded at once."""


@dataclass(slots=True)
class _Visit:
    """A modelled site that a slot has visited."""

    row: int
    place: int
    """Row of what the core sees of the place in the program."""
    prior: NDArray[np.float64]
    value: NDArray[np.float64] | None = None
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
        Observed values by name, as the network was trained with, stacked: arrays of shape ``(K, *shape)``.
    num_slots
        Number of slots.
    amortize_rejection
        Whether the network proposes inside rejection loops, too; otherwise the prior does.

    Raises
    ------
    InvalidInputError
        When the number of slots is not positive.
    """

    def __init__(
        self,
        network: TraceNetwork,
        observations: Mapping[str, NDArray[np.float32]],
        num_slots: int,
        *,
        amortize_rejection: bool = False,
    ) -> None:
        if num_slots < 1:
            message = f"`num_slots` must be positive; got {num_slots!r}."
            raise InvalidInputError(message, num_slots=num_slots)
        self._network = network
        self._device = network.device
        self._heads = network.head_list
        self._columns = network.columns
        with torch.no_grad(), _one_thread():
            self._embedding_KE = _embed(network, observations)
        self._observation_of_slot = [0] * num_slots
        self._amortizes_rejection = amortize_rejection
        self._memory = network.core.memory(num_slots)
        self._slots = [_Slot() for _ in range(num_slots)]
        self._active: list[list[bool]] = network.active.tolist()
        self._row_of_address: dict[int, int] = {}
        self._head_of_row: list[int] = self._columns.head.tolist()
        self._head_row: list[int] = self._columns.head_row.tolist()
        self._places: dict[tuple[int, int], int] = {}
        """Places in the program that were met: row and instance."""
        self._place_SA = torch.zeros(0, network.config.place_size, device=self._device)

    def assign(self, slot: int, observation: int) -> None:
        """Say for which observation a slot runs from its next trace on; see `ProposalSession.assign`."""
        self._observation_of_slot[slot] = observation

    def save(self, slot: int) -> object:
        """Return what `restore` needs; see `ProposalSession.save`."""
        state = self._slots[slot]
        return _Slot(state.last, list(state.queue)), self._memory.save(slot)

    def restore(self, slot: int, saved: object) -> None:
        """Put a slot back to where it was in its trace; see `ProposalSession.restore`."""
        state, memory = cast("tuple[_Slot, tuple[Tensor, ...]]", saved)
        self._slots[slot] = _Slot(state.last, list(state.queue))
        self._memory.restore(slot, memory)

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
                instance = self._network.vocabulary.instance(site)
                self._slots[slot].queue.append(_Visit(row, self._place(row, instance), prior.parameters()))
                if self._active[row][instance] and (self._amortizes_rejection or not site.is_rejection):
                    served.append(place)
        proposals: list[Distribution | None] = [None] * len(slots)
        if served:
            found = self._serve([slots[place] for place in served])
            for place, (proposal, head) in zip(served, found, strict=True):
                proposals[place] = head.distribution(proposal, priors[place])
        return proposals

    @_one_thread()
    @torch.no_grad()
    def log_prob(self, batch: TraceBatch, observation: int | NDArray[np.int64] = 0) -> NDArray[np.float64]:
        """Score recorded traces under the proposals; see `ProposalSession.log_prob`."""
        if len(batch) == 0:
            return np.zeros(0)
        log_prob = self._network.trace_log_probs(
            self._network.steps(batch),
            self._embeddings(np.broadcast_to(observation, len(batch)).tolist()),
            amortize_rejection=self._amortizes_rejection,
        )
        found: NDArray[np.float64] = log_prob.cpu().numpy()
        return found

    @_one_thread()
    @torch.no_grad()
    def site_log_probs(self, batch: TraceBatch, observation: int | NDArray[np.int64] = 0) -> NDArray[np.float64]:
        """Return log q of all controlled sites, trace by trace; NaN where the prior proposes.

        Parameters
        ----------
        batch, observation
            As in `ProposalSession.log_prob`.
        """
        network = self._network
        offsets = [
            batch.parameter_offsets[row] + layout.parameter_offsets[:-1][layout.controlled]
            for row, layout in enumerate(batch.layouts[place] for place in batch.layout_index)
        ]
        starts = np.concatenate([np.empty(0, np.int64), *offsets])
        found = np.full(len(starts), np.nan)
        plan = network.index.plan(batch) if len(batch) else None
        if plan is not None and len(plan.trace):
            steps = network.steps(batch)
            embedding_NE = self._embeddings(np.broadcast_to(observation, len(batch)).tolist())
            is_served = network.active[steps.row, steps.instance]
            if not self._amortizes_rejection:
                is_served = is_served & ~steps.in_rejection
            log_q = torch.where(is_served, network.site_log_probs(steps, embedding_NE), torch.nan)
            # a site is known by where its parameters start
            found[np.searchsorted(starts, plan.parameter)] = log_q.cpu().numpy()
        return found

    def _embeddings(self, observations: Sequence[int]) -> Tensor:
        """Return the embedded observations by number."""
        if len(self._embedding_KE) == 1:
            return self._embedding_KE.expand(len(observations), -1)
        return self._embedding_KE[torch.tensor(observations, device=self._device)]

    def _row(self, site: Site) -> int:
        row = self._row_of_address.get(site.id)
        if row is None:
            row = self._row_of_address[site.id] = self._network.vocabulary.find(site)
        return row

    @torch.no_grad()
    def _place(self, row: int, instance: int) -> int:
        """Return the number of a place in the program; what the core sees of it is computed once."""
        found = self._places.get((row, instance))
        if found is None:
            found = self._places[row, instance] = len(self._places)
            family = int(self._columns.family[row])
            columns = (torch.tensor([number], device=self._device) for number in (row, family, instance))
            self._place_SA = torch.cat([self._place_SA, self._network.place_inputs(*columns)])
        return found

    def _take_previous(self, slot: int, value: Value | None) -> None:
        """Start a slot anew where a trace starts; elsewhere note what the last modelled site drew."""
        state = self._slots[slot]
        if value is None:
            if state.last is not None:
                self._memory.restart(slot)
            self._slots[slot] = _Slot()
            return
        visit = state.queue[-1] if state.queue else state.last
        if visit is not None and visit.value is None:
            visit.value = np.asarray(value, np.float64).reshape(-1)

    @_one_thread()
    @torch.no_grad()
    def _serve(self, slots: list[int]) -> list[tuple[NDArray[np.float64], Head]]:
        """Advance some slots through their queues; returns parameters and head of the proposal at the last site."""
        queues = [self._slots[slot].queue for slot in slots]
        before, rows_before = self._previous_inputs(
            [[self._slots[slot].last, *self._slots[slot].queue[:-1]] for slot in slots]
        )
        outputs, places = [], []
        for step in range(max(map(len, queues))):
            live = [place for place, queue in enumerate(queues) if step < len(queue)]
            place_BA = self._place_inputs([queues[place][step] for place in live])
            embedding_BE = self._embeddings([self._observation_of_slot[slots[place]] for place in live])
            before_B = None
            if before is not None:
                before_B = before.index_select(0, self._tensor([rows_before[place][step] for place in live]))
            x_BI = self._network.core_inputs(embedding_BE, place_BA, before_B)
            state_BH = self._memory.advance([slots[place] for place in live], x_BI)
            ends = [row for row, place in enumerate(live) if step == len(queues[place]) - 1]
            outputs.append(self._network.head_inputs(state_BH, place_BA).index_select(0, self._tensor(ends)))
            places += [live[row] for row in ends]
        last = [queue[-1] for queue in queues]
        for slot, visit in zip(slots, last, strict=True):
            self._slots[slot] = _Slot(last=visit)
        proposals = self._proposals(torch.cat(outputs), [last[place] for place in places])
        return [proposal for _, proposal in sorted(zip(places, proposals, strict=True), key=lambda found: found[0])]

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)

    def _place_inputs(self, visits: Sequence[_Visit]) -> Tensor:
        return self._place_SA.index_select(0, self._tensor([visit.place for visit in visits]))

    def _previous_inputs(self, runs: Sequence[Sequence[_Visit | None]]) -> tuple[Tensor | None, list[list[int]]]:
        """Return what the core sees of each visited site at the site after it, after a row of zeros for no site.

        None when it sees nothing. Beside it, the row of each visit of each run.
        """
        visits = [visit for run in runs for visit in run if visit is not None]
        numbers = itertools.count(1)
        rows_of_runs = [[0 if visit is None else next(numbers) for visit in run] for run in runs]
        place_PA = self._place_inputs(visits)
        embedding = self._network.value
        sample_PS = torch.zeros(0, embedding.size, device=self._device)
        if visits:
            rows = np.array([visit.row for visit in visits], np.int64)
            groups = self._groups(visits)
            sample_PS = embedding(make_elements(rows, self._columns, self._heads, groups, embedding, self._device))
        inputs = self._network.previous_inputs(sample_PS, place_PA)
        if inputs is None:
            return None, rows_of_runs
        return torch.cat([inputs.new_zeros(1, inputs.shape[1]), inputs]), rows_of_runs

    def _proposals(self, inputs_BH: Tensor, visits: Sequence[_Visit]) -> list[tuple[NDArray[np.float64], Head]]:
        """Apply the heads; returns parameters and head of each proposal."""
        found: dict[int, tuple[NDArray[np.float64], Head]] = {}
        for group in self._groups(visits):
            head = self._heads[group.head]
            proposal = head(inputs_BH.index_select(0, group.index_G), group.rows_G, group.priors).cpu().numpy()
            found.update((place, (row, head)) for place, row in zip(group.index_G.tolist(), proposal, strict=True))
        return [found[place] for place in range(len(visits))]

    def _groups(self, visits: Sequence[_Visit]) -> list[HeadGroup]:
        """Group visits by the head that serves them; `steps.group_by_head` for a handful of sites."""
        places_of_head: dict[int, list[int]] = {}
        for place, visit in enumerate(visits):
            places_of_head.setdefault(self._head_of_row[visit.row], []).append(place)
        return [
            self._group(head, places, [visits[place] for place in places])
            for head, places in sorted(places_of_head.items())
        ]

    def _group(self, head: int, places: Sequence[int], visits: Sequence[_Visit]) -> HeadGroup:
        width = max(self._heads[head].prior_width, *[len(visit.prior) for visit in visits])
        priors = np.zeros((len(visits), width))
        for row, visit in zip(priors, visits, strict=True):
            row[: len(visit.prior)] = visit.prior
        values = np.array([() if visit.value is None else visit.value for visit in visits], np.float64)
        values = values[:, 0] if values.shape[1] == 1 else values
        return HeadGroup(
            head,
            self._tensor(places),
            self._tensor([self._head_row[visit.row] for visit in visits]),
            torch.from_numpy(priors).to(self._device),
            torch.from_numpy(values).to(self._device),
        )


def _embed(network: TraceNetwork, observations: Mapping[str, NDArray[np.float32]]) -> Tensor:
    """Embed the observations, some at a time: an embedding of images takes memory."""
    count = len(next(iter(observations.values()))) if observations else 1
    parts = [
        network.embed({name: value[start : start + MAX_EMBEDDED] for name, value in observations.items()})
        for start in range(0, count, MAX_EMBEDDED)
    ]
    return torch.cat(parts)
