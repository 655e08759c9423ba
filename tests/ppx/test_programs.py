"""Programs that run elsewhere, and how programs are started and ended."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import tracestore as ts
from tests.ppx.ppx_programs import PROGRAM, command, eventually, is_alive, start
from tracestore.errors import InvalidInputError, SimulatorError, SimulatorTimeoutError
from tracestore.ppx.leases import Lease, connectable
from tracestore.ppx.program import command_for
from tracestore.ppx.simulator import PPXSimulator
from tracestore.simulators import PriorController, run_trace
from tracestore.traces.distributions import Distribution
from tracestore.traces.layout import Site
from tracestore.traces.trace import Trace, TraceStatus

pytestmark = pytest.mark.processes

Elsewhere = Callable[..., tuple[PPXSimulator, "subprocess.Popen[bytes]"]]


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for lock files
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def elsewhere(endpoint: str) -> Iterator[Elsewhere]:
    """Start a program that runs elsewhere, and what drives it."""
    processes, simulators = [], []

    def of(model: str, timeout: float = 20.0, **environment: str) -> tuple[PPXSimulator, "subprocess.Popen[bytes]"]:
        processes.append(start(model, endpoint, **environment))
        simulators.append(PPXSimulator(endpoints=endpoint, timeout=timeout))
        return simulators[-1], processes[-1]

    yield of
    for process in processes:
        process.kill()
        process.wait()
    for simulator in simulators:
        simulator.close()


def trace_of(program: PPXSimulator, seed: int = 1, max_sites: int = 1000) -> Trace:
    return run_trace(program, PriorController(), np.random.default_rng(seed), max_sites=max_sites)


# -------------------------------------------------------------------------------------------------------- elsewhere


def test_a_program_elsewhere_is_used_and_never_ended(elsewhere: Elsewhere) -> None:
    program, process = elsewhere("gum")
    assert trace_of(program).status is TraceStatus.OK
    program.restart()
    program.close()
    assert process.poll() is None
    assert trace_of(program).status is TraceStatus.OK


def test_its_build_is_what_it_says_of_itself(elsewhere: Elsewhere) -> None:
    assert elsewhere("gum")[0].build == "testing 1.0; gum"


def test_a_port_of_this_machine(endpoint: str) -> None:
    with PPXSimulator(command("gum"), endpoints="tcp://127.0.0.1:*", timeout=20.0) as program:
        assert trace_of(program).status is TraceStatus.OK


@pytest.mark.parametrize("model", ["numbered", "tracestore-numbered"])
def test_a_run_that_was_cut_short_is_brought_to_its_end(elsewhere: Elsewhere, model: str) -> None:
    program, process = elsewhere(model)
    assert trace_of(program, max_sites=5).status is TraceStatus.CAPPED
    after = trace_of(program)
    assert after["result"] == process.pid
    assert len(after) == 201


def test_a_run_that_is_interrupted_while_it_computes_is_brought_to_its_end(elsewhere: Elsewhere) -> None:
    program, process = elsewhere("numbered")
    trace_of(program)
    link = program._programs.take().open()
    link.begin_run()  # as if interrupted now
    program._programs._here().programs[0].close_run()
    program._programs._here().programs[0].is_taken = False
    assert trace_of(program)["result"] == process.pid


def test_a_run_without_end_is_stuck(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracestore.ppx.program.MAX_MESSAGES", 50)
    program, _ = elsewhere("floods")
    assert trace_of(program, max_sites=5).status is TraceStatus.CAPPED
    for _ in range(2):
        assert "does not come to an end of a run that was given up" in trace_of(program).failure
    with pytest.raises(SimulatorTimeoutError, match="does not come to an end"):  # it will never
        trace_of(program)


@pytest.mark.parametrize("words", [None, ["true"]])
def test_a_malformed_endpoint_ends_the_job(words: list[str] | None) -> None:
    # closed, since a program with an endpoint of its own keeps the lease of it
    with PPXSimulator(words, endpoints="http://a") as program, pytest.raises(InvalidInputError, match="'http://a'"):
        trace_of(program)


def test_nobody_there_ends_the_job(endpoint: str) -> None:
    with pytest.raises(SimulatorTimeoutError, match=r"The program at ipc://.* was silent for 0\.1 seconds"):
        trace_of(PPXSimulator(endpoints=endpoint, timeout=0.1))


def test_the_death_of_a_program_elsewhere_is_noticed_at_once(elsewhere: Elsewhere) -> None:
    program, process = elsewhere("numbered", timeout=60.0)
    trace_of(program)

    class Killer(PriorController):
        def draw(self, site: Site, prior: Distribution, rng: np.random.Generator) -> tuple[float, float]:
            if site.instance == 7:
                process.kill()
            return 0.0, 0.0

    trace = run_trace(program, Killer(), np.random.default_rng(1))
    assert "closed its connection" in trace.failure


def test_a_program_that_was_started_again_is_used_again(elsewhere: Elsewhere) -> None:
    program, process = elsewhere("numbered")
    trace_of(program)
    process.kill()
    process.wait()
    _, second = elsewhere("numbered")
    assert trace_of(program)["result"] == second.pid


def test_a_program_in_use_by_another_process_is_waited_for_and_refused(elsewhere: Elsewhere, endpoint: str) -> None:
    program, _ = elsewhere("gum", timeout=0.3)
    lease = Lease(endpoint)
    assert lease.take()
    with pytest.raises(SimulatorTimeoutError, match="were all in use by other processes for 0"):
        trace_of(program)
    lease.release()


def test_workers_share_a_program(elsewhere: Elsewhere, tmp_path: Path) -> None:
    program, _ = elsewhere("gum")
    store = ts.simulate(program, tmp_path / "traces", num_traces=60, chunk_size=5, workers=2, seed=1)
    assert [trace.status for trace in store] == [TraceStatus.OK] * 60


# ----------------------------------------------------------------------------------------------------- started here


def test_a_forked_process_leaves_the_programs_of_its_parent_alone(tmp_path: Path) -> None:
    with PPXSimulator(command("gum"), output=tmp_path / "pids", timeout=20.0) as program:
        trace_of(program)
        child = os.fork()
        if child == 0:
            program.close()  # nothing of its own
            os._exit(0 if trace_of(program).status is TraceStatus.OK else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert trace_of(program).status is TraceStatus.OK
        ours, of_child = map(int, (tmp_path / "pids").read_text().split())
        assert is_alive(ours)
        assert eventually(lambda: not is_alive(of_child))  # it has ended with the child, which did not end it


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_programs_end_with_their_parent(tmp_path: Path, by: signal.Signals) -> None:
    pids = tmp_path / "pids"
    script = (
        "import time\n"
        "from tracestore.ppx.simulator import PPXSimulator\n"
        f"program = PPXSimulator({command('gum')!r}, output={str(pids)!r})\n"
        "program()\n"
        "print('ready', flush=True)\n"
        "time.sleep(3600.0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        [pid] = map(int, pids.read_text().split())
        assert is_alive(pid)
        parent.send_signal(by)
    assert eventually(lambda: not is_alive(pid))


def test_programs_end_with_a_process_that_ends_well(tmp_path: Path) -> None:
    script = (
        "from tracestore.ppx.simulator import PPXSimulator\n"
        f"program = PPXSimulator({command('gum')!r}, output={str(tmp_path / 'pids')!r})\n"
        "program()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
    assert not is_alive(int((tmp_path / "pids").read_text()))


def test_programs_end_with_their_simulator(tmp_path: Path) -> None:
    program = PPXSimulator(command("gum"), output=tmp_path / "pids", timeout=20.0)
    program()
    del program
    gc.collect()
    assert not is_alive(int((tmp_path / "pids").read_text()))


def test_a_program_may_be_started_for_each_trace(tmp_path: Path) -> None:
    with PPXSimulator(command("process"), restart_per_trace=True, timeout=20.0) as program:
        assert len({trace_of(program)["result"] for _ in range(3)}) == 3


def test_folder_and_environment_are_those_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "here.py").symlink_to(PROGRAM)
    words = [sys.executable, "here.py", "numbered"]
    with PPXSimulator(words, environment={"NUM_DRAWS": "3"}, folder=tmp_path, timeout=20.0) as program:
        assert len(trace_of(program)) == 4


def test_the_endpoint_goes_where_it_is_wanted() -> None:
    assert command_for(["a", "b"], "ipc://@x") == ["a", "b", "ipc://@x"]
    assert command_for(["a", "-e{endpoint}", "b"], "ipc://@x") == ["a", "-eipc://@x", "b"]


def test_a_lease_is_given_up_by_the_end_of_its_process(endpoint: str) -> None:
    script = (
        f"import tempfile; tempfile.tempdir = {tempfile.tempdir!r}\n"
        "from tracestore.ppx.leases import Lease\n"
        f"lease = Lease({endpoint!r})\n"
        "print(lease.take(), flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"True\n"
        lease = Lease(endpoint)
        assert not lease.take()
        holder.kill()
    assert lease.take()


def test_names_of_this_machine_are_one_endpoint(endpoint: str) -> None:
    assert {connectable(f"tcp://{host}:5555") for host in ("*", "0.0.0.0", "localhost", "127.0.0.1")} == {
        "tcp://127.0.0.1:5555"
    }


def test_a_lock_file_that_cannot_be_opened(endpoint: str) -> None:
    lease = Lease(endpoint)
    [path] = Path(tempfile.gettempdir()).glob("tracestore-*/*.lock")
    lease.close()
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(SimulatorError, match="cannot be opened"):
        Lease(endpoint)
