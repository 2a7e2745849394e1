"""How far a student is from its teacher, and what each loss wants of it: numbers of one distiller and a few images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.meandice import compute_dice
from scipy.ndimage import label
from torch import Tensor, nn

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.preprocessing import OUTSIDE
from ReCoKDTrainingLib.cache import preprocess_cases
from ReCoKDTrainingLib.distiller import Distiller
from ReCoKDTrainingLib.losses.base import NetworkOutputs
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import Recorder
from ReCoKDTrainingLib.runs import Run
from ReCoKDTrainingLib.sampling import cut

VOXELS = 4000
"""That similarity is measured on, per stage."""


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


def unexplained_by_rank(distiller: Distiller, images: Tensor) -> dict[str, float]:
    """What is left whatever student and connector do, by stage: P F_S has no more ranks than F_S has channels.

    As many of the teacher's principal components leave that (Eckart and Young, Psychometrika 1936).
    """
    seen, shown = paired_outputs(distiller, images)
    left = {}
    for k, (ours, theirs) in enumerate(zip(seen.features, shown.features, strict=True)):
        y = _samples(theirs, k).double()
        variances = torch.linalg.svdvals(y - y.mean(0)).square()
        left[str(k)] = float(variances[ours.shape[1] :].sum() / variances.sum())
    return left


def told_apart(distiller: Distiller, recorder: Recorder, images: Tensor, labels: Tensor) -> list[float]:
    """How well a linear classifier tells the structures apart by the student's features, stage by stage.

    Mean recall over the structures (1: every voxel right; chance is one over their number), of the voxels inside of
    them. Fitted by least squares on the first half of the cases, measured on the second. A stage too coarse for a
    structure misses it.

    Args:
        distiller: whose student it is.
        recorder: of the student, with its decoder's stages; these come after the encoder's, full resolution first.
        images: (B, C, D, H, W) of two cases or more.
        labels: (B, 1, D, H, W), 0 for the background; at coarser stages the nearest voxel's.

    Raises:
        ReCoKDError: a single case has no two halves.
    """
    if len(images) < 2:
        raise ReCoKDError(
            "A classifier is fitted on one half of the cases and measured on the other: give two or more."
        )
    with torch.no_grad():
        batches = [recorder.run(distiller.student, some, True).features for some in torch.split(images, 4)]
    half = len(images) // 2
    labels = labels.cpu()
    values = torch.unique(labels[labels > 0])
    found = []
    for stages in zip(*batches, strict=True):
        stage = torch.cat(stages).cpu()  # whose solver copes with equal features
        nearest = nn.functional.interpolate(labels.float(), stage.shape[2:], mode="nearest")
        columns = torch.cat([stage.double(), torch.ones_like(stage[:, :1], dtype=torch.float64)], 1)
        sides = []
        for side in (slice(half), slice(half, None)):
            flat, value = columns[side].movedim(1, -1).flatten(0, -2), nearest[side].flatten()
            sides.append((flat[value > 0], value[value > 0, None] == values))
        (x, known), (seen, right) = sides
        weight = (
            (known.double() / known.sum(0).clamp_min(1)).sum(1, keepdim=True).sqrt()
        )  # each structure counts the same
        fitted = torch.linalg.lstsq(x * weight, known * weight, driver="gelsd").solution
        guess = (seen @ fitted).argmax(1, keepdim=True) == torch.arange(len(values))
        found.append(float(((guess & right).sum(0) / right.sum(0).clamp_min(1)).mean()))
    return found


def drawn_labels(distiller: Distiller, images: Tensor) -> Tensor:
    """The label that the student gives each voxel of (B, C, D, H, W) images: (B, 1, D, H, W) in main memory."""
    with torch.no_grad():
        batches = [distiller.recorder.run(distiller.student, some, True).logits[0] for some in torch.split(images, 4)]
    return torch.cat([logits.argmax(1, keepdim=True).cpu() for logits in batches])


def drawn_structures(drawn: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """What was drawn of each structure that the labels have.

    Dice and number of pieces, connected over faces, are means over the cases that have the structure; "called 2" is the
    share of all its voxels that were given label 2.

    Args:
        drawn: (B, 1, D, H, W).
        labels: (B, 1, D, H, W), 0 for the background.
    """
    values = range(int(max(drawn.max(), labels.max())) + 1)
    found = []
    for value in torch.unique(labels[labels > 0]).tolist():
        structure = labels == value
        has = structure.flatten(1).any(1)
        pieces = [label((one == value)[0].numpy())[1] for one in drawn[has]]
        found.append(
            {
                "label": value,
                "dice": float(compute_dice(drawn[has] == value, structure[has]).mean()),
                "pieces": float(np.mean(pieces)),
                **{f"called {k}": float((drawn[structure] == k).double().mean()) for k in values},
            }
        )
    return found


def gradients(
    distiller: Distiller, images: Tensor, labels: Tensor, weights: Sequence[Tensor]
) -> dict[str, list[Tensor]]:
    """Of the segmentation loss and of each distillation term (at full eta): the gradient on each of the weights."""
    distiller.losses.eval()  # nothing is counted, no running mean moves
    try:
        segmentation, terms = distiller.terms(images, labels, None)
    finally:
        distiller.losses.train(distiller.training)
    parts = {"segmentation": segmentation}
    for loss, named in terms.items():
        parts |= {f"{loss}/{term}": distiller.eta(loss, None) * value for term, value in named.items()}
    return {
        name: list(torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True, materialize_grads=True))
        for name, part in parts.items()
    }


def gradients_by_stage(distiller: Distiller, images: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """The norms of :func:`gradients` on each stage's last layer."""
    stages = range(len(distiller.recorder.channels(distiller.student)))
    weights = [distiller.recorder.shared_weight(distiller.student, k) for k in stages]
    found = gradients(distiller, images, labels, weights)
    return {name: [float(slope.norm()) for slope in slopes] for name, slopes in found.items()}


def agreements(distiller: Distiller, images: Tensor, labels: Tensor, reference: str) -> dict[str, list[float]]:
    """By term, the cosine of its gradient with the reference's, on each encoder stage's weights, then the decoder's.

    The term's gradient is the mean over the first half of the cases, the reference's over the second: what they have in
    common is not that they saw the same cases, and the reference itself shows how close to 1 they can be. Above 0 a
    step for the term is one for the reference too.

    Raises:
        ReCoKDError: a single case has no two halves.
    """
    if len(images) < 2:
        raise ReCoKDError(
            "The gradients of one half of the cases are compared with those of the other: give two cases or more."
        )
    encoder = distiller.student.get_submodule("encoder")
    shared = {id(weight) for weight in encoder.parameters()}  # the decoder holds the encoder
    groups = [list(stage.parameters()) for stage in encoder.get_submodule("stages").children()]
    groups.append([w for w in distiller.student.get_submodule("decoder").parameters() if id(w) not in shared])
    half = len(images) // 2
    ours = _summed_gradients(distiller, images[:half], labels[:half], groups)
    theirs = _summed_gradients(distiller, images[half:], labels[half:], groups)[reference]
    return {
        name: [float(nn.functional.cosine_similarity(a, b, 0)) for a, b in zip(vectors, theirs, strict=True)]
        for name, vectors in ours.items()
    }


def _summed_gradients(
    distiller: Distiller, images: Tensor, labels: Tensor, groups: Sequence[Sequence[Tensor]]
) -> dict[str, list[Tensor]]:
    """By term, a flat vector for each group of weights, over batches of two cases."""
    total: dict[str, list[Tensor]] = {}
    weights = [weight for group in groups for weight in group]
    for start in range(0, len(images), 2):
        found = gradients(distiller, images[start : start + 2], labels[start : start + 2], weights)
        for name, slopes in found.items():
            remaining = iter(slopes)
            flat = [torch.cat([next(remaining).flatten() for _ in group]) for group in groups]
            before = total.get(name, [torch.zeros_like(vector) for vector in flat])
            total[name] = [old + len(images[start : start + 2]) * new for old, new in zip(before, flat, strict=True)]
    return total


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
