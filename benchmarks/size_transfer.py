"""Claim: the closed-form steps run at 1024 pixels in bounded memory.

Every step of the way from a dense model to a refit one, on a model with random weights and synthetic images: moments,
output metric, orders and curves, knapsack, cut, refit. For each the peak of resident memory (and of CUDA's allocator if
there is one), and processor seconds. Weights do not matter for either.

    OMP_NUM_THREADS=1 python -m benchmarks.size_transfer --images 2 --out results/published/size
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from medcore.budgets.knapsack import knapsack_budget
from medcore.data.imageset import ImageSet
from medcore.models.architectures import resolve_architecture
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam, build
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.latency import device_name
from medcore.scoring.moments import profile_sums
from medcore.scoring.profile import Profile, build_profile
from medcore.synthetic.write import make
from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.refit.refit import refit

T = TypeVar("T")
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Step:
    """What one step took.

    Memory is in bytes. `resident` is the largest resident set during the step, `before` the one at its start, and
    `cuda` the peak of CUDA's allocator. Without CUDA `cuda` is 0. `images` is 0 for a step that looks at no image.
    """

    name: str
    images: int
    cpu_seconds: float
    seconds: float
    before: int
    resident: int
    cuda: int


@dataclass
class Meter:
    """Runs steps one after the other and measures them."""

    device: torch.device
    steps: list[Step] = field(default_factory=list)

    def run(self, name: str | Callable[[T], str], images: int, work: Callable[[], T]) -> T:
        """Run some work; `name` may depend on its result."""
        gc.collect()
        before = start_peak()
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        if on_cuda:
            torch.cuda.synchronize(self.device)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        cuda = int(torch.cuda.max_memory_allocated(self.device)) if on_cuda else 0
        title = name if isinstance(name, str) else name(result)
        self.steps.append(Step(title, images, cpu, wall, before, peak_bytes(), cuda))
        sys.stdout.write(row_of(self.steps[-1]) + "\n")
        sys.stdout.flush()
        return result


def start_peak() -> int:
    """Begin a new peak of resident memory, where the system allows it; return what is resident now."""
    try:
        _RESET.write_text("5")
    except OSError:
        return peak_bytes()
    return _kilobytes("VmRSS") * 1024


def peak_bytes() -> int:
    """Return the peak since `start_peak`, or of the whole process where the system keeps no other."""
    if _STATUS.exists():
        return _kilobytes("VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kilobytes(key: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def synthetic_images(count: int, side: int) -> ImageSet:
    """Return medical scenes with their masks in the model's frame."""
    pixels, masks = make("medical", count, side, seed=0)
    boxes = np.empty((count, 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.nonzero(mask)
        box[:] = columns.min(), rows.min(), columns.max(), rows.max()
    return ImageSet(
        images=np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)),
        masks=masks.astype(np.uint8),
        boxes=boxes,
        truths=list(masks),
        datasets=["synthetic"] * count,
        names=[f"scene{number}" for number in range(count)],
    )


def profiled(meter: Meter, model: MedSam, images: ImageSet) -> Profile:
    """Return the second-order profile; all images give the metric too. The sums are freed on return."""
    count, everyone = len(images), range(len(images))
    meter.run("moments", count, lambda: profile_sums(model, images, everyone, [], seed=0))
    sums = meter.run("moments and metric", count, lambda: profile_sums(model, images, everyone, everyone, seed=0))
    return meter.run("orders and curves", 0, lambda: build_profile(model, sums))


def run_all(arch: Architecture, count: int, fraction: float, device: torch.device) -> tuple[MedSam, list[Step]]:
    """Run every step and return the refit model and the measurements."""
    torch.manual_seed(0)
    model = build(ModelSpec.dense(arch)).to(device)
    images, meter = synthetic_images(count, arch.img_size), Meter(device)
    profile = profiled(meter, model, images)
    spec = meter.run("knapsack", 0, lambda: knapsack_budget(arch, profile.curves, fraction))
    smaller = meter.run("cut", 0, lambda: prune(model, select(profile.scores(), spec)))
    settings = RefitSettings(images=count)
    # as for many images, whose streams do not fit into memory
    streams = record_streams(model, images, settings, most=0)
    meter.run("refit", count, lambda: refit(smaller, streams, settings))
    return smaller, meter.steps


def row_of(step: Step) -> str:
    """Return one row of the table."""
    each = f"{step.cpu_seconds / step.images:.1f}" if step.images else "–"
    cuda = f"{step.cuda / 1e9:.2f}" if step.cuda else "–"
    memory = f"{step.before / 1e9:.2f} | {step.resident / 1e9:.2f} | {cuda}"
    return f"| {step.name} | {step.images or '–'} | {step.cpu_seconds:.1f} | {each} | {step.seconds:.1f} | {memory} |"


def table_of(steps: list[Step], title: str) -> str:
    """Return the table in Markdown."""
    lines = [
        f"| {title} | images | CPU s | CPU s an image | s | GB before | peak GB | peak GB, CUDA |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *map(row_of, steps),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_b", help="name or JSON file of an architecture")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--fraction", type=float, default=0.1, help="share of flops_paper to keep")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="folder for size.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    arch, device = resolve_architecture(options.arch), torch.device(options.device)
    _, steps = run_all(arch, options.images, options.fraction, device)
    title = f"{arch.name}, {arch.img_size} px, {options.fraction:.0%} of `flops_paper`"
    table = table_of(steps, f"{title}, {device_name(device)}, one thread")
    sys.stdout.write(f"\n{table}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "size.md").write_text(table)


if __name__ == "__main__":
    main()
