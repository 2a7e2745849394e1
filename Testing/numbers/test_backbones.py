"""Every backbone of the registry: what its entry says is what the network does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from packages import small_card
from plans import TWO_LABELS, backbone_plan
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.errors import PlanError
from ReCoKDLib.networks import build_network, count_parameters, load_weights, plain_state
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.plan import Architecture, Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume

PATCH = (16, 32, 16)


def changed(architecture: Architecture, **kwargs: Any) -> Architecture:
    return replace(architecture, arch_kwargs={**architecture.arch_kwargs, **kwargs})


# What importers bring besides the registry's own configurations.
VARIANTS: Mapping[str, Architecture] = {
    **{name: backbone_plan(name).architecture for name in BACKBONES},
    "DynUNet without heads": changed(
        backbone_plan("DynUNet").architecture,
        deep_supervision=False,
        res_block=True,
        norm_name=["GROUP", {"num_groups": 8}],
    ),
    "DynUNet, anisotropic": changed(
        backbone_plan("DynUNet").architecture,
        kernel_size=[[1, 3, 3], [3, 3, 3], 3],
        strides=[1, [1, 2, 2], [2, 2, 2]],
        upsample_kernel_size=[[1, 2, 2], 2],
        filters=None,
    ),
    "SegResNet, MONAI's defaults": Architecture("monai.networks.nets.SegResNet", {"init_filters": 8}, ()),
    "UNet, batch norm": Architecture(
        "monai.networks.nets.UNet", {"channels": [8, 16, 32, 32], "strides": [2, 2, 2], "norm": "batch"}, ()
    ),
    "ResidualEncoderUNet with a stem": changed(backbone_plan("ResidualEncoderUNet").architecture, stem_channels=16),
}
variants = pytest.mark.parametrize("architecture", VARIANTS.values(), ids=VARIANTS.keys())
backbones = pytest.mark.parametrize("backbone", BACKBONES)


@variants
@pytest.mark.parametrize("t", [0, 1, 3])
def test_widths_strides_and_stages_are_those_of_the_network(architecture: Architecture, t: int) -> None:
    narrowed = architecture.with_width(t)
    network = build_network(narrowed, 1, 3)
    seen: dict[str, tuple[int, ...]] = {}
    for path in narrowed.stage_paths:
        network.get_submodule(path).register_forward_hook(
            lambda _, __, output, path=path: seen.update({path: tuple(output.shape[1:])})
        )
    with torch.no_grad():
        assert network(torch.zeros(2, 1, *PATCH)).shape == (2, 3, *PATCH)
    size = list(PATCH)
    expected = []
    for channels, stride in zip(narrowed.features_per_stage, narrowed.strides, strict=True):
        size = [n // s for n, s in zip(size, stride, strict=True)]
        expected.append((channels, *size))
    assert [seen[path] for path in narrowed.stage_paths] == expected


@variants
def test_narrow_students_have_the_channels_of_the_method(architecture: Architecture) -> None:
    full = architecture.features_per_stage
    assert architecture.with_width(0).features_per_stage == full
    half = architecture.with_width(1)
    assert half.features_per_stage == tuple(c // 2 for c in full)
    assert 0.2 < _parameters(half) / _parameters(architecture) < 0.35
    narrowest = architecture.with_width(3, minimum=4).features_per_stage
    assert narrowest[0] == max(4, full[0] >> 3)
    if "SegResNet" not in architecture.network_class_name:  # whose widths always double
        assert narrowest == tuple(max(4, c >> 3) for c in full)


def _parameters(architecture: Architecture) -> int:
    with torch.device("meta"):
        return count_parameters(build_network(architecture, 1, 3))


@variants
def test_outputs_under_deep_supervision(architecture: Architecture) -> None:
    """A list, full resolution first, each at its own resolution; the same weights with and without."""
    torch.manual_seed(0)
    network = build_network(architecture, 1, 3, deep_supervision=True)
    plain = build_network(architecture, 1, 3)
    load_weights(plain, network.state_dict())
    for training in (True, False):
        network.train(training)
        outputs = network(torch.ones(2, 1, *PATCH))
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        assert len(outputs) == architecture.outputs
        size = list(PATCH)
        for output, stride in zip(outputs, architecture.strides, strict=False):
            if len(outputs) > 1:
                size = [n // s for n, s in zip(size, stride, strict=True)]
            assert tuple(output.shape) == (2, 3, *size)
        sum(output.sum() for output in outputs).backward()
        plain.train(training)
        assert torch.equal(plain(torch.ones(2, 1, *PATCH)), outputs[0])
    assert all(p.grad is not None for p in network.parameters())


def test_monais_dynunet_gives_the_same_outputs() -> None:
    """MONAI's own way, a stack at full resolution, against ours."""
    nets = pytest.importorskip("monai.networks.nets")
    architecture = backbone_plan("DynUNet", features=(8, 16, 32, 32)).architecture
    ours = build_network(architecture, 1, 3, deep_supervision=True)
    theirs = nets.DynUNet(spatial_dims=3, in_channels=1, out_channels=3, **architecture.arch_kwargs)
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 1, *PATCH)
    listed, stacked = ours(image), theirs(image).unbind(1)
    assert len(listed) == len(stacked) == 3
    for output, large in zip(listed, stacked, strict=True):
        assert torch.equal(torch.nn.functional.interpolate(output, size=PATCH), large)
    assert all(head.numel() == 0 for head in ours.heads)  # type: ignore[union-attr]


@backbones
def test_a_package_of_every_backbone_opens_and_predicts(backbone: str, tmp_path: Path) -> None:
    plan = backbone_plan(backbone, features=(8, 16, 16)).with_width(1)
    torch.manual_seed(0)
    network = build_network(plan.architecture, 1, 3, deep_supervision=True)
    card = small_card(f"blobs-{backbone}", role="student")
    path = write_package(tmp_path / f"{backbone}.recokd.zip", card, plan, TWO_LABELS, [plain_state(network)])
    package = ModelPackage.open(path)
    package.verify()
    assert package.plan == plan
    assert package.card.parameters == count_parameters(network)
    volume = Volume(torch.randn(1, 18, 20, 16).numpy(), torch.eye(4).numpy().astype(float), "noise")
    predictor = Predictor.from_package(package, "cpu")
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        expected = network.eval()(image)
        expected = expected if isinstance(expected, torch.Tensor) else expected[0]
        assert torch.equal(predictor.networks[0](image), expected)
    assert predictor.predict(volume).labels.same_grid(volume)


@variants
def test_plans_are_plain_json(architecture: Architecture) -> None:
    plan = replace(backbone_plan("PlainConvUNet"), patch_size=PATCH, architecture=architecture)
    again = Plan.from_nnunet(json.loads(json.dumps(plan.to_nnunet())))
    assert again == plan
    assert _parameters(again.architecture) == _parameters(architecture)


@variants
def test_a_patch_that_the_strides_do_not_divide_is_refused(architecture: Architecture) -> None:
    divisor = math.prod(stride[1] for stride in architecture.strides)
    patch = (16, 16 + divisor // 2, 16)
    with pytest.raises(PlanError, match="cannot be divided by the network's strides"):
        replace(backbone_plan("PlainConvUNet"), patch_size=patch, architecture=architecture)


def plan_with(network: str, **kwargs: Any) -> dict[str, Any]:
    source = backbone_plan("SegResNet").to_nnunet()
    source["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": network,
        "arch_kwargs": kwargs,
        "_kw_requires_import": [],
    }
    return source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (plan_with("os.system", command="true"), r"'os.system' is not known. Known: .*SegResNet"),
        (plan_with("monai.networks.nets.SegResNet", hook="os.system"), "SegResNet the argument 'hook', which is not"),
        (plan_with("monai.networks.nets.SegResNet", act=object()), "act for SegResNet is not a plain value"),
        (plan_with("monai.networks.nets.SegResNet", blocks_up=[1]), "blocks_up must have one less"),
        (plan_with("monai.networks.nets.UNet", channels=[8, 16]), "lacks 'strides'"),
        (plan_with("monai.networks.nets.DynUNet", strides=[2, 2, 2]), "begins with the stride"),
        (plan_with("monai.networks.nets.DynUNet", strides=[1, 2, 2], filters=[8, 16]), "another number of widths"),
    ],
)
def test_networks_that_cannot_be_had_are_refused_when_the_plan_is_read(source: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_nnunet(source)


def test_what_the_class_itself_refuses_is_said_in_words() -> None:
    plan = Plan.from_nnunet(plan_with("monai.networks.nets.SegResNet", norm=["no such norm", {}]))
    with pytest.raises(PlanError, match=r"cannot be built: .*Restore plans.json"):
        build_network(plan.architecture, 1, 3)


def test_topologies_that_a_backbone_cannot_have() -> None:
    flat = [(1, 1, 1), (1, 2, 2), (1, 2, 2)]
    with pytest.raises(PlanError, match="too flat"):
        Architecture.for_topology("SegResNet", (8, 16, 32), flat, [(3, 3, 3)] * 3)
    with pytest.raises(PlanError, match="at least three stages"):
        Architecture.for_topology("DynUNet", (8, 16), flat[:2], [(3, 3, 3)] * 2)
    halved_twice = [*flat[:2], (2, 2, 2), (2, 2, 2)]
    shallow = Architecture.for_topology("SegResNet", (8, 16, 32, 64), halved_twice, [(3, 3, 3)] * 4)
    assert shallow.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2))
