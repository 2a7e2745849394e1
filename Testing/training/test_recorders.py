"""Recorders: the features are the network's own, and nothing of a step stays behind."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from plans import backbone_plan
from ReCoKDLib.backbones import BACKBONES
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.networks import build_network
from ReCoKDLib.plan import Int3
from ReCoKDTrainingLib.recorders import EncoderDecoderRecorder, HookRecorder, pair_stages, recorder_for

backbones = pytest.mark.parametrize("backbone", BACKBONES)
ONE, TWO = (1, 1, 1), (2, 2, 2)


def images() -> Tensor:
    return torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def made(backbone: str, deep_supervision: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return build_network(backbone_plan(backbone).architecture, 1, 3, deep_supervision)


@pytest.mark.parametrize("backbone", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_hooks_see_what_the_encoder_returns(backbone: str) -> None:
    architecture, network = backbone_plan(backbone).architecture, made(backbone)
    hooks = HookRecorder(architecture.stage_paths, architecture.features_per_stage, architecture.strides)
    plain = EncoderDecoderRecorder()
    assert isinstance(recorder_for(architecture), EncoderDecoderRecorder)
    assert hooks.channels(network) == plain.channels(network)
    assert hooks.strides(network) == plain.strides(network)
    assert all(hooks.shared_weight(network, k) is plain.shared_weight(network, k) for k in range(3))
    ours, theirs = hooks.run(network, images(), True), plain.run(network, images(), True)
    assert len(ours.features) == len(theirs.features) == 3
    assert all(torch.equal(a, b) for a, b in zip(ours.features, theirs.features, strict=True))
    assert len(ours.logits) == len(theirs.logits) == 2
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


@pytest.mark.parametrize("backbone", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_the_decoders_stages_follow_the_encoders(backbone: str) -> None:
    architecture, network = backbone_plan(backbone).architecture, made(backbone)
    encoder, both = (recorder_for(architecture, decoder) for decoder in (False, True))
    plain, recorded = (recorder.run(network, images(), True) for recorder in (encoder, both))
    assert [f.shape for f in recorded.features[3:]] == [f.shape for f in plain.features[:2]]
    for before, after in zip((*plain.features, *plain.logits), (*recorded.features[:3], *recorded.logits), strict=True):
        assert torch.equal(before, after)
    layers = list(reversed(network.decoder.seg_layers))  # type: ignore[union-attr, arg-type]
    for feature, layer, logits in zip(recorded.features[3:], layers, recorded.logits, strict=True):
        assert torch.equal(layer(feature), logits)
    assert len(both.run(network, images(), False).features) == 3
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ReCoKDError, match="nnU-Net's own networks only, not in SegResNet"):
        recorder_for(backbone_plan("SegResNet").architecture, True)


@backbones
def test_every_backbone_is_recorded_and_left_as_it_was(backbone: str) -> None:
    architecture, network = backbone_plan(backbone).architecture, made(backbone)
    recorder = recorder_for(architecture)
    before = [len(module._forward_hooks) for module in network.modules()]
    outputs = recorder.run(network, images(), True)
    assert tuple(f.shape[1] for f in outputs.features) == recorder.channels(network) == architecture.features_per_stage
    assert len(outputs.logits) == architecture.outputs
    assert outputs.logits[0].shape == (2, 3, 16, 16, 16)
    expected = network(images())
    assert torch.equal(outputs.logits[0], expected if isinstance(expected, Tensor) else expected[0])
    assert [len(module._forward_hooks) for module in network.modules()] == before
    assert all(feature.requires_grad for feature in outputs.features)
    for k in range(3):
        (gradient,) = torch.autograd.grad(
            outputs.features[k].square().sum(), recorder.shared_weight(network, k), retain_graph=True
        )
        assert torch.isfinite(gradient).all()
        # Of a residual block the last norm starts at zero, and so does this gradient.
        assert gradient.abs().max() > 0 or backbone == "ResidualEncoderUNet"


@backbones
def test_features_alone_end_at_the_last_stage(backbone: str) -> None:
    network = made(backbone, deep_supervision=False).eval()
    recorder = recorder_for(backbone_plan(backbone).architecture)
    ran: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = recorder.run(network, images(), True)
        everything = ran.copy()
        ran.clear()
        part = recorder.run(network, images(), False)
        assert torch.is_autocast_enabled("cpu")
    assert len(ran) < len(everything)
    assert ran == everything[: len(ran)]
    assert not [name for name in ran if name.startswith(("decoder", "up", "output_block", "conv_final", "model.2"))]
    assert part.logits == ()
    assert all(torch.equal(a, b) for a, b in zip(part.features, whole.features, strict=True))
    assert not any(feature.requires_grad for feature in part.features)


@backbones
def test_no_tensor_outlives_its_step(backbone: str) -> None:
    network = made(backbone)
    outputs = recorder_for(backbone_plan(backbone).architecture).run(network, images(), True)
    kept = [weakref.ref(tensor) for tensor in (*outputs.features, *outputs.logits)]
    del outputs
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []


def test_a_pass_that_fails_leaves_no_hook() -> None:
    network = made("SegResNet")
    with pytest.raises(RuntimeError):
        recorder_for(backbone_plan("SegResNet").architecture).run(network, images()[:, :, :3], True)
    assert not any(module._forward_hooks for module in network.modules())


def test_strides_may_be_single_numbers() -> None:
    plan = backbone_plan("PlainConvUNet").architecture
    numbers = replace(plan, arch_kwargs={**plan.arch_kwargs, "strides": [1, 2, [1, 2, 2]]})
    assert EncoderDecoderRecorder().strides(build_network(numbers, 1, 3)) == (ONE, TWO, (1, 2, 2)) == numbers.strides


def test_sums_of_residuals_are_brought_to_where_nnunets_stages_end() -> None:
    """Whatever their scale: one loss weight must do for all teachers."""
    architecture, network = backbone_plan("SegResNet").architecture, made("SegResNet")
    bare = HookRecorder(architecture.stage_paths, architecture.features_per_stage, architecture.strides)
    raw = bare.run(network, images(), False).features
    recorded = recorder_for(architecture).run(network, images(), False).features
    assert raw[0].min() < -0.5
    for ours, theirs in zip(recorded, raw, strict=True):
        flat = theirs.flatten(2)
        scale = (flat.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        normal = ((flat - flat.mean(2, keepdim=True)) / scale).view_as(theirs)
        torch.testing.assert_close(ours, torch.where(normal > 0, normal, 0.01 * normal), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        network.get_submodule("convInit").get_parameter("conv.weight").mul_(100)
    large = recorder_for(architecture).run(network, images(), False).features
    torch.testing.assert_close(large[0].std(), recorded[0].std(), rtol=0.2, atol=0)


@backbones
def test_only_sums_of_residuals_are_changed(backbone: str) -> None:
    recorder = recorder_for(backbone_plan(backbone).architecture)
    assert getattr(recorder, "activate", False) is (backbone in ("SegResNet", "UNet"))


def test_a_stage_of_one_voxel_is_recorded() -> None:
    network = made("SegResNet").train()
    recorder = recorder_for(backbone_plan("SegResNet").architecture)
    features = recorder.run(network, torch.randn(1, 1, 4, 4, 4), True).features
    assert features[-1].shape[2:] == (1, 1, 1)
    assert torch.isfinite(features[-1]).all()


class Checkpointed(nn.Module):
    """Two stages and a head, each run again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Conv3d(a, b, 3, padding=1) for a, b in ((1, 4), (4, 4), (4, 3)))

    def forward(self, x: Tensor) -> Tensor:
        for stage in (self.first, self.second, self.head):
            x = checkpoint(stage, x, use_reentrant=False)
        return x


def test_activation_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    network = Checkpointed()
    recorder = HookRecorder(["first", "second"], [4, 4], [ONE, ONE])
    outputs = recorder.run(network, images(), True)
    torch.autograd.backward(sum((f.square().mean() for f in outputs.features), outputs.logits[0].mean()))
    one = images()
    first = network.first(one)
    second = network.second(first)
    loss = first.square().mean() + second.square().mean() + network.head(second).mean()
    for expected, parameter in zip(
        torch.autograd.grad(loss, list(network.parameters())), network.parameters(), strict=True
    ):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected)


def test_under_distributed_data_parallel(tmp_path: Path) -> None:
    plain = made("SegResNet")
    recorder = recorder_for(backbone_plan("SegResNet").architecture)
    distributed.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(copy.deepcopy(plain))
        for network in (plain, wrapped):
            for _ in range(2):  # a second pass fails where the first left gradients outstanding
                outputs = recorder.run(network, images(), True)
                torch.autograd.backward(outputs.logits[0].mean() + sum(f.square().mean() for f in outputs.features))
        assert recorder.shared_weight(wrapped, 0) is recorder.shared_weight(wrapped.module, 0)
        for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
            assert a.grad is not None
            assert b.grad is not None
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ([ONE, TWO, TWO], [ONE, TWO, TWO], (0, 1, 2)),
        ([ONE, TWO, TWO], [ONE, TWO, TWO, TWO, TWO], (0, 1, 2)),
        ([ONE, TWO, TWO, TWO], [ONE, TWO], (0, 1, 1, 1)),
        ([ONE, TWO, TWO, TWO], [TWO, TWO, TWO, ONE], (0, 0, 1, 3)),  # MONAI's UNet as the teacher
        ([TWO, TWO, TWO, ONE], [TWO, TWO, TWO, ONE], (0, 1, 2, 3)),
        ([ONE, (1, 2, 2), TWO], [ONE, TWO, TWO], (0, 1, 2)),
        ([ONE, (1, 2, 2), (1, 2, 2)], [ONE, TWO, TWO, TWO], (0, 1, 2)),
    ],
)
def test_stages_are_paired_by_their_resolution(
    student: list[Int3], teacher: list[Int3], pairs: tuple[int, ...]
) -> None:
    assert pair_stages(student, teacher) == pairs
