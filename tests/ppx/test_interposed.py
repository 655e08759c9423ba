"""Closed programs as simulators: draws, addresses, ends, and what is refused."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import CompilerError, InvalidInputError, SimulatorError, SimulatorProtocolError
from tracestore.simulators import PriorController, ReplayController, run_trace
from tracestore.simulators.native_loops import OWN, Loop
from tracestore.traces.address import REJECTION
from tracestore.traces.trace import TraceStatus

pytest.importorskip("zmq")
from tests.ppx.closed_programs import NEEDS_COMPILER, NEEDS_FORTRAN, compiled
from tracestore.native.hooks import Hook
from tracestore.ppx.interposed import InterposedProgram, readable_address

pytestmark = [NEEDS_COMPILER, pytest.mark.processes]

ROOT = Path(__file__).resolve().parents[2]
DRAND48 = Hook("drand48", "uniform_double")
RAND = Hook("rand", "random_int")
FLAT = Hook("_ZN3Rng4flatEv", "uniform_double")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("closed")) as found:
        yield found


@pytest.fixture
def interpose(programs):
    """Make interposed programs, and end their processes afterwards."""
    made = []

    def make(source, *words, hooks=(DRAND48,), **settings):
        program = InterposedProgram([programs.path(source), *words], hooks=hooks, **settings)
        made.append(program)
        return program

    yield make
    for program in made:
        program.close()


def run(program, seed=1, **settings):
    return run_trace(program, PriorController(), np.random.default_rng(seed), **settings)


def places(trace):
    """Addresses without offsets, which depend on the compiler."""
    chains = [site.address.partition("~")[0].split(" | ") for site in trace.sites]
    return [" | ".join(frame.partition("@")[0] for frame in chain) for chain in chains]


class Fixed:
    """Gives the same value to every draw."""

    def __init__(self, value):
        self.value = value

    def draw(self, site, prior, rng):
        return self.value, prior.log_prob(self.value)


# ------------------------------------------------------------------------------------------------------------- draws


def test_the_answers_are_what_the_program_computes_with(interpose):
    found = []
    trace = run(interpose("gum", observe=lambda output: found.append(float(output.stdout.split()[1]))))
    radius, angle = trace.values[0], trace.values[1]
    expected = 1 + 5**0.5 * np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)
    assert found == [pytest.approx(expected, rel=1e-9)]


def test_a_call_of_rand_is_a_whole_number_of_its_range(interpose):
    found = []
    program = interpose("dice", "3", hooks=[RAND], observe=lambda output: found.append(output.stdout))
    run_trace(program, Fixed(0.5 * 2**31), np.random.default_rng(1))
    assert found == ["sum 12 bonus 4\n"]


def test_the_ends_of_an_interval_are_moved_inside(interpose):
    found = []
    program = interpose("ending", "well", observe=lambda output: found.append(output.stdout))
    run_trace(program, Fixed(1.0), np.random.default_rng(1))
    run_trace(program, Fixed(0.0), np.random.default_rng(1))
    assert [float(text.split()[1]) for text in found] == [1.0, pytest.approx(1.11e-16, rel=0.01)]  # printed rounded


def test_an_address_is_the_chain_of_functions_from_main(interpose):
    trace = run_trace(interpose("decay", hooks=[FLAT]), Fixed(0.3), np.random.default_rng(1))
    assert places(trace) == [
        "main | Decay::run | Decay::lifetime | librng.so:Rng::expovariate",
        "main | Decay::run",
        "main | Decay::run | Decay::angle",
        "main | Decay::run | Decay::angle",
    ]


def test_call_sites_of_one_function_have_addresses_of_their_own(interpose):
    trace = run(interpose("dice", "2", hooks=[RAND]))
    first, second, bonus = (site.address for site in trace.sites)
    assert first.removesuffix("#1") == second.removesuffix("#2")
    assert bonus.partition("~")[0] != first.partition("~")[0]


def test_addresses_are_the_same_in_the_next_process(interpose):
    program = interpose("decay", hooks=[FLAT])
    assert [site.address for site in run(program).sites] == [site.address for site in run(program).sites]


def test_a_program_without_position_independence_has_names_too(programs):
    program = InterposedProgram([programs.path("dice", "-no-pie"), "1"], hooks=[RAND])
    assert places(run(program)) == ["main | throw_one", "main | throw_one"]
    program.close()


def test_draws_through_a_pointer_and_in_a_callback_are_seen(interpose):
    found = places(run(interpose("pointer")))
    assert len(found) == 4
    assert found[-1].startswith("main | libc.so.6:")
    assert found[-1].endswith("| compare")


def test_draws_of_threads_belong_to_the_trace(interpose):
    assert places(run(interpose("threads"))) == ["draw", "draw"]


@NEEDS_FORTRAN
def test_a_fortran_program_draws_through_a_pointer(interpose):
    trace = run(interpose("pointer_fortran"))
    assert trace.status is TraceStatus.OK
    assert len(trace) == 2


def test_several_functions_can_be_hooked_at_different_levels(interpose):
    program = interpose("decay", hooks=[FLAT, Hook("_ZN3Rng11expovariateEd", "uniform_double")])
    assert places(run(program))[:2] == ["main | Decay::run | Decay::lifetime", "main | Decay::run"]


def test_a_long_chain_keeps_its_ends():
    raw = " | ".join(f"?@{number:x}" for number in range(100))
    frames = readable_address(raw, "/bin/true").split(" | ")
    assert len(frames) == 33
    assert frames[16].startswith("[68 frames ")
    assert readable_address(raw.replace("?@32 ", "?@0 "), "/bin/true") != readable_address(raw, "/bin/true")


def test_a_pickled_program_is_the_same_simulator(interpose):
    program = interpose("decay", hooks=[FLAT], observe=last_number, instances=2)
    copy = pickle.loads(pickle.dumps(program))
    assert (copy.name, copy.fingerprint, copy.max_in_flight) == (program.name, program.fingerprint, 2)
    assert list(run(copy).values) == list(run(program).values)
    copy.close()


# -------------------------------------------------------------------------------------------------------------- ends


def test_a_program_that_draws_nothing_is_run(interpose):
    found = []
    trace = run(interpose("ending", "nothing", observe=lambda output: found.append(output.stdout)))
    assert (trace.status, len(trace), found) == (TraceStatus.OK, 0, ["no draw\n"])


@pytest.mark.parametrize("how", ["_exit", "quick_exit", "well", "child", "shell", "atexit"])
def test_ways_to_end_well(interpose, how):
    trace = run(interpose("ending", how))
    assert (trace.status, trace.failure) == (TraceStatus.OK, "")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("status", "ended with exit code 3; it wrote: 'this program ends by status'"),
        ("abort", "was ended by SIGABRT; it wrote: 'this program ends by abort'"),
        ("segfault", "was ended by SIGSEGV"),
        ("exec", "ended with exit code 0"),
        ("drawing-child", "a forked child of the program draws random numbers"),
    ],
)
def test_a_program_that_ends_badly_is_a_failed_trace(interpose, how, reason):
    trace = run(interpose("ending", how, observe=lambda output: pytest.fail("it did not end well")))
    assert trace.status is TraceStatus.FAILED
    assert reason in trace.failure


def test_a_failure_depends_on_the_draws_and_the_next_run_goes_on(interpose):
    program = interpose("ending", "half")
    found = [run(program, seed).status for seed in range(8)]
    assert set(found) == {TraceStatus.OK, TraceStatus.FAILED}


def test_a_program_that_hangs_is_a_failed_trace(interpose):
    trace = run(interpose("ending", "hang", timeout=0.5))
    assert trace.status is TraceStatus.FAILED
    assert "was silent for 0.5 seconds" in trace.failure


def test_the_length_cap_ends_a_program_that_draws_for_ever(interpose):
    program = interpose("ending", "forever")
    assert run(program, max_sites=30).status is TraceStatus.CAPPED
    assert run(program, max_sites=30).status is TraceStatus.CAPPED


def test_children_do_not_inherit_what_is_preloaded(interpose):
    found = []
    run(interpose("ending", "shell", observe=lambda output: found.append(output.stdout)))
    assert found[0].endswith("preload=\n0\n")


def test_other_preloaded_libraries_stay(interpose, programs):
    found = []
    other = str(programs.library("rng"))
    program = interpose(
        "ending", "shell", environment={"LD_PRELOAD": other}, observe=lambda out: found.append(out.stdout)
    )
    run(program)
    assert found[0].endswith(f"preload={other}\n0\n")


def test_an_answer_that_is_no_number_ends_the_program(interpose):
    trace = run_trace(interpose("gum"), Fixed(float("nan")), np.random.default_rng(1))
    assert trace.status is TraceStatus.FAILED
    assert "exit code 70" in trace.failure
    assert "not finite" in trace.failure


def test_processes_end_with_the_program_object(interpose):
    program = interpose("gum")
    run(program)
    (waiting,) = program._places._here()
    pid, folder = waiting._process._process.pid, waiting.folder
    os.kill(pid, 0)
    program.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not folder.exists()


KEEPS_A_PROCESS = """
import os, sys
from pathlib import Path
import numpy as np
from tracestore.native.hooks import Hook
from tracestore.ppx.interposed import InterposedProgram
from tracestore.simulators import run_trace

class Controller:
    def draw(self, site, prior, rng):
        print(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[0], flush=True)
        return 0.5, 0.0

program = InterposedProgram([sys.argv[1], "hang"], hooks=[Hook("drand48", "uniform_double")], timeout=60.0)
run_trace(program, Controller(), np.random.default_rng(1))
"""


def test_a_program_that_computes_ends_when_its_parent_is_killed(programs, tmp_path):
    variables = os.environ | {"TMPDIR": str(tmp_path)}  # a folder stays when nobody is left to remove it
    command = [sys.executable, "-c", KEEPS_A_PROCESS, programs.path("ending")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=variables) as parent:
        pid = int(parent.stdout.readline())
        was_running = is_running(pid)
        parent.kill()
    for _ in range(1000):
        if not is_running(pid):
            break
        time.sleep(0.01)
    assert (was_running, is_running(pid)) == (True, False)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------------------------------------- what it leaves


def test_each_run_has_an_empty_folder_with_the_given_files(interpose, tmp_path):
    given = tmp_path / "settings.txt"
    given.write_text("7")
    found = []

    def read(output):
        found.append(sorted(path.name for path in output.folder.iterdir()))
        (output.folder / "left").mkdir()
        (output.folder / "left" / "behind").write_text("x")

    program = interpose("gum", files=[given], observe=read)
    run(program)
    run(program)
    assert found == [["settings.txt"], ["settings.txt"]]
    assert given.read_text() == "7"


def test_what_observe_returns_is_the_result_of_the_trace(interpose):
    trace = run(interpose("gum", observe=lambda output: output.exit_code + 0.5))
    assert trace.values[-1] == 0.5


def test_draws_of_observe_have_addresses_of_their_function(interpose):
    def read(output):
        ts.tag(float(output.stdout.split()[1]), name="mu")

    assert (
        run(interpose("gum", observe=read))
        .sites[-1]
        .address.startswith("test_draws_of_observe_have_addresses_of_their_function.<locals>.read:")
    )


# ------------------------------------------------------------------------------------------------------- rejection


def test_a_rejection_loop_of_the_program_collapses(interpose):
    loop = Loop("Decay::angle", (OWN,), (OWN,))
    program = interpose("decay", hooks=[FLAT], loops=[loop])
    traces = [run(program, seed) for seed in range(12)]
    long = max(range(12), key=lambda seed: len(traces[seed]))
    assert len(traces[long]) > 4  # two passes or more
    collapsed = run(program, long, collapse_rejection=True)
    assert len(collapsed) == 4
    assert [site.address.startswith(REJECTION) for site in collapsed.sites] == [False, False, True, True]
    assert list(collapsed.values[2:]) == list(traces[long].values[-2:])


def test_a_collapsed_trace_replays(interpose):
    program = interpose("decay", hooks=[FLAT], loops=[Loop("Decay::angle", (OWN,), (OWN,))], observe=last_number)
    for seed in range(6):
        trace = run(program, seed, collapse_rejection=True)
        again = run_trace(program, ReplayController(trace), np.random.default_rng(99))
        assert list(again.values) == list(trace.values)


def last_number(output):
    return float(output.stdout.split()[-1])


# --------------------------------------------------------------------------------------------------------- refusals


def test_randomness_that_no_hook_sees_is_refused(interpose):
    with pytest.raises(SimulatorProtocolError, match="uses randomness that no hook sees"):
        interpose("unseen").require_stable()


def test_generating_traces_checks_that_too(interpose, tmp_path):
    with pytest.raises(SimulatorProtocolError, match="uses randomness that no hook sees"):
        ts.simulate(interpose("unseen"), tmp_path / "traces", num_traces=10, seed=1)


def test_parts_of_the_output_can_be_left_out_of_the_comparison(interpose):
    interpose("unseen", compare=lambda output: output.stdout.split()[0]).require_stable()


def test_a_stable_program_passes(interpose):
    interpose("decay", hooks=[FLAT]).require_stable()


def test_the_build_belongs_to_the_fingerprint(programs, interpose):
    other = InterposedProgram([programs.path("gum", "-O3")], hooks=[DRAND48], name="same")
    same = InterposedProgram([programs.path("gum")], hooks=[DRAND48], name="same")
    assert same.fingerprint.startswith("build-")
    assert other.fingerprint != same.fingerprint
    assert same.fingerprint == interpose("gum", name="same").fingerprint


def test_a_missing_compiler_is_named(interpose, monkeypatch, tmp_path):
    interpose("gum")
    monkeypatch.setenv("TRACESTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tracestore.native.build.find_compiler", lambda language: None)
    with pytest.raises(CompilerError, match="compiler"):
        interpose("gum")


def test_a_missing_file_is_refused(interpose):
    with pytest.raises(InvalidInputError, match="'nowhere' does not exist"):
        interpose("gum", files=["nowhere"])


def test_a_function_that_the_program_does_not_call_is_refused(interpose):
    with pytest.raises(SimulatorError, match=r"calls 'drand47'.*Like it: 'drand48'"):
        interpose("gum", hooks=[Hook("drand47", "uniform_double")])


def test_a_script_is_run_by_its_interpreter(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $0 | tail -c 7\n")
    script.chmod(0o755)
    found = []
    with pytest.raises(SimulatorError, match="nor a library that is loaded with it calls 'drand48'"):
        InterposedProgram([script], hooks=[DRAND48])
    program = InterposedProgram(
        [script], hooks=[Hook("fork", "random_int")], observe=lambda out: found.append(out.stdout)
    )
    assert program.binaries.program.name != "script"
    program.close()


def test_what_a_program_is_given_is_in_its_fingerprint(interpose, tmp_path):
    card = tmp_path / "run.card"

    def fingerprint(text="1", words=(), **settings):
        card.write_text(text)
        return interpose("gum", *words, name="n", **settings).fingerprint

    found = [
        fingerprint(),
        fingerprint(words=["5"]),
        fingerprint(environment={"SHIFT": "7"}),
        fingerprint("1", files=[card]),
        fingerprint("2", files=[card]),
        fingerprint("1", words=[str(card)]),
        fingerprint("2", words=[str(card)]),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hooks": DRAND48}, "`hooks` must be a list of `Hook`"),
        ({"hooks": [("drand48", "uniform_double")]}, "`hooks` must be a list of `Hook`"),
        ({"timeout": "3"}, "`timeout` must be a number of seconds; got '3'"),
        ({"instances": 1.5}, "`instances` must be a whole number; got 1.5"),
    ],
)
def test_wrong_kinds_of_arguments_are_refused(interpose, settings, words):
    with pytest.raises(InvalidInputError, match=words):
        interpose("gum", **settings)


def test_a_command_in_one_string_is_refused():
    with pytest.raises(InvalidInputError, match="`command` must be a list of words"):
        InterposedProgram("./program 5", hooks=[DRAND48])
