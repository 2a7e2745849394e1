"""Volumes: how large the segments are, as a table; and the way back before the last run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt

from ..errors import ReCoKDError
from ..mrml.choices import SegmentsWatch
from ..mrml.tables import node_sizes
from ..mrml.texts import _
from ..table import write_sizes
from .section import Section

_WAIT_MILLISECONDS = 300
_MOST_PIXELS = 160


class ResultSection(Section):
    """The sizes of the chosen segmentation's segments; they follow its changes."""

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self.set_icon(ui.saveTableButton, "save")
        self.set_icon(ui.tableNodeButton, "table")
        self.set_icon(ui.pictureButton, "picture")
        self.set_icon(ui.undoRunButton, "undo")
        self.clicked(ui.saveTableButton, self._save)
        self.clicked(ui.tableNodeButton, self._to_scene)
        self.clicked(ui.pictureButton, self._picture, wait=True)
        self.clicked(ui.undoRunButton, self._undo)
        table = ui.resultTable
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Segment"), _("Volume [ml]"), _("Voxels")])
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        table.verticalHeader().hide()
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_WAIT_MILLISECONDS)
        self._timer.connect("timeout()", self._fill)
        self._watch = SegmentsWatch(self._timer.start)

    def update(self) -> None:
        """Watch the chosen segmentation."""
        if self._watch.follow(self.panel.segmentation):
            self._fill()
        some = self.ui.resultTable.rowCount > 0
        self.ui.ResultSection.visible = some
        for button in (self.ui.saveTableButton, self.ui.tableNodeButton, self.ui.pictureButton):
            button.enabled = some
        self.ui.undoRunButton.enabled = self.logic.canUndoRun() and self.panel.segment.run is None

    def scene_closing(self) -> None:
        """Nothing is left to measure."""
        self._watch.follow(None)
        self._timer.stop()
        self._fill()

    def cleanup(self) -> None:
        """Watch no more."""
        self._watch.follow(None)
        self._timer.stop()

    def _fill(self) -> None:
        node = self._watch.node
        try:
            sizes = node_sizes(node) if node is not None else []
        except ReCoKDError:  # under a warp; the table in the scene says so when it is asked for
            sizes = []
        table = self.ui.resultTable
        table.setRowCount(len(sizes))
        for row, size in enumerate(sizes):
            name = qt.QTableWidgetItem(size.segment.name)
            name.setIcon(colour_icon(size.segment.color))
            table.setItem(row, 0, name)
            for column, text in enumerate((f"{size.millilitres:.3f}", str(size.voxels)), 1):
                item = qt.QTableWidgetItem(text)
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(row, column, item)
        table.resizeColumnToContents(1)
        if sizes:  # as high as its rows and its heading
            table.setFixedHeight(min(_MOST_PIXELS, table.rowHeight(0) * (len(sizes) + 1) + 4))
        self.panel.update()

    def _save(self) -> None:
        node = self.panel.segmentation
        path = qt.QFileDialog.getSaveFileName(
            self.ui.resultTable, _("Save the volumes"), f"{node.GetName()}.csv", _("Tables (*.csv)")
        )
        if path:
            # The dialog has asked already whether to replace a file.
            write_sizes(node_sizes(node), Path(path), overwrite=True)

    def _to_scene(self) -> None:
        self.logic.volumeTable(self.panel.segmentation)

    def _picture(self) -> None:
        node = self.panel.segmentation
        self.logic.ensureDependencies()
        path = qt.QFileDialog.getSaveFileName(
            self.ui.resultTable, _("Save a picture"), f"{node.GetName()}.png", _("Pictures (*.png)")
        )
        if path:
            self.logic.savePicture(node, path, overwrite=True)

    def _undo(self) -> None:
        self.panel.correct.close()
        self.panel.parameters.outputSegmentation = self.logic.undoRun()
        self.panel.doubt.forget()
        self.panel.segment.show_status(_("The last run was taken back."))
        self.panel.update()


def colour_icon(color: Any) -> Any:
    """A square of a segment's colour (red, green, blue in 0..1)."""
    pixmap = qt.QPixmap(12, 12)
    pixmap.fill(qt.QColor(*(round(255 * part) for part in color)))
    return qt.QIcon(pixmap)
