import dataclasses
from typing import Any

import numpy as np
import pytest

from tracestore.errors import InvalidInputError
from tracestore.samplers import BatchPolicy, CostModel


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"global_batch": 0}, "`global_batch` must be a whole number of at least 1; got 0"),
        ({"global_batch": 8, "micro": 0}, "`micro` must be a whole number"),
        ({"global_batch": 8, "micro": True}, "`micro` must be a whole number"),
        ({"global_batch": 8, "num_buckets": 1.5}, "`num_buckets` must be .* got 1.5"),
        ({"global_batch": 12, "micro": 8}, "got 8, possible are 1, 2, 3, 4, 6, 12"),
        ({"global_batch": 8, "order": "shuffled"}, "one of deck, random, sequential; got 'shuffled'"),
    ],
)
def test_wrong_fields_are_refused(fields, text):
    with pytest.raises(InvalidInputError, match=text):
        BatchPolicy(**fields)


def test_all_problems_are_reported_together():
    with pytest.raises(InvalidInputError) as caught:
        BatchPolicy(global_batch=0, micro=0, order="x")  # type: ignore[arg-type]
    assert str(caught.value).count("must be") == 3


def test_local_policy_has_atoms_of_up_to_eight_and_many_of_them():
    sizes = (4096, 700, 512, 448, 384, 128, 100, 64, 13)
    assert [BatchPolicy.local(batch).micro for batch in sizes] == [8, 7, 8, 7, 6, 2, 1, 1, 1]


def test_allowed_ranks_are_the_divisors_of_the_slots():
    assert BatchPolicy(global_batch=96, micro=8).allowed_ranks == (1, 2, 3, 4, 6, 12)


def test_digest_follows_every_field():
    policy = BatchPolicy(global_batch=64)
    changed: list[dict[str, Any]] = [
        {"global_batch": 128},
        {"micro": 4},
        {"num_buckets": 2},
        {"order": "random"},
        {"mixing": 0.5},
        {"global_batch": None, "budget": 8.0},
        {"cost": CostModel(per_site=2.0)},
    ]
    assert {field.name for field in dataclasses.fields(policy)} == {name for change in changed for name in change}
    digests = {dataclasses.replace(policy, **change).digest for change in changed}
    assert len(digests | {policy.digest}) == 8
    assert policy.digest == BatchPolicy(global_batch=64).digest


@pytest.mark.parametrize(
    "fields", [{"per_site": -1.0}, {"per_trace": float("nan")}, {"per_trace": 0.0, "per_site": 0.0}]
)
def test_senseless_costs_are_refused(fields):
    with pytest.raises(InvalidInputError, match=r"cost|per_"):
        CostModel(**fields)


def test_cost_counts_observations():
    cost = CostModel(per_trace=1.0, per_site=2.0, per_observation_byte=0.5).of([1, 2], [10, 20])
    assert np.array_equal(cost, [8.0, 15.0])
