"""The folder of a run: what lies where, and whether a run can begin or go on in it."""

from __future__ import annotations

from pathlib import Path

from ReCoKDLib.errors import OutputError
from ReCoKDLib.files import require_new

from .checkpoints import is_leftover
from .journal import STATUS
from .run_lock import LOCK

PLAN = "plan.json"
FINGERPRINT = "fingerprint.json"
CHECKED = "checked.json"
CONFIGURATION = "config.json"
ENVIRONMENT = "environment.json"
SPLIT = "split.json"
PREPROCESSED = "preprocessed"
EVALUATION = "evaluation"


def check_folder(folder: Path, resume: bool) -> None:
    """Look whether a run can begin, or go on, in a folder.

    Raises:
        OutputError: It cannot.
    """
    if resume and not any((folder / name).is_file() for name in (STATUS, PLAN)):
        raise OutputError(f"There is nothing to resume: {folder} holds no run. Start without --resume.")
    if not resume and folder.is_dir() and not all(is_leftover(path) or path.name == LOCK for path in folder.iterdir()):
        raise OutputError(f"{folder} is not empty. Choose another folder, or go on with the run in it (--resume).")
    require_new(folder / PLAN, overwrite=True)  # can the folder be written?
