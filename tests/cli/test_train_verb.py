"""`tracestore train`: its words become settings, ranks speak with one voice, a stopped training can go on."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tracestore import TraceStore
from tracestore.networks.config import NETWORKS
from tracestore.training.config_file import read_config
from tracestore.training.history import read_history
from tracestore.training.job import resolve_config

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "import sys; from tracestore.cli.command import main; sys.exit(main())"]
TINY = ["--set", "network.core_size=8", "--set", "network.observation_size=8", "--set", "network.head_size=8"]
LAUNCHERS = ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "SLURM_STEP_NUM_TASKS")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def traces(run):
    status, _, errors = run("simulate", "gum", "traces", "--num-traces", 300, "--seed", 1)
    assert status == 0, errors
    return "traces"


@pytest.fixture
def be_rank_1(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


def settings_of(folder):
    return json.loads(Path(folder, "config.json").read_text())


# ---------------------------------------------------------------------------------------------------------- words


def test_training_tells_what_came_out(run, traces):
    status, output, _ = run("train", traces, "network", "--epochs", 2, *TINY)
    assert status == 0
    first, second, third = output.splitlines()
    assert first == "network trained on traces in network"
    assert re.fullmatch(r"validation loss \d\.\d{4} after step \d+ of \d+; [\d,]+ parameters", second)
    assert re.fullmatch(r"\d of 1 addresses have proposals, \d stay at the prior", third)


def test_words_settings_and_file_become_the_configuration(run, traces):
    Path("train.toml").write_text(
        "epochs = 9\nlearning_rate = 0.002\npatience = 3\nseed = 5\n[network]\ncore = 'gru'\n"
    )
    words = ["--config", "train.toml", "--set", "learning_rate=1e-3", "--set", "optimizer.kind=sgd", "--epochs", 1]
    status, _, errors = run("train", traces, "network", *words, "--seed", 4, "--batch-size", 50, *TINY)
    assert status == 0, errors
    found = settings_of("network")
    assert [found[name] for name in ("epochs", "learning_rate", "patience", "seed", "batch_size")] == [
        1,
        1e-3,
        3,
        4,
        50,
    ]
    assert [found["network"][name] for name in ("core", "core_size")] == ["gru", 8]
    assert found["optimizer"]["kind"] == "sgd"


def test_print_config_is_what_would_be_trained_and_trains_nothing(run, traces):
    words = ["--preset", "paper", "--device", "cpu", "--set", "network.core=gru"]
    status, output, errors = run("train", traces, "network", *words, "--print-config")
    assert (status, errors) == (0, "")
    assert not Path("network").exists()
    Path("printed.toml").write_text(output)
    config = read_config("printed.toml")
    assert config == resolve_config(read_config(overrides=["network.preset=paper", "network.core=gru"]), _open(traces))
    assert (config.network.rows, config.batch_size) == (NETWORKS["paper"].rows, 16)


def test_the_printed_configuration_is_the_same_job(run, traces):
    _, output, _ = run("train", traces, "network", "--epochs", 1, *TINY, "--print-config")
    Path("printed.toml").write_text(output)
    assert run("train", traces, "network", "--epochs", 1, *TINY)[0] == 0
    status, _, errors = run("train", traces, "network", "--config", "printed.toml")
    assert (status, errors) == (0, "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--set", "network.cor=gru"], "there is no setting `network.cor`, the closest is `network.core`"),
        (["--set", "epochs"], "a setting is NAME=VALUE"),
        (["--config", "absent.toml"], "'absent.toml' cannot be read"),
        (["--epochs", "0"], "--epochs: must be at least 1; got 0"),
        (["--preset", "large"], "invalid choice: 'large'"),
    ],
)
def test_wrong_words_are_refused(run, traces, words, complaint):
    status, _, errors = run("train", traces, "network", *words)
    assert status in {1, 2}
    assert complaint in errors
    assert not Path("network").exists()


def test_a_page_is_written_after_training_and_for_a_finished_network(run, traces):
    pytest.importorskip("matplotlib")
    words = ["train", traces, "network", "--epochs", 1, *TINY, "--html"]
    status, output, _ = run(*words, "first.html")
    assert status == 0
    assert output.splitlines()[-1] == "page in first.html"
    assert run(*words, "again.html")[0] == 0
    assert Path("first.html").read_text() == Path("again.html").read_text()


def test_tensorboard_gets_every_step(run, traces):
    pytest.importorskip("tensorboard")
    assert run("train", traces, "network", "--epochs", 1, *TINY, "--tensorboard")[0] == 0
    last = len(list(read_history("network")))
    assert Path("network/tensorboard/last_step.txt").read_text() == str(last)


# ---------------------------------------------------------------------------------------------------------- ranks


def test_print_config_comes_from_rank_0_alone(run, traces, be_rank_1):
    assert run("train", traces, "network", "--print-config") == (0, "", "")


def test_without_ranks_every_process_speaks_for_itself(run, traces, be_rank_1):
    status, output, _ = run("train", traces, "network", "--epochs", 1, *TINY, "--ranks-by", "none")
    assert (status, output.splitlines()[0]) == (0, "network trained on traces in network")


def test_a_rank_tells_alone_why_it_cannot_open(run, traces, be_rank_1):
    status, output, errors = run("train", traces, "network", "--device", "cuda:99", "--epochs", 1)
    assert (status, output) == (1, "")
    assert errors.startswith("tracestore train: error on rank 1: ")


def _open(traces):
    return TraceStore.open(traces)


def launch(launcher, num_ranks, *words):
    """Run a command on some ranks in the present folder."""
    if launcher == "mpi":
        pytest.importorskip("mpi4py")
        mpiexec = Path(sys.executable).with_name("mpiexec")
        if not mpiexec.exists():
            pytest.skip("mpiexec is not installed")
        start = [mpiexec, "-n", num_ranks]
    else:
        torchrun = Path(sys.executable).with_name("torchrun")
        start = [torchrun, "--standalone", "--nproc-per-node", num_ranks, "--no-python"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = list(map(str, [*start, *COMMAND, *words]))
    return subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment, check=False)


@pytest.mark.processes
@pytest.mark.parametrize("launcher", ["torch", "mpi"])
def test_two_ranks_train_one_network_and_rank_0_speaks(run, traces, launcher):
    words = ["--epochs", 2, "--batch-size", 32, "--seed", 3, *TINY]
    assert run("train", traces, "alone", *words)[0] == 0
    done = launch(launcher, 2, "train", traces, "network", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network trained on") == 1
    assert done.stderr.count("train: 488 traces in") == 1
    alone, together = ([line["loss"] for line in read_history(name)] for name in ("alone", "network"))
    assert together == pytest.approx(alone, rel=1e-4)
    assert len(list(read_history("network", rank=1))) == len(alone)


@pytest.mark.processes
@pytest.mark.parametrize("launcher", ["torch", "mpi"])
def test_what_all_ranks_have_to_say_is_said_once(run, traces, launcher):
    done = launch(launcher, 2, "train", traces, "network", "--set", "network.cor=gru")
    assert done.returncode != 0
    assert done.stderr.count("there is no setting `network.cor`") == 1
    assert "InvalidInputError" not in done.stderr, "there is no traceback of ours"


# ------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.processes
def test_a_training_that_is_told_to_stop_says_so_and_goes_on(run, traces):
    words = ["train", traces, "network", "--epochs", "3", "--batch-size", "4", *TINY]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    begun = ""
    while "/s," not in begun:  # the first line after steps were done
        begun = process.stderr.readline()
        assert begun, "ended before it was stopped"
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 143
    assert re.search(r"^Stopped after step [\d,]+; the same command continues.$", errors, re.MULTILINE)
    status, output, errors = run(*words)
    assert status == 0
    assert "continuing after" in errors
    assert output.startswith("network trained on traces")
    steps = [line["step"] for line in read_history("network")]
    assert steps == list(range(1, len(steps) + 1))


# --------------------------------------------------------------------------------------------------------- online


def test_a_network_learns_while_a_simulator_runs(run):
    words = ["--num-traces", 400, "--workers", 1, "--store", "traces", "--batch-size", 50, "--seed", 3, *TINY]
    status, output, errors = run("train-online", "gum", "network", *words)
    assert status == 0, errors
    assert output.splitlines()[0] == "network trained on gum in network"
    assert len(TraceStore.open("traces")) == 400
    assert [step["num_traces"] for step in read_history("network")] == [50 * (step + 1) for step in range(8)]
    assert settings_of("network")["seed"] == 3


def test_settings_of_online_training_are_printed_and_refused_alike(run):
    status, output, _ = run("train-online", "gum", "network", "--num-traces", 10_000, "--print-config", *TINY)
    assert (status, "batch_size = 64" in output, Path("network").exists()) == (0, True, False)
    status, _, errors = run("train-online", "gum", "network", "--num-traces", 100, "--set", "network.kore=gru")
    assert status == 1
    assert "`network.core`" in errors
    status, _, errors = run("train-online", "nothing", "network", "--num-traces", 100)
    assert (status, "nothing" in errors) == (1, True)
