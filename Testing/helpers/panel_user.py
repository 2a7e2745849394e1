"""What a user does with the panel, in a word each."""

from __future__ import annotations

from typing import Any


def segmentations(slicer: Any) -> list[Any]:
    """The scene's segmentations."""
    found = slicer.mrmlScene.GetNodesByClass("vtkMRMLSegmentationNode")
    found.UnRegister(None)
    return [found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())]


def choose(combo: Any, text: str) -> None:
    """Choose an entry by its text."""
    index = combo.findText(text)
    assert index >= 0, text
    combo.setCurrentIndex(index)


def settle(host: Any, panel: Any) -> None:
    """Let the panel look at the volumes, and wait for the end of a run."""
    host.run_for(0.15)
    host.run_until(lambda: panel.panel.segment.run is None)
    host.run_for(0.02)


def segment(host: Any, panel: Any) -> None:
    """Press the button and wait for the result."""
    settle(host, panel)
    host.click(panel.ui.applyButton)
    settle(host, panel)


def start_held(host: Any, panel: Any, runs: Any) -> None:
    """Press the button, and hold the run at a quarter; ``runs`` is :class:`quick_run.QuickRun`."""
    settle(host, panel)
    runs.hold = True
    host.click(panel.ui.applyButton)
    host.run_for(0.05)
