"""Which files of a folder belong together, by their names: images, channels and segmentations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ReCoKDLib.batch.cases import LABEL_FOLDERS, LABEL_WORDS
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import full_suffix

from .options import SourceOptions

SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
_IMAGE_WORDS = {"image", "images", "img", "imgs", "volume", "volumes", "scan", "scans", "imagestr", "imagests"}
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class CaseFiles:
    """What belongs to one case."""

    images: tuple[Path, ...]
    label: Path | None
    problem: str = ""


def is_segmentation(path: Path | None) -> bool:
    """Whether it is a segmentation of Slicer's by its name."""
    return path is not None and path.name.lower().endswith(SEGMENTATIONS)


def _rule(rule: str) -> re.Pattern[str]:
    if "{case}" not in rule:
        raise DatasetError(f"The rule {rule!r} does not say where the case's name stands. Write it as {{case}}.nii.gz.")
    parts = re.split(r"(\{case\}|\{channel\})", rule.replace("\\", "/"))
    seen: set[str] = set()
    pattern = ""
    for part in parts:
        if part in ("{case}", "{channel}"):
            name = part[1:-1]
            # A case may be in a folder of its own; {case} in two places is the same name twice.
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            pattern += re.escape(part)
    return re.compile(pattern)


def paired_by_rule(folder: Path, files: list[Path], options: SourceOptions) -> dict[str, CaseFiles]:
    """Cases by name, as the rules say."""
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    labels: dict[str, Path] = {}
    image_rule = _rule(options.image_rule)
    label_rule = _rule(options.label_rule) if options.label_rule else None
    for path in files:
        place = path.relative_to(folder).as_posix()
        if label_rule is not None and (match := label_rule.fullmatch(place)):
            labels[match["case"]] = path
        elif match := image_rule.fullmatch(place):
            images[match["case"]][match.groupdict().get("channel", "")] = path
    order = options.channels if "{channel}" in options.image_rule else ()
    found = {}
    for case, channels in images.items():
        names = list(order) or sorted(channels)
        lacking = [name for name in names if name not in channels]
        problem = f"The channel {lacking[0]!r} of the case {case} is missing. Add the file." if lacking else ""
        chosen = tuple(channels[name] for name in names if name in channels)
        found[case] = CaseFiles(chosen, labels.get(case), problem)
    for case in labels.keys() - images.keys():
        found[case] = CaseFiles((), labels[case], _without_image(labels[case]))
    return found


def paired_by_habit(folder: Path, files: list[Path]) -> dict[str, CaseFiles]:
    """Cases by name, as people usually call their files; see :class:`.file_pairs.FilePairsDataset`."""
    labels: dict[tuple[str, str], Path] = {}
    images: list[Path] = []
    for path in files:
        place, stem = path.parent.relative_to(folder), _stem(path)
        word = re.split(r"[^a-z]+", stem.lower())[-1]
        if is_segmentation(path) or word in LABEL_WORDS:
            shorter = re.sub(r"[^A-Za-z0-9]*[A-Za-z]+$", "", stem) if word in LABEL_WORDS else stem
            labels[_common(place), shorter or stem] = path
        elif place.name.lower() in LABEL_FOLDERS:
            labels[_common(place), stem] = path
        else:
            images.append(path)
    groups = _with_channels(folder, images, labels)
    pairs: dict[tuple[str, str], Path | None] = {}
    for (common, stem), paths in groups.items():
        pairs[common, stem] = labels.get((common, stem))
        if len(paths) == 1 and pairs[common, stem] is None:  # CASE_0000 alone, whose labels keep the number
            pairs[common, stem] = labels.get((common, _stem(paths[0])))
    left = [path for path in labels.values() if path not in pairs.values()]
    for key, paths in groups.items():  # the only segmentation beside the only image of a folder
        place = paths[0].parent
        beside = [path for path in left if path.parent == place]
        if pairs[key] is None and len(beside) == 1 and sum(p.parent == place for p in images) == len(paths):
            pairs[key] = beside[0]
    found: dict[str, CaseFiles] = {}
    for (common, stem), paths in groups.items():
        _add(found, common, stem, CaseFiles(tuple(sorted(paths)), pairs[common, stem]))
    for (common, stem), path in labels.items():
        if path not in pairs.values():
            _add(found, common, stem, CaseFiles((), path, _without_image(path)))
    return found


def _with_channels(
    folder: Path, images: list[Path], labels: Mapping[tuple[str, str], Path]
) -> dict[tuple[str, str], list[Path]]:
    """The images of each case: CASE_0000, CASE_0001, ... are its channels where none is left out or has a label."""
    single: dict[tuple[str, str], list[Path]] = defaultdict(list)
    numbered: dict[tuple[str, str], dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in images:
        common, match = _common(path.parent.relative_to(folder)), _CHANNEL.fullmatch(_stem(path))
        if match:
            numbered[common, match[1]][int(match[2])].append(path)
        else:
            single[common, _stem(path)].append(path)
    for (common, stem), channels in numbered.items():
        paths = [path for number in sorted(channels) for path in channels[number]]
        complete = sorted(channels) == list(range(len(paths))) and (common, stem) not in single
        if complete and (len(paths) == 1 or not any((common, _stem(path)) in labels for path in paths)):
            single[common, stem] = paths
        else:
            for path in paths:
                single[common, _stem(path)].append(path)
    return single


def _without_image(label: Path) -> str:
    """What to say of a segmentation that no image was found for."""
    return f"{label.name} has no image. Add the image, name both alike, or say which belong together (--image-rule)."


def _stem(path: Path) -> str:
    return path.name[: -len(full_suffix(path))]


def _add(found: dict[str, CaseFiles], common: str, stem: str, files: CaseFiles) -> None:
    found[next(name for name in _names(common, stem) if name not in found)] = files


def _common(place: Path) -> str:
    """A folder without its last part, where that says "images" or "labels" only."""
    return (place.parent if place.name.lower() in LABEL_FOLDERS | _IMAGE_WORDS else place).as_posix()


def _names(place: str, stem: str) -> Iterator[str]:
    """Names for a case, the shortest first; with its folders where another one has that."""
    yield stem
    whole = "_".join((*(part for part in place.split("/") if part != "."), stem))
    yield whole
    number = 2
    while True:
        yield f"{whole}_{number}"
        number += 1
