"""Kill a training at random moments and resume it: is the result that of an uninterrupted run, bit for bit?

    python Testing/benchmarks/kill_and_resume.py --times 20

Each time a run is killed (SIGKILL) once or twice: a random while after it begins, after a random step, or in the
evaluation at the end; every fourth time inside the writing of a checkpoint. Then it is resumed to its end. Compared are
the last checkpoint (weights, optimiser state, history) and the package. CPU only: GPUs add in no fixed order.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from killed_runs import checkpoint_is_being_written, finish, kill_at, last_state, random_moment, same_result
from raw_dataset import make_raw_dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=20, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    numbers = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        return _repeat(Path(folder), arguments.times, numbers)


def _repeat(folder: Path, times: int, numbers: random.Random) -> int:
    dataset = make_raw_dataset(folder / "Dataset901_Blobs")
    teacher = folder / "teacher"
    short = ["--epochs", "3", "--steps-per-epoch", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
    finish(["--task", "teacher", "--dataset", str(dataset), "--output", str(teacher), *short])
    options = ["--task", "distill", "--dataset", str(dataset), *short, "--ramp", "0.3", "--checkpoint-minutes", "0"]
    options += ["--teacher", str(teacher / "blobs-teacher.recokd.zip"), "--validate-every", "2", "--ship", "best"]
    begun = time.monotonic()
    finish([*options, "--output", str(folder / "whole")])
    steps = last_state(folder / "whole")["step"]
    print(f"uninterrupted: {time.monotonic() - begun:.1f} s, {steps} steps", flush=True)
    wrong = 0
    for number in range(1, times + 1):
        run = folder / f"run-{number}"
        command = [*options, "--output", str(run)]
        kills = []
        for _ in range(numbers.choice((1, 2))):
            in_checkpoint = number % 4 == 0
            moment = checkpoint_is_being_written if in_checkpoint else random_moment(numbers, steps)
            resumable = any((run / name).is_file() for name in ("status.json", "plan.json"))
            if kill_at([*command, *(["--resume"] if resumable else [])], run, moment):
                left = sorted((path.name for path in run.glob("checkpoints/step-*.pt")), reverse=True)
                where = "inside a checkpoint, " if in_checkpoint else ""
                kills.append(where + (f"newest {left[0]}" if left else "before the first checkpoint"))
        resumable = any((run / name).is_file() for name in ("status.json", "plan.json"))
        finish([*command, *(["--resume"] if resumable else [])])
        good = same_result(folder / "whole", run)
        wrong += not good
        print(f"{number:3d}  {'same' if good else 'DIFFERENT'}  killed: {'; '.join(kills) or 'too late'}", flush=True)
    print(f"{times - wrong} of {times} are bit for bit the uninterrupted run")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
