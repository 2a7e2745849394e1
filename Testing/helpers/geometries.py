"""Voxel-to-world matrices such as scanners and converters produce, for tests that hold on all of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def matrix(directions: Matrix, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> Matrix:
    """IJK-to-RAS from unit direction columns, spacing along (i, j, k) in mm and the RAS place of voxel 0."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = directions * np.asarray(spacing)
    ijk_to_ras[:3, 3] = origin
    return ijk_to_ras


def rotation(degrees: tuple[float, float, float]) -> Matrix:
    """Rotation about R, then A, then S."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        p, q = (axis + 1) % 3, (axis + 2) % 3
        about_axis = np.eye(3)
        about_axis[p, p] = about_axis[q, q] = np.cos(angle)
        about_axis[q, p], about_axis[p, q] = np.sin(angle), -np.sin(angle)
        turned = about_axis @ turned
    return turned


def axis_aligned() -> Matrix:
    """RAS, 1 mm."""
    return matrix(np.eye(3), (1.0, 1.0, 1.0), (-20.0, 5.0, 12.5))


def scanner_lps() -> Matrix:
    """LPS, as DICOM and ITK write an axial series."""
    return matrix(np.diag([-1.0, -1.0, 1.0]), (0.9, 0.9, 1.2), (90.0, 110.0, -40.0))


def anisotropic() -> Matrix:
    """Thick sagittal slices: i towards P, j towards S, k towards R, 5 mm apart."""
    return matrix(np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]), (0.7, 0.7, 5.0), (-60.0, 100.0, -80.0))


def oblique() -> Matrix:
    """Turned about all three axes, right-handed."""
    return matrix(rotation((11.0, -17.0, 23.0)), (1.0, 1.1, 1.3), (13.0, -27.0, 41.0))


def oblique_left_handed() -> Matrix:
    """Turned, anisotropic and mirrored: the determinant of its directions is -1."""
    return matrix(rotation((-19.0, 8.0, 31.0)) @ np.diag([1.0, 1.0, -1.0]), (0.8, 1.0, 2.0), (-35.0, 22.0, 64.0))


# One millimetre, so that nothing is resampled and every voxel is told.
TURNED_LEFT_HANDED = matrix(
    rotation((-19.0, 8.0, 31.0)) @ np.diag([1.0, 1.0, -1.0]), (1.0, 1.0, 1.0), (-35.0, 22.0, 64.0)
)

GEOMETRIES = {
    "axis-aligned": axis_aligned,
    "lps": scanner_lps,
    "anisotropic": anisotropic,
    "oblique": oblique,
    "oblique-left-handed": oblique_left_handed,
}
