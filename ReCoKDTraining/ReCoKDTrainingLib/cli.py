"""``recokd-training``: the one door to training, for Slicer, shells and clusters."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ReCoKDLib.errors import Cancelled, InputError, ReCoKDError

from .command_line import configuration, parse_arguments, write_returned
from .progress import Progress
from .stopping import StopRequest
from .torchrun import place

if TYPE_CHECKING:
    from .finish import Presentation
    from .run_settings import RunSettings
    from .runs import Run
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
    # torchrun terminates the others when one of its processes ends: what went wrong is to be said all the same.
    with StopRequest() as stop:
        try:
            description = description or find_description()
            arguments = _parsed(description, argv)
            with Progress(arguments.progress, stop, silent=not place().first) as progress:
                return _run(arguments, description, progress)
        except Cancelled as stopped:
            _complain(f"{stopped} Go on with --resume.")
            return 130
        except KeyboardInterrupt:
            _complain("cancelled. Go on with --resume.")
            return 130
        except ReCoKDError as error:
            _complain(str(error))
            return 2


def _parsed(description: Path, argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; a teacher's width is None, and without ``--teacher`` and ``--width`` a check is of a teacher's run."""
    arguments = parse_arguments(description, argv)
    if arguments.task == "teacher":
        arguments.width = None
    elif arguments.task == "check" and arguments.teacher is None:
        arguments = parse_arguments(description, argv, width=None)
    return arguments


def _run(arguments: argparse.Namespace, description: Path, progress: Progress) -> int:
    for name in ("dataset", "output"):
        if not getattr(arguments, name):
            raise InputError(f"--{name} is missing. Say where the {name} folder is.")
    if place().size > 1 and arguments.task not in ("teacher", "distill"):
        raise InputError(f"--task {arguments.task} is for one process. Start it without torchrun.")
    if arguments.task == "check":
        return _check(arguments, description, progress)
    if arguments.task == "evaluate":
        _evaluate(arguments, progress)
    elif arguments.task == "export":
        _export(arguments, progress)
    else:
        _train_with_journal(arguments, description, progress)
    return 0


def _complain(text: str) -> None:
    rank = os.environ.get("RANK")
    print("recokd-training" + (f" (process {rank})" if rank else "") + f": {text}", file=sys.stderr)


def _train_with_journal(arguments: argparse.Namespace, description: Path, progress: Progress) -> None:
    """Train; how it ended is kept in the run folder."""
    try:
        with _others(arguments.device):
            _train(arguments, description, progress)
    except BaseException as error:
        if progress.journal is not None:
            stopped = isinstance(error, (Cancelled, KeyboardInterrupt))
            said = str(error) if isinstance(error, ReCoKDError) else f"{type(error).__name__}: {error}"
            progress.journal.line(said)
            progress.journal.state("stopped" if stopped else "failed", error=None if stopped else said)
        raise
    finally:
        if progress.journal is not None:
            progress.journal.close()


def _others(device: str) -> AbstractContextManager[None]:
    """Join the other processes, where torchrun started several."""
    if place().size == 1:
        return nullcontext()
    from .processes import joined

    return joined(device)


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


def _check(arguments: argparse.Namespace, description: Path, progress: Progress) -> int:
    from .check_report import check_sources

    return 1 if check_sources(_settings(arguments, description), progress) else 0


def _export(arguments: argparse.Namespace, progress: Progress) -> None:
    from .export import export_nnunet_raw

    progress.say(str(export_nnunet_raw(_data(arguments), arguments.output, progress)))


def _settings(arguments: argparse.Namespace, description: Path) -> RunSettings:
    from .connectors import ConnectorOptions
    from .parsing import parse_loss_options, parse_losses, parse_mirror_axes
    from .run_settings import RunSettings

    distilled = arguments.teacher is not None
    return RunSettings(
        data=_data(arguments),
        output=arguments.output,
        teacher=arguments.teacher if distilled else None,
        width=arguments.width or 0,
        backbone="" if arguments.backbone == "same" else arguments.backbone,
        losses=parse_losses(arguments.losses) if distilled else {},
        loss_options=parse_loss_options(arguments.lossOptions) if distilled else {},
        ramp=arguments.ramp,
        connectors=ConnectorOptions(arguments.connectorStart, arguments.connectorRate),
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
        augmentation=arguments.augmentation,
        compile_teacher=arguments.compileTeacher,
        workers=arguments.workers,
        validate_every=arguments.validateEvery,
        validation_cases=arguments.validationCases,
        patience=arguments.patience,
        ship=arguments.ship,
        checkpoint_minutes=arguments.checkpointMinutes,
        configuration=configuration(description, arguments),
    )


def _train(arguments: argparse.Namespace, description: Path, progress: Progress) -> None:
    from .agreement import from_first
    from .finish import Presentation
    from .run_folder import check_folder
    from .run_lock import locked
    from .runs import prepare_run

    if arguments.task == "teacher" and arguments.teacher is not None:
        raise InputError("--teacher is for students. Leave it out, or use --task distill.")
    settings = _settings(arguments, description)
    presentation = Presentation(
        name=arguments.name,
        version=arguments.modelVersion,
        description=arguments.description,
        weights_licence=arguments.weightsLicence,
        attribution=arguments.attribution,
        dtype=arguments.dtype,
    )
    resume = arguments.resume or arguments.resumeAnyway
    from_first(lambda: check_folder(settings.output, resume))  # before a file of ours is in it
    with locked(settings.output, progress.say):
        run = prepare_run(settings, progress, resume, arguments.resumeAnyway)
        _finish(arguments, description, progress, run, presentation)


def _finish(
    arguments: argparse.Namespace, description: Path, progress: Progress, run: Run, presentation: Presentation
) -> None:
    """Train what is left to train, and make package and report."""
    from .finish import finish_run
    from .processes import leave

    if not run.trainer.finished:
        if progress.journal is not None:
            progress.journal.state("training")
        run.trainer.run()
    leave()
    if progress.journal is None:
        return  # of several processes the first one does the rest
    progress.journal.state("evaluating")
    finished = finish_run(run, presentation, progress)
    progress.say(f"The model is in {finished.package}, the report in {finished.report}")
    progress.journal.state("done", package=finished.package.name, report=finished.report.name)
    if arguments.returnparameterfile is not None:
        returned = {"package": finished.package, "report": finished.report, "meanDice": finished.dice}
        write_returned(description, arguments.returnparameterfile, returned)


def _evaluate(arguments: argparse.Namespace, progress: Progress) -> None:
    from ReCoKDLib.package import ModelPackage
    from ReCoKDLib.prediction import Predictor

    from .datasets import held_out_cases, read_split
    from .evaluation import EvaluationResult, evaluate_cases
    from .evaluation_report import markdown_table, require_new_reports, write_reports
    from .model_fit import for_evaluation
    from .training_data import open_cases

    if not arguments.models:
        raise InputError("--model is missing. Name the model packages to evaluate.")
    require_new_reports(arguments.output)
    data = replace(_data(arguments), unlabelled_weight=0.0)
    dataset = open_cases(data, None)
    # Split before the classes become each model's, as training does: the same cases for all, none that was trained on.
    held_out = set() if data.split else {case.identifier for case in read_split(dataset, None).validation}
    packages = [ModelPackage.open(path) for path in arguments.models]
    names = [package.card.name for package in packages]
    results: dict[str, EvaluationResult] = {}
    for index, package in enumerate(packages):
        name = names[index] if names.count(names[index]) == 1 else f"{names[index]} {package.card.version}"
        if name in results:
            raise InputError(f"Two of the models are called {name}. Evaluate them one after the other.")
        known = for_evaluation(package, dataset)
        predictor = Predictor.from_package(package, arguments.device, arguments.mirroring)
        part = (index / len(packages), (index + 1) / len(packages))
        progress.stage(f"Evaluating {name}", 1000, part=part)
        results[name] = evaluate_cases(
            held_out_cases(known, data.split, data.fold)
            if data.split
            else [case for case in known.cases if case.identifier in held_out],
            predictor,
            label_set=known.label_set,
            measure_memory=True,
            progress=progress.fraction,
        )
    for path in write_reports(results, arguments.output):
        progress.say(str(path))
    progress.say(markdown_table(results))
