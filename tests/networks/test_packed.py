"""The packed pass equals a loop over traces and sites that is written from the definition of the network."""

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from tests.networks.programs import every_family, mixed, simulate, tensors
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.networks.tables import Table

SMALL = {"core_size": 12, "observation_size": 8, "head_size": 10, "max_instance": 3, "mixture_size": 3}
PAPER = {
    "rows": "address", "instance_size": 0, "family_size": 5, "sees_previous_address": True,
    "sample_embedding": "linear", "sample_size": 4, "head_size": None,
}  # fmt: skip
CONFIGS = {
    "lstm": {},
    "gru": {"core": "gru"},
    "layers": {"core_layers": 2},
    "feedforward": {"core": "feedforward"},
    "shared": {"heads": "shared"},
    "paper": PAPER,
}


def grown_network(batch, **settings):
    network = ProposalNetwork(
        {name: column.shape[1:] for name, column in batch.observations.items()}, NetworkConfig(**{**SMALL, **settings})
    )
    network.observation.fit(tensors(batch).observations)
    network.grow(network.unknown_sites(batch))
    generator = torch.Generator().manual_seed(7)
    for parameter in network.parameters():  # away from the special values of the initialization
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def reference_log_q(network, trace):
    """log q of one trace: one site after the other, one plain matrix product after the other."""
    config = network.config
    embedding = network.embed({name: np.asarray(value)[None] for name, value in trace.observations.items()})[0]
    keys = [row.key for row in network.vocabulary.rows]
    families = list(dict.fromkeys(row.family for row in network.vocabulary.rows))
    states, before = None, None
    total = torch.zeros((), dtype=torch.float64)
    for position, site in enumerate(trace.layout.sites):
        if not site.is_controlled:
            continue
        key = site.base if config.rows == "base" else site.address
        if key not in keys or (config.rows == "base" and site.instance > config.max_instance):
            total = total + float(trace.log_probs[position])
            continue
        row = keys.index(key)
        entry = network.vocabulary.rows[row]
        here = [network.address.weight[row], network.family.weight[families.index(site.family)]]
        instance = network.instance.weight[site.instance if config.rows == "base" else 1]
        sees_before = (
            [] if config.core == "feedforward" else [torch.zeros(before_size(config)) if before is None else before]
        )
        states = plain_core(network, torch.cat([embedding, *here, instance, *sees_before]), states)
        head = network.heads[entry.head]
        inputs = torch.cat([states[-1][0], *here, instance]) if config.heads == "shared" else states[-1][0]
        raw = plain_perceptron(head.mlp, entry.head_row, inputs)
        start, stop = trace.layout.parameter_offsets[position : position + 2]
        parameters = torch.as_tensor(trace.parameters[start:stop])
        prior = torch.zeros(1, max(head.prior_width, len(parameters)), dtype=torch.float64)
        prior[0, : len(parameters)] = parameters
        value = torch.as_tensor(np.asarray(trace.value(position), np.float64)).reshape(1, -1)
        value = value[:, 0] if entry.size == 1 else value
        proposal = head.shape_proposal(raw[None].double(), prior)
        log_prior = torch.as_tensor(trace.log_probs[position : position + 1])
        total = total + head.log_prob(proposal, prior, value, log_prior)[0]
        before = torch.cat(
            [value_embedding(network, entry, head, prior, value), *(here if config.sees_previous_address else [])]
        )
    return total


def before_size(config):
    return config.sample_size + (config.address_size + config.family_size) * config.sees_previous_address


def plain_perceptron(mlp, row, x):
    weight_in, weight_out = (table.weight[row].view(table.shape) for table in (mlp.weight_in, mlp.weight_out))
    return torch.relu(x @ weight_in + mlp.bias_in.weight[row]) @ weight_out + mlp.bias_out.weight[row]


def plain_core(network, x, states):
    config, core, new_states = network.config, network.core, []
    for layer in range(config.core_layers):
        if config.core == "feedforward":
            linear = core.layers[2 * layer]
            new_states.append(torch.relu(linear.weight @ x + linear.bias)[None])
        else:
            state = torch.zeros(2, config.core_size) if states is None else states[layer]
            new_states.append(plain_cell(core.cell, layer, config.core, x, state))
        x = new_states[-1][0]
    return new_states


def plain_cell(cell, layer, kind, x, state):
    inputs = getattr(cell, f"weight_ih_l{layer}") @ x + getattr(cell, f"bias_ih_l{layer}")
    recurrent = getattr(cell, f"weight_hh_l{layer}") @ state[0] + getattr(cell, f"bias_hh_l{layer}")
    if kind == "lstm":
        enter, forget, new, leave = (inputs + recurrent).chunk(4)
        memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
        return torch.stack([torch.sigmoid(leave) * torch.tanh(memory), memory])
    (reset, update, new), (reset_h, update_h, new_h) = inputs.chunk(3), recurrent.chunk(3)
    candidate = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
    keep = torch.sigmoid(update + update_h)
    return (keep * state[0] + (1.0 - keep) * candidate)[None]


def value_embedding(network, entry, head, prior, value):
    table = network.value.entries.weight[entry.first_entry : entry.first_entry + entry.num_entries]
    coordinates = head.coordinate(prior, value).reshape(-1).tolist()
    if network.config.sample_embedding == "linear":
        if entry.family == "Categorical":
            return torch.relu(table[int(coordinates[0])] + table[-1])
        return torch.relu(value.reshape(-1).float() @ table[:-1] + table[-1])
    total, count = 0.0, entry.num_entries // entry.num_elements
    for element, coordinate in enumerate(coordinates):
        place = min(coordinate, count - 1) if entry.is_discrete else coordinate * (count - 1)
        below = min(int(place), count - 1)
        knots = table[element * count : (element + 1) * count]
        share = place - below
        total = total + (1.0 - share) * knots[below] + share * knots[min(below + 1, count - 1)]
    return total


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("simulator", [mixed, every_family], ids=["mixed", "every_family"])
def test_loss_and_gradients_equal_the_loop_over_traces(simulator, settings):
    batch = simulate(simulator, 12)
    network = grown_network(batch, **settings)

    packed = network.trace_log_probs(network.steps(batch), network.embed(batch.observations))
    (-packed.mean()).backward()
    gradients = {name: dense(parameter.grad) for name, parameter in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    reference = torch.stack([reference_log_q(network, trace) for trace in batch])
    (-reference.mean()).backward()

    assert len(batch.layouts) > 5 or simulator is every_family
    torch.testing.assert_close(packed, reference, rtol=1e-5, atol=1e-5)
    for name, parameter in network.named_parameters():
        if parameter.numel():
            torch.testing.assert_close(gradients[name], dense(parameter.grad), rtol=1e-5, atol=1e-5, msg=name)


def dense(gradient):
    return gradient if gradient is None or not gradient.is_sparse else gradient.to_dense()


def test_a_batch_touches_the_rows_that_get_a_gradient():
    batch = simulate(mixed, 60)
    network = grown_network(batch, family_size=3)
    few = batch.take(np.flatnonzero(batch.num_sites == batch.num_sites.min()))
    steps = network.steps(few)
    network.trace_log_probs(steps, network.embed(few.observations)).sum().backward()
    touched = network.touched_rows(steps)
    sparse = {
        name: p.grad.coalesce() for name, p in network.named_parameters() if p.grad is not None and p.grad.is_sparse
    }
    assert set(sparse) <= set(touched)
    for name, gradient in sparse.items():
        assert set(gradient.indices()[0].tolist()) <= set(touched[name].tolist()), name
    assert len(touched["address.weight"]) < len(network.vocabulary)
    tables = {name for name, module in network.named_modules() if isinstance(module, Table)}
    assert set(touched) == {f"{name}.weight" for name in tables}
