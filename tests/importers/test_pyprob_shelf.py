"""Data sets of pyprob: everything that pyprob reads from the golden files is read from them, and nothing is written."""

import json
import math
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tracestore.errors import FormatError, InvalidInputError, StoreNotFoundError
from tracestore.importers.pyprob_pickle import load_pickle
from tracestore.importers.pyprob_records import PyprobRecordProblem, PyprobTrace
from tracestore.importers.pyprob_shelf import PyprobShelf, find_pyprob_files, read_address_dictionary

GOLDEN = Path(__file__).parents[1] / "golden" / "pyprob"
TRUTH = json.loads((GOLDEN / "truth.json").read_text())
SHELVES = [name for name in TRUTH if "/" in name or name == "posterior"]
MARSAGLIA = next(name for name in SHELVES if name.startswith("marsaglia/"))
DTYPES = ("float64", "uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64", "complex64")
FULL = next(name for name in SHELVES if name.startswith("mixed_full/"))


def facts_of(name):
    facts = TRUTH[name]
    return TRUTH[facts] if isinstance(facts, str) else facts


def read_all(path):
    with PyprobShelf(path) as shelf:
        return list(shelf.read(0, shelf.num_records))


def check_array(array, facts):
    assert array.shape == tuple(facts["shape"])
    assert str(array.dtype) == facts.get("dtype", "float32")
    assert array.reshape(-1).tolist() == facts["data"]


def check_distribution(distribution, facts):
    if facts is None:
        assert distribution is None
        return
    assert distribution.family == facts["family"]
    assert set(distribution.parameters) == set(facts["parameters"])
    for name, parameter in facts["parameters"].items():
        array = distribution.parameters[name]
        assert array.dtype == np.float64
        assert array.shape == tuple(parameter["shape"])
        assert array.reshape(-1).tolist() == parameter["data"]
    assert len(distribution.components) == len(facts["components"])
    for component, part in zip(distribution.components, facts["components"], strict=True):
        check_distribution(component, part)


def check_number(number, fact):
    assert (number is None) == (fact is None)
    if fact is not None:
        assert number == fact or (math.isnan(number) and math.isnan(fact))


def check_variable(variable, facts):
    for name in ("address", "address_base", "instance", "name"):
        assert getattr(variable, name) == facts.get(name), name
    for name in ("observable", "observed", "reused", "tagged"):
        assert getattr(variable, name) is facts.get(name, False), name
    assert bool(variable.control) is facts.get("control", False)
    check_distribution(variable.distribution, facts.get("distribution"))
    value = facts.get("value")
    if value is None or "unread" in value:
        assert variable.value is None
        assert variable.unread_value == (value and value["unread"])
    else:
        check_array(variable.value, value)
    check_number(variable.log_prob, facts.get("log_prob"))
    check_number(variable.log_importance_weight, facts.get("log_importance_weight"))


def check_trace(trace, facts):
    assert isinstance(trace, PyprobTrace), trace
    assert trace.is_pruned is facts.get("is_pruned", False)
    assert trace.has_result is facts.get("has_result", False)
    assert list(trace.controlled) == facts["controlled"]
    for name in ("length", "length_controlled"):
        assert getattr(trace, name) == facts[name]
    for name in ("log_prob", "log_prob_observed", "log_importance_weight", "execution_time_sec"):
        check_number(getattr(trace, name), facts.get(name))
    assert len(trace.variables) == len(facts["variables"])
    for variable, part in zip(trace.variables, facts["variables"], strict=True):
        check_variable(variable, part)
    assert list(trace.named) == list(facts["named"])
    for name, part in facts["named"].items():
        if isinstance(part, int):
            assert trace.named[name] is trace.variables[part]
        else:
            check_variable(trace.named[name], part)


@pytest.mark.parametrize("name", SHELVES)
def test_a_shelf_reads_as_pyprob_reads_it(name):
    records = read_all(GOLDEN / name)
    facts = facts_of(name)
    assert len(records) == len(facts)
    for record, part in zip(records, facts, strict=True):
        check_trace(record, part)


@pytest.mark.parametrize("name", SHELVES)
def test_reading_leaves_the_files_as_they_were(name, tmp_path):
    shutil.copytree((GOLDEN / name).parent, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    read_all(tmp_path / "copy" / Path(name).name)
    assert {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()} == before


def test_a_file_in_a_directory_without_write_permission_is_read(tmp_path):
    shutil.copy(GOLDEN / MARSAGLIA, tmp_path / "shelf")
    (tmp_path / "shelf").chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert len(read_all(tmp_path / "shelf")) == 4
    finally:
        tmp_path.chmod(0o755)


def test_the_length_and_the_keys_are_those_of_the_file():
    with PyprobShelf(GOLDEN / MARSAGLIA) as shelf:
        assert shelf.declared_length == shelf.num_records == 4
        assert shelf.keys == ("0", "1", "2", "3")
        assert shelf.log_weights is None


def test_a_range_is_read_by_position():
    with PyprobShelf(GOLDEN / MARSAGLIA) as shelf:
        (record,) = shelf.read(2, 1)
        check_trace(record, facts_of(MARSAGLIA)[2])
        assert len(list(shelf.read(3, 100))) == 1
        with pytest.raises(InvalidInputError, match="must not be negative"):
            next(shelf.read(-1, 1))


def test_an_empirical_distribution_has_its_weights():
    with PyprobShelf(GOLDEN / "posterior") as shelf:
        assert shelf.log_weights.tolist() == TRUTH["posterior_log_weights"]


def read_tensors():
    tensors = load_pickle((GOLDEN / "tensors.pickle").read_bytes(), limit_bytes=1 << 20)
    assert isinstance(tensors, dict)
    return tensors


def test_tensors_of_every_dtype_and_stride_are_read():
    tensors = read_tensors()
    assert set(tensors) == set(TRUTH["tensors"])
    for name, facts in TRUTH["tensors"].items():
        array = tensors[name].array()
        assert array.shape == tuple(facts["shape"]), name
        assert array.astype(complex).real.reshape(-1).tolist() == facts["real"], name
        assert not array.flags.writeable
        assert str(array.dtype) == (name if name in DTYPES else "float32"), name


def test_an_expanded_tensor_takes_no_memory_of_its_own():
    tensors = read_tensors()
    assert tensors["expanded"].array().strides == tensors["expanded"].doubles().strides == (0, 0)


def test_an_address_dictionary_maps_identifiers_to_base_addresses():
    assert read_address_dictionary(GOLDEN / "mixed_addresses") == TRUTH["mixed_addresses"]


def test_an_address_dictionary_with_a_damaged_entry_is_an_error(tmp_path):
    shutil.copy(GOLDEN / "mixed_addresses", tmp_path / "addresses")
    with sqlite3.connect(tmp_path / "addresses") as connection:
        connection.execute("UPDATE unnamed SET value = x'7801' WHERE key = ?", (b"__id____A3",))
    connection.close()
    with pytest.raises(FormatError, match="'__id____A3' of the address dictionary"):
        read_address_dictionary(tmp_path / "addresses")


# ------------------------------------------------------------------------------------------------------ finding files


def make_files(directory, *names):
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_bytes(b"")
    return directory


def test_sorted_files_are_taken_first_and_in_the_order_of_their_numbers(tmp_path):
    names = ["pyprob_traces_sorted_10_10", "pyprob_traces_sorted_10_9", "pyprob_traces_5_abc", "pyprob_hashes"]
    files = find_pyprob_files(make_files(tmp_path, *names))
    assert [path.name for path in files.paths] == ["pyprob_traces_sorted_10_9", "pyprob_traces_sorted_10_10"]
    assert (files.kind, files.num_passed_over) == ("sorted", 1)


def test_unsorted_files_are_taken_when_asked_for(tmp_path):
    names = ["pyprob_traces_sorted_10_0", "pyprob_traces_5_b", "pyprob_traces_5_a", "pyprob_traces_5_a-journal"]
    make_files(tmp_path / "pyprob_traces_folder", "pyprob_traces_5_c")
    files = find_pyprob_files(make_files(tmp_path, *names), "unsorted")
    assert [path.name for path in files.paths] == ["pyprob_traces_5_a", "pyprob_traces_5_b"]
    assert (files.kind, files.num_passed_over) == ("unsorted", 1)


def test_a_shelf_in_several_files_counts_once():
    (path,) = find_pyprob_files(GOLDEN / "dumb").paths
    assert len(read_all(path)) == 4


@pytest.mark.parametrize("which", ["auto", "sorted", "unsorted"])
def test_a_directory_without_files_is_an_error(tmp_path, which):
    with pytest.raises(StoreNotFoundError, match=r"has no .*data set files of pyprob"):
        find_pyprob_files(tmp_path, which)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "shelf").write_bytes(b"PK\3\4 something else")
    with pytest.raises(FormatError, match="neither an SQLite nor a GNU dbm file"):
        PyprobShelf(tmp_path / "shelf")


def test_an_ndbm_file_is_refused_with_what_to_do_where_the_module_is_missing(tmp_path):
    try:
        import dbm.ndbm  # noqa: F401
    except ImportError:
        (tmp_path / "shelf.pag").write_bytes(b"")
        with pytest.raises(FormatError, match=r"no dbm\.ndbm module"):
            PyprobShelf(tmp_path / "shelf")


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE VIEW unnamed AS SELECT '0' AS key, randomblob(100000000) AS value",
        "CREATE TABLE unnamed (key TEXT PRIMARY KEY, value BLOB AS (zeroblob(1000000000)))",
        "CREATE TABLE other (key TEXT PRIMARY KEY, value BLOB)",
    ],
)
def test_a_database_with_a_schema_of_its_own_is_refused(tmp_path, schema):
    with sqlite3.connect(tmp_path / "shelf") as connection:
        connection.execute(schema)
    connection.close()
    with pytest.raises(FormatError, match="without the table that pyprob writes"):
        PyprobShelf(tmp_path / "shelf")


# ------------------------------------------------------------------------------------------------------------- damage


def write_many(path, num_records=600):
    """A shelf with several levels of pages: the records of the golden file over and over."""
    with sqlite3.connect(GOLDEN / MARSAGLIA) as connection:
        rows = dict(connection.execute("SELECT key, value FROM unnamed").fetchall())
    connection.close()
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "unnamed" (key TEXT PRIMARY KEY, value BLOB)')
        for position in range(num_records):
            connection.execute("INSERT INTO unnamed VALUES (?, ?)", (b"%d" % position, rows[b"%d" % (position % 4)]))
    connection.close()
    return path


def test_a_damaged_leaf_page_costs_only_the_records_on_it(tmp_path):
    data = bytearray(write_many(tmp_path / "shelf").read_bytes())
    leaves = [start for start in range(4096, len(data), 4096) if data[start] == 0x0D]
    assert len(leaves) > 20
    data[leaves[5] : leaves[5] + 4096] = b"\xff" * 4096
    (tmp_path / "shelf").write_bytes(bytes(data))
    records = read_all(tmp_path / "shelf")
    assert len(records) == 600
    problems = [record for record in records if isinstance(record, PyprobRecordProblem)]
    assert 0 < len(problems) < 8
    assert all("damaged" in problem.reason or "missing" in problem.reason for problem in problems)


@pytest.mark.parametrize("kind", [0x05, 0x02, 0x0A], ids=["table interior", "index interior", "index leaf"])
def test_a_damaged_page_above_the_records_costs_none(tmp_path, kind):
    data = bytearray(write_many(tmp_path / "shelf").read_bytes())
    pages = [start for start in range(4096, len(data), 4096) if data[start] == kind]
    assert pages
    data[pages[0] : pages[0] + 4096] = b"\xff" * 4096
    (tmp_path / "shelf").write_bytes(bytes(data))
    records = read_all(tmp_path / "shelf")
    assert len(records) == 600
    assert not [record for record in records if isinstance(record, PyprobRecordProblem)]


def test_a_damaged_first_page_costs_no_record(tmp_path):
    data = bytearray(write_many(tmp_path / "shelf").read_bytes())
    data[100:4096] = b"\xff" * 3996
    (tmp_path / "shelf").write_bytes(bytes(data))
    records = read_all(tmp_path / "shelf")
    assert sum(isinstance(record, PyprobTrace) for record in records) == 600


def test_an_unreadable_length_is_replaced_by_what_the_keys_say(tmp_path):
    shutil.copy(GOLDEN / MARSAGLIA, tmp_path / "shelf")
    with sqlite3.connect(tmp_path / "shelf") as connection:
        connection.execute("UPDATE unnamed SET value = x'00' WHERE key = ?", (b"__length",))
    connection.close()
    with PyprobShelf(tmp_path / "shelf") as shelf:
        assert shelf.declared_length is None
        assert shelf.num_records == 4


def test_a_missing_record_is_a_problem_at_its_position(tmp_path):
    shutil.copy(GOLDEN / MARSAGLIA, tmp_path / "shelf")
    with sqlite3.connect(tmp_path / "shelf") as connection:
        connection.execute("DELETE FROM unnamed WHERE key = ?", (b"1",))
    connection.close()
    records = read_all(tmp_path / "shelf")
    assert [isinstance(record, PyprobTrace) for record in records] == [True, False, True, True]
    assert "Record 1 of" in records[1].reason
    assert "missing" in records[1].reason


@pytest.mark.parametrize(
    "name", [FULL, next(name for name in SHELVES if name.startswith("gdbm/"))], ids=["sqlite", "gdbm"]
)
def test_a_file_cut_anywhere_gives_problems_or_a_format_error(tmp_path, name):
    data = (GOLDEN / name).read_bytes()
    readable = 0
    for length in range(0, len(data), 97):
        (tmp_path / "shelf").write_bytes(data[:length])
        try:
            records = read_all(tmp_path / "shelf")
        except FormatError:
            continue
        readable = max(readable, sum(isinstance(record, PyprobTrace) for record in records))
    assert readable > 0


def test_a_dumb_file_cut_anywhere_gives_problems_or_a_format_error(tmp_path):
    name = next(name for name in SHELVES if name.startswith("dumb/"))
    shutil.copytree((GOLDEN / name).parent, tmp_path / "dumb")
    base = tmp_path / "dumb" / Path(name).name
    for suffix in (".dat", ".dir"):
        data = Path(f"{base}{suffix}").read_bytes()
        for length in range(0, len(data), 97 if suffix == ".dat" else 5):
            Path(f"{base}{suffix}").write_bytes(data[:length])
            try:
                records = read_all(base)
            except FormatError:
                continue
            assert all(isinstance(record, PyprobTrace | PyprobRecordProblem) for record in records)
        Path(f"{base}{suffix}").write_bytes(data)


@pytest.mark.parametrize(
    "name", [FULL, next(name for name in SHELVES if name.startswith("gdbm/"))], ids=["sqlite", "gdbm"]
)
def test_flipped_bits_give_records_or_problems(tmp_path, name):
    rng = np.random.default_rng(3)
    original = (GOLDEN / name).read_bytes()
    for _ in range(150):
        data = bytearray(original)
        for place in rng.integers(0, len(data) if rng.random() < 0.5 else 4096, size=rng.integers(1, 6)):
            data[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "shelf").write_bytes(bytes(data))
        try:
            records = read_all(tmp_path / "shelf")
        except FormatError:
            continue
        assert all(isinstance(record, PyprobTrace | PyprobRecordProblem) for record in records)
