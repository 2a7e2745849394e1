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


class _CollapsibleButton(qt.QGroupBox):  # type: ignore[misc]
    """A section with a heading, its `text`."""

    def event(self, event: Any) -> bool:
        """The loader gives the heading as a property that a group box does not have."""
        if event.type() == QtCore.QEvent.Type.DynamicPropertyChange and event.propertyName() == b"text":
            self.setTitle(self.property("text"))
        return bool(super().event(event))


class _MessageBox(qt.QMessageBox):  # type: ignore[misc]
    """Remembers what it would have said, and answers OK."""

    shown: list[str] = []  # noqa: RUF012 - one list for all boxes

    def exec_(self) -> Any:
        """Show nothing: nobody would press its button."""
        self.shown.append(self.text)
        return qt.QMessageBox.Ok


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
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
