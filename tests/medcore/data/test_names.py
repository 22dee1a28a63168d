"""Natural order of names."""

from __future__ import annotations

from medcore.data.names import natural_key


def test_natural_order() -> None:
    assert sorted(["f10", "f2", "F2", "f", "2", "10", "f2a"], key=natural_key) == [
        *["2", "10"],
        *["F2", "f", "f2", "f2a", "f10"],
    ]
