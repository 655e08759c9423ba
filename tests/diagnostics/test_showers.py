"""Observables of showers against cases that can be counted by hand."""

import math

import numpy as np
import pytest

from tracestore.diagnostics.showers import (
    join_summaries,
    shower_features,
    summarize_showers,
)
from tracestore.errors import InvalidInputError

RNG = np.random.default_rng(1)
SHOWERS = RNG.exponential(size=(7, 3, 4, 5)).astype(np.float32) * (RNG.random((7, 3, 4, 5)) < 0.4)


def test_profiles_sum_over_the_two_other_axes() -> None:
    summary = summarize_showers(SHOWERS)
    for axis, profile in enumerate(summary.profiles):
        others = tuple({1, 2, 3} - {axis + 1})
        np.testing.assert_allclose(profile, SHOWERS.astype(np.float64).sum(axis=others))
    np.testing.assert_allclose(summary.total, SHOWERS.sum(axis=(1, 2, 3), dtype=np.float64))


def test_hits_are_cells_above_each_threshold() -> None:
    cells = np.array([0.0, 0.5, 1.0, 2.0]).reshape(1, 1, 1, 4)
    assert summarize_showers(cells, thresholds=(0.0, 0.5, 2.0)).hits.tolist() == [[3, 2, 0]]


def test_moments_are_those_of_the_cells() -> None:
    summary = summarize_showers(SHOWERS)
    weights = SHOWERS[2].astype(np.float64) / SHOWERS[2].sum(dtype=np.float64)
    for axis, places in enumerate(np.indices((3, 4, 5))):
        mean = (weights * places).sum()
        assert summary.centers[2, axis] == pytest.approx(mean)
        assert summary.widths[2, axis] == pytest.approx(math.sqrt((weights * (places - mean) ** 2).sum()))


def test_a_shower_without_energy_sits_in_the_middle() -> None:
    summary = summarize_showers(np.zeros((1, 3, 4, 5)))
    assert summary.centers.tolist() == [[1.0, 1.5, 2.0]]
    assert summary.widths.tolist() == [[0.0, 0.0, 0.0]]
    assert np.isfinite(shower_features(summary, [10.0]).values).all()


def test_parts_joined_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = summarize_showers(SHOWERS)
    joined = join_summaries([summarize_showers(SHOWERS[:3]), summarize_showers(SHOWERS[3:])])
    monkeypatch.setattr("tracestore.diagnostics.showers._BLOCK_CELLS", 130)
    blocks = summarize_showers(SHOWERS)
    for other in (joined, blocks):
        np.testing.assert_array_equal(other.profiles[1], whole.profiles[1])
        np.testing.assert_array_equal(other.hits, whole.hits)


def test_some_showers_can_be_selected() -> None:
    summary = summarize_showers(SHOWERS)
    np.testing.assert_array_equal(summary.select(summary.total > 20.0).total, summary.total[summary.total > 20.0])


def test_features_have_names_and_the_values_of_the_summary() -> None:
    summary = summarize_showers(SHOWERS, thresholds=(0.0, 0.5))
    energies = np.arange(1.0, 8.0)
    table = shower_features(summary, energies, angles=np.full(7, 80.0))
    column = dict(zip(table.names, table.values.T, strict=True))
    np.testing.assert_allclose(column["response"], summary.total / energies)
    np.testing.assert_allclose(column["log_hits_above_0.5"], np.log(summary.hits[:, 1]))
    np.testing.assert_allclose(column["width_depth"], summary.widths[:, 2])
    np.testing.assert_allclose(column["first_third"] * summary.total, summary.profiles[2][:, :2].sum(axis=1))
    assert (column["angle"] == 80.0).all()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: summarize_showers(np.ones((2, 3, 4))), "N, x, y, depth"),
        (lambda: summarize_showers(np.ones((0, 3, 4, 5))), "N of 1 or more"),
        (lambda: summarize_showers(np.full((2, 1, 1, 1), np.nan)), "shower 0"),
        (lambda: summarize_showers(SHOWERS, thresholds=()), "`thresholds`"),
        (lambda: join_summaries([]), "got 0 kinds"),
        (
            lambda: join_summaries([summarize_showers(SHOWERS), summarize_showers(SHOWERS, thresholds=(1.0,))]),
            "2 kinds",
        ),
        (lambda: shower_features(summarize_showers(SHOWERS), np.zeros(7)), "must be positive"),
        (lambda: shower_features(summarize_showers(SHOWERS), np.ones(6)), "each of 7 showers"),
    ],
)
def test_what_cannot_be_is_refused(call, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        call()
