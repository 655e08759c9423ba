"""A value that is certain, alone and one a row."""

import math

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions.point_mass import PointMass
from tracestore.traces.distributions.row_draws import Rows


def test_draws_are_the_value_and_use_no_random_numbers() -> None:
    rng = np.random.default_rng(1)
    assert PointMass(3.0).sample(rng) == 3.0
    np.testing.assert_array_equal(PointMass([[1.0, 2.0]], 0.1).sample(rng), [[1.0, 2.0]])
    assert rng.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize(
    ("value", "score"), [([1.0, 2.0], 0.0), ([1.05, 1.95], 0.0), ([1.2, 2.0], -math.inf), ([math.nan, 2.0], -math.inf)]
)
def test_the_score_is_zero_within_the_tolerance(value: list[float], score: float) -> None:
    assert PointMass([1.0, 2.0], 0.1).log_prob(value) == score


def test_without_tolerance_the_value_alone_counts() -> None:
    assert PointMass(1.0).log_prob(math.nextafter(1.0, 2.0)) == -math.inf


def test_moments_and_support() -> None:
    certain = PointMass([1.0, 4.0], 0.5)
    assert certain.support == (0.5, 4.5)
    np.testing.assert_array_equal(certain.mean, [1.0, 4.0])
    np.testing.assert_array_equal(certain.variance, [0.0, 0.0])


def test_each_row_of_a_batch_has_a_value_of_its_own() -> None:
    rows = Rows.of(PointMass(np.arange(6.0).reshape(2, 3), np.full((2, 1), 0.1)), 2)
    assert rows.first == PointMass([0.0, 1.0, 2.0], [0.1])
    np.testing.assert_array_equal(rows.sample(np.random.default_rng(1)), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    scores = rows.log_prob(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 6.0]]))
    np.testing.assert_array_equal(scores, [0.0, -math.inf])


@pytest.mark.parametrize(("location", "tolerance"), [(math.inf, 0.0), (1.0, -1.0)])
def test_parameters_are_checked(location: float, tolerance: float) -> None:
    with pytest.raises(InvalidInputError, match="of PointMass must be"):
        PointMass(location, tolerance)
