"""Claim: a search over LiteMedSAM finds budgets that are better than SwiftMedSAM's two at equal cost and recovery.

By its search images, a study chooses its best model that costs no more than SwiftMedSAM v1, and the best that costs no
more than v2. These budgets, those of v1 and v2, uniform and knapsack budgets of the same cost, and the unpruned model
have the same refit and recovery, with several seeds. All figures are from the report images, also those of the study's
front.

    export LITE_MEDSAM_CHECKPOINT=lite_medsam.pth LITE_MEDSAM_DATA=data/mine
    medcore search search/configs/lite_medsam.yaml
    python -m benchmarks.lite.against_swift search/configs/lite_medsam.yaml --out results/published/lite

With `--seconds` the search itself runs in this process too, for so many processor seconds, without Ray and MLflow.
A stopped benchmark continues with the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import search
from benchmarks.lite.tables import picture, tables
from benchmarks.search_arms.arms import ARMS
from benchmarks.search_arms.runner import ArmStudy, run_study
from medcore.budgets.knapsack import knapsack_budget
from medcore.budgets.prices import linear_prices
from medcore.budgets.targets import uniform_to_target
from medcore.data.imageset import ImageSet
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate
from medcore.scoring.criteria import known_sensitivity
from results.stats.columns import DENSE
from results.stats.pareto import front_table
from results.stats.select import choose
from results.store.files import make_folder, write_by_rename
from results.store.trials import all_rows, checkpoint_file, read_row, read_study
from search.base.config import Config, load_config, validate
from search.base.device import best_device, pin_threads
from search.base.sections.yaml_file import read_yaml
from search.commands.prune import allocate
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, cost_metrics, load_split, search_images
from search.study.needs import Needs
from search.study.prepare import prepare, statistics
from search.trials.ledger import IssuedTrial, write_issued
from search.trials.sampling.space import domain_of, encode_budget
from search.trials.trial import trial_phases
from search.trials.trial_run import TrialRun

SWIFT = ("v1", "v2")
CONFIGS = Path(search.__path__[0]) / "configs"
COST = "call_flops"


class Case(NamedTuple):
    """One model of the comparison.

    Attributes:
        budget: `dense`, or how the budget was made.
        at: version of SwiftMedSAM whose cost it has at most; empty for the dense model.
        spec: its widths.
    """

    budget: str
    at: str
    spec: ModelSpec

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.budget}-{self.at}" if self.at else self.budget


def swift_budgets(config: Config, shared: Shared) -> dict[str, ModelSpec]:
    """Return the widths of SwiftMedSAM v1 and v2; the study's Fisher information says which blocks go."""
    table = statistics(study_jobs(config, fixed_weights=True), Needs(fisher=True, profile=False))
    sensitivity = known_sensitivity(table, config.scoring.weights(config.seed))
    found = {}
    for version in SWIFT:
        path = CONFIGS / f"swift_medsam_{version}.yaml"
        sections = {name: read_yaml(path)[name] for name in ("schedule", "budget")}
        own = validate(config.model_dump() | sections, str(path))
        *_, found[version] = allocate((*own.schedule.stages, own.budget), shared.start_spec, sensitivity)
    return found


def share_of(spec: ModelSpec) -> float:
    """Return the share of the dense model's FLOPs of a call."""
    return float(cost_metrics(spec)[f"{COST}_fraction"])


def chosen(study: Path, config: Config, limit: float) -> str:
    """Return the trial with the best Boundary F1 on the search images that costs at most a share of a call."""
    rule = f"{COST}_fraction<={limit!r},best:boundary_f1"
    return str(choose(read_study(study), config.search.objectives, rule)["trial_id"])


def cases_of(study: Path, config: Config, shared: Shared) -> list[Case]:
    """Return the models of the comparison, the dense one first."""
    arch, curves = shared.arch, domain_of(shared).curves
    assert curves is not None  # the search has the shape `curves`
    cases = [Case(DENSE, "", ModelSpec.dense(arch))]
    for version, spec in swift_budgets(config, shared).items():
        row = read_row(study, chosen(study, config, share_of(spec)))
        assert row is not None  # it is a member of the front
        cases += [
            Case("swift", version, spec),
            Case("uniform", version, uniform_to_target(arch, share_of(spec), COST)),
            Case("knapsack", version, knapsack_budget(arch, curves, share_of(spec), prices=linear_prices(arch, COST))),
            Case("search", version, ModelSpec.of(arch, {name: list(each) for name, each in row.budget.items()})),
        ]
    return cases


def recovered(case: Case, seed: int, shared: Shared, work: Path) -> Path:
    """Return the checkpoint of a model after the refit and recovery of a trial."""
    domain, name = domain_of(shared), f"{case.name}-{seed}"
    weights = shared.settings.scoring.weights(shared.settings.seed)
    if read_row(work, name) is None:
        params = encode_budget(case.spec, share_of(case.spec), weights, domain)
        write_issued(work, IssuedTrial(name, seed, seed, case.budget, params, teaches=False))
    run = TrialRun(trial_phases, work, name, {"shared": shared}, node="benchmark")
    while not run.step()["done"]:
        pass
    row = read_row(work, name)
    if row is None or not row.is_done:
        raise MedcoreError(f"{work}: the trial {name} failed: {None if row is None else row.reason}")
    return checkpoint_file(work, row)


def measured(checkpoint: Path, images: ImageSet, file: Path) -> pd.DataFrame:
    """Return the figures of each report image; a model that was measured before is not measured again."""
    if not file.is_file():
        rows = evaluate(load(checkpoint).to(best_device()), images)
        write_by_rename(file, pd.DataFrame(rows).to_csv(index=False).encode())
    return pd.read_csv(file)


def front_of(study: Path, config: Config, images: ImageSet, work: Path) -> Iterator[dict[str, Any]]:
    """Yield the front's members with their figures on the report images; repeats of one budget are one member."""
    rows = {row.trial_id: row for row in all_rows(study)}
    for trial_id in front_table(read_study(study), config.search.objectives)["trial_id"]:
        runs = [row for row in rows.values() if row.is_done and trial_id in (row.trial_id, row.repeats)]
        files = [(checkpoint_file(study, row), work / f"front-{row.trial_id}.csv") for row in runs]
        frames = [measured(checkpoint, images, file) for checkpoint, file in files]
        row = rows[str(trial_id)]
        yield {"trial": trial_id, "origin": row.origin, **costs(row.metrics), **means(frames)}


def costs(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the cost columns of a table."""
    return {name: metrics[f"{name}_fraction"] for name in (COST, "flops", "encoder_params", "decoder_params")}


def means(frames: list[pd.DataFrame]) -> dict[str, float]:
    """Return the macro means over data sets, averaged over seeds."""
    by_dataset = pd.concat(frames).groupby("dataset")[["boundary_f1", "hd95", "dice"]].mean()
    return {str(name): float(value) for name, value in by_dataset.mean().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="configuration of the search")
    parser.add_argument("--seconds", type=float, help="run the search here for so many processor seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report-images", type=int, help="of each data set; default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/lite-against-swift"), help="folder for single results")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    pin_threads(1)
    config = load_config(options.config)
    frame, study = adapted_model(config.model).arch.frame, config.folder
    shared = prepare(trial_settings(config), study_jobs(config), search_images(config.datasets, frame))
    if options.seconds is not None:
        arm = ArmStudy(ARMS["search"], config, shared, config.seed, charged=0.0, seconds=options.seconds)
        run_study(arm, lambda: None)
    images = load_split(config.datasets, config.data.report_split, frame, options.report_images)
    make_folder(options.work)
    front = pd.DataFrame(front_of(study, config, images, options.work))
    cases, rows = cases_of(study, config, shared), []
    same: dict[tuple[int, ...], Case] = {}
    for seed in range(options.seeds):
        for case in cases:
            # the search may choose one budget for both costs
            first = same.setdefault(case.spec.widths, case)
            file = options.work / f"{first.name}-{seed}.csv"
            figures = measured(recovered(first, seed, shared, options.work), images, file)
            rows.append(figures.assign(budget=case.budget, at=case.at, seed=seed, **costs(cost_metrics(case.spec))))
    make_folder(options.out)
    tables(pd.concat(rows), front, options.out)
    picture(pd.concat(rows), front, options.out / "front.png")


if __name__ == "__main__":
    main()
