"""What chains counted, from the states that they committed."""

import math
from pathlib import Path

import pytest

from tests.posteriors.programs import conditioned, write
from tracestore.errors import DiagnosticError
from tracestore.inference import Posterior
from tracestore.posteriors.chain_states import last_states
from tracestore.posteriors.summary import AddressAcceptance
from tracestore.simulators.toys import gum

OLD = {"chain": 0, "chunk": 0, "counts": {"single": [5, 2, 0]}, "address_counts": {"a#1": [5, 2]}}
NEW = {"chain": 0, "chunk": 1, "counts": {"single": [9, 3, 1]}, "address_counts": {"a#1": [7, 3], "b#1": [2, 0]}}
OTHER = {"chain": 1, "chunk": 1, "counts": {"single": [4, 4, 0]}, "address_counts": {"b#1": [30, 15]}}


def chains(path: Path, *states: object) -> Posterior:
    return Posterior(write(path, conditioned(gum, {"obs0": 1.0, "obs1": 1.0}, 8), states=states, engine="rmh"))


def test_newest_state_of_each_chain_counts(tmp_path: Path) -> None:
    posterior = chains(tmp_path / "c", NEW, OLD, OTHER)
    assert last_states(posterior.store) == {0: NEW, 1: OTHER}
    assert [(row.chain, row.num_proposed) for row in posterior.acceptance_by_move] == [(0, 9), (1, 4)]
    assert posterior.acceptance == 7 / 13


def test_addresses_are_summed_over_chains(tmp_path: Path) -> None:
    rows = chains(tmp_path / "c", NEW, OLD, OTHER).acceptance_by_address
    assert rows == (AddressAcceptance("b#1", 32, 15), AddressAcceptance("a#1", 7, 3))
    assert rows[0].rate == 15 / 32
    assert math.isnan(AddressAcceptance("c#1", 0, 0).rate)


def test_chains_that_did_not_count_by_address(tmp_path: Path) -> None:
    old = {name: value for name, value in OLD.items() if name != "address_counts"}
    assert chains(tmp_path / "c", old).acceptance_by_address == ()


def test_weighted_draws_have_none(tmp_path: Path) -> None:
    store = write(tmp_path / "w", conditioned(gum, {"obs0": 1.0, "obs1": 1.0}, 8), engine="is")
    with pytest.raises(DiagnosticError, match="Acceptance belongs to Markov chains"):
        _ = Posterior(store).acceptance_by_address
