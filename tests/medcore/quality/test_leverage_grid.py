"""The grid of sparsities of a leverage: its steps, and the summary over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcore.errors import MedcoreError
from medcore.quality.leverage import (
    HEAD_SPARSITIES,
    MLP_SPARSITIES,
    grid_points,
    grid_steps,
    summary,
)
from results.plots.leverage_plot import save_leverage_plot


def test_grid_has_49_points_and_84_steps_between_neighbours() -> None:
    points, steps = grid_points(), grid_steps()
    assert len(points) == len(set(points)) == 49 and len(steps) == len(set(steps)) == 84
    assert {step.start for step in steps} | {step.end for step in steps} == set(points)
    for step in steps:
        heads = HEAD_SPARSITIES.index(step.head_to) - HEAD_SPARSITIES.index(step.head_from)
        mlps = MLP_SPARSITIES.index(step.mlp_to) - MLP_SPARSITIES.index(step.mlp_from)
        assert (heads, mlps) == ((1, 0) if step.kind == "head" else (0, 1))
        assert points.index(step.start) < points.index(step.end)


def step_row(kind: str, start: tuple[float, float], bd95: float, reg: float, tau: float = 3.0) -> dict[str, Any]:
    head, mlp = start
    ends = {"head_to": head + 0.1, "mlp_to": mlp} if kind == "head" else {"head_to": head, "mlp_to": mlp + 0.1}
    values = {"tau": tau, "lambda_bd95": bd95, "lambda_reg": reg}
    return {"kind": kind, "head_from": head, "mlp_from": mlp} | ends | values


def test_summary_of_a_hand_made_grid() -> None:
    rows = [
        step_row("head", (0.3, 0.3), 6.0, 0.4),
        step_row("head", (0.3, 0.5), 2.0, 0.8),
        step_row("head", (0.4, 0.3), 9.0, 0.5),
        step_row("mlp", (0.3, 0.3), 2.0, 0.1),
        step_row("mlp", (0.4, 0.3), 9.0, 0.3),  # a tie with the head step from the same point
        step_row("mlp", (0.5, 0.3), 1.0, 0.2),  # no head step starts here
        step_row("head", (0.3, 0.3), 1.0, 1.0, tau=5.0),
    ]
    found = summary(rows)
    assert found["3"] == {
        "blr95": pytest.approx(6 / 2),
        "rlr": pytest.approx(0.5 / 0.2),
        "bsr": pytest.approx(3.0 / 2.5),
        "win_rate": 0.5,
        "head_steps": 3,
        "mlp_steps": 3,
        "grid_points": 2,
    }
    assert found["5"] == dict.fromkeys(("blr95", "rlr", "bsr", "win_rate")) | {
        "head_steps": 1,
        "mlp_steps": 0,
        "grid_points": 0,
    }
    assert summary([]) == {}


def test_intervals_come_from_resampled_images() -> None:
    """Against a bootstrap written out for two steps each, one image without a value."""
    generator = np.random.default_rng(5)
    heads, mlps = generator.lognormal(1, 0.3, (2, 20)), generator.lognormal(0, 0.3, (2, 20))
    heads[0, 3] = np.nan
    rows = [
        step_row(kind, start, float(np.nanmean(values)), float(np.nanmean(values)))
        | {"lambda_bd95_images": values.tolist(), "lambda_reg_images": values.tolist()}
        for kind, both in (("head", heads), ("mlp", mlps))
        for start, values in zip(((0.3, 0.3), (0.4, 0.3)), both, strict=True)
    ]
    found = summary(rows)["3"]
    ratios = []
    for _ in range(3000):
        drawn = generator.integers(0, 20, 20)
        medians = [np.median([np.nanmean(row[drawn]) for row in both]) for both in (heads, mlps)]
        ratios.append(medians[0] / medians[1])
    assert found["blr95_lo"] == pytest.approx(np.percentile(ratios, 2.5), rel=0.04)
    assert found["blr95_hi"] == pytest.approx(np.percentile(ratios, 97.5), rel=0.04)
    assert found["bsr_lo"] == found["bsr_hi"] == 1


def test_summary_without_a_denominator_has_no_ratio() -> None:
    found = summary([step_row("head", (0.3, 0.3), 1.0, 1.0), step_row("mlp", (0.3, 0.3), 0.0, 0.0)])["3"]
    assert (found["blr95"], found["rlr"], found["bsr"], found["win_rate"]) == (None, None, None, 1.0)


# degenerate inputs


def test_picture_wants_a_step_that_moves_something(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="nothing to draw"):
        save_leverage_plot([step_row("mlp", (0.3, 0.3), 0.0, 0.0)], tmp_path / "none.png")
