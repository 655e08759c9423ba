"""Which head serves a site."""

import numpy as np
import pytest

pytest.importorskip("torch")

import tracestore as ts
from tests.networks.proposal_cases import CASES, SMALL, SPLINE, case_id, head_of, site_of
from tracestore.errors import CheckpointMismatchError
from tracestore.networks.config import NetworkConfig
from tracestore.networks.heads import LARGEST_VECTOR, head_key, make_head
from tracestore.traces import Site, SiteKind

KEYS = [
    (ts.Normal(0.0, 1.0), "Normal", "Normal_spline"),
    (ts.Normal([0.0, 1.0], 1.0), "Normal_2", "Normal_spline_2"),
    (ts.Normal(np.zeros((2, 3)), 1.0), "Normal_6", "Normal_spline_6"),
    (ts.MultivariateNormal([0.0, 1.0], np.eye(2)), "MultivariateNormal_2", "MultivariateNormal_2"),
    (ts.Uniform(0.0, 1.0), "Uniform", "Uniform_spline"),
    (ts.Uniform([0.0, 1.0], 2.0), "Uniform_2", "Uniform_spline_2"),
    (ts.Categorical([0.5, 0.25, 0.25]), "Categorical_4", "Categorical_4"),
    (ts.Categorical(np.ones(9)), "Categorical_16", "Categorical_16"),
    (ts.Poisson([1.0, 2.0]), "Poisson_2", "Poisson_2"),
    (ts.VonMises(0.0, 1.0), "VonMises", "VonMises"),
    (ts.PiecewiseUniform([0, 1, 2], [1, 1]), "PiecewiseUniform(2)_spline", "PiecewiseUniform(2)_spline"),
    (ts.Mixture([ts.Normal(0, 1), ts.Uniform(0, 1)], [1, 1]),) + ("Mixture(Normal,Uniform)_spline",) * 2,
]


@pytest.mark.parametrize(("prior", "mixture", "spline"), KEYS)
def test_the_key_follows_from_the_prior_and_the_configuration(prior, mixture, spline):
    assert head_key(site_of(prior), SMALL) == mixture
    assert head_key(site_of(prior), SPLINE) == spline


@pytest.mark.parametrize(
    ("uniform_proposal", "named", "unnamed"),
    [
        ("auto", "Uniform", "Uniform_binned"),
        ("binned", "Uniform_binned", "Uniform_binned"),
        ("truncated_normal", "Uniform", "Uniform"),
        ("spline", "Uniform_spline", "Uniform_spline"),
    ],
)
def test_uniform_priors_have_a_choice_of_their_own(uniform_proposal, named, unnamed):
    config = NetworkConfig(uniform_proposal=uniform_proposal)
    assert head_key(site_of(ts.Uniform(0.0, 1.0), name="px"), config) == named
    assert head_key(site_of(ts.Uniform(0.0, 1.0), name=""), config) == unnamed


@pytest.mark.parametrize(
    "prior",
    [
        ts.Normal(np.empty(0), 1.0),
        ts.Normal(np.zeros(LARGEST_VECTOR + 1), 1.0),
        ts.Mixture([ts.Normal([0.0, 1.0], 1.0), ts.Uniform([0.0, 0.0], 1.0)], [0.5, 0.5]),
        ts.Mixture([ts.VonMises(0.0, 1.0), ts.Uniform(0.0, 1.0)], [0.5, 0.5]),
    ],
    ids=["empty", "long", "vector_mixture", "mixture_with_von_mises"],
)
def test_what_cannot_be_served_uses_the_prior(prior):
    assert head_key(site_of(prior), SMALL) is None
    assert head_key(site_of(prior), SPLINE) is None


@pytest.mark.parametrize(
    ("family", "num_parameters"),
    [
        ("Normal", 3),
        ("Cauchy", 2),
        ("Mixture(Cauchy,Normal)", 6),
        ("Mixture(Normal", 2),
        ("PiecewiseUniform", 4),
        ("", 0),
    ],
)
def test_a_prior_that_is_not_understood_is_left_alone(family, num_parameters):
    site = Site("here~x#1", SiteKind.SAMPLE, True, "x", family, (), num_parameters)
    assert head_key(site, SMALL) is None


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_key_makes_its_head_again(case):
    head = head_of(case.prior, case.config)
    key = head_key(site_of(case.prior), case.config)
    assert key is not None
    again = make_head(key, case.config)
    assert type(again.form) is type(head.form)
    assert again.form.output_bias.equal(head.form.output_bias)


@pytest.mark.parametrize(
    "key",
    [
        "Spline",
        "Normal_binned",
        "Cauchy_spline",
        "Normal_0",
        "Normal_spline_x",
        "Uniform_binned_2_3",
        "Categorical",
        "",
    ],
)
def test_a_head_of_another_release_is_refused(key):
    with pytest.raises(CheckpointMismatchError, match=f"{key!r} that this release does not know"):
        make_head(key, SMALL)
