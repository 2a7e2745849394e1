"""The panel as a whole: its sections, what they share, and the keys that work while the module is open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from ..students import StudentEntry
from .asking import Asking
from .correct_section import CorrectSection
from .doubt_section import DoubtSection
from .handover_section import HandOverSection
from .input_section import InputSection
from .result_section import ResultSection
from .section import Section
from .segment_section import SegmentSection
from .settings import Settings
from .student_section import StudentSection
from .train_cases_section import TrainCasesSection
from .train_result_section import TrainResultSection
from .train_section import TrainSection

# Files in Resources/UI, in the order of the panel: those of the page Segment and those of the page Train.
SECTIONS = ("Student", "Input", "Segment", "Result", "Doubt", "Correct", "HandOver")
TRAINING_SECTIONS = ("TrainCases", "Train", "TrainResult")


class Panel:
    """What the sections share.

    Args:
        ui: All widgets by their names.
        logic: ``ReCoKDLogic``.
        settings: What is remembered between sessions.
        icons: Folder of the icons.
        report: Runs an action and shows its errors; a second argument says that it takes long. Returns whether it came
            to its end.
        confirm: Asks the user a question; returns whether the answer was yes.
        main_window: Gives the window whose keys count.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        settings: Settings,
        icons: Path,
        *,
        report: Callable[..., bool],
        confirm: Callable[[str], bool],
        main_window: Callable[[], Any],
    ) -> None:
        self.ui = ui
        self.logic = logic
        self.settings = settings
        self.report = report
        self.confirm = confirm
        self.parameters: Any = None
        self._icons = icons
        self._main_window = main_window
        self._keys: list[tuple[str, Callable[[], None]]] = []
        self._shortcuts: list[Any] = []
        self._updating = False
        self.asking = Asking(self)
        self.student = StudentSection(self)
        self.input = InputSection(self)
        self.segment = SegmentSection(self)
        self.result = ResultSection(self)
        self.doubt = DoubtSection(self)
        self.correct = CorrectSection(self)
        self.hand_over = HandOverSection(self)
        self.train_cases = TrainCasesSection(self)
        self.train = TrainSection(self)
        self.train_result = TrainResultSection(self)
        self.sections: tuple[Section, ...] = (
            self.asking,
            self.student,
            self.input,
            self.segment,
            self.result,
            self.doubt,
            self.correct,
            self.hand_over,
            self.train_cases,
            self.train,
            self.train_result,
        )

    # What the user chose

    @property
    def entry(self) -> StudentEntry | None:
        """The chosen student; None if it is not here."""
        return self.student.entry

    @property
    def segmentation(self) -> Any:
        """The chosen segmentation node; None for a new one."""
        return self.parameters.outputSegmentation if self.parameters else None

    def set_parameters(self, parameters: Any) -> None:
        """Show another scene's parameter node; None for none."""
        self.parameters = parameters
        self.update()

    def update(self) -> None:
        """Bring everything in line with the parameter node."""
        if self._updating:
            return  # what a section changes while it is updated, the others see in the same round
        self._updating = True
        try:
            for section in self.sections:
                section.update()
        finally:
            self._updating = False

    # What happens to the panel

    def entered(self) -> None:
        """The user opened the module."""
        for keys, action in self._keys:
            shortcut = qt.QShortcut(self._main_window())
            shortcut.setKey(qt.QKeySequence(keys))
            shortcut.connect("activated()", action)
            self._shortcuts.append(shortcut)
        for section in self.sections:
            section.entered()

    def left(self) -> None:
        """The user opened another module; its keys are its own."""
        for shortcut in self._shortcuts:
            shortcut.setKey(qt.QKeySequence())
            shortcut.deleteLater()
        self._shortcuts.clear()
        for section in self.sections:
            section.left()

    def scene_closing(self) -> None:
        """All nodes go away."""
        for section in self.sections:
            section.scene_closing()

    def cleanup(self) -> None:
        """The panel goes away."""
        self.left()
        for section in self.sections:
            section.cleanup()

    # For the sections

    def icon(self, name: str) -> Any:
        """One of our icons."""
        return qt.QIcon(str(self._icons / f"{name}.svg"))

    def add_key(self, keys: str, action: Callable[[], None]) -> None:
        """Let keys do something while the module is open; errors are shown."""
        self._keys.append((keys, lambda: (self.report(action), None)[1]))
