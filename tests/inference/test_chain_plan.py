"""The plan of a job's chains: every draw once, one number and one stream for each unit."""

import pytest

from tracestore.errors import InvalidInputError
from tracestore.inference.chain_plan import plan_chains

CASES = [(40, 4, 0), (400, 4, 100), (20_000, 4, 1000), (7, 7, 3), (1_000_000, 4, 50_000), (40_000_000, 2, 1)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_and_steps_are_covered_once(case: tuple[int, int, int]) -> None:
    num_draws, chains, warmup = case
    plan = plan_chains(num_draws=num_draws, chains=chains, warmup=warmup)
    end = 0
    for unit in range(plan.chunks_per_chain):
        first, number = plan.draws(unit)
        assert first == end
        assert number > 0
        end += number
    assert end * chains == num_draws
    steps = [plan.warm_steps(unit) for unit in range(plan.first_unit + 1, 0)]
    assert [step for piece in steps for step in piece] == list(range(warmup))
    assert all(len(piece) > 0 for piece in steps)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_and_streams_are_distinct(case: tuple[int, int, int]) -> None:
    num_draws, chains, warmup = case
    plan = plan_chains(num_draws=num_draws, chains=chains, warmup=warmup)
    units = [(chain, unit) for chain in range(chains) for unit in range(plan.first_unit, plan.chunks_per_chain)]
    assert sorted(plan.work(*unit) for unit in units) == list(range(len(units)))
    assert len({plan.stream(*unit) for unit in units}) == len(units)


def test_the_stream_of_a_unit_does_not_depend_on_the_number_of_draws() -> None:
    short, long = (plan_chains(num_draws=number, chains=2, warmup=100) for number in (40, 4000))
    assert [short.stream(1, unit) for unit in range(-21, 20)] == [long.stream(1, unit) for unit in range(-21, 20)]


@pytest.mark.parametrize(("draws_per_chain", "largest"), [(100, 5), (250_000, 1250), (10_000_000, 5000)])
def test_chunks_grow_with_the_run_within_bounds(draws_per_chain: int, largest: int) -> None:
    """Many chunks would mean many states; a large chunk is held in memory, and lost when killed."""
    assert plan_chains(num_draws=4 * draws_per_chain, chains=4, warmup=0).chunk_size == largest


def test_draws_must_divide_among_the_chains() -> None:
    with pytest.raises(InvalidInputError, match="Ask for 8 or 12 draws"):
        plan_chains(num_draws=10, chains=4, warmup=0)
