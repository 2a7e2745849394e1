"""Scenes and segmentations read from files into scenes of their own, beside the application's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..annotation import Annotation
from ..errors import InputError
from ..volume import Volume
from .annotations import read_annotation
from .host import ensure_slicer
from .scene_cases import segments_of

SCENE_SUFFIXES = (".mrb", ".mrml")

# The scene that was read last: the cases of one scene are read one after the other.
_open: dict[tuple[str, int, int], Any] = {}


def open_scene(path: Path) -> Any:
    """A scene file in a scene of its own, which others must not change; the same one while the file stays as it is.

    Args:
        path: ``.mrb``, or ``.mrml`` with the files that it names.

    Raises:
        InputError: It is missing, or no scene.
        MissingDependencyError: Neither Slicer nor slicer-core is here.
    """
    slicer = ensure_slicer()
    if not path.is_file():
        raise InputError(f"{path} does not exist. Check the path.")
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    if key not in _open:
        _open.clear()
        scene = _read(slicer, path)
        _open[key] = scene
    return _open[key]


def _read(slicer: Any, path: Path) -> Any:
    scene = slicer.vtkMRMLScene()
    # Without these, files inside of the archive are not found.
    scene.SetCacheManager(slicer.mrmlScene.GetCacheManager())
    scene.SetDataIOManager(slicer.mrmlScene.GetDataIOManager())
    if path.suffix.lower() == ".mrb":
        _require_archive(path)
    with _silent():
        if path.suffix.lower() == ".mrb":
            _unpack(scene, path.resolve())
        else:
            scene.SetRootDirectory(str(path.resolve().parent))
            scene.SetURL(str(path.resolve()))
            scene.Connect()
    # Files that are not there are told of the volume or segmentation that lacks them.
    if not any(scene.GetNumberOfNodesByClass(kind) for kind in ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode")):
        raise InputError(f"{path} is no scene, or one without volumes. Save the scene in Slicer again.")
    return scene


def _unpack(scene: Any, path: Path) -> None:
    """MRML unpacks from within a temporary folder, where a relative path leads nowhere, and may stay in it."""
    here = Path.cwd()
    try:
        scene.ReadFromMRB(str(path), True)
    finally:
        os.chdir(here)


@contextmanager
def _silent() -> Iterator[None]:
    """Without VTK's own messages, which name files: what could not be read is told of the case that lacks it."""
    import vtk

    before = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(0)
    try:
        yield
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(before)


def _require_archive(path: Path) -> None:
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # what zipfile raises besides, for damage of one kind or another, and for archives with a password
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path} is damaged or no scene ({why}). Get the file again.") from error
    if damaged:
        raise InputError(f"{path} is damaged: a part of the archive cannot be read. Get the file again.")


def read_segmentation(path: Path, values: Sequence[tuple[str, int]], reference: Volume) -> Annotation:
    """A segmentation file as a label map on the reference's grid (nearest neighbour).

    Args:
        path: ``.seg.nrrd``.
        values: Segment ids with their values. Where segments overlap, the later one wins.
        reference: Where to.

    Raises:
        InputError: It cannot be read, or has no such segments.
        MissingDependencyError: Neither Slicer nor slicer-core is here.
    """
    slicer = ensure_slicer()
    scene = slicer.vtkMRMLScene()
    node = scene.AddNode(slicer.vtkMRMLSegmentationNode())
    storage = scene.AddNode(slicer.vtkMRMLSegmentationStorageNode())
    storage.SetFileName(str(path))
    if not path.is_file() or not storage.ReadData(node):
        raise InputError(f"{path} could not be read as a segmentation. Get the file again.")
    lacking = sorted({key for key, _ in values} - {segment.key for segment in segments_of(node)})
    if lacking:
        raise InputError(f"{path} has no segment {lacking[0]!r}. Get the file again.")
    return read_annotation([(node, values)], reference)
