"""What lies where in nnU-Net v2's results folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json


def find_results_folder(path: Path) -> Path:
    """The folder with ``plans.json`` and ``dataset.json``: ``path``, or the only such child or grandchild of it.

    Raises:
        InputError: There is none, or more than one.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder. Give nnU-Net's results folder, which holds plans.json.")
    if is_results_folder(path):
        return path
    below = sorted(child for pattern in ("*", "*/*") for child in path.glob(pattern) if is_results_folder(child))
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(child.relative_to(path).as_posix() for child in below)
        raise InputError(f"{path} holds several results folders: {names}. Give one of them.")
    if any(any(path.glob(pattern)) for pattern in ("plans.pkl", "*/plans.pkl", "fold_*/model_*.model")):
        raise InputError(f"{path} holds results of nnU-Net v1, which are not read. Train the network again with v2.")
    raise InputError(
        f"{path} is not a results folder of nnU-Net v2: it lacks plans.json or dataset.json. Give the folder "
        "called like nnUNetTrainer__nnUNetPlans__3d_fullres."
    )


def is_results_folder(folder: Path) -> bool:
    """Whether it holds a plan and a dataset's description."""
    return (folder / "plans.json").is_file() and (folder / "dataset.json").is_file()


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: It holds something else, is not JSON or is missing.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not what nnU-Net writes. Restore it.")
    return value


def checkpoint_files(folder: Path, folds: Sequence[str] | None, checkpoint: str) -> list[Path]:
    """The checkpoints of the chosen folds; without a choice, of every numbered one that has it, as nnU-Net does.

    Args:
        folder: With ``fold_0``, ``fold_1`` ... ``fold_all``.
        folds: What stands after ``fold_``, in the order in which the folds are to be averaged.
        checkpoint: ``"final"`` or ``"best"``.

    Raises:
        InputError: A fold or its checkpoint is missing; the message lists what is there.
    """
    name = f"checkpoint_{checkpoint}.pth"
    there = {child.name[5:]: child for child in folder.glob("fold_*") if child.is_dir()}
    numbered = sorted((fold for fold in there if fold.isdecimal()), key=int)
    held = {
        fold: ", ".join(sorted(file.name for file in there[fold].glob("checkpoint_*.pth"))) or "no checkpoint"
        for fold in (*numbered, *(fold for fold in there if fold not in numbered))
    }
    if folds is None:
        found = [there[fold] / name for fold in numbered if (there[fold] / name).is_file()]
        if not found:
            listed = "; ".join(f"fold {fold}: {what}" for fold, what in held.items()) or "no fold"
            raise InputError(
                f"No numbered fold in {folder} has {name}. It has {listed}. Choose with --folds (all for fold_all) "
                "and --checkpoint, or finish the training."
            )
        return found
    for fold in folds:
        if fold not in there:
            raise InputError(f"{folder} has no fold {fold}. It has: {', '.join(held) or 'none'}. Choose with --folds.")
        if not (there[fold] / name).is_file():
            raise InputError(
                f"{there[fold]} has no {name}. It has: {held[fold]}. Choose with --checkpoint, or finish the training."
            )
    return [there[fold] / name for fold in dict.fromkeys(folds)]
