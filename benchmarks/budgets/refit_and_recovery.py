"""Claim: a knapsack budget keeps the boundary right after the refit, and more of it after a recovery.

`medcore prune` with its defaults at several shares of the FLOPs and several seeds, without a recovery step and with
`--steps`; the dense model after the same recovery is the line to compare with. All on the report images.

    OMP_NUM_THREADS=1 python -m benchmarks.budgets.refit_and_recovery search/configs/polyps_halving.yaml \\
        --out results/published/refit
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd

from search.base.config import Config, load_config, validate
from search.commands.prune import prune

METRICS = ("boundary_f1", "hd95", "dice")


def changed(config: Config, fraction: float, seed: int, steps: int) -> Config:
    """The study's configuration with one budget, seed and number of recovery steps."""
    values = config.model_dump()
    values["seed"] = seed
    values["recovery"]["steps"] = steps
    values["budget"] |= {"allocator": "knapsack", "fraction": fraction}
    return validate(values, "benchmark")


def measure(config: Config, fraction: float, seed: int, steps: int, work: Path) -> dict[str, float]:
    """Figures of one model; a model that was measured before is not made again."""
    file = work / f"{fraction:g}-{seed}-{steps}.json"
    if not file.is_file():
        start = time.process_time()
        metrics = prune(changed(config, fraction, seed, steps), work / "model.safetensors")
        row = {name: metrics[name] for name in (*METRICS, "flops_paper_fraction")}
        file.write_text(json.dumps({**row, "cpu_s": time.process_time() - start}))
    return {"fraction": fraction, "seed": seed, "steps": steps, **json.loads(file.read_text())}


def table_of(rows: pd.DataFrame) -> str:
    """A Markdown table of means and standard deviations over seeds."""
    lines = [
        "| share of `flops_paper` | steps | seeds | Boundary F1 | sd | HD95 (px) | sd | Dice | CPU s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (fraction, steps), part in rows.groupby(["fraction", "steps"]):
        mean, spread = part.mean(), part.std()
        lines.append(
            f"| {fraction:.0%} | {steps} | {len(part)} | {mean['boundary_f1']:.4f} | {spread['boundary_f1']:.4f} "
            f"| {mean['hd95']:.2f} | {spread['hd95']:.2f} | {mean['dice']:.4f} | {mean['cpu_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.08, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/refit-and-recovery"), help="folder for single results")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = [
        measure(config, fraction, seed, steps, arguments.work)
        for steps in (0, arguments.steps)
        for fraction in (*arguments.fractions, *([1.0] if steps else []))
        for seed in range(arguments.seeds if fraction < 1 else 1)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "table.csv", index=False, float_format="%.5g")
    (arguments.out / "table.md").write_text(table_of(table))


if __name__ == "__main__":
    main()
