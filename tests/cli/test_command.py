"""The command line, from its words to its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tracestore.cli.command import make_parser

ROOT = Path(__file__).resolve().parents[2]
VERBS = [
    "simulate",
    "sort",
    "plan",
    "import-pyprob",
    "train",
    "train-online",
    "surrogate",
    "infer",
    "refine",
    "diagnose",
    "calibrate",
    "compare",
    "serve",
    "profile",
    "report",
    "info",
    "verify",
    "recover",
    "gc",
    "quarantine",
    "compact",
    "convert",
    "export",
]


@pytest.fixture
def observation(tmp_path):
    path = tmp_path / "observation.json"
    path.write_text(json.dumps({"obs0": 8.0, "obs1": 9.0}))
    return path


@pytest.fixture
def traces(run):
    status, _, errors = run("simulate", "gum", "traces", "--num-traces", 200, "--seed", 1)
    assert status == 0, errors
    return "traces"


# ---------------------------------------------------------------------------------------------------------- usage


def test_verbs_are_those_of_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"^tracestore ([\w-]+)", text, re.MULTILINE)
    assert named == VERBS
    listed = re.findall(r"^    ([\w-]+)(?: |$)", make_parser().format_help(), re.MULTILINE)
    assert listed == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    status, output, _ = run(verb, "--help")
    assert status == 0
    assert f"usage: tracestore {verb}" in output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice"),
        (["simulate", "gum", "traces"], "required: --num-traces"),
        (["simulate", "gum", "traces", "--num-traces", "0"], "--num-traces: must be at least 1; got 0"),
        (["simulate", "gum", "traces", "--num-traces", "many"], "must be a whole number; got 'many'"),
        (["simulate", "gum", "traces", "--num-traces", "5", "--seed", "-1"], "--seed: must not be negative; got -1"),
        (
            ["infer", "gum", "out", "--engine", "magic", "--observe", "o.json", "--num-draws", "5"],
            "invalid choice: 'magic'",
        ),
        (["infer", "gum", "out", "--engine", "ic", "--observe", "o.json", "--num-draws", "5"], "needs --network"),
        (
            ["infer", "gum", "out", "--engine", "is", "--observe", "o.json", "--num-draws", "5", "--network", "n"],
            "--network belongs to the engines ic and rmh",
        ),
        (
            ["infer", "gum", "out", "--engine", "is", "--observe", "o.json", "--num-draws", "5", "--chains", "2"],
            "--chains belongs to the engines lmh, rmh, hmc, mala",
        ),
        (["report", "posterior"], "required: --html"),
    ],
    ids=lambda value: value if isinstance(value, str) else "usage",
)
def test_wrong_usage_is_status_2(run, words, complaint):
    status, output, errors = run(*words)
    assert status == 2
    assert output == ""
    assert complaint in errors


def test_version(run):
    status, output, _ = run("--version")
    assert (status, output.split()[0]) == (0, "tracestore")


@pytest.mark.processes
def test_help_loads_no_room():
    code = "import sys\nfrom tracestore.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"numpy", "pyarrow", "torch"} & set(loaded)


# ---------------------------------------------------------------------------------------------------------- verbs


def test_simulate_writes_and_returns_at_once_when_repeated(run):
    words = ["simulate", "gum", "traces", "--num-traces", 200, "--seed", 1]
    status, output, errors = run(*words)
    assert (status, output) == (0, "200 traces of tracestore.simulators.toys:gum in traces\n"), errors
    assert "simulate: 200 traces in" in errors
    status, output, _ = run(*words)
    assert (status, output) == (0, "200 traces of tracestore.simulators.toys:gum in traces\n")


def test_simulate_refuses_another_job_on_the_same_path(run, traces):
    status, output, errors = run("simulate", "gum", traces, "--num-traces", 200, "--seed", 2)
    assert status == 1
    assert output == ""
    assert "seed" in errors
    assert "Traceback" not in errors


def test_simulate_appends_when_asked(run, traces):
    status, output, errors = run("simulate", "gum", traces, "--num-traces", 50, "--seed", 1, "--append")
    assert (status, output) == (0, "250 traces of tracestore.simulators.toys:gum in traces\n"), errors


def test_unknown_simulator_lists_what_exists(run):
    status, _, errors = run("simulate", "gumm", "traces", "--num-traces", 5)
    assert status == 1
    for name in ("gumm", "gum-marsaglia", "branching", "hmm", "geometric", "tau", "module:object"):
        assert name in errors


def test_simulator_of_the_current_folder_and_its_failures(run, tmp_path):
    module = f"plant_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(
        "import tracestore as ts\n"
        "def plant():\n"
        "    x = ts.sample(ts.Normal(0.0, 1.0), name='x')\n"
        "    if x > 0.5:\n"
        "        raise ValueError('too hot')\n"
        "    ts.observe(ts.Normal(x, 1.0), name='y')\n"
    )
    status, output, errors = run("simulate", f"{module}:plant", "traces", "--num-traces", 100)
    assert status == 0
    assert output.startswith(f"100 traces of {module}:plant")
    assert re.search(r"(\d+) of them failed", errors)
    assert "x ValueError: too hot" in errors


def test_info_for_people_and_programs(run, traces):
    status, output, _ = run("info", traces)
    assert status == 0
    assert re.search(r"traces +200, of them 0 failed", output)
    assert "obs0 (number), obs1 (number)" in output
    assert "    seed = 1\n" in output
    status, output, _ = run("info", traces, "--json")
    facts = json.loads(output)
    assert (facts["num_traces"], facts["num_failed"], facts["num_trace_types"]) == (200, 0, 1)
    assert facts["observations"] == {"obs0": [], "obs1": []}
    assert facts["job"]["seed"] == 1


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_path_that_is_no_store_is_refused(run, tmp_path, verb):
    (tmp_path / "empty").mkdir()
    for path in ("empty", "missing"):
        status, output, errors = run(verb, path)
        assert (status, output) == (1, "")
        assert f"tracestore {verb}: error:" in errors
        assert path in errors
        assert "Traceback" not in errors


def test_sort_then_verify(run, traces):
    status, output, errors = run("sort", traces, "sorted")
    assert (status, output) == (0, "200 traces of 1 trace types in sorted, 1 segments\n"), errors
    status, output, _ = run("verify", "sorted", "--deep")
    assert (status, output) == (0, "sorted is intact\n")


def test_verify_finds_a_flipped_byte(run, traces, tmp_path):
    victim = max((path for path in (tmp_path / traces).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0x40
    victim.chmod(0o644)
    victim.write_bytes(content)
    status, output, errors = run("verify", traces, "--deep")
    assert status == 1
    assert victim.name in output + errors
    status, output, _ = run("verify", traces, "--deep", "--json")
    assert status == 1
    assert len(json.loads(output)["problems"]) >= 1


@pytest.mark.parametrize("engine", ["prior", "is", "lmh", "rmh"])
def test_infer_prints_a_summary(run, observation, engine):
    words = ["infer", "gum", "posterior", "--engine", engine, "--observe", observation, "--num-draws", 400]
    status, output, errors = run(*words)
    assert status == 0, errors
    assert "mu" in output
    assert "400" in output
    assert run(*words)[:2] == (0, output)  # complete: the same command returns it


def test_infer_names_the_observation_that_does_not_fit(run, tmp_path):
    (tmp_path / "o.json").write_text('{"obs0": 8.0}')
    status, _, errors = run("infer", "gum", "out", "--engine", "is", "--observe", "o.json", "--num-draws", 10)
    assert status == 1
    assert "obs1" in errors
    (tmp_path / "o.json").write_text('{"obs0": 8.0, "obs1": NaN}')
    status, _, errors = run("infer", "gum", "out2", "--engine", "is", "--observe", "o.json", "--num-draws", 10)
    assert status == 1
    assert "obs1" in errors


def test_debug_shows_where_an_error_comes_from(run):
    with pytest.raises(LookupError, match="gumm"):
        run("simulate", "gumm", "traces", "--num-traces", 5, "--debug")


def test_interrupt_is_one_sentence_and_130(run, monkeypatch):
    import tracestore.execution.generate as generate

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "simulate", interrupted)
    status, output, errors = run("simulate", "gum", "traces", "--num-traces", 5)
    assert (status, output) == (130, "")
    assert errors == "Interrupted; the same command continues.\n"


@pytest.mark.processes
def test_interrupted_command_continues(tmp_path):
    words = ["simulate", "hmm", "traces", "--num-traces", "3000", "--workers", "2", "--seed", "3"]
    command = [sys.executable, "-c", "import sys; from tracestore.cli import main; sys.exit(main())", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("traces/**/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group gets it
    _, errors = process.communicate(timeout=60)
    if process.returncode != 0:  # a fast machine may have finished
        assert process.returncode == 130, errors
        assert "the same command continues" in errors
        assert "Traceback" not in errors
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3,000 traces")


def test_report_shows_posteriors_side_by_side(run, observation, tmp_path):
    pytest.importorskip("matplotlib")
    for engine in ("is", "rmh"):
        run("infer", "gum", f"post-{engine}", "--engine", engine, "--observe", observation, "--num-draws", 400)
    (tmp_path / "truth.json").write_text('{"mu": 7.0}')
    status, output, errors = run("report", "post-is", "post-rmh", "--html", "r.html", "--truth", "truth.json")
    assert (status, output) == (0, "report in r.html\n"), errors
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "mu" in page


def test_train_then_infer_with_the_network(run, traces, observation, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr("tracestore.training.job.DEFAULT_TRAINING_TRACES", 2_000)
    status, output, errors = run("train", traces, "network")
    assert (status, output.splitlines()[0]) == (0, "network trained on traces in network"), errors
    words = ["--observe", observation, "--num-draws", 200, "--network", "network"]
    status, output, errors = run("infer", "gum", "post-ic", "--engine", "ic", *words)
    assert status == 0, errors
    assert "mu" in output
    status, _, errors = run("infer", "gum-marsaglia", "post-x", "--engine", "ic", *words)
    assert status == 1
    assert "gum_marsaglia" in errors
