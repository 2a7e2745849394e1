"""Packages inside Slicer: asked for at first use, through the PyTorch extension, never against Slicer's own."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ReCoKDLib.errors import MissingDependencyError
from ReCoKDLib.mrml import dependencies
from ReCoKDLib.mrml.dependencies import constraints_text, ensure_dependencies, missing_packages, read_requirements


class Slicer(types.ModuleType):
    """Stands for the application; remembers what was asked of it."""

    def __init__(self, versions: dict[str, str], agrees: bool = True, with_packaging: bool = True) -> None:
        super().__init__("slicer")
        self.versions = versions
        self.agrees = agrees
        self.asked: list[str] = []
        self.installed: list[str] = []
        self.offline = False
        self.constraints = ""
        self.app, self.mrmlScene, self.vtkMRMLScene = object(), object(), object
        self.util = types.SimpleNamespace(pip_install=self.pip_install, confirmOkCancelDisplay=self.confirm)
        if with_packaging:
            self.packaging = types.ModuleType("slicer.packaging")
            self.packaging.load_requirements = lambda path: read_requirements(Path(path))  # type: ignore[attr-defined]
            self.packaging.pip_ensure = self.pip_ensure  # type: ignore[attr-defined]

    def confirm(self, text: str, windowTitle: str) -> bool:
        self.asked.append(text)
        return self.agrees

    def pip_ensure(self, requirements: list[str], constraints: str, requester: str, prompt_install: bool) -> None:
        assert not prompt_install  # asked already
        self.installed.append(f"{requester}: {requirements}")
        if self.offline:
            raise RuntimeError("Command returned non-zero exit status 1")
        self._install(missing_packages(requirements), constraints)

    def pip_install(self, arguments: list[str]) -> None:
        assert arguments[0] == "--constraint"
        self._install(arguments[2:], arguments[1])

    def _install(self, requirements: list[str], constraints: str) -> None:
        self.constraints = Path(constraints).read_text(encoding="utf-8")
        for requirement in requirements:
            self.versions[requirement.partition(">=")[0]] = requirement.partition(">=")[2] or "1"


OWN = {"numpy": "2.0.1", "SimpleITK": "2.4.0", "packaging": "24.0"}
NEEDED = ["scipy>=1.11", "safetensors>=0.4.3"]


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "für Slicer" / "requirements.txt"
    path.parent.mkdir()
    path.write_text("# a comment\n\n" + "\n".join(NEEDED) + "\n--option\n", encoding="utf-8")
    return path


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a Slicer with these packages the one that is running."""

    def make(installed: dict[str, str], torch_extension: bool = True, **options: Any) -> Slicer:
        application = Slicer(dict(installed), **options)
        monkeypatch.setattr(dependencies, "_version", application.versions.get)
        monkeypatch.setitem(sys.modules, "slicer", application)
        monkeypatch.setitem(sys.modules, "slicer.packaging", getattr(application, "packaging", None))

        class PyTorchUtilsLogic:
            def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> Any:
                assert not askConfirmation  # asked already
                application.installed.append(f"torch{torchVersionRequirement}")
                if application.offline:
                    raise ValueError("no answer from download.pytorch.org")
                application.versions["torch"] = "2.6.0+cu124"
                return object()

        extension = types.ModuleType("PyTorchUtils")
        extension.PyTorchUtilsLogic = PyTorchUtilsLogic  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "PyTorchUtils", extension if torch_extension else None)
        return application

    return make


def test_what_is_listed(repository: Path) -> None:
    """The shipped list leaves Slicer's own packages and torch alone, and holds what a run imports."""
    listed = {line.partition(">=")[0] for line in read_requirements(repository / "ReCoKD/Resources/requirements.txt")}
    assert listed == {"dynamic-network-architectures", "matplotlib", "safetensors", "scikit-image", "scipy"}
    assert not listed & set(dependencies.KEPT)


def test_nothing_happens_when_all_is_there(start: Any, requirements: Path) -> None:
    application = start({**OWN, "torch": "2.6.0", "scipy": "1.14", "safetensors": "0.5"})
    ensure_dependencies(requirements)
    assert application.asked == []


def test_torch_first_then_the_rest(start: Any, requirements: Path) -> None:
    application = start(OWN)
    ensure_dependencies(requirements)
    assert application.installed == ["torch>=2.6", f"ReCoKD: {NEEDED}"]
    (asked,) = application.asked  # once, for all, with the sizes
    assert "- torch>=2.6 (0.2 GB, with support for NVIDIA graphics cards 2 to 3 GB)" in asked
    assert "- scipy>=1.11 (40 MB)" in asked
    assert "torch==2.6.0\n" in application.constraints  # without the label +cu124, which no index knows
    assert "numpy==2.0.1\n" in application.constraints
    assert "SimpleITK==2.4.0\n" in application.constraints
    assert {"scipy", "safetensors"} <= set(application.versions)


def test_before_slicer_5_11(start: Any, requirements: Path) -> None:
    application = start({**OWN, "torch": "2.6.0"}, with_packaging=False)
    ensure_dependencies(requirements)
    assert len(application.asked) == 1
    assert "- scipy>=1.11 (40 MB)\n- safetensors>=0.4.3 (below 1 MB)" in application.asked[0]
    assert "numpy==2.0.1\n" in application.constraints


def test_an_old_version_counts_as_missing(start: Any, requirements: Path) -> None:
    application = start({**OWN, "torch": "2.6.0", "scipy": "1.9.0", "safetensors": "0.5"})
    ensure_dependencies(requirements)
    assert application.versions["scipy"] == "1.11"


@pytest.mark.parametrize("installed", [OWN, {**OWN, "torch": "2.6.0"}], ids=["torch", "the rest"])
@pytest.mark.parametrize("with_packaging", [True, False])
def test_no_is_taken_for_an_answer(
    start: Any, requirements: Path, installed: dict[str, str], with_packaging: bool
) -> None:
    application = start(installed, agrees=False, with_packaging=with_packaging)
    with pytest.raises(MissingDependencyError, match="installed.*Try again"):
        ensure_dependencies(requirements)
    assert application.versions == installed


def test_without_the_pytorch_extension(start: Any, requirements: Path) -> None:
    start(OWN, torch_extension=False)
    with pytest.raises(MissingDependencyError, match="PyTorch extension. Install it with the Extensions Manager"):
        ensure_dependencies(requirements)


def test_an_old_torch_is_not_touched(start: Any, requirements: Path) -> None:
    application = start({**OWN, "torch": "2.1.0+cpu"})
    with pytest.raises(MissingDependencyError, match=r"PyTorch 2\.1\.0\+cpu is installed; ReCoKD needs torch>=2\.6"):
        ensure_dependencies(requirements)
    assert application.asked == []


@pytest.mark.parametrize("installed", [OWN, {**OWN, "torch": "2.6.0"}], ids=["torch", "the rest"])
def test_offline_is_said_in_words(start: Any, requirements: Path, installed: dict[str, str]) -> None:
    application = start(installed)
    application.offline = True
    with pytest.raises(MissingDependencyError, match="could not be installed .*connected to the internet"):
        ensure_dependencies(requirements)
    assert application.versions == installed


def test_a_failed_installation_is_said(start: Any, requirements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = start({**OWN, "torch": "2.6.0"})
    monkeypatch.setattr(application.packaging, "pip_ensure", lambda *a, **k: None)  # as in Slicer's testing mode
    with pytest.raises(MissingDependencyError, match="could not be installed: scipy>=1.11, safetensors"):
        ensure_dependencies(requirements)


def test_outside_slicer_nothing_is_installed(slicer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(slicer, "app", raising=False)
    path = tmp_path / "requirements.txt"
    path.write_text("no-such-package>=1\n", encoding="utf-8")
    with pytest.raises(MissingDependencyError, match=r"missing: no-such-package>=1.*pip install"):
        ensure_dependencies(path)


def test_constraints_name_only_what_is_there() -> None:
    text = constraints_text(("numpy", "no-such-package"))
    assert text.startswith("numpy==")
    assert text.count("\n") == 1
