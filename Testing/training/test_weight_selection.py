"""Students that start with evenly spaced channels of a wider network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from plans import backbone_plan
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.errors import PlanError
from ReCoKDLib.networks import build_network, plain_state
from ReCoKDLib.plan import Architecture
from ReCoKDTrainingLib.weight_selection import load_selected_weights


def network_of(architecture: Architecture, seed: int) -> nn.Module:
    """With weights, norms and biases that are all random."""
    torch.manual_seed(seed)
    network = build_network(architecture, 2, 3, deep_supervision=True)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn_like(tensor))
    return network.eval()


def silence(wide: nn.Module, narrow: nn.Module, step: int) -> None:
    """Make all channels of ``wide`` zero but each ``step``-th one, wherever ``narrow`` has fewer."""
    for one, other in zip(wide.modules(), narrow.modules(), strict=True):
        for name, tensor in one.named_parameters(recurse=False):
            axis = 1 if isinstance(one, nn.ConvTranspose3d) and name == "weight" else 0
            if tensor.shape[axis] > getattr(other, name).shape[axis]:
                left_out = [i for i in range(tensor.shape[axis]) if i % step]
                tensor.data.index_fill_(axis, torch.tensor(left_out), 0)


@pytest.mark.parametrize("backbone", ["PlainConvUNet", "ResidualEncoderUNet", "DynUNet"])  # a norm to each channel
@pytest.mark.parametrize("width", [1, 2])
def test_what_the_other_channels_do_not_say_is_all_that_is_missing(backbone: str, width: int) -> None:
    architecture = backbone_plan(backbone, features=(16, 32, 40)).architecture
    wide, narrow = network_of(architecture, 0), network_of(architecture.with_width(width), 1)
    silence(wide, narrow, 2**width)
    images = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        before = narrow(images)
        load_selected_weights(narrow, plain_state(wide))
        for ours, theirs, random in zip(narrow(images), wide(images), before, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(random, theirs, atol=0.1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_to_a_narrower_one_and_to_its_like(backbone: str) -> None:
    architecture = backbone_plan(backbone, features=(16, 32, 40)).architecture
    wide = plain_state(network_of(architecture, 0))
    same, narrow = network_of(architecture, 1), network_of(architecture.with_width(1), 1)
    load_selected_weights(same, wide)
    assert all(torch.equal(tensor, wide[key]) for key, tensor in plain_state(same).items())
    load_selected_weights(narrow, wide)
    for key, tensor in plain_state(narrow).items():
        assert torch.isin(tensor, wide[key]).all()


def test_channels_that_are_no_divisor_are_spread() -> None:
    layer = nn.Conv3d(1, 3, 1)
    load_selected_weights(layer, {"weight": torch.arange(8.0).reshape(8, 1, 1, 1, 1), "bias": torch.arange(8.0)})
    assert [tensor.flatten().tolist() for tensor in layer.parameters()] == [[0, 2, 5], [0, 2, 5]]


@pytest.mark.parametrize(
    "given", [nn.Conv3d(2, 4, 3), nn.Conv3d(4, 8, 1), nn.Conv2d(4, 8, 3), nn.Conv3d(4, 8, 3, bias=False)]
)
def test_a_narrower_one_and_another_kernel_are_refused(given: nn.Module) -> None:
    layer = nn.Conv3d(4, 4, 3)
    before = layer.weight.clone()
    with pytest.raises(PlanError, match="The weights do not fit the plan: (weight|bias)"):
        load_selected_weights(layer, given.state_dict())
    assert torch.equal(layer.weight, before)
