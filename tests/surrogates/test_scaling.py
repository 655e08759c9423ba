import math

import pytest

pytest.importorskip("torch")
import torch

from tracestore.surrogates.cell_law import draw_spots, fit_cell_law, label_basis, read_level
from tracestore.surrogates.model import draw_normals, row_generators
from tracestore.surrogates.moments import Moments
from tracestore.surrogates.scaling import CellScaling, FeatureScaling, LabelScaling


def showers(num=2000, rate=0.05):
    generator = torch.Generator().manual_seed(1)
    spots = torch.poisson(torch.full((num, 8, 8, 8), rate), generator=generator)
    # the sum of a number of exponential energies
    energies = torch.zeros_like(spots)
    for count in range(1, int(spots.max()) + 1):
        energies += torch.where(spots >= count, -torch.log1p(-torch.rand(spots.shape, generator=generator)), 0.0)
    return energies


def test_the_unit_is_the_energy_of_a_spot():
    scaling = CellScaling()
    scaling.fit(3.0 * showers())
    assert abs(float(scaling.unit) - 3.0 * 1.025) < 0.1


def test_images_without_a_hit_leave_the_unit():
    scaling = CellScaling()
    scaling.fit(torch.zeros(3, 8, 8, 8))
    assert float(scaling.unit) == 1.0


def test_labels_that_span_little_are_read_as_they_are():
    scaling = LabelScaling(2)
    scaling.fit(torch.tensor([[60.0, -1.0], [120.0, 5.0]]))
    torch.testing.assert_close(scaling(torch.tensor([[90.0, 2.0]])), torch.zeros(1, 2))


def test_a_label_that_never_varies_is_harmless():
    scaling = LabelScaling(1)
    scaling.fit(torch.full((5, 1), 90.0))
    assert float(scaling(torch.tensor([[90.0]]))) == 0.0


def test_features_of_the_fitted_images_have_mean_zero_and_spread_one():
    scaling = FeatureScaling((8, 8, 8), 1)
    images, labels = torch.log1p(showers(500)), torch.linspace(-1.0, 1.0, 500)[:, None]
    scaling.fit(images, labels)
    residuals = scaling(images, labels)
    torch.testing.assert_close(residuals.mean(0), torch.zeros(50), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(residuals.std(0), torch.ones(50), atol=1e-2, rtol=0.0)


def test_the_law_of_cells_gives_hits_and_means():
    images, labels = showers(), torch.linspace(-1.0, 1.0, 2000)[:, None]
    law = fit_cell_law(images, labels)
    read, log_spread = torch.einsum("nb,bkxyz->knxyz", label_basis(labels), law)
    normal = torch.randn(read.shape, generator=torch.Generator().manual_seed(2))
    made = torch.relu(read_level(read) + torch.exp(log_spread) * normal)
    assert abs(float((made > 0).float().mean() / (images > 0).float().mean()) - 1.0) < 0.05
    assert abs(float(made.mean() / images.mean()) - 1.0) < 0.05


def test_noise_of_a_row_does_not_depend_on_other_rows():
    first = draw_normals(3, 21, row_generators(torch.arange(3).numpy(), 1), torch.device("cpu"))
    second = draw_normals(1, 21, row_generators(torch.tensor([2]).numpy(), 1), torch.device("cpu"))
    torch.testing.assert_close(first[2:], second)


def test_moments_add_up():
    moments = Moments((8, 8, 8), 1)
    images, labels = showers(200), torch.linspace(-1.0, 1.0, 200)[:, None]
    moments.fit(images, labels)
    parts = [moments.sums(images[part], 2 * images[part], labels[part]) for part in (slice(0, 70), slice(70, 200))]
    torch.testing.assert_close(parts[0] + parts[1], moments.sums(images, 2 * images, labels))


def test_the_distance_sees_a_spread_that_is_missing():
    moments = Moments((8, 8, 8), 1)
    images, labels = showers(400), torch.linspace(-1.0, 1.0, 400)[:, None]
    moments.fit(images, labels)
    calm = images.mean(0, keepdim=True) + 0.3 * (images - images.mean(0, keepdim=True))
    assert moments.distance(moments.sums(images, calm, labels)) > 0.5


def test_a_generator_that_fails_has_an_infinite_score():
    moments = Moments((8, 8, 8), 1)
    images, labels = showers(400), torch.linspace(-1.0, 1.0, 400)[:, None]
    moments.fit(images, labels)
    assert moments.distance(moments.sums(images, images * torch.nan, labels)) == float("inf")


@pytest.mark.parametrize("mean", [0.05, 1.0, 4.0, 20.0, 200.0])
def test_cells_of_spots_have_the_moments_and_the_zeros_of_a_number_of_spots(mean):
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    cells = draw_spots(torch.full_like(noise, math.log(mean)), noise)
    assert float(cells.mean()) == pytest.approx(mean, rel=0.02)
    assert float(cells.var()) == pytest.approx(2.0 * mean, rel=0.05)
    assert float((cells == 0.0).float().mean()) == pytest.approx(math.exp(-mean), abs=0.003)


def test_the_slope_of_cells_of_spots_is_finite_from_the_emptiest_to_the_fullest():
    log_mean = torch.linspace(-100.0, 30.0, 500).requires_grad_()
    draw_spots(log_mean, torch.linspace(-4.0, 4.0, 500)).sum().backward()
    assert bool(log_mean.grad.isfinite().all())


def test_spots_drawn_without_gradients_first_can_be_trained_with_later():
    log_mean, noise = torch.linspace(-3.0, 3.0, 50), torch.ones(50)
    with torch.inference_mode():
        draw_spots(log_mean, noise)
    asked = log_mean.clone().requires_grad_()
    draw_spots(asked, noise).sum().backward()
    assert asked.grad is not None
    assert bool((asked.grad[25:] > 0.0).all())
