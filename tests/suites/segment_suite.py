"""What every segment backend must do; subclass `SegmentSuite` and name the backend."""

import contextlib
import hashlib
import multiprocessing
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.suites.batches import assert_same, make_batch, make_layout, make_site
from tracestore.errors import ChecksumError, FormatError, InvalidInputError, TraceTypeMismatchError
from tracestore.formats import open_format
from tracestore.formats.columns import cut_segment
from tracestore.storage import LocalStorage
from tracestore.traces import TRACE_COLUMNS, Layout, SiteKind, TraceBatch

CASES: dict[str, dict[str, Any]] = {
    "three-layouts": {},
    "failed": {"num_failed": 7},
    "constant-observations": {"constant_observations": True},
    "absent-observations": {"layouts": [make_layout(1), make_layout(2, observed=())]},
    "constant-where-present": {"layouts": [make_layout(1), make_layout(2, observed=())], "constant_observations": True},
    "vectors-and-odd-observations": {"layouts": [make_layout(3, vectors=2, observed=("flags", "empty", "count"))]},
    "many-layouts": {"layouts": [make_layout(num_draws) for num_draws in range(150)]},
    "no-sites": {"layouts": [Layout(()), make_layout(1)]},
}


def read_everything(reader) -> TraceBatch:
    batch = reader.read(slice(None))
    reader.failures()
    reader.addresses()
    for name in batch.observations:
        assert batch.observations[name].shape[0] == len(batch)
    return batch


class LocalFormat:
    """A backend whose segments are in local directories."""

    def __init__(self, backend):
        self.format = open_format(backend)

    def write_segment(self, directory, batches, **options):
        return self.format.write_segment(directory, batches, **options)

    def open_segment(self, directory, entry, **options):
        return self.format.open_segment(LocalStorage(directory), entry, **options)

    def read_runs(self, directory, entry):
        return self.format.read_runs(LocalStorage(directory), entry)

    def read_seal(self, directory):
        return self.format.read_seal(LocalStorage(directory), directory.name)


class SegmentSuite:
    """Conformance of one backend."""

    backend: str
    column_file: str
    """Where a flat column is, with ``{}`` for its name."""
    unread: tuple[str, ...] = ()
    """Endings of files that are for other readers only."""

    @pytest.fixture
    def segment_format(self):
        return LocalFormat(self.backend)

    @pytest.fixture
    def write(self, tmp_path, segment_format):
        def write(*batches, name="segment", **options):
            directory = tmp_path / name
            directory.mkdir()
            options.setdefault("segment_id", "suite")
            return directory, segment_format.write_segment(directory, batches, flush=False, **options)

        return write

    @pytest.fixture(params=CASES, ids=str)
    def case(self, request, write, segment_format):
        """A segment of two batches, its reader, and what its rows should be."""
        batch = make_batch(1, 300, **CASES[request.param])
        if request.param == "constant-where-present":
            present = batch.has_observation("dense")[:, None, None]
            dense = np.where(present, batch.observations["dense"], 0).astype(np.float32)
            batch = replace(batch, observations={"dense": dense})
        directory, entry = write(batch.take(np.arange(40)), batch.take(np.arange(40, 300)))
        expected = batch.take(cut_segment([batch]).order)
        return segment_format.open_segment(directory, entry), expected

    def test_all_rows_come_back_bit_by_bit(self, case):
        reader, expected = case
        assert reader.num_traces == len(expected)
        assert_same(reader.read(slice(None)), expected)

    def test_rows_come_in_the_order_asked_for(self, case):
        reader, expected = case
        rng = np.random.default_rng(3)
        for rows in (rng.integers(0, 300, 64), rng.permutation(300), np.array([299]), np.array([5, 5, 4])):
            assert_same(reader.read(rows), expected.take(rows))

    @pytest.mark.parametrize(("start", "stop"), [(0, 1), (17, 240), (250, 300), (290, 400)])
    def test_slices(self, case, start, stop):
        reader, expected = case
        assert_same(reader.read(slice(start, stop)), expected.take(np.arange(start, min(stop, 300))))

    def test_no_rows(self, case):
        reader, _ = case
        for rows in (slice(4, 4), np.empty(0, np.int64)):
            batch = reader.read(rows)
            assert len(batch) == 0
            assert set(batch.observations) == set(reader.observations)

    def test_columns(self, case):
        reader, expected = case
        for name, dtype in TRACE_COLUMNS:
            column = reader.column(name)
            assert column.dtype == dtype
            assert column.tobytes() == getattr(expected, name).tobytes()

    @pytest.mark.parametrize(
        "name", ["mu", "vec", "dense", "count", "flags", "result", "loop~Normal#2", "loop~Normal#99"]
    )
    def test_values_by_name_or_address(self, case, name):
        reader, expected = case
        if not any(name in layout.observed_names or layout.index_of(name) for layout in expected.layouts):
            assert reader.values(name) is None
            return
        values, rows = reader.values(name)
        wanted, present = expected.named(name)
        assert rows.tolist() == np.flatnonzero(present).tolist()
        assert np.array_equal(values, wanted[present])

    def test_runs_cover_the_rows(self, case):
        reader, expected = case
        runs = reader.runs
        assert np.array_equal(np.cumsum(runs.num_traces)[:-1], runs.first[1:])
        assert runs.num_traces.sum() == len(expected)
        ids = np.array([layout.id for layout in expected.layouts], np.uint64)[expected.layout_index]
        assert np.array_equal(np.repeat(runs.layout_id, runs.num_traces), ids)
        assert np.array_equal(np.repeat(runs.trace_type, runs.num_traces), expected.trace_types)
        assert np.array_equal(np.repeat(runs.num_sites, runs.num_traces), expected.num_sites)
        assert runs.seconds.sum() == pytest.approx(expected.seconds.sum())

    def test_run_directory_alone(self, write, segment_format):
        directory, entry = write(make_batch(1, 50))
        alone = segment_format.read_runs(directory, entry)
        assert np.array_equal(alone.layout_id, segment_format.open_segment(directory, entry).runs.layout_id)

    def test_sound_segment_has_no_problems(self, case):
        reader, _ = case
        assert reader.problems(deep=True) == []

    def test_some_observations(self, write, segment_format):
        directory, entry = write(make_batch(1, 20))
        batch = segment_format.open_segment(directory, entry).read(slice(0, 3), observations=["count"])
        assert list(batch.observations) == ["count"]

    def test_keep_order(self, write, segment_format):
        batch = make_batch(1, 200)
        directory, entry = write(batch, keep_order=True)
        assert_same(segment_format.open_segment(directory, entry).read(slice(None)), batch)

    def test_rows_are_sorted_by_length_type_layout_stream(self, write, segment_format):
        batch = make_batch(1, 200)
        directory, entry = write(batch.take(np.random.default_rng(1).permutation(200)))
        found = segment_format.open_segment(directory, entry).read(slice(None))
        ids = [layout.id for layout in found.layouts]
        columns = (found.num_sites, found.trace_types, np.array(ids)[found.layout_index], found.stream)
        keys = list(zip(*(column.tolist() for column in columns), strict=True))
        assert keys == sorted(keys)

    def test_constant_observation_is_stored_once_and_read_as_a_view(self, write, segment_format):
        directory, entry = write(make_batch(1, 300, [make_layout(1)], constant_observations=True))
        assert entry.observations[0].constant
        reader = segment_format.open_segment(directory, entry)
        for rows in (slice(3, 90), np.array([8, 2])):
            assert reader.read(rows).observations["dense"].strides[0] == 0
        assert sum(size for name, size in reader.file_sizes().items() if name.startswith("obs")) < 2_000

    def test_single_trace_batches_with_equal_observations_are_constant(self, write):
        batch = make_batch(1, 5, [make_layout(1)], constant_observations=True)
        singles = [TraceBatch.from_traces([trace]) for trace in batch]
        assert write(*singles)[1].observations[0].constant

    def test_values_that_differ_only_in_sign_of_zero_are_not_constant(self, write, segment_format):
        batch = make_batch(1, 4, [make_layout(1)])
        batch.observations["dense"][:] = 0.0
        batch.observations["dense"][2] = -0.0
        batch.parameters[:] = 0.0
        batch.parameters[batch.parameter_offsets[3]] = -0.0
        directory, entry = write(batch, keep_order=True)
        assert_same(segment_format.open_segment(directory, entry).read(slice(None)), batch)
        found = segment_format.open_segment(directory, entry).read(slice(None))
        assert found.observations["dense"].tobytes() == batch.observations["dense"].tobytes()

    def test_types_of_one_observation_are_widened(self, write, segment_format):
        first, second = make_batch(1, 10, [make_layout(1)]), make_batch(2, 10, [make_layout(1)])
        wide = replace(second, observations={"dense": second.observations["dense"].astype(np.float64) / 3})
        directory, entry = write(first, wide, keep_order=True)
        dense = segment_format.open_segment(directory, entry).read(slice(None)).observations["dense"]
        assert dense.dtype == np.float64
        assert np.array_equal(dense[10:], wide.observations["dense"])

    def test_bytes_depend_on_the_traces_alone(self, write):
        batch = make_batch(1, 200, num_failed=3)
        one, _ = write(batch, name="one")
        two, _ = write(batch.take(np.arange(120)), batch.take(np.arange(120, 200)), name="two")
        assert digests(one) == digests(two)

    def test_constants_of_one_layout_are_not_stored(self, write, segment_format):
        varying, constant = make_batch(1, 400, [make_layout(20)]), make_batch(1, 400, [make_layout(20)])
        constant.parameters.reshape(400, -1)[:] = constant.parameters.reshape(400, -1)[0]
        sizes = []
        for number, batch in enumerate((varying, constant)):
            directory, entry = write(batch, name=f"segment-{number}")
            assert_same(segment_format.open_segment(directory, entry).read(slice(None)), batch)
            sizes.append(entry.nbytes)
        assert sizes[1] < sizes[0] - 0.9 * varying.parameters.nbytes

    @pytest.mark.parametrize("rows", [np.array([-1]), np.array([0, 300])])
    def test_rows_out_of_range_are_refused(self, case, rows):
        with pytest.raises(InvalidInputError, match="300"):
            case[0].read(rows)

    def test_unknown_column_is_refused(self, case):
        with pytest.raises(InvalidInputError, match="log_wait"):
            case[0].column("log_wait")

    def test_no_traces_are_refused(self, write):
        with pytest.raises(InvalidInputError, match="at least one trace"):
            write(make_batch(1, 0, [make_layout(1)]))

    def test_shapes_of_one_name_that_differ_between_layouts(self, write, segment_format):
        layouts = [Layout((make_site("x", 1, SiteKind.SAMPLE, name="x", shape=shape),)) for shape in ((), (2,))]
        directory, entry = write(make_batch(1, 30, layouts))
        with pytest.raises(TraceTypeMismatchError, match="'x'"):
            segment_format.open_segment(directory, entry).values("x")

    @pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
    @pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
    def test_damage_is_an_error_that_names_the_file(self, write, segment_format, kind, codec):
        directory, entry = write(make_batch(1, 60, num_failed=2), codec=codec)
        sound_batch = read_everything(segment_format.open_segment(directory, entry))
        seal = segment_format.open_segment(directory, entry)._files.seal
        for file in files_of(directory):
            name = file.relative_to(directory).as_posix()
            is_read = not name.endswith(self.unread) and not (
                kind == "flip" and "chunked" in seal["files"].get(name, {})
            )
            sound = file.read_bytes()
            for damaged in damages(sound, kind):
                if damaged is None:
                    file.unlink()
                else:
                    file.write_bytes(damaged)
                if is_read:
                    with pytest.raises(FormatError, match=re.escape(name)):
                        read_everything(segment_format.open_segment(directory, entry))
                else:
                    # what readers do not use: framing of other libraries; never wrong numbers, and always reported
                    with contextlib.suppress(FormatError):
                        assert_same(read_everything(segment_format.open_segment(directory, entry)), sound_batch)
                found = segment_format.open_segment(directory, entry).problems(deep=True)
                assert any(name in file_name or name in message for file_name, message in found)
            file.write_bytes(sound)
        read_everything(segment_format.open_segment(directory, entry))

    @pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
    @pytest.mark.parametrize("where", [0.02, 0.5, 0.9])
    def test_flipped_bit_of_an_observation_names_the_block(self, write, segment_format, codec, where):
        directory, entry = write(make_batch(1, 400, [make_layout(1, observed=("dense",))]), codec=codec)
        (record,) = segment_format.open_segment(directory, entry)._files.seal["observations"]
        file = directory / record["file"]
        data = bytearray(file.read_bytes())
        reader = segment_format.open_segment(directory, entry)
        index = reader._files.chunks_of("dense").offset
        place = int(index[int(len(index) * where)]) + 30 if len(index) else int(len(data) * where * 0.5) + 400
        data[place] ^= 16
        file.write_bytes(data)
        with pytest.raises(ChecksumError, match=rf"{re.escape(record['file'])}, block \d+"):
            segment_format.open_segment(directory, entry).read(slice(None))

    @pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
    @pytest.mark.parametrize("observed", [("dense",), ("count",), ("flags", "empty")])
    def test_codecs_give_the_rows_back(self, write, segment_format, codec, observed):
        batch = make_batch(1, 700, [make_layout(1, observed=observed), make_layout(2, observed=observed)])
        directory, entry = write(batch, codec=codec, keep_order=True)
        reader = segment_format.open_segment(directory, entry)
        rng = np.random.default_rng(1)
        for rows in (np.arange(700), rng.integers(0, 700, 90), np.arange(13, 500), np.array([699, 0, 0])):
            assert_same(reader.read(rows), batch.take(rows))
            for name in observed:
                info = reader.observations[name]
                out = np.zeros((1000, *info.shape), np.float64 if info.dtype != "|b1" else info.dtype)
                places = rng.permutation(1000)[: len(rows)]
                reader.fill_observation(name, rows, out, places)
                assert np.array_equal(out[places], batch.observations[name][rows])

    def test_codec_by_name_and_by_sample(self, write, segment_format):
        batch = make_batch(1, 4000, [make_layout(1, observed=("dense", "count"))])
        batch.observations["dense"][np.random.default_rng(1).random(batch.observations["dense"].shape) > 0.03] = 0
        directory, entry = write(batch, codec={"count": "zstd"})
        records = segment_format.open_segment(directory, entry)._files.seal["observations"]
        assert [record["codec"] for record in records] == ["lz4", "zstd"]
        assert records[0]["ratio"] > 1.3
        noise = replace(
            batch, observations={"dense": np.random.default_rng(2).random(batch.observations["dense"].shape)}
        )
        directory, entry = write(noise, name="noise")
        assert segment_format.open_segment(directory, entry)._files.seal["observations"][0]["codec"] == "none"

    @pytest.mark.parametrize("codec", ["gzip", {"dense": "blosc"}])
    def test_unknown_codec_is_refused(self, write, codec):
        with pytest.raises(InvalidInputError, match="'auto' or one of none, lz4, zstd"):
            write(make_batch(1, 3), codec=codec)

    @pytest.mark.parametrize("keep_order", [True, False])
    def test_rejected_moves_share_the_sites_of_their_ancestor(self, write, segment_format, keep_order):
        batch = make_chain(1, 900)
        order = cut_segment([batch], keep_order=keep_order).order
        expected = batch.take(order)
        directory, entry = write(batch, keep_order=keep_order, codec="none")
        reader = segment_format.open_segment(directory, entry)
        rng = np.random.default_rng(2)
        for rows in (np.arange(900), rng.integers(0, 900, 80), np.arange(100, 130), np.array([5])):
            assert_same(reader.read(rows), expected.take(rows))
        values, rows = reader.values("mu")
        wanted, present = expected.named("mu")
        assert np.array_equal(values, wanted[present])
        assert rows.tolist() == np.flatnonzero(present).tolist()
        runs = reader.runs
        assert runs.num_traces.sum() == 900
        assert runs.num_states.sum() == np.count_nonzero(batch.accepted) + 1
        # without the flag nothing is shared
        _, entry_fresh = write(
            replace(batch, accepted=np.ones(900, np.bool_)), name="fresh", keep_order=keep_order, codec="none"
        )
        assert entry.nbytes < 0.7 * entry_fresh.nbytes

    def test_a_rejected_move_that_differs_in_one_bit_keeps_its_own_sites(self, write, segment_format):
        batch = make_chain(1, 40)
        row = int(np.flatnonzero(~batch.accepted)[3])
        batch.values[batch.value_offsets[row]] = np.nextafter(batch.values[batch.value_offsets[row]], 9.0)
        directory, entry = write(batch, keep_order=True)
        assert_same(segment_format.open_segment(directory, entry).read(slice(None)), batch)

    @pytest.fixture
    def walk(self):
        """Chains whose moves change one number of thirty: several blocks of values that compress well."""
        rng = np.random.default_rng(5)
        batch = make_batch(5, 12_000, [make_layout(27, observed=())])
        values = batch.values.reshape(12_000, -1)
        changed = rng.integers(0, values.shape[1], 12_000)
        last = np.zeros(values.shape[1], np.int64)
        for row in range(12_000):
            last[changed[row]] = row
            values[row] = values[last, np.arange(values.shape[1])]
        return batch

    def test_site_columns_that_compress_well_are_compressed(self, write, segment_format, walk):
        directory, entry = write(walk, keep_order=True)
        reader = segment_format.open_segment(directory, entry)
        file = self.column_file.format("values")
        assert reader._files.records[file]["codec"] == "zstd"
        assert len(reader._files.records[file]["rows"]) > 2
        assert reader.file_sizes()[file] < walk.values.nbytes / 5
        assert self.column_file.format("checks") not in reader.file_sizes()
        assert "codec" not in reader._files.records[self.column_file.format("log_probs")]
        assert reader.kept_bytes == 0
        rng = np.random.default_rng(1)
        for rows in (np.arange(40), rng.integers(0, 12_000, 64), np.arange(12_000)):
            assert_same(reader.read(rows), walk.take(rows))
        assert reader.kept_bytes == walk.values.nbytes
        values, rows = segment_format.open_segment(directory, entry).values("loop~Normal#9")
        wanted, present = walk.named("loop~Normal#9")
        assert np.array_equal(values, wanted[present])
        plain_directory, plain = write(walk, name="plain", codec="none", keep_order=True)
        assert plain.nbytes - entry.nbytes > 0.7 * walk.values.nbytes
        assert_same(segment_format.open_segment(plain_directory, plain).read(slice(None)), walk)

    @pytest.mark.parametrize("verify", ["first", "always", "off"])
    def test_damage_in_a_compressed_site_column_names_the_block(self, write, segment_format, walk, verify):
        directory, entry = write(walk, keep_order=True)
        file = self.column_file.format("values")
        record = segment_format.open_segment(directory, entry)._files.records[file]
        path = directory / file
        data = bytearray(path.read_bytes())
        data[record["offsets"][1] + record["nbytes"][1] // 2] ^= 2
        path.write_bytes(data)
        reader = segment_format.open_segment(directory, entry, verify=verify)
        assert_same(reader.read(slice(0, 50)), walk.take(np.arange(50)))
        if verify == "off":
            with contextlib.suppress(FormatError):
                assert not np.array_equal(reader.read(slice(None)).values, walk.values)
        else:
            with pytest.raises(ChecksumError, match=rf"{re.escape(file)}, block 1,"):
                reader.read(slice(None))
        assert any(file in message for _, message in reader.problems(deep=True))

    def test_large_tables_are_compressed(self, write, segment_format):
        batch = make_batch(1, 6_000, [make_layout(40 + number, observed=()) for number in range(40)])
        batch.parameters[:] = 0.5
        directory, entry = write(batch, keep_order=True)
        plain_size = 17 * len(segment_format.open_segment(directory, entry)._files.table("constants"))
        sizes = segment_format.open_segment(directory, entry).file_sizes()
        assert sum(size for name, size in sizes.items() if name.startswith("constants")) < plain_size / 4
        assert_same(segment_format.open_segment(directory, entry).read(slice(None)), batch)

    def test_layouts_of_one_trace_are_in_no_table(self, write, segment_format):
        layouts = [make_layout(num_draws, vectors=num_draws % 2) for num_draws in range(1, 120)]
        batch = make_batch(1, 119, layouts, num_failed=3)
        batch = replace(batch, layout_index=batch.layout_index)  # as drawn: some layouts once, some twice or more
        directory, entry = write(batch)
        reader = segment_format.open_segment(directory, entry)
        counts = np.bincount(batch.layout_index, minlength=119)
        seal = reader._files.seal
        assert seal["num_loose"] == np.count_nonzero(counts == 1) > 10
        assert seal["num_layouts"] == np.count_nonzero(counts > 1) > 10
        assert_same(reader.read(slice(None)), batch.take(cut_segment([batch]).order))
        known: dict[int, Layout] = {}
        segment_format.open_segment(directory, entry, layouts=known).read(slice(None))
        assert len(known) == seal["num_layouts"]

    def test_flipped_bit_names_the_block(self, write, segment_format):
        batch = make_batch(1, 40_000, [make_layout(20, observed=())])
        directory, entry = write(batch)
        file = directory / self.column_file.format("log_probs")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        reader = segment_format.open_segment(directory, entry)
        reader.read(slice(0, 10))  # the first block is sound
        with pytest.raises(FormatError, match=re.escape(self.column_file.format("log_probs")) + r", block \d+"):
            reader.read(slice(None))
        unchecked = segment_format.open_segment(directory, entry, verify="off").read(slice(None))
        assert (unchecked.log_probs != batch.log_probs).sum() <= 1

    def test_verify_always_sees_damage_after_the_first_read(self, write, segment_format):
        directory, entry = write(make_batch(1, 60))
        always = segment_format.open_segment(directory, entry, verify="always")
        first = segment_format.open_segment(directory, entry)
        for reader in (always, first):
            read_everything(reader)
        with (directory / self.column_file.format("values")).open("r+b") as file:
            file.seek(600)
            byte = file.read(1)
            file.seek(600)
            file.write(bytes([byte[0] ^ 4]))
        read_everything(first)
        with pytest.raises(FormatError, match="values"):
            read_everything(always)

    @pytest.mark.processes
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_readers_in_other_processes(self, write, segment_format, method):
        batch = make_batch(1, 100, [make_layout(2)])
        directory, entry = write(batch, keep_order=True)
        read_everything(segment_format.open_segment(directory, entry))
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            sums = pool.starmap(sum_of_values, [(self.backend, directory, entry)] * 4)
        assert sums == [float(batch.values.sum())] * 4

    def test_copied_directory_opens(self, write, segment_format, tmp_path):
        directory, entry = write(make_batch(1, 30))
        copy = Path(shutil.copytree(directory, tmp_path / "copy"))
        shutil.rmtree(directory)
        assert len(read_everything(segment_format.open_segment(copy, entry))) == 30

    def test_seal_gives_the_entry_and_the_origin(self, write, segment_format):
        directory, entry = write(make_batch(1, 30), origin={"writer": "w"})
        assert segment_format.read_seal(directory) == (entry, {"writer": "w"})

    def test_known_layouts_are_used_and_added_to(self, write, segment_format):
        batch = make_batch(1, 30)
        directory, entry = write(batch)
        known = {batch.layouts[0].id: batch.layouts[0]}
        found = segment_format.open_segment(directory, entry, layouts=known).read(slice(None))
        assert any(layout is batch.layouts[0] for layout in found.layouts)
        counts = np.bincount(batch.layout_index, minlength=len(batch.layouts))
        assert set(known) == {layout.id for layout, count in zip(batch.layouts, counts, strict=True) if count > 1}

    @pytest.mark.parametrize("segment_id", ["", "../up", "UPPER", "x" * 65])
    def test_bad_ids_are_refused(self, write, segment_id):
        with pytest.raises(InvalidInputError, match="segment id"):
            write(make_batch(1, 3), segment_id=segment_id)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files_of(directory)
    }


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def make_chain(seed: int, num_traces: int) -> TraceBatch:
    """Three Markov chains, one after the other, two thirds of whose moves are rejected."""
    rng = np.random.default_rng(seed)
    fresh = make_batch(seed, num_traces, [make_layout(2), make_layout(7, vectors=1)], constant_observations=True)
    accepted = rng.random(num_traces) < 1 / 3
    chain = (np.arange(num_traces) * 3 // num_traces).astype(np.int32)
    accepted[np.flatnonzero(np.diff(chain, prepend=-1))] = True
    accepted[0] = False
    state = np.maximum.accumulate(np.where(accepted, np.arange(num_traces), 0))
    return replace(
        fresh.take(state), accepted=accepted, chain=chain, draw=np.arange(num_traces), stream=np.arange(num_traces)
    )


def damages(sound: bytes, kind: str):
    if kind == "delete":
        return [None]
    if kind == "truncate":
        return [sound[:size] for size in (0, 1, len(sound) // 2, len(sound) - 1)] + [sound + b"\0"]
    places = sorted({0, len(sound) - 1, *range(3, len(sound), max(1, len(sound) // 12))})
    return [sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :] for at in places]


def sum_of_values(backend, directory, entry):
    return float(LocalFormat(backend).open_segment(directory, entry).read(slice(None)).values.sum())
