"""Teacher, student and losses brought together: one training loss from one batch.

The distiller owns what lies between the networks and the losses: a *recorder* for each network, which runs it and
keeps its encoder features; the pairing of the student's stages with the teacher's; the *connectors* P_k, 1x1x1
convolutions that bring the student's features to the teacher's width; and the map from the teacher's classes to the
student's. It knows no loss and no network by name, and neither does the trainer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ReCoKDLib.errors import ReCoKDError

from .class_matching import ClassMap
from .connectors import ConnectorOptions, Connectors
from .losses.base import DistillationLoss, NetworkOutputs, full_precision, with_decoder
from .losses.reduction import mean_over_processes
from .losses.segmentation import SegmentationLoss
from .recorders import EncoderDecoderRecorder, Recorder, pair_stages
from .stopwatch import Stopwatch


@dataclass(frozen=True)
class WeightedLoss:
    """A distillation loss and when it counts how much.

    Attributes:
        loss: the loss.
        eta: its full weight (before the ramp).
        until: the part of the training after which it is off, as hints are in FitNets' first stage (Romero et al.,
            ICLR 2015, section 2.3).
    """

    loss: DistillationLoss
    eta: float
    until: float = math.inf


@dataclass(frozen=True)
class LossReport:
    """The loss of one step.

    Attributes:
        total: scalar to call ``backward()`` on.
        terms: detached scalars for the log: ``segmentation``, ``LOSS/TERM`` of every distillation loss before
            its eta, and ``total``.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


class Distiller(nn.Module):
    """One loss from a student, a frozen teacher and any number of distillation losses.

    L = L_seg + sum over losses of eta(e) L_loss, eta(e) = eta * min(1, e / (ramp * E)), ramp = 0.6
    (``method.md``, "Total"), and 0 once e / E reaches the loss's ``until``. Without teacher and losses it is plain
    training.

    The losses see as many stages of the teacher as the student has: those of the nearest resolution (`pair_stages`).
    Where a pair's grids differ, the student's projected features are brought to the teacher's by trilinear
    interpolation.

    >>> distiller = Distiller(student, teacher, segmentation_loss,
    ...                       {"reco": WeightedLoss(loss, eta=1.0)})       # doctest: +SKIP
    >>> optimiser = SGD(distiller.trained_parameters(), ...)               # doctest: +SKIP
    >>> distiller.training_loss(images, labels, epoch / epochs).total.backward()   # doctest: +SKIP

    Args:
        student: the network that is trained.
        teacher: frozen here: eval mode, no gradients; None for plain training.
        segmentation_loss: nnU-Net's loss.
        losses: the distillation losses by name.
        ramp: the part of the training over which eta rises.
        teacher_dtype: the type in which the teacher's forward pass is autocast; None: as it is.
        amp_dtype: the same for the student. Losses and connectors are always computed in float32.
        recorder: how to get the student's features; None for nnU-Net's networks.
        teacher_recorder: the same for the teacher; None takes the student's.
        class_map: from the teacher's heads to the student's; None where they are the same.
        teacher_fills: whether voxels with the ignore label get the teacher's own label, in L_seg and in the masks of
            the distillation losses (cases that nobody annotated). Such batches run the teacher whatever eta is.
        connectors: how the connectors start and learn.

    Attributes:
        watch: measures both networks' forward passes, if it is on.

    Raises:
        ReCoKDError: losses without a teacher, an eta, ramp or end that can't be, or logits that can't be compared;
            ``teacher_fills`` with a teacher whose outputs can't be compared.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        segmentation_loss: SegmentationLoss,
        losses: Mapping[str, WeightedLoss] | None = None,
        *,
        ramp: float = 0.6,
        teacher_dtype: torch.dtype | None = None,
        amp_dtype: torch.dtype | None = None,
        recorder: Recorder | None = None,
        teacher_recorder: Recorder | None = None,
        class_map: ClassMap | None = None,
        teacher_fills: bool = False,
        connectors: ConnectorOptions | None = None,
    ) -> None:
        super().__init__()
        losses = dict(losses or {})
        self.recorder: Recorder = recorder or EncoderDecoderRecorder()
        self.teacher_recorder: Recorder = teacher_recorder or self.recorder
        self.class_map = class_map
        self.teacher_fills = teacher_fills
        self.student = student
        self.teacher = teacher
        self.segmentation_loss = segmentation_loss
        self.losses = nn.ModuleDict({name: entry.loss for name, entry in losses.items()})
        self.etas = {name: float(entry.eta) for name, entry in losses.items()}
        self.until = {name: float(entry.until) for name, entry in losses.items()}
        self.ramp = ramp
        self.teacher_dtype = teacher_dtype
        self.amp_dtype = amp_dtype
        self.watch = Stopwatch(torch.device("cpu"))
        if not all(0 <= eta < math.inf for eta in self.etas.values()) or not 0 <= ramp <= 1:
            raise ReCoKDError("eta must be a number of 0 or more, and the ramp a part of the training between 0 and 1.")
        if not all(0 < until <= 1 or until == math.inf for until in self.until.values()):
            raise ReCoKDError(
                "A loss is on until a part of the training, which must be larger than 0 and at most 1, such as 0.5."
            )
        self.connector_options = connectors or ConnectorOptions()
        self.connectors = Connectors((), (), (), self.connector_options)
        self.pairing: tuple[int, ...] = ()
        if teacher is None:
            if losses:
                raise ReCoKDError(f"Distillation ({', '.join(losses)}) needs a teacher. Name its model package.")
        else:
            teacher.requires_grad_(False)
            self._require_comparable()
            self._teacher_stages = self.teacher_recorder.strides(teacher)
            self.pairing = pair_stages(self.recorder.strides(student), self._teacher_stages)
            if self.recorder.decoder and max(self.pairing[:-1], default=0) == len(self._teacher_stages) - 1:
                raise ReCoKDError(
                    "The teacher has no decoder stage for one of the student's, whose grid is that of the teacher's "
                    "bottleneck. Compare the encoders' stages only."
                )
            self.connectors = self._built_connectors(student, teacher)
        self.train(self.training)

    def _require_comparable(self) -> None:
        if self.teacher_fills and self.class_map is not None and not self.class_map.comparable:
            raise ReCoKDError(
                "Of teacher and student, one decides between labels (softmax) and the other on regions (sigmoid): the "
                "teacher's labels can't stand in where nobody annotated. Leave out the cases without annotation "
                "(--unlabelled-weight 0), or use another teacher."
            )
        names = [name for name, loss in self._losses().items() if loss.uses_logits]
        if names and self.class_map is not None and not self.class_map.comparable:
            raise ReCoKDError(
                "Of teacher and student, one decides between labels (softmax) and the other on regions (sigmoid): "
                f"their logits can't be compared, as {', '.join(names)} would. Leave that loss out; losses on "
                "features, such as reco, work."
            )

    def _built_connectors(self, student: nn.Module, teacher: nn.Module) -> Connectors:
        """P_k for every stage that a loss wants aligned."""
        channels, narrow = self.teacher_recorder.channels(teacher), self.recorder.channels(student)
        wide = tuple(channels[place] for place in self.pairing)
        if self.recorder.decoder:
            narrow, wide = with_decoder(narrow), with_decoder(wide)
        stages = {k for loss in self._losses().values() if loss.needs_connectors for k in loss.stages}
        return Connectors(stages, narrow, wide, self.connector_options)

    def _losses(self) -> dict[str, DistillationLoss]:
        return {name: cast(DistillationLoss, loss) for name, loss in self.losses.items()}

    def train(self, mode: bool = True) -> Distiller:
        """As for any module, but the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def eta(self, name: str, progress: float | None) -> float:
        """eta(e) of a loss at ``progress`` = e / E: 0 to full at ``ramp``, 0 again from ``until`` on. None: full."""
        if progress is None:
            return self.etas[name]
        if progress >= self.until[name]:
            return 0.0
        share = 1.0 if self.ramp == 0 else min(1.0, progress / self.ramp)
        return self.etas[name] * share

    def training_loss(self, images: Tensor, labels: Tensor, progress: float | None) -> LossReport:
        """The loss of a batch; the teacher isn't run while every eta is 0 and all voxels are annotated.

        Args:
            images: (B, C, D, H, W) preprocessed patches.
            labels: (B, 1, D, H, W) integers, ignore label possible.
            progress: epoch / epochs; None for every loss at full eta.
        """
        segmentation, terms = self.terms(images, labels, progress)
        total = segmentation
        logged = {"segmentation": segmentation.detach()}
        for name, named in terms.items():
            total = total + self.eta(name, progress) * torch.stack(list(named.values())).sum()
            logged |= {f"{name}/{term}": value.detach() for term, value in named.items()}
        logged["total"] = total.detach()
        return LossReport(total, logged)

    def terms(
        self, images: Tensor, labels: Tensor, progress: float | None
    ) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        """Segmentation loss, and the terms (before eta) of every distillation loss whose eta is above 0.

        Args: as of ``training_loss``.
        """
        active = {name: loss for name, loss in self._losses().items() if self.eta(name, progress) > 0}
        with self.watch("student"):
            seen = self._run(self.recorder, self.student, images, True, self.amp_dtype)
        ignore = self.segmentation_loss.label_set.ignore_label
        fills = self.teacher_fills and ignore is not None and bool((labels == ignore).any())
        if self.teacher is None or not (active or fills):
            return self.segmentation_loss(seen.logits, labels), {}
        with self.watch("teacher"):
            decodes = any(loss.uses_logits or loss.uses_decoder for loss in active.values())
            outputs = self.teacher_outputs(images, fills or decodes)
        with torch.no_grad():
            shown = self._paired(outputs)
            if fills:
                labels = self._filled(labels, shown.logits[0])
        segmentation = self.segmentation_loss(seen.logits, labels)
        with torch.autocast(images.device.type, enabled=False):
            stages = {k for loss in active.values() if loss.needs_connectors for k in loss.stages}
            ours, theirs = ({k: made.features[k] for k in sorted(stages)} for made in (seen, shown))
            aligned = self.connectors.align(ours, theirs)
        seen = NetworkOutputs(seen.features, seen.logits, aligned)
        return segmentation, {name: loss(seen, shown, labels) for name, loss in active.items()}

    @torch.no_grad()
    def teacher_outputs(self, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """The teacher's forward pass on (B, C, D, H, W), for all of its stages and heads."""
        assert self.teacher is not None
        return self._run(self.teacher_recorder, self.teacher, images, with_logits, self.teacher_dtype)

    @property
    def needs_teachers_logits(self) -> bool:
        """Whether any step may need them, or other parts of the teacher's decoder, at full eta."""
        return self.teacher_fills or any(
            (loss.uses_logits or loss.uses_decoder) and self.etas[name] > 0 for name, loss in self._losses().items()
        )

    @staticmethod
    def _run(
        recorder: Recorder, network: nn.Module, images: Tensor, with_logits: bool, dtype: torch.dtype | None
    ) -> NetworkOutputs:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            return recorder.run(network, images, with_logits)

    def _paired(self, teacher: NetworkOutputs) -> NetworkOutputs:
        """The teacher's outputs as the student has them: a stage for each of its stages, a head for each of its."""
        features = tuple(teacher.features[place] for place in self.pairing)
        decoder = teacher.features[len(self._teacher_stages) :]
        if decoder:
            features += tuple(decoder[place] for place in self.pairing[:-1])
        if self.class_map is None:
            return NetworkOutputs(features, teacher.logits)
        return NetworkOutputs(features, tuple(self.class_map.logits(full_precision(z)) for z in teacher.logits))

    def _filled(self, labels: Tensor, logits: Tensor) -> Tensor:
        """The labels with the teacher's own wherever nobody annotated; (B, 1, D, H, W)."""
        label_set = self.segmentation_loss.label_set
        own = torch.stack([label_set.label_map(case) for case in logits])[:, None].to(labels.dtype)
        unknown = torch.eq(labels, -1 if label_set.ignore_label is None else label_set.ignore_label)
        return torch.where(unknown, own, labels)

    def gradient_norms(self, images: Tensor, labels: Tensor, progress: float | None) -> dict[str, float]:
        """Gradient norms on the last encoder layer that all losses reach: what each has to say there.

        ``segmentation`` and one entry for each distillation loss, eta(e) included: what enters the step. It
        is 0 for a loss that is still off. Costs a forward and a few backward passes, changes no gradient.
        """
        last = len(self.recorder.channels(self.student)) - 1
        stages = [k for loss in self._losses().values() for k in loss.stages if k <= last]
        weight = self.recorder.shared_weight(self.student, max(stages, default=last))
        self.losses.eval()  # nothing is counted, no running mean moves
        try:
            segmentation, terms = self.terms(images, labels, progress)
        finally:
            self.losses.train(self.training)
        parts = {"segmentation": segmentation}
        for name, named in terms.items():
            parts[name] = self.eta(name, progress) * torch.stack(list(named.values())).sum()
        norms = dict.fromkeys(["segmentation", *self.losses], 0.0)
        for name, part in parts.items():
            (gradient,) = torch.autograd.grad(part, weight, retain_graph=True, allow_unused=True)
            norms[name] = 0.0 if gradient is None else float(mean_over_processes(gradient).norm())
        return norms

    def pop_statistics(self) -> dict[str, float]:
        """Counters of all losses since the last call, as ``LOSS/COUNTER``."""
        return {
            f"{name}/{counter}": value
            for name, loss in self._losses().items()
            for counter, value in loss.pop_statistics().items()
        }

    def trained_parameters(self) -> list[nn.Parameter]:
        """Student, connectors and what the losses train: one list for one optimiser and one gradient clip."""
        return [p for p in self.parameters() if p.requires_grad]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The same for an optimiser, connectors by themselves: ``factor`` is their learning rate over the others'."""
        connectors = [p for p in self.connectors.parameters() if p.requires_grad]
        own = {id(p) for p in connectors}
        rest = [p for p in self.trained_parameters() if id(p) not in own]
        groups = [{"params": rest, "factor": 1.0}, {"params": connectors, "factor": self.connector_options.rate}]
        return [group for group in groups if group["params"]]

    def student_state(self) -> dict[str, Tensor]:
        """The student's weights: the keys of the plain architecture and nothing else."""
        return dict(self.student.state_dict())

    def _adapters(self) -> nn.ModuleDict:
        return nn.ModuleDict({"connectors": self.connectors, "losses": self.losses})

    def adapter_state(self) -> dict[str, Tensor]:
        """Everything trained but the student (and the losses' running means), for a checkpoint."""
        return dict(self._adapters().state_dict())

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore ``adapter_state()``.

        Raises:
            ReCoKDError: the state is of other losses or other widths.
        """
        expected = self._adapters().state_dict()
        wrong = sorted(set(expected) ^ set(state)) or [
            key for key, value in expected.items() if value.shape != state[key].shape
        ]
        if wrong:
            raise ReCoKDError(
                f"The checkpoint's distillation adapters are of another run ('{wrong[0]}' doesn't fit). "
                "Resume with the losses, options and teacher that it was started with."
            )
        self._adapters().load_state_dict(dict(state))
