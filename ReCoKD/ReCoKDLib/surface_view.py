"""A shaded surface of each structure, rendered off-screen in a process of its own.

VTK ends the whole process where it finds no OpenGL (no display, no EGL, no OSMesa), so the rendering runs as
``python -m ReCoKDLib.surface_view FOLDER``: a crash or a driver that hangs costs the 3D view, never the
result.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .labels import Segment
from .table import segment_mask
from .volume import Volume

_TIMEOUT_SECONDS = 120.0
# From the patient's right, front and above, so that all three axes are seen; RAS.
_TOWARDS_VIEWER = np.array([0.45, 0.80, 0.40]) / np.linalg.norm([0.45, 0.80, 0.40])
# Found by eye: voxel steps are gone, and ribs two voxels thick are still there.
_PASS_BAND = 0.05
_SMOOTHING_ITERATIONS = 60
_REGION_OPACITY = 0.35

Rgb = npt.NDArray[np.uint8]


def screen_directions() -> npt.NDArray[np.float64]:
    """Where the R, A and S axes point in the view: rows (right, up) on the screen, at most 1 long."""
    right = np.cross([0.0, 0.0, 1.0], _TOWARDS_VIEWER)
    right /= np.linalg.norm(right)
    up = np.cross(_TOWARDS_VIEWER, right)
    return np.array([[right[axis], up[axis]] for axis in range(3)])


def render_surfaces(labels: Volume, segments: Sequence[Segment], size: int = 900) -> Rgb | None:
    """A picture of all segments' surfaces.

    Args:
        labels: One-channel label map.
        segments: What to show; absent ones are left out.
        size: Pixels along each side.

    Returns:
        (row, column, 3) red, green, blue, background white; None where nothing can be rendered: no OpenGL, no
        VTK, no Python to run, or no voxel of any segment.
    """
    python = _python()
    if python is None:
        return None
    with tempfile.TemporaryDirectory(prefix="recokd-") as folder_name:
        folder = Path(folder_name)
        if not _write_masks(labels, segments, size, folder / "masks.npz"):
            return None
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        library = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (library, environment.get("PYTHONPATH"))))
        try:
            done = subprocess.run(
                [python, "-m", "ReCoKDLib.surface_view", str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_SECONDS,
                check=False,
                # On Windows a console would flash up over Slicer.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        picture = folder / "view.npy"
        if done.returncode != 0 or not picture.is_file():
            return None
        view: Rgb = np.load(picture, allow_pickle=False)
        return view


def _python() -> str | None:
    """An ordinary interpreter; inside Slicer the running program is the application itself."""
    if "python" in Path(sys.executable or "").name.lower():
        return sys.executable
    return shutil.which("PythonSlicer")


def _write_masks(labels: Volume, segments: Sequence[Segment], size: int, path: Path) -> bool:
    from scipy.ndimage import find_objects

    array = labels.array[0]
    boxes = dict(enumerate(find_objects(array.astype(np.int32)), start=1))  # of all labels in one pass
    shown: list[Segment] = []
    origins: list[list[int]] = []
    arrays: dict[str, Any] = {}
    for segment in segments:
        parts = [boxes.get(value) for value in {segment.value, *segment.region}]
        found = [part for part in parts if part is not None]
        if not found:
            continue
        box = tuple(slice(min(p[a].start for p in found), max(p[a].stop for p in found)) for a in range(3))
        # A rim of background closes the surface at the border of the volume.
        arrays[f"mask_{len(shown)}"] = np.pad(segment_mask(array[box], segment), 1).astype(np.uint8)
        origins.append([part.start - 1 for part in box])
        shown.append(segment)
    if not shown:
        return False
    np.savez_compressed(
        path,
        size=size,
        ijk_to_ras=labels.ijk_to_ras,
        origins=np.array(origins),
        colors=np.array([segment.color for segment in shown]),
        opacities=np.array([_REGION_OPACITY if len(segment.region) > 1 else 1.0 for segment in shown]),
        **arrays,
    )
    return True


def _render(folder: Path) -> None:
    """In the other process: read ``masks.npz``, write ``view.npy``."""
    import vtkmodules.vtkInteractionStyle  # each registers its part of the renderer
    import vtkmodules.vtkRenderingFreeType
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkCommonMath import vtkMatrix4x4
    from vtkmodules.vtkCommonTransforms import vtkMatrixToLinearTransform
    from vtkmodules.vtkFiltersCore import (
        vtkFlyingEdges3D,
        vtkPolyDataNormals,
        vtkWindowedSincPolyDataFilter,
    )
    from vtkmodules.vtkFiltersGeneral import vtkTransformPolyDataFilter
    from vtkmodules.vtkRenderingCore import (
        vtkActor,
        vtkLightKit,
        vtkPolyDataMapper,
        vtkRenderer,
        vtkRenderWindow,
        vtkWindowToImageFilter,
    )

    with np.load(folder / "masks.npz", allow_pickle=False) as masks:
        size, ijk_to_ras = int(masks["size"]), masks["ijk_to_ras"]
        renderer = vtkRenderer()
        renderer.SetBackground(1, 1, 1)
        for index, ((k, j, i), color, opacity) in enumerate(
            zip(masks["origins"], masks["colors"], masks["opacities"], strict=True)
        ):
            mask = masks[f"mask_{index}"]
            image = vtkImageData()
            image.SetDimensions(*mask.shape[::-1])
            image.SetOrigin(float(i), float(j), float(k))
            image.GetPointData().SetScalars(numpy_to_vtk(mask.ravel(), deep=True))
            surface = vtkFlyingEdges3D()
            surface.SetInputData(image)
            surface.SetValue(0, 0.5)
            surface.ComputeNormalsOff()  # those of the staircase would survive the smoothing
            matrix = vtkMatrix4x4()
            matrix.DeepCopy([float(value) for value in ijk_to_ras.ravel()])
            transform = vtkMatrixToLinearTransform()
            transform.SetInput(matrix)
            placed = vtkTransformPolyDataFilter()
            placed.SetInputConnection(surface.GetOutputPort())
            placed.SetTransform(transform)
            smooth = vtkWindowedSincPolyDataFilter()
            smooth.SetInputConnection(placed.GetOutputPort())
            smooth.SetNumberOfIterations(_SMOOTHING_ITERATIONS)
            smooth.SetPassBand(_PASS_BAND)
            smooth.NormalizeCoordinatesOn()
            smooth.BoundarySmoothingOff()
            smooth.FeatureEdgeSmoothingOff()
            smooth.NonManifoldSmoothingOn()
            normals = vtkPolyDataNormals()
            normals.SetInputConnection(smooth.GetOutputPort())
            normals.SplittingOff()
            normals.ConsistencyOn()
            normals.AutoOrientNormalsOn()  # a left-handed matrix turns the surface inside out
            mapper = vtkPolyDataMapper()
            mapper.SetInputConnection(normals.GetOutputPort())
            mapper.ScalarVisibilityOff()
            actor = vtkActor()
            actor.SetMapper(mapper)
            appearance = actor.GetProperty()
            appearance.SetColor(*(float(value) for value in color))
            appearance.SetOpacity(float(opacity))
            appearance.SetAmbient(0.12)
            appearance.SetDiffuse(0.85)
            appearance.SetSpecular(0.25)
            appearance.SetSpecularPower(25)
            renderer.AddActor(actor)
    light = vtkLightKit()
    light.SetKeyLightIntensity(0.95)
    light.AddLightsToRenderer(renderer)
    renderer.SetUseDepthPeeling(True)
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(0, 0, 0)
    camera.SetPosition(*(float(value) for value in _TOWARDS_VIEWER))
    camera.SetViewUp(0, 0, 1)
    camera.ParallelProjectionOn()
    renderer.ResetCamera()
    camera.Zoom(1.25)
    window = vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(8)
    window.SetSize(size, size)
    window.AddRenderer(renderer)
    window.Render()
    if not window.SupportsOpenGL():
        raise SystemExit("no OpenGL")
    capture = vtkWindowToImageFilter()
    capture.SetInput(window)
    capture.ReadFrontBufferOff()
    capture.Update()
    pixels = vtk_to_numpy(capture.GetOutput().GetPointData().GetScalars())
    width, height, _ = capture.GetOutput().GetDimensions()
    view = pixels.reshape(height, width, -1)[::-1, :, :3]
    if (view == view[0, 0]).all():
        raise SystemExit("an empty view")
    np.save(folder / "view.npy", np.ascontiguousarray(view))


if __name__ == "__main__":
    _render(Path(sys.argv[1]))
