"""How tests come to the programs of `tests/ppx/programs`."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = Path(__file__).with_name("programs") / "program.py"


def command(model: str) -> list[str]:
    """Start a program, told its endpoint as last argument."""
    return [sys.executable, str(PROGRAM), model]


def start(model: str, endpoint: str, **environment: str) -> "subprocess.Popen[bytes]":
    """Start a program as somebody else would."""
    return subprocess.Popen([*command(model), endpoint], env=os.environ | environment)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not, once all of its threads have ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for what will happen soon, or never."""
    end = time.monotonic() + 20.0
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
