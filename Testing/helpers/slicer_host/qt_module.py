"""`qt` and `ctk` as Slicer's Python has them, made of PySide6: properties are attributes, signals are named."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_SOURCES = (QtWidgets, QtGui, QtCore, QtUiTools)
# Virtual methods that happen to be properties as well; Qt itself calls them.
_METHODS = frozenset({"sizeHint", "minimumSizeHint", "layout"})


class PythonQtStyle:
    """Gives a PySide6 class PythonQt's manners: `label.text = "a"`, `button.connect("clicked(bool)", f)`."""

    def __getattribute__(self, name: str) -> Any:
        """A Qt property by its name, else what Python finds."""
        if name.startswith("_") or name in _METHODS:
            return super().__getattribute__(name)
        if name in _SIGNALS:  # PySide6 finds its own before those of this class
            return partial(_SIGNALS[name], self)
        if name == "name":
            name = "objectName"
        if _has_property(self, name):
            return super().__getattribute__("property")(name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a Qt property by its name, else a Python attribute."""
        if not name.startswith("_") and (name == "name" or _has_property(self, name)):
            given = list(value) if isinstance(value, tuple) else value
            self.setProperty("objectName" if name == "name" else name, given)
        else:
            super().__setattr__(name, value)

    def exec_(self) -> Any:
        """Qt 5's spelling."""
        return self.exec()


def _connect(sender: Any, signal: str, slot: Callable[..., Any]) -> None:
    getattr(sender, signal.partition("(")[0]).connect(slot)


def _disconnect(sender: Any, signal: str, slot: Callable[..., Any]) -> None:
    getattr(sender, signal.partition("(")[0]).disconnect(slot)


_SIGNALS = {"connect": _connect, "disconnect": _disconnect}


def _has_property(thing: Any, name: str) -> bool:
    meta = object.__getattribute__(thing, "metaObject")()
    if meta.indexOfProperty(name) >= 0:
        return True
    return name in [bytes(key.data()).decode() for key in object.__getattribute__(thing, "dynamicPropertyNames")()]


class _QtModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        for source in _SOURCES:
            # dir(), not vars(): PySide6 fills its modules when they are asked.
            if name in dir(source):
                found = getattr(source, name)
                if isinstance(found, type) and issubclass(found, QtCore.QObject):
                    found = type(name, (PythonQtStyle, found), {"__module__": "qt"})
                setattr(self, name, found)  # one class for each name: Slicer compares type(widget)
                return found
        raise AttributeError(name)


class _CtkModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if not name.startswith("ctk"):
            raise AttributeError(name)
        # Widgets that our .ui files do not use still have to be classes of their own.
        found = type(name, (qt.QWidget,), {"__module__": "ctk"})
        setattr(self, name, found)
        return found


qt: Any = _QtModule("qt")
ctk: Any = _CtkModule("ctk")


_HEADING = 26


class _CollapsibleButton(qt.QWidget):  # type: ignore[misc]
    """A section under a heading that folds it away, by mouse or with the space bar."""

    contentsCollapsed = QtCore.Signal(bool)  # noqa: N815

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._text = ""
        self._collapsed = False
        self.setFocusPolicy(QtCore.Qt.FocusPolicy.TabFocus)

    def _get_text(self) -> str:
        return self._text

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed != self._collapsed:
            self._collapsed = collapsed
            self.setMaximumHeight(_HEADING if collapsed else 16777215)
            self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, _get_text, _set_text)
    collapsed = QtCore.Property(bool, _get_collapsed, _set_collapsed)

    def event(self, event: Any) -> bool:
        """Room for the heading, once there is a layout."""
        if event.type() == QtCore.QEvent.Type.Polish and self.layout() is not None:
            self.layout().setContentsMargins(8, _HEADING + 5, 8, 7)
        return bool(super().event(event))

    def mousePressEvent(self, event: Any) -> None:
        """A press on the heading."""
        if event.position().y() < _HEADING:
            self._set_collapsed(not self._collapsed)

    def keyPressEvent(self, event: Any) -> None:
        """The space bar."""
        if event.key() == QtCore.Qt.Key.Key_Space:
            self._set_collapsed(not self._collapsed)
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: Any) -> None:
        """The heading as a flat button with an arrow, a line around the rest."""
        painter = QtWidgets.QStylePainter(self)
        heading = QtCore.QRect(0, 0, super().size().width(), _HEADING)
        painter.setPen(self.palette.color(QtGui.QPalette.ColorRole.Mid))
        if not self._collapsed:
            painter.drawRect(super().rect().adjusted(0, 0, -1, -1))
        painter.fillRect(heading, self.palette.color(QtGui.QPalette.ColorRole.Button))
        painter.drawRect(heading.adjusted(0, 0, -1, -1))
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(7, 8, 10, 10)
        arrows = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(arrows.PE_IndicatorArrowRight if self._collapsed else arrows.PE_IndicatorArrowDown, arrow)
        painter.setPen(self.palette.color(QtGui.QPalette.ColorRole.ButtonText))
        painter.drawText(heading.adjusted(24, 0, -4, 0), QtCore.Qt.AlignmentFlag.AlignVCenter, self._text)
        if super().hasFocus():
            focus = QtWidgets.QStyleOptionFocusRect()
            focus.initFrom(self)
            focus.rect = heading.adjusted(2, 2, -2, -2)
            painter.drawPrimitive(arrows.PE_FrameFocusRect, focus)


class _MessageBox(qt.QMessageBox):  # type: ignore[misc]
    """Remembers what it would have said, and answers OK, or Yes where that is asked."""

    shown: list[str] = []  # noqa: RUF012 - one list for all boxes
    answers: list[Any] = []  # noqa: RUF012 - what the user says next, instead

    def exec_(self) -> Any:
        """Show nothing: nobody would press its button."""
        self.shown.append(self.text)
        if self.answers:
            return self.answers.pop(0)
        asked = bool(self.standardButtons & qt.QMessageBox.Yes)
        return qt.QMessageBox.Yes if asked else qt.QMessageBox.Ok


class _FileDialog(qt.QFileDialog):  # type: ignore[misc]
    """Gives what a test has chosen; as PythonQt it gives a path, and no filter beside it."""

    chosen: list[str] = []  # noqa: RUF012 - one list for all dialogs

    @classmethod
    def _next(cls, *_: Any) -> str:
        return cls.chosen.pop(0) if cls.chosen else ""

    getOpenFileName = getSaveFileName = getExistingDirectory = _next  # noqa: N815


class UiLoader(QtUiTools.QUiLoader):
    """Loads .ui files with our classes in place of Qt's, CTK's and MRML's."""

    widgets: dict[str, Any] = {}  # noqa: RUF012 - filled by mrml_widgets

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        """What the loader calls for each widget."""
        known = self.widgets.get(class_name)
        if known is None:
            known = getattr(ctk if class_name.startswith("ctk") else qt, class_name)
        widget = known(parent)
        widget.setObjectName(name)
        return widget


def install() -> None:
    """Make ``import qt`` and ``import ctk`` find these modules."""
    ctk.ctkCollapsibleButton = _CollapsibleButton
    ctk.ctkMessageBox = _MessageBox
    qt.QUiLoader = UiLoader
    qt.QFileDialog = _FileDialog
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
