"""Keyed 64-bit hashes of integers: the only source of order in the sampler.

A hash of an index under a key is the same on every machine, rank and numpy version, needs no stored permutation and
no generator state. The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", 2014).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["derive_key", "keyed_hash", "keyed_order", "mix64", "narrowest", "unit_interval"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

_BLOCK = 2**15
"""Numbers that are hashed at once: they and what is between stay in a cache."""


def mix64(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers by a bijection in which every input bit moves every output bit.

    Parameters
    ----------
    numbers
        Any shape; not changed.

    Examples
    --------
    >>> hex(int(mix64(np.array([1], np.uint64))[0]))
    '0x5692161d100b05e5'
    """
    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def keyed_hash(indices: NDArray[np.integer], key: int) -> NDArray[np.uint64]:
    """Hash integers under a key.

    Parameters
    ----------
    indices
        Integers, any shape; negative ones count modulo ``2**64``.
    key
        A number from `derive_key`.

    Returns
    -------
    ndarray of uint64
        Same shape; distinct indices have distinct hashes.

    Examples
    --------
    >>> first, second = keyed_hash(np.arange(4), 1), keyed_hash(np.arange(4), 2)
    >>> len(set(first.tolist()) | set(second.tolist()))
    8
    """
    hashes = indices.astype(np.uint64, order="C")
    flat = hashes.reshape(-1)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        # mixed before the key comes in: with `index + key` alone, two keys would give shifted copies of one sequence
        block[:] = mix64(mix64(block + np.uint64(_GOLDEN)) ^ np.uint64(key & _MASK))
    return hashes


def keyed_order(
    items: NDArray[np.integer], key: int, rank: Callable[[slice], NDArray[np.uint64]] | None = None, rank_bits: int = 0
) -> NDArray[np.integer]:
    """Order integers by rank, and those of one rank by chance.

    Rank, hash and item are packed into one integer each, with as many bits of the hash as there is room for. Integers
    are sorted several times faster than they are argsorted, and as no two are equal, every sort gives the same order.

    Parameters
    ----------
    items
        Distinct integers from 0, shape ``(n,)``.
    key
        A number from `derive_key`.
    rank
        Returns the ranks of a slice of the items; None for one rank.
    rank_bits
        Bits of the highest rank.

    Returns
    -------
    ndarray
        The items, of the type they have.

    Examples
    --------
    >>> keyed_order(np.arange(6), 1)
    array([1, 5, 0, 3, 4, 2])
    >>> keyed_order(np.arange(6), 1, lambda block: np.arange(6, dtype=np.uint64)[block] // 3, rank_bits=1)
    array([1, 0, 2, 5, 3, 4])
    """
    item_bits = int(items.max(initial=0)).bit_length()
    packed = np.empty(len(items), np.uint64)
    for start in range(0, len(items), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(items)))
        hashes = keyed_hash(items[block], key) >> np.uint64(rank_bits + item_bits)
        packed[block] = (hashes << np.uint64(item_bits)) | items[block].astype(np.uint64)
        if rank is not None:
            packed[block] |= rank(block) << np.uint64(64 - rank_bits)
    packed.sort()
    packed &= np.uint64((1 << item_bits) - 1)
    return packed.astype(items.dtype)


def narrowest(number: int) -> type[np.integer]:
    """Choose the integers that can count to a number and take least memory."""
    return np.int32 if number < 2**31 else np.int64


def derive_key(*parts: int) -> int:
    """Fold integers (seed, purpose, epoch) into one 64-bit key; their order matters.

    Parameters
    ----------
    *parts
        Any integers; negative ones count modulo ``2**64``.

    Examples
    --------
    >>> derive_key(1, 2) != derive_key(2, 1)
    True
    """
    key = 0
    for part in parts:
        key = int(keyed_hash(np.array([part & _MASK], np.uint64), key)[0])
    return key


def unit_interval(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map hashes to uniform numbers in ``[0, 1)``, exactly and in the same way everywhere."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
