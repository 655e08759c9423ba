"""Profiles of small programs: which share is the largest, what is counted, what is refused, what stays behind."""

import json
import re
import tempfile
import time
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import tracestore as ts
from tracestore.errors import InvalidInputError, SimulatorError
from tracestore.profiling import profile
from tracestore.simulators.toys import gum


def sleeper():
    x = ts.sample(ts.Normal(0.0, 1.0), name="x")
    time.sleep(0.01)
    ts.observe(ts.Normal(x, 1.0), name="y")


def chatty():
    for _ in range(200):
        ts.sample(ts.Normal(0.0, 1.0))


@ts.hijack("numpy")
def rerouted():
    rng = np.random.default_rng(1)
    return sum(rng.normal() for _ in range(100))


@ts.batched_simulator
def sorter(n):
    values = ts.sample(ts.Normal(0.0, 1.0), name="x")
    for _ in range(30):
        np.sort(np.tile(values, 20))


@pytest.fixture(scope="module")
def slept():
    return profile(sleeper, num_traces=20)


@pytest.mark.parametrize(
    ("program", "num_traces", "largest"),
    [(sorter, 4000, "simulator"), (rerouted, 200, "hook"), (chatty, 60, "recording")],
    ids=["sorter", "rerouted", "chatty"],
)
def test_largest_share_is_where_the_work_is(program, num_traces, largest):
    shares = profile(program, num_traces=num_traces).shares
    inside = {name: share.share for name, share in shares.items() if name not in ("writing", "engine")}
    assert max(inside, key=inside.__getitem__) == largest


def test_program_that_sleeps_is_mostly_program(slept):
    inside = {name: share.share for name, share in slept.shares.items() if name != "writing"}
    assert max(inside, key=inside.__getitem__) == "simulator"


def test_slowest_line_is_the_sleep(slept):
    line = slept.lines[0]
    assert (line.text, line.line) == ("time.sleep(0.01)", sleeper.__code__.co_firstlineno + 2)


def test_counters_are_exact(slept):
    assert (slept.num_traces, slept.num_failed, slept.num_draws, slept.num_sites) == (20, 0, 20, 40)
    assert slept.counts == {"sleeper:x~Normal": 20, 'sleeper:ts.observe(ts.Normal(x,1.0),name="y")~Normal': 20}
    assert slept.num_bytes > 0


def test_intervals_hold_their_shares(slept):
    assert all(0.0 <= share.low <= share.share <= share.high <= 1.0 for share in slept.shares.values())
    assert sum(share.share for share in slept.shares.values()) == pytest.approx(1.0)


def test_what_called_the_profiler_is_cut_off(slept):
    modules = {sample.frames[0].module for sample in slept.samples if sample.frames}
    assert not [module for module in modules if module.startswith(("tests", "_pytest", "tracestore.profiling"))]


def test_time_of_a_draw_goes_to_its_address():
    def two():
        ts.sample(ts.Normal(0.0, 1.0), name="small")
        ts.sample(ts.Normal(np.zeros(20_000), 1.0), name="large", address="large")

    draws = profile(two, num_traces=40).draws
    assert draws[0].address == "large~Normal[20000]"


def test_table_names_what_was_found(slept):
    table = slept.table()
    for words in ("sleeper: 20 traces, 1 draws and 2 sites a trace", "simulator", "the program alone", "time.sleep"):
        assert words in table


def test_flame_graph_is_one_xml_element_with_the_program_in_it(slept):
    root = ET.fromstring(slept.flame_graph())
    titles = [element.text or "" for element in root.iter() if element.tag == "title"]
    assert any(re.search(r":sleeper\n.*\nsimulator; ", title) for title in titles)


def test_page_opens_offline(slept, tmp_path):
    page = slept.write(tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=[\"']http", page)
    for heading in ("Shares", "Whole timings", "Flame graph", "Slowest lines", "Draws by address"):
        assert f"<h2>{heading}" in page


def test_numbers_are_json(slept):
    found = json.loads(json.dumps(slept.to_dict(), allow_nan=False))
    assert found["shares"]["simulator"]["num_samples"] > 0
    assert found["timings"]["plain_seconds"] > 0.0


def test_failures_are_counted_and_the_rest_is_profiled():
    def often():
        if ts.sample(ts.Uniform(0.0, 1.0), name="u") < 0.5:
            raise ValueError("too small")

    found = profile(often, num_traces=60, seed=1)
    assert 0 < found.num_failed < 60
    assert "of them" in found.table()


def test_program_that_always_fails_is_refused_with_its_failure():
    def broken():
        raise RuntimeError("no beam")

    with pytest.raises(
        SimulatorError, match=r"All 16 traces of .*broken failed, most often with 'RuntimeError: no beam'"
    ):
        profile(broken, num_traces=40)


def test_program_that_needs_a_recording_is_profiled_without_the_plain_timing():
    from tracestore.simulators.runtime import current_recorder

    def picky():
        if current_recorder() is None:
            raise RuntimeError("nobody records")
        ts.sample(ts.Normal(0.0, 1.0))

    found = profile(picky, num_traces=20)
    assert found.timings.plain_seconds is None
    assert "does not run without recording: RuntimeError: nobody records" in found.table()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_traces": 0}, "`num_traces` must be at least 1; got 0"),
        ({"seconds": 0.0}, "`seconds` must be a positive number; got 0.0"),
        ({"seconds": 1.0, "num_traces": 5}, "not both"),
        ({"num_traces": 5, "threads": []}, "numbers of threads from 1"),
        ({"num_traces": 5, "observations": {"obs0": 1.0}}, "`observations` needs `network`"),
    ],
    ids=["no-traces", "no-seconds", "both", "no-threads", "no-network"],
)
def test_arguments_out_of_range_are_refused(options, complaint):
    with pytest.raises(InvalidInputError, match=re.escape(complaint)):
        profile(gum, **options)


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt], ids=["end", "interrupted"])
def test_no_store_stays_behind(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[float] = []

    def watched():
        seen.extend(path.name for path in tmp_path.iterdir())
        if stop is not None and len(seen) > 100:
            raise stop
        ts.sample(ts.Normal(0.0, 1.0))

    if stop is None:
        profile(watched, num_traces=30)
    else:
        with pytest.raises(stop):
            profile(watched, num_traces=30)
    assert seen
    assert list(tmp_path.iterdir()) == []


def test_network_has_a_share(tmp_path):
    pytest.importorskip("torch")
    from tracestore.training import TrainConfig, train

    store = ts.simulate(gum, tmp_path / "traces", num_traces=100, seed=1)
    network = train(store, tmp_path / "network", config=TrainConfig(epochs=1, batch_size=50, seed=1))
    found = profile(gum, num_traces=100, network=network, observations={"obs0": 8.0, "obs1": 9.0})
    assert found.has_network
    assert found.shares["network"].share > 0.0
