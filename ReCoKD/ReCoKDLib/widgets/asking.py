"""Asking the student once more, in the background, before something that needs to know how sure it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qt

from ..errors import Cancelled, InputError
from ..mrml.evidence import Question
from ..mrml.sessions import open_question, run_ended
from ..mrml.texts import _
from . import process
from .progress import RunProgress
from .section import Section

# What to do, and what to tell when it is not done.
Wish = tuple[Callable[[], None], Callable[[str], None]]


class Asking(Section):
    """A strip with words, progress and Cancel, which appears where the user waits.

    After a scene was reopened, clicks and doubtful slices need what the student said of the volume, and nobody knows it
    any more. The student then looks at the volume in a process of its own, and what the user did is done afterwards.
    """

    def connect(self) -> None:
        """Make the strip; it lies in no section yet."""
        self.run: process.BackgroundRun | None = None
        self._node: Any = None
        self._question: Question | None = None
        self._waiting: list[Wish] = []
        self.strip = qt.QWidget()
        rows = qt.QVBoxLayout(self.strip)
        rows.setContentsMargins(0, 0, 0, 0)
        self.label = qt.QLabel()
        self.label.wordWrap = True
        rows.addWidget(self.label)
        row = qt.QHBoxLayout()
        self.bar = qt.QProgressBar()
        self.bar.toolTip = _("How much of the volume the student has looked at again.")
        row.addWidget(self.bar)
        self.cancel_button = qt.QPushButton(_("Cancel"))
        self.cancel_button.objectName = "askingCancelButton"
        self.cancel_button.toolTip = _("Stop; the segmentation and the clicks stay as they are.")
        self.set_icon(self.cancel_button, "cancel")
        self.clicked(self.cancel_button, self._cancel)
        row.addWidget(self.cancel_button)
        rows.addLayout(row)
        self.strip.visible = False
        self._progress = RunProgress(self.bar, lambda text: self.say(self.label, text))

    def before(self, action: Callable[[], None], place: Any, then: str, dropped: Callable[[str], None]) -> None:
        """Do something to the chosen segmentation, at once if the student need not be asked, else when it was.

        Args:
            action: What to do; it and the errors that it raises come at their time.
            place: The widget, in a box layout, below which the strip appears.
            then: What happens afterwards, in words.
            dropped: Told why it is not done: the user cancelled or left, or the student could not be asked.

        Raises:
            ReCoKDError: The student cannot be asked, or ``action`` was done at once and says so.
        """
        node = self.panel.segmentation
        self.logic.ensureDependencies()
        if self.run is None:
            question = open_question(node)
            if question is None:
                action()
                return
            self._node, self._question = node, question
            self.run = process.BackgroundRun(
                question.volume,
                question.package,
                {**question.options, **self.panel.settings.computing()},
                on_progress=self._progress.at,
                on_line=self.ui.logEdit.appendPlainText,
                on_done=self._done,
                on_failed=self._failed,
            )
            rows = place.parentWidget().layout()
            rows.insertWidget(rows.indexOf(place) + 1, self.strip)
            self.strip.visible = True
            words = _("The student looks at the volume once more. {then}").format(then=then)
            self._progress.begin(words, words)
            self._waiting.append((action, dropped))  # before it begins: it may fail at once
            self.run.start()
        else:
            self._waiting.append((action, dropped))

    def update(self) -> None:
        """For another segmentation nobody waits."""
        if self.run is not None and self.panel.segmentation is not self._node:
            self._abandon()

    def left(self) -> None:
        """The user opened another module, and gave up what waits."""
        self._abandon()

    def scene_closing(self) -> None:
        """The volume goes away."""
        self._abandon()

    def cleanup(self) -> None:
        """The widgets may be going already."""
        if self.run is not None:
            self.run.abandon()
            self.run = None

    def _cancel(self) -> None:
        if self.run is not None:
            self.run.cancel()

    def _done(self, result: Any) -> None:
        node, question = self._node, self._question
        waiting = self._ended()

        def carry_out() -> None:
            now = open_question(node)
            if now is not None:  # else a run that ended meanwhile has answered it
                if question is None or not _same(now, question):
                    raise InputError(_("The volume was changed meanwhile, so nothing was done. Try it again."))
                run_ended(node, result.probabilities)
            for action, _dropped in waiting:
                self.panel.report(action, True)

        self.panel.report(carry_out)

    def _failed(self, error: BaseException) -> None:
        self._drop(str(error))
        if not isinstance(error, Cancelled):

            def fail() -> None:
                raise error

            self.panel.report(fail)

    def _abandon(self) -> None:
        if self.run is not None:
            self.run.abandon()
            self._drop("")

    def _drop(self, why: str) -> None:
        for _action, dropped in self._ended():
            dropped(why)

    def _ended(self) -> list[Wish]:
        self.run, self._node, self._question = None, None, None
        waiting, self._waiting = self._waiting, []
        self._progress.end()
        self.strip.visible = False
        return waiting


def _same(one: Question, other: Question) -> bool:
    if (one.package.checksum, one.options) != (other.package.checksum, other.options):
        return False
    return one.volume.same_grid(other.volume) and np.array_equal(one.volume.array, other.volume.array)
