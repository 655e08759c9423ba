"""Attention over the prefix of a trace: packed, step by step, and written out site by site."""

from collections import defaultdict

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tracestore as ts
from tests.networks.programs import mixed, observed, simulate, tensors
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.networks.transformer import FIRST_CAPACITY, TransformerCore, group_traces
from tracestore.traces.distributions import from_parameters

LENGTHS = [3 * FIRST_CAPACITY, 70, 41, 40, 33, 17, 16, 9, 5, 1]
"""Several groups; the longest outgrows a new memory twice."""


def batch_sizes(lengths):
    return torch.tensor([sum(length > step for length in lengths) for step in range(max(lengths))])


@pytest.fixture
def core():
    core = TransformerCore(4, 12, num_layers=2, num_heads=3)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return core


@pytest.fixture
def inputs():
    return torch.randn(sum(LENGTHS), 4, generator=torch.Generator().manual_seed(2))


def by_trace(packed, lengths=LENGTHS):
    """Split a packed sequence into its traces."""
    steps = packed.split(batch_sizes(lengths).tolist())
    return [torch.stack([step[place] for step in steps if place < len(step)]) for place in range(len(lengths))]


def reference(core, x):
    """One trace, site after site, from the definition."""
    outputs, keys, values = [], defaultdict(list), defaultdict(list)
    before = core.start
    for site in x:
        state = core.here.weight @ site + core.here.bias + before
        before = core.before.weight @ site
        for number, layer in enumerate(core.layers):
            linear = layer.query_key_value
            query, key, value = (linear.weight @ normed(layer.attention_norm, state) + linear.bias).chunk(3)
            keys[number].append(key)
            values[number].append(value)
            heads = []
            for head in torch.arange(core.size).chunk(core.num_heads):
                scores = torch.stack([query[head] @ key[head] for key in keys[number]]) / len(head) ** 0.5
                weights = scores.exp() / scores.exp().sum()
                heads.append(sum(weight * value[head] for weight, value in zip(weights, values[number], strict=True)))
            state = state + layer.output.weight @ torch.cat(heads) + layer.output.bias
            hidden = layer.mlp_in.weight @ normed(layer.mlp_norm, state) + layer.mlp_in.bias
            hidden = hidden * 0.5 * (1.0 + torch.erf(hidden / 2.0**0.5))
            state = state + layer.mlp_out.weight @ hidden + layer.mlp_out.bias
        outputs.append(normed(core.norm, state))
    return torch.stack(outputs)


def normed(norm, x):
    return (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


def test_the_packed_pass_equals_attention_written_out(core):
    lengths = [19, 18, 9, 8, 1]
    inputs = torch.randn(sum(lengths), 4)
    found = core(inputs, batch_sizes(lengths))
    expected = [reference(core, x) for x in by_trace(inputs, lengths)]
    for outputs, reference_outputs in zip(by_trace(found, lengths), expected, strict=True):
        torch.testing.assert_close(outputs, reference_outputs, rtol=1e-5, atol=1e-5)
    weights = list(core.parameters())
    gradients = torch.autograd.grad(found.pow(3).sum() / len(found), weights)
    references = torch.autograd.grad(torch.cat(expected).pow(3).sum() / len(found), weights)
    for gradient, reference_gradient in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference_gradient, rtol=1e-5, atol=1e-5)


def test_slots_follow_the_packed_pass(core, inputs):
    """Traces that advance in turns, in any slots and after another trace, get what the packed pass gives them."""
    expected, traces = by_trace(core(inputs, batch_sizes(LENGTHS)).detach()), by_trace(inputs)
    memory, slots = core.memory(16), np.random.default_rng(3).permutation(16)[: len(LENGTHS)].tolist()
    for _ in range(20):
        memory.advance(slots, torch.ones(len(slots), 4))
    for slot in slots:
        memory.restart(slot)
    found: dict[int, list[torch.Tensor]] = defaultdict(list)
    rng = np.random.default_rng(4)
    while live := [place for place, length in enumerate(LENGTHS) if len(found[place]) < length]:
        chosen = rng.permutation(live)[: rng.integers(1, len(live) + 1)]
        x = torch.stack([traces[place][len(found[place])] for place in chosen])
        for place, output in zip(chosen, memory.advance([slots[place] for place in chosen], x), strict=True):
            found[place].append(output)
    for outputs, reference_outputs in zip([found[place] for place in range(len(LENGTHS))], expected, strict=True):
        torch.testing.assert_close(torch.stack(outputs), reference_outputs, rtol=1e-5, atol=1e-5)


def test_gradients_are_exact(core, inputs):
    core, lengths = core.double(), [18, 8, 2]
    x = inputs[: sum(lengths)].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: core(x, batch_sizes(lengths)), (x,), fast_mode=True)


def test_less_than_half_of_the_grid_is_padding():
    rng = np.random.default_rng(5)
    lengths = sorted(rng.lognormal(3.0, 1.5, 300).astype(int) + 17, reverse=True)
    groups = group_traces(batch_sizes(lengths))
    assert sum(lengths) <= groups.size < 2 * sum(lengths)
    assert len(groups.shapes) <= np.log2(max(lengths))
    assert sum(traces for traces, _ in groups.shapes) == len(lengths)
    assert len(set(groups.place_P.tolist())) == sum(lengths)


def test_a_long_trace_takes_no_table_of_all_pairs():
    """Memory grows with the sites, forward and backward, not with their square."""
    core, lengths = TransformerCore(4, 8, num_heads=2), [1500, 3]
    with _Largest() as watch:
        core(torch.randn(sum(lengths), 4), batch_sizes(lengths)).sum().backward()
    assert watch.largest < 100 * sum(lengths)


class _Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor holds."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


# -------------------------------------------------------------------------------------------------- the whole network


@ts.simulator
def looping():
    """Up to a hundred draws of one base address."""
    scale = ts.sample(ts.Exponential(0.05), name="scale")
    total = 0.0
    for _ in range(min(int(scale), 90)):
        total += ts.sample(ts.Normal(0.0, 1.0), name="part")
    ts.observe(ts.Normal(total, 1.0), name="seen")


def make_network(batch, **settings):
    sizes = {"core_size": 12, "observation_size": 8, "head_size": 10, "max_instance": 100, "mixture_size": 3}
    network = ProposalNetwork(
        {name: column.shape[1:] for name, column in batch.observations.items()},
        NetworkConfig(core="transformer", **{**sizes, **settings}),
    )
    network.observation.fit(tensors(batch).observations)
    network.grow(network.unknown_sites(batch))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network


def log_q(network, batch):
    return network.trace_log_probs(network.steps(batch), network.embed(batch.observations))


def gradients(network, loss):
    network.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: parameter.grad.to_dense().clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("simulator", [mixed, looping], ids=["mixed", "looping"])
@pytest.mark.parametrize("heads", ["own", "shared"])
def test_traces_do_not_see_each_other(simulator, heads):
    batch = simulate(simulator, 12)
    network = make_network(batch, core_layers=2, heads=heads)
    together = log_q(network, batch)
    found = gradients(network, -together.mean())
    alone = torch.cat([log_q(network, batch.take([row])) for row in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(network, -alone.mean()).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("simulator", [mixed, looping], ids=["mixed", "looping"])
def test_a_session_proposes_the_densities_that_training_scores(simulator):
    batch = simulate(simulator, 8)
    network = make_network(batch, core_layers=2)
    for row in range(len(batch)):
        trace, total, previous = batch[row], 0.0, None
        session = network.session(observed(batch, row), 3)
        for position, site in enumerate(trace.sites):
            if site.is_controlled:
                start, stop = trace.layout.parameter_offsets[position : position + 2]
                prior = from_parameters(site.family, trace.parameters[start:stop], site.shape)
                proposal = session.propose([1], [site], [prior], [previous])[0]
                previous = trace.value(position)
                total += (proposal or prior).log_prob(previous)
        assert total == pytest.approx(session.log_prob(batch.take([row]))[0], abs=1e-5)
