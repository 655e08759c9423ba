"""The network as a whole: batches of mixed trace types, sessions of many slots, and that both agree."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.networks.family_programs import TINY, every_family, prior_batch
from tracestore.errors import InvalidInputError
from tracestore.networks.network import ProposalNetwork
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.traces import SiteKind, Trace, TraceBatch
from tracestore.traces.distributions import Distribution, from_parameters


@pytest.fixture(scope="module")
def batch() -> TraceBatch:
    return prior_batch(every_family, 40)


@pytest.fixture
def network(batch: TraceBatch) -> ProposalNetwork:
    tensors = TensorBatch.from_batch(batch, np.arange(len(batch)))
    network = ProposalNetwork({"y": (), "v": (3,)}, TINY)
    network.observation.fit(tensors.observations)
    network.grow(network.unknown_sites(tensors))
    with torch.no_grad():  # a fresh network proposes almost the prior; these weights are far from it
        generator = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def prior_of(trace: Trace, position: int) -> Distribution:
    site = trace.sites[position]
    start, stop = trace.layout.parameter_offsets[position : position + 2]
    return from_parameters(site.family, trace.parameters[start:stop], site.shape)


def controlled(trace: Trace) -> list[int]:
    return [i for i, site in enumerate(trace.sites) if site.kind is SiteKind.SAMPLE and site.is_controlled]


def packed(network: ProposalNetwork, batch: TraceBatch) -> torch.Tensor:
    tensors = TensorBatch.from_batch(batch, np.arange(len(batch)))
    return network.trace_log_probs(network.steps(tensors), network.embed(tensors.observations))


def test_the_order_and_company_of_traces_do_not_matter(network: ProposalNetwork, batch: TraceBatch) -> None:
    found = packed(network, batch).detach()
    order = np.random.default_rng(1).permutation(len(batch))
    torch.testing.assert_close(packed(network, batch.take(order)).detach(), found[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed(network, batch.take([3])).detach(), found[3:4], rtol=1e-5, atol=1e-5)


def follow(network: ProposalNetwork, trace: Trace) -> tuple[float, list[Distribution | None]]:
    """Log q of a trace by the session that inference uses, with what it proposed."""
    session = network.session(trace.observations, 3)
    previous, total, proposals = None, 0.0, []
    for position in controlled(trace):
        prior, value = prior_of(trace, position), trace.value(position)
        proposal = session.propose([1], [trace.sites[position]], [prior], [previous])[0]
        proposals.append(proposal)
        total += (proposal or prior).log_prob(value)
        previous = value
    return total, proposals


def test_a_session_proposes_the_densities_that_training_scores(network: ProposalNetwork, batch: TraceBatch) -> None:
    for index in range(12):
        trace = batch[index]
        total, proposals = follow(network, trace)
        expected = network.session(trace.observations, 1).log_prob(batch.take([index]))[0]
        assert total == pytest.approx(expected, abs=1e-5)
        assert sum(proposal is not None for proposal in proposals) > 3


def test_slots_are_independent(network: ProposalNetwork, batch: TraceBatch) -> None:
    """Runs served together, in turns and after other runs in their slot, get what each gets alone."""
    traces = [batch[index] for index in range(6)]
    for trace in traces:
        trace.observations = traces[0].observations
    session = network.session(traces[0].observations, 3)
    for first in (0, 3):
        group = traces[first : first + 3]
        alone = [follow(network, trace)[1] for trace in group]
        positions = [controlled(trace) for trace in group]
        for step in range(max(map(len, positions))):
            live = [slot for slot in range(3) if step < len(positions[slot])]
            found = session.propose(
                live,
                [group[slot].sites[positions[slot][step]] for slot in live],
                [prior_of(group[slot], positions[slot][step]) for slot in live],
                [group[slot].value(positions[slot][step - 1]) if step else None for slot in live],
            )
            for slot, proposal in zip(live, found, strict=True):
                expected = alone[slot][step]
                assert (proposal is None) == (expected is None)
                if proposal is not None and expected is not None:
                    np.testing.assert_allclose(proposal.parameters(), expected.parameters(), rtol=1e-4, atol=1e-6)


def test_deep_visits_stay_with_the_prior(network: ProposalNetwork, batch: TraceBatch) -> None:
    seen: dict[bool, int] = {True: 0, False: 0}
    for trace in batch:
        for position, proposal in zip(controlled(trace), follow(network, trace)[1], strict=True):
            site = trace.sites[position]
            at_prior = site.instance > TINY.max_instance
            assert (proposal is None) == at_prior, site.address
            seen[at_prior] += 1
    assert min(seen.values()) > 5


def test_inactive_addresses_use_the_prior_and_are_scored_so(network: ProposalNetwork, batch: TraceBatch) -> None:
    network.active.zero_()
    total, proposals = follow(network, batch[0])
    assert proposals == [None] * len(proposals)
    assert total == pytest.approx(network.session(batch[0].observations, 1).log_prob(batch.take([0]))[0], abs=1e-9)


@pytest.mark.parametrize(
    ("observations", "words"),
    [
        ({"y": np.array(1.0)}, ["y of shape ()", "v of shape (3,)"]),
        ({"y": np.array(1.0), "v": np.zeros(4)}, ["v of shape (4,)", "v of shape (3,)"]),
        ({"y": np.array(1.0), "v": np.full(3, np.nan)}, ["'v'", "not finite"]),
    ],
)
def test_observations_that_do_not_fit_are_refused(
    network: ProposalNetwork, observations: dict[str, np.ndarray], words: Sequence[str]
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        network.session(observations, 1)
    assert all(word in str(caught.value) for word in words), str(caught.value)
