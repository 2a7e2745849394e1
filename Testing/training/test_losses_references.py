"""The distillation losses of other papers against their equations, written out in float64 with loops."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from distillation_cases import block_labels, plain_labels, random_features
from ReCoKDTrainingLib.losses import NetworkOutputs, build_loss

Array = npt.NDArray[np.float64]

WIDE, NARROW, CASES = 5, 3, 3


def features(channels: int, seed: int) -> Tensor:
    """(CASES, channels, 8, 8, 8); the last voxels of the first case are large, so that powers differ."""
    (made,) = random_features([channels], seed=seed, batch=CASES)
    made[0, :, 6:] *= 3
    return made.double()


def labels() -> Tensor:
    """Two structures; the second case lacks one."""
    made = block_labels(batch=CASES)
    made[1][made[1] == 2] = 0
    return made


def terms(name: str, student: Tensor, teacher: Tensor, **options: Any) -> dict[str, float]:
    loss = build_loss(
        name,
        teacher_channels=[teacher.shape[1]],
        student_channels=[student.shape[1]],
        label_set=plain_labels(2),
        options={"stage_weights": [1], **options},
    )
    seen, shown = (NetworkOutputs((f,), (), {0: f}) for f in (student, teacher))
    return {key: value.item() for key, value in loss(seen, shown, labels()).items()}


def cells(n: int) -> Iterator[tuple[slice, ...]]:
    """The windows of a grid of n^3 cells over (C, 8, 8, 8), in row-major order."""
    size = 8 // n
    for corner in product(range(n), repeat=3):
        yield (slice(None), *(slice(size * k, size * (k + 1)) for k in corner))


def unit(vector: Array) -> Array:
    return np.asarray(vector / np.sqrt((vector**2).sum()))


def cosine(a: Array, b: Array) -> float:
    return float(unit(a) @ unit(b))


def pair(wide: int = WIDE, narrow: int = NARROW) -> tuple[Tensor, Tensor, Array, Array]:
    student, teacher = features(narrow, 1), features(wide, 2)
    return student, teacher, student.numpy(), teacher.numpy()


def test_skd_compares_the_similarities_of_windows_maxima() -> None:
    student, teacher, ours, theirs = pair()
    for scale, n in ((0.5, 2), (0.25, 4)):
        squares = []
        for s, t in zip(ours, theirs, strict=True):
            nodes = [[unit(f[w].max((1, 2, 3))) for w in cells(n)] for f in (s, t)]
            for i, j in product(range(n**3), repeat=2):
                squares.append((nodes[0][i] @ nodes[0][j] - nodes[1][i] @ nodes[1][j]) ** 2)
        assert terms("skd", student, teacher, scale=scale)["pairwise"] == pytest.approx(np.mean(squares), rel=1e-9)


def test_cirkd_compares_the_rows_of_relations_across_images() -> None:
    student, teacher, ours, theirs = pair()
    tokens = [[[unit(f[w].mean((1, 2, 3))) for w in cells(4)] for f in side] for side in (ours, theirs)]
    for tau in (0.1, 0.5):
        divergences = []
        for i, j in product(range(CASES), repeat=2):
            for row in range(64):
                scores = [np.array([z[i][row] @ other for other in z[j]]) / tau for z in tokens]
                seen, shown = (np.exp(s - s.max()) / np.exp(s - s.max()).sum() for s in scores)
                divergences.append((shown * np.log(shown / seen)).sum())
        found = terms("cirkd", student, teacher, **({} if tau == 0.1 else {"tau": tau}))
        assert found["relation"] == pytest.approx(np.mean(divergences), rel=1e-9)


def test_ifvd_compares_the_likeness_of_voxels_to_their_class() -> None:
    student, teacher, ours, theirs = pair()
    squares = []
    for s, t, y in zip(ours, theirs, labels()[:, 0].numpy(), strict=True):
        for value in np.unique(y):
            inside = y == value
            likeness = [[cosine(v, f[:, inside].mean(1)) for v in f[:, inside].T] for f in (s, t)]
            squares += [(a - b) ** 2 for a, b in zip(*likeness, strict=True)]
    assert len(squares) == CASES * 512
    assert terms("ifvd", student, teacher)["variation"] == pytest.approx(np.mean(squares), rel=1e-9)


def test_emkd_compares_importance_maps_and_the_regions_that_are_there() -> None:
    student, teacher, ours, theirs = pair()
    maps = [unit((s**4).mean(0).ravel()) - unit((t**4).mean(0).ravel()) for s, t in zip(ours, theirs, strict=True)]
    squares = []
    for s, t, y in zip(ours, theirs, labels()[:, 0].numpy(), strict=True):
        for a, b in combinations(np.unique(y), 2):
            contrast = [cosine(f[:, y == a].mean(1), f[:, y == b].mean(1)) for f in (s, t)]
            squares.append((contrast[0] - contrast[1]) ** 2)
    assert len(squares) == 3 + 1 + 3
    found = terms("emkd", student, teacher)
    assert found["importance"] == pytest.approx(np.mean([(m**2).sum() for m in maps]), rel=1e-9)
    assert found["affinity"] == pytest.approx(np.mean(squares), rel=1e-9)


def test_dprd_compares_displacements_between_cases_over_their_mean_length() -> None:
    student, teacher, ours, theirs = pair(WIDE, WIDE)
    embeddings = []
    for side in (ours, theirs):
        cases = []
        for f, y in zip(side, labels()[:, 0].numpy(), strict=True):
            inside = [f[w][:, y[w[1:]] > 0] for w in cells(2)]
            cases.append(np.array([v.mean(1) if v.size else np.zeros(WIDE) for v in inside]).T.ravel())
        embeddings.append(cases)
    moves = [[a - b for a, b in combinations(cases, 2)] for cases in embeddings]
    lengths = [[np.sqrt((d**2).sum()) for d in side] for side in moves]
    moved, far = ([[v / np.mean(n) for v in x] for x, n in zip(y, lengths, strict=True)] for y in (moves, lengths))

    def smooth(a: Array, b: Array) -> Array:
        error = np.abs(np.asarray(a) - b)
        return np.where(error < 1, error**2 / 2, error - 0.5)

    found = terms("dprd", student, teacher)
    expected = np.mean([smooth(a, b).sum() for a, b in zip(*moved, strict=True)])
    assert found["displacement"] == pytest.approx(expected, rel=1e-5)  # 1e-6 keeps lengths from being 0
    expected = 0.5 * np.mean([smooth(a, b) for a, b in zip(*far, strict=True)])
    assert found["distance"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["at", "cirkd", "cwd", "dprd", "emkd", "fitnet", "ifvd", "mgd", "reco", "skd"])
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    """Also where nobody told torch that none is wanted."""
    student, teacher = ([f.requires_grad_() for f in random_features([4, 6], seed=seed)] for seed in (1, 2))
    loss = build_loss(name, teacher_channels=[4, 6], student_channels=[4, 6], label_set=plain_labels(2))
    seen, shown = (NetworkOutputs(tuple(f), (), dict(enumerate(f))) for f in (student, teacher))
    torch.stack(list(loss(seen, shown, block_labels()).values())).sum().backward()  # type: ignore[no-untyped-call]
    assert student[0].grad is not None
    assert all(f.grad is None for f in teacher)
