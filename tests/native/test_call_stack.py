import ctypes
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.native.libraries import NESTED, Drawing, address_of, load
from tracestore.errors import SimulatorError
from tracestore.native.call_stack import CallStack, place_names

CXX = """
extern "C" { double (*double_source)(void); }
namespace physics {
struct Tau { KEEP double decay(int n) { double x = double_source() + n; AFTER(x); return x; } };
template <class T> KEEP double run(T n) { Tau tau; double x = tau.decay(n); AFTER(x); return x; }
}
extern "C" double cxx_outer(void) { double x = physics::run<int>(1); AFTER(x); return x; }
"""


@pytest.fixture
def drawing(build):
    return Drawing(build("nested", NESTED))


def call(library):
    return library.call_by_pointer()


def test_place_is_the_chain_of_functions(drawing):
    assert drawing.place(call).functions == ("call_by_pointer", "by_pointer")


def test_text_has_names_and_offsets_of_return_addresses(drawing):
    place = drawing.place(call)
    parts = [part.split("@") for part in place.text.split(" | ")]
    assert [name for name, _ in parts] == ["call_by_pointer", "by_pointer"]
    for name, offset in parts:
        start = address_of(drawing.library, name) - drawing.stack.modules[0].base
        assert 0 < int(offset, 16) - start < 100


def test_place_names_are_the_functions(drawing):
    place = drawing.place(call)
    assert place_names(place.text) == " | ".join(place.functions)


def test_same_place_is_found_again(drawing):
    assert drawing.place(call) is drawing.place(call)


def test_other_place_is_another(drawing):
    assert drawing.place(call).id != drawing.place(lambda library: library.by_pointer()).id


def test_chains_of_cpp_have_short_names(build):
    path = build("nested_cxx", CXX, language="c++")
    drawing = Drawing(path, drop_namespaces=("physics",))
    assert drawing.place(lambda library: library.cxx_outer()).functions == ("cxx_outer", "run", "Tau::decay")


def test_stripped_library_has_offsets(build):
    drawing = Drawing(build("nested_stripped", NESTED, flags=["-s"]))
    stripped = drawing.place(lambda library: library.call_by_pointer())
    whole = Drawing(build("nested", NESTED)).place(call)
    assert [part.split("@")[1] for part in stripped.text.split(" | ")] == [
        part.split("@")[1] for part in whole.text.split(" | ")
    ]


def test_functions_without_a_name_are_question_marks(build):
    source = NESTED.replace("KEEP double by_pointer", "KEEP static double by_pointer")
    drawing = Drawing(build("nested_nameless", source, flags=["-s"]))
    assert drawing.place(call).functions == ("call_by_pointer", "?")


def test_outermost_function_begins_the_chain(build):
    drawing = Drawing(build("nested", NESTED), outermost="by_pointer")
    assert drawing.place(call).functions == ("by_pointer",)


def test_chain_without_the_outermost_function_is_whole(build):
    drawing = Drawing(build("nested", NESTED), outermost="elsewhere")
    assert drawing.place(call).functions == ("call_by_pointer", "by_pointer")


def test_drawing_functions_are_cut(build):
    drawing = Drawing(build("nested", NESTED), drawing=["by_pointer"])
    assert drawing.place(call).functions == ("call_by_pointer",)


def test_one_frame_stays_when_all_are_drawing_functions(build):
    drawing = Drawing(build("nested", NESTED), drawing=["by_pointer", "call_by_pointer"])
    assert drawing.place(call).functions == ("call_by_pointer",)


def test_other_modules_carry_their_name(build):
    inner = build("nested", NESTED)
    load(inner)
    source = (
        "double call_by_pointer(void); KEEP double enter(void) { double x = call_by_pointer(); AFTER(x); return x; }"
    )
    outer = build("entering", source, flags=[str(inner)])
    library = load(outer, enter=ctypes.c_double)
    drawing = Drawing(inner, others=[outer])
    place = drawing.place(lambda _: library.enter())
    assert place.functions == (f"{outer.name}:enter", "call_by_pointer", "by_pointer")


def test_chain_ends_at_a_frame_of_another_module(build):
    inner = build("nested", NESTED)
    load(inner)
    source = (
        "double call_by_pointer(void); KEEP double enter(void) { double x = call_by_pointer(); AFTER(x); return x; }"
    )
    library = load(build("entering", source, flags=[str(inner)]), enter=ctypes.c_double)
    assert Drawing(inner).place(lambda _: library.enter()).functions == ("call_by_pointer", "by_pointer")


def test_deep_recursion_has_a_bounded_text(drawing):
    place = drawing.place(lambda library: library.recurse_by_pointer(3_000))
    assert len(place.functions) == 3_002
    assert len(place.text) < 1_500
    assert "[2970 frames " in place.text


def test_recursions_of_other_depth_are_other_places(drawing):
    texts = {drawing.place(lambda library, n=n: library.recurse_by_pointer(n)).text for n in (1, 2, 40, 41, 400)}
    assert len(texts) == 5


def test_short_chain_after_a_long_one_is_the_same(drawing):
    before = drawing.place(call)
    drawing.place(lambda library: library.recurse_by_pointer(200))
    assert drawing.place(call) == before


def test_draw_from_elsewhere_is_refused(build):
    stack = CallStack(build_and_load(build))
    with pytest.raises(SimulatorError, match="came from outside"):
        stack.place()


def build_and_load(build):
    path = build("nested", NESTED)
    load(path)
    return path


def test_address_outside_of_the_modules_is_refused(build):
    with pytest.raises(SimulatorError, match="lies outside"):
        CallStack(build_and_load(build)).place_of([1])


def test_build_is_that_of_all_modules(build):
    inner, other = build_and_load(build), build("other", "int other;")
    load(other)
    stack = CallStack(inner, others=[other])
    assert stack.build == f"{CallStack(inner).build}+{CallStack(other).build}"


def test_threads_find_their_own_chains(build):
    path = build("nested", NESTED)
    drawing = Drawing(path)
    library = ctypes.CDLL(str(path))  # gives up the interpreter lock
    library.recurse_by_pointer.restype = ctypes.c_double
    found: dict[int, set[int]] = {n: set() for n in range(4)}
    depth = threading.local()

    def draw():
        found[depth.n].add(len(drawing.stack.place().functions))
        return 0.5

    callback = ctypes.CFUNCTYPE(ctypes.c_double)(draw)
    ctypes.c_void_p.in_dll(library, "double_source").value = ctypes.cast(callback, ctypes.c_void_p).value

    def work(n):
        depth.n = n
        for _ in range(200):
            library.recurse_by_pointer(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: {n + 2} for n in found}


SCRIPT = """
import runpy, sys
drawing = runpy.run_path(sys.argv[1])["Drawing"](sys.argv[2])
sys.stdout.write(drawing.place(lambda library: library.call_by_pointer()).text)
"""


@pytest.mark.processes
def test_other_processes_find_the_same_text(build, drawing):
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(Path(__file__).with_name("libraries.py")),
        str(build("nested", NESTED)),
    ]
    texts = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert texts == {drawing.place(call).text}
