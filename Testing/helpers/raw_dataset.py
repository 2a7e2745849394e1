"""Small datasets in nnU-Net's raw layout, made up so that a network can learn them within seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from geometries import GEOMETRIES, Matrix

LABELS: Mapping[str, Any] = {"background": 0, "anterior": 1, "posterior": 2}
REGIONS: Mapping[str, Any] = {"background": 0, "whole": [1, 2], "posterior": [2]}


def make_raw_dataset(
    folder: Path,
    *,
    cases: int = 6,
    shape: tuple[int, int, int] = (18, 22, 26),
    channel_names: Sequence[str] = ("MRI",),
    geometries: Sequence[str] = ("axis-aligned", "oblique"),
    regions: bool = False,
    ignore: bool = False,
    file_ending: str = ".nii.gz",
    seed: int = 0,
) -> Path:
    """Write ``dataset.json``, ``imagesTr/blobs_000_0000.nii.gz`` and so on, ``labelsTr/blobs_000.nii.gz``.

    Each case has two bright ellipsoids of the values 1 and 2, at places and of sizes that vary from case to
    case, in an image of about 300 that is 60 brighter for each label value, with noise of 8. The last channel
    is reversed in contrast when there are several.

    Args:
        folder: The dataset's folder, made if need be.
        cases: How many.
        shape: Voxels along (k, j, i), varied by up to two from case to case.
        channel_names: As in ``dataset.json``.
        geometries: Names from ``geometries.GEOMETRIES``; the cases take them in turn.
        regions: Declare the overlapping regions {1, 2} and {2} instead of the labels 1 and 2.
        ignore: Give the outermost two slices the ignore label 3.
        file_ending: Format of the files; NRRD keeps NaN, which ITK reads from NIfTI as 0.
        seed: The same seed gives the same files.
    """
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for index in range(cases):
        random = np.random.default_rng((seed, index))
        size = [int(n + random.integers(-2, 3)) for n in shape]
        labels = _two_ellipsoids(size, random)
        matrix = GEOMETRIES[geometries[index % len(geometries)]]()
        for channel in range(len(channel_names)):
            contrast = -60.0 if channel and channel == len(channel_names) - 1 else 60.0
            image = 300 + contrast * labels + random.normal(scale=8, size=size)
            _write(
                image.astype(np.float32),
                matrix,
                folder / "imagesTr" / f"blobs_{index:03d}_{channel:04d}{file_ending}",
            )
        if ignore:
            labels[:2] = labels[-2:] = 3
        _write(labels, matrix, folder / "labelsTr" / f"blobs_{index:03d}{file_ending}")
    description: dict[str, Any] = {
        "name": "Two blobs",
        "channel_names": {str(n): name for n, name in enumerate(channel_names)},
        "labels": dict(REGIONS if regions else LABELS) | ({"ignore": 3} if ignore else {}),
        "numTraining": cases,
        "file_ending": file_ending,
    }
    if regions:
        description["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return folder


def _two_ellipsoids(shape: Sequence[int], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    place = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"))
    labels = np.zeros(shape, dtype=np.uint8)
    for value, centre in ((1, (0.35, 0.3, 0.3)), (2, (0.6, 0.7, 0.65))):
        middle = np.add(centre, random.uniform(-0.06, 0.06, 3)).reshape(3, 1, 1, 1)
        radii = random.uniform(0.16, 0.26, 3).reshape(3, 1, 1, 1)
        labels[(((place - middle) / radii) ** 2).sum(axis=0) <= 1] = value
    return labels


def _write(array: npt.NDArray[Any], ijk_to_ras: Matrix, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
