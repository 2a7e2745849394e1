"""Small plans and networks that tests build, so that no file from outside is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ReCoKDLib.labels import LabelSet
from ReCoKDLib.plan import Architecture, Plan

TWO_LABELS = LabelSet.from_dataset_json({"labels": {"background": 0, "anterior": 1, "posterior": 2}})


def plans_json(
    *,
    features: Sequence[int] = (8, 16),
    patch_size: Sequence[int] = (16, 16, 16),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    schemes: Sequence[str] = ("ZScoreNormalization",),
    masked: bool = False,
    transpose: Sequence[int] = (0, 1, 2),
    properties: Mapping[str, float] | None = None,
    residual: bool = False,
) -> dict[str, Any]:
    """The contents of an nnU-Net v2 plans.json for a network with as many stages as ``features``."""
    stages = len(features)
    blocks = {"n_blocks_per_stage": [1] * stages} if residual else {"n_conv_per_stage": [2] * stages}
    known = dict(properties or {"mean": 100.0, "std": 50.0, "percentile_00_5": -50.0, "percentile_99_5": 300.0})
    return {
        "dataset_name": "Dataset901_Blobs",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch_size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "configurations": {
            "2d": {"patch_size": [64, 64], "spacing": [1.0, 1.0]},
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch_size),
                "median_image_size_in_voxels": list(patch_size),
                "spacing": list(spacing),
                "normalization_schemes": list(schemes),
                "use_mask_for_norm": [masked] * len(schemes),
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
                "resampling_fn_probabilities_kwargs": {
                    "is_seg": False,
                    "order": 1,
                    "order_z": 0,
                    "force_separate_z": None,
                },
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet."
                    + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
                    "arch_kwargs": {
                        "n_stages": stages,
                        "features_per_stage": list(features),
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[3, 3, 3]] * stages,
                        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
                        **blocks,
                        "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": False,
            },
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): known for c in range(len(schemes))},
    }


def changed(plans: Mapping[str, Any], configuration: str = "3d_fullres", **entries: Any) -> dict[str, Any]:
    """The plans with entries of ``3d_fullres`` changed, under the name of another configuration if one is given."""
    fullres = {**plans["configurations"]["3d_fullres"], **entries}
    return {**plans, "configurations": {**plans["configurations"], configuration: fullres}}


def network_changed(plans: Mapping[str, Any], **arguments: Any) -> dict[str, Any]:
    """The plans with arguments of the network changed."""
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    kwargs = {**architecture["arch_kwargs"], **arguments}
    return changed(plans, architecture={**architecture, "arch_kwargs": kwargs})


def of_2022(plans: Mapping[str, Any]) -> dict[str, Any]:
    """The plans as nnU-Net 2.0 to 2.2 wrote them, which TotalSegmentator's models still have.

    The network's features double from the first stage on.
    """
    entries = dict(plans["configurations"]["3d_fullres"])
    architecture = entries.pop("architecture")
    name, network = architecture["network_class_name"].rpartition(".")[2], architecture["arch_kwargs"]
    entries |= {
        "UNet_class_name": name,
        "UNet_base_num_features": network["features_per_stage"][0],
        "n_conv_per_stage_encoder": network.get("n_conv_per_stage") or network["n_blocks_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [sum(stride[axis] > 1 for stride in network["strides"]) for axis in range(3)],
        "pool_op_kernel_sizes": network["strides"],
        "conv_kernel_sizes": network["kernel_sizes"],
        "unet_max_num_features": max(network["features_per_stage"]),
    }
    return {**plans, "configurations": {**plans["configurations"], "3d_fullres": entries}}


def small_plan(**kwargs: Any) -> Plan:
    """The plan of :func:`plans_json`."""
    return Plan.from_nnunet(plans_json(**kwargs))


def backbone_plan(backbone: str, features: Sequence[int] = (8, 16, 32), **kwargs: Any) -> Plan:
    """The plan of :func:`plans_json` with a backbone's own network of these stages, all strides 2 but the first."""
    stages = len(features)
    strides = [(1, 1, 1), *[(2, 2, 2)] * (stages - 1)]
    architecture = Architecture.for_topology(backbone, features, strides, [(3, 3, 3)] * stages)
    return replace(small_plan(features=features, **kwargs), architecture=architecture)


class ByIntensity(nn.Module):
    """A 'network' that labels each voxel by its own value alone: above 1 is posterior, 0 to 1 anterior.

    It knows nothing of axes, so any preprocessing that puts voxels elsewhere shows.
    """

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """(B, 1, x, y, z) to (B, 3, x, y, z)."""
        return torch.cat([-patch, 0.5 - (patch - 0.5).abs(), patch - 1], dim=1)
