"""What is wrong with all cases together, however good each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ReCoKDLib.labels import LabelSet

from .checked_case import TRAINING, VALIDATION, CheckedCase
from .datasets.loading import Finding


def findings_of_all(used: Sequence[CheckedCase], label_set: LabelSet, has_teacher: bool) -> Iterable[Finding]:
    """What is wrong with those cases together that would be used."""
    training = [case for case in used if case.part == TRAINING]
    if not used:
        yield Finding("empty dataset", "There is no case to train on. Give images with segmentations.")
        return
    if not training:
        yield Finding("no training", "There is no case to train on: all are held out. Give more cases, or a split.")
        return
    if len(used) == 1:
        yield Finding("one case", "There is only one case. At least one to train on and one to measure on are needed.")
    elif not any(case.part == VALIDATION for case in used):
        yield Finding(
            "no validation", "No case is held out: nothing will be measured. Give annotated cases for it.", spoils=False
        )
    alone = [case.identifier for case in training if case.annotated == "not"]
    if alone and not has_teacher:
        names = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        yield Finding(
            "no teacher",
            f"{len(alone)} of {len(training)} training cases have no segmentation ({names}): only a teacher can "
            "supervise them. Name one (--teacher), or leave them out (--unlabelled-weight 0).",
        )
    if not has_teacher and {case.annotated for case in training} == {"in part"}:
        yield Finding(
            "no background",
            "Every training case lacks the annotation of a class, so no case tells what is background. Add cases that "
            "are annotated in full, leave classes out (--labels), or name a teacher (--teacher).",
        )
    if not label_set.segments:
        yield Finding("no classes", "No source says what is to be segmented. Give annotated cases, or a teacher.")
    annotated = [case for case in training if case.voxels]
    absent = [s.name for s in label_set.segments if not any(case.voxels.get(s.name) for case in annotated)]
    if absent and (annotated or not has_teacher):
        yield Finding(
            "absent class",
            f"No training case has a voxel of {', '.join(absent)}. Leave it out (--labels), or add cases that have it.",
            spoils=not (has_teacher and len(annotated) < len(training)),
        )
