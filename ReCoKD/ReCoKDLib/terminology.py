"""Standard codes for segments, in the form in which Slicer writes them.

A terminology entry names a context, a category, a type and its modifier, then a region's context, region and
modifier, separated by ``~``; each code is ``scheme^value^meaning``. The codes of categories and types are those
of Slicer's list "Segmentation category and type - DICOM master list"; Anterior and Posterior are DICOM's
anatomic modifiers (CID 2), which that list does not offer for the hippocampus.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .labels import LabelSet

_CONTEXT = "Segmentation category and type - DICOM master list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"
_ANATOMICAL_STRUCTURE = ("123037004", "Anatomical Structure")

# What Slicer itself gives to a segment of which nothing is known.
UNKNOWN_STRUCTURE = f"{_CONTEXT}~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~{_REGION_CONTEXT}~^^~^^"

_TYPES = {
    "amygdala": ("4958002", "Amygdala"),
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Bladder"),
    "brain": ("12738006", "Brain"),
    "colon": ("71854001", "Colon"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "gallbladder": ("28231008", "Gallbladder"),
    "heart": ("80891009", "Heart"),
    "hippocampus": ("5366008", "Hippocampus"),
    "kidney": ("64033007", "Kidney"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "pancreas": ("15776009", "Pancreas"),
    "prostate": ("41216001", "Prostate"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
}
_MODIFIERS = {
    "anterior": ("255549009", "Anterior"),
    "left": ("7771000", "Left"),
    "posterior": ("255551008", "Posterior"),
    "right": ("24028007", "Right"),
}
_OTHER_SPELLINGS = {"hippocampal": "hippocampus", "oesophagus": "esophagus", "urinary": "bladder"}


def terminology_entry(name: str, dataset: str = "") -> str:
    """Slicer's terminology entry for a structure, or an empty string where its name does not tell it surely.

    Every word of the name must be known: "Left kidney" is coded, "Kidney tumour" is not.

    Args:
        name: A segment's name, such as ``"hippocampus_left"``.
        dataset: Name of the training data; names the structure where the segment's name is a modifier alone, as
            "Anterior" in "Dataset004_Hippocampus".
    """
    words = _words(name)
    types = {word for word in words if word in _TYPES}
    modifiers = [word for word in words if word in _MODIFIERS]
    if len(types) + len(modifiers) < len(set(words)) or len(modifiers) > 1:
        return ""
    if not types and modifiers:
        types = {word for word in _words(dataset) if word in _TYPES}
    if len(types) != 1:
        return ""
    code = _code(*_TYPES[types.pop()])
    modifier = _code(*_MODIFIERS[modifiers[0]]) if modifiers else "^^"
    return "~".join((_CONTEXT, _code(*_ANATOMICAL_STRUCTURE), code, modifier, _REGION_CONTEXT, "^^", "^^"))


def type_and_modifier(entry: str) -> str:
    """What two entries must have in common to mean the same structure: the codes of type, modifier and, where there is
    one, region with its modifier; no meanings.

    Empty where the entry says nothing of the kind, as Slicer's default entry, whose type is its category ("Tissue").
    """
    parts = entry.split("~")
    if len(parts) < 4 or not parts[2].strip("^") or parts[2] == parts[1]:
        return ""
    region = parts[5:7] if len(parts) > 5 and parts[5].strip("^") else []
    return "~".join("^".join(part.split("^")[:2]) for part in (*parts[2:4], *region))


def with_terminology(label_set: LabelSet, dataset: str = "") -> LabelSet:
    """The label set with an entry for each segment that has none and whose name is known."""
    return replace(
        label_set,
        segments=tuple(
            replace(segment, terminology=segment.terminology or terminology_entry(segment.name, dataset))
            for segment in label_set.segments
        ),
    )


def _words(text: str) -> list[str]:
    words = re.findall("[a-z]+", text.lower())
    return [_OTHER_SPELLINGS.get(word, word) for word in words]


def _code(value: str, meaning: str) -> str:
    return f"SCT^{value}^{meaning}"
