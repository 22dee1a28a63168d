"""Question: which dimensions of the search space improve the result?

Random points of a wide space run to their end without a scheduler, at a few shares of the cost. The value of a point
is its Boundary F1 on the search images, less that of the pure knapsack with the same share and seed. For every seed,
fANOVA says how much of the variance of these gains each dimension explains. A control that changes nothing shows how
much that is by chance. The points of a dimension's best third, or of its best choice, say what it can win.

    OMP_NUM_THREADS=1 python -m benchmarks.search_arms.dimension_importance search/configs/polyps.yaml --trials 16 \\
        --work runs/importance --out results/published/importance

A stopped run continues with the same command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from rich.console import Console
from scipy.stats import spearmanr

from benchmarks.search_arms.figures import t_interval
from medcore.errors import ConfigError
from medcore.quality.evaluate import summarise
from results.store.files import write_by_rename
from search.base.config import Config, load_config, validate
from search.base.device import pin_threads
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import prepare
from search.trials.phases import phases
from search.trials.sampling.space import Domain, Params, decode, domain_of, encode_fraction, residual_names, sample

#: A dimension that no trial reads.
CONTROL = "control (changes nothing)"
#: Everything that may shape a budget, a ranking or a recovery, around the defaults.
WIDE: dict[str, Any] = {
    "lean": {"low": -1, "high": 1},
    "slope_heads": {"low": -1, "high": 1},
    "slope_channels": {"low": -1, "high": 1},
    "global_bonus": {"low": -1, "high": 1},
    "exponent": {"low": 0.5, "high": 2, "log": True},
    "spread": {"low": 0, "high": 1},
    "protected_last": {"choices": [0, 1]},
    "criterion": {"choices": ["second_order", "medcore"]},
    "beta": {"low": 0, "high": 1},
    "boundary_weight": {"choices": [0.0, 3.0]},
    "lr": {"low": 5e-5, "high": 5e-4, "log": True},
    "steps": {"low": 10, "high": 40, "log": True},
}


def config_of(path: Path, shares: Sequence[float]) -> Config:
    """Return the configuration with the wide space, at some shares of the cost."""
    values = load_config(path).model_dump(mode="json")
    values["search"]["space"] |= {**WIDE, "fraction": {"choices": list(shares)}, "side": None}
    return validate(values, str(path))


def quality(params: Params, shared: Shared, domain: Domain, seed: int) -> float:
    """Return the Boundary F1 on the search images at the end of one trial."""
    work = phases(decode(params, domain), shared, seed)
    while True:
        try:
            next(work)
        except StopIteration as ended:
            return float(summarise(ended.value[1])["boundary_f1"])


def study_of(seed: int, count: int, shared: Shared, work: Path) -> optuna.Study:
    """Return the gains of random points as a study; what is in `work` is not run again."""
    domain, pure = domain_of(shared), dict[float, float]()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    for number in range(count):
        trial = study.ask()
        params = sample(trial, domain)
        trial.suggest_float(CONTROL, 0, 1)
        share = float(params["fraction"])
        if share not in pure:
            reference = encode_fraction(share, domain)
            pure[share] = _kept(work / f"{seed}-knapsack-{share:g}.json", reference, shared, domain, seed)
        found = _kept(work / f"{seed}-{number:03d}.json", params, shared, domain, seed)
        study.tell(trial, found - pure[share])
    return study


def _kept(file: Path, params: Params, shared: Shared, domain: Domain, seed: int) -> float:
    """Return a trial's quality from its file, or run it and write the file.

    Raises:
        ConfigError: The file is of other parameters or of another configuration.
    """
    asked = {"params": params, "settings": repr(dataclasses.replace(domain.settings, prices=None))}
    if not file.is_file():
        found = quality(params, shared, domain, seed)
        write_by_rename(file, json.dumps({"boundary_f1": found, **asked}).encode())
    kept = json.loads(file.read_text())
    if {name: kept[name] for name in asked} != json.loads(json.dumps(asked)):
        raise ConfigError(f"{file}: of another configuration or other --shares; give another --work")
    return float(kept["boundary_f1"])


def importances(study: optuna.Study, names: Sequence[str]) -> Mapping[str, float]:
    """Return the share of the gains' variance that each dimension explains."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # imports scikit-learn

    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=list(names))


def table_of(studies: Sequence[optuna.Study], names: Sequence[str]) -> pd.DataFrame:
    """Return one row for each dimension.

    The columns are the importance with its interval over the studies, in how many studies it is above the control's,
    the rank correlation of the dimension with the gain, and the mean gain of the best third of its values with an
    interval over the studies.
    """
    each = [importances(study, names) for study in studies]
    rows = []
    for name in names:
        shares = [values[name] for values in each]
        importance = t_interval(shares)
        best = t_interval([_best_third(study, name) for study in studies])
        rows.append(
            {
                "dimension": name,
                "importance": importance.mean,
                "low": importance.low,
                "high": importance.high,
                "above_control": sum(value > values[CONTROL] for value, values in zip(shares, each, strict=True)),
                "correlation": float(np.mean([_correlation(study, name) for study in studies])),
                "best_gain": best.mean,
                "best_low": best.low,
                "best_high": best.high,
            }
        )
    return pd.DataFrame(rows).sort_values("importance", ascending=False, ignore_index=True)


def points_of(studies: Sequence[optuna.Study], names: Sequence[str]) -> pd.DataFrame:
    """Return one row for each point: its seed, the values of some dimensions, and its gain."""
    rows = [
        {"seed": seed, **{name: trial.params[name] for name in names}, "gain": trial.value}
        for seed, study in enumerate(studies)
        for trial in study.trials
    ]
    return pd.DataFrame(rows)


def _points(study: optuna.Study, name: str) -> pd.DataFrame:
    """Return the values of a dimension as numbers, and the gains."""
    values = pd.Series([trial.params[name] for trial in study.trials])
    numbers = values if pd.api.types.is_numeric_dtype(values) else pd.Series(pd.factorize(values, sort=True)[0])
    return pd.DataFrame({"value": numbers.astype(float), "gain": [float(trial.value or 0.0) for trial in study.trials]})


def _correlation(study: optuna.Study, name: str) -> float:
    points = _points(study, name)
    return float(spearmanr(points["value"], points["gain"]).statistic)


def _best_third(study: optuna.Study, name: str) -> float:
    """Return the largest mean gain over the thirds of a dimension's values, or over the values if they are few."""
    points = _points(study, name)
    values = points["value"]
    thirds = values if values.nunique() <= 3 else pd.qcut(values.rank(method="first"), 3, labels=False)
    return float(points.groupby(thirds)["gain"].mean().max())


def markdown(table: pd.DataFrame, seeds: int, trials: int) -> str:
    """Return the table for readers."""
    head = [
        f"| dimension | variance explained [95 % interval, {seeds} seeds] | above the control | correlation with the "
        "gain | gain of its best third or choice over the knapsack |",
        "|---|---|---|---|---|",
    ]
    lines = [
        f"| {row['dimension']} | {row['importance']:.1%} [{row['low']:.1%}, {row['high']:.1%}] "
        f"| {row['above_control']} of {seeds} | {row['correlation']:+.2f} "
        f"| {row['best_gain']:+.4f} [{row['best_low']:+.4f}, {row['best_high']:+.4f}] |"
        for row in table.to_dict("records")
    ]
    return "\n".join([*head, *lines, "", f"{trials} random points for each seed."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.06, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30, help="random points of each seed")
    parser.add_argument("--work", type=Path, required=True, help="folder of the points; what is there is not run again")
    parser.add_argument("--out", type=Path, required=True, help="folder for table.md, table.csv and points.csv")
    arguments, console = parser.parse_args(), Console(width=200)
    pin_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    config = config_of(arguments.config, arguments.shares)
    images = search_images(config.datasets, adapted_model(config.model).arch.frame)
    shared = prepare(trial_settings(config), study_jobs(config), images)
    arguments.work.mkdir(parents=True, exist_ok=True)
    studies = []
    for seed in range(arguments.seeds):
        studies.append(study_of(seed, arguments.trials, shared, arguments.work))
        console.print(f"seed {seed}: {arguments.trials} points", markup=False)
    residuals = residual_names(shared.arch)  # `spread` is their size
    names = [name for name in studies[0].trials[0].params if name not in residuals]
    table = table_of(studies, names)
    points = points_of(studies, [name for name in names if name != CONTROL])
    write_by_rename(arguments.out / "points.csv", points.to_csv(index=False, float_format="%.4g").encode())
    write_by_rename(arguments.out / "table.csv", table.to_csv(index=False, float_format="%.4g").encode())
    write_by_rename(arguments.out / "table.md", markdown(table, arguments.seeds, arguments.trials).encode())
    console.print((arguments.out / "table.md").read_text(), markup=False)


if __name__ == "__main__":
    main()
