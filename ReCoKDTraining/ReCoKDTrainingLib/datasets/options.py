"""What a user may have to say about a source, where its files alone do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ReCoKDLib.errors import DatasetError


@dataclass(frozen=True)
class SourceOptions:
    """How to read sources that describe themselves too little.

    Attributes:
        channels: Names of the channels of scenes, folders of files and DICOM, in order; of several, scenes and
            DICOM find each by name or modality.
        image_rule: Which files of a folder are images, such as ``{case}.nii.gz`` or ``images/{case}_{channel}.nrrd``.
        label_rule: Where the segmentation of a case is, such as ``{case}.seg.nrrd``.
        pairing: CSV table of the segmentations and volumes of scenes that belong together.
        synonyms: JSON or CSV table of other names of the classes.
    """

    channels: tuple[str, ...] = ()
    image_rule: str = ""
    label_rule: str = ""
    pairing: Path | None = None
    synonyms: Path | None = None


def channels_asked_for(options: SourceOptions, counts: Sequence[int]) -> tuple[str, ...]:
    """The names of the channels, empty where none were given, of cases with so many channels: of most of them.

    Raises:
        DatasetError: Names were given, and not so many.
    """
    count = max(counts, key=lambda number: (counts.count(number), number), default=0)
    if options.channels and count and len(options.channels) != count:
        raise DatasetError(
            f"{len(options.channels)} channels were named ({', '.join(options.channels)}), the cases have {count}. "
            "Name each (--channels), or none."
        )
    return options.channels or ("",) * max(1, count)
