"""What a person sees while a search runs."""

from __future__ import annotations

import errno
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.terminal.console import PlainConsole
from search.base.terminal.status import Status
from search.driver.progress import search_progress
from search.driver.progress.front import Member, front_members
from search.driver.progress.search_progress import SearchProgress, harmless
from tests.support.screen import Screen

OBJECTIVES = (Objective("cost", "min"), Objective("quality", "max"))
MEDICAL = (Objective("flops_fraction", "min"), Objective("boundary_f1", "max"), Objective("hd95", "min"))


def row(trial_id: str, **metrics: float) -> TrialRow:
    return TrialRow(trial_id, int(trial_id[1:]), "done", metrics=metrics)


def member(number: int, share: float) -> TrialRow:
    """Return a trial that is on the front with all others of its kind."""
    return row(f"t{number:04d}", flops_fraction=share, boundary_f1=0.5 + share / 2, hd95=20 - 10 * share)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_lines() -> None:
    """Plain lines where there is no terminal; the time left counts this start's trials only."""
    clock, out = Clock(), io.StringIO()
    old = [row("t0000", cost=9.0, quality=0.2)]
    status = Status(PlainConsole(file=out, width=200), clock)
    with SearchProgress(OBJECTIVES, 5, old, status) as progress:
        assert progress.seconds_left() is None
        progress.started("t0001")
        progress.started("t0002")
        clock.now += 60
        progress.ended(TrialRow("t0001", 1, "failed", "ValueError: [x]"))
        progress.started("t0003")
        progress.phase("t0003", "mlp recovery, 120 steps")
        clock.now += 65
        progress.ended(row("t0002", cost=3.5, quality=0.1))
    failed, one, two = out.getvalue().splitlines()
    assert failed == "trial t0001 failed: ValueError: [x]"
    counts, best, left = one.split(" · ")
    assert counts == "1/5 done, 1 failed, 1 running" and best == "best cost 9 (t0000), quality 0.2 (t0000)"
    assert left == "1 min 0 s, about 1 min left"  # two at once: 6 s of the running one, then 60 s
    counts, best, left = two.split(" · ")
    assert counts == "2/5 done, 1 failed, 1 running" and best == "best cost 3.5 (t0002), quality 0.2 (t0000)"
    assert left.startswith("2 min 5 s, about ")


def test_trials_that_a_scheduler_stopped_have_ended() -> None:
    out = io.StringIO()
    status = Status(PlainConsole(file=out, width=200), lambda: 60.0)
    with SearchProgress(OBJECTIVES, 3, status=status) as progress:
        progress.started("t0000")
        progress.ended(TrialRow("t0000", 0, "stopped", "stopped by the scheduler after heads"))
        progress.started("t0001")
        progress.ended(row("t0001", cost=1.0, quality=0.5))
    assert [line.split(" · ")[0] for line in out.getvalue().splitlines()] == [
        "0/3 done, 0 failed, 1 stopped early, 0 running",
        "1/3 done, 0 failed, 1 stopped early, 0 running",
    ]


@contextmanager
def on_terminal(width: int, height: int, clock: Clock) -> Iterator[tuple[SearchProgress, io.StringIO, Screen]]:
    """A search of 30 trials: twelve are on the front, one has failed, six run."""
    out = io.StringIO()
    console = PlainConsole(file=out, width=width, height=height, force_terminal=True, color_system=None)
    with SearchProgress(MEDICAL, 30, status=Status(console, clock)) as progress:
        for number in range(19):
            progress.started(f"t{number:04d}")
        for number in range(12):
            progress.ended(member(number, 0.05 + 0.05 * number))
        progress.phase("t0013", "mlp recovery, from step 40 of 120")
        clock.now += 75
        progress.ended(TrialRow("t0012", 12, "failed", "ValueError: " + "long " * 40))
        yield progress, out, Screen(width, height)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (80, 9), (30, 5)])
def test_the_live_area_fits_the_terminal(width: int, height: int) -> None:
    clock = Clock()
    with on_terminal(width, height, clock) as (progress, out, screen):
        progress.started("t0019")
        progress._status.show(progress)
        screen.feed(out.getvalue())
        rows = screen.rows
        first = next(number for number, line in enumerate(rows) if "13/30 trials" in line)
        failed = next(line for line in screen.text if line.startswith("trial t0012 failed: ValueError: long"))
        assert failed == "trial t0012 failed: ValueError: " + "long " * 39 + "long"
        assert len(rows) - first <= height - 1 and all(len(line) <= width for line in rows)
    screen.feed(out.getvalue()[len(screen.seen) :])
    assert not any("13/30" in line or "running" in line for line in screen.rows)


def test_what_runs_and_a_part_of_the_front_is_shown() -> None:
    clock = Clock()
    with on_terminal(80, 24, clock) as (progress, out, screen):
        progress._status.show(progress)
        screen.feed(out.getvalue())
        start = next(number for number, line in enumerate(screen.rows) if "13/30 trials" in line)
        bar, counts, *lines = screen.rows[start:]
        assert "about" in bar and counts == "12 done, 1 failed, 6 running · 1 min 15 s"
        assert lines[:4] == [
            "t0013  mlp recovery, from step 40 of 120  1 min 15 s (trial: 1 min 15 s)",
            "t0014  starts  1 min 15 s (trial: 1 min 15 s)",
            "t0015  starts  1 min 15 s (trial: 1 min 15 s)",
            "and 3 more",
        ]
        head, *table = lines[4:]
        assert head.split() == ["front", "of", "12", "FLOPs", "left", "Boundary", "F1", "HD95"]
        # eight of twelve, evenly, with both ends; 0, 1.57, 3.14, 4.71, 6.29, 7.86, 9.43 and 11 rounded
        assert [line.split()[0] for line in table] == [f"t{n:04d}" for n in (0, 2, 3, 5, 6, 8, 9, 11)]
        assert table[0].split()[1:] == ["5.0", "%", "0.525", "19.5", "px"]


class Broken(io.StringIO):
    """A stream that cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "gone"), BrokenPipeError()])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_search_continues_without_standard_error(error: OSError, terminal: bool) -> None:
    stdout = sys.stdout
    console = PlainConsole(file=Broken(error), width=80, height=24, force_terminal=terminal)
    with SearchProgress(OBJECTIVES, 3, status=Status(console, lambda: 60.0)) as progress:
        for number in range(2):
            progress.started(f"t000{number}")
        progress.phase("t0000", "heads")
        progress.ended(TrialRow("t0000", 0, "failed", "ValueError: odd"))
        progress.ended(row("t0001", cost=2.0, quality=0.5))
        assert progress.line().startswith("1/3 done, 1 failed, 0 running · best cost 2 (t0001), quality 0.5 (t0001)")
    assert sys.stdout is stdout


def test_a_warning_while_the_front_is_computed_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a warning redraws the live area, in the thread that computes."""
    out = io.StringIO()

    def warned(*arguments: Any) -> list[Member]:
        sys.stderr.write(warnings.formatwarning("odd", RuntimeWarning, "x.py", 7, ""))
        return front_members(*arguments)

    def end_a_trial() -> None:
        with SearchProgress(OBJECTIVES, 2, status=Status(console, lambda: 60.0)) as progress:
            progress.started("t0000")
            monkeypatch.setattr(search_progress, "front_members", warned)
            progress.ended(row("t0000", cost=2.0, quality=0.5))
            lines.append(progress.line())

    lines: list[str] = []
    monkeypatch.setattr(sys, "stderr", out)
    console = PlainConsole(stderr=True, width=80, height=24, force_terminal=True, color_system=None)
    thread = threading.Thread(target=end_a_trial, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert lines[0].startswith("1/2 done") and "x.py:7: RuntimeWarning: odd" in out.getvalue()


def test_an_error_of_a_display_is_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    def show(trial_id: str) -> None:
        raise ValueError(f"cannot draw {trial_id}")

    with caplog.at_level(logging.DEBUG, logger=search_progress.__name__):
        harmless(show)("t0007")
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG and record.exc_info is not None
    assert str(record.exc_info[1]) == "cannot draw t0007"
