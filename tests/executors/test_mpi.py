"""The MPI executor, in jobs of one to three ranks started with mpiexec."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mpi4py")

from tracestore.errors import ExecutorError
from tracestore.executors.mpi import MPIExecutor

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
TIMEOUT_SECONDS = 120

START = """
import os, signal, sys, time
from pathlib import Path
from tracestore.errors import ChecksumError
from tracestore.executors.mpi import MPIExecutor

def double(number):
    return 2 * number
"""


@pytest.fixture
def run_job(tmp_path):
    """Run a script on some ranks; its exit status, stdout and stderr."""
    if not MPIEXEC.exists():
        pytest.skip("mpiexec is not installed")

    def run_job(ranks, script):
        path = tmp_path / "script.py"
        path.write_text(START + script)
        words = [sys.executable, str(path)]
        if ranks is not None:
            words = [str(MPIEXEC), "-n", str(ranks), *words]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run_job


RESULTS = """
with MPIExecutor() as executor:
    if executor is not None:
        print(sorted(executor.run(double, range(500), label="double")) == list(range(0, 1000, 2)))
"""


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [None, 1, 2, 3], ids=lambda ranks: f"{ranks} ranks" if ranks else "without mpiexec")
def test_every_task_gives_its_result_once_and_on_rank_0(run_job, ranks):
    status, output, errors = run_job(ranks, RESULTS)
    assert (status, output) == (0, "True\n"), errors


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [None, 1])
def test_a_single_rank_says_that_it_works_alone(run_job, ranks):
    _, _, errors = run_job(ranks, RESULTS)
    assert "This MPI job has one rank, which runs all tasks itself" in errors


@pytest.mark.processes
def test_tasks_run_on_the_other_ranks_in_their_order(run_job):
    script = """
def where(task):
    from mpi4py import MPI
    with Path("begun").open("a") as file:
        file.write(f"{task} ")
    return MPI.COMM_WORLD.Get_rank()

with MPIExecutor() as executor:
    if executor is not None:
        print(set(executor.run(where, range(50))))
        print(Path("begun").read_text().split() == [str(task) for task in range(50)])
"""
    status, output, errors = run_job(2, script)
    assert (status, output) == (0, "{1}\nTrue\n"), errors


@pytest.mark.processes
def test_an_executor_serves_several_runs(run_job):
    script = """
with MPIExecutor() as executor:
    if executor is not None:
        print(sorted(executor.run(double, [1, 2])), sorted(executor.run(abs, [-1])), list(executor.run(abs, [])))
"""
    status, output, errors = run_job(3, script)
    assert (status, output) == (0, "[2, 4] [1] []\n"), errors


FAILURE = """
def fail_or_count(task):
    if task == 0:
        raise ChecksumError("Block 3 changed.", block=7)
    time.sleep(0.01)
    Path(f"{task}.done").touch()

with MPIExecutor() as executor:
    if executor is not None:
        list(executor.run(fail_or_count, range(100)))
print("a rank went on")
"""


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_error_of_a_task_ends_the_job_on_all_ranks(run_job, tmp_path, ranks):
    status, output, errors = run_job(ranks, FAILURE)
    assert status != 0
    assert "tracestore.errors.ChecksumError: Block 3 changed." in errors
    # the other ranks leave the block in peace; rank 0 does not come to its end
    assert output.count("a rank went on") == ranks - 1
    assert len(list(tmp_path.glob("*.done"))) < 99


@pytest.mark.processes
def test_errors_arrive_with_their_fields_and_the_executor_lives_on(run_job):
    script = """
def fail(task):
    raise ChecksumError("Block 3 changed.", block=task)

with MPIExecutor() as executor:
    if executor is not None:
        try:
            list(executor.run(fail, [7, 8]))
        except ChecksumError as error:
            print(error.fields, error.__notes__[0].endswith("for 7"))
        print(list(executor.run(double, [4])))
"""
    status, output, errors = run_job(2, script)
    assert (status, output) == (0, "{'block': 7} True\n[8]\n"), errors


@pytest.mark.processes
def test_closing_the_iterator_cancels_what_has_not_begun(run_job, tmp_path):
    script = """
def count(task):
    while task > 0 and not Path("closed").exists():
        time.sleep(0.01)
    Path(f"{task}.done").touch()

with MPIExecutor() as executor:
    if executor is not None:
        results = executor.run(count, range(1000))
        next(results)
        results.close()
        Path("closed").touch()
"""
    status, _, errors = run_job(2, script)
    assert status == 0, errors
    # at most the second task was on the worker when the iterator was closed
    assert {path.name for path in tmp_path.glob("*.done")} <= {"0.done", "1.done"}


@pytest.mark.processes
def test_all_ranks_leave_the_block_together(run_job):
    script = """
from mpi4py import MPI
with MPIExecutor() as executor:
    if executor is not None:
        list(executor.run(double, [1]))
print(MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.Get_rank()))
"""
    status, output, errors = run_job(3, script)
    assert (status, output.count("3")) == (0, 3), errors


@pytest.mark.processes
@pytest.mark.parametrize(
    ("function", "task"), [("lambda task: task", "1"), ("double", "lambda: 1")], ids=["function", "task"]
)
def test_what_cannot_be_pickled_is_refused_and_the_job_ends(run_job, function, task):
    script = f"""
with MPIExecutor() as executor:
    if executor is not None:
        list(executor.run({function}, [{task}]))
"""
    status, _, errors = run_job(2, script)
    assert status != 0
    assert "cannot be pickled for the other ranks" in errors
    assert "ExecutorError" in errors


@pytest.mark.processes
def test_a_result_that_cannot_be_pickled_is_an_error_and_the_job_ends(run_job):
    script = """
def give_function(task):
    return lambda: task

with MPIExecutor() as executor:
    if executor is not None:
        list(executor.run(give_function, [1]))
"""
    status, _, errors = run_job(2, script)
    assert status != 0
    assert "give_function.<locals>.<lambda>" in errors


@pytest.mark.processes
def test_a_function_that_the_other_ranks_do_not_have_is_refused(run_job):
    script = """
with MPIExecutor() as executor:
    if executor is not None:
        def late(task):
            return task
        list(executor.run(late, [1]))
"""
    status, _, errors = run_job(2, script)
    assert status != 0
    assert "cannot load its task" in errors
    assert "late" in errors


@pytest.mark.processes
def test_an_error_between_runs_ends_the_job_on_all_ranks(run_job):
    script = """
with MPIExecutor() as executor:
    if executor is not None:
        raise ZeroDivisionError("mine")
"""
    status, _, errors = run_job(3, script)
    assert status != 0
    assert "ZeroDivisionError: mine" in errors


@pytest.mark.processes
def test_a_killed_rank_ends_the_job_and_a_repeated_one_goes_on(run_job, tmp_path):
    script = """
def die_once(task):
    if task == 5 and not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    Path(f"{task}.done").touch()
    return task

with MPIExecutor() as executor:
    if executor is not None:
        left = [task for task in range(20) if not Path(f"{task}.done").exists()]
        print(sorted(executor.run(die_once, left)))
"""
    status, output, _ = run_job(3, script)
    assert status != 0
    assert "[0, 1, 2" not in output
    assert (tmp_path / "died").exists()
    status, _, errors = run_job(3, script)
    assert status == 0, errors
    assert len(list(tmp_path.glob("*.done"))) == 20


@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_mpiexec_of_another_library_is_refused(monkeypatch, variable):
    with MPIExecutor():  # MPI reads the variables only when it starts
        monkeypatch.setenv(variable, "4")
    with pytest.raises(ExecutorError, match="mpiexec started 4 processes, but each is alone"), MPIExecutor():
        pass
