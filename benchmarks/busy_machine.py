"""Claim: a busy machine slows `medcore prune` less, because idle threads of OpenMP spin for a bounded time only.

The command runs with each way of waiting, on an idle machine and next to processes that only compute: the bound that
medcore sets, GNU's default, and no spinning at all. The ways take turns, so that other load hits all; the median of
the rounds counts. Processor time is that of the command with all its threads.

    python -m benchmarks.busy_machine --rounds 3 --busy 3
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console
from rich.table import Table

from medcore.models.checkpoint import save
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.synthetic.write import write_folder

#: Variables of each way; a user's own value takes the place of medcore's. GNU's default is this number.
WAYS: dict[str, dict[str, str]] = {
    "bounded (medcore)": {},
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}

#: Program of a process that only computes. It ends with its parent.
_COMPUTE = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100000))
"""


class Cost(NamedTuple):
    """Seconds of one run: on the wall, and of all its threads on the processor."""

    wall: float
    processor: float


def write_inputs(folder: Path, side: int, steps: int) -> Path:
    """Write a pair with random weights, images and a configuration, and return the latter's path."""
    arch = SamVit(
        name="busy",
        img_size=side,
        patch_size=8,
        embed_dim=192,
        depth=4,
        num_heads=6,
        mlp_ratio=4,
        out_chans=64,
        window_size=8,
        global_attn_indexes=(1, 3),
        decoder=DecoderSpec(depth=2, mlp_dim=128, num_heads=4, iou_head_depth=2, iou_head_hidden_dim=32),
    )
    for seed, name in enumerate(("base", "adapted")):
        torch.manual_seed(seed)
        save(folder / f"{name}.safetensors", build(ModelSpec.dense(arch)))
    write_folder(folder / "images", "medical", 80, side, seed=0)
    values: dict[str, Any] = {
        "study": "busy",
        "output": str(folder / "runs"),
        "model": {name: str(folder / f"{name}.safetensors") for name in ("base", "adapted")},
        "data": {"folders": [str(folder / "images")], "calibration_per_dataset": 8},
        "recovery": {"steps": steps, "batch_size": 4},
    }
    config = folder / "busy.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def run(config: Path, variables: Mapping[str, str]) -> Cost:
    """Prune once, with a score table of its own, and return what it took."""
    unset = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        values = yaml.safe_load(config.read_text()) | {"output": output}
        own = Path(output) / "busy.yaml"
        own.write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", "search.cli", "prune", str(own)]
        subprocess.run(command, env=unset | dict(variables), stdout=subprocess.DEVNULL, check=True)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return Cost(end - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@contextmanager
def others(count: int) -> Iterator[None]:
    """So many processes that only compute, for the length of a block."""
    running = [subprocess.Popen([sys.executable, "-c", _COMPUTE]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def measure(config: Path, busy: int, rounds: int) -> dict[str, Cost]:
    """Median costs of each way next to so many other processes."""
    costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, variables in WAYS.items():
            with others(busy):
                costs[name].append(run(config, variables))
    return {name: Cost(*map(statistics.median, zip(*taken, strict=True))) for name, taken in costs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=3, help="other processes on the busy machine")
    parser.add_argument("--side", type=int, default=128, help="of the images, in pixels")
    parser.add_argument("--steps", type=int, default=40, help="of the recovery")
    arguments = parser.parse_args()
    table = Table(title=f"medcore prune at {arguments.side} px with {arguments.steps} steps of recovery")
    for title in ("machine", "waiting", "wall (s)", "processor (s)", "wall, ratio to ours", "processor, ratio to ours"):
        table.add_column(title, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        config = write_inputs(Path(folder), arguments.side, arguments.steps)
        for busy in (0, arguments.busy):
            costs = measure(config, busy, arguments.rounds)
            ours = next(iter(costs.values()))
            for name, cost in costs.items():
                ratios = (f"{cost.wall / ours.wall:.2f}", f"{cost.processor / ours.processor:.2f}")
                table.add_row(f"{busy} others", name, f"{cost.wall:.1f}", f"{cost.processor:.1f}", *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
