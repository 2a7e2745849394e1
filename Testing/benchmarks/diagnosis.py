"""Why a student learns what it learns from its teacher: gradients, features, adapters, and where it goes wrong.

    python Testing/benchmarks/diagnosis.py follow --method reco --steps 600 --folder FOLDER --data DATA
    python Testing/benchmarks/diagnosis.py features --runs x8-reco-3000-s0 --folder FOLDER --data DATA
    python Testing/benchmarks/diagnosis.py errors --runs x8-plain-3000-s0,x8-reco-3000-s0 --folder FOLDER --data DATA

``follow`` trains a short run and measures after every epoch; ``errors`` looks at runs of the comparison. Both write a
JSON file and a picture. ``features`` prints how close such runs' features are to the teacher's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from diagnosis_figures import draw_errors, draw_following
from distillation_runs import DECLARED, DeclaredRun, Setting, add_arguments, run_settings
from ReCoKDLib.files import write_json
from ReCoKDLib.preprocessing import OUTSIDE
from ReCoKDTrainingLib.cache import preprocess_cases
from ReCoKDTrainingLib.distiller import Distiller
from ReCoKDTrainingLib.losses.base import NetworkOutputs
from ReCoKDTrainingLib.losses.pairs import magnitudes
from ReCoKDTrainingLib.losses.reco import attention
from ReCoKDTrainingLib.losses.regions import class_masks, region_weights
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.runs import Run, prepare_run
from ReCoKDTrainingLib.sampling import cut

Array = npt.NDArray[Any]

VOXELS = 4000
"""That similarity is measured on, per stage."""
DISTANCES = (1.0, 2.0, 3.0, 5.0)
"""Upper ends of the bins of the distance to a border, in voxels; a last bin has all beyond."""
TAU = 0.5


# -- measuring ---------------------------------------------------------------------------------------------


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, equation 5) of (n, p) and (n, q).

    Between 0 and 1; 1 for features that a rotation and one scale turn into each other.
    """
    x, y = ((f - f.mean(0)).double() for f in (x, y))
    across = (y.T @ x).square().sum()
    norm = (x.T @ x).norm() * (y.T @ y).norm()
    return float(across / norm) if norm > 0 else 0.0


def paired_outputs(distiller: Distiller, images: Tensor) -> tuple[NetworkOutputs, NetworkOutputs]:
    """What student and teacher make of (B, C, D, H, W) images, the teacher's stages in the student's order."""
    assert distiller.teacher is not None
    with torch.no_grad():
        seen = distiller.recorder.run(distiller.student, images, True)
        shown = distiller.teacher_recorder.run(distiller.teacher, images, True)
    features = tuple(shown.features[place] for place in distiller.pairing)
    return seen, NetworkOutputs(features, shown.logits)


def _samples(features: Tensor, seed: int) -> Tensor:
    """(B, C, D, H, W) to (VOXELS, C): the same voxels for every feature map of that grid."""
    flat = features.movedim(1, -1).flatten(0, -2).float()
    generator = torch.Generator().manual_seed(seed)
    return flat[torch.randperm(len(flat), generator=generator)[:VOXELS]]


def similarities(distiller: Distiller, images: Tensor) -> list[float]:
    """Linear CKA between the student's and the teacher's features, by stage, over voxels of all images."""
    seen, shown = paired_outputs(distiller, images)
    return [
        linear_cka(_samples(ours, k), _samples(theirs, k))
        for k, (ours, theirs) in enumerate(zip(seen.features, shown.features, strict=True))
        if ours.shape[2:] == theirs.shape[2:]
    ]


def unexplained(distiller: Distiller, images: Tensor) -> dict[str, float]:
    """By connector: the part of the teacher's variance (about the mean of its channel) that P F_S leaves.

    0: the projected features are the teacher's; 1: no better than a constant.
    """
    seen, shown = paired_outputs(distiller, images)
    left = {}
    with torch.no_grad():
        for key, connector in distiller.connectors.items():
            theirs = shown.features[int(key)].float().flatten(2)
            delta = connector(seen.features[int(key)].float()).flatten(2) - theirs
            spread = theirs - theirs.mean((0, 2), keepdim=True)
            left[key] = float(delta.square().sum() / spread.square().sum())
    return left


def least_unexplained(distiller: Distiller, images: Tensor) -> dict[str, float]:
    """What the best connector would leave: the least-squares fit of the teacher's features to the student's, by stage.

    Far below ``unexplained``, it is the connector that is behind, not the student.
    """
    seen, shown = paired_outputs(distiller, images)
    left = {}
    for k, (ours, theirs) in enumerate(zip(seen.features, shown.features, strict=True)):
        if ours.shape[2:] == theirs.shape[2:]:
            x, y = _samples(ours, k).double(), _samples(theirs, k).double()
            x, y = x - x.mean(0), y - y.mean(0)
            fitted = x @ torch.linalg.lstsq(x, y, driver="gelsd").solution  # some of the features may be equal
            left[str(k)] = float((y - fitted).square().sum() / y.square().sum())
    return left


def gradients_by_stage(distiller: Distiller, images: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """For the segmentation loss and each distillation term (at full eta): gradient norm on each stage's last layer."""
    stages = range(len(distiller.recorder.channels(distiller.student)))
    weights = [distiller.recorder.shared_weight(distiller.student, k) for k in stages]
    distiller.losses.eval()  # nothing is counted, no running mean moves
    try:
        segmentation, terms = distiller.terms(images, labels, 1.0)
    finally:
        distiller.losses.train(distiller.training)
    parts = {"segmentation": segmentation}
    for loss, named in terms.items():
        parts |= {f"{loss}/{term}": distiller.eta(loss, 1.0) * value for term, value in named.items()}
    norms = {}
    for name, part in parts.items():
        slopes = torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True)
        norms[name] = [0.0 if slope is None else float(slope.norm()) for slope in slopes]
    return norms


def movements(module: nn.Module, start: dict[str, Tensor]) -> dict[str, float]:
    """How far each numbered part's weights are from where they started, over their norm then."""
    parts: dict[str, list[str]] = {}
    for name, weight in start.items():
        if weight.ndim > 1:
            number = next(place for place, word in enumerate(name.split(".")) if word.isdigit())
            parts.setdefault(".".join(name.split(".")[: number + 1]), []).append(name)
    now = module.state_dict()
    return {
        part: float(
            torch.cat([(now[n] - start[n]).flatten() for n in names]).norm()
            / torch.cat([start[n].flatten() for n in names]).norm()
        )
        for part, names in parts.items()
    }


def probe(run: Run, number: int, progress: Progress) -> tuple[Tensor, Tensor]:
    """The middles of validation cases, without augmentation: (B, C, D, H, W) images and (B, 1, D, H, W) labels."""
    cases = preprocess_cases(
        run.split.validation[:number],
        run.plan,
        run.dataset.label_set,
        run.settings.cache or run.settings.output / "preprocessed",
        orientation=run.trainer.settings["orientation"],
        progress=progress.fraction,
    )
    images, labels = [], []
    for case in cases:
        data, target = case.data(), case.labels()
        start = [(n - p) // 2 for n, p in zip(data.shape[1:], run.plan.patch_size, strict=True)]
        images.append(cut(data, start, run.plan.patch_size, 0))
        labels.append(cut(target, start, run.plan.patch_size, OUTSIDE))
    return torch.stack(images).float(), torch.stack(labels).long()


# -- following a run ---------------------------------------------------------------------------------------


class Follower(Progress):
    """Measures whenever the trainer tells of an epoch, and writes ``following.json`` and ``following.png`` anew.

    Args:
        title: above the picture.
    """

    def __init__(self, title: str) -> None:
        super().__init__("bar")
        self.title = title
        self.measured: list[dict[str, Any]] = []
        self.run: Run | None = None

    def begin(self, run: Run, cases: int) -> None:
        """Keep the adapters' first weights, and measure."""
        self.run = run
        images, labels = probe(run, cases, self)
        labels[labels == OUTSIDE] = 0
        self.images, self.labels = images.to(run.trainer.device), labels.to(run.trainer.device)
        distiller = run.trainer.distiller
        self.adapters = nn.ModuleDict({"connectors": distiller.connectors, "losses": distiller.losses})
        self.start = {name: value.clone() for name, value in self.adapters.state_dict().items()}
        self.measure()

    def say(self, text: str) -> None:
        """As ever, and measure after an epoch."""
        super().say(text)
        if self.run is not None and text.startswith("epoch "):
            self.measure()

    def measure(self) -> None:
        """One more entry of ``measured``."""
        assert self.run is not None
        trainer, output = self.run.trainer, self.run.settings.output
        self.measured.append(
            {
                "epoch": trainer.epoch,
                "cka": similarities(trainer.distiller, self.images),
                "unexplained": unexplained(trainer.distiller, self.images),
                "least unexplained": least_unexplained(trainer.distiller, self.images),
                "gradients": gradients_by_stage(trainer.distiller, self.images[:2], self.labels[:2]),
                "movements": movements(self.adapters, self.start),
                "losses": trainer.history[-1] if trainer.history else {},
            }
        )
        write_json(output / "following.json", {"run": self.title, "epochs": self.measured}, overwrite=True)
        draw_following(self.measured, self.title, output / "following.png")


def follow(declared: DeclaredRun, setting: Setting, cases: int = 6) -> Path:
    """Train a run into a new folder; ``following.json`` and ``following.png`` there tell what happens."""
    follower = Follower(declared.row)
    run = prepare_run(run_settings(declared, setting), follower)
    follower.begin(run, cases)
    run.trainer.run()
    return run.settings.output / "following.png"


# -- where it goes wrong -----------------------------------------------------------------------------------


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


def errors(declared: Sequence[DeclaredRun], setting: Setting) -> Path:
    """Write ``errors.json`` and ``errors.png`` into the folder of the comparison; the runs must have begun there."""
    with Progress("bar") as progress:
        runs = {run.name: prepare_run(run_settings(run, setting), progress, resume=True) for run in declared}
        for run in runs.values():
            run.trainer.distiller.eval()
        table = error_table(census(runs, progress))
    write_json(setting.folder / "errors.json", table, overwrite=True)
    draw_errors(table, list(runs), setting.folder / "errors.png")
    return setting.folder / "errors.png"


def features(declared: Sequence[DeclaredRun], setting: Setting, cases: int = 6) -> str:
    """A markdown table: for each run and stage CKA, and what the connector and the best connector leave."""
    lines = ["| run | stage | CKA | P F_S leaves | the best P leaves |", "|---|---|---|---|---|"]
    with Progress("bar") as progress:
        for run in declared:
            prepared = prepare_run(run_settings(run, setting), progress, resume=True)
            images = probe(prepared, cases, progress)[0].to(prepared.trainer.device)
            distiller = prepared.trainer.distiller.eval()
            present, best = unexplained(distiller, images), least_unexplained(distiller, images)
            for k, cka in enumerate(similarities(distiller, images)):
                left = f"{present[str(k)]:.2f}" if str(k) in present else ""
                lines.append(
                    f"| {run.name}, epoch {prepared.trainer.epoch} | {k} | {cka:.2f} | {left} | {best[str(k)]:.2f} |"
                )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Follow a run, or look at what others have become."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("follow", "features", "errors"))
    parser.add_argument("--folder", type=Path, default=Path("distillation"), help="of all runs")
    add_arguments(parser)
    parser.add_argument("--method", default="reco", help="to follow")
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--steps-per-epoch", type=int, default=100)
    parser.add_argument("--runs", default="", help="names of runs in the folder, comma-separated")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(argv)
    setting = Setting.of_arguments(given, given.folder, steps_per_epoch=given.steps_per_epoch, device=given.device)
    if given.task == "follow":
        print(follow(DeclaredRun(given.method, given.width, steps=given.steps), setting))
        return 0
    runs = [run for run in DECLARED if run.name in given.runs.split(",")]
    print(features(runs, setting) if given.task == "features" else errors(runs, setting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
