"""Chi-square and classifier between two sets: exact values, calibration where nothing differs, power where it does."""

import math

import numpy as np
import pytest

from tracestore.diagnostics.two_samples import ChiSquare, area_under_curve, chi_square, classifier_area
from tracestore.errors import InvalidInputError


def normals(seed: int, number: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, width))


def test_chi_square_of_one_number_is_the_squared_difference_over_its_variance() -> None:
    one, other = np.array([[1.0], [2.0], [3.0]]), np.array([[5.0], [7.0]])
    found = chi_square(one, other)
    assert found.value == pytest.approx(16.0 / (1.0 / 3.0 + 2.0 / 2.0))
    assert found.degrees == 1


def test_chi_square_does_not_depend_on_units_or_mixtures() -> None:
    mixture = normals(3, 4, 4) * [1.0, 1e6, 1e-6, 1.0]
    plain = chi_square(normals(1, 90, 4), normals(2, 80, 4))
    mixed = chi_square(normals(1, 90, 4) @ mixture, normals(2, 80, 4) @ mixture)
    assert mixed.degrees == plain.degrees == 4
    assert mixed.value == pytest.approx(plain.value, rel=1e-6)


def test_a_number_that_follows_from_others_is_not_counted_twice() -> None:
    one, other = normals(1, 90, 3), normals(2, 80, 3)
    doubled = chi_square(
        np.hstack([one, one.sum(axis=1, keepdims=True)]), np.hstack([other, other.sum(axis=1, keepdims=True)])
    )
    assert doubled.degrees == 3
    assert doubled.value == pytest.approx(chi_square(one, other).value, rel=1e-6)


@pytest.mark.statistical
def test_chi_square_of_equal_distributions_has_its_mean_and_spread() -> None:
    found = [chi_square(normals(seed, 300, 5), normals(seed + 10_000, 250, 5)) for seed in range(300)]
    assert np.mean([one.reduced for one in found]) == pytest.approx(1.0, abs=0.12)
    assert np.mean([one.deviations for one in found]) == pytest.approx(0.0, abs=0.25)
    assert np.std([one.deviations for one in found]) == pytest.approx(1.0, abs=0.2)


def test_chi_square_finds_a_shift() -> None:
    shift = np.array([0.0, 0.0, 0.5, 0.0, 0.0])
    assert chi_square(normals(1, 400, 5), normals(2, 400, 5) + shift).deviations > 5.0


def test_constant_numbers_that_differ_are_infinitely_far_apart() -> None:
    one, other = normals(1, 30, 2), normals(2, 30, 2)
    one[:, 0], other[:, 0] = 1.0, 1.0
    assert math.isfinite(chi_square(one, other).value)
    other[:, 0] = 2.0
    assert chi_square(one, other).value == math.inf


def test_nothing_that_varies_is_no_test() -> None:
    same = chi_square(np.ones((3, 2)), np.ones((4, 2)))
    assert same == ChiSquare(0.0, 0)
    assert math.isnan(same.reduced)
    assert math.isnan(same.deviations)


def test_the_area_counts_ordered_pairs() -> None:
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = np.subtract.outer(scores[positive], scores[~positive])
    assert area_under_curve(scores, positive) == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def test_a_weight_of_two_is_a_row_twice() -> None:
    scores, positive = [0.1, 0.5, 0.3, 0.9], [False, False, True, True]
    twice = area_under_curve([*scores, 0.3], [*positive, True])
    assert area_under_curve(scores, positive, [1.0, 1.0, 2.0, 1.0]) == pytest.approx(twice)


@pytest.mark.statistical
def test_sets_that_are_alike_are_not_told_apart() -> None:
    areas = [classifier_area(normals(seed, 300, 4), normals(seed + 99, 300, 4), seed=1).value for seed in range(8)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)


@pytest.mark.statistical
def test_a_shift_gives_the_area_of_two_normals() -> None:
    area = classifier_area(normals(1, 1500, 1), normals(2, 1500, 1) + 1.0, seed=1)
    exact = 0.5 * math.erfc(-1.0 / 2.0)  # the difference of two such numbers has sd sqrt(2)
    assert area.value == pytest.approx(exact, abs=0.02)
    assert area.lower < area.value < area.upper


@pytest.mark.statistical
def test_only_hidden_units_see_a_correlation() -> None:
    one, other = normals(1, 1000, 2), normals(2, 1000, 2)
    other[:, 1] = 0.8 * other[:, 0] + 0.6 * other[:, 1]
    assert classifier_area(one, other, seed=1, num_hidden=0).upper < 0.56
    assert classifier_area(one, other, seed=1).lower > 0.7


def test_scales_of_features_do_not_matter() -> None:
    one, other = normals(1, 60, 3), normals(2, 60, 3) + 0.5
    scale, shift = np.array([1e-3, 1.0, 1e5]), np.array([0.0, 7.0, -1e4])
    plain, scaled = (
        classifier_area(one, other, seed=1),
        classifier_area(one * scale + shift, other * scale + shift, seed=1),
    )
    assert scaled.value == pytest.approx(plain.value, abs=0.01)


def test_a_feature_that_does_not_vary_is_ignored() -> None:
    one, other = normals(1, 60, 2), normals(2, 60, 2)
    one[:, 1] = other[:, 1] = 1e6
    assert 0.3 < classifier_area(one, other, seed=1).value < 0.7


def test_the_area_is_a_function_of_the_seed() -> None:
    sets = normals(1, 60, 3), normals(2, 50, 3)
    assert classifier_area(*sets, seed=4) == classifier_area(*sets, seed=4) != classifier_area(*sets, seed=5)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: chi_square(np.ones((3, 2)), np.ones((3, 3))), "rows of one length"),
        (lambda: chi_square(np.ones((1, 2)), np.ones((3, 2))), "2 rows or more"),
        (lambda: chi_square(np.full((3, 2), math.nan), np.ones((3, 2))), "must be finite"),
        (lambda: area_under_curve([1.0, 2.0], [True, True]), "both kinds"),
        (lambda: area_under_curve([1.0, math.nan], [True, False]), "scores finite"),
        (lambda: classifier_area(np.ones((9, 2)), np.ones((10, 2)), seed=1), "10 rows or more"),
        (lambda: classifier_area(np.ones((20, 2)), np.ones((20, 2)), seed=1, num_folds=1), "2 folds"),
    ],
)
def test_what_cannot_be_is_refused(call, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        call()
