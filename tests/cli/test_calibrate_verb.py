"""`tracestore calibrate`: what it prints, what it refuses, and the exit status for scripts."""

import argparse
import json
from pathlib import Path

import pytest

from tracestore.cli.calibrate_verb import add_calibrate_options, run_calibrate
from tracestore.inference.calibration_result import Calibration, CalibrationQuantity, open_calibration
from tracestore.store.job import Job


@pytest.fixture
def calibrate(capsys):
    """Run the verb; return exit status, stdout and stderr."""

    def calibrate(*words):
        parser = argparse.ArgumentParser()
        add_calibrate_options(parser)
        status: object
        try:
            status = run_calibrate(parser.parse_args([str(word) for word in words]))
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return calibrate


def test_it_prints_a_judgement_and_leaves_the_ranks(calibrate, tmp_path: Path) -> None:
    out = tmp_path / "c"
    words = ("gum", out, "--engine", "is", "--num-trials", 12, "--num-draws", 50, "--seed", 3)
    status, output, errors = calibrate(*words)
    assert status == 0, errors
    assert output.startswith(f"{out}: calibration of is for")
    assert "12 trials show gross miscalibration only" in output
    assert [len(pit) for pit in open_calibration(out).pit.values()] == [12, 12, 12]
    assert calibrate(*words)[:2] == (status, output)


def test_json_and_names(calibrate, tmp_path: Path) -> None:
    words = ("gum", tmp_path / "c", "--engine", "is", "--num-trials", 5, "--num-draws", 20, "--name", "result")
    found = json.loads(calibrate(*words, "--json")[1])
    assert [quantity["name"] for quantity in found["quantities"]] == ["result", "log likelihood"]


def test_a_bad_engine_ends_with_a_problem(calibrate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = tuple(0.02 if number % 2 else 0.98 for number in range(100))
    quantity = CalibrationQuantity("mu", narrow, tuple(range(100)))
    found = Calibration(Job("calibrate", {"engine": "is", "simulator": "gum"}), 100, 0, 0, [quantity])
    monkeypatch.setattr("tracestore.inference.calibration.calibrate", lambda *_, **__: found)
    status, output, _ = calibrate("gum", tmp_path / "c", "--engine", "is")
    assert status == 1
    assert "'mu' is overconfident" in output


def test_chains(calibrate, tmp_path: Path) -> None:
    words = ("gum", tmp_path / "c", "--engine", "lmh", "--chains", 2, "--num-trials", 3, "--num-draws", 20)
    assert calibrate(*words)[0] == 0
    assert open_calibration(tmp_path / "c").job.fields["chains"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engine", "ic"), "needs --network"),
        (("--engine", "is", "--network", "n"), "belongs to the engine ic"),
        (("--engine", "is", "--chains", "2"), "--chains belongs to"),
        (("--engine", "nuts"), "invalid choice"),
        ((), "--engine"),
    ],
)
def test_wrong_words_are_usage_errors(calibrate, tmp_path: Path, words, message: str) -> None:
    status, _, errors = calibrate("gum", tmp_path / "c", *words)
    assert status == 2
    assert message in errors
