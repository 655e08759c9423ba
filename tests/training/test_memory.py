"""Tables that would not fit are refused before they are built, with what they need and what there is."""

import pytest

pytest.importorskip("torch")

from tracestore.errors import NotEnoughMemoryError
from tracestore.networks import NETWORKS, NetworkConfig, ProposalNetwork
from tracestore.traces.layout import Site, SiteKind
from tracestore.training import TrainConfig, train
from tracestore.training.memory import available_memory, require_memory


def sites(count):
    return [Site(f"place{n}~Uniform#1", SiteKind.SAMPLE, True, f"x{n}", "Uniform", (), 2) for n in range(count)]


@pytest.mark.parametrize(
    "settings", [{}, {"heads": "shared"}, {"address_dropout": 0.1}, {"sample_embedding": "linear"}], ids=str
)
def test_the_bytes_are_those_of_the_tables_that_grow(settings):
    network = ProposalNetwork({"y": ()}, NetworkConfig(core_size=8, **settings))
    expected = network.row_bytes(sites(30))
    before = network.num_parameters
    network.grow(sites(30))
    grown = 4 * (network.num_parameters - before)
    # rows for hidden addresses are counted without their embedding
    assert grown == pytest.approx(expected, rel=0.04)
    assert (grown == expected) == ("address_dropout" not in settings)
    assert network.row_bytes(sites(30)) == 0


def test_too_little_memory_says_how_much_is_needed_and_there():
    network = ProposalNetwork({"y": ()}, NETWORKS["paper"].__class__(core_size=512, head_size=None))
    needed = 4 * network.row_bytes(sites(2000))
    require_memory(network, sites(2000), 2, needed)
    require_memory(network, sites(2000), 2, None)
    with pytest.raises(
        NotEnoughMemoryError, match=r"need [\d.]+ GiB for 2,000 rows .* only 0\.5 GiB are free"
    ) as caught:
        require_memory(network, sites(2000), 2, 2**29)
    assert caught.value.fields["needed"] == needed
    assert len(network.vocabulary) == 0


def test_the_system_says_what_is_free():
    available = available_memory()
    assert available is None or 2**20 < available < 2**60


def test_a_training_that_would_not_fit_leaves_nothing_half_made(tmp_path, monkeypatch):
    import tracestore as ts
    from tracestore.simulators import toys

    store = ts.simulate(toys.gum, tmp_path / "s", num_traces=100, seed=1)
    config = TrainConfig(network=NetworkConfig(core_size=8), epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("tracestore.training.run.available_memory", lambda: 1000)
        with pytest.raises(NotEnoughMemoryError):
            train(store, tmp_path / "n", config=config)
    assert train(store, tmp_path / "n", config=config).summary["num_steps"] > 0
