"""Claim: a pruned model is faster than the dense one it came from, though by less than its FLOPs say.

Encoder of both, forward pass in float32 on the same random images, one after the other in each round; the median of the
rounds counts, after one that warms up. `time left` stands beside `FLOPs left`, so that a saving which is none shows.

    python -m benchmarks.model_speed DENSE.pth PRUNED.safetensors [...] --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from medcore.checkpoint import load
from medcore.cost import cost
from medcore.sam import MedSam


def seconds(models: dict[str, MedSam], batch: int, rounds: int) -> dict[str, float]:
    """Median seconds of one forward pass of each encoder."""
    side = next(iter(models.values())).arch.img_size
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, model in models.items():
                begin = time.perf_counter()
                model.image_encoder(images)
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("pruned", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = {path.stem: load(path) for path in (arguments.dense, *arguments.pruned)}
    dense = arguments.dense.stem
    table = Table(title=f"encoder, float32, CPU, {arguments.threads} thread(s), median of {arguments.rounds}")
    for title in ("model", "batch", "ms", "time left", "FLOPs left", "speed-up"):
        table.add_column(title, justify="right")
    for batch in arguments.batches:
        found = seconds(models, batch, arguments.rounds)
        for name, model in models.items():
            time_left = found[name] / found[dense]
            flops_left = cost(model.spec).flops / cost(models[dense].spec).flops
            cells = (f"{1e3 * found[name]:.1f}", f"{time_left:.1%}", f"{flops_left:.1%}", f"{1 / time_left:.2f}×")
            table.add_row(name, str(batch), *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
