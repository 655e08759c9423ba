"""The verb that imports pyprob data sets, from its words to its exit status."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from tracestore import TraceStore
from tracestore.cli.import_verb import add_import_options, run_import_pyprob

GOLDEN = Path(__file__).parent.parent / "golden" / "pyprob"


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        parser = argparse.ArgumentParser()
        parser.set_defaults(parser=parser)
        add_import_options(parser)
        status = run_import_pyprob(parser.parse_args([str(word) for word in words]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def damaged(tmp_path):
    shutil.copytree(GOLDEN / "marsaglia", tmp_path / "data")
    (tmp_path / "data" / "pyprob_traces_9_9").write_bytes(b"no shelf at all, only text")
    return tmp_path / "data"


def test_a_clean_import_prints_its_report(run):
    status, output, errors = run(GOLDEN / "marsaglia", "store")
    assert status == 0
    assert output.startswith("8 of 8 traces of 2 unsorted files are in ")
    assert "import: 8 traces" in errors


def test_what_is_reported_gives_status_one(run, tmp_path):
    status, output, _ = run(damaged(tmp_path), "store")
    assert status == 1
    assert "pyprob_traces_9_9: " in output


def test_json_has_every_number_and_problem(run, tmp_path):
    status, output, _ = run(damaged(tmp_path), "store", "--json")
    facts = json.loads(output)
    assert (status, facts["num_traces_in"], facts["num_traces_out"], facts["num_reported"]) == (1, 8, 8, 0)
    assert [problem["file"] for problem in facts["problems"]] == ["pyprob_traces_9_9"]
    assert facts["store"].endswith("store")


def test_words_reach_the_import(run):
    words = ["--tag", "spectrum", "--observation", "list_tag", "--segment-bytes", "5kB", "--which", "unsorted"]
    words += ["--address-dictionary", str(GOLDEN / "mixed_addresses"), "--codec", "none"]
    assert run(GOLDEN / "mixed", "store", *words)[0] == 0
    store = TraceStore.open("store")
    assert store.job.fields["tags"] == ["spectrum"]
    assert store.job.fields["observations"] == ["list_tag"]
    assert store.job.fields["segment_bytes"] == 5000
    assert list(store[0].observations) == ["list_tag"]
    assert store.identity.codec == "none"


@pytest.mark.processes
def test_workers_convert_in_processes(run):
    assert run(GOLDEN / "marsaglia", "store", "--workers", 2)[0] == 0
    assert len(TraceStore.open("store")) == 8
