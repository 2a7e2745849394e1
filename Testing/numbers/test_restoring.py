"""Labels made slab by slab are those of the plain way: all logits, resampled whole by SciPy, then the argmax."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plans import TWO_LABELS, ByIntensity, small_plan
from ReCoKDLib import prediction, restoring
from ReCoKDLib.errors import InputError, PlanError
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.memory import fitting_tile, smaller_tile
from ReCoKDLib.plan import WHOLE_IMAGE, Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.preprocessing import PreprocessedCase, preprocess, restore_grid, uncrop
from ReCoKDLib.resampling import FROM_FIRST_VOXEL, linear_taps, resample
from ReCoKDLib.restoring import SlabRestorer, interpolated
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
REGIONS = LabelSet(
    (
        Segment("whole", 1, (1, 2, 3), (1, 0, 0)),
        Segment("core", 2, (2, 3), (0, 1, 0)),
        Segment("high", 400, (3,), (0, 0, 1)),
    ),
    has_regions=True,
    ignore_label=4,
)
LABELS = replace(TWO_LABELS, ignore_label=3)


def plainly(predictor: Predictor, volume: Volume, segments: Sequence[Segment] | None) -> np.ndarray:
    """All logits at full resolution, as SciPy and scikit-image interpolate them."""
    plan, label_set = predictor.plan, predictor.label_set
    case = preprocess(volume, plan)
    logits = predictor.patch_logits(case)
    soft = plan.preprocessor == WHOLE_IMAGE
    values = label_set.probabilities(logits) if soft else logits
    restored = torch.from_numpy(restore_grid(values.numpy(), case, plan))
    restored = label_set.logits(restored) if soft else restored
    if label_set.has_regions:
        labels = torch.zeros(restored.shape[1:], dtype=torch.int16)
        for head, segment in enumerate(label_set.segments):
            if segments is None or segment in segments:
                labels[restored[head].sigmoid() > 0.5] = segment.value
    else:
        labels = restored.argmax(0).to(torch.int16)
        wanted = label_set.segments if segments is None else segments
        labels[~torch.isin(labels, torch.tensor([segment.value for segment in wanted]))] = 0
    return uncrop(labels.numpy()[None], case, plan)


def noise(spacing: tuple[float, float, float], shape: tuple[int, int, int] = (20, 24, 18)) -> Volume:
    array = np.random.default_rng(5).normal(100, 50, (1, *shape)).astype(np.float32)
    array[:, :3] = array[:, :, -4:] = 0
    return Volume(array, np.diag([*reversed(spacing), 1.0]))


@pytest.mark.parametrize("label_set", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize(
    ("spacing", "options", "preprocessor"),
    [
        ((1.0, 1.0, 1.0), {}, None),
        ((1.4, 0.8, 0.9), {}, None),
        ((0.6, 1.7, 1.3), {"order": 0}, None),
        ((4.0, 0.8, 0.9), {}, None),
        ((4.0, 0.8, 0.9), {"order_z": 1}, None),
        ((1.4, 0.8, 0.9), {"order": 3}, None),
        ((1.4, 0.8, 0.9), {"function": "resample_torch_fornnunet"}, None),
        ((1.4, 0.8, 0.9), {"function": FROM_FIRST_VOXEL, "order": 1}, WHOLE_IMAGE),
    ],
    ids=["none", "linear", "nearest", "separate-z", "separate-z-linear", "cubic", "torch", "monai"],
)
def test_labels_are_those_of_the_plain_way(
    label_set: LabelSet,
    transpose: tuple[int, int, int],
    spacing: tuple[float, float, float],
    options: dict[str, Any],
    preprocessor: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restoring, "_CHUNK", 12000)  # many chunks
    plan = small_plan(transpose=transpose)
    resampling = {**plan.resampling, "probabilities": {**plan.resampling["probabilities"], **options}}
    plan = replace(plan, resampling=resampling, preprocessor=preprocessor or plan.preprocessor)
    networks = []
    for seed in range(1 + (transpose != (0, 1, 2))):
        torch.manual_seed(seed)
        networks.append(torch.nn.Conv3d(1, label_set.number_of_heads, 3, padding=1))
    predictor = Predictor(plan, label_set, networks)
    volume = noise(spacing)
    for segments in (None, label_set.segments[1:2]):
        found = predictor.predict(volume, segments=segments).labels.array
        expected = plainly(predictor, volume, segments)
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found, expected)
    found_soft = predictor.predict(volume, probabilities=True)
    assert found_soft.probabilities is not None
    assert np.isfinite(found_soft.probabilities.array).all()


def test_the_first_of_several_largest_wins() -> None:
    """Logits of few values, so that ties are everywhere, also after interpolation halfway between voxels."""
    logits = torch.randint(0, 3, (5, 12, 9, 10), generator=torch.Generator().manual_seed(0)).float()
    plan = small_plan(spacing=(2.0, 2.0, 2.0))
    case = PreprocessedCase(
        logits[:1].numpy(), None, (24, 18, 20), (slice(0, 24), slice(0, 18), slice(0, 20)), (1, 1, 1)
    )
    label_set = LabelSet(tuple(Segment(str(v), v, (v,), (0, 0, 0)) for v in range(1, 5)))
    expected = torch.from_numpy(restore_grid(logits.numpy(), case, plan)).argmax(0)
    found = torch.full(expected.shape, -1, dtype=torch.int16)
    restorer = SlabRestorer(case, plan, 5)
    for begin, end in itertools.pairwise((0, 1, 2, 7, 11, 12)):
        for planes, values in restorer.push(begin, logits[:, begin:end]):
            found[planes] = label_set.label_map(values)
    assert torch.equal(found, expected.to(torch.int16))


@pytest.mark.parametrize(
    "options", [{"order": 1}, {"order": 0}, {"order": 1, "order_z": 1}, {"order": 1, "force_separate_z": False}]
)
def test_taps_are_scipys_interpolation(options: dict[str, Any]) -> None:
    random = np.random.default_rng(1)
    for _ in range(25):
        shape, target = random.integers(1, 20, 3).tolist(), random.integers(1, 30, 3).tolist()
        spacing, new = random.uniform(0.5, 4, 3).tolist(), random.uniform(0.5, 4, 3).tolist()
        source = random.normal(size=(1, *shape)).astype(np.float32)
        expected = resample(source, target, spacing, new, options)[0]
        taps = linear_taps(shape, target, spacing, new, options)
        assert taps is not None
        found = interpolated(torch.from_numpy(source[0]), taps, slice(0, int(target[0]))).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_nan_is_an_error() -> None:
    class Broken(ByIntensity):
        def forward(self, patch: torch.Tensor) -> torch.Tensor:
            logits = super().forward(patch)
            logits[:, 1, 3, 3, 3] = torch.nan
            return logits

    for label_set in (LABELS, REGIONS):
        with pytest.raises(PlanError, match=r"not numbers \(NaN\)"):
            Predictor(small_plan(), label_set, [Broken()]).predict(noise((1.0, 1.0, 1.0)))


def test_smaller_tiles_stay_divisible_by_the_strides() -> None:
    plan = small_plan()
    stride = np.prod(np.array(plan.architecture.strides), axis=0)
    tile: Sequence[int] | None = plan.patch_size
    seen = []
    while tile is not None:
        seen.append(tuple(tile))
        assert not (np.array(tile) % stride).any()
        tile = smaller_tile(tile, plan)
    assert len(seen) > 2
    assert (np.array(seen[-1]) == 2 * stride).all()


def test_a_memory_bound_chooses_smaller_tiles_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ReCoKDLib.memory.resident_bytes", lambda: 0)
    monkeypatch.setattr("ReCoKDLib.memory._CHUNKS", 0)
    plan = small_plan()
    predictor = Predictor(plan, LABELS, [torch.nn.Conv3d(1, 3, 3, padding=1)])
    volume = noise((1.0, 1.0, 1.0))
    whole: list[str] = []
    predictor.predict(volume, memory=1.0, warn=whole.append)
    assert whole == []
    bound = next(b / 1e6 for b in range(10, 2000, 5) if _fits(plan, b / 1e6))
    told: list[str] = []
    found = predictor.predict(volume, memory=bound, warn=told.append)
    assert found.labels.same_grid(volume)
    assert len(told) == 1
    assert "GB of memory do not suffice, so tiles of" in told[0]
    assert "differs a little" in told[0]
    with pytest.raises(InputError, match=r"too few for this volume.*--memory"):
        predictor.predict(volume, memory=1e-6)


def _fits(plan: Plan, bound: float) -> bool:
    try:
        fitting_tile(plan, 3, (21, 26, 19), 21 * 26 * 19 * 2, bound)
    except InputError:
        return False
    return True


def test_a_full_device_gets_smaller_tiles_and_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan()
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    expected = Predictor(plan, LABELS, [network]).predict(noise((1.0, 1.0, 1.0))).labels.array
    sizes: list[int] = []

    class Full:
        name, precision = "torch", "f32"
        room = 0

        def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
            sizes.append(tiles.numel())
            if tiles.numel() > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            with torch.inference_mode():
                return network(tiles)  # type: ignore[no-any-return]

    told: list[str] = []
    found = Predictor(plan, LABELS, [network], engines=[Full()]).predict(noise((1.0, 1.0, 1.0)), warn=told.append)
    np.testing.assert_array_equal(found.labels.array, expected)
    assert sizes == sorted(sizes, reverse=True)
    assert "so the CPU is used" in told[-1]
    assert all("tiles of" in words for words in told[:-1])
    Full.room = int(np.prod(plan.patch_size)) // 2
    told.clear()
    Predictor(plan, LABELS, [network], engines=[Full()]).predict(noise((1.0, 1.0, 1.0)), warn=told.append)
    assert len(told) == 1
    assert "tiles of" in told[0]


def test_all_classes_never_exist_at_full_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that is decided at a time has a few planes, and none of the sums the volume's length."""
    monkeypatch.setattr(restoring, "_CHUNK", 3 * 40 * 40 * 4)
    plan = small_plan(spacing=(2.0, 1.0, 1.0))
    seen: list[int] = []
    right = LabelSet.label_map

    def noted(self: LabelSet, logits: torch.Tensor, wanted: Sequence[Segment] | None = None) -> torch.Tensor:
        seen.append(logits.shape[1])
        return right(self, logits, wanted)

    monkeypatch.setattr(LabelSet, "label_map", noted)
    monkeypatch.setattr(prediction, "sliding_window_logits", lambda *_, **__: pytest.fail("whole logits"))
    array = np.random.default_rng(0).normal(100, 50, (1, 90, 40, 40)).astype(np.float32)
    Predictor(plan, LABELS, [ByIntensity()]).predict(Volume(array, np.eye(4)))
    assert sum(seen) == 90
    assert max(seen) <= 4
