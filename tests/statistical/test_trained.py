"""Inference compilation with trained networks against exact answers: right whatever the network has learned."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import tracestore as ts
from tests.statistical.programs import PROGRAMS, rejection_beta
from tests.statistical.test_engines import assert_exact, by_label
from tracestore.errors import InvalidInputError
from tracestore.inference import ic, importance, rmh
from tracestore.simulators.base import Simulator

training = pytest.importorskip("tracestore.training")

pytestmark = pytest.mark.statistical

CONFIG = training.TrainConfig(
    epochs=3,
    batch_size=64,
    network=training.NetworkConfig(core_size=32, observation_size=16, head_size=16, mixture_size=4, max_instance=8),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Networks by program, trained when they are first asked for."""
    return {"folder": tmp_path_factory.mktemp("networks")}


def network_for(program: Simulator, trained: dict[str, Any], *, collapse: bool = False) -> Any:
    key = f"{program.__name__}{'-collapsed' if collapse else ''}"
    if key not in trained:
        folder = Path(str(trained["folder"])) / key
        store = ts.simulate(program, folder / "traces", num_traces=2500, seed=7, collapse_rejection=collapse)
        config = dataclasses.replace(CONFIG, epochs=40, learning_rate=3e-3) if collapse else CONFIG
        trained[key] = training.train(store, folder / "network", config=config)
    return trained[key]


@pytest.mark.parametrize("label", [exact.label for exact in PROGRAMS])
def test_ic_is_exact(label: str, trained: dict[str, Any], tmp_path: Path) -> None:
    exact = by_label(label)
    network = network_for(exact.program, trained)
    posterior = ic(
        exact.program,
        exact.observations,
        tmp_path / "post",
        network=network,
        num_draws=5000,
        seed=201,
    )
    assert posterior.ess > 30
    assert_exact(posterior, exact)


class TestAmortizedRejection:
    def test_is_exact_and_better_than_the_prior_in_the_loop(self, trained: dict[str, Any], tmp_path: Path) -> None:
        exact = by_label("rejection_beta 5")
        settings: dict[str, Any] = {"num_draws": 5000, "seed": 202}
        amortized = ic(
            exact.program, exact.observations, tmp_path / "amortized",
            network=network_for(exact.program, trained, collapse=True), amortize_rejection=True, **settings,
        )  # fmt: skip
        assert_exact(amortized, exact)
        plain = importance(exact.program, exact.observations, tmp_path / "plain", **settings)
        assert amortized.ess > 1.3 * plain.ess

    def test_networks_and_loops_must_go_together(self, trained: dict[str, Any], tmp_path: Path) -> None:
        seen = {"five": 5.0}
        for collapse in (False, True):
            network = network_for(rejection_beta, trained, collapse=collapse)
            with pytest.raises(InvalidInputError, match=r"(amortize|collapse)_rejection=True"):
                ic(
                    rejection_beta, seen, tmp_path / "post", network=network, num_draws=10,
                    amortize_rejection=not collapse,
                )  # fmt: skip
        with pytest.raises(InvalidInputError, match="rejection loops are collapsed"):
            rmh(rejection_beta, seen, tmp_path / "post", network=network, num_draws=40)
        assert not (tmp_path / "post").exists()
