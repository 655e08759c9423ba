import json

import numpy as np
import pytest

pytest.importorskip("torch")
from safetensors.torch import load_file, save_file

from tests.surrogates.test_surrogate import fitted
from tracestore.errors import CheckpointMismatchError, StoreNotFoundError
from tracestore.store.job import Job
from tracestore.surrogates import load_surrogate


@pytest.fixture
def folder(tmp_path):
    surrogate = fitted(("energy", "angle"))
    surrogate.summary = {"score": 0.5}
    surrogate.job = Job("train-surrogate", {"store": "showers"})
    surrogate.save(tmp_path / "surrogate")
    return tmp_path / "surrogate"


def test_a_surrogate_survives_the_disk(folder):
    expected, found = fitted(("energy", "angle")), load_surrogate(folder)
    assert found.labels == ("energy", "angle")
    assert found.observation == "shower"
    assert found.label_ranges == expected.label_ranges
    assert found.config == expected.config
    assert found.summary == {"score": 0.5}
    assert found.job == Job("train-surrogate", {"store": "showers"})
    labels = [[20.0, 30.0], [40.0, 12.0]]
    np.testing.assert_array_equal(found.generate(labels, seed=1), expected.generate(labels, seed=1))


def test_an_absent_surrogate_is_named(tmp_path):
    with pytest.raises(StoreNotFoundError, match="There is no surrogate at"):
        load_surrogate(tmp_path / "nothing")


def test_an_unfinished_training_says_how_to_finish(folder):
    (folder / "surrogate.json").rename(folder / "job.json")
    with pytest.raises(StoreNotFoundError, match="has not finished; run the same training again"):
        load_surrogate(folder)


def test_another_version_is_refused(folder):
    record = json.loads((folder / "surrogate.json").read_text())
    (folder / "surrogate.json").write_text(json.dumps({**record, "version": 9}))
    with pytest.raises(CheckpointMismatchError, match="has version 9; this release reads version 1"):
        load_surrogate(folder)


@pytest.mark.parametrize("key", ["config", "labels", "label_ranges", "shape", "job"])
def test_a_damaged_record_is_refused(folder, key):
    record = json.loads((folder / "surrogate.json").read_text())
    (folder / "surrogate.json").write_text(json.dumps({**record, key: 3}))
    with pytest.raises(CheckpointMismatchError, match=r"surrogate\.json is damaged"):
        load_surrogate(folder)


def test_cut_weights_are_refused(folder):
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointMismatchError, match="cannot be read"):
        load_surrogate(folder)


def test_weights_of_another_surrogate_are_refused(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["other"] = weights.pop("generator.grid.bias")
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"generator\.grid\.bias is missing; other is not part"):
        load_surrogate(folder)


def test_weights_with_a_changed_bit_are_refused(folder):
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(CheckpointMismatchError, match="are not those that were written"):
        load_surrogate(folder)


def test_a_record_without_a_digest_of_the_weights_is_read(folder):
    record = json.loads((folder / "surrogate.json").read_text())
    del record["weights"]
    (folder / "surrogate.json").write_text(json.dumps(record))
    assert load_surrogate(folder).labels == ("energy", "angle")


def test_weights_that_are_not_finite_are_refused(folder):
    weights = load_file(folder / "weights.safetensors")
    weights["generator.grid.bias"][0] = float("nan")
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"generator\.grid\.bias has values that are not finite"):
        load_surrogate(folder)
