"""Slicer's scenes: ``.mrb`` archives, and ``.mrml`` files with what they name."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ReCoKDLib.annotation import Annotation
from ReCoKDLib.errors import DatasetError, InputError, ReCoKDError
from ReCoKDLib.mrml.scene_cases import (
    SceneCase,
    case_annotation,
    case_volume,
    find_scene_cases,
    patient_hash,
    read_pairings,
)
from ReCoKDLib.mrml.scene_files import SCENE_SUFFIXES, open_scene
from ReCoKDLib.segment_matching import classes_of, lacking, matched, read_synonyms
from ReCoKDLib.volume import Volume

from .case import BrokenReader, Case, CaseReader, Place, voxels_checksum, without_path
from .dataset import Dataset
from .options import SourceOptions, channels_asked_for


@dataclass(frozen=True)
class SceneReader:
    """Nodes of a scene file.

    Attributes:
        path: The scene.
        case: Its nodes.
        values: For each segmentation, segment ids with their values in the label map.
    """

    path: Path
    case: SceneCase
    values: tuple[tuple[tuple[str, int], ...], ...]

    @property
    def labelled(self) -> bool:
        """Whether any of its segments is a class."""
        return any(self.values)

    @property
    def place(self) -> Place:
        """The scene, and what the nodes are called in it."""
        return _place(self.path, self.case)

    def volume(self) -> Volume:
        """All channels in the world, parent transforms applied."""
        try:
            return case_volume(open_scene(self.path), self.case)
        except InputError as error:
            raise InputError(_nameless(str(error), self.path)) from None

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """The segments that are classes, on the volume's grid."""
        if not self.labelled:
            return None
        values = [[(key, v) for key, v in each if wanted is None or v in wanted] for each in self.values]
        try:
            return case_annotation(open_scene(self.path), self.case, values, volume)
        except InputError as error:
            raise InputError(_nameless(str(error), self.path)) from None

    def content(self, wanted: Collection[int] | None = None) -> str:
        """Over the voxels: a ``.mrml`` file is not all of a scene, and a ``.mrb`` more than a case."""
        volume = self.volume()
        annotation = self.annotation(volume, wanted)
        if annotation is None:
            return voxels_checksum(volume)
        lost = f"{sorted(annotation.overlaps.items())} {annotation.outside}"
        return hashlib.sha256(f"{voxels_checksum(volume, annotation.labels)} {lost}".encode()).hexdigest()


class ScenesDataset(Dataset):
    """The cases of one scene file or of all below a folder; see ``ReCoKDLib.mrml.scene_cases`` for what is a case.

    The classes are all that segments show, by code, else by name or synonym. A class for which a case has no segment is
    one that nobody annotated in it; an empty segment says that the patient does not have it.

    Raises:
        DatasetError: There is no scene, or no volume in any.
    """

    def __init__(self, path: Path, options: SourceOptions | None = None) -> None:
        options = options or SourceOptions()
        files = scene_files(path)
        if not files:
            raise DatasetError(f"{path} holds no scenes ({', '.join(SCENE_SUFFIXES)}).")
        pairings = read_pairings(options.pairing) if options.pairing is not None else ()
        synonyms = read_synonyms(options.synonyms)
        found: list[tuple[str, Path, SceneCase]] = []
        broken: dict[str, tuple[str, Path]] = {}
        for file in files:
            name = _name(file, path)
            try:
                rows = [row for row in pairings if row.scene in ("", file.stem)]
                members = find_scene_cases(open_scene(file), options.channels, rows)
            except ReCoKDError as error:
                broken[name] = str(error), file
                continue
            for number, case in enumerate(members, 1):
                padded = f"{number:0{len(str(len(members)))}d}"
                found.append((name if len(members) == 1 else f"{name}_{padded}", file, case))
        label_set = classes_of([segments for _, _, case in found for segments in case.segments], synonyms)
        cases = [
            Case(name, BrokenReader(_nameless(problem, file, ()), place=_place(file)), label_set)
            for name, (problem, file) in broken.items()
        ]
        for name, file, case in found:
            values = tuple(matched(segments, label_set, synonyms) for segments in case.segments)
            reader: CaseReader = SceneReader(file, case, values)
            if case.problem:
                problem = _nameless(case.problem, file, case.names)
                reader = BrokenReader(problem, bool(case.segmentations), _place(file, case))
            cases.append(Case(name, reader, label_set, missing=lacking(label_set, values), patient=case.patient))
        if not cases:
            raise DatasetError(f"{path} holds no volumes. Save a scene with volumes in it.")
        channels = channels_asked_for(options, [len(case.volumes) for _, _, case in found if not case.problem])
        # Scenes and their folders may be named after patients; the name goes into the model and its report.
        in_order = sorted(cases, key=lambda case: case.identifier)
        super().__init__("scenes", channels, label_set, in_order, synonyms=synonyms)


def scene_files(path: Path) -> list[Path]:
    """The scene that a path is, or all below a folder."""
    if path.is_file():
        return [path] if path.suffix.lower() in SCENE_SUFFIXES else []
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SCENE_SUFFIXES and file.is_file())


def _name(file: Path, path: Path) -> str:
    """A hash of a scene's place among the others, as scenes and folders are often named after patients."""
    place = file.relative_to(path).as_posix() if path.is_dir() else file.name
    return f"scene_{patient_hash(unicodedata.normalize('NFC', place))}"


def _place(file: Path, case: SceneCase | None = None) -> Place:
    names = "" if case is None else " + ".join(case.names)
    return Place(inside=f"{file}: {names}" if names else str(file))


def _nameless(text: str, file: Path, names: Sequence[str] | None = None) -> str:
    """A message without the names of the file and of nodes (None: without all that is quoted); the case's place has
    them."""
    text = without_path(text, file, "The scene")  # first: there may be quotes in it
    any_name = ("'[^']*'", '"[^"]*"')
    quoted = "|".join(any_name if names is None else (re.escape(repr(name)) for name in names))
    if quoted:
        text = re.sub(f"^({quoted})", "A node", text)
        text = re.sub(f" ({quoted})", "", text)
    return text
