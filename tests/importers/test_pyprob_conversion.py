"""Traces of pyprob as batches: addresses, sites, observations, log probabilities. Records are made by hand."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracestore.importers.pyprob_conversion import PyprobConverter, to_place
from tracestore.importers.pyprob_priors import pyprob_suffix, read_prior
from tracestore.importers.pyprob_records import PyprobDistribution, PyprobTrace, PyprobVariable
from tracestore.traces import distributions as ts
from tracestore.traces.distributions import from_parameters
from tracestore.traces.layout import SiteKind
from tracestore.traces.rescore import disagreements


def dist(family, *components, **parameters):
    return PyprobDistribution(
        family, {name: np.asarray(value, np.float64) for name, value in parameters.items()}, components
    )


NORMAL = dist("Normal", loc=0.0, scale=2.0)
UNIFORM = dist("Uniform", low=-1.0, high=1.0)


def draw(address, value, distribution=NORMAL, **fields):
    return PyprobVariable(address, value=np.asarray(value, np.float32), distribution=distribution, **fields)


def rest(value, weight=None):
    """What pruning leaves of a named variable that is not controlled."""
    array = None if value is None else np.asarray(value, np.float32)
    return PyprobVariable(None, value=array, log_importance_weight=weight)


def pruned(*variables, named=None, **fields):
    return PyprobTrace(True, variables, tuple(range(len(variables))), named or {}, **fields)


def whole(*variables, **fields):
    """A trace that was not pruned."""
    controlled = tuple(place for place, one in enumerate(variables) if one.control)
    named = {one.name: one for one in variables if one.name is not None}
    return PyprobTrace(False, variables, controlled, named, **fields)


def convert(*traces, **options):
    converted = PyprobConverter(**options).convert(list(enumerate(traces)))
    if converted.batch is not None:
        assert disagreements(converted.batch) == []
    return converted


def sites(converted, row=0):
    batch = converted.batch
    return batch.layouts[batch.layout_index[row]].sites


def addresses(converted, row=0):
    return [site.address for site in sites(converted, row)]


FAMILIES = [
    (dist("Normal", loc=1.0, scale=2.0), (), ts.Normal(1.0, 2.0)),
    (dist("Normal", loc=np.zeros(3), scale=2.0), (3,), ts.Normal(np.zeros(3), 2.0)),
    (dist("Normal", loc=0.0, scale=2.0), (2, 2), ts.Normal(np.zeros((2, 2)), 2.0)),
    (dist("Uniform", low=-1.0, high=2.0), (), ts.Uniform(-1.0, 2.0)),
    (dist("Categorical", probs=[0.25, 0.75]), (), ts.Categorical([0.25, 0.75])),
    (dist("Categorical", probs=[[0.25, 0.75]]), (), ts.Categorical([0.25, 0.75])),
    (dist("Categorical", logits=[0.0, 0.0]), (), ts.Categorical([0.5, 0.5])),
    (dist("Poisson", rate=3.0), (), ts.Poisson(3.0)),
    (dist("Bernoulli", probs=0.25), (), ts.Bernoulli(0.25)),
    (dist("Bernoulli", logits=0.0), (), ts.Bernoulli(0.5)),
    (dist("Beta", concentration1=2.0, concentration0=3.0, low=-1.0, high=4.0), (), ts.Beta(2.0, 3.0, -1.0, 4.0)),
    (dist("Beta", concentration1=2.0, concentration0=3.0), (), ts.Beta(2.0, 3.0)),
    (dist("Exponential", rate=3.0), (), ts.Exponential(3.0)),
    (dist("Gamma", concentration=3.0, rate=2.0), (), ts.Gamma(3.0, 2.0)),
    (dist("LogNormal", loc=1.0, scale=2.0), (), ts.LogNormal(1.0, 2.0)),
    (dist("Binomial", total_count=5.0, probs=0.25), (), ts.Binomial(5, 0.25)),
    (dist("Weibull", scale=2.0, concentration=3.0), (), ts.Weibull(2.0, 3.0)),
    (dist("VonMises", loc=0.5, concentration=3.0), (), ts.VonMises(0.5, 3.0)),
    (
        dist("TruncatedNormal", mean_non_truncated=0.5, stddev_non_truncated=3.0, low=-1.0, high=2.0),
        (),
        ts.TruncatedNormal(0.5, 3.0, -1.0, 2.0),
    ),
    (
        dist("Mixture", NORMAL, dist("Mixture", UNIFORM, NORMAL, probs=[0.5, 0.5]), probs=[0.25, 0.75]),
        (),
        ts.Mixture([ts.Normal(0, 2), ts.Mixture([ts.Uniform(-1, 1), ts.Normal(0, 2)], [0.5, 0.5])], [0.25, 0.75]),
    ),
]


@pytest.mark.parametrize(("stored", "shape", "ours"), FAMILIES, ids=lambda case: getattr(case, "family", None))
def test_families_mean_the_same(stored, shape, ours):
    prior = read_prior(stored, shape)
    assert from_parameters(prior.structure, prior.numbers, prior.shape) == ours
    assert (prior.family, prior.suffix) == (ours.family, ours.suffix)


@pytest.mark.parametrize(
    ("stored", "shape", "reason"),
    [
        (dist("Cauchy", loc=0.0), (), "'Cauchy' has no counterpart"),
        (
            dist("Normal", loc=np.zeros(3), scale=1.0),
            (),
            r"of shapes \(3,\), \(\) do not belong to a draw of shape \(\)",
        ),
        (dist("Normal", loc=np.zeros(3), scale=1.0), (4,), r"draw of shape \(4,\)"),
        (dist("Normal", loc=0.0), (), "without its scale"),
        (dist("Categorical", probs=np.ones((2, 3))), (), r"probabilities of shape \(2, 3\)"),
        (dist("Categorical", probs=np.ones(3)), (2,), "draws of shape"),
        (dist("Mixture", NORMAL, probs=[0.5, 0.5]), (), "1 components has 2 weights"),
    ],
    ids=["family", "wide", "unlike", "missing", "batch", "vector", "weights"],
)
def test_what_has_no_counterpart_refuses_the_trace(stored, shape, reason):
    good = draw("x__Normal__1", 0.5)
    bad = draw("x__y__1", np.zeros(shape), stored)
    converted = convert(pruned(good), pruned(bad), pruned(good))
    [(stream, said)] = converted.refused
    assert stream == 1
    assert re.search(reason, said)
    assert converted.batch.stream.tolist() == [0, 2]


def test_parameters_that_make_no_distribution_refuse_the_trace():
    negative = dist("Normal", loc=0.0, scale=-1.0)
    good, bad = draw("x__Normal__1", 0.5), draw("x__Normal__1", 0.5, negative, log_prob=-1.0)
    converted = convert(pruned(good), pruned(bad))
    assert converted.differences == ()
    assert converted.refused == ((1, "The parameters stored at 'x~Normal#1' make no distribution."),)
    assert converted.batch.stream.tolist() == [0]


def test_when_all_are_refused_there_is_no_batch():
    bad = draw("x__Normal__1", 0.5, dist("Normal", loc=0.0, scale=-1.0))
    assert convert(pruned(bad)).batch is None


def test_no_traces_make_no_batch():
    assert convert().batch is None


def test_controlled_draws_keep_place_and_instance():
    trace = pruned(
        draw("16__forward__x__Normal__1", 0.5),
        draw("16__forward__x__Normal__2", 0.5),
        draw("[f()+0x2; g()+0x3]__Categorical(len_probs:2)__1", 1, dist("Categorical", probs=[0.5, 0.5])),
        draw("30__m__Normal__1", [0.0, 1.0]),
    )
    assert addresses(convert(trace)) == [
        "16__forward__x~Normal#1",
        "16__forward__x~Normal#2",
        "[f()+0x2; g()+0x3]~Categorical(2)#1",
        "30__m~Normal[2]#1",
    ]


def test_values_and_log_probs_are_those_of_the_stored_numbers():
    converted = convert(pruned(draw("x__Normal__1", 0.1), draw("u__Uniform__1", 0.3, UNIFORM)))
    expected = [ts.Normal(0.0, 2.0).log_prob(float(np.float32(0.1))), ts.Uniform(-1.0, 1.0).log_prob(0.3)]
    assert converted.batch.values.tolist() == [float(np.float32(0.1)), float(np.float32(0.3))]
    assert converted.batch.log_probs.tolist() == expected
    assert converted.batch.log_prior[0] == pytest.approx(sum(expected), rel=1e-15)


def test_a_controlled_variable_gets_its_name():
    mu = draw("x__Normal__1", 0.5)
    assert [site.name for site in sites(convert(pruned(mu, named={"mu": mu})))] == ["mu"]


def test_arrays_of_one_are_numbers():
    trace = pruned(draw("x__Normal__1", [0.5], dist("Normal", loc=[0.0], scale=[1.0])), named={"y": rest([2.0], -1.0)})
    converted = convert(trace)
    assert [site.shape for site in sites(converted)] == [(), ()]
    assert converted.batch.observations["y"].shape == (1,)


def test_a_weight_makes_an_observation_of_known_likelihood_and_no_family():
    converted = convert(pruned(draw("x__Normal__1", 0.5), named={"y": rest([1.0, 2.0], -3.5)}), shapes={"y": (2,)})
    site = sites(converted)[1]
    assert (site.address, site.kind, site.family, site.num_parameters) == ("y~Observed[2]#1", SiteKind.OBSERVE, "", 0)
    assert converted.batch.observations["y"].tolist() == [[1.0, 2.0]]
    assert converted.batch.observations["y"].dtype == np.float32
    assert converted.batch.log_likelihood.tolist() == [-3.5]


def test_without_a_weight_it_is_a_tag():
    converted = convert(pruned(draw("x__Normal__1", 0.5), named={"t": rest(7.0), "y": rest(1.0, -3.5)}))
    assert addresses(converted)[1:] == ["t~Tag#1", "y~Observed#1"]
    assert converted.batch.named("t")[0].tolist() == [7.0]
    assert list(converted.batch.observations) == ["y"]


def test_an_observation_by_the_callers_word_has_an_unknown_likelihood():
    converted = convert(pruned(draw("x__Normal__1", 0.5), named={"y": rest(1.0)}), observations=["y"])
    assert list(converted.batch.observations) == ["y"]
    assert np.isnan(converted.batch.log_likelihood[0])
    assert np.isfinite(converted.batch.log_prior[0])


def test_a_tag_by_the_callers_word_leaves_the_likelihood_whole():
    trace = pruned(named={"y": rest(1.0, -3.5), "t": rest(2.0, -1.0)}, log_importance_weight=-4.5, length=2)
    converted = convert(trace, tags=["t"])
    assert addresses(converted) == ["y~Observed#1", "t~Tag#1", "pruned~Factor#1"]
    assert converted.batch.log_likelihood.tolist() == [-4.5]


def test_dropped_observes_keep_their_part_of_the_likelihood():
    trace = pruned(draw("x__Normal__1", 0.5), named={"y": rest(1.0, -3.5)}, log_importance_weight=-5.75, length=3)
    converted = convert(trace)
    assert addresses(converted)[2] == "pruned~Factor#1"
    assert converted.batch.log_probs[2] == -2.25
    assert converted.num_shortened == 1


def test_when_nothing_was_dropped_nothing_is_added():
    trace = pruned(draw("x__Normal__1", 0.5), named={"y": rest(1.0, -0.1)}, log_importance_weight=-0.1, length=2)
    assert (addresses(convert(trace))[1:], convert(trace).num_shortened) == (["y~Observed#1"], 0)


def test_under_prior_inflation_the_likelihood_of_what_was_dropped_is_unknown():
    trace = pruned(draw("x__Normal__1", 0.5, log_importance_weight=0.25), log_importance_weight=-2.0, length=3)
    converted = convert(trace)
    assert addresses(converted)[1] == "pruned~Factor#1"
    assert np.isnan(converted.batch.log_likelihood[0])


def test_weights_are_those_of_draws_not_of_observations():
    inflated = pruned(
        draw("x__Normal__1", 0.5, log_importance_weight=0.25),
        named={"y": rest(1.0, -3.5)},
        log_importance_weight=-3.25,
    )
    plain = pruned(draw("x__Normal__1", 0.5), named={"y": rest(1.0, -3.5)}, log_importance_weight=-3.5)
    assert convert(inflated, plain).batch.log_weight.tolist() == [0.25, 0.0]


def test_an_address_in_dictionary_form_is_resolved():
    trace = pruned(draw("__A12__3", 0.5))
    assert addresses(convert(trace, dictionary={"__A12": "16__forward__x__Normal"})) == ["16__forward__x~Normal#3"]


def test_an_address_without_entry_stays_and_is_told_of():
    converter = PyprobConverter(dictionary={"__A1": "16__forward__x__Normal"})
    assert addresses(converter.convert([(0, pruned(draw("__A12__3", 0.5)))])) == ["__A12~Normal#3"]
    assert converter.has_unresolved


def test_a_draw_that_replaced_others_is_the_first():
    assert addresses(convert(pruned(draw("a__Normal__replaced", 0.5)))) == ["a__Normal__replaced~~Normal#1"]


def original(place, suffix):
    """The base address that a place stands for."""
    if place.endswith("~"):
        return place[:-1]
    return place if place.startswith("__A") and place[3:].isdecimal() else f"{place}__{suffix}"


BASES = st.one_of(
    st.text(alphabet="x_~#A1", max_size=8),
    st.builds(lambda text: text + "__Normal", st.text(alphabet="x_~#A1", max_size=8)),
    st.sampled_from(["__A1", "__A12", "__A1__Normal", "__A12~", "Normal", "__Normal"]),
)


@given(BASES)
def test_places_are_one_to_one(base):
    assert original(to_place(base, "Normal"), "Normal") == base


@pytest.mark.parametrize("address", ["x__Normal", "x__Normal__0", "x__Normal__01", "", "x__Normal__one"])
def test_an_address_without_instance_refuses_the_trace(address):
    [(_, reason)] = convert(pruned(draw(address, 0.5))).refused
    assert "an instance from 1" in reason


@pytest.mark.parametrize("address", ["x\x1f__Normal__1", "x\x1e__Normal__1", "x\ud800__Normal__1"])
def test_characters_that_identities_cannot_hold_refuse_the_trace(address):
    [(_, reason)] = convert(pruned(draw(address, 0.5))).refused
    assert "characters" in reason


def test_one_address_twice_refuses_the_trace():
    [(_, reason)] = convert(pruned(draw("x__Normal__1", 0.5), draw("x__Normal__1", 0.25))).refused
    assert "same address" in reason


def test_a_draw_without_value_refuses_the_trace():
    [(_, reason)] = convert(pruned(PyprobVariable("x__Normal__1", distribution=NORMAL))).refused
    assert "without its value" in reason


def test_an_observation_of_another_shape_gets_its_shape_into_its_name():
    traces = [pruned(named={"y": rest(np.zeros(shape), -1.0)}) for shape in ((2,), (3,), ())]
    batch = convert(*traces, shapes={"y": (2,)}).batch
    assert {name: column.shape for name, column in batch.observations.items()} == {
        "y": (3, 2),
        "y[3]": (3, 3),
        "y[]": (3,),
    }
    assert [list(trace.observations) for trace in batch] == [["y"], ["y[3]"], ["y[]"]]


FULL = {"control": True, "log_prob": ts.Normal(0.0, 2.0).log_prob(0.5)}


def observe(address, value, distribution=NORMAL, **fields):
    return draw(address, value, distribution, observed=True, observable=True, control=False, **fields)


def test_kinds_of_whole_traces_are_as_stored():
    trace = whole(
        draw("a__Normal__1", 0.5, name="mu", **FULL),
        draw("b__Normal__1", 0.5, control=False),
        PyprobVariable("c__None__1", value=np.array([1, 2]), tagged=True, control=False, name="t"),
        observe("d__Normal__1", 0.25, name="y"),
        observe("e__Normal__1", 0.25),
        PyprobVariable("f__Normal__1", distribution=NORMAL, control=False, name="later", observable=True),
        PyprobVariable("g__Factor__1", distribution=dist("Factor"), observed=True, control=False, log_prob=-1.5),
    )
    converted = convert(trace)
    assert [(site.address, site.kind.name, site.is_controlled, site.name) for site in sites(converted)] == [
        ("a~Normal#1", "SAMPLE", True, "mu"),
        ("b~Normal#1", "SAMPLE", False, ""),
        ("c~Tag[2]#1", "TAG", False, "t"),
        ("d~Normal#1", "OBSERVE", False, "y"),
        ("e~Normal#1", "OBSERVE", False, ""),
        ("f~Tag[0]#1", "TAG", False, "later"),
        ("g~Factor#1", "OBSERVE", False, ""),
    ]
    expected = 2 * ts.Normal(0.0, 2.0).log_prob(0.25) - 1.5
    assert converted.batch.log_likelihood[0] == pytest.approx(expected, rel=1e-14)


def test_of_observations_of_one_name_the_last_keeps_it_and_none_is_lost():
    trace = whole(observe("d__Normal__1", 0.25, name="y"), observe("d__Normal__2", 0.5, name="y"))
    converted = convert(trace)
    assert [site.name for site in sites(converted)] == ["", "y"]
    assert (converted.batch.values.tolist(), converted.batch.observations["y"].tolist()) == ([0.25], [0.5])


def test_a_large_likelihood_is_scored_but_not_stored():
    image = np.linspace(0.0, 1.0, 40, dtype=np.float32)
    likelihood = dist("Normal", loc=np.zeros(40), scale=0.5)
    converted = convert(whole(observe("d__Normal__1", image, likelihood, name="y")), shapes={"y": (40,)})
    assert sites(converted)[0].num_parameters == 0
    assert converted.batch.log_probs[0] == ts.Normal(np.zeros(40), 0.5).log_prob(image)


def test_a_tag_that_is_not_numbers_is_kept_without_its_value_and_counted():
    stored = [PyprobVariable(f"c{place}__None__1", value=value, tagged=True, control=False, unread_value=kind)
              for place, (value, kind) in enumerate([(np.array("word"), None), (None, "dict")])]  # fmt: skip
    converted = convert(whole(*stored))
    assert [site.shape for site in sites(converted)] == [(0,), (0,)]
    assert converted.num_dropped == 2


def test_a_log_prob_of_pyprob_in_single_precision_agrees():
    stored = float(np.float32(FULL["log_prob"]))
    assert convert(whole(draw("a__Normal__1", 0.5, control=True, log_prob=stored))).differences == ()


def test_another_log_prob_of_pyprob_is_told_of_and_not_taken():
    converted = convert(whole(draw("a__Normal__1", 0.5, control=True, log_prob=-1.0)))
    assert converted.differences == ("pyprob stored the log prob -1 at 'a~Normal#1', where it is -1.64333571",)
    assert converted.batch.log_probs[0] == FULL["log_prob"]


def test_pyprobs_beta_on_a_longer_interval_is_known():
    stored = dist("Beta", concentration1=2.0, concentration0=3.0, low=-1.0, high=2.0)
    without_length = ts.Beta(2.0, 3.0, -1.0, 2.0).log_prob(0.5) + math.log(3.0)
    assert convert(whole(draw("a__Beta__1", 0.5, stored, control=True, log_prob=without_length))).differences == ()


def test_weights_that_are_infinite_are_kept():
    named = {"y": rest(1.0, math.inf), "z": rest(1.0, -math.inf)}
    assert math.isnan(convert(pruned(named=named, log_importance_weight=math.nan)).batch.log_likelihood[0])


def test_an_angle_of_pi_in_single_precision_is_possible():
    stored = dist("VonMises", loc=0.0, concentration=1.0)
    batch = convert(pruned(draw("a__VonMises__1", -math.pi, stored))).batch
    assert (batch.values[0], math.isfinite(batch.log_prior[0])) == (-math.pi, True)


def test_a_large_likelihood_that_is_no_distribution_refuses_the_trace():
    likelihood = dist("Normal", loc=np.zeros(40), scale=-1.0)
    [(_, reason)] = convert(whole(observe("d__Normal__1", np.zeros(40), likelihood, name="y"))).refused
    assert "make no Normal distribution" in reason


def test_layouts_are_shared_between_calls():
    converter = PyprobConverter()
    first, second = (converter.convert([(0, pruned(draw("x__Normal__1", value)))]).batch for value in (0.25, 0.5))
    assert first.layouts[0] is second.layouts[0]


def test_suffixes_are_pyprobs():
    mixture = dist("Mixture", NORMAL, dist("Categorical", logits=np.zeros(4)), probs=[0.5, 0.5])
    assert pyprob_suffix(mixture) == "Mixture(Normal, Categorical(len_probs:4))"
