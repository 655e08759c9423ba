"""A second reader, written from docs/format_spec.md alone, reads the golden stores; it must not know the library."""

import json
import math
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import xxhash

GOLDEN = Path(__file__).parents[1] / "golden"
STORES = ["v1", "v1-arrow2", "v1-zarr1"]
SITE_COLUMNS = ["values", "log_probs", "parameters"]  # in the order of 3.12
OTHERS = {"stream": "<i8", "status": "|u1", "seconds": "<f4", "chain": "<i4", "draw": "<i8", "accepted": "|u1"}
TRACE_COLUMNS = dict.fromkeys(["log_prior", "log_likelihood", "log_proposal", "log_weight"], "<f8") | OTHERS  # 3.13
TABLES = {  # 4.4.1
    "bases": "base",
    "sites": "id base instance kind controlled name family shape num_parameters",
    "layouts": "id trace_type num_sites",
    "layout_sites": "site",
    "constants": "layout column index value",
    "runs": "layout layout_id trace_type num_traces num_states num_sites tile_traces"
    " values_start log_probs_start parameters_start seconds",
    "failures": "row reason",
    "chunks": "observation offset nbytes checksum",
}
TEXTS = {("bases", "base"), ("sites", "name"), ("sites", "family"), ("failures", "reason")}


def document(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    assert data[:49] == b'{"checksum": "%s",\n' % xxhash.xxh3_128_hexdigest(data[49:]).encode(), path  # 1.5, 1.6
    return dict(json.loads(data, parse_constant=pytest.fail))


def crc32c(data: bytes) -> bytes:
    return int(pytest.importorskip("google_crc32c").value(data)).to_bytes(4, "little")


def same_bits(found: Any, expected: np.ndarray) -> bool:
    found = np.asarray(found, expected.dtype)
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


def distinct(items: Any) -> list[Any]:
    return list(dict.fromkeys(items))


class Site(SimpleNamespace):
    """One row of the table of sites, but with the base address itself (3.9)."""

    def sizes(self) -> tuple[int, int, int]:  # 3.11, in the order of SITE_COLUMNS
        return (0 if self.kind == 1 and self.name else math.prod(self.shape)), 1, self.num_parameters

    def record(self) -> str:  # 1.10
        numbers = [",".join(map(str, self.shape)), str(self.num_parameters)]
        head = [f"{self.base}#{self.instance}", str(self.kind), str(int(self.controlled))]
        return "\x1f".join([*head, self.name, self.family, *numbers])


class Layout(NamedTuple):
    id: int
    trace_type: int
    sites: list[Site]

    def controlled(self) -> tuple[int, ...]:
        return tuple(site.id for site in self.sites if site.kind == 0 and site.controlled)


class ArrowSegment:
    """Section 3; only tables are parsed as Arrow, all else is read at the offsets of the seal."""

    place = "{}.arrow"

    def __init__(self, folder: Path) -> None:
        self.folder, self.seal = folder, document(folder / "seal.json")
        self.num_traces: int = self.seal["num_traces"]
        self.files: dict[str, dict[str, Any]] = self.seal["files"]
        self.runs, bases = self.rows("runs"), self.table("bases")["base"]
        self.sites = [Site(**row | {"base": bases[row["base"]]}) for row in self.rows("sites")]
        heads = self.rows("layouts")
        heads += [run | {"id": run["layout_id"]} for run in self.runs if run["layout"] >= len(heads)]  # 3.10.1
        sites = (self.sites[k] for k in [*self.table("layout_sites")["site"], *self.column("loose", "<i4")])
        self.layouts = [Layout(row["id"], row["trace_type"], [*islice(sites, row["num_sites"])]) for row in heads]
        assert not list(sites)
        self.layout_numbers = [run["layout"] for run in self.runs for _ in range(run["num_traces"])]
        states = self.column("states", "<i8")
        self.states = states if len(states) else np.arange(self.num_traces)  # 3.15.1

    def file(self, name: str) -> bytes:
        data, record = (self.folder / name).read_bytes(), self.files[name]
        assert len(data) == record["size"] == record["ends"][-1], name  # 1.4, 3.4
        ranges = pairwise([0, *record["ends"]])
        assert [xxhash.xxh3_64_hexdigest(data[start:end]) for start, end in ranges] == record["checksums"], name
        return data

    def flat(self, name: str, dtype: str, position: int = 0) -> np.ndarray:
        if name not in self.files:  # 3.7
            return np.zeros(0, dtype)
        data, record = self.file(name), self.files[name]
        if "rows" not in record:  # the one chunk of a table: 4.4, 4.6.2
            return np.frombuffer(self.decode(data, 0, len(data), record.get("codec")), dtype)
        sizes = [rows * np.dtype(dtype).itemsize for rows in record["rows"]]
        if "codec" in record:  # 3.16.5
            places = zip(record["offsets"], record["nbytes"], record["blocks"], sizes, strict=True)
            blocks = [self.chunk(data, at, n, int(check, 16), record["codec"])[:size] for at, n, check, size in places]
        else:  # 3.5
            starts = [offsets[position] for offsets in record["data"]]
            ends = [start + size for start, size in zip(starts, sizes, strict=True)]
            assert position + 1 < len(record["data"][0]) or ends == record["ends"][:-1]
            blocks = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        return np.frombuffer(b"".join(blocks), dtype)

    def chunk(self, data: bytes, offset: int, nbytes: int, checksum: int, codec: str) -> bytes:
        assert xxhash.xxh3_64_intdigest(data[offset : offset + nbytes]) == checksum
        return self.decode(data, offset, nbytes, codec)

    def decode(self, data: bytes, offset: int, nbytes: int, codec: str | None) -> bytes:
        size = int.from_bytes(data[offset - 8 : offset], "little", signed=True)
        return bytes(pa.Codec(codec).decompress(data[offset : offset + nbytes], size))

    def table(self, name: str) -> dict[str, list[Any]]:
        table: dict[str, list[Any]] = {column: [] for column in TABLES[name].split()}
        if f"{name}.arrow" in self.files:  # 3.7
            table |= pa.ipc.open_file(self.file(f"{name}.arrow")).read_all().to_pydict()
        if name == "runs" and self.seal["encoding"] == "arrow/1":  # the second 3.22
            table["num_states"] = table["num_traces"]
        return table

    def rows(self, name: str) -> list[dict[str, Any]]:
        table = self.table(name)
        return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]

    def column(self, name: str, dtype: str) -> np.ndarray:
        return self.flat(self.place.format(name), dtype)

    def stored_trace_column(self, name: str) -> np.ndarray:
        stored = [column for column in TRACE_COLUMNS if column not in self.seal["constants"]]
        return self.flat("traces.arrow", TRACE_COLUMNS[name], stored.index(name))

    def trace_column(self, name: str) -> np.ndarray:
        if name not in self.seal["constants"]:
            return self.stored_trace_column(name)
        return np.frombuffer(bytes.fromhex(self.seal["constants"][name]) * self.num_traces, TRACE_COLUMNS[name])  # 3.14

    def stored_observation(self, position: int) -> np.ndarray:
        record = self.seal["observations"][position]
        shape = (1 if record["constant"] else self.num_traces, *record["shape"])  # 3.19
        if not self.files.get(record["file"], {}).get("chunked"):  # also of rows without elements: 3.18
            return self.flat(record["file"], record["dtype"]).reshape(shape)
        data, codec = self.file(record["file"]), record["codec"]  # 3.18.1, 4.7
        rows = [row for row in self.rows("chunks") if row["observation"] == position]
        decoded = [self.chunk(data, row["offset"], row["nbytes"], row["checksum"], codec) for row in rows]
        return np.frombuffer(b"".join(decoded), record["dtype"])[: math.prod(shape)].reshape(shape)

    def observation(self, name: str, expected: np.ndarray) -> np.ndarray:
        rows = np.zeros((self.num_traces, *expected.shape[1:]), expected.dtype)  # 3.20
        has = [any(s.kind == 1 and s.name == name for s in self.layouts[k].sites) for k in self.layout_numbers]
        for position, record in enumerate(self.seal["observations"]):
            if record["name"] == name:
                assert (np.dtype(record["dtype"]), record["shape"]) == (expected.dtype, list(expected.shape[1:]))
                rows[:] = self.stored_observation(position)
                if record["absent_zero"]:  # 3.19
                    rows[~np.array(has)] = 0
        return rows

    def site_numbers(self, which: int) -> list[np.ndarray]:
        """All numbers of each trace in a site column (3.12, 3.16.1), the checks of slots verified (3.16.4)."""
        name, states, slots = SITE_COLUMNS[which], list[np.ndarray](), list[int]()
        column, constants = self.column(name, "<f8"), self.rows("constants")
        for run, end in zip(self.runs, [*(run[f"{name}_start"] for run in self.runs[1:]), len(column)], strict=True):
            mine = [row for row in constants if (row["layout"], row["column"]) == (run["layout"], which)]
            shared, place = {row["index"]: row["value"] for row in mine}, run[f"{name}_start"]
            total = sum(site.sizes()[which] for site in self.layouts[run["layout"]].sites)
            stored = [index for index in range(total) if index not in shared]
            for first in range(0, run["num_states"], run["tile_traces"]):
                count = min(run["tile_traces"], run["num_states"] - first)
                tile = column[place : place + len(stored) * count].reshape(len(stored), count)
                place += tile.size
                numbers = np.empty((count, total))
                numbers[:, list(shared)] = list(shared.values())
                numbers[:, stored] = tile.T
                states.extend(numbers)
                if run["num_states"] >= 64 and run["layout"] < self.seal["num_layouts"]:
                    slots.extend(xxhash.xxh3_64_intdigest(slot.tobytes()) for slot in tile)
            assert place == end
        checks = self.column("checks", "<u8") if which == 0 else np.zeros(0)
        assert checks.tolist() in ([], slots)
        return [states[k] for k in self.states]


class ZarrSegment(ArrowSegment):
    """Section 4 by hand: nothing of Zarr is read but the bytes at the offsets that the seal has."""

    place = "{}/c/0"

    def decode(self, data: bytes, offset: int, nbytes: int, codec: str | None) -> bytes:
        if codec is None:
            return data
        numcodecs, chunk = pytest.importorskip("numcodecs"), data[offset : offset + nbytes - 4]
        assert data[offset + nbytes - 4 : offset + nbytes] == crc32c(chunk)
        return bytes({"none": bytes, "lz4": numcodecs.Blosc().decode, "zstd": numcodecs.Zstd().decode}[codec](chunk))

    def table(self, name: str) -> dict[str, list[Any]]:
        ends, data = self.flat("text_ends/c/0", "<u8").tolist(), self.flat("text/c/0", "|u1").tobytes()  # 4.5
        texts = [data[start:end].decode() for start, end in pairwise([0, *ends])]
        columns, array, table = TABLES[name].split(), self.flat(f"{name}/c/0/0", "<u8"), dict[str, list[Any]]()
        for column, words in zip(columns, array.reshape(len(columns), -1), strict=True):  # 4.4
            if (name, column) in TEXTS:
                table[column] = [texts[number] for number in words]
            elif column == "shape":
                table[column] = [[int(digits) for digits in texts[number].split(",") if digits] for number in words]
            elif column in {"id", "trace_type", "layout_id", "checksum"}:
                table[column] = words.tolist()
            else:
                table[column] = words.view("<f8" if column in {"value", "seconds"} else "<i8").tolist()
        return table

    def stored_trace_column(self, name: str) -> np.ndarray:
        return self.column(f"traces/{name}", TRACE_COLUMNS[name])


class ZarrLibrarySegment(ZarrSegment):
    """Section 4 as zarr-python reads it."""

    def flat(self, name: str, dtype: str, position: int = 0) -> np.ndarray:
        group, path = pytest.importorskip("zarr").open_group(self.folder, mode="r"), name.split("/c/")[0]
        if path not in group:
            return np.zeros(0, dtype)
        numbers, attributes = np.asarray(group[path][:]).ravel(), group[path].attrs
        if "rows_per_chunk" in attributes:  # 4.6.1
            chunks = numbers.reshape(-1, attributes["rows_per_chunk"])
            numbers = np.concatenate([chunk[:rows] for chunk, rows in zip(chunks, attributes["rows"], strict=True)])
        return numbers

    def stored_observation(self, position: int) -> np.ndarray:
        record = self.seal["observations"][position]
        if not record["file"]:  # 3.18
            return np.zeros((self.seal["num_traces"], *record["shape"]), record["dtype"])
        return self.flat(record["file"], record["dtype"]).reshape(-1, *record["shape"])


READERS = [*((store, ZarrSegment) for store in STORES), ("v1-zarr1", ZarrLibrarySegment)]


def manifest_of(root: Path) -> dict[str, Any]:
    head = document(root / "TRACESTORE.json")
    assert (head["format"], head["version"], head["min_reader"], head["features"]) == ("tracestore", 1, 1, [])  # 2.2
    number = int((root / "manifests/LATEST").read_text())
    while (root / f"manifests/v{number + 1:020d}.json").exists():  # 2.18
        number += 1
    return document(root / f"manifests/v{number:020d}.json")


def segments_of(store: str, library: type[ArrowSegment] = ZarrSegment) -> list[ArrowSegment]:
    root = GOLDEN / store / "store"
    kinds: dict[str, type[ArrowSegment]] = {"arrow/1": ArrowSegment, "arrow/2": ArrowSegment, "zarr/1": library}
    return [kinds[entry["encoding"]](root / "segments" / entry["id"]) for entry in manifest_of(root)["segments"]]


@pytest.fixture(params=[(store, k) for store in STORES for k in range(2)], ids=lambda param: f"{param[0]}-{param[1]}")
def segment(request):
    return segments_of(request.param[0])[request.param[1]]


def pieces(root: Path, dictionary: dict[str, Any]) -> list[dict[str, Any]]:
    files = [(root / f"dict/{piece['hash']}.arrow").read_bytes() for piece in dictionary["pieces"]]
    rows = [pa.ipc.open_file(data).read_all().to_pylist() for data in files]
    found = [{"hash": xxhash.xxh3_128_hexdigest(f), "num": len(r)} for f, r in zip(files, rows, strict=True)]
    assert found == dictionary["pieces"]
    assert sum(map(len, rows)) == dictionary["num"]
    return list(chain(*rows))


@pytest.mark.parametrize(("store", "library"), READERS)
def test_everything_reads_as_expected(store, library):
    expected = dict(np.load(GOLDEN / store / "expected.npz"))
    segments = segments_of(store, library)
    layouts = [s.layouts[k] for s in segments for k in s.layout_numbers]
    assert same_bits([layout.id for layout in layouts], expected.pop("layout_id"))
    assert same_bits([layout.trace_type for layout in layouts], expected.pop("trace_type"))
    assert same_bits([site.id for layout in layouts for site in layout.sites], expected.pop("address_id"))
    for which, name in enumerate(SITE_COLUMNS):
        numbers = [of_trace for s in segments for of_trace in s.site_numbers(which)]
        assert same_bits(np.concatenate(numbers), expected.pop(name)), name
    for name in TRACE_COLUMNS:
        assert same_bits(np.concatenate([s.trace_column(name) for s in segments]), expected.pop(name)), name
    observations = {name.removeprefix("observation_"): rows for name, rows in expected.items()}
    assert observations.keys() == {record["name"] for s in segments for record in s.seal["observations"]}
    for name, rows in observations.items():
        assert same_bits(np.concatenate([s.observation(name, rows) for s in segments]), rows), name
    firsts = accumulate((s.num_traces for s in segments), initial=0)  # 2.14
    failures = dict[str, str]()
    for first, s in zip(firsts, segments, strict=False):
        failures |= {str(first + row["row"]): row["reason"] for row in s.rows("failures")}
    assert failures == json.loads((GOLDEN / store / "expected.json").read_text())["failures"]


@pytest.mark.parametrize("store", STORES)
def test_dictionaries_are_numbered_by_first_appearance(store):
    root, segments = GOLDEN / store / "store", segments_of(store)
    manifest, older = manifest_of(root), document(root / "manifests/v00000000000000000001.json")
    for name in {"addresses", "trace_types"} & manifest.keys():
        assert manifest[name]["pieces"][: len(older[name]["pieces"])] == older[name]["pieces"]  # 2.17
    addresses = pieces(root, manifest["addresses"])
    texts = [f"{row['base']}#{row['instance']}" for row in addresses]
    assert texts == json.loads((GOLDEN / store / "expected.json").read_text())["addresses"]
    assert [row["id"] for row in addresses] == [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]  # 1.8
    assert [row["id"] for row in addresses] == distinct(site.id for s in segments for site in s.sites)  # 2.17
    if "trace_types" in manifest:
        layouts = [layout for s in segments for layout in s.layouts[: s.seal["num_layouts"]]]
        rows = pieces(root, manifest["trace_types"])
        types = [(row["id"], tuple(addresses[k]["id"] for k in row["addresses"])) for row in rows]
        assert types == distinct((layout.trace_type, layout.controlled()) for layout in layouts)  # 2.19


@pytest.mark.parametrize("store", STORES)
def test_documents_agree_with_each_other(store):
    root = GOLDEN / store / "store"
    manifest = manifest_of(root)
    assert manifest["num_traces"] == sum(entry["num_traces"] for entry in manifest["segments"])
    receipts = {path.stem: document(path) for path in sorted((root / "receipts").glob("[!.]*.json"))}
    assert [commit["receipt"] for commit in manifest["commits"]] == list(receipts)  # 2.16: in order of file name
    for commit, entry in zip(manifest["commits"], manifest["segments"], strict=True):
        receipt, seal = receipts[commit["receipt"]], document(root / "segments" / entry["id"] / "seal.json")
        assert commit["receipt"] == f"{receipt['writer']}-{receipt['sequence']:08d}"
        assert commit["checksum"] == receipt["checksum"]  # 2.15
        assert commit["work"] == [work for done in receipt["commits"] for work in done["work"]]
        assert commit.get("segments", [entry["id"]]) == [entry["id"]]
        assert receipt["segment"] == entry
        assert seal["origin"] == {name: receipt[name] for name in ("writer", "sequence", "job", "commits")}  # 2.10
        job = {name: receipt["job"][name] for name in ("fields", "verb")}
        digits = xxhash.xxh3_128_hexdigest(json.dumps(job, sort_keys=True, separators=(",", ":")).encode())
        assert digits == receipt["job"]["hash"] == commit["job"]  # 2.4
        assert manifest["jobs"][digits] == job
        runs = seal["files"].get("runs.arrow") or seal["files"]["runs/c/0/0"]  # 2.13
        assert (entry["seal"], [entry["runs"]]) == (seal["checksum"], runs["checksums"])
        assert all(entry[name] == seal[name] for name in ("id", "encoding", "num_traces", "num_failed", "nbytes"))
        members = ("name", "dtype", "shape", "constant")
        assert entry["observations"] == [{name: record[name] for name in members} for record in seal["observations"]]


def test_ids_follow_from_the_sites(segment):
    for site in segment.sites:
        assert site.id == xxhash.xxh3_64_intdigest(f"{site.base}#{site.instance}".encode())  # 1.8
    for layout in segment.layouts:
        assert layout.trace_type == xxhash.xxh3_64_intdigest(np.array(layout.controlled(), "<u8").tobytes())  # 1.9
        assert layout.id == xxhash.xxh3_64_intdigest("\x1e".join(s.record() for s in layout.sites).encode())  # 1.10


def test_tables_are_ordered_and_counted(segment):
    seal, runs, layouts = segment.seal, segment.runs, segment.layouts
    used = distinct(site.record() for layout in layouts for site in layout.sites)
    assert used == [site.record() for site in segment.sites]  # 3.9
    assert distinct(run["layout"] for run in runs) == [*range(seal["num_layouts"] + seal.get("num_loose", 0))]  # 3.10
    ids = [(run["layout_id"], run["trace_type"], run["num_sites"]) for run in runs]
    assert ids == [(i, trace_type, len(sites)) for i, trace_type, sites in (layouts[r["layout"]] for r in runs)]  # 3.16
    constants = [(row["column"], row["layout"], row["index"]) for row in segment.rows("constants")]
    assert constants == sorted(set(constants))  # 3.12
    failures, status = segment.rows("failures"), segment.trace_column("status")
    assert [row["row"] for row in failures] == np.flatnonzero(status).tolist()  # 3.15
    counts = {"num_runs": len(runs), "num_failed": len(failures), "num_traces": sum(r["num_traces"] for r in runs)}
    counts["num_sites"] = sum(run["num_sites"] * run["num_traces"] for run in runs)
    counts |= {"num_states": sum(run["num_states"] for run in runs)} if seal["encoding"] != "arrow/1" else {}
    assert counts == {name: seal[name] for name in counts}  # 3.2


def test_states_begin_with_the_runs_and_are_shared_only_after_rejections(segment):
    lasts = np.cumsum([run["num_traces"] for run in segment.runs]) - 1
    assert (segment.states[lasts] == np.cumsum([run["num_states"] for run in segment.runs]) - 1).all()  # 3.16
    steps = np.diff(segment.states, prepend=-1)
    assert set(steps.tolist()) <= {0, 1}  # 3.15.1
    shared = np.flatnonzero(steps == 0)
    assert not segment.trace_column("accepted")[shared].any()
    for column in (segment.trace_column("chain"), np.array(segment.layout_numbers)):
        assert (column[shared] == column[shared - 1]).all()


def test_files_are_cut_into_checked_ranges(segment):
    there = {str(path.relative_to(segment.folder)) for path in segment.folder.rglob("*") if path.is_file()}
    assert there == segment.files.keys() | {"seal.json"}  # 3.3, 4.2
    assert sum(record["size"] for record in segment.files.values()) == segment.seal["nbytes"]  # 2.13
    for name, record in segment.files.items():
        assert segment.file(name), name  # 3.7
        assert record["ends"] == sorted(record["ends"])
        assert len(record["ends"]) == (len(record["rows"]) + 1 if "data" in record else 1)  # 3.5, 3.6
        assert all(offset % 8 == 0 for block in record.get("data", []) for offset in block)


def test_chunks_and_constant_observations(segment):
    for position, record in enumerate(segment.seal["observations"]):
        rows = segment.stored_observation(position)
        chunks = [chunk for chunk in segment.rows("chunks") if chunk["observation"] == position]
        assert not record["constant"] or xxhash.xxh3_128_hexdigest(rows.tobytes()) == record["constant"]  # 2.13
        if not record["file"]:
            continue
        zarr, chunked = segment.seal["encoding"] == "zarr/1", segment.files[record["file"]].get("chunked", False)
        assert chunked == (zarr or record.get("codec", "none") != "none")  # 3.6
        assert len(chunks) == (math.ceil(len(rows) / record["rows_per_block"]) if chunked else 0)  # 3.18.1
        if zarr:  # 4.7: the index of the shard says what the table says
            index = np.array([(chunk["offset"], chunk["nbytes"]) for chunk in chunks], "<u8").tobytes()
            tail = segment.file(record["file"])[sum(chunk["nbytes"] for chunk in chunks) :]
            assert tail == index + crc32c(index)
