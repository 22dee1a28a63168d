"""Tables and picture of the comparison with SwiftMedSAM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.comparison_picture import comparison_png
from results.stats.columns import DENSE
from results.stats.intervals import macro_interval
from results.store.files import write_by_rename

#: Metrics of the tables; the costs are shares of the dense model's.
METRICS, COSTS = ["boundary_f1", "hd95", "dice"], ["call_flops", "flops", "encoder_params", "decoder_params"]
SHARE = "call_flops_fraction"
TITLES = {
    DENSE: "nothing cut",
    "swift": "SwiftMedSAM {at}",
    "uniform": "uniform, cost of {at}",
    "knapsack": "knapsack, cost of {at}",
    "search": "search, cost of {at} at most",
}
_COLUMNS = (
    "budget",
    "FLOPs of a call",
    "of the encoder",
    "parameters of encoder",
    "of decoder",
    "Boundary F1",
    "HD95 (px)",
    "Dice",
    "Boundary F1 less SwiftMedSAM's",
)


def runs(images: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each model and seed: macro means over data sets of the figures of all images."""
    keys = ["budget", "at", "seed"]
    by_dataset = images.fillna({"at": ""}).groupby([*keys, "dataset"], sort=False)[[*COSTS, *METRICS]].mean()
    return by_dataset.groupby(level=keys, sort=False).mean().reset_index()


def tables(images: pd.DataFrame, front: pd.DataFrame, out: Path) -> None:
    """Write `table.csv`, `front.csv` and `table.md`.

    Args:
        images: a row for each model, seed and image, with `budget`, `at`, `seed`, `COSTS` and the metrics.
        front: a row for each member of the study's front, with `origin`, `COSTS` and `METRICS`.
        out: folder.
    """
    write_by_rename(out / "table.csv", runs(images).to_csv(index=False, float_format="%.5g").encode())
    write_by_rename(out / "front.csv", front.to_csv(index=False, float_format="%.5g").encode())
    header = f"| {' | '.join(_COLUMNS)} |\n|---{'|--:' * (len(_COLUMNS) - 1)}|\n"
    text = header + "".join(_lines(images)) + "\nThe front of the search:\n\n" + "".join(_front_lines(front))
    write_by_rename(out / "table.md", text.encode())


def picture(images: pd.DataFrame, front: pd.DataFrame, path: Path) -> None:
    """Draw Boundary F1 and HD95 against the share of a call's FLOPs; bars go from the smallest to the largest seed."""
    names = {
        DENSE: "nothing cut",
        "swift": "SwiftMedSAM v1, v2",
        "uniform": "uniform of equal cost",
        "knapsack": "knapsack of equal cost",
        "search": "search, chosen",
    }
    found = {}
    for budget, rows in runs(images).groupby("budget", sort=False):
        grouped = rows.groupby("at", sort=False)[["call_flops", *METRICS]]
        ends = [getattr(grouped, end)()[METRICS].add_suffix(f"_{name}") for end, name in (("min", "lo"), ("max", "hi"))]
        curve = pd.concat([grouped.mean(), *ends], axis=1).rename(columns={"call_flops": SHARE})
        found[names[str(budget)]] = curve.reset_index()
    front_curve = front[front["origin"] != DENSE].rename(columns={"call_flops": SHARE})
    comparison_png({"front of the search": front_curve, **found}, ("boundary_f1", "hd95"), path, SHARE)


def _lines(images: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each model: means over seeds, and the smallest and largest Boundary F1."""
    for (budget, at), rows in runs(images).groupby(["budget", "at"], sort=False):
        mean, quality = rows[[*COSTS, *METRICS]].mean(), rows["boundary_f1"]
        shares = " | ".join(f"{mean[name]:.1%}" for name in COSTS)
        yield (
            f"| {TITLES[str(budget)].format(at=at)} | {shares} | {quality.mean():.4f} ({quality.min():.4f}–"
            f"{quality.max():.4f}) | {mean['hd95']:.2f} | {mean['dice']:.4f} | {_difference(images, budget, at)} |\n"
        )


def _difference(images: pd.DataFrame, budget: str, at: str) -> str:
    """Return the paired difference to SwiftMedSAM at the same cost, with the 95 % bootstrap interval over images."""
    if budget in (DENSE, "swift"):
        return ""
    keys = ["dataset", "name"]
    this, other = (
        images[(images["budget"] == each) & (images["at"] == at)].groupby(keys)["boundary_f1"].mean()
        for each in (budget, "swift")
    )
    gap = (this - other).reset_index()
    low, high = macro_interval(gap["boundary_f1"], gap["dataset"])
    mean = gap.groupby("dataset")["boundary_f1"].mean().mean()
    return f"{mean:+.4f} ({low:+.4f} … {high:+.4f})"


def _front_lines(front: pd.DataFrame) -> Iterator[str]:
    """Yield the lines of the front's table."""
    yield "| budget | FLOPs of a call | of the encoder | Boundary F1 | HD95 (px) | Dice |\n|---|--:|--:|--:|--:|--:|\n"
    for _, row in front.iterrows():
        yield (
            f"| {row['origin']} | {row['call_flops']:.1%} | {row['flops']:.1%} | {row['boundary_f1']:.4f} "
            f"| {row['hd95']:.2f} | {row['dice']:.4f} |\n"
        )
