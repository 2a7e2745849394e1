"""From a dataset's fingerprint to a plan, by the rules of nnU-Net v2's planners for 3d_fullres.

Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 18, 203-211, 2021. The same fingerprint gives the same network, patch, spacing and batch here
and there; nnU-Net need not be installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import DatasetError, PlanError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.plan import DEFAULT_RESAMPLING, Float3, Int3, Plan
from ReCoKDLib.resampling import ANISOTROPY_THRESHOLD, resampled_shape

from .fingerprint import Fingerprint
from .presets import PRESETS, Budget
from .topology import Topology, kernels_for, topology_for, topology_within

Floats = npt.NDArray[np.float64]

_MIN_BATCH_SIZE = 2
_INITIAL_PATCH_EDGE = 256  # the search starts from a patch of this edge cubed
_COARSER_BELOW = 0.25  # share of the median image in a patch below which nnU-Net adds a coarser configuration
_COARSER_STEP = 1.03
_SCHEMES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


def plan_dataset(
    fingerprint: Fingerprint,
    channel_names: Sequence[str],
    label_set: LabelSet,
    *,
    dataset_name: str = "",
    planner: str = "default",
    memory_gb: float | None = None,
    spacing: Float3 | None = None,
) -> Plan:
    """Make the 3d_fullres plan of a dataset.

    Args:
        fingerprint: Of the training cases.
        channel_names: ``CT`` chooses CT normalisation; ``noNorm``, ``zscore``, ``rescale_to_0_1`` and
            ``rgb_to_0_1`` those of their names; anything else is normalised to zero mean and unit variance of
            each image.
        label_set: Of the dataset.
        dataset_name: For the record.
        planner: Name in :data:`.presets.PRESETS`.
        memory_gb: GPU memory that a training step may take; patch and batch are cut to it. None is the planner's own.
        spacing: Voxel size along the image's (k, j, i) in place of the one found, mm.

    Raises:
        DatasetError: Channels differ from the fingerprint's, or the images are flat or too small for a 3D
            network.
        PlanError: There is no such planner, or the memory does not suffice for the smallest network.
    """
    if len(channel_names) != fingerprint.channels:
        raise DatasetError(
            f"dataset.json names {len(channel_names)} channels and the fingerprint has "
            f"{fingerprint.channels}. Make the fingerprint anew."
        )
    if planner not in PRESETS:
        raise PlanError(f"There is no planner {planner!r}. There are: {', '.join(PRESETS)}.")
    preset = PRESETS[planner]
    if memory_gb is None:
        memory_gb = preset.memory_gb
    if not memory_gb > 0:
        raise PlanError(f"The memory for training must be positive; it is {memory_gb} GB.")
    if spacing is not None and not min(spacing) > 0:
        raise PlanError(f"The voxel size must be positive; it is {spacing} mm.")
    target = target_spacing(fingerprint) if spacing is None else spacing
    forward = _coarsest_first(target)
    backward = cast(Int3, tuple(forward.index(axis) for axis in range(3)))
    order = list(forward)
    shapes = [resampled_shape(case.shape_after_crop, case.spacing, target) for case in fingerprint.cases]
    median_shape = np.median(shapes, axis=0)[order]
    ordered_spacing = cast(Float3, tuple(target[axis] for axis in order))
    if median_shape[0] == 1:
        raise DatasetError("The images have a single slice. A 3D network needs volumes; stack the slices first.")
    heads = len(label_set.to_dataset_json()["labels"])  # as nnU-Net counts them: names, background and ignore included
    budget = Budget(preset, heads, memory_gb)
    topology = _largest_topology(ordered_spacing, median_shape, budget)
    if topology.stages < 2:
        raise DatasetError(
            f"The images are too small to be pooled once (median {[float(n) for n in median_shape]} voxels). "
            "Crop them less, or train at a smaller voxel size."
        )
    schemes = tuple(_SCHEMES.get(name.casefold(), "ZScoreNormalization") for name in channel_names)
    mostly_empty = fingerprint.median_relative_size_after_cropping < 0.75
    return Plan(
        dataset_name=dataset_name,
        plans_name=preset.plans_name,
        configuration="3d_fullres",
        spacing=ordered_spacing,
        patch_size=topology.patch_size,
        batch_size=_batch_size(topology, budget, float(np.prod(median_shape)) * len(fingerprint.cases)),
        batch_dice=_wants_coarser(ordered_spacing, median_shape, topology, budget),
        normalization_schemes=schemes,
        use_mask_for_norm=tuple(mostly_empty and scheme == "ZScoreNormalization" for scheme in schemes),
        transpose_forward=forward,
        transpose_backward=backward,
        intensity_properties=fingerprint.foreground_intensities,
        architecture=topology.architecture(preset.backbone),
        resampling=DEFAULT_RESAMPLING,
        median_shape=_float3(median_shape),
        original_median_spacing=_float3(np.median(fingerprint.spacings, axis=0)[order]),
    )


def with_backbone(plan: Plan, backbone: str) -> Plan:
    """The same plan with the full-size network of another backbone (a name in ``backbones.BACKBONES``).

    Its stages are those of the plan's network, so that the two line up; where that network begins with a stride or
    has a stage without one, they are chosen by nnU-Net's rules for the plan's patch.

    Raises:
        PlanError: The backbone has no network for this patch.
    """
    strides = plan.architecture.strides
    if strides[0] == (1, 1, 1) and (1, 1, 1) not in strides[1:]:
        topology = Topology(plan.patch_size, strides, kernels_for(plan.spacing, strides))
    else:
        topology = topology_within(plan.spacing, plan.patch_size)
    return replace(
        plan,
        architecture=topology.architecture(backbone),
    )


def target_spacing(fingerprint: Fingerprint) -> Float3:
    """The voxel size to train at along the image's (k, j, i), mm.

    The median of the cases; but where one axis is more than three times as coarse and has less than a third
    of the voxels of the others, the finest tenth of the cases decides for that axis, since interpolating
    thick slices invents little and discarding thin ones loses much.
    """
    spacings, shapes = fingerprint.spacings, fingerprint.shapes_after_crop
    target: Floats = np.percentile(spacings, 50, axis=0)
    size = np.percentile(shapes, 50, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    in_plane = max(target[others])
    if target[coarse] > ANISOTROPY_THRESHOLD * in_plane and size[coarse] * ANISOTROPY_THRESHOLD < min(size[others]):
        finest = float(np.percentile(spacings[:, coarse], 10))
        # Never finer than the plane; nnU-Net adds a hair, so that the axis stays the coarsest.
        target[coarse] = finest if finest >= in_plane else in_plane + 1e-5
    return _float3(target)


def _float3(values: npt.ArrayLike) -> Float3:
    a, b, c = (float(v) for v in np.asarray(values))
    return a, b, c


def _coarsest_first(spacing: Float3) -> Int3:
    """Axis order in which the coarsest axis comes first and the others stay in order."""
    coarse = int(np.argmax(spacing))
    a, b = (axis for axis in range(3) if axis != coarse)
    return coarse, a, b


def _largest_topology(spacing: Float3, median_shape: Floats, budget: Budget) -> Topology:
    """The largest patch, from a cube in mm no larger than the median image down, whose network fits."""
    finer = 1 / np.array(spacing)
    cube = finer * (_INITIAL_PATCH_EDGE**3 / np.prod(finer)) ** (1 / 3)
    topology = topology_for(spacing, [min(round(edge), n) for edge, n in zip(cube, median_shape, strict=True)])
    while budget.cost(topology) > budget.values:
        if topology.stages < 2:
            raise PlanError(
                "The memory for training does not suffice for the smallest network. "
                "Allow more, or use a larger voxel size."
            )
        # The axis that covers most of the image gives way; of equals the last.
        covered = [n / whole for n, whole in zip(topology.patch_size, median_shape, strict=True)]
        axis = max(range(3), key=lambda a: (covered[a], a))
        # A whole step may lose a pooling; then the smaller network's finer step is enough.
        step = topology_for(spacing, _shorter(topology, axis, topology.divisor[axis])).divisor[axis]
        topology = topology_for(spacing, _shorter(topology, axis, step))
    return topology


def _shorter(topology: Topology, axis: int, step: int) -> list[int]:
    patch = list(topology.patch_size)
    patch[axis] -= step
    return patch


def _batch_size(topology: Topology, budget: Budget, dataset_voxels: float) -> int:
    """As many patches as the memory holds, within the planner's share of the dataset's voxels, and two at least."""
    by_memory = round(budget.values / budget.cost(topology) * _MIN_BATCH_SIZE)
    by_dataset = round(dataset_voxels * budget.preset.share_of_dataset / math.prod(topology.patch_size))
    return max(min(by_memory, by_dataset), _MIN_BATCH_SIZE)


def _wants_coarser(spacing: Float3, median_shape: Floats, topology: Topology, budget: Budget) -> bool:
    """Whether nnU-Net would add a 3d_lowres configuration; if so 3d_fullres pools the batch in its Dice loss.

    The voxels grow by 3% at a time, fine axes first, until a patch holds a quarter of the median image; that
    configuration is kept if its images have at most half the voxels.
    """
    fine = np.array(spacing)
    coarse = fine.copy()
    all_voxels = float(np.prod(median_shape))
    voxels = all_voxels
    patch_voxels = math.prod(topology.patch_size)
    while patch_voxels / voxels < _COARSER_BELOW:
        lagging = coarse.max() / coarse > 2
        coarse[lagging if lagging.any() else slice(None)] *= _COARSER_STEP
        shape = fine / coarse * median_shape
        voxels = float(np.prod(shape))
        candidate = _largest_topology(_float3(coarse), np.array([round(n) for n in shape]), budget)
        patch_voxels = math.prod(candidate.patch_size)
    return voxels < all_voxels and all_voxels / voxels >= 2
