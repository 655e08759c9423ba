"""Order the atoms of an epoch in buckets of alike cost; knows neither steps nor ranks."""

import numpy as np
from numpy.typing import NDArray

from tracestore.samplers.atoms import TYPE_BITS, AtomCut, CostBands
from tracestore.samplers.hashing import keyed_hash, keyed_order, unit_interval
from tracestore.samplers.policy import BatchPolicy

__all__ = ["cut_buckets", "shuffle_buckets", "take_turns"]

_PLACE_BITS = 20
"""Bits of a place within a bucket, where its atoms are not mixed throughout."""


def cut_buckets(
    cut: AtomCut, atoms: NDArray[np.integer], policy: BatchPolicy, key: int
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Line up atoms, the costliest first, and cut the line into buckets.

    Buckets have equal total costs: with equal numbers of atoms, the last would span the whole tail of long traces.
    Where one ends among alike costs, chance decides who is in, or, unless buckets are mixed throughout, the trace type.

    Parameters
    ----------
    cut
        Atoms of the epoch.
    atoms
        Numbers of the atoms that take part, the first of all; at least one.
    policy
        Number of buckets, and mixing.
    key
        A number from `derive_key`.

    Returns
    -------
    tuple of ndarray
        The atoms in line, and where in it the buckets begin and where the last ends, shape ``(num_buckets + 1,)``.

    Examples
    --------
    >>> from tracestore.samplers.atoms import RunTable
    >>> table = RunTable(np.array([0, 2]), np.array([2, 4]), np.array([4.0, 2.0]), np.array([7, 8], np.uint64))
    >>> policy = BatchPolicy(global_batch=2, micro=1, num_buckets=2)
    >>> line, bounds = cut_buckets(AtomCut(table, 1, key=1), np.arange(6), policy, key=1)
    >>> set(line[:2].tolist()), bounds
    ({0, 1}, array([0, 2, 6]))
    """
    costs = cut.all_costs()
    bands, by_type = CostBands(costs), policy.mixing < 1

    def rank(block: slice) -> NDArray[np.uint64]:
        band = bands.of(costs[block])
        return (band << np.uint64(TYPE_BITS)) | cut.type_numbers(atoms[block]) if by_type else band

    line = keyed_order(atoms, key, rank, CostBands.BITS + TYPE_BITS * by_type)
    total = costs[line]
    np.cumsum(total, out=total)
    inner = np.searchsorted(total, np.arange(1, policy.num_buckets) * (total[-1] / policy.num_buckets), "right")
    return line, np.concatenate(([0], inner, [len(line)]))


def shuffle_buckets(
    line: NDArray[np.integer], bounds: NDArray[np.int64], mixing: float, key: int
) -> NDArray[np.integer]:
    """Move each atom of a line by chance within its bucket.

    Parameters
    ----------
    line, bounds
        From `cut_buckets`.
    mixing
        Share of its bucket by which an atom moves at most: 0 leaves the line as it is, 1 shuffles each bucket.
    key
        A number from `derive_key`.

    Returns
    -------
    ndarray
        The atoms in their new order.

    Examples
    --------
    >>> shuffle_buckets(np.arange(8), np.array([0, 4, 8]), 1.0, key=1)
    array([1, 0, 3, 2, 7, 5, 4, 6])
    """
    if mixing == 0:
        return line
    sizes = np.diff(bounds)

    place_bits = _PLACE_BITS if mixing < 1 else 0

    def rank(block: slice) -> NDArray[np.uint64]:
        place = np.arange(block.start, block.stop)
        bucket = np.searchsorted(bounds[1:-1], place, "right")
        inside = (place - bounds[bucket]) / sizes[bucket]
        moved = (1 - mixing) * inside + mixing * unit_interval(keyed_hash(line[block], key))
        steps = (moved * (2**place_bits - 1)).astype(np.uint64)
        return np.asarray((bucket.astype(np.uint64) << np.uint64(place_bits)) | steps)

    return keyed_order(line, key, rank, len(sizes).bit_length() + place_bits)


def take_turns(bucket: NDArray[np.int64], jitter: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order steps so that each bucket's are spread evenly over the epoch.

    Parameters
    ----------
    bucket
        Bucket of each step, shape ``(S,)``.
    jitter
        How far each step is moved, from 0 to 1 of the distance to the next of its bucket, shape ``(S,)``.

    Returns
    -------
    ndarray of int64
        The steps in the order in which they come, shape ``(S,)``.

    Examples
    --------
    >>> take_turns(np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 0.5, 0.5]))
    array([0, 2, 1, 3])
    """
    count = np.bincount(bucket)
    place = np.arange(len(bucket)) - (np.cumsum(count) - count)[bucket]
    return np.argsort((place + jitter) / count[bucket], kind="stable")
