"""Question: do further terms of the recovery's loss, or rounds that follow the loss, change boundary figures?

`medcore prune` at one share of the FLOPs: knapsack, refit, and a recovery with the loss (6.2) alone (`default`) against
the same with each option. All on the report images. Differences are paired by seed; their intervals are t intervals
over seeds. A run that was interrupted continues with the models that are missing.

    OMP_NUM_THREADS=1 python -m benchmarks.budgets.loss_terms search/configs/polyps.yaml --out results/published/losses
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from search.base.config import Config, load_config, validate
from search.commands.prune import prune

#: What each arm changes in the configuration, by section. The first is the line to compare with. Weights were chosen
#: before any arm was measured: on 8 training images, the weighted gradient of a term in the encoder is 0.4 times that
#: of the default loss, and that of the term instead of frequencies is as large as theirs.
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"recovery": {"terms": {}}},
    "directional": {"recovery": {"terms": {"directional": 10.0}}},
    "directional_alone": {"recovery": {"lambdas": (1.0, 0.5, 2.0, 0.0), "terms": {"directional": 12.0}}},
    "lomix": {"recovery": {"terms": {"lomix": 6.0}}},
    "decoder": {"recovery": {"terms": {"lomix": 6.0}, "train_decoder": True}},
    "plateau": {"recovery": {"terms": {}}, "schedule": {"plan": "plateau", "rounds": 4}},
}
#: Figures with their digits.
METRICS = {"boundary_f1": 4, "hd95": 2}


def changed(config: Config, sections: Mapping[str, Mapping[str, Any]], fraction: float, seed: int) -> Config:
    """The study's configuration with one budget, one seed and one arm."""
    values = config.model_dump()
    values["seed"] = seed
    values["budget"] |= {"allocator": "knapsack", "fraction": fraction}
    for section, changes in sections.items():
        values[section] |= changes
    return validate(values, "benchmark")


def measure(config: Config, arm: str, fraction: float, seed: int, work: Path) -> dict[str, Any]:
    """Figures of one model; a model that was measured before is not made again."""
    file = work / f"{arm}-{fraction:g}-{seed}.json"
    if not file.is_file():
        start = time.process_time()
        metrics = prune(changed(config, ARMS[arm], fraction, seed), work / "model.safetensors")
        row = {name: metrics[name] for name in (*METRICS, "dice", "flops_paper_fraction")}
        file.write_text(json.dumps({**row, "cpu_s": time.process_time() - start}))
    return {"arm": arm, "seed": seed, **json.loads(file.read_text())}


def difference(values: pd.Series, base: pd.Series) -> tuple[float, float, float]:
    """Mean of the paired differences, and the ends of its 95 % t interval.

    Args:
        values: One figure per seed, by seed.
        base: The same of the arm to compare with.
    """
    pairs = (values - base).dropna()
    half = stats.t.ppf(0.975, len(pairs) - 1) * pairs.std() / len(pairs) ** 0.5
    return float(pairs.mean()), float(pairs.mean() - half), float(pairs.mean() + half)


def table_of(rows: pd.DataFrame) -> str:
    """A Markdown table of means over seeds and of paired differences from the first arm."""
    first = next(iter(ARMS))
    lines = [
        "| arm | seeds | Boundary F1 | difference | 95 % | HD95 (px) | difference | 95 % | CPU s | says |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for arm, part in rows.groupby("arm", sort=False):
        cells, claims = [f"{arm} | {len(part)}"], []
        for metric, digits in METRICS.items():
            by_seed, base = (rows[rows["arm"] == name].set_index("seed")[metric] for name in (arm, first))
            cells.append(f"{by_seed.mean():.{digits}f}")
            if arm == first:
                cells.append("– | –")
                continue
            mean, low, high = difference(by_seed, base)
            cells.append(f"{mean:+.{digits}f} | {low:+.{digits}f} … {high:+.{digits}f}")
            if low > 0 or high < 0:
                claims.append(f"{metric} {'rises' if mean > 0 else 'falls'}")
        verdict = "–" if arm == first else ", ".join(claims) or "no difference shown"
        lines.append(f"| {' | '.join(cells)} | {part['cpu_s'].mean():.0f} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--fraction", type=float, default=0.08)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="in addition to `default`")
    parser.add_argument("--work", type=Path, default=Path("runs/loss-terms"), help="folder for single results")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    arms = [arm for arm in ARMS if arm in {next(iter(ARMS)), *arguments.arms}]
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = [
        measure(config, arm, arguments.fraction, seed, arguments.work)
        for seed in range(arguments.seeds)
        for arm in arms
    ]
    table = pd.DataFrame(rows).sort_values("arm", key=lambda arms: arms.map(list(ARMS).index), kind="stable")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "table.csv", index=False, float_format="%.5g")
    (arguments.out / "table.md").write_text(table_of(table))


if __name__ == "__main__":
    main()
