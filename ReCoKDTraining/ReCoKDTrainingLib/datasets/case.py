"""One training case, wherever it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ReCoKDLib.annotation import Annotation
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import sha256
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.provenance import Provenance
from ReCoKDLib.volume import Volume, stack_channels

from ..class_matching import Relabelling


@dataclass(frozen=True)
class Place:
    """Where a person finds a case again. Names in it may be a patient's: it is for that person only, not for logs.

    Attributes:
        images: Its image files, one for each channel, where it has files of its own.
        segmentation: The file of its annotation, where it has one of its own.
        inside: The folder or scene that it is a part of, and what it is called there.
    """

    images: tuple[Path, ...] = ()
    segmentation: Path | None = None
    inside: str = ""

    def __str__(self) -> str:
        files = (*self.images, *(() if self.segmentation is None else (self.segmentation,)))
        return self.inside or ", ".join(map(str, files))


def without_path(text: str, path: Path, instead: str) -> str:
    """A message with other words in place of a path, which may be named after a patient.

    Args:
        text: The message; the path may stand in it as it was given or as it resolves, with slashes for backslashes, or
            as ``OSError`` writes it: with escapes, of which each of Windows's backslashes is one.
        path: What is not to be told.
        instead: What is.
    """
    for known in (path.resolve(), path):  # the longer one first
        if not known.name:  # the folder that one is in has none to hide
            continue
        escaped = repr(str(known))
        for shown in (escaped, escaped[1:-1], str(known), known.as_posix()):
            text = text.replace(shown, instead)
    return text


class CaseReader(Protocol):
    """How to get at a case's voxels. Readers are small values that can be sent to another process."""

    @property
    def labelled(self) -> bool:
        """Whether somebody annotated it, in whole or in part."""

    @property
    def place(self) -> Place:
        """Where a person finds it again."""

    def volume(self) -> Volume:
        """All channels as one volume."""

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """What was annotated in the image ``volume``, or None; in the values of the case's label set.

        Segments that can overlap are read only where their values are wanted (None: all), so that none takes voxels
        from another one and is then not learned.
        """

    def content(self, wanted: Collection[int] | None = None) -> str:
        """A checksum that changes when image or labels do, or segments become other values; ``wanted`` as above."""


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

    @property
    def place(self) -> Place:
        """Its files."""
        return Place(self.images, self.label)

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """The label map as it is in the file."""
        return None if self.label is None else Annotation(read_volume(self.label))

    def content(self, wanted: Collection[int] | None = None) -> str:
        """Over the files' contents."""
        return files_checksum((*self.images, *(() if self.label is None else (self.label,))))


@dataclass(frozen=True)
class BrokenReader:
    """A case that is known not to be readable; reading it says why.

    Attributes:
        problem: What is wrong and what to do.
        labelled: Whether it was meant to be annotated.
        place: Where a person finds it.
    """

    problem: str
    labelled: bool = True
    place: Place = field(default_factory=Place)

    def volume(self) -> Volume:
        """Raises the problem."""
        raise DatasetError(self.problem)

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """Raises the problem."""
        raise DatasetError(self.problem)

    def content(self, wanted: Collection[int] | None = None) -> str:
        """Raises the problem."""
        raise DatasetError(self.problem)


def files_checksum(files: Sequence[Path], values: object = None) -> str:
    """One checksum over the contents of files, in their order, and over the values that their segments become."""
    digest = hashlib.sha256(b"" if values is None else repr(values).encode())
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
        identifier: Its name, unlike any other of its dataset and fit for a file name; no patient's name unless somebody
            called a file so.
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

    def annotation(self, volume: Volume) -> Annotation | None:
        """What was annotated as it is in the source, or None; ``volume`` is the case's image."""
        return self.reader.annotation(volume, self._wanted)

    @property
    def _wanted(self) -> set[int] | None:
        """The values of its label map that are learned; None: all."""
        return None if self.relabelling is None else {value for value, _ in self.relabelling.values}

    def labels(self, volume: Volume) -> Volume | None:
        """The label map as it is in the source, or None; ``volume`` is the case's image."""
        annotation = self.annotation(volume)
        return None if annotation is None else annotation.labels

    def content(self) -> str:
        """A checksum that changes when image or labels do."""
        return self.reader.content(self._wanted)

    def meaning(self) -> str:
        """A checksum that changes when the values of its label map mean something else, or are numbered otherwise."""
        content: list[Any] = [self.label_set.to_dataset_json(), self.missing]
        if self.relabelling is not None:
            known = self.relabelling
            content += [known.source.to_dataset_json(), known.values, known.background, known.background_is_unknown]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
