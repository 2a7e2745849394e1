"""A training's curves in a plot view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..training_files import Curves
from .host import ensure_slicer

_EPOCH = "Epoch"
_LOSS_COLOR, _DICE_COLOR = (0.84, 0.37, 0.0), (0.0, 0.45, 0.7)  # told apart by everybody, on black and on white


class CurvesPlot:
    """A chart of the scene with the training loss and the Dice of the held-out cases.

    Its nodes are made when there is something to show, and again after the scene was closed.

    Args:
        loss: What the training loss is called.
        dice: What the Dice of the held-out cases is called.
        title: Of the chart.
    """

    def __init__(self, loss: str, dice: str, title: str) -> None:
        self._names = (loss, dice)
        self._title = title
        self._tables: list[Any] = []
        self.chart: Any = None

    def show(self, curves: Curves) -> None:
        """Bring the chart in line with the curves."""
        if not curves.loss and not curves.dice:
            return
        if not self.is_here():
            self._make()
        for table, name, points in zip(self._tables, self._names, (curves.loss, curves.dice), strict=True):
            _fill(table, name, points)

    def open(self) -> None:
        """Show the chart in a plot view, for which Slicer's layout may have to change."""
        slicer = ensure_slicer()
        if self.is_here() and hasattr(slicer.modules, "plots"):
            slicer.modules.plots.logic().ShowChartInLayout(self.chart)

    def is_here(self) -> bool:
        """Whether the scene has the chart."""
        return self.chart is not None and bool(ensure_slicer().mrmlScene.IsNodePresent(self.chart))

    def _make(self) -> None:
        slicer = ensure_slicer()
        scene = slicer.mrmlScene
        self.chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", self._title)
        self.chart.SetTitle(self._title)
        self.chart.SetXAxisTitle(_EPOCH)
        self._tables = []
        for name, color in zip(self._names, (_LOSS_COLOR, _DICE_COLOR), strict=True):
            table = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
            _fill(table, name, ())
            series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName(_EPOCH)
            series.SetYColumnName(name)
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
            series.SetColor(*color)
            self.chart.AddAndObservePlotSeriesNodeID(series.GetID())
            self._tables.append(table)


def _fill(table: Any, name: str, points: Sequence[tuple[float, float]]) -> None:
    import vtk

    modified = table.StartModify()
    try:
        table.RemoveAllColumns()
        for place, title in enumerate((_EPOCH, name)):
            column = vtk.vtkDoubleArray()
            column.SetName(title)
            for point in points:
                column.InsertNextValue(point[place])
            table.AddColumn(column)
    finally:
        table.EndModify(modified)
