"""Scalars for TensorBoard: what a step becomes, and one curve after any interruption."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tracestore.events import Event, PhaseAdvanced, PhaseFinished, PhaseStarted
from tracestore.training.tensorboard import HistoryToTensorBoard, TensorBoardWriter

ADVANCED = PhaseAdvanced("train", 1, 2)


def line(step, *, loss=None, validation=None):
    return {
        "step": step,
        "num_traces": 64 * step,
        "loss": 4.0 - step / 8 if loss is None else loss,
        "validation_loss": validation,
        "learning_rate": 0.25,
        "gradient_norm": 2.0,
        "times": {"read": 0.25, "forward": 0.5, "backward": 0.75, "optimize": 0.25, "sync": 0.25},
        "reduced_bytes": 100,
        "dense_bytes": 400,
    }


def scalars(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


class Folder:
    """A network's folder whose history grows."""

    def __init__(self, path):
        self.path = path
        self.file = path / "history.jsonl"

    def history(self, *lines, rest=""):
        self.file.write_text("".join(json.dumps(one) + "\n" for one in lines) + rest)

    @property
    def scalars(self):
        return scalars(self.path / "tensorboard")

    @property
    def losses(self):
        return self.scalars["loss/training"]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_a_step_becomes_scalars(tmp_path):
    with TensorBoardWriter(tmp_path / "events") as writer:
        writer.write(line(1))
        writer.write(line(2, validation=3.0))
    found = scalars(tmp_path / "events")
    assert found.pop("loss/validation") == [(2, 3.0)]
    assert {name: values[1] for name, values in found.items()} == {
        "loss/training": (2, 3.75),
        "learning_rate": (2, 0.25),
        "gradient_norm": (2, 2.0),
        "speed/traces_per_second": (2, 32.0),
        "speed/share_waiting_for_data": (2, 0.125),
        "speed/share_waiting_for_ranks": (2, 0.125),
        "bytes/reduced": (2, 100.0),
        "bytes/dense": (2, 400.0),
    }


def test_a_skipped_step_has_no_loss(tmp_path):
    skipped = {**line(1), "loss": None, "gradient_norm": None, "bad_traces": [3]}
    with TensorBoardWriter(tmp_path / "events") as writer:
        writer.write(skipped)
    assert not {"loss/training", "gradient_norm"} & set(scalars(tmp_path / "events"))


def test_history_is_carried_as_it_grows(folder):
    events: list[Event] = []
    with HistoryToTensorBoard(folder.path, events.append) as observer:
        observer(PhaseStarted("train", 2))
        folder.history(line(1), line(2), rest='{"step"')
        observer(ADVANCED)
        assert [step for step, _ in folder.losses] == [1, 2], "at once, without the line that is being written"
        folder.history(line(1), line(2), line(3))
        observer(PhaseFinished("train", 1.0))
    assert folder.losses == [(1, 3.875), (2, 3.75), (3, 3.625)]
    assert [type(event) for event in events] == [PhaseStarted, PhaseAdvanced, PhaseFinished]


def test_a_training_that_goes_on_has_one_curve(folder):
    folder.history(*map(line, range(1, 6)))
    with HistoryToTensorBoard(folder.path) as observer:
        observer(ADVANCED)
    # killed after step 5, the training goes on from its checkpoint of step 3
    folder.history(*map(line, range(1, 4)))
    with HistoryToTensorBoard(folder.path) as observer:
        observer(PhaseStarted("train", 7))
        observer(ADVANCED)
        folder.history(*map(line, range(1, 4)), *(line(step, loss=9.0) for step in (4, 5, 6)))
        observer(ADVANCED)
    assert folder.losses == [(1, 3.875), (2, 3.75), (3, 3.625), (4, 9.0), (5, 9.0), (6, 9.0)]


def test_steps_are_written_once(folder):
    for _ in range(2):
        folder.history(line(1), line(2))
        with HistoryToTensorBoard(folder.path) as observer:
            observer(ADVANCED)
    assert len(list((folder.path / "tensorboard").glob("events.*"))) == 1


def test_the_first_new_step_of_a_later_call_has_its_own_speed(folder):
    for last in (2, 3):
        folder.history(*map(line, range(1, last + 1)))
        with HistoryToTensorBoard(folder.path) as observer:
            observer(ADVANCED)
    assert folder.scalars["speed/traces_per_second"] == [(1, 32.0), (2, 32.0), (3, 32.0)]


def test_a_finished_training_is_carried_without_events(folder):
    folder.history(line(1), line(2))
    with HistoryToTensorBoard(folder.path):
        pass
    assert len(folder.losses) == 2


def test_a_refused_training_leaves_the_folder_alone(folder):
    folder.history(line(1))
    with pytest.raises(ValueError, match="another job"), HistoryToTensorBoard(folder.path):
        raise ValueError("another job")
    assert [entry.name for entry in folder.path.iterdir()] == ["history.jsonl"]
