"""Pictures of the panel in its main states, for the README and the tutorial: ``python Testing/screenshots.py``.

They are made on the Qt test host with the shipped student and its sample case; Slicer's views are not in them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "ReCoKD"), str(REPOSITORY / "Testing" / "helpers")]
FOLDER = REPOSITORY / "Resources" / "Screenshots"
WIDTH = 480


def dark_palette(qt: Any) -> Any:
    """As Slicer's dark style."""
    palette = qt.QPalette()
    roles = qt.QPalette
    for role, color in (
        (roles.Window, "#323232"),
        (roles.WindowText, "#e6e6e6"),
        (roles.Base, "#242424"),
        (roles.AlternateBase, "#2d2d2d"),
        (roles.Text, "#e6e6e6"),
        (roles.Button, "#3c3c3c"),
        (roles.ButtonText, "#e6e6e6"),
        (roles.ToolTipBase, "#3c3c3c"),
        (roles.ToolTipText, "#e6e6e6"),
        (roles.Highlight, "#2a6fb0"),
        (roles.HighlightedText, "#ffffff"),
        (roles.PlaceholderText, "#9a9a9a"),
        (roles.Mid, "#5a5a5a"),
    ):
        palette.setColor(role, qt.QColor(color))
    for role in (roles.WindowText, roles.Text, roles.ButtonText):
        palette.setColor(roles.Disabled, role, qt.QColor("#808080"))
    return palette


def dark(host: Any, picture: Any, name: str) -> None:
    """A picture in Slicer's dark style."""
    host.app.setPalette(dark_palette(host.qt))
    host.run_for(0.1)
    picture(name)
    host.app.setPalette(host.app.style().standardPalette())


def training_pictures(host: Any, panel: Any, picture: Any, folder: Path) -> None:
    """The page Train over the sample cases: checked, under way, done."""
    from ReCoKDLib.image_io import read_volume
    from ReCoKDLib.labels import LabelSet, Segment
    from ReCoKDLib.mrml.segmentations import segmentation_to_node
    from ReCoKDLib.mrml.volumes import volume_to_node
    from ReCoKDLib.samples import sample_cases
    from training_user import check, finish, open_page

    host.slicer.mrmlScene.Clear(0)
    names = LabelSet((Segment("Anterior", 1, (1,), (0.9, 0.2, 0.1)), Segment("Posterior", 2, (2,), (0.1, 0.4, 0.8))))
    for path in sample_cases():
        image = read_volume(path)
        if path == sample_cases()[-1]:
            image = image.with_array(image.array * 0)  # something for the check to find
        node = volume_to_node(image)
        node.SetName(path.name.removesuffix("_0000.nii.gz"))
        segmentation_to_node(read_volume(path.with_name(path.name.replace("_0000", "_label"))), names, node)
    ui = panel.ui
    open_page(host, panel)
    ui.epochsSpinBox.setValue(3)
    panel.panel.train.use_teacher(REPOSITORY / "Resources" / "Teachers" / "hippocampus-teacher.recokd.zip")
    ui.trainOutputEdit.text = str(folder / "hippocampus-x4")
    check(host, panel)
    picture("train-checked")
    ui.skipBadCheckBox.checked = True
    host.click(ui.trainButton)
    host.run_until(lambda: "epoch 2" in ui.trainLabel.text, 300)
    ui.trainLogCollapsibleButton.collapsed = False
    picture("train-running")
    finish(host, panel)
    ui.trainLogCollapsibleButton.collapsed = True
    picture("train-done")
    dark(host, picture, "train-dark")


def main() -> None:
    """Write them all."""
    from panel_user import choose, segmentations, settle
    from quick_run import QuickRun
    from slicer_host import Host

    with tempfile.TemporaryDirectory() as home:
        os.environ.update(HOME=home, XDG_DATA_HOME=home)
        host = Host()
        host.use_settings(Path(home) / "settings.ini")
        host.app.setStyle("Fusion")
        module = host.load(REPOSITORY / "ReCoKD" / "ReCoKD.py")
        from ReCoKDLib.widgets import process

        vars(process)["BackgroundRun"] = QuickRun
        panel = host.open(module)
        ui = panel.ui

        def picture(name: str) -> None:
            host.run_for(0.1)
            host.main_window.resize(WIDTH, 1600)
            host.run_for(0.1)
            FOLDER.mkdir(exist_ok=True)
            shown = host.qt.QRect(0, 0, panel.parent.width, panel.parent.sizeHint().height())
            assert panel.parent.grab(shown).save(str(FOLDER / f"{name}.png"))

        choose(ui.studentComboBox, "hippocampus-x4")
        host.click(ui.sampleDataButton)
        settle(host, panel)
        picture("panel-ready")
        QuickRun.hold = True
        host.click(ui.applyButton)
        host.run_for(0.1)
        picture("panel-running")
        QuickRun.started[0].release()
        QuickRun.hold = False
        settle(host, panel)
        host.click(ui.nextDoubtButton)
        crosshair = host.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode", "default")
        for wrong, key in (((11, 26, 17), "I"), ((24, 33, 14), "O")):  # of the anterior part, in this case
            crosshair.SetCursorPositionRAS(wrong)
            host.press(host.main_window, key)
        host.run_for(0.5)
        ui.handOverCollapsibleButton.collapsed = False
        picture("panel-corrected")
        dark(host, picture, "panel-dark")

        module = host.load(REPOSITORY / "SegmentEditorReCoKD" / "SegmentEditorReCoKD.py")
        host.app.complete_startup()
        from slicer_host.editor import Editor

        (node,) = segmentations(host.slicer)
        volume = ui.inputSelector.currentNode()
        editor = Editor(node, volume, node.GetSegmentation().GetNthSegmentID(0))
        effect = editor.use("ReCoKD")
        host.click(effect.options.runButton)
        host.run_until(lambda: effect._run is None)
        frame = editor.effect.frame
        frame.resize(WIDTH, frame.layout().heightForWidth(WIDTH))
        host.run_for(0.1)
        assert frame.grab().save(str(FOLDER / "effect.png"))
        host.main_window.show()
        training_pictures(host, panel, picture, Path(home))
        panel.cleanup()


if __name__ == "__main__":
    main()
