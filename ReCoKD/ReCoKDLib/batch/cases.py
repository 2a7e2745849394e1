"""Which cases a folder holds: image files and DICOM series, at any depth."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..dicom_seg import is_dicom
from ..errors import InputError
from ..files import full_suffix
from ..image_io import dicom_files, dicom_series

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")

# Files that are parts of others, or no images, and so not looked into for DICOM.
_OTHER_SUFFIXES = (".seg.nrrd", ".seg.nhdr", ".raw", ".img", ".gz", ".zip", ".csv", ".json", ".txt", ".png", ".html")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
LABEL_WORDS = {"label", "labels", "labelmap", "seg", "segmentation", "mask", "masks"}
LABEL_FOLDERS = {"labelstr", "labelsts", "labels", "masks", "segmentation", "segmentations"}
_CHANNEL = re.compile(r"(.+)_(\d{4})")
# Objects of these modalities that GDCM takes for images.
_NO_IMAGES = {"SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "PR", "KO", "REG"}


@dataclass(frozen=True)
class Source:
    """One channel of a case: a file, or a DICOM series of a folder.

    Attributes:
        path: File or folder.
        series: UID of the series; empty for a file.
        files: What it consists of on disk.
    """

    path: Path
    series: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class BatchCase:
    """One case.

    Attributes:
        name: Place of the outputs in the output folder, without a suffix, with slashes.
        sources: One for each channel, in order.
        problem: Why it cannot be worked on, if that is known beforehand.
    """

    name: str
    sources: tuple[Source, ...]
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        cases: In the order of their names; the same folder always gives the same.
        left_out: Files taken for label maps by their names.
    """

    cases: tuple[BatchCase, ...]
    left_out: tuple[Path, ...]


def find_cases(folder: Path, channels: int = 1, without: Path | None = None) -> Found:
    """Find every image file and DICOM series below a folder.

    Label maps are left out: ``.seg.nrrd``, names that end in a word such as ``_label``, ``-seg`` or ``_mask``, and
    nnU-Net's folders of labels. So are hidden files. Links to folders are followed, each real folder once.

    Args:
        folder: Where to look.
        channels: Of the student. With several, ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ... are one case's, as
            nnU-Net names them.
        without: A folder that is left out (the output's).

    Raises:
        InputError: The folder is not there or not readable, or holds no case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the folder that holds the cases.")
    found: list[tuple[Path, BatchCase]] = []
    left_out: list[Path] = []
    for place, files, problem in _walk(folder, without):
        relative = place.relative_to(folder)
        if problem:
            if place == folder:
                raise InputError(f"{folder} cannot be read ({problem}). Check its permissions.")
            found.append((relative, BatchCase(relative.as_posix(), (), f"The folder cannot be read ({problem}).")))
            continue
        images = [name for name in files if full_suffix(Path(name)).lower() in IMAGE_SUFFIXES]
        labels = [name for name in images if _is_label(place, name)]
        left_out += [place / name for name in labels]
        found += [
            (relative / case.name, case)
            for case in _image_cases(place, [name for name in images if name not in set(labels)], channels)
        ]
        found += [(_series_place(relative, folder, case), case) for case in _series_cases(place, files)]
    if not found:
        detail = f" ({len(left_out)} files look like label maps by their names)" if left_out else ""
        raise InputError(f"{folder} holds no image file and no DICOM series{detail}. Give a folder that does.")
    return Found(tuple(sorted(_told_apart(found), key=lambda case: case.name)), tuple(left_out))


def _walk(folder: Path, without: Path | None) -> Iterator[tuple[Path, list[str], str]]:
    """Each folder with its files' names; or with the reason why it cannot be read."""
    visited: set[tuple[int, int] | str] = set()
    excluded = None if without is None else os.path.realpath(without)
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            status = place.stat()
            # Windows gives no number to some folders; a path without links does as well.
            identity = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(place)
            if identity in visited or os.path.realpath(place) == excluded:
                continue
            visited.add(identity)
            with os.scandir(place) as entries:
                listed = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
            folders = [place / entry.name for entry in listed if entry.is_dir()]
            files = [entry.name for entry in listed if not entry.is_dir()]
        except OSError as error:
            yield place, [], error.strerror or str(error)
            continue
        yield place, files, ""
        waiting += reversed(folders)


def _is_label(place: Path, name: str) -> bool:
    stem = name[: -len(full_suffix(Path(name)))]
    return re.split(r"[^a-z]+", stem.lower())[-1] in LABEL_WORDS or place.name.lower() in LABEL_FOLDERS


def _image_cases(place: Path, names: list[str], channels: int) -> Iterator[BatchCase]:
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        suffix = full_suffix(Path(name))
        match = _CHANNEL.fullmatch(name[: -len(suffix)]) if channels > 1 else None
        groups[f"{match[1]}{suffix}" if match else name][int(match[2]) if match else 0] = name
    for name, files in groups.items():
        problem = ""
        missing = sorted(set(range(channels)) - set(files))
        if missing:
            problem = (
                f"The student takes {channels} channels; {', '.join(f'_{number:04d}' for number in missing)} of this "
                "case is missing. Name the files CASE_0000, CASE_0001, ... in the order of the student's card."
            )
        elif len(files) > channels:
            problem = f"The case has {len(files)} channels, the student takes {channels}. Remove what is too many."
        sources = (Source(place / file, "", (place / file,)) for _, file in sorted(files.items()))
        yield BatchCase(name, tuple(sources), problem)


def _series_cases(place: Path, names: list[str]) -> Iterator[BatchCase]:
    """A case for each DICOM series of a folder; its name is the UID where there are several, else empty."""
    others = (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES)
    if not any(
        name.lower().endswith(_DICOM_SUFFIXES) or (not name.lower().endswith(others) and is_dicom(place / name))
        for name in names
    ):
        return
    series = [(uid, dicom_files(place, uid)) for uid in dicom_series(place)]
    images = [(uid, files) for uid, files in series if _modality(files[0]) not in _NO_IMAGES]
    for uid, files in images:
        yield BatchCase(uid if len(images) > 1 else "", (Source(place, uid, files),))
    if not series:
        damaged = tuple(place / name for name in names if name.lower().endswith(_DICOM_SUFFIXES))
        if damaged:
            problem = f"None of the {len(damaged)} DICOM files can be read as such, {damaged[0].name} for one."
            yield BatchCase("", (Source(place, "", damaged),), problem)


def _modality(file: Path) -> str:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        return str(reader.GetMetaData("0008|0060")).strip() if reader.HasMetaDataKey("0008|0060") else ""
    except RuntimeError:
        return ""  # a damaged image is told when it is worked on


def _series_place(relative: Path, folder: Path, case: BatchCase) -> Path:
    if relative == Path() and not case.name:
        return Path(folder.resolve().name or "series")
    return relative / case.name


def _told_apart(found: list[tuple[Path, BatchCase]]) -> Iterator[BatchCase]:
    """Names without suffixes, where no two cases then have one name, be it in capitals; else with them."""
    short = [place.parent / _stem(place, case) for place, case in found]
    taken: dict[str, int] = defaultdict(int)
    for name in short:
        taken[name.as_posix().casefold()] += 1
    # Whole file names differ, at least in capitals; a number then tells them apart where a disk does not.
    used = {key for key, number in taken.items() if number == 1}
    for name, (place, case) in zip(short, found, strict=True):
        chosen = name.as_posix()
        if taken[chosen.casefold()] > 1:
            whole, number = place.as_posix(), 2
            chosen = whole
            while chosen.casefold() in used:
                chosen, number = f"{whole}-{number}", number + 1
            used.add(chosen.casefold())
        yield BatchCase(chosen, case.sources, case.problem)


def _stem(place: Path, case: BatchCase) -> str:
    if case.sources and not case.sources[0].path.is_dir():
        return place.name[: -len(full_suffix(place))]
    return place.name
