"""Diagnostics against a second implementation (arviz_stats' numpy layer), exact values and known-bad draws."""

import math
from typing import Literal

import numpy as np
import pytest
from arviz_stats.base import array_stats  # type: ignore[attr-defined]  # exported all the same

from tracestore.diagnostics.chains import (
    autocorrelation,
    ess,
    is_constant,
    mcse,
    rhat,
    rhat_nested,
)
from tracestore.errors import DiagnosticError, InvalidInputError


def independent(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, 1000))


def autoregressive(rng: np.random.Generator) -> np.ndarray:
    chains = np.empty((4, 1501))
    chains[:, 0] = rng.normal(size=4)
    for step in range(1, chains.shape[1]):
        chains[:, step] = 0.9 * chains[:, step - 1] + rng.normal(size=4)
    return chains


def antithetic(rng: np.random.Generator) -> np.ndarray:
    chains = np.empty((2, 800))
    chains[:, 0] = rng.normal(size=2)
    for step in range(1, chains.shape[1]):
        chains[:, step] = -0.6 * chains[:, step - 1] + rng.normal(size=2)
    return chains


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_cauchy(size=(4, 500))


def counts(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(2.0, size=(3, 400)).astype(float)


def shifted(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, 300)) + np.arange(4)[:, None]


SHAPES = [independent, autoregressive, antithetic, heavy_tailed, counts, shifted]


@pytest.fixture(params=SHAPES, ids=lambda make: make.__name__)
def draws(request: pytest.FixtureRequest) -> np.ndarray:
    return request.param(np.random.default_rng(20))


class TestAgainstArviz:
    def test_rhat(self, draws: np.ndarray) -> None:
        assert rhat(draws) == pytest.approx(array_stats.rhat(draws), rel=1e-10)

    @pytest.mark.parametrize("method", ["bulk", "mean", "sd"])
    def test_ess(self, draws: np.ndarray, method: Literal["bulk", "mean", "sd"]) -> None:
        assert ess(draws, method=method) == pytest.approx(array_stats.ess(draws, method=method), rel=1e-8)

    def test_tail_ess(self, draws: np.ndarray) -> None:
        expected = array_stats.ess(draws, method="tail", prob=(0.05, 0.95))
        assert ess(draws, method="tail") == pytest.approx(expected, rel=1e-8)

    def test_mcse_of_the_mean(self, draws: np.ndarray) -> None:
        assert mcse(draws) == pytest.approx(array_stats.mcse(draws, method="mean"), rel=1e-8)

    @pytest.mark.parametrize("probability", [0.05, 0.5, 0.9])
    def test_quantile(self, draws: np.ndarray, probability: float) -> None:
        size = ess(draws, method="quantile", probability=probability)
        assert size == pytest.approx(array_stats.ess(draws, method="quantile", prob=probability), rel=1e-8)
        error = mcse(draws, method="quantile", probability=probability)
        assert error == pytest.approx(array_stats.mcse(draws, method="quantile", prob=probability), rel=1e-8)

    @pytest.mark.parametrize("num_superchains", [2, 4, 16])
    def test_nested_rhat(self, num_superchains: int) -> None:
        rng = np.random.default_rng(num_superchains)
        chains = rng.normal(size=(16, 12)) + 0.3 * rng.normal(size=(16, 1))
        superchains = np.repeat(np.arange(num_superchains), 16 // num_superchains)
        assert rhat_nested(chains, superchains) == pytest.approx(
            array_stats.rhat_nested(chains, superchains), rel=1e-10
        )

    def test_autocorrelation(self, draws: np.ndarray) -> None:
        np.testing.assert_allclose(autocorrelation(draws), array_stats.autocorr(draws, axis=-1), atol=1e-10)

    @pytest.mark.parametrize("length", [4, 5, 6, 7, 9, 16])
    def test_short_chains(self, length: int) -> None:
        chains = np.random.default_rng(length).normal(size=(2, length))
        assert ess(chains, method="mean") == pytest.approx(array_stats.ess(chains, method="mean"), rel=1e-8)
        assert rhat(chains) == pytest.approx(array_stats.rhat(chains), rel=1e-10)


class TestKnownBad:
    def test_a_chain_elsewhere_raises_rhat(self) -> None:
        chains = independent(np.random.default_rng(1))
        chains[3] += 2.0
        assert rhat(chains) > 1.2

    def test_a_chain_with_another_spread_raises_rhat_through_the_folded_draws(self) -> None:
        chains = independent(np.random.default_rng(1))
        chains[3] *= 5.0
        assert rhat(chains) > 1.05

    def test_a_drifting_chain_raises_rhat_through_the_split(self) -> None:
        chains = independent(np.random.default_rng(1)) + np.linspace(0, 3, 1000)
        assert rhat(chains) > 1.2

    def test_chains_stuck_in_different_places(self) -> None:
        stuck = np.repeat([[1.0], [2.0]], 100, axis=1)
        assert rhat(stuck) == math.inf
        assert ess(stuck) < 10

    def test_a_slow_chain_has_a_small_ess(self) -> None:
        steps = np.random.default_rng(3).normal(size=(4, 1000))
        assert ess(steps.cumsum(axis=1)) < 40

    def test_standard_error_of_the_sd_covers_the_truth(self) -> None:
        rng = np.random.default_rng(4)
        chains = rng.normal(size=(4, 5000))
        assert mcse(chains, method="sd") == pytest.approx(1 / math.sqrt(2 * 20_000), rel=0.15)


class TestNested:
    def test_many_chains_too_short_for_rhat_pass(self) -> None:
        chains = np.random.default_rng(5).normal(size=(256, 4))
        assert rhat_nested(chains, np.repeat(np.arange(4), 64)) < 1.05

    def test_superchains_elsewhere_are_found(self) -> None:
        chains = np.random.default_rng(6).normal(size=(64, 8)) + np.repeat(np.arange(4), 16)[:, None]
        assert rhat_nested(chains, np.repeat(np.arange(4), 16)) > 1.2

    def test_any_numbers_name_superchains(self) -> None:
        chains = np.random.default_rng(7).normal(size=(8, 20))
        assert rhat_nested(chains, [9, 9, 9, 9, 2, 2, 2, 2]) == rhat_nested(chains, [0, 0, 0, 0, 1, 1, 1, 1])

    def test_stuck_and_constant(self) -> None:
        assert rhat_nested(np.repeat([[1.0], [2.0]], 10, axis=1), [0, 1]) == math.inf
        assert math.isnan(rhat_nested(np.ones((4, 10)), [0, 0, 1, 1]))

    @pytest.mark.parametrize("superchains", [[0, 0, 0, 0], [0, 0, 0, 1]])
    def test_refuses_superchains_that_cannot_be_compared(self, superchains) -> None:
        with pytest.raises(DiagnosticError, match="equally many chains"):
            rhat_nested(np.random.default_rng(8).normal(size=(4, 10)), superchains)

    def test_refuses_too_few_numbers(self) -> None:
        with pytest.raises(InvalidInputError, match="found 2 for 4"):
            rhat_nested(np.zeros((4, 10)), [0, 1])


class TestConstant:
    @pytest.mark.parametrize("value", [0.0, 3.5, 1e300])
    def test_constant_draws_are_told_apart(self, value: float) -> None:
        chains = np.full((4, 100), value)
        assert is_constant(chains)
        assert math.isnan(rhat(chains))
        assert math.isnan(ess(chains))
        assert mcse(chains) == 0.0
        assert (autocorrelation(chains) == 1.0).all()

    def test_a_single_different_draw_is_not_constant(self) -> None:
        chains = np.zeros((2, 50))
        chains[0, 3] = 1e-12
        assert not is_constant(chains)
        assert math.isfinite(rhat(chains))

    def test_two_equal_halves_have_no_tail(self) -> None:
        chains = np.tile([0.0, 1.0], (2, 50))
        assert math.isfinite(rhat(chains))
        assert mcse(chains, method="sd") == 0.0


class TestRefusals:
    def test_one_chain_has_no_rhat(self) -> None:
        with pytest.raises(DiagnosticError, match="found 1"):
            rhat(np.zeros(100))

    def test_too_few_draws(self) -> None:
        with pytest.raises(DiagnosticError, match=r"\(2, 3\)"):
            ess(np.zeros((2, 3)))

    def test_infinite_draws(self) -> None:
        with pytest.raises(InvalidInputError, match="found 1 that"):
            rhat([[1.0, 2.0, 3.0, np.inf], [1.0, 2.0, 3.0, 4.0]])

    def test_unknown_method(self) -> None:
        with pytest.raises(InvalidInputError, match="'median'"):
            ess(np.arange(10.0), method="median")  # type: ignore[arg-type]  # the mistake under test

    @pytest.mark.parametrize("function", [ess, mcse])
    @pytest.mark.parametrize(("method", "probability"), [("quantile", None), ("mean", 0.5), ("quantile", 1.5)])
    def test_probability_that_does_not_fit(self, function, method, probability) -> None:
        with pytest.raises(InvalidInputError, match="belongs to the method 'quantile'"):
            function(np.arange(10.0), method=method, probability=probability)
