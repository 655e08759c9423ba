"""Where `hijack` finds the draws of Python's `random`: names, instances, subclasses; and what it leaves alone."""

import email.utils
import random
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tracestore.errors import SimulatorProtocolError
from tracestore.hijacking import hijack, leaks
from tracestore.hijacking.random_source import RandomSource
from tracestore.simulators import PriorController, Simulator, run_trace
from tracestore.traces import TraceStatus

BEFORE = random.Random(3)


@pytest.fixture(autouse=True)
def _first_run(monkeypatch):
    """Look for leaks in every test, although all run the same program."""
    monkeypatch.setattr(leaks, "_num_runs", {})


def record(function, **options):
    """Run a function with its draws recorded; return the trace."""

    def program():
        with hijack("random"):
            return function()

    return run_trace(Simulator(program), PriorController(), np.random.default_rng(1), **options)


def num_draws(function):
    """How many draws a function makes that are recorded; nothing may fail."""
    trace = record(lambda: (function(), None)[1])
    assert trace.failure == ""
    return len(trace)


def test_instances_made_before_and_during_the_run_are_recorded():
    assert num_draws(lambda: (BEFORE.random(), random.Random(1).random())) == 2


def test_a_subclass_is_recorded_and_one_with_its_own_numbers_left_alone():
    class Plain(random.Random):
        pass

    class Counting(random.Random):
        def random(self):
            return 0.25

    assert num_draws(lambda: Plain(1).random()) == 1
    assert num_draws(lambda: Counting(1).uniform(0.0, 4.0)) == 0
    found = []
    record(lambda: found.append(Counting(1).uniform(0.0, 4.0)))
    assert found == [1.0]


def test_a_subclass_that_calls_random_of_its_base_is_recorded():
    class Halved(random.Random):
        def random(self):
            return super().random() / 2.0

    found = []
    trace = record(lambda: found.append(Halved(1).uniform(0.0, 1.0)))
    assert found == [trace.value(0) / 2.0]


def test_names_that_a_module_imported_early_are_recorded(monkeypatch):
    module = ModuleType("imported_early")
    exec("from random import random, expovariate\n", vars(module))
    monkeypatch.setitem(__import__("sys").modules, "imported_early", module)
    assert num_draws(lambda: (module.random(), module.expovariate(1.0))) == 2
    assert module.random is random.random  # as before


def test_seeds_and_states_are_ignored_during_a_run():
    found = []

    def program():
        for _ in range(2):
            random.seed(5)
            found.append(random.random())
        state = random.getstate()
        found.append(random.random())
        random.setstate(state)
        found.append(random.random())

    assert num_draws(program) == 4
    assert len(set(found)) == 4


def test_state_and_methods_are_as_before_after_a_run():
    random.seed(4)
    random.gauss(0.0, 1.0)  # leaves a second deviate
    state, method, members = random.getstate(), random.random, set(vars(random.Random))
    record(lambda: [random.gauss(0.0, 1.0) for _ in range(3)])
    assert random.getstate() == state
    assert random.random is method
    assert set(vars(random.Random)) == members


def test_an_error_in_the_program_leaves_nothing_behind():
    members = dict(vars(random.Random))

    def program():
        random.random()
        raise ValueError

    assert record(program).status is TraceStatus.FAILED
    assert dict(vars(random.Random)) == members


def test_outside_of_a_run_seeds_hold():
    def numbers():
        random.seed(2)
        return [random.random(), random.gauss(0.0, 1.0), random.gauss(0.0, 1.0), random.randrange(100)]

    expected = numbers()
    with hijack("random"):
        assert numbers() == expected


def test_an_instance_made_during_a_run_works_afterwards():
    kept = []
    record(lambda: kept.append(random.Random(1)))
    assert isinstance(kept[0].gauss(0.0, 1.0), float)


def test_a_cap_ends_the_run_as_failed_and_the_next_is_clean():
    capped = record(lambda: [random.random() for _ in range(100)], max_sites=10)
    assert (capped.status, len(capped)) == (TraceStatus.CAPPED, 10)
    assert num_draws(lambda: random.random()) == 1
    assert type(random.random).__name__ == "builtin_function_or_method"


@pytest.mark.parametrize(
    "use", [lambda: tempfile.mkdtemp(), lambda: email.utils.make_msgid()], ids=["tempfile", "email"]
)
def test_names_and_tokens_of_the_standard_library_are_no_draws(use, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert num_draws(use) == 0
    assert Path(tmp_path).exists()


class Holder:
    """Keeps a method written in C where no module holds it."""

    kept = random.random


def test_a_kept_method_written_in_c_is_reported_with_its_place():
    with pytest.raises(
        SimulatorProtocolError,
        match=r"Python's `random` that was kept from before the block, kept in .*Holder\.kept \(random\)",
    ):
        record(Holder.kept)


def test_a_kept_method_of_another_instance_is_reported():
    kept = [random.Random(1).random]
    with pytest.raises(SimulatorProtocolError, match=r"a method of a `random\.Random`"):
        record(lambda: kept[0]())


def test_a_swallowed_error_does_not_hide_a_leak():
    def program():
        try:
            with hijack("random"):
                Holder.kept()
        except SimulatorProtocolError:
            pass

    with pytest.raises(SimulatorProtocolError, match="not recorded"):
        run_trace(Simulator(program), PriorController(), np.random.default_rng(1))


def test_random_numbers_of_the_operating_system_are_reported():
    with pytest.raises(SimulatorProtocolError, match="operating system"):
        record(lambda: random.SystemRandom().gauss(0.0, 1.0))


def test_installing_twice_is_undone_by_removing_twice():
    members = dict(vars(random.Random))
    source = RandomSource()
    source.install()
    source.remove()
    source.install()
    assert dict(vars(random.Random)) != members
    source.remove()
    assert dict(vars(random.Random)) == members


def test_nested_blocks_record_once():
    def program():
        with hijack("random"):
            return random.random()

    assert num_draws(program) == 1
