"""Question: which cheap figure of a trial tells best how good it will be at its end?

Budgets of nearly equal cost, drawn around the knapsack with a wide spread, run to their end without a scheduler. Each
figure at a fidelity (search images) is compared with Boundary F1 at the end on the report images, by Spearman's rank
correlation within each cost, averaged over the costs.

    python -m benchmarks.fidelity_ranking search/configs/polyps.yaml --budgets 12 --work /tmp/ranking
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from medcore.quality.evaluate import evaluate, summarise
from search.base.config import Config, load_config
from search.base.device import best_device
from search.base.schedulers import HALVING
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, load_split, search_images
from search.study.prepare import prepare
from search.trials.phases import phases
from search.trials.sampling.space import Plan, decode, domain_of, encode_fraction, residual_names

#: Names of the end's own figures, measured on the search images.
END = "end"


def config_of(path: Path) -> Config:
    """The study's configuration with free residuals of a wide spread, and figures at all fidelities."""
    config = load_config(path)
    values = config.model_dump()
    values["search"] |= {"scheduler": HALVING}
    values["search"]["space"] |= {"spread": {"low": 0.0, "high": 2.0}}
    return Config.model_validate(values)


def plans(shared: Shared, fraction: float, count: int) -> list[Plan]:
    """The knapsack's budget and others around it, of one cost."""
    domain, random = domain_of(shared), np.random.default_rng(round(1e4 * fraction))
    pure = encode_fraction(fraction, domain)
    found = [decode(pure, domain)]
    for _ in range(count - 1):
        residuals = dict(zip(residual_names(shared.arch), random.uniform(-1, 1, len(shared.arch.sites)), strict=True))
        found.append(decode({**pure, "spread": 2.0, **residuals}, domain))
    return found


def run(plan: Plan, shared: Shared, config: Config, seed: int) -> dict[str, float]:
    """Figures of one trial at all fidelities, and its Boundary F1 on the report images."""
    row: dict[str, float] = {}
    work = phases(plan, shared, seed)
    while True:
        try:
            phase = next(work)
        except StopIteration as ended:
            model, images = ended.value
            break
        if phase.name in ("refit", "part"):
            row |= {f"{phase.name}/{name}": phase.figures[name] for name in ("boundary_f1", "hd95", "band_error")}
    means = summarise(images)
    row |= {f"{END}/{name}": means[name] for name in ("boundary_f1", "hd95")}
    report = load_split(config.datasets, config.data.report_split, shared.arch.frame)
    measured = summarise(evaluate(model.to(best_device()), report, autocast=config.recovery.autocast))
    return {**row, "report/boundary_f1": measured["boundary_f1"]}


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each figure with the report's Boundary F1 within each cost; errors count reversed."""
    rows = []
    for name in (column for column in table.columns if column.partition("/")[0] in ("refit", "part", END)):
        sign = 1 if name.endswith("boundary_f1") else -1
        within = {
            f"{fraction:g}": spearmanr(sign * part[name], part["report/boundary_f1"]).statistic
            for fraction, part in table.groupby("fraction")
        }
        rows.append({"figure": name, **within, "mean": float(np.mean(list(within.values())))})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.06, 0.1])
    parser.add_argument("--budgets", type=int, default=12, help="budgets of each fraction")
    parser.add_argument("--work", type=Path, required=True, help="folder for the rows; what is there is not run again")
    arguments = parser.parse_args()
    config = config_of(arguments.config)
    images = search_images(config.datasets, adapted_model(config.model).arch.frame)
    shared = prepare(trial_settings(config), study_jobs(config), images)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for fraction in arguments.fractions:
        for number, plan in enumerate(plans(shared, fraction, arguments.budgets)):
            file = arguments.work / f"{fraction:g}-{number:02d}.json"
            if not file.is_file():
                file.write_text(json.dumps(run(plan, shared, config, seed=number)))
            rows.append({"fraction": fraction, "budget": number, **json.loads(file.read_text())})
    table = pd.DataFrame(rows)
    print(table.round(4).to_string(index=False))  # noqa: T201
    print(ranking(table).round(2).to_string(index=False))  # noqa: T201


if __name__ == "__main__":
    main()
