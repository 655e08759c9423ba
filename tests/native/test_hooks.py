import pytest

from tracestore.errors import InvalidInputError
from tracestore.native.build import build_library, find_compiler
from tracestore.native.hooks import KINDS, Hook, interposer_source


@pytest.mark.parametrize("symbol", ["", "a b", 'f")', "1f", "f\n"])
def test_symbols_that_cannot_be_are_refused(symbol):
    with pytest.raises(InvalidInputError, match="`symbol` must be a name in a binary"):
        Hook(symbol, "uniform_double")


def test_unknown_kind_is_refused():
    with pytest.raises(InvalidInputError, match="`kind` must be one of uniform_double, "):
        Hook("f", "uniform")  # type: ignore[arg-type]


def test_symbol_hooked_twice_is_refused():
    with pytest.raises(InvalidInputError, match="hooked once; got f, f"):
        interposer_source([Hook("f", "uniform_double"), Hook("f", "uniform_float")])


@pytest.mark.parametrize("backend", ["callback", "ppx"])
def test_sources_compile_without_warnings(backend):
    if find_compiler("c") is None:
        pytest.skip("this machine has no C compiler")
    hooks = [Hook(f"draw_{kind}", kind) for kind in KINDS]
    flags = ("-Wall", "-Wextra", "-Werror", "-std=gnu11", "-ldl", "-lpthread", "-lm")
    assert build_library(f"warnings_{backend}", interposer_source(hooks, backend), flags=flags).exists()


def test_code_of_a_kind_is_its_position():
    assert [Hook("f", kind).code for kind in KINDS] == list(range(len(KINDS)))


def test_numbers_of_kinds_in_c_are_those_of_python():
    text = interposer_source([])["wrappers.h"]
    names = text[text.index("enum tracestore_kind {") :].split("}")[0].split("{")[1].split(",")
    found = [name.strip().removeprefix("TRACESTORE_").lower() for name in names if name.strip()]
    assert found == list(KINDS)
