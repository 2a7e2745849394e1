"""``recokd-training``: the one door to training, for Slicer, shells and clusters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ReCoKDLib.errors import Cancelled, InputError, ReCoKDError

from .command_line import make_parser
from .progress import Progress

if TYPE_CHECKING:
    from .training_data import DataSettings


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
        0 when it worked, 1 when a check found something that would spoil the training, 2 for an error that the user
        can mend, 130 when cancelled.
    """
    try:
        arguments = make_parser(description or find_description()).parse_args(argv)
        with Progress(arguments.progress) as progress:
            return _run(arguments, progress)
    except (Cancelled, KeyboardInterrupt):
        print("recokd-training: cancelled. Go on with --resume.", file=sys.stderr)
        return 130
    except ReCoKDError as error:
        print(f"recokd-training: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    for name in ("dataset", "output"):
        if not getattr(arguments, name):
            raise InputError(f"--{name} is missing. Say where the {name} folder is.")
    if arguments.task == "check":
        return _check(arguments, progress)
    tasks = {"evaluate": _evaluate, "export": _export}
    tasks.get(arguments.task, _train)(arguments, progress)
    return 0


# Heavy imports come after the arguments are known to be right, and not for --help and --xml.


def _data(arguments: argparse.Namespace) -> DataSettings:
    from .datasets import SourceOptions
    from .parsing import parse_labels
    from .training_data import DataSettings

    return DataSettings(
        datasets=tuple(arguments.dataset),
        sources=SourceOptions(
            channels=parse_labels(arguments.channels),
            image_rule=arguments.imageRule,
            label_rule=arguments.labelRule,
            pairing=arguments.pairing,
            synonyms=arguments.synonyms,
        ),
        labels=parse_labels(arguments.labels),
        split=arguments.split,
        fold=arguments.fold,
        skip_bad=arguments.skipBad,
        unlabelled_weight=arguments.unlabelledWeight,
    )


def _check(arguments: argparse.Namespace, progress: Progress) -> int:
    from .check_report import check_sources

    return 1 if check_sources(_data(arguments), arguments.teacher, arguments.output, progress) else 0


def _export(arguments: argparse.Namespace, progress: Progress) -> None:
    from .export import export_nnunet_raw

    progress.say(str(export_nnunet_raw(_data(arguments), arguments.output, progress)))


def _train(arguments: argparse.Namespace, progress: Progress) -> None:
    from .finish import Presentation, finish_run
    from .parsing import parse_loss_options, parse_losses, parse_mirror_axes
    from .runs import RunSettings, prepare_run

    if arguments.task == "teacher" and arguments.teacher is not None:
        raise InputError("--teacher is for students. Leave it out, or use --task distill.")
    distilled = arguments.teacher is not None
    settings = RunSettings(
        data=_data(arguments),
        output=arguments.output,
        teacher=arguments.teacher if distilled else None,
        width=0 if arguments.task == "teacher" else arguments.width,
        backbone="" if arguments.backbone == "same" else arguments.backbone,
        losses=parse_losses(arguments.losses) if distilled else {},
        loss_options=parse_loss_options(arguments.lossOptions) if distilled else {},
        ramp=arguments.ramp,
        plan=arguments.plan,
        planner=arguments.planner,
        memory_gb=arguments.memory or None,
        mirror_axes=parse_mirror_axes(arguments.mirrorAxes),
        initial=arguments.initial,
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
    presentation = Presentation(
        name=arguments.name,
        description=arguments.description,
        weights_licence=arguments.weightsLicence,
        attribution=arguments.attribution,
        dtype=arguments.dtype,
    )
    run = prepare_run(settings, progress, arguments.resume)
    if not run.trainer.finished:
        run.trainer.run()
    progress.say(f"The model is in {finish_run(run, presentation, progress)}")


def _evaluate(arguments: argparse.Namespace, progress: Progress) -> None:
    from ReCoKDLib.package import ModelPackage
    from ReCoKDLib.prediction import Predictor

    from .datasets import read_split
    from .evaluation import evaluate_cases
    from .evaluation_report import markdown_table, require_new_reports, write_reports
    from .runs import for_evaluation
    from .training_data import open_cases

    if not arguments.models:
        raise InputError("--model is missing. Name the model packages to evaluate.")
    require_new_reports(arguments.output)
    data = replace(_data(arguments), unlabelled_weight=0.0)
    dataset = open_cases(data, None)
    results = {}
    for path in arguments.models:
        package = ModelPackage.open(path)
        known = for_evaluation(package, dataset)
        if package.card.name in results:
            raise InputError(f"Two of the models are called {package.card.name}. Evaluate them one after the other.")
        predictor = Predictor.from_package(package, arguments.device, arguments.mirroring)
        progress.stage(f"Evaluating {package.card.name}", 1000)
        results[package.card.name] = evaluate_cases(
            read_split(known, data.split, data.fold).validation,
            predictor,
            label_set=known.label_set,
            measure_memory=True,
            progress=progress.fraction,
        )
    for path in write_reports(results, arguments.output):
        progress.say(str(path))
    progress.say(markdown_table(results))
