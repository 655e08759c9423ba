"""What is made of the C++ front end: its generated code, its own tests, its installed package."""

import shutil

import pytest

pytest.importorskip("zmq")
from tests.cpp.front_end import SOURCE, build, run

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("cpp")]


def test_the_generated_code_belongs_to_the_schema(tmp_path):
    if shutil.which("flatc") is None or "2.0.8" not in run(["flatc", "--version"]):
        pytest.skip("flatc 2.0.8 is absent")
    run(["flatc", "--cpp", "--scoped-enums", "-o", str(tmp_path), str(SOURCE / "schema" / "ppx.fbs")])
    committed = SOURCE / "include" / "tracestore" / "ppx_generated.h"
    assert (tmp_path / "ppx_generated.h").read_bytes() == committed.read_bytes()


@pytest.mark.parametrize(
    "header", sorted((SOURCE / "include" / "tracestore").glob("*.hpp")), ids=lambda path: path.name
)
def test_headers_are_short(header):
    lines = header.read_text("utf-8").splitlines()
    assert len(lines) <= 400
    assert max(map(len, lines)) <= 120


@pytest.mark.slow
def test_tests_in_cpp_pass(built):
    build(built)
    run(["ctest", "--test-dir", str(built), "--output-on-failure"])


@pytest.mark.slow
def test_an_installed_package_is_found(built, tmp_path):
    build(built)
    prefix, project = tmp_path / "prefix", tmp_path / "project"
    run(["cmake", "--install", str(built), "--prefix", str(prefix)])
    project.mkdir()
    (project / "gum.cpp").write_bytes((SOURCE / "examples" / "gum.cpp").read_bytes())
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(other CXX)\nfind_package(tracestore 0.1 REQUIRED)\n"
        "add_executable(gum gum.cpp)\ntarget_link_libraries(gum PRIVATE tracestore::tracestore)\n",
        encoding="utf-8",
    )
    run(["cmake", "-S", str(project), "-B", str(tmp_path / "b"), f"-DCMAKE_PREFIX_PATH={prefix}"])
    run(["cmake", "--build", str(tmp_path / "b")])
    assert len(run([str(tmp_path / "b" / "gum"), "--alone", "3", "1"]).split()) == 3
