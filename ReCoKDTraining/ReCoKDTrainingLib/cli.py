"""``recokd-training``: the one door to training, for Slicer, shells and clusters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ReCoKDLib.errors import Cancelled, InputError, ReCoKDError

from .command_line import make_parser
from .progress import Progress


def find_description() -> Path:
    """The module's .xml: beside the scripted CLI in the source tree, inside the library when pip installed it.

    Raises:
        InputError: It is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here.parent, here / "Resources"):
        if (folder / "ReCoKDTraining.xml").is_file():
            return folder / "ReCoKDTraining.xml"
    raise InputError("ReCoKDTraining.xml is missing from this installation. Install ReCoKD again.")


def main(argv: Sequence[str] | None = None, description: Path | None = None) -> int:
    """Run one task.

    Args:
        argv: Command line without the program's name; None takes the process's.
        description: The .xml that lists the parameters; None finds it.

    Returns:
        0 when it worked, 2 for an error that the user can mend, 130 when cancelled.
    """
    try:
        arguments = make_parser(description or find_description()).parse_args(argv)
        with Progress(arguments.progress) as progress:
            _run(arguments, progress)
    except (Cancelled, KeyboardInterrupt):
        print("recokd-training: cancelled. Go on with --resume.", file=sys.stderr)
        return 130
    except ReCoKDError as error:
        print(f"recokd-training: {error}", file=sys.stderr)
        return 2
    return 0


def _run(arguments: argparse.Namespace, progress: Progress) -> None:
    # Heavy imports come after the arguments are known to be right, and not for --help and --xml.
    from .runs import RunSettings, parse_loss_options, parse_losses, prepare_run

    for name in ("dataset", "output"):
        if getattr(arguments, name) is None:
            raise InputError(f"--{name} is missing. Say where the {name} folder is.")
    distilled = arguments.task == "distill" and arguments.teacher is not None
    settings = RunSettings(
        dataset=arguments.dataset,
        output=arguments.output,
        teacher=arguments.teacher if distilled else None,
        width=0 if arguments.task == "teacher" else arguments.width,
        losses=parse_losses(arguments.losses) if distilled else {},
        loss_options=parse_loss_options(arguments.lossOptions) if distilled else {},
        ramp=arguments.ramp,
        split=arguments.split,
        fold=arguments.fold,
        plan=arguments.plan,
        memory_gb=arguments.memory,
        cache=arguments.cache,
        epochs=arguments.epochs,
        steps_per_epoch=arguments.stepsPerEpoch,
        batch_size=arguments.batchSize,
        learning_rate=arguments.learningRate,
        seed=arguments.seed,
        device=arguments.device,
        precision=arguments.precision,
        workers=arguments.workers,
    )
    run = prepare_run(settings, progress, arguments.resume)
    if not run.trainer.finished:
        run.trainer.run()
