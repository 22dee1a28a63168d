"""Commands whose budgets meet measured time: a wrong table is refused before any work, and a study keeps its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medcore.budgets.prices import measured_prices
from medcore.errors import ConfigError
from medcore.models.checkpoint import load
from medcore.quality.time_table import read_time_table, write_time_table
from search.base.config import Config, load_config
from search.commands import open_study as opening
from search.commands import prune as pruning
from search.commands.open_study import open_study
from search.commands.prune import prune
from search.commands.sections import trial_settings
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study
from tests.support.time_tables import TABLE

OTHER = replace(TABLE, arch=replace(TINY, name="other", mlp_ratio=4), sites=TABLE.sites[:4] + (
    replace(TABLE.sites[4], widths=(0, 8, 96)),) * 4)  # fmt: skip


def config_of(folder: Path, section: str, **more: Any) -> Config:
    """The tiny study with measured time as the cost of a section."""
    values = yaml.safe_load(write_tiny_study(folder).read_text())
    values[section] = values.get(section, {}) | {"cost": "time", "times": str(folder / "times.json")} | more
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return load_config(folder / "study.yaml")


def test_prune_within_a_share_of_time(tmp_path: Path) -> None:
    write_time_table(tmp_path / "times.json", TABLE)
    config = config_of(tmp_path, "budget", allocator="knapsack", fraction=0.4)
    quick = {"recovery": config.recovery.model_copy(update={"steps": 0, "refit_images": 4})}
    quick |= {"scoring": config.scoring.model_copy(update={"criterion": "second_order"})}
    config = config.model_copy(update=quick)
    prune(config, tmp_path / "small.safetensors")
    prices = measured_prices(TABLE)
    assert 0.2 * prices.dense < prices.total(load(tmp_path / "small.safetensors").spec) <= 0.4 * prices.dense


@pytest.mark.parametrize("content", ["another architecture", "none"])
def test_prune_refuses_a_wrong_table_before_it_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    if content != "none":
        write_time_table(tmp_path / "times.json", OTHER)
    monkeypatch.setattr(pruning, "statistics", lambda *_: pytest.fail("statistics were computed"))
    config = config_of(tmp_path, "budget", allocator="knapsack")
    message = "no readable time table" if content == "none" else "holds times of other, not of this tiny"
    with pytest.raises(ConfigError, match=message) as caught:
        prune(config, tmp_path / "small.safetensors")
    assert "\n" not in str(caught.value)


def test_a_study_keeps_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_time_table(tmp_path / "times.json", TABLE)
    config = config_of(tmp_path, "search")
    open_study(config, resume=False)
    assert read_time_table(config.folder / "times.json") == TABLE
    # without trials there is nothing to keep
    longer = replace(TABLE, fixed_ms=2.0)
    write_time_table(tmp_path / "times.json", longer)
    open_study(config, resume=False)
    monkeypatch.setattr(opening, "all_issued", lambda _: ["a trial"])
    open_study(config, resume=True)
    write_time_table(tmp_path / "times.json", TABLE)
    with pytest.raises(
        ConfigError, match=r"times\.json: cannot resume, the study was priced by another table"
    ) as caught:
        open_study(config, resume=True)
    assert "\n" not in str(caught.value)
    kept = config.folder / "times.json"
    assert read_time_table(kept) == longer
    # as the message says
    own = config.model_copy(update={"search": config.search.model_copy(update={"times": kept})})
    open_study(own, resume=True)
    assert read_time_table(kept) == longer
    prices = trial_settings(own).prices
    assert prices is not None and prices.fixed == 2.0


def test_a_study_refuses_a_table_of_another_architecture(tmp_path: Path) -> None:
    write_time_table(tmp_path / "times.json", OTHER)
    with pytest.raises(ConfigError, match="holds times of other, not of this tiny"):
        open_study(config_of(tmp_path, "search"), resume=False)
    assert not (tmp_path / "runs" / "tiny" / "config.yaml").exists()
