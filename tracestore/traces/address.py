"""Addresses: the identity of one random choice, the same in every process, interpreter and store.

A *base address* names a place in the program and the kind of draw made there: ``<place>~<suffix>``, where the suffix
is the prior's family with its size (``Normal``, ``Categorical(5)``, ``Normal[3]``). One base address therefore has one
family, one value shape and one number of parameters. A full *address* adds the instance, the n-th visit to that place
within one trace, counted from 1: ``<base>#<instance>``.

Identities are 64-bit content hashes (XXH3 of the UTF-8 string), never Python's salted `hash`.
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError

__all__ = ["REJECTION", "address_id", "base_address", "format_address", "split_address", "trace_type_id"]

REJECTION = "[rejection]"
"""Addresses of draws inside a rejection loop begin with this, in whatever language the simulator is written."""


def address_id(address: str) -> int:
    """Hash an address string to its 64-bit identity.

    Parameters
    ----------
    address
        Canonical address, base and instance.

    Returns
    -------
    int
        XXH3-64 of the UTF-8 bytes, in ``[0, 2**64)``.

    Examples
    --------
    >>> hex(address_id("gum:mu~Normal#1"))
    '0x65c891f221495558'
    """
    return xxhash.xxh3_64_intdigest(address.encode())


def base_address(place: str, suffix: str) -> str:
    """Join a place in the program and the suffix of the prior drawn there.

    Examples
    --------
    >>> base_address("gum:mu", "Normal")
    'gum:mu~Normal'
    """
    return f"{place}~{suffix}" if suffix else place


def format_address(base: str, instance: int) -> str:
    """Join a base address and an instance number (from 1).

    Examples
    --------
    >>> format_address("gum:mu~Normal", 1)
    'gum:mu~Normal#1'
    """
    return f"{base}#{instance}"


def split_address(address: str) -> tuple[str, int]:
    """Split an address into base address and instance.

    Raises
    ------
    InvalidInputError
        When the string does not end in ``#`` and a positive whole number.

    Examples
    --------
    >>> split_address("gum:mu~Normal#1")
    ('gum:mu~Normal', 1)
    """
    base, mark, instance = address.rpartition("#")
    if not mark or not (instance.isascii() and instance.isdecimal()) or instance.startswith("0"):
        message = f"An address must end in '#' and an instance from 1; got {address!r}."
        raise InvalidInputError(message, address=address)
    return base, int(instance)


def trace_type_id(address_ids: NDArray[np.uint64]) -> int:
    """Hash the ordered identities of a trace's controlled sample sites.

    Parameters
    ----------
    address_ids
        Shape ``(num_controlled,)``, in the order of the trace.

    Returns
    -------
    int
        XXH3-64 of the little-endian bytes, in ``[0, 2**64)``.

    Examples
    --------
    >>> trace_type_id(np.array([1, 2], np.uint64)) == trace_type_id(np.array([2, 1], np.uint64))
    False
    """
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(address_ids, dtype="<u8").tobytes())
