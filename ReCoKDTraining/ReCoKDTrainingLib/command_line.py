"""The command line that a Slicer Execution Model description stands for.

The module's .xml is the only list of parameters: Slicer makes its panel from it, and this its parser. ctk-cli's own
parser is not used because it wants a value after boolean flags, which Slicer does not give.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ReCoKDLib.errors import InputError
from ReCoKDLib.files import read_json, write_text

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


# Not of what a run is, but of how it is started or told.
_OF_A_START = ("config", "resume", "resumeAnyway", "progress")


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
    parser.add_argument(
        "--returnparameterfile", type=Path, help="where to write the output parameters, as Slicer asks for them"
    )
    parser.add_argument("--version", action="version", version=_text(root, "version"))
    for parameters in root.iter("parameters"):
        group = parser.add_argument_group(_text(parameters, "label"), _text(parameters, "description"))
        for parameter in parameters:
            if parameter.find("longflag") is not None:
                _add(group, parameter)
    return parser


def parse_arguments(description: Path, argv: Sequence[str] | None = None, **defaults: Any) -> argparse.Namespace:
    """Arguments of the command line, with those of ``--config FILE`` (a run's ``config.json``) where it has none.

    Args:
        description: The .xml that lists the parameters.
        argv: Command line without the program's name; None takes the process's.
        **defaults: For parameters that neither gives, in place of the description's.

    Raises:
        InputError: The file is not JSON, or names what is no parameter.
    """
    parser = make_parser(description)
    parser.set_defaults(**defaults)
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(given)
    if arguments.config is None:
        return arguments
    flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    values = read_json(arguments.config)
    if not isinstance(values, dict):
        raise InputError(f"{arguments.config} is not a JSON object. Give the config.json of a run.")
    first: list[str] = []
    for name, value in values.items():
        if name not in flags:
            raise InputError(f"{arguments.config} names {name!r}, which is no parameter. Remove it.")
        if isinstance(value, list) and getattr(arguments, name):
            continue  # given anew: in place of the file's, not beside them
        # A flag cannot be taken back: what is false or empty is the default.
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                first.append(flags[name])
            elif one is not False and one is not None and one != "":
                first.append(f"{flags[name]}={one}")
    return parser.parse_args([*first, *given])


def configuration(description: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All parameters by name, for ``config.json``, but those of how a run is started."""
    names = [name for name in _names(description, "longflag") if name not in _OF_A_START]
    return {name: getattr(arguments, name) for name in names}


def write_returned(description: Path, path: Path, values: Mapping[str, object]) -> None:
    """Write the output parameters as ``NAME = VALUE`` lines, which Slicer reads back.

    Raises:
        OutputError: The file cannot be written.
    """
    known = _names(description, "channel")
    lines = [f"{name} = {value}\n" for name, value in values.items() if name in known and value is not None]
    write_text(path, "".join(lines), overwrite=True)


def _names(description: Path, tag: str) -> list[str]:
    root = ElementTree.parse(description).getroot()
    return [_text(p, "name") for group in root.iter("parameters") for p in group if p.find(tag) is not None]


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
