"""``recokd inspect`` and ``recokd students``."""

from __future__ import annotations

import argparse
import json


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    command = commands.add_parser("inspect", help="verify a model and print its card")
    command.add_argument("model", metavar="NAME_OR_PATH")
    command.add_argument("--json", action="store_true", help="print the card as JSON")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("students", help="list the models that are found")
    command.set_defaults(run=_students)


def _inspect(arguments: argparse.Namespace) -> None:
    from ..card_text import card_markdown
    from ..students import find_student

    package = find_student(arguments.model)
    package.verify()
    if arguments.json:
        print(json.dumps({"checksum": package.checksum, **package.card.to_dict()}, indent=1, ensure_ascii=False))
        return
    print(card_markdown(package.card, package.plan, package.label_set))
    print(f"Verified: every checksum is right. Checksum of the package: {package.checksum}")
    print(f"Path: {package.path}")


def _students(_: argparse.Namespace) -> None:
    from ..students import FOLDERS_VARIABLE, list_students, student_folders

    entries = list_students()
    for entry in entries:
        if entry.package is None:
            print(f"{entry.name}: cannot be used. {entry.problem}")
            continue
        card = entry.package.card
        names = ", ".join(segment.name for segment in entry.package.label_set.segments)
        print(f"{entry.name} {card.version} ({card.role}, {card.parameters:,} parameters): {names}; {entry.path}")
    if not entries:
        folders = ", ".join(str(folder) for folder in student_folders())
        print(f"No students found in {folders}. Put packages there, or name folders in {FOLDERS_VARIABLE}.")
