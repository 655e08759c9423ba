"""Flow matching: losses of single traces, solvers, and what a flow makes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tracestore.errors import InvalidInputError
from tracestore.surrogates.config import FlowConfig, SurrogateConfig
from tracestore.surrogates.flow import END, FlowMatching, Solver, integrate, on_path
from tracestore.surrogates.model import row_generators
from tracestore.surrogates.persistence import load_surrogate
from tracestore.surrogates.surrogate import new_surrogate

SHAPE = (8, 8, 10)
SMALL = FlowConfig(width=16, num_blocks=1, num_heads=2, num_hidden=8, layers_width=16, layers_blocks=1)


def make_showers(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw showers of two kinds, shallow and deep, and their energies."""
    rng = np.random.default_rng(seed)
    energies = rng.uniform(10.0, 100.0, num)
    depths = 3.0 + 0.02 * energies + rng.choice([-1.5, 1.5], num)
    x, y, z = np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij")
    along = np.exp(-0.3 * (z - depths[:, None, None, None]) ** 2)
    spots = rng.poisson(energies[:, None, None, None] * along * np.exp(-0.5 * ((x - 3.5) ** 2 + (y - 3.5) ** 2)))
    images = rng.gamma(np.maximum(spots, 1e-9)) * (spots > 0) * 1e-3
    return torch.tensor(images, dtype=torch.float32), torch.tensor(energies[:, None], dtype=torch.float32)


def make_model(*, moves: bool = True) -> FlowMatching:
    torch.manual_seed(1)
    model = FlowMatching(SHAPE, 1, SMALL)
    model.fit(*make_showers(600, 1))
    if not moves:
        return model
    for network in (model.layers.leave, model.cells.cell_out):  # as after some training
        torch.nn.init.normal_(network.weight, std=0.1)
    return model


def generators(*rows: int) -> list[torch.Generator]:
    return row_generators(np.array(rows), 5)


def train(model: FlowMatching, num_steps: int) -> None:
    images, labels = make_showers(1000, 2)
    optimizer = torch.optim.Adam(model.phase_parameters("velocity"), 1e-2)
    for step in range(num_steps):
        rows = np.arange(32) + 32 * (step % 31)
        losses = model.losses("velocity", images[rows], labels[rows], row_generators(rows, step))
        optimizer.zero_grad()
        (losses["cells"] + losses["layers"]).mean().backward()
        optimizer.step()


class TestLosses:
    def test_loss_of_a_trace_does_not_depend_on_its_batch(self) -> None:
        model, (images, labels) = make_model(), make_showers(4, 3)
        together = model.losses("velocity", images, labels, generators(0, 1, 2, 3))
        alone = model.losses("velocity", images[2:3], labels[2:3], generators(2))
        for name in ("cells", "layers"):
            torch.testing.assert_close(together[name][2:3], alone[name])

    def test_every_parameter_gets_a_gradient(self) -> None:
        model, (images, labels) = make_model(), make_showers(4, 3)
        losses = model.losses("velocity", images, labels, generators(0, 1, 2, 3))
        (losses["cells"] + losses["layers"]).sum().backward()
        parameters = model.phase_parameters("velocity")
        assert len(parameters) == len(list(model.parameters()))
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters)

    def test_bfloat16_changes_a_loss_little(self) -> None:
        model, (images, labels) = make_model(), make_showers(4, 3)
        full = model.losses("velocity", images, labels, generators(0, 1, 2, 3))
        with torch.autocast("cpu", torch.bfloat16):
            half = model.losses("velocity", images, labels, generators(0, 1, 2, 3))
        torch.testing.assert_close(half["cells"], full["cells"], rtol=0.01, atol=0.0)

    def test_training_finds_what_the_laws_leave(self) -> None:
        model, (images, labels) = make_model(moves=False), make_showers(300, 4)

        def layers_loss() -> float:
            with torch.no_grad():
                return float(model.losses("velocity", images, labels, generators(*range(300)))["layers"].mean())

        before = layers_loss()
        train(model, 60)
        assert layers_loss() < 0.993 * before


class TestGenerate:
    def test_an_image_depends_on_its_own_noise_and_label(self) -> None:
        model, labels = make_model(), torch.tensor([[20.0], [50.0], [90.0]])
        with torch.no_grad():
            together = model.generate(labels, model.draw_noise(3, generators(0, 1, 2)))
            alone = model.generate(labels[1:2], model.draw_noise(1, generators(1)))
        torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-6)

    def test_cells_are_zero_or_above_the_threshold(self) -> None:
        model = make_model()
        with torch.no_grad():
            images = model.generate(torch.full((20, 1), 50.0), model.draw_noise(20, generators(*range(20))))
        assert images.dtype == torch.float32
        assert (images == 0.0).any()
        assert float(images[images > 0.0].min()) >= model.config.threshold

    def test_total_follows_the_label_to_a_percent(self) -> None:
        model, (images, labels) = make_model(moves=False), make_showers(1000, 4)
        with torch.no_grad():
            made = model.generate(labels, model.draw_noise(1000, generators(*range(1000))))
        assert abs(float(made.sum() / images.sum()) - 1.0) < 0.01

    def test_labels_can_be_outside_of_the_fit(self) -> None:
        model = make_model()
        with torch.no_grad():
            images = model.generate(torch.tensor([[5.0], [200.0]]), model.draw_noise(2, generators(0, 1)))
        assert torch.isfinite(images).all()

    def test_a_model_that_was_never_fitted_generates(self) -> None:
        model = FlowMatching(SHAPE, 2, SMALL)
        images = model.generate(torch.ones(2, 2), model.draw_noise(2, generators(0, 1)))
        assert torch.isfinite(images).all()

    def test_scores_of_the_same_law_are_better_than_of_another(self) -> None:
        model, (images, labels) = make_model(moves=False), make_showers(300, 4)
        with torch.no_grad():
            own = model.score(model.statistics(images, labels, generators(*range(300))))
            other = model.score(model.statistics(1.5 * images, labels, generators(*range(300))))
        assert own < 0.5 * other


class TestFit:
    def test_empty_and_single_images_are_allowed(self) -> None:
        for num, scale in ((1, 1.0), (3, 0.0)):
            images, labels = make_showers(num, 1)
            model = FlowMatching(SHAPE, 1, SMALL)
            model.fit(scale * images, labels)
            made = model.generate(labels, model.draw_noise(num, generators(*range(num))))
            assert torch.isfinite(made).all()

    def test_fit_is_a_function_of_its_images(self) -> None:
        one, other = make_model().state_dict(), make_model().state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestIntegrate:
    @pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("adams", 2)], ids=str)
    def test_order(self, solver: Solver, order: int) -> None:
        def error(num_steps: int) -> float:
            end = integrate(
                lambda place, time: place * time.cos(),
                torch.ones(1, dtype=torch.float64),
                num_steps,
                solver,
            )
            return abs(float(end) - math.e)

        orders = [math.log2(error(num) / error(2 * num)) for num in (32, 64)]
        assert all(abs(found - order) < 0.2 for found in orders), orders

    def test_more_steps_come_closer_to_many(self) -> None:
        model, labels = make_model(), torch.tensor([[20.0], [50.0]])
        noise = model.draw_noise(2, generators(0, 1))
        ends = []
        for num_steps in (1, 4, 32):
            model.config = FlowConfig.from_dict({**SMALL.to_dict(), "num_steps": num_steps})
            with torch.no_grad():
                ends.append(model.generate(labels, noise))
        distances = [float((end - ends[-1]).abs().sum()) for end in ends]
        assert all(far >= near for far, near in pairwise(distances))


class TestConfig:
    def test_knots_of_another_number_of_labels_are_refused(self) -> None:
        with pytest.raises(InvalidInputError, match=r"2 labels; got \(3,\)"):
            FlowMatching(SHAPE, 2, FlowConfig(knots=(3,)))

    def test_all_problems_are_told_at_once(self) -> None:
        with pytest.raises(InvalidInputError, match=r"(?s)num_steps.*patch.*threshold"):
            FlowConfig.from_dict({**SMALL.to_dict(), "num_steps": 0, "patch": [1, 2], "threshold": 0.0})

    def test_a_surrogate_comes_back_from_its_folder(self, tmp_path) -> None:
        surrogate = new_surrogate(SHAPE, ["energy"], "shower", SurrogateConfig(model="flow", flow=SMALL), seed=1)
        surrogate.model.fit(*make_showers(100, 1))
        surrogate.save(tmp_path / "flow")
        again = load_surrogate(tmp_path / "flow")
        assert np.array_equal(again.generate([[30.0]], seed=2), surrogate.generate([[30.0]], seed=2))


def test_the_velocity_is_the_slope_of_the_path():
    rng = torch.Generator().manual_seed(1)
    noise, end = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    times, step = torch.linspace(0.1, END - 0.1, 5, dtype=torch.float64)[:, None], 1e-6
    before, after = (on_path(times + sign * step, noise, end)[0] for sign in (-1.0, 1.0))
    torch.testing.assert_close(on_path(times, noise, end)[1], (after - before) / (2.0 * step), rtol=1e-6, atol=1e-6)


def test_faint_cells_are_no_part_of_what_is_learned():
    model = make_model()
    images, labels = make_showers(8, 3)
    faint = torch.where(images > 0.0, images, 0.5 * SMALL.threshold)
    bare, filled = (model.losses("velocity", one, labels, generators(*range(8))) for one in (images, faint))
    for name, loss in bare.items():
        torch.testing.assert_close(filled[name], loss)
