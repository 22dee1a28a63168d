"""The documentation builds as a site, and what it says of commands, keys and functions is true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

import medcore.api
from search.base.config import validate
from search.cli.main import app
from search.cli.reference import command_page, configuration_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK, QUOTED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL), re.compile(r"`(medcore [a-z][^`\n]*)`")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "search.space.fraction" not in done.stderr
    assert "calibration_split" in (tmp_path / "site" / "configuration" / "index.html").read_text()


def keys(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and (*path, key) in SECTIONS:
            yield from keys(value, (*path, key))
        else:
            yield ".".join(path), key


REQUIRED = {"study": "x", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["c"]}}
SECTIONS = {
    *((name,) for name in ("model", "data", "scoring", "recovery", "budget", "schedule", "search", "tracking")),
    *(("adapt",), ("finetune",), ("search", "space"), ("search", "warm_starts")),
}


def test_every_key_of_a_configuration_is_in_the_reference() -> None:
    sections = re.split(r"^##+ ", configuration_page(), flags=re.MULTILINE)
    by_name = {section.partition("\n")[0].strip("`"): section for section in sections[1:]} | {"": sections[0]}
    for section, key in keys(validate(REQUIRED, "test").model_dump(mode="json")):
        assert f"| `{key}` |" in by_name[section], f"{section}.{key}"


def commands(group: TyperGroup, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def known_commands() -> dict[tuple[str, ...], Any]:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(commands(root))


def test_every_command_and_option_is_in_the_reference() -> None:
    page = command_page()
    for words, command in known_commands().items():
        section = page.partition(f"## `medcore {' '.join(words)}`\n")[2].partition("\n## ")[0]
        options = {option for part in command.params for option in part.opts if option.startswith("--")}
        assert all(option in section for option in options - {"--help"}), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist_with_their_options(page: Path) -> None:
    known = known_commands()
    text = page.read_text()
    calls = [line for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith("medcore ")]
    for call in [*calls, *QUOTED.findall(BLOCK.sub("", text))]:
        words = shlex.split(call.partition(" #")[0].replace("…", ""), comments=True)[1:]
        name = next((tuple(words[:size]) for size in (2, 3, 1) if tuple(words[:size]) in known), None)
        assert name is not None, f"{page.name}: {call}"
        options = {option for part in known[name].params for option in (*part.opts, *part.secondary_opts)}
        given = [word.partition("=")[0] for word in words[len(name) :] if word.startswith("--")]
        assert {*given} <= options, f"{page.name}: {call}"


def test_the_example_of_the_functions_is_the_tested_one() -> None:
    tested = (medcore.api.__doc__ or "").partition("offers them.\n\n")[2].partition("\nModels run")[0]
    assert textwrap.dedent(tested).strip() in (ROOT / "docs" / "recipes.md").read_text()
