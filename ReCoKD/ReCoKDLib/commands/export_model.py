"""``recokd export``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, its targets and their arguments."""
    command = commands.add_parser("export", help="write a model in another program's form")
    targets = command.add_subparsers(title="targets", required=True, metavar="TARGET")
    command = targets.add_parser("onnx", help="one ONNX file, checked against PyTorch")
    command.add_argument("student", metavar="NAME_OR_PATH", help="see `recokd students`")
    command.add_argument("--output", required=True, type=Path, metavar="FILE", help="NAME.onnx")
    command.add_argument("--overwrite", action="store_true", help="replace an existing file")
    command.set_defaults(run=_export_onnx)


def _export_onnx(arguments: argparse.Namespace) -> None:
    from ..exchange.onnx_export import export_onnx

    export = export_onnx(arguments.student, arguments.output, arguments.overwrite)
    tried = " and ".join(" x ".join(map(str, shape)) for shape in export.shapes)
    print(f"Exported: {export.path}")
    print(f"Largest difference of the logits from PyTorch's: {export.difference:.2g} (inputs {tried})")
