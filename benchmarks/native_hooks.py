"""What a draw of a native library costs when Python answers it, with and without the place it is made at.

    python -m benchmarks.native_hooks [--draws N] [--repeats N]

A small C library, built here, draws through five nested functions and a function pointer. Python answers every draw
with a constant, so the figures are those of the hook. Best of the repeats, of which each measures every way in turn.
"""

import argparse
import ctypes
import time
from collections.abc import Callable

from tracestore.native import CallbackLibrary, CallStack, build_library, load_callback_library

SOURCE = """
#include <stdint.h>
static uint64_t state = 88172645463325252u;
static double native_random(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return ((double)(state >> 12) + 0.5) * 0x1p-52;
}
double (*bench_random)(void) = native_random;
void bench_reset(void) { bench_random = native_random; }
/* the sums keep the compiler from leaving calls out, and frames */
__attribute__((noinline)) double draw_one(double x) { return bench_random() + x; }
__attribute__((noinline)) double pick_angle(double x) { double d[4] = {x}; return draw_one(d[0] + 1.0) + d[0]; }
__attribute__((noinline)) double decay_body(double x) { double d[9] = {x}; return pick_angle(d[0] + 1.0) + d[0]; }
__attribute__((noinline)) double decay(double x) { double d[2] = {x}; return decay_body(d[0] + 1.0) * d[0]; }
double bench_run(int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += decay((double)i);
    return sum;
}
"""
DRAW = ctypes.PYFUNCTYPE(ctypes.c_double)


def build() -> tuple[ctypes.PyDLL, CallStack]:
    path = build_library("bench_draws", {"draws.c": SOURCE})
    library = ctypes.PyDLL(str(path))
    library.bench_run.argtypes, library.bench_run.restype = (ctypes.c_int64,), ctypes.c_double
    return library, CallStack(path)


class Ways:
    """Each method leads the library's draws in one way, and returns how many draws it is measured over."""

    def __init__(self, num_draws: int) -> None:
        self.library, self.stack = build()
        self.pointer = ctypes.c_void_p.in_dll(self.library, "bench_random")
        self.hooks: CallbackLibrary = load_callback_library()
        self.hooks.attach(self.stack)
        self.hooks.set_callback(lambda place, kind, arguments, num_arguments: 0.5)
        self.num_draws = num_draws
        self.kept: object = None

    def by_ctypes(self, function: Callable[[], float], share: int) -> int:
        self.kept = callback = DRAW(function)
        self.pointer.value = ctypes.cast(callback, ctypes.c_void_p).value
        return self.num_draws // share

    def by_shim(self, share: int, **parts: bool) -> int:
        self.hooks.configure(**parts)
        self.pointer.value = self.hooks.uniform_double_pointer
        return self.num_draws // share

    def native(self) -> int:
        self.library.bench_reset()
        return 20 * self.num_draws

    def all(self) -> dict[str, Callable[[], int]]:
        stack = self.stack

        def with_place() -> float:
            stack.place()
            return 0.5

        def with_new_place() -> float:
            stack.forget()
            stack.place()
            return 0.5

        return {
            "native generator": self.native,
            "ctypes callback, no address": lambda: self.by_ctypes(lambda: 0.5, 1),
            "ctypes callback, backtrace, names anew": lambda: self.by_ctypes(with_new_place, 20),
            "ctypes callback, backtrace, cached": lambda: self.by_ctypes(with_place, 4),
            "shim, no address": lambda: self.by_shim(1, addresses=False),
            "shim, address, names anew": lambda: self.by_shim(20, cache=False),
            "shim, address by unwinder, cached": lambda: self.by_shim(2, rules=False),
            "shim, address, cached": lambda: self.by_shim(1),
        }

    def seconds_per_draw(self, way: Callable[[], int]) -> float:
        num_draws = way()
        self.library.bench_run(100)
        start = time.perf_counter()
        self.library.bench_run(num_draws)
        return (time.perf_counter() - start) / num_draws


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    ways = Ways(arguments.draws)
    best: dict[str, float] = {}
    for _ in range(arguments.repeats):
        for name, way in ways.all().items():
            best[name] = min(best.get(name, float("inf")), ways.seconds_per_draw(way))
    shim = best["shim, address, cached"]
    print(f"{'way':42} {'us/draw':>9} {'of the shim':>12}")
    for name, seconds in best.items():
        print(f"{name:42} {1e6 * seconds:9.3f} {seconds / shim:12.2f}")
    added = shim - best["shim, no address"]
    print(f"finding the place in the shim adds {1e6 * added:.3f} us")
    print(f"naming anew costs {best['shim, address, names anew'] / shim:.1f} times as much as remembering (shim)")
    uncached, cached = (best[f"ctypes callback, backtrace, {word}"] for word in ("names anew", "cached"))
    print(f"naming anew costs {uncached / cached:.1f} times as much as remembering (ctypes)")


if __name__ == "__main__":
    main()
