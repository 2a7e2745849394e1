"""The command line that a Slicer Execution Model description stands for.

The module's .xml is the only list of parameters: Slicer makes its panel from it, and this its parser. ctk-cli's own
parser is not used because it wants a value after boolean flags, which Slicer does not give.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TYPES: dict[str, Callable[[str], Any]] = {
    "string": str,
    "string-enumeration": str,
    "integer": int,
    "integer-enumeration": int,
    "double": float,
    "float": float,
    "file": Path,
    "directory": Path,
}


class _PrintXml(argparse.Action):
    """``--xml``: how Slicer asks a command-line module for its description."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(Path(str(self.const)).read_text(encoding="utf-8"))
        parser.exit()


def make_parser(description: Path) -> argparse.ArgumentParser:
    """A parser for the parameters in the .xml file ``description``.

    Values come under the parameters' names; files and directories as :class:`~pathlib.Path`, None where empty.
    """
    root = ElementTree.parse(description).getroot()
    parser = argparse.ArgumentParser("recokd-training", description=_text(root, "description"))
    parser.add_argument("--xml", nargs=0, action=_PrintXml, const=str(description), help="print the description")
    parser.add_argument("--version", action="version", version=_text(root, "version"))
    for parameters in root.iter("parameters"):
        group = parser.add_argument_group(_text(parameters, "label"), _text(parameters, "description"))
        for parameter in parameters:
            if parameter.find("longflag") is not None:
                _add(group, parameter)
    return parser


def _text(element: ElementTree.Element, tag: str) -> str:
    return " ".join((element.findtext(tag) or "").split())


def _add(group: argparse._ArgumentGroup, parameter: ElementTree.Element) -> None:
    flag, name = _text(parameter, "longflag"), _text(parameter, "name")
    options: dict[str, Any] = {"dest": name, "help": _text(parameter, "description").replace("%", "%%")}
    if parameter.tag == "boolean":
        group.add_argument(flag, action="store_true", **options)
        return
    kind = _TYPES[parameter.tag]
    default = parameter.findtext("default") or ""
    options["default"] = kind(default) if default else (None if kind is Path else "")
    choices = [kind(element.text or "") for element in parameter.findall("element")]
    if choices:
        options["choices"] = choices
    else:
        options["metavar"] = parameter.tag.upper()
    constraints = parameter.find("constraints")
    if constraints is not None:
        options["type"] = _within(kind, constraints.findtext("minimum"), constraints.findtext("maximum"))
    else:
        options["type"] = kind
    if parameter.get("multiple") == "true":
        options |= {"action": "append", "default": []}
    group.add_argument(flag, **options)


def _within(kind: Callable[[str], Any], minimum: str | None, maximum: str | None) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if (minimum is not None and value < kind(minimum)) or (maximum is not None and value > kind(maximum)):
            raise argparse.ArgumentTypeError(f"{text} is outside {minimum or '-∞'} ... {maximum or '∞'}")
        return value

    parse.__name__ = getattr(kind, "__name__", "value")
    return parse
