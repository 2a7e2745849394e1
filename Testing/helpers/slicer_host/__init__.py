"""A test host for scripted modules: Slicer's MRML from slicer-core, Qt from PySide6, no application.

It proves that our module and its .ui file work together and on real nodes. What it cannot prove is what PythonQt
and the application do differently: that needs Slicer.

With ``RECOKD_SLICER_PYTHON`` naming a folder with Slicer's own ``Base/Python/slicer`` files, those are used for
``slicer.parameterNodeWrapper``, ``slicer.ScriptedLoadableModule`` and ``slicer.i18n``; else small stand-ins.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "RECOKD_SLICER_PYTHON"


class Application:
    """As much of ``slicer.app`` as modules and ``slicer.util`` ask for."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._at_startup: list[Callable[[], None]] = []
        self.settings: Any = None
        self.applicationName = "Test host"
        self.windows: list[Any] = []

    def topLevelWidgets(self) -> list[Any]:
        """The host's own. PySide's list wraps every widget that there is, also those that are being destroyed, which
        ended test processes with a call of address 0."""
        return self.windows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._application, name)

    def connect(self, signal: str, slot: Callable[..., Any]) -> None:
        """Only ``startupCompleted()`` is ever sent."""
        if signal == "startupCompleted()":
            self._at_startup.append(slot)

    def disconnect(self, signal: str, slot: Callable[..., Any]) -> None:
        """Nothing to undo."""

    def complete_startup(self) -> None:
        """Tell the modules that the application is up."""
        for slot in self._at_startup:
            slot()

    def moduleManager(self) -> Application:
        """Modules connect to its signals, which are never sent."""
        return self

    def testingEnabled(self) -> bool:
        """Message boxes are to be opened, so that tests see them."""
        return False

    def userSettings(self) -> Any:
        """A QSettings in a file of the test."""
        return self.settings

    def translate(self, context: str, text: str) -> str:
        """English."""
        return text


class SampleDataLogic:
    """Remembers what modules offer as sample data."""

    sources: list[dict[str, Any]] = []  # noqa: RUF012 - one list, as in Slicer

    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        """The heading of a module's samples."""

    @classmethod
    def registerCustomSampleDataSource(cls, **source: Any) -> None:
        """One sample."""
        cls.sources.append(source)


class Host:
    """A started host; there is one for each process."""

    def __init__(self) -> None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        from ReCoKDLib.mrml.host import ensure_slicer

        self.slicer: Any = ensure_slicer()
        from PySide6.QtWidgets import QApplication

        from . import qt_module

        qt_module.install()
        self.qt = qt_module.qt
        self.messages: list[str] = qt_module._MessageBox.shown
        self.answers: list[Any] = qt_module._MessageBox.answers
        self.chosen_files: list[str] = qt_module._FileDialog.chosen
        self.app = Application(QApplication.instance() or self.qt.QApplication(["test host"]))
        self.slicer.app = self.app
        from . import mrml_widgets

        mrml_widgets.install()
        from . import editor

        editor.install()
        if folder := os.environ.get(FOLDER_VARIABLE):
            self.slicer.__path__.append(folder)
        else:
            from . import scripted

            scripted.install()
        self._folder = tempfile.TemporaryDirectory(prefix="recokd-host-")
        self.use_settings(Path(self._folder.name) / "settings.ini")
        self.slicer.util.loadVolume = self._load_volume  # the real ones ask the application
        self.slicer.util.loadSegmentation = self._load_segmentation
        self.main_window = self.qt.QMainWindow()  # message boxes are opened where there is one
        self.main_window.setObjectName("qSlicerMainWindow")
        self.app.windows.append(self.main_window)
        samples = types.ModuleType("SampleData")
        samples.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
        sys.modules["SampleData"] = samples
        self.samples = SampleDataLogic.sources

    def load(self, path: Path) -> Any:
        """Load a module's file as Slicer does at its start."""
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        description = types.SimpleNamespace(path=str(path))
        setattr(self.slicer.modules, path.stem.lower(), description)
        self.module = getattr(module, path.stem)(description)
        return module

    def _load_volume(self, path: str, properties: dict[str, Any] | None = None) -> Any:
        name = (properties or {}).get("name", Path(path).stem)
        return self._load(path, "vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode", name)

    def _load_segmentation(self, path: str) -> Any:
        return self._load(path, "vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", Path(path).stem)

    def _load(self, path: str, kind: str, storage_kind: str, name: str) -> Any:
        scene = self.slicer.mrmlScene
        node = scene.AddNewNodeByClass(kind, name)
        storage = scene.AddNewNodeByClass(storage_kind)
        storage.SetFileName(path)
        if not storage.ReadData(node):
            raise RuntimeError(f"Failed to load node from file: {path}")
        node.SetAndObserveStorageNodeID(storage.GetID())
        return node

    def use_settings(self, path: Path) -> None:
        """Keep the application's settings in this file."""
        self.app.settings = self.qt.QSettings(str(path), self.qt.QSettings.IniFormat)

    def open(self, module: Any) -> Any:
        """Open a module's panel, as the user does."""
        parent = self.slicer.qMRMLWidget()
        parent.setLayout(self.qt.QVBoxLayout())
        widget = getattr(module, f"{module.__name__}Widget")(parent)
        widget.setup()
        widget.enter()
        area = self.qt.QScrollArea()
        area.setWidget(parent)
        area.setWidgetResizable(True)
        self.main_window.setCentralWidget(area)
        self.main_window.resize(470, 900)
        self.main_window.show()
        self.run_for(0.05)
        return widget

    def click(self, button: Any) -> None:
        """Press a button with the mouse."""
        from PySide6.QtCore import QPoint, Qt
        from PySide6.QtTest import QTest

        if not self.main_window.isVisible() or button.visibleRegion().isEmpty():
            self.reveal(button)
        # The box of a check box is at its left end; beside its text nothing else answers.
        place = QPoint(8, button.height // 2) if button.inherits("QCheckBox") else QPoint()
        QTest.mouseClick(button, Qt.MouseButton.LeftButton, pos=place)

    def reveal(self, widget: Any) -> None:
        """Unfold and scroll until a widget can be seen."""
        above = widget.parentWidget()
        while above is not None:
            if above.inherits("ctkCollapsibleButton") or hasattr(above, "contentsCollapsed"):
                above.collapsed = False
            if isinstance(above, self.qt.QScrollArea):
                self.run_for(0.02)
                above.ensureWidgetVisible(widget)
            above = above.parentWidget()
        self.run_for(0.02)

    def press(self, widget: Any, key: str, modifiers: str = "") -> None:
        """Press a key on a widget: press(edit, "Delete"), press(window, "Z", "Alt")."""
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        held = Qt.KeyboardModifier.NoModifier
        for modifier in modifiers.split():
            held |= getattr(Qt.KeyboardModifier, f"{modifier}Modifier")
        QTest.keyClick(widget, getattr(Qt.Key, f"Key_{key}"), held)

    def run_for(self, seconds: float) -> None:
        """Let events happen for some time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.app.processEvents()

    def run_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let events happen until a condition holds."""
        until = time.monotonic() + seconds
        while not condition():
            self.app.processEvents()
            assert time.monotonic() < until, "it took too long"
