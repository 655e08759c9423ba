"""Addresses: identities that never change, and the strings they come from."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracestore.errors import InvalidInputError
from tracestore.traces import address_id, base_address, format_address, split_address, trace_type_id


@given(st.text(), st.integers(1, 10**9))
def test_format_and_split_are_inverse(base: str, instance: int) -> None:
    assert split_address(format_address(base, instance)) == (base, instance)


@pytest.mark.parametrize("bad", ["", "gum:mu", "gum:mu#", "gum:mu#0", "gum:mu#-1", "gum:mu#1.5", "gum:mu#x", "a#٣"])
def test_malformed_addresses_are_refused_with_the_text(bad: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        split_address(bad)
    assert repr(bad) in str(caught.value)


def test_identities_are_pinned() -> None:
    """A change of these numbers would orphan every store ever written."""
    assert address_id("gum:mu~Normal#1") == 0x65C891F221495558
    assert trace_type_id(np.array([1, 2, 3], np.uint64)) == 0x7C68B4906E7EA780


def test_identities_do_not_depend_on_the_process() -> None:
    code = "from tracestore.traces import address_id; print(address_id('gum:mu~Normal#1'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_trace_types_depend_on_order_and_length() -> None:
    types = {trace_type_id(np.array(ids, np.uint64)) for ids in ([], [1], [1, 2], [2, 1], [1, 2, 3])}
    assert len(types) == 5


def test_a_tag_without_suffix_keeps_its_place() -> None:
    assert base_address("gum:mu", "") == "gum:mu"
