"""The importance of dimensions, on gains whose causes are known."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from benchmarks.search_arms.dimension_importance import CONTROL, markdown, table_of


def study_of(seed: int) -> optuna.Study:
    """Gains that rise with `strong`, depend a little on `kind`, and have noise."""
    noise = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(60):
        trial = study.ask()
        strong, kind = trial.suggest_float("strong", -1, 1), trial.suggest_categorical("kind", ["a", "b"])
        trial.suggest_float(CONTROL, 0, 1)
        study.tell(trial, 0.02 * strong + 0.004 * (kind == "b") + noise.normal(0, 0.002))
    return study


def _gap(study: optuna.Study) -> float:
    """The larger mean gain of the two kinds."""
    gains = {kind: [t.value or 0.0 for t in study.trials if t.params["kind"] == kind] for kind in "ab"}
    return max(float(np.mean(values)) for values in gains.values())


def test_the_cause_of_the_gains_is_found() -> None:
    table = table_of([study_of(seed) for seed in range(3)], ["strong", "kind", CONTROL])
    rows = table.set_index("dimension")
    assert table["dimension"].iloc[0] == "strong" and table["importance"].sum() == pytest.approx(1)
    assert rows.loc["strong", "above_control"] == 3 and rows.loc["strong", "correlation"] > 0.9
    # a uniform value's best third is [1/3, 1], whose mean is 2/3; `kind` adds half of 0.004
    assert rows.loc["strong", "best_gain"] == pytest.approx(0.02 * 2 / 3 + 0.002, abs=0.003)
    gaps = [_gap(study_of(seed)) for seed in range(3)]
    assert rows.loc["kind", "best_gain"] == pytest.approx(float(np.mean(gaps)))
    assert rows.loc[CONTROL, "importance"] < 0.05
    text = markdown(table, 3, 60)
    assert text.count("\n| strong |") == 1 and "3 of 3" in text
