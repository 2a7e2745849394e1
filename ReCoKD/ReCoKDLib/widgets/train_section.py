"""Training: teacher, width, length, and the run itself."""

from __future__ import annotations

import time
from pathlib import Path

import qt

from ..errors import InputError, ReCoKDError
from ..mrml.curves import CurvesPlot
from ..mrml.texts import _
from ..package import ModelPackage
from ..package_files import PACKAGE_SUFFIX
from ..students import list_students
from ..training_files import LOG, Status, read_curves, read_status
from ..training_start import (
    CONFIG,
    STOPPED,
    TrainingChoice,
    cases_folder,
    ended_with,
    require_free,
    resume_arguments,
    train_arguments,
)
from .process import end_waiting
from .section import Section
from .training_process import TrainingProcess

_WIDTHS = (1, 2, 3)
_USUAL_WIDTH = 2
# Epochs of 250 steps; the last one is nnU-Net's.
_LENGTHS = (10, 100, 1000)
_USUAL_LENGTH = 1
_LOOK_SECONDS = 1.0


class TrainSection(Section):
    """What is trained, Start, Stop, Resume, and what can be seen meanwhile.

    A training needs nothing of the scene once it has begun, so it goes on when the scene is closed. When Slicer quits,
    or the module is reloaded, it is stopped with a checkpoint.
    """

    def connect(self) -> None:
        """Connect the widgets."""
        ui = self.ui
        self.run: TrainingProcess | None = None
        self.folder: Path | None = None
        self.plot = CurvesPlot(_("Training loss"), _("Dice of held-out cases"), _("Training"))
        self._teachers: list[ModelPackage] = []
        self._seen: tuple[int, int] | None = None
        self._next_look = 0.0
        for text in (_("1/2 of the teacher's channels"), _("1/4 (usual)"), _("1/8 (smallest)")):
            ui.widthComboBox.addItem(text)
        ui.widthComboBox.setCurrentIndex(_WIDTHS.index(_USUAL_WIDTH))
        for text in (_("A try: does it work at all?"), _("Short"), _("In full (hours to days)"), _("As below")):
            ui.lengthComboBox.addItem(text)
        ui.lengthComboBox.connect("currentIndexChanged(int)", self._length_chosen)
        ui.epochsSpinBox.connect("valueChanged(int)", self._epochs_changed)
        ui.lengthComboBox.setCurrentIndex(_USUAL_LENGTH)
        ui.trainOutputEdit.text = self.panel.settings.training_output
        ui.trainOutputEdit.connect("textChanged(QString)", lambda text: self._output_changed())
        ui.teacherComboBox.connect("currentIndexChanged(int)", lambda index: self.panel.update())
        for button, icon in (
            (ui.teacherButton, "folders"),
            (ui.trainOutputButton, "folders"),
            (ui.trainButton, "segment"),
            (ui.stopTrainingButton, "cancel"),
            (ui.resumeTrainingButton, "next"),
        ):
            self.set_icon(button, icon)
        self.clicked(ui.teacherButton, self._choose_teacher)
        self.clicked(ui.trainOutputButton, self._choose_output)
        self.clicked(ui.trainButton, self._start, wait=True)
        self.clicked(ui.stopTrainingButton, self._stop)
        self.clicked(ui.resumeTrainingButton, self._resume)
        self.clicked(ui.curvesButton, self._show_curves)
        ui.trainProgressBar.setRange(0, 100)
        self.say(ui.trainLabel, "")
        self.refresh_teachers()

    def teacher(self) -> Path | None:
        """Package of the chosen teacher; None for none."""
        package = self._package()
        return None if package is None else package.path

    def channels(self) -> tuple[str, ...]:
        """Names of the teacher's channels; none without a teacher."""
        package = self._package()
        return () if package is None else tuple(channel.name for channel in package.card.channels)

    def update(self) -> None:
        """Show what can be done now."""
        ui = self.ui
        running = self.run is not None
        output = ui.trainOutputEdit.text.strip()
        problem = _("A training is under way") if running else self.panel.train_cases.problem()
        if not problem and not output:
            problem = _("Choose a folder for the results")
        ui.trainButton.enabled = not problem
        ui.trainButton.toolTip = problem or _("Train a student in the background; go on working meanwhile")
        ui.stopTrainingButton.enabled = running
        ui.stopTrainingButton.text = _("Stop n&ow") if self.run is not None and self.run.stopping else _("St&op")
        there = bool(output) and (Path(output) / CONFIG).is_file() and read_status(Path(output)).state != "done"
        ui.resumeTrainingButton.enabled = there and not running
        ui.trainProgressBar.visible = running
        ui.curvesButton.enabled = self.folder is not None and (self.folder / LOG).is_file()
        for widget in (ui.teacherComboBox, ui.teacherButton, ui.trainOutputEdit, ui.trainOutputButton):
            widget.enabled = not running

    def entered(self) -> None:
        """Teachers may have been added."""
        self.refresh_teachers()

    def cleanup(self) -> None:
        """Slicer quits, or the module is reloaded: the training ends with a checkpoint."""
        if self.run is not None:
            self.run.abandon()
            self.run = None

    # What is trained

    def refresh_teachers(self) -> None:
        """Look for teachers again; those that were chosen as files stay."""
        chosen = self.teacher()
        installed = [entry.package for entry in list_students() if entry.package is not None]
        found = [package for package in installed if package.card.role == "teacher"]
        known = {package.path for package in found}
        self._show_teachers([*found, *(own for own in self._teachers if own.path not in known)], chosen)

    def _show_teachers(self, teachers: list[ModelPackage], chosen: Path | None) -> None:
        combo = self.ui.teacherComboBox
        blocked = combo.blockSignals(True)
        self._teachers = teachers
        combo.clear()
        combo.addItem(_("None: from the segmentations alone"))
        for package in teachers:
            combo.addItem(package.card.name)
        paths = [package.path for package in teachers]
        combo.setCurrentIndex(paths.index(chosen) + 1 if chosen in paths else 0)
        combo.blockSignals(blocked)

    def _package(self) -> ModelPackage | None:
        index = self.ui.teacherComboBox.currentIndex - 1
        return self._teachers[index] if 0 <= index < len(self._teachers) else None

    def _choose_teacher(self) -> None:
        path = qt.QFileDialog.getOpenFileName(
            self.ui.teacherComboBox,
            _("Choose a teacher"),
            self.panel.settings.imported_from,
            _("Packages (*{suffix});;All files (*)").format(suffix=PACKAGE_SUFFIX),
        )
        if path:
            self.use_teacher(Path(path))

    def use_teacher(self, path: Path) -> None:
        """Choose a package as the teacher.

        Raises:
            PackageError: It is no package that can be used.
        """
        package = ModelPackage.open(path)
        self._show_teachers([*(own for own in self._teachers if own.path != path), package], path)
        self.panel.settings.set_imported_from(str(path.parent))
        self.panel.update()

    def _length_chosen(self, index: int) -> None:
        if index < len(_LENGTHS):
            self.ui.epochsSpinBox.setValue(_LENGTHS[index])

    def _epochs_changed(self, epochs: int) -> None:
        self.ui.lengthComboBox.setCurrentIndex(_LENGTHS.index(epochs) if epochs in _LENGTHS else len(_LENGTHS))

    def _choose_output(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(
            self.ui.trainOutputEdit, _("Folder for the results"), self.ui.trainOutputEdit.text
        )
        if folder:
            self.ui.trainOutputEdit.text = folder

    def _output_changed(self) -> None:
        if self.run is None:
            self.folder = None
            self.say(self.ui.trainLabel, "")
        self.panel.update()

    def _output(self) -> Path:
        text = self.ui.trainOutputEdit.text.strip()
        if not text:
            raise InputError(_("Choose a folder for the results."))
        self.panel.settings.set_training_output(text)
        return Path(text).expanduser().absolute()

    # The run

    def _start(self) -> None:
        folder = self._output()
        require_free(folder)
        self.logic.ensureTrainingDependencies()
        script = self.logic.trainingScript()
        choice = TrainingChoice(
            self.panel.train_cases.sources(cases_folder(folder)),
            folder,
            self.teacher(),
            _WIDTHS[self.ui.widthComboBox.currentIndex],
            self.ui.epochsSpinBox.value,
            self.ui.stepsSpinBox.value,
            self.panel.train_cases.skip_bad,
            self.channels(),
            self.panel.settings.device,
        )
        self._run(script, train_arguments(choice), folder)

    def _resume(self) -> None:
        folder = self._output()
        arguments = resume_arguments(folder)
        self.logic.ensureTrainingDependencies()
        self._run(self.logic.trainingScript(), arguments, folder)

    def _run(self, script: Path, arguments: list[str], folder: Path) -> None:
        self.folder, self._seen, self._next_look = folder, None, 0.0
        end_waiting()  # whose memory the training may need
        self.run = TrainingProcess(
            script,
            arguments,
            on_progress=self._progressed,
            on_line=self.ui.trainLogEdit.appendPlainText,
            on_ended=self._ended,
        )
        self.ui.trainLogEdit.clear()
        self.ui.trainProgressBar.setValue(0)
        self.say(self.ui.trainLabel, _("Reading the cases..."))
        self.run.start()
        self.panel.update()

    def _stop(self) -> None:
        if self.run is not None:
            self.run.stop()
            self.say(self.ui.trainLabel, _("Stopping: the present step is finished, and a checkpoint is written..."))
            self.panel.update()

    def _progressed(self, fraction: float) -> None:
        self.ui.trainProgressBar.setValue(round(100 * fraction))
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        """Read state and curves; the process writes them whole each time."""
        if self.folder is None:
            return
        if self.run is not None and not self.run.stopping:
            text = _words(read_status(self.folder))
            if text:
                self.say(self.ui.trainLabel, text)
        try:
            status = (self.folder / LOG).stat()
        except OSError:
            return  # before the first epoch
        seen = (status.st_mtime_ns, status.st_size)
        if seen != self._seen or not self.plot.is_here():  # the scene may have been closed
            self._seen = seen
            self.plot.show(read_curves(self.folder))
            self.ui.curvesButton.enabled = True

    def _show_curves(self) -> None:
        if self.folder is not None:
            self.plot.show(read_curves(self.folder))
            self.plot.open()

    def _ended(self, code: int, lines: list[str]) -> None:
        run, self.run = self.run, None
        self._look()
        self.say(self.ui.trainLabel, "")
        stopping = run is not None and run.stopping
        if code == 0:
            self.say(self.ui.trainLabel, _("The student is ready."))
            self.panel.train_result.show(self.folder)
        elif stopping or code == STOPPED:
            self.say(self.ui.trainLabel, _("Stopped. Resume goes on from the last checkpoint."))
        else:
            self._fail(ended_with(code, lines))
        self.panel.update()

    def _fail(self, error: ReCoKDError) -> None:
        def fail() -> None:
            raise error

        self.say(self.ui.trainLabel, str(error))
        self.panel.report(fail)


def _words(status: Status) -> str:
    """The state of a run in words."""
    if status.state == "preparing":
        return str(_("Preparing the cases..."))
    if status.state == "evaluating":
        return str(_("Measuring the student on the held-out cases..."))
    if status.state != "training" or status.epochs is None:
        return ""
    epoch = min(status.epoch + 1, status.epochs)
    text = _("Training: epoch {epoch} of {epochs}").format(epoch=epoch, epochs=status.epochs)
    if status.best_dice is not None:
        text += _(", best Dice so far {dice:.3f}").format(dice=status.best_dice)
    if status.seconds_left is not None:
        hours, minutes = divmod(max(1, round(status.seconds_left / 60)), 60)
        left = _(", about {hours} h {minutes} min left") if hours else _(", about {minutes} min left")
        text += left.format(hours=hours, minutes=minutes)
    return str(text)
