"""`medcore leverage`: its table, its summary and its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medcore.errors import MedcoreError
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.quality.leverage import (
    TAUS,
    summary,
)
from search.base.config import load_config
from search.commands.analyse.leverage import grid_budget, leverage
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study


@pytest.mark.parametrize("allocator", ["rule", "uniform"])
def test_command_writes_rows_summary_and_picture(tmp_path: Path, allocator: str) -> None:
    config = load_config(write_tiny_study(tmp_path, budget={"allocator": allocator}))
    out, reports = tmp_path / "leverage", []
    result = leverage(config, out, report=lambda *each: reports.append(each), images=3)
    assert reports[-49:] == [("grid", done, 49) for done in range(1, 50)]
    assert {name for name, _, _ in reports} == {"profile", "scores", "grid"}
    assert json.loads((out / "leverage.json").read_text()) == json.loads(json.dumps(result))
    rows = pd.read_parquet(out / "leverage.parquet")
    assert list(rows) == [
        *("kind", "head_from", "head_to", "mlp_from", "mlp_to"),
        *("delta_params_points", "tau", "lambda_bd95", "lambda_reg", "images"),
        *("lambda_bd95_images", "lambda_reg_images"),
    ]
    assert len(rows) == 2 * result["steps"] and result["steps"] + result["skipped_steps"] == 84
    assert (rows["images"] == 3).all() and set(rows["tau"]) == set(TAUS)
    assert (rows[["lambda_bd95", "lambda_reg"]] > 0).all().all()
    assert summary(rows.to_dict("records")) == result["tau"]
    # 3 heads: uniform budgets tell only .5 -> .6 and .8 -> .9 apart, the rule meets every total
    assert result["steps"] == (84 if allocator == "rule" else 2 * 7 + 7 * 6)
    removed = cost_of_step(config, rows.iloc[0])
    assert rows.iloc[0]["delta_params_points"] == pytest.approx(removed)
    with Image.open(out / "leverage.png") as picture:
        assert picture.width > 800


def cost_of_step(config: Any, row: Any) -> float:
    """ΔC by the spec's own count, in percentage points; equal sensitivities give equal totals."""
    ends = [(row["head_from"], row["mlp_from"]), (row["head_to"], row["mlp_to"])]
    before, after = (cost(grid_budget(config, TINY, np.ones(TINY.depth), end)).encoder_params for end in ends)
    return 100 * (before - after) / cost(ModelSpec.dense(TINY)).encoder_params


def test_command_draws_the_same_images_again_and_wants_at_least_one(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path))
    first, again = (leverage(config, tmp_path / name, images=2) for name in ("a", "b"))
    assert first == again
    assert (tmp_path / "a" / "leverage.png").read_bytes() == (tmp_path / "b" / "leverage.png").read_bytes()
    with pytest.raises(MedcoreError, match="at least one image"):
        leverage(config, tmp_path / "c", images=0)
