"""Small native libraries that draw random numbers, for tests."""

import ctypes
from collections.abc import Callable
from pathlib import Path

from tracestore.errors import SimulatorError
from tracestore.native.call_stack import CallStack, Place

# calls are kept as calls, and frames as frames
C_PRELUDE = """
#include <stdint.h>
#include <stdlib.h>
#define KEEP __attribute__((noinline))
#define AFTER(x) __asm__ volatile("" : "+r"(x))
"""


DRAWING = """
static double native_flat(void) { return 0.25; }
KEEP double flat(void *engine) { double x = native_flat(); AFTER(x); return x; }
float (*float_source)(void);
double (*double_source)(void);

KEEP static double inner(void *engine, double x) { x += flat(engine); AFTER(x); return x; }
KEEP double middle(void *engine, double x) { x = inner(engine, x) + 10.0; AFTER(x); return x; }
KEEP double outer(void) { double x = middle(0, 1.0); AFTER(x); return x; }
KEEP double two_draws(void) { double x = flat(0); AFTER(x); double y = flat(0); AFTER(y); return x + 100.0 * y; }
KEEP double recurse(int64_t n) { double x = n > 0 ? recurse(n - 1) : flat(0); AFTER(x); return x; }
KEEP double by_pointer(void) { double x = double_source(); AFTER(x); return x; }
KEEP float by_float_pointer(void) { float x = float_source(); AFTER(x); return x; }
"""
"""``flat`` is called by functions of one, two and more frames; ``inner`` is static."""

KIND_FUNCTIONS = """
KEEP double draw_uniform_double(void *a) { return -1.0; }
KEEP float draw_uniform_float(void *a) { return -1.0f; }
KEEP double draw_exponential_double(void *a) { double x = draw_uniform_double(a); AFTER(x); return x; }
KEEP double draw_normal_double(void) { return -1.0; }
KEEP double draw_gamma_double(void *a, double shape, double rate) { return -shape - rate; }
struct vector { const double *begin, *end, *capacity; };
KEEP int draw_pick_vector(void *a, const struct vector *weights) { return -1; }
KEEP int draw_random_int(void) { return -1; }
KEEP unsigned long draw_integer_below(void *a, unsigned long n) { return n; }

KEEP double ask_uniform_double(void) { double x = draw_uniform_double(0); AFTER(x); return x; }
KEEP double ask_uniform_float(void) { float x = draw_uniform_float(0); AFTER(x); return x; }
KEEP double ask_exponential_double(void) { double x = draw_exponential_double(0); AFTER(x); return x; }
KEEP double ask_normal_double(void) { double x = draw_normal_double(); AFTER(x); return x; }
KEEP double ask_gamma_double(void) { double x = draw_gamma_double(0, 2.0, 0.5); AFTER(x); return x; }
KEEP double ask_pick_vector(void)
{
    double weights[3] = {0.2, 0.3, 0.5};
    struct vector vector = {weights, weights + 3, weights + 3};
    int x = draw_pick_vector(0, &vector);
    AFTER(x);
    return x;
}
KEEP double ask_random_int(void) { int x = draw_random_int(); AFTER(x); return x; }
KEEP double ask_integer_below(void) { unsigned long x = draw_integer_below(0, 6); AFTER(x); return x; }
"""
"""A drawing function ``draw_KIND`` of each kind, and ``ask_KIND``, which calls it."""

SHAPES = """
#include <string.h>
double flat(void *engine);
KEEP double fixed(double x)
{
    double d[40];
    memset(d, 0, sizeof d);
    __asm__ volatile("" :: "r"(d) : "memory");
    x += flat(d);
    AFTER(x);
    return x + d[3];
}
KEEP double variable(int64_t n)
{
    char *text = __builtin_alloca(n);
    memset(text, 1, n);
    __asm__ volatile("" :: "r"(text) : "memory");
    double x = fixed(1.0) + text[n - 1];
    AFTER(x);
    return x;
}
KEEP double aligned(int64_t n)
{
    double d[16] __attribute__((aligned(64)));
    memset(d, 0, sizeof d);
    __asm__ volatile("" :: "r"(d) : "memory");
    double x = variable(n) + d[1];
    AFTER(x);
    return x;
}
KEEP double many(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f, int64_t g, int64_t h, int64_t n)
{
    double x = aligned(n) + a + b + c + d + e + f + g + h;
    AFTER(x);
    return x;
}
KEEP double shapes(int64_t n) { double x = many(1, 2, 3, 4, 5, 6, 7, 8, n); AFTER(x); return x; }
KEEP double flat(void *engine) { double x = 0.5; AFTER(x); return x; }
"""
"""Frames of all shapes: of fixed size, with memory of a size known at run time, aligned, with arguments in memory."""

NESTED = (
    DRAWING
    + """
KEEP double call_by_pointer(void) { double x = by_pointer(); AFTER(x); return x; }
KEEP double recurse_by_pointer(int64_t n)
{
    double x = n > 0 ? recurse_by_pointer(n - 1) : by_pointer();
    AFTER(x);
    return x;
}
"""
)


def load(path: Path, **results: type) -> ctypes.PyDLL:
    library = ctypes.PyDLL(str(path))
    for name, result in results.items():
        getattr(library, name).restype = result
    return library


def address_of(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


DRAW = ctypes.PYFUNCTYPE(ctypes.c_double)


class Drawing:
    """The library with a Python function at the end of each draw."""

    def __init__(self, path, **options) -> None:
        names = ("by_pointer", "call_by_pointer", "recurse_by_pointer", "cxx_outer")
        self.library = load(path, **{name: ctypes.c_double for name in names if hasattr(ctypes.CDLL(str(path)), name)})
        self.stack = CallStack(path, **options)

    def place(self, call: Callable[[ctypes.PyDLL], object]) -> Place:
        found: list[Place | SimulatorError] = []

        def draw() -> float:
            found.append(self._place())
            return 0.5

        callback = DRAW(draw)
        ctypes.c_void_p.in_dll(self.library, "double_source").value = ctypes.cast(callback, ctypes.c_void_p).value
        call(self.library)
        assert len(found) == 1
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def _place(self) -> Place | SimulatorError:
        try:
            return self.stack.place()
        except SimulatorError as error:
            return error
