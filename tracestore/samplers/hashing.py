"""Keyed 64-bit hashes of integers: the only source of order in the sampler.

A hash of an index under a key is the same on every machine, rank and numpy version, needs no stored permutation and
no generator state. The mixing function is the finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", 2014).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["derive_key", "keyed_hash", "mix64", "unit_interval"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


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
    # mixed before the key comes in: with `index + key` alone, two keys would give shifted copies of one sequence
    inner = mix64(indices.astype(np.uint64) + np.uint64(_GOLDEN))
    inner ^= np.uint64(key & _MASK)
    return mix64(inner)


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
