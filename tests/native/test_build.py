import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tracestore.errors import CompilerError, InvalidInputError
from tracestore.native import build as build_module
from tracestore.native.build import build_library, cache_folder, find_compiler

SOURCE = {"answer.c": "int answer(void) { return 42; }"}
FAKE = """#!/bin/sh
{body}
"""


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRACESTORE_CACHE", str(folder))
    return folder


@pytest.fixture
def compiler(own_cache):
    if find_compiler("c") is None:
        pytest.skip("this machine has no C compiler")
    return own_cache


@pytest.fixture
def fake_compiler(own_cache, tmp_path, monkeypatch):
    def make(body):
        path = tmp_path / "fake-cc"
        path.write_text(FAKE.format(body=body))
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return make


def answer(path):
    return ctypes.CDLL(str(path)).answer()


def test_library_is_built_and_loads(compiler):
    assert answer(build_library("answer", SOURCE)) == 42


def test_cpp_is_built(compiler):
    if find_compiler("c++") is None:
        pytest.skip("this machine has no C++ compiler")
    source = 'template <class T> T twice(T n) { return 2 * n; } extern "C" int answer() { return twice(21); }'
    assert answer(build_library("answer", {"answer.cpp": source}, language="c++")) == 42


def test_headers_are_only_included(compiler):
    sources = {"answer.c": '#include "number.h"\nint answer(void) { return NUMBER; }', "number.h": "#define NUMBER 7"}
    assert answer(build_library("answer", sources)) == 7


def test_same_sources_are_built_once(compiler):
    first = build_library("answer", SOURCE)
    number = first.stat().st_ino
    assert build_library("answer", SOURCE) == first
    assert first.stat().st_ino == number


@pytest.mark.parametrize(
    "change",
    [{"sources": {"answer.c": "int answer(void) { return 43; }"}}, {"flags": ["-DMORE"]}, {"name": "other"}],
    ids=["source", "flags", "name"],
)
def test_other_libraries_have_other_files(compiler, change):
    assert build_library(**{"name": "answer", "sources": SOURCE, **change}) != build_library("answer", SOURCE)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_file_is_built_again(compiler, damage):
    path = build_library("answer", SOURCE)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # this process may have the old one loaded
    path.write_bytes({"truncate": bytes(content[:5000]), "flip": bytes(content), "empty": b""}[damage])
    assert answer(build_library("answer", SOURCE)) == 42


def test_nothing_but_libraries_stays_in_the_cache(compiler):
    path = build_library("answer", SOURCE)
    assert list(compiler.iterdir()) == [path]


def test_without_a_compiler_the_message_says_so(own_cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CompilerError, match=r"No C compiler was found, .* install one .* or set CC"):
        build_library("answer", SOURCE)


def test_errors_have_the_words_of_the_compiler(compiler):
    with pytest.raises(CompilerError, match=r"(?s)could not build broken.*no_such_type"):
        build_library("broken", {"broken.c": "no_such_type f(void);"})


def test_broken_compiler_leaves_nothing_behind(fake_compiler, own_cache):
    fake_compiler("echo out of paper >&2; exit 3")
    with pytest.raises(CompilerError, match=r"(?s)exit status 3.*out of paper"):
        build_library("answer", SOURCE)
    assert list(own_cache.iterdir()) == []


def test_compiler_that_makes_nothing_is_refused(fake_compiler):
    fake_compiler("exit 0")
    with pytest.raises(CompilerError, match="reported success and made no library"):
        build_library("answer", SOURCE)


def test_compiler_that_hangs_is_stopped(fake_compiler, monkeypatch):
    fake_compiler("exec sleep 60")
    monkeypatch.setattr(build_module, "_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(CompilerError, match="took longer than"):
        build_library("answer", SOURCE)


def test_chosen_compiler_may_have_arguments(fake_compiler, compiler, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    real = find_compiler("c")
    monkeypatch.setenv("CC", f"{real} -DNUMBER=9")
    assert answer(build_library("answer", {"answer.c": "int answer(void) { return NUMBER; }"})) == 9


@pytest.mark.parametrize("command", ["  ", "no-such-compiler", "'", "no such 'thing"])
def test_chosen_compiler_that_is_none_is_passed_over(compiler, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert answer(build_library("answer", SOURCE)) == 42


def test_chosen_compiler_may_have_blanks_in_its_path(own_cache, tmp_path, monkeypatch):
    path = tmp_path / "my tools" / "cc"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\necho out of paper; exit 3")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    with pytest.raises(CompilerError, match="out of paper"):
        build_library("answer", SOURCE)


def test_cache_folder_is_closed_to_others(own_cache):
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACESTORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "tracestore"


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_cache_folder_that_others_may_write_to_is_refused(own_cache, mode):
    own_cache.mkdir()
    own_cache.chmod(mode)
    with pytest.raises(CompilerError, match="other users may write to it"):
        cache_folder()


def test_cache_folder_of_another_user_is_refused(own_cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    with pytest.raises(CompilerError, match="belongs to another user"):
        cache_folder()


def test_cache_folder_that_is_a_file_is_refused(own_cache):
    own_cache.write_text("")
    with pytest.raises(CompilerError, match="cannot be used"):
        cache_folder()


@pytest.mark.parametrize("name", ["../answer.c", "/answer.c", "-answer.c", ".c", "a b.c", ""])
def test_names_with_a_meaning_are_refused(name):
    with pytest.raises(InvalidInputError, match="plain file names"):
        build_library("answer", {name: ""})


def test_nothing_to_compile_is_refused():
    with pytest.raises(InvalidInputError, match=r"no file that ends in \.c"):
        build_library("answer", {"answer.h": ""})


SCRIPT = """
import ctypes
import os
from tracestore.native.build import build_library
path = build_library("answer", {"answer.c": "int answer(void) { return 42; }"})
raise SystemExit(ctypes.CDLL(str(path)).answer())
"""


@pytest.mark.processes
def test_many_processes_build_at_once(compiler):
    started = [subprocess.Popen([sys.executable, "-c", SCRIPT]) for _ in range(4)]
    assert [process.wait(60) for process in started] == [42] * 4
    assert len(list(Path(compiler).iterdir())) == 1
