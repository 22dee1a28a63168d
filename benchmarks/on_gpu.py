"""Claim: everything runs on a GPU, gives the CPU's results there, and several trials share one.

Four parts on random weights and synthetic images, without network: the differences between CPU and GPU, the time of
dense and pruned models next to segment-anything's own encoder, a whole trial of ViT-B at 1024 pixels, and trials an
hour with 1, 4 and 8 trials on the GPU.

    python -m benchmarks.on_gpu --out results/published/gpu

It takes at most eight minutes on one GPU. A part that fails is in the report with its error, and the exit code is 1.
`--only` runs some parts. Without a GPU it runs on the CPU, for which `--arch`, `--small` and the other sizes should be
small.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.equality import Difference, differences
from benchmarks.gpu.inputs import small
from benchmarks.gpu.packing import Packing, packings
from benchmarks.gpu.speed import Speed, speeds
from benchmarks.gpu.whole_trial import whole_trial
from benchmarks.size_transfer import Step
from medcore.models.architectures import resolve_architecture
from medcore.models.vit.arch import SamVit
from medcore.quality.latency import Effort, device_name
from results.store.files import write_by_rename
from search.base.device import best_device
from search.base.provenance import git_revision, machine

PARTS = ("equality", "speed", "trial", "packing")


@dataclass
class Report:
    """What was measured.

    Attributes:
        facts: Device, versions and sizes.
        differences: CPU against device.
        speeds: Times of calls.
        steps: Phases of the whole trial.
        packings: Trials an hour.
        seconds: Seconds of each part.
        errors: Error of each part that failed.
    """

    facts: Mapping[str, Any]
    differences: list[Difference] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    packings: list[Packing] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all parts ran and all results are equal."""
        return not self.errors and all(each.equal for each in self.differences)


def run(options: argparse.Namespace) -> Report:
    """Run the chosen parts; the report is written after each."""
    device, arch = best_device(), resolve_architecture(options.arch)
    assert isinstance(arch, SamVit), "segment-anything's encoder is a ViT"
    report = Report(_facts(options, device))
    with tempfile.TemporaryDirectory(prefix="medcore-gpu-") as folder:
        little = small(options.arch, options.small, Path(folder))
        numbers, effort = options.at_once, Effort(most_seconds=options.effort)
        work: dict[str, Callable[[], Any]] = {
            "equality": lambda: report.differences.extend(differences(little, 2, device)),
            "speed": lambda: report.speeds.extend(speeds(arch, options.batches, device, effort)),
            "trial": lambda: report.steps.extend(whole_trial(arch, options.images, options.steps, device)),
            "packing": lambda: report.packings.extend(
                packings(little, options.images, options.steps, numbers, max(numbers), Path(folder))
            ),
        }
        for part in options.only:
            begin = time.perf_counter()
            try:
                work[part]()
            except Exception as error:  # noqa: BLE001 - the other parts still run, and the report names the error
                report.errors[part] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            report.seconds[part] = time.perf_counter() - begin
            write(report, options.out)
    return report


def write(report: Report, out: Path) -> None:
    """Write `on_gpu.json` and `on_gpu.md`."""
    write_by_rename(out / "on_gpu.json", (json.dumps(asdict(report), indent=1) + "\n").encode())
    write_by_rename(out / "on_gpu.md", markdown(report).encode())


def markdown(report: Report) -> str:
    """Return the report for readers."""
    facts = "; ".join(f"{name} {value}" for name, value in report.facts.items())
    seconds = ", ".join(f"{part} {taken:.0f} s" for part, taken in report.seconds.items())
    parts = [f"{facts}.", f"Parts: {seconds}."]
    parts += [f"**{part} failed:** {error}" for part, error in report.errors.items()]
    if report.differences:
        cells = [
            (each.part, each.precision, f"{each.difference:.1e}", f"{each.tolerance:g}", "yes" if each.equal else "no")
            for each in report.differences
        ]
        parts.append(_table(("CPU against device", "precision", "largest difference", "tolerance", "equal"), cells))
    if report.speeds:
        cells = [
            (each.what, str(each.batch), each.precision, f"{each.milliseconds:.2f}", f"{each.width:.1%}")
            for each in report.speeds
        ]
        parts.append(_table(("call", "batch", "precision", "median ms", "width of its interval"), cells))
    if report.steps:
        cells = [
            (step.name, f"{step.seconds:.1f}", f"{step.resident / 1e9:.2f}", f"{step.cuda / 1e9:.2f}")
            for step in report.steps
        ]
        parts.append(_table(("whole trial", "seconds", "peak GB, host", "peak GB, GPU"), cells))
    if report.packings:
        cells = [
            (str(each.at_once), str(each.trials), f"{each.seconds:.1f}", f"{each.per_hour:.0f}")
            for each in report.packings
        ]
        parts.append(_table(("trials at once", "trials", "seconds", "trials an hour"), cells))
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _facts(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "machine": machine(),
        "revision": git_revision(),
        "architecture": options.arch,
        "side of equality and packing": options.small,
        "images": options.images,
        "recovery steps": options.steps,
    }


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_b", help="name or JSON file of an architecture of segment-anything")
    parser.add_argument("--small", type=int, default=256, help="side in pixels for equality and packing")
    parser.add_argument("--images", type=int, default=40, help="synthetic images of a study")
    parser.add_argument("--steps", type=int, default=20, help="recovery steps of a trial")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8], help="trials on the GPU at the same time")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="images in a timed call")
    parser.add_argument("--effort", type=float, default=8.0, help="most seconds of one comparison of times")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, required=True, help="folder for on_gpu.json and on_gpu.md")
    return parser.parse_args(arguments)


def main() -> None:
    """Run from the command line."""
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    report = run(options)
    sys.stdout.write(markdown(report))
    raise SystemExit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
