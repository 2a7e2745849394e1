"""Slicer's Python classes: of the running application, or of slicer-core without one."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace
from typing import Any

from ..errors import MissingDependencyError

_HINT = (
    "Slicer's MRML library is not here, and Slicer's own file format (.seg.nrrd) and scenes need it. "
    'Install it (pip install "recokd[host]"), run inside 3D Slicer, or write a label map (.nii.gz) instead.'
)

# What belongs to the scene made here. Nothing else refers to it from Python, and a scene without it crashes.
_kept: list[Any] = []


def ensure_slicer() -> Any:
    """The ``slicer`` package with a scene in ``slicer.mrmlScene``.

    In Slicer everything is there and nothing is changed. Elsewhere slicer-core is started on first use: a scene
    with the logics of Colors, Volumes, Segmentations and Markups, whose ``slicer.modules.volumes.logic()`` and so on
    ``slicer.util``'s array functions ask for, and with what reads scenes from files (.mrb). There is no
    ``slicer.app``: that is Qt's.

    Raises:
        MissingDependencyError: Neither Slicer nor slicer-core is here.
    """
    try:
        import slicer
    except ImportError as error:
        raise MissingDependencyError(_HINT) from error
    if not hasattr(slicer, "vtkMRMLScene"):  # an empty folder of that name somewhere on the path
        raise MissingDependencyError(_HINT)
    if getattr(slicer, "mrmlScene", None) is None:
        _start(slicer)
    return slicer


def _start(slicer: Any) -> None:
    """Make a scene with the logics that our nodes need; the order matters."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application.SetModuleLogic("Colors", colors)
    _kept[:] = [application, colors]
    if not hasattr(slicer, "modules"):
        slicer.modules = SimpleNamespace()
    for name, logic in (
        ("Volumes", slicer.vtkSlicerVolumesLogic()),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic()),
        ("Markups", slicer.vtkSlicerMarkupsLogic()),
    ):
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), SimpleNamespace(logic=lambda logic=logic: logic))
        _kept.append(logic)
    _read_scenes(slicer, scene, application)
    slicer.mrmlScene = scene


def _read_scenes(slicer: Any, scene: Any, application: Any) -> None:
    """Let ``scene.ReadFromMRB`` find the files in the archive, as the application's own set-up does."""
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    # The cache manager wants a folder of its own, though nothing is ever fetched.
    cache = tempfile.TemporaryDirectory(prefix="recokd-")
    remote.GetCacheManager().SetRemoteCacheDirectory(cache.name)
    manager = slicer.vtkDataIOManagerLogic()
    manager.SetMRMLApplicationLogic(application)
    manager.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    _kept.extend((cache, remote, manager))
