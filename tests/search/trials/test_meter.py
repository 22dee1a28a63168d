"""Where a trial's time and memory go."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from search.base.device import host_peak
from search.trials.meter import Meter
from tests.support.helpers import use_memory


def test_time_goes_to_the_part_that_ends_and_nothing_is_lost() -> None:
    begin = time.perf_counter()
    meter = Meter()
    for part, pause in (("pruning", 0.02), ("recovery", 0.06), ("pruning", 0.03)):
        time.sleep(pause)
        meter.mark(part)
    whole = time.perf_counter() - begin
    assert list(meter.seconds) == ["pruning", "recovery"]
    assert meter.seconds["pruning"] >= 0.05 and meter.seconds["recovery"] >= 0.06
    assert sum(meter.seconds.values()) <= whole


def test_memory_is_the_part_s_own_peak() -> None:
    meter = Meter()
    meter.mark("before")
    if not Path("/proc/self/status").is_file():  # only Linux tells how much memory was in use
        assert meter.series == [] and meter.peaks == {}
        return
    use_memory(240_000_000)
    meter.mark("large")
    meter.mark("after")
    before, large, after = [entry["value"] for entry in meter.series]
    assert [entry["step"] for entry in meter.series] == [0, 1, 2]
    times = [entry["time"] for entry in meter.series]
    assert times == sorted(times) and times[0] < times[-1]
    assert large - before == pytest.approx(240, rel=0.15)
    assert after < before + 50
    assert meter.peaks["memory_mb"] == max(before, large, after)


@pytest.mark.parametrize("status", ["Name:\tpython\n", "VmHWM:\t  100 kB\n", ""])
def test_a_system_that_does_not_tell_the_peak_gives_zero(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: status)
    assert host_peak() == 0
