"""The verbs that look after a store, from their words to their exit status."""

import json

import numpy as np
import pytest

from tracestore import TraceStore
from tracestore.cli.words import parse_codec, parse_duration, parse_size


@pytest.fixture(params=["arrow", "zarr"])
def traces(request, run):
    """Two segments of 100 traces."""
    words = ["simulate", "gum", "traces", "--num-traces", 100, "--backend", request.param]
    assert run(*words, "--seed", 1)[0] == 0
    assert run(*words, "--seed", 2, "--append")[0] == 0
    return "traces"


def facts(answer):
    status, output, errors = answer
    assert status == 0, errors
    return json.loads(output)


def damage(path):
    victim = max(path.glob("segments/*/values*"), key=lambda one: one.name)
    victim = victim if victim.is_file() else victim / "c" / "0"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    return victim.relative_to(path).parts[1]


def test_info_tells_backend_and_codecs(run, traces):
    store = TraceStore.open(traces)
    found = facts(run("info", traces, "--json"))
    assert (found["backend"], found["num_segments"], found["num_states"]) == (store.backend, 2, 200)
    assert found["codecs"] == {"obs0": {"none": 2}, "obs1": {"none": 2}}
    assert f"backend {store.backend}" in run("info", traces)[1]


def test_shallow_and_deep_verify(run, traces, tmp_path):
    assert run("verify", traces)[:2] == (0, "traces shows no problem; --deep reads every byte\n")
    assert run("verify", traces, "--deep")[:2] == (0, "traces is intact\n")
    segment = damage(tmp_path / traces)
    assert run("verify", traces)[0] == 0
    status, output, _ = run("verify", traces, "--deep", "--json")
    assert status == 1
    assert segment in json.loads(output)["problems"][0]["path"]


def test_quarantine_then_the_same_simulation_makes_the_traces_again(run, traces, tmp_path):
    before = TraceStore.open(traces).take(range(200), observations=[])
    segment = damage(tmp_path / traces)
    is_first = TraceStore.open(traces).segments[0].id == segment
    found = facts(run("quarantine", traces, segment, "--reason", "a broken disk", "--json"))
    assert (found["num_traces"], found["segment"]) == (100, segment)
    assert "a broken disk" in run("info", traces)[1]
    assert run("verify", traces, "--deep")[0] == 0
    status, _, errors = run("quarantine", traces, segment, "--reason", "again")
    assert status == 1
    assert "has no segment" in errors
    if is_first:
        words = ["simulate", "gum", "traces", "--num-traces", 100, "--seed", 1]
        assert run(*words)[0] == 0
        again = TraceStore.open(traces)
        order = np.argsort(again.column("stream"), kind="stable")
        assert np.array_equal(np.sort(again.take(order).log_prior), np.sort(before.log_prior))


def test_recover_publishes_what_was_sealed(run, traces, tmp_path):
    manifests = tmp_path / traces / "manifests"
    (manifests / "v00000000000000000002.json").unlink()
    (manifests / "LATEST").unlink()
    newest = max((tmp_path / traces / "receipts").iterdir())
    newest.unlink()
    assert facts(run("info", traces, "--json"))["num_traces"] == 100
    status, _, errors = run("gc", traces, "--older-than", "0")
    assert status == 0
    assert "tracestore recover" in errors
    found = facts(run("recover", traces, "--json"))
    assert (len(found["adopted"]), found["num_traces"]) == (1, 200)


def test_compact_then_gc(run, traces):
    found = facts(run("compact", traces, "--json"))
    assert (found["before"], found["num_segments"]) == (2, 1)
    assert len(facts(run("gc", traces, "--older-than", "1h", "--json"))["segments"]) == 0
    planned = facts(run("gc", traces, "--older-than", "0s", "--dry-run", "--json"))
    assert (len(planned["segments"]), planned["nbytes"]) == (2, 0)
    removed = facts(run("gc", traces, "--older-than", "0s", "--json"))
    assert removed["segments"] == planned["segments"]
    assert removed["nbytes"] > 0
    assert run("verify", traces, "--deep")[0] == 0
    status, output, _ = run("info", traces)
    assert (status, "traces        200" in output) == (0, True)


def test_convert_to_the_other_backend_and_back(run, traces):
    other = {"arrow": "zarr", "zarr": "arrow"}[TraceStore.open(traces).backend]
    found = facts(run("convert", traces, "other", "--backend", other, "--codec", "zstd", "--json"))
    assert (found["backend"], found["num_traces"]) == (other, 200)
    assert run("convert", "other", "back", "--backend", TraceStore.open(traces).backend)[0] == 0
    source, back = TraceStore.open(traces), TraceStore.open("back")
    assert np.array_equal(source.take(range(200)).values, back.take(range(200)).values)
    status, _, errors = run("convert", traces, "other", "--backend", other)
    assert status == 1
    assert "another store" in errors


@pytest.mark.parametrize("kind", ["parquet", "hdf5", "awkward"])
def test_export(run, traces, kind):
    pytest.importorskip({"parquet": "pyarrow", "hdf5": "h5py", "awkward": "awkward"}[kind])
    out = f"out.{'h5' if kind == 'hdf5' else 'parquet'}"
    found = facts(run("export", traces, out, "--to", kind, "--json"))
    assert (found["num_traces"], found["nbytes"] > 1000) == (200, True)
    status, _, errors = run("export", traces, out, "--to", kind)
    assert status == 1
    assert "exists" in errors


@pytest.mark.parametrize("verb", ["info", "verify", "recover", "compact"])
def test_scheme_that_is_not_supported_is_refused(run, verb):
    status, _, errors = run(verb, "ftp://host/traces")
    assert status == 1
    assert "memory:// and s3://" in errors


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gc", "traces"], "required: --older-than"),
        (["gc", "traces", "--older-than", "soon"], "must be a duration such as 90, 30m, 12h or 7d; got 'soon'"),
        (["compact", "traces", "--segment-bytes", "0MB"], "must be at least 1 byte; got '0MB'"),
        (["convert", "a", "b", "--backend", "hdf5"], "invalid choice: 'hdf5'"),
        (["export", "a", "b", "--to", "csv"], "invalid choice: 'csv'"),
        (["quarantine", "a", "b"], "required: --reason"),
    ],
)
def test_wrong_words(run, words, complaint):
    status, _, errors = run(*words)
    assert status == 2
    assert complaint in errors


def test_unknown_codec_is_refused(run):
    status, _, errors = run("simulate", "gum", "traces", "--num-traces", 5, "--codec", "gzip")
    assert status == 1
    assert "no codec 'gzip'" in errors


def test_words_for_durations_sizes_and_codecs():
    assert [parse_duration(text) for text in ("1.5h", "0", "2d")] == [5400.0, 0.0, 172800.0]
    assert [parse_size(text) for text in ("3kB", "2MiB", "17")] == [3000, 2**21, 17]
    assert parse_codec("a=lz4,b=zstd") == {"a": "lz4", "b": "zstd"}
