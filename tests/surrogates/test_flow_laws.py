"""Laws of layers and cells: there and back, and what they say of noise."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tracestore.surrogates.flow_laws import CellLaw, LabelKnots, LayerLaw

SHAPE = (6, 5, 7)
THRESHOLD = 1e-5


def make_showers(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images of spots, as many as the energy says, and their energies."""
    rng = np.random.default_rng(seed)
    energies = rng.uniform(10.0, 100.0, num)
    x, y, z = np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij")
    profile = np.exp(-0.5 * ((x - 2.5) ** 2 + (y - 2.0) ** 2) - 0.3 * (z - 2.0) ** 2)
    spots = rng.poisson(energies[:, None, None, None] * profile)
    images = rng.gamma(np.maximum(spots, 1e-9)) * (spots > 0) * 1e-3
    return torch.tensor(images, dtype=torch.float32), torch.tensor(energies[:, None], dtype=torch.float32)


@pytest.fixture(scope="module")
def fitted() -> tuple[LabelKnots, LayerLaw, CellLaw]:
    images, labels = make_showers(1500, 1)
    images = torch.where(images >= THRESHOLD, images, 0.0)
    knots = LabelKnots((4,))
    knots.fit(labels)
    layers, cells = LayerLaw(SHAPE[2], knots.num_terms, THRESHOLD), CellLaw(SHAPE, 4, THRESHOLD)
    layers.fit(images.sum((1, 2)), knots.terms(labels))
    cells.fit(images, knots.weights(labels))
    return knots, layers, cells


@pytest.fixture
def showers() -> tuple[Tensor, Tensor]:
    images, labels = make_showers(400, 2)
    return torch.where(images >= THRESHOLD, images, 0.0), labels


class TestLabelKnots:
    def test_weights_of_two_labels_add_up_to_one(self) -> None:
        knots = LabelKnots((3, 4))
        labels = torch.tensor([[1.0, 60.0], [30.0, 75.0], [500.0, 120.0]])
        knots.fit(labels)
        torch.testing.assert_close(knots.weights(labels).sum(1), torch.ones(3))

    def test_labels_outside_of_the_range_are_weighted_like_its_ends(self) -> None:
        knots = LabelKnots((3,))
        knots.fit(torch.tensor([[60.0], [120.0]]))
        torch.testing.assert_close(knots.weights(torch.tensor([[200.0]])), torch.tensor([[0.0, 0.0, 1.0]]))

    def test_a_label_that_never_varies_is_finite(self) -> None:
        knots = LabelKnots((3,))
        knots.fit(torch.full((4, 1), 50.0))
        assert torch.isfinite(knots.terms(torch.tensor([[50.0]]))).all()

    def test_terms_count_products_up_to_the_third(self) -> None:
        knots = LabelKnots((3, 3))
        assert knots.terms(torch.ones(2, 2)).shape == (2, knots.num_terms) == (2, 10)


class TestLayerLaw:
    def test_energies_come_back(
        self, fitted: tuple[LabelKnots, LayerLaw, CellLaw], showers: tuple[Tensor, Tensor]
    ) -> None:
        knots, law, _ = fitted
        energies, terms = showers[0].sum((1, 2)), knots.terms(showers[1])
        noise = torch.randn(energies.shape, generator=torch.Generator().manual_seed(1))
        back = law.decode(law.encode(energies, terms, noise), terms)
        torch.testing.assert_close(back.sum(1), energies.sum(1), rtol=1e-3, atol=0.0)
        torch.testing.assert_close(back, energies, rtol=0.05, atol=1e-4)

    def test_numbers_are_white(
        self, fitted: tuple[LabelKnots, LayerLaw, CellLaw], showers: tuple[Tensor, Tensor]
    ) -> None:
        knots, law, _ = fitted
        noise = torch.randn(len(showers[0]), SHAPE[2], generator=torch.Generator().manual_seed(1))
        encoded = law.encode(showers[0].sum((1, 2)), knots.terms(showers[1]), noise)
        spread = torch.linalg.eigvalsh(torch.cov(encoded.T))[1:]
        assert float(encoded.mean(0).abs().max()) < 0.3
        assert 0.6 < float(spread.min()) <= float(spread.max()) < 1.6

    def test_an_empty_image_stays_empty(self, fitted: tuple[LabelKnots, LayerLaw, CellLaw]) -> None:
        knots, law, _ = fitted
        terms, nothing = knots.terms(torch.tensor([[50.0]])), torch.zeros(1, SHAPE[2])
        assert not law.decode(law.encode(nothing, terms, nothing), terms).any()


class TestCellLaw:
    def test_cells_come_back_and_zeros_are_exact(
        self, fitted: tuple[LabelKnots, LayerLaw, CellLaw], showers: tuple[Tensor, Tensor]
    ) -> None:
        knots, _, law = fitted
        images, energies = showers[0], showers[0].sum((1, 2))
        places = law.places(energies, knots.weights(showers[1]))
        uniform = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)).clamp(min=1e-4, max=0.9999)
        back = law.decode(law.encode(images, places, uniform), places, energies)
        assert torch.equal(back > 0.0, images > 0.0)
        assert float((back - images).abs().sum() / images.sum()) < 0.02

    def test_numbers_of_cells_are_normal(
        self, fitted: tuple[LabelKnots, LayerLaw, CellLaw], showers: tuple[Tensor, Tensor]
    ) -> None:
        knots, _, law = fitted
        places = law.places(showers[0].sum((1, 2)), knots.weights(showers[1]))
        uniform = torch.rand(showers[0].shape, generator=torch.Generator().manual_seed(1))
        encoded = law.encode(showers[0], places, uniform).flatten()
        levels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
        found = (encoded[:, None] < levels).float().mean(0)
        torch.testing.assert_close(found, torch.special.ndtr(levels), rtol=0.0, atol=0.01)

    def test_noise_makes_the_mean_image_and_its_hits(
        self, fitted: tuple[LabelKnots, LayerLaw, CellLaw], showers: tuple[Tensor, Tensor]
    ) -> None:
        knots, _, law = fitted
        images, energies = showers[0], showers[0].sum((1, 2))
        places = law.places(energies, knots.weights(showers[1]))
        made = law.decode(torch.randn(images.shape, generator=torch.Generator().manual_seed(1)), places, energies)
        assert abs(float((made > 0.0).float().mean() / (images > 0.0).float().mean()) - 1.0) < 0.03
        assert float((made.mean(0) - images.mean(0)).abs().sum() / images.mean(0).sum()) < 0.1

    def test_layers_keep_their_energy(self, fitted: tuple[LabelKnots, LayerLaw, CellLaw]) -> None:
        knots, _, law = fitted
        energies = torch.tensor([[0.0, 2e-4, 0.5, 0.01, 0.0, 3e-5, 1e-3]])
        places = law.places(energies, knots.weights(torch.tensor([[50.0]])))
        noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
        # a number so low that no cell is hit by itself: the likeliest takes the energy
        made = law.decode(noise - 6.0, places, energies)
        torch.testing.assert_close(made.sum((1, 2)), energies)
        assert int((made > 0.0).sum()) == 5

    def test_a_knot_that_saw_no_shower_has_the_common_shares(self) -> None:
        images, _ = make_showers(200, 4)
        weights = torch.zeros(200, 2)
        weights[:, 0] = 1.0
        law = CellLaw(SHAPE, 2, THRESHOLD)
        law.fit(images, weights)
        seen, unseen = law.shares_PX.view(2, *SHAPE)
        torch.testing.assert_close(unseen, seen, rtol=0.0, atol=0.15)
        assert float(unseen.sum((0, 1)).min()) > 0.5
