"""Cases: what a student is to learn from, and whether it is fit for that."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qt

from ..errors import InputError, ReCoKDError
from ..mrml.scene_cases import SceneCase
from ..mrml.texts import _
from ..training_files import CheckRow, CheckTable, read_check
from ..training_start import SPOILED, TrainingChoice, check_arguments, ended_with
from .section import Section
from .training_process import TrainingProcess

_MOST_PIXELS, _MOST_LIST_PIXELS, _MOST_NAME_PIXELS = 220, 160, 130
_ROW_PIXELS = 18
_SCENE = 0


class TrainCasesSection(Section):
    """Cases of the open scene or of a folder, and the table of what a check found in them."""

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self.run: TrainingProcess | None = None
        self.table: CheckTable | None = None
        self._folder: Path | None = None
        self._exported: Mapping[str, SceneCase] = {}
        self._unticked: set[str] = set()
        self._filling = False
        for name in (_("The open scene"), _("A folder or scene file")):
            ui.trainSourceComboBox.addItem(name)
        ui.trainDataEdit.text = self.panel.settings.training_cases or self.panel.settings.dataset
        ui.trainSourceComboBox.connect("currentIndexChanged(int)", lambda index: self._source_changed())
        ui.trainDataEdit.connect("textChanged(QString)", lambda text: self._source_changed())
        ui.trainCasesList.connect("itemChanged(QListWidgetItem*)", self._ticked)
        ui.skipBadCheckBox.connect("toggled(bool)", lambda checked: self.panel.update())
        self.set_icon(ui.trainDataButton, "folders")
        self.set_icon(ui.checkCasesButton, "fits")
        self.set_icon(ui.cancelCheckButton, "cancel")
        self.clicked(ui.trainDataButton, self._choose)
        self.clicked(ui.checkCasesButton, self._check, wait=True)
        self.clicked(ui.cancelCheckButton, self._cancel)
        self.clicked(ui.showCaseButton, self._show, wait=True)
        table = ui.checkTable
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Case"), _("Severity"), _("What was found")])
        table.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.Stretch)
        table.verticalHeader().hide()
        table.connect("cellDoubleClicked(int,int)", lambda row, column: self.panel.report(self._show, True))
        table.connect("itemSelectionChanged()", self.update)
        ui.checkProgressBar.setRange(0, 100)
        self.say(ui.checkLabel, "")

    @property
    def in_scene(self) -> bool:
        """Whether the cases are those of the open scene."""
        return bool(self.ui.trainSourceComboBox.currentIndex == _SCENE)

    def update(self) -> None:
        """Show the cases and what was found."""
        ui = self.ui
        self._fill_cases()
        for widget in (ui.trainDataLabel, ui.trainDataEdit, ui.trainDataButton):
            widget.visible = not self.in_scene
        ui.trainCasesList.visible = self.in_scene
        running = self.run is not None
        ui.checkCasesButton.enabled = not running and self.some()
        ui.cancelCheckButton.enabled = running
        ui.checkProgressBar.visible = running
        some = self.table is not None
        ui.checkTable.visible = some
        ui.showCaseButton.visible = some
        ui.showCaseButton.enabled = self._row() is not None
        ui.skipBadCheckBox.visible = self.table is not None and self.table.bad > 0

    def entered(self) -> None:
        """The scene may have been changed meanwhile."""
        self.panel.update()

    def scene_closing(self) -> None:
        """The cases go away; those in a folder stay."""
        if self.in_scene:
            self._forget()

    def cleanup(self) -> None:
        """A check is of no use any more."""
        if self.run is not None:
            self.run.abandon()
            self.run = None
        self._remove_folder()

    def some(self) -> bool:
        """Whether any case is chosen."""
        return bool(self._chosen()) if self.in_scene else bool(self.ui.trainDataEdit.text.strip())

    def problem(self) -> str:
        """Why no training can begin with the cases; empty if one can."""
        if not self.some():
            return str(_("Choose the cases to learn from"))
        table = self.table
        if table is not None and table.spoiled:
            return str(_("The check found what would spoil the training"))
        if table is not None and table.bad and not self.skip_bad:
            return str(_("Bad cases would spoil the training: correct them, or go on without them"))
        return ""

    @property
    def skip_bad(self) -> bool:
        """Whether to go on without bad cases."""
        return self.table is not None and self.table.bad > 0 and bool(self.ui.skipBadCheckBox.checked)

    def sources(self, folder: Path) -> tuple[Path, ...]:
        """Where the cases are; those of the scene are written into a folder that does not exist.

        Raises:
            ReCoKDError: There is none, or the scene's cannot be written.
        """
        if self.in_scene:
            self._exported = self.logic.exportCasesForTraining(folder, self._chosen())
            return (folder,)
        chosen = self.ui.trainDataEdit.text.strip()
        if not chosen:
            raise InputError(_("Choose the folder with the cases."))
        self.panel.settings.set_training_cases(chosen)
        return (Path(chosen),)

    # The list

    def _fill_cases(self) -> None:
        cases = self.logic.trainingCases(self.panel.train.channels()) if self.in_scene else ()
        shown = self.ui.trainCasesList
        self._filling = True
        try:
            shown.clear()
            for found in cases:
                item = qt.QListWidgetItem(found.text)
                usable = not found.case.problem
                item.setToolTip(found.case.problem)
                item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
                ticked = usable and _key(found.case) not in self._unticked
                item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
                if not usable:
                    item.setFlags(qt.Qt.ItemIsEnabled)
                    item.setIcon(self.panel.icon("problem"))
                shown.addItem(item)
        finally:
            self._filling = False
        rows = max(1, len(cases))
        shown.setFixedHeight(min(_MOST_LIST_PIXELS, max(_ROW_PIXELS, shown.sizeHintForRow(0)) * rows + 6))
        self._cases = cases

    def _ticked(self, item: Any) -> None:
        if self._filling:
            return
        case = self._cases[self.ui.trainCasesList.row(item)].case
        change = self._unticked.discard if item.checkState() == qt.Qt.Checked else self._unticked.add
        change(_key(case))
        self._source_changed()

    def _chosen(self) -> list[SceneCase]:
        return [
            found.case for found in self._cases if not found.case.problem and _key(found.case) not in self._unticked
        ]

    def _choose(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(
            self.ui.trainDataEdit, _("Folder with cases"), self.ui.trainDataEdit.text
        )
        if folder:
            self.ui.trainDataEdit.text = folder

    def _source_changed(self) -> None:
        """What was found in other cases tells nothing of these."""
        self._forget()
        self.panel.update()

    # The check

    def _check(self) -> None:
        self._forget()
        self.logic.ensureTrainingDependencies()
        script = self.logic.trainingScript()
        self._folder = Path(tempfile.mkdtemp(prefix="recokd-check-"))
        try:
            choice = TrainingChoice(
                self.sources(self._folder / "cases"),
                self._folder,
                self.panel.train.teacher(),
                channels=self.panel.train.channels(),
            )
        except ReCoKDError:
            self._remove_folder()
            raise
        self.run = TrainingProcess(
            script,
            check_arguments(choice),
            on_progress=lambda fraction: self.ui.checkProgressBar.setValue(round(100 * fraction)),
            on_line=self.ui.trainLogEdit.appendPlainText,
            on_ended=self._ended,
        )
        self.ui.checkProgressBar.setValue(0)
        self.say(self.ui.checkLabel, _("Looking at all cases..."))
        self.run.start()
        self.panel.update()

    def _cancel(self) -> None:
        if self.run is not None:
            self.run.stop()

    def _ended(self, code: int, lines: list[str]) -> None:
        run, self.run = self.run, None
        folder = self._folder
        self.say(self.ui.checkLabel, "")

        def finish() -> None:
            if run is not None and run.stopping:
                return
            if folder is None or code not in (0, SPOILED):
                raise ended_with(code, lines)
            try:
                self.table = read_check(folder)
            except InputError as error:
                raise ended_with(code, lines) from error

        self.panel.report(finish)
        self._remove_folder()
        self._fill_table()
        self.panel.update()

    def _fill_table(self) -> None:
        table = self.ui.checkTable
        rows = self.table.rows if self.table is not None else ()
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            severity, icon = _severity(row)
            cells = (self._name(row), severity, row.message or _("Nothing is wrong"))
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(row.found_in if column == 0 and row.found_in and not self.in_scene else text)
                if column == 1:
                    item.setIcon(self.panel.icon(icon))
                table.setItem(number, column, item)
        for column in (0, 1):
            table.resizeColumnToContents(column)
        table.setColumnWidth(0, min(table.columnWidth(0), _MOST_NAME_PIXELS))
        table.resizeRowsToContents()
        if self.table is not None:
            heights = [table.rowHeight(number) for number in range(len(rows))]
            if heights:  # as high as its rows and its heading
                table.setFixedHeight(min(_MOST_PIXELS, sum(heights) + min(heights) + 4))
            self.say(self.ui.checkLabel, _summary(self.table))

    def _name(self, row: CheckRow) -> str:
        if not row.case:
            return str(_("All cases"))
        case = self._exported.get(row.case) if self.in_scene else None
        return next((found.name for found in self._cases if found.case == case), row.case)

    def _row(self) -> CheckRow | None:
        number = self.ui.checkTable.currentRow()
        if self.table is None or not 0 <= number < len(self.table.rows):
            return None
        row = self.table.rows[number]
        return row if row.case else None

    def _show(self) -> None:
        row = self._row()
        if row is not None:
            self.logic.showTrainingCase(self._exported.get(row.case) if self.in_scene else None, row)

    def _forget(self) -> None:
        if self.run is not None:
            self.run.abandon()
            self.run = None
        self._remove_folder()
        self.table, self._exported = None, {}
        self.ui.skipBadCheckBox.checked = False
        self.say(self.ui.checkLabel, "")

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _key(case: SceneCase) -> str:
    return " ".join((*case.volumes, *case.segmentations))


def _severity(row: CheckRow) -> tuple[str, str]:
    """In words, and its icon."""
    if row.spoils:
        return _("Spoils the training"), "problem"
    return (_("Warning"), "warning") if row.message else (_("Fits"), "fits")


def _summary(table: CheckTable) -> str:
    if table.spoiled:
        text = _("{cases} cases. Something would spoil the training; it is in the first row.")
    elif table.bad:
        text = _("{cases} cases, {bad} of which would spoil the training.")
    else:
        text = _("{cases} cases. Nothing would spoil the training.")
    return str(text.format(cases=table.cases, bad=table.bad))
