"""Claim: the mean of the weights of several short recoveries is better than one of them, and as good as one long one.

One cut and refit for each share of the FLOPs. From there several recoveries with different seeds, the mean of the
weights of the first two and of all of them, and one recovery with as many steps as all of them together. All on the
report images. A run that was interrupted continues with the groups of recoveries that are missing.

    OMP_NUM_THREADS=1 python -m benchmarks.budgets.averages search/configs/polyps.yaml --steps 40 \\
        --out results/published/averages
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from scipy import stats

import medcore
from medcore.data.load import ImageSet
from medcore.models.sam import MedSam
from medcore.scoring.profile import Profile
from medcore.training.average import mean_model
from medcore.training.orders import recovery_rate
from medcore.training.recovery import RecoverySettings, Teacher, compute_teacher, recover
from medcore.training.terms.registry import RECOMMENDED_TERMS
from results.store.files import read_json, write_json
from search.base.config import Config, load_config
from search.base.device import pin_threads

#: Recoveries whose weights are averaged.
RUNS = 4
#: Seeds of one group of recoveries are this far from those of the next.
_APART = 100


@dataclass(frozen=True)
class Study:
    """The model, the images and what is computed of them once."""

    config: Config
    steps: int

    @cached_property
    def dense(self) -> MedSam:
        """The model to prune."""
        return medcore.load(self.config.model.adapted, self.config.model.architecture)

    def images(self, split: str) -> ImageSet:
        """The images of a split."""
        return medcore.load_images(self.config.data.folders, split, self.dense.arch.frame)

    @cached_property
    def training(self) -> ImageSet:
        """Images of statistics, refit and recovery."""
        return self.images(self.config.data.calibration_split)

    @cached_property
    def report(self) -> ImageSet:
        """Images of the figures."""
        return self.images(self.config.data.report_split)

    @cached_property
    def profile(self) -> Profile:
        """The dense model's second-order profile."""
        return medcore.score(self.dense, self.training)

    @cached_property
    def teacher(self) -> Teacher:
        """The dense model's answers."""
        return compute_teacher(self.dense, self.training)

    def cut(self, share: float) -> MedSam:
        """The knapsack of a share, cut and refit."""
        model = medcore.prune(self.dense, self.profile, medcore.allocate(self.dense, self.profile, share))
        medcore.refit(model, self.dense, self.training)
        return model

    def recovered(self, start: MedSam, share: float, steps: int, seed: int) -> MedSam:
        """A copy of a model after a recovery."""
        model = copy.deepcopy(start)
        settings = RecoverySettings(
            steps,
            recovery_rate(share),
            warmup=min(5, steps),
            average=0.5,
            autocast=self.config.recovery.autocast,
            terms=RECOMMENDED_TERMS,
        )
        recover(model, self.training, self.teacher, settings, seed)
        return model

    def quality(self, model: MedSam) -> float:
        """Boundary F1 on the report images."""
        return medcore.evaluate(model, self.report, autocast=self.config.recovery.autocast)["boundary_f1"]

    def group(self, start: MedSam, share: float, seed: int) -> dict[str, float]:
        """Boundary F1 of the mean single run, of averages, and of the long run, from one cut and refit."""
        runs = [self.recovered(start, share, self.steps, _APART * seed + number) for number in range(RUNS)]
        single = sum(map(self.quality, runs)) / RUNS
        two, all_of_them = (self.quality(mean_model(copy.deepcopy(runs[:count]))) for count in (2, RUNS))
        long = self.quality(self.recovered(start, share, RUNS * self.steps, _APART * seed))
        return {"single": single, "average_2": two, f"average_{RUNS}": all_of_them, "long": long}


def measured(study: Study, shares: Sequence[float], seeds: int, work: Path) -> pd.DataFrame:
    """One row for each share and seed; groups that were measured before are not made again."""
    rows = []
    work.mkdir(parents=True, exist_ok=True)
    for share in shares:
        files = [work / f"{study.steps}-{share:g}-{seed}.json" for seed in range(seeds)]
        start = None if all(file.is_file() for file in files) else study.cut(share)
        for seed, file in enumerate(files):
            if start is not None and not file.is_file():
                write_json(file, study.group(start, share, seed))
            found = read_json(file, "delete it to measure the group again")
            rows.append({"steps": study.steps, "share": share, "seed": seed, **found})
    return pd.DataFrame(rows)


def table_of(rows: pd.DataFrame) -> str:
    """A Markdown table of means over seeds, and of the paired gains of the average of all runs."""
    every = f"average_{RUNS}"
    lines = [
        f"| steps | FLOPs | groups | one run | average of 2 | average of {RUNS} | one run of {RUNS}× the steps "
        f"| average of {RUNS} − one run (95 %) | − long run (95 %) |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (steps, share), part in rows.groupby(["steps", "share"]):
        means = " | ".join(f"{part[name].mean():.4f}" for name in ("single", "average_2", every, "long"))
        gains = " | ".join(interval(part[every] - part[name]) for name in ("single", "long"))
        lines.append(f"| {steps} | {share:.0%} | {len(part)} | {means} | {gains} |")
    return "\n".join(lines) + "\n"


def interval(differences: pd.Series) -> str:
    """The mean of paired differences with its 95 % t interval."""
    mean = differences.mean()
    half = stats.t.ppf(0.975, len(differences) - 1) * differences.std() / len(differences) ** 0.5
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--steps", type=int, default=40, help="of one of the short recoveries")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, default=3, help="groups of recoveries for each share")
    parser.add_argument("--work", type=Path, default=Path("runs/averages"), help="folder of single results")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pin_threads(1)
    study = Study(load_config(arguments.config), arguments.steps)
    rows = measured(study, arguments.shares, arguments.seeds, arguments.work)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(arguments.out / f"steps_{arguments.steps}.csv", index=False, float_format="%.5g")
    (arguments.out / f"steps_{arguments.steps}.md").write_text(table_of(rows))


if __name__ == "__main__":
    main()
