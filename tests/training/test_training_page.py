"""The numbers and the page of a training: what ranks did, with or without a finished network, never half written."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import tracestore as ts
from tests.networks.family_programs import TINY, every_family
from tracestore.errors import StoreNotFoundError
from tracestore.simulators import Simulator
from tracestore.training import TrainConfig, train
from tracestore.training.curves import PARTS, binned, read_curves, smoothed
from tracestore.training.training_page import write_training_page
from tracestore.training.training_plots import MOST_RANKS, draw_loss, draw_parts

SIZES = {"read": 0.25, "forward": 1.0, "backward": 1.5, "optimize": 0.25, "sync": 0.5}


def line(step, *, times=SIZES, loss=None, validation=None, reduced=1000):
    return {
        "step": step,
        "num_traces": 32 * step,
        "loss": 8.0 / step if loss is None else loss,
        "validation_loss": validation,
        "learning_rate": 0.01,
        "gradient_norm": 2.0,
        "seconds": 4.0 * step,
        "times": times,
        "reduced_bytes": reduced,
        "dense_bytes": 4 * reduced,
    }


def slower(factor):
    return {name: factor * seconds for name, seconds in SIZES.items()}


def write_history(folder, *ranks):
    """One list of lines for each rank."""
    (folder / "ranks").mkdir(parents=True)
    for rank, lines in enumerate(ranks):
        path = folder / "ranks" / f"rank-{rank:05d}.jsonl" if rank else folder / "history.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    (folder / "config.json").write_text(json.dumps(TrainConfig(batch_size=32, epochs=2).to_dict()))
    (folder / "job.json").write_text(json.dumps({"verb": "train", "fields": {"simulator": "a <b>"}}))


@pytest.fixture
def many(tmp_path):
    """A training on three ranks that has no checkpoint yet."""
    folder = tmp_path / "many"
    # the slowest rank changes from step to step; the first of 40 steps is on 1, the second on 2
    ranks = [
        [line(step, times=slower(3.0 if step % 2 == rank % 2 and rank else 1.0)) for step in range(1, 41)]
        for rank in range(3)
    ]
    ranks[0][-1]["validation_loss"] = 0.5
    write_history(folder, *ranks)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    store = ts.simulate(Simulator(every_family, name="every_family"), folder / "store", num_traces=120, seed=1)
    train(store, folder / "network", config=TrainConfig(network=TINY, epochs=2, batch_size=16))
    return folder / "network"


class Outline(HTMLParser):
    """Checks that tags are closed in order, and keeps the text."""

    VOID = ("meta", "path", "use", "image", "rect", "br", "link", "stop")

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str | None] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


# -------------------------------------------------------------------------------------------------------- numbers


def test_actual_time_is_that_of_the_slowest_rank_and_best_time_that_of_the_mean(many):
    balance = read_curves(many).balance
    # a step has 3 busy seconds; one rank of three, another one each time, needs 9
    np.testing.assert_allclose(balance.slowest, 9.0)
    np.testing.assert_allclose(balance.mean, 5.0)
    assert balance.imbalance == pytest.approx(1.8)


def test_seconds_of_parts_are_added_up_for_each_rank(many):
    balance = read_curves(many).balance
    first = 40 * np.array([SIZES[part] for part in PARTS])
    np.testing.assert_allclose(balance.part_seconds, [first, 2 * first, 2 * first])


def test_steps_that_a_rank_lacks_do_not_count_for_the_balance(tmp_path):
    write_history(tmp_path / "n", [line(step) for step in range(1, 9)], [line(step) for step in range(5, 12)])
    balance = read_curves(tmp_path / "n").balance
    assert balance.num_traces.tolist() == [160, 192, 224, 256]


def test_a_skipped_step_has_no_loss(tmp_path):
    skipped = {**line(2), "loss": None, "gradient_norm": None, "bad_traces": [7]}
    write_history(tmp_path / "n", [line(1), skipped, line(3)])
    curves = read_curves(tmp_path / "n")
    assert curves.num_skipped == 1
    assert np.isnan(curves.loss).tolist() == [False, True, False]
    assert "<svg" in draw_loss(curves)


def test_smoothing_forgets_what_is_long_ago():
    values = np.concatenate([np.full(100, 5.0), np.full(100, 1.0)])
    found = smoothed(values, 10.0)
    assert found[[0, 99]].tolist() == pytest.approx([5.0, 5.0])
    assert found[-1] == pytest.approx(1.0, abs=1e-3)


def test_bins_keep_the_mean_and_the_ends():
    places, values = np.arange(1.0, 1001.0), np.random.default_rng(1).normal(size=1000)
    place, low, mean, high = binned(places, values, 10)
    assert place.tolist() == list(range(100, 1001, 100))
    np.testing.assert_allclose(mean, values.reshape(10, 100).mean(axis=1))
    assert (low < mean).all()
    assert (mean < high).all()


def test_no_history_is_an_error(tmp_path):
    with pytest.raises(StoreNotFoundError, match="There is no training at"):
        write_training_page(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# ----------------------------------------------------------------------------------------------------------- page


@pytest.mark.parametrize("name", ["many", "finished"])
def test_page_is_well_formed_and_needs_nothing_from_elsewhere(request, tmp_path, name):
    path = write_training_page(request.getfixturevalue(name), tmp_path / "page.html", title="Training of <it>")
    text = path.read_text("utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert "<it>" not in text
    assert "<b>" not in text
    assert all(link and link.startswith(("#", "data:")) for link in outline.links)
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text


def test_page_of_several_ranks_tells_balance_and_bytes(many, tmp_path):
    text = Outline(write_training_page(many, tmp_path / "page.html").read_text("utf-8")).text
    assert "1,280 traces trained on, in 40 steps on 3 ranks; simulator a <b>" in text
    assert "360.0 s in all. With all ranks alike it would be 200.0 s; the imbalance is 1.800." in text
    assert "A step summed 1 kB a rank instead of 4 kB: 1/4.0." in text
    assert "The training is not finished" in text


def test_page_of_a_finished_network_tells_its_numbers(finished, tmp_path):
    record = json.loads((finished / "network.json").read_text())
    summary = record["summary"]
    text = Outline(write_training_page(finished, tmp_path / "page.html").read_text("utf-8")).text
    assert "not finished" not in text
    assert f"validation loss {summary['validation_loss']:.4f}" in text
    assert f"addresses at the prior {summary['num_seen'] - summary['num_proposing']:,}" in text
    assert "Actual and best time" not in text, "there is one rank"


def test_parameters_of_the_parts_add_up_to_those_of_the_network(finished, tmp_path):
    summary = json.loads((finished / "network.json").read_text())["summary"]
    text = write_training_page(finished, tmp_path / "page.html").read_text("utf-8")
    table = text[text.index("<h3>Parameters</h3>") :].split("</table>")[0]
    *parts, total = (int(number.replace(",", "")) for number in re.findall(r"<td>([\d,]+)</td>", table))
    assert sum(parts) == total == summary["num_parameters"]


def test_addresses_are_counted_by_family(finished, tmp_path):
    rows = json.loads((finished / "network.json").read_text())["rows"]
    text = write_training_page(finished, tmp_path / "page.html").read_text("utf-8")
    table = text[text.index("<h3>Addresses</h3>") :].split("</table>")[0]
    found = re.findall(r'<th scope="row">(\w+)</th><td>(\d+)</td><td>(\d+)</td><td>(\d+)</td>', table)
    assert sum(int(count) for _, count, _, _ in found) == len(rows)
    assert all(int(count) == int(on) + int(off) for _, count, on, off in found)
    assert {family for family, *_ in found} == {row["family"] for row in rows}


def test_page_is_the_same_for_the_same_training(finished, tmp_path):
    first, second = (write_training_page(finished, tmp_path / name, title="t").read_text() for name in ("a", "b"))
    assert first == second


def test_page_of_very_many_steps_stays_small(tmp_path):
    write_history(tmp_path / "n", [line(step) for step in range(1, 20_001)])
    path = write_training_page(tmp_path / "n", tmp_path / "page.html")
    assert path.stat().st_size < 400_000


def test_many_ranks_get_the_bars_that_fit(tmp_path):
    write_history(tmp_path / "n", *([line(1)] for _ in range(100)))
    svg = draw_parts(read_curves(tmp_path / "n").balance)
    assert svg.count(">rank ") == MOST_RANKS
    assert ">rank 0<" in svg
    assert ">rank 99<" in svg
