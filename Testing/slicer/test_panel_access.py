"""The panel for everybody: hints, the keyboard, any colours, any language."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from panel_user import choose, segment
from ReCoKDLib.mrml.volumes import volume_to_node

SECTIONS = ("Student", "Input", "Segment", "Result", "Doubt", "Correct", "HandOver")
TRAINING_SECTIONS = ("TrainCases", "Train", "TrainResult")
KINDS = ("QAbstractButton", "QComboBox", "QAbstractSpinBox", "QLineEdit", "QListWidget", "QTableWidget", "QProgressBar")


def controls(host: Any, panel: Any) -> list[Any]:
    named = [widget for widget in vars(panel.ui).values() if any(widget.inherits(kind) for kind in KINDS)]
    # Parts of other widgets, such as the line in a spin box, have names of Qt's own.
    return [widget for widget in named if not widget.objectName.startswith("qt_")]


def test_every_control_has_a_hint_and_can_be_reached_by_key(host: Any, panel: Any) -> None:
    found = controls(host, panel)
    assert len(found) > 30
    assert [widget.objectName for widget in found if not widget.toolTip] == []
    reached = [widget for widget in found if not widget.inherits("QProgressBar")]
    assert [widget.objectName for widget in reached if not widget.focusPolicy & host.qt.Qt.TabFocus] == []


def walk(host: Any, first: Any) -> tuple[list[str], list[str]]:
    """Names of the widgets that Tab comes to, and of the sections in the order of their first one."""
    host.main_window.activateWindow()
    first.setFocus()
    names: list[str] = []
    sections: list[str] = []
    focused = host.app.focusWidget()
    # By the property: what Qt itself made, such as the bar of tabs, has no attributes of that kind.
    while focused is not None and focused.property("objectName") not in names:
        names.append(focused.property("objectName"))
        above = focused
        while above is not None and not above.property("objectName").endswith("Section"):
            above = above.parentWidget()
        if above is not None and above.property("objectName") not in sections:
            sections.append(above.property("objectName"))
        host.press(focused, "Tab")
        focused = host.app.focusWidget()
    return names, sections


def unreached(host: Any, panel: Any, names: list[str]) -> list[str]:
    able = [w for w in controls(host, panel) if w.isVisible() and w.enabled and not w.inherits("QProgressBar")]
    return sorted({widget.objectName for widget in able} - set(names))


def test_tab_goes_from_top_to_bottom_and_comes_everywhere(
    host: Any, two_blobs: Any, blob_student: str, panel: Any
) -> None:
    """After a run, when all sections are there; within a row it goes from left to right."""
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    segment(host, panel)
    for part in ("options", "handOver"):
        getattr(panel.ui, f"{part}CollapsibleButton").collapsed = False
    host.run_for(0.1)
    names, sections = walk(host, panel.ui.studentComboBox)
    assert sections == [f"{name}Section" for name in SECTIONS]
    assert unreached(host, panel, names) == []


def test_tab_goes_through_the_page_of_training(host: Any, two_blobs: Any, panel: Any, tmp_path: Path) -> None:
    volume_to_node(two_blobs()[0])
    panel.ui.pagesTabWidget.setCurrentIndex(1)
    panel.panel.train_result._folder = tmp_path  # as after a training, whatever updates come
    panel.panel.update()
    panel.ui.trainLogCollapsibleButton.collapsed = False
    host.run_for(0.1)
    names, sections = walk(host, panel.ui.trainSourceComboBox)
    assert sections == [f"{name}Section" for name in TRAINING_SECTIONS]
    assert unreached(host, panel, names) == []


def test_buttons_without_text_have_a_name_for_screen_readers(host: Any, panel: Any) -> None:
    bare = [
        widget
        for widget in controls(host, panel)
        if widget.inherits("QToolButton") and not widget.text and not widget.accessibleName
    ]
    assert [widget.objectName for widget in bare] == []


def test_no_letter_is_used_twice_in_a_section(repository: Path) -> None:
    for path in sorted((repository / "ReCoKD" / "Resources" / "UI").glob("*.ui")):
        texts = [element.text or "" for element in ElementTree.parse(path).iter("string")]
        letters = [text[text.index("&") + 1].casefold() for text in texts if "&" in text]
        assert len(letters) == len(set(letters)), path.name


def test_no_colour_is_fixed(repository: Path) -> None:
    """What is readable in the light style is readable in the dark one: widgets have the style's colours."""
    for path in sorted((repository / "ReCoKD" / "Resources" / "UI").glob("*.ui")):
        text = path.read_text(encoding="utf-8")
        assert "styleSheet" not in text, path.name
        assert "palette" not in text, path.name
    for path in sorted((repository / "ReCoKD" / "ReCoKDLib" / "widgets").glob("*.py")):
        assert "setStyleSheet" not in path.read_text(encoding="utf-8"), path.name


def test_texts_are_translatable(repository: Path) -> None:
    """What widgets show goes through ``_``: no text is given to a widget, or raised, as it is."""
    shown = {"text", "toolTip", "placeholderText"}
    calls = {"say", "_say", "show_status", "InputError", "OutputError", "Cancelled", "QLabel", "QPushButton", "addRow"}
    bare = []
    for path in sorted((repository / "ReCoKD" / "ReCoKDLib" / "widgets").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value:
                names = {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
                bare += [f"{path.name}:{node.lineno}" for _ in names & shown]
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in calls:
                given = [each for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                bare += [f"{path.name}:{node.lineno}" for each in given if each.value]
    assert bare == []


def test_every_icon_is_drawn(host: Any, repository: Path) -> None:
    for path in sorted((repository / "ReCoKD" / "Resources" / "Icons").glob("*.svg")):
        assert not host.qt.QIcon(str(path)).pixmap(16, 16).isNull(), path.name
