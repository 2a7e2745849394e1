"""ReCo-KD: region- and context-aware distillation (Lan, Hsu, Khan, Jiang, arXiv 2601.08301).

L_k = L_fg + L_bg + L_att + L_ctx for stage k, L = sum_k w_k L_k. MS-SARD is the first three, MS-CA
the last. Known from [A] the abstract, [F] the paper's figure, [C] the authors' later port; [ours] is ours.
FGD (arXiv 2111.11837) is the model of it, with class masks in place of boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet

from .base import DistillationLoss, NetworkOutputs, full_precision, with_decoder
from .context import GcBlock, affinity_difference, context_difference
from .pairs import Magnitudes, PairSums, chunk_length, magnitudes, pair_sums
from .reduction import mean_over_processes
from .regions import class_masks, region_terms, region_weights
from .registry import LossSetting, read_options, register

LOGGER = logging.getLogger(__name__)
TERMS = ("fg", "bg", "att", "ctx")
EMA_DECAY = 0.99
EMA_FLOOR = 1e-3
_CHOICES = {
    "context": ("gc", "gc_shared", "affinity"),
    "masks": ("nearest", "area"),
    "regions": ("separate", "merged"),
    "normalise": (None, "ema"),
}


@dataclass(frozen=True)
class ReCoOptions:
    """Options of ReCo-KD; the defaults are the authors' [C].

    Attributes:
        fg: coefficient of L_fg; likewise ``bg``, ``att``, ``ctx``. A term with coefficient 0 is left out.
        tau: temperature of both attentions.
        context: ``gc``: a global context block for each side [F][C]; ``gc_shared``: one for both [ours];
            ``affinity``: token affinities within and across levels [A, ours].
        masks: ``nearest`` [C] or ``area`` [ours].
        regions: overlapping regions as ``separate`` pairs, or ``merged`` by the voxel-wise maximum [C].
        alpha: stage weights w_k = r^k / sum r^j with r = 2^(-3 alpha).
        uniform: the same weight for every stage instead.
        include_bottleneck: distil the bottleneck too.
        decoder: distil the decoder's stages too, each with the weight of the encoder's stage on its grid [ours].
        normalise: ``ema`` divides each term of each stage by its running mean [ours].
        chunk_bytes: how much of a stage, as float32, is looked at in one piece; None: by device.
    """

    fg: float = 1.0
    bg: float = 1.0
    att: float = 1.0
    ctx: float = 1.0
    tau: float = 0.5
    context: str = "gc"
    masks: str = "nearest"
    regions: str = "separate"
    alpha: float = 0.4
    uniform: bool = False
    include_bottleneck: bool = False
    decoder: bool = False
    normalise: str | None = None
    chunk_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raise ReCoKDError for a value outside its range."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ReCoKDError(
                    f"ReCo-KD's option '{name}' is one of {', '.join(map(str, choices))}; "
                    f"it can't be '{getattr(self, name)}'."
                )
        if min(self.coefficients.values()) < 0:
            raise ReCoKDError("ReCo-KD's coefficients fg, bg, att and ctx must be 0 or more.")
        if max(self.coefficients.values()) == 0:
            raise ReCoKDError("All of ReCo-KD's coefficients are 0: nothing is distilled. Raise one of them.")
        if not -10 <= self.alpha <= 10:
            raise ReCoKDError(f"ReCo-KD's alpha must be between -10 and 10, not {self.alpha}.")
        if not self.tau > 0:
            raise ReCoKDError(f"ReCo-KD's tau must be above 0, not {self.tau}.")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise ReCoKDError("ReCo-KD's chunk_bytes must be at least 1.")

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficient of each term."""
        return {"fg": self.fg, "bg": self.bg, "att": self.att, "ctx": self.ctx}

    @property
    def needs_connectors(self) -> bool:
        """Whether anything compares features voxel by voxel; affinities alone don't."""
        return max(self.fg, self.bg, self.att) > 0 or (self.ctx > 0 and self.context != "affinity")


def stage_weights(levels: Sequence[int], alpha: float, uniform: bool = False) -> tuple[float, ...]:
    """w_k = r^l(k) / sum_j r^l(j) with r = 2^(-3 alpha) [C]; or the same for all.

    Args:
        levels: of each stage how often its grid was halved: k for encoder stage k.
        alpha: how fast weights fall.
        uniform: not at all.
    """
    ratio = 1.0 if uniform else 2.0 ** (-3 * alpha)
    powers = [ratio**level for level in levels]
    return tuple(p / sum(powers) for p in powers)


def attention(magnitude: Tensor, tau: float) -> Tensor:
    """M * softmax(magnitude / tau) over the M entries of each row, mean 1.

    Of mean_c |F|, (B, N), it is the spatial attention A_S; of mean_x |F|, (B, C), the channel attention A_C.
    """
    return magnitude.shape[1] * (magnitude / tau).softmax(1)


def attention_difference(student: Magnitudes, teacher: Magnitudes, tau: float) -> Tensor:
    """L_att = mean |A_S(F̂) - A_S(F_T)| + mean |A_C(F̂) - A_C(F_T)|."""
    spatial = attention(student.over_channels, tau) - attention(teacher.over_channels, tau)
    channel = attention(student.over_voxels, tau) - attention(teacher.over_voxels, tau)
    return spatial.abs().mean() + channel.abs().mean()


class ReCoLoss(DistillationLoss):
    """ReCo-KD over all encoder stages but (by default) the bottleneck, and over the decoder's where asked for.

    It trains its global context blocks; the connectors P_k are the distiller's. Everything is computed in
    float32, outside autocast.

    Args:
        teacher_channels: of the encoder stages, full resolution first, bottleneck last.
        label_set: the classes of the masks.
        options: see ``ReCoOptions``.
    """

    present_pairs: Tensor
    lost_pairs: Tensor
    running_mean: Tensor

    def __init__(
        self, teacher_channels: tuple[int, ...], label_set: LabelSet, options: ReCoOptions | None = None
    ) -> None:
        super().__init__()
        self.options = options or ReCoOptions()
        self.label_set = label_set
        bottleneck = len(teacher_channels) - 1
        if bottleneck < 1:
            raise ReCoKDError("ReCo-KD needs an encoder with a stage before the bottleneck.")
        levels = dict(enumerate(range(bottleneck + 1 if self.options.include_bottleneck else bottleneck)))
        if self.options.decoder:
            levels |= {bottleneck + 1 + level: level for level in range(bottleneck)}
            teacher_channels = with_decoder(teacher_channels)
        self.stages = tuple(levels)
        self.uses_decoder = self.options.decoder
        self.needs_connectors = self.options.needs_connectors
        weights = stage_weights(tuple(levels.values()), self.options.alpha, self.options.uniform)
        self.stage_weights = dict(zip(levels, weights, strict=True))
        self._coarser = {k: k + 1 for k in levels if levels.get(k + 1) == levels[k] + 1}
        self.student_blocks = nn.ModuleList()
        self.teacher_blocks = nn.ModuleList()
        if self.options.ctx > 0 and self.options.context != "affinity":
            self.student_blocks.extend(GcBlock(teacher_channels[k]) for k in self.stages)
            if self.options.context == "gc":
                self.teacher_blocks.extend(GcBlock(teacher_channels[k]) for k in self.stages)
        number = len(self.stages)
        self.register_buffer("present_pairs", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("lost_pairs", torch.zeros(number, dtype=torch.int64), persistent=False)
        if self.options.normalise == "ema":
            self.register_buffer("running_mean", torch.full((number, len(TERMS)), torch.nan))

    def forward(self, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor) -> dict[str, Tensor]:
        """Terms ``fg``, ``bg``, ``att``, ``ctx``: coefficient times sum_k w_k L_{k,term}."""
        with torch.autocast(labels.device.type, enabled=False):
            sums: dict[str, list[Tensor]] = {}
            seen = self._present(labels) if self.training else None
            for k in self.stages:
                for name, value in self._stage(k, student, teacher, labels, seen).items():
                    scaled = self._normalised(k, name, value) * self.stage_weights[k]
                    sums.setdefault(name, []).append(self.options.coefficients[name] * scaled)
            return {name: torch.stack(values).sum() for name, values in sums.items()}

    def _stage(
        self, k: int, student: NetworkOutputs, teacher: NetworkOutputs, labels: Tensor, seen: Tensor | None
    ) -> dict[str, Tensor]:
        """The terms of one stage whose coefficient isn't 0."""
        terms: dict[str, Tensor] = {}
        if self.needs_connectors:
            # In one order, which their networks' may not be: every chunk is read several times.
            theirs = teacher.features[k].detach().flatten(2).contiguous()
            ours = full_precision(student.aligned[k]).flatten(2).contiguous()
            chunk = chunk_length(ours, self.options.chunk_bytes)
            shown = magnitudes(theirs, chunk)
            channel = attention(shown.over_voxels, self.options.tau)
            sums = pair_sums(ours, theirs, channel.to(ours.dtype), chunk)
            with torch.no_grad():
                masks = class_masks(labels, teacher.features[k].shape[2:], self.label_set, self.options.masks)
                weights = region_weights(masks, merged=self.options.regions == "merged")
            if seen is not None:
                self.lost_pairs[self.stages.index(k)] += (seen & ~weights.foreground_present).sum()
            spatial = attention(shown.over_channels, self.options.tau)
            terms["fg"], terms["bg"] = region_terms(spatial * sums.error / ours.shape[1], weights)
            known = Magnitudes(sums.over_channels, sums.over_voxels)
            terms["att"] = attention_difference(known, shown, self.options.tau)
            if self.student_blocks:
                terms["ctx"] = self._block_difference(k, ours, theirs, sums, chunk)
        if self.options.ctx > 0 and self.options.context == "affinity":
            terms["ctx"] = self._affinity_difference(k, student, teacher)
        return {name: value for name, value in terms.items() if self.options.coefficients[name] > 0}

    def _block_difference(self, k: int, ours: Tensor, theirs: Tensor, sums: PairSums, chunk: int) -> Tensor:
        place = self.stages.index(k)
        student_block = cast(GcBlock, self.student_blocks[place])
        teacher_block = cast(GcBlock, self.teacher_blocks[place]) if self.teacher_blocks else student_block
        return context_difference(sums, student_block.addition(ours, chunk), teacher_block.addition(theirs, chunk))

    def _affinity_difference(self, k: int, student: NetworkOutputs, teacher: NetworkOutputs) -> Tensor:
        following = self._coarser.get(k)
        return affinity_difference(
            full_precision(student.features[k]),
            full_precision(teacher.features[k].detach()),
            None if following is None else full_precision(student.features[following]),
            None if following is None else full_precision(teacher.features[following].detach()),
        )

    @torch.no_grad()
    def _present(self, labels: Tensor) -> Tensor:
        """Which (case, class) pairs the full-resolution labels hold, (B, classes) bool; counted."""
        masks = class_masks(labels, labels.shape[2:], self.label_set, "nearest")
        present = torch.stack([mask.any(1) for mask in masks][1:], dim=1)
        self.present_pairs += present.sum()
        return present

    def _normalised(self, k: int, name: str, value: Tensor) -> Tensor:
        """The term over its running mean [ours], where ``normalise`` asks for it."""
        if self.options.normalise is None:
            return value
        place = self.running_mean[self.stages.index(k), TERMS.index(name)]
        with torch.no_grad():
            seen = mean_over_processes(value)  # or each process would divide by a mean of its own
            mean = torch.where(place.isnan(), seen, EMA_DECAY * place + (1 - EMA_DECAY) * seen)
            if self.training:
                place.copy_(mean)
        return value / mean.clamp_min(EMA_FLOOR)

    def pop_statistics(self) -> dict[str, float]:
        """``present_pairs`` and, by stage, ``lost_pairs_K``; logged, too, where any was lost.

        A pair (case, class) of a training patch is lost at a stage where the class has no voxel any more.
        """
        present, lost = int(self.present_pairs), [int(n) for n in self.lost_pairs.tolist()]
        self.present_pairs.zero_()
        self.lost_pairs.zero_()
        if any(lost):
            text = ", ".join(f"{n} at stage {k}" for k, n in zip(self.stages, lost, strict=True) if n)
            LOGGER.info("ReCo-KD lost of %d (case, class) pairs: %s", present, text)
        return {"present_pairs": float(present)} | {
            f"lost_pairs_{k}": float(n) for k, n in zip(self.stages, lost, strict=True)
        }


@register("reco")
def build_reco_loss(setting: LossSetting, options: Mapping[str, Any]) -> ReCoLoss:
    """ReCo-KD for the registry."""
    return ReCoLoss(setting.teacher_channels, setting.label_set, read_options("reco", ReCoOptions, options))
