"""What a training step costs, part by part, and two ratios: ReCo-KD against its bare networks, and augmentation.

All parts are measured in turn, again and again, so that whatever else the machine does falls on all of them alike;
medians are printed. Seconds are of the processor (all threads) and of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ReCoKDLib.networks import build_network, load_weights
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan
from ReCoKDTrainingLib.building import build_distiller
from ReCoKDTrainingLib.cache import CachedCase, class_locations, preprocess_cases
from ReCoKDTrainingLib.class_matching import match_classes
from ReCoKDTrainingLib.datasets import NnunetRawDataset, read_split
from ReCoKDTrainingLib.optimisation import Optimisation
from ReCoKDTrainingLib.precision import CHOICES, arranged_teacher, autocast_dtype
from ReCoKDTrainingLib.sampling import PatchDataset
from ReCoKDTrainingLib.stopwatch import PARTS, Stopwatch

REPOSITORY = Path(__file__).resolve().parents[2]
TEACHER = REPOSITORY / "Resources" / "Teachers" / "hippocampus-teacher.recokd.zip"
SPLIT = REPOSITORY / "Resources" / "split_hippocampus.json"
BATCH = 2
LARGEST_COST, LARGEST_SHARE = 1.35, 0.15
RATE = 1e-3


@dataclass(frozen=True)
class Setting:
    """What is measured: the student's t, and how."""

    width: int
    repeats: int
    device: torch.device
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Measured:
    """What was measured, each part once in every repeat.

    Attributes:
        data: A batch of patches, as ``data``.
        teacher: The whole teacher's forward pass, as ``teacher``.
        plain: A step from the labels alone, by its parts and ``rest``.
        recokd: A step of ReCo-KD, in the same way.
    """

    data: Stopwatch
    teacher: Stopwatch
    plain: Stopwatch
    recokd: Stopwatch


def measure(teacher: ModelPackage, patches: PatchDataset, setting: Setting) -> Measured:
    """Every part of a step, ``setting.repeats`` times in turn, after a warm-up."""
    measured = Measured(*(Stopwatch(setting.device, on=True) for _ in fields(Measured)))
    plan = teacher.plan.with_width(setting.width)
    classes = match_classes(teacher.label_set, teacher.label_set, "the dataset", "the teacher")

    def learner(losses: dict[str, float], watch: Stopwatch) -> Optimisation:
        student = build_network(plan.architecture, plan.channels, teacher.label_set.number_of_heads, True)
        distiller = build_distiller(
            student,
            plan,
            teacher.label_set,
            teacher if losses else None,
            classes if losses else None,
            losses=losses,
            loss_options={},
            ramp=0.0,
            dtype=setting.dtype,
            device=setting.device,
        ).to(setting.device)
        distiller.watch = watch
        return Optimisation(
            distiller.train(),
            learning_rate=RATE,
            momentum=0.99,
            weight_decay=3e-5,
            gradient_clip=12.0,
            seed=0,
            say=print,
        )

    plain, recokd = learner({}, measured.plain), learner({"reco": 1.0}, measured.recokd)
    whole_teacher = build_network(teacher.plan.architecture, plan.channels, teacher.label_set.number_of_heads)
    load_weights(whole_teacher, teacher.weights(0))
    whole_teacher = arranged_teacher(whole_teacher, setting.device).to(setting.device).eval()
    for repeat in range(-2, setting.repeats):
        if repeat == 0:
            for each in fields(Measured):
                getattr(measured, each.name).clear()
        with measured.data("data"):
            samples = [patches[(repeat + 2) * BATCH + n] for n in range(BATCH)]
            images, labels = (torch.stack(parts) for parts in zip(*samples, strict=True))
        images, labels = images.to(setting.device), labels.to(setting.device).long()
        with (
            measured.teacher("teacher"),
            torch.no_grad(),
            torch.autocast(setting.device.type, dtype=setting.dtype, enabled=setting.dtype is not None),
        ):
            whole_teacher(images)
        for optimisation in (plain, recokd):
            with optimisation.distiller.watch("rest"):
                optimisation.step(images, labels, 1.0, RATE, repeat + 2)
    return measured


Seconds = Callable[[Stopwatch], Mapping[str, Sequence[float]]]
CLOCK: Seconds = attrgetter("clock")
PROCESSOR: Seconds = attrgetter("processor")


def split(measured: Measured, seconds: Seconds) -> dict[str, float]:
    """Median seconds of each part of a ReCo-KD step, the data's included."""
    found = {**seconds(measured.recokd), **seconds(measured.data)}
    return {part: statistics.median(found[part]) for part in PARTS}


def whole_steps(watch: Stopwatch, seconds: Seconds) -> list[float]:
    """Seconds of every step, all parts together."""
    return [sum(parts) for parts in zip(*seconds(watch).values(), strict=True)]


def relative_cost(measured: Measured, seconds: Seconds) -> float:
    """Median over the repeats of ReCo-KD step / (teacher forward + plain student step)."""
    steps, plain = (whole_steps(watch, seconds) for watch in (measured.recokd, measured.plain))
    parts = zip(steps, seconds(measured.teacher)["teacher"], plain, strict=True)
    return statistics.median(step / (forward + alone) for step, forward, alone in parts)


def augmentation_share(measured: Measured, seconds: Seconds) -> float:
    """Mean seconds of the data over those of the data and the ReCo-KD step.

    Means, since most patches are not rotated and the median would know those only.
    """
    data = statistics.fmean(seconds(measured.data)["data"])
    return data / (data + statistics.fmean(whole_steps(measured.recokd, seconds)))


def table(students: Mapping[str, Measured]) -> str:
    """The split in milliseconds (processor / clock) and both ratios, one row for each student."""
    lines = [
        f"| student | {' | '.join(PARTS)} | ReCo-KD step / (teacher forward + plain step) | data's share of a step |",
        "|---" * (len(PARTS) + 3) + "|",
    ]
    for name, measured in students.items():
        cpu, wall = split(measured, PROCESSOR), split(measured, CLOCK)
        parts = " | ".join(f"{1e3 * cpu[part]:.1f} / {1e3 * wall[part]:.1f}" for part in PARTS)
        costs = " / ".join(f"{relative_cost(measured, seconds):.2f}" for seconds in (PROCESSOR, CLOCK))
        shares = " / ".join(f"{augmentation_share(measured, seconds):.1%}" for seconds in (PROCESSOR, CLOCK))
        lines.append(f"| {name} | {parts} | {costs} | {shares} |")
    return "\n".join(lines)


def verdict(students: Mapping[str, Measured]) -> str:
    """Whether both ratios of the processor's seconds are within their limits."""
    lines = []
    for name, measured in students.items():
        cost, share = relative_cost(measured, PROCESSOR), augmentation_share(measured, PROCESSOR)
        for what, value, largest in (("relative cost", cost, LARGEST_COST), ("data's share", share, LARGEST_SHARE)):
            lines.append(f"{name}: {what} {value:.2f}, {'within' if value <= largest else 'ABOVE'} {largest}")
    return "\n".join(lines)


def cases_of(data: Path, teacher: ModelPackage, cache: Path, number: int) -> tuple[CachedCase, ...]:
    """Training cases of the hippocampus set, or synthetic ones where it is missing."""
    folder = data / "Dataset004_Hippocampus"
    if not folder.is_dir():
        return synthetic_cases(teacher, cache, number)
    dataset = NnunetRawDataset(folder)
    training = read_split(dataset, SPLIT).training[:number]
    return preprocess_cases(training, teacher.plan, dataset.label_set, cache, orientation=teacher.card.orientation)


def synthetic_cases(teacher: ModelPackage, cache: Path, number: int) -> tuple[CachedCase, ...]:
    """Smooth noise of about a patch's size, with one blob for each class."""
    rng = np.random.default_rng(0)
    shape = tuple(int(0.9 * n) for n in teacher.plan.patch_size)
    cases = []
    for case in range(number):
        folder = cache / f"synthetic_{case:03d}"
        folder.mkdir(parents=True)
        data = gaussian_filter(rng.normal(size=shape), 1.5).astype(np.float32)
        labels = np.zeros((1, *shape), dtype=np.int16)
        for value, segment in enumerate(teacher.label_set.segments, 1):
            box = tuple(slice(s, s + n // 4) for n in shape for s in [int(rng.integers(0, n // 2))])
            labels[0][box] = segment.region[0]
            data[labels[0] == segment.region[0]] += value
        np.save(folder / "data.npy", ((data - data.mean()) / data.std())[None].repeat(teacher.plan.channels, 0))
        np.save(folder / "labels.npy", labels)
        np.savez(folder / "locations.npz", **class_locations(labels[0], teacher.label_set))  # type: ignore[arg-type]
        cases.append(CachedCase(folder.name, folder))
    return tuple(cases)


def patches_of(cases: Sequence[CachedCase], teacher: ModelPackage, plan: Plan, repeats: int) -> PatchDataset:
    """The stream of a run with left-right mirroring."""
    return PatchDataset(cases, plan, teacher.label_set, 0, (repeats + 2) * BATCH, (2,))


def main(argv: Sequence[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--cases", type=int, default=16, help="training cases to draw patches from")
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 3], help="the students' t: 2 is x1/4, 3 is x1/8")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=CHOICES, default="auto")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    dtype = autocast_dtype(device, given.precision)
    torch.manual_seed(0)
    teacher = ModelPackage.open(TEACHER)
    students = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = cases_of(given.data, teacher, Path(folder), given.cases)
        patches = patches_of(cases, teacher, teacher.plan, given.repeats)
        for width in given.widths:
            students[f"x1/{2**width}"] = measure(teacher, patches, Setting(width, given.repeats, device, dtype))
    say(
        f"Batch {BATCH} of {'x'.join(map(str, teacher.plan.patch_size))}, {device}, {dtype or torch.float32}, "
        f"{given.threads} thread(s), {given.repeats} repeats; milliseconds of processor / clock, medians"
    )
    say(table(students))
    say(verdict(students))


if __name__ == "__main__":
    main()
