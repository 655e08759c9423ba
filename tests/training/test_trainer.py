"""The training step: parts of a minibatch, precision, averages, and what happens to a loss that is not finite."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import tracestore as ts
from tests.networks.family_programs import TINY, every_family, prior_batch
from tracestore.errors import NonFiniteLossError
from tracestore.networks import ProposalNetwork
from tracestore.samplers.tensor_batch import TensorBatch
from tracestore.training import TrainConfig, Trainer
from tracestore.training.communicator import SoleProcess
from tracestore.training.optimizers import OptimizerConfig
from tracestore.training.trainer import MOST_SKIPPED

CONFIG = TrainConfig(network=TINY, batch_size=32, warmup_fraction=0.0)


@pytest.fixture(scope="module")
def traces():
    return prior_batch(every_family, 48)


def tensors(traces, rows):
    return TensorBatch.from_batch(traces.take(rows), np.asarray(rows) + 100)


def make_trainer(**settings):
    config = dataclasses.replace(CONFIG, **settings)
    return Trainer(ProposalNetwork({"y": (), "v": (3,)}, config.network), config, num_steps=50)


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def test_a_minibatch_in_parts_is_the_minibatch(traces):
    whole, parts = make_trainer(), make_trainer()
    for trainer in (whole, parts):
        trainer.network.grow(trainer.network.unknown_sites(tensors(traces, range(48))))
    for _ in range(3):
        one = whole.train_step(tensors(traces, range(48)))
        two = parts.train_step(*(tensors(traces, rows) for rows in (range(5), range(5, 40), range(40, 48))))
        assert (one.num_traces, two.num_traces) == (48, 48)
        assert two.loss == pytest.approx(one.loss, rel=1e-6)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_the_loss_is_the_mean_over_traces(traces):
    trainer = make_trainer()
    batch = tensors(traces, range(20))
    trainer.network.grow(trainer.network.unknown_sites(batch))
    expected = trainer.validate([tensors(traces, range(7)), tensors(traces, range(7, 20))])
    assert trainer.train_step(batch).loss == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_clipped_as_that_of_the_mean(traces):
    free, clipped = make_trainer(), make_trainer(max_gradient_norm=1e-3)
    norms = []
    for trainer in (free, clipped):
        trainer.optimizer.step = lambda rate: None
        record = trainer.train_step(tensors(traces, range(20)))
        gradients = [
            p.grad.to_dense() if p.grad.is_sparse else p.grad
            for p in trainer.network.parameters()
            if p.grad is not None
        ]
        norms.append((record.gradient_norm, float(torch.cat([gradient.flatten() for gradient in gradients]).norm())))
    assert norms[0][0] == norms[1][0] > 1e-3
    assert norms[0][1] == pytest.approx(norms[0][0], rel=1e-5)
    assert norms[1][1] == pytest.approx(1e-3, rel=1e-5)


def test_bfloat16_learns_nearly_the_same(traces):
    exact, rounded = make_trainer(), make_trainer(precision="bfloat16")
    for _ in range(10):
        one, two = exact.train_step(tensors(traces, range(48))), rounded.train_step(tensors(traces, range(48)))
    assert two.loss != one.loss
    assert two.loss == pytest.approx(one.loss, rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in rounded.network.parameters())


@pytest.mark.parametrize("kind", ["sgd", "adam_larc", "sgd_larc"])
def test_every_optimizer_lowers_the_loss(traces, kind):
    trainer = make_trainer(optimizer=OptimizerConfig(kind=kind), learning_rate=0.02)
    losses = [trainer.train_step(tensors(traces, range(48))).loss for _ in range(15)]
    assert losses[-1] < losses[0] - 0.05


def test_averaged_weights_are_what_is_validated(traces):
    trainer = make_trainer(average=0.9)
    for _ in range(5):
        trainer.train_step(tensors(traces, range(48)))
    before = weights(trainer)
    with trainer.evaluated() as network:
        averaged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert not network.training
    assert any(not torch.equal(averaged[name], before[name]) for name in before)
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, before[name]), name
    plain = make_trainer()
    plain.network = trainer.network
    assert trainer.validate([tensors(traces, range(48))]) != plain.validate([tensors(traces, range(48))])


def spoiled(traces, rows, *bad):
    batch = tensors(traces, rows)
    for place in bad:
        batch.observations["y"][place] = float("inf")
    return batch


def test_a_bad_loss_leaves_the_network_alone_and_names_traces_of_all_parts(traces):
    trainer = make_trainer()
    trainer.train_step(tensors(traces, range(48)))
    before = weights(trainer)
    with pytest.raises(NonFiniteLossError, match="loss of step 2 is not finite; traces 107 of the store"):
        trainer.train_step(tensors(traces, range(5)), spoiled(traces, range(5, 20), 2), tensors(traces, range(20, 30)))
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, before[name]), name


def test_bad_steps_may_be_skipped_but_not_forever(traces):
    trainer = make_trainer(bad_loss="skip")
    trainer.train_step(tensors(traces, range(48)))
    before = weights(trainer)
    for count in range(MOST_SKIPPED):
        record = trainer.train_step(spoiled(traces, range(30), 3, 9))
        assert (record.is_skipped, record.bad_traces, record.step) == (True, (103, 109), count + 2)
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, before[name]), name
    with pytest.raises(NonFiniteLossError, match="traces 103, 109"):
        trainer.train_step(spoiled(traces, range(30), 3, 9))


def test_a_good_step_in_between_counts_anew(traces):
    trainer = make_trainer(bad_loss="skip")
    for _ in range(3):
        for _ in range(MOST_SKIPPED // 2):
            trainer.train_step(spoiled(traces, range(30), 3))
        assert not trainer.train_step(tensors(traces, range(48))).is_skipped


def test_rows_that_a_step_does_not_touch_stay_as_they_are():
    def program():
        x = ts.sample(ts.Normal(0.0, 1.0), name="x")
        if x > 0.0:
            ts.sample(ts.Uniform(0.0, 1.0), name="up")
        else:
            ts.sample(ts.Uniform(0.0, 1.0), name="down")
        ts.observe(ts.Normal(x, 1.0), name="y")

    traces = prior_batch(program, 60)
    trainer = Trainer(ProposalNetwork({"y": ()}, TINY), CONFIG, num_steps=50)
    everything = TensorBatch.from_batch(traces, np.arange(60))
    trainer.train_step(everything)
    sites = {site.name: site for trace in traces for site in trace.sites}
    up = trainer.network.vocabulary.find(sites["up"])
    before = weights(trainer)
    positive = [index for index in range(60) if traces[index]["x"] > 0.0]
    trainer.train_step(tensors(traces, positive))
    after = weights(trainer)
    for name, tensor in after.items():
        if name.startswith("heads.Uniform.") and tensor.dim() == 2:
            changed = (tensor != before[name]).any(dim=1).tolist()
            assert changed == [trainer.network.vocabulary.rows[up].head_row == row for row in range(2)], name


def test_validation_without_a_finite_loss_stops_or_is_left_out(traces):
    batches = [tensors(traces, range(20)), spoiled(traces, range(20, 40), 3)]
    good = [tensors(traces, range(20)), tensors(traces, [index for index in range(20, 40) if index != 23])]
    stopping, skipping = make_trainer(), make_trainer(bad_loss="skip")
    for trainer in (stopping, skipping):
        trainer.train_step(tensors(traces, range(48)))
    with pytest.raises(NonFiniteLossError, match="validation loss after step 1 is not finite; traces 123 of the store"):
        stopping.validate(batches)
    assert skipping.validate(batches) == pytest.approx(stopping.validate(good), rel=1e-6)
    with pytest.raises(NonFiniteLossError, match="traces 103"):
        skipping.validate([spoiled(traces, [3], 0)])


def test_a_step_without_traces_changes_nothing(traces):
    trainer = make_trainer()
    trainer.train_step(tensors(traces, range(48)))
    before = weights(trainer)
    for batches in ((), (tensors(traces, []),)):
        record = trainer.train_step(*batches)
        assert (record.num_traces, record.is_skipped) == (0, False)
        assert math.isnan(record.loss)
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, before[name]), name


def test_addresses_are_hidden_while_training_and_by_the_number_of_the_step(traces):
    config = dataclasses.replace(TINY, address_dropout=0.5)
    first, second, later = (
        make_trainer(network=config, learning_rate=1e-12, final_learning_rate=1e-12) for _ in range(3)
    )
    later.step = 1
    batch = tensors(traces, range(48))
    losses = [trainer.train_step(batch).loss for trainer in (first, second, later)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert first.validate([batch]) == pytest.approx(later.validate([batch]), rel=1e-5)


def test_an_address_first_met_in_validation_gets_its_row_when_it_is_trained_on(traces):
    trainer = make_trainer()
    short = tensors(traces, [index for index in range(48) if len(traces[index].sites) == min(traces.num_sites)])
    trainer.train_step(short)
    num_rows = len(trainer.network.vocabulary)
    trainer.validate([tensors(traces, range(48))])
    assert len(trainer.network.vocabulary) == num_rows
    trainer.train_step(tensors(traces, range(48)))
    assert len(trainer.network.vocabulary) > num_rows
    assert trainer.network.unknown_sites(tensors(traces, range(48))) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
def test_a_compiled_embedding_learns_the_same(traces):
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    plain, compiled = make_trainer(), make_trainer(compile=True)
    for _ in range(3):
        one, two = plain.train_step(tensors(traces, range(48))), compiled.train_step(tensors(traces, range(48)))
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
    assert set(weights(plain)) == set(weights(compiled))


class Twin(SoleProcess):
    """Two ranks, of which the other always has ones."""

    num_ranks = 2

    def sum_(self, tensor):
        tensor += 1
        return super().sum_(tensor)


def test_statistics_of_a_users_module_are_averaged_over_ranks_before_validation():
    module = torch.nn.BatchNorm1d(3)
    network = ProposalNetwork({"y": (), "v": (3,)}, TINY, modules={"v": module})
    trainer = Trainer(network, CONFIG, num_steps=1, communicator=Twin())
    module.running_mean.fill_(3.0)
    trainer.validate([])
    assert module.running_mean.tolist() == [2.0, 2.0, 2.0]
