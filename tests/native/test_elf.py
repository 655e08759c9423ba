import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracestore.errors import FormatError, InvalidInputError
from tracestore.native.elf import ElfFile
from tracestore.native.frame_rules import FrameRules

C_SOURCE = """
KEEP static double hidden(double x) { AFTER(x); return 2.0 * x; }
KEEP double shown(double x) { return hidden(x) + 1.0; }
"""
CXX_SOURCE = "namespace physics { struct Tau { double decay(int); }; double Tau::decay(int n) { return n; } }"


def names(elf):
    return {function.name for function in elf.functions}


def test_exported_and_static_functions_are_named(build):
    elf = ElfFile(build("elf_plain", C_SOURCE))
    assert {"shown", "hidden"} <= names(elf)


def test_name_at_is_that_of_the_function_around_an_offset(build):
    elf = ElfFile(build("elf_plain", C_SOURCE))
    function = next(function for function in elf.functions if function.name == "shown")
    assert elf.name_at(function.offset) == elf.name_at(function.offset + function.size - 1) == "shown"


def test_offset_before_every_function_has_no_name(build):
    assert ElfFile(build("elf_plain", C_SOURCE)).name_at(0) is None


def test_names_of_cpp_are_mangled(build):
    elf = ElfFile(build("elf_cxx", CXX_SOURCE, language="c++"))
    assert "_ZN7physics3Tau5decayEi" in names(elf)


def test_stripped_library_names_exported_functions_only(build):
    elf = ElfFile(build("elf_stripped", C_SOURCE, flags=["-s"]))
    assert "shown" in names(elf)
    assert "hidden" not in names(elf)


def test_build_id_is_the_note_of_the_linker(build):
    path = build("elf_id", C_SOURCE, flags=["-Wl,--build-id=0x0123456789abcdef"])
    assert ElfFile(path).build_id == "0123456789abcdef"


def test_without_a_note_the_build_id_is_a_digest_of_the_file(build):
    first = ElfFile(build("elf_no_id", C_SOURCE, flags=["-Wl,--build-id=none"]))
    other = ElfFile(build("elf_no_id", C_SOURCE + "int more;", flags=["-Wl,--build-id=none"]))
    assert len(first.build_id) == 40
    assert first.build_id != other.build_id


def test_code_is_told_from_data(build):
    elf = ElfFile(build("elf_plain", C_SOURCE))
    assert elf.is_code(elf.functions[-1].offset)
    assert not elf.is_code(0)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)], ids=["empty", "text", "32"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="not a 64-bit little-endian ELF file"):
        ElfFile(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be read"):
        ElfFile(tmp_path / "none")


def test_truncated_file_is_refused(tmp_path, build):
    path = tmp_path / "cut.so"
    path.write_bytes(build("elf_plain", C_SOURCE).read_bytes()[:9000])
    with pytest.raises(FormatError, match="damaged or truncated"):
        ElfFile(path).functions  # noqa: B018


def read_everything(path):
    elf = ElfFile(path)
    assert isinstance(elf.build_id, str)
    rules = FrameRules(elf)
    for function in elf.functions[:20]:
        elf.name_at(function.offset)
        rules.at(function.offset + 1)


@given(
    changes=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 64 + 56 * 12), st.integers(0, 2**14)),
            st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255),
        ),
        min_size=1,
        max_size=6,
    ),
    length=st.none() | st.integers(0, 2**14),
)
def test_damaged_files_give_one_of_our_errors_or_are_read(changes, length, tmp_path_factory, build):
    content = bytearray(build("elf_plain", C_SOURCE).read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("elf") / "damaged.so"
    path.write_bytes(content[:length])
    with contextlib.suppress(FormatError, InvalidInputError):
        read_everything(path)


@given(section=st.integers(0, 40), field=st.integers(0, 7), number=st.sampled_from([0, 1, 24, 2**31, 2**40, 2**64 - 1]))
def test_hostile_section_headers_are_refused_or_read(section, field, number, tmp_path_factory, build):
    content = bytearray(build("elf_plain", C_SOURCE).read_bytes())
    start = struct.unpack_from("<Q", content, 40)[0] + 64 * (section % struct.unpack_from("<H", content, 60)[0])
    struct.pack_into("<Q", content, start + 8 * field, number)
    path = tmp_path_factory.mktemp("elf") / "hostile.so"
    path.write_bytes(content)
    with contextlib.suppress(FormatError, InvalidInputError):
        read_everything(path)


def test_end_of_a_function_is_not_in_it(build):
    elf = ElfFile(build("elf_lonely", "KEEP double lonely(double x) { return x + 1.0; }", flags=["-s"]))
    function = next(function for function in elf.functions if function.name == "lonely")
    assert elf.name_at(function.offset + function.size - 1) == "lonely"
    assert elf.name_at(function.offset + function.size) is None
