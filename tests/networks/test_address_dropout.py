"""Hidden rows: addresses that the network lacks are served by what it learned while it could not see some it has."""

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import tracestore as ts
from tests.networks.programs import mixed, observed, simulate
from tracestore.networks import NetworkConfig, ProposalNetwork
from tracestore.networks.sites import AddressRow
from tracestore.traces import TraceBatch
from tracestore.traces.distributions import from_parameters

SMALL = {"core_size": 16, "observation_size": 8, "head_size": 16, "max_instance": 3, "mixture_size": 2}


def chooser(first, last):
    """A program that draws at one of several places; what it observes tells the value, wherever that was drawn."""

    @ts.simulator
    def program():
        place = ts.sample(ts.Categorical([1.0 / (last - first)] * (last - first)), address="place", control=False)
        size = 3 + (first + place) % 3  # two widths of one table of heads
        kind = ts.sample(ts.Categorical([1.0 / size] * size), address=f"kind{first + place}")
        value = ts.sample(ts.Normal(0.0, 1.0), address=f"value{first + place}")
        ts.observe(ts.Normal(value, 0.2), name="value")
        ts.observe(ts.Normal(kind, 0.2), name="kind")

    return program


TRAINED, UNSEEN = chooser(0, 6), chooser(6, 10)


def make_network(batch, **settings):
    network = ProposalNetwork(
        {name: column.shape[1:] for name, column in batch.observations.items()}, NetworkConfig(**{**SMALL, **settings})
    )
    network.observation.fit({name: torch.as_tensor(column) for name, column in batch.observations.items()})
    network.grow(network.unknown_sites(batch))
    return network


def log_q(network, batch, hide=None):
    return network.trace_log_probs(network.steps(batch, hide=hide), network.embed(batch.observations))


def fit(network, batch, num_steps=100):
    optimizer, rng = torch.optim.Adam(network.parameters(), 2e-2), np.random.default_rng(1)
    for step in range(num_steps):
        part = batch.take(rng.choice(len(batch), 64, replace=False))
        optimizer.zero_grad()
        (-log_q(network, part, hide=step).mean()).backward()
        for parameter in network.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        optimizer.step()


def log_prior(batch):
    return torch.tensor(
        [
            sum(log for log, site in zip(trace.log_probs, trace.sites, strict=True) if site.is_controlled)
            for trace in batch
        ]
    )


def proposals(network, trace):
    """What a session proposes along a recorded trace, and the log q of its values."""
    session, previous, found, total = network.session(trace.observations, 2), None, [], 0.0
    for position, site in enumerate(trace.sites):
        if site.is_controlled:
            start, stop = trace.layout.parameter_offsets[position : position + 2]
            prior = from_parameters(site.family, trace.parameters[start:stop], site.shape)
            proposal = session.propose([1], [site], [prior], [previous])[0]
            previous = trace.value(position)
            found.append(proposal)
            total += (proposal or prior).log_prob(previous)
    return found, total


@pytest.mark.parametrize("heads", ["own", "shared"])
def test_unseen_addresses_get_a_proposal_that_was_learned(heads):
    batch, unseen = simulate(TRAINED, 600), simulate(UNSEEN, 200, seed=2)
    network = make_network(batch, address_dropout=0.3, heads=heads)
    fit(network, batch)
    with torch.no_grad():
        gain = (log_q(network, unseen) - log_prior(unseen)).mean()
        known = (log_q(network, batch) - log_prior(batch)).mean()
    # value and kind are known up to a fifth, which is worth 1.6 and 1.4 nats in the end
    assert gain > 0.5
    assert known > 0.5


@pytest.mark.parametrize("heads", ["own", "shared"])
def test_unseen_addresses_use_the_prior_without_dropout(heads):
    batch, unseen = simulate(TRAINED, 60), simulate(UNSEEN, 5, seed=2)
    network = make_network(batch, heads=heads)
    for trace in unseen:
        assert proposals(network, trace)[0] == [None, None]
    torch.testing.assert_close(log_q(network, unseen), log_prior(unseen))


@pytest.mark.parametrize(
    "settings",
    [{}, {"heads": "shared"}, {"sample_embedding": "linear"}, {"rows": "address"}, {"core": "transformer"}],
    ids=["own", "shared", "linear", "address", "transformer"],
)
def test_a_session_proposes_for_unseen_addresses_what_training_scores(settings):
    network = make_network(simulate(TRAINED, 60), address_dropout=0.5, **settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    unseen = simulate(UNSEEN, 20, seed=2)
    for row, trace in enumerate(unseen):
        found, total = proposals(network, trace)
        assert None not in found
        expected = network.session(observed(unseen, row), 1).log_prob(unseen.take([row]))[0]
        assert total == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("rows", ["base", "address"])
def test_each_head_has_one_hidden_row(rows):
    network = make_network(simulate(mixed, 60), address_dropout=0.5, rows=rows)
    hidden = [row for row in network.vocabulary.rows if row.is_hidden]
    assert sorted(row.head for row in hidden) == sorted(network.heads)
    assert len({row.key for row in network.vocabulary.rows}) == len(network.vocabulary)
    assert "" not in network.base_addresses
    assert set(network.base_addresses) == set(make_network(simulate(mixed, 60), rows=rows).base_addresses)


@pytest.mark.parametrize(("embedding", "num_extra"), [("curve", 0), ("linear", 1)])
def test_a_hidden_row_has_an_entry_for_every_category_of_its_head(embedding, num_extra):
    network = make_network(simulate(TRAINED, 60), address_dropout=0.5, sample_embedding=embedding)
    entries = {row.head: row.num_entries for row in network.vocabulary.rows if row.is_hidden}
    assert entries["Categorical_4"] == 4 + num_extra
    assert entries["Categorical_8"] == 8 + num_extra


def test_rows_of_addresses_start_as_without_dropout():
    """Hidden rows come in between, and nothing else changes."""
    batch = simulate(mixed, 60)
    one, two = make_network(batch), make_network(batch, address_dropout=0.5)
    places = [place for place, row in enumerate(two.vocabulary.rows) if not row.is_hidden]
    torch.testing.assert_close(two.address.weight[places], one.address.weight, rtol=0, atol=0)
    torch.testing.assert_close(log_q(two, batch), log_q(one, batch))


def test_what_is_hidden_depends_on_the_minibatch_number_alone():
    batch = simulate(TRAINED, 60)
    network, again = (make_network(batch, address_dropout=0.5) for _ in range(2))

    def hidden(network, traces, minibatch):
        plain, steps = network.steps(traces), network.steps(traces, hide=minibatch)
        rows = network.vocabulary.rows
        changed = {rows[int(row)].key: plain.row[plain.row == row] != steps.row[plain.row == row] for row in plain.row}
        assert all(flags.all() or not flags.any() for flags in changed.values())
        for row, substitute in zip(plain.row.tolist(), steps.row.tolist(), strict=True):
            assert row == substitute or (rows[substitute].is_hidden and rows[substitute].head == rows[row].head)
        return {key for key, flags in changed.items() if flags.any()}

    choices = [hidden(network, batch, minibatch) for minibatch in range(40)]
    for minibatch, choice in enumerate(choices):
        halves = [hidden(again, batch.take(range(start, start + 30)), minibatch) for start in (0, 30)]
        assert halves[0] | halves[1] == choice
    addresses = set(network.base_addresses)
    assert set().union(*choices) == addresses
    assert 0.4 < sum(map(len, choices)) / (40 * len(addresses)) < 0.6
    other_seed = make_network(batch, address_dropout=0.5, seed=1)
    assert [hidden(other_seed, batch, minibatch) for minibatch in range(40)] != choices


def test_hidden_addresses_get_no_gradient_and_hidden_rows_do():
    batch = simulate(TRAINED, 60)
    network = make_network(batch, address_dropout=0.5)
    steps = network.steps(batch, hide=3)
    network.trace_log_probs(steps, network.embed(batch.observations)).sum().backward()
    touched = network.touched_rows(steps)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            rows = set(parameter.grad.coalesce().indices()[0].tolist())
            assert rows <= set(touched[name].tolist()), name
    rows = network.vocabulary.rows
    used = {int(row) for row in steps.row}
    assert any(rows[row].is_hidden for row in used)
    assert set(touched["address.weight"].tolist()) == used
    assert len({row.key for row in rows if not row.is_hidden} - {rows[row].key for row in used}) > 2


def test_hidden_rows_survive_being_written():
    batch, unseen = simulate(TRAINED, 60), simulate(UNSEEN, 10, seed=2)
    network = make_network(batch, address_dropout=0.5)
    rows = [AddressRow(**row) for row in network.vocabulary.to_dicts()]
    again = ProposalNetwork(network.observation.shapes, network.config, rows=rows)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(log_q(again, unseen), log_q(network, unseen), rtol=0, atol=0)
    assert not torch.equal(log_q(again, unseen).detach(), log_prior(unseen))


def test_growing_adds_no_second_hidden_row():
    batch, more = simulate(TRAINED, 60), simulate(UNSEEN, 60, seed=2)
    one, two = make_network(batch, address_dropout=0.5), make_network(more, address_dropout=0.5)
    one.grow(one.unknown_sites(more))
    two.grow(two.unknown_sites(batch))
    assert sum(row.is_hidden for row in one.vocabulary.rows) == len(one.heads)
    assert sorted(row.key for row in one.vocabulary.rows) == sorted(row.key for row in two.vocabulary.rows)
    one.observation.load_state_dict(two.observation.state_dict())  # standardized by other traces
    both = TraceBatch.from_traces([*batch, *more])
    torch.testing.assert_close(log_q(one, both), log_q(two, both), rtol=1e-5, atol=1e-5)
