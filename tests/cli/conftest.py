"""What tests of the command line share."""

import pytest

from tracestore.cli.command import main


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run one command in a folder of its own; return exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status: object
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
