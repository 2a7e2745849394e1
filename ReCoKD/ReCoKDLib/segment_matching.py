"""Segments as people named and coded them, matched to classes: by terminology code, then by name or synonym."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import DatasetError, InputError
from .files import read_json
from .labels import LabelSet, Segment
from .terminology import terminology_entry, type_and_modifier


@dataclass(frozen=True)
class FoundSegment:
    """A segment of somebody's segmentation.

    Attributes:
        key: How its source finds it again: a segment id, or a number.
        name: As the user named it.
        terminology: Slicer's terminology entry, or empty.
        color: Red, green, blue in 0..1.
    """

    key: str
    name: str
    terminology: str = ""
    color: tuple[float, float, float] = (0.9, 0.62, 0.0)

    @property
    def code(self) -> str:
        """The standard code of what it shows; of its name where it has none itself; else empty."""
        return type_and_modifier(self.terminology) or type_and_modifier(terminology_entry(self.name))


Synonyms = Mapping[str, str]


def read_synonyms(path: Path | None) -> Synonyms:
    """Other names of classes: each, in lower case, with the class's own name.

    A JSON object ``{"liver": ["Leber", "hepar"]}``, or a CSV file with a class and its other names in each row.

    Raises:
        DatasetError: The file is neither, or gives one name to two classes.
        InputError: It cannot be read.
    """
    if path is None:
        return {}
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if not isinstance(content, dict) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in content.values()
        ):
            raise DatasetError(f'{path} is not a table of synonyms. Write it as {{"liver": ["Leber", "hepar"]}}.')
        rows = [[str(name), *others] for name, others in content.items()]
    else:
        rows = read_rows(path)
    synonyms: dict[str, str] = {}
    for name, *others in rows:
        for other in (name, *others):
            key = _key(other)
            if key and synonyms.setdefault(key, name.strip()) != name.strip():
                raise DatasetError(f"{path} has {other!r} under {synonyms[key]!r} and {name!r}. Keep it under one.")
    return synonyms


def renamed(label_set: LabelSet, synonyms: Synonyms) -> LabelSet:
    """The label set with the classes' own names in place of their synonyms.

    Raises:
        DatasetError: Two of its labels are one class.
    """
    if not synonyms:
        return label_set
    segments = tuple(replace(s, name=synonyms.get(_key(s.name), s.name)) for s in label_set.segments)
    known: dict[str, str] = {}
    for before, after in zip(label_set.segments, segments, strict=True):
        other = known.setdefault(_key(after.name), before.name)
        if other != before.name:
            raise DatasetError(
                f"The labels {other!r} and {before.name!r} are both {after.name!r} by the table of synonyms. Take one "
                "out of the table, or make the two one label."
            )
    return replace(label_set, segments=segments)


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file that are not empty; UTF-8, with or without a mark at its start.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return [[cell.strip() for cell in row] for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV file ({error}). Give a table in UTF-8.") from error


def match_segment(
    segment: FoundSegment, label_set: LabelSet, synonyms: Synonyms, shared: Set[str] = frozenset()
) -> Segment | None:
    """The class that a segment shows: the only one with its code, else the one with its name or a synonym of it.

    Codes in ``shared`` are those of several structures ("Vertebra") and say nothing.
    """
    code = type_and_modifier(segment.terminology)
    if code and code not in shared:
        coded = [known for known in label_set.segments if type_and_modifier(known.terminology) == code]
        if len(coded) == 1:
            return coded[0]
    wanted = canonical(segment.name, synonyms)
    for known in label_set.segments:
        if canonical(known.name, synonyms) == wanted:
            return known
    code = "" if segment.code in shared else segment.code
    coded = [known for known in label_set.segments if code and type_and_modifier(known.terminology) == code]
    return coded[0] if len(coded) == 1 else None


def classes_of(segmentations: Iterable[Sequence[FoundSegment]], synonyms: Synonyms) -> LabelSet:
    """The classes of several segmentations: each that any of them has, in the order of their names, numbered from 1.

    Segments are one class where codes agree, else where names do; a code that segments of different names have in one
    segmentation counts for nothing.
    """
    segmentations = list(segmentations)
    shared = frozenset(code for segments in segmentations for code in _shared_codes(segments, synonyms))
    classes: list[Segment] = []
    for segment in sorted(
        (s for segmentation in segmentations for s in segmentation), key=lambda s: canonical(s.name, synonyms)
    ):
        if match_segment(segment, LabelSet(tuple(classes)), synonyms, shared) is None:
            name = synonyms.get(_key(segment.name), segment.name.strip())
            entry = segment.terminology if type_and_modifier(segment.terminology) else terminology_entry(name)
            value = len(classes) + 1
            classes.append(Segment(name, value, (value,), segment.color, entry))
    return LabelSet(tuple(classes))


def matched(segments: Sequence[FoundSegment], label_set: LabelSet, synonyms: Synonyms) -> tuple[tuple[str, int], ...]:
    """Which segment has which value in a label map of ``label_set``.

    Returns:
        The keys of the segments that are classes with their values, in the order of the segments (where they overlap
        the later one wins, as in Slicer).
    """
    shared = _shared_codes(segments, synonyms)
    found = [(segment.key, match_segment(segment, label_set, synonyms, shared)) for segment in segments]
    return tuple((key, known.value) for key, known in found if known is not None)


def lacking(label_set: LabelSet, segmentations: Iterable[Sequence[tuple[str, int]]]) -> tuple[str, ...]:
    """Names of the classes that no segmentation of a case shows, each given as :func:`matched` has it.

    None where there is no segment of any class: nobody annotated such a case.
    """
    present = {value for values in segmentations for _, value in values}
    return tuple(known.name for known in label_set.segments if present and known.value not in present)


def _shared_codes(segments: Sequence[FoundSegment], synonyms: Synonyms) -> frozenset[str]:
    """Codes that segments of different names have in one segmentation, as all vertebrae are "Vertebra"."""
    named = {(segment.code, canonical(segment.name, synonyms)) for segment in segments if segment.code}
    codes = [code for code, _ in named]
    return frozenset(code for code in codes if codes.count(code) > 1)


def _key(name: str) -> str:
    return name.strip().casefold()


def canonical(name: str, synonyms: Synonyms) -> str:
    """What names of one class have in common: the class's own name in lower case."""
    return _key(synonyms.get(_key(name), name))
