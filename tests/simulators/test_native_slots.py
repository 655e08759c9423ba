"""Calls of a shared library, led elsewhere through its slots and back."""

import ctypes
import sys
from pathlib import Path

import pytest

from tracestore.errors import SimulatorError
from tracestore.native import build_library, find_compiler
from tracestore.simulators.native_slots import CallSlots, find_slots

SOURCE = """
double draw(void) { return 0.25; }
double hidden(void);
static double unused(void) { return 1.0; }
double hidden(void) { return unused(); }
double twice(void) { return draw() + draw(); }
double (*pointer)(void) = draw;
"""
FLAGS = {
    "lazy": ("-O0",),
    "at once and read-only": ("-O0", "-Wl,-z,now,-z,relro"),
    "without a table of jumps": ("-O0", "-fno-plt"),
}


@pytest.fixture(params=FLAGS)
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if find_compiler("c") is None:
        pytest.skip("there is no C compiler")
    monkeypatch.setenv("TRACESTORE_CACHE", str(tmp_path))
    return build_library("slots", {"slots.c": SOURCE}, flags=FLAGS[request.param])


def test_calls_are_led_elsewhere_and_back(path: Path) -> None:
    library = ctypes.PyDLL(str(path))
    library.twice.restype = ctypes.c_double
    slots = CallSlots(path, ["draw"])
    other = ctypes.PYFUNCTYPE(ctypes.c_double)(lambda: 3.0)
    assert library.twice() == 0.5
    for _ in range(2):
        slots.redirect({"draw": ctypes.cast(other, ctypes.c_void_p).value or 0})
        assert library.twice() == 6.0
        slots.restore()
        assert library.twice() == 0.5


@pytest.mark.parametrize("symbol", ["hidden", "nothing"])
def test_a_function_that_is_not_called_through_a_slot_is_refused(path: Path, symbol: str) -> None:
    with pytest.raises(SimulatorError, match=f"does not call {symbol} through a slot; it is another build"):
        find_slots(path, ["draw", symbol])


@pytest.mark.parametrize(
    "content", [b"no library, but long enough for all the headers " * 4, b"\x7fELF\x02\x01" + bytes(90)]
)
def test_a_file_that_is_no_library_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(content)
    with pytest.raises(SimulatorError, match=r"library.so is not a shared library whose calls can be led elsewhere"):
        find_slots(path, ["draw"])


def test_a_damaged_library_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    for length in range(64, len(content), 997):
        cut = tmp_path / "cut.so"
        cut.write_bytes(content[:length])
        try:
            find_slots(cut, ["draw"])
        except SimulatorError:
            continue


def test_a_machine_with_other_integers_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(SimulatorError, match="64-bit little-endian machines only"):
        CallSlots(path, ["draw"])
