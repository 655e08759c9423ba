"""What other loaders would do with the same traces, compared with dealing them one by one."""

import numpy as np
import pytest

from tests.samplers.runs import make_runs
from tracestore.errors import InvalidInputError
from tracestore.samplers import CostModel
from tracestore.samplers.schemes import (
    SCHEMES,
    Dealing,
    TraceTable,
    deal_pyprob,
    deal_random_chunks,
    deal_synchronized_buckets,
)

RUNS = make_runs((1, 4, 30), (2, 9, 11), (3, 2, 40), (2, 9, 19), (4, 50, 7))
SELECTED = np.arange(107) % 10 != 3
COST = CostModel(per_trace=3.0, per_site=0.5, per_observation_byte=0.1)


@pytest.fixture(params=[False, True], ids=["all", "selected"])
def table(request):
    return TraceTable.select(RUNS, COST, selected=SELECTED if request.param else None, observation_bytes=np.arange(5.0))


def sites_of(table):
    return table.num_sites[table.run_of]


def all_dealt(dealing):
    return [trace for traces in dealt(dealing) for trace in traces]


def dealt(dealing):
    return [
        dealing.traces_of(step, rank).tolist()
        for step in range(dealing.chunk_of.shape[0])
        for rank in range(dealing.chunk_of.shape[1])
    ]


def test_table_knows_each_selected_trace():
    table = TraceTable.select(RUNS, COST, selected=SELECTED, observation_bytes=np.arange(5.0))
    runs = np.repeat(np.arange(5), RUNS.num_traces)[SELECTED]
    assert table.indices.tolist() == [i for i in range(107) if i % 10 != 3]
    assert np.array_equal(table.run_of, runs)
    assert table.costs == pytest.approx([3 + 0.5 * sites + 0.1 * run for run, sites in enumerate(RUNS.num_sites)])
    assert table.types[1] == table.types[3]
    assert len(set(table.types.tolist())) == 4


def test_order_by_length_is_a_stable_sort(table):
    keys = list(zip(sites_of(table).tolist(), table.types[table.run_of].tolist(), range(len(table)), strict=True))
    assert table.by_length.tolist() == [place for _, _, place in sorted(keys)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_costs_and_padding_are_those_of_the_traces(table, scheme):
    dealing = scheme(table, 5, 4)
    expected = [table.costs[table.run_of[traces]].sum() for traces in dealt(dealing)]
    assert dealing.rank_costs(table).reshape(-1) == pytest.approx(expected)
    sites = sites_of(table)
    full = sum(sites[traces].sum() for traces in dealt(dealing))
    room = sum(len(traces) * sites[traces].max() for traces in dealt(dealing) if traces)
    assert dealing.padding(table) == pytest.approx(1 - full / room)


@pytest.mark.parametrize("block", [1, 7, 30])
def test_blocks_of_chunks_do_not_matter(table, monkeypatch, block):
    dealing = deal_random_chunks(table, 5, 4)
    costs, padding = dealing.rank_costs(table), dealing.padding(table)
    monkeypatch.setattr("tracestore.samplers.schemes._BLOCK", block)
    assert dealing.rank_costs(table) == pytest.approx(costs)
    assert dealing.padding(table) == pytest.approx(padding)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_trace_comes_twice(table, scheme):
    dealing = scheme(table, 5, 4)
    traces = all_dealt(dealing)
    assert len(set(traces)) == len(traces) == dealing.num_dealt


@pytest.mark.parametrize("scheme", [deal_random_chunks, deal_synchronized_buckets])
@pytest.mark.parametrize("batch", [1, 5, 13])
def test_nothing_is_dropped_and_the_last_step_is_even(table, scheme, batch):
    dealing = scheme(table, batch, 4)
    assert sorted(all_dealt(dealing)) == list(range(len(table)))
    sizes = [len(traces) for traces in dealt(dealing)]
    assert set(sizes[:-4]) == {batch}
    assert max(sizes[-4:]) - min(sizes[-4:]) <= 1


def test_random_chunks_mix_all_lengths(table):
    dealing = deal_random_chunks(table, 20, 2, seed=3)
    assert len(set(sites_of(table)[dealing.traces_of(0, 0)].tolist())) > 2
    assert dealt(deal_random_chunks(table, 20, 2, seed=3)) == dealt(dealing)
    assert dealt(deal_random_chunks(table, 20, 2, seed=4)) != dealt(dealing)


def test_pyprob_drops_chunks_as_random_traces_and_the_longest_ones():
    table = TraceTable.select(RUNS, COST)
    # 107 traces, chunks of 5: 21 chunks, of which 20 divide among 4 ranks; 5 traces go at random, 2 at the end
    one, other = deal_pyprob(table, 5, 4, seed=1), deal_pyprob(table, 5, 4, seed=2)
    assert one.num_dealt == 100
    missing = set(range(107)) - set(all_dealt(one))
    assert missing == set(range(107)) - set(all_dealt(other))
    longest_seven = set(table.by_length[-7:].tolist())
    assert len(missing & longest_seven) < 7
    longest = [trace for trace in table.by_length.tolist() if trace in set(all_dealt(one)) | missing][-1]
    assert longest in missing


@pytest.mark.parametrize("num_buckets", [1, 2, 3, None, 100])
def test_pyprob_chunks_are_neighbors_and_a_rank_takes_every_nth(num_buckets):
    table = TraceTable.select(make_runs((1, 4, 80)), COST)
    dealing = deal_pyprob(table, 4, 2, num_buckets=num_buckets, seed=1)
    for step in range(len(dealing.chunk_of)):
        for rank in range(2):
            traces = dealing.traces_of(step, rank)
            assert (np.diff(traces) == 1).all()
            # of three buckets, the second begins with chunk 7, and takes the third, which is short
            chunk = traces[0] // 4 - (7 if num_buckets == 3 and traces[0] >= 28 else 0)
            assert chunk % 2 == rank
    rounds = {1: 10, 2: 10, 3: 9, None: 10, 100: 10}
    assert len(dealing.chunk_of) == rounds[num_buckets]


def test_pyprob_takes_one_bucket_after_the_other():
    table = TraceTable.select(make_runs((1, 4, 80)), COST)
    dealing = deal_pyprob(table, 4, 2, num_buckets=2, seed=1)
    halves = [min(traces) // 40 for traces in dealt(dealing)]
    assert halves in ([0] * 10 + [1] * 10, [1] * 10 + [0] * 10)


def test_one_bucket_per_round_gives_neighbors_to_all_ranks():
    table = TraceTable.select(make_runs((1, 4, 80)), COST)
    dealing = deal_pyprob(table, 4, 2, num_buckets=None)
    assert dealing.name == "one bucket per round"
    for step in range(10):
        both = [*dealing.traces_of(step, 0), *dealing.traces_of(step, 1)]
        assert both == list(range(min(both), min(both) + 8))


def test_synchronized_buckets_keep_a_round_in_one_bucket():
    table = TraceTable.select(make_runs((1, 9, 80), (2, 29, 80)), CostModel())
    dealing = deal_synchronized_buckets(table, 5, 4, num_buckets=4, seed=1)
    kinds = [
        set(np.concatenate([sites_of(table)[dealing.traces_of(step, rank)] for rank in range(4)])) for step in range(8)
    ]
    # costs of 800 and 2,400 are cut at 800, 1,600 and 2,400; three buckets of 26 or 27 traces leave a step between them
    assert sorted(map(sorted, kinds)) == [[9]] * 4 + [[29]] * 4


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("batch", "num_ranks"), [(60, 2), (0, 2), (1, 0)])
def test_too_few_traces_are_refused(scheme, batch, num_ranks):
    table = TraceTable.select(RUNS, COST)
    with pytest.raises(InvalidInputError, match="107 traces do not suffice") as caught:
        scheme(table, batch, num_ranks)
    assert caught.value.fields["num_ranks"] == num_ranks


def test_ranks_without_work_cost_nothing():
    table = TraceTable.select(RUNS, COST)
    dealing = Dealing("one", np.arange(3), np.array([0, 3]), np.array([[0, -1]]))
    assert dealing.rank_costs(table).tolist() == [[15.0, 0.0]]
    assert dealing.traces_of(0, 1).tolist() == []
