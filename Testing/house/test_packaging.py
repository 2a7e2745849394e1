"""Every file that the product needs is in the Slicer package and in the wheel, and both run on their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
STUB = REPOSITORY / "Testing" / "helpers" / "slicer_stub"
INSTALLED_MODULES = Path("lib", "Slicer-5.11", "qt-scripted-modules")
INSTALLED_CLIS = Path("lib", "Slicer-5.11", "cli-modules")

# Runs a script as Slicer does and tells where it took its library from. An editable install of this tree
# is put out of sight: it would lend its library to any script.
RUN_CLI = """
import os, runpy, sys
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(sys.modules["ReCoKDTrainingLib"].__file__)
"""


def cmake_list(cmake_file: Path, variable: str) -> list[str]:
    """The entries of ``set(VARIABLE ...)``, with ${MODULE_NAME} filled in."""
    text = re.sub(r"#[^\n]*", "", cmake_file.read_text(encoding="utf-8"))
    values = dict(re.findall(r"set\((\w+)\s+([^)]*)\)", text))
    return [entry.replace("${MODULE_NAME}", values["MODULE_NAME"].strip()) for entry in values[variable].split()]


def files_in(folder: Path) -> set[str]:
    """All files under a folder as posix paths, without caches, build files and hidden files."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != "CMakeLists.txt"
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
    }


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built from a copy in a folder with a space and an umlaut."""
    copy = tmp_path_factory.mktemp("Quellen für ReCoKD")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, copy)
    for name in ("ReCoKD", "ReCoKDTraining"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", copy / "dist")
    built = run(sys.executable, "-m", "pip", "wheel", *options, copy)
    assert built.returncode == 0, built.stderr
    (path,) = (copy / "dist").glob("recokd-*.whl")
    return path


@pytest.fixture(scope="module")
def slicer_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension configured and installed by CMake, with a stub in Slicer's place."""
    beside_python = Path(sys.executable).with_name("cmake.exe" if os.name == "nt" else "cmake")
    cmake = str(beside_python) if beside_python.is_file() else shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake (pip install cmake)")
    if os.name != "nt" and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler: CMake's project() looks for one")
    build = tmp_path_factory.mktemp("build")
    installed = tmp_path_factory.mktemp("Slicer package")
    configured = run(cmake, "-S", REPOSITORY, "-B", build, f"-DSlicer_DIR={STUB}", "-DBUILD_TESTING=ON")
    assert configured.returncode == 0, configured.stderr
    assert (build / "description.txt").read_text(encoding="utf-8").split() == [
        "ReCoKD",
        "PyTorch",
        "Segmentation",
    ]
    done = run(cmake, "--install", build, "--prefix", installed)
    assert done.returncode == 0, done.stderr
    return installed


@pytest.mark.parametrize("name", ["ReCoKD", "SegmentEditorReCoKD"])
def test_cmake_lists_every_file_of_the_module(name: str) -> None:
    module = REPOSITORY / name
    cmake_file = module / "CMakeLists.txt"
    scripts, resources = (cmake_list(cmake_file, f"MODULE_PYTHON_{kind}") for kind in ("SCRIPTS", "RESOURCES"))
    files = files_in(module)
    assert sorted(scripts) == sorted(name for name in files if name.endswith(".py"))
    assert sorted(resources) == sorted(name for name in files if not name.endswith(".py"))


def test_cmake_lists_every_file_of_the_training_library() -> None:
    module = REPOSITORY / "ReCoKDTraining"
    listed = cmake_list(module / "CMakeLists.txt", "MODULE_LIB_PYTHON_SCRIPTS")
    assert sorted(listed) == sorted(files_in(module / "ReCoKDTrainingLib"))
    # The macro for a scripted CLI copies these two and nothing else.
    assert {name for name in files_in(module) if "/" not in name} == {
        "ReCoKDTraining.py",
        "ReCoKDTraining.xml",
    }


def test_slicer_package_holds_all_modules(slicer_package: Path) -> None:
    training = {f"ReCoKDTrainingLib/{name}" for name in files_in(REPOSITORY / "ReCoKDTraining" / "ReCoKDTrainingLib")}
    modules = files_in(REPOSITORY / "ReCoKD") | files_in(REPOSITORY / "SegmentEditorReCoKD") | training
    assert files_in(slicer_package / INSTALLED_MODULES) == modules
    assert files_in(slicer_package / INSTALLED_CLIS) == {"ReCoKDTraining.py", "ReCoKDTraining.xml"}


def test_slicer_package_runs(slicer_package: Path, tmp_path: Path) -> None:
    """The packaged library finds its students, the scripted CLI its library, without the source tree."""
    modules = slicer_package / INSTALLED_MODULES
    students = run(sys.executable, "-m", "ReCoKDLib", "students", cwd=tmp_path, PYTHONPATH=str(modules))
    assert students.returncode == 0, students.stderr
    assert_shipped_students_are_listed(students.stdout)
    script = slicer_package / INSTALLED_CLIS / "ReCoKDTraining.py"
    assert script.read_bytes().startswith(b"#!")  # by these two characters Slicer knows a scripted CLI
    # An installed extension has its folder on PYTHONPATH, a module path added by hand has not.
    for environment in ({"PYTHONPATH": str(modules)}, {"PYTHONPATH": ""}):
        shown = run(sys.executable, "-c", RUN_CLI, script, "--help", cwd=tmp_path, **environment)
        assert shown.returncode == 0, shown.stderr
        assert "--task" in shown.stdout
        assert Path(shown.stdout.splitlines()[-1]).is_relative_to(modules)


def test_pyproject_lists_every_package(project: dict[str, Any]) -> None:
    setuptools = project["tool"]["setuptools"]
    libraries = (REPOSITORY / "ReCoKD" / "ReCoKDLib", REPOSITORY / "ReCoKDTraining" / "ReCoKDTrainingLib")
    packages = {
        ".".join(path.relative_to(library.parent).parent.parts)
        for library in libraries
        for path in library.rglob("*.py")
    }
    assert set(setuptools["packages"]) == packages | {"ReCoKDLib.Resources", "ReCoKDTrainingLib.Resources"}
    for package, folder in setuptools["package-dir"].items():
        assert (REPOSITORY / folder).is_dir(), package


def test_wheel_holds_both_libraries_and_the_resources(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"ReCoKDLib/{name}" for name in files_in(REPOSITORY / "ReCoKD" / "ReCoKDLib")}
    expected |= {f"ReCoKDLib/Resources/{name}" for name in files_in(REPOSITORY / "ReCoKD" / "Resources")}
    training = REPOSITORY / "ReCoKDTraining"
    expected |= {f"ReCoKDTrainingLib/{name}" for name in files_in(training / "ReCoKDTrainingLib")}
    expected |= {f"ReCoKDTrainingLib/Resources/ReCoKDTraining{suffix}" for suffix in (".py", ".xml")}
    assert names == expected


def test_wheel_runs(wheel: Path, tmp_path: Path, project: dict[str, Any]) -> None:
    """Installed from the wheel, the library finds its students and both commands answer."""
    target = tmp_path / "Zielordner für pip"
    installed = run(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", target, wheel)
    assert installed.returncode == 0, installed.stderr
    students = run(sys.executable, "-m", "ReCoKDLib", "students", cwd=tmp_path, PYTHONPATH=str(target))
    assert students.returncode == 0, students.stderr
    assert_shipped_students_are_listed(students.stdout)
    for command, entry in project["project"]["scripts"].items():
        module, function = entry.split(":")
        code = f"import sys, {module} as m; print(m.__file__); sys.exit(m.{function}(['--help']))"
        shown = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target))
        assert shown.returncode == 0, (command, shown.stderr)
        assert Path(shown.stdout.splitlines()[0]).is_relative_to(target), command


def assert_shipped_students_are_listed(listing: str) -> None:
    folder = REPOSITORY / "ReCoKD" / "Resources" / "Students"
    shipped = [path.name.removesuffix(".recokd.zip") for path in folder.glob("*.recokd.zip")]
    shipped += [path.parents[1].name for path in folder.glob("*/configs/metadata.json")]
    assert shipped, "the repository ships no student"
    for name in shipped:
        assert name in listing


def test_extension_description_agrees_with_cmake() -> None:
    """What the Extensions Index asks for: one name, the same dependencies, pictures that are there."""
    cmake = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    name = re.search(r"^project\((\w+)\)", cmake, re.MULTILINE)
    assert name is not None
    description = json.loads((REPOSITORY / "Resources" / f"{name[1]}.json").read_text(encoding="utf-8"))
    meta = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]*)"\)', cmake))
    assert description["build_dependencies"] == meta["DEPENDS"].split()
    assert description["category"] == meta["CATEGORY"]
    assert description["scm_url"] == f"{meta['HOMEPAGE']}.git"
    for key in ("ICONURL", "SCREENSHOTURLS"):
        inside = re.sub(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/", "", meta[key])
        assert (REPOSITORY / inside).is_file(), inside


def test_constraints_pin_what_pyproject_names(project: dict[str, Any]) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split(";")[0].strip().split("==") for line in lines if not line.startswith("#"))
    # One exact version on every platform: no local builds, paths or addresses.
    assert [pin for pin in pins.values() if not re.fullmatch(r"[0-9.]+", pin)] == []
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    for requirement in (requirement for group in groups for requirement in group):
        name, minimum = re.match(r"([\w-]+)[=>]=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        pinned = pins[name.lower()]
        assert [int(part) for part in pinned.split(".")] >= [int(part) for part in minimum.split(".")], name
