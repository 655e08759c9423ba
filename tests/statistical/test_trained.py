"""Inference compilation with trained networks against exact answers: right whatever the network has learned."""

from pathlib import Path
from typing import Any

import pytest

import tracestore as ts
from tests.statistical.programs import PROGRAMS
from tests.statistical.test_engines import assert_exact, by_label
from tracestore.inference import ic
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
        trained[key] = training.train(store, folder / "network", config=CONFIG)
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
