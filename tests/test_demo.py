"""The demo at a reduced size: killed at work, continued by the same command, and left alone when finished."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = [sys.executable, str(ROOT / "examples" / "tau.py"), "--reduced", "--output"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PHASES = ["simulate", "sort", "train", "infer: IC", "infer: RMH", "infer: prior IS", "report"]

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("demo"), pytest.mark.timeout(280)]


def run_demo(output: Path) -> str:
    done = subprocess.run(
        [*DEMO, str(output)], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=200
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_while_it_works(output: Path) -> None:
    """Start the demo and end it without warning as soon as one phase is through."""
    log = output.parent / "log"
    with (
        log.open("w") as file,
        subprocess.Popen([*DEMO, str(output)], stdout=file, stderr=file, env=ENVIRONMENT) as process,
    ):
        while process.poll() is None and "simulate" not in finished_phases(output):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, log.read_text()


def finished_phases(output: Path) -> list[str]:
    file = output / "phases.json"
    records = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return [name for name, record in records.items() if record["finished"]]


def contents(output: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in output.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_reduced_demo_survives_a_kill_and_changes_nothing_when_finished(tmp_path):
    pytest.importorskip("alouette")
    pytest.importorskip("torch")
    output = tmp_path / "demo"
    kill_while_it_works(output)
    assert finished_phases(output) != PHASES

    table = run_demo(output)
    assert finished_phases(output) == PHASES
    for word in (*PHASES, "IC", "RMH", "k-hat", "log evidence", "decay channel", str(output / "report.html")):
        assert word in table
    report = (output / "report.html").read_text("utf-8")
    for word in ("px [GeV]", "decay channel", "R-hat", "k-hat", "log evidence", "Training loss", "infer: RMH"):
        assert word in report

    before = contents(output)
    assert run_demo(output) == table
    assert contents(output) == before
