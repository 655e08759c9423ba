import pytest

pytest.importorskip("torch")
import torch

from tracestore.errors import InvalidInputError
from tracestore.training.config import NetworkConfig
from tracestore.training.embeddings import ObservationEmbedding, ValueEmbedding

SMALL = NetworkConfig(observation_size=8)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


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


def test_inputs_are_standardized_and_constants_survive():
    embedding = ObservationEmbedding({"a": (), "image": (10, 10)}, SMALL)
    x = {"a": torch.full((50,), 7.0), "image": 100.0 + 3.0 * random(50, 10, 10)}
    embedding.fit(x)
    assert (float(embedding.flat_mean[0]), float(embedding.flat_scale[0])) == (7.0, 1.0)
    assert float(embedding.array_mean[0]) == pytest.approx(100.0, abs=0.2)
    shifted = {"a": x["a"] + 0.0, "image": (x["image"] - 100.0) * 10.0}
    other = ObservationEmbedding({"a": (), "image": (10, 10)}, SMALL)
    other.load_state_dict(embedding.state_dict())
    other.fit(shifted)
    torch.testing.assert_close(other(shifted), embedding(x), rtol=1e-4, atol=1e-4)


def test_the_paper_embedding_has_its_shape_and_refuses_small_arrays():
    config = NetworkConfig(observation="cnn3d", observation_size=8)
    embedding = ObservationEmbedding({"voxels": (20, 35, 35)}, config)
    assert embedding({"voxels": random(1, 20, 35, 35)}).shape == (1, 8)
    with pytest.raises(
        InvalidInputError, match=r"'voxels' of shape \(8, 35, 35\) is too small .* `observation='light'`"
    ):
        ObservationEmbedding({"voxels": (8, 35, 35)}, config)


def test_without_observations_there_is_nothing_to_learn_from():
    with pytest.raises(InvalidInputError, match="at least one named observation"):
        ObservationEmbedding({}, SMALL)


def test_values_are_embedded_on_a_line_between_knots_and_by_category():
    embedding = ValueEmbedding(1)
    embedding.grow(torch.tensor([[0.0], [1.0], [4.0], [10.0], [20.0]]))
    first, count = torch.tensor([0, 0, 0, 3, 3]), torch.tensor([3, 3, 3, 2, 2])
    found = embedding(first, count, torch.tensor([0.5, 1.5, 2.0, 0.0, 1.0]))
    assert found.squeeze(1).tolist() == [0.5, 2.5, 4.0, 10.0, 20.0]
