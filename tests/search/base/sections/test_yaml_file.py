"""Configurations as people write them: what a number is, and one line for what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medcore.errors import ConfigError
from search.base.sections.yaml_file import read_yaml, write_yaml


def read(folder: Path, text: str | bytes) -> object:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("-2.e3", -2000.0), (".5e1", 5.0), ("+1_0e2", 1000.0), ("1.0e-4", 1e-4)],
)
def test_an_exponent_makes_a_number(tmp_path: Path, text: str, value: float) -> None:
    assert read(tmp_path, f"a: {text}\nb: [{text}]\nc: {{d: {text}}}") == {"a": value, "b": [value], "c": {"d": value}}
    assert read(tmp_path, f"a: '{text}'") == {"a": text}


@pytest.mark.parametrize("text", ["1e", "e5", "0x1e", "1e5x", "v1e-4", "2024-01-01", "2024-13-45", "~nobody/x"])
def test_other_texts_stay_as_yaml_has_them(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"a: {text}") == {"a": 30 if text == "0x1e" else text}


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    values = {"a": ["1e5", "1e-4", "2024-01-01", 1e-5, 1.5, None, True, "no"], "b": {"c": 3}}
    values["d"] = values["b"]  # written out, as an alias is hard to read
    text = write_yaml(values)
    assert read(tmp_path, text) == values and "*" not in text
    assert yaml.safe_load(text)["a"][:2] == ["1e5", "1e-4"]  # quoted, so every reader takes it for text


def test_surrogate_pairs_of_json_are_characters(tmp_path: Path) -> None:
    assert read(tmp_path, '{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


_BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands in line 1 too"),
        ("a: {b: 1, b: 2}", "line 1: the key 'b'"),
        ("a: 1\nb: " + "9" * 5000, "line 2: a whole number of 5000 digits"),
        ("a: 9223372036854775808", "too large"),
        ("a: &x [*x]", "an alias stands for something that holds it"),
        (_BOMB, "after its aliases are written out"),
        ("[" * 70 + "]" * 70, "nested more than 60 levels"),
        ("[" * 100_000, "nested too deeply"),
        ("a: !!python/object:os.system x", "line 1: "),
        ("a: !!int x", "line 1: 'x' is no whole number"),
        ("? [1, 2]\n: 3", "unhashable key"),
        ('a: "\\ud83d"', "half of a surrogate pair"),
        (b"a: \xff", "not valid YAML"),
        ("a: [", "line 1: "),
        ("a: 1\n---\nb: 2", "line 2: "),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(tmp_path: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'c.yaml'}: not valid YAML (") and reason in message
    assert "\n" not in message and len(message) < 600


def test_merged_keys_are_no_double(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}  # type: ignore[index]


def test_a_large_file_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than 4 MB"):
        read(tmp_path, b"#" * 4_000_001)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "absent.yaml")
