"""The verb that serves a simulator, from its words to its exit status."""

import argparse
import re
import signal
import subprocess
import sys
import threading
import uuid

import pytest

from tracestore.cli.serve_verb import add_serve_options, run_serve
from tracestore.errors import InvalidInputError, SimulatorNotFoundError

pytest.importorskip("zmq")
from tests.ppx.controllers import Controller


def parse(*words):
    parser = argparse.ArgumentParser()
    add_serve_options(parser)
    return parser.parse_args(list(words))


def served_once(endpoint, capsys, *words):
    """Serve one run from a thread; return its status and what it printed."""
    status = []
    thread = threading.Thread(
        target=lambda: status.append(run_serve(parse("gum", "--endpoint", endpoint, "--max-runs", "1", *words))),
        daemon=True,
    )
    thread.start()
    printed, errors = "", ""
    while "serving" not in printed and thread.is_alive():
        more = capsys.readouterr()
        printed, errors = printed + more.out, errors + more.err
    with Controller(printed.split()[-1].replace("0.0.0.0", "127.0.0.1")) as controller:
        controller.run_with()
    thread.join(10.0)
    more = capsys.readouterr()
    return status[0], printed + more.out, errors + more.err


def test_it_says_where_it_listens_and_what_it_has_done(capsys):
    endpoint = f"ipc://@{uuid.uuid4().hex}"
    status, printed, errors = served_once(endpoint, capsys)
    assert status == 0
    assert printed == (
        f"serving tracestore.simulators.toys:gum at {endpoint}\nserved 1 runs of tracestore.simulators.toys:gum\n"
    )
    assert "serve: 1 runs in" in errors


def test_a_port_that_is_chosen_is_said(capsys):
    _, printed, _ = served_once("tcp://127.0.0.1:*", capsys)
    assert re.search(r"at tcp://127\.0\.0\.1:\d+\n", printed)


def test_it_warns_when_it_listens_on_all_interfaces(capsys):
    _, _, errors = served_once("tcp://*:*", capsys)
    assert "warning: it listens on all interfaces, and PPX has no authentication" in errors


def test_it_does_not_warn_on_this_machine_only(capsys):
    _, _, errors = served_once("tcp://127.0.0.1:*", capsys)
    assert "warning" not in errors


def test_it_listens_on_this_machine_only_unless_told():
    assert parse("gum").endpoint == "tcp://127.0.0.1:5555"


def test_a_simulator_that_does_not_exist_is_refused():
    with pytest.raises(SimulatorNotFoundError, match="no simulator 'gam'"):
        run_serve(parse("gam"))


def test_an_endpoint_that_is_none_is_refused():
    with pytest.raises(InvalidInputError, match="Cannot bind to the endpoint 'here'"):
        run_serve(parse("gum", "--endpoint", "here"))


def test_zero_runs_are_refused(capsys):
    with pytest.raises(SystemExit):
        parse("gum", "--max-runs", "0")
    assert "must be at least 1" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "status", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "told to stop")]
)
def test_a_signal_ends_it_with_a_line(number, status, words):
    code = (
        "import argparse, sys\n"
        "from tracestore.cli.serve_verb import add_serve_options, run_serve\n"
        "parser = argparse.ArgumentParser()\n"
        "add_serve_options(parser)\n"
        "sys.exit(run_serve(parser.parse_args()))\n"
    )
    endpoint = f"ipc://@{uuid.uuid4().hex}"
    command = [sys.executable, "-c", code, "gum", "--endpoint", endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        with Controller(endpoint) as controller:
            controller.run_with()
            controller.handshake()  # the run before is counted
        process.send_signal(number)
        printed, errors = process.communicate(timeout=20)
    assert (process.returncode, printed) == (status, f"{words}: served 1 runs of tracestore.simulators.toys:gum\n")
    assert errors == "serve: 1 runs\n"
