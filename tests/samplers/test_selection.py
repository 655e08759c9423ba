import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.samplers import select_traces, validation_mask

STREAM = np.arange(20_000)


def test_share_is_as_asked():
    for fraction in (0.01, 0.1, 0.5):
        spread = (fraction * (1 - fraction) / len(STREAM)) ** 0.5
        assert abs(validation_mask(STREAM, fraction).mean() - fraction) < 4 * spread


def test_larger_fraction_contains_smaller():
    assert not (validation_mask(STREAM, 0.1) & ~validation_mask(STREAM, 0.2)).any()


def test_split_follows_the_stream_not_the_place():
    order = np.random.default_rng(1).permutation(len(STREAM))
    assert np.array_equal(validation_mask(STREAM[order], 0.1), validation_mask(STREAM, 0.1)[order])


def test_appending_moves_no_trace():
    assert np.array_equal(validation_mask(STREAM[:500], 0.1), validation_mask(STREAM, 0.1)[:500])


def test_subsets_divide_the_good_traces():
    status = (STREAM % 5 == 0).astype(np.uint8) * 2
    train, validation, everything = (
        select_traces(status, STREAM, part, 0.2) for part in ("train", "validation", "all")
    )
    assert not (train & validation).any()
    assert np.array_equal(train | validation, everything)
    assert np.array_equal(everything, status == 0)
    assert validation.any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(InvalidInputError, match="validation_fraction"):
        validation_mask(STREAM, fraction)


def test_unknown_subset_is_refused():
    with pytest.raises(InvalidInputError, match="train, validation, all; got 'test'"):
        select_traces(np.zeros(3, np.uint8), STREAM[:3], "test", 0.1)  # type: ignore[arg-type]
