import platform

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native.libraries import SHAPES
from tracestore.native.elf import ElfFile
from tracestore.native.frame_rules import FrameRule, FrameRules

PT_GNU_EH_FRAME = 0x6474E550
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="rules are for x86-64")


@pytest.fixture(scope="module")
def library(build):
    return build("rules", SHAPES)


def rule_in(path, name, offset=-1):
    elf = ElfFile(path)
    function = next(function for function in elf.functions if function.name == name)
    return FrameRules(elf).at(function.offset + (function.size if offset < 0 else offset))


def test_frame_of_fixed_size_is_left_by_the_stack_pointer(library):
    assert rule_in(library, "fixed", 1) == FrameRule(base=0, offset=8)


def test_frame_of_variable_size_is_left_by_the_frame_pointer(library):
    rule = rule_in(library, "variable")
    assert rule is not None
    assert rule_in(library, "variable", 40).base == 1


def test_code_without_a_function_has_no_rule(library):
    rules = FrameRules(ElfFile(library))
    assert rules.at(0) is None
    assert rules.at(2**40) is None


def test_other_machines_have_no_rules(library, tmp_path):
    content = bytearray(library.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")
    other = tmp_path / "other.so"
    other.write_bytes(content)
    assert rule_in(library, "fixed") is not None
    assert rule_in(other, "fixed") is None


@given(changes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_information_gives_a_rule_or_none(changes, library, tmp_path_factory):
    elf = ElfFile(library)
    segment = next(segment for segment in elf.segments if segment.kind == PT_GNU_EH_FRAME)
    content = bytearray(library.read_bytes())
    for place, byte in changes:  # the frames follow their table
        content[min(segment.file_offset + place % 1500, len(content) - 1)] = byte
    path = tmp_path_factory.mktemp("rules") / "damaged.so"
    path.write_bytes(content)
    damaged = ElfFile(path)
    rules = FrameRules(damaged)
    for function in damaged.functions:
        for offset in (1, function.size // 2, function.size):
            rule = rules.at(function.offset + offset)
            assert rule is None or abs(rule.offset) < 2**31
