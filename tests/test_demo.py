"""The demo, at a reduced size: all phases in a fresh directory, and a second call that continues it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "examples" / "tau.py"


def run_demo(output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), "--reduced", "--output", str(output)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=280,
    )


@pytest.mark.processes
@pytest.mark.xdist_group("demo")
def test_reduced_demo_runs_and_continues(tmp_path):
    done = run_demo(tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "demo" / "report.html").read_text("utf-8")
    assert "<svg" in report or "data:image/png" in report
    for word in ("px", "channel", "R-hat", "ESS"):
        assert word in report
    # nothing is drawn again by the same command on finished outputs
    again = run_demo(tmp_path / "demo")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "demo" / "report.html").exists()
