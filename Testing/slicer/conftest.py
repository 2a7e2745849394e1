"""Fixtures of the tests that need Slicer's MRML: a clean scene, label sets, comparison in the world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.volume import Volume

Points = npt.NDArray[np.float64]
CODE = "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^{}^{}~^^~Anatomic codes~^^~^^"


@pytest.fixture
def slicer() -> Iterator[Any]:
    """Slicer's Python package with an empty scene."""
    pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')
    from ReCoKDLib.mrml.host import ensure_slicer

    module = ensure_slicer()
    module.mrmlScene.Clear(0)
    yield module
    module.mrmlScene.Clear(0)


@pytest.fixture(scope="session")
def _one_host() -> Any:
    pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')
    pytest.importorskip("PySide6", reason="needs PySide6-Essentials")
    from slicer_host import Host

    return Host()


@pytest.fixture
def host(_one_host: Any, slicer: Any, tmp_path: Path) -> Any:
    """The Qt test host with an empty scene and no message shown yet."""
    _one_host.messages.clear()
    _one_host.samples.clear()
    _one_host.answers.clear()
    _one_host.chosen_files.clear()
    _one_host.use_settings(tmp_path / "settings.ini")
    return _one_host


@pytest.fixture
def recokd(host: Any, repository: Path) -> Any:
    """Our module, loaded as Slicer loads it."""
    return host.load(repository / "ReCoKD" / "ReCoKD.py")


@pytest.fixture
def students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched for students; beside it only the shipped ones are found."""
    folder = tmp_path / "students, große"
    folder.mkdir()
    monkeypatch.setenv("RECOKD_STUDENTS", str(folder))
    for variable in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return folder


@pytest.fixture
def blob_student(students: Path, two_blobs: Callable[..., tuple[Volume, Volume]], blob_labels: LabelSet) -> str:
    """Name of an installed student that segments ``two_blobs``."""
    from threshold_student import threshold_package

    threshold_package(students / "blobs.recokd.zip", *two_blobs(), blob_labels)
    return "blobs-x4"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, host: Any) -> type:
    """Runs of the panel happen here and at once; ``runs.hold`` keeps them waiting, ``runs.started`` lists them."""
    from quick_run import QuickRun
    from ReCoKDLib.widgets import process

    monkeypatch.setattr(process, "BackgroundRun", QuickRun)
    monkeypatch.setattr(QuickRun, "hold", False)
    monkeypatch.setattr(QuickRun, "started", [])
    return QuickRun


@pytest.fixture
def panel(host: Any, recokd: Any, students: Path, runs: type) -> Iterator[Any]:
    """The module's panel, opened; students that a test needs must be there before."""
    widget = host.open(recokd)
    yield widget
    widget.setParameterNode(None)
    widget.cleanup()


@pytest.fixture
def picture_of(host: Any, repository: Path) -> Callable[[str], None]:
    """A function that writes what the window shows to Testing/output, for people to look at."""

    def save(name: str) -> None:
        folder = repository / "Testing" / "output"
        folder.mkdir(exist_ok=True)
        host.run_for(0.05)
        assert host.main_window.grab().save(str(folder / f"{name}.png"))

    return save


@pytest.fixture
def blob_labels() -> LabelSet:
    """Names of the two blobs of ``two_blobs``, with colours and codes."""
    return LabelSet(
        (
            Segment("Anterior", 1, (1,), (0.9, 0.2, 0.1), CODE.format("1000001", "Anterior")),
            Segment("Größe hinten", 2, (2,), (0.1, 0.4, 0.8), CODE.format("1000002", "Posterior")),
        )
    )


@pytest.fixture
def world_points() -> Callable[[Volume, int], Points]:
    """A function that gives the RAS places (n, 3) of a label's voxels."""

    def points(labels: Volume, value: int) -> Points:
        k, j, i = np.nonzero(labels.array[0] == value)
        homogeneous = np.stack((i, j, k, np.ones_like(i))).astype(np.float64)
        places: Points = (labels.ijk_to_ras @ homogeneous)[:3].T
        return places

    return points


@pytest.fixture
def same_places() -> Callable[[Points, Points], bool]:
    """Whether two sets of RAS points are the same up to 0.001 mm, in whatever order."""

    def same(first: Points, second: Points) -> bool:
        from scipy.spatial import cKDTree

        if len(first) != len(second) or not len(first):
            return False
        distances, partners = cKDTree(first).query(second)
        return bool(distances.max() < 1e-3) and len(set(partners.tolist())) == len(first)

    return same


@pytest.fixture
def effect_module(host: Any, recokd: Any, repository: Path, blob_student: str, runs: type) -> Any:
    """The hidden module, loaded and registered as Slicer does at its start; runs happen here and at once."""
    module = host.load(repository / "SegmentEditorReCoKD" / "SegmentEditorReCoKD.py")
    host.app.complete_startup()
    return module


@pytest.fixture
def case(
    host: Any, slicer: Any, effect_module: Any, two_blobs: Callable[..., tuple[Volume, Volume]], blob_labels: LabelSet
) -> Iterator[Callable[..., Any]]:
    """A function that makes an editor in which our effect is in use; what is drawn at first may be changed."""
    from effect_user import Case

    made: list[Case] = []

    def make(drawn: Callable[[Any], None] | None = None, ijk_to_ras: Any = None) -> Case:
        image, labels = two_blobs(ijk_to_ras)
        array = labels.array.copy()
        if drawn is not None:
            drawn(array[0])
        made.append(Case(slicer, image, labels.with_array(array), blob_labels))
        return made[-1]

    yield make
    for each in made:
        each.effect.cleanup()
