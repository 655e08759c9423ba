"""What is loaded with a program, and which programs are refused before they are started."""

import os
import sys
from pathlib import Path

import pytest

from tests.ppx.closed_programs import IS_LINUX, NEEDS_COMPILER, compiled
from tracestore.errors import SimulatorError
from tracestore.ppx.binaries import check_symbols, find_binaries, replaceable_functions

pytestmark = [NEEDS_COMPILER, pytest.mark.processes]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("closed")) as found:
        yield found


def find(*command, **variables):
    return find_binaries([str(word) for word in command], os.environ | variables)


def test_the_libraries_are_those_that_the_loader_finds(programs):
    found = find(programs.path("decay"))
    names = [path.name for path in found.libraries]
    assert "librng.so" in names
    assert any(name.startswith("libc.so") for name in names)


def test_the_build_names_own_binaries_only(programs):
    parts = find(programs.path("decay")).build.split()
    assert [part.partition(":")[0] for part in parts] == ["decay", "librng.so"]
    assert all(len(part.partition(":")[2]) >= 16 for part in parts)


def test_functions_that_are_looked_up_by_name(programs):
    found = replaceable_functions(programs.path("decay"))
    assert {"_ZN3Rng4flatEv", "_ZN3Rng11expovariateEd", "printf"} <= found
    assert "main" not in found


def test_calls_within_a_library_are_looked_up_by_name(programs):
    programs.path("decay")
    assert "_ZN3Rng4flatEv" in replaceable_functions(programs.folder / "librng.so")


def test_calls_that_the_linker_resolved_are_not(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("bound")) as programs:
        library = programs.library("rng", "-Wl,-Bsymbolic")
        assert "_ZN3Rng4flatEv" not in replaceable_functions(library)


def test_a_plugin_counts_when_it_is_named(programs):
    plugin = programs.library("rng")
    program = programs.path("gum")
    with pytest.raises(SimulatorError, match="nor a library that is loaded with it calls"):
        check_symbols(["_ZN3Rng4flatEv"], find(program))
    check_symbols(["_ZN3Rng4flatEv"], find_binaries([str(program)], os.environ, opened=[plugin]))


def test_a_function_inside_of_the_program_is_refused(programs):
    with pytest.raises(SimulatorError, match="'throw_one' is in 'dice', but no call of it goes through the loader"):
        check_symbols(["throw_one"], find(programs.path("dice")))


def test_a_name_that_is_not_mangled_is_refused_with_the_mangled_one(programs):
    with pytest.raises(SimulatorError, match=r"Like it: '_ZN3Rng4flatEv' \(Rng::flat\(\)\)"):
        check_symbols(["flat"], find(programs.path("decay")))


def test_a_static_program_is_refused(programs):
    with pytest.raises(SimulatorError, match="is statically linked"):
        find(programs.path("dice", "-static"))


def test_a_missing_library_is_refused(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("missing")) as programs:
        program = programs.path("decay")
        (programs.folder / "librng.so").unlink()
        with pytest.raises(SimulatorError, match=r"cannot be loaded: .*librng\.so"):
            find(program)


def test_a_library_is_found_in_the_environment_of_the_run(tmp_path_factory):
    with compiled(tmp_path_factory.mktemp("moved")) as programs:
        program = programs.path("decay")
        (programs.folder / "elsewhere").mkdir()
        library = (programs.folder / "librng.so").rename(programs.folder / "elsewhere" / "librng.so")
        assert library in find(program, LD_LIBRARY_PATH=str(library.parent)).libraries


@pytest.mark.skipif(not IS_LINUX or os.geteuid() != 0, reason="only root may give files away")
def test_a_program_with_rights_of_its_own_is_refused(programs, tmp_path):
    copy = tmp_path / "gum"
    copy.write_bytes(programs.path("gum").read_bytes())
    os.chown(copy, 12345, 12345)
    copy.chmod(0o4755)
    with pytest.raises(SimulatorError, match="runs with rights of its own"):
        find(copy)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"\x7fELF\x01\x01\x01" + bytes(60), "is a 32-bit program"),
        (b"MZ" + bytes(60), "is no program of Linux for this machine"),
        (b"#!/usr/bin/env python3\n", "that would be interposed, not what it starts"),
        (b"#!/nowhere/python3\n", "whose interpreter '/nowhere/python3' does not exist"),
    ],
)
def test_other_files_are_refused(tmp_path, head, reason):
    file = tmp_path / "program"
    file.write_bytes(head)
    file.chmod(0o755)
    with pytest.raises(SimulatorError, match=reason):
        find(file)


def test_a_program_of_another_processor_is_refused(programs, tmp_path):
    copy = tmp_path / "gum"
    content = bytearray(programs.path("gum").read_bytes())
    content[18:20] = (0xF3).to_bytes(2, "little")
    copy.write_bytes(content)
    copy.chmod(0o755)
    with pytest.raises(SimulatorError, match="for another processor"):
        find(copy)


@pytest.mark.parametrize("name", ["/nowhere/program", "there-is-no-such-program"])
def test_a_missing_program_is_refused(name):
    with pytest.raises(SimulatorError, match="There is no program"):
        find(name)


def test_a_script_is_its_interpreter(tmp_path):
    script = tmp_path / "script"
    script.write_text(f"#!{Path(sys.executable).resolve()} -S\n")
    script.chmod(0o755)
    found = find(script)
    assert (found.start, found.program) == (script, Path(sys.executable).resolve())


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SimulatorError, match="can be interposed on Linux only"):
        find("/bin/true")
