"""Claim: once the encoder is small, a call gets faster at equal Boundary F1 if the mask decoder is pruned as well.

Knapsack budgets of the encoder alone, of the decoder alone, and of both, at shares of the FLOPs of a call (one image
and one box; for the decoder alone, of a box). All have the same refit and recovery, and figures are from the report
images. At the end all models of seed 0 take turns with the dense one, so that times can be compared.

    OMP_NUM_THREADS=1 python -m benchmarks.budgets.decoder_fronts search/configs/polyps_halving.yaml \\
        --out results/published/decoder

A stopped benchmark continues with the same command.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from medcore.quality.latency import Effort, compare
from medcore.quality.timing import Latency
from search.base.config import Config, load_config, validate
from search.commands.prune import prune
from search.study.inputs import adapted_model, cost_metrics

ARMS = {"encoder": ("encoder",), "decoder": ("decoder",), "both": ("encoder", "decoder")}
METRICS = ("boundary_f1", "hd95", "dice")


class Case(NamedTuple):
    """One model of the table."""

    arm: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.arm}-{self.share:g}-{self.seed}"


def changed(config: Config, case: Case) -> Config:
    """Return the study's configuration with one arm, share and seed."""
    values = config.model_dump()
    values["seed"] = case.seed
    values["model"] |= {
        "parts": ARMS[case.arm],
        "drop": ("masks", "iou") if case.arm != "encoder" and case.share < 1 else (),
    }
    values["budget"] |= {
        "allocator": "knapsack",
        "fraction": case.share,
        "cost": "decoder_flops" if case.arm == "decoder" else "call_flops",
    }
    return validate(values, "benchmark")


def measured(config: Config, case: Case, work: Path) -> dict[str, Any]:
    """Return the figures of one model; a model that was measured before is not made again."""
    file = work / f"{case.name}.json"
    if not file.is_file():
        start = time.process_time()
        own = changed(config, case)
        metrics = prune(own, work / f"{case.name}.safetensors")
        # the cost of all parts, whatever was prunable
        whole = load(work / f"{case.name}.safetensors").spec.with_parts(ARMS["both"])
        row = {name: metrics[name] for name in METRICS} | cost_metrics(whole)
        file.write_text(json.dumps(row | {"cpu_s": time.process_time() - start}))
    return {**case._asdict(), **json.loads(file.read_text())}


def times(config: Config, cases: list[Case], work: Path, effort: Effort) -> dict[str, Latency]:
    """Return the times of a call with each model of one seed, and with the dense one, in turns."""
    models: dict[str, MedSam] = {"dense": adapted_model(config.model)}
    models |= {case.name: load(work / f"{case.name}.safetensors") for case in cases}
    return compare(models, batch=1, threads=1, effort=effort)


def markdown(rows: pd.DataFrame, found: dict[str, Latency]) -> str:
    """Return the table of means over seeds, with the smallest and largest Boundary F1."""
    lines = [
        "| pruned | share asked for | FLOPs of a call left | encoder | decoder | Boundary F1 | HD95 (px) | call (ms) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        f"| nothing | | 100% | 100% | 100% | | | {_milliseconds(found['dense'])} |",
    ]
    for (arm, share), part in rows.groupby(["arm", "share"], sort=False):
        mean, quality = part.mean(numeric_only=True), part["boundary_f1"]
        lines.append(
            f"| {arm} | {share:.0%} | {mean['call_flops_fraction']:.1%} | {mean['flops_fraction']:.1%} "
            f"| {mean['decoder_flops_fraction']:.1%} | {quality.mean():.4f} ({quality.min():.4f}–{quality.max():.4f}) "
            f"| {mean['hd95']:.2f} | {_milliseconds(found[Case(str(arm), float(share), 0).name])} |"
        )
    return "\n".join(lines) + "\n"


def _milliseconds(latency: Latency) -> str:
    call = latency.whole
    interval = "" if call.low_ms is None else f" ({call.low_ms:.1f}–{call.high_ms:.1f})"
    return f"{call.median_ms:.1f}{interval}{' ?' if latency.trouble else ''}"


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for seed in range(options.seeds):
        yield Case("both", 1.0, seed)
        for arm, shares in (("encoder", options.shares), ("both", options.shares), ("decoder", options.decoder_shares)):
            yield from (Case(arm, share, seed) for share in shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.2, 0.3, 0.5], help="of a call's FLOPs")
    parser.add_argument("--decoder-shares", type=float, nargs="+", default=[0.4, 0.6], help="of the decoder's FLOPs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/decoder-fronts"), help="folder for single results")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = load_config(options.config)
    options.work.mkdir(parents=True, exist_ok=True)
    cases = list(_cases(options))
    rows = pd.DataFrame([measured(config, case, options.work) for case in cases])
    found = times(config, [case for case in cases if case.seed == 0], options.work, Effort())
    options.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.out / "table.csv", index=False, float_format="%.5g")
    (options.out / "table.md").write_text(markdown(rows, found))


if __name__ == "__main__":
    main()
