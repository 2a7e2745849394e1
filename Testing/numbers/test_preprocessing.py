"""Preprocessing and the way back, and resampling, against plain references."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from geometries import Matrix, axis_aligned, matrix
from plans import small_plan
from ReCoKDLib.plan import DEFAULT_RESAMPLING
from ReCoKDLib.preprocessing import OUTSIDE, bounding_box, filled, non_zero, preprocess, restore_grid, uncrop
from ReCoKDLib.resampling import coarse_axis, resample, resampled_shape
from ReCoKDLib.volume import Volume

IMAGE, LABELS, LOGITS = (DEFAULT_RESAMPLING[key] for key in ("data", "seg", "probabilities"))


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """A smooth function of place, in 0..1 along each axis."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    return np.sin(3 * x) + np.cos(2 * y) * z


def test_resampling_follows_the_voxel_centres() -> None:
    result = resample(smooth((20, 24, 28))[None], (30, 36, 42), (1.5, 1.5, 1.5), (1, 1, 1), IMAGE)[0]
    inner = (slice(9, -9),) * 3  # a spline feels the border some voxels in
    np.testing.assert_allclose(result[inner], smooth((30, 36, 42))[inner], atol=2e-4)


def test_linear_resampling_equals_simpleitk() -> None:
    array = np.random.default_rng(0).normal(size=(10, 12, 14))
    image = sitk.GetImageFromArray(array)
    grid = sitk.Image(21, 18, 15, sitk.sitkFloat64)  # 1.5 times as fine
    grid.SetSpacing((14 / 21, 12 / 18, 10 / 15))
    grid.SetOrigin([(s - 1) / 2 for s in grid.GetSpacing()])
    reference = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear))
    result = resample(array[None], (15, 18, 21), (1.5, 1.5, 1.5), (1, 1, 1), LOGITS)[0]
    inner = (slice(1, -1),) * 3  # SimpleITK has no value outside the outermost voxel centres
    np.testing.assert_allclose(result[inner], reference[inner], atol=1e-9)


def test_the_coarse_axis_is_taken_apart() -> None:
    assert coarse_axis((5, 1, 1), (5, 1, 1)) == 0
    assert coarse_axis((1, 1, 1), (1, 1, 5)) == 2
    assert coarse_axis((3, 1, 1), (1, 1, 1)) is None  # exactly three times is not yet anisotropic
    assert coarse_axis((5, 5, 1), (5, 5, 1)) is None  # two equally coarse axes
    assert coarse_axis((5, 1, 1), (5, 1, 1), force=False) is None


def test_across_the_coarse_axis_values_are_only_repeated() -> None:
    array = np.random.default_rng(0).normal(size=(1, 4, 6, 6))
    result = resample(array, (8, 6, 6), (6, 1, 1), (3, 1, 1), IMAGE)
    np.testing.assert_allclose(result[0, ::2], array[0], atol=1e-12)
    np.testing.assert_allclose(result[0, 1::2], array[0], atol=1e-12)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (8.0, 1.0, 1.0)], ids=["isotropic", "anisotropic"])
def test_resampling_invents_no_label(spacing: tuple[float, float, float]) -> None:
    labels = np.zeros((1, 8, 8, 8), np.int16)
    labels[0, 2:6, 2:6, 2:6] = 7
    labels[0, :2] = OUTSIDE
    result = resample(labels, resampled_shape((8, 8, 8), spacing, (1, 1, 1)), spacing, (1, 1, 1), LABELS)
    assert set(np.unique(result)) == {OUTSIDE, 0, 7}
    assert result.dtype == np.int16


def test_z_score_is_of_the_cropped_image() -> None:
    array = np.zeros((1, 10, 10, 10), np.int16)
    array[0, 2:8, 3:9, 1:7] = np.random.default_rng(0).integers(50, 150, (6, 6, 6))
    volume = Volume(array, axis_aligned())
    case = preprocess(volume, small_plan())
    assert case.data.shape == (1, 6, 6, 6)
    assert case.bounding_box == (slice(2, 8), slice(3, 9), slice(1, 7))
    assert case.data.mean() == pytest.approx(0, abs=1e-5)
    assert case.data.std() == pytest.approx(1, abs=1e-5)
    assert volume.array.dtype == np.int16  # the user's voxels are as they were
    assert volume.array.max() == array.max()


def test_masked_z_score_leaves_the_outside_at_zero() -> None:
    array = np.zeros((1, 10, 10, 10), np.float32)
    array[0, :, :, :5] = np.random.default_rng(0).normal(100, 10, (10, 10, 5))
    array[0, 0, 0, 9] = 1.0  # so that the box is the whole image
    data = preprocess(Volume(array, axis_aligned()), small_plan(masked=True)).data[0]
    assert (data[1:, 1:, 5:] == 0).all()
    assert abs(data[:, :, :5].mean()) < 0.2


def test_ct_is_clipped_and_scaled_by_the_plan() -> None:
    array = np.array([-1000.0, -50, 100, 300, 2000]).reshape(1, 1, 1, 5).repeat(4, 1).repeat(4, 2)
    data = preprocess(Volume(array, axis_aligned()), small_plan(schemes=("CTNormalization",))).data
    np.testing.assert_allclose(data[0, 0, 0], [-3, -3, 0, 4, 4])


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("NoNormalization", [10, 110, 210]),
        ("RescaleTo01Normalization", [0, 0.5, 1]),
        ("RGBTo01Normalization", [10 / 255, 110 / 255, 210 / 255]),
    ],
)
def test_other_schemes(scheme: str, expected: list[float]) -> None:
    array = np.array([10.0, 110, 210]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(
        preprocess(Volume(array, axis_aligned()), small_plan(schemes=(scheme,))).data[0, 0, 0], expected, rtol=1e-6
    )


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_labels_come_back_to_their_voxels(transpose: tuple[int, int, int]) -> None:
    geometry: Matrix = matrix(np.eye(3), (0.8, 1.0, 2.5), (0, 0, 0))
    labels = np.zeros((1, 8, 20, 24), np.uint8)
    labels[0, 2:6, 6:15, 5:18] = 1
    image = labels.astype(np.float32) * 50 + 10
    image[:, :, :3] = 0  # air that is cropped away
    plan = small_plan(spacing=(1.0, 1.0, 1.0), transpose=transpose)
    case = preprocess(Volume(image, geometry), plan, Volume(labels, geometry))
    assert case.labels is not None
    assert case.data.shape[1:] == case.labels.shape[1:]
    assert case.labels.min() == 0  # cropping removed everything outside
    restored = restore_grid((case.labels == 1).astype(np.float32), case, plan)
    back = uncrop(restored, case, plan)[0] > 0.5
    truth = labels[0] == 1
    assert back.shape == truth.shape
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.9
    assert not back[:, :3].any()


def test_outside_of_the_patient_is_marked_in_labels() -> None:
    image = np.zeros((1, 6, 6, 6), np.float32)
    image[0, :, :, :4] = 5
    image[0, 0, 0, 5] = 5
    case = preprocess(
        Volume(image, axis_aligned()), small_plan(), Volume(np.zeros((1, 6, 6, 6), np.uint8), axis_aligned())
    )
    assert case.labels is not None
    assert (case.labels[0, 1:, 1:, 4:] == OUTSIDE).all()
    assert (case.labels[0, :, :, :4] == 0).all()


def test_holes_are_the_same_whether_filled_before_or_after_cropping() -> None:
    array = np.zeros((2, 12, 10, 9), np.int16)
    array[0, 2:9, 1:8, 2:9] = 5
    array[0, 4:6, 3:5, 4:6] = 0  # a hole
    array[0, 6:9, 5:7, 5:6] = 0  # a notch, open at the border of the box
    array[1, 5:7, 2:4, 8:9] = 1
    mask = non_zero(array)
    box = bounding_box(mask)
    inside = filled(mask[box])
    np.testing.assert_array_equal(inside, filled(mask)[box])
    assert inside[2, 2, 2]  # of the hole
    assert not inside[6, 4, 3]  # of the notch
    assert bounding_box(filled(mask)) == box
