from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from tracestore.errors import InvalidInputError
from tracestore.networks import array_embeddings
from tracestore.networks.array_embeddings import (
    ARRAY_EMBEDDINGS,
    Cnn2dEmbedding,
    Cnn3dEmbedding,
    LightEmbedding,
    PerceptronEmbedding,
)
from tracestore.networks.config import NETWORKS, NetworkConfig
from tracestore.networks.observations import ObservationEmbedding
from tracestore.networks.user_modules import ModuleEmbedding

SMALL = NetworkConfig(observation_size=8)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_array_embedding(*arguments) -> Any:  # its layers, by name, are anything to a checker of types
    return array_embeddings.make_array_embedding(*arguments)


def part_of(embedding, position=0) -> Any:
    return embedding.parts[position]


def kinds_of(embedding):
    return [(list(part.shapes), type(part.embedding)) for part in embedding.parts]


# --------------------------------------------------------------------------------------------------- shapes and kinds


@pytest.mark.parametrize(
    "shape", [(), (5,), (4, 4), (28, 28), (100, 70), (20, 35, 35), (3, 9, 40), (2, 3, 20, 20)], ids=str
)
def test_observations_of_any_shape_are_embedded(shape):
    embedding = ObservationEmbedding({"seen": shape}, SMALL)
    x = {"seen": random(4, *shape)}
    embedding.fit(x)
    out = embedding(x)
    assert out.shape == (4, 8)
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("kind", ["light", "mlp", "cnn2d", "cnn3d"])
def test_every_number_of_an_array_matters_and_traces_stay_apart(kind):
    embedding = make_array_embedding(kind, "voxels", (20, 24, 28), 32)
    x = random(2, 20, 24, 28).requires_grad_()
    embedding(embedding.reduce(x))[0].sum().backward()
    assert (x.grad[1] == 0).all()
    assert (x.grad[0] != 0).float().mean() > 0.5


def test_small_observations_are_joined_and_arrays_have_their_own():
    shapes = {"b": (), "image": (28, 28), "a": (4, 4), "vector": (500,), "cube": (5, 5, 5)}
    assert kinds_of(ObservationEmbedding(shapes, SMALL)) == [
        (["a", "b", "vector"], PerceptronEmbedding),
        (["cube"], LightEmbedding),
        (["image"], LightEmbedding),
    ]


def test_each_observation_may_have_a_kind_of_its_own():
    kinds = {"a": "mlp", "c": "light", "d": "auto", "e": "mlp", "f": "cnn3d"}
    config = NetworkConfig(observation="cnn2d", observation_of=kinds, observation_size=8)
    shapes = {"a": (3,), "b": (2,), "c": (28, 28), "d": (28, 28), "e": (28, 28), "f": (20, 20, 20), "g": (28, 28)}
    embedding = ObservationEmbedding(shapes, config)
    assert kinds_of(embedding) == [
        (["b"], PerceptronEmbedding),
        (["a"], PerceptronEmbedding),
        (["c"], LightEmbedding),
        (["d"], LightEmbedding),
        (["e"], PerceptronEmbedding),
        (["f"], Cnn3dEmbedding),
        (["g"], Cnn2dEmbedding),
    ]
    assert embedding({name: random(2, *shape) for name, shape in shapes.items()}).shape == (2, 8)


def test_joined_observations_do_not_depend_on_the_order_of_their_names():
    shapes = {"b": (), "a": (3,)}
    one = ObservationEmbedding(shapes, SMALL)
    other = ObservationEmbedding(dict(reversed(shapes.items())), SMALL)
    other.load_state_dict(one.state_dict())
    x = {"a": random(5, 3), "b": random(5)}
    assert torch.equal(one(x), other(dict(reversed(x.items()))))


def test_axes_before_the_last_two_are_channels_in_the_plane():
    embedding = make_array_embedding("cnn2d", "image", (2, 3, 20, 22), 4)
    assert embedding.layers[0].in_channels == 6
    x = random(2, 2, 3, 20, 22)
    assert torch.equal(embedding.reduce(x), x.reshape(2, 6, 20, 22))


@pytest.mark.parametrize(
    ("kind", "shape", "needed", "fitting"),
    [
        ("cnn3d", (19, 35, 35), r"3 axes or more, the last 3 of at least 20 cells", "light, mlp, cnn2d:"),
        ("cnn3d", (35, 35), r"3 axes or more", "light, mlp, cnn2d:"),
        ("cnn2d", (20, 35, 19), r"2 axes or more, the last 2 of at least 20 cells", "light, mlp:"),
        ("cnn2d", (500,), r"2 axes or more", "mlp:"),
        ("light", (500,), r"2 axes or more;", "mlp:"),
    ],
    ids=str,
)
def test_too_small_an_array_is_refused_with_the_kinds_that_fit(kind, shape, needed, fitting):
    with pytest.raises(InvalidInputError, match=rf"'voxels' of shape .* too small .*'{kind}'.*{needed}.*are {fitting}"):
        ObservationEmbedding({"voxels": shape}, NetworkConfig(observation_of={"voxels": kind}))


@pytest.mark.parametrize(("kind", "shape"), [("cnn2d", (20, 20)), ("cnn3d", (20, 20, 20)), ("light", (1, 70))])
def test_the_smallest_arrays_that_are_accepted_work(kind, shape):
    embedding = ObservationEmbedding({"voxels": shape}, NetworkConfig(observation=kind, observation_size=8))
    assert embedding({"voxels": random(2, *shape)}).shape == (2, 8)


@pytest.mark.parametrize("argument", ["observation_of", "modules"])
def test_a_name_that_is_not_observed_is_refused_with_those_that_are(argument):
    config = NetworkConfig(observation_of={"imag": "mlp"}) if argument == "observation_of" else SMALL
    modules = {"imag": nn.Identity()} if argument == "modules" else {}
    with pytest.raises(InvalidInputError, match=f"`{argument}` has 'imag', .* 'image', 'obs0';"):
        ObservationEmbedding({"obs0": (), "image": (9, 9)}, config, modules)


def test_a_kind_beside_a_module_is_refused():
    config = NetworkConfig(observation_of={"image": "mlp"})
    with pytest.raises(InvalidInputError, match="'image' has both a module and the kind 'mlp'"):
        ObservationEmbedding({"image": (9, 9)}, config, {"image": nn.Identity()})


@pytest.mark.parametrize("shapes", [{}, {"empty": (0,)}, {"empty": (3, 0, 4)}], ids=str)
def test_without_observations_there_is_nothing_to_learn_from(shapes):
    with pytest.raises(InvalidInputError, match="at least one named observation"):
        ObservationEmbedding(shapes, SMALL)


def test_an_observation_without_numbers_beside_others_does_no_harm():
    embedding = ObservationEmbedding({"a": (), "empty": (0,)}, SMALL)
    x = {"a": random(3), "empty": random(3, 0)}
    embedding.fit(x)
    assert embedding(x).isfinite().all()


@pytest.mark.parametrize(
    ("observations", "found"),
    [
        ({"image": random(2, 9, 8)}, r"has shape \(8, 9\) .* a batch of shape \(2, 9, 8\)"),
        ({"image": random(8, 9)}, r"a batch of shape \(8, 9\)"),
        ({"other": random(2, 8, 9)}, r"none of this name"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "forward"])
def test_observations_of_another_shape_are_refused(observations, found, method):
    embedding = ObservationEmbedding({"image": (8, 9)}, SMALL)
    with pytest.raises(InvalidInputError, match=f"'image' .*{found}"):
        getattr(embedding, method)(observations)


@pytest.mark.parametrize("kind", ["light", "mlp", "cnn2d", "cnn3d"])
def test_a_batch_without_traces_gives_no_rows(kind):
    embedding = ObservationEmbedding({"a": (), "voxels": (20, 20, 20)}, NetworkConfig(observation=kind))
    assert embedding({"a": torch.zeros(0), "voxels": torch.zeros(0, 20, 20, 20)}).shape == (0, 64)


def test_the_order_in_memory_changes_no_weight_and_no_gradient_layout():
    embedding = make_array_embedding("cnn3d", "voxels", (20, 20, 20), 4)
    embedding(random(2, 1, 20, 20, 20)).sum().backward()
    parameters = list(embedding.parameters())
    assert all(parameter.is_contiguous() and parameter.grad.is_contiguous() for parameter in parameters)
    assert embedding.layers[:5](random(2, 1, 20, 20, 20)).is_contiguous(memory_format=torch.channels_last_3d)


def test_embeddings_of_arrays_end_in_a_rectifier():
    for kind in ARRAY_EMBEDDINGS:
        embedding = make_array_embedding(kind, "voxels", (20, 20, 20), 64)
        found = embedding(embedding.reduce(random(4, 20, 20, 20)))
        assert float(found.detach().min()) == 0.0, kind


# ---------------------------------------------------------------------------------------------------------- the paper


def sizes_of(module):
    return [sum(parameter.numel() for parameter in layer.parameters()) for layer in module if hasattr(layer, "weight")]


def test_the_paper_network_has_the_parameters_of_the_paper():
    embedding: Any = ObservationEmbedding({"voxels": (20, 35, 35)}, NETWORKS["paper"])
    part = part_of(embedding)
    assert len(embedding.parts) == 1
    assert sizes_of(part.embedding.layers) == [1_792, 110_656, 221_312, 442_496, 442_496]
    assert sizes_of([part.embedding.last]) == [524_544]
    assert sum(sizes_of(embedding.joint)) == 131_584
    assert sum(parameter.numel() for parameter in embedding.parameters()) == 1_874_880


def test_the_paper_embedding_computes_what_its_formula_says():
    embedding = ObservationEmbedding({"voxels": (20, 20, 20)}, NetworkConfig(observation="cnn3d", observation_size=6))
    x = random(2, 20, 20, 20)
    embedding.fit({"voxels": x})
    y = ((x - x.mean()) / x.std(correction=0)).unsqueeze(1)
    state = embedding.state_dict()
    for layer, pools in ((0, False), (3, True), (6, False), (8, False), (10, True)):
        weight, bias = (state[f"parts.0.embedding.layers.{layer}.{name}"] for name in ("weight", "bias"))
        y = torch.conv3d(y, weight, bias).relu()
        y = torch.max_pool3d(y, 2) if pools else y
    y = torch.relu(y.flatten(1) @ state["parts.0.embedding.last.weight"].T + state["parts.0.embedding.last.bias"])
    for layer in (0, 2):
        y = torch.relu(y @ state[f"joint.{layer}.weight"].T + state[f"joint.{layer}.bias"])
    torch.testing.assert_close(embedding({"voxels": x}), y, rtol=1e-4, atol=1e-5)


def test_the_plane_embedding_has_the_layers_of_the_predecessor():
    embedding = make_array_embedding("cnn2d", "image", (3, 28, 28), 256)
    assert sizes_of(embedding.layers) == [1_792, 36_928, 73_856, 147_584, 147_584]
    assert sizes_of(embedding.last) == [1_152 * 256 + 256, 65_792]


def test_the_joint_perceptron_has_a_hidden_width_between_its_inputs_and_outputs():
    embedding: Any = ObservationEmbedding({"a": (), "b": (9, 9), "c": (9, 9)}, SMALL)
    assert [(layer.in_features, layer.out_features) for layer in embedding.joint[::2]] == [(24, 16), (16, 8)]


# ----------------------------------------------------------------------------------------------------- standardization


def test_inputs_are_standardized_and_constants_survive():
    embedding = ObservationEmbedding({"a": (), "image": (10, 10)}, SMALL)
    x = {"a": torch.full((50,), 7.0), "image": 100.0 + 3.0 * random(50, 10, 10)}
    embedding.fit(x)
    flat, image = part_of(embedding, 0), part_of(embedding, 1)
    assert (float(flat.mean[0]), float(flat.scale[0])) == (7.0, 1.0)
    assert float(image.mean) == pytest.approx(100.0, abs=0.2)
    shifted = {"a": x["a"] + 0.0, "image": (x["image"] - 100.0) * 10.0}
    other = ObservationEmbedding({"a": (), "image": (10, 10)}, SMALL)
    other.load_state_dict(embedding.state_dict())
    other.fit(shifted)
    torch.testing.assert_close(other(shifted), embedding(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "module"])
def test_vectors_are_standardized_by_number_and_arrays_as_one(kind):
    shapes = {"small": (4, 4), "large": (9, 9)}
    config = SMALL if kind == "module" else NetworkConfig(observation_of=dict.fromkeys(shapes, kind))
    modules = {name: nn.Identity() for name in shapes} if kind == "module" else {}
    embedding = ObservationEmbedding(shapes, config, modules)
    embedding.fit({name: random(300, *shape) * torch.arange(1, shape[0] + 1) for name, shape in shapes.items()})
    large, small = part_of(embedding, 0), part_of(embedding, 1)
    assert large.scale.shape == ()
    expected = torch.arange(1.0, 5.0).expand(4, 4)
    torch.testing.assert_close(small.scale.reshape(4, 4), expected, rtol=0.15, atol=0.0)


@pytest.mark.parametrize(
    ("values", "mean", "scale"),
    [
        (torch.zeros(40), 0.0, 1.0),
        (torch.full((40,), 0.1), 0.1, 1.0),
        (torch.tensor([1e30, -1e30] * 20), 0.0, 1e30),
        (torch.tensor([3e38, -3e38] * 20), 0.0, 3e38),
        (torch.tensor([1e-20, 3e-20] * 20), 2e-20, 1e-20),
        (torch.tensor([1e-45, 0.0] * 20), 0.0, 1.0),
        (torch.tensor([1e6 - 1, 1e6 + 1] * 20), 1e6, 1.0),
        (torch.tensor([3, 5] * 20, dtype=torch.int64), 4.0, 1.0),
        (torch.tensor([250, 0] * 20, dtype=torch.uint8), 125.0, 125.0),
        (torch.tensor([True, False] * 20), 0.5, 0.5),
    ],
    ids=["zeros", "constant", "huge", "largest", "tiny", "subnormal", "far", "integers", "bytes", "booleans"],
)
@pytest.mark.parametrize("kind", ["joined", "array"])
def test_odd_values_are_standardized_to_finite_numbers(values, mean, scale, kind):
    shape = () if kind == "joined" else (9, 9)
    x = values if kind == "joined" else values[:, None, None].expand(40, 9, 9)
    embedding = ObservationEmbedding({"x": shape}, SMALL)
    embedding.fit({"x": x})
    part = part_of(embedding)
    assert len(embedding.parts) == 1
    assert float(part.mean) == pytest.approx(mean, rel=1e-6, abs=abs(scale) * 1e-6)
    assert float(part.scale) == pytest.approx(scale, rel=1e-6)
    assert embedding({"x": x}).isfinite().all()


def test_a_fit_in_pieces_is_the_fit_of_all():
    shapes = {"a": (3,), "image": (10, 10)}
    x = {name: 5.0 + random(300, *shape) * torch.linspace(1, 9, shape[-1]) for name, shape in shapes.items()}
    whole, pieces = (ObservationEmbedding(shapes, SMALL) for _ in range(2))
    whole.fit(x)
    cuts = [0, 1, 100, 100, 230, 300]
    pieces.fit_batches({name: x[name][i:j] for name in x} for i, j in pairwise(cuts))
    assert float(part_of(whole).mean[1]) == pytest.approx(float(x["a"][:, 1].mean()), rel=1e-5)
    assert float(part_of(whole).scale[1]) == pytest.approx(float(x["a"][:, 1].std(correction=0)), rel=1e-5)
    for part, same in zip(whole.parts, pieces.parts, strict=True):
        torch.testing.assert_close((part.mean, part.scale), (same.mean, same.scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_a_fit_to_values_that_are_not_finite_is_refused(bad):
    embedding = ObservationEmbedding({"a": (), "b": ()}, SMALL)
    x = torch.ones(100, dtype=torch.float64)
    x[80] = bad
    with pytest.raises(InvalidInputError, match="'b' holds values that are not finite"):
        embedding.fit({"a": torch.ones(100), "b": x})
    assert float(part_of(embedding).mean[0]) == 0.0


def test_a_fit_to_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="no observation to fit to"):
        ObservationEmbedding({"a": ()}, SMALL).fit({"a": torch.zeros(0)})


# -------------------------------------------------------------------------------------------------- a user's own module


def convolution():
    return nn.Sequential(nn.Unflatten(1, (1, 10)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))


def test_a_module_is_given_standardized_observations_and_flattened():
    embedding = ObservationEmbedding({"image": (10, 10)}, SMALL, {"image": nn.Identity()})
    x = 100.0 + 3.0 * random(50, 10, 10)
    embedding.fit({"image": x})
    part = part_of(embedding)
    assert isinstance(part.embedding, ModuleEmbedding)
    last = part.embedding.last
    standard = (x - x.mean()) / x.std(correction=0)
    expected = embedding.joint(torch.relu(last(standard.flatten(1))))
    torch.testing.assert_close(embedding({"image": x}), expected, rtol=1e-4, atol=1e-4)


def test_a_module_learns_and_is_not_copied():
    module = nn.Linear(3, 2)
    embedding = ObservationEmbedding({"a": (3,), "b": ()}, SMALL, {"a": module})
    assert any(parameter is module.weight for parameter in embedding.parameters())
    embedding({"a": random(5, 3), "b": random(5)}).sum().backward()
    assert float(module.weight.grad.abs().sum()) > 0


def test_training_and_inference_modes_reach_a_module():
    embedding = ObservationEmbedding({"image": (10, 10)}, SMALL, {"image": convolution()})
    x = {"image": 1.0 + random(6, 10, 10)}
    embedding.eval()
    before = embedding(x)
    assert torch.equal(embedding(x), before)
    embedding.train()
    assert not torch.equal(embedding(x), embedding(x))
    embedding.eval()
    assert not torch.equal(embedding(x), before), "statistics of the batches have moved"


def test_buffers_of_a_module_travel_with_the_weights():
    one = ObservationEmbedding({"image": (10, 10)}, SMALL, {"image": convolution()})
    x = {"image": 1.0 + random(6, 10, 10)}
    one.train()(x)
    other = ObservationEmbedding({"image": (10, 10)}, SMALL, {"image": convolution()})
    assert not torch.equal(other.eval()(x), one.eval()(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.eval()(x), one.eval()(x))


def test_a_module_in_half_precision_is_accepted():
    embedding = ObservationEmbedding({"a": (3,)}, SMALL, {"a": AsType(torch.bfloat16)})
    assert embedding({"a": random(5, 3)}).dtype == torch.float32


class AsType(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def test_autocast_keeps_the_embedding_close():
    embedding = ObservationEmbedding({"a": (3,), "image": (24, 24)}, NetworkConfig(observation="cnn2d"))
    x = {"a": random(5, 3), "image": random(5, 24, 24)}
    with torch.autocast("cpu", torch.bfloat16):
        found = embedding(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), embedding(x), rtol=0.1, atol=0.02)
