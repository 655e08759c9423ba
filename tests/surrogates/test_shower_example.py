"""The example with a surrogate of showers, at its reduced size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "examples" / "shower_surrogate.py"


@pytest.mark.slow
@pytest.mark.processes
def test_the_example_answers_in_three_ways() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--reduced"],
        capture_output=True, text=True, check=False, timeout=280, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("simulator, prior draws", "surrogate, prior draws", "simulator, proposals of the surrogate"):
        assert name in done.stdout
