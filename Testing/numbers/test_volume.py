"""One type that carries voxels and geometry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from geometries import GEOMETRIES, Matrix, axis_aligned, matrix, oblique, oblique_left_handed, rotation, scanner_lps
from ReCoKDLib.errors import InputError
from ReCoKDLib.volume import Volume, stack_channels

ALL_CODES = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]


def voxels_in_ras(volume: Volume) -> dict[tuple[int, ...], float]:
    """Each voxel's value by its place in micrometres."""
    k, j, i = np.indices(volume.shape)
    places = volume.ijk_to_ras @ np.stack([i.ravel(), j.ravel(), k.ravel(), np.ones(i.size)])
    return {
        tuple(place): float(value)
        for place, value in zip(
            np.round(places[:3].T * 1000).astype(int).tolist(), volume.array[0].ravel(), strict=True
        )
    }


@pytest.fixture
def counted(any_geometry: Matrix) -> Volume:
    return Volume(np.arange(3 * 4 * 5, dtype=np.float32).reshape(1, 3, 4, 5), any_geometry, "counted")


def test_spacing_is_along_k_j_i() -> None:
    assert Volume(np.zeros((1, 2, 3, 4)), oblique_left_handed()).spacing == pytest.approx((2.0, 1.0, 0.8))


@pytest.mark.parametrize(
    ("geometry", "codes"),
    [
        ("axis-aligned", "RAS"),
        ("lps", "LPS"),
        ("anisotropic", "PSR"),
        ("oblique", "RAS"),
        ("oblique-left-handed", "RAI"),
    ],
)
def test_axis_codes(geometry: str, codes: str) -> None:
    assert Volume(np.zeros((1, 2, 3, 4)), GEOMETRIES[geometry]()).axis_codes == codes


@pytest.mark.parametrize("codes", ALL_CODES)
def test_reorienting_moves_no_voxel_in_the_patient(counted: Volume, codes: str) -> None:
    turned = counted.reoriented(codes)
    assert voxels_in_ras(turned) == voxels_in_ras(counted)


@pytest.mark.parametrize("codes", ALL_CODES)
def test_reorienting_back_gives_the_same_volume(counted: Volume, codes: str) -> None:
    back = counted.reoriented(codes).reoriented(counted.axis_codes)
    np.testing.assert_array_equal(back.array, counted.array)
    np.testing.assert_allclose(back.ijk_to_ras, counted.ijk_to_ras, atol=1e-9)


@pytest.mark.parametrize("codes", ["RAR", "XYZ", "RA"])
def test_reorienting_to_nonsense_is_refused(counted: Volume, codes: str) -> None:
    with pytest.raises(ValueError, match="orientation"):
        counted.reoriented(codes)


def test_axis_codes_of_a_45_degree_oblique_use_each_axis_once() -> None:
    turned = np.eye(4)
    turned[:2, :2] = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    codes = Volume(np.zeros((1, 2, 2, 2)), turned).axis_codes
    ends = {"L": "x", "R": "x", "P": "y", "A": "y", "I": "z", "S": "z"}
    assert {ends[code] for code in codes} == {"x", "y", "z"}


@pytest.mark.parametrize("codes", ALL_CODES)
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_a_45_degree_oblique_comes_back_exactly(codes: str, order: tuple[int, int, int]) -> None:
    """Two assignments of its axes are equally good; the way back must undo the one that was taken."""
    place = np.eye(4)
    place[:3, :3] = (rotation((0.0, 0.0, 45.0)) * (0.9, 1.1, 2.0))[:, order]
    volume = Volume(np.arange(60).reshape(1, 3, 4, 5), place)
    turned = volume.reoriented(codes)
    back = volume.with_reoriented_array(turned.array, codes)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.ijk_to_ras, place)


def test_same_grid_tells_shifts_of_a_part_of_a_voxel() -> None:
    volume = Volume(np.zeros((1, 4, 5, 6)), oblique())
    shifted = oblique()
    shifted[0, 3] += 0.01
    assert volume.same_grid(Volume(np.ones((2, 4, 5, 6)), oblique()))
    assert not volume.same_grid(Volume(np.zeros((1, 4, 5, 6)), shifted))
    assert not volume.same_grid(Volume(np.zeros((1, 4, 5, 5)), oblique()))


def test_same_grid_tells_a_small_turn_by_the_far_corner() -> None:
    turned = axis_aligned()
    turned[0, 1] = 1e-3  # a tenth of a voxel at the 100th row
    assert not Volume(np.zeros((1, 2, 101, 2)), axis_aligned()).same_grid(Volume(np.zeros((1, 2, 101, 2)), turned))


def test_channels_are_stacked_in_order() -> None:
    one, two = (Volume(np.full((1, 2, 2, 2), value), scanner_lps(), str(value)) for value in (1, 2))
    assert stack_channels([two, one]).array[:, 0, 0, 0].tolist() == [2, 1]
    assert stack_channels([one]) is one


def test_channels_on_different_grids_are_refused_by_name() -> None:
    one = Volume(np.zeros((1, 2, 2, 2)), scanner_lps(), "T1")
    two = Volume(np.zeros((1, 2, 2, 2)), axis_aligned(), "T2")
    with pytest.raises(InputError, match=r"'T1'.*'T2'.*different grids"):
        stack_channels([one, two])
    with pytest.raises(InputError, match="No volume"):
        stack_channels([])


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), np.zeros((1, 0, 3, 4)), np.zeros((1, 1, 2, 3, 4))])
def test_arrays_of_the_wrong_form_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="three-dimensional"):
        Volume(array, np.eye(4))


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_a_broken_geometry_is_refused(matrix: Matrix) -> None:
    with pytest.raises(InputError, match="geometry"):
        Volume(np.zeros((1, 2, 2, 2)), matrix)


@pytest.mark.parametrize("length", [1.5, 0.7, float(np.float32(0.7)), 1.2345678, float(np.float32(1) / 3), 1 / 3, 5.0])
def test_spacing_is_to_the_last_digit_what_the_header_said(length: float) -> None:
    """Else 35 voxels of 1.5000000000000002 mm would be 53 of 1 mm here and 52 in nnU-Net."""
    random = np.random.default_rng(0)
    for _ in range(50):
        directions = rotation(tuple(random.uniform(-180, 180, 3).tolist()))
        volume = Volume(np.zeros((1, 2, 2, 2)), matrix(directions, (length, 1.0, 2.0), (0.0, 0.0, 0.0)))
        assert volume.spacing[:2] == (2.0, 1.0)
        assert volume.spacing[2] == (length if length != 1 / 3 else pytest.approx(length, rel=1e-15))
