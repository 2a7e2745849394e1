"""Where students are wrong: a census of the voxels of validation cases, and its table."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt

from diagnosis_measures import paired_outputs, probe
from ReCoKDLib.preprocessing import OUTSIDE
from ReCoKDTrainingLib.losses.pairs import magnitudes
from ReCoKDTrainingLib.losses.reco import attention
from ReCoKDTrainingLib.losses.regions import class_masks, region_weights
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.runs import Run

Array = npt.NDArray[Any]

DISTANCES = (1.0, 2.0, 3.0, 5.0)
"""Upper ends of the bins of the distance to a border, in voxels; a last bin has all beyond."""
TAU = 0.5
"""Of the attention, as ReCo-KD has it by default."""


@dataclass(frozen=True)
class Census:
    """Voxels of all probed cases, one array entry each.

    Attributes:
        label: the reference.
        distance: to the nearest voxel of another label, in voxels.
        teacher: whether the teacher is right.
        students: by name, whether each student is right.
        attention: the teacher's A_S at full resolution, mean 1 in each case.
        weight: of the voxel in L_fg and L_bg together, with the attention; sum 1 in each case.
        case: number of its case.
    """

    label: Array
    distance: Array
    teacher: Array
    students: dict[str, Array]
    attention: Array
    weight: Array
    case: Array


def border_distance(labels: Array) -> Array:
    """Distance of each voxel of a label map to the nearest voxel of another label (1 beside a border)."""
    result = np.full(labels.shape, np.inf)
    values = np.unique(labels)
    for value in values if len(values) > 1 else ():
        inside = labels == value
        result[inside] = distance_transform_edt(inside)[inside]
    return result


def census(runs: dict[str, Run], progress: Progress) -> Census:
    """Teacher and students on all validation cases of the first run."""
    first = next(iter(runs.values()))
    device, label_set = first.trainer.device, first.dataset.label_set
    images, labels = probe(first, len(first.split.validation), progress)
    parts: dict[str, list[Array]] = {}
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        inside = label[0] != OUTSIDE
        label = label.clamp_min(0)
        right = {}
        for name, run in runs.items():
            seen, shown = paired_outputs(run.trainer.distiller, image[None].to(device))
            right[name] = (seen.logits[0][0].argmax(0).cpu() == label[0])[inside]
        features = shown.features[0].flatten(2)
        spatial = attention(magnitudes(features, features.shape[2]).over_channels, TAU)[0].reshape(inside.shape).cpu()
        weights = region_weights(class_masks(label[None], inside.shape, label_set, "nearest"))
        weight = ((weights.foreground + weights.background)[0].reshape(inside.shape) * spatial)[inside]
        columns = {
            "label": label[0][inside],
            "distance": torch.from_numpy(border_distance(label[0].numpy()))[inside],
            "teacher": (shown.logits[0][0].argmax(0).cpu() == label[0])[inside],
            "attention": spatial[inside],
            "weight": weight / weight.sum(),
            "case": torch.full((int(inside.sum()),), number),
            **{f"student {name}": value for name, value in right.items()},
        }
        for name, column in columns.items():
            parts.setdefault(name, []).append(column.numpy())
    whole = {name: np.concatenate(column) for name, column in parts.items()}
    students = {name: whole.pop(f"student {name}") for name in runs}
    return Census(students=students, **whole)


def error_table(found: Census) -> dict[str, Any]:
    """By distance to a border, and by label: voxels, errors of teacher and students, attention and loss weight."""
    edges = (0.0, *DISTANCES, np.inf)
    groups = {
        f"{low:g} to {high:g} voxels" if np.isfinite(high) else f"over {low:g} voxels": (found.distance > low)
        & (found.distance <= high)
        for low, high in pairwise(edges)
    }
    groups |= {f"label {value}": found.label == value for value in np.unique(found.label).tolist()}
    cases = len(np.unique(found.case))
    table = {}
    for group, mask in groups.items():
        if not mask.any():
            continue
        table[group] = {
            "voxels": int(mask.sum()),
            "teacher's errors": int((~found.teacher[mask]).sum()),
            **{f"errors of {name}": int((~right[mask]).sum()) for name, right in found.students.items()},
            **{
                f"errors of {name} alone": int((~right & found.teacher)[mask].sum())
                for name, right in found.students.items()
            },
            "mean attention": float(found.attention[mask].mean()),
            "share of the loss": float(found.weight[mask].sum() / cases),
        }
    return table
