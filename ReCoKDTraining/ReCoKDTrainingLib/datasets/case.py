"""One training case, wherever it comes from, and what can be wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import sha256
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.provenance import Provenance
from ReCoKDLib.volume import Volume, stack_channels

from ..class_matching import Relabelling


class CaseReader(Protocol):
    """How to get at a case's voxels. Readers are small values that can be sent to another process."""

    @property
    def labelled(self) -> bool:
        """Whether somebody annotated it, in whole or in part."""

    def volume(self) -> Volume:
        """All channels as one volume."""

    def labels(self, volume: Volume) -> Volume | None:
        """The label map of the image ``volume``, or None. Its values are those of the case's label set."""

    def content(self) -> str:
        """A checksum that changes when image or labels do."""


@dataclass(frozen=True)
class FileReader:
    """A file for each channel and, where somebody annotated the case, a label map.

    Attributes:
        images: One file for each channel.
        label: The label map, or None.
    """

    images: tuple[Path, ...]
    label: Path | None

    @property
    def labelled(self) -> bool:
        """Whether there is a label map."""
        return self.label is not None

    def volume(self) -> Volume:
        """All channels as one volume.

        Raises:
            DatasetError: The file of a channel is missing.
        """
        for path in self.images:
            if not path.is_file():
                raise DatasetError(f"The channel {path.name} is missing. Add the file.")
        return stack_channels([read_volume(path) for path in self.images])

    def labels(self, volume: Volume) -> Volume | None:
        """The label map as it is in the file."""
        return None if self.label is None else read_volume(self.label)

    def content(self) -> str:
        """Over the files' contents."""
        return files_checksum((*self.images, *(() if self.label is None else (self.label,))))


@dataclass(frozen=True)
class BrokenReader:
    """A case that is known not to be readable; reading it says why.

    Attributes:
        problem: What is wrong and what to do.
        labelled: Whether it was meant to be annotated.
    """

    problem: str
    labelled: bool = True

    def volume(self) -> Volume:
        """Raises the problem."""
        raise DatasetError(self.problem)

    def labels(self, volume: Volume) -> Volume | None:
        """Raises the problem."""
        raise DatasetError(self.problem)

    def content(self) -> str:
        """Raises the problem."""
        raise DatasetError(self.problem)


def files_checksum(files: Sequence[Path]) -> str:
    """One checksum over the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(sha256(path).encode("ascii"))
    return digest.hexdigest()


def voxels_checksum(*volumes: Volume | None) -> str:
    """One checksum over voxels and places of volumes, for cases that have no files of their own."""
    digest = hashlib.sha256()
    for volume in volumes:
        if volume is not None:
            digest.update(f"{volume.array.shape} {volume.array.dtype.str}".encode("ascii"))
            digest.update(np.ascontiguousarray(volume.array).tobytes())
            digest.update(np.round(volume.ijk_to_ras, 6).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        identifier: Its name, unlike any other of its dataset and fit for a file name.
        reader: Where its voxels are.
        label_set: What the values of its label map mean.
        relabelling: Other numbers for them; None takes them as they are.
        missing: Names of classes of its label set that nobody annotated in it (not: that it does not have).
        provenance: Who made the labels, where the dataset says so.
        patient: The same for all cases of a patient and of no other, and no name; empty where it is not known.
    """

    identifier: str
    reader: CaseReader
    label_set: LabelSet
    relabelling: Relabelling | None = None
    missing: tuple[str, ...] = ()
    provenance: Provenance | None = None
    patient: str = ""

    @property
    def labelled(self) -> bool:
        """Whether somebody annotated it, in whole or in part."""
        return self.reader.labelled

    @property
    def partly_labelled(self) -> bool:
        """Whether classes that are learned were annotated and others were not: its background is not known."""
        return self.labelled and (
            bool(self.missing) if self.relabelling is None else self.relabelling.background_is_unknown
        )

    def volume(self) -> Volume:
        """All channels as one volume."""
        return self.reader.volume()

    def labels(self, volume: Volume) -> Volume | None:
        """The label map as it is in the source, or None; ``volume`` is the case's image."""
        return self.reader.labels(volume)

    def content(self) -> str:
        """A checksum that changes when image or labels do."""
        return self.reader.content()

    def meaning(self) -> str:
        """A checksum that changes when the values of its label map mean something else, or are numbered otherwise."""
        content: list[Any] = [self.label_set.to_dataset_json(), self.missing]
        if self.relabelling is not None:
            known = self.relabelling
            content += [known.source.to_dataset_json(), known.values, known.background, known.background_is_unknown]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a case.

    Attributes:
        kind: One or two words, the same for all problems of a kind.
        message: What is wrong and what to do, with the case's name.
    """

    kind: str
    message: str


def image_problems(case: Case, volume: Volume, channels: int) -> list[Problem]:
    """What makes an image unfit."""
    found = []
    if volume.channels != channels:
        message = f"The case {case.identifier} has {volume.channels} channels, the dataset {channels}."
        found.append(Problem("channels", message))
    if not np.isfinite(volume.array).all():
        message = f"The image of the case {case.identifier} holds voxels that are not numbers (NaN or Inf)."
        found.append(Problem("not numbers", message))
    return found


def label_problems(case: Case, volume: Volume, labels: Volume, label_set: LabelSet) -> list[Problem]:
    """What makes a label map unfit; ``label_set`` is the dataset's."""
    found = []
    if not volume.same_grid(labels):
        message = (
            f"Image and label of the case {case.identifier} lie on different grids: {volume.shape} voxels of "
            f"{_millimetres(volume.spacing)} mm against {labels.shape} of {_millimetres(labels.spacing)} mm, or "
            "another origin or direction. Resample the label to the image."
        )
        found.append(Problem("different grids", message))
    # Not as integers: 0.5 is no background.
    source = label_set if case.relabelling is None else case.relabelling.source
    unknown = sorted(set(np.unique(labels.array).tolist()) - source.training_values)
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        message = (
            f"The label of the case {case.identifier} holds the values [{shown}], which dataset.json does not name. "
            "Name them in dataset.json or correct the label map."
        )
        found.append(Problem("unknown values", message))
    return found


def load_case(case: Case, label_set: LabelSet, channels: int) -> tuple[Volume, Volume | None]:
    """Read a case and check that image and label belong together.

    Returns:
        Image and label map in the numbering of ``label_set``; None where nobody annotated the case.

    Raises:
        DatasetError: Different grids, values that the label set does not name, or voxels that are not numbers.
        InputError: It cannot be read.
    """
    volume = case.volume()
    labels = case.labels(volume)
    found = image_problems(case, volume, channels)
    if labels is not None:
        found += label_problems(case, volume, labels, label_set)
    if found:
        raise DatasetError(found[0].message)
    return volume, None if labels is None else relabelled(case, labels)


def relabelled(case: Case, labels: Volume) -> Volume:
    """A case's label map, which has no unknown values, in the numbers that are learned."""
    return labels if case.relabelling is None else labels.with_array(case.relabelling.apply(labels.array))


def _millimetres(spacing: Sequence[float]) -> str:
    return " x ".join(f"{n:.3g}" for n in spacing)
