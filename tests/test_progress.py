import io

import pytest

from tracestore.events import PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def advance(progress, clock, *, steps, seconds, total, **fields):
    for step in range(1, steps + 1):
        clock.now += seconds
        progress(PhaseAdvanced("simulate", done=step, total=total, **fields))


def test_log_gets_a_line_a_second_at_most():
    clock, text = Clock(), io.StringIO()
    progress = Progress(text, clock=clock)
    progress(PhaseStarted("simulate", total=1000))
    advance(progress, clock, steps=1000, seconds=0.01, total=1000)
    progress(PhaseFinished("simulate", seconds=10.0))
    lines = text.getvalue().splitlines()
    assert 9 <= len(lines) <= 12
    assert lines[-1] == "simulate: 1,000 traces in 10.0 s"
    assert "100/s" in lines[5]
    assert "\r" not in text.getvalue()


def test_terminal_redraws_one_line_and_ends_with_a_summary(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    clock, text = Clock(), Terminal()
    with Progress(text, clock=clock) as progress:
        progress(PhaseStarted("simulate", total=4, unit="steps"))
        advance(progress, clock, steps=2, seconds=1.0, total=4, failed=1, note="loss 1.5")
        drawn = text.getvalue()
        progress(PhaseFinished("simulate", seconds=2.0))
    assert "\n" not in drawn
    assert "[####............]" in drawn
    assert "[########........]" in drawn
    assert "2/4 steps (50%)" in drawn
    assert "loss 1.5" in drawn
    assert text.getvalue().splitlines()[-1] == "simulate: 4 steps in 2.0 s, 1 failed"


def test_bytes_are_shown_as_a_rate_and_in_the_summary():
    clock, text = Clock(), io.StringIO()
    progress = Progress(text, clock=clock)
    progress(PhaseStarted("sort", total=4))
    advance(progress, clock, steps=2, seconds=2.0, total=4, nbytes=3_000_000_000)
    progress(PhaseFinished("sort", seconds=4.0))
    assert "1.5 GB/s" in text.getvalue().splitlines()[0]
    assert text.getvalue().splitlines()[-1] == "sort: 4 traces in 4.0 s, 3 GB"


def test_open_bar_is_closed_when_work_is_interrupted():
    clock, text = Clock(), Terminal()

    def work():
        with Progress(text, clock=clock) as progress:
            progress(PhaseStarted("sort", total=4))
            progress(PhaseAdvanced("sort", done=1, total=4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert text.getvalue().endswith("\n")


def test_rate_counts_only_this_call_when_work_continues():
    clock, text = Clock(), io.StringIO()
    progress = Progress(text, clock=clock)
    progress(PhaseStarted("simulate", total=1000, done=500))
    clock.now += 10.0
    progress(PhaseAdvanced("simulate", done=600, total=1000))
    first, second = text.getvalue().splitlines()
    assert first == "simulate: continuing after 500 of 1,000 traces"
    assert second == "simulate: 600/1,000 traces (60%), 10/s, 40.0 s left"


def test_phase_of_nothing_is_complete():
    text = io.StringIO()
    progress = Progress(text)
    progress(PhaseStarted("sort", total=0))
    progress(PhaseAdvanced("sort", done=0, total=0))
    progress(PhaseFinished("sort", seconds=0.0))
    assert text.getvalue().splitlines() == ["sort: 0/0 traces (100%)", "sort: 0 traces in 0.0 s"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (7320, "2 h 02 min")]
)
def test_durations_read_well(seconds, text):
    stream = io.StringIO()
    progress = Progress(stream)
    progress(PhaseStarted("train", total=1, unit="steps"))
    progress(PhaseFinished("train", seconds=seconds))
    assert stream.getvalue() == f"train: 1 steps in {text}\n"
