"""Networks of a flow: patches of any shape, and a first velocity of zero."""

import pytest
import torch

from tracestore.surrogates.flow_network import LayerNetwork, PatchTransformer


def make_network(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> PatchTransformer:
    torch.manual_seed(1)
    return PatchTransformer(shape, patch, 3, width=16, num_blocks=2, num_heads=2, num_context=2, num_hidden=4)


class TestPatchTransformer:
    @pytest.mark.parametrize("patch", [(3, 3, 3), (9, 8, 1), (20, 20, 20)], ids=["cubes", "layers", "larger"])
    def test_patches_come_back_to_their_cells(self, patch: tuple[int, int, int]) -> None:
        network = make_network((9, 8, 7), patch)
        cells = torch.arange(2 * 9 * 8 * 7, dtype=torch.float32).view(2, 9, 8, 7)
        assert torch.equal(network._join(network._cut(cells))[..., 0], cells)

    def test_velocity_is_zero_at_first(self) -> None:
        network = make_network((8, 8, 8), (8, 8, 1))
        assert not network(torch.randn(2, 8, 8, 8), torch.ones(2, 8, 8, 8), torch.ones(2, 3)).any()

    def test_a_patch_sees_the_others(self) -> None:
        network = make_network((8, 8, 8), (8, 8, 1))
        torch.nn.init.ones_(network.cell_out.weight)
        cells = torch.randn(1, 8, 8, 8)
        changed = cells.clone()
        changed[..., 7] += 1.0
        fixed, condition = torch.ones(1, 8, 8, 8), torch.ones(1, 3)
        difference = network(changed, fixed, condition) - network(cells, fixed, condition)
        assert float(difference[..., 0].detach().abs().max()) > 1e-6

    def test_velocity_is_float32_in_a_lower_precision(self) -> None:
        network = make_network((8, 8, 8), (4, 4, 4))
        with torch.autocast("cpu", torch.bfloat16):
            velocity = network(torch.randn(2, 8, 8, 8), torch.ones(2, 8, 8, 8), torch.ones(2, 3))
        assert velocity.dtype == torch.float32


def test_layers_start_with_no_velocity() -> None:
    assert not LayerNetwork(4, 2, 8, 2)(torch.ones(3, 4), torch.ones(3, 2)).any()
