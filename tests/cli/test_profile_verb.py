"""The verb `profile`."""

import json

import pytest


def test_table_and_page(run, tmp_path):
    status, output, errors = run("profile", "gum", "--num-traces", 300, "--out", "page.html")
    assert status == 0, errors
    assert output.startswith("tracestore.simulators.toys:gum: 300 traces, 1 draws and 4 sites a trace")
    assert output.endswith("profile in page.html\n")
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_json(run):
    status, output, errors = run("profile", "gum", "--num-traces", 100, "--json", "--store-format", "zarr")
    assert status == 0, errors
    found = json.loads(output)
    assert (found["num_traces"], found["backend"]) == (100, "zarr")


def test_program_without_kernels_says_so(run):
    status, output, _ = run("profile", "gum", "--num-traces", 20, "--kernel-threads", "1,2")
    assert status == 0
    assert "called no native kernel" in output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--num-traces", "0"], "must be at least 1; got 0"),
        (["--num-traces", "5", "--seconds", "1"], "not allowed with argument --num-traces"),
        (["--seconds", "0"], "must be more than zero; got '0'"),
        (["--network", "n"], "--network needs --observe"),
        (["--observe", "obs0=1"], "--observe needs --network"),
        (["--kernel-threads", "1,0"], "must be at least 1; got 0"),
        (["--out", "."], "'.' is a folder"),
    ],
    ids=["no-traces", "both", "no-seconds", "no-observation", "no-network", "no-threads", "folder"],
)
def test_wrong_usage_is_status_2(run, words, complaint):
    status, output, errors = run("profile", "gum", *words)
    assert (status, output) == (2, "")
    assert complaint in errors


def test_program_that_always_fails_is_status_1(run, tmp_path):
    (tmp_path / "broken_beam.py").write_text("def program():\n    raise RuntimeError('no beam')\n")
    status, output, errors = run("profile", "broken_beam:program", "--num-traces", 20)
    assert (status, output) == (1, "")
    assert "RuntimeError: no beam" in errors
    assert "Traceback" not in errors


def test_sigterm_removes_the_temporary_stores(run, tmp_path, monkeypatch):
    (tmp_path / "ended_beam.py").write_text(
        "import signal\n"
        "def program():\n"
        "    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    raise RuntimeError('the signal has its usual effect')\n"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    status, *_ = run("profile", "ended_beam:program", "--num-traces", 20)
    assert (status, [*folder.iterdir()]) == (143, [])
