import itertools
import multiprocessing
import os
import pickle
import re
import subprocess
import sys

import pytest

pytest.importorskip("obstore")

from tests.suites.object_server import SERVER_WARNINGS, object_options
from tests.suites.storage_suite import SharedStorageSuite, StorageSuite
from tracestore.errors import InvalidInputError, StoreError
from tracestore.storage import open_storage
from tracestore.storage.objects import open_objects

pytestmark = SERVER_WARNINGS
names_in_memory = (f"memory://test-{number}/prefix" for number in itertools.count())


def split(storage, name):
    """The store, and the name of an object within it."""
    return storage._clients._repeating, "/".join(filter(None, (storage._url.prefix, name)))


class BehindTheBack:
    """Access to objects with a client alone."""

    def put_raw(self, storage, name, data):
        store, key = split(storage, name)
        store.put(key, data)

    def get_raw(self, storage, name):
        store, key = split(storage, name)
        try:
            return bytes(store.get(key).bytes())
        except FileNotFoundError:
            return None


class TestMemoryStorage(BehindTheBack, StorageSuite):
    @pytest.fixture
    def storage(self):
        return open_storage(next(names_in_memory))


class TestS3Storage(BehindTheBack, SharedStorageSuite):
    num_rounds = 40

    @pytest.fixture
    def storage(self, object_url):
        return open_storage(*object_url())


@pytest.fixture
def storage(stubborn):
    """Objects of a server that does as it is told, and a client that repeats what fails."""
    return open_storage("s3://bucket/prefix", object_options(stubborn.endpoint))


class Once:
    """Does something at the first call, and nothing later."""

    def __init__(self, action):
        self.action = action

    def __call__(self, *arguments):
        action, self.action = self.action, lambda *arguments: None
        return action(*arguments)


# ------------------------------------------------------------------------------------------------- URLs and options


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "memory://", "s3://bucket/a//b", "s3://bucket/../x", "s3://bucket/x?region=y"]
)
def test_malformed_url_is_refused(url):
    with pytest.raises(InvalidInputError, match=f"got '{re.escape(url)}'"):
        open_storage(url)


def test_unknown_option_is_refused_by_name():
    with pytest.raises(InvalidInputError, match=r"options nonsense of s3://bucket: .*'nonsense' is not valid"):
        open_storage("s3://bucket/prefix", {"nonsense": 1})


def test_option_that_the_url_gives_is_refused():
    with pytest.raises(InvalidInputError, match="got the options bucket, prefix, too"):
        open_storage("s3://bucket/prefix", {"bucket": "other", "prefix": "x"})


def test_options_of_memory_are_refused():
    with pytest.raises(InvalidInputError, match="has no options; got region"):
        open_storage(next(names_in_memory), {"region": "x"})


def test_settings_come_from_the_environment(object_url, object_server, monkeypatch):
    url, _ = object_url()
    for name, value in {
        "AWS_ENDPOINT_URL": object_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    assert open_storage(url, {"timeout": "20s"}).create("file", b"x")


def test_keys_are_not_shown():
    storage = open_storage("s3://bucket/prefix", object_options("http://127.0.0.1:1"))
    assert "secret" not in repr(storage) + storage.url


def test_one_name_is_one_store_in_memory():
    url = next(names_in_memory)
    open_storage(url).create("file", b"x")
    assert open_storage(f"{url}/").read("file") == b"x"
    assert open_storage(url.removesuffix("/prefix")).read("prefix/file") == b"x"
    assert not open_storage(next(names_in_memory)).exists("file")


def test_staging_is_apart_for_each_root(object_url):
    first, second = (open_storage(*object_url()) for _ in range(2))
    assert first.staging("one") == first.staging("one")
    assert len({first.staging("one"), first.staging("two"), second.staging("one")}) == 3


# ------------------------------------------------------------------------------------------------------- creation


def hang_up_after(server, data):
    """Carry out a put with these bytes instead, and do not answer."""

    def act(name, asked):
        server.objects[name] = asked if data is None else data
        return "drop"

    return Once(act)


def test_lost_answer_to_a_creation_is_made_up_for(storage, stubborn):
    stubborn.on_put = hang_up_after(stubborn, None)
    assert storage.create("name", b"ours") is True
    assert stubborn.num_puts == 1


def test_error_of_a_server_that_did_create_is_made_up_for(storage, stubborn):
    stubborn.on_put = Once(lambda name, data: stubborn.objects.update({name: data}) or 503)
    assert storage.create("name", b"ours") is True


def test_lost_answer_that_somebody_else_was_first(storage, stubborn):
    stubborn.on_put = hang_up_after(stubborn, b"theirs")
    assert storage.create("name", b"ours") is False
    assert stubborn.objects["bucket/prefix/name"] == b"theirs"


def test_request_that_never_arrived_is_repeated(storage, stubborn):
    stubborn.on_put = Once(lambda name, data: "drop")
    assert storage.create("name", b"ours") is True
    assert stubborn.objects["bucket/prefix/name"] == b"ours"


def test_first_request_that_arrives_late_is_ours(storage, stubborn):
    late = iter([lambda name, data: "drop", lambda name, data: stubborn.objects.update({name: data})])
    stubborn.on_put = lambda name, data: next(late)(name, data)
    assert storage.create("name", b"ours") is True
    assert stubborn.num_puts == 2


def test_lost_answer_that_cannot_be_read_back_is_an_error(storage, stubborn):
    stubborn.on_put = hang_up_after(stubborn, None)
    stubborn.on_get = lambda name: "drop"
    with pytest.raises(StoreError, match="Whether s3://bucket/prefix/name was created is not known") as caught:
        storage.create("name", b"ours")
    assert "PUT" in str(caught.value.__cause__)


def test_conflict_without_an_object_is_tried_again(storage, stubborn):
    stubborn.on_put = Once(lambda name, data: 409)
    assert storage.create("name", b"ours") is True


def test_server_that_ignores_the_condition_is_refused(storage, stubborn):
    stubborn.has_conditions = False
    with pytest.raises(StoreError, match=r"ignores conditional creation \(If-None-Match\), so two writers could"):
        storage.require_publication()
    assert stubborn.objects == {}


def test_server_without_the_condition_is_refused(storage, stubborn):
    stubborn.on_put = lambda name, data: 501
    with pytest.raises(StoreError, match=r"has no conditional creation .* tracestore refuses it"):
        storage.create("name", b"x")


def test_client_without_the_condition_is_refused(stubborn):
    options = {**object_options(stubborn.endpoint), "conditional_put": "disabled"}
    with pytest.raises(StoreError, match="has no conditional creation"):
        open_storage("s3://bucket", options).create("name", b"x")


def test_creation_without_rights_is_not_repeated(storage, stubborn):
    stubborn.on_put = lambda name, data: 403
    with pytest.raises(StoreError, match=r"s3://bucket/prefix/name: .*403 Forbidden.* Check the access keys"):
        storage.create("name", b"x")
    assert stubborn.num_puts == 1


# --------------------------------------------------------------------------------------------------------- reading


def test_server_that_does_not_answer_is_named(stubborn):
    options = {**object_options("http://127.0.0.1:1"), "retry_config": {"max_retries": 0}}
    with pytest.raises(StoreError, match=r"does not serve s3://bucket/file: .* Check the endpoint") as caught:
        open_storage("s3://bucket", options).read("file")
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_missing_bucket_is_not_a_missing_file(object_server):
    with pytest.raises(StoreError, match="The bucket of s3://no-such-bucket/file does not exist"):
        open_storage("s3://no-such-bucket", object_options(object_server)).read("file")


def test_missing_bucket_is_found_at_creation(object_server):
    with pytest.raises(StoreError, match="The bucket of s3://no-such-bucket/file does not exist"):
        open_storage("s3://no-such-bucket", object_options(object_server)).create("file", b"x")


@pytest.mark.parametrize(("action", "arguments"), [("load", (2, 10)), ("ranges", ([0, 2], [1, 10]))])
def test_short_answer_is_an_error(storage, stubborn, action, arguments):
    stubborn.objects["bucket/prefix/file"] = bytes(100)
    stubborn.longest = 4
    with pytest.raises(StoreError, match=r"does not serve s3://bucket/prefix/file: .*, got \d\.\.\d"):
        getattr(storage.open("file"), action)(*arguments)


@pytest.mark.parametrize(("action", "arguments"), [("load", (2, 10)), ("ranges", ([0, 2], [1, 10]))])
def test_end_of_an_object_that_became_shorter_is_an_error(action, arguments):
    storage = open_storage(next(names_in_memory))
    storage.replace("file", bytes(100))
    file = storage.open("file")
    storage.replace("file", bytes(6))
    with pytest.raises(StoreError, match=r"gave 4 of the 8 bytes from 2 of memory://.*/prefix/file"):
        getattr(file, action)(*arguments)


@pytest.mark.parametrize(("action", "arguments"), [("load", (90, 101)), ("ranges", ([90], [101]))])
def test_range_beyond_the_end_is_an_error(storage, stubborn, action, arguments):
    stubborn.objects["bucket/prefix/file"] = bytes(100)
    with pytest.raises(StoreError, match="has 100 bytes, and bytes 90 to 101 were asked for"):
        getattr(storage.open("file"), action)(*arguments)


def test_large_file_is_loaded_in_parts(storage, stubborn, monkeypatch):
    monkeypatch.setattr("tracestore.storage.object_file._PART_BYTES", 1_000)
    data = bytes(range(256)) * 100
    stubborn.objects["bucket/prefix/file"] = data
    requests: list[str] = []
    stubborn.on_get = requests.append
    file = storage.open("file")
    file.load(3, 20_003)
    assert file.data[3:20_003].tobytes() == data[3:20_003]
    assert len(requests) == 20


def test_untouched_pages_take_no_memory(storage, stubborn):
    stubborn.objects["bucket/prefix/file"] = b"x"
    stubborn.sizes["bucket/prefix/file"] = 1 << 36
    assert storage.open("file").data.size == 1 << 36


# ----------------------------------------------------------------------------------------------------- directories


def test_seal_is_uploaded_last(storage, stubborn, tmp_path):
    for name in ("a", "seal.json", "z"):
        (tmp_path / name).write_bytes(b"x")
    order = []
    stubborn.on_put = lambda name, data: order.append(name)
    storage.place(tmp_path, "one")
    assert sorted(order[:2]) == ["bucket/prefix/one/a", "bucket/prefix/one/z"]
    assert order[2:] == ["bucket/prefix/one/seal.json"]


def test_failed_upload_seals_nothing(storage, stubborn, tmp_path):
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"x")
    (tmp_path / "seal.json").write_bytes(b"x")
    stubborn.on_put = lambda name, data: 403 if name.endswith("/7") else None
    with pytest.raises(StoreError, match="s3://bucket/prefix/one/7"):
        storage.place(tmp_path, "one")
    assert "bucket/prefix/one/seal.json" not in stubborn.objects


def test_directory_without_a_seal_is_not_uploaded(storage, stubborn, tmp_path):
    (tmp_path / "values").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"seal\.json"):
        storage.place(tmp_path, "one")
    assert stubborn.objects == {}


def test_seal_is_removed_first(object_url, tmp_path, monkeypatch):
    for name in ("a", "seal.json"):
        (tmp_path / name).write_bytes(b"x")
    storage = open_objects(*object_url())
    storage.place(tmp_path, "one")
    store = storage._clients._repeating
    removed = []
    monkeypatch.setattr(type(store), "delete", lambda self, names: removed.append(names))
    storage.remove("one")
    assert [str(names).rpartition("/")[2].rstrip("']") for names in removed] == ["seal.json", "a"]


# ------------------------------------------------------------------------------------------------------- processes


def attempt(storage, results):
    try:
        results.put(storage.exists("file"))
    except StoreError as error:
        results.put(str(error))


def in_fork(storage):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=attempt, args=(storage, results), daemon=True)
    process.start()
    process.join(30)
    is_hanging = process.is_alive()
    process.kill()
    assert not is_hanging
    return results.get()


@pytest.mark.processes
def test_process_forked_after_use_is_refused_and_does_not_hang(object_url):
    storage = open_storage(*object_url())
    storage.create("file", b"x")
    assert "Start processes with the spawn method" in in_fork(storage)
    assert storage.read("file") == b"x"


@pytest.mark.processes
def test_storage_opened_in_a_process_forked_after_use_is_refused(object_url):
    url, options = object_url()
    open_storage(url, options).create("file", b"x")

    class Later:
        def exists(self, name):
            return open_storage(url, options).exists(name)

    assert "Start processes with the spawn method" in in_fork(Later())


@pytest.mark.processes
def test_memory_is_not_shared_with_a_forked_process():
    storage = open_storage(next(names_in_memory))
    storage.create("file", b"x")
    assert "belongs to the process that made it" in in_fork(storage)


SCRIPT_FORK = """
import os, signal, sys
from tracestore.storage import open_storage
url, options = {arguments!r}
storage = open_storage(url, options)
for child in range(2):
    if not os.fork():
        signal.alarm(30)
        os._exit(storage.read("file") != b"x")
statuses = [os.wait()[1] for _ in range(2)]
print(statuses, storage.read("file"))
"""
SCRIPT_UNPICKLE = """
import pickle, sys
from tracestore.errors import StoreError
try:
    pickle.loads(bytes.fromhex({data!r}))
except StoreError as error:
    print(error)
"""


def run_fresh(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.processes
def test_processes_forked_before_the_first_use_work(object_url):
    arguments = object_url()
    open_storage(*arguments).create("file", b"x")
    assert run_fresh(SCRIPT_FORK.format(arguments=arguments)) == "[0, 0] b'x'"


@pytest.mark.processes
def test_memory_is_not_shared_with_another_process():
    storage = open_storage(next(names_in_memory))
    data = pickle.dumps(storage).hex()
    assert "belongs to the process that made it" in run_fresh(SCRIPT_UNPICKLE.format(data=data))


def test_name_of_another_process_does_not_stand_for_its_memory():
    url = next(names_in_memory)
    data = pickle.dumps(open_objects(url, {}))
    token = open_objects(url, {})._clients.token
    with pytest.raises(StoreError, match=f"this is another one .number {os.getpid()}"):
        pickle.loads(data.replace(token.encode(), b"0" * len(token)))
