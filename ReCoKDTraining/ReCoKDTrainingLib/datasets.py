"""Where training cases come from.

:class:`Dataset` is the seam: a source of cases with labels in one numbering. nnU-Net's raw layout is the source
here; others (scenes, DICOM) enter by giving the same four attributes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import read_json
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.provenance import Provenance, read_provenance
from ReCoKDLib.terminology import with_terminology
from ReCoKDLib.volume import Volume, stack_channels

from .class_matching import Relabelling, relabelling


@dataclass(frozen=True)
class Case:
    """One case: a file for each channel and, where somebody annotated it, a label map.

    Attributes:
        identifier: Its name.
        images: One file for each channel.
        label: The label map, or None.
        relabelling: Other numbers for the label map's values; None takes them as they are.
        provenance: Who made the labels, where the dataset's ``provenance.json`` says so.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path | None
    relabelling: Relabelling | None = None
    provenance: Provenance | None = None

    def volume(self) -> Volume:
        """All channels as one volume."""
        return stack_channels([read_volume(path) for path in self.images])

    def labels(self) -> Volume | None:
        """The label map as it is in the file, or None."""
        return None if self.label is None else read_volume(self.label)


class Task(Protocol):
    """What is to be segmented in what."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel is: CT, MRI, ... (decides the normalisation)."""

    @property
    def label_set(self) -> LabelSet:
        """What the label values mean."""


class Dataset(Task, Protocol):
    """Cases with one set of labels and channels."""

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases in a fixed order."""


class NnunetRawDataset:
    """nnU-Net's raw layout: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``.

    Corrected cases that ``export_for_training`` added have their record in ``provenance.json``.

    Raises:
        DatasetError: A part is missing, contradicts ``dataset.json``, or ``provenance.json`` cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "dataset.json").is_file():
            raise DatasetError(
                f"{folder} is not a dataset in nnU-Net's raw layout: it has no dataset.json. "
                "Give the folder that holds dataset.json, imagesTr and labelsTr."
            )
        self.description: Any = read_json(self.folder / "dataset.json")
        if not isinstance(self.description, dict):
            raise DatasetError(f"{folder / 'dataset.json'} is not a JSON object. Restore it.")
        channels = self.description.get("channel_names") or self.description.get("modality")
        if not channels or not isinstance(channels, dict) or not all(str(key).isdecimal() for key in channels):
            raise DatasetError(f"{folder / 'dataset.json'} names no channels. Add 'channel_names': {{'0': 'MRI'}}.")
        self._channel_names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        self._label_set = with_terminology(LabelSet.from_dataset_json(self.description), self.name)
        self._labels_in_files = self._label_set
        self._cases = self._find_cases(str(self.description.get("file_ending", ".nii.gz")))

    def _find_cases(self, ending: str) -> tuple[Case, ...]:
        images, labels = self.folder / "imagesTr", self.folder / "labelsTr"
        first = sorted(images.glob(f"*_0000{ending}")) if images.is_dir() else []
        if not first:
            raise DatasetError(f"{images} holds no images named CASE_0000{ending}. Check the folder and 'file_ending'.")
        records = read_provenance(self.folder)
        cases = []
        for path in first:
            identifier = path.name[: -len(f"_0000{ending}")]
            files = tuple(images / f"{identifier}_{channel:04d}{ending}" for channel in range(len(self.channel_names)))
            for file in files:
                if not file.is_file():
                    raise DatasetError(f"The case {identifier} lacks the channel {file.name}. Add the file.")
            label = labels / f"{identifier}{ending}"
            cases.append(
                Case(identifier, files, label if label.is_file() else None, provenance=records.get(identifier))
            )
        return tuple(cases)

    @property
    def name(self) -> str:
        """The folder's name, such as ``Dataset004_Hippocampus``."""
        return self.folder.resolve().name

    @property
    def channel_names(self) -> tuple[str, ...]:
        """From ``dataset.json``."""
        return self._channel_names

    @property
    def label_set(self) -> LabelSet:
        """From ``dataset.json``, with standard codes where the names tell them."""
        return self._label_set

    @property
    def cases(self) -> tuple[Case, ...]:
        """By name."""
        return self._cases

    def with_labels(self, label_set: LabelSet) -> NnunetRawDataset:
        """The same cases with other labels: classes of this dataset in another numbering; the rest is background."""
        other = copy.copy(self)
        other._label_set = label_set
        numbers = relabelling(self._labels_in_files, label_set)
        other._cases = tuple(replace(case, relabelling=numbers) for case in self.cases)
        return other


def load_case(case: Case, label_set: LabelSet, channels: int) -> tuple[Volume, Volume | None]:
    """Read a case and check that image and label belong together.

    Raises:
        DatasetError: Different grids, values that the label set does not name, or voxels that are not numbers.
    """
    volume = case.volume()
    if volume.channels != channels:
        raise DatasetError(f"The case {case.identifier} has {volume.channels} channels, the dataset {channels}.")
    if not np.isfinite(volume.array).all():
        raise DatasetError(f"The image of the case {case.identifier} holds voxels that are not numbers (NaN or Inf).")
    labels = case.labels()
    if labels is None:
        return volume, None
    if not volume.same_grid(labels):
        raise DatasetError(
            f"Image and label of the case {case.identifier} lie on different grids: {volume.shape} voxels of "
            f"{_millimetres(volume.spacing)} mm against {labels.shape} of {_millimetres(labels.spacing)} mm, or "
            "another origin or direction. Resample the label to the image."
        )
    # Not as integers: 0.5 is no background.
    source = label_set if case.relabelling is None else case.relabelling.source
    unknown = sorted(set(np.unique(labels.array).tolist()) - source.training_values)
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        raise DatasetError(
            f"The label of the case {case.identifier} holds the values [{shown}], which dataset.json does not name. "
            "Name them in dataset.json or correct the label map."
        )
    if case.relabelling is not None:
        numbers = np.zeros(max(source.training_values) + 1, dtype=np.int16)
        for value, number in case.relabelling.values:
            numbers[value] = number
        labels = labels.with_array(numbers[labels.array.astype(np.intp)])
    return volume, labels


def _millimetres(spacing: Sequence[float]) -> str:
    return " x ".join(f"{n:.3g}" for n in spacing)


@dataclass(frozen=True)
class Split:
    """Which cases are trained on and which are held out."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]


def read_split(dataset: Dataset, file: Path | None, fold: int = 0, seed: int = 12345) -> Split:
    """A split from a JSON file, or one case in five held out at random.

    The file has ``{"train": [...], "val": [...]}``, or a list of such, of which ``fold`` is taken (nnU-Net's
    ``splits_final.json``).

    Raises:
        DatasetError: The file names cases that are not there, or one case on both sides.
    """
    cases = {case.identifier: case for case in dataset.cases if case.label is not None}
    if file is None:
        names = sorted(cases)
        if len(names) < 2:
            raise DatasetError(f"The dataset {dataset.name} has {len(names)} labelled cases; at least two are needed.")
        shuffled = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
        held_out = set(shuffled[: max(1, len(names) // 5)])
        return Split(
            tuple(cases[name] for name in names if name not in held_out),
            tuple(cases[name] for name in names if name in held_out),
        )
    content = read_json(file)
    if isinstance(content, list):
        if fold >= len(content):
            raise DatasetError(f"{file} has {len(content)} folds; there is no fold {fold}.")
        content = content[fold]
    if not isinstance(content, dict) or not {"train", "val"} <= content.keys():
        raise DatasetError(f"{file} is not a split. It needs the lists 'train' and 'val'.")
    for name in [*content["train"], *content["val"]]:
        if name not in cases:
            raise DatasetError(
                f"{file} names the case {name!r}, which the dataset {dataset.name} does not have labelled."
            )
    both = sorted(set(content["train"]) & set(content["val"]))
    if both:
        raise DatasetError(f"{file} has the case {both[0]!r} in both 'train' and 'val'. Keep it in one.")
    if not content["train"]:
        raise DatasetError(f"{file} has no training cases.")
    return Split(tuple(cases[n] for n in content["train"]), tuple(cases[n] for n in content["val"]))
