"""Distributions of a user's own in batches."""

import math

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.traces.distributions import Normal
from tracestore.traces.distributions.row_draws import Rows, is_vectorized
from tracestore.traces.distributions.rowwise import RowwiseDistribution


class Pairs(RowwiseDistribution):
    """Two normal numbers with a mean of their own in each row."""

    family = "Pairs"
    is_discrete = False
    support = (-math.inf, math.inf)

    def __init__(self, means):
        self.means = np.asarray(means, np.float64)

    @property
    def shape(self):
        return (len(self.means), 2)

    @property
    def mean(self):
        return np.stack([self.means, self.means], 1)

    @property
    def variance(self):
        return np.ones(self.shape)

    def sample(self, rng):
        return self.sample_rows(len(self.means), rng)

    def log_prob(self, value):
        return float(self.log_prob_rows(np.asarray(value)).sum())

    def parameters(self):
        return self.means

    def arguments(self):
        return {"means": self.means}

    def first_row(self):
        return Normal([self.means[0]] * 2, 1.0)

    def parameter_rows(self):
        return self.means[:, None]

    def sample_rows(self, num_rows, rng):
        return self.means[:, None] + rng.normal(size=(num_rows, 2))

    def log_prob_rows(self, values):
        return -0.5 * ((values - self.means[:, None]) ** 2).sum(1) - math.log(2.0 * math.pi)


def test_rows_use_what_the_distribution_offers():
    rows = Rows.of(Pairs([0.0, 5.0]), 2)
    assert rows.shape == (2,)
    assert rows.first == Normal([0.0, 0.0], 1.0)
    assert [part.tolist() for part in rows.parameters()] == [[[0.0], [5.0]]]
    assert rows.log_prob(np.array([[0.0, 0.0], [5.0, 6.0]])) == pytest.approx([-1.837877, -2.337877], abs=1e-6)


def test_draws_have_a_row_a_trace():
    drawn = Rows.of(Pairs([0.0, 100.0]), 2).sample(np.random.default_rng(1))
    assert drawn.shape == (2, 2)
    assert (drawn[0] < 50.0).all()
    assert (drawn[1] > 50.0).all()


def test_one_row_serves_all():
    assert Rows.of(Pairs([3.0]), 4).sample(np.random.default_rng(1)).shape == (4, 2)


def test_another_number_of_rows_is_refused():
    with pytest.raises(InvalidInputError, match="first axis of a prior is the trace axis"):
        Rows.of(Pairs([0.0, 1.0]), 3)


def test_it_counts_as_vectorized():
    assert is_vectorized(Pairs([0.0]))
