"""How long tests of exports measure time: no longer than a moment."""

from __future__ import annotations

import pytest

from medcore.quality.timing import Latency, Timing
from search.export import timing


@pytest.fixture(autouse=True)
def _short_timing(short_timing: None) -> None:
    pass


@pytest.fixture
def instant_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports measure nothing; every model has the same figures."""
    measure_nothing(monkeypatch)


def measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every model the same figures."""
    found = Latency(Timing(2.0, 0.1, 5), Timing(3.0, 0.2, 4), 2_000_000)
    monkeypatch.setattr(timing, "compare", lambda models, *_, **__: dict.fromkeys(models, found))
