"""The Medical Segmentation Decathlon's layout: a ``dataset.json`` that lists the training cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ReCoKDLib.annotation import Annotation
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import full_suffix
from ReCoKDLib.image_io import read_channels, read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.segment_matching import read_synonyms, renamed
from ReCoKDLib.terminology import with_terminology
from ReCoKDLib.volume import Volume

from .case import Case, Place, files_checksum
from .dataset import Dataset
from .nnunet_raw import channel_names, read_description
from .options import SourceOptions


@dataclass(frozen=True)
class DecathlonReader:
    """An image file, whose fourth axis is the channel where there are several, and a label map.

    Attributes:
        image: The image.
        label: The label map.
    """

    image: Path
    label: Path

    @property
    def labelled(self) -> bool:
        """Every training case is."""
        return True

    def volume(self) -> Volume:
        """All channels as one volume."""
        return read_channels(self.image)

    @property
    def place(self) -> Place:
        """Its files."""
        return Place((self.image,), self.label)

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """The label map as it is in the file."""
        return Annotation(read_volume(self.label))

    def content(self, wanted: Collection[int] | None = None) -> str:
        """Over both files' contents."""
        return files_checksum((self.image, self.label))


def is_decathlon(description: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` is the Decathlon's: it lists its cases, and its labels are numbers with names."""
    labels = description.get("labels")
    return (
        isinstance(description.get("training"), list)
        and isinstance(labels, Mapping)
        and all(str(value).isdecimal() for value in labels)
    )


class DecathlonDataset(Dataset):
    """The training cases that a ``dataset.json`` of the Decathlon lists (Antonelli et al., arXiv 2106.05735).

    Raises:
        DatasetError: ``dataset.json`` is not the Decathlon's, or lists no cases.
    """

    def __init__(self, folder: Path, options: SourceOptions | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / "dataset.json"
        description = read_description(path)
        if not is_decathlon(description):
            raise DatasetError(f"{path} is not the Decathlon's: it needs 'training', a list, and labels by number.")
        names = {str(name): int(value) for value, name in description["labels"].items()}
        background = next((name for name, value in names.items() if value == 0), None)
        labels = {"background": 0} | {name: value for name, value in names.items() if name != background}
        synonyms = read_synonyms(options.synonyms if options else None)
        label_set = renamed(LabelSet.from_dataset_json({"labels": labels}), synonyms)
        label_set = with_terminology(label_set, self.folder.resolve().name)
        cases = [self._case(entry, label_set, path) for entry in description["training"]]
        if not cases:
            raise DatasetError(f"{path} lists no cases under 'training'. Add them.")
        super().__init__(
            self.folder.resolve().name,
            channel_names(description, path),
            label_set,
            sorted(cases, key=lambda case: case.identifier),
            {"licence": "", "reference": "", **description},
            synonyms=synonyms,
        )

    def _case(self, entry: Any, label_set: LabelSet, path: Path) -> Case:
        if not isinstance(entry, Mapping) or not {"image", "label"} <= entry.keys():
            raise DatasetError(f"{path} has {entry!r} under 'training'. Each case needs 'image' and 'label'.")
        image, label = (self.folder / str(entry[part]) for part in ("image", "label"))
        identifier = image.name[: -len(full_suffix(image))]
        return Case(identifier, DecathlonReader(image, label), label_set)
