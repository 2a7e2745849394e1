"""What a model package tells other programs about itself: MONAI's metadata and inference configuration.

The fields of the metadata are those of the MONAI Bundle specification.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import __version__
from .card import Card
from .labels import LabelSet
from .plan import Plan

_MONAI_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)

# `python -m monai.bundle run --config_file configs/inference.json --bundle_root . --input X --output Y`
INFERENCE_CONFIG: dict[str, Any] = {
    "bundle_root": ".",
    "input": "",
    "output": "",
    "device": "auto",
    "mirroring": False,
    "overwrite": False,
    "run": {
        "_target_": "ReCoKDLib.bundle.segment",
        "bundle_root": "@bundle_root",
        "input": "@input",
        "output": "@output",
        "device": "@device",
        "mirroring": "@mirroring",
        "overwrite": "@overwrite",
    },
}


def dataset_json(card: Card, label_set: LabelSet) -> dict[str, Any]:
    """Channels and labels as in nnU-Net's ``dataset.json``."""
    return {
        "name": card.training.dataset or card.name,
        "channel_names": {str(index): channel.name for index, channel in enumerate(card.channels)},
        **label_set.to_dataset_json(),
        "numTraining": card.training.cases or 0,
        "file_ending": ".nii.gz",
    }


def monai_metadata(card: Card, plan: Plan, label_set: LabelSet) -> dict[str, Any]:
    """The contents of ``configs/metadata.json``, without ours."""
    versions = {name: card.training.versions.get(name) or _installed(name) for name in ("monai", "torch", "numpy")}
    first = card.channels[0]
    heads = [segment.name for segment in label_set.segments]
    if not label_set.has_regions:
        heads.insert(0, "background")
    intensity = first.intensity
    return {
        "schema": _MONAI_SCHEMA,
        "version": card.version,
        "changelog": {card.version: "Written by ReCoKD"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {
            name: _installed(name) for name in ("dynamic-network-architectures", "safetensors", "SimpleITK", "recokd")
        },
        "name": card.name,
        "task": f"Segmentation of {', '.join(segment.name for segment in label_set.segments)}",
        "description": card.description or card.name,
        "authors": card.licences.attribution or "unknown",
        "copyright": f"Weights: {card.licences.weights or 'licence unknown'}",
        "data_source": card.training.dataset,
        "data_type": "nifti",
        "intended_use": card.intended_use,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if first.unit == "HU" else "magnitude",
                    "modality": first.modality or "n/a",
                    "num_channels": len(card.channels) + card.guidance_channels,
                    "spatial_shape": list(plan.patch_size),
                    "dtype": "float32",
                    "value_range": [intensity.percentile_00_5[0], intensity.percentile_99_5[1]] if intensity else [],
                    "is_patch_data": True,
                    "channel_def": {str(index): channel.name for index, channel in enumerate(card.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": label_set.number_of_heads,
                    "spatial_shape": list(plan.patch_size),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(index): name for index, name in enumerate(heads)},
                }
            },
        },
    }


def _installed(package: str) -> str:
    try:
        return __version__ if package == "recokd" else version(package)
    except PackageNotFoundError:
        return "unknown"
