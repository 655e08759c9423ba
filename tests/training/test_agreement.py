"""Facts and new addresses that ranks agree on."""

import pytest

pytest.importorskip("torch")

from tests.training.rank_programs import JOBS, raw, run_good_programs
from tracestore.errors import RankMismatchError, TracestoreError
from tracestore.training.agreement import agree_on_sites, require_same
from tracestore.training.communicator import SoleProcess


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: f"{job[0]}-{job[1]}")
def agreed(request):
    return [result["agree"] for result in run_good_programs(*request.param)]


@pytest.mark.processes
def test_all_ranks_raise_one_error_that_names_values_and_ranks(agreed):
    expected = {
        2: "The ranks do not match: config is 'hash of 0' on rank 0, 'hash of 1' on rank 1; extra is absent on rank 0, "
        "'here' on rank 1; start all of them with the same code, settings and data.",
        3: "The ranks do not match: config is 'hash of 0' on rank 0, 'hash of 1' on ranks 1-2; extra is absent on "
        "ranks 0-1, 'here' on rank 2; start all of them with the same code, settings and data.",
    }
    assert [result["mismatch"] for result in agreed] == [expected[len(agreed)]] * len(agreed)
    assert sorted(agreed[0]["different"]) == ["config", "extra"]


@pytest.mark.processes
def test_nothing_new_is_an_empty_list(agreed):
    assert [result["none"] for result in agreed] == [[]] * len(agreed)


@pytest.mark.processes
def test_new_sites_are_the_union_in_an_order_of_their_own(agreed):
    union = [
        raw("b~Normal#1", name="mu", family="Normal"),
        raw("f~Uniform#2"),
        raw("f~Uniform#11"),
        raw("v~Normal#1", shape=(2, 3), num_parameters=12),
    ]
    assert all(result["sites"] == [site.record for site in union] for result in agreed)
    assert all(result["by base"] == [site.record for site in (union[0], union[1], union[3])] for result in agreed)


@pytest.mark.processes
def test_a_site_of_one_rank_reaches_all(agreed):
    assert [result["one rank"] for result in agreed] == [["late~Uniform#1"]] * len(agreed)


class Ranks(SoleProcess):
    """Says what other ranks would have said."""

    def __init__(self, *others):
        self.others = list(others)
        self.sums = []

    def sum_(self, tensor):
        self.sums.append(tensor.tolist())
        return super().sum_(tensor)

    def gather(self, payload):
        return [payload, *self.others]


def test_ranks_are_named_in_spans():
    ranks = Ranks(*[b'{"torch":"2"}'] * 3, b'{"torch":"1"}', b'{"torch":"2"}')
    with pytest.raises(RankMismatchError, match=r"torch is '1' on ranks 0, 4, '2' on ranks 1-3, 5; start all"):
        require_same(ranks, {"torch": "1"})


def test_only_what_differs_is_named():
    with pytest.raises(TracestoreError) as caught:
        require_same(Ranks(b'{"a":"1","b":"3"}'), {"a": "1", "b": "2"})
    assert caught.value.fields["different"] == {"b": {"'2'": [0], "'3'": [1]}}


def test_nothing_new_costs_one_small_sum():
    ranks = Ranks(b"this is not JSON, and nobody should read it")
    assert (agree_on_sites(ranks, []), ranks.sums) == ([], [[0]])


def test_one_process_has_the_order_of_many():
    sites = [raw("f~Uniform#11"), raw("f~Uniform#2"), raw("b~Uniform#3")]
    found = agree_on_sites(SoleProcess(), sites)
    assert found == [sites[2], sites[1], sites[0]]


def test_addresses_with_any_letters_survive():
    site = raw("Wähle:\x1f\u2028~Uniform#1")
    assert agree_on_sites(SoleProcess(), [site]) == [site]
