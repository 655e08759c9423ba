"""A batch as tensors in the order of the recurrent pass: what the network computes on.

Shapes: N traces, P modelled sites.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracestore.training.proposals import Head
from tracestore.training.site_index import BatchColumns, SitePlan
from tracestore.training.sites import Vocabulary

__all__ = ["HeadGroup", "RowColumns", "Steps", "group_by_head", "make_steps"]


class RowColumns(NamedTuple):
    """The rows of a vocabulary as arrays of shape ``(R,)``."""

    head: NDArray[np.int64]
    """Position of the row's head among the heads in use."""
    head_row: NDArray[np.int64]
    first_entry: NDArray[np.int64]
    num_entries: NDArray[np.int64]
    num_parameters: NDArray[np.int64]

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, keys: Sequence[str]) -> "RowColumns":
        """Turn the rows into arrays.

        Parameters
        ----------
        vocabulary
            Rows to convert.
        keys
            Keys of the heads, in the order that `head` shall count.
        """
        position = {key: index for index, key in enumerate(keys)}
        records = [
            (position[row.head], row.head_row, row.first_entry, row.num_entries, row.num_parameters)
            for row in vocabulary.rows
        ]
        return cls(*np.array(records, np.int64).reshape(-1, 5).T)


class HeadGroup(NamedTuple):
    """The sites of a batch that one head serves; G of them."""

    head: int
    index_G: Tensor
    """Their places among the P sites."""
    rows_G: Tensor
    """Their rows in the head."""
    priors: Tensor
    """Prior parameters, float64, shape ``(G, num_parameters)``; padded with zeros where rows have fewer."""


class Steps(NamedTuple):
    """The modelled sites of a batch; tensors of shape ``(P,)`` unless stated."""

    trace: Tensor
    row: Tensor
    instance: Tensor
    previous: Tensor
    value: Tensor
    log_prior: Tensor
    place: Tensor
    """Place of the value among the entries of its base address."""
    first_entry: Tensor
    num_entries: Tensor
    groups: tuple[HeadGroup, ...]
    batch_sizes: Tensor
    """On the CPU, as packed sequences want it."""
    prior_log_prob: Tensor
    """Shape ``(N,)``: log probability of the controlled sites that are not modelled."""


def group_by_head(
    rows: NDArray[np.int64], columns: RowColumns, heads: Sequence[Head], parameters: NDArray[np.float64],
    starts: NDArray[np.int64], device: torch.device,
) -> tuple[HeadGroup, ...]:  # fmt: skip
    """Group sites by the head that serves them and gather their priors.

    Parameters
    ----------
    rows
        Row of each site, shape ``(P,)``.
    columns
        The vocabulary's rows.
    heads
        The heads in use.
    parameters, starts
        Flat prior parameters, and where each site's start, shape ``(P,)``.
    device
        Where the tensors shall be.
    """
    head_of_site = columns.head[rows]
    groups = []
    for position in np.unique(head_of_site):
        index = np.flatnonzero(head_of_site == position)
        chosen = rows[index]
        counts = columns.num_parameters[chosen, None]
        width = max(heads[position].prior_width, int(counts.max()))
        offset = np.arange(width)
        where = np.minimum(starts[index, None] + offset, len(parameters) - 1)
        priors = np.where(offset < counts, parameters[where], 0.0)
        groups.append(
            HeadGroup(
                int(position),
                torch.from_numpy(index).to(device),
                torch.from_numpy(columns.head_row[chosen]).to(device),
                torch.from_numpy(priors).to(device),
            )
        )
    return tuple(groups)


def value_places(groups: Sequence[HeadGroup], heads: Sequence[Head], values: Tensor, num_entries: Tensor) -> Tensor:
    """Place values among the entries of their base addresses, shape ``(P,)``."""
    place = torch.zeros_like(values)
    for group in groups:
        head = heads[group.head]
        last = (num_entries[group.index_G] - 1).to(values.dtype)
        coordinate = head.coordinate(group.priors, values[group.index_G])
        place[group.index_G] = torch.minimum(coordinate, last) if head.is_discrete else coordinate * last
    return place


def make_steps(
    batch: BatchColumns, plan: SitePlan, columns: RowColumns, heads: Sequence[Head], device: torch.device
) -> Steps:
    """Gather a batch's modelled sites into tensors.

    Parameters
    ----------
    batch
        N traces.
    plan
        Where their modelled sites lie.
    columns, heads
        The vocabulary's rows and the heads they refer to.
    device
        Where the tensors shall be.
    """
    groups = group_by_head(plan.row, columns, heads, np.asarray(batch.parameters), plan.parameter, device)

    def tensor(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device)

    value, num_entries = tensor(plan.value), tensor(columns.num_entries[plan.row])
    return Steps(
        trace=tensor(plan.trace),
        row=tensor(plan.row),
        instance=tensor(plan.instance),
        previous=tensor(plan.previous),
        value=value,
        log_prior=tensor(plan.log_prior),
        place=value_places(groups, heads, value, num_entries),
        first_entry=tensor(columns.first_entry[plan.row]),
        num_entries=num_entries,
        groups=groups,
        batch_sizes=torch.from_numpy(plan.batch_sizes),
        prior_log_prob=tensor(plan.prior_log_prob),
    )
