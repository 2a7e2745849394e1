"""What a package's ``configs/inference.json`` names, so that MONAI can run a package like any other bundle.

In the folder of a package (unpack the ``.recokd.zip`` first)::

    python -m monai.bundle run --config_file configs/inference.json --input IMAGE --output SEGMENTATION

MONAI's runner evaluates that configuration; ReCoKD itself never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import InputError
from .package import ModelPackage
from .segment import SegmentationResult, segment_files


def segment(
    bundle_root: str,
    input: str | Sequence[str],
    output: str,
    device: str = "auto",
    mirroring: bool = False,
    overwrite: bool = False,
) -> SegmentationResult:
    """Segment one case with the package in ``bundle_root``; see :func:`ReCoKDLib.segment.segment_files`.

    Args:
        bundle_root: Folder of the package.
        input: Image file or DICOM folder; one for each channel when there are several.
        output: File to write.
        device: auto, cpu, cuda or mps.
        mirroring: Average over flips.
        overwrite: Replace ``output``.

    Raises:
        ReCoKDError: As ``segment_files`` does, or no input or output was named.
    """
    if not input or not output:
        raise InputError("Name an image and a file for the result: --input IMAGE --output SEGMENTATION.")
    inputs = [input] if isinstance(input, str) else list(input)
    return segment_files(
        [Path(str(path)) for path in inputs],
        ModelPackage.open(bundle_root),
        Path(str(output)),
        device=device,
        mirroring=mirroring,
        overwrite=overwrite,
    )
