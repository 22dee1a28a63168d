"""What a person sees while a search runs."""

from __future__ import annotations

import io

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.terminal import PlainConsole
from search.driver.progress import SearchProgress

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))


def row(trial_id: str, **metrics: float) -> TrialRow:
    return TrialRow(trial_id, int(trial_id[1:]), "done", metrics=metrics)


def test_progress_lines() -> None:
    """Plain lines where there is no terminal; the pace counts this start's trials only."""
    now = [100.0]
    out = io.StringIO()
    old = [row("t0000", cost=9.0, quality=0.2)]
    with SearchProgress(OBJECTIVES, 5, old, PlainConsole(file=out, width=200), clock=lambda: now[0]) as progress:
        assert progress.seconds_left() is None
        progress.started("t0001")
        progress.started("t0002")
        now[0] += 60
        progress.ended(TrialRow("t0001", 1, "failed", "ValueError: [x]"))
        progress.started("t0003")
        now[0] += 65
        progress.ended(row("t0002", cost=3.5, quality=0.1))
    failed, one, two = out.getvalue().splitlines()
    assert failed == "trial t0001 failed: ValueError: [x]"
    counts, best, left = one.split(" · ")
    assert counts == "1/5 done, 1 failed, 1 running" and best == "best cost 9 (t0000), quality 0.2 (t0000)"
    assert left == "1 min 0 s, about 3 min 0 s left"
    counts, best, left = two.split(" · ")
    assert counts == "2/5 done, 1 failed, 1 running" and best == "best cost 3.5 (t0002), quality 0.2 (t0000)"
    assert left == "2 min 5 s, about 2 min 5 s left"
    terminal = PlainConsole(file=io.StringIO(), force_terminal=True, width=100)
    with SearchProgress(OBJECTIVES, 5, old, terminal) as progress:
        progress.ended(row("t0002", cost=3.5, quality=0.1))


def test_trials_that_a_scheduler_stopped_have_ended() -> None:
    out = io.StringIO()
    with SearchProgress(OBJECTIVES, 3, console=PlainConsole(file=out, width=200), clock=lambda: 60.0) as progress:
        progress.started("t0000")
        progress.ended(TrialRow("t0000", 0, "stopped", "stopped by the scheduler after heads"))
        progress.started("t0001")
        progress.ended(row("t0001", cost=1.0, quality=0.5))
    assert [line.split(" · ")[0] for line in out.getvalue().splitlines()] == [
        "0/3 done, 0 failed, 1 stopped early, 0 running",
        "1/3 done, 0 failed, 1 stopped early, 0 running",
    ]
