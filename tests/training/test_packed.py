"""The packed pass equals a loop over traces and sites that is written from the definition of the network."""

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from tests.training.programs import every_family, mixed, simulate, tensors
from tracestore.training import NetworkConfig, ProposalNetwork
from tracestore.training.heads import head_key

SMALL = {"recurrent_size": 12, "observation_size": 8, "head_size": 10, "max_instance": 3, "mixture_size": 3}


def grown_network(batch, **settings):
    network = ProposalNetwork(
        {name: column.shape[1:] for name, column in batch.observations.items()}, NetworkConfig(**{**SMALL, **settings})
    )
    network.observation.fit(tensors(batch).observations)
    network.grow(batch)
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():  # away from the special values of the initialization
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def reference_log_q(network, trace):
    """log q of one trace: one site after the other, one plain matrix product after the other."""
    config = network.config
    embedding = network.embed({name: np.asarray(value)[None] for name, value in trace.observations.items()})[0]
    state = torch.zeros(network.core.num_states, config.recurrent_size)
    before = torch.zeros(config.sample_size)
    total = torch.zeros((), dtype=torch.float64)
    for place, site in enumerate(trace.layout.sites):
        if not site.is_controlled:
            continue
        is_modelled = head_key(site, config) is not None and site.shape == () and site.instance <= config.max_instance
        if not is_modelled:
            total = total + float(trace.log_probs[place])
            continue
        row = network.base_addresses.index(site.base)
        entry = network.vocabulary.rows[row]
        x = torch.cat([embedding, network.address[row], network.instance.weight[site.instance], before])
        state = plain_cell(network.core.cell, config.recurrent, x, state)
        head = network.heads[entry.head]
        mlp = head.mlp
        hidden = torch.relu(state[0] @ mlp.weight_in[entry.head_row] + mlp.bias_in[entry.head_row])
        raw = hidden @ mlp.weight_out[entry.head_row] + mlp.bias_out[entry.head_row]
        value = float(trace.value(place))
        start, stop = trace.layout.parameter_offsets[place : place + 2]
        parameters = torch.as_tensor(trace.parameters[start:stop])
        padded = torch.zeros(max(head.prior_width, len(parameters)), dtype=torch.float64)
        padded[: len(parameters)] = parameters
        prior, value_1 = padded[None], torch.tensor([value], dtype=torch.float64)
        proposal = head.shape_proposal(raw[None].double(), prior)
        total = total + head.log_prob(proposal, prior, value_1, torch.as_tensor(trace.log_probs[place : place + 1]))[0]
        before = value_embedding(network, entry, head, prior, value_1)
    return total


def plain_cell(cell, kind, x, state):
    inputs = cell.weight_ih_l0 @ x + cell.bias_ih_l0
    recurrent = cell.weight_hh_l0 @ state[0] + cell.bias_hh_l0
    if kind == "lstm":
        enter, forget, new, leave = (inputs + recurrent).chunk(4)
        memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
        return torch.stack([torch.sigmoid(leave) * torch.tanh(memory), memory])
    (reset, update, new), (reset_h, update_h, new_h) = inputs.chunk(3), recurrent.chunk(3)
    candidate = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    keep = torch.sigmoid(update + update_h)
    return (keep * state[0] + (1.0 - keep) * candidate)[None]


def value_embedding(network, entry, head, prior, value):
    coordinate = float(head.coordinate(prior, value)[0])
    last = entry.num_entries - 1
    place = min(coordinate, last) if entry.is_discrete else coordinate * last
    below = min(int(place), last)
    table = network.value.weight[entry.first_entry : entry.first_entry + entry.num_entries]
    share = place - below
    return (1.0 - share) * table[below] + share * table[min(below + 1, last)]


@pytest.mark.parametrize("recurrent", ["lstm", "gru"])
@pytest.mark.parametrize("simulator", [mixed, every_family], ids=["mixed", "every_family"])
def test_loss_and_gradients_equal_the_loop_over_traces(simulator, recurrent):
    batch = simulate(simulator, 12)
    network = grown_network(batch, recurrent=recurrent)

    packed = network.trace_log_probs(network.steps(batch), network.embed(batch.observations))
    (-packed.mean()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    reference = torch.stack([reference_log_q(network, trace) for trace in batch])
    (-reference.mean()).backward()

    assert len(batch.layouts) > 5 or simulator is every_family
    torch.testing.assert_close(packed, reference, rtol=1e-5, atol=1e-5)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-5, msg=name)
