"""Slicer's scenes: ``.mrb`` archives, and ``.mrml`` files with what they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ReCoKDLib.errors import DatasetError, ReCoKDError
from ReCoKDLib.mrml.scene_cases import SceneCase, case_labels, case_volume, find_scene_cases, read_pairings
from ReCoKDLib.mrml.scene_files import SCENE_SUFFIXES, open_scene
from ReCoKDLib.segment_matching import classes_of, matched, read_synonyms
from ReCoKDLib.volume import Volume

from .case import BrokenReader, Case, CaseReader, voxels_checksum
from .dataset import Dataset
from .options import SourceOptions, channels_asked_for


@dataclass(frozen=True)
class SceneReader:
    """Nodes of a scene file.

    Attributes:
        path: The scene.
        case: Its nodes.
        values: Segment ids with their values in the label map.
    """

    path: Path
    case: SceneCase
    values: tuple[tuple[str, int], ...]

    @property
    def labelled(self) -> bool:
        """Whether any of its segments is a class."""
        return bool(self.values)

    def volume(self) -> Volume:
        """All channels in the world, parent transforms applied."""
        return case_volume(open_scene(self.path), self.case)

    def labels(self, volume: Volume) -> Volume | None:
        """The segments that are classes, on the volume's grid."""
        return case_labels(open_scene(self.path), self.case, self.values, volume) if self.values else None

    def content(self) -> str:
        """Over the voxels: a ``.mrml`` file is not all of a scene, and a ``.mrb`` more than a case."""
        volume = self.volume()
        return voxels_checksum(volume, self.labels(volume))


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
        broken: dict[str, str] = {}
        for file, name in zip(files, _names(files), strict=True):
            try:
                rows = [row for row in pairings if row.scene in ("", file.stem)]
                members = find_scene_cases(open_scene(file), options.channels, rows)
            except ReCoKDError as error:
                broken[name] = str(error)
                continue
            for number, case in enumerate(members, 1):
                padded = f"{number:0{len(str(len(members)))}d}"
                found.append((name if len(members) == 1 else f"{name}_{padded}", file, case))
        label_set = classes_of([case.segments for _, _, case in found], synonyms)
        cases = [Case(name, BrokenReader(problem), label_set) for name, problem in broken.items()]
        for name, file, case in found:
            values, missing = matched(case.segments, label_set, synonyms)
            reader: CaseReader = SceneReader(file, case, values)
            if case.problem:
                reader = BrokenReader(case.problem, bool(case.segmentation))
            cases.append(Case(name, reader, label_set, missing=missing if values else (), patient=case.patient))
        if not cases:
            raise DatasetError(f"{path} holds no volumes. Save a scene with volumes in it.")
        count = max((len(case.volumes) for _, _, case in found if not case.problem), default=0)
        channels = channels_asked_for(options, count)
        # Scenes and their folders may be named after patients; the name goes into the model and its report.
        super().__init__("scenes", channels, label_set, sorted(cases, key=lambda case: case.identifier))


def scene_files(path: Path) -> list[Path]:
    """The scene that a path is, or all below a folder."""
    if path.is_file():
        return [path] if path.suffix.lower() in SCENE_SUFFIXES else []
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SCENE_SUFFIXES and file.is_file())


def _names(files: list[Path]) -> list[str]:
    """The files' names without suffix, numbered where two would be the same."""
    names: list[str] = []
    for file in files:
        name, number = file.stem, 2
        while name.casefold() in {known.casefold() for known in names}:
            name, number = f"{file.stem}-{number}", number + 1
        names.append(name)
    return names
