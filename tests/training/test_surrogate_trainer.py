"""The step of a surrogate: phases one after the other, sums over traces, averages, noise by trace."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from tests.training.surrogate_programs import batch_of, make_store, scaled_noise, settings
from tracestore.errors import InvalidInputError, NonFiniteLossError
from tracestore.surrogates.model import row_generators
from tracestore.training import OptimizerConfig
from tracestore.training.surrogate_trainer import TRAIN, SurrogateTrainer

SGD = {
    "optimizer": OptimizerConfig(kind="sgd", momentum=0.0),
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "learning_rate": 0.01,
    "average": None,
    "max_gradient_norm": 1e9,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("s") / "store", 60)


@pytest.fixture(scope="module")
def good(store):
    return np.flatnonzero(store.column("status") == 0).tolist()


def trained(**fields):
    return SurrogateTrainer(scaled_noise(), settings(**{**SGD, **fields}), num_steps=10)


def test_a_step_is_sgd_on_the_mean_loss_phase_by_phase(store, good):
    trainer, batch = trained(seed=3), batch_of(store, good[:8])
    record = trainer.train_step(batch)
    labels, images = batch.as_arrays(["energy"])

    def gap(scale, phase):
        generators = row_generators(batch.trace_index.numpy(), 3, TRAIN, 0, phase)
        noise = torch.stack([torch.randn(512, generator=one) for one in generators])
        return (scale * labels * noise.abs() - images.flatten(1)).mean(dim=1)

    weight = -0.01 * gap(0.5, 0).mean()
    assert trainer.model.weight.item() == pytest.approx(weight.item(), rel=1e-4)
    scale = torch.tensor(0.5, requires_grad=True)
    loss = (gap(scale, 1) ** 2 - weight * gap(scale, 1)).mean()
    (slope,) = torch.autograd.grad(loss, scale)
    assert trainer.model.scale.item() == pytest.approx(0.5 - 0.01 * slope.item(), rel=1e-4)
    assert list(record.terms) == ["critic.gap", "critic.decay", "scale.gap"]
    assert record.terms["scale.gap"] == pytest.approx(loss.item(), rel=1e-4)
    assert record.loss == pytest.approx(sum(record.terms.values()))


def test_long_gradients_are_cut_to_the_norm_of_the_settings(store, good):
    trainer = trained(max_gradient_norm=2.0)
    record = trainer.train_step(batch_of(store, good[:8]))
    assert record.gradient_norm > 2.0
    assert trainer.model.weight.item() == pytest.approx(-0.01 * 2.0, rel=1e-5)


def test_parameters_of_other_phases_get_no_gradient_in_a_phase(store, good):
    trainer = trained()
    seen = {}
    for phase in trainer.phases:
        update = phase.update

        def look(*args, phase=phase, update=update, **kwargs):
            seen[phase.name] = [parameter.grad is None for parameter in phase.others]
            for parameter in phase.others:
                parameter.grad = None
            return update(*args, **kwargs)

        phase.update = look
    trainer.train_step(batch_of(store, good[:4]))
    assert seen["critic"] == [True]
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


def test_the_noise_of_a_trace_does_not_depend_on_its_minibatch(store, good):
    one, other = trained(), trained()
    whole = one.train_step(batch_of(store, good[:6])).terms["critic.gap"]
    assert whole == 0.0
    one, other = trained(), trained()
    for trainer in (one, other):
        trainer.model.weight.data.fill_(1.0)
    forward = one.train_step(batch_of(store, good[:6]))
    backward = other.train_step(batch_of(store, good[5::-1]))
    assert forward.terms == pytest.approx(backward.terms, rel=1e-5)
    assert forward.terms["critic.gap"] != 0.0


def test_the_noise_of_a_trace_differs_between_steps(store, good):
    trainer = trained(learning_rate=1e-30, final_learning_rate=1e-30)
    trainer.model.weight.data.fill_(1.0)
    one, other = (trainer.train_step(batch_of(store, good[:6])).terms["critic.gap"] for _ in range(2))
    assert one != other


def test_averages_count_steps_and_not_phases(store, good):
    trainer = trained(average=0.5)
    weights = []
    for _ in range(3):
        trainer.train_step(batch_of(store, good[:4]))
        weights.append(trainer.model.scale.item())
    expected = (0.25 * weights[0] + 0.5 * weights[1] + weights[2]) / 1.75
    with trainer.evaluated() as surrogate:
        assert surrogate.model.scale.item() == pytest.approx(expected, rel=1e-5)
        assert not surrogate.model.training
    assert trainer.model.scale.item() == weights[2]


def test_the_state_of_all_phases_goes_on_in_the_same_bits(store, good):
    fields = {"optimizer": OptimizerConfig(kind="rmsprop", beta2=0.9), "average": 0.9}
    whole = trained(**fields)
    for _ in range(2):
        whole.train_step(batch_of(store, good[:4]))
    parts = trained(**fields)
    parts.model.load_state_dict({name: tensor.clone() for name, tensor in whole.model.state_dict().items()})
    for mine, its in ((parts.optimizer, whole.optimizer), (parts.average, whole.average)):
        mine.load_state_tensors({name: tensor.clone() for name, tensor in its.state_tensors().items()})
    parts.step = whole.step
    for trainer in (whole, parts):
        trainer.train_step(batch_of(store, good[4:8]))
    assert whole.model.scale.item() == parts.model.scale.item()
    with whole.evaluated(), parts.evaluated():
        assert whole.model.scale.item() == parts.model.scale.item()


def test_a_trace_without_a_finite_loss_is_named(store, good):
    trainer, batch = trained(), batch_of(store, good[:4])
    batch.observations["shower"][2, 0, 0, 0] = math.inf
    with pytest.raises(NonFiniteLossError, match=f"for traces {good[2]} of the store") as caught:
        trainer.train_step(batch)
    assert caught.value.fields["traces"] == (good[2],)


def test_a_gradient_that_overflows_is_an_error(store, good):
    trainer = trained()
    trainer.model.scale.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match="The gradient of step 1 is not finite"):
        trainer.train_step(batch_of(store, good[:4]))


def test_phases_that_share_parameters_are_refused(monkeypatch):
    surrogate = scaled_noise()
    monkeypatch.setattr(surrogate.model, "phase_parameters", lambda phase: [surrogate.model.scale])
    with pytest.raises(InvalidInputError, match="'scale' shares parameters with critic"):
        SurrogateTrainer(surrogate, settings(), num_steps=10)


def test_validation_does_not_depend_on_the_minibatches(store, good):
    surrogate = scaled_noise()
    labels, images = batch_of(store, good[:50]).as_arrays(["energy"])
    surrogate.model.fit(images, labels)
    trainer = SurrogateTrainer(surrogate, settings(), num_steps=10)
    whole = trainer.validate([batch_of(store, good[:50])])
    parts = trainer.validate([batch_of(store, good[:20]), batch_of(store, []), batch_of(store, good[20:50])])
    assert whole == pytest.approx(parts, rel=1e-9)
