"""Coverage by random points: right posteriors pass; wrong ones, also those that ignore the data, do not."""

import numpy as np
import pytest

from tracestore.diagnostics.calibration import uniformity_pvalue
from tracestore.diagnostics.tarp import reference_points, scales_of, tarp_pit
from tracestore.errors import InvalidInputError

NUM_TRIALS = 400
SCALES = np.array([1.0, 1000.0])


def trials(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two parameters of very different units, each seen with noise as large as its prior."""
    truths = rng.normal(size=(NUM_TRIALS, 2)) * SCALES
    return truths, truths + rng.normal(size=(NUM_TRIALS, 2)) * SCALES


def pvalue(rng: np.random.Generator, *, width: float = 1.0, uses_data: bool = True, depends: bool = True) -> float:
    """Of posteriors of a width of their own; the exact one has mean x/2 and variance 1/2."""
    truths, seen = trials(rng)
    points = reference_points(seen, truths, rng) if depends else rng.permutation(truths)
    scales = scales_of(truths)
    pit = []
    for truth, x, point in zip(truths, seen, points, strict=True):
        noise = rng.normal(size=(200, 2)) * SCALES
        draws = x / 2.0 + width * np.sqrt(0.5) * noise if uses_data else noise
        pit.append(tarp_pit(draws, truth, point, scales, rng))
    return uniformity_pvalue(pit)


def test_exact_posteriors_pass() -> None:
    assert pvalue(np.random.default_rng(1)) > 0.01


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_posteriors_of_a_wrong_width_are_found(width: float) -> None:
    assert pvalue(np.random.default_rng(2), width=width) < 1e-4


def test_posteriors_that_ignore_the_data_are_found_by_points_that_depend_on_it_alone() -> None:
    assert pvalue(np.random.default_rng(3), uses_data=False) < 1e-6
    assert pvalue(np.random.default_rng(3), uses_data=False, depends=False) > 0.01


def test_distances_do_not_depend_on_units() -> None:
    draws = np.random.default_rng(4).normal(size=(50, 2))
    truth, point = np.array([0.5, -0.5]), np.array([0.1, 0.2])
    plain = tarp_pit(draws, truth, point, [1.0, 1.0], np.random.default_rng(0))
    scaled = tarp_pit(draws * SCALES, truth * SCALES, point * SCALES, SCALES, np.random.default_rng(0))
    assert plain == scaled


def test_the_truth_of_a_trial_does_not_move_its_own_point() -> None:
    rng = np.random.default_rng(5)
    truths, seen = trials(rng)
    before = reference_points(seen, truths, np.random.default_rng(0))
    changed = truths.copy()
    changed[7] = truths[7] + 0.5 * SCALES
    after = reference_points(seen, changed, np.random.default_rng(0))
    # the random part scales with the spread of all truths, which the change moves a little
    np.testing.assert_allclose(after[7] / SCALES, before[7] / SCALES, atol=0.01)


def test_nor_where_there_are_more_features_than_trials() -> None:
    rng = np.random.default_rng(9)
    truths, seen = rng.normal(size=(50, 1)), rng.normal(size=(50, 300))
    before = reference_points(seen, truths, np.random.default_rng(0))
    changed = truths.copy()
    changed[7] += 2.0
    assert abs(reference_points(seen, changed, np.random.default_rng(0)) - before)[7] < 0.1


def test_points_predict_the_truth_where_the_data_tell_it() -> None:
    rng = np.random.default_rng(6)
    truths, seen = trials(rng)
    points = reference_points(seen, truths, rng)
    assert (np.corrcoef(points.T, truths.T).diagonal(offset=2) > 0.5).all()


def test_constant_features_are_harmless() -> None:
    rng = np.random.default_rng(7)
    truths, seen = trials(rng)
    assert np.isfinite(reference_points(np.column_stack([seen, np.ones(NUM_TRIALS)]), truths, rng)).all()


@pytest.mark.parametrize("shapes", [((5, 1), (4, 1)), ((2, 1), (2, 1)), ((5,), (5, 1))])
def test_refuses_shapes_that_do_not_fit(shapes) -> None:
    with pytest.raises(InvalidInputError, match="one row"):
        reference_points(np.zeros(shapes[0]), np.zeros(shapes[1]), np.random.default_rng(8))
