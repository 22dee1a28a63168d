"""Question: at equal FLOPs, is it better to cut widths, to give the model fewer tokens, or both?

Each way ends with the same refit and the same recovery. `widths` is the knapsack at the checkpoint's own side, `side`
the largest side whose unpruned model fits the budget, and the others are knapsacks at sides between. The budget is a
share of the FLOPs of the unpruned model at its own side. All on the report images, differences paired by image.

    OMP_NUM_THREADS=1 python -m benchmarks.sizes.token_grid search/configs/polyps_halving.yaml \\
        --out results/published/grid
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medcore.errors import CheckpointError
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.evaluate import evaluate
from medcore.training.orders import recovery_rate
from results.pages.markdown import table
from results.stats.intervals import macro_interval
from search.base.config import Config, load_config, validate
from search.base.terminal.status import Status
from search.commands.prune import prune
from search.study.inputs import adapted_model, load_split

METRICS = ("boundary_f1", "hd95")


@dataclass(frozen=True)
class Way:
    """How a model gets to its budget.

    Attributes:
        name: for tables.
        side: pixels along its square.
        share: what it keeps of the `flops_paper` of the unpruned model at that side.
    """

    name: str
    side: int
    share: float


def paper_flops(arch: Architecture, side: int) -> int:
    """`flops_paper` of the unpruned model at a side."""
    return cost(ModelSpec.dense(arch_at_side(arch, side))).flops_paper


def largest_side(arch: Architecture, budget: float) -> int:
    """The largest side whose unpruned model costs at most `budget` by `flops_paper`."""
    for side in range(arch.img_size, 0, -1):
        try:
            if paper_flops(arch, side) <= budget:
                return side
        except CheckpointError:  # no multiple of a patch
            continue
    raise CheckpointError(f"{arch.name}: no side costs at most {budget:g}")


def ways(arch: Architecture, fraction: float, sides: list[int]) -> list[Way]:
    """All ways to a share of the FLOPs of the unpruned model at its own side."""
    budget = fraction * paper_flops(arch, arch.img_size)
    both = [Way(f"both, {side} px", side, budget / paper_flops(arch, side)) for side in sides]
    alone = largest_side(arch, budget)
    return [Way("widths", arch.img_size, fraction), *both, Way(f"side, {alone} px", alone, 1.0)]


def changed(config: Config, way: Way, fraction: float, seed: int, steps: int, images: int) -> Config:
    """The study's configuration for one model. All ways to a budget recover at the same rate."""
    values = config.model_dump()
    values["seed"] = seed
    values["model"]["side"] = way.side
    values["data"] |= {"calibration_per_dataset": images, "recovery_per_dataset": images}
    values["recovery"] |= {"steps": steps, "lr": recovery_rate(fraction), "autocast": False}
    values["budget"] |= {"allocator": "knapsack", "fraction": way.share}
    return validate(values, "benchmark")


def measure(config: Config, work: Path, file: Path, status: Status) -> pd.DataFrame:
    """Metrics of one model for every report image; a model that was measured before is not made again."""
    if not file.is_file():
        checkpoint = work / "model.safetensors"
        metrics = prune(config, checkpoint, status.report)
        model = load(checkpoint)
        report = load_split(config.datasets, config.data.report_split, model.arch.frame)
        rows = pd.DataFrame(evaluate(model, report))[["dataset", "name", *METRICS]]
        rows.assign(flops_paper=metrics["flops_paper"], flops=metrics["flops"]).to_csv(file, index=False)
    return pd.read_csv(file)


def macro(rows: pd.DataFrame, metric: str) -> float:
    """The mean over data sets of their means."""
    return float(rows.groupby("dataset")[metric].mean().mean())


def summary_of(rows: pd.DataFrame, dense: dict[str, int]) -> pd.DataFrame:
    """One row a budget, steps and way: means over seeds, and differences to `widths` that are paired by image."""
    found = []
    for (fraction, steps), group in rows.groupby(["fraction", "steps"], sort=False):
        by_way = dict(iter(group.groupby("way", sort=False)))
        means = {way: part.groupby(["dataset", "name"])[list(METRICS)].mean() for way, part in by_way.items()}
        for way, part in by_way.items():
            row = {"fraction": fraction, "steps": steps, "way": way, "seeds": part["seed"].nunique()}
            row |= {name: part[name].mean() / total for name, total in dense.items()}
            for metric in METRICS:
                by_seed = pd.Series([macro(one, metric) for _, one in part.groupby("seed")])
                row |= {metric: by_seed.mean(), f"{metric}_sd": by_seed.std()}
                less = (means[way][metric] - means["widths"][metric]).reset_index()
                low, high = macro_interval(less[metric], less["dataset"])
                row |= {f"{metric}_less": macro(less, metric), f"{metric}_low": low, f"{metric}_high": high}
            found.append(row)
    return pd.DataFrame(found)


def text_of(summary: pd.DataFrame) -> str:
    """The table in Markdown."""
    head = ["budget", "steps", "way", "seeds", "by the paper's count", "FLOPs that run"]
    head += ["Boundary F1 (sd)", "less widths (95 %)", "HD95 px (sd)", "less widths (95 %)"]
    lines = []
    for row in summary.to_dict("records"):
        cells = [f"{row['fraction']:.0%}", str(row["steps"]), row["way"], str(row["seeds"])]
        cells += [f"{row['flops_paper']:.1%}", f"{row['flops']:.1%}"]
        for metric, digits in (("boundary_f1", 4), ("hd95", 2)):
            less, low, high = (f"{row[f'{metric}_{end}']:+.{digits}f}" for end in ("less", "low", "high"))
            cells += [f"{row[metric]:.{digits}f} ({row[f'{metric}_sd']:.{digits}f})", f"{less} ({low} to {high})"]
        lines.append(cells)
    return table(head, lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.08, 0.15])
    parser.add_argument("--sides", type=int, nargs="+", default=[192], help="sides that are combined with widths")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[120])
    parser.add_argument("--images", type=int, default=128, help="training images of each data set")
    parser.add_argument("--work", type=Path, default=Path("runs/token-grid"), help="folder for single results")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config, work = load_config(arguments.config).absolute(), arguments.work
    config = config.model_copy(update={"output": (work / "study").absolute()})
    arch = adapted_model(config.model).arch
    work.mkdir(parents=True, exist_ok=True)
    found = []
    with Status() as status:
        for seed in range(arguments.seeds):
            for fraction in arguments.fractions:
                for steps in arguments.steps:
                    for way in ways(arch, fraction, arguments.sides):
                        file = work / f"{fraction:g}-{way.side}-{seed}-{steps}.csv"
                        one = changed(config, way, fraction, seed, steps, arguments.images)
                        rows = measure(one, work, file, status)
                        found.append(rows.assign(fraction=fraction, steps=steps, way=way.name, seed=seed))
    dense = cost(ModelSpec.dense(arch))
    summary = summary_of(pd.concat(found), {"flops_paper": dense.flops_paper, "flops": dense.flops})
    arguments.out.mkdir(parents=True, exist_ok=True)
    summary.to_csv(arguments.out / "table.csv", index=False, float_format="%.5g")
    (arguments.out / "table.md").write_text(text_of(summary))


if __name__ == "__main__":
    main()
