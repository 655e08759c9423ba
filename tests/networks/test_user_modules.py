import json
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load, save
from torch import nn

from tracestore.errors import CheckpointMismatchError, InvalidInputError
from tracestore.networks.config import NetworkConfig
from tracestore.networks.observations import ObservationEmbedding
from tracestore.networks.user_modules import ModuleEmbedding, ModuleRecord, require_modules

SHAPES = {"image": (10, 10), "obs0": ()}


class Conv(nn.Module):
    def __init__(self, channels=4, stride=1):
        super().__init__()
        self.layer = nn.Conv2d(1, channels, 3, stride=stride)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(self.layer(x.unsqueeze(1))).relu()


class OtherConv(Conv):
    pass


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# ------------------------------------------------------------------------------------------------------- the dry run


def test_the_width_is_found_by_trying():
    assert ModuleEmbedding(Conv(), "image", (10, 12), 8).last.in_features == 4 * 8 * 10


def test_one_number_a_trace_is_enough():
    assert ModuleEmbedding(Function(lambda x: x.sum((1, 2))), "image", (10, 12), 8).last.in_features == 1


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: x.flatten(), r"shape \(200,\), and shape \(300,\) for a batch of 3"),
        (lambda x: x.mean(), r"shape \(\), and"),
        (lambda x: x.transpose(0, 1), r"shape \(10, 2, 10\)"),
        (lambda x: x.new_zeros(2, 5), r"shape \(2, 5\), and shape \(2, 5\) for a batch of 3"),
        (lambda x: x.new_zeros(len(x), len(x)), r"shape \(2, 2\), and shape \(3, 3\)"),
        (lambda x: x[:, :0], r"shape \(2, 0, 10\)"),
        (lambda x: x / x, "values that are not finite"),
        (lambda x: x.log().flatten(1), "values that are not finite"),
        (lambda x: x.int(), "numbers of type torch.int32"),
        (lambda x: (x, x), "an object of class tuple"),
        (lambda _: None, "an object of class NoneType"),
    ],
    ids=["flat", "scalar", "transposed", "fixed", "pairs", "empty", "nan", "infinite", "integers", "tuple", "none"],
)
def test_a_module_that_returns_something_else_is_refused(function, found):
    with pytest.raises(InvalidInputError, match=rf"class Function for observation 'image' .* it returned {found}"):
        ModuleEmbedding(Function(function), "image", (10, 10), 8)


def test_something_else_than_a_module_is_refused():
    function: Any = lambda x: x  # noqa: E731
    with pytest.raises(InvalidInputError, match=r"'image' must be a torch.nn.Module; got function"):
        ModuleEmbedding(function, "image", (10, 10), 8)


def test_an_error_of_the_module_itself_says_where_it_came_from():
    with pytest.raises(RuntimeError) as caught:
        ModuleEmbedding(nn.Linear(7, 2), "image", (10, 10), 8)
    assert "by the module for observation 'image'" in caught.value.__notes__[0]


def test_state_that_cannot_be_saved_is_refused():
    class Counting(nn.Identity):
        def get_extra_state(self):
            return {"calls": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(InvalidInputError, match="not a tensor and cannot be saved: _extra_state"):
        ModuleEmbedding(Counting(), "image", (10, 10), 8)


def test_trying_a_module_leaves_no_trace():
    module = nn.Sequential(Conv(), nn.Dropout(0.5), nn.BatchNorm2d(4))
    module[2].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.random.get_rng_state()
    ModuleRecord.of(module)
    require_modules({"image": ModuleRecord.of(module).to_json()}, {"image": module}, SHAPES)
    assert [part.training for part in (module, module[0], module[1], module[2])] == [True, True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_trying_a_module_that_draws_numbers_moves_no_stream():
    state = torch.random.get_rng_state()
    module = Function(lambda x: x + torch.randn(x.shape))
    record = {"image": ModuleRecord.of(module).to_json()}
    require_modules(record, {"image": module}, SHAPES)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_lazy_layers_get_their_shapes():
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    embedding = ObservationEmbedding(SHAPES, NetworkConfig(observation_size=8), {"image": module})
    assert embedding.module_records["image"].shapes == {"1.weight": (5, 100), "1.bias": (5,)}


# -------------------------------------------------------------------------------------------------- loading once more


def saved(module):
    embedding = ObservationEmbedding(SHAPES, NetworkConfig(observation_size=8), {"image": module})
    records = {name: record.to_json() for name, record in embedding.module_records.items()}
    return json.loads(json.dumps(records)), embedding


def test_a_module_comes_back_from_json_and_safetensors():
    records, embedding = saved(Conv())
    embedding.train()({"image": torch.ones(3, 10, 10), "obs0": torch.ones(3)})
    tensors = load(save({name: tensor.contiguous() for name, tensor in embedding.state_dict().items()}))
    module = Conv()
    require_modules(records, {"image": module}, SHAPES)
    again = ObservationEmbedding(SHAPES, NetworkConfig(observation_size=8), {"image": module})
    again.load_state_dict(tensors)
    x = {"image": torch.full((3, 10, 10), 0.5), "obs0": torch.ones(3)}
    assert torch.equal(again.eval()(x), embedding.eval()(x))
    assert float(module.norm.running_mean.abs().sum()) > 0


def test_lazy_layers_are_like_the_ones_they_became():
    records, _ = saved(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)))
    require_modules(records, {"image": nn.Sequential(nn.Flatten(), nn.LazyLinear(5))}, SHAPES)


@pytest.mark.parametrize("modules", [None, {}, {"obs0": Conv()}], ids=["none", "empty", "elsewhere"])
def test_a_module_that_is_missing_is_named(modules):
    records, _ = saved(Conv())
    sentence = r"a module of class .*test_user_modules\.Conv for observation 'image', which is not given.*modules="
    with pytest.raises(CheckpointMismatchError, match=sentence):
        require_modules(records, modules, SHAPES)


def test_a_module_that_was_not_there_is_refused():
    with pytest.raises(CheckpointMismatchError, match=r"trained without a module for observation 'image'; .* Conv"):
        require_modules({}, {"image": Conv()}, SHAPES)


@pytest.mark.parametrize(
    ("module", "difference"),
    [
        (OtherConv(), r"given is one of class .*\.OtherConv"),
        (Conv(channels=5), r"its tensor 'layer.bias' has shape \(5,\) instead of \(4,\)"),
        (Conv(stride=2), r"its text form differs in `\(layer\): Conv2d\(.*stride=\(1, 1\)\)`"),
    ],
    ids=["class", "shape", "setting"],
)
def test_a_module_that_differs_is_refused_with_the_difference(module, difference):
    records, _ = saved(Conv())
    with pytest.raises(CheckpointMismatchError, match=rf"'image' is not like .*\.Conv: {difference}"):
        require_modules(records, {"image": module}, SHAPES)


def test_a_tensor_that_is_absent_is_named():
    record = ModuleRecord.of(nn.Linear(2, 3))
    with pytest.raises(CheckpointMismatchError, match=r"tensor 'bias' has shape absent instead of \(3,\)"):
        record.require_same(nn.Linear(2, 3, bias=False), "image")


def test_a_class_of_a_script_is_the_same_when_it_is_imported():
    fields = {**ModuleRecord.of(Conv()).to_json(), "class": "__main__.Conv"}
    ModuleRecord.from_json(fields).require_same(Conv(), "image")
    with pytest.raises(CheckpointMismatchError, match="OtherConv"):
        ModuleRecord.from_json(fields).require_same(OtherConv(), "image")


def test_places_in_memory_do_not_tell_modules_apart():
    class Named(nn.Identity):
        def __init__(self):
            super().__init__()
            self.mark = object()

        def extra_repr(self):
            return repr(self.mark)

    one, other = Named(), Named()
    assert repr(one) != repr(other)
    ModuleRecord.of(one).require_same(other, "image")
