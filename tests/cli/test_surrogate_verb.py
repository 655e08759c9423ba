"""The verb that trains a surrogate: its words, what it prints, what it refuses."""

import pytest

pytest.importorskip("torch")

from tests.training.surrogate_programs import make_store
from tracestore.surrogates import load_surrogate

SMALL = [
    "--set", "surrogate.gan.generator_channels=[2,2,2]", "--set", "surrogate.gan.discriminator_channels=[2,2,2]",
    "--set", "surrogate.gan.latent_size=4", "--model", "gan", "--batch-size", 32,
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(make_store(tmp_path_factory.mktemp("s") / "store").storage.url)


def test_a_surrogate_is_trained_and_said_so(run, store, tmp_path):
    status, output, errors = run("surrogate", store, tmp_path / "n", *SMALL, "--epochs", 1, "--seed", 3)
    assert status == 0, errors
    assert f"surrogate (gan) trained on {store}" in output
    assert "shower of 8 x 8 x 8 cells, for energy 1" in output
    assert "failed ones left out" in output
    assert "waiting for data" in output
    assert load_surrogate(tmp_path / "n").job.fields["config.seed"] == 3


def test_training_goes_on_from_another_surrogate(run, store, tmp_path):
    assert run("surrogate", store, tmp_path / "a", *SMALL, "--epochs", 1)[0] == 0
    status, _, errors = run("surrogate", store, tmp_path / "b", "--start", tmp_path / "a", "--epochs", 1)
    assert status == 0, errors
    found = load_surrogate(tmp_path / "b")
    assert found.config == load_surrogate(tmp_path / "a").config
    assert found.job.fields["start"]


def test_a_start_of_another_model_than_is_asked_for_is_refused(run, store, tmp_path):
    assert run("surrogate", store, tmp_path / "a", *SMALL, "--epochs", 1)[0] == 0
    status, _, errors = run("surrogate", store, tmp_path / "b", "--start", tmp_path / "a", "--model", "flow")
    assert status == 1
    assert "is a 'gan', and a training that starts from it cannot be a 'flow'" in errors


def test_the_model_decides_the_settings_that_are_left_open(run, store, tmp_path):
    status, gan, errors = run("surrogate", store, tmp_path / "n", "--model", "gan", "--print-config")
    assert status == 0, errors
    assert 'labels = ["energy"]' in gan
    assert "beta1 = 0.5" in gan
    (tmp_path / "c.toml").write_text('epochs = 7\n[surrogate]\nmodel = "gan"\n')
    _, from_file, _ = run("surrogate", store, tmp_path / "n", "--config", tmp_path / "c.toml", "--print-config")
    assert "beta1 = 0.5" in from_file
    assert "epochs = 7" in from_file
    _, flow, _ = run("surrogate", store, tmp_path / "n", "--print-config", "--seconds", "2m")
    assert "beta1 = 0.9" in flow
    assert "seconds = 120" in flow


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--labels", "energy,angle"], "has no 'angle' to condition images on; its draws and tags are 'energy'"),
        (["--observation", "image"], "has no observation 'image'; it has 'shower'"),
        (["--start", "nowhere"], "There is no surrogate at nowhere"),
        (["--epochs", 2, "--seconds", 5], "`seconds` and `epochs` exclude each other"),
        (["--set", "surrogate.flow.num_stps=3"], "the closest are `surrogate.flow.num_steps`"),
    ],
    ids=["labels", "observation", "start", "time", "setting"],
)
def test_what_cannot_be_trained_is_refused(run, store, tmp_path, words, complaint):
    status, _, errors = run("surrogate", store, tmp_path / "n", *words)
    assert status == 1
    assert complaint in errors
    assert not (tmp_path / "n").exists()
