from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from tests.surrogates.test_surrogate import CONFIG, SHAPE, fitted
from tracestore.surrogates.gan import AdversarialGenerator
from tracestore.surrogates.model import row_generators

NUM = 12


def minibatch(model, num=NUM):
    labels = torch.linspace(15.0, 45.0, num)[:, None].repeat(1, model.num_labels)
    return torch.rand(num, *model.shape, generator=torch.Generator().manual_seed(1)), labels


@pytest.fixture(scope="module")
def model():
    return fitted().model


@pytest.mark.parametrize("phase", AdversarialGenerator.phases)
def test_losses_are_sums_over_traces(model, phase):
    images, labels = minibatch(model)
    whole = model.losses(phase, images, labels, row_generators(np.arange(NUM), 1))
    parts = [
        model.losses(phase, images[part], labels[part], row_generators(np.arange(NUM)[part], 1))
        for part in (slice(0, 5), slice(5, NUM))
    ]
    for name, loss in whole.items():
        assert loss.shape == (NUM,)
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), loss, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("phase", AdversarialGenerator.phases)
def test_a_phase_reaches_its_own_parameters_and_no_others(model, phase):
    images, labels = minibatch(model)
    terms = model.losses(phase, images, labels, row_generators(np.arange(NUM), 1))
    own = {id(parameter) for parameter in model.phase_parameters(phase)}
    names, parameters = zip(*model.named_parameters(), strict=True)
    slopes = torch.autograd.grad(sum(term.sum() for term in terms.values()), parameters, allow_unused=True)
    reached = {names[place] for place in range(len(names)) if slopes[place] is not None}
    assert reached == {name for name, parameter in model.named_parameters() if id(parameter) in own}


@pytest.mark.parametrize("phase", AdversarialGenerator.phases)
def test_a_share_without_traces_has_losses_of_no_traces(model, phase):
    images, labels = minibatch(model)
    terms = model.losses(phase, images[:0], labels[:0], [])
    assert all(term.shape == (0,) for term in terms.values())


@pytest.mark.parametrize("shape", [(8, 8, 8), (13, 9, 10)])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_any_box_and_any_number_of_labels(shape, num_labels):
    model = AdversarialGenerator(shape, num_labels, CONFIG.gan)
    images, labels = minibatch(model, 4)
    model.fit(images, labels)
    noise = model.draw_noise(4, row_generators(np.arange(4), 1))
    assert model.generate(labels, noise).shape == (4, *shape)
    for phase in model.phases:
        assert all(
            term.isfinite().all() for term in model.losses(phase, images, labels, row_generators(np.arange(4))).values()
        )


def test_default_networks_have_about_a_million_parameters():
    model = AdversarialGenerator((25, 25, 25), 1, type(CONFIG.gan)())
    sizes = [sum(parameter.numel() for parameter in model.phase_parameters(phase)) for phase in model.phases]
    assert all(700_000 < size < 1_300_000 for size in sizes)


def test_before_training_cells_have_their_mean_energy():
    surrogate = fitted()
    rng = np.random.default_rng(1)
    values = rng.uniform(10.0, 50.0, (60, 1))
    images = rng.poisson(0.3, (60, *SHAPE)) * rng.exponential(values[:, :1, None, None] * 1e-3, (60, *SHAPE))
    made = surrogate.generate(np.linspace(11.2, 49.0, 500), seed=1)
    np.testing.assert_allclose(made.sum((2, 3)).mean(0), images.sum((2, 3)).mean(0), rtol=0.25)


def test_training_steps_bring_the_score_down():
    torch.manual_seed(1)
    surrogate = fitted()
    model = surrogate.model
    rng = np.random.default_rng(2)
    # layers along the depth go up and down together: nothing that single cells know
    values = torch.from_numpy(rng.uniform(10.0, 50.0, (256, 1)).astype(np.float32))
    tilt = np.exp(rng.normal(size=(256, 1, 1, 1)) * np.linspace(-0.8, 0.8, SHAPE[2]))
    images = torch.from_numpy(
        (rng.poisson(2.0, (256, *SHAPE)) * tilt * values.numpy()[:, :, None, None]).astype(np.float32)
    )
    model.fit(images, values)

    def score():
        with torch.no_grad():
            return model.score(model.statistics(images, values, row_generators(np.arange(256), 7)))

    before = score()
    optimizers = {phase: torch.optim.RMSprop(model.phase_parameters(phase), lr=2e-3) for phase in model.phases}
    for step in range(40):
        rows = rng.integers(0, 256, 32)
        for phase, optimizer in optimizers.items():
            terms = model.losses(phase, images[rows], values[rows], row_generators(rows, step))
            optimizer.zero_grad()
            sum(term.mean() for term in terms.values()).backward()
            optimizer.step()
    assert score() < 0.8 * before


def test_before_training_cells_of_spots_are_hit_as_often_as_those_of_the_images():
    rng = np.random.default_rng(1)
    spots = rng.poisson(np.linspace(0.05, 3.0, SHAPE[2]), (800, *SHAPE))
    images = torch.from_numpy(np.where(spots > 0, rng.gamma(np.maximum(spots, 1)), 0.0).astype(np.float32))
    labels = torch.from_numpy(rng.uniform(10.0, 20.0, (800, 1)).astype(np.float32))
    model = AdversarialGenerator(SHAPE, 1, replace(CONFIG.gan, cell_law="spots"))
    model.fit(images, labels)
    with torch.no_grad():
        for layer in (model.generator.to_full, model.generator.layers):
            layer.weight.zero_()
        made = model.generate(labels, model.draw_noise(800, row_generators(np.arange(800), 1)))
    for energy in (0.0, 1.0, 3.0):
        found, expected = ((cells > energy).float().mean((0, 1, 2)) for cells in (made, images))
        np.testing.assert_allclose(found[1:], expected[1:], atol=0.03)  # a rare layer is read as its neighbors


def test_a_generator_loses_while_the_discriminator_tells_real_images():
    torch.manual_seed(1)
    model = fitted().model
    images, labels = minibatch(model)
    optimizer = torch.optim.RMSprop(model.phase_parameters("discriminator"), lr=1e-3)
    for step in range(30):
        terms = model.losses("discriminator", images, labels, row_generators(np.arange(NUM), step))
        optimizer.zero_grad()
        terms["adversarial"].mean().backward()
        optimizer.step()
    losses = {phase: model.losses(phase, images, labels, row_generators(np.arange(NUM), 99)) for phase in model.phases}
    told, fooled = (losses[phase]["adversarial"].detach() for phase in model.phases)
    gap = -float(torch.expm1(told).log().mean())  # of the scores of real and generated images
    assert gap > 1.0
    assert float(fooled.mean()) > 0.8 * gap * model.config.adversarial_weight
