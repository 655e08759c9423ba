import ctypes
import math
import platform
import signal
import threading

import pytest

from tests.native.libraries import DRAWING, KIND_FUNCTIONS, NESTED, SHAPES, load
from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.native.call_stack import CallStack
from tracestore.native.callback_library import load_callback_library, read_arguments
from tracestore.native.hooks import KINDS, Hook

IS_X86 = platform.machine() == "x86_64"
ARGUMENTS = {
    "gamma_double": (2.0, 0.5),
    "pick_vector": (0.2, 0.3, 0.5),
    "random_int": (2147483647.0,),
    "integer_below": (6.0,),
}
VALUES = {"uniform_double": 0.3, "uniform_float": 0.25, "exponential_double": 1.5, "normal_double": -0.7}
RESULTS = (
    "outer",
    "middle",
    "two_draws",
    "recurse",
    "by_pointer",
    "shapes",
    "interrupted",
    *(f"ask_{kind}" for kind in KINDS),
)


class Hooked:
    """A library that was loaded after hooks of its own; interposed symbols stay for good, so each has its own names."""

    def __init__(self, build, name, source, hooks, *, flags=(), **options):
        build("probe", "int probe;")  # skips where nothing compiles
        self.hooks = load_callback_library(hooks)
        self.path = build(name, source, flags=flags)
        self.library = load(self.path, **{result: ctypes.c_double for result in RESULTS if result in source})
        self.stack = CallStack(self.path, **options)
        self.hooks.attach(self.stack)
        self.calls = []

    def run(self, call, value=0.5):
        """Call into the library; returns what that gives and the draws made."""
        self.calls = []

        def draw(place_id, code, pointer, num_arguments):
            arguments = read_arguments(pointer, num_arguments)
            self.calls.append((self.hooks.place(place_id), KINDS[code], arguments, self.stack.place()))
            return value(len(self.calls)) if callable(value) else value

        self.hooks.set_callback(draw)
        try:
            return call(self.library), self.calls
        finally:
            self.hooks.set_callback(None)
            self.hooks.raise_error()


@pytest.fixture(scope="module")
def kinds(build):
    return Hooked(build, "kinds", KIND_FUNCTIONS, [Hook(f"draw_{kind}", kind) for kind in KINDS])


@pytest.fixture(scope="module")
def drawing(build):
    return Hooked(build, "drawing", DRAWING.replace("flat", "flat_1"), [Hook("flat_1", "uniform_double")])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_what_the_callback_gives(kinds, kind):
    value = VALUES.get(kind, 2.0)
    found, _ = kinds.run(lambda library: getattr(library, f"ask_{kind}")(), value)
    assert found == value


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_tells_its_kind_and_arguments_once(kinds, kind):
    _, calls = kinds.run(lambda library: getattr(library, f"ask_{kind}")(), VALUES.get(kind, 2.0))
    assert [(found, arguments) for _, found, arguments, _ in calls] == [(kind, ARGUMENTS.get(kind, ()))]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_knows_the_function_that_draws(kinds, kind):
    _, calls = kinds.run(lambda library: getattr(library, f"ask_{kind}")(), VALUES.get(kind, 2.0))
    assert calls[0][0].functions == (f"ask_{kind}",)


@pytest.mark.parametrize(
    ("kind", "lowest", "highest"),
    [
        ("uniform_double", 0.0, 1.0),
        ("uniform_float", 0.0, 1.0),
        ("exponential_double", 0.0, math.inf),
        ("pick_vector", -1, 3),
        ("random_int", -1, 2**31),
        ("integer_below", -1, 6),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300])
def test_unusable_values_are_counted_and_replaced(kinds, kind, lowest, highest, value):
    if kind == "exponential_double" and value == 1e300:
        value = -math.inf
    before = kinds.hooks.num_unusable
    found, _ = kinds.run(lambda library: getattr(library, f"ask_{kind}")(), value)
    assert lowest < found < highest
    assert kinds.hooks.num_unusable == before + 1


def test_ends_of_the_unit_interval_are_not_returned(kinds):
    for value in (0.0, 1.0):
        found, _ = kinds.run(lambda library: library.ask_uniform_double(), value)
        assert 0.0 < found < 1.0


@pytest.mark.parametrize("value", [1.0 - 2.0**-40, 1e-300])
def test_rounding_to_single_precision_stays_inside(kinds, value):
    before = kinds.hooks.num_unusable
    found, _ = kinds.run(lambda library: library.ask_uniform_float(), value)
    assert 0.0 < found < 1.0
    assert kinds.hooks.num_unusable == before


def test_exception_in_the_callback_leaves_after_the_library_has_returned(drawing):
    returned = []
    with pytest.raises(ZeroDivisionError):
        drawing.run(lambda library: returned.append(library.two_draws()), lambda _: 1 / 0)
    assert len(returned) == 1
    assert len(drawing.calls) == 1


def test_signal_that_comes_while_native_code_runs_is_not_lost(build):
    source = (
        DRAWING.replace("flat", "flat_s")
        + """
    #include <signal.h>
    KEEP double interrupted(void) { raise(SIGUSR1); double x = flat_s(0); AFTER(x); return x; }
    """
    )
    hooked = Hooked(build, "signals", source, [Hook("flat_s", "uniform_double")])

    def handle(*_):
        raise RecursionError("the signal")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(RecursionError, match="the signal"):
            hooked.run(lambda library: library.interrupted())
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_result_that_is_no_number_is_an_error(drawing):
    with pytest.raises(TypeError):
        drawing.run(lambda library: library.outer(), "text")


def test_library_draws_again_after_an_error(drawing):
    with pytest.raises(ZeroDivisionError):
        drawing.run(lambda library: library.outer(), lambda _: 1 / 0)
    assert drawing.run(lambda library: library.outer())[0] == 11.5


def test_block_answers_and_then_the_library_draws_by_itself(drawing):
    with drawing.hooks.answered_by(lambda *_: 0.75):
        assert drawing.library.outer() == 11.75
    assert drawing.library.outer() == 11.25


def test_block_raises_the_error_of_its_function(drawing):
    with pytest.raises(ZeroDivisionError), drawing.hooks.answered_by(lambda *_: 1 / 0):
        drawing.library.outer()
    assert drawing.library.outer() == 11.25


def test_block_refuses_unusable_values(drawing):
    with pytest.raises(SimulatorError, match="1 values lie outside"), drawing.hooks.answered_by(lambda *_: 2.0):
        drawing.library.outer()


def test_chain_is_that_of_the_calling_functions(drawing):
    _, calls = drawing.run(lambda library: library.outer())
    assert calls[0][0].functions == ("outer", "middle", "inner")


def test_two_draws_of_a_function_have_two_places(drawing):
    result, calls = drawing.run(lambda library: library.two_draws(), lambda number: 0.25 * number)
    assert result == 0.25 + 100.0 * 0.5
    assert calls[0][0].text != calls[1][0].text
    assert calls[0][0].functions == calls[1][0].functions == ("two_draws",)


CALLS = {
    "outer": lambda library: library.outer(),
    "two_draws": lambda library: library.two_draws(),
    "recursion": lambda library: library.recurse(100),
    "deep recursion": lambda library: library.recurse(17_000),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_places_are_those_of_the_way_without_a_compiler(drawing, call):
    _, calls = drawing.run(call)
    assert calls
    assert [place for place, _, _, _ in calls] == [by_ctypes for _, _, _, by_ctypes in calls]


@pytest.mark.parametrize("parts", [{"rules": False}, {"cache": False}, {"rules": False, "cache": False}], ids=str)
def test_places_are_the_same_with_parts_turned_off(drawing, parts):
    _, before = drawing.run(CALLS["outer"])
    drawing.hooks.configure(**parts)
    try:
        _, calls = drawing.run(CALLS["outer"])
    finally:
        drawing.hooks.configure()
    assert calls[0][0] == before[0][0]


FLAGS = {
    "-O0": ["-O0"],
    "-O2": [],
    "-O3": ["-O3"],
    "frame pointers": ["-fno-omit-frame-pointer"],
    "no frame pointers": ["-O1", "-fomit-frame-pointer"],
    "stack protector": ["-fstack-protector-all"],
}


@pytest.mark.parametrize("flags", FLAGS, ids=FLAGS)
def test_frames_of_all_shapes_are_followed(build, flags):
    number = list(FLAGS).index(flags) + 2
    source = SHAPES.replace("flat(", f"flat_{number}(")
    hooked = Hooked(build, f"shapes_{number}", source, [Hook(f"flat_{number}", "uniform_double")], flags=FLAGS[flags])
    for size in (1, 100, 5_000):
        _, calls = hooked.run(lambda library, size=size: library.shapes(size))
        assert calls[0][0].functions == ("shapes", "many", "aligned", "variable", "fixed")
        assert calls[0][0] == calls[0][3]
    assert hooked.hooks.num_mismatches == 0
    assert hooked.hooks.num_unwound == 0 or not IS_X86


def test_without_a_callback_the_library_draws_by_itself(drawing):
    drawing.hooks.set_callback(None)
    assert drawing.library.outer() == 1.0 + 0.25 + 10.0


def test_calls_from_other_modules_are_left_to_the_library(drawing, build):
    source = "double flat_1(void *); KEEP double outer(void) { double x = flat_1(0); AFTER(x); return x; }"
    other = load(build("calling", source, flags=[str(drawing.path)]), outer=ctypes.c_double)
    result, calls = drawing.run(lambda _: other.outer())
    assert (result, calls) == (0.25, [])


def test_function_pointers_draw_in_both_precisions(build):
    path = build("pointers", DRAWING.replace("flat", "flat_p"))
    library = load(path, by_pointer=ctypes.c_double, by_float_pointer=ctypes.c_float)
    hooks = load_callback_library()
    hooks.attach(CallStack(path))
    ctypes.c_void_p.in_dll(library, "double_source").value = hooks.uniform_double_pointer
    ctypes.c_void_p.in_dll(library, "float_source").value = hooks.uniform_float_pointer
    found = []

    def draw(place_id, code, *_):
        found.append((hooks.place(place_id).functions, KINDS[code]))
        return 0.125

    with hooks.answered_by(draw):
        assert (library.by_pointer(), library.by_float_pointer()) == (0.125, 0.125)
    assert found == [(("by_pointer",), "uniform_double"), (("by_float_pointer",), "uniform_float")]


def test_wrappers_that_do_not_interpose_can_be_led_to(build):
    path = build("led", NESTED.replace("flat", "flat_led"))
    library = load(path, call_by_pointer=ctypes.c_double)
    hooks = load_callback_library([Hook("flat_led", "uniform_double")], interpose=False)
    hooks.attach(CallStack(path))
    ctypes.c_void_p.in_dll(library, "double_source").value = hooks.wrapper_pointer("flat_led")
    assert library.call_by_pointer() == 0.25  # the library's own function
    with hooks.answered_by(lambda *_: 0.75):
        assert library.call_by_pointer() == 0.75


def test_threads_draw_at_their_own_places(build):
    source = DRAWING.replace("flat", "flat_t")
    hooked = Hooked(build, "threads", source, [Hook("flat_t", "uniform_double")])
    library = ctypes.CDLL(str(hooked.path))  # gives up the interpreter lock
    library.recurse.restype = ctypes.c_double
    found: dict[int, set[int]] = {n: set() for n in range(4)}
    depth = threading.local()

    def draw(place_id, *_):
        found[depth.n].add(len(hooked.hooks.place(place_id).functions))
        return 0.5

    def work(n):
        depth.n = n
        for extra in range(300):
            library.recurse(n + 4 * (extra % 3))

    hooked.hooks.set_callback(draw)
    threads = [threading.Thread(target=work, args=(n,)) for n in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hooked.hooks.set_callback(None)
    assert found == {n: {n + 1, n + 5, n + 9} for n in found}
    assert hooked.hooks.num_mismatches == 0


def test_same_hooks_are_the_same_library(drawing):
    assert load_callback_library([Hook("flat_1", "uniform_double")]) is drawing.hooks


def test_place_that_was_not_given_is_refused(drawing):
    with pytest.raises(SimulatorError, match="No draw was made at a place"):
        drawing.hooks.place(1)


def test_library_that_was_loaded_before_the_hooks_is_refused(build):
    path = build("early", DRAWING.replace("flat", "flat_early"))
    load(path)
    hooks = load_callback_library([Hook("flat_early", "uniform_double")])
    with pytest.raises(InvalidInputError, match="was loaded before the hooks"):
        hooks.attach(CallStack(path))


def test_function_that_nobody_has_is_refused(build):
    hooks = load_callback_library([Hook("no_such_function", "uniform_double")])
    path = build("lacking", "int lacking;")
    load(path)
    with pytest.raises(InvalidInputError, match="'no_such_function' is neither in lacking"):
        hooks.attach(CallStack(path))


def test_arguments_without_any_are_empty():
    assert read_arguments(0, 0) == ()
