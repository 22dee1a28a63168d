"""Registries: order, duplicates, unknown names, and modules of a user's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medcore.errors import MedcoreError
from medcore.models.checkpoint import save
from medcore.registry import PLUGINS, Registry, load_plugins
from tests.support.studies.study_files import environment
from tests.support.toy.samples import toy_model


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets `MEDCORE_PLUGINS` as if the process had just begun; the folder is on the path."""

    def begin(names: str) -> None:
        monkeypatch.setenv(PLUGINS, names)
        load_plugins.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield begin
    monkeypatch.delenv(PLUGINS, raising=False)
    load_plugins.cache_clear()


def colours() -> Registry[str]:
    registry: Registry[str] = Registry("colour")
    for name in ("red", "green", "blue"):
        registry.register(name)(name.upper())
    return registry


def test_entries_are_found_by_name_in_the_order_of_registration() -> None:
    registry = colours()
    assert registry.names() == tuple(registry) == ("red", "green", "blue")
    assert registry["green"] == "GREEN" and "green" in registry and "pink" not in registry and 7 not in registry


def test_register_returns_what_it_decorates() -> None:
    registry: Registry[Callable[[], int]] = Registry("number")

    @registry.register("one")
    def one() -> int:
        return 1

    assert one() == registry["one"]() == 1


def test_a_name_has_one_entry() -> None:
    registry = colours()
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        registry.register("red")("CRIMSON")
    assert registry["red"] == "RED"
    # a module may be imported under two names, or again
    registry.register("red")(registry["red"])
    assert registry.names() == ("red", "green", "blue")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(MedcoreError, match="unknown colour 'pink'; known are red, green, blue"):
        colours()["pink"]


def test_plugins_are_imported_once_before_the_first_look_up(tmp_path: Path, plugins: Callable[[str], None]) -> None:
    (tmp_path / "first_plugin.py").write_text("import sys\nsys.imports_seen = ['first']\n")
    (tmp_path / "second_plugin.py").write_text("import sys\nsys.imports_seen.append('second')\n")
    plugins(" first_plugin, second_plugin ,, ")
    registry = colours()
    assert not hasattr(sys, "imports_seen")
    try:
        for _ in range(2):
            assert "red" in registry
            assert sys.imports_seen == ["first", "second"]  # type: ignore[attr-defined]
    finally:
        del sys.imports_seen  # type: ignore[attr-defined]


@pytest.mark.parametrize("look_up", [lambda r: r.names(), lambda r: list(r), lambda r: r["red"], lambda r: "red" in r])
def test_a_plugin_that_is_missing_is_named(
    look_up: Callable[[Registry[str]], object], plugins: Callable[[str], None]
) -> None:
    plugins("no_such_plugin")
    with pytest.raises(MedcoreError, match="MEDCORE_PLUGINS: cannot import no_such_plugin"):
        look_up(colours())


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def broken(:", r"SyntaxError: .*line 1"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
        (
            "from medcore.scoring.criteria import CRITERIA\nCRITERIA.register('michel')(len)",
            "ValueError: .* 'michel' is registered twice",
        ),
    ],
)
def test_a_plugin_that_fails_is_one_line(
    tmp_path: Path, plugins: Callable[[str], None], code: str, reason: str
) -> None:
    (tmp_path / "faulty_plugin.py").write_text(code)
    plugins("faulty_plugin")
    with pytest.raises(MedcoreError, match=rf"MEDCORE_PLUGINS: cannot import faulty_plugin \({reason}") as caught:
        colours().names()
    assert "\n" not in str(caught.value)


def test_a_plugin_may_look_up_entries_itself(tmp_path: Path, plugins: Callable[[str], None]) -> None:
    (tmp_path / "blending_plugin.py").write_text(
        "from medcore.scoring.criteria import CRITERIA\n\n"
        "michel = CRITERIA['michel']\n"
        "CRITERIA.register('blending_plugin')(lambda table, family, weights: 2 * michel(table, family, weights))\n"
    )
    plugins("blending_plugin")
    # in a process of its own, so that no other test sees the entry
    program = "from medcore.scoring.criteria import CRITERIA; print(CRITERIA.names()[-1])"
    variables = environment() | {PLUGINS: "blending_plugin"}
    variables["PYTHONPATH"] += f":{tmp_path}"
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("blending_plugin\n", "")


def test_an_architecture_of_ones_own_loads_wherever_its_module_is_named(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    save(path, toy_model())
    program = f"from medcore.models.checkpoint import load; print(load({str(path)!r}).arch.kind)"
    variables = environment() | {PLUGINS: "tests.support.toy.arch"}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("toy\n", "")
    program = f"from medcore.models.architectures import spec_from_json; spec_from_json({toy_model().spec.to_json()!r})"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert "unknown kind 'toy'; known are sam_vit" in done.stderr
