"""The front so far as a compact table."""

from __future__ import annotations

import io

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.terminal.console import PlainConsole
from search.driver.progress.front import front_members, front_picture, spread

OBJECTIVES = (Objective("flops_fraction", "min"), Objective("boundary_f1", "max"))


def row(number: int, share: float, quality: float | None, repeats: str | None = None) -> TrialRow:
    metrics = {"flops_fraction": share, "boundary_f1": quality}
    return TrialRow(f"t{number:04d}", number, "done", metrics=metrics, repeats=repeats)


def test_members_are_candidates_that_none_dominates() -> None:
    rows = [
        row(0, 0.5, 0.9),
        row(1, 0.2, 0.8),
        row(2, 0.3, 0.7),  # dominated by 1
        row(3, 0.1, None),
        TrialRow("t0004", 4, "failed", "why"),
        TrialRow("t0005", 5, "stopped", "why", fidelities={"refit/boundary_f1": 1.0}),
        row(6, 0.2, 0.6, repeats="t0001"),
    ]
    # trial 1 and its repeat have the mean 0.7, the quality of trial 2, at a lower cost
    members = front_members(rows, OBJECTIVES)
    assert [(trial, round(values[0], 9), round(values[1], 9)) for trial, values in members] == [
        ("t0001", 0.2, 0.7),
        ("t0000", 0.5, 0.9),
    ]
    assert front_members([], OBJECTIVES) == []


def test_members_are_shown_evenly() -> None:
    members = [(str(number), (float(number),)) for number in range(10)]
    assert [name for name, _ in spread(members, 4)] == ["0", "3", "6", "9"]
    assert spread(members, 10) == spread(members, 99) == members
    assert spread(members, 1) == members[:1] and spread(members, 0) == [] == spread(members, -2)


def shown(width: int, objectives: tuple[Objective, ...], values: tuple[float, ...]) -> list[str]:
    out = io.StringIO()
    PlainConsole(file=out, width=width).print(front_picture([("t0001", values)], objectives, 3, width))
    return out.getvalue().splitlines()


def test_a_narrow_terminal_has_shorter_columns() -> None:
    objectives = (*OBJECTIVES, Objective("hd95", "min"), Objective("latency_ms_batch1", "min"))
    values = (0.1234, 0.98765, 12.3456, 45.678)
    for width in (30, 40, 60, 80):
        lines = shown(width, objectives, values)
        assert len(lines) == 2 and all(len(line) <= width for line in lines)
    assert shown(40, objectives[:3], values[:3])[1].split() == ["t0001", "12.3", "%", "0.9877", "12.35"]
    head, line = shown(80, objectives[:3], values[:3])
    assert head.split() == ["front", "of", "3", "FLOPs", "left", "Boundary", "F1", "HD95"]
    assert line.split() == ["t0001", "12.3", "%", "0.9877", "12.35", "px"]
