"""ReCo-KD for those who train with nnU-Net itself: ``nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerReCoKD``.

Data, augmentation, schedule, optimiser, validation and files are nnU-Net's; the losses and what they train are
ours. The settings are environment variables, see :mod:`ReCoKDTrainingLib.nnunet_settings`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.nn.utils import clip_grad_norm_

from ReCoKDLib.errors import OutputError, PackageError
from ReCoKDLib.exchange.checkpoints import read_checkpoint
from ReCoKDLib.files import atomic_file, read_json
from ReCoKDLib.plan import Plan
from ReCoKDTrainingLib.building import build_distiller
from ReCoKDTrainingLib.model_fit import match_model
from ReCoKDTrainingLib.nnunet_settings import (
    DistillationVariables,
    NnunetTask,
    network_checksum,
    open_teacher,
    require_same_preprocessing,
    student_plans,
)
from ReCoKDTrainingLib.processes import average_gradients, share_parameters

GRADIENT_CLIP = 12.0  # nnU-Net's
OWN_KEY = "recokd"


class nnUNetTrainerReCoKD(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801 - nnU-Net's spelling
    """Trains the plan's network at 1/2^t of its width, with a teacher of full width.

    The results folder is an ordinary one: its plans.json holds the student's widths, so plain nnU-Net builds
    the network, and its checkpoints hold the student's weights where nnU-Net looks for them. Adapters and
    settings are beside them under a key of their own, for ``--c``.

    Raises:
        ReCoKDError: A variable is missing or wrong, or the teacher does not fit the dataset.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        self.variables = DistillationVariables.from_environment(os.environ)
        narrowed = student_plans(plans, configuration, self.variables.width)
        self.student_plan = Plan.from_nnunet(narrowed, configuration)
        task = NnunetTask.from_dataset_json(self.student_plan.dataset_name, dataset_json)
        self.label_set = task.label_set
        self.teacher = open_teacher(self.variables.teacher, self.variables.teacher_fold or str(fold))
        self.classes = match_model(self.teacher, task)
        require_same_preprocessing(self.student_plan, self.teacher)
        super().__init__(narrowed, configuration, fold, dataset_json, device)
        self.num_epochs = self.variables.epochs

    def _do_i_compile(self) -> bool:
        """Never: what runs in a step are encoder and decoder, not the network as a whole."""
        return False

    def configure_optimizers(self) -> tuple[Any, Any]:
        """nnU-Net's, with the adapters in the optimiser."""
        optimiser, schedule = super().configure_optimizers()
        dtype = torch.float16 if self.device.type == "cuda" else None  # as nnU-Net's autocast
        self.distiller = build_distiller(
            self.network,
            self.student_plan,
            self.label_set,
            self.teacher,
            self.classes,
            losses=self.variables.losses,
            loss_options=self.variables.loss_options,
            ramp=self.variables.ramp,
            dtype=dtype,
        ).to(self.device)
        assert self.distiller.teacher is not None
        self.settings = {**self.variables.to_dict(), "teacher": network_checksum(self.distiller.teacher)}
        there = {id(p) for group in optimiser.param_groups for p in group["params"]}
        adapters = [p for p in self.distiller.trained_parameters() if id(p) not in there]
        if adapters:
            optimiser.add_param_group({"params": adapters})
        return optimiser, schedule

    def initialize(self) -> None:
        """nnU-Net's; all processes start from the same adapters."""
        super().initialize()
        share_parameters(self.distiller.trained_parameters())

    @staticmethod
    def get_training_transforms(
        patch_size: Any,
        rotation_for_DA: Any,  # noqa: N803
        deep_supervision_scales: Any,
        mirror_axes: Any,
        do_dummy_2d_data_aug: bool,
        **options: Any,
    ) -> Any:
        """nnU-Net's augmentation; the target stays one label map of full resolution, which our losses take."""
        options["regions"] = None
        return nnUNetTrainer.get_training_transforms(
            patch_size, rotation_for_DA, None, mirror_axes, do_dummy_2d_data_aug, **options
        )

    def on_train_start(self) -> None:
        """nnU-Net's, once it is clear that the folds of the results folder are of one width."""
        path = Path(self.output_folder_base) / "plans.json"
        if path.is_file():
            found = Plan.from_nnunet(read_json(path), self.configuration_name).architecture
            if found != self.student_plan.architecture:
                raise OutputError(
                    f"{path.parent} holds a student with {found.features_per_stage} channels; this one has "
                    f"{self.student_plan.architecture.features_per_stage}. Set RECOKD_WIDTH as for the other one, or "
                    "move that folder away."
                )
        super().on_train_start()
        self.print_to_log_file(f"ReCo-KD: teacher {self.teacher.card.name}, {self.variables.to_dict()}")
        if self.teacher.card.orientation is not None:
            self.print_to_log_file(
                f"ReCo-KD: the teacher is used to images in the orientation {self.teacher.card.orientation}; nnU-Net "
                "takes them as they are stored."
            )

    def on_train_epoch_start(self) -> None:
        """nnU-Net's, and the distiller is in training mode (its teacher never is)."""
        super().on_train_epoch_start()
        self.distiller.train()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step on (B, C, D, H, W) images and (B, 1, D, H, W) labels.

        ``loss`` is on nnU-Net's scale, which leaves out the constant 1 of the Dice loss.
        """
        images = batch["data"].to(self.device, non_blocking=True)
        labels = batch["target"].to(self.device, non_blocking=True).long()
        self.optimizer.zero_grad(set_to_none=True)
        report = self.distiller.training_loss(images, labels, self.current_epoch / self.num_epochs)
        trained = self.distiller.trained_parameters()
        if self.grad_scaler is None:
            report.total.backward()  # type: ignore[no-untyped-call]
            average_gradients(trained)
            clip_grad_norm_(trained, GRADIENT_CLIP)
            self.optimizer.step()
        else:
            self.grad_scaler.scale(report.total).backward()
            average_gradients(trained)  # before unscaling, so that all processes skip the same steps
            self.grad_scaler.unscale_(self.optimizer)
            clip_grad_norm_(trained, GRADIENT_CLIP)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        values = torch.stack([value.float() for value in report.terms.values()]).cpu().numpy()
        terms = dict(zip(report.terms, values, strict=True))
        return {"loss": terms["total"] - 1, **{name: value for name, value in terms.items() if name != "total"}}

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's, and the terms of the loss go to the log."""
        super().on_train_epoch_end(train_outputs)
        means = {name: np.mean([step[name] for step in train_outputs]) for name in train_outputs[0] if name != "loss"}
        self.print_to_log_file("  ".join(f"{name} {mean:.4f}" for name, mean in means.items()))

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with ours under a key of its own; written whole or not at all."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_file(Path(filename), overwrite=True) as temporary:
            super().save_checkpoint(str(temporary))
            content = torch.load(temporary, map_location="cpu", weights_only=False)  # it was written a moment ago
            if type(self).build_network_architecture is nnUNetTrainer.build_network_architecture:
                content["trainer_name"] = nnUNetTrainer.__name__  # so that any nnU-Net can run it, without our trainer
            content[OWN_KEY] = {
                "adapters": self.distiller.adapter_state(),
                "settings": self.settings,
                "trainer": type(self).__name__,
            }
            torch.save(content, temporary)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Go on from a checkpoint of this trainer.

        Raises:
            PackageError: It is of another trainer, or of other settings (the first difference is named).
            ReCoKDError: Its adapters do not fit.
        """
        if not self.was_initialized:
            self.initialize()
        content = read_checkpoint(Path(filename_or_checkpoint)).get(OWN_KEY)
        if content is None:
            raise PackageError(f"{filename_or_checkpoint} was not written by nnUNetTrainerReCoKD. Start without --c.")
        for key, value in self.settings.items():
            if content["settings"].get(key) != value:
                raise PackageError(
                    f"{filename_or_checkpoint} was written with other settings: {key} was "
                    f"{content['settings'].get(key)!r} and is {value!r}. Set the variables as they were then."
                )
        super().load_checkpoint(filename_or_checkpoint)
        self.distiller.load_adapter_state(content["adapters"])
