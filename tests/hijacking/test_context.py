import importlib
import os
import pickle
import random
import threading
import types
from dataclasses import dataclass

import greenlet
import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError
from tracestore.execution.greenlet_slots import GreenletSlots
from tracestore.execution.slots import Asked, Finished, Runner, WaveRun
from tracestore.hijacking import drawing, hijack
from tracestore.simulators import PriorController, Simulator, run_trace

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _first_runs(monkeypatch):
    monkeypatch.setattr("tracestore.hijacking.leaks._num_runs", {})


def run(function, seed=1):
    return run_trace(Simulator(function), PriorController(), np.random.default_rng(seed))


def is_native():
    return not isinstance(np.random.Generator.normal, types.FunctionType)


def places(trace):
    assert trace.failure == ""
    return [site.address for site in trace.sites if site.family]


def test_a_block_records():
    def program():
        with hijack("numpy"):
            speed = RNG.normal()
        return 2.0 * speed

    assert places(run(program)) == ["test_a_block_records.<locals>.program:speed/normal~Normal#1"]


def test_a_decorated_function_is_the_root_of_its_addresses():
    @hijack("numpy")
    def program():
        speed = RNG.normal()
        return 2.0 * speed

    assert places(run(program)) == [
        "test_a_decorated_function_is_the_root_of_its_addresses.<locals>.program:speed/normal~Normal#1"
    ]
    assert Simulator(program).is_rerouted
    assert program.__name__ == "program"


def test_frames_of_pythons_random_are_no_places():
    @hijack("random")
    def program():
        wait = random.triangular(0.0, 1.0, 0.5)  # draws a uniform number inside
        return 2.0 * wait

    name = "test_frames_of_pythons_random_are_no_places.<locals>.program"
    assert places(run(program)) == [f"{name}:wait/random~Uniform#1"]


def test_a_function_with_a_block_is_rerouted():
    def program():
        with hijack("numpy"):
            return RNG.normal()

    assert Simulator(program).is_rerouted
    assert Simulator(lambda: ts.hijack).is_rerouted
    assert not Simulator(lambda: RNG.normal()).is_rerouted


def test_what_a_module_draws_while_it_is_imported_is_not_the_programs(tmp_path, monkeypatch):
    (tmp_path / "draws_at_import.py").write_text("import random\nLUCK = random.random()\n")
    monkeypatch.syspath_prepend(tmp_path)

    def program():
        with hijack("numpy", "random"):
            luck = importlib.import_module("draws_at_import").LUCK
            speed = RNG.normal()
        return speed + luck

    first, second = run(program), run(program)
    assert places(first) == places(second)
    assert [site.family for site in first.sites] == ["Normal", ""]


def test_sources_are_optional():
    @hijack
    def program():
        return RNG.normal()

    assert [site.family for site in run(program).sites] == ["Normal", ""]


def test_arguments_and_results_pass_through():
    @hijack("numpy")
    def add(first, *, second):
        return first + second

    assert add(1, second=2) == 3


def test_addresses_tell_call_sites_apart():
    def draw():
        return RNG.normal()

    @hijack("numpy")
    def program():
        first = draw()
        second = draw()
        return first + second

    assert len({*places(run(program))}) == 2


def test_outside_of_a_run_numbers_are_those_of_the_generator():
    expected = np.random.default_rng(9).normal(size=3)
    with hijack("numpy"):
        found = np.random.default_rng(9).normal(size=3)
    assert found.tolist() == expected.tolist()


def test_nested_blocks_end_with_the_outermost():
    def program():
        with hijack("numpy"):
            with hijack("numpy"):
                RNG.normal()
            RNG.poisson(3.0)
        assert is_native()
        RNG.random()

    assert [place.rpartition("/")[2] for place in places(run(program))] == ["normal~Normal#1", "poisson~Poisson#1"]


def test_one_block_is_entered_again_and_again():
    block = hijack("numpy")

    def program():
        with block, block:
            return RNG.normal()

    assert len(places(run(program))) == len(places(run(program))) == 1
    assert is_native()


def test_errors_inside_end_the_block():
    def program():
        with hijack("numpy"):
            raise ValueError("too hot")

    assert run(program).failure == "ValueError: too hot"
    assert is_native()


def test_a_block_around_a_run_records_it():
    def program():
        return RNG.normal()

    with hijack("numpy"):
        trace = run(program)
        RNG.normal()
    assert places(trace) == ["test_a_block_around_a_run_records_it.<locals>.program:return/normal~Normal#1"]


def test_draws_of_the_library_itself_are_not_recorded():
    def program():
        with hijack("numpy"):
            return ts.sample(ts.Gamma(2.0, 1.0)) + ts.sample(
                ts.Mixture([ts.Normal(0.0, 1.0), ts.Uniform(0.0, 1.0)], [0.5, 0.5])
            )

    assert [site.family for site in run(program).sites[:2]] == ["Gamma", "Mixture(Normal,Uniform)"]


def test_a_run_inside_a_run_has_a_trace_of_its_own():
    inner = []

    def small():
        return RNG.normal()

    def program():
        with hijack("numpy"):
            RNG.random()
            inner.append(run(small))
            RNG.poisson(2.0)

    outer = run(program)
    assert [site.family for site in outer.sites] == ["Uniform", "Poisson"]
    assert [site.family for site in inner[0].sites] == ["Normal", ""]


def test_unknown_sources_are_refused():
    with pytest.raises(InvalidInputError, match="must be among numpy, random, torch; got 'nmupy'"):
        hijack("nmupy")


def test_unknown_ways_with_leaks_are_refused():
    with pytest.raises(InvalidInputError, match="must be 'raise', 'warn' or 'ignore'; got 'no'"):
        hijack("numpy", leaks="no")  # type: ignore[call-overload]


def test_functions_that_do_not_run_when_called_are_refused():
    def steps():
        yield RNG.normal()

    async def later():
        return RNG.normal()

    for function in (steps, later):
        with pytest.raises(InvalidInputError, match="cannot decorate what yields or awaits"):
            hijack("numpy")(function)


def test_simulators_are_declared_last():
    with pytest.raises(InvalidInputError, match="must decorate the function, below `simulator`"):
        hijack("numpy")(Simulator(walk))


@hijack("numpy")
def decorated():
    return RNG.normal()


def test_decorated_functions_are_pickled_by_name():
    assert pickle.loads(pickle.dumps(decorated)) is decorated


def test_a_source_that_fails_to_install_leaves_nothing_behind(monkeypatch):
    class Broken:
        def install(self):
            raise RuntimeError("broken")

        def remove(self):
            raise AssertionError("never installed")

    from tracestore.hijacking import context

    monkeypatch.setitem(context._installed.known, "torch", Broken())
    with pytest.raises(RuntimeError, match="broken"), hijack("numpy", "torch"):
        pass
    assert is_native()


def test_draws_of_threads_belong_to_the_trace():
    found = []

    def work():
        found.append(RNG.normal())

    def program():
        with hijack("numpy"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return found[-1] + RNG.random()

    trace = run(program)
    assert [site.family for site in trace.sites] == ["Normal", "Uniform", ""]
    assert trace.sites[0].address == f"{work.__qualname__}:RNG.normal()/normal~Normal#1"


def test_many_threads_do_not_corrupt_the_recorder():
    def work():
        for _ in range(100):
            RNG.normal()

    def program():
        with hijack("numpy"):
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    trace = run(program)
    assert len(trace.sites) == len(trace.values) == 400
    assert len({site.address for site in trace.sites}) == 400


def test_a_thread_that_outlives_its_run_draws_without_a_trace():
    started, go = threading.Event(), threading.Event()
    found = []

    def work():
        started.set()
        go.wait(10)
        found.append(RNG.normal())

    threads = []

    def program():
        with hijack("numpy"):
            threads.append(threading.Thread(target=work))
            threads[0].start()
            started.wait(10)

    assert run(program).sites == ()
    go.set()
    threads[0].join()
    assert len(found) == 1


def test_greenlets_of_the_program_belong_to_the_trace():
    def program():
        with hijack("numpy"):
            return greenlet.greenlet(RNG.normal).switch()

    assert [site.family for site in run(program).sites] == ["Normal", ""]


def walk():
    with hijack("numpy"):
        position = 0.0
        for _ in range(3):
            position += RNG.normal(0.0, 1.0)
    ts.observe(ts.Normal(position, 1.0), name="seen")
    return position


def test_runs_in_flight_do_not_mix():
    def waves():
        hub = np.random.default_rng(8)
        slots = GreenletSlots(Runner(Simulator(walk, reentrant=True)), 3)
        traces: dict[int, ts.Trace] = {}
        for slot in range(3):
            slots.start(slot, WaveRun(slot, np.random.default_rng([4, slot]), None))
        while len(traces) < 3:
            for event in slots.wait(None):
                if isinstance(event, Asked):
                    hub.random()  # the scheduler's, while all runs are suspended inside of draws
                    slots.answer(event.slot, None)
                elif isinstance(event, Finished):
                    traces[event.slot] = event.trace
        slots.close()
        return traces

    traces = waves()
    for slot, trace in traces.items():
        alone = run_trace(Simulator(walk), PriorController(), np.random.default_rng([4, slot]))
        assert trace.failure == ""
        assert [site.address for site in trace.sites] == [site.address for site in alone.sites]
        assert trace["result"] == alone["result"]
    assert is_native()


def test_closing_suspended_runs_removes_the_hooks():
    slots = GreenletSlots(Runner(Simulator(walk, reentrant=True)), 2)
    for slot in range(2):
        slots.start(slot, WaveRun(slot, np.random.default_rng(slot), None))
    assert not is_native()
    slots.close()
    assert is_native()


@pytest.mark.processes
def test_forked_processes_record_alike():
    expected = run(walk)["result"]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, repr(run(walk)["result"]).encode())
        os._exit(0)
    os.close(writing)
    found = os.read(reading, 100).decode()
    os.close(reading)
    os.waitpid(child, 0)
    assert float(found) == expected


def test_native_draws_are_not_recorded():
    def program():
        with hijack("numpy", leaks="ignore"), drawing.native():
            RNG.normal()

    assert run(program).sites == ()


def test_recording_is_over_after_the_run():
    run(walk)
    assert not drawing.recording()


async def _awaits():
    yield RNG.normal()


class _Yielding:
    def __call__(self):
        yield RNG.normal()


@pytest.mark.parametrize("late", [_awaits, _Yielding()], ids=["async generator", "object"])
def test_other_things_that_yield_are_refused(late):
    with pytest.raises(InvalidInputError, match="cannot decorate what yields or awaits"):
        hijack(late)


def test_a_function_that_returns_a_generator_is_refused_when_it_runs():
    program = hijack(lambda: (RNG.normal() for _ in range(1)))
    with pytest.raises(InvalidInputError, match="cannot decorate what yields or awaits"):
        run(program)


@pytest.mark.parametrize("what", [Simulator, 5], ids=["class", "number"])
def test_what_is_no_function_is_refused(what):
    with pytest.raises(InvalidInputError, match="decorates a function"):
        hijack("numpy")(what)


def test_names_in_a_list_are_refused():
    with pytest.raises(InvalidInputError, match=r"must be among numpy, random, torch; got \['numpy'\]"):
        hijack(["numpy"])  # type: ignore[call-overload]


def test_a_block_that_was_not_entered_cannot_end():
    with pytest.raises(InvalidInputError, match="ends where it was not entered"):
        hijack().__exit__(None, None, None)


def blocked(number, *sources):
    with hijack(*sources):
        for _ in range(number):
            yield random.random()


def test_blocks_of_generators_end_in_any_order():
    def program():
        first, second = blocked(1, "random"), blocked(3, "numpy")
        total = next(first) + next(second)  # `random` is recorded by the first block alone
        total += sum(first)
        total += RNG.normal()  # the second is still open
        return total + sum(second)

    families = [site.family for site in run(hijack(leaks="ignore")(program)).sites]
    assert families == ["Uniform", "Uniform", "Normal", "Uniform", "Uniform", ""]
    alone = [site.family for site in run(program).sites]
    assert alone == ["Uniform", "Uniform", "Normal", ""]


def test_a_block_that_outlives_its_run_does_not_record_the_next():
    kept = []

    def program():
        kept.append(blocked(5))
        return next(kept[0])

    assert [site.family for site in run(program).sites] == ["Uniform", ""]
    assert [site.family for site in run(lambda: RNG.normal()).sites] == [""]
    kept[0].close()
    assert is_native()


@dataclass
class Unhashable:
    scale: float

    def __call__(self):
        return self.scale * RNG.normal()


def test_programs_without_a_hash_are_recorded():
    program = Unhashable(2.0)
    assert [site.family for site in run(hijack("numpy")(program)).sites] == ["Normal", ""]
    with hijack("numpy"):
        assert [site.family for site in run(program).sites] == ["Normal", ""]
