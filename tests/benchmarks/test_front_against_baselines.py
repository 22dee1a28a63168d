"""The benchmark's report: what it chooses, which differences it states, and what it admits about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.front_against_baselines import METRICS, chosen_member, differences, member_name, write

TRIALS = pd.DataFrame(
    {
        "trial_id": ["t0000", "t0001", "t0002", "t0003"],
        "status": ["done", "done", "done", "failed"],
        "origin": ["uniform 0.5", "sampled", "sampled", "sampled"],
        "flops_fraction": [0.5, 0.2, 0.45, 0.1],
        "flops_paper_fraction": [0.5, 0.141, 0.51, 0.1],
        "boundary_f1": [0.9, 0.5, 0.6, 0.99],
    }
)


def test_the_configured_cost_decides() -> None:
    chosen = {cost: chosen_member(TRIALS, 0.5, cost) for cost in ("flops", "flops_paper")}
    assert chosen["flops"] is not None and chosen["flops"]["trial_id"] == "t0002"
    assert chosen["flops_paper"] is not None and chosen["flops_paper"]["trial_id"] == "t0001"
    assert chosen_member(TRIALS, 0.12, "flops_paper") is None


def test_starts_made_by_hand_are_not_searched() -> None:
    starts = ["knapsack 0.25", "uniform 0.5", "rule 0.5/0.7", "dense", "repeat of t0001", "magnitude 0.5"]
    rows = [
        {"trial_id": f"s{number}", "status": "done", "origin": origin, "flops_fraction": 0.2, "boundary_f1": 0.95}
        for number, origin in enumerate(starts)
    ]
    member = chosen_member(pd.concat([TRIALS, pd.DataFrame(rows)], ignore_index=True), 0.5, "flops")
    assert member is not None and member["trial_id"] == "t0002"


def test_one_trial_for_two_fractions_is_seen() -> None:
    names = []
    for fraction in (0.5, 0.3):
        member = chosen_member(TRIALS, fraction, "flops_paper")
        assert member is not None
        names.append(member_name(member, fraction, "flops_paper"))
    assert names == ["searched ≤ 0.5 (t0001, 14.1 %)", "searched ≤ 0.3 (t0001, 14.1 %)"]


def frame(seed: int, shift: float) -> pd.DataFrame:
    """40 images of one data set and 10 of another, hard ones far from easy ones; `shift` is the same for all."""
    rng = np.random.default_rng(seed)
    values = np.random.default_rng(0).uniform(0, 1, 50) + shift + 1e-3 * rng.normal(size=50)
    return pd.DataFrame({"dataset": ["a"] * 40 + ["b"] * 10} | dict.fromkeys(METRICS, values))


def test_differences_are_paired() -> None:
    found = differences(frame(1, 0.05), frame(2, 0.0))
    assert found["boundary_f1"] == pytest.approx(0.05, abs=1e-3)
    assert 0.049 < found["boundary_f1_lo"] < found["boundary_f1"] < found["boundary_f1_hi"] < 0.051


def row(model: str, method: str, share: float) -> dict[str, Any]:
    values = {f"{metric}{end}": 0.5 for metric in METRICS for end in ("", "_lo", "_hi")}
    return {"model": model, "method": method, "flops_fraction": share, "flops_paper_fraction": share, **values}


def test_what_is_written(tmp_path: Path) -> None:
    rows = [row("dense", "unpruned", 1.0), row("uniform 0.5", "uniform", 0.5), row("searched ≤ 0.5", "searched", 0.4)]
    pair = {"searched": "searched ≤ 0.5", "baseline": "uniform 0.5", **differences(frame(1, 0.05), frame(2, 0.0))}
    write(rows, [pair], tmp_path, "polyps", "flops")
    text = (tmp_path / "comparison.md").read_text()
    assert (
        "| searched ≤ 0.5 | uniform 0.5 | +0.0" in text
        and "share of `flops` (FLOPs left)" in text
        and "one seed" in text
    )
    assert text.startswith("| model (polyps, report images) | FLOPs left | by the paper's count | Dice |")
    kept = pd.read_csv(tmp_path / "differences.csv").iloc[0]
    assert kept["boundary_f1_lo"] == pytest.approx(pair["boundary_f1_lo"], rel=1e-3)
    assert (tmp_path / "comparison.png").stat().st_size > 1000
