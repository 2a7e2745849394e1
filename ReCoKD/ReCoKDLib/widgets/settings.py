"""What the panel remembers between sessions, in Slicer's settings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import qt

_FOLDERS, _DEVICE, _STUDENT = "ReCoKD/StudentFolders", "ReCoKD/Device", "ReCoKD/Student"
_ENGINE, _PRECISION, _MEMORY = "ReCoKD/Engine", "ReCoKD/Precision", "ReCoKD/MemoryGB"
_DATASET, _IMPORTED_FROM = "ReCoKD/TrainingData", "ReCoKD/ImportedFrom"
_TRAINING_CASES, _TRAINING_OUTPUT = "ReCoKD/TrainingCases", "ReCoKD/TrainingOutput"

# Each with its default first.
DEVICES = ("auto", "cpu", "cuda", "mps")
ENGINES = ("auto", "torch", "openvino", "onnxruntime")
PRECISIONS = ("f32", "auto", "bf16")


class Settings:
    """Typed access to a ``QSettings``. What cannot be written is kept for this session.

    Args:
        store: ``slicer.app.userSettings()``.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._unsaved: dict[str, str] = {}

    @property
    def student_folders(self) -> list[Path]:
        """Folders that the user added to look for students in."""
        # JSON, because a QSettings gives a list of one entry back as the entry.
        try:
            found = json.loads(self._text(_FOLDERS) or "[]")
            return [Path(folder) for folder in found if isinstance(folder, str)]
        except (ValueError, TypeError):
            return []

    def set_student_folders(self, folders: list[Path]) -> bool:
        """Keep the folders; False if they are forgotten when Slicer is closed."""
        return self._keep(_FOLDERS, json.dumps([str(folder) for folder in folders]))

    @property
    def device(self) -> str:
        """Where students compute."""
        return self._one_of(DEVICES, _DEVICE)

    def set_device(self, device: str) -> bool:
        """Keep it."""
        return self._keep(_DEVICE, device)

    @property
    def engine(self) -> str:
        """What runs their networks."""
        return self._one_of(ENGINES, _ENGINE)

    def set_engine(self, engine: str) -> bool:
        """Keep it."""
        return self._keep(_ENGINE, engine)

    @property
    def precision(self) -> str:
        """In what they compute."""
        return self._one_of(PRECISIONS, _PRECISION)

    def set_precision(self, precision: str) -> bool:
        """Keep it."""
        return self._keep(_PRECISION, precision)

    @property
    def memory(self) -> float:
        """GB that a run may take; 0 sets no bound."""
        try:
            memory = float(self._text(_MEMORY) or 0)
        except ValueError:
            return 0.0
        return memory if 0 < memory < math.inf else 0.0

    def set_memory(self, memory: float) -> bool:
        """Keep it."""
        return self._keep(_MEMORY, f"{memory:g}")

    def computing(self) -> dict[str, Any]:
        """How students compute: arguments of ``ReCoKDLib.segment.segment``."""
        return {
            "device": self.device,
            "engine": self.engine,
            "precision": self.precision,
            "memory": self.memory or None,
        }

    @property
    def student(self) -> str:
        """The student chosen last."""
        return self._text(_STUDENT)

    def set_student(self, name: str) -> bool:
        """Keep it."""
        return self._keep(_STUDENT, name)

    @property
    def dataset(self) -> str:
        """The folder that corrected cases were added to."""
        return self._text(_DATASET)

    def set_dataset(self, folder: str) -> bool:
        """Keep it."""
        return self._keep(_DATASET, folder)

    @property
    def imported_from(self) -> str:
        """The folder that a student was imported from."""
        return self._text(_IMPORTED_FROM)

    def set_imported_from(self, folder: str) -> bool:
        """Keep it."""
        return self._keep(_IMPORTED_FROM, folder)

    @property
    def training_cases(self) -> str:
        """The folder with the cases of the last training."""
        return self._text(_TRAINING_CASES)

    def set_training_cases(self, folder: str) -> bool:
        """Keep it."""
        return self._keep(_TRAINING_CASES, folder)

    @property
    def training_output(self) -> str:
        """The folder of the last training."""
        return self._text(_TRAINING_OUTPUT)

    def set_training_output(self, folder: str) -> bool:
        """Keep it."""
        return self._keep(_TRAINING_OUTPUT, folder)

    def _one_of(self, known: tuple[str, ...], key: str) -> str:
        """The first of them where nothing, or nothing that is known, was kept."""
        kept = self._text(key)
        return kept if kept in known else known[0]

    def _text(self, key: str) -> str:
        if key in self._unsaved:
            return self._unsaved[key]
        value = self._store.value(key)
        return value if isinstance(value, str) else ""

    def _keep(self, key: str, text: str) -> bool:
        if self._text(key) == text:
            return key not in self._unsaved
        self._unsaved[key] = text
        if not self._store.isWritable():
            return False
        self._store.setValue(key, text)
        self._store.sync()
        if self._store.status() != qt.QSettings.NoError:
            return False
        del self._unsaved[key]
        return True
