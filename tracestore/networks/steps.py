"""A batch as tensors in the order of the recurrent pass: what the network computes on.

Shapes: N traces, P modelled sites, R rows of the vocabulary, G sites of one head.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracestore.networks.proposals import Head
from tracestore.networks.site_index import BatchColumns, SitePlan
from tracestore.networks.sites import Vocabulary
from tracestore.networks.values import Elements, ValueEmbedding

__all__ = ["HeadGroup", "RowColumns", "Steps", "group_by_head", "make_elements", "make_steps"]

Indices = NDArray[np.int64]


class RowColumns(NamedTuple):
    """The rows of a vocabulary as arrays of shape ``(R,)``."""

    head: Indices
    """Position of the row's head among the heads in use."""
    head_row: Indices
    size: Indices
    num_elements: Indices
    first_entry: Indices
    num_entries: Indices
    is_discrete: NDArray[np.bool_]
    family: Indices
    """Position of the row's family among the families, in order of arrival."""

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, heads: Iterable[str]) -> "RowColumns":
        """Turn the rows into arrays.

        Parameters
        ----------
        vocabulary
            Rows to convert.
        heads
            Keys of the heads, in the order that `head` shall count.
        """
        rows = vocabulary.rows
        position = {key: index for index, key in enumerate(heads)}

        def column(values: Iterable[int]) -> Indices:
            return np.array(list(values), np.int64)

        return cls(
            head=column(position[row.head] for row in rows),
            head_row=column(row.head_row for row in rows),
            size=column(row.size for row in rows),
            num_elements=column(row.num_elements for row in rows),
            first_entry=column(row.first_entry for row in rows),
            num_entries=column(row.num_entries for row in rows),
            is_discrete=np.array([row.is_discrete for row in rows], np.bool_),
            family=column(vocabulary.families[row.family] for row in rows),
        )


class HeadGroup(NamedTuple):
    """The sites of a batch that one head serves; G of them."""

    head: int
    index_G: Tensor
    """Their places among the P sites."""
    rows_G: Tensor
    """Their rows in the head."""
    priors: Tensor
    """Prior parameters, float64, shape ``(G, num_parameters)``; padded with zeros where rows have fewer."""
    values: Tensor
    """Values, float64, shape ``(G,)``, or ``(G, size)`` of vector draws; empty where they are not known yet."""


class Steps(NamedTuple):
    """The modelled sites of a batch; tensors of shape ``(P,)`` unless stated."""

    trace: Tensor
    row: Tensor
    family: Tensor
    instance: Tensor
    previous: Tensor
    log_prior: Tensor
    in_rejection: Tensor
    """Whether the site belongs to a rejection loop."""
    elements: Elements
    """The values as their embedding wants them."""
    groups: tuple[HeadGroup, ...]
    batch_sizes: Tensor
    """On the CPU, as packed sequences want it."""
    prior_log_prob: Tensor
    """Shape ``(N,)``: log probability of the controlled sites that are not modelled."""


def group_by_head(
    rows: Indices, columns: RowColumns, heads: Sequence[Head], parameters: NDArray[np.float64], starts: Indices,
    sizes: Indices, values: NDArray[np.float64], value_starts: Indices, device: torch.device,
) -> tuple[HeadGroup, ...]:  # fmt: skip
    """Group sites by the head that serves them and gather their priors and values.

    Parameters
    ----------
    rows
        Row of each site, shape ``(P,)``.
    columns
        The vocabulary's rows.
    heads
        The heads in use.
    parameters, starts, sizes
        Flat prior parameters, where each site's start and how many they are, shape ``(P,)``.
    values, value_starts
        The same of values; no values at all where none are known yet.
    device
        Where the tensors shall be.
    """
    head_of_site = columns.head[rows]
    groups = []
    for position in np.unique(head_of_site):
        index = np.flatnonzero(head_of_site == position)
        chosen = rows[index]
        counts = sizes[index, None]
        offset = np.arange(max(heads[position].prior_width, int(counts.max())))
        where = np.minimum(starts[index, None] + offset, len(parameters) - 1)
        found = np.zeros((len(index), 0))
        if len(values):
            found = values[value_starts[index, None] + np.arange(columns.size[chosen[0]])]
        groups.append(
            HeadGroup(
                int(position),
                torch.from_numpy(index).to(device),
                torch.from_numpy(columns.head_row[chosen]).to(device),
                torch.from_numpy(np.where(offset < counts, parameters[where], 0.0)).to(device),
                torch.from_numpy(found[:, 0] if found.shape[1] == 1 else found).to(device),
            )
        )
    return tuple(groups)


def make_elements(
    rows: Indices, columns: RowColumns, heads: Sequence[Head], groups: Sequence[HeadGroup],
    embedding: ValueEmbedding, device: torch.device,
) -> Elements:  # fmt: skip
    """Lay out the values of sites for their embedding.

    Parameters
    ----------
    rows
        Row of each site, shape ``(P,)``.
    columns
        The vocabulary's rows.
    heads
        The heads in use.
    groups
        The same sites grouped by head, with their values.
    embedding
        What will embed them.
    device
        Where the tensors shall be.
    """
    site = torch.zeros(0, dtype=torch.long, device=device)
    number, value = site, torch.zeros(0, dtype=torch.float64, device=device)
    for group in groups:
        found = group.values
        if not embedding.takes_raw_values:
            found = heads[group.head].coordinate(group.priors, found)
        num_elements = found[0].numel()
        site = torch.cat([site, group.index_G.repeat_interleave(num_elements)])
        number = torch.cat([number, torch.arange(num_elements, device=device).repeat(len(group.index_G))])
        value = torch.cat([value, found.flatten()])
    last, first, size_of_element, is_discrete = (
        torch.from_numpy(array[rows]).to(device)
        for array in (
            columns.first_entry + columns.num_entries - 1,
            columns.first_entry,
            (columns.num_entries - embedding.num_extra) // columns.num_elements,
            columns.is_discrete,
        )
    )
    num_entries = size_of_element[site]
    return Elements(
        site=site,
        entry=first[site] + number * num_entries,
        num_entries=num_entries,
        value=value,
        is_discrete=is_discrete[site],
        last_entry=last,
    )


def make_steps(
    batch: BatchColumns, plan: SitePlan, columns: RowColumns, heads: Sequence[Head], embedding: ValueEmbedding,
    device: torch.device,
) -> Steps:  # fmt: skip
    """Gather a batch's modelled sites into tensors.

    Parameters
    ----------
    batch
        N traces.
    plan
        Where their modelled sites lie.
    columns, heads
        The vocabulary's rows and the heads they refer to.
    num_extra
        Entries of a row that belong to no element of a value.
    device
        Where the tensors shall be.
    """
    parameters, values = np.asarray(batch.parameters), np.asarray(batch.values)
    groups = group_by_head(
        plan.row, columns, heads, parameters, plan.parameter, plan.num_parameters, values, plan.value, device
    )

    def tensor(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Steps(
        trace=tensor(plan.trace),
        row=tensor(plan.row),
        family=tensor(columns.family[plan.row]),
        instance=tensor(plan.instance),
        previous=tensor(plan.previous),
        log_prior=tensor(plan.log_prior),
        in_rejection=tensor(plan.in_rejection),
        elements=make_elements(plan.row, columns, heads, groups, embedding, device),
        groups=groups,
        batch_sizes=torch.from_numpy(plan.batch_sizes),
        prior_log_prob=tensor(plan.prior_log_prob),
    )
