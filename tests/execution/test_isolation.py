"""Chunks made in processes: all of them, whatever order they end in, and as many runs as the budget says."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tests.execution.fragile_programs import ENDINGS, fragile
from tracestore.errors import InvalidInputError
from tracestore.execution import Chunk, TraceStreams, plan_chunks, simulate
from tracestore.execution.isolation import Isolation, isolated_batches, running_alone
from tracestore.execution.prior_draws import PriorDraws
from tracestore.execution.slots import Runner, WaveRun
from tracestore.executors import SerialExecutor
from tracestore.simulators import Simulator, toys

RECIPE = PriorDraws(1, "test", 1000)


class TestArguments:
    @pytest.mark.parametrize(
        ("processes", "timeout", "words"),
        [
            (-1, None, "`simulator_processes` must be at least 0; got -1"),
            (2, 0.0, "`timeout` must be a positive number of seconds"),
            (2, float("nan"), "`timeout` must be a positive number of seconds"),
            (0, 5.0, "`timeout` needs `simulator_processes` of at least 1"),
        ],
    )
    def test_without_sense_are_refused(self, processes: int, timeout: float | None, words: str) -> None:
        with pytest.raises(InvalidInputError, match=words):
            Isolation.of(processes, timeout)

    def test_an_executor_is_refused_beside_them(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="`simulator_processes` or `executor`, not both"):
            simulate(toys.gum, tmp_path / "s", num_traces=2, simulator_processes=1, executor=SerialExecutor())
        assert not (tmp_path / "s").exists()


@pytest.mark.processes
class TestChunks:
    def test_are_those_of_one_process(self) -> None:
        chunks = plan_chunks(50, 7)
        made = dict(isolated_batches(toys.gum_marsaglia, RECIPE, Isolation(3), iter(chunks)))
        assert set(made) == set(chunks)
        for chunk, batch in made.items():
            wanted = RECIPE.make(toys.gum_marsaglia, chunk)
            np.testing.assert_array_equal(batch.stream, wanted.stream)
            np.testing.assert_array_equal(batch.values, wanted.values)
            np.testing.assert_array_equal(batch.parameters, wanted.parameters)
            assert [batch.layouts[index] for index in batch.layout_index] == [
                wanted.layouts[index] for index in wanted.layout_index
            ]

    def test_a_long_run_holds_up_only_its_own_chunk(self, tmp_path: Path) -> None:
        """The first run ends when a later chunk has been made, and it fails if that does not come to pass."""
        done = tmp_path / "done"

        def uneven() -> None:
            x = ts.sample(ts.Normal(0.0, 1.0))
            if x == first_value:
                while not done.exists():
                    time.sleep(0.01)

        first_value = float(RECIPE.make(Simulator(lambda: ts.sample(ts.Normal(0.0, 1.0))), Chunk(0, 0, 1)).values[0])
        order = []
        for chunk, _ in isolated_batches(Simulator(uneven), RECIPE, Isolation(2), iter(plan_chunks(12, 2))):
            order.append(chunk.index)
            if chunk.index == 4:
                done.touch()
        assert order.index(0) > order.index(4)
        assert sorted(order) == [0, 1, 2, 3, 4, 5]

    def test_are_read_only_as_far_as_they_are_needed(self) -> None:
        read: list[int] = []

        def endless() -> Iterator[Chunk]:
            for index in range(1_000_000):
                read.append(index)
                yield Chunk(index, 2 * index, 2)

        made = isolated_batches(toys.gum, RECIPE, Isolation(2), endless())
        next(made)
        made.close()
        assert len(read) < 10


@pytest.mark.processes
class TestGeneration:
    def test_does_not_depend_on_processes(self, tmp_path: Path) -> None:
        plain = simulate(toys.gum, tmp_path / "plain", num_traces=60, seed=1)
        apart = simulate(toys.gum, tmp_path / "apart", num_traces=60, seed=1, simulator_processes=2, workers=2)
        for name in ("stream", "log_prior", "log_likelihood"):
            np.testing.assert_array_equal(np.sort(plain.column(name)), np.sort(apart.column(name)))

    @pytest.mark.parametrize("how", ["crash", "exit"])
    def test_counts_what_failed(self, tmp_path: Path, how: str) -> None:
        store = simulate(fragile(how), tmp_path / "s", num_traces=100, seed=1, chunk_size=7, simulator_processes=3)
        assert sorted(store.column("stream").tolist()) == list(range(100))
        failed = [trace for trace in store if trace.failure]
        assert 30 < len(failed) < 70
        assert {trace.failure for trace in failed} == {ENDINGS[how]}

    def test_goes_on_where_another_way_of_running_stopped(self, tmp_path: Path) -> None:
        def stop(event: object) -> None:
            if getattr(event, "done", 0) >= 20:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            simulate(toys.gum, tmp_path / "s", num_traces=60, chunk_size=10, simulator_processes=2, observer=stop)
        store = simulate(toys.gum, tmp_path / "s", num_traces=60, chunk_size=10)
        assert sorted(store.column("stream").tolist()) == list(range(60))


@pytest.mark.parametrize("isolation", [None, pytest.param(Isolation(1), marks=pytest.mark.processes)])
def test_one_run_at_a_time(isolation: Isolation | None) -> None:
    streams = TraceStreams(1, "test")
    with running_alone(Runner(toys.gum), isolation) as run:
        found = [run(WaveRun(stream, streams.generator(stream), None, asks=False)) for stream in range(3)]
    assert [trace.stream for trace in found] == [0, 1, 2]
    assert [trace["mu"] for trace in found] == list(RECIPE.make(toys.gum, Chunk(0, 0, 3)).named("mu")[0])
