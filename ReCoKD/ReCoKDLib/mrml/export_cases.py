"""The cases of the open scene, handed over to training, which runs in a process that has no scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..handover import export_for_training
from ..labels import LabelSet
from ..provenance import Provenance
from ..segment_matching import classes_of, matched, read_synonyms
from .host import ensure_slicer
from .scene_cases import case_labels, case_volume, find_scene_cases, read_pairings


@dataclass(frozen=True)
class ExportedCases:
    """What was exported.

    Attributes:
        identifiers: Of the new cases in the dataset.
        left_out: Why each case that was not exported was not.
    """

    identifiers: tuple[str, ...]
    left_out: tuple[str, ...]


def export_scene_cases(
    folder: Path,
    *,
    label_set: LabelSet | None = None,
    channel_names: Sequence[str] = (),
    pairing: Path | None = None,
    synonyms: Path | None = None,
    annotator: str = "",
    progress: Callable[[float], None] | None = None,
) -> ExportedCases:
    """Add all annotated cases of the scene to a dataset in nnU-Net's raw layout.

    What is a case says :func:`.scene_cases.find_scene_cases`. One without a segment for one of the classes is left
    out, as the layout cannot say that nobody looked for it; an empty segment says that there is none.

    Args:
        folder: The dataset; made if it is missing or empty.
        label_set: The classes, such as a student's; all that the segments show when None.
        channel_names: Of the channels, in order; of several, each volume is found by name or modality.
        pairing: CSV table of segmentations and volumes.
        synonyms: JSON or CSV table of other names of the classes.
        annotator: Who made the segmentations, if that may be written down.
        progress: Called with the finished fraction.

    Raises:
        InputError: The scene has no case that can be exported.
        DatasetError: The folder holds something else, or other classes or channels.
        OutputError: It cannot be written.
    """
    scene = ensure_slicer().mrmlScene
    names = tuple(channel_names)
    found = find_scene_cases(scene, names, read_pairings(pairing) if pairing is not None else ())
    known_synonyms = read_synonyms(synonyms)
    cases = [case for case in found if case.segmentation]
    label_set = label_set or classes_of([case.segments for case in cases], known_synonyms)
    identifiers, left_out = [], []
    for done, case in enumerate(cases, 1):
        title = scene.GetNodeByID(case.segmentation).GetName()
        values, missing = matched(case.segments, label_set, known_synonyms)
        if case.problem or missing:
            left_out.append(
                case.problem or f"{title!r} has no segment for {', '.join(missing)}. Add it, even if empty."
            )
            continue
        try:
            volume = case_volume(scene, case)
            labels = case_labels(scene, case, values, volume)
        except InputError as error:
            left_out.append(str(error))
            continue
        channels = names if len(names) == volume.channels else ("image",) * volume.channels
        provenance = Provenance.now(annotator=annotator)
        identifiers.append(export_for_training(volume, labels, label_set, folder, provenance, channel_names=channels))
        if progress is not None:
            progress(done / len(cases))
    if not identifiers:
        reason = " ".join(left_out) or "Give volumes segmentations, in the module Segment Editor."
        raise InputError(f"The scene has no annotated case that can be exported. {reason}")
    return ExportedCases(tuple(identifiers), tuple(left_out))
