import ctypes
import sys
from pathlib import Path

import pytest

from tests.native.libraries import address_of, load
from tracestore.errors import InvalidInputError
from tracestore.native import symbols
from tracestore.native.symbols import demangle, describe, loaded_module, module_at, short_name

SHORT_NAMES = {
    "main": "main",
    "ns::f(int, double)": "ns::f",
    "void ns::A<int>::f<double>(std::function<void (int)>) [clone .cold]": "ns::A::f",
    "std::ostream& operator<< <char>(std::ostream&, char const*)": "operator<<",
    "bool operator< <int>(A<int> const&, B)": "operator<",
    "A::operator()(int) const": "A::operator()",
    "A::operator bool() const": "A::operator bool",
    "A::operator->() const": "A::operator->",
    "std::vector<int, std::allocator<int> >::operator[](unsigned long)": "std::vector::operator[]",
    "operator new(unsigned long)": "operator new",
    "A::~A()": "A::~A",
    "(anonymous namespace)::helper(int)": "helper",
    "ns::(anonymous namespace)::helper(int)": "ns::helper",
    "A::f(int)::{lambda(double)#2}::operator()(double) const": "A::f::{lambda}::operator()",
    "A::name[abi:cxx11]() const": "A::name",
    "char const* ns::name(int)": "ns::name",
    "tauola_decay_.constprop.0.isra.3": "tauola_decay_",
    "dekay.2815": "dekay",
    "f(int) &&": "f",
}


@pytest.mark.parametrize(("demangled", "short"), SHORT_NAMES.items(), ids=SHORT_NAMES)
def test_short_name(demangled, short):
    assert short_name(demangled) == short


def test_named_namespaces_are_left_out():
    assert short_name("Pythia8::TauDecays::decay(int)", drop_namespaces=("Pythia8",)) == "TauDecays::decay"


def test_brackets_that_do_not_match_are_left_alone():
    assert short_name("odd<(") == "odd<("


def test_marks_of_addresses_do_not_stand_in_names():
    assert short_name("f@@VERSION") == "fVERSION"


def test_demangle():
    if demangle("_Z1fi") == "_Z1fi":
        pytest.skip("this machine has no C++ library")
    assert demangle("_ZN7Pythia84Rndm4flatEv") == "Pythia8::Rndm::flat()"


def test_without_a_cpp_library_names_stay_mangled(monkeypatch):
    monkeypatch.setattr(symbols, "_demangler", lambda: None)
    demangle.cache_clear()
    assert demangle("_ZN7Pythia84Rndm4flatEv") == "_ZN7Pythia84Rndm4flatEv"
    demangle.cache_clear()


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    symbols._library.cache_clear()
    with pytest.raises(InvalidInputError, match="need Linux with the GNU C library"):
        module_at(1)


@pytest.mark.parametrize("name", ["", "_Z", "_Zgarbage", "plain", "_Z" + "N1a" * 10_000])
def test_what_is_no_mangled_name_stays(name):
    assert demangle(name) == name


def test_describe_names_the_function_of_the_call_before(build):
    path = build("symbols", "KEEP void first(void) {} KEEP void second(void) {}")
    library = load(path)
    module = loaded_module(path)
    address = address_of(library, "second")
    assert describe(module.path, address - module.base + 1).startswith("second@")
    assert not describe(module.path, address - module.base).startswith("second@")


def test_module_at_finds_file_and_base(build):
    path = build("symbols", "KEEP void first(void) {} KEEP void second(void) {}")
    address = address_of(load(path), "first")
    module = loaded_module(path)
    assert module_at(address) == (module.path, module.base)
    assert module.base <= address < module.end


def test_module_at_finds_a_library_that_was_loaded_after_the_first_question(build):
    module_at(1)
    path = build("symbols_late", "KEEP void late(void) {}")
    module = loaded_module(load(path)._name)
    assert module_at(address_of(load(path), "late")) == (str(path), module.base)


def test_no_module_is_at_an_address_without_code():
    assert module_at(1) is None


def test_the_program_itself_is_a_module():
    module = loaded_module(sys.executable)
    assert Path(module.path) == Path(sys.executable).resolve()
    assert module_at(module.base) == (module.path, module.base)


def test_module_that_is_not_loaded_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="is not loaded in this process"):
        loaded_module(tmp_path / "none.so")
