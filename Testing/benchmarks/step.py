"""What a training step costs, part by part, and two ratios: ReCo-KD against its bare networks, and augmentation.

All parts are measured in turn, again and again, so that whatever else the machine does falls on all of them alike;
medians are printed. Seconds are of the processor (all threads) and of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from ReCoKDLib.networks import build_network, load_weights
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Int3, Plan
from ReCoKDTrainingLib.cache import CachedCase, class_locations, preprocess_cases
from ReCoKDTrainingLib.class_matching import match_classes
from ReCoKDTrainingLib.datasets import NnunetRawDataset, read_split
from ReCoKDTrainingLib.distiller import Distiller
from ReCoKDTrainingLib.losses.base import NetworkOutputs
from ReCoKDTrainingLib.precision import CHOICES, arranged, autocast_dtype
from ReCoKDTrainingLib.recorders import Recorder
from ReCoKDTrainingLib.runs import build_distiller
from ReCoKDTrainingLib.sampling import PatchDataset

REPOSITORY = Path(__file__).resolve().parents[2]
TEACHER = REPOSITORY / "Resources" / "Teachers" / "hippocampus-teacher.recokd.zip"
SPLIT = REPOSITORY / "Resources" / "split_hippocampus.json"
BATCH = 2
LARGEST_COST, LARGEST_SHARE = 1.35, 0.15
PARTS = ("data", "teacher", "student", "losses", "backward", "optimiser")


class Stopwatch:
    """Processor and clock seconds by name, one entry for each time that something was measured."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu: dict[str, list[float]] = defaultdict(list)
        self.wall: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block."""
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self._wait()
        self.cpu[name].append(time.process_time() - cpu)
        self.wall[name].append(time.perf_counter() - wall)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TimedRecorder:
    """A recorder that is measured as ``name``."""

    def __init__(self, recorder: Recorder, watch: Stopwatch, name: str) -> None:
        self.recorder, self.watch, self.name = recorder, watch, name

    def channels(self, network: nn.Module) -> tuple[int, ...]:
        """As the recorder's."""
        return self.recorder.channels(network)

    def strides(self, network: nn.Module) -> tuple[Int3, ...]:
        """As the recorder's."""
        return self.recorder.strides(network)

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """As the recorder's."""
        with self.watch(self.name):
            return self.recorder.run(network, images, with_logits)

    def shared_weight(self, network: nn.Module, stage: int) -> nn.Parameter:
        """As the recorder's."""
        return self.recorder.shared_weight(network, stage)


class Learner:
    """A distiller with an optimiser, as in the trainer."""

    def __init__(self, distiller: Distiller, device: torch.device) -> None:
        self.distiller = distiller.to(device).train()
        self.optimiser = torch.optim.SGD(
            distiller.trained_parameters(), lr=1e-3, momentum=0.99, weight_decay=3e-5, nesterov=True
        )

    def step(self, images: Tensor, labels: Tensor, watch: Stopwatch, name: str) -> None:
        """One step at full eta, measured as ``name``, ``name forward``, ``name backward`` and ``name optimiser``."""
        with watch(name):
            with watch(f"{name} forward"):
                report = self.distiller.training_loss(images, labels, 1.0)
            with watch(f"{name} backward"):
                self.optimiser.zero_grad(set_to_none=True)
                report.total.backward()  # type: ignore[no-untyped-call]
            with watch(f"{name} optimiser"):
                torch.nn.utils.clip_grad_norm_(self.distiller.trained_parameters(), 12.0)
                self.optimiser.step()


@dataclass(frozen=True)
class Setting:
    """What is measured: the student's t, and how."""

    width: int
    repeats: int
    device: torch.device
    dtype: torch.dtype | None


def measure(teacher: ModelPackage, patches: PatchDataset, setting: Setting) -> Stopwatch:
    """Every part of a step, ``setting.repeats`` times in turn, after a warm-up."""
    watch = Stopwatch(setting.device)
    plan = teacher.plan.with_width(setting.width)
    classes = match_classes(teacher.label_set, teacher.label_set, "the dataset", "the teacher")

    def learner(losses: dict[str, float]) -> Learner:
        student = build_network(plan.architecture, plan.channels, teacher.label_set.number_of_heads, True)
        distiller = build_distiller(
            arranged(student, setting.device, plan.architecture),
            plan,
            teacher.label_set,
            teacher if losses else None,
            classes if losses else None,
            losses=losses,
            loss_options={},
            ramp=0.0,
            dtype=setting.dtype,
        )
        if losses:
            distiller.recorder = TimedRecorder(distiller.recorder, watch, "ReCo-KD student")
            distiller.teacher_recorder = TimedRecorder(distiller.teacher_recorder, watch, "ReCo-KD teacher")
        return Learner(distiller, setting.device)

    plain, recokd = learner({}), learner({"reco": 1.0})
    whole_teacher = build_network(teacher.plan.architecture, plan.channels, teacher.label_set.number_of_heads)
    load_weights(whole_teacher, teacher.weights(0))
    whole_teacher.to(setting.device).eval()
    for repeat in range(-2, setting.repeats):
        if repeat == 0:
            watch.cpu.clear()
            watch.wall.clear()
        with watch("data"):
            samples = [patches[(repeat + 2) * BATCH + n] for n in range(BATCH)]
            images, labels = (torch.stack(parts) for parts in zip(*samples, strict=True))
        images, labels = images.to(setting.device), labels.to(setting.device).long()
        with (
            watch("teacher forward"),
            torch.no_grad(),
            torch.autocast(setting.device.type, dtype=setting.dtype, enabled=setting.dtype is not None),
        ):
            whole_teacher(images)
        plain.step(images, labels, watch, "plain")
        recokd.step(images, labels, watch, "ReCo-KD")
    return watch


def split_of_step(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median seconds of each of ``PARTS`` of a ReCo-KD step."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    teacher, student = median["ReCo-KD teacher"], median["ReCo-KD student"]
    return {
        "data": median["data"],
        "teacher": teacher,
        "student": student,
        "losses": median["ReCo-KD forward"] - teacher - student,
        "backward": median["ReCo-KD backward"],
        "optimiser": median["ReCo-KD optimiser"],
    }


def relative_cost(seconds: dict[str, list[float]]) -> float:
    """Median over the repeats of ReCo-KD step / (teacher forward + plain student step)."""
    parts = zip(seconds["ReCo-KD"], seconds["teacher forward"], seconds["plain"], strict=True)
    return statistics.median(step / (teacher + plain) for step, teacher, plain in parts)


def augmentation_share(seconds: dict[str, list[float]]) -> float:
    """Mean seconds of the data over those of the data and the ReCo-KD step.

    Means, since most patches are not rotated and the median would know those only.
    """
    data, step = statistics.fmean(seconds["data"]), statistics.fmean(seconds["ReCo-KD"])
    return data / (data + step)


def table(watches: dict[str, Stopwatch]) -> str:
    """The split in milliseconds (processor / clock) and both ratios, one row for each student."""
    lines = [
        f"| student | {' | '.join(PARTS)} | ReCo-KD step / (teacher forward + plain step) | data's share of a step |",
        "|---" * (len(PARTS) + 3) + "|",
    ]
    for name, watch in watches.items():
        cpu, wall = split_of_step(watch.cpu), split_of_step(watch.wall)
        split = " | ".join(f"{1e3 * cpu[part]:.1f} / {1e3 * wall[part]:.1f}" for part in PARTS)
        costs = " / ".join(f"{relative_cost(seconds):.2f}" for seconds in (watch.cpu, watch.wall))
        shares = " / ".join(f"{augmentation_share(seconds):.1%}" for seconds in (watch.cpu, watch.wall))
        lines.append(f"| {name} | {split} | {costs} | {shares} |")
    return "\n".join(lines)


def verdict(watches: dict[str, Stopwatch]) -> str:
    """Whether both ratios of the processor's seconds are within their limits."""
    lines = []
    for name, watch in watches.items():
        cost, share = relative_cost(watch.cpu), augmentation_share(watch.cpu)
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
    watches = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = cases_of(given.data, teacher, Path(folder), given.cases)
        patches = patches_of(cases, teacher, teacher.plan, given.repeats)
        for width in given.widths:
            watches[f"x1/{2**width}"] = measure(teacher, patches, Setting(width, given.repeats, device, dtype))
    say(
        f"Batch {BATCH} of {'x'.join(map(str, teacher.plan.patch_size))}, {device}, {dtype or torch.float32}, "
        f"{given.threads} thread(s), {given.repeats} repeats; milliseconds of processor / clock, medians"
    )
    say(table(watches))
    say(verdict(watches))


if __name__ == "__main__":
    main()
