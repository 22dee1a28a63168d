"""A row as values of objectives, and the point from which a hypervolume counts."""

from __future__ import annotations

import math
from typing import Any

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.objectives import reference_point, values_of

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))


def test_values_and_reference() -> None:
    row: dict[str, Any] = {"trial_id": "t0", "number": 0, "status": "done", "cost": 1, "quality": 0.5}
    assert values_of(TrialRow.from_flat(row), OBJECTIVES) == (1.0, 0.5)
    for change in ({"status": "failed"}, {"cost": None}, {"cost": math.nan}, {"cost": math.inf}, {"cost": True}):
        assert values_of(TrialRow.from_flat(row | change), OBJECTIVES) is None
    assert values_of(None, OBJECTIVES) is None
    objectives = [Objective("flops", "min"), Objective("dice", "max"), Objective("hd95", "min")]
    dense = {"flops": 100.0, "dice": 0.9, "hd95": 3.0}
    assert reference_point(objectives, dense, largest_side=1070) == {"flops": 101.0, "dice": 0.0, "hd95": 1070.0}
    assert reference_point(objectives, dense | {"hd95": 200.0}, largest_side=64)["hd95"] == 202.0
