"""nnU-Net's training on small made-up data, with its own preprocessing and without its process pools."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed, nn

from plans import plans_json
from raw_dataset import make_raw_dataset
from ReCoKDLib.card import Card, ChannelInfo
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import write_package
from ReCoKDLib.plan import Plan

CONFIGURATION = "3d_fullres"
DATASET = "Dataset901_Blobs"
WIDE = (8, 16, 16)


def prepare(folder: Path, **raw: Any) -> Path:
    """Make nnU-Net's folders ``raw``, ``preprocessed`` and ``results`` with one preprocessed dataset of 4 cases.

    Options of :func:`raw_dataset.make_raw_dataset` can be given. Cases 2 and 3 are for validation.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    source = make_raw_dataset(folder / "raw" / DATASET, cases=4, shape=(16, 18, 20), **raw)
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    plans = plans_json(features=WIDE, patch_size=(16, 16, 16))
    target = folder / "preprocessed" / DATASET
    shutil.copytree(source / "labelsTr", target / "gt_segmentations")
    names = [f"blobs_{index:03d}" for index in range(4)]
    texts: dict[str, Any] = {
        "dataset.json": description,
        "nnUNetPlans.json": plans,
        "dataset_fingerprint.json": {},
        "splits_final.json": [{"train": names[:2], "val": names[2:]}],
    }
    for name, value in texts.items():
        (target / name).write_text(json.dumps(value), encoding="utf-8")
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    place = target / configuration.data_identifier
    place.mkdir()
    for name in names:
        DefaultPreprocessor(verbose=False).run_case_save(
            str(place / name),
            [str(source / "imagesTr" / f"{name}_0000.nii.gz")],
            str(source / "labelsTr" / f"{name}.nii.gz"),
            manager,
            configuration,
            description,
        )
    (folder / "results").mkdir()
    return folder


def environment(folder: Path, teacher: Path, **ours: str) -> dict[str, str]:
    """nnU-Net's variables for these folders and ours for this teacher; one iteration needs no processes."""
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
        "RECOKD_TEACHER": str(teacher),
        "RECOKD_WIDTH": "1",
        "RECOKD_RAMP": "0",
        "RECOKD_LOSSES": "reco=1",
        **ours,
    }


def run_command(entry: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One of nnU-Net's commands in a process of its own; ``entry`` is ``MODULE:FUNCTION`` as in its packaging."""
    module, function = entry.split(":")
    own = Path(__file__)
    ready = "from torchvision_import import declare_torchvision_operators as declare; declare()"
    start = f"{ready}; from {module} import {function} as f; f()"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RECOKD_", "nnUNet_"))}
    paths = [str(own.parent), *(path for path in sys.path if path)]
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        env={**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8", **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def read_dataset(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """plans (as nnUNetv2_train gives them to a trainer) and dataset.json."""
    place = folder / "preprocessed" / DATASET
    plans, description = (
        json.loads((place / name).read_text(encoding="utf-8")) for name in ("nnUNetPlans.json", "dataset.json")
    )
    return {**plans, "continue_training": False}, description


def make_teacher(folder: Path, path: Path, seed: int = 0, **plan: Any) -> Path:
    """A package with the wide network of the dataset at a random start."""
    plans, description = read_dataset(folder)
    plans["configurations"][CONFIGURATION].update(plan)
    wide = Plan.from_nnunet(plans, CONFIGURATION)
    label_set = LabelSet.from_dataset_json(description)
    torch.manual_seed(seed)
    network = build_network(wide.architecture, wide.channels, label_set.number_of_heads, deep_supervision=True)
    card = Card(name=path.name.split(".")[0], role="teacher", channels=(ChannelInfo.named("MRI"),))
    return write_package(path, card, wide, label_set, [network.state_dict()])


def fixed_batch(labels: LabelSet) -> dict[str, torch.Tensor]:
    """Two images, the first without the last label."""
    generator = torch.Generator().manual_seed(3)
    target = torch.zeros((2, 1, 16, 16, 16), dtype=torch.int16)
    target[:, :, 2:8, 3:9, 2:9] = 1
    target[1, :, 9:15, 8:14, 9:15] = max(labels.training_values)
    return {"data": torch.randn((2, 1, 16, 16, 16), generator=generator) + target, "target": target}


def steps_of_a_trainer(trainer: Any, part: slice, steps: int = 2) -> dict[str, Any]:
    """Gradients after the first step and parameters after the last one, all cases of each step in ``part``."""
    trainer.network.train()
    trainer.distiller.train()
    batch = {key: value[part] for key, value in fixed_batch(trainer.label_set).items()}
    gradients: list[torch.Tensor | None] = []
    file = type(trainer).train_step.__globals__  # nnU-Net has forgotten the module that the class is of
    clip = file["clip_grad_norm_"]

    def watched(parameters: list[nn.Parameter], *arguments: Any) -> Any:
        if not gradients:
            gradients.extend(None if p.grad is None else p.grad.clone() for p in parameters)
        return clip(parameters, *arguments)

    with mock.patch.dict(file, {"clip_grad_norm_": watched}):
        for _ in range(steps):
            trainer.train_step(batch)
    names = {id(p): name for name, p in trainer.distiller.named_parameters()}
    trained = trainer.distiller.trained_parameters()
    return {
        "gradients": dict(zip((names[id(p)] for p in trained), gradients, strict=True)),
        "parameters": {names[id(p)]: p.detach().clone() for p in trained},
    }


def one_of_two_trainers(rank: int, data: str, output: str, variables: Mapping[str, str]) -> None:
    """One process of nnU-Net's distributed training, on the CPU: it writes what it saw to ``rank_N.pt``.

    nnU-Net's trainer takes a process group for a sign of GPUs; only that is patched here.
    """
    os.environ.update(variables)
    torch.set_num_threads(1)
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as theirs

    from ReCoKDTrainingLib.nnunet_trainer.nnUNetTrainerReCoKD import nnUNetTrainerReCoKD

    meeting = (Path(output) / "meeting").as_uri()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        plans, description = read_dataset(Path(data))
        torch.manual_seed(rank)  # so the processes build different networks and adapters
        wrap = theirs.DDP
        trainer = nnUNetTrainerReCoKD(plans, CONFIGURATION, 0, description)
        trainer.device, trainer.grad_scaler = torch.device("cpu"), None
        with mock.patch.object(theirs, "DDP", lambda network, device_ids: wrap(network)):
            trainer.initialize()
        assert trainer.is_ddp
        assert trainer.batch_size == 1
        start = {key: value.clone() for key, value in trainer.distiller.state_dict().items()}
        seen = steps_of_a_trainer(trainer, slice(rank, rank + 1))
        with torch.no_grad():  # nnU-Net validates with the wrapped network
            trainer.network.eval()
            trainer.network(fixed_batch(trainer.label_set)["data"][rank : rank + 1])
        torch.save({"start": start, **seen}, Path(output) / f"rank_{rank}.pt")
    finally:
        distributed.destroy_process_group()
