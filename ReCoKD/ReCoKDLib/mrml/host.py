"""Slicer's Python classes: of the running application, or of slicer-core without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..errors import MissingDependencyError

_HINT = (
    "Slicer's MRML library is not here, and Slicer's own file format (.seg.nrrd) and scenes need it. "
    'Install it (pip install "recokd[host]"), run inside 3D Slicer, or write a label map (.nii.gz) instead.'
)

# The logics of the scene made here. Nothing else refers to them from Python, and a scene without them crashes.
_logics: list[Any] = []


def ensure_slicer() -> Any:
    """The ``slicer`` package with a scene in ``slicer.mrmlScene``.

    In Slicer everything is there and nothing is changed. Elsewhere slicer-core is started on first use: a scene
    with the Colors, Volumes and Segmentations logics, and ``slicer.modules.volumes.logic()`` and
    ``slicer.modules.segmentations.logic()``, which ``slicer.util``'s array functions ask for. There is no
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
    """Make a scene with the logics that volumes and segmentations need; the order matters."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application.SetModuleLogic("Colors", colors)
    _logics[:] = [application, colors]
    if not hasattr(slicer, "modules"):
        slicer.modules = SimpleNamespace()
    for name, logic in (
        ("Volumes", slicer.vtkSlicerVolumesLogic()),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic()),
    ):
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        setattr(slicer.modules, name.lower(), SimpleNamespace(logic=lambda logic=logic: logic))
        _logics.append(logic)
    slicer.mrmlScene = scene
