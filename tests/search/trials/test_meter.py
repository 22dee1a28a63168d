"""Where a trial's time and memory go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.base.device import host_peak
from search.trials.meter import Meter
from tests.support.helpers import use_memory


def test_time_goes_to_the_stage_that_ends_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 18.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    meter = Meter()
    for stage in ("pruning", "recovery", "pruning"):
        meter.mark(stage)
    assert list(meter.seconds.items()) == [("pruning", 5.0), ("recovery", 6.0)]


def test_memory_is_the_stage_s_own_peak() -> None:
    meter = Meter()
    meter.mark("before")
    if not Path("/proc/self/status").is_file():  # only Linux tells how much memory was in use
        assert meter.points == [] and meter.peaks == {}
        return
    use_memory(240_000_000)
    meter.mark("large")
    meter.mark("after")
    before, large, after = [point.value for point in meter.points]
    assert [point.step for point in meter.points] == [0, 1, 2]
    times = [point.time or 0 for point in meter.points]
    assert times == sorted(times) and times[0] < times[-1]
    assert set(meter.points[0].record()) == {"phase", "step", "name", "value", "time"}
    assert large - before == pytest.approx(240, rel=0.15)
    assert after < before + 50
    assert meter.peaks["memory_mb"] == max(before, large, after)


@pytest.mark.parametrize("status", ["Name:\tpython\n", "VmHWM:\t  100 kB\n", ""])
def test_a_system_that_does_not_tell_the_peak_gives_zero(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: status)
    assert host_peak() == 0
