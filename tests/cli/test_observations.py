"""Observations on the command line: files, and numbers by name."""

import json

import pytest

from tracestore.cli.command import main
from tracestore.cli.numbers_file import read_observations
from tracestore.errors import InvalidInputError


def test_numbers_and_files_go_together(tmp_path):
    file = tmp_path / "seen.json"
    file.write_text(json.dumps({"low": 1.0, "high": [2.0, 3.0]}))
    found = read_observations([str(file), "low=4"])
    assert {name: value.tolist() for name, value in found.items()} == {"low": 4.0, "high": [2.0, 3.0]}


def test_a_file_may_have_an_equals_sign(tmp_path):
    file = tmp_path / "seed=1.json"
    file.write_text('{"low": 1.0}')
    assert list(read_observations([str(file)])) == ["low"]


@pytest.mark.parametrize(("word", "message"), [("low=x", "must be a number"), ("low", "There is no file")])
def test_what_is_neither_is_refused(word, message):
    with pytest.raises(InvalidInputError, match=message):
        read_observations([word])


def test_infer_takes_numbers(tmp_path, capsys):
    words = ["infer", "gum", str(tmp_path / "out"), "--engine", "is", "--num-draws", "50"]
    assert main([*words, "--observe", "obs0=8", "--observe", "obs1=9"]) == 0
    assert "50" in capsys.readouterr().out
