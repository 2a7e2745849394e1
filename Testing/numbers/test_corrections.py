"""Clicks, strokes and boxes on any grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geometries import GEOMETRIES, Matrix
from ReCoKDLib.interaction.corrections import (
    MAX_STROKE_POINTS,
    Box,
    Click,
    CorrectionError,
    OutsideVolumeError,
    Stroke,
    voxels_of,
)
from ReCoKDLib.volume import Volume

SHAPE = (9, 11, 13)


def volume_on(matrix: Matrix, shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume(np.zeros((1, *shape), dtype=np.int16), matrix, "head")


def ras(volume: Volume, kji: Any) -> tuple[float, float, float]:
    r, a, s = (volume.ijk_to_ras @ (*np.asarray(kji, dtype=float)[::-1], 1.0))[:3]
    return float(r), float(a), float(s)


def rows(matrix: Any) -> tuple[Any, Any, Any]:
    a, b, c = (tuple(row) for row in np.asarray(matrix).tolist())
    return a, b, c


def centres(volume: Volume) -> np.ndarray:
    """(k, j, i, 3) RAS of all voxels."""
    k, j, i = np.indices(volume.shape)
    return np.stack([i, j, k, np.ones_like(i)], -1) @ volume.ijk_to_ras.T[:, :3]


def test_a_click_has_the_voxel_nearest_in_the_volumes_axes(any_geometry: Matrix) -> None:
    volume = volume_on(any_geometry)
    for kji in [(0, 0, 0), (8, 10, 12), (3, 4, 5)]:
        assert voxels_of(Click(ras(volume, kji), "a"), volume).tolist() == [list(kji)]
    between = ras(volume, (3.4, 4.6, 5.49))
    assert voxels_of(Click(between, "a"), volume).tolist() == [[3, 5, 5]]


def test_the_outer_faces_belong_to_the_volume_and_beyond_them_a_click_is_refused(any_geometry: Matrix) -> None:
    volume = volume_on(any_geometry)
    assert voxels_of(Click(ras(volume, (-0.5, 10.5, 12.5)), "a"), volume).tolist() == [[0, 10, 12]]
    for kji in [(-0.51, 0, 0), (0, 10.6, 0), (0, 0, 99), (np.nan, 0, 0)]:
        with pytest.raises(OutsideVolumeError, match=r"R .* mm lies outside the volume 'head' \(13 x 11 x 9 voxels\)"):
            voxels_of(Click(ras(volume, kji), "a"), volume)


def test_a_stroke_has_the_voxels_within_its_radius(any_geometry: Matrix) -> None:
    volume = volume_on(any_geometry)
    corners = [ras(volume, kji) for kji in [(2, 3, 3), (5, 7, 8)]]
    radius = 3.0
    found = np.zeros(SHAPE, dtype=bool)
    found[tuple(voxels_of(Stroke(tuple(corners), radius, "a"), volume).T)] = True
    start, end = np.array(corners)
    along = end - start
    share = np.clip((centres(volume) - start) @ along / (along @ along), 0, 1)
    distance = np.linalg.norm(centres(volume) - start - share[..., None] * along, axis=-1)
    assert found[distance <= radius].all()
    assert not found[distance > radius + max(volume.spacing)].any()


def test_a_thin_stroke_leaves_no_gaps(any_geometry: Matrix) -> None:
    volume = volume_on(any_geometry)
    found = voxels_of(Stroke((ras(volume, (1, 1, 1)), ras(volume, (7, 9, 11)), ras(volume, (1, 9, 1))), 0, "a"), volume)
    taken = {tuple(v) for v in found.tolist()}
    assert {(1, 1, 1), (7, 9, 11), (1, 9, 1)} <= taken
    for voxel in taken:
        near = sum(max(abs(a - b) for a, b in zip(voxel, other, strict=True)) == 1 for other in taken)
        assert near >= 1


def test_a_stroke_of_one_point_is_a_ball() -> None:
    volume = volume_on(GEOMETRIES["axis-aligned"]())
    assert len(voxels_of(Stroke((ras(volume, (4, 5, 6)),), 1.0, "a"), volume)) == 7


def test_strokes_that_cannot_be_are_refused() -> None:
    with pytest.raises(CorrectionError, match="no points"):
        Stroke((), 1, "a")
    with pytest.raises(CorrectionError, match="several shorter"):
        Stroke(((0, 0, 0),) * (MAX_STROKE_POINTS + 1), 1, "a")
    for radius in (-1, np.nan, np.inf):
        with pytest.raises(CorrectionError, match="radius"):
            Stroke(((0, 0, 0),), radius, "a")
    with pytest.raises(CorrectionError, match="three coordinates"):
        Click((1.0, 2.0), "a")  # type: ignore[arg-type]


def test_a_box_holds_the_voxels_within_it(any_geometry: Matrix) -> None:
    volume = volume_on(any_geometry)
    turned = GEOMETRIES["oblique"]()[:3, :3]
    centre = np.array(ras(volume, (4, 5, 6)))
    box = Box(ras(volume, (4, 5, 6)), rows(turned), (3.03, 2.02, 6.01))  # no voxel lies on a face
    axes = turned / np.linalg.norm(turned, axis=0)
    expected = (np.abs((centres(volume) - centre) @ axes) <= (3.03, 2.02, 6.01)).all(-1)
    k, j, i = np.ogrid[:9, :11, :13]
    assert expected.any()
    np.testing.assert_array_equal(box.contains(volume.ijk_to_ras, (k, j, i)), expected)


def test_boxes_that_cannot_be_are_refused() -> None:
    with pytest.raises(CorrectionError, match="size"):
        Box((0, 0, 0), rows(np.eye(3)), (1, -1, 1))
    with pytest.raises(CorrectionError, match="plane"):
        Box((0, 0, 0), rows(np.ones((3, 3))), (1, 1, 1))


def test_corrections_are_values() -> None:
    stroke = Stroke(np.zeros((2, 3)), 1, "a")  # type: ignore[arg-type]
    assert stroke == Stroke(((0, 0, 0), (0, 0, 0)), 1, "a")
    assert hash(stroke) == hash(Stroke(((0, 0, 0), (0, 0, 0)), 1, "a"))
    assert Click((1, 2, 3), "a") != Click((1, 2, 3), "a", inside=False)
