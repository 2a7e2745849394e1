"""Any source, told by what is in the folder, and several of them as one dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.labels import LabelSet, Segment

from ..class_matching import find_class
from .case import Case
from .dataset import Dataset, Task
from .decathlon import DecathlonDataset, is_decathlon
from .dicom import DicomDataset, has_dicom
from .file_pairs import WHAT_TO_GIVE, FilePairsDataset
from .nnunet_raw import NnunetRawDataset, read_description
from .options import SourceOptions
from .scenes import ScenesDataset, scene_files

UNNAMED_CHANNEL = "image"


def open_dataset(path: Path, options: SourceOptions | None = None) -> Dataset:
    """One source; its kind is told by what is there.

    A scene file or a folder with some below it; a ``dataset.json`` of the Decathlon or of nnU-Net; DICOM files; else
    image files.

    Raises:
        DatasetError: There is nothing of the kind, or it contradicts itself.
        InputError: Something cannot be read.
    """
    path, options = Path(path), options or SourceOptions()
    if not path.exists():
        raise DatasetError(f"{path} does not exist. Give a dataset's folder, or a scene (.mrb, .mrml).")
    if path.is_file():
        return ScenesDataset(path, options)
    if not options.image_rule and (path / "dataset.json").is_file():
        description = read_description(path / "dataset.json")
        if is_decathlon(description):
            return DecathlonDataset(path, options)
        # Labels of image files may be named in a dataset.json that is no more than that.
        if (path / "imagesTr").is_dir() or "labels" not in description or "channel_names" in description:
            return NnunetRawDataset(path, options)
    if not options.image_rule:
        if not any(path.iterdir()):
            raise DatasetError(f"{path} is empty. {WHAT_TO_GIVE}")
        if scene_files(path):
            return ScenesDataset(path, options)
        if has_dicom(path):
            return DicomDataset(path, options)
    return FilePairsDataset(path, options)


def open_datasets(
    paths: Sequence[Path], options: SourceOptions | None = None, *, model: Task | None = None, unlabelled: bool = True
) -> Dataset:
    """Sources as one dataset.

    The classes are those of the first source, then those that only later ones have; a case of a source that does not
    know one of them is partly labelled. Identifiers get their source's name in front where there are several sources.

    Args:
        paths: At least one.
        options: For those that need them.
        model: Whose classes and channels are taken where no source names any.
        unlabelled: Whether cases without annotation, if there are any, will be used: they need an ignore label.

    Raises:
        DatasetError: A source cannot be used, or they do not fit each other.
    """
    if not paths:
        raise DatasetError("No dataset was given. Name its folder (--dataset).")
    sources = [open_dataset(path, options) for path in paths]
    channels = _channels(sources, model)
    cases = _cases(sources)
    label_set = _label_set(sources, model)
    partly = any(case.labelled and case.missing for case in cases) or any(
        find_class(segment, source.label_set) is None
        for source in sources
        if any(case.labelled for case in source.cases)
        for segment in label_set.segments
    )
    if (partly or (unlabelled and not all(case.labelled for case in cases))) and label_set.ignore_label is None:
        highest = max((value for segment in label_set.segments for value in segment.region), default=0)
        label_set = replace(label_set, ignore_label=highest + 1)
    first = sources[0]
    name = first.name if len(sources) == 1 else "+".join(source.name for source in sources)
    mixed = Dataset(name, channels, label_set, cases, first.description, synonyms=first.synonyms)
    same = all(case.label_set == label_set and not case.missing for case in cases)
    return mixed if same else mixed.with_labels(label_set)


def _channels(sources: Sequence[Dataset], model: Task | None) -> tuple[str, ...]:
    counts = {len(source.channel_names) for source in sources}
    if len(counts) > 1:
        told = ", ".join(f"{source.name} {len(source.channel_names)}" for source in sources)
        raise DatasetError(f"The sources have different numbers of channels: {told}. Give those that fit each other.")
    known = [*sources, model] if model is not None and len(model.channel_names) in counts else [*sources]
    names = []
    for place in range(counts.pop()):
        told_names = (task.channel_names[place] for task in known)
        names.append(next((name for name in told_names if name), UNNAMED_CHANNEL))
    return tuple(names)


def _cases(sources: Sequence[Dataset]) -> list[Case]:
    if len(sources) == 1:
        return list(sources[0].cases)
    prefixes: list[str] = []
    for source in sources:
        stem = re.sub(r"[^\w.-]+", "-", source.name)
        prefix, number = stem, 2
        while prefix in prefixes:
            prefix, number = f"{stem}-{number}", number + 1
        prefixes.append(prefix)
    return [
        replace(case, identifier=f"{prefix}__{case.identifier}")
        for prefix, source in zip(prefixes, sources, strict=True)
        for case in source.cases
    ]


def _label_set(sources: Sequence[Dataset], model: Task | None) -> LabelSet:
    """The classes of all sources; of the model where none has any."""
    known = [source.label_set for source in sources if source.label_set.segments]
    if not known:
        return LabelSet(()) if model is None else replace(model.label_set, ignore_label=None)
    first = known[0]
    if len(known) == 1:
        return first
    added: list[Segment] = []
    for label_set in known[1:]:
        for segment in label_set.segments:
            so_far = replace(first, segments=(*first.segments, *added))
            if find_class(segment, so_far) is None:
                value = len(so_far.segments) + 1
                added.append(replace(segment, value=value, region=(value,)))
    if added and (first.has_regions or any(label_set.has_regions for label_set in known)):
        names = ", ".join(segment.name for segment in added)
        raise DatasetError(
            f"The sources have overlapping regions, and not the same ones ({names}). Mix only sources with the same "
            "regions."
        )
    ignore = any(label_set.ignore_label is not None for label_set in known)
    segments = (*first.segments, *added)
    highest = max(value for segment in segments for value in segment.region)
    return replace(first, segments=segments, ignore_label=highest + 1 if ignore else None)
