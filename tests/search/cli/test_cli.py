"""What the command line prints: paths as they are, and commands that can be typed again."""

from __future__ import annotations

import runpy
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from results.store.trial_row import TrialRow
from search.cli.main import app
from search.driver.run import Outcome
from tests.support.studies.study_files import write_tiny_study

#: rich would drop the first pair of brackets, and raise on the second.
ODD = "data [red]/b[/c]" + 20 * "/long"


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code in (0, 1), result.output
    return result.output


def test_paths_are_printed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, odd = write_tiny_study(tmp_path), Path(ODD)
    cost = {"encoder_params": 1.0, "flops": 1.0, "flops_paper": 1.0}
    cost |= {"decoder_params": 1.0, "decoder_flops": 1.0, "call_flops": 2.0}
    removed = cost | {"heads_removed": 1, "channels_removed": 2, "encoder_params_fraction": 0.5}
    row = TrialRow("t0001", 1, "done", origin="[x]", metrics={"flops_fraction": 0.5})
    monkeypatch.setattr("search.commands.adapt.adapt", lambda *_, **__: odd)
    monkeypatch.setattr("search.commands.score.score", lambda *_, **__: (odd, odd))
    monkeypatch.setattr("search.commands.prune.prune", lambda *_, **__: removed)
    monkeypatch.setattr("search.commands.cost.cost", lambda *_, **__: cost)
    monkeypatch.setattr("search.commands.predict.predict", lambda *_, **__: 0.5)
    monkeypatch.setattr("search.commands.export.export", lambda *_, **__: row)
    assert f"wrote {ODD}\n" in run("adapt", config)
    assert f"wrote {ODD}\nwrote {ODD}\n" in run("score", config)
    assert f"wrote {ODD}\n" in run("prune", config, "--out", odd)
    assert "[red]" in run("cost", ODD) and "[/c]" in run("cost", ODD)
    assert f"wrote {ODD}: 50.0 %" in run("predict", "m", "i", "--box", "0,0,1,1", "--out", odd)
    assert f"t0001 ([x]): FLOPs left: 50.0 % of dense\nwrote {ODD}\n" in run("export", "s", "--out", odd)


def test_search_says_how_to_go_on_with_everything_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def stopped(settings: Any, *, say: Any, **options: Any) -> Outcome:
        given.update(options)
        say(f"study folder: {ODD}")
        return Outcome(0, 0, 7, False, "")

    monkeypatch.setattr("search.commands.search.search", stopped)
    monkeypatch.setattr("search.commands.before.quick.require_quick", lambda *_: ())
    folder = tmp_path / "my studies"
    folder.mkdir()
    config = write_tiny_study(folder)
    options = ["--trials", "7", "--name", "n", "--ray-address", "ray://h:1", "--tracking-uri", "http://h/?a=1&b"]
    assert f"study folder: {ODD}\n" in run("search", config, *options)
    assert shlex.split(given["command"]) == ["medcore", "search", str(config), *options, "--resume"]
    run("search", config)
    assert shlex.split(given["command"]) == ["medcore", "search", str(config), "--resume"]


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"medcore {version('medcore-search')}\n"
    assert run("--version") == expected
    monkeypatch.setattr("sys.argv", ["medcore", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("search", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == expected
