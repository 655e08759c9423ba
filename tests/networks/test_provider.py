"""The network fits the interface by which inference knows it; the type checker reads this file."""

import pytest

pytest.importorskip("torch")

import numpy as np

from tracestore.execution.provider import ProposalProvider, ProposalSession
from tracestore.networks import ProposalNetwork


def as_provider(network: ProposalNetwork) -> ProposalProvider:
    return network


def start(provider: ProposalProvider) -> ProposalSession:
    return provider.session([{"seen": np.zeros(())}], 2)


def test_a_network_is_a_provider():
    provider = as_provider(ProposalNetwork({"seen": ()}))
    assert provider.job.verb == "train"
    assert list(provider.base_addresses) == []
    assert start(provider).propose([], [], [], []) == []
