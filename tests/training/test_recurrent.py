import pytest

pytest.importorskip("torch")
import torch
from torch.nn.utils.rnn import PackedSequence

from tracestore.training.recurrent import RecurrentCore

BATCH_SIZES = torch.tensor([5, 5, 3, 1])


@pytest.fixture(params=["lstm", "gru"])
def core(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return RecurrentCore(request.param, 4, 6)


@pytest.fixture
def inputs():
    return torch.randn(int(BATCH_SIZES.sum()), 4, generator=torch.Generator().manual_seed(2))


def test_the_unrolled_pass_equals_the_fused_one(core, inputs):
    found = core(inputs, BATCH_SIZES)
    expected = core.cell(PackedSequence(inputs, BATCH_SIZES))[0].data
    torch.testing.assert_close(found, expected)
    weights = list(core.parameters())
    for one, two in zip(
        torch.autograd.grad(found.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_single_steps_equal_the_packed_pass(core, inputs):
    outputs = core(inputs, BATCH_SIZES).split(BATCH_SIZES.tolist())
    state = torch.zeros(core.num_states, 5, 6)
    for step, x in enumerate(inputs.split(BATCH_SIZES.tolist())):
        state = core.step(x, state[:, : len(x)])
        torch.testing.assert_close(state[0], outputs[step])
