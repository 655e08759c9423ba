from dataclasses import dataclass

import numpy as np
import pytest

from tests.suites.batches import make_batch, make_layout, make_site
from tracestore.errors import InvalidInputError, TraceTypeMismatchError, UnknownAddressError
from tracestore.traces import Layout, SiteKind
from tracestore.traces.fixed_sites import FixedSites, value_places

ONE_VECTOR = [make_layout(2, vectors=1), make_layout(0, vectors=1), make_layout(5, vectors=1, observed=("count",))]


def columns_of(batch, name):
    """Values of a name as flat columns, by another way."""
    values, present = batch.named(name)
    assert present.all()
    return values.reshape(len(batch), -1)


@pytest.mark.parametrize(
    "names",
    [["mu"], ["vec"], ["mu", "vec"], ["vec", "result", "mu"], ["unnamed~Normal#1", "mu~Normal#1"]],
    ids=lambda names: "+".join(names),
)
def test_places_are_those_of_the_values(names):
    batch = make_batch(1, 50, ONE_VECTOR)
    places, _ = value_places(batch.layouts, batch.layout_index, names)
    expected = np.concatenate([columns_of(batch, name) for name in names], axis=1)
    assert np.array_equal(batch.values[places], expected)


def test_the_place_of_one_visit_is_that_of_its_address():
    batch = make_batch(2, 30, [make_layout(2), make_layout(4)])
    places, _ = value_places(batch.layouts, batch.layout_index, ["loop~Normal#2"])
    assert np.array_equal(batch.values[places], columns_of(batch, "loop~Normal#2"))


def test_a_layout_that_no_trace_has_does_not_matter():
    batch = make_batch(3, 30, ONE_VECTOR)
    layouts = [make_layout(1), *batch.layouts]
    places, _ = value_places(layouts, batch.layout_index + 1, ["vec"])
    assert np.array_equal(batch.values[places], columns_of(batch, "vec"))


def test_columns_are_named_by_their_place_in_the_value():
    matrix = Layout((make_site("m", 1, SiteKind.SAMPLE, name="m", shape=(2, 2)), *ONE_VECTOR[0].sites))
    _, columns = value_places([matrix], np.zeros(1, int), ["mu", "m", "vec"])
    assert columns == ("mu", "m[0,0]", "m[0,1]", "m[1,0]", "m[1,1]", "vec[0]", "vec[1]", "vec[2]")


def test_no_traces_give_a_column_per_name():
    places, columns = value_places([], np.empty(0, np.int32), ["mu", "vec"])
    assert places.shape == (0, 2)
    assert columns == ("mu", "vec")


@dataclass(frozen=True)
class Refusal:
    id: str
    names: object
    error: type[Exception]
    text: str
    observations: tuple[str, ...] = ()


REFUSALS = [
    Refusal("no name", [], InvalidInputError, "at least one name"),
    Refusal("a text", "mu", InvalidInputError, r"Write \['mu'\]"),
    Refusal("twice", ["mu", "result", "mu"], InvalidInputError, "has 'mu' twice"),
    Refusal("misspelled", ["resalt"], UnknownAddressError, "did you mean 'result'.*'mu', .*'result'"),
    Refusal("unlike any", ["zzz"], UnknownAddressError, "No trace has a site 'zzz'; sites that every trace has once"),
    Refusal("lacking", ["loop~Normal#1"], TraceTypeMismatchError, "Trace 41 has no site 'loop~Normal#1'"),
    Refusal("several", ["vec"], TraceTypeMismatchError, "Trace 42 has 2 sites 'vec'.*'vec~.*#1', 'vec~.*#2'"),
    Refusal("observation", ["dense"], InvalidInputError, "'dense' is an observation"),
    Refusal("address of one", ["see-dense~Normal[4,3]#1"], InvalidInputError, "is an observation"),
    Refusal("unobserved", ["mu"], InvalidInputError, "Trace 40 has no observation 'count'", ("dense", "count")),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_refusals_name_trace_and_remedy(case):
    kinds = {
        "loop~Normal#1": [make_layout(2), make_layout(0)],
        "vec": [make_layout(0, vectors=1), make_layout(1, vectors=1), make_layout(0, vectors=2)],
    }
    layouts = kinds.get(case.names[0] if case.names else "", [make_layout(2), make_layout(0)])
    index = np.arange(len(layouts))
    with pytest.raises(case.error, match=case.text):
        value_places(layouts, index, case.names, observations=case.observations, traces=index + 40)


def test_a_shape_that_differs_is_refused_with_both_traces():
    short, long = (Layout((make_site("v", 1, SiteKind.TAG, name="v", shape=(size,)),)) for size in (2, 3))
    with pytest.raises(TraceTypeMismatchError, match=r"\(3,\) in trace 8 and \(2,\) in trace 7"):
        value_places([short, long], np.array([0, 1]), ["v"], traces=[7, 8])


def test_many_names_are_listed_in_part():
    layout = Layout(tuple(make_site(f"s{number}", 1, SiteKind.SAMPLE, name=f"s{number}") for number in range(20)))
    with pytest.raises(UnknownAddressError, match="and 8 more"):
        FixedSites(["other"], layouts=lambda: [layout]).check(layout, 0)
