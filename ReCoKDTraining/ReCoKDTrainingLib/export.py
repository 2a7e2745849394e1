"""Any source, or several as one, written as a dataset in nnU-Net's raw layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import atomic_folder, require_new, write_json
from ReCoKDLib.handover import check_geometry
from ReCoKDLib.image_io import write_label_map, write_volume
from ReCoKDLib.provenance import PROVENANCE, provenance_json

from .case_check import check_cases
from .datasets import Case, Dataset, Split, load_case
from .progress import Progress
from .training_data import DataSettings, line, open_cases

ENDING = ".nii.gz"


def export_nnunet_raw(settings: DataSettings, output: Path, progress: Progress) -> Path:
    """Write all cases into a new folder that nnU-Net, and training here, can read.

    Annotated cases go to ``imagesTr`` and ``labelsTr``, those without annotation to ``imagesTs``, where nnU-Net keeps
    images without labels; classes are numbered as they are learned, channels have nnU-Net's numbers. Voxels and
    geometry only: nothing else of a file's header goes with them.

    Args:
        settings: Which cases.
        output: A folder that does not exist; it appears whole or not at all.
        progress: Where to tell.

    Raises:
        DatasetError: No case is annotated, or cases are bad and are not to be skipped; all are named.
        OutputError: The folder exists, or cannot be written.
    """
    require_new(output)
    dataset = _without_bad(open_cases(settings, None), settings.skip_bad, progress)
    annotated = [case for case in dataset.cases if case.labelled]
    if not annotated:
        raise DatasetError("No case is annotated, so there is nothing for nnU-Net to learn from.")
    progress.stage("Writing", len(dataset.cases))
    with atomic_folder(output) as folder:
        for done, case in enumerate(dataset.cases, 1):
            _write_case(case, dataset, folder)
            progress.fraction(done / len(dataset.cases))
        write_json(folder / "dataset.json", _description(dataset, len(annotated)))
        records = {case.identifier: case.provenance for case in annotated if case.provenance is not None}
        if records:
            write_json(folder / PROVENANCE, provenance_json(records))
    return output


def _without_bad(dataset: Dataset, skip_bad: bool, progress: Progress) -> Dataset:
    progress.stage("Checking the cases", len(dataset.cases))
    check = check_cases(dataset, Split(dataset.cases, ()), has_teacher=True, progress=progress.fraction)
    bad = [(case.identifier, finding) for case in check.cases for finding in case.findings if finding.spoils]
    if bad and not skip_bad:
        raise DatasetError(
            f"{len(bad)} thing(s) are wrong:\n"
            + "\n".join(line(name, finding) for name, finding in bad)
            + "\nCorrect them, or go on without the bad cases (--skip-bad)."
        )
    for case in check.cases:
        for finding in case.findings:
            progress.say(f"{'skipped' if finding.spoils else 'warning'}: {line(case.identifier, finding)}")
    return dataset.without(check.bad)


def _write_case(case: Case, dataset: Dataset, folder: Path) -> None:
    volume, labels = load_case(case, dataset.label_set, len(dataset.channel_names))
    images = folder / ("imagesTr" if labels is not None else "imagesTs")
    for channel in range(volume.channels):
        image = volume.with_array(volume.array[channel : channel + 1])
        write_volume(image, images / f"{case.identifier}_{channel:04d}{ENDING}")
    check_geometry(volume, images / f"{case.identifier}_0000{ENDING}", ENDING)
    if labels is not None:
        # By the image's own matrix, which the label map's may differ from in the last digits.
        write_label_map(volume.with_array(labels.array), folder / "labelsTr" / f"{case.identifier}{ENDING}")


def _description(dataset: Dataset, annotated: int) -> dict[str, Any]:
    told = {key: dataset.description[key] for key in ("licence", "reference") if dataset.description.get(key)}
    return {
        "name": dataset.name,
        **told,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channel_names)},
        **dataset.label_set.to_dataset_json(),
        "numTraining": annotated,
        "file_ending": ENDING,
    }
