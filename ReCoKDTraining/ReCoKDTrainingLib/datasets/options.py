"""What a user may have to say about a source, where its files alone do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
