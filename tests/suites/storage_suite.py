"""What every storage must do; subclass `StorageSuite`, or `SharedStorageSuite` if processes share the files."""

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tracestore.storage import Storage

NUM_RACERS = 8
NUM_ROUNDS = 25
FILES = {"seal.json": b"sealed", "values.arrow": b"v" * 1_000, "deep/er/chunk": b"c", "empty": b""}


def wins_of(storage: Storage, racer: int, wait: Callable[[], object], num_rounds: int) -> list[int]:
    """Rounds in which a racer made the file that all racers want."""
    won = []
    for number in range(num_rounds):
        wait()
        if storage.create(f"race/{number}", b"%d" % racer):
            won.append(number)
    return won


def race_in_process(storage: Storage, racer: int, barrier, results) -> None:
    results.put((racer, wins_of(storage, racer, lambda: barrier.wait(60), NUM_ROUNDS)))


def assert_one_winner_a_round(storage: Storage, wins: dict[int, list[int]], num_rounds: int, raw) -> None:
    assert sorted(number for won in wins.values() for number in won) == list(range(num_rounds))
    for racer, won in wins.items():
        for number in won:
            assert raw(storage, f"race/{number}") == b"%d" % racer


class StorageSuite:
    """Conformance of one storage."""

    num_rounds = NUM_ROUNDS

    @pytest.fixture
    def storage(self) -> Storage:
        """An empty storage."""
        raise NotImplementedError

    def put_raw(self, storage: Storage, name: str, data: bytes) -> None:
        """Write a file behind the storage's back."""
        raise NotImplementedError

    def get_raw(self, storage: Storage, name: str) -> bytes | None:
        """Read a file behind the storage's back; None when there is none."""
        raise NotImplementedError

    @pytest.fixture
    def build(self, tmp_path):
        """Make a local directory of the files given."""

        def make(files: dict[str, bytes], name: str = "built") -> Path:
            for file, data in files.items():
                path = tmp_path / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            return tmp_path / name

        return make

    # ------------------------------------------------------------------------------------------------ one file

    def test_created_file_is_there(self, storage):
        assert storage.create("manifests/v1.json", b"first") is True
        assert self.get_raw(storage, "manifests/v1.json") == b"first"

    def test_second_creation_changes_nothing(self, storage):
        storage.create("name", b"first")
        assert storage.create("name", b"second") is False
        assert self.get_raw(storage, "name") == b"first"

    def test_creation_of_the_same_bytes_has_one_maker(self, storage):
        assert [storage.create("name", b"same") for _ in range(2)] == [True, False]

    def test_creation_respects_a_file_of_somebody_else(self, storage):
        self.put_raw(storage, "name", b"theirs")
        assert storage.create("name", b"ours") is False
        assert self.get_raw(storage, "name") == b"theirs"

    def test_replacing_writes_over(self, storage):
        storage.replace("folder/LATEST", b"1")
        storage.replace("folder/LATEST", b"22")
        assert self.get_raw(storage, "folder/LATEST") == b"22"

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 100], ids=len)
    def test_reading_gives_the_bytes(self, storage, data):
        self.put_raw(storage, "deep/down/file", data)
        assert storage.read("deep/down/file") == data

    def test_existence_is_of_files(self, storage):
        self.put_raw(storage, "folder/file", b"x")
        assert storage.exists("folder/file")
        assert not storage.exists("folder")
        assert not storage.exists("folder/other")

    @pytest.mark.parametrize("action", ["read", "open", "seconds_since_change", "remove"])
    def test_missing_file_is_not_found(self, storage, action):
        with pytest.raises(FileNotFoundError):
            getattr(storage, action)("nowhere/nothing")

    def test_file_just_written_is_young(self, storage):
        storage.create("folder/old", b"x")
        # clocks of servers count whole seconds
        assert -2 < storage.seconds_since_change("folder/old") < 100
        assert -2 < storage.seconds_since_change("folder") < 100

    # ------------------------------------------------------------------------------------------- parts of a file

    @pytest.fixture
    def content(self, storage):
        data = np.random.default_rng(3).integers(0, 256, 3_000_000, np.uint8)
        self.put_raw(storage, "columns", data.tobytes())
        return data

    def test_open_file_has_its_size(self, storage, content):
        file = storage.open("columns")
        assert file.size == file.data.size == content.size
        assert file.data.dtype == np.uint8

    def test_loaded_part_is_that_of_the_file(self, storage, content):
        file = storage.open("columns")
        file.load(1_000, 2_000_000)
        file.load(2_999_990, 3_000_000)
        assert np.array_equal(file.data[1_000:2_000_000], content[1_000:2_000_000])
        assert np.array_equal(file.data[2_999_990:], content[2_999_990:])

    def test_data_cannot_be_written(self, storage, content):
        assert not storage.open("columns").data.flags.writeable

    def test_empty_load_does_nothing(self, storage, content):
        storage.open("columns").load(3_000_000, 3_000_000)

    def test_expected_part_is_loaded_as_any_other(self, storage, content):
        file = storage.open("columns")
        file.expect(np.array([10, 2_000_000]), np.array([20, 3_000_000]))
        file.load(1_999_999, 3_000_000)
        assert np.array_equal(file.data[1_999_999:], content[1_999_999:])

    def test_empty_file_has_no_data(self, storage):
        self.put_raw(storage, "empty", b"")
        file = storage.open("empty")
        file.load(0, 0)
        assert file.size == 0
        assert file.data.shape == (0,)
        assert [part.size for part in file.ranges([0], [0])] == [0]

    def test_ranges_come_in_the_order_asked_for(self, storage, content):
        starts, stops = [2_900_000, 0, 5, 5, 1_500_000], [3_000_000, 10, 7, 5, 1_500_001]
        found = storage.open("columns").ranges(starts, stops)
        assert all(part.dtype == np.uint8 for part in found)
        for part, start, stop in zip(found, starts, stops, strict=True):
            assert np.array_equal(part, content[start:stop])

    def test_no_ranges_are_no_arrays(self, storage, content):
        assert storage.open("columns").ranges([], []) == []

    # ------------------------------------------------------------------------------------------- names, folders

    def test_names_are_those_directly_in_a_folder(self, storage):
        for name in ("a/2", "a/10", "a/b/x", "a/c/y", "ab/z", "top", "a/.hidden"):
            self.put_raw(storage, name, b"x")
        assert storage.files("a") == ["10", "2"]
        assert storage.folders("a") == ["b", "c"]
        assert storage.files("") == ["top"]
        assert storage.folders("") == ["a", "ab"]

    def test_missing_folder_is_empty(self, storage):
        assert storage.files("nowhere") == storage.folders("nowhere") == []

    def test_storage_below_has_the_folder_for_its_root(self, storage):
        self.put_raw(storage, "stores/one/file", b"x")
        below = storage.below("stores").below("one")
        assert below.read("file") == b"x"
        assert below.create("made", b"y")
        assert self.get_raw(storage, "stores/one/made") == b"y"
        assert below.files("") == ["file", "made"]
        assert below.url == f"{storage.url}/stores/one"

    def test_pickled_copy_sees_the_same_files(self, storage):
        copy = pickle.loads(pickle.dumps(storage))
        assert copy.url == storage.url
        assert copy.create("by-copy", b"x")
        assert self.get_raw(storage, "by-copy") == b"x"
        assert storage.create("by-copy", b"y") is False

    # ------------------------------------------------------------------------------------------------ directories

    def test_placed_directory_is_there_with_nested_files(self, storage, build):
        assert storage.place(build(FILES), "segments/one") is True
        for name, data in FILES.items():
            assert self.get_raw(storage, f"segments/one/{name}") == data

    def test_staged_directory_can_be_placed(self, storage):
        directory = storage.staging("one")
        directory.mkdir(parents=True)
        (directory / "seal.json").write_bytes(b"sealed")
        try:
            assert storage.place(directory, "segments/one")
        finally:
            (directory / "seal.json").unlink(missing_ok=True)
            if directory.exists():
                directory.rmdir()
        assert self.get_raw(storage, "segments/one/seal.json") == b"sealed"

    def test_taken_place_stays_as_it_is(self, storage, build):
        storage.place(build(FILES, "first"), "segments/one")
        second = build({"seal.json": b"other", "values.arrow": b"w"}, "second")
        assert storage.place(second, "segments/one") is False
        assert self.get_raw(storage, "segments/one/seal.json") == b"sealed"
        assert self.get_raw(storage, "segments/one/values.arrow") == b"v" * 1_000
        assert second.exists()

    def test_removed_folder_is_gone_and_its_neighbors_stay(self, storage, build):
        storage.place(build(FILES, "first"), "segments/one")
        storage.place(build(FILES, "second"), "segments/one-more")
        assert storage.remove("segments/one") == sum(map(len, FILES.values()))
        assert storage.folders("segments") == ["one-more"]
        assert self.get_raw(storage, "segments/one/deep/er/chunk") is None
        assert self.get_raw(storage, "segments/one-more/deep/er/chunk") == b"c"

    def test_removed_place_is_free_again(self, storage, build):
        storage.place(build(FILES, "first"), "segments/one")
        storage.remove("segments/one")
        assert storage.place(build(FILES, "second"), "segments/one") is True

    # ------------------------------------------------------------------------------------------------ publication

    def test_probe_of_publication_leaves_nothing(self, storage):
        storage.require_publication()
        storage.create("file", b"x")
        assert storage.files("") == ["file"]
        assert storage.folders("") == []

    def test_room_is_a_number_or_not_known(self, storage):
        room = storage.free_bytes()
        assert (room is not None) == storage.is_local
        assert room is None or room > 0

    def test_racing_threads_have_one_winner_in_every_round(self, storage):
        barrier = threading.Barrier(NUM_RACERS)
        copies = [pickle.loads(pickle.dumps(storage)) for _ in range(NUM_RACERS)]

        def run(racer: int) -> list[int]:
            return wins_of(copies[racer], racer, lambda: barrier.wait(60), self.num_rounds)

        with ThreadPoolExecutor(NUM_RACERS) as pool:
            wins = dict(enumerate(pool.map(run, range(NUM_RACERS))))
        assert_one_winner_a_round(storage, wins, self.num_rounds, self.get_raw)


class SharedStorageSuite(StorageSuite):
    """Conformance of a storage whose files other processes see."""

    @pytest.mark.processes
    def test_racing_processes_have_one_winner_in_every_round(self, storage):
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(NUM_RACERS), context.SimpleQueue()
        racers = [
            context.Process(target=race_in_process, args=(storage, racer, barrier, results), daemon=True)
            for racer in range(NUM_RACERS)
        ]
        for process in racers:
            process.start()
        for process in racers:
            process.join(120)
        assert [process.exitcode for process in racers] == [0] * NUM_RACERS
        wins = dict(results.get() for _ in racers)
        assert_one_winner_a_round(storage, wins, NUM_ROUNDS, self.get_raw)
