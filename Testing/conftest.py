"""Fixtures for every area of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import GEOMETRIES, Matrix, anisotropic, axis_aligned, oblique, oblique_left_handed
from ReCoKDLib.volume import Volume

REPOSITORY = Path(__file__).resolve().parents[1]

# What ``--engine auto`` means in tests, and in the processes that they start: no timing, nothing in the user's cache.
os.environ["RECOKD_ENGINE"] = "torch"

TwoBlobs = Callable[..., tuple[Volume, Volume]]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real cases, a real teacher and a DICOM series, beside the repository on the developers' machines."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def nnunet() -> Iterator[None]:
    """For tests that run nnU-Net itself: its environment variables, without which it prints about them."""
    pytest.importorskip("nnunetv2")
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    missing = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(missing, "not-used"))
    yield
    for name in missing:
        del os.environ[name]


@pytest.fixture
def oblique_matrix() -> Matrix:
    return oblique()


@pytest.fixture
def oblique_left_handed_matrix() -> Matrix:
    return oblique_left_handed()


@pytest.fixture
def anisotropic_matrix() -> Matrix:
    return anisotropic()


@pytest.fixture(params=list(GEOMETRIES.values()), ids=list(GEOMETRIES))
def any_geometry(request: pytest.FixtureRequest) -> Matrix:
    """Each IJK-to-RAS matrix of `geometries` in turn."""
    ijk_to_ras: Matrix = request.param()
    return ijk_to_ras


@pytest.fixture
def two_blobs() -> TwoBlobs:
    """A factory of an image with two bright ellipsoids, unequal and off-centre, and its label map.

    ``two_blobs(ijk_to_ras=..., shape=(k, j, i), channels=1, seed=0)`` gives (image, labels 0, 1, 2).
    The blobs are as large in voxels whatever the geometry; no flip or permutation of axes keeps the image.
    """

    def make(
        ijk_to_ras: Matrix | None = None,
        shape: tuple[int, int, int] = (18, 22, 26),
        channels: int = 1,
        seed: int = 0,
    ) -> tuple[Volume, Volume]:
        place = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij"))

        def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> npt.NDArray[Any]:
            offset = (place - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
            inside: npt.NDArray[Any] = (offset**2).sum(axis=0) <= 1
            return inside

        labels = np.zeros(shape, dtype=np.uint8)
        labels[ellipsoid((0.35, 0.3, 0.3), (0.25, 0.18, 0.2))] = 1
        labels[ellipsoid((0.6, 0.7, 0.65), (0.15, 0.2, 0.25))] = 2
        noise = np.random.default_rng(seed).normal(scale=8, size=(channels, *shape))
        image = (100 + 60.0 * labels + noise).astype(np.float32)
        matrix = axis_aligned() if ijk_to_ras is None else ijk_to_ras
        return Volume(image, matrix, "two blobs"), Volume(labels[None], matrix, "two blobs, labels")

    return make
