"""Claim to test: budgets by measured time are faster than budgets by FLOPs at equal Boundary F1.

A table of measured times is made on this processor (or read), and for every share of the time one budget meets it. Its
opponent is the budget by `flops_paper` to which the table gives the same time. Both come from one second-order
profile, both are refit, none is recovered. Encoders take turns on one thread; Boundary F1 is that of the report images.
On a busy machine `--clock cpu` times in processor seconds.

    OMP_NUM_THREADS=1 python -m benchmarks.time_budgets search/configs/polyps_halving.yaml --out results/published/time
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch.utils.benchmark import Timer

from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.prices import Prices, linear_prices, measured_prices
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality import latency
from medcore.quality.evaluate import evaluate
from medcore.quality.site_times import EFFORT, measure_sites
from medcore.quality.time_table import TimeTable, read_time_table, write_time_table
from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.refit.refit import refit
from search.base.config import Config, load_config
from search.commands.sections import study_jobs
from search.study.inputs import adapted_model, load_split
from search.study.needs import Needs
from search.study.prepare import statistics

SHARES = (0.8, 0.65, 0.5, 0.4, 0.3, 0.25)
#: Steps of the search for a share of the FLOPs: the last one changes it by a thousandth.
_STEPS = 10
#: Quantile of the timed calls that counts, as for tables: other programs can only add time.
_QUANTILE = 0.25
#: Resamples of the images.
_DRAWS = 1000


@dataclass(frozen=True)
class Pair:
    """Two budgets to which the table gives the same time.

    Attributes:
        share: share of the dense encoder's time.
        by_time: budget of least predicted loss within this time.
        by_flops: budget of least predicted loss within the FLOPs that take this time.
    """

    share: float
    by_time: ModelSpec
    by_flops: ModelSpec


def pair_of(arch: Architecture, curves: PerSite, share: float, prices: Prices) -> Pair:
    """Return the pair of a share; the FLOPs are found by bisection."""
    linear = linear_prices(arch)
    low, high = linear.fixed / linear.dense, 1.0
    found = knapsack_budget(arch, curves, low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        spec = knapsack_budget(arch, curves, middle)
        if prices.total(spec) <= share * prices.dense:
            low, found = middle, spec
        else:
            high = middle
    return Pair(share, knapsack_budget(arch, curves, share, prices=prices), found)


@contextmanager
def timed_by(clock: str) -> Iterator[None]:
    """Let medcore's measurements count processor seconds if the clock is `cpu`.

    Processor seconds leave out what other programs do meanwhile, except for what they push out of shared caches. GPUs
    need the wall clock, so medcore itself has no such setting.
    """
    timer = partial(Timer, timer=time.process_time) if clock == "cpu" else Timer
    with patch.object(latency, "Timer", timer):
        yield


def encoder_seconds(models: Mapping[str, MedSam], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every model's timed calls on one image; the models take turns."""
    side = next(iter(models.values())).arch.img_size
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    calls = {name: partial(model.encode, image) for name, model in models.items()}
    with torch.inference_mode():
        return latency.seconds_of(calls, 1, latency.Effort(rounds, block_seconds=0.05, most_seconds=600))


def time_at(quality: float, times: Sequence[float], qualities: Sequence[float]) -> float:
    """Return the time at which a front reaches a quality, on straight lines between its points.

    The front holds the points that no faster one beats. Beyond an end of the front, the time of this end counts.
    """
    order = np.argsort(times)
    ordered, best = np.asarray(times)[order], np.maximum.accumulate(np.asarray(qualities)[order])
    first = np.append(True, np.diff(best) > 0)
    return float(np.interp(quality, best[first], ordered[first]))


def time_table(config: Config, path: Path | None, rounds: int) -> TimeTable:
    """Read the table of this architecture, or measure it."""
    arch = adapted_model(config.model).arch
    if path is not None:
        return read_time_table(path, arch)
    effort = latency.Effort(rounds, EFFORT.block_seconds, most_seconds=600)
    return measure_sites(arch, torch.device("cpu"), threads=1, effort=effort)


def rows_of(config: Config, table: TimeTable, shares: Sequence[float], rounds: int) -> pd.DataFrame:
    """Return one row a model: the dense one first, then the pairs."""
    adapted, prices = adapted_model(config.model), measured_prices(table)
    jobs = study_jobs(config)
    profile = statistics(jobs, Needs(fisher=False, profile=True)).profile
    assert profile is not None  # it was asked for
    settings = RefitSettings(neck="none")
    streams = record_streams(adapted, jobs.scoring.calibration, settings)
    images = load_split(config.datasets, config.data.report_split, adapted.arch.frame)
    models, where = {"dense": adapted}, {"dense": (1.0, "dense")}
    for pair in (pair_of(adapted.arch, profile.curves, share, prices) for share in shares):
        for method, spec in (("time", pair.by_time), ("FLOPs", pair.by_flops)):
            name = f"{method} {pair.share:g}"
            models[name], where[name] = prune(adapted, select(profile.scores(), spec)), (pair.share, method)
            refit(models[name], streams, settings)
    taken = encoder_seconds(models, rounds)
    linear, rows, per_image = linear_prices(adapted.arch), [], {}
    for name, model in models.items():
        per_image[name] = pd.DataFrame(evaluate(model, images))
        rows.append(
            {
                "model": name,
                "share": where[name][0],
                "method": where[name][1],
                "heads": sum(model.spec.family("heads")),
                "channels": sum(model.spec.family("channels")),
                "flops_paper": linear.total(model.spec) / linear.dense,
                "predicted_ms": prices.total(model.spec),
                "ms": 1e3 * float(np.quantile(taken[name], _QUANTILE)),
                "boundary_f1": float(per_image[name].groupby("dataset")["boundary_f1"].mean().mean()),
            }
        )
    return with_comparisons(pd.DataFrame(rows), resampled(per_image))


def resampled(per_image: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the macro Boundary F1 of every model on images resampled within data sets, (draws, models)."""
    rng, datasets = np.random.default_rng(0), next(iter(per_image.values()))["dataset"].to_numpy()
    groups = [np.flatnonzero(datasets == name) for name in dict.fromkeys(datasets)]
    scores = np.stack([frame["boundary_f1"].to_numpy() for frame in per_image.values()], axis=1)
    draws = [
        np.mean([scores[rng.choice(rows, len(rows))].mean(axis=0) for rows in groups], axis=0) for _ in range(_DRAWS)
    ]
    return pd.DataFrame(draws, columns=list(per_image))


def with_comparisons(table: pd.DataFrame, draws: pd.DataFrame) -> pd.DataFrame:
    """Add to the rows by time how they compare with those by FLOPs.

    `gain` is the difference of Boundary F1 at equal predicted time. `ratio` is the time by FLOPs over the time by
    measured time, at equal Boundary F1. `_lo` and `_hi` are the ends of 95 % intervals over images.

    Args:
        table: one row a model.
        draws: see `resampled`.
    """
    table = table.set_index("model", drop=False)
    measured = table[["boundary_f1"]].T
    for name in table.index[table["method"] == "time"]:
        rival = f"FLOPs {str(name).removeprefix('time ')}"
        found, drawn = (
            {"gain": (each[name] - each[rival]).tolist(), "ratio": time_ratios(table, str(name), each)}
            for each in (measured, draws)
        )
        for key in found:
            table.loc[name, [key, f"{key}_lo", f"{key}_hi"]] = *found[key], *np.percentile(drawn[key], [2.5, 97.5])
    return table.reset_index(drop=True)


def time_ratios(table: pd.DataFrame, name: str, qualities: pd.DataFrame) -> list[float]:
    """Return the time by FLOPs over that of a model at equal Boundary F1, for every row of qualities.

    Args:
        table: one row a model, by its name.
        name: of the model.
        qualities: Boundary F1, (rows, models).
    """
    # the dense model ends both fronts
    front = table[table["method"] != "time"]
    times, mine = front["ms"].tolist(), float(table["ms"][name])
    return [time_at(row[name], times, row[front.index].tolist()) / mine for _, row in qualities.iterrows()]


def markdown_of(table: pd.DataFrame, conditions: str, clock: str) -> str:
    """Return the table for readers."""
    lines = [
        f"Encoder, {conditions}; {clock} time.",
        "",
        "| share of time | budget by | heads | channels | `flops_paper` left | predicted ms | ms | Boundary F1 "
        "| by time − by FLOPs (95 %) | time by FLOPs / by time at equal Boundary F1 (95 %) |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table.to_dict("records"):
        cells = [
            f"{row['share']:.0%}", row["method"], f"{row['heads']}", f"{row['channels']}", f"{row['flops_paper']:.1%}",
            f"{row['predicted_ms']:.1f}", f"{row['ms']:.1f}", f"{row['boundary_f1']:.4f}",
            "" if np.isnan(row["gain"]) else f"{row['gain']:+.4f} ({row['gain_lo']:+.4f} … {row['gain_hi']:+.4f})",
            "" if np.isnan(row["ratio"]) else f"{row['ratio']:.2f} ({row['ratio_lo']:.2f} … {row['ratio_hi']:.2f})",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    off = table["predicted_ms"] / table["predicted_ms"].iloc[0] / (table["ms"] / table["ms"].iloc[0]) - 1
    lines += [
        "",
        f"The table's shares of the dense encoder's time are off by {off.abs().mean():.1%} on average and "
        f"by {off.abs().max():.1%} at most. Ratios above 1 say that budgets by time are faster. "
        "Intervals resample images.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="measured before; by default measured now")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the dense encoder's time")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.config)
    options.out.mkdir(parents=True, exist_ok=True)
    with timed_by(options.clock):
        table = time_table(config, options.table, options.rounds)
        write_time_table(options.out / "times.json", table)
        rows = rows_of(config, table, options.shares, options.rounds)
    rows.to_csv(options.out / "time.csv", index=False, float_format="%.5g")
    text = markdown_of(rows, str(table.conditions), options.clock)
    (options.out / "time.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
