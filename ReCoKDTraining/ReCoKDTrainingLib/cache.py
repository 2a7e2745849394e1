"""Preprocessed cases on disk, made once and read as memory maps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import make_once
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.plan import Plan
from ReCoKDLib.preprocessing import preprocess
from ReCoKDLib.volume import Volume

from .datasets import Case, load_case

Loaded = tuple[Volume, Volume | None]

# As nnU-Net: enough voxels of each class to draw patch centres from, without keeping all of a large organ.
_LOCATIONS_PER_CLASS = 10_000


@dataclass(frozen=True)
class CachedCase:
    """The folder of one preprocessed case.

    Attributes:
        identifier: Its name.
        folder: With its arrays.
        labelled: Whether anybody annotated it; if not, its label map is the ignore label throughout.
    """

    identifier: str
    folder: Path
    labelled: bool = True

    def data(self) -> npt.NDArray[np.float32]:
        """(channel, x, y, z), memory-mapped."""
        mapped: npt.NDArray[np.float32] = np.load(self.folder / "data.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def labels(self) -> npt.NDArray[np.int16]:
        """(1, x, y, z), memory-mapped."""
        mapped: npt.NDArray[np.int16] = np.load(self.folder / "labels.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def locations(self) -> dict[str, npt.NDArray[np.int32]]:
        """For each class that is present: (n, 3) voxels of it, in a fixed random order."""
        with np.load(self.folder / "locations.npz", allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


def _cache_key(case: Case, content: str, plan: Plan, label_set: LabelSet, orientation: str | None) -> str:
    """Changes when the files or anything that preprocessing depends on change."""
    all_of_it: list[Any] = [
        plan.spacing,
        plan.transpose_forward,
        plan.normalization_schemes,
        plan.use_mask_for_norm,
        [dict(properties) for properties in plan.intensity_properties],
        {what: dict(options) for what, options in plan.resampling.items()},
        label_set.to_dataset_json(),
        orientation,
        content,
    ]
    if case.relabelling is not None:
        all_of_it += [case.relabelling.background, case.relabelling.values]
    return hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()[:16]


def preprocess_cases(
    cases: Sequence[Case],
    plan: Plan,
    label_set: LabelSet,
    folder: Path,
    *,
    orientation: str | None = None,
    contents: Mapping[str, str] | None = None,
    loaded: Mapping[str, Loaded] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[CachedCase, ...]:
    """Preprocess cases into ``folder``; what is there and still valid is kept. Several runs may share it.

    Args:
        cases: Labelled or not; for the latter the label set needs an ignore label.
        plan: How to preprocess.
        label_set: Checked against the label maps.
        folder: The cache; one folder a case and state of its files.
        orientation: Axis codes to bring every case to, as the predictor will.
        contents: Checksums of cases that are known already, by identifier.
        loaded: Cases that are in memory, as :func:`load_case` gives them; others are read.
        progress: Called with the finished fraction.

    Raises:
        DatasetError: A case contradicts itself or the label set.
        OutputError: The cache cannot be written.
    """
    cached = []
    for done, case in enumerate(cases, 1):
        content = (contents or {}).get(case.identifier) or case.content()
        target = folder / f"{case.identifier}-{_cache_key(case, content, plan, label_set, orientation)}"
        if not target.is_dir():
            read = (loaded or {}).get(case.identifier) or load_case(case, label_set, plan.channels)
            _write_case(case.identifier, *read, plan, label_set, target, orientation)
        cached.append(CachedCase(case.identifier, target, case.labelled))
        if progress is not None:
            progress(done / len(cases))
    return tuple(cached)


def _write_case(
    name: str,
    volume: Volume,
    labels: Volume | None,
    plan: Plan,
    label_set: LabelSet,
    target: Path,
    orientation: str | None,
) -> None:
    if orientation is not None:
        if labels is not None:  # by the image's matrix: the label map's own may be rounded
            labels = volume.with_array(labels.array).reoriented(orientation)
        volume = volume.reoriented(orientation)
    prepared = preprocess(volume, plan, labels)
    label_map = prepared.labels
    if label_map is None:
        if label_set.ignore_label is None:
            raise DatasetError(f"The case {name} is not annotated, and there is no ignore label for it.")
        label_map = np.full((1, *prepared.data.shape[1:]), label_set.ignore_label, np.int16)

    def save(folder: Path) -> None:
        np.save(folder / "data.npy", prepared.data)
        np.save(folder / "labels.npy", label_map)
        np.savez(folder / "locations.npz", **class_locations(label_map[0], label_set))  # type: ignore[arg-type]

    make_once(target, save)


def class_locations(labels: npt.NDArray[np.int16], label_set: LabelSet) -> dict[str, npt.NDArray[np.int32]]:
    """Voxels to centre patches on, by class or region; with an ignore label also ``annotated``: all that is not it."""
    locations = {}
    rng = np.random.default_rng(1234)
    for name, mask in _masks(labels, label_set):
        voxels = np.argwhere(mask).astype(np.int32)
        if len(voxels):
            locations[name] = voxels[rng.permutation(len(voxels))[:_LOCATIONS_PER_CLASS]]
    return locations


def _masks(labels: npt.NDArray[np.int16], label_set: LabelSet) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """One at a time: of many classes they would fill the memory."""
    for segment in label_set.segments:
        yield segment.name, np.isin(labels, segment.region)
    if label_set.ignore_label is not None:
        yield "annotated", (labels != label_set.ignore_label) & (labels >= 0)
