"""What every segment backend must do; subclass `SegmentSuite` and name the backend."""

import hashlib
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.suites.batches import assert_same, make_batch, make_layout, make_site
from tracestore.errors import FormatError, InvalidInputError, TraceTypeMismatchError
from tracestore.formats import open_format
from tracestore.formats.columns import cut_segment
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


class SegmentSuite:
    """Conformance of one backend."""

    backend: str

    @pytest.fixture
    def segment_format(self):
        return open_format(self.backend)

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

    @pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
    def test_damage_is_an_error_that_names_the_file(self, write, segment_format, kind):
        directory, entry = write(make_batch(1, 60, num_failed=2))
        for file in sorted(directory.iterdir()):
            sound = file.read_bytes()
            for damaged in damages(sound, kind):
                if damaged is None:
                    file.unlink()
                else:
                    file.write_bytes(damaged)
                with pytest.raises(FormatError, match=file.name.replace(".", r"\.")):
                    read_everything(segment_format.open_segment(directory, entry))
                assert segment_format.open_segment(directory, entry).problems(deep=True)
            file.write_bytes(sound)
        read_everything(segment_format.open_segment(directory, entry))

    def test_flipped_bit_names_the_block(self, write, segment_format):
        batch = make_batch(1, 40_000, [make_layout(20, observed=())])
        directory, entry = write(batch)
        file = directory / "log_probs.arrow"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        reader = segment_format.open_segment(directory, entry)
        reader.read(slice(0, 10))  # the first block is sound
        with pytest.raises(FormatError, match=r"log_probs\.arrow, block \d+"):
            reader.read(slice(None))
        unchecked = segment_format.open_segment(directory, entry, verify="off").read(slice(None))
        assert (unchecked.log_probs != batch.log_probs).sum() <= 1

    def test_verify_always_sees_damage_after_the_first_read(self, write, segment_format):
        directory, entry = write(make_batch(1, 60))
        always = segment_format.open_segment(directory, entry, verify="always")
        first = segment_format.open_segment(directory, entry)
        for reader in (always, first):
            read_everything(reader)
        with (directory / "values.arrow").open("r+b") as file:
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
        assert set(known) == {layout.id for layout in batch.layouts}

    @pytest.mark.parametrize("segment_id", ["", "../up", "UPPER", "x" * 65])
    def test_bad_ids_are_refused(self, write, segment_id):
        with pytest.raises(InvalidInputError, match="segment id"):
            write(make_batch(1, 3), segment_id=segment_id)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def damages(sound: bytes, kind: str):
    if kind == "delete":
        return [None]
    if kind == "truncate":
        return [sound[:size] for size in (0, 1, len(sound) // 2, len(sound) - 1)] + [sound + b"\0"]
    places = sorted({0, len(sound) - 1, *range(3, len(sound), max(1, len(sound) // 12))})
    return [sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :] for at in places]


def sum_of_values(backend, directory, entry):
    return float(open_format(backend).open_segment(directory, entry).read(slice(None)).values.sum())
