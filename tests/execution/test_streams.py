"""Random streams: functions of (seed, purpose, stream) and nothing else."""

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.execution import TraceStreams


def test_rewinding_equals_a_new_generator() -> None:
    streams = TraceStreams(3, "simulate")
    for stream in (0, 1, 12345, 2**40):
        shared = streams.rewind(stream)
        shared.integers(3, dtype=np.uint32)  # leaves half a word behind
        expected = streams.generator(stream).normal(size=100)
        np.testing.assert_array_equal(streams.rewind(stream).normal(size=100), expected)


def test_streams_seeds_and_purposes_are_distinct() -> None:
    heads = {
        TraceStreams(seed, purpose).generator(stream).random()
        for seed in range(4)
        for purpose in ("simulate", "ic")
        for stream in range(50)
    }
    assert len(heads) == 4 * 2 * 50


def test_the_first_number_of_a_stream_is_pinned() -> None:
    assert TraceStreams(1, "simulate").generator(0).random() == 0.43004145543319316


def test_neighbouring_streams_are_uncorrelated() -> None:
    streams = TraceStreams(1, "simulate")
    first = np.array([streams.rewind(stream).random() for stream in range(20_000)])
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 4 / np.sqrt(len(first))
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(first))


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True])
def test_seeds_are_whole_numbers(seed: object) -> None:
    with pytest.raises(InvalidInputError, match="`seed`"):
        TraceStreams(seed, "simulate")  # type: ignore[arg-type]
