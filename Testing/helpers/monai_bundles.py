"""Small bundles in the form of MONAI's model zoo, and what MONAI itself makes of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ReCoKDLib.volume import Volume

NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "channels": [8, 16, 16],
        "strides": [2, 2],
        "num_res_units": 2,
        "norm": "batch",
    },
    "SegResNet": {"_target_": "SegResNet", "init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    "DynUNet": {
        "_target_": "monai.networks.nets.DynUNet",
        "spatial_dims": "$len(@roi)",
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, [2, 2, 1]],
        "upsample_kernel_size": [2, [2, 2, 1]],
        "filters": [8, 16, 16],
        "norm_name": "instance",
        "deep_supervision": False,
        "res_block": True,
    },
}
CT_WINDOW = {
    **{"_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": 20, "a_max": 260},
    **{"b_min": 0.0, "b_max": 1.0, "clip": True},
}
HEADS = ("background", "anterior", "posterior")


def configuration(
    network: str = "UNet",
    *,
    channels: int = 1,
    heads: int = 3,
    axcodes: str | None = "RAS",
    pixdim: Sequence[float] | None = (1.2, 1.0, 1.4),
    roi: Sequence[int] = (16, 16, 16),
    intensities: Sequence[dict[str, Any]] = (CT_WINDOW,),
    sigmoid: bool = False,
) -> dict[str, Any]:
    """The contents of ``inference.json`` as the zoo's bundles have it, expressions and all."""
    resampling: list[dict[str, Any]] = []
    if axcodes:
        resampling.append({"_target_": "Orientationd", "keys": "@image_key", "axcodes": axcodes})
    if pixdim:
        resampling.append({"_target_": "Spacingd", "keys": "@image_key", "pixdim": list(pixdim), "mode": "bilinear"})
    decision = {"threshold": 0.5} if sigmoid else {"argmax": True}
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "roi": list(roi),
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {**copy.deepcopy(NETWORKS[network]), "in_channels": channels, "out_channels": heads},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                *resampling,
                *copy.deepcopy(list(intensities)),
                {"_target_": "EnsureTyped", "keys": "@image_key"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@roi", "sw_batch_size": 4, "overlap": 0.5},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "sigmoid" if sigmoid else "softmax": True},
                {
                    **{"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key"},
                    **{"nearest_interp": False, "to_tensor": True},
                },
                {"_target_": "AsDiscreted", "keys": "pred", **decision},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
            ],
        },
        "checkpointloader": {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'"},
        "run": ["$@evaluator.run()"],
    }


def metadata(
    heads: Sequence[str] = HEADS, channels: Sequence[str] = ("image",), modality: str = "CT"
) -> dict[str, Any]:
    """The contents of ``metadata.json``."""
    return {
        "version": "0.5.9",
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "name": "Blobs segmentation",
        "description": "Finds two blobs.",
        "authors": "Somebody",
        "data_source": "Made-up blobs",
        "eval_metrics": {"mean_dice": 0.9},
        "intended_use": "This is an example.",
        "network_data_format": {
            "inputs": {
                "image": {
                    **{"modality": modality, "format": "hounsfield" if modality == "CT" else "magnitude"},
                    "channel_def": {str(index): name for index, name in enumerate(channels)},
                }
            },
            "outputs": {"pred": {"channel_def": {str(index): name for index, name in enumerate(heads)}}},
        },
    }


def network_of(config: dict[str, Any]) -> torch.nn.Module:
    """MONAI's network of one of these configurations, in evaluation mode."""
    from monai.networks import nets

    arguments = {key: value for key, value in config["network_def"].items() if key != "_target_"}
    if "spatial_dims" in arguments:
        arguments["spatial_dims"] = 3
    network: torch.nn.Module = getattr(nets, config["network_def"]["_target_"].rpartition(".")[2])(**arguments)
    return network.eval()


def write_bundle(
    path: Path,
    config: dict[str, Any],
    meta: dict[str, Any] | None = None,
    weights: Any = None,
    file: str = "models/model.pt",
) -> Path:
    """A bundle as a folder; without weights given, random ones."""
    for folder in ("configs", "models", "docs"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    (path / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "configs" / "metadata.json").write_text(json.dumps(meta or metadata()), encoding="utf-8")
    (path / "LICENSE").write_text("   Apache License\n  Version 2.0, January 2004\n", encoding="utf-8")
    if weights is None:
        torch.manual_seed(0)
        weights = network_of(config).state_dict()
    torch.save(weights, path / file)
    return path


def write_image(volume: Volume, path: Path) -> Path:
    """A float NIfTI; several channels are a fourth axis, which is how MONAI reads them."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    parts = []
    for channel in volume.array.astype(np.float32):
        part = sitk.GetImageFromArray(channel)
        part.SetSpacing(spacing.tolist())
        part.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        part.SetOrigin(lps[:3, 3].tolist())
        parts.append(part)
    sitk.WriteImage(sitk.JoinSeries(parts) if len(parts) > 1 else parts[0], str(path))
    return path


def probabilities_by_monai(config: dict[str, Any], network: torch.nn.Module, image: Path) -> Volume:
    """What MONAI's own transforms and inferer make of an image, on the image's own grid: all but the decision."""
    from monai.bundle.config_parser import ConfigParser
    from monai.data.utils import decollate_batch
    from monai.transforms.compose import Compose
    from monai.transforms.post.dictionary import Invertd

    parser = ConfigParser({key: config[key] for key in ("roi", "image_key", "preprocessing", "inferer")})
    prepare, inferer = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")
    case = prepare({"image": str(image)})
    with torch.inference_mode():
        logits = inferer(case["image"][None], network)
    soft = logits.sigmoid() if "sigmoid" in config["postprocessing"]["transforms"][0] else logits.softmax(1)
    case["pred"] = decollate_batch(soft)[0]
    back = Compose([Invertd(keys="pred", transform=prepare, orig_keys="image", nearest_interp=False, to_tensor=True)])
    found = back(case)["pred"]
    array = np.ascontiguousarray(found.numpy().transpose(0, 3, 2, 1))
    return Volume(array, found.affine.numpy().astype(np.float64), "by MONAI")


def train_briefly(
    config: dict[str, Any], cases: Sequence[tuple[Volume, Volume]], folder: Path, steps: int = 150
) -> torch.nn.Module:
    """MONAI's network after some steps on patches of cases prepared by MONAI: enough for labels that are no noise."""
    from monai.bundle.config_parser import ConfigParser
    from monai.transforms.io.array import LoadImage
    from monai.transforms.spatial.array import ResampleToMatch

    parser = ConfigParser({key: config[key] for key in ("roi", "image_key", "preprocessing")})
    prepare = parser.get_parsed_content("preprocessing")
    pairs: list[Any] = []
    for image, labels in cases:
        data: Any = prepare({"image": str(write_image(image, folder / "train.nii.gz"))})["image"]
        truth = LoadImage(ensure_channel_first=True)(str(write_image(labels, folder / "truth.nii.gz")))
        matched: Any = ResampleToMatch(mode="nearest")(truth, data)
        target = matched.as_tensor().long()
        after = [
            n for size, r in zip(data.shape[:0:-1], config["roi"][::-1], strict=True) for n in (0, max(0, r - size))
        ]
        pairs.append(tuple(torch.nn.functional.pad(part, after) for part in (data.as_tensor(), target)))
    torch.manual_seed(0)
    network = network_of(config).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps, 0.9)
    for _ in range(steps):
        patches, targets = [], []
        for _ in range(2):
            data, target = pairs[int(torch.randint(0, len(pairs), ()))]
            start = [int(torch.randint(0, n - r + 1, ())) for n, r in zip(data.shape[1:], config["roi"], strict=True)]
            box = tuple(slice(s, s + r) for s, r in zip(start, config["roi"], strict=True))
            patches.append(data[(slice(None), *box)])
            targets.append(target[(0, *box)])
        loss: Any = torch.nn.functional.cross_entropy(network(torch.stack(patches)), torch.stack(targets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()
