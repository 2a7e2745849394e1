"""What a user does with the Segment Editor's effect: an editor with a volume and two drawn segments."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.segmentations import segmentation_to_node
from ReCoKDLib.mrml.volumes import volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

Array = npt.NDArray[Any]
Point = tuple[float, float, float]


class Case:
    """A volume, a segmentation with two drawn segments and an editor with our effect."""

    def __init__(self, slicer: Any, image: Volume, labels: Volume, label_set: LabelSet) -> None:
        from slicer_host.editor import Editor

        self.slicer = slicer
        self.image = image
        self.volume = volume_to_node(image)
        self.segmentation = segmentation_to_node(labels, label_set, self.volume)
        self.ids = [self.segmentation.GetSegmentation().GetNthSegmentID(n) for n in range(2)]
        self.editor = Editor(self.segmentation, self.volume, self.ids[0])
        self.effect = self.editor.use("ReCoKD")

    @property
    def options(self) -> Any:
        return self.effect.options

    def mask(self, index: int) -> Array:
        found: Array = self.slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, self.ids[index], self.volume)
        return found > 0

    def place(self, k: int, j: int, i: int) -> Point:
        r, a, s = (self.image.ijk_to_ras @ np.array([i, j, k, 1.0]))[:3].tolist()
        return r, a, s

    def lock(self, index: int) -> None:
        logic = self.slicer.vtkSlicerSegmentationsModuleLogic
        segment = self.segmentation.GetSegmentation().GetSegment(self.ids[index])
        logic.SetSegmentStatus(segment, logic.Completed)

    def mouse(
        self, event: str, place: tuple[float, float, float], *, control: bool = True, shift: bool = False
    ) -> bool:
        """Let the mouse do something in a slice view, over a place; returns whether the effect took it."""
        import vtk

        # A view of a tenth of a millimetre a pixel, in the plane of the place.
        x, y = round(place[0] * 10), round(place[1] * 10)
        matrix = np.diag([0.1, 0.1, 1.0, 1.0])
        matrix[:3, 3] = place[0] - x / 10, place[1] - y / 10, place[2]
        view = SimpleNamespace(
            className=lambda: "qMRMLSliceWidget",
            mrmlSliceNode=lambda: SimpleNamespace(GetXYToRAS=lambda: vtk_matrix(matrix)),
        )
        interactor = SimpleNamespace(
            GetControlKey=lambda: control, GetShiftKey=lambda: shift, GetEventPosition=lambda: (x, y)
        )
        taken: bool = self.effect.processInteractionEvents(interactor, getattr(vtk.vtkCommand, f"{event}Event"), view)
        return taken

    def press(self, place: Point, *, control: bool, shift: bool = False) -> bool:
        """Press the left button over a place and let it go; returns whether the effect took it."""
        taken = self.mouse("LeftButtonPress", place, control=control, shift=shift)
        self.mouse("LeftButtonRelease", place, control=control, shift=shift)
        return taken

    def draw(self, voxels: Sequence[tuple[int, int, int]], *, control: bool = False, shift: bool = False) -> None:
        """Drag the mouse over voxels."""
        places = [self.place(*voxel) for voxel in voxels]
        assert self.mouse("LeftButtonPress", places[0], control=control, shift=shift)
        for place in places[1:]:
            self.mouse("MouseMove", place, control=control, shift=shift)
        self.mouse("LeftButtonRelease", places[-1], control=control, shift=shift)


def empty(array: Array) -> None:
    """Nothing drawn."""
    array[...] = 0


def run(host: Any, case: Case) -> None:
    """Press the button and wait for the end."""
    host.click(case.options.runButton)
    host.run_until(lambda: case.effect._run is None)


def all_second(array: Array) -> None:
    """The second segment everywhere, and nothing else."""
    array[...] = 2


def bitten(array: Array) -> None:
    """The first segment with a piece missing in its middle."""
    array[5:8][array[5:8] == 1] = 0
