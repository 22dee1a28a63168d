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
    one_line,
    printable,
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\u202eb\u200bc", "a\\u202eb\\u200bc"),
        ("M\udcfcller", "M\\xfcller"),  # a byte of a file's name that is no UTF-8
        ("half \ud83d", "half \\ud83d"),
        ("Müller · 中文 [/b] 😀", "Müller · 中文 [/b] 😀"),
    ],
)
def test_nothing_in_a_text_is_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown and printable(shown) == shown
    assert brief(text) == shown and one_line(text) == shown


def test_line_breaks_stay_where_they_are_wanted() -> None:
    assert printable("a\nb\x85", keep="\n") == "a\nb\\x85"


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert str(ConfigError("a\nmedcore: all is well\r\n b")) == "a medcore: all is well b"
    text = str(DataError("c.yaml: " + "a" * 30_000 + "; choose another"))
    assert len(text) == 1500 and text.startswith("c.yaml: aaa") and text.endswith("a; choose another")
    assert str(ConfigError(text)) == text and str(MedcoreError()) == ""
