"""The halving scheduler's decisions and their record on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcore.errors import MedcoreError
from results.stats.objectives import Objective
from search.base.fidelities import read_shown, shown_figures
from search.base.halving import ParetoHalving
from search.base.phase_keys import EXEMPT, FIDELITY
from search.base.promotion import Quota

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))


def scheduler(study: Path) -> ParetoHalving:
    return ParetoHalving(study, OBJECTIVES, Quota(3, 2))


def figures(cost: float, quality: float, **more: float) -> dict[str, float]:
    return {"cost": cost, "quality": quality, FIDELITY: 0.0, **more}


def test_decisions_after_a_resume_are_those_of_an_undisturbed_search(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    shown = [(f"t{number:04d}", figures(*random.random(2))) for number in range(30)]
    whole = scheduler(tmp_path / "whole")
    expected = [whole.decide(name, "refit", values) for name, values in shown]
    assert 2 <= sum(expected) < 15
    answers = []
    for name, values in shown:
        answers.append(scheduler(tmp_path / "cut").decide(name, "refit", values))  # a new process for every trial
        assert scheduler(tmp_path / "cut").decide(name, "refit", values) == answers[-1]  # which may report again
    assert answers == expected
    looks = read_shown(tmp_path / "cut", "t0007")["refit"]
    assert shown_figures(tmp_path / "cut", "t0007") == {
        "refit/cost": shown[7][1]["cost"],
        "refit/quality": shown[7][1]["quality"],
    }
    assert looks.order == 7 and looks.continues == expected[7] and looks.figures["cost"] == shown[7][1]["cost"]


def test_each_fidelity_is_judged_by_itself(tmp_path: Path) -> None:
    halving = scheduler(tmp_path)
    assert halving.decide("a", "refit", figures(0.5, 0.5))
    assert not halving.decide("b", "refit", figures(0.6, 0.4))
    assert halving.decide("b", "part", figures(0.6, 0.4))
    assert halving.decide("anchor", "refit", figures(0.9, 0.1, **{EXEMPT: 1.0}))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    halving = scheduler(tmp_path)
    halving.decide("a", "refit", figures(0.5, 0.5))
    path = tmp_path / "trials" / "a" / "fidelities.json"
    path.write_text('{"refit": {"figures": {}, "order": 0}}')
    with pytest.raises(MedcoreError, match=r"fidelities\.json: corrupt"):
        scheduler(tmp_path)
