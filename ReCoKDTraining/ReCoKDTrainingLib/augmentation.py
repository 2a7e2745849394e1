"""nnU-Net's default augmentation, from batchgeneratorsv2.

Probabilities and ranges are those of ``nnUNetTrainer.get_training_transforms`` (nnU-Net v2.8).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ReCoKDLib.errors import MissingDependencyError
from ReCoKDLib.plan import Int3, Plan
from ReCoKDLib.resampling import ANISOTROPY_THRESHOLD

PLACES = ("auto", "workers", "device")
_ZOOM = (0.7, 1.4)


def augments_on(device: torch.device, choice: str = "auto") -> bool:
    """Whether whole batches are augmented on the device, so that workers only cut patches out.

    ``auto`` does on CUDA, where that takes a fraction of a step; elsewhere the workers augment, beside the training.
    """
    return choice == "device" or (choice == "auto" and device.type == "cuda")


def is_flat(patch_size: Int3) -> bool:
    """Whether patches are so flat along the first axis that they are rotated and zoomed in the plane only."""
    return max(patch_size) / patch_size[0] > ANISOTROPY_THRESHOLD


def rotation_range(patch_size: Int3) -> tuple[float, float]:
    """Largest rotation about each axis in radians: 30 degrees, or anything in the plane of flat patches."""
    largest = math.pi if is_flat(patch_size) else math.pi / 6
    return -largest, largest


def source_patch_size(patch_size: Int3) -> Int3:
    """Voxels to cut out so that a rotated, zoomed patch of ``patch_size`` has data up to its corners."""
    angle = min(rotation_range(patch_size)[1], math.pi / 2)
    shrink = 0.85  # nnU-Net's own margin, smaller than the zoom's
    needed = [float(n) for n in patch_size]
    for axis in range(3):
        a, b = (other for other in range(3) if other != axis)
        if is_flat(patch_size) and axis != 0:
            continue
        for one, two in ((a, b), (b, a)):
            rotated = abs(patch_size[one] * math.cos(angle)) + abs(patch_size[two] * math.sin(angle))
            needed[one] = max(needed[one], rotated)
    size = [int(n / shrink) for n in needed]
    if is_flat(patch_size):
        size[0] = patch_size[0]
    return size[0], size[1], size[2]


def training_transforms(plan: Plan, mirror_axes: tuple[int, ...] = (0, 1, 2), any_device: bool = False) -> Any:
    """A callable on ``image`` (c, x, y, z) float32 and ``segmentation`` (1, x, y, z) int16 tensors of the source size.

    It returns both at the plan's patch size; voxels outside the image become background.

    Args:
        plan: Patch size, and which channels are masked.
        mirror_axes: Axes that may be flipped.
        any_device: For tensors on any device, and computed there; else for tensors on the CPU.

    Raises:
        MissingDependencyError: batchgeneratorsv2 is not installed.
    """
    try:
        from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
        from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
        from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
        from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
        from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
        from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
        from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
        from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
        from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
        from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
        from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
        from batchgeneratorsv2.transforms.utils.random import RandomTransform
        from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
    except ImportError as error:
        raise MissingDependencyError(
            "Training needs the package batchgeneratorsv2. Install it with: pip install 'recokd[training]'"
        ) from error

    rotated_and_zoomed, noise = SpatialTransform, GaussianNoiseTransform
    if any_device:
        from .device_transforms import AnyDevice, AnyDeviceNoise, AnyDeviceSpatial

        rotated_and_zoomed, noise = AnyDeviceSpatial, AnyDeviceNoise

    flat = is_flat(plan.patch_size)

    def placed(transform: Any) -> Any:
        return AnyDevice(transform) if any_device else transform

    def sometimes(transform: Any, probability: float) -> Any:
        return RandomTransform(placed(transform), apply_probability=probability)

    spatial = rotated_and_zoomed(
        plan.patch_size[1:] if flat else plan.patch_size,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=0,
        p_rotation=0.2,
        rotation=rotation_range(plan.patch_size),
        p_scaling=0.2,
        scaling=_ZOOM,
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    spatial = placed(spatial)
    transforms = [Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if flat else [spatial]
    transforms += [
        sometimes(noise(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True), 0.1),
        sometimes(
            GaussianBlurTransform(
                blur_sigma=(0.5, 1.0), synchronize_channels=False, synchronize_axes=False, p_per_channel=0.5
            ),
            0.2,
        ),
        sometimes(
            MultiplicativeBrightnessTransform(
                multiplier_range=BGContrast((0.75, 1.25)), synchronize_channels=False, p_per_channel=1
            ),
            0.15,
        ),
        sometimes(
            ContrastTransform(
                contrast_range=BGContrast((0.75, 1.25)),
                preserve_range=True,
                synchronize_channels=False,
                p_per_channel=1,
            ),
            0.15,
        ),
        sometimes(
            SimulateLowResolutionTransform(
                scale=(0.5, 1),
                synchronize_channels=False,
                synchronize_axes=True,
                ignore_axes=(0,) if flat else None,
                allowed_channels=None,
                p_per_channel=0.5,
            ),
            0.25,
        ),
    ]
    transforms += [
        sometimes(
            GammaTransform(
                gamma=BGContrast((0.7, 1.5)),
                p_invert_image=inverted,
                synchronize_channels=False,
                p_per_channel=1,
                p_retain_stats=1,
            ),
            probability,
        )
        for inverted, probability in ((1, 0.1), (0, 0.3))
    ]
    if mirror_axes:
        transforms.append(placed(MirrorTransform(allowed_axes=mirror_axes)))
    masked = [channel for channel, use in enumerate(plan.use_mask_for_norm) if use]
    if masked:
        transforms.append(MaskImageTransform(apply_to_channels=masked, channel_idx_in_seg=0, set_outside_to=0))
    transforms.append(RemoveLabelTansform(-1, 0))
    return ComposeTransforms(transforms)
