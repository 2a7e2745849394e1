"""Students that start with evenly spaced channels of a wider network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

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


def outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    """As many as it has."""
    made = network(images)
    return [made] if isinstance(made, Tensor) else made


def silence(wide: nn.Module, narrow: nn.Module, step: int) -> None:
    """Make all channels of ``wide`` zero but each ``step``-th one, wherever ``narrow`` has fewer."""
    for one, other in zip(wide.modules(), narrow.modules(), strict=True):
        for name, tensor in one.named_parameters(recurse=False):
            axis = 1 if isinstance(one, nn.ConvTranspose3d) and name == "weight" else 0
            if tensor.shape[axis] > getattr(other, name).shape[axis]:
                left_out = [i for i in range(tensor.shape[axis]) if i % step]
                tensor.data.index_fill_(axis, torch.tensor(left_out), 0)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "SegResNet"])  # its norms mix channels
@pytest.mark.parametrize("width", [1, 2, 3])
def test_what_the_other_channels_do_not_say_is_all_that_is_missing(backbone: str, width: int) -> None:
    architecture = backbone_plan(backbone, features=(32, 64, 96)).architecture
    wide, narrow = network_of(architecture, 0), network_of(architecture.with_width(width), 1)
    silence(wide, narrow, 2**width)
    images = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        before = outputs(narrow, images)
        load_selected_weights(narrow, plain_state(wide))
        for ours, theirs, random in zip(outputs(narrow, images), outputs(wide, images), before, strict=True):
            scale = theirs.std()
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(random / scale, theirs / scale, atol=0.1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("state", [plain_state, nn.Module.state_dict])
def test_every_backbone_gives_to_a_narrower_one_and_to_its_like(
    backbone: str, state: Callable[[nn.Module], dict[str, Tensor]]
) -> None:
    architecture = backbone_plan(backbone, features=(16, 32, 40)).architecture
    wide = state(network_of(architecture, 0))
    same, narrow = network_of(architecture, 1), network_of(architecture.with_width(1), 1)
    load_selected_weights(same, wide)
    assert all(torch.equal(tensor, wide[key]) for key, tensor in plain_state(same).items())
    load_selected_weights(narrow, wide)
    for key, tensor in plain_state(narrow).items():
        chosen = wide[key]
        for axis, (many, few) in enumerate(zip(chosen.shape, tensor.shape, strict=True)):
            if many != few:
                assert many == 2 * few
                chosen = chosen.index_select(axis, torch.arange(0, many, 2))
        assert torch.equal(tensor, chosen)


@pytest.mark.parametrize("backbone", ["PlainConvUNet", "UNet", "ResidualEncoderUNet"])
def test_layers_that_are_narrower_by_different_factors_are_refused(backbone: str) -> None:
    """A x1/8 student of 8 channels has 4, and of 64 has 8."""
    architecture = backbone_plan(backbone, features=(8, 16, 64)).architecture
    wide, narrow = network_of(architecture, 0), network_of(architecture.with_width(3), 1)
    before = {key: tensor.clone() for key, tensor in narrow.state_dict().items()}
    with pytest.raises(PlanError, match="by another factor than others. Start from a model of the same backbone"):
        load_selected_weights(narrow, plain_state(wide))
    assert all(torch.equal(tensor, before[key]) for key, tensor in narrow.state_dict().items())


@pytest.mark.parametrize(
    "given", [nn.Conv3d(2, 4, 3), nn.Conv3d(4, 8, 1), nn.Conv2d(4, 8, 3), nn.Conv3d(4, 8, 3, bias=False)]
)
def test_a_narrower_one_and_another_kernel_are_refused(given: nn.Module) -> None:
    layer = nn.Conv3d(4, 4, 3)
    before = layer.weight.clone()
    with pytest.raises(PlanError, match="The weights do not fit the plan: (weight|bias).* Start from a model"):
        load_selected_weights(layer, given.state_dict())
    assert torch.equal(layer.weight, before)
