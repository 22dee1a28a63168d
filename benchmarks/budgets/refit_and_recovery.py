"""Claim: a knapsack budget keeps the boundary right after the refit, and more of it after a recovery.

`medcore prune` with its defaults at several shares of the FLOPs and several seeds, with `--steps` recovery steps, and
without one for each choice of the neck's layers that the refit solves for. The dense model after the same recovery is
the line to compare with. All on the report images.

    OMP_NUM_THREADS=1 python -m benchmarks.budgets.refit_and_recovery search/configs/polyps.yaml \\
        --out results/published/refit
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from medcore.training.orders import NeckLayers
from search.base.config import Config, load_config, validate
from search.commands.prune import prune

METRICS = ("boundary_f1", "hd95", "dice")


@dataclass(frozen=True)
class Run:
    """One model: share of the FLOPs, seed, number of recovery steps, and the neck's layers that are refit."""

    fraction: float
    seed: int
    steps: int
    neck: str

    @property
    def name(self) -> str:
        return f"{self.fraction:g}-{self.seed}-{self.steps}-{self.neck}"


def changed(config: Config, run: Run) -> Config:
    """The study's configuration with what one run changes."""
    values = config.model_dump()
    values["seed"] = run.seed
    values["recovery"] |= {"steps": run.steps, "refit_neck": run.neck}
    values["budget"] |= {"allocator": "knapsack", "fraction": run.fraction}
    return validate(values, "benchmark")


def measure(config: Config, run: Run, work: Path) -> dict[str, Any]:
    """Figures of one model; a model that was measured before is not made again."""
    file = work / f"{run.name}.json"
    if not file.is_file():
        start = time.process_time()
        metrics = prune(changed(config, run), work / "model.safetensors")
        row = {name: metrics[name] for name in (*METRICS, "flops_paper_fraction")}
        file.write_text(json.dumps({**row, "cpu_s": time.process_time() - start}))
    return {**asdict(run), **json.loads(file.read_text())}


def table_of(rows: pd.DataFrame) -> str:
    """A Markdown table of means and standard deviations over seeds."""
    lines = [
        "| share of `flops_paper` | steps | neck | seeds | Boundary F1 | sd | HD95 (px) | sd | Dice | CPU s |",
        "|--:|--:|--|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (fraction, steps, neck), part in rows.groupby(["fraction", "steps", "neck"], sort=False):
        mean, spread = part.mean(numeric_only=True), part.std(numeric_only=True)
        lines.append(
            f"| {fraction:.0%} | {steps} | {neck} | {len(part)} "
            f"| {mean['boundary_f1']:.4f} | {spread['boundary_f1']:.4f} "
            f"| {mean['hd95']:.2f} | {spread['hd95']:.2f} | {mean['dice']:.4f} | {mean['cpu_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.08, 0.1])
    parser.add_argument("--seeds", type=int, default=3, help="of the recovered models")
    parser.add_argument("--refit-seeds", type=int, default=8, help="of those right after the refit")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/refit-and-recovery"), help="folder for single results")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    arguments.work.mkdir(parents=True, exist_ok=True)
    kinds = [(0, neck) for neck in get_args(NeckLayers)] + [(arguments.steps, "pointwise")]
    rows = [
        measure(config, Run(fraction, seed, steps, neck), arguments.work)
        for steps, neck in kinds
        for fraction in (*arguments.fractions, *([1.0] if steps else []))
        for seed in range(1 if fraction == 1 else arguments.seeds if steps else arguments.refit_seeds)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "table.csv", index=False, float_format="%.5g")
    (arguments.out / "table.md").write_text(table_of(table))


if __name__ == "__main__":
    main()
