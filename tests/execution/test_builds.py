"""Stores of programs whose addresses hold for one build."""

from pathlib import Path

import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError, SimulatorProtocolError, StoreExistsError
from tracestore.simulators import Simulator, toys


def program(build: str) -> Simulator:
    return Simulator(toys.gum.function, name="program", build=build)


def test_the_job_records_the_build_and_a_sorted_copy_keeps_it(tmp_path: Path) -> None:
    store = ts.simulate(program("id 1234"), tmp_path / "traces", num_traces=20, seed=1)
    assert store.job is not None
    assert store.job.fields["build"] == "id 1234"
    assert str(store.job.fields["fingerprint"]).startswith("build-")
    copy = ts.sort_store(store, tmp_path / "sorted")
    assert copy.job is not None
    assert copy.job.fields["build"] == "id 1234"


def test_a_simulator_without_a_build_has_none_in_its_job(tmp_path: Path) -> None:
    store = ts.simulate(toys.gum, tmp_path / "traces", num_traces=20, seed=1)
    assert store.job is not None
    assert "build" not in store.job.fields
    assert not str(store.job.fields["fingerprint"]).startswith("build-")


def test_another_build_does_not_continue_a_store(tmp_path: Path) -> None:
    ts.simulate(program("one"), tmp_path / "traces", num_traces=20, seed=1)
    with pytest.raises(StoreExistsError, match=r"`fingerprint` is 'build-"):
        ts.simulate(program("two"), tmp_path / "traces", num_traces=20, seed=1)


def test_another_build_is_not_appended(tmp_path: Path) -> None:
    ts.simulate(program("one"), tmp_path / "traces", num_traces=20, seed=1)
    with pytest.raises(InvalidInputError, match="traces of another build of 'program'"):
        ts.simulate(program("two"), tmp_path / "traces", num_traces=20, seed=1, append=True)
    assert len(ts.simulate(program("one"), tmp_path / "traces", num_traces=5, seed=1, append=True)) == 25


def test_a_rerouted_simulator_that_does_not_repeat_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    numbers = iter(range(100))

    def drifting() -> None:
        ts.sample(ts.Normal(float(next(numbers)), 1.0), name="x")

    with pytest.raises(SimulatorProtocolError, match=r"the prior of the sample 'x'"):
        ts.simulate(Simulator(drifting, build="one"), tmp_path / "traces", num_traces=20, seed=1)
    assert not (tmp_path / "traces").exists()
