"""Which segments of a store may stay as they are when it is sorted in place. Pure."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_kept"]

_MOST_OF_TARGET = 1.25
"""A larger segment is cut, relative to the size asked for."""
_LEAST_OF_TARGET = 0.5
"""A smaller segment is joined with what lies beside it."""


def find_kept(
    segment: NDArray[np.int32], first: NDArray[np.int64], nbytes: NDArray[np.float64], segment_bytes: int
) -> NDArray[np.bool_]:
    """Find the segments whose traces are already neighbors in the sorted order.

    A segment stays when nothing goes between its runs and they are in order, unless it is too large, or it is small and
    something that moves, or another small one, lies beside it.

    Parameters
    ----------
    segment, first
        Segment and first trace of each run, in sorted order, shape ``(R,)``.
    nbytes
        Raw bytes of each segment, shape ``(S,)``.
    segment_bytes
        Size asked for.

    Returns
    -------
    ndarray of bool
        Shape ``(S,)``.

    Examples
    --------
    Traces of segment 2 go between those of segment 1:

    >>> find_kept(np.array([0, 1, 2, 1]), np.array([0, 8, 20, 9]), np.array([8.0, 9.0, 2.0]), 10)
    array([ True, False, False])
    """
    starts = np.flatnonzero(np.diff(segment, prepend=-1))
    is_whole = np.bincount(segment[starts], minlength=len(nbytes)) == 1
    backwards = (segment[1:] == segment[:-1]) & (first[1:] < first[:-1])
    is_whole[segment[1:][backwards]] = False
    is_whole &= nbytes <= _MOST_OF_TARGET * segment_bytes
    kept = np.array(is_whole, np.bool_)
    is_small = nbytes < _LEAST_OF_TARGET * segment_bytes
    blocks = segment[starts].tolist()
    # a small one that is given up may leave the next one beside something that moves: once there, once back
    for direction in (blocks, blocks[::-1]):
        _give_up_small(direction, kept, is_small, is_whole)
    return kept


def _give_up_small(
    blocks: list[int], kept: NDArray[np.bool_], is_small: NDArray[np.bool_], is_whole: NDArray[np.bool_]
) -> None:
    """Give up small segments that lie behind something that moves, or behind another small one."""
    before: int | None = None
    for block in blocks:
        if before is not None and kept[block] and is_small[block]:
            beside_small = is_whole[before] and is_small[before]
            if not kept[before] or beside_small:
                kept[block] = False
        before = block
