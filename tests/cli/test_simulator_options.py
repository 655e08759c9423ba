"""Words for simulators: bundled ones, programs to start, programs that run."""

import argparse
import sys
from pathlib import Path

import pytest

from tracestore.cli.simulator_options import BUNDLED, MAX_SITES, add_simulator_options, load_simulator
from tracestore.errors import InvalidInputError
from tracestore.simulators import MAX_SITES as TRUE_MAX_SITES
from tracestore.simulators import NAMES

SERVE = f"{Path(sys.executable).parent / 'tracestore'} serve gum --endpoint {{endpoint}}"


def read(*words):
    parser = argparse.ArgumentParser()
    add_simulator_options(parser)
    return parser.parse_args(words)


def load_program(*words):
    simulator = pytest.importorskip("tracestore.ppx.simulator", exc_type=ImportError)
    program = load_simulator(read(*words))
    assert isinstance(program, simulator.PPXSimulator)
    return program


def test_what_is_known_without_loading_is_true():
    assert BUNDLED == NAMES
    assert MAX_SITES == TRUE_MAX_SITES


def test_a_command_becomes_a_program_with_its_instances():
    program = load_program("ppx:./model --depth '1 2'", "--instances", "3", "--silence", "5")
    assert program.settings.command == ("./model", "--depth", "1 2")
    assert (program.max_in_flight, program.settings.timeout) == (3, 5.0)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5555", "ipc://@model"])
def test_an_endpoint_is_a_program_that_runs_already(endpoint):
    program = load_program(endpoint)
    assert (program.settings.endpoints, program.settings.command) == ((endpoint,), ())


def test_no_command_is_refused():
    with pytest.raises(InvalidInputError, match="`ppx:` needs a command"):
        load_simulator(read("ppx: "))


@pytest.mark.processes
def test_a_served_simulator_is_run_from_the_command_line(run):
    pytest.importorskip("zmq")
    status, output, errors = run("simulate", f"ppx:{SERVE}", "traces", "--num-traces", 20, "--max-sites", 100)
    assert status == 0, errors
    assert "20 traces of ppx:tracestore serve gum" in output


@pytest.mark.processes
def test_the_length_cap_is_kept(run):
    status, _, errors = run("simulate", "gum", "traces", "--num-traces", 20, "--max-sites", 2)
    assert status == 0
    assert "20 x the trace reached 2 sites" in errors


def test_engines_keep_the_length_cap(run, tmp_path):
    (tmp_path / "seen.json").write_text('{"obs0": 8.0, "obs1": 9.0}')
    words = ("--engine", "is", "--observe", "seen.json", "--num-draws", 20, "--max-sites", 2)
    status, _, errors = run("infer", "gum", "posterior", *words)
    assert status == 1
    assert "the first failure: the trace reached 2 sites" in errors


def test_a_command_that_cannot_be_read_is_refused():
    pytest.importorskip("zmq")
    with pytest.raises(InvalidInputError, match="cannot be read: No closing quotation"):
        load_simulator(read("ppx:./it's"))


@pytest.mark.parametrize("word", ["gum", "tcp://127.0.0.1:5555"])
def test_instances_of_what_is_not_started_are_refused(word):
    with pytest.raises(InvalidInputError, match="`--instances` belongs to 'ppx:COMMAND'"):
        load_simulator(read(word, "--instances", "4"))


@pytest.mark.parametrize("seconds", ["0", "nan", "-1"])
def test_silence_must_be_positive(seconds, capsys):
    with pytest.raises(SystemExit):
        read("gum", "--silence", seconds)
    assert "must be a positive number of seconds" in capsys.readouterr().err
