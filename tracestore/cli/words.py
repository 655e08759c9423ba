"""Words of the command line that stand for numbers, durations, sizes and codecs."""

import argparse
import re

__all__ = ["parse_codec", "parse_duration", "parse_positive", "parse_size", "parse_whole"]

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_positive(text: str) -> int:
    """Read a whole number from 1."""
    number = _integer(text)
    if number < 1:
        message = f"must be at least 1; got {number}"
        raise argparse.ArgumentTypeError(message)
    return number


def parse_whole(text: str) -> int:
    """Read a whole number from 0."""
    number = _integer(text)
    if number < 0:
        message = f"must not be negative; got {number}"
        raise argparse.ArgumentTypeError(message)
    return number


def parse_duration(text: str) -> float:
    """Read a duration in seconds.

    Examples
    --------
    >>> parse_duration("90"), parse_duration("7d")
    (90.0, 604800.0)
    """
    return _with_unit(text, _SECONDS, "a duration such as 90, 30m, 12h or 7d")


def parse_size(text: str) -> int:
    """Read a size in bytes.

    Examples
    --------
    >>> parse_size("500MB"), parse_size("1GiB")
    (500000000, 1073741824)
    """
    size = int(_with_unit(text, _BYTES, "a size such as 500MB or 2GiB"))
    if size < 1:
        message = f"must be at least 1 byte; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return size


def parse_codec(text: str) -> str | dict[str, str]:
    """Read a codec, or codecs by name of observation.

    Examples
    --------
    >>> parse_codec("zstd"), parse_codec("image=lz4,count=none")
    ('zstd', {'image': 'lz4', 'count': 'none'})
    """
    if "=" not in text:
        return text
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(name and codec for name, _, codec in pairs):
        message = f"must be a codec, or NAME=CODEC,...; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return {name: codec for name, _, codec in pairs}


def _with_unit(text: str, units: dict[str, int], expected: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", text)
    if found is None or found[2] not in units:
        message = f"must be {expected}; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return float(found[1]) * units[found[2]]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        message = f"must be a whole number; got {text!r}"
        raise argparse.ArgumentTypeError(message) from error
