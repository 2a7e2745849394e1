"""Corrected cases handed over to training: a dataset in nnU-Net's raw layout that says who made what.

An addition is first written whole into ``recokd-adding`` inside the dataset, in the dataset's own layout; then its
files are moved to their places, in an order in which no reader meets half a case. If a kill falls between, the next
addition finishes the moves first.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DatasetError, InputError, OutputError
from .files import atomic_folder, read_json, require_new, write_json
from .image_io import LABEL_MAP_SUFFIXES, read_volume, write_label_map, write_volume
from .labels import LabelSet
from .provenance import PROVENANCE, Provenance, provenance_json, read_provenance
from .volume import Volume

DATASET = "dataset.json"
LOCK = ".recokd-lock"
ADDING = "recokd-adding"

_IMAGES, _LABELS = "imagesTr", "labelsTr"
_STEM = "corrected"
_LOCK_SECONDS = 60.0


def export_for_training(
    volume: Volume,
    labels: Volume,
    label_set: LabelSet,
    folder: Path,
    provenance: Provenance,
    *,
    channel_names: Sequence[str],
    lock_seconds: float = _LOCK_SECONDS,
) -> str:
    """Add a case to a dataset folder in nnU-Net's raw layout, or make the folder with it.

    Nothing that is there is overwritten but ``dataset.json`` (its number of cases) and ``provenance.json``. The files
    hold voxels and geometry only; no name of a file or a patient goes with them.

    Args:
        volume: All channels, (channel, k, j, i) on any grid.
        labels: One-channel label map on the same grid.
        label_set: What its values mean; all labels of the dataset, not a choice of them.
        folder: The dataset; made if it is missing or empty.
        provenance: Who made the labels.
        channel_names: What each channel is, such as the names on the student's card; nnU-Net chooses the
            normalisation by them ("CT" or anything else).
        lock_seconds: How long to wait for another process that adds to the same dataset.

    Returns:
        The new case's identifier, unlike any in the dataset.

    Raises:
        InputError: Volume and labels lie on different grids, a value has no name, or voxels are not numbers.
        DatasetError: The folder holds something else, its labels, channels or number of cases differ, or its
            ``provenance.json`` cannot be read. The message names the difference.
        OutputError: It cannot be written, its format cannot keep this geometry, or another process holds it.
    """
    folder = Path(folder)
    _check_case(volume, labels, label_set, channel_names)
    require_new(folder / DATASET, overwrite=True)
    with _locked(folder, lock_seconds):
        _finish(folder)
        description = _description(folder, label_set, channel_names)
        ending = str(description.get("file_ending", ".nii.gz"))
        known = read_provenance(folder)
        taken = _identifiers(folder, ending)
        cases = len(taken)
        stated = description.get("numTraining", cases)
        if stated != cases:
            raise DatasetError(
                f"{folder / DATASET} states {stated} training cases (numTraining), but {_IMAGES} holds {cases}. "
                "Correct the number, or restore the missing files."
            )
        identifier = _new_identifier(folder, {*taken, *known})
        with atomic_folder(folder / ADDING) as adding:
            for channel in range(volume.channels):
                image = volume.with_array(volume.array[channel : channel + 1])
                write_volume(image, adding / _IMAGES / f"{identifier}_{channel:04d}{ending}")
            write_label_map(labels, adding / _LABELS / f"{identifier}{ending}")
            check_geometry(volume, adding / _LABELS / f"{identifier}{ending}", ending)
            write_json(adding / PROVENANCE, provenance_json({**known, identifier: provenance}))
            write_json(adding / DATASET, {**description, "numTraining": cases + 1})
        _finish(folder)
    return identifier


def _check_case(volume: Volume, labels: Volume, label_set: LabelSet, channel_names: Sequence[str]) -> None:
    if not volume.same_grid(labels) or labels.channels != 1:
        raise InputError(
            f"The segmentation {labels.shape} does not lie on the volume's grid {volume.shape}. Bring it there first."
        )
    if volume.channels != len(channel_names):
        raise InputError(f"The volume has {volume.channels} channel(s), but {len(channel_names)} are named.")
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise InputError("The volume holds voxels that are not numbers (NaN or infinity). Replace them first.")
    unknown = sorted(set(np.unique(labels.array).tolist()) - label_set.training_values)
    if unknown:
        raise InputError(f"The segmentation holds the values {unknown[:10]}, which no label of the dataset has.")


@contextmanager
def _locked(folder: Path, seconds: float) -> Iterator[None]:
    """One process at a time adds to a dataset; a lock ends with the process that holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise OutputError(f"Another program is adding to {folder}. Try again when it is done.") from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{folder} cannot be locked against other programs ({error}). Choose a folder on a local disk."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _description(folder: Path, label_set: LabelSet, channel_names: Sequence[str]) -> dict[str, Any]:
    """``dataset.json`` as it is, checked against the case; a new one for an empty folder."""
    ours: dict[str, Any] = {
        "channel_names": {str(index): name for index, name in enumerate(channel_names)},
        **label_set.to_dataset_json(),
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    path = folder / DATASET
    if not path.exists():
        strangers = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if strangers:
            raise DatasetError(
                f"{folder} is not empty and has no {DATASET}: it holds {', '.join(strangers[:5])}. Choose a dataset "
                "in nnU-Net's raw layout, or an empty folder."
            )
        LabelSet.from_dataset_json(ours)  # would training take these labels?
        return ours
    theirs = read_json(path)
    if not isinstance(theirs, dict):
        raise DatasetError(f"{path} is not a JSON object. Restore it.")
    channels = theirs.get("channel_names") or theirs.get("modality")
    if not isinstance(channels, Mapping) or not all(str(key).isdecimal() for key in channels):
        raise DatasetError(f"{path} names no channels. Add 'channel_names': {{'0': 'MRI'}}.")
    names = [str(channels[key]) for key in sorted(channels, key=int)]
    if [name.casefold() for name in names] != [name.casefold() for name in channel_names]:
        raise DatasetError(
            f"The dataset {folder.name} has the channels {names}, this case {list(channel_names)}. Choose a dataset "
            "with the same ones, or an empty folder."
        )
    dataset_labels = LabelSet.from_dataset_json(theirs)
    if _meaning(dataset_labels) != _meaning(label_set):
        raise DatasetError(
            f"The dataset {folder.name} has the labels {_meaning(dataset_labels)}, this case {_meaning(label_set)}. "
            "Choose a dataset with the same ones, or an empty folder."
        )
    ending = str(theirs.get("file_ending", ".nii.gz"))
    if ending not in LABEL_MAP_SUFFIXES:
        raise DatasetError(
            f"The dataset {folder.name} holds {ending} files; {', '.join(LABEL_MAP_SUFFIXES)} are known."
        )
    return theirs


def _meaning(label_set: LabelSet) -> dict[str, Any]:
    """Names with their values, and everything else that decides what a value means."""
    described = label_set.to_dataset_json()
    order = {} if not label_set.has_regions else {"regions_class_order": described["regions_class_order"]}
    return {**described["labels"], **order}


def _identifiers(folder: Path, ending: str) -> set[str]:
    """Cases of the dataset: whatever has an image."""
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    found = (pattern.fullmatch(name) for name in _names(folder / _IMAGES))
    return {match[1] for match in found if match}


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _new_identifier(folder: Path, taken: set[str]) -> str:
    """The next number that nothing in the dataset has: images, labels, test images, or a record of a deleted case."""
    everything = [*taken, *(name for part in sorted(folder.iterdir()) for name in _names(part))]
    numbers = [int(match[1]) for match in (re.match(rf"{_STEM}_(\d+)", name) for name in everything) if match]
    return f"{_STEM}_{max(numbers, default=0) + 1:04d}"


def check_geometry(volume: Volume, written: Path, ending: str) -> None:
    """Check that a file that was written lies where its volume does.

    Raises:
        OutputError: Its format cannot keep this geometry.
    """
    if not read_volume(written).same_grid(volume, tolerance=0.01):
        raise OutputError(
            f"{ending} files cannot keep this volume's geometry (its axes are not perpendicular). Resample it first."
        )


def _finish(folder: Path) -> None:
    """Move what a whole addition holds to its places; throw away what a kill left of one that is not whole."""
    for rest in folder.glob(f".{ADDING}-*.part"):
        shutil.rmtree(rest, ignore_errors=True)
    adding = folder / ADDING
    if not adding.is_dir():
        return
    # A case is there once its first channel is: so that comes after all else of it, and the count last.
    order = [
        *sorted((adding / _LABELS).glob("*")),
        adding / PROVENANCE,
        *sorted((adding / _IMAGES).glob("*"), reverse=True),
        adding / DATASET,
    ]
    try:
        for source in order:
            if source.exists():
                target = folder / source.relative_to(adding)
                target.parent.mkdir(exist_ok=True)
                source.replace(target)
        shutil.rmtree(adding)
    except OSError as error:
        raise OutputError(
            f"The case could not be moved to its place in {folder} ({error.strerror or error}). Mend that; the next "
            "addition will finish it."
        ) from error
