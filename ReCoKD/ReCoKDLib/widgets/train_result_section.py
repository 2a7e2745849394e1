"""New student: how it compares with its teacher, and its way into the list of students."""

from __future__ import annotations

from pathlib import Path

import qt

from ..errors import InputError
from ..installing import AlreadyInstalledError, install_student
from ..mrml.texts import _
from ..package import ModelPackage
from ..training_files import ScoreRow, read_scores, read_status
from .section import Section

_MOST_PIXELS = 200


class TrainResultSection(Section):
    """What a training that came to its end has made."""

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self._folder: Path | None = None
        self.set_icon(ui.addStudentButton, "import")
        self.set_icon(ui.reportButton, "table")
        self.clicked(ui.addStudentButton, self._add)
        self.clicked(ui.reportButton, self._open_report)
        table = ui.scoresTable
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Structure"), _("Teacher"), _("Student")])
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        table.verticalHeader().hide()
        self.say(ui.trainResultLabel, "")

    def update(self) -> None:
        """Visible when there is a finished student."""
        self.ui.TrainResultSection.visible = self._folder is not None

    def show(self, folder: Path | None) -> None:
        """Show what the run in a folder made, and take the student into the list unless one of its name is there."""
        self._folder = folder
        if folder is None:
            return

        def take() -> None:
            package = self._package()
            self._fill(read_scores(folder, package.card.name))
            try:
                entry = install_student(package.path)
            except AlreadyInstalledError as error:
                self._tell(package, str(error))
                self.ui.addStudentButton.visible = True
                return
            self._added(package, entry.name)

        self.panel.report(take)

    def _add(self) -> None:
        package = self._package()
        question = _("Replace the student {name} in your folder by the new one?").format(name=package.card.name)
        if self.panel.confirm(question):
            self._added(package, install_student(package.path, overwrite=True).name)

    def _added(self, package: ModelPackage, name: str) -> None:
        self.ui.addStudentButton.visible = False
        self.panel.student.refresh()
        self._tell(package, _("It is in the list of students on the page Segment."))

    def _tell(self, package: ModelPackage, where: str) -> None:
        text = _("{name}: {parameters} parameters. {where}").format(
            name=package.card.name, parameters=f"{package.card.parameters:,}", where=where
        )
        self.say(self.ui.trainResultLabel, text)

    def _fill(self, rows: tuple[ScoreRow, ...]) -> None:
        table = self.ui.scoresTable
        table.visible = bool(rows)
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            cells = (row.segment or _("Mean Dice"), _figure(row.teacher), _figure(row.student))
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(number, column, item)
        if rows:
            table.setFixedHeight(min(_MOST_PIXELS, table.rowHeight(0) * (len(rows) + 1) + 4))

    def _package(self) -> ModelPackage:
        path = read_status(self._folder).package if self._folder is not None else None
        if path is None:
            raise InputError(_("The training has not made a student."))
        return ModelPackage.open(path)

    def _open_report(self) -> None:
        report = read_status(self._folder).report if self._folder is not None else None
        if report is None or not report.is_file():
            raise InputError(_("The report is not there any more."))
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(report)))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
