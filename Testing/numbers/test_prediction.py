"""From a volume to labels on its own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geometries import GEOMETRIES, Matrix
from packages import small_package
from plans import TWO_LABELS, ByIntensity, small_plan
from ReCoKDLib.errors import InputError, MissingDependencyError, PackageError
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.prediction import Predictor, choose_device
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]


def by_place(labels: Volume) -> dict[tuple[int, ...], int]:
    k, j, i = np.nonzero(labels.array[0])
    places = (labels.ijk_to_ras @ np.stack([i, j, k, np.ones_like(i)]))[:3].T
    return dict(
        zip(map(tuple, np.round(places * 100).astype(int).tolist()), labels.array[0][k, j, i].tolist(), strict=True)
    )


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("orientation", [None, "RAS", "PIL"])
def test_structures_stay_where_they_are(
    any_geometry: Matrix, transpose: tuple[int, int, int], orientation: str | None, two_blobs: TwoBlobs
) -> None:
    image, labels = two_blobs(ijk_to_ras=any_geometry)
    turned = Volume(image.array, any_geometry)
    spacing = tuple(turned.spacing[axis] for axis in transpose)
    if orientation is not None:
        oriented = turned.reoriented(orientation).spacing
        spacing = tuple(oriented[axis] for axis in transpose)
    plan = small_plan(transpose=transpose, spacing=spacing, schemes=("CTNormalization",), properties={
        "mean": 100.0, "std": 60.0, "percentile_00_5": -1e4, "percentile_99_5": 1e4})  # fmt: skip
    predictor = Predictor(plan, TWO_LABELS, [Halved()], orientation=orientation)
    found = predictor.predict(image).labels
    assert found.same_grid(image)
    agreement = (found.array == labels.array).mean()
    assert agreement > 0.995


class Halved(ByIntensity):
    """Blob 1 is at about 1 and blob 2 at about 2 after normalisation: labels 0, 1, 2 to the nearest."""

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(patch - value).abs() for value in (0, 1, 2)], dim=1)


@pytest.mark.parametrize("codes", ["LPS", "SAR", "AIL"])
def test_the_order_of_axes_in_the_file_changes_nothing(codes: str, two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs(ijk_to_ras=GEOMETRIES["oblique"]())
    torch.manual_seed(0)
    plan = small_plan(spacing=(1.2, 1.1, 1.0))
    predictor = Predictor(plan, TWO_LABELS, [build_network(plan.architecture, 1, 3)], orientation="RAS")
    one = predictor.predict(image).labels
    other = predictor.predict(image.reoriented(codes)).labels
    assert len(by_place(one)) > 100
    assert by_place(one) == by_place(other)


def test_an_image_smaller_than_a_voxel_of_the_network_is_taken(two_blobs: TwoBlobs) -> None:
    """As when a header has its spacing in metres: input_check warns of it."""
    image, _ = two_blobs()
    tiny = Volume(image.array, np.diag([1e-3, 1e-3, 1e-3, 1.0]))
    plan = small_plan()
    predictor = Predictor(plan, TWO_LABELS, [build_network(plan.architecture, 1, 3)])
    assert predictor.predict(tiny).labels.same_grid(tiny)


def test_probabilities_are_on_the_same_grid_and_sum_to_one(two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs(ijk_to_ras=GEOMETRIES["oblique-left-handed"]())
    air = image.array.copy()
    air[:, :, :4] = 0
    prediction = Predictor(small_plan(spacing=(2.0, 1.0, 1.0)), TWO_LABELS, [ByIntensity()], orientation="LPS").predict(
        image.with_array(air), probabilities=True
    )
    assert prediction.probabilities is not None
    assert prediction.probabilities.channels == 3
    np.testing.assert_allclose(prediction.probabilities.array.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(prediction.probabilities.array.argmax(0), prediction.labels.array[0])
    assert (prediction.probabilities.array[0, :, :4] == 1).all()


def test_folds_are_averaged(two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs()
    plan = small_plan()
    networks = [build_network(plan.architecture, 1, 3) for _ in range(2)]
    logits = [
        Predictor(plan, TWO_LABELS, chosen).patch_logits(_case(image, plan))
        for chosen in (networks, networks[:1], networks[1:])
    ]
    torch.testing.assert_close(logits[0], (logits[1] + logits[2]) / 2, atol=1e-5, rtol=1e-5)


def _case(image: Volume, plan):  # type: ignore[no-untyped-def]
    from ReCoKDLib.preprocessing import preprocess

    return preprocess(image, plan)


def test_progress_covers_all_folds(two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs()
    seen: list[float] = []
    Predictor(small_plan(), TWO_LABELS, [ByIntensity(), ByIntensity()]).predict(image, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_a_wrong_number_of_channels_is_refused(two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs(channels=2)
    with pytest.raises(InputError, match=r"needs 1 input channel\(s\); 2 given"):
        Predictor(small_plan(), TWO_LABELS, [ByIntensity()]).predict(image)


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="no device called 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(MissingDependencyError, match="no 'cuda' device"):
            choose_device("cuda")


def test_a_student_that_wants_clicks_is_refused(tmp_path: Path) -> None:
    package = ModelPackage.open(small_package(tmp_path / "guided.recokd.zip"))
    guided = replace(package, card=replace(package.card, guidance_channels=1))
    with pytest.raises(PackageError, match="guided by clicks.*Update ReCoKD"):
        Predictor.from_package(guided, "cpu")
