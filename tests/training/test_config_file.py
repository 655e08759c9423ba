"""Configurations as TOML: what is read, what is written, and how everything wrong is told at once."""

import dataclasses

import pytest

pytest.importorskip("torch")

from tracestore.errors import InvalidInputError
from tracestore.networks.config import NETWORKS, NetworkConfig
from tracestore.training import OptimizerConfig, TrainConfig
from tracestore.training.config_file import read_config, to_toml

FULL = """
epochs = 7
learning_rate = 1          # whole numbers are numbers
milestones = [0.25, 0.75]
patience = "none"
device = "cuda:1"

[network]
core = "gru"
head_size = "none"
observation_of = { image = "cnn2d" }

[optimizer]
kind = "sgd"
nesterov = false
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "train.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def problems_of(*arguments):
    with pytest.raises(InvalidInputError) as caught:
        read_config(*arguments)
    return caught.value.fields["problems"]


def test_all_kinds_of_values_are_read(file):
    assert read_config(file(FULL)) == TrainConfig(
        epochs=7,
        learning_rate=1.0,
        milestones=(0.25, 0.75),
        patience=None,
        device="cuda:1",
        network=NetworkConfig(core="gru", head_size=None, observation_of={"image": "cnn2d"}),
        optimizer=OptimizerConfig(kind="sgd", nesterov=False),
    )


def test_whole_numbers_become_floating_point(file):
    assert type(read_config(file(FULL)).learning_rate) is float


def test_without_file_and_settings_there_are_defaults():
    assert read_config() == TrainConfig()


def test_settings_go_before_the_file_and_the_last_one_counts(file):
    settings = ["epochs=8", "network.core=transformer", "epochs = 9", "learning_rate=1e-3", "patience=none"]
    config = read_config(file(FULL), settings)
    assert (config.epochs, config.network.core, config.learning_rate, config.patience) == (9, "transformer", 1e-3, None)
    assert config.network.head_size is None, "the rest of the file is kept"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("device=cuda:0", "cuda:0"), ('device="a=b"', "a=b"), ("device=1\nepochs=3", "1\nepochs=3")],
)
def test_values_that_are_not_toml_are_text(setting, expected):
    config = read_config(overrides=[setting])
    assert (config.device, config.epochs) == (expected, None)


def test_a_setting_reaches_into_a_table_of_names():
    config = read_config(overrides=["network.observation_of.image=cnn3d", "network.observation_of.monitor=mlp"])
    assert config.network.observation_of == {"image": "cnn3d", "monitor": "mlp"}


def test_a_preset_is_where_the_others_depart(file):
    config = read_config(file('[network]\ncore_size = 64\npreset = "paper"\n'), ["network.rows=base"])
    assert config.network == dataclasses.replace(NETWORKS["paper"], core_size=64, rows="base")


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(network=NETWORKS["paper"], epochs=3, milestones=(), average=0.999, learning_rate=1e-20),
        TrainConfig(
            network=NetworkConfig(observation_of={'a "b".c\\ \x7f\n': "mlp", "näme": "cnn2d"}),
            optimizer=OptimizerConfig(kind="adam_larc", epsilon=1e-12),
            patience=None,
            device="cuda:3",
            compile=True,
        ),
    ],
    ids=["defaults", "paper", "odd"],
)
def test_what_is_written_is_read_again(file, config):
    assert read_config(file(to_toml(config))) == config


def test_every_setting_is_written():
    lines = to_toml(TrainConfig()).splitlines()
    count = sum(len(dataclasses.fields(kind)) for kind in (TrainConfig, NetworkConfig, OptimizerConfig)) - 2
    assert sum(" = " in line for line in lines) == count


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("network.core_sise=3", "no setting `network.core_sise`, the closest are `network.core_size`"),
        ("core_size=3", "no setting `core_size`, the closest is `network.core_size`"),
        ("seed_=3", "no setting `seed_`, the closest is `seed`"),
        ("optimiser.kind=adam", "no setting `optimiser`, the closest is `optimizer`"),
        ("zzz=1", "no setting `zzz`; at the top there are learning_rate, "),
        ("network.zzz=1", "no setting `network.zzz`; in the table network there are core, "),
        ("modules=1", "`modules` of your own cannot come from a file; train from Python"),
        ("network.preset=papers", "`network.preset` must be one of 'light', 'paper'; got 'papers'"),
        ("epochs=many", "`epochs` must be a whole number or \"none\"; got 'many'"),
        ("epochs=1.5", '`epochs` must be a whole number or "none"; got 1.5'),
        ("compile=1", "`compile` must be true or false; got 1"),
        ("learning_rate=true", "`learning_rate` must be a number; got True"),
        ("learning_rate=none", "`learning_rate` must be a number; got 'none'"),
        ("milestones=[0.5, 'x']", "`milestones` must be a list of numbers"),
        ("network.observation_of={image=1}", "`network.observation_of` must be a table of words"),
        ("network=paper", "`network` must be a table of settings; got 'paper'"),
        ("network.core=rnn", "`network.core` must be one of 'lstm', 'gru'"),
        ("optimizer.kind=rms", "`optimizer.kind` must be one of 'adam'"),
        ("learning_rate=-1", "`learning_rate` must be positive; got -1.0"),
        ("epochs", "a setting is NAME=VALUE, such as network.core=gru; got 'epochs'"),
        ("=3", "a setting is NAME=VALUE"),
        ("seed.of=3", "`seed` must be a whole number; got {'of': 3}"),
    ],
)
def test_what_is_wrong_is_one_sentence(setting, words):
    (problem,) = problems_of(None, [setting])
    assert words in problem


def test_a_setting_inside_something_else_than_a_table_is_refused(file):
    (problem,) = problems_of(file("seed = 1"), ["seed.of=3"])
    assert problem == "`seed.of` cannot be set, because seed is no table"


def test_all_problems_are_told_at_once(file):
    text = "epoch = 3\nseed = -1\n[network]\ncore = 'rnn'\ncore_size = 'big'\n[optimizer]\nbeta1 = 2\n"
    found = problems_of(file(text), ["batchsize=3"])
    assert [problem.split("`")[1] for problem in found] == [
        "epoch",
        "network.core_size",
        "network.core",
        "optimizer.beta1",
        "batchsize",
        "seed",
    ]


def test_the_message_names_the_file(file):
    path = file("epoch = 3")
    with pytest.raises(InvalidInputError, match=r"train.toml' is not valid: there is no setting `epoch`"):
        read_config(path)


def test_files_that_are_not_toml_or_not_there_are_refused(file, tmp_path):
    with pytest.raises(InvalidInputError, match=r"train.toml' is not TOML: .*line 1"):
        read_config(file("epochs: 3"))
    with pytest.raises(InvalidInputError, match=r"absent.toml' cannot be read: No such file"):
        read_config(tmp_path / "absent.toml")
