"""Programs behind sockets as simulators: traces, engines, and whatever goes wrong in a run."""

import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tests.ppx.ppx_programs import PROGRAM, command, eventually, is_alive
from tests.ppx.programs import importable
from tracestore.errors import InvalidInputError, SimulatorError, SimulatorNotFoundError, SimulatorProtocolError
from tracestore.execution import TraceStreams, WaveRun
from tracestore.execution.slots import Runner
from tracestore.execution.tasks import ImportableSimulator
from tracestore.execution.waves import run_in_flight
from tracestore.ppx.simulator import PPXSimulator
from tracestore.simulators import PriorController, ReplayController, run_trace, toys
from tracestore.simulators.base import execute
from tracestore.simulators.outside import Outside, suspend_by
from tracestore.simulators.recorder import KeepPasses, Recorder, Value
from tracestore.simulators.replay_check import first_difference
from tracestore.traces.address import REJECTION
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace, TraceStatus

pytestmark = pytest.mark.processes
OBSERVED = {"obs0": 8.0, "obs1": 9.0}

Make = Callable[..., PPXSimulator]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make programs that are ended after the test."""
    made = []
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def of(model: str, **options: object) -> PPXSimulator:
        made.append(PPXSimulator(command(model), **{"timeout": 20.0} | options))  # type: ignore[arg-type]
        return made[-1]

    yield of
    for program in made:
        program.close()


def traces_of(program: PPXSimulator, number: int, seed: int = 1, **options: int) -> list[Trace]:
    rng = np.random.default_rng(seed)
    return [run_trace(program, PriorController(), rng, **options) for _ in range(number)]  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- traces


def test_a_run_is_a_trace(make: Make) -> None:
    [trace] = traces_of(make("gum"), 1)
    assert [site.address for site in trace.sites[:3]] == ["gum|mu~Normal#1", "gum|obs0~Normal#1", "gum|obs1~Normal#1"]
    assert trace["result"] == trace["mu"]
    assert set(trace.observations) == {"obs0", "obs1"}


def test_traces_equal_those_of_the_same_program_here(make: Make) -> None:
    there, here = (
        traces_of(make("gum"), 5)[4],
        [run_trace(toys.gum, PriorController(), rng) for rng in [np.random.default_rng(1)] for _ in range(5)][4],
    )
    assert there.log_joint == here.log_joint
    assert there["mu"] == here["mu"]


def test_an_array_is_returned_in_its_shape(make: Make) -> None:
    [trace] = traces_of(make("hmm"), 1)
    assert np.shape(trace["result"]) == (17, 3)


@pytest.mark.parametrize("model", ["gum", "marsaglia", "branching", "hmm"])
def test_recorded_draws_reproduce_all_outputs_in_any_order(make: Make, model: str) -> None:
    program = make(model)
    traces = traces_of(program, 6)
    for index in np.random.default_rng(2).permutation(6):
        trace = traces[index]
        again = run_trace(program, ReplayController(trace), np.random.default_rng(0), observations=trace.observations)
        assert first_difference(trace, again) == ""


def test_outside_of_a_recording_draws_come_from_the_prior(make: Make) -> None:
    program = make("gum")
    assert len({program() for _ in range(5)}) == 5


def test_a_draw_that_must_not_be_controlled(make: Make) -> None:
    class Refusing(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            assert site.is_controlled
            return super().draw(site, prior, rng)

    assert run_trace(make("gum"), Refusing(), np.random.default_rng(1)).status is TraceStatus.OK


def test_importance_sampling(make: Make, tmp_path: Path) -> None:
    posterior = ts.inference.importance(make("gum"), OBSERVED, tmp_path / "is", num_draws=2000, seed=1)
    assert posterior.mean("mu") == pytest.approx(7.25, abs=0.3)


def test_markov_chains(make: Make, tmp_path: Path) -> None:
    posterior = ts.inference.rmh(make("marsaglia"), OBSERVED, tmp_path / "rmh", num_draws=300, chains=1, seed=3)
    assert posterior.mean("mu") == pytest.approx(7.25, abs=1.0)


def test_forked_workers_start_programs_of_their_own(make: Make, tmp_path: Path) -> None:
    program = make("gum", output=tmp_path / "pids")
    store = ts.simulate(program, tmp_path / "traces", num_traces=40, chunk_size=5, workers=2, seed=1)
    _, ours, *children = map(int, (tmp_path / "pids").read_text().split())
    assert len(store) == 40
    assert 1 <= len(children) <= 2
    assert eventually(lambda: not any(map(is_alive, children)))
    assert traces_of(program, 1)[0].status is TraceStatus.OK
    assert is_alive(ours)
    assert len((tmp_path / "pids").read_text().split()) == 2 + len(children)


def test_the_store_does_not_depend_on_workers(make: Make, tmp_path: Path) -> None:
    program = make("gum", instances=2)
    one, two = (
        ts.simulate(program, tmp_path / f"{workers}", num_traces=30, chunk_size=5, workers=workers, seed=1)
        for workers in (1, 2)
    )
    assert sorted(trace["mu"] for trace in one) == sorted(trace["mu"] for trace in two)


# --------------------------------------------------------------------------------------------------- runs in flight


@pytest.mark.parametrize("model", ["marsaglia", "hmm"])
def test_runs_in_flight_equal_serial_ones(make: Make, model: str) -> None:
    program = make(model, instances=3)
    streams = TraceStreams(1, "test")
    runs = [WaveRun(stream, streams.generator(stream), None, asks=False) for stream in range(12)]
    together = run_in_flight(Runner(program), None, runs, num_slots=8)
    for stream, trace in enumerate(together):
        alone = run_trace(program, PriorController(), streams.generator(stream))
        np.testing.assert_array_equal(trace.values, alone.values)


def test_a_scheduler_may_suspend_what_waits(make: Make) -> None:
    waited: list[Outside] = []

    def suspend(outside: Outside) -> None:
        waited.append(outside)
        while not outside.is_ready():
            outside.wait_any([outside], 5.0)

    previous = suspend_by(suspend)
    try:
        [trace] = traces_of(make("gum"), 1)
    finally:
        suspend_by(previous)
    assert trace.status is TraceStatus.OK
    assert waited


def test_more_runs_than_programs_are_refused(make: Make) -> None:
    program = make("gum")

    class Nested(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            program()
            return super().draw(site, prior, rng)

    with pytest.raises(SimulatorError, match="All 1 programs are in runs already; give more `instances`"):
        run_trace(program, Nested(), np.random.default_rng(1))


# ------------------------------------------------------------------------------------------------------ what is bad

BAD = {
    "exits": "ended with exit code 3; it wrote: 'there is no table of cross sections'",
    "garbage": "broke the protocol: The frame is not a valid FlatBuffer",
    "parts": "sent a message in several parts",
    "turned": "sent SampleResult during a run, where Sample, Observe, Tag or RunResult may come",
    "resets": "gave its run up: it answered with Reset",
    "gives_up": "its tag 'ValueError: no decay below threshold' has no value",
    "tracestore-resets": "gave its run up",
    "tracestore-closes": "sent the mark 'leave' with 0 rejection loops open",
}


@pytest.mark.parametrize("model", BAD)
def test_what_a_program_does_wrong_is_a_recorded_failure(make: Make, model: str) -> None:
    for trace in traces_of(make(model), 2):
        assert trace.status is TraceStatus.FAILED
        assert BAD[model] in trace.failure
        assert "/" not in trace.failure.replace("SimulatorProtocolError", "")  # no temporary names


def test_a_tracestore_peer_says_why_it_fails(make: Make) -> None:
    [trace] = traces_of(make("tracestore-gives_up"), 1)
    assert (trace.status, trace.failure) == (TraceStatus.FAILED, "ValueError: no decay below threshold")


def test_a_killed_program_costs_its_run_and_is_started_anew(make: Make) -> None:
    traces = traces_of(make("dies"), 4)
    assert [trace.status for trace in traces] == [0, 0, 1, 0]
    assert "was ended by SIGKILL" in traces[2].failure


def test_death_is_noticed_without_waiting_for_the_timeout(make: Make) -> None:
    program = make("numbered", timeout=60.0)
    pid = int(traces_of(program, 1)[0]["result"])

    class Killer(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            if site.instance == 7:
                os.kill(pid, signal.SIGKILL)
            return super().draw(site, prior, rng)

    trace = run_trace(program, Killer(), np.random.default_rng(1))
    assert trace.status is TraceStatus.FAILED
    assert "was ended by SIGKILL" in trace.failure


def test_death_between_runs_costs_nothing(make: Make) -> None:
    program = make("process")
    pid = int(traces_of(program, 1)[0]["result"])
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_alive(pid))
    assert traces_of(program, 1)[0].status is TraceStatus.OK


def test_a_silent_program_fails_its_run(make: Make) -> None:
    class Positive(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            return 1.0, 0.0

    trace = run_trace(make("hangs", timeout=4.0), Positive(), np.random.default_rng(1))
    assert "SimulatorTimeoutError: The program 'python program.py hangs' was silent for 4 seconds" in trace.failure


def test_an_old_version_is_refused_by_name(make: Make) -> None:
    pytest.importorskip("flatbuffers")
    with pytest.raises(SimulatorProtocolError, match=r"speaks PPX 0\.1\.0 or 0\.1\.1"):
        traces_of(make("old"), 1)


def test_something_else_at_the_other_end_ends_the_job(make: Make) -> None:
    with pytest.raises(SimulatorProtocolError, match="broke the protocol"):
        traces_of(make("other"), 1)


def test_a_program_that_never_shakes_hands_ends_the_job(make: Make, tmp_path: Path) -> None:
    program = make("speechless", timeout=0.5, output=tmp_path / "output")
    with pytest.raises(SimulatorError, match=r"did not shake hands, 3 times in a row: .* wrote: 'I do not listen'"):
        traces_of(program, 1)
    assert len((tmp_path / "output").read_text().split()) == 3


def test_a_program_that_does_not_exist_ends_the_job() -> None:
    program = PPXSimulator(["./no-such-program"])
    with pytest.raises(SimulatorError, match=r"'\./no-such-program' cannot be started"):
        traces_of(program, 1)


# ---------------------------------------------------------------------------------------------------- cut-short runs


@pytest.mark.parametrize(("model", "is_kept"), [("numbered", False), ("tracestore-numbered", True)])
def test_the_length_cap_is_a_recorded_failure(make: Make, model: str, is_kept: bool) -> None:
    program = make(model)
    [before] = traces_of(program, 1)
    [capped] = traces_of(program, 1, max_sites=20)
    [after] = traces_of(program, 1)
    assert (capped.status, len(capped)) == (TraceStatus.CAPPED, 20)
    assert after.status is TraceStatus.OK
    # a tracestore peer gives up when told to; another one is started anew
    assert (before["result"] == after["result"]) is is_kept


@pytest.mark.parametrize("model", ["numbered", "tracestore-numbered"])
def test_an_interrupt_leaves_programs_usable(make: Make, model: str) -> None:
    program = make(model)

    class Interrupted(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trace(program, Interrupted(), np.random.default_rng(1))
    assert traces_of(program, 1)[0].status is TraceStatus.OK


def test_an_error_of_the_controller_is_raised(make: Make) -> None:
    class Broken(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[Value, float]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_trace(make("gum"), Broken(), np.random.default_rng(1))


def test_a_missing_observation_is_an_error(make: Make) -> None:
    with pytest.raises(InvalidInputError, match="observes 'obs0' but no value was given"):
        run_trace(make("gum"), PriorController(), np.random.default_rng(1), observations={})


# -------------------------------------------------------------------------------------------------- rejection loops


def test_passes_of_a_rejection_loop_are_marked(make: Make) -> None:
    traces = traces_of(make("tracestore-rejection"), 20)
    places = {site.address.partition("~")[0] for trace in traces for site in trace.sites if site.is_controlled}
    assert places == {f"{REJECTION}rejection|x", f"{REJECTION}rejection|y"}
    assert len({len(trace) for trace in traces}) > 1


def test_rejection_loops_are_collapsed(make: Make) -> None:
    rng = np.random.default_rng(1)
    program = make("tracestore-rejection")
    traces = [run_trace(program, PriorController(), rng, collapse_rejection=True) for _ in range(20)]
    assert {len(trace) for trace in traces} == {4}


def test_an_engine_may_want_another_pass(make: Make) -> None:
    class Twice(KeepPasses):
        num_accepted = 0

        def end_attempt(self, *, is_accepted: bool) -> bool:
            self.num_accepted += is_accepted
            return self.num_accepted == 2

    rule = Twice()
    recorder = Recorder(PriorController(), np.random.default_rng(1), None, 1000, make_loop=lambda recorder: rule)
    assert execute(make("tracestore-rejection"), recorder).status is TraceStatus.OK
    assert rule.num_accepted == 2


def test_a_loop_without_draws_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracestore.ppx.conversation.MAX_MARKS", 100)
    [trace] = traces_of(make("tracestore-marks"), 1)
    assert "went through 100 marks of rejection loops without a draw" in trace.failure


def test_other_peers_may_tag_at_the_same_address(make: Make) -> None:
    [trace] = traces_of(make("rejection"), 1)
    assert "its tag 'open' has no value" in trace.failure


# ----------------------------------------------------------------------------------------------- addresses and builds


@pytest.mark.parametrize("model", ["gum", "hmm"])
def test_stable_addresses_are_accepted(make: Make, model: str) -> None:
    make(model).require_stable_addresses(seed=1)


@pytest.mark.parametrize(
    ("model", "found"), [("moving", r"site 1 was the sample at 'moving\|0x"), ("leaks", r"the prior of .*'leaks\|x")]
)
def test_what_changes_from_run_to_run_is_refused(make: Make, model: str, found: str) -> None:
    with pytest.raises(SimulatorProtocolError, match=found):
        make(model).require_stable_addresses(seed=1)


def test_the_check_needs_a_run_that_ends_well(make: Make) -> None:
    with pytest.raises(SimulatorError, match="out of 8 ended well, the last with: SimulatorProtocolError"):
        make("resets").require_stable_addresses(seed=1)


def test_another_build_has_another_fingerprint(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    found = []
    for text in ("1", "1", "2"):
        script.write_text(text)
        found.append(PPXSimulator([sys.executable, str(script)]).fingerprint)
    assert found[0] == found[1] != found[2]
    assert found[0].startswith("build-")


def test_a_program_without_a_file_has_no_build() -> None:
    with pytest.raises(SimulatorNotFoundError, match="no program 'no-such-program'"):
        _ = PPXSimulator(["no-such-program"]).build


def test_the_build_names_program_and_script() -> None:
    parts = PPXSimulator(command("gum")).build.split(";")
    assert [part.partition("=")[0] for part in parts] == [Path(sys.executable).name, PROGRAM.name]


# --------------------------------------------------------------------------------------------------------- as objects


def test_executors_import_it_by_its_variable() -> None:
    spec = ImportableSimulator.of(importable.gum)
    assert spec.spec == "tests.ppx.programs.importable:gum"
    assert spec.load().name == spec.name


def test_a_name_is_given_or_made_of_the_command(make: Make) -> None:
    assert make("gum", name="mine").name == "mine"
    assert make("gum").name == "ppx:python program.py gum"


def test_a_copy_shares_the_programs_and_a_pickle_does_not(make: Make) -> None:
    program = make("process")
    copied, pickled = copy(program), pickle.loads(pickle.dumps(program))
    pids = {traces_of(one, 1)[0]["result"] for one in (program, copied)}
    assert len(pids) == 1
    with pickled:
        assert traces_of(pickled, 1)[0]["result"] not in pids


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs a `command` that starts it or the `endpoints`"),
        ({"command": "./program"}, "`command` must be a list of words"),
        ({"command": []}, "`command` must be a list of words"),
        ({"command": ["a"], "instances": 0}, "`instances` must be at least 1; got 0"),
        ({"endpoints": "ipc://@a", "instances": 2}, "`instances` must be 1, one for each endpoint; got 2"),
        ({"endpoints": ["ipc://@a", "ipc://@a"]}, "an endpoint of its own"),
        ({"command": ["a"], "timeout": 0.0}, "`timeout` must be positive"),
        ({"endpoints": "ipc://@a", "restart_per_trace": True}, "`restart_per_trace` is for programs"),
        ({"endpoints": "ipc://@a", "environment": {"A": "b"}}, "`environment` is for programs"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        PPXSimulator(**arguments)  # type: ignore[arg-type]


def test_nothing_is_left_behind(make: Make) -> None:
    program = make("process", instances=2)
    pid = int(traces_of(program, 1)[0]["result"])
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    program.close()
    assert not is_alive(pid)


# ------------------------------------------------------------------------------------- what a program is given


def test_arguments_variables_and_files_are_in_the_fingerprint(tmp_path: Path) -> None:
    for folder, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "beam.cfg").write_text(text)

    def fingerprint(*words: str, **variables: str) -> str:
        return PPXSimulator(["true", *words], name="n", folder=tmp_path, environment=variables).fingerprint

    found = {
        "nothing": fingerprint(),
        "a number": fingerprint("--ratio", "1/2"),
        "another": fingerprint("--ratio", "3/2"),
        "a variable": fingerprint(SHIFT="7"),
        "a file": fingerprint("--card=a/beam.cfg"),
        "another file": fingerprint("--card=b/beam.cfg"),
        "a folder": fingerprint(f"{tmp_path}/a"),
        "another folder": fingerprint(f"{tmp_path}/b"),
    }
    assert len(set(found.values())) == len(found)
    assert fingerprint("--card=c/beam.cfg") == found["a file"]  # the same contents elsewhere


def test_the_label_says_what_is_run() -> None:
    assert PPXSimulator(["/bin/cat", "/dev/null", "a b"]).settings.label == "cat /dev/null 'a b'"
