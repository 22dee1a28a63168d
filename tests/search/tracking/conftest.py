"""What tests of trackers share: an address at which nothing answers, and one picture of a front."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import held_port

#: Pictures of a front by the ending of their files.
_DRAWN: dict[str, bytes] = {}


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that is unreachable during the test."""
    with held_port() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def _front_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers draw the first front of this process and send its picture again for others."""
    from results.plots import front

    draw = front.save_front_picture

    def draw_once(df: Any, objectives: Any, *paths: Path, **options: Any) -> None:
        if missing := [path for path in paths if path.suffix not in _DRAWN]:
            draw(df, objectives, *missing, **options)
            _DRAWN.update({path.suffix: path.read_bytes() for path in missing})
        for path in paths:
            path.write_bytes(_DRAWN[path.suffix])

    monkeypatch.setattr(front, "save_front_picture", draw_once)
