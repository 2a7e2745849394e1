"""How fast volumes are segmented, beside nnU-Net's own predictor in the same run, stage by stage and at CT size.

    python Testing/benchmarks/inference.py cases --figure dice_against_seconds.png
    python Testing/benchmarks/inference.py ct --spacings 3 --nnunet-size 240 240 64
    python Testing/benchmarks/inference.py ct --spacings 1.5 --nnunet-size 240 240 128
    python Testing/benchmarks/inference.py growth
    python Testing/benchmarks/inference.py limits
    python Testing/benchmarks/inference.py preview --size 512 512 96

Each of the parts ``ct``, ``growth``, ``limits`` and ``preview`` runs each program in a process of its own, whose peak
it measures. These use OpenVINO if nothing else is said (the last of ``--engines``), in the first of ``--precisions``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from nnunet_oracle import nnunet_predictor, random_results
from packages import small_card
from plans import changed, network_changed, plans_json
from ReCoKDLib import prediction
from ReCoKDLib.engines.base import ENGINES
from ReCoKDLib.exchange.nnunet_export import export_nnunet
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.kept import Kept
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.networks import build_network, plain_state
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.part import Block, slices_of
from ReCoKDLib.plan import Plan
from ReCoKDLib.preprocessing import preprocess
from ReCoKDLib.segment import LoadedStudent, segment
from ReCoKDLib.sliding_window import tile_starts
from ReCoKDLib.students import find_student
from ReCoKDLib.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
TEACHER = ROOT / "Resources" / "Teachers" / "hippocampus-teacher.recokd.zip"
CT_PATCH, CT_SPACING, CT_FEATURES = (64, 160, 160), (3.0, 0.8, 0.8), (32, 64, 128, 256, 320, 320)
CT_LABELS = {"background": 0, **{f"organ {n}": n for n in range(1, 14)}}
CT_INTENSITIES = {"mean": 50.0, "std": 200.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def tell(warning: str) -> None:
    """Beside the tables: an engine that was refused, say, whose row is then PyTorch's."""
    print(warning, file=sys.stderr, flush=True)


class Timed:
    """An engine that adds up the time of its calls."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision
        self.seconds, self.calls = 0.0, 0

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        begun = time.perf_counter()
        logits: torch.Tensor = self.engine(tiles)
        self.seconds += time.perf_counter() - begun
        self.calls += 1
        return logits


class Stages:
    """A loaded student whose preprocessing and network calls are timed apart from the rest."""

    def __init__(self, package: ModelPackage, engine: str, precision: str) -> None:
        self.student = LoadedStudent.load(package, "cpu", engine=engine, precision=precision, warn=tell)
        self.engines = [Timed(one) for one in self.student.predictor.engines]
        self.student.predictor.engines = tuple(self.engines)
        self.preprocessing = self.total = 0.0

    @contextmanager
    def _timed(self) -> Iterator[None]:
        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            case = preprocess(*arguments)
            self.preprocessing += time.perf_counter() - begun
            return case

        with mock.patch.object(prediction, "preprocess", timed):
            yield

    def labels(self, volume: Volume, memory: float | None = None) -> Volume:
        """Segment, and add to the times."""
        with self._timed():
            begun = time.perf_counter()
            result = segment(volume, self.student, memory=memory)
            self.total += time.perf_counter() - begun
        return result.labels

    @property
    def network(self) -> float:
        """Seconds in the networks."""
        return sum(engine.seconds for engine in self.engines)


def mean_dice(labels: np.ndarray, truth: np.ndarray) -> float:
    """Over the labels of the truth."""
    values = [value for value in np.unique(truth) if value]
    return float(
        np.mean([2 * ((labels == v) & (truth == v)).sum() / ((labels == v).sum() + (truth == v).sum()) for v in values])
    )


def narrowed(teacher: ModelPackage, t: int, folder: Path) -> ModelPackage:
    """A student of random weights: its time, not its Dice, is that of a trained one."""
    plan = teacher.plan.with_width(t)
    torch.manual_seed(0)
    network = build_network(plan.architecture, plan.channels, teacher.label_set.number_of_heads)
    card = small_card(f"random-x{2**t}", orientation=None, channels=teacher.card.channels)
    path = write_package(folder / f"x{2**t}.recokd.zip", card, plan, teacher.label_set, [plain_state(network)])
    return ModelPackage.open(path)


def cases_part(given: argparse.Namespace) -> None:
    """From a loaded volume to labels over the validation cases, all programs case by case in turn."""
    names = json.loads((given.data / "split_hippocampus.json").read_text(encoding="utf-8"))["val"][: given.cases]
    raw = given.data / "Dataset004_Hippocampus"
    volumes = [read_volume(raw / "imagesTr" / f"{name}_0000.nii.gz") for name in names]
    truths = [read_volume(raw / "labelsTr" / f"{name}.nii.gz").array[0] for name in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        teacher = ModelPackage.open(given.teacher)
        results = export_nnunet(teacher, folder / "results")
        students = [find_student(name) for name in given.students]
        students += [narrowed(teacher, t, folder) for t in given.random_widths]
        theirs = nnunet_predictor(results, ["0"], False)
        runs = {
            (package.card.name, engine, precision): Stages(package, engine, precision)
            for package in (teacher, *students)
            for engine in given.engines
            for precision in (given.precisions if engine == "openvino" else ["f32"])
        }
        dice: dict[Any, list[float]] = {key: [] for key in (*runs, "nnU-Net")}
        same: dict[Any, list[float]] = {key: [] for key in runs}
        nnunet_seconds = 0.0
        for number, (volume, truth) in enumerate(zip([volumes[0], *volumes], [truths[0], *truths], strict=True)):
            if number == 1:  # the first case warmed everything up
                nnunet_seconds = 0.0
                for stages in runs.values():
                    stages.preprocessing = stages.total = 0.0
                    for engine in stages.engines:
                        engine.seconds, engine.calls = 0.0, 0
            begun = time.perf_counter()
            labels = theirs.predict_single_npy_array(
                volume.array.astype(np.float32), {"spacing": list(volume.spacing)}, None, None, False
            )
            nnunet_seconds += time.perf_counter() - begun
            found = {key: stages.labels(volume).array[0] for key, stages in runs.items()}
            if number:
                dice["nnU-Net"].append(mean_dice(np.asarray(labels), truth))
                for key, array in found.items():
                    dice[key].append(mean_dice(array, truth))
                    if (key[0], "torch", "f32") in found:
                        same[key].append(float((array == found[key[0], "torch", "f32"]).mean()))
        count = len(volumes)
        rows = [
            [
                "nnU-Net, teacher",
                "torch",
                f"{nnunet_seconds / count:.3f}",
                "",
                "",
                "",
                "1.0",
                f"{np.mean(dice['nnU-Net']):.3f}",
                "",
            ]
        ]
        for key, s in runs.items():
            rest = s.total - s.preprocessing - s.network
            parts = [f"{value / count:.4f}" for value in (s.total, s.preprocessing, s.network, rest)]
            agreement = f"{100 * np.mean(same[key]):.3f}" if same[key] else ""
            score = "" if key[0].startswith("random") else f"{np.mean(dice[key]):.3f}"
            rows.append([key[0], f"{key[1]} {key[2]}", *parts, f"{nnunet_seconds / s.total:.1f}", score, agreement])
        header = (
            "model",
            "engine",
            "s a case",
            "preprocessing",
            "network",
            "rest",
            "x nnU-Net",
            "Dice",
            "% as torch f32",
        )
        print(table(header, rows), flush=True)
        if given.figure:
            draw(given.figure, [(row[0], row[1], float(row[2]), float(row[7])) for row in rows if row[7]])


def draw(path: Path, points: Sequence[tuple[str, str, float, float]]) -> None:
    """Dice against seconds a case: a colour for each model, a shape for each engine and precision."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = {model: f"C{n}" for n, model in enumerate(dict.fromkeys(point[0] for point in points))}
    shapes = dict(zip(dict.fromkeys(point[1] for point in points), "os^DvP", strict=False))
    for model, engine, seconds, score in points:
        axes.plot(seconds, score, shapes[engine], color=colours[model], markersize=8, alpha=0.8)
    for model, colour in colours.items():
        axes.plot([], [], "-", color=colour, linewidth=4, label=model)
    for engine, shape in shapes.items():
        axes.plot([], [], shape, color="grey", label=engine)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds a case, CPU")
    axes.set_ylabel("Dice")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def ct_plans() -> dict[str, Any]:
    """Six stages up to 320, patch 64 x 160 x 160, 3 x 0.8 x 0.8 mm."""
    plans = plans_json(
        features=CT_FEATURES,
        patch_size=CT_PATCH,
        spacing=CT_SPACING,
        schemes=("CTNormalization",),
        properties=CT_INTENSITIES,
    )
    strides = [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 4]
    return network_changed(changed(plans), strides=strides)


def ct_student(folder: Path, t: int) -> ModelPackage:
    """Random weights, 14 classes."""
    plan = Plan.from_nnunet(ct_plans()).with_width(t)
    label_set = LabelSet.from_dataset_json({"labels": CT_LABELS})
    torch.manual_seed(0)
    network = build_network(plan.architecture, 1, label_set.number_of_heads)
    card = small_card(f"ct-random-x{2**t}", orientation=None, spacing=None)
    return ModelPackage.open(write_package(folder / "ct.recokd.zip", card, plan, label_set, [plain_state(network)]))


def ct_volume(size: Sequence[int], z: float) -> Volume:
    """(i, j, k) voxels of noise, int16."""
    array = np.random.default_rng(0).integers(-1000, 1000, (1, *reversed(size)), dtype=np.int16)
    return Volume(array, np.diag([0.8, 0.8, z, 1.0]))


def interactive(student: LoadedStudent, volume: Volume) -> dict[str, Any]:
    """Seconds of a whole run without and with a preview, and of regions afterwards; the labels are the same."""
    found: dict[str, Any] = {}
    kept, first = Kept(), []
    k, j, i = (n // 2 for n in volume.shape)
    near: Block = ((k - 20, k + 20), (j - 20, j + 20), (i - 20, i + 20))
    grown: Block = (*near[:2], (i - 20, i + 80))
    begun = time.perf_counter()

    def run(name: str, **options: Any) -> Volume:
        nonlocal begun
        begun = time.perf_counter()
        labels = segment(volume, student, **options).labels
        found[name] = time.perf_counter() - begun
        return labels

    whole = run("plain")
    shown = run("preview", kept=kept, preview=lambda _: first.append(time.perf_counter() - begun))
    assert np.array_equal(whole.array, shown.array)
    found["first"], found["previews"] = first[0], len(first)
    for name, region in (("region", near), ("grown", grown), ("again", grown)):
        labels = run(name, kept=kept, region=region)
        assert np.array_equal(labels.array, whole.cropped(slices_of(region)).array)
    return found


def child(job: dict[str, Any]) -> dict[str, Any]:
    """One program on one made-up volume, in this process."""
    import resource

    size, z = job["size"], job["z"]
    shape = (round(size[2] * z / CT_SPACING[0]), size[1], size[0])
    starts = tile_starts([max(n, p) for n, p in zip(shape, CT_PATCH, strict=True)], CT_PATCH)
    found: dict[str, Any] = {"tiles": int(np.prod([len(s) for s in starts]))}
    with tempfile.TemporaryDirectory() as temporary:
        if job["program"] == "nnunet":
            dataset = {"channel_names": {"0": "CT"}, "labels": CT_LABELS, "numTraining": 1, "file_ending": ".nii.gz"}
            predictor = nnunet_predictor(random_results(Path(temporary) / "results", ct_plans(), dataset), ["0"], False)
            volume = ct_volume(size, z)
            begun = time.perf_counter()
            predictor.predict_single_npy_array(volume.array.astype(np.float32), {"spacing": list(volume.spacing)})
            found["seconds"] = time.perf_counter() - begun
        else:
            stages = Stages(ct_student(Path(temporary), job["t"]), job["engine"], job["precision"])
            tile = torch.randn(1, 1, *CT_PATCH)
            stages.engines[0](tile)  # compiled before the clock runs
            bare = []
            for _ in range(5):
                begun = time.perf_counter()
                stages.engines[0].engine(tile)
                bare.append(time.perf_counter() - begun)
            stages.engines[0].seconds, stages.engines[0].calls = 0.0, 0
            if job["program"] == "preview":
                found |= interactive(stages.student, ct_volume(size, z))
            else:
                stages.labels(ct_volume(size, z), job["memory"])
            found |= {
                "tiles": stages.engines[0].calls,
                "seconds": stages.total,
                "preprocessing": stages.preprocessing,
                "network": stages.network,
                "bare": float(np.median(bare)) * stages.engines[0].calls,
                "engine": f"{stages.engines[0].name} {stages.engines[0].precision}",
            }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**found, "peak": peak * (1 if sys.platform == "darwin" else 1024) / 1e9}


def in_child(**job: Any) -> dict[str, Any]:
    """The same in a process of its own."""
    paths = [
        ROOT / "ReCoKD",
        ROOT / "Testing" / "helpers",
        *map(Path, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path) != ".")}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--child", json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def ours(given: argparse.Namespace, size: Sequence[int], z: float) -> dict[str, Any]:
    """Our program in a process."""
    options = {"engine": given.engines[-1], "precision": given.precisions[0], "memory": given.memory, "t": given.width}
    return in_child(program="ours", size=list(size), z=z, **options)


def row_of(name: str, found: dict[str, Any]) -> list[str]:
    """What a child found."""
    rest = found["seconds"] - found["preprocessing"] - found["network"]
    values = [found["seconds"], found["preprocessing"], found["network"], rest]
    return [name, str(found["tiles"]), *(f"{v:.2f}" for v in values), f"{found['peak']:.2f}"]


HEADER = ("volume", "tiles", "s", "preprocessing", "network", "the rest", "peak GB")


def ct_part(given: argparse.Namespace) -> None:
    """Ours whole; nnU-Net on as much of the volume as ``--nnunet-size`` says, its time scaled by the tiles."""
    size = given.size
    part = [min(n, m) for n, m in zip(given.nnunet_size or size, size, strict=True)]
    for z in given.spacings:
        mine = ours(given, size, z)
        theirs = in_child(program="nnunet", size=part, z=z)
        seconds = theirs["seconds"] * mine["tiles"] / theirs["tiles"]
        name, said, peak = "the same, nnU-Net's teacher", "", f"{theirs['peak']:.2f}"
        if part != size:
            said = f": {theirs['tiles']} tiles in {theirs['seconds']:.1f} s, scaled by tiles"
            peak += f" (of {_by(part)} only)"
        rows = [
            row_of(f"{_by(size)} at 0.8 x 0.8 x {z:g} mm, {mine['engine']}", mine),
            [name + said, str(mine["tiles"]), f"{seconds:.2f}", "", "", "", peak],
            ["ratio", "", f"{seconds / mine['seconds']:.1f}", "", "", "", ""],
        ]
        print(table(HEADER, rows), end="\n\n", flush=True)


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def growth_part(given: argparse.Namespace) -> None:
    """One, two, four and eight times the voxels."""
    i, j, k = (max(n // 2, p) for n, p in zip(given.size, reversed(CT_PATCH), strict=True))
    rows = []
    for factor, size in ((1, (i, j, k)), (2, (i, j, 2 * k)), (4, (i, 2 * j, 2 * k)), (8, (2 * i, 2 * j, 2 * k))):
        found = ours(given, size, CT_SPACING[0])
        a_tile = found["seconds"] / found["tiles"]
        rows.append([*row_of(f"{factor} x ({_by(size)})", found), f"{a_tile:.4f}"])
    print(table((*HEADER, "s a tile"), rows), flush=True)


def limits_part(given: argparse.Namespace) -> None:
    """The whole over the bare calls of the network, and those over a matrix multiply of as many operations."""
    from torch.utils.flop_counter import FlopCounterMode

    found = ours(given, given.size, CT_SPACING[0])
    plan = Plan.from_nnunet(ct_plans()).with_width(given.width)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_network(plan.architecture, 1, len(CT_LABELS))(torch.empty(1, 1, *CT_PATCH))
    operations = counter.get_total_flops() * found["tiles"]
    a = torch.randn(2048, 2048)
    a @ a
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - begun)
    rate = 2 * 2048**3 / min(seconds)
    limit = operations / rate
    rows = [
        ["total", f"{found['seconds']:.2f}", f"{found['seconds'] / found['bare']:.2f} x the bare calls"],
        [
            f"{found['tiles']} bare calls, {found['engine']}",
            f"{found['bare']:.2f}",
            f"{found['bare'] / limit:.2f} x the multiply",
        ],
        [f"{operations / 1e12:.2f} T operations at {rate / 1e9:.0f} G/s", f"{limit:.2f}", "matrix multiply, float32"],
    ]
    print(table(("what", "s", "ratio"), rows), flush=True)


def preview_part(given: argparse.Namespace) -> None:
    """How soon something of the slices in the middle is seen, what it costs, and what another region costs."""
    options = {"engine": given.engines[-1], "precision": given.precisions[0], "memory": None, "t": given.width}
    found = in_child(program="preview", size=list(given.size), z=CT_SPACING[0], **options)
    rows = [
        ["whole volume, no preview", f"{found['plain']:.2f}"],
        ["whole volume, with previews of three slices", f"{found['preview']:.2f}"],
        [f"until the first of {found['previews']} previews", f"{found['first']:.2f}"],
        ["then a region of 40 x 40 x 40 voxels in the middle", f"{found['region']:.2f}"],
        ["then one of 100 x 40 x 40", f"{found['grown']:.2f}"],
        ["the same once more", f"{found['again']:.2f}"],
        ["peak, GB", f"{found['peak']:.2f}"],
    ]
    print(table((f"{_by(given.size)}, {found['engine']}", "s"), rows), flush=True)


PARTS = {"cases": cases_part, "ct": ct_part, "growth": growth_part, "limits": limits_part, "preview": preview_part}


def main() -> None:
    """Print the tables of the parts that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cases", type=int, help="only so many of the validation cases")
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="a model package, which nnU-Net gets exported")
    parser.add_argument("--students", nargs="*", default=["hippocampus-x4"], help="names or packages")
    parser.add_argument(
        "--random-widths", type=int, nargs="*", default=[1, 2, 3], help="t of students of random weights"
    )
    parser.add_argument("--engines", nargs="+", default=["torch", "onnxruntime", "openvino"], choices=ENGINES)
    parser.add_argument("--precisions", nargs="+", default=["f32", "bf16"], choices=("f32", "bf16"), help="of OpenVINO")
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300], metavar=("I", "J", "K"))
    parser.add_argument("--width", type=int, default=3, help="t of the CT student")
    parser.add_argument("--memory", type=float, metavar="GB")
    parser.add_argument("--spacings", type=float, nargs="+", default=[3.0, 1.5], help="of the CT's slices, mm")
    parser.add_argument("--nnunet-size", type=int, nargs=3, metavar=("I", "J", "K"), help="nnU-Net gets so much only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--figure", type=Path, metavar="PNG")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ.update(dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), "not-used"))
    torch.set_num_threads(given.threads)
    if given.child:
        print(json.dumps(child(given.child)))
        return
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    print(
        f"{platform.processor() or platform.machine()}, {given.threads} threads, torch {torch.__version__}\n",
        flush=True,
    )
    for name in given.parts or PARTS:
        print(f"## {name}\n", flush=True)
        PARTS[name](given)
        print(flush=True)


if __name__ == "__main__":
    main()
