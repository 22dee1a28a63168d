"""Addresses for tests of trackers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.helpers import held_port


@pytest.fixture
def dead() -> Iterator[str]:
    """The address of a server that is unreachable during the test."""
    with held_port() as port:
        yield f"http://127.0.0.1:{port}"
