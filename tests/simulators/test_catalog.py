"""Simulators by name."""

from pathlib import Path

import pytest

from tracestore.errors import SimulatorNotFoundError
from tracestore.simulators import NAMES, resolve


@pytest.mark.parametrize("name", NAMES)
def test_bundled_names_resolve(name: str) -> None:
    if name == "tau":
        pytest.importorskip("alouette")
    if name == "cross-section-torch":
        pytest.importorskip("torch")
    assert resolve(name).__doc__


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gumm", ["'gumm'", "gum-marsaglia", "module:object"]),
        ("no_such_module:f", ["'no_such_module'", "gum"]),
        ("tracestore.simulators.toys:gumm", ["'gumm'", "gum, gum_marsaglia"]),
        (":x", ["':x'"]),
        ("", ["''"]),
    ],
)
def test_unknown_names_are_refused_with_what_exists(spec: str, words: list[str]) -> None:
    with pytest.raises(SimulatorNotFoundError) as caught:
        resolve(spec)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_users_module_resolves_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_program_of_mine.py").write_text("def f():\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert resolve("my_program_of_mine:f").name == "my_program_of_mine:f"


def test_a_failing_import_inside_the_users_module_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_broken_program.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        resolve("my_broken_program:f")
