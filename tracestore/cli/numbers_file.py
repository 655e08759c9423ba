"""Named numbers from files: observations and true values."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracestore.errors import InvalidInputError

__all__ = ["read_numbers", "read_observations"]


def read_numbers(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Read named numbers from a file.

    Parameters
    ----------
    path
        A ``.json`` file with one object, name to number or nested list of numbers; or a ``.npz`` archive.

    Returns
    -------
    dict
        Arrays by name; a number is an array of shape ().

    Raises
    ------
    InvalidInputError
        When the file does not exist, is of another kind, or holds something else than numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInputError(f"There is no file {str(path)!r}.", path=str(path))
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                found: object = {name: archive[name] for name in archive.files}
        except (ValueError, OSError) as error:
            raise InvalidInputError(f"{str(path)!r} is not an npz archive of numbers: {error}") from error
    elif path.suffix == ".json":
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise InvalidInputError(f"{str(path)!r} is not JSON: {error}") from error
    else:
        raise InvalidInputError(f"{str(path)!r} has the ending {path.suffix!r}; give a .json or an .npz file.")
    if not isinstance(found, dict) or not found:
        raise InvalidInputError(f"{str(path)!r} must hold one JSON object, name to number or list of numbers.")
    return {name: _numbers(name, value, path) for name, value in found.items()}


def read_observations(words: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Read observations from words of a command line: files, or single numbers as ``NAME=NUMBER``.

    Parameters
    ----------
    words
        Later ones go before earlier ones.

    Raises
    ------
    InvalidInputError
        When a word is neither.

    Examples
    --------
    >>> read_observations(["low=8", "high=9.5"])
    {'low': array(8.), 'high': array(9.5)}
    """
    found: dict[str, NDArray[np.float64]] = {}
    for word in words:
        name, mark, number = word.partition("=")
        if not mark or Path(word).is_file():
            found |= read_numbers(word)
            continue
        try:
            found[name] = np.asarray(float(number))
        except ValueError as error:
            message = f"The observation {name!r} must be a number; got {number!r}. Give arrays in a file."
            raise InvalidInputError(message, name=name) from error
    return found


def _numbers(name: str, value: object, path: Path) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        message = f"{name!r} in {str(path)!r} must be a number or a rectangular list of numbers; got {value!r:.60}."
        raise InvalidInputError(message, name=name)
    return array.astype(np.float64)
