"""The life of a store on object stores: in memory, and on an S3-compatible server on the loopback interface."""

import itertools
import multiprocessing
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("obstore")

from tests.store.stores import JOB, by_stream, expected_batch, make_chunk
from tests.suites.batches import assert_same
from tests.suites.object_server import SERVER_WARNINGS, object_server, object_url
from tracestore.errors import FormatError, InvalidInputError, StoreError, StoreExistsError, StoreNotFoundError
from tracestore.sorting import sort_store
from tracestore.storage.objects import ObjectStorage
from tracestore.store import TraceStore, compact, convert, gc, recover, verify
from tracestore.store.location import StoreLocation

__all__ = ["object_server", "object_url"]

pytestmark = SERVER_WARNINGS

NUM_RACERS = 8
NUM_ROUNDS = 2
names_in_memory = (f"memory://life-{number}/store" for number in itertools.count())


class Died(BaseException):
    """The process is dead."""


@pytest.fixture(params=["memory", "s3"])
def make_place(request):
    """A function that returns a URL that nobody has used, and its options."""
    if request.param == "memory":
        return lambda: (next(names_in_memory), {})
    return request.getfixturevalue("object_url")


@pytest.fixture
def place(make_place):
    return make_place()


@pytest.fixture(params=["arrow", "zarr"])
def backend(request):
    return request.param


@pytest.fixture
def store(place, backend):
    """A store of four units in two segments."""
    return make_store(place, backend)


def make_store(place, backend, numbers=range(4), codec="lz4"):
    url, options = place
    store = TraceStore.create(url, job=JOB, backend=backend, codec=codec, storage_options=options)
    with store.writer() as writer:
        for number in numbers:
            writer.append(make_chunk(number), work=[number], state=number)
            if number % 2:
                writer.seal()
    return store


def open_store(place, **options):
    url, storage_options = place
    return TraceStore.open(url, storage_options=storage_options, **options)


def require_whole(store, numbers):
    assert len(store) == 40 * len(numbers)
    assert store.completed_work() == set(numbers)
    assert_same(by_stream(store), expected_batch(numbers))
    assert verify(store, deep=True, log_probs=False) == []


def names_of(storage, folder):
    """Names of all objects below a folder, temporary ones included."""
    root = storage.below(folder)
    found = [one["path"] for page in root._clients.repeating.list(root._key("")) for one in page]
    return sorted(path.removeprefix(root._key("") + "/") for path in found)


def delete(storage, name):
    storage._clients.repeating.delete(storage._key(name))


def in_threads(function):
    """Call a function with 0, 1, ... at the same time; what it returned."""
    barrier = threading.Barrier(NUM_RACERS)

    def run(racer):
        barrier.wait(60)
        return function(racer)

    with ThreadPoolExecutor(NUM_RACERS) as pool:
        return list(pool.map(run, range(NUM_RACERS)))


# ------------------------------------------------------------------------------------------------------------ life


def test_store_is_read_as_it_was_written(place, store, tmp_path, backend):
    local = make_store((tmp_path / "local", {}), backend)
    found = open_store(place)
    require_whole(found, range(4))
    assert (found.version, len(found.segments), found.stats().num_pending) == (1, 2, 0)
    assert found.work_states() == local.work_states()
    for name in ("mu", "vec"):
        for left, right in zip(found.values(name), local.values(name), strict=True):
            assert np.array_equal(left, right)
    rows = np.random.default_rng(1).integers(0, 160, 50)
    assert_same(found.take(rows), local.take(rows))
    for left, right in zip(found.batches(30), local.batches(30), strict=True):
        assert_same(left, right)
    assert np.array_equal(found.column("log_prior"), local.column("log_prior"))
    assert list(found.addresses) == list(local.addresses)


def test_store_is_continued(place, store):
    url, options = place
    with pytest.raises(StoreExistsError, match="is a store already"):
        TraceStore.create(url, storage_options=options)
    again = TraceStore.open_or_create(url, JOB, storage_options=options)
    again.append(make_chunk(4), work=[4])
    require_whole(open_store(place), range(5))
    assert len(store) == 160
    store.refresh()
    assert len(store) == 200
    assert len(open_store(place, version=1)) == 160


def test_prefix_without_a_store(place):
    with pytest.raises(StoreNotFoundError, match=r"has no TRACESTORE\.json"):
        open_store(place)


@pytest.mark.parametrize("url", ["gs://bucket/traces", "az://container/traces", "https://host/traces", "ftp://host/x"])
@pytest.mark.parametrize("make", [TraceStore.create, TraceStore.open])
def test_other_urls_are_refused(make, url):
    with pytest.raises(InvalidInputError, match=f"on memory:// and s3:// object stores; '{url}' is none of them"):
        make(url)


# ----------------------------------------------------------------------------------------------------------- races


def test_racing_folders_publish_one_snapshot_a_round(place, backend):
    store = make_store(place, backend, ())
    folders = [open_store(place) for _ in range(NUM_RACERS)]
    for number in range(NUM_ROUNDS):
        for unit in (2 * number, 2 * number + 1):
            writer = store.writer()
            writer.append(make_chunk(unit), work=[unit])
            writer.seal()
        assert in_threads(lambda racer: folders[racer].fold()) == [number + 1] * NUM_RACERS
    assert len(store.storage.files("manifests")) == NUM_ROUNDS + 1
    require_whole(open_store(place), range(2 * NUM_ROUNDS))


def test_racing_publishers_get_a_number_each(place, backend):
    store = make_store(place, backend, ())
    publishers = [open_store(place) for _ in range(NUM_RACERS)]
    entries = [store.write_segment(f"part-{racer}", [make_chunk(racer)]) for racer in range(NUM_RACERS)]
    in_threads(lambda racer: publishers[racer].publish([entries[racer]]))
    found = open_store(place)
    assert found.version == NUM_RACERS
    assert sorted(entry.id for entry in found.segments) == [f"part-{racer}" for racer in range(NUM_RACERS)]
    sizes = [len(open_store(place, version=version)) for version in range(NUM_RACERS + 1)]
    assert sizes == [40 * version for version in range(NUM_RACERS + 1)]
    assert_same(by_stream(found), expected_batch(range(NUM_RACERS)))


# ---------------------------------------------------------------------------------------------------------- crashes


def dying_at(monkeypatch, folder):
    """Make the creation of an object in a folder the death of the process."""
    create = ObjectStorage.create

    def die(storage, name, data):
        if name.startswith(folder):
            raise Died
        return create(storage, name, data)

    monkeypatch.setattr(ObjectStorage, "create", die)


def test_upload_without_receipt_is_adopted(place, store, monkeypatch):
    writer = store.writer()
    writer.append(make_chunk(4), work=[4], state=4)
    with monkeypatch.context() as patch:
        dying_at(patch, "receipts/")
        with pytest.raises(Died):
            writer.seal()
    again = open_store(place)
    require_whole(again, range(4))
    assert gc(again, older_than=0).segments == ()
    assert len(recover(again)) == 1
    require_whole(again, range(5))
    assert again.work_states()[-1] == ([4], 4)
    assert recover(again) == []


def test_incomplete_upload_is_not_part_of_the_store(place, store, monkeypatch):
    before = set(store.storage.folders("segments"))
    writer = store.writer()
    writer.append(make_chunk(4), work=[4])
    with monkeypatch.context() as patch:
        dying_at(patch, "segments/")
        with pytest.raises(Died):
            writer.seal()
    again = open_store(place)
    (left,) = set(again.storage.folders("segments")) - before
    assert "seal.json" not in names_of(again.storage, f"segments/{left}")
    assert again.find_segment(left) is None
    assert recover(again) == []
    require_whole(again, range(4))
    assert gc(again, older_than=0).segments == (left,)
    assert set(again.storage.folders("segments")) == before
    again.append(make_chunk(4), work=[4])
    require_whole(open_store(place), range(5))


def test_publication_that_died_is_made_by_the_next_fold(place, store, monkeypatch):
    writer = store.writer()
    writer.append(make_chunk(4), work=[4])
    with monkeypatch.context() as patch:
        dying_at(patch, "manifests/")
        with pytest.raises(Died):
            writer.close()
    again = open_store(place)
    assert (len(again), again.stats().num_pending) == (160, 1)
    again.fold()
    require_whole(again, range(5))


# ------------------------------------------------------------------------------------------------------ maintenance


def test_compaction_and_collection(place, store):
    url, _ = place
    replaced = [entry.id for entry in store.segments]
    assert compact(store) == 2
    require_whole(open_store(place), range(4))
    assert len(open_store(place, version=1)) == 160
    found = gc(store, older_than=0)
    assert sorted(found.segments) == sorted(replaced)
    assert store.storage.folders("segments") == [entry.id for entry in store.segments]
    require_whole(open_store(place), range(4))
    with pytest.raises(StoreNotFoundError, match=f"Version 1 of {url} was given up"):
        open_store(place, version=1)


def test_copy_to_objects_and_back_is_equal(make_place, tmp_path, backend):
    local = make_store((tmp_path / "local", {}), backend)
    other = {"arrow": "zarr", "zarr": "arrow"}[backend]
    url, options = make_place()
    destination = StoreLocation(url, backend=other, codec="lz4", storage_options=options)
    there = convert(local, destination)
    require_whole(there, range(4))
    back = convert(there, tmp_path / "back", backend=backend)
    for copy in (there, back):
        assert_same(copy.take(range(160)), local.take(range(160)))
        assert copy.work_states() == local.work_states()
        assert list(copy.addresses) == list(local.addresses)
        assert copy.job == local.job
    assert verify(back, deep=True, log_probs=False) == []
    # an interrupted copy is continued: all of it is there already
    assert convert(local, destination).snapshot_id == there.snapshot_id


def test_sort_to_objects_and_from_objects(make_place, tmp_path, backend):
    local = make_store((tmp_path / "local", {}), backend)
    wanted = sort_store(local, tmp_path / "sorted")
    url, options = make_place()
    there = sort_store(local, StoreLocation(url, backend=backend, storage_options=options))
    assert_same(there.take(range(160)), wanted.take(range(160)))
    assert verify(there, deep=True, log_probs=False) == []
    source = make_store(make_place(), backend)
    back = sort_store(source, tmp_path / "back")
    assert_same(back.take(range(160)), wanted.take(range(160)))
    assert verify(back, deep=True, log_probs=False) == []


# ----------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_deleted_observation_is_an_error_that_names_it(make_place, backend, codec):
    place = make_place()
    store = make_store(place, backend, codec=codec)
    folder = f"segments/{store.segments[0].id}"
    name = f"{folder}/{'obs-0.arrow' if backend == 'arrow' else 'obs-0/c/0/0/0'}"
    assert store.storage.exists(name)
    delete(store.storage, name)
    found = open_store(place)
    with pytest.raises(FormatError, match=f"{name} is missing; restore the file"):
        found.take([0])
    with pytest.raises(FormatError, match=f"{name} is missing"):
        found.take([0, 159])
    assert [problem.path for problem in verify(found)] == [name]
    # what is not damaged can still be read
    assert len(found.values("mu")[0]) == 160
    assert len(found.take([150])) == 1


def test_every_deleted_object_of_a_segment_is_found(place, store):
    segment = store.segments[0].id
    names = [name for name in names_of(store.storage, f"segments/{segment}") if name != "seal.json"]
    assert len(names) > 8
    for name in names:
        delete(store.storage, f"segments/{segment}/{name}")
    found = {problem.path for problem in verify(open_store(place))}
    assert found == {f"segments/{segment}/{name}" for name in names}


# -------------------------------------------------------------------------------------------------------- processes


def read_sum(store):
    everything = store.take(range(len(store)))
    return float(everything.log_probs.sum() + everything.observations["dense"].sum())


def write_units(place, numbers):
    url, options = place
    store = TraceStore.open_or_create(url, JOB, storage_options=options)
    for number in numbers:
        store.append(make_chunk(number), work=[number])


def in_pool(method, function, arguments):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map_async(function, arguments).get(60)


def tell_errors(store, pickled, results):
    """Read a store that came along with the process, and the same one out of a pickle; put what they raise."""
    for read in (lambda: read_sum(store), lambda: read_sum(pickle.loads(pickled))):
        try:
            results.put(read())
        except StoreError as error:
            results.put(str(error))


def errors_in_process(method, store, pickled):
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    process = context.Process(target=tell_errors, args=(store, pickled, results), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return [results.get(), results.get()]


@pytest.mark.processes
@pytest.mark.timeout(120)
class TestProcesses:
    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_store_that_was_read_is_read_in_new_processes(self, object_url, backend, method):
        store = make_store(object_url(), backend)
        wanted = read_sum(store)
        assert in_pool(method, read_sum, [store] * 4) == [wanted] * 4

    def test_forked_process_says_that_it_cannot_read(self, object_url, backend):
        store = make_store(object_url(), backend)
        read_sum(store)
        for found in errors_in_process("fork", store, pickle.dumps(store)):
            assert re.search("was forked from process .* Start processes with the spawn method, or fork before", found)

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_memory_belongs_to_its_process(self, tmp_path, method):
        store = make_store((next(names_in_memory), {}), "arrow", range(2))
        read_sum(store)
        # a store in memory comes along with a forked process only
        other = store if method == "fork" else make_store((tmp_path / "local", {}), "arrow", range(2))
        along, unpickled = errors_in_process(method, other, pickle.dumps(store))
        for found in [along, unpickled] if method == "fork" else [unpickled]:
            assert re.search("belongs to the process that made it.*Use a path or an s3:// URL", found)

    def test_writers_in_several_processes(self, object_url, backend):
        place = object_url()
        make_store(place, backend, ())
        context = multiprocessing.get_context("spawn")
        parts = [range(first, 6, 3) for first in range(3)]
        writers = [context.Process(target=write_units, args=(place, part), daemon=True) for part in parts]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(100)
        assert [writer.exitcode for writer in writers] == [0, 0, 0]
        require_whole(open_store(place), range(6))
