"""The student that ships, on the sample cases that ship: what `make demo` promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from geometries import oblique_left_handed
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.segment import segment, segment_files
from ReCoKDLib.students import find_student, shipped_folder
from ReCoKDLib.volume import Volume

STUDENT = "hippocampus-x4"
SAMPLES = shipped_folder() / "SampleCases"
CASES = sorted(path.name.removesuffix("_0000.nii.gz") for path in SAMPLES.glob("*_0000.nii.gz"))


@pytest.fixture(scope="module")
def student() -> ModelPackage:
    return find_student(STUDENT)


def dice(one: Volume, other: Volume, value: int) -> float:
    a, b = one.array == value, other.array == value
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def places(labels: Volume, value: int) -> set[tuple[int, ...]]:
    """The voxels of a structure by their place in RAS, in hundredths of a millimetre."""
    k, j, i = np.nonzero(labels.array[0] == value)
    ras = (labels.ijk_to_ras @ np.stack([i, j, k, np.ones_like(i)]))[:3]
    return set(map(tuple, np.round(ras.T * 100).astype(int).tolist()))


def test_there_are_four_cases_with_their_licence() -> None:
    assert len(CASES) == 4
    assert "CC-BY-SA 4.0" in (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert "CC-BY-SA 4.0" in (shipped_folder() / "LICENSE.md").read_text(encoding="utf-8")


def test_the_card_says_what_it_is(student: ModelPackage) -> None:
    card = student.card
    assert (card.role, card.parameters, card.training.width) == ("student", 351_329, 2)
    assert card.licences.weights == "CC-BY-SA-4.0"
    assert card.training.losses["logits"] == {"eta": 3.0}
    assert card.metrics["mean"]["dice"] > 0.87
    assert all("SCT^" in segment.terminology for segment in student.label_set.segments)
    assert student.path.stat().st_size < 2_000_000
    student.verify()


@pytest.mark.parametrize("case", CASES)
def test_it_finds_the_hippocampus(student: ModelPackage, case: str) -> None:
    result = segment(read_volume(SAMPLES / f"{case}_0000.nii.gz"), student, device="cpu")
    truth = read_volume(SAMPLES / f"{case}_label.nii.gz")
    assert result.warnings == ()
    assert dice(result.labels, truth, 1) > 0.75
    assert dice(result.labels, truth, 2) > 0.75


def test_an_oblique_left_handed_copy_gives_the_same_structure_in_ras(student: ModelPackage, tmp_path: Path) -> None:
    """The head turned rigidly in space and its axes stored in another order: the structure turns with it."""
    plain = read_volume(SAMPLES / f"{CASES[0]}_0000.nii.gz")
    turn = np.eye(4)
    turn[:3, :3] = oblique_left_handed()[:3, :3] / np.linalg.norm(oblique_left_handed()[:3, :3], axis=0)
    turn[:3, :3] @= np.diag([1.0, 1.0, -1.0])  # a rotation; the file's own order of axes makes it left-handed
    turn[:3, 3] = (12.0, -7.0, 30.0)
    turned = Volume(plain.array, turn @ plain.ijk_to_ras).reoriented("LAS")
    assert np.linalg.det(turned.ijk_to_ras[:3, :3]) < 0
    _write(turned, tmp_path / "turned.nrrd")
    segment_files([tmp_path / "turned.nrrd"], student, tmp_path / "found.nrrd", device="cpu")
    found = read_volume(tmp_path / "found.nrrd")
    expected = segment(plain, student, device="cpu").labels
    for value in (1, 2):
        back = Volume(found.array, np.linalg.inv(turn) @ found.ijk_to_ras)
        assert places(back, value) == places(expected, value)
        assert len(places(expected, value)) > 500


def _write(volume: Volume, path: Path) -> None:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(volume.array[0])
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def test_the_dicom_series_has_a_hippocampus_of_usual_size(student: ModelPackage, shared_data: Path) -> None:
    result = segment(read_volume(shared_data / "dicom" / "hippocampus_crop"), student, device="cpu")
    assert result.warnings == ()
    for value in (1, 2):
        assert 0.8 < (result.labels.array == value).sum() / 1000 < 3.0  # ml
