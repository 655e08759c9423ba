import pytest

pytest.importorskip("torch")
import torch
from torch.nn.utils.rnn import PackedSequence

from tracestore.networks.cores import FeedforwardCore
from tracestore.networks.recurrent import RecurrentCore

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


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_are_stacked(kind, inputs):
    core = RecurrentCore(kind, 4, 6, 3)
    expected = core.cell(PackedSequence(inputs, BATCH_SIZES))[0].data
    torch.testing.assert_close(core(inputs, BATCH_SIZES), expected)


@pytest.mark.parametrize(
    "make", [lambda: RecurrentCore("lstm", 4, 6, 2), lambda: FeedforwardCore(4, 6, 2)], ids=["lstm", "feedforward"]
)
def test_slots_follow_the_packed_pass(make, inputs):
    """Traces that advance in turns, in any slots and after another trace, get what the packed pass gives them."""
    core = make()
    with torch.no_grad():
        outputs = core(inputs, BATCH_SIZES).split(BATCH_SIZES.tolist())
        memory, slots = core.memory(9), [7, 2, 0, 8, 5]
        memory.advance(slots, torch.ones(5, 4))
        for slot in slots:
            memory.restart(slot)
        for step, x in enumerate(inputs.split(BATCH_SIZES.tolist())):
            half = len(x) // 2
            first, second = memory.advance(slots[half : len(x)], x[half:]), memory.advance(slots[:half], x[:half])
            torch.testing.assert_close(torch.cat([second, first]), outputs[step])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_units_start_with_memories_of_one_to_a_hundred_sites(kind):
    """Without inputs, what a unit holds fades by its gate: half of the units keep a share over ten sites."""
    core = RecurrentCore(kind, 4, 200)
    biases = dict(core.cell.named_parameters())
    kept = torch.sigmoid((biases["bias_ih_l0"] + biases["bias_hh_l0"])[200:400].detach())
    lengths = 1.0 / (1.0 - kept)
    assert float(lengths.min()) >= 2.0
    assert 90.0 < float(lengths.max()) <= 101.0
    assert 35.0 < float(lengths.median()) < 65.0
