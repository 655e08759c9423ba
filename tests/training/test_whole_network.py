"""The packed pass over mixed trace types computes what a plain loop over traces and sites computes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from tests.training.family_programs import TINY, every_family, prior_batch
from tracestore.errors import InvalidInputError
from tracestore.samplers.torch_loader import TensorBatch
from tracestore.traces import SiteKind, Trace, TraceBatch
from tracestore.traces.distributions import Distribution, from_parameters
from tracestore.training.network import ProposalNetwork
from tracestore.training.proposals import Head


@pytest.fixture(scope="module")
def batch() -> TraceBatch:
    return prior_batch(every_family, 40)


@pytest.fixture
def network(batch: TraceBatch) -> ProposalNetwork:
    tensors = TensorBatch.from_batch(batch, np.arange(len(batch)))
    network = ProposalNetwork({"y": (), "v": (3,)}, TINY)
    network.observation.fit(tensors.observations)
    network.grow(tensors)
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


def reference(network: ProposalNetwork, trace: Trace) -> torch.Tensor:
    """Log q of one trace, site by site, with the recurrent cell applied by hand."""
    observed = {name: torch.as_tensor(value, dtype=torch.float32)[None] for name, value in trace.observations.items()}
    embedding = network.embed(observed)
    weights = dict(network.core.named_parameters())
    state = (torch.zeros(1, TINY.recurrent_size), torch.zeros(1, TINY.recurrent_size))
    sample = torch.zeros(1, TINY.sample_size)
    total = torch.zeros((), dtype=torch.float64)
    for position in controlled(trace):
        site, prior, value = trace.sites[position], prior_of(trace, position), trace.value(position)
        place = network.vocabulary.find(site)
        if place < 0:
            total = total + prior.log_prob(value)
            continue
        row = network.vocabulary.rows[place]
        head = network.heads[row.head]
        assert isinstance(head, Head)
        x = network.core_inputs(embedding, torch.tensor([place]), torch.tensor([site.instance]), sample)
        state = cell(weights, x, state)
        priors = torch.zeros(1, max(head.prior_width, site.num_parameters), dtype=torch.float64)
        priors[0, : site.num_parameters] = torch.from_numpy(prior.parameters())
        proposal = head(state[0], torch.tensor([row.head_row]), priors)
        x_value = torch.tensor([float(value)], dtype=torch.float64)
        log_prior = torch.tensor([prior.log_prob(value)], dtype=torch.float64)
        total = total + head.log_prob(proposal, priors, x_value, log_prior)[0]
        coordinate = head.coordinate(priors, x_value)
        entry = coordinate.clamp(max=row.num_entries - 1) if row.is_discrete else coordinate * (row.num_entries - 1)
        sample = network.value(torch.tensor([row.first_entry]), torch.tensor([row.num_entries]), entry)
    return total


def cell(
    weights: Mapping[str, torch.Tensor], x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One LSTM step from the textbook (input, forget, cell, output)."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        found[next(key for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if key in name)] = weight
    gates = x @ found["weight_ih"].T + found["bias_ih"] + state[0] @ found["weight_hh"].T + found["bias_hh"]
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def packed(network: ProposalNetwork, batch: TraceBatch) -> torch.Tensor:
    tensors = TensorBatch.from_batch(batch, np.arange(len(batch)))
    return network.trace_log_probs(network.steps(tensors), network.embed(tensors.observations))


def test_log_q_and_gradients_equal_a_loop_over_traces(network: ProposalNetwork, batch: TraceBatch) -> None:
    assert len(batch.layouts) > 10
    found = packed(network, batch)
    expected = torch.stack([reference(network, trace) for trace in batch])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    one = torch.autograd.grad(found.mean(), parameters, materialize_grads=True)
    two = torch.autograd.grad(expected.mean(), parameters, materialize_grads=True)
    assert sum(bool(gradient.abs().max() > 1e-4) for gradient in one) > 15
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


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


def test_deep_visits_and_vectors_stay_with_the_prior(network: ProposalNetwork, batch: TraceBatch) -> None:
    seen: dict[bool, int] = {True: 0, False: 0}
    for trace in batch:
        for position, proposal in zip(controlled(trace), follow(network, trace)[1], strict=True):
            site = trace.sites[position]
            at_prior = site.instance > TINY.max_instance or bool(site.shape) or site.family == "VonMises"
            assert (proposal is None) == at_prior, site.address
            seen[at_prior] += 1
    assert min(seen.values()) > 10


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
