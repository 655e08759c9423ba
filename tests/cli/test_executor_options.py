"""Which executor the words of the command line stand for, and which words contradict each other."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracestore.cli.executor_options import add_executor_options, open_executor
from tracestore.executors import ProcessExecutor, SerialExecutor

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120


def parse(*words):
    parser = argparse.ArgumentParser(prog="verb")
    parser.set_defaults(parser=parser)
    add_executor_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    "words", [(), ("--workers", "1"), ("--executor", "serial"), ("--executor=serial", "--workers=1")]
)
def test_without_more_workers_tasks_run_here(words):
    with open_executor(parse(*words)) as executor:
        assert isinstance(executor, SerialExecutor)


PROCESSES = [
    pytest.param(("--workers", "3"), 3, id="by the number"),
    pytest.param(("--executor", "processes", "--workers", "1"), 1, id="one"),
    pytest.param(("--executor", "processes"), 2, id="by default"),
]


@pytest.mark.parametrize(("words", "workers"), PROCESSES)
def test_workers_are_processes(words, workers):
    with open_executor(parse(*words)) as executor:
        assert isinstance(executor, ProcessExecutor)
        assert executor.workers == workers


def test_processes_start_as_the_verb_says():
    with open_executor(parse("--workers", "2"), start_method="spawn") as executor:
        assert isinstance(executor, ProcessExecutor)
        assert executor.start_method == "spawn"


REFUSED = [
    (("--executor", "processes", "--scheduler", "tcp://a:1"), "--scheduler belongs to the executor dask"),
    (("--executor", "mpi", "--scheduler", "tcp://a:1"), "--scheduler belongs to the executor dask"),
    (("--memory-limit", "1GB"), "--memory-limit belongs to the executor dask; the executor serial sets none"),
    (("--memory-limit", "1GB", "--workers", "2"), "the executor processes sets none"),
    (("--scheduler", "tcp://a:1", "--workers", "2"), "the workers of --scheduler run already"),
    (("--scheduler", "tcp://a:1", "--memory-limit", "1GB"), "those of --scheduler have theirs already"),
    (("--executor", "mpi", "--workers", "2"), "mpiexec -n says how many ranks there are"),
    (("--executor", "serial", "--workers", "2"), "--workers above 1 does not go with the executor serial"),
    (("--executor", "cloud"), "invalid choice: 'cloud'"),
    (("--workers", "0"), "must be at least 1; got 0"),
]


@pytest.mark.parametrize(
    ("words", "message"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_contradictory_words_are_wrong_usage(capsys, words, message):
    with pytest.raises(SystemExit) as stop, open_executor(parse(*words)):
        pass
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_heavy_is_imported_for_processes():
    script = (
        "import sys, argparse\n"
        "from tracestore.cli.executor_options import add_executor_options, open_executor\n"
        "parser = argparse.ArgumentParser()\n"
        "add_executor_options(parser)\n"
        "with open_executor(parser.parse_args(['--workers', '2'])):\n"
        "    print({'dask', 'distributed', 'mpi4py'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


# ------------------------------------------------------------------------------------------------------ dask and MPI


@pytest.mark.processes
def test_dask_starts_workers_here_and_shows_where_to_watch_them(capsys):
    pytest.importorskip("distributed")
    with open_executor(parse("--executor", "dask", "--workers", "1", "--memory-limit", "1GiB")) as executor:
        assert executor.memory_limit == 2**30
        assert len(executor.client.nthreads()) == 1
        link = executor.dashboard_link
    assert f"dask dashboard: {link}\n" in capsys.readouterr().err


@pytest.mark.processes
def test_a_scheduler_means_dask():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        open_executor(parse("--scheduler", cluster.scheduler_address)) as executor,
    ):
        assert list(executor.run(abs, [-1])) == [1]


@pytest.mark.processes
def test_ranks_of_mpi_that_served_get_none(tmp_path):
    pytest.importorskip("mpi4py")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip("mpiexec is not installed")
    script = tmp_path / "script.py"
    script.write_text(
        "import argparse\n"
        "from pathlib import Path\n"
        "from tracestore.cli.executor_options import add_executor_options, open_executor\n"
        "parser = argparse.ArgumentParser()\n"
        "add_executor_options(parser)\n"
        "with open_executor(parser.parse_args(['--executor', 'mpi'])) as executor:\n"
        "    name = 'served' if executor is None else str(sorted(executor.run(abs, [-1, 2])))\n"
        "Path(name).touch()\n"
    )
    words = [str(mpiexec), "-n", "2", sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(words, check=True, cwd=tmp_path, env=environment, timeout=TIMEOUT_SECONDS)
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "served", "[1, 2]"}
