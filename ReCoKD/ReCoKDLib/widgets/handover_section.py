"""Hand over: the corrected case becomes training data."""

from __future__ import annotations

from pathlib import Path

import qt

from ..errors import InputError
from ..mrml.texts import _
from .section import Section


class HandOverSection(Section):
    """A dataset folder, and the button that adds the case to it."""

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self.say(ui.exportLabel, "")
        self.set_icon(ui.exportFolderButton, "folders")
        self.set_icon(ui.exportButton, "export")
        ui.exportFolderEdit.text = self.panel.settings.dataset
        self.clicked(ui.exportFolderButton, self._choose)
        self.clicked(ui.exportButton, self._export, wait=True)
        ui.exportFolderEdit.connect("textChanged(QString)", lambda text: self.update())

    def update(self) -> None:
        """A segmentation and a folder are needed."""
        self.ui.HandOverSection.visible = self.panel.segmentation is not None
        chosen = bool(self.ui.exportFolderEdit.text.strip())
        self.ui.exportButton.enabled = chosen and self.panel.segmentation is not None

    def scene_closing(self) -> None:
        """The next case is another one."""
        self.say(self.ui.exportLabel, "")

    def _choose(self) -> None:
        ui = self.ui
        folder = qt.QFileDialog.getExistingDirectory(
            ui.exportFolderEdit, _("Folder with training data"), ui.exportFolderEdit.text
        )
        if folder:
            ui.exportFolderEdit.text = folder

    def _export(self) -> None:
        folder = self.ui.exportFolderEdit.text.strip()
        if not folder:
            raise InputError(_("Choose the folder that the case is added to."))
        self.panel.asking.before(
            lambda: self._add_to(folder),
            self.ui.exportLabel,
            _("Then the case is added to the training data."),
            lambda why: self.say(self.ui.exportLabel, why),
        )

    def _add_to(self, folder: str) -> None:
        name = self.logic.exportForTraining(self.panel.segmentation, Path(folder))
        self.panel.settings.set_dataset(folder)
        self.say(self.ui.exportLabel, _("Added as {name}.").format(name=name))
