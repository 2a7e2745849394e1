"""Volumes from and to files, through SimpleITK."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, OutputError
from .files import atomic_file, full_suffix
from .volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

LABEL_MAP_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A slice further than this fraction of the slice distance from its place means missing or uneven slices.
_UNEVEN_SLICES = 0.1
_POSITION = "0020|0032"  # Image Position (Patient)


def read_volume(path: Path, series: str = "") -> Volume:
    """Read one scalar 3D image: NIfTI, NRRD, MetaImage, or a folder with a DICOM series.

    The voxels stay in the file's own order and type; nothing is reoriented. ITK reads NaN in NIfTI files as 0, so
    only other formats can be refused for it later.

    Args:
        path: File or folder.
        series: UID of the series in a folder that holds several.

    Raises:
        InputError: Missing, not an image, not three-dimensional, several values a voxel, or a folder without
            exactly one even DICOM series and without the one that was named.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    image = _read_dicom_folder(path, series) if path.is_dir() else _read_file(path)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path} has {image.GetNumberOfComponentsPerPixel()} values in each voxel (a colour or vector image). "
            "Give one scalar image; several channels are given as several files."
        )
    return _from_sitk(image, path)


def read_channels(path: Path) -> Volume:
    """Read an image file whose fourth axis, where it has one, is the channel.

    Raises:
        InputError: Missing, not an image, or of another number of axes.
    """
    import SimpleITK as sitk

    path = Path(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        if path.is_file():
            reader.ReadImageInformation()
        if not path.is_file() or len(reader.GetSize()) != 4:
            return read_volume(path)
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path} could not be read as an image ({_reason(error)}). Get the file again.") from error
    _require_whole(path, reader)
    first = _from_sitk(image[:, :, :, 0], path)
    return Volume(sitk.GetArrayFromImage(image), first.ijk_to_ras, first.name)


def read_header(path: Path) -> dict[str, str]:
    """The fields of an image file's header, without its voxels.

    Raises:
        InputError: It cannot be read.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} could not be read as an image ({_reason(error)}). Get the file again.") from error
    return {key: str(reader.GetMetaData(key)) for key in reader.GetMetaDataKeys()}


def _from_sitk(image: sitk.Image, path: Path) -> Volume:
    import SimpleITK as sitk

    suffix = "" if path.is_dir() else full_suffix(path)
    name = path.name[: len(path.name) - len(suffix)] if suffix else path.name
    return Volume(sitk.GetArrayFromImage(image)[None], _ijk_to_ras(image), name)


def _ijk_to_ras(image: sitk.Image) -> npt.NDArray[np.float64]:
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    matrix: npt.NDArray[np.float64] = _LPS_TO_RAS @ lps
    return matrix


def _read_file(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        # A trailing axis of length one is how some programs write a 3D image.
        if len(size) < 3 or 1 in size[:3] or any(n != 1 for n in size[3:]):
            kind = "a single slice" if len(size) < 3 or 1 in size[:3] else f"a {len(size)}D series"
            raise InputError(
                f"{path} is {kind} (size {' x '.join(map(str, size))}); a 3D image is needed. "
                + ("Give the folder with all slices." if "slice" in kind else "Split it into single volumes first.")
            )
        image = reader.Execute()
        _require_whole(path, reader)
    except RuntimeError as error:
        raise InputError(
            f"{path} could not be read as an image ({_reason(error)}). Give a NIfTI, NRRD or MetaImage file, "
            "or a folder with a DICOM series."
        ) from error
    return image[(slice(None),) * 3 + (0,) * (len(size) - 3)] if len(size) > 3 else image


def _require_whole(path: Path, reader: sitk.ImageFileReader) -> None:
    """ITK fills what a truncated NIfTI file lacks with anything and says nothing.

    Raises:
        InputError: The file has fewer bytes than its header says, or its compression is damaged.
    """
    # Of the header, as ITK names its fields; other formats, and pairs of header and voxels, have none or another place.
    if not path.name.lower().endswith((".nii", ".nii.gz")) or not reader.HasMetaDataKey("vox_offset"):
        return
    voxels = math.prod(reader.GetSize()) * int(reader.GetMetaData("bitpix")) // 8
    wanted = int(float(reader.GetMetaData("vox_offset"))) + voxels
    found = 0
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        if compressed:
            with gzip.open(path) as stream:
                while block := stream.read(1 << 20):
                    found += len(block)
        else:
            found = path.stat().st_size
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or was not copied to its end ({error}). Get the file again.") from error
    if found < wanted:
        raise InputError(f"{path} was not copied to its end: it has {found} of {wanted} bytes. Get the file again.")


def _reason(error: RuntimeError) -> str:
    """The telling line of an ITK exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.lower().startswith(("itk::error", "error:", "could not", "unable"))]
    line = (telling or lines or ["unknown reason"])[-1]
    return line.split("): ", 1)[-1].rstrip(".")[:200]


def dicom_series(folder: Path) -> tuple[str, ...]:
    """UIDs of the series with images in a folder, in their order; those in its sub-folders are not looked for."""
    import SimpleITK as sitk

    return tuple(sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))))


def dicom_files(path: Path, series: str = "") -> tuple[Path, ...]:
    """The files of a DICOM series, in the order in which they are its slices.

    Args:
        path: Folder.
        series: UID, where it holds several.

    Raises:
        InputError: The folder has no series, several and none is named, or not the named one.
    """
    import SimpleITK as sitk

    found = dicom_series(path)
    if not found:
        raise InputError(f"The folder {path} holds no DICOM series. Give an image file or a folder with DICOM files.")
    if series and series not in found:
        raise InputError(f"The folder {path} holds no DICOM series {series}. Check the path.")
    if len(found) > 1 and not series:
        raise InputError(
            f"The folder {path} holds {len(found)} DICOM series. Put the one to be segmented into a folder of its own."
        )
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series or found[0])
    return tuple(Path(name) for name in names)


def _read_dicom_folder(path: Path, series: str) -> sitk.Image:
    import SimpleITK as sitk

    names = [str(file) for file in dicom_files(path, series)]
    if len(names) == 1:
        return _read_file(Path(names[0]))  # an enhanced (multi-frame) file is a volume, a lone slice is refused
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()  # each slice's position
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"The DICOM series in {path} could not be read ({_reason(error)}).") from error
    if not all(reader.HasMetaDataKey(n, _POSITION) for n in range(len(names))):
        raise InputError(
            f"The DICOM series in {path} does not say where its slices lie (no Image Position), as screenshots and "
            "scanned films do not. Choose the original series."
        )
    deviation = _unevenness([reader.GetMetaData(n, _POSITION) for n in range(len(names))], image)
    if deviation > _UNEVEN_SLICES * image.GetSpacing()[2]:
        raise InputError(
            f"The slices of the DICOM series in {path} are unevenly spaced (by up to {deviation:.2f} mm): slices are "
            "missing or the gantry was tilted, so positions would be wrong. Complete or regularise the series first, "
            "in Slicer with the DICOM module (acquisition geometry regularization)."
        )
    return image


def _unevenness(positions: list[str], image: sitk.Image) -> float:
    """How far, in mm, any slice lies from where evenly spaced slices of the image's geometry would."""
    places = np.array([[float(part) for part in text.split("\\")] for text in positions])
    step = np.array(image.GetDirection()).reshape(3, 3)[:, 2] * image.GetSpacing()[2]
    expected = np.array(image.GetOrigin()) + np.arange(len(places))[:, None] * step
    return float(np.linalg.norm(places - expected, axis=1).max())


def label_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A label map in the smallest unsigned type that every reader knows."""
    return array.astype(np.uint8 if array.max(initial=0) < 256 else np.uint16)


def write_label_map(labels: Volume, path: Path, overwrite: bool = False) -> None:
    """Write a one-channel label map to NIfTI, NRRD or MetaImage, whole or not at all.

    Raises:
        OutputError: The suffix is not one of :data:`LABEL_MAP_SUFFIXES`, the file exists and ``overwrite`` is
            False, or it cannot be written.
    """
    if full_suffix(path).lower() not in LABEL_MAP_SUFFIXES:
        raise OutputError(f"{path} cannot be written as a label map. Use one of {', '.join(LABEL_MAP_SUFFIXES)}.")
    _write(label_array(labels.array[0]), labels.ijk_to_ras, path, overwrite)


def write_volume(volume: Volume, path: Path, overwrite: bool = False) -> None:
    """Write a one-channel image to NIfTI, NRRD or MetaImage, whole or not at all: voxels and geometry, nothing else.

    Raises:
        OutputError: The suffix is not one of :data:`LABEL_MAP_SUFFIXES`, the file exists and ``overwrite`` is
            False, or it cannot be written.
    """
    if full_suffix(path).lower() not in LABEL_MAP_SUFFIXES:
        raise OutputError(f"{path} cannot be written as an image. Use one of {', '.join(LABEL_MAP_SUFFIXES)}.")
    array = volume.array[0]
    # Not every format has these.
    narrow = {np.dtype(np.float16): np.float32, np.dtype(np.bool_): np.uint8}
    _write(array.astype(narrow.get(array.dtype, array.dtype), copy=False), volume.ijk_to_ras, path, overwrite)


def _write(array: npt.NDArray[Any], ijk_to_ras: npt.NDArray[np.float64], path: Path, overwrite: bool) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    lps = _LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    with atomic_file(path, overwrite) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            # On a full disk ITK's NIfTI writer ends as if all were well: only what can be read was written.
            if not np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(temporary))), array):
                raise RuntimeError("the file is not whole")
        except RuntimeError as error:
            raise OutputError(
                f"{path} could not be written ({_reason(error)}). Nothing was changed. "
                "Check the free space and the permissions of the folder."
            ) from error
