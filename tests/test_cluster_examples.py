"""The scripts of `docs/how_to/sort_on_a_cluster.md`, as they run without a batch system."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.sorting.test_execute import files_of
from tracestore import TraceStore, simulate, sort_store
from tracestore.simulators.toys import geometric

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "cluster"
SIZE = 50_000
BIN = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "traces"
    simulate(geometric, path, num_traces=1000, seed=1, chunk_size=100)
    simulate(geometric, path, num_traces=500, seed=2, append=True)
    return path


@pytest.fixture(scope="module")
def expected(source):
    sort_store(source, source.parent / "expected", segment_bytes=SIZE)
    return files_of(source.parent / "expected")


def run(words, **environment):
    names = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment
    done = subprocess.run(words, env=names, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(module, *, ranks=False):
    def prepare():
        # not imported here: dask_jobqueue takes over SIGINT when it is
        if module is not None and find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        if ranks and MPIEXEC is None:
            pytest.skip("there is no mpiexec")

    return prepare


WAYS = [
    pytest.param(needs(None), ["bash", "sort_node.sh"], "", id="node"),
    pytest.param(needs("mpi4py", ranks=True), ["bash", "sort_mpi.sh"], "mpiexec -n 3", id="mpi"),
    pytest.param(needs("dask_mpi", ranks=True), ["bash", "sort_dask_mpi.sh"], "mpiexec -n 3", id="dask-mpi"),
    pytest.param(needs("dask_jobqueue"), ["python", "sort_jobqueue.py", "--local"], "", id="dask-jobqueue"),
]


@pytest.mark.parametrize(("prepare", "words", "launch"), WAYS)
def test_script_gives_the_bytes_of_a_serial_sort(source, expected, tmp_path, prepare, words, launch):
    prepare()
    program, script, *options = words
    arguments = [str(source), str(tmp_path / "sorted"), "--segment-bytes", f"{SIZE}", *options]
    output = run(
        [program, str(EXAMPLES / script), *arguments],
        LAUNCH=launch,
        SCRIPT=str(EXAMPLES / script.replace(".sh", ".py")),
    )
    assert "1,500 traces" in output
    assert files_of(tmp_path / "sorted") == expected


def test_job_of_slurm_has_what_was_asked_for(source):
    needs("dask_jobqueue")()
    words = ["--cores", "8", "--memory", "32GB", "--account", "m1234", "--directive=-C cpu", "--show-job"]
    output = run(["python", str(EXAMPLES / "sort_jobqueue.py"), str(source), *words])
    for line in ("#SBATCH -A m1234", "#SBATCH --cpus-per-task=8", "#SBATCH -C cpu"):
        assert line in output.splitlines()
    assert "--nthreads 1 " in output
    assert "--nworkers 8 " in output
    assert len(TraceStore.open(source)) == 1500


@pytest.mark.parametrize("script", ["sort_mpi.sh", "sort_dask_mpi.sh"])
def test_job_goes_back_into_the_queue_when_its_time_is_up(tmp_path, script):
    stubs = {
        "launch": f'cd "{tmp_path}"; echo $$ > started.new; mv started.new started; exec sleep 300',
        "scontrol": f'echo "$@" > "{tmp_path}/requeued"',
    }
    for name, line in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join((str(tmp_path), str(BIN), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "LAUNCH": str(tmp_path / "launch"), "SLURM_JOB_ID": "77"}
    job = subprocess.Popen(["bash", str(EXAMPLES / script), "traces"], env=environment)
    try:
        while not (tmp_path / "started").exists():
            assert job.poll() is None, "it ended before it began"
            time.sleep(0.01)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(60) != 0
        assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    finally:
        job.kill()
        if (tmp_path / "started").exists():
            os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_shell_script_is_sound(script):
    run(["bash", "-n", str(script)])
