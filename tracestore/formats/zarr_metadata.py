"""Metadata documents of Zarr v3, the content of each ``zarr.json``; knows no file.

Reference: the Zarr v3 core specification.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracestore.errors import InvalidInputError

__all__ = ["array_metadata", "encode_metadata", "group_metadata", "stored_dtype"]


def array_metadata(
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    *,
    chunk_shape: tuple[int, ...],
    codecs: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, object] | None = None,
    dimension_names: Sequence[str] | None = None,
) -> bytes:
    """Metadata of an array in chunks of one shape, whose missing numbers would be zero.

    Parameters
    ----------
    shape
        Length of each axis.
    dtype
        A type that `stored_dtype` returned.
    chunk_shape
        Length of each axis in a chunk, which has a file of its own.
    codecs
        How a file is made of a chunk.
    attributes
        Attributes of the array.
    dimension_names
        A name for each axis.

    Raises
    ------
    InvalidInputError
        When the names are not as many as the axes, or an attribute is not JSON.

    Examples
    --------
    >>> data = array_metadata((3,), np.dtype(bool), chunk_shape=(3,), codecs=[{"name": "bytes"}])
    >>> json.loads(data)["fill_value"]
    False
    """
    document: dict[str, object] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": np.zeros((), dtype).item(),
        "codecs": codecs,
        "attributes": dict(attributes or {}),
    }
    if dimension_names is not None:
        if len(dimension_names) != len(shape):
            message = f"`dimension_names` must name the {len(shape)} axes; got {list(dimension_names)}."
            raise InvalidInputError(message, argument="dimension_names")
        document["dimension_names"] = list(dimension_names)
    return encode_metadata(document)


def group_metadata(
    attributes: Mapping[str, object] | None = None, members: Mapping[str, Mapping[str, object]] | None = None
) -> bytes:
    """Metadata of a group, the content of its ``zarr.json``.

    Parameters
    ----------
    attributes
        Attributes of the group.
    members
        Path relative to the group, and metadata, of everything below it; readers that know consolidated metadata then
        open the group with one request.

    Raises
    ------
    InvalidInputError
        When an attribute is not JSON.

    Examples
    --------
    >>> json.loads(group_metadata({"traces": 3}))["attributes"]
    {'traces': 3}
    """
    document: dict[str, object] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}
    if members is not None:
        inline = {name: members[name] for name in sorted(members)}
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": inline}
    return encode_metadata(document)


def encode_metadata(document: Mapping[str, object]) -> bytes:
    """Write a metadata document as JSON.

    Raises
    ------
    InvalidInputError
        When an attribute is not JSON.

    Examples
    --------
    >>> encode_metadata({"zarr_format": 3}).splitlines()
    [b'{', b'  "zarr_format": 3', b'}']
    """
    try:
        return json.dumps(document, indent=2, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        message = f"`attributes` must be JSON without NaN and infinities; {error}."
        raise InvalidInputError(message, argument="attributes") from error


def stored_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Give the little-endian type with which numbers are stored.

    Raises
    ------
    InvalidInputError
        When they are not booleans, integers or floats of up to 8 bytes.

    Examples
    --------
    >>> stored_dtype(np.dtype(">f4")).str
    '<f4'
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        message = f"The array must have numbers of up to 8 bytes; its type is {dtype}."
        raise InvalidInputError(message, dtype=str(dtype))
    return dtype.newbyteorder("<")
