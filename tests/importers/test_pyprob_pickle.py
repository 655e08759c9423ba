"""Hostile and damaged pickles in the place of pyprob's: nothing runs, and the error names the file and the global."""

import builtins
import copyreg
import functools
import operator
import os
import pickle
import struct
import subprocess
import tracemalloc
import types
import zlib
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.importers.test_pyprob_shelf import FULL, GOLDEN, SHELVES
from tracestore.errors import FormatError
from tracestore.importers.pyprob_opcodes import check_opcodes
from tracestore.importers.pyprob_pickle import load_pickle, load_value
from tracestore.importers.pyprob_records import PyprobRecordProblem
from tracestore.importers.pyprob_shelf import PyprobShelf
from tracestore.importers.pyprob_sqlite import SqliteTable
from tracestore.importers.pyprob_stand_ins import StoredObject
from tracestore.importers.pyprob_trace_records import trace_record

LIMIT = 1 << 20
REAL_RECORDS = []
for _name in (FULL, "posterior", next(name for name in SHELVES if name.startswith("mixed/"))):
    _table = SqliteTable(GOLDEN / _name, limit_bytes=LIMIT)
    REAL_RECORDS.append(pickle.loads(zlib.decompress(_table.get("0") or b"")))
    _table.close()


class Calls:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def write_shelf(path, *values):
    """An SQLite shelf of the given pickles, as pyprob 1.5 writes them."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "unnamed" (key TEXT PRIMARY KEY, value BLOB)')
        rows = [(b"__length", zlib.compress(pickle.dumps(pickle.dumps(len(values)))))]
        rows += [(b"%d" % index, zlib.compress(pickle.dumps(value))) for index, value in enumerate(values)]
        connection.executemany("INSERT INTO unnamed VALUES (?, ?)", rows)
    connection.close()
    return path


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module, name):
    return short(module) + short(name) + b"\x93"


def pickled(body, protocol=4):
    return b"\x80" + bytes([protocol]) + body + b"."


def hostile_values(marker):
    """Name of the trick -> (pickle, global that the message must name)."""
    touch = f"touch {marker}"
    system = Calls(os.system, touch)
    inner = pickle.dumps(system, 2)
    yield "os.system", pickle.dumps(system), "posix.system"
    yield "subprocess", pickle.dumps(Calls(subprocess.Popen, ["touch", str(marker)])), "subprocess.Popen"
    yield "eval", pickle.dumps(Calls(eval, f"open({str(marker)!r}, 'w')")), "builtins.eval"
    yield "exec", pickle.dumps(Calls(exec, f"open({str(marker)!r}, 'w')")), "builtins.exec"
    yield "getattr", pickle.dumps(Calls(getattr, "a", "upper")), "builtins.getattr"
    yield "open", pickle.dumps(Calls(open, str(marker), "w")), "io.open"
    yield "import", pickle.dumps(Calls(builtins.__import__, "os")), "builtins.__import__"
    yield "partial", pickle.dumps(functools.partial(os.system, touch)), "functools.partial"
    yield "methodcaller", pickle.dumps(operator.methodcaller("touch")), "operator.methodcaller"
    yield (
        "reconstructor",
        pickle.dumps(Calls(copyreg.__dict__["_reconstructor"], dict, object, None)),
        "copyreg._reconstructor",
    )
    yield "newobj", pickle.dumps(types.SimpleNamespace(a=1)), "types.SimpleNamespace"
    yield "pickle.loads", pickle.dumps(Calls(pickle.loads, inner)), "_pickle.loads"
    yield "path of names", pickled(named("pyprob.trace", "Trace.__init__.__globals__")), "pyprob.trace.Trace.__init__"
    yield "dunder module", pickled(named("builtins", "__dict__")), "builtins.__dict__"
    yield (
        "torch.load",
        pickled(named("torch.serialization", "load") + short("x") + b"\x85R"),
        "torch.serialization.load",
    )
    yield "protocol 2", pickle.dumps(system, 2), "posix.system"
    yield "in a dictionary", pickle.dumps({"value": [1, (2, system)]}), "posix.system"


HOSTILE = [name for name, _, _ in hostile_values(Path("x"))]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forbidden_global_is_named_and_not_run(name, tmp_path):
    marker = tmp_path / "marker"
    data, forbidden = next((data, found) for trick, data, found in hostile_values(marker) if trick == name)
    with PyprobShelf(write_shelf(tmp_path / "shelf", data)) as shelf:
        (record,) = shelf.read(0, 1)
    assert isinstance(record, PyprobRecordProblem)
    assert forbidden in record.reason
    assert "Record 0 of" in record.reason
    assert str(tmp_path / "shelf") in record.reason
    assert not marker.exists()
    with pytest.raises(FormatError) as caught:
        load_value(pickle.dumps(data), limit_bytes=LIMIT)
    assert str(caught.value.fields["forbidden"]).startswith(forbidden)


def variable_with(value):
    """A pruned trace of one controlled variable with the given pickled value."""
    address = short("address") + short("a__1")
    variable = named("pyprob.trace", "Variable") + b")\x81}(" + address + short("value") + value + b"ub"
    controlled = short("variables_controlled") + b"]" + variable + b"a"
    return pickled(named("pyprob.trace", "Trace") + b")\x81}(" + controlled + short("named_variables") + b"}" + b"ub")


def tensor_of(data, size=b")", strides=b")", offset=b"K\x00"):
    load = named("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(data)) + data + b"\x85R"
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + load + offset + size + strides + b"\x89}" + b"tR"


def usual_storage(numbers, kind=b"FloatStorage", count=None):
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    count = len(numbers) if count is None else count
    entry = b"\x80\x02(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x007X\x03\x00\x00\x00cpu"
    entry += b"J" + struct.pack("<i", count) + b"NtQ." + b"\x80\x02]X\x01\x00\x00\x007a."
    return head + entry + struct.pack("<q", count) + struct.pack(f"<{len(numbers)}f", *numbers)


def read_problem(data):
    with pytest.raises(FormatError) as caught:
        trace_record(load_pickle(data, limit_bytes=LIMIT))
    return str(caught.value)


def test_a_storage_in_the_general_form_is_read():
    (variable,) = trace_record(load_pickle(variable_with(tensor_of(usual_storage([1.5]))), limit_bytes=LIMIT)).variables
    assert variable.value == 1.5
    assert variable.address == "a__1"


@pytest.mark.parametrize("part", range(5))
def test_a_hostile_pickle_inside_a_tensor_is_named_and_not_run(part, tmp_path):
    marker = tmp_path / "marker"
    parts = [
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}.",
        b"\x80\x02N.",
        b"\x80\x02].",
    ]
    parts[part] = pickle.dumps(Calls(os.system, f"touch {marker}"), 2)
    assert "posix.system" in read_problem(variable_with(tensor_of(b"".join(parts))))
    assert not marker.exists()


def ints(*numbers):
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in numbers) + b"t"


@pytest.mark.parametrize(
    ("size", "strides", "offset"),
    [
        ((2,), (1,), 0),
        ((), (), 1),
        ((), (), -1),
        ((1,), (-1,), 0),
        ((1 << 40,), (0,), 0),
        ((1 << 40, 0), (1, 1), 0),
        ((2, 2), (1 << 61, 1 << 61), 0),
        ((1,), (1, 1), 0),
        ((-1,), (1,), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_a_tensor_cannot_reach_outside_of_its_storage(size, strides, offset):
    number = b"\x8a\x08" + struct.pack("<q", offset)
    data = variable_with(tensor_of(usual_storage([1.0]), ints(*size), ints(*strides), number))
    assert "tensor" in read_problem(data)


@pytest.mark.parametrize("count", [0, 2, 1 << 30, -1])
def test_a_storage_with_a_false_count_is_refused(count):
    assert "storage" in read_problem(variable_with(tensor_of(usual_storage([1.0], count=count), ints(1), ints(1))))


@pytest.mark.parametrize("kind", [b"QInt8Storage", b"ComplexHalfStorage"])
def test_elements_that_cannot_be_read_are_named(kind):
    assert kind.decode() in read_problem(variable_with(tensor_of(usual_storage([1.0], kind))))


STATES = {
    "dunder in a state": (named("pyprob.trace", "Trace") + b")\x81}" + short("__class__") + b"Nsb", "__class__"),
    "setstate in a state": (
        named("pyprob.trace", "Trace") + b")\x81}" + short("__setstate__") + b"Nsb",
        "__setstate__",
    ),
    "slot state": (named("pyprob.trace", "Trace") + b")\x81N}" + short("state") + b"Ns\x86b", "not a dictionary"),
    "state of a class": (named("pyprob.trace", "Trace") + b"}" + short("kind") + b"Nsb", "cannot be read"),
    "slot state of a class": (named("pyprob.trace", "Trace") + b"N}" + short("kind") + b"Ns\x86b", "cannot be read"),
    "state of a function": (named("torch", "Size") + b"}" + short("__call__") + b"Nsb", "sets a state on a function"),
    "slot state of a function": (
        named("torch", "Size") + b"N}" + short("_limit") + b"Ns\x86b",
        "sets a state on a function",
    ),
    "state of a tensor": (tensor_of(usual_storage([1.0])) + b"}" + short("_size") + b"Nsb", "sets a state on a tensor"),
    "state of a dtype": (named("torch", "float32") + b"}" + short("name") + b"Nsb", "sets a state on a dtype"),
    "state of a list": (b"]}" + short("append") + b"Nsb", "cannot be read"),
    "arguments of a class": (named("pyprob.trace", "Trace") + b"K\x01\x85\x81", "cannot be read"),
    "numpy array as a class": (named("numpy", "ndarray") + b"K\x01\x85\x81", "cannot be read"),
    "object array": (
        named("numpy", "dtype") + short("O8") + b"\x89\x88\x87R",
        "numpy.dtype with arguments of an unknown form",
    ),
    "size of bytes": (named("torch", "Size") + b"C\x01a\x85R", "torch.Size with arguments of an unknown form"),
    "dictionary of a dictionary": (named("collections", "OrderedDict") + b"}\x85R", "cannot be read"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_or_argument_of_another_form_is_refused(name):
    body, message = STATES[name]
    before = vars(StoredObject).copy()
    with pytest.raises(FormatError, match=message):
        load_pickle(pickled(body), limit_bytes=LIMIT)
    assert vars(StoredObject) == before


@pytest.mark.parametrize("body", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"], ids=["EXT1", "EXT2", "EXT4"])
def test_the_extension_registry_is_out_of_reach(body):
    copyreg.add_extension("posix", "system", 1)
    copyreg.__dict__["_extension_cache"][1] = os.system
    try:
        with pytest.raises(FormatError, match="opcode EXT"):
            load_pickle(pickled(body), limit_bytes=LIMIT)
    finally:
        copyreg.remove_extension("posix", "system", 1)


OPCODES = {
    "persistent id": (b"K\x01Q", "BINPERSID"),
    "text persistent id": (b"Pabc\n", "PERSID"),
    "inst": (b"(iposix\nsystem\n", "INST"),
    "obj": (b"(cposix\nsystem\no", "OBJ"),
    "newobj_ex": (named("pyprob.trace", "Trace") + b")}\x92", "NEWOBJ_EX"),
    "dup": (b"K\x012\x86", "DUP"),
    "set": (b"\x8f", "EMPTY_SET"),
    "buffer": (b"\x97", "NEXT_BUFFER"),
    "text memo": (b"Np4000000000\n", "PUT"),
    "text integer": (b"I" + b"9" * 5000 + b"\n", "INT"),
    "memo bomb": (b"Nr\xff\xff\xff\x7f", "memo position 2147483647"),
    "string bomb": (b"\x8d" + struct.pack("<Q", 1 << 40), "cut short"),
    "bytes bomb": (b"\x8e" + struct.pack("<Q", 1 << 40), "cut short"),
    "bytearray bomb": (b"\x96" + struct.pack("<Q", 1 << 40), "cut short"),
    "longest string": (b"\x8d" + b"\xff" * 8, "cut short"),
    "integer bomb": (b"\x8b" + struct.pack("<I", 1 << 16) + b"\1" * (1 << 16), "integer of 65536 bytes"),
    "frame bomb": (b"\x95" + struct.pack("<Q", 1 << 40) + b"N", "frame"),
    "opcodes": (b"]" * (1 << 18) + b"a" * ((1 << 18) - 1), "bytes of opcodes"),
    "memo of what is not there": (b"h\x05", "cannot be read"),
    "nothing on the stack": (b"ub", "cannot be read"),
    "unhashable key": (b"}]Ns", "cannot be read"),
}


@pytest.mark.parametrize("name", OPCODES)
def test_an_opcode_or_length_that_no_trace_needs_is_refused_within_memory(name):
    body, message = OPCODES[name]
    data = pickled(body)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message):
            load_pickle(data, limit_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_zlib_bomb_is_refused_within_memory():
    data = zlib.compress(bytes(200 << 20), 9)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="longer than 1048576 bytes when it is decompressed"):
            load_value(data, limit_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


def test_a_value_longer_than_the_limit_is_refused():
    with pytest.raises(FormatError, match="more than the limit of 100 for one record"):
        load_value(pickle.dumps("a" * 200), limit_bytes=100)


@pytest.mark.parametrize("kind", [b"ByteStorage", b"HalfStorage", b"BoolStorage"])
def test_a_storage_that_is_used_many_times_is_converted_once(kind):
    """A short pickle that refers to one long storage from many tensors cannot multiply it."""
    size = 1 << 16
    data = usual_storage([0.0] * (size // 4), kind, count=size // (2 if kind == b"HalfStorage" else 1))
    load = (
        named("torch.storage", "_load_from_bytes") + b"\x94" + b"B" + struct.pack("<I", len(data)) + data + b"\x94\x86"
    )
    count = b"J" + struct.pack("<i", size // 2)
    tensor = named("torch._utils", "_rebuild_tensor_v2") + b"(h\x00h\x01\x85RK\x00" + count + b"\x85K\x01\x85\x89}tR"
    normal = named("pyprob.distributions.normal", "Normal") + b")\x81}" + short("_torch_dist")
    normal += (
        named("torch.distributions.normal", "Normal") + b")\x81}(" + short("loc") + tensor + short("scale") + tensor
    )
    normal += b"ubsb"
    parts = short("distribution") + normal + short("value") + tensor
    variable = named("pyprob.trace", "Variable") + b")\x81}(" + parts + b"ub"
    trace = named("pyprob.trace", "Trace") + b")\x81}(" + short("variables_controlled") + b"](" + variable * 200 + b"e"
    tracemalloc.start()
    try:
        record = trace_record(
            load_pickle(pickled(load + b"0"[:0] + trace + short("named_variables") + b"}ub"), limit_bytes=LIMIT)
        )
        assert len(record.variables) == 200
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


def test_half_of_a_character_pair_is_not_an_address():
    address = short("address") + b"\x8c\x03\xed\xa0\x80"
    variable = named("pyprob.trace", "Variable") + b")\x81}(" + address + b"ub"
    trace = named("pyprob.trace", "Trace") + b")\x81}(" + short("variables_controlled") + b"]" + variable + b"a"
    assert "do not fit together" in read_problem(pickled(trace + short("named_variables") + b"}ub"))


def test_deep_nesting_is_a_value_like_any_other():
    depth = 50_000
    value = load_pickle(pickled(b"]" * depth + b"a" * (depth - 1)), limit_bytes=LIMIT)
    assert type(value) is list
    with pytest.raises(FormatError, match="not a trace"):
        trace_record(value)


def test_mixtures_in_mixtures_end_with_an_error():
    mixture = named("pyprob.distributions.mixture", "Mixture")
    # a mixture that is its own component
    body = mixture + b")\x81\x94}" + short("_distributions") + b"]h\x00asb"
    variable = named("pyprob.trace", "Variable") + b")\x81}" + short("distribution") + body + b"sb"
    trace = named("pyprob.trace", "Trace") + b")\x81}(" + short("variables_controlled") + b"]" + variable + b"a"
    message = read_problem(pickled(trace + short("named_variables") + b"}ub"))
    assert "nested more than" in message


def test_what_follows_a_pickle_is_an_error():
    with pytest.raises(FormatError, match="3 bytes follow the end"):
        load_pickle(pickle.dumps(1) + b"abc", limit_bytes=LIMIT)


def test_a_trace_whose_parts_have_other_types_is_an_error():
    for body in (b"N", b"K\x05", short("x")):
        trace = named("pyprob.trace", "Trace") + b")\x81}(" + short("variables_controlled") + body + b"ub"
        assert "`variables_controlled` of a trace is" in read_problem(pickled(trace))


def test_the_walk_over_opcodes_ends_where_the_pickle_ends():
    for protocol in (2, 3, 4, 5):
        for value in (list(range(700)), {"a" * 300: (1.5, None, True, b"x", b"y" * 300)}, -1, 1 << 70):
            data = pickle.dumps(value, protocol)
            if b"\x8bX" not in data and not (protocol == 2 and type(value) is dict):
                assert check_opcodes(data + b"more", max_structure_bytes=1 << 16) == len(data)


def test_a_pickle_cut_anywhere_is_a_format_error():
    data = REAL_RECORDS[1]
    for length in range(0, len(data), 97):
        with pytest.raises(FormatError):
            load_pickle(data[:length], limit_bytes=LIMIT)


def check_reading(data):
    try:
        value = load_value(data, limit_bytes=LIMIT)
        trace_record(value)
    except FormatError:
        pass


@hypothesis.given(st.binary(max_size=400))
def test_random_bytes_are_read_or_refused(data):
    check_reading(data)
    check_reading(b"\x80\x04" + data + b".")
    check_reading(zlib.compress(data))


@hypothesis.given(
    st.sampled_from(range(len(REAL_RECORDS))),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5),
)
def test_changed_records_are_read_or_refused_within_memory(number, changes):
    data = bytearray(REAL_RECORDS[number])
    for place, new in changes:
        place %= len(data)
        data[place : place + len(new)] = new
    tracemalloc.start()
    try:
        check_reading(bytes(data))
        assert tracemalloc.get_traced_memory()[1] < 16 * LIMIT
    finally:
        tracemalloc.stop()


FRAGMENTS = [bytes([code]) for code in b"()]}N\x88\x94Rbt\x85\x86\x87aesu\x81\x93.h\x01q"] + [
    named("pyprob.trace", "Trace"), named("pyprob.trace", "Variable"), named("torch", "Size"), b"h\x00", b"K\x02",
    named("torch._utils", "_rebuild_tensor_v2"), named("torch.storage", "_load_from_bytes"), short("value"), b"C\x02ab",
    named("pyprob.distributions.normal", "Normal"), named("numpy", "dtype"), named("collections", "OrderedDict"),
]  # fmt: skip


@hypothesis.given(st.lists(st.sampled_from(FRAGMENTS), max_size=40))
def test_random_programs_of_admitted_opcodes_are_read_or_refused(parts):
    check_reading(pickled(b"".join(parts)))
