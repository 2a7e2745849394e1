"""The rules of the house, read from the source: who may import whom, and what must stay light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LIB = REPOSITORY / "ReCoKD" / "ReCoKDLib"
MODULES = ("ReCoKD", "ReCoKDTraining", "SegmentEditorReCoKD")
TRAINING_LIB = REPOSITORY / "ReCoKDTraining" / "ReCoKDTrainingLib"

# What Slicer itself loads.
DOORS = {
    "ReCoKD": REPOSITORY / "ReCoKD" / "ReCoKD.py",
    "SegmentEditorReCoKD": REPOSITORY / "SegmentEditorReCoKD" / "SegmentEditorReCoKD.py",
    "SegmentEditorEffect": REPOSITORY / "SegmentEditorReCoKD" / "SegmentEditorReCoKDLib" / "SegmentEditorEffect.py",
}
# What Slicer's start-up and the panel's list of students touch: it loads nothing beyond numpy.
START_UP = ("__init__", "errors", "files", "volume", "labels", "plan", "card", "package", "students")
HEAVY = ("torch", "monai", "SimpleITK", "vtk", "vtkmodules", "safetensors", "scipy", "skimage", "matplotlib")


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported(tree: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """Full names of all imported modules and whether the import runs when the file is loaded.

    ``package`` is the dotted package of the file, for relative imports. Imports under ``if TYPE_CHECKING``
    never run and are left out; those given as a string to ``import_module`` or ``__import__`` count.
    """

    def visit(node: ast.AST, at_load: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
            yield base, at_load
            yield from ((f"{base}.{alias.name}", at_load) for alias in node.names)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), at_load
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.orelse:
                yield from visit(statement, at_load)
            return
        inside = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(tree, True)


def imports_of(path: Path, root: Path) -> list[tuple[str, bool]]:
    package = ".".join(path.relative_to(root).parts[:-1])
    return list(imported(ast.parse(path.read_text(encoding="utf-8")), package))


def offenders(files: list[Path], root: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.name} imports {name}"
        for path in files
        for name, _ in imports_of(path, root)
        if name.split(".")[0] in forbidden
    ]


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import hidden
else:
    import shown
import a.b
from . import near
from ..up import thing
def later():
    import c
    importlib.import_module("d")
class Body:
    import e
"""
    found = set(imported(ast.parse(source), "Lib.sub"))
    assert {("shown", True), ("a.b", True), ("Lib.sub.near", True), ("Lib.up", True), ("e", True)} <= found
    assert {("c", False), ("d", False)} <= found
    assert "hidden" not in {name for name, _ in found}


def test_library_does_not_import_training() -> None:
    assert sources(LIB)
    assert offenders(sources(LIB), LIB.parent, ("ReCoKDTrainingLib", "ReCoKDTraining")) == []


def test_only_mrml_imports_slicer() -> None:
    files = [path for path in sources(LIB) if LIB / "mrml" not in path.parents] + sources(TRAINING_LIB)
    assert offenders(files, REPOSITORY, ("slicer",)) == []


def test_only_widgets_import_qt_and_ctk() -> None:
    files = [path for path in sources(LIB) if LIB / "widgets" not in path.parents] + sources(TRAINING_LIB)
    assert offenders(files, REPOSITORY, ("qt", "ctk", "PythonQt", "PySide6", "PyQt5", "PyQt6")) == []


def own_file(name: str) -> Path | None:
    """The file of a module of ReCoKDLib, None for what is no module (a class, another library)."""
    path = LIB.parent.joinpath(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if name.startswith("ReCoKDLib") and file.is_file()), None)


@pytest.mark.parametrize("name", ["ReCoKD", "SegmentEditorReCoKD", "SegmentEditorEffect", *START_UP])
def test_start_up_files_load_only_light_modules(name: str) -> None:
    """The file and all of ours that it loads, read without running them."""
    start = DOORS.get(name, LIB / f"{name}.py")
    light = {*sys.stdlib_module_names, "numpy", "ReCoKDLib"}
    reached, pending, heavy = set[Path](), [start], []
    while pending:
        path = pending.pop()
        reached.add(path)
        root = LIB.parent if LIB in path.parents else path.parent
        loaded = [module for module, at_load in imports_of(path, root) if at_load]
        # Slicer has loaded these before it loads a module.
        allowed = light | {"slicer", "qt", "ctk", "vtk", "SegmentEditorEffects"} if path in DOORS.values() else light
        heavy += [f"{relative(path)}: {module}" for module in loaded if module.split(".")[0] not in allowed]
        files = {file for module in loaded if (file := own_file(module)) is not None}
        pending += files - reached
    assert heavy == []


def test_importing_the_start_up_modules_loads_nothing_heavy() -> None:
    modules = ", ".join(f"ReCoKDLib.{name}" for name in START_UP if name != "__init__")
    run = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules, sep=chr(10))"],
        env={**os.environ, "PYTHONPATH": str(LIB.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert "ReCoKDLib.volume" in loaded
    assert sorted(loaded & set(HEAVY)) == []


@pytest.mark.parametrize("path", [path for name in MODULES for path in sources(REPOSITORY / name)], ids=relative)
def test_annotations_are_not_evaluated(path: Path) -> None:
    """So that annotations may use today's syntax and names that are only imported for the type checker."""
    names = [name for name, _ in imported(ast.parse(path.read_text(encoding="utf-8")), "")]
    assert "__future__.annotations" in names
