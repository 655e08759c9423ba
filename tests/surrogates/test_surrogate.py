import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from tracestore.errors import GeometryMismatchError, InvalidInputError
from tracestore.surrogates import GanConfig, SurrogateConfig, new_surrogate, require_geometry

CONFIG = SurrogateConfig(
    gan=GanConfig(latent_size=8, generator_channels=(2, 4, 2), discriminator_channels=(2, 4, 4), discriminator_size=8)
)
SHAPE = (9, 8, 11)


def fitted(labels=("energy",), seed=1, shape=SHAPE):
    rng = np.random.default_rng(1)
    values = rng.uniform(10.0, 50.0, (60, len(labels)))
    images = rng.poisson(0.3, (60, *shape)) * rng.exponential(values[:, :1, None, None] * 1e-3, (60, *shape))
    surrogate = new_surrogate(shape, labels, "shower", CONFIG, seed)
    surrogate.model.fit(torch.from_numpy(images.astype(np.float32)), torch.from_numpy(values.astype(np.float32)))
    surrogate.record_labels(values)
    surrogate.model.eval()
    return surrogate


@pytest.fixture(scope="module")
def surrogate():
    return fitted()


def test_images_are_not_negative_and_have_the_shape(surrogate):
    images = surrogate.generate([20.0, 30.0], seed=1)
    assert images.shape == (2, *SHAPE)
    assert images.dtype == np.float32
    assert images.min() == 0.0 < images.max()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_row_depends_on_its_seed_number_and_labels_alone(surrogate, precision):
    labels = np.linspace(15.0, 45.0, 12)
    images = surrogate.generate(labels, seed=3, precision=precision)
    others = labels.copy()
    others[:7] = 20.0
    again = surrogate.generate(others, seed=3, batch_size=5, precision=precision)
    np.testing.assert_allclose(again[7:], images[7:], rtol=2e-2 if precision != "float32" else 1e-4, atol=1e-6)


def test_the_seed_matters(surrogate):
    assert np.abs(surrogate.generate([20.0], seed=1) - surrogate.generate([20.0], seed=2)).max() > 0.0


def test_a_long_run_can_be_made_in_pieces(surrogate):
    labels = np.linspace(15.0, 45.0, 6)
    whole = surrogate.generate(labels, seed=3)
    np.testing.assert_allclose(surrogate.generate(labels[4:], seed=3, first_row=4), whole[4:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_fewer_bits_change_little_but_something(surrogate, precision):
    labels = np.linspace(15.0, 45.0, 200)
    whole, coarse = surrogate.generate(labels, seed=3), surrogate.generate(labels, seed=3, precision=precision)
    assert np.abs(coarse - whole).max() > 0.0
    layers, coarse_layers = whole.sum((1, 2)).mean(0), coarse.sum((1, 2)).mean(0)
    np.testing.assert_allclose(coarse_layers, layers, rtol=0.02)


def test_integers_follow_the_weights():
    surrogate = fitted()
    before = surrogate.generate([20.0], seed=3, precision="int8")
    with torch.no_grad():
        surrogate.model.generator.layers.bias.add_(torch.linspace(0.0, 1.0, 30))
    assert np.abs(surrogate.generate([20.0], seed=3, precision="int8") - before).max() > 0.0


def test_totals_follow_the_labels(surrogate):
    low, high = (surrogate.generate(np.full(50, value), seed=1).sum((1, 2, 3)).mean() for value in (15.0, 45.0))
    assert 2.5 < high / low < 3.5


def test_labels_outside_of_the_trained_range_are_refused(surrogate):
    with pytest.raises(InvalidInputError, match=r"Label 'energy' of row 1 is 60, .* outside of the trained range"):
        surrogate.generate([20.0, 60.0], seed=1)


def test_extrapolation_can_be_asked_for(surrogate):
    assert np.isfinite(surrogate.generate([60.0], seed=1, extrapolate=True)).all()


@pytest.mark.parametrize("labels", [[[20.0, 30.0]], np.zeros((2, 1, 1))], ids=["two columns", "cube"])
def test_labels_of_a_wrong_shape_are_refused(surrogate, labels):
    with pytest.raises(InvalidInputError, match=r"a column for each of energy, shape \(N, 1\)"):
        surrogate.generate(labels, seed=1)


def test_labels_that_are_not_finite_are_refused(surrogate):
    with pytest.raises(InvalidInputError, match="not finite"):
        surrogate.generate([np.nan], seed=1)


def test_an_unknown_precision_is_refused(surrogate):
    with pytest.raises(InvalidInputError, match="must be one of 'float32', 'bfloat16', 'int8'; got 'float16'"):
        surrogate.generate([20.0], seed=1, precision="float16")


@pytest.mark.parametrize("shape", [(8, 8), (7, 8, 8)])
def test_shapes_that_do_not_suit_are_refused(shape):
    with pytest.raises(InvalidInputError, match="three sides of at least 8 cells"):
        new_surrogate(shape, ["energy"], "shower")


@pytest.mark.parametrize("labels", [[], ["energy", "energy"]], ids=["none", "twice"])
def test_labels_have_different_names(labels):
    with pytest.raises(InvalidInputError, match="one or more different labels"):
        new_surrogate(SHAPE, labels, "shower")


def test_another_geometry_is_refused(surrogate):
    require_geometry(surrogate, SHAPE)
    with pytest.raises(GeometryMismatchError, match=r"shape \(9, 8, 11\), but 'shower' has shape \(25, 25, 25\)"):
        require_geometry(surrogate, (25, 25, 25))


def test_fresh_weights_are_a_function_of_the_seed():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    weights = [next(new_surrogate(SHAPE, ["energy"], "shower", CONFIG, seed).model.parameters()) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_ranges_widen():
    surrogate = new_surrogate(SHAPE, ["energy"], "shower", CONFIG)
    surrogate.record_labels([3.0, 5.0])
    surrogate.record_labels([4.0, 7.0])
    assert surrogate.label_ranges == ((3.0, 7.0),)


def test_one_number_is_one_label(surrogate):
    np.testing.assert_array_equal(surrogate.generate(20.0, seed=1), surrogate.generate([20.0], seed=1))


def test_a_negative_seed_is_refused(surrogate):
    with pytest.raises(InvalidInputError, match="`seed` must be a whole number from 0"):
        surrogate.generate([20.0], seed=-1)
