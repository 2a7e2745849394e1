"""nnU-Net's raw layout: ``dataset.json``, ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import read_json
from ReCoKDLib.handover import ADDING
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.provenance import read_provenance
from ReCoKDLib.segment_matching import read_synonyms, renamed
from ReCoKDLib.terminology import with_terminology

from .case import BrokenReader, Case, FileReader
from .dataset import Dataset
from .options import SourceOptions


class NnunetRawDataset(Dataset):
    """nnU-Net's raw layout; images without a label map are unlabelled cases.

    Corrected cases that ``export_for_training`` added have their record in ``provenance.json``.

    Raises:
        DatasetError: A part is missing, contradicts ``dataset.json``, or ``provenance.json`` cannot be read.
    """

    def __init__(self, folder: Path, options: SourceOptions | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / "dataset.json").is_file():
            raise DatasetError(
                f"{folder} is not a dataset in nnU-Net's raw layout: it has no dataset.json. "
                "Give the folder that holds dataset.json, imagesTr and labelsTr."
            )
        description = read_description(self.folder / "dataset.json")
        name = self.folder.resolve().name
        channels = channel_names(description, self.folder / "dataset.json")
        synonyms = read_synonyms(options.synonyms if options else None)
        label_set = with_terminology(renamed(LabelSet.from_dataset_json(description), synonyms), name)
        ending = str(description.get("file_ending", ".nii.gz"))
        cases = _find_cases(self.folder, ending, len(channels), label_set)
        super().__init__(name, channels, label_set, cases, description, synonyms=synonyms)


def read_description(path: Path) -> dict[str, Any]:
    """A ``dataset.json``.

    Raises:
        DatasetError: It is not an object.
        InputError: It is not readable.
    """
    description = read_json(path)
    if not isinstance(description, dict):
        raise DatasetError(f"{path} is not a JSON object. Restore it.")
    return description


def channel_names(description: dict[str, Any], path: Path) -> tuple[str, ...]:
    """From ``channel_names`` or, as older files call it, ``modality``.

    Raises:
        DatasetError: There are none.
    """
    channels = description.get("channel_names") or description.get("modality")
    if not channels or not isinstance(channels, dict) or not all(str(key).isdecimal() for key in channels):
        raise DatasetError(f"{path} names no channels. Add 'channel_names': {{'0': 'MRI'}}.")
    return tuple(str(channels[key]) for key in sorted(channels, key=int))


def _find_cases(folder: Path, ending: str, channels: int, label_set: LabelSet) -> list[Case]:
    images, labels = folder / "imagesTr", folder / "labelsTr"
    first = sorted(images.glob(f"*_0000{ending}")) if images.is_dir() else []
    if not first:
        raise DatasetError(f"{images} holds no images named CASE_0000{ending}. Check the folder and 'file_ending'.")
    records = read_provenance(folder)
    cases = []
    for path in first:
        identifier = path.name[: -len(f"_0000{ending}")]
        files = tuple(images / f"{identifier}_{channel:04d}{ending}" for channel in range(channels))
        label = labels / f"{identifier}{ending}"
        reader = FileReader(files, label if label.is_file() else None)
        cases.append(Case(identifier, reader, label_set, provenance=records.get(identifier)))
    if (folder / ADDING).is_dir():
        return cases  # of a case that is being added, the label may be there before the image
    known = {case.identifier for case in cases}
    for path in sorted(labels.glob(f"*{ending}")):
        identifier = path.name[: -len(ending)]
        if identifier not in known and not identifier.startswith("."):
            message = f"{path.name} has no image {identifier}_0000{ending} in imagesTr. Add it, or remove the label."
            cases.append(Case(identifier, BrokenReader(message), label_set))
    return cases
