"""Segmenting a volume with a student: the one function behind panel, console, batch and command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, OutputError
from .files import full_suffix, require_new
from .image_io import LABEL_MAP_SUFFIXES, dicom_files, read_volume, write_label_map
from .input_check import check_input
from .labels import LabelSet, Segment
from .package import ModelPackage
from .part import region_of
from .picture import require_picture, write_picture
from .preprocessing import normalises_by_the_image
from .students import find_student
from .table import write_table
from .volume import Volume, stack_channels

if TYPE_CHECKING:
    from .kept import Kept
    from .part import Block
    from .prediction import Predictor
    from .preview import Plane, Preview

SEGMENTATION_SUFFIX = ".seg.nrrd"
DICOM_SUFFIX = ".dcm"


@dataclass(frozen=True)
class SegmentationResult:
    """What a student found.

    Attributes:
        labels: One channel of label values on the input's own grid, or on that of the region.
        label_set: The segments that were asked for.
        volume: What was segmented: the region of it.
        student: Name of the student.
        warnings: What in the input does not fit the student's card, and what was not done as asked, in plain words.
        probabilities: One float16 channel for each head of ``label_set`` (half the memory of float32, and to three
            digits as exact); None unless asked for.
        seconds: From the volume in memory to the labels in memory, loading of the student included.
    """

    labels: Volume
    label_set: LabelSet
    volume: Volume
    student: str
    warnings: tuple[str, ...]
    seconds: float
    probabilities: Volume | None = None


@dataclass(frozen=True)
class LoadedStudent:
    """A student whose networks are on their device: for many cases, or many runs of one.

    Attributes:
        package: What it is.
        predictor: Its networks.
        warnings: What was not as asked when it was loaded, such as an engine that was refused; each of its results has
            them.
    """

    package: ModelPackage
    predictor: Predictor
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        student: ModelPackage | Path | str,
        device: str = "auto",
        mirroring: bool = False,
        *,
        engine: str = "auto",
        precision: str = "f32",
        warn: Callable[[str], None] | None = None,
    ) -> LoadedStudent:
        """Load a student; arguments and errors are those of :func:`segment`."""
        # Only here, because Slicer reads results without loading torch.
        from .prediction import Predictor

        package = _package(student)
        warnings: list[str] = []

        def told(warning: str) -> None:
            warnings.append(warning)
            if warn is not None:
                warn(warning)

        options: dict[str, Any] = {"engine": engine, "precision": precision, "warn": told}
        return cls(package, Predictor.from_package(package, device, mirroring, **options), tuple(warnings))


def segment(
    volumes: Volume | Sequence[Volume],
    student: LoadedStudent | ModelPackage | Path | str,
    *,
    labels: Sequence[str] | None = None,
    device: str = "auto",
    mirroring: bool = False,
    engine: str = "auto",
    precision: str = "f32",
    memory: float | None = None,
    probabilities: bool = False,
    region: Block | None = None,
    kept: Kept | None = None,
    preview: Callable[[Preview], None] | None = None,
    look_at: Sequence[Plane] = (),
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    warn: Callable[[str], None] | None = None,
) -> SegmentationResult:
    """Segment one case, or a region of it.

    Args:
        volumes: One volume for each channel of the student's card in its order, all on one grid; or one with all.
        student: A package, its path, or the name of an installed one; or a loaded one, whose device, mirroring, engine
            and precision then hold.
        labels: Names of the only structures wanted; None for all.
        device: auto, cpu, cuda or mps.
        mirroring: Average over flips: a little better, several times as slow.
        engine: What runs the network: auto, torch, openvino or onnxruntime; see :mod:`.engines.choosing`.
        precision: f32, bf16, or auto: bf16 where the student's card shows that it keeps the labels.
        memory: GB that the whole process may take; smaller tiles are taken where the plan's would need more, which
            changes the result a little and is told. None sets no bound.
        probabilities: Return those as well, which corrections and doubt are made from.
        region: First and end index along k, j and i of the only voxels wanted; None for all. They get what they get in
            the whole volume, unless intensities are normalised by their own mean or range: then it is cut out first.
        kept: A :class:`.kept.Kept`. Given to run after run, it keeps the student loaded and saves what need not be
            computed again of the last volume.
        preview: Told about once a second what is known of some slices, which are then computed first.
        look_at: These slices: of each a point and its normal, RAS in mm; none for the three middle ones.
        progress: Called with the finished fraction, from 0 to 1.
        cancelled: Asked between tiles.
        warn: Told, before the work begins, each thing in the input that does not fit the card, and later whatever was
            not done as asked; the result has them too.

    Raises:
        InputError: Grids differ, the number of channels is wrong, voxels are not numbers or all the same, a label is
            unknown, or the region is not in the volume; or the memory, or its bound, does not suffice.
        MissingDependencyError: The device or the engine is not there.
        PackageError: The student cannot be found or opened.
        Cancelled: ``cancelled`` said so.
    """
    begun = time.perf_counter()
    loaded = student if isinstance(student, LoadedStudent) else None
    package = _package(student)
    volume = stack_channels([volumes] if isinstance(volumes, Volume) else list(volumes))
    wanted = package.label_set.subset(labels)
    warnings: list[str] = []

    def told(warning: str) -> None:
        warnings.append(warning)
        if warn is not None:
            warn(warning)

    asked = region_of(volume, region)
    seen = asked if normalises_by_the_image(package.plan) else volume
    for warning in check_input(seen, package.card, package.plan):
        told(warning)
    if loaded is None:
        load = partial(LoadedStudent.load, package, device, mirroring, engine=engine, precision=precision)
        loaded = (
            load() if kept is None else kept.student((package.checksum, device, mirroring, engine, precision), load)
        )
    for warning in loaded.warnings:
        told(warning)
    try:
        prediction = loaded.predictor.predict(
            volume,
            segments=wanted,
            probabilities=probabilities,
            memory=memory,
            region=region,
            kept=kept,
            preview=preview,
            look_at=look_at,
            progress=progress,
            cancelled=cancelled,
            warn=told,
        )
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for a CPU's memory that does not suffice
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise InputError(_too_large(volume, package)) from error
    return SegmentationResult(
        labels=prediction.labels,
        label_set=replace(package.label_set, segments=wanted),
        volume=asked,
        student=package.card.name,
        warnings=tuple(warnings),
        seconds=time.perf_counter() - begun,
        probabilities=None
        if prediction.probabilities is None
        else _of_wanted(prediction.probabilities, package, wanted),
    )


def _package(student: LoadedStudent | ModelPackage | Path | str) -> ModelPackage:
    if isinstance(student, LoadedStudent):
        return student.package
    return student if isinstance(student, ModelPackage) else find_student(student)


def _of_wanted(probabilities: Volume, package: ModelPackage, wanted: Sequence[Segment]) -> Volume:
    """Only the heads of the wanted segments, in half precision; what is not wanted counts as background."""
    label_set = package.label_set
    heads = [label_set.segments.index(segment) + (0 if label_set.has_regions else 1) for segment in wanted]
    array = probabilities.array[heads]
    if not label_set.has_regions:
        background = (
            1 - array.sum(axis=0, keepdims=True) if len(wanted) < len(label_set.segments) else probabilities.array[:1]
        )
        array = np.concatenate([background, array])
    return probabilities.with_array(array.astype(np.float16))


def _too_large(volume: Volume, package: ModelPackage) -> str:
    here, there = (" x ".join(f"{mm:.3g}" for mm in sizes) for sizes in (volume.spacing, package.plan.spacing))
    return (
        f"The memory does not suffice for this volume: {volume.shape} voxels of {here} mm, which {package.card.name} "
        f"looks at in voxels of {there} mm. Check the voxel size; if it is right, crop the volume (in Slicer: Crop "
        "Volume) or use --device cpu."
    )


def segment_files(
    inputs: Sequence[Path],
    student: ModelPackage | Path | str,
    output: Path,
    *,
    labels: Sequence[str] | None = None,
    table: Path | None = None,
    picture: Path | None = None,
    device: str = "auto",
    mirroring: bool = False,
    engine: str = "auto",
    precision: str = "f32",
    memory: float | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    warn: Callable[[str], None] | None = None,
) -> SegmentationResult:
    """Segment one case from files to a file, with a table and a picture if wanted.

    Args:
        inputs: One file, or DICOM folder, for each channel in the order of the student's card.
        student: As in :func:`segment`.
        output: ``.seg.nrrd`` for a segmentation that Slicer opens with names, colours and codes; ``.dcm`` for a DICOM
            SEG, where the (first) input is a DICOM series; ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha`` for a label
            map.
        table: CSV of voxels and millilitres.
        picture: PNG of slices and surfaces.
        overwrite: Replace files that exist.

    Other arguments and errors are those of :func:`segment`.

    Raises:
        OutputError: An output exists, cannot be written, is an input, or has an unknown suffix. All outputs are
            checked before the work begins.
        MissingDependencyError: ``.seg.nrrd`` without Slicer's MRML, ``.dcm`` without highdicom.
    """
    package = _package(student)
    _check_outputs(inputs, [path for path in (output, table, picture) if path is not None], overwrite)
    check_format(output)
    source = dicom_source(inputs[0], output)
    if picture is not None:
        require_picture(picture)
    result = segment(
        [read_volume(path) for path in inputs],
        package,
        labels=labels,
        device=device,
        mirroring=mirroring,
        engine=engine,
        precision=precision,
        memory=memory,
        progress=progress,
        cancelled=cancelled,
        warn=warn,
    )
    write_result(result, package, output, table=table, picture=picture, source=source, overwrite=overwrite)
    return result


def write_result(
    result: SegmentationResult,
    package: ModelPackage,
    output: Path,
    *,
    table: Path | None = None,
    picture: Path | None = None,
    source: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Write a result in the format that the suffix of ``output`` names, each file whole or not at all.

    Args:
        result: Of :func:`segment`.
        package: The student that made it.
        output: As in :func:`segment_files`.
        table: CSV of voxels and millilitres.
        picture: PNG of slices and surfaces.
        source: Files of the DICOM series that a DICOM SEG refers to.
        overwrite: Replace files that exist.

    Raises:
        OutputError: A file exists and ``overwrite`` is False, or cannot be written.
    """
    segments = result.label_set.segments
    suffix = full_suffix(output).lower()
    if suffix == SEGMENTATION_SUFFIX:
        from .mrml.segmentations import write_segmentation

        write_segmentation(result.labels, result.label_set, output, overwrite)
    elif suffix == DICOM_SUFFIX:
        from .dicom_seg import write_dicom_seg

        card = package.card
        write_dicom_seg(result.labels, result.label_set, source, output, card.name, card.version, overwrite)
    else:
        write_label_map(result.labels, output, overwrite)
    if table is not None:
        write_table(result.labels, segments, table, overwrite)
    if picture is not None:
        write_picture(result.volume, result.labels, segments, picture, title=result.student, overwrite=overwrite)


def dicom_source(path: Path, output: Path, series: str = "") -> tuple[Path, ...]:
    """The files that a DICOM SEG refers to; none for other formats.

    Raises:
        InputError: The output is to be a DICOM SEG, but the input is not DICOM.
    """
    if full_suffix(output).lower() != DICOM_SUFFIX:
        return ()
    if path.is_dir():
        return dicom_files(path, series)
    from .dicom_seg import is_dicom

    if is_dicom(path):
        return (path,)
    raise InputError(
        f"{output} would be a DICOM SEG, which refers to the DICOM series that was segmented, but {path} is not DICOM. "
        f"Choose another format for it, such as {SEGMENTATION_SUFFIX} or .nii.gz."
    )


def _check_outputs(inputs: Sequence[Path], outputs: Sequence[Path], overwrite: bool) -> None:
    if not inputs:
        raise InputError("No input was given. Give a volume: a file or a folder with a DICOM series.")
    resolved = [path.resolve() for path in outputs]
    if len(set(resolved)) < len(resolved):
        raise OutputError("Two outputs have the same name. Give each a name of its own.")
    for path in outputs:
        if path.resolve() in {given.resolve() for given in inputs}:
            raise OutputError(f"{path} is an input as well. Choose another name for the output.")
        require_new(path, overwrite)


def check_format(output: Path) -> None:
    """Check before any work is done that a file of this name can be written here.

    Raises:
        OutputError: The suffix is not known.
        MissingDependencyError: What writes the format is not installed.
    """
    suffix = full_suffix(output).lower()
    if suffix == SEGMENTATION_SUFFIX:
        from .mrml.host import ensure_slicer

        ensure_slicer()
    elif suffix == DICOM_SUFFIX:
        from .dicom_seg import require_highdicom

        require_highdicom()
    elif suffix not in LABEL_MAP_SUFFIXES:
        known = ", ".join((SEGMENTATION_SUFFIX, DICOM_SUFFIX, *LABEL_MAP_SUFFIXES))
        raise OutputError(f"{output} has no suffix that can be written. Use one of {known}.")
