"""nnU-Net v2's own predictor, run for real, and results folders with random weights for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ReCoKDLib.volume import Array, Volume
from torchvision_import import declare_torchvision_operators

TRAINER = "nnUNetTrainer"


def random_results(
    folder: Path,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    *,
    configuration: str = "3d_fullres",
    folds: Sequence[str] = ("0",),
    mirror_axes: Sequence[int] | None = (0, 1, 2),
) -> Path:
    """A results folder as a training leaves it, whose networks nnU-Net itself builds and initialises.

    Their last layer is set so that on noise every output has mean 0 and standard deviation 4: each label wins
    somewhere, also after averaging over flips, and few voxels are decided by the last digits.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    declare_torchvision_operators()
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    manager = PlansManager(str(folder / "plans.json"))
    chosen = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, chosen, dataset)
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = get_network_from_plans(
            chosen.network_arch_class_name,
            chosen.network_arch_init_kwargs,
            chosen.network_arch_init_kwargs_req_import,
            channels,
            manager.get_label_manager(dataset).num_segmentation_heads,
            deep_supervision=True,
        )
        last = network.decoder.seg_layers[-1]
        with torch.no_grad():
            noise = torch.randn(1, channels, *chosen.patch_size)
            logits = network(noise)[0][0].flatten(1)
            factor = 4 / logits.std(1)
            last.weight.mul_(factor.reshape(-1, 1, 1, 1, 1))
            last.bias.copy_((last.bias - logits.mean(1)) * factor)
        place = folder / f"fold_{fold}"
        place.mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "optimizer_state": torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99).state_dict(),
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.5)]]},
                "_best_ema": np.float64(0.5),
                "current_epoch": 5,
                "init_args": {
                    "plans": json.loads(json.dumps(plans)),
                    "configuration": configuration,
                    "fold": fold if fold == "all" else int(fold),
                    "dataset_json": json.loads(json.dumps(dataset)),
                    "device": torch.device("cpu"),
                },
                "trainer_name": TRAINER,
                "inference_allowed_mirroring_axes": None if mirror_axes is None else tuple(mirror_axes),
            },
            place / "checkpoint_final.pth",
        )
    return folder


class _SinglePrecision(ModuleType):
    """torch, but what is called half precision has 32 bits."""

    half = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def single_precision() -> Iterator[None]:
    """nnU-Net's predictor sums tiles and weights in float32 instead of float16.

    For random weights only: there float16 alone changes 0.3 % of the labels.
    """
    from nnunetv2.inference import predict_from_raw_data as module

    half = module.compute_gaussian

    def single(*arguments: Any, **options: Any) -> Any:
        return half(*arguments, **{**options, "dtype": torch.float32})

    single.cache_clear = half.cache_clear  # type: ignore[attr-defined]
    module.torch, module.compute_gaussian = _SinglePrecision("torch"), single
    try:
        yield
    finally:
        module.torch, module.compute_gaussian = torch, half


def nnunet_predictor(results: Path, folds: Sequence[str], mirroring: bool) -> Any:
    """``nnUNetPredictor`` on the CPU with the folds of a results folder."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        verbose_preprocessing=False,
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(results), list(folds), "checkpoint_final.pth")
    return predictor


def nnunet_labels(results: Path, folds: Sequence[str], volume: Volume, mirroring: bool) -> tuple[Array, Array]:
    """nnU-Net's (k, j, i) label map and (head, k, j, i) probabilities of a volume in memory."""
    predictor = nnunet_predictor(results, folds, mirroring)
    labels, probabilities = predictor.predict_single_npy_array(
        volume.array.astype(np.float32), {"spacing": list(volume.spacing)}, save_or_return_probabilities=True
    )
    return np.asarray(labels), np.asarray(probabilities)


def nnunet_files(results: Path, folds: Sequence[str], images: Sequence[Path], output: Path, mirroring: bool) -> Path:
    """nnU-Net's label map of one case by its file route: the plan's own reader and writer."""
    output.mkdir()
    predictor = nnunet_predictor(results, folds, mirroring)
    predictor.predict_from_files_sequential([[str(path) for path in images]], [str(output / "case")])
    return output / "case.nii.gz"
