"""What a user does on the page Train, and a scene with cases to train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geometries import GEOMETRIES
from plans import TWO_LABELS
from ReCoKDLib.mrml.segmentations import segmentation_to_node
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
SECONDS = 240.0


def make_cases(slicer: Any, two_blobs: TwoBlobs, count: int = 4) -> list[tuple[Any, Any]]:
    """Volume and segmentation nodes of cases, named after patients, on grids of all kinds."""
    made = []
    geometries = list(GEOMETRIES.values())
    for number in range(count):
        matrix = geometries[number % len(geometries)]()
        image, labels = two_blobs(matrix, (16 + number % 2, 18, 20), seed=number)
        volume = volume_to_node(image)
        volume.SetName(f"Mustermann {number}")
        segmentation = segmentation_to_node(labels, TWO_LABELS, volume)
        segmentation.SetName(f"Mustermann {number} annotated")
        made.append((volume, segmentation))
    return made


def open_page(host: Any, panel: Any) -> None:
    """Look at the page Train, with a short training."""
    panel.ui.pagesTabWidget.setCurrentIndex(1)
    panel.ui.epochsSpinBox.setValue(2)
    panel.ui.stepsSpinBox.setValue(2)
    panel.ui.deviceComboBox.setCurrentIndex(1)
    panel.panel.update()
    host.run_for(0.02)


def check(host: Any, panel: Any) -> None:
    """Check the cases and wait for the table."""
    host.click(panel.ui.checkCasesButton)
    host.run_until(lambda: panel.panel.train_cases.run is None, SECONDS)


def finish(host: Any, panel: Any) -> None:
    """Wait for the end of the training."""
    host.run_until(lambda: panel.panel.train.run is None, SECONDS)


def cells(table: Any) -> list[list[str]]:
    """What a table shows."""
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def said(panel: Any) -> str:
    """The line under the training's progress."""
    return str(panel.ui.trainLabel.text)
