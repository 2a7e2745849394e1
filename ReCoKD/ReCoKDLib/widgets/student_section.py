"""Student: which one, what its card says, where students come from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import qt

from ..card_text import accuracy_text, size_text
from ..errors import OutputError
from ..installing import AlreadyInstalledError, install_student, remove_student
from ..mrml.texts import _
from ..package_files import PACKAGE_SUFFIX
from ..samples import samples_for
from ..students import StudentEntry, list_students, register_folders
from .section import Section

_PICTURE_WIDTH = 112


class StudentSection(Section):
    """The list of students, the card of the chosen one, and what can be done with them."""

    def connect(self) -> None:
        """Connect the widgets."""
        self.entries: tuple[StudentEntry, ...] = ()
        self._filling = False
        ui = self.ui
        for button, icon in (
            (ui.importButton, "import"),
            (ui.removeButton, "remove"),
            (ui.foldersButton, "folders"),
            (ui.refreshButton, "refresh"),
            (ui.sampleDataButton, "sample"),
        ):
            self.set_icon(button, icon)
        ui.studentComboBox.connect("currentIndexChanged(int)", self._chosen)
        self.clicked(ui.refreshButton, self.refresh)
        self.clicked(ui.importButton, self._import_file)
        self.clicked(ui.removeButton, self._remove)
        self.clicked(ui.sampleDataButton, self._open_sample)
        self._import_menu = self._menu(ui.importButton, qt.QToolButton.MenuButtonPopup)
        self._action(self._import_menu, _("Package file..."), self._import_file)
        self._action(self._import_menu, _("Package folder..."), self._import_folder)
        self._folders_menu = self._menu(ui.foldersButton, qt.QToolButton.InstantPopup)
        self._folders_menu.connect("aboutToShow()", self._fill_folders_menu)
        self._fill_folders_menu()
        self._dropping = _Drop(self._dropped)
        ui.StudentSection.acceptDrops = True
        ui.StudentSection.installEventFilter(self._dropping)
        register_folders(self.panel.settings.student_folders)

    @property
    def entry(self) -> StudentEntry | None:
        """The chosen student; None if it is not here."""
        return next((entry for entry in self.entries if entry.name == self._name()), None)

    def refresh(self) -> None:
        """Look for students again; the chosen one stays chosen, and where there is none the first that can be used."""
        self.entries = list_students()
        parameters = self.panel.parameters
        if parameters and not parameters.student:
            usable = [entry.name for entry in self.entries if entry.package is not None]
            last = self.panel.settings.student
            parameters.student = last if last in usable else next(iter(usable), "")
        self.panel.update()

    def update(self) -> None:
        """Show list and card."""
        entry = self.entry
        names = [student.name for student in self.entries]
        combo = self.ui.studentComboBox
        self._filling = True
        try:
            if names != [combo.itemText(index) for index in range(combo.count)]:
                combo.clear()
                for name in names:
                    combo.addItem(name)
            combo.setCurrentIndex(names.index(entry.name) if entry else -1)
        finally:
            self._filling = False
        self.ui.cardLabel.text = self._card(entry)
        picture = qt.QPixmap(str(entry.picture)) if entry and entry.picture else None
        self.ui.pictureLabel.visible = picture is not None
        if picture is not None:
            self.ui.pictureLabel.setPixmap(picture.scaledToWidth(_PICTURE_WIDTH, qt.Qt.SmoothTransformation))
        self.ui.removeButton.enabled = entry is not None and entry.is_own
        has_sample = entry is not None and entry.package is not None and bool(samples_for(entry.package.card))
        self.ui.sampleDataButton.enabled = has_sample
        self.ui.sampleDataButton.toolTip = (
            _("Load a case that fits the chosen student.")
            if has_sample
            else _("No sample data for the chosen student came with ReCoKD.")
        )

    def _name(self) -> str:
        return str(self.panel.parameters.student) if self.panel.parameters else ""

    def _chosen(self, index: int) -> None:
        if not self._filling and self.panel.parameters and 0 <= index < len(self.entries):
            self._choose(self.entries[index].name)

    def _choose(self, name: str) -> None:
        if self.panel.parameters:
            self.panel.parameters.student = name
        self.panel.settings.set_student(name)
        self.panel.update()

    # The card

    def _card(self, entry: StudentEntry | None) -> str:
        if entry is None:
            name = self._name()
            text = _("The student {name} is not here.").format(name=name) if name else _("Choose a student.")
            return escape(text)
        if entry.package is None:
            return escape(_("This student cannot be used. {problem}").format(problem=entry.problem))
        card = entry.package.card
        rows = (
            (_("Finds"), _coloured(entry.package.label_set.segments)),
            (_("Input"), ", ".join(escape(channel.name) for channel in card.channels)),
            (_("Accuracy"), escape(accuracy_text(card.metrics)) or _("not measured")),
            (_("Size"), escape(size_text(card, entry.path))),
            (_("Licence"), escape(card.licences.weights) or _("not stated")),
        )
        table = "".join(f"<tr><td><b>{head}</b>&nbsp;&nbsp;</td><td>{text}</td></tr>" for head, text in rows)
        return f"{escape(card.description)}<table cellspacing='0'>{table}</table><i>{escape(card.intended_use)}</i>"

    # Import, removal, folders

    def install(self, path: Path) -> None:
        """Verify a package and copy it into the user's folder.

        Raises:
            ReCoKDError: It is refused; the message has the reason.
        """
        try:
            entry = install_student(path)
        except AlreadyInstalledError as error:
            if not self.panel.confirm(_("{problem}\n\nReplace it?").format(problem=error)):
                return
            entry = install_student(path, overwrite=True)
        self.panel.settings.set_imported_from(str(path.parent))
        self.refresh()
        self._choose(entry.name)

    def _import_file(self) -> None:
        filters = _("Student packages (*{suffix});;All files (*)").format(suffix=PACKAGE_SUFFIX)
        self._install_chosen(
            qt.QFileDialog.getOpenFileName(
                self.ui.StudentSection, _("Import a student"), self.panel.settings.imported_from, filters
            )
        )

    def _import_folder(self) -> None:
        self._install_chosen(
            qt.QFileDialog.getExistingDirectory(
                self.ui.StudentSection, _("Import a student"), self.panel.settings.imported_from
            )
        )

    def _install_chosen(self, path: str) -> None:
        if path:
            self.install(Path(path))

    def _dropped(self, paths: list[Path]) -> None:
        def install_all() -> None:
            for path in paths:
                self.install(path)

        self.panel.report(install_all)

    def _remove(self) -> None:
        entry = self.entry
        if entry is None:
            return
        question = _("Remove the student {name}? Its file {path} is deleted.").format(name=entry.name, path=entry.path)
        if self.panel.confirm(question):
            remove_student(entry)
            if self.panel.parameters:
                self.panel.parameters.student = ""
            self.refresh()

    def _fill_folders_menu(self) -> None:
        self._folders_menu.clear()
        self._action(self._folders_menu, _("Add a folder..."), self._add_folder)
        for folder in self.panel.settings.student_folders:
            text = _("Do not look in {folder}").format(folder=folder)
            self._action(self._folders_menu, text, partial(self._drop_folder, folder))

    def _add_folder(self) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(self.ui.StudentSection, _("Look for students in"), "")
        folders = self.panel.settings.student_folders
        if chosen and Path(chosen) not in folders:
            self._set_folders([*folders, Path(chosen)])

    def _drop_folder(self, folder: Path) -> None:
        self._set_folders([other for other in self.panel.settings.student_folders if other != folder])

    def _set_folders(self, folders: list[Path]) -> None:
        kept = self.panel.settings.set_student_folders(folders)
        register_folders(folders)
        self._fill_folders_menu()
        self.refresh()
        if not kept:
            raise OutputError(
                _("Slicer's settings cannot be written, so the folders are forgotten when Slicer is closed.")
            )

    def _open_sample(self) -> None:
        entry = self.entry
        if entry is None or entry.package is None:
            return
        nodes = self.logic.openSample(entry.package.card)
        self.panel.input.choose(nodes)

    # Menus

    def _menu(self, button: Any, mode: Any) -> Any:
        menu = qt.QMenu(button)
        button.setMenu(menu)
        button.setPopupMode(mode)
        return menu

    def _action(self, menu: Any, text: str, action: Callable[[], None]) -> None:
        entry = qt.QAction(text, menu)
        entry.connect("triggered(bool)", lambda checked=False: self.panel.report(action))
        menu.addAction(entry)


def _coloured(segments: Any) -> str:
    """The names, each with a square of its colour."""
    parts = []
    for segment in segments:
        red, green, blue = (round(255 * part) for part in segment.color)
        square = f"<span style='color:rgb({red},{green},{blue})'>&#9632;</span>"
        parts.append(f"{square}&nbsp;{escape(segment.name)}")
    return ", ".join(parts)


class _Drop(qt.QObject):  # type: ignore[misc]
    """Takes files and folders that are dropped onto a widget."""

    def __init__(self, dropped: Callable[[list[Path]], None]) -> None:
        super().__init__()
        self._dropped = dropped

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """Qt asks for each event of the widget."""
        if event.type() not in (qt.QEvent.DragEnter, qt.QEvent.Drop):
            return False
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        if not paths:
            return False
        event.acceptProposedAction()
        if event.type() == qt.QEvent.Drop:
            self._dropped(paths)
        return True
