"""An error as one line: its first line, its last, or all of them, never empty."""

from __future__ import annotations

import pytest
import torch

from medcore.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    MedcoreError,
    StorageError,
    TrackingError,
    brief,
)


@pytest.mark.parametrize("kind", [CheckpointError, ClusterError, ConfigError, DataError, StorageError, TrackingError])
def test_every_kind_is_printed_by_the_command_line(kind: type[MedcoreError]) -> None:
    assert issubclass(kind, MedcoreError)


def test_the_first_or_the_last_line_or_all_of_them() -> None:
    error = ValueError(" \n one \ntwo  three\n\n")
    assert brief(error, first=120) == "one"
    assert brief(error, last=120) == "two  three"
    assert brief(error) == "one two three"
    assert len(brief(ValueError("x" * 500), first=120)) == len(brief(ValueError("x" * 500), last=120)) == 120


def test_an_error_without_text_has_the_name_of_its_type() -> None:
    assert brief(torch.OutOfMemoryError(), first=120) == "OutOfMemoryError"
    assert brief(ValueError(" \n"), last=120) == brief(ValueError()) == "ValueError"


def test_texts_of_other_processes_lose_their_colours() -> None:
    assert brief("\x1b[36mray::trial()\x1b[39m\n\x1b[31mValueError: wrong\x1b[0m", last=200) == "ValueError: wrong"
    assert brief(None, last=200) == brief("", last=200) == "unknown reason"
