"""Where the numbers of the modelled sites lie in a batch: traces of any mix of layouts become flat index arrays.

Each layout is looked at once; a batch then costs a few vectorized look-ups, without a loop over traces. Knows nothing
of weights; numpy only.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracestore.networks.sites import Vocabulary
from tracestore.traces.layout import Layout, Site

__all__ = ["BatchColumns", "SiteIndex", "SitePlan"]

Indices = NDArray[np.int64]

MAX_INDEXED_SITES = 8_000_000
"""Sites of layouts kept indexed before the index starts anew; bounds memory for unbounded simulators."""


class BatchColumns(Protocol):
    """The columns that training reads: a `TraceBatch`, or the tensors that a loader makes of one."""

    @property
    def layouts(self) -> Sequence[Layout]:
        """Distinct layouts of the batch, and possibly more."""

    @property
    def layout_index(self) -> ArrayLike:
        """Position of each trace's layout, shape ``(N,)``."""

    @property
    def values(self) -> ArrayLike:
        """Stored values, flat float64."""

    @property
    def parameters(self) -> ArrayLike:
        """Prior and likelihood parameters, flat float64."""

    @property
    def log_probs(self) -> ArrayLike:
        """Log probability of each site, flat float64."""


class SitePlan(NamedTuple):
    """The P modelled sites of a batch in the order of a packed sequence: step by step, longest trace first.

    Arrays have shape ``(P,)`` unless stated.
    """

    trace: Indices
    """Row of the site's trace in the batch."""
    row: Indices
    """Row of its address in the vocabulary."""
    instance: Indices
    """Number of the visit among those that share the row, from 1."""
    previous: Indices
    """Place of the trace's previous modelled site, -1 at its first."""
    value: Indices
    """Where the value starts in the batch's flat values."""
    parameter: Indices
    """Where the prior's parameters start in the batch's flat parameters."""
    num_parameters: Indices
    """How many there are."""
    in_rejection: NDArray[np.bool_]
    """Whether the site belongs to a rejection loop."""
    log_prior: NDArray[np.float64]
    """Log probability of the value under the prior."""
    batch_sizes: Indices
    """Traces that have a t-th modelled site, shape ``(T,)``, not increasing."""
    prior_log_prob: NDArray[np.float64]
    """Sum of the prior log probabilities of each trace's controlled sites that are not modelled, shape ``(N,)``."""


class SiteIndex:
    """Index arrays of layouts, built at their first appearance.

    Parameters
    ----------
    vocabulary
        Decides which sites are modelled. Call `clear` after rows were added to it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.clear()

    def clear(self) -> None:
        """Forget all layouts and addresses."""
        self._complete: set[int] = set()  # ids of layouts that lack no row
        self._row_of_address: dict[int, int] = {}
        self._slot_of_layout: dict[Layout, int] = {}
        self._modelled = _Ragged(num_columns=7)  # site, value, parameter, number of parameters, row, instance, in loop
        self._unmodelled = _Ragged(num_columns=1)  # site
        self._sizes = _Ragged(num_columns=3)  # sites, values, parameters: one record per layout

    def unknown_sites(self, layouts: Sequence[Layout], layout_index: ArrayLike) -> list[Site]:
        """Return one candidate site for every row that is missing, of the layouts in use, in order of appearance."""
        found: dict[str, Site] = {}
        for place in np.unique(np.asarray(layout_index)):
            layout = layouts[place]
            if layout.id not in self._complete:
                lacking = {self.vocabulary.key(site): site for site in layout.sites if self.vocabulary.lacks(site)}
                found = {**lacking, **found}
                if not lacking:
                    self._complete.add(layout.id)
        return list(found.values())

    def plan(self, batch: BatchColumns) -> SitePlan:
        """Find the modelled sites of a batch.

        Parameters
        ----------
        batch
            At least one trace.
        """
        slots = self._slots(batch.layouts, np.asarray(batch.layout_index))
        sizes = self._sizes.data[:, slots]
        site_start, value_start, parameter_start = np.cumsum(sizes, axis=1) - sizes
        log_probs = np.asarray(batch.log_probs)

        counts = self._modelled.counts(slots)
        by_length = np.argsort(-counts, kind="stable")
        longest = int(counts[by_length[0]])
        batch_sizes = len(slots) - np.searchsorted(np.sort(counts), np.arange(longest), side="right")
        step = np.repeat(np.arange(longest), batch_sizes)
        first_of_step = np.cumsum(batch_sizes) - batch_sizes
        rank = np.arange(len(step)) - first_of_step[step]
        trace = by_length[rank]
        previous = np.where(step > 0, first_of_step[np.maximum(step - 1, 0)] + rank, -1)

        site, value, parameter, num_parameters, row, instance, in_rejection = self._modelled.data[
            :, self._modelled.starts(slots)[trace] + step
        ]
        return SitePlan(
            trace=trace,
            row=row,
            instance=instance,
            previous=previous,
            value=value_start[trace] + value,
            parameter=parameter_start[trace] + parameter,
            num_parameters=num_parameters,
            in_rejection=in_rejection.astype(np.bool_),
            log_prior=log_probs[site_start[trace] + site],
            batch_sizes=batch_sizes,
            prior_log_prob=self._sum_unmodelled(slots, site_start, log_probs),
        )

    def _sum_unmodelled(
        self, slots: Indices, site_start: Indices, log_probs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        counts = self._unmodelled.counts(slots)
        trace = np.repeat(np.arange(len(slots)), counts)
        within = np.arange(len(trace)) - np.repeat(np.cumsum(counts) - counts, counts)
        site = self._unmodelled.data[0, self._unmodelled.starts(slots)[trace] + within]
        sums = np.bincount(trace, log_probs[site_start[trace] + site], minlength=len(slots))
        return sums.astype(np.float64)  # without any site the counts come back as integers

    def _slots(self, layouts: Sequence[Layout], layout_index: NDArray[np.int32]) -> Indices:
        if self._modelled.size + self._unmodelled.size > MAX_INDEXED_SITES:
            self.clear()
        present, inverse = np.unique(layout_index, return_inverse=True)
        slots = [self._slot_of_layout.get(layouts[place], -1) for place in present]
        for position, slot in enumerate(slots):
            if slot < 0:
                slots[position] = self._add(layouts[present[position]])
        return np.array(slots, np.int64)[inverse]

    def _add(self, layout: Layout) -> int:
        controlled = np.flatnonzero(layout.controlled)
        rows = np.array([self._row(layout.sites[place]) for place in controlled], np.int64)
        modelled = controlled[rows >= 0]
        sites = [layout.sites[place] for place in modelled]
        instances = [self.vocabulary.instance(site) for site in sites]
        in_rejection = [site.is_rejection for site in sites]
        starts, stops = layout.parameter_offsets[modelled], layout.parameter_offsets[modelled + 1]
        self._modelled.append(
            [modelled, layout.value_offsets[modelled], starts, stops - starts, rows[rows >= 0], instances, in_rejection]
        )
        self._unmodelled.append([controlled[rows < 0]])
        self._sizes.append([[layout.num_sites], [layout.num_values], [layout.num_parameters]])
        slot = self._slot_of_layout[layout] = len(self._slot_of_layout)
        return slot

    def _row(self, site: Site) -> int:
        row = self._row_of_address.get(site.id)
        if row is None:
            row = self._row_of_address[site.id] = self.vocabulary.find(site)
        return row


class _Ragged:
    """Lists of integer records of different lengths, kept in one growing array of shape ``(columns, capacity)``."""

    def __init__(self, num_columns: int) -> None:
        self.data = np.zeros((num_columns, 1024), np.int64)
        self._ends = np.zeros(1024, np.int64)
        self._num_lists = 0

    @property
    def size(self) -> int:
        """Records in all lists."""
        return int(self._ends[self._num_lists])

    def append(self, columns: Sequence[ArrayLike]) -> None:
        records = np.array(columns, np.int64)
        start, stop = self.size, self.size + records.shape[1]
        while stop > self.data.shape[1]:
            self.data = np.pad(self.data, ((0, 0), (0, self.data.shape[1])))
        if self._num_lists + 1 >= len(self._ends):
            self._ends = np.pad(self._ends, (0, len(self._ends)))
        self.data[:, start:stop] = records
        self._num_lists += 1
        self._ends[self._num_lists] = stop

    def starts(self, lists: Indices) -> Indices:
        return self._ends[lists]

    def counts(self, lists: Indices) -> Indices:
        return self._ends[lists + 1] - self._ends[lists]
