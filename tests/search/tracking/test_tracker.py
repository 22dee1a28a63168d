"""What a search says of its tracker, which may be a plug-in."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from search.tracking.tracker import Announcement


class Plugin:
    """A tracker without `page`, as plug-ins of earlier versions are."""

    name = "mine"


class WithPage(Plugin):
    page = "look: here"


class Broken(Plugin):
    @property
    def page(self) -> str:
        raise ValueError("broken")


def test_a_tracker_without_a_page_says_nothing() -> None:
    said: list[str] = []
    tracker: Any = Plugin()
    Announcement(tracker, said.append).tell()
    assert said == []
    told: Any = WithPage()
    announcement = Announcement(told, said.append)
    announcement.tell()
    announcement.tell()
    assert said == ["look: here"]


@pytest.mark.parametrize(("plugin", "error"), [(Broken, "broken"), (WithPage, "SystemExit")])
def test_a_line_that_cannot_be_said_stops_nothing(
    plugin: type[Plugin], error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A console whose reader is gone raises SystemExit."""

    def closed(_: str) -> None:
        raise SystemExit(1)

    caplog.set_level(logging.DEBUG, "search.tracking.tracker")
    tracker: Any = plugin()
    Announcement(tracker, closed).tell()
    assert "no line on where the study is in mine: " in caplog.text and error in caplog.text
