"""Processes of programs: how they are watched and ended, and what they say at last."""

import os
import signal
import sys

import pytest

from tests.ppx.ppx_programs import eventually, is_alive
from tracestore.ppx.process import MAX_LINES, MAX_LOG_BYTES, MAX_WORDS, ProgramProcess

pytestmark = pytest.mark.processes


def running(script: str, **options: object) -> ProgramProcess:
    return ProgramProcess([sys.executable, "-c", script], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("", "ended with exit code 0"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import os; os.write(2, b'no\\nway\\n')", "ended with exit code 0; it wrote: 'no\\nway'"),
    ],
)
def test_how_it_ended(script: str, how: str) -> None:
    process = running(script)
    process.wait(20.0)
    assert process.is_gone()
    assert process.how_it_ended() == how
    process.end()


def test_last_words_are_bounded() -> None:
    process = running("import sys; sys.stderr.write('x' * 99 + '\\n' + 'line\\n' * 100 + 'y' * 10_000)")
    process.wait(20.0)
    words = process.last_words()
    assert len(words) == MAX_WORDS
    assert len(words.splitlines()) <= MAX_LINES
    process.end()


def test_a_long_log_is_forgotten() -> None:
    script = f"import os; os.write(2, b'x' * {MAX_LOG_BYTES + 1}); os.kill(os.getpid(), 19); os.write(2, b'end')"
    process = running(script)
    assert eventually(lambda: os.fstat(process._log.fileno()).st_size > MAX_LOG_BYTES)
    process.trim_log()
    os.kill(process.pid, signal.SIGCONT)
    process.wait(20.0)
    assert process.last_words() in ("end", "")  # it may have gone on before it stopped
    assert os.fstat(process._log.fileno()).st_size < MAX_LOG_BYTES
    process.end()


def test_what_it_started_ends_with_it() -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '3600'])\n"
        "os.write(2, b'%d\\n' % child.pid)\n"
        "time.sleep(3600)\n"
    )
    process = running(script)
    assert eventually(lambda: process.last_words() != "")
    child = int(process.last_words())
    process.end()
    assert not is_alive(process.pid)
    assert eventually(lambda: not is_alive(child))


def test_one_that_does_not_listen_is_killed() -> None:
    script = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.write(2, b'x'); time.sleep(3600)"
    process = running(script)
    assert eventually(lambda: process.last_words() != "")
    process.end(patience=0.05)
    assert not is_alive(process.pid)


def test_ending_twice_does_nothing() -> None:
    process = running("")
    process.end()
    process.end()
    assert process.is_gone()


def test_death_is_noticed_without_process_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    process = running("raise SystemExit(1)")
    assert process.descriptor is None
    process.wait(20.0)
    assert process.how_it_ended() == "ended with exit code 1"
    process.end()
