"""Sessions: several observations side by side, going back within a trace, and rejection loops left to the prior."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tracestore as ts
from tests.networks.family_programs import TINY, prior_batch
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.networks.session import NetworkSession
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.traces import Site, Trace, TraceBatch
from tracestore.traces.distributions import Distribution, from_parameters


@ts.simulator
def looped() -> None:
    """A draw, a rejection loop, and a draw after it."""
    scale = ts.sample(ts.Uniform(0.5, 2.0), address="scale")
    for attempt in ts.rejection():
        x = ts.sample(ts.Normal(0.0, scale), address="x")
        if x > 0.2:
            attempt.accept()
    ts.observe(ts.Normal(ts.sample(ts.Normal(x, 1.0), address="last"), 1.0), name="y")


CORES: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru, two layers": {"core": "gru", "core_layers": 2},
    "transformer": {"core": "transformer", "core_size": 16},
    "feedforward": {"core": "feedforward"},
}


@pytest.fixture(scope="module")
def batch() -> TraceBatch:
    return prior_batch(looped, 60)


def make_network(batch: TraceBatch, config: NetworkConfig = TINY) -> ProposalNetwork:
    tensors = TensorBatch.from_batch(batch, np.arange(len(batch)))
    network = ProposalNetwork({"y": ()}, config)
    network.observation.fit(tensors.observations)
    network.grow(network.unknown_sites(tensors))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def draws(trace: Trace) -> list[tuple[Site, Distribution, float]]:
    offsets = trace.layout.parameter_offsets
    return [
        (
            site,
            from_parameters(site.family, trace.parameters[offsets[place] : offsets[place + 1]], site.shape),
            float(trace.value(place)),
        )
        for place, site in enumerate(trace.sites)
        if site.is_controlled
    ]


def follow(session: NetworkSession, slot: int, trace: Trace) -> list[Distribution | None]:
    previous, found = None, []
    for site, prior, value in draws(trace):
        found += session.propose([slot], [site], [prior], [previous])
        previous = value
    return found


def assert_same(found: list[Distribution | None], expected: list[Distribution | None]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_allclose(one.parameters(), other.parameters(), rtol=1e-5, atol=1e-6)


SEVERAL = [{"y": np.array(value)} for value in (-2.0, 0.3, 4.0)]


class TestSeveralObservations:
    def test_each_slot_runs_for_its_own(self, batch: TraceBatch) -> None:
        network = make_network(batch)
        session = network.session(SEVERAL, 3, amortize_rejection=True)
        for slot, observation in ((0, 2), (1, 0), (2, 1)):
            session.assign(slot, observation)
        for slot, observation in ((2, 1), (0, 2), (1, 0)):
            alone = network.session(SEVERAL[observation], 1, amortize_rejection=True)
            assert_same(follow(session, slot, batch[slot]), follow(alone, 0, batch[slot]))

    def test_slots_of_one_call_do_not_mix_them(self, batch: TraceBatch) -> None:
        network = make_network(batch)
        session = network.session(SEVERAL, 3)
        for slot in range(3):
            session.assign(slot, slot)
        site, prior, _ = draws(batch[0])[0]
        together = session.propose([0, 1, 2], [site] * 3, [prior] * 3, [None] * 3)
        alone = [network.session(each, 1).propose([0], [site], [prior], [None])[0] for each in SEVERAL]
        assert_same(together, alone)
        assert np.abs(together[0].parameters() - together[2].parameters()).max() > 1e-3

    def test_traces_are_scored_for_the_one_that_is_named(self, batch: TraceBatch) -> None:
        network = make_network(batch)
        numbers = np.arange(len(batch)) % 3
        found = network.session(SEVERAL, 1).log_prob(batch, numbers)
        for number, observed in enumerate(SEVERAL):
            expected = network.session(observed, 1).log_prob(batch)
            np.testing.assert_allclose(found[numbers == number], expected[numbers == number], atol=1e-5)
            np.testing.assert_allclose(network.session(SEVERAL, 1).log_prob(batch, number), expected, atol=1e-5)

    def test_many_are_embedded_in_parts(self, batch: TraceBatch) -> None:
        network = make_network(batch)
        many = [{"y": np.array(value)} for value in np.linspace(-3.0, 3.0, 150)]
        found = network.session(many, 1).log_prob(batch.take([0]), 149)
        np.testing.assert_allclose(found, network.session(many[149], 1).log_prob(batch.take([0])), atol=1e-5)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_slot_that_went_back_proposes_as_if_it_had_never_been_elsewhere(
    batch: TraceBatch, core: str, place: int
) -> None:
    network = make_network(batch, replace(TINY, **CORES[core]))
    trace = next(one for one in batch if len(draws(one)) > 6)
    session = network.session(SEVERAL[0], 2, amortize_rejection=True)
    follow(session, 1, batch[5])  # the slot has a history of its own
    steps, previous, found = draws(trace), None, []
    for site, prior, value in steps[:place]:
        found += session.propose([1], [site], [prior], [previous])
        previous = value
    saved = session.save(1)
    for wrong in (-1.7, 0.9):  # two passes that come to nothing
        astray = previous
        for site, prior, _ in steps[place:-1]:
            session.propose([1], [site], [prior], [astray])
            astray = wrong
        session.restore(1, saved)
    for site, prior, value in steps[place:]:
        found += session.propose([1], [site], [prior], [previous])
        previous = value
    expected = follow(network.session(SEVERAL[0], 1, amortize_rejection=True), 0, trace)
    assert sum(proposal is not None for proposal in expected) > 3
    assert_same(found, expected)


class TestRejectionLoops:
    def test_are_left_to_the_prior_but_seen(self, batch: TraceBatch) -> None:
        network = make_network(batch)
        trace = next(one for one in batch if len(draws(one)) > 5)
        plain = follow(network.session(SEVERAL[0], 1), 0, trace)
        amortized = follow(network.session(SEVERAL[0], 1, amortize_rejection=True), 0, trace)
        in_loop = [site.is_rejection for site, _, _ in draws(trace)]
        assert [proposal is None for proposal in plain] == in_loop
        # what follows the loop has seen what was drawn in it
        assert_same([plain[0], plain[-1]], [amortized[0], amortized[-1]])

    def test_are_scored_by_the_prior(self, batch: TraceBatch) -> None:
        network = make_network(batch)
        found = network.session(SEVERAL[0], 1).log_prob(batch)
        for row in range(8):
            trace = batch[row]
            proposals = follow(network.session(SEVERAL[0], 1), 0, trace)
            total = sum(
                (proposal or prior).log_prob(value)
                for (_, prior, value), proposal in zip(draws(trace), proposals, strict=True)
            )
            assert found[row] == pytest.approx(total, abs=1e-5)

    @pytest.mark.parametrize("amortizes", [False, True])
    def test_scores_of_sites_add_up_to_those_of_traces(self, batch: TraceBatch, amortizes: bool) -> None:
        session = make_network(batch).session(SEVERAL[0], 1, amortize_rejection=amortizes)
        found = session.site_log_probs(batch)
        sites = [(site, prior, value) for trace in batch for site, prior, value in draws(trace)]
        assert len(found) == len(sites)
        by_prior = [(not amortizes and site.is_rejection) or site.instance > TINY.max_instance for site, _, _ in sites]
        assert np.isnan(found).tolist() == by_prior
        scores = np.where(np.isnan(found), [prior.log_prob(value) for _, prior, value in sites], found)
        of_trace = np.repeat(np.arange(len(batch)), [len(draws(trace)) for trace in batch])
        totals = np.bincount(of_trace, scores)
        np.testing.assert_allclose(totals, session.log_prob(batch), atol=1e-5)
