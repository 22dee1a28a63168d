"""Trials that sample the side of their square: what is shared, what shares refer to, and what happens to the models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from medcore.budgets.prices import linear_prices
from medcore.errors import CheckpointError, ConfigError
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from results.store.held_out import read_measurements
from results.store.trials import all_rows
from search.base.config import load_config
from search.base.sections.space import SpaceConfig
from search.commands.before import inputs, slow
from search.commands.export import ExportRequest, export
from search.export.sheets import Sheets
from search.study.inputs import load_split, search_images
from search.trials.sampling.sides import all_pixels, other_sides
from search.trials.sampling.space import Domain
from tests.search.export.conftest import measure_nothing
from tests.support.helpers import TINY
from tests.support.studies.search_here import search_here
from tests.support.studies.study_files import write_tiny_study

SPACE: dict[str, Any] = {"fraction": {"low": 0.2, "high": 1.0, "log": True}, "side": {"choices": [64, 48]}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a study whose sampled trials have two sides."""
    sections = {"search": {"trials": 9, "finalists": 0.0, "space": SPACE}, "recovery": {"steps": 2}}
    path = write_tiny_study(tmp_path_factory.mktemp("sides"), **sections)
    search_here(path)
    return path


def test_every_trial_has_a_side_and_its_costs_are_shares_of_the_largest(study: Path) -> None:
    config = load_config(study)
    rows = sorted(all_rows(config.folder), key=lambda row: row.number)
    assert all(row.is_done for row in rows) and {row.params["side"] for row in rows[3:]} == {48, 64}
    assert {row.params["side"] for row in rows[:3]} == {64}  # starting points
    whole = cost(ModelSpec.dense(TINY))
    for row in rows:
        model = load(config.folder / str(row.checkpoint))
        assert model.arch.img_size == row.params["side"]
        assert row.metrics["flops"] == cost(model.spec).flops
        assert row.metrics["flops_fraction"] == pytest.approx(cost(model.spec).flops / whole.flops)
        most = linear_prices(model.arch, config.search.metric).dense / linear_prices(TINY, config.search.metric).dense
        assert row.metrics["flops_paper_fraction"] <= max(row.params["fraction"], 0.2) + 1e-9 <= 1 + 1e-9
        assert row.metrics["flops_paper_fraction"] <= most + 1e-9
        images = search_images(config.datasets, model.arch.frame)
        figures = summarise(evaluate(model, images))
        assert row.metrics["boundary_f1"] == pytest.approx(figures["boundary_f1"], abs=1e-6)


def test_a_model_of_another_side_is_drawn_beside_the_dense_one(study: Path) -> None:
    config = load_config(study)
    row = next(row for row in all_rows(config.folder) if row.params["side"] == 48)
    sheets = Sheets(config.model, config.datasets, autocast=False)
    table = sheets.dense_images()
    member = SimpleNamespace(trial_id=row.trial_id, row=row, rules=["best"])
    pictures, notes = sheets.draw(config.folder, [member], table.assign(trial_id=row.trial_id), 2)
    assert notes == [] and pictures[0].name == f"{row.trial_id}.png"


def test_the_dense_model_of_an_export_keeps_its_own_side(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_nothing(monkeypatch)
    config = load_config(study)
    (config.folder / "config.yaml").write_text(config.to_yaml())
    row = next(row for row in all_rows(config.folder) if row.params["side"] == 48)
    out = tmp_path / "small.safetensors"
    export(ExportRequest(str(config.folder), out, select=f"trial:{row.trial_id}"), lambda _: None)
    found = {each.trial_id: each for each in read_measurements(config.folder)}
    for trial_id, model in ((None, load(config.model.adapted)), (row.trial_id, load(out))):
        images = load_split(config.datasets, "val/report", model.arch.frame)
        assert found[trial_id].metrics == pytest.approx(summarise(evaluate(model, images)), abs=1e-6)
    card = out.with_suffix(".card.md").read_text(encoding="utf-8")
    assert "on the same square of 48 pixels" in card
    # what is known is found without the data, too
    (study.parent / "polyps").rename(study.parent / "gone")
    try:
        again = tmp_path / "again.safetensors"
        export(ExportRequest(str(config.folder), again, select=f"trial:{row.trial_id}"), lambda _: None)
    finally:
        (study.parent / "gone").rename(study.parent / "polyps")
    dense = f"{found[None].metrics['boundary_f1']:.4g}"
    line = next(line for line in again.with_suffix(".card.md").read_text().splitlines() if "| Boundary F1 ↑" in line)
    assert dense in line


@pytest.mark.parametrize("metric", ["flops", "flops_paper"])
def test_a_share_is_one_of_the_study_whatever_the_side(metric: str) -> None:
    """A share of the large model's cost and the matching share of the small model's cost are the same operations."""
    small = arch_at_side(TINY, 48)
    settings: Any = SimpleNamespace(prices=None, search=SimpleNamespace(metric=metric))
    domain = Domain(settings, small, (), np.ones(4), reference=TINY)
    large, own = linear_prices(TINY, metric).dense, linear_prices(small, metric).dense
    for fraction in np.random.default_rng(0).uniform(0.01, own / large, 20):
        assert domain.own_share(fraction) * own == pytest.approx(fraction * large)
    assert domain.own_share(1.0) == 1.0
    assert dataclasses.replace(domain, reference=None).own_share(0.3) == 0.3


def test_sides_must_fit(tmp_path: Path) -> None:
    def sides(*choices: int) -> tuple[int, ...]:
        return other_sides(SpaceConfig(side={"choices": list(choices)}), TINY)

    assert sides(48, 64, 48) == (48,) and sides(64) == () and other_sides(SpaceConfig(), TINY) == ()
    assert all_pixels(SpaceConfig(side={"choices": [64, 32]}), TINY) == 1.25
    with pytest.raises(ConfigError, match=r"search\.space\.side: the largest side is 48, but the study's own is 64"):
        sides(48, 32)
    with pytest.raises(CheckpointError, match="a square of 50 pixels does not fit tiny"):
        sides(64, 50)
    with pytest.raises(ConfigError, match="side"):
        load_config(write_tiny_study(tmp_path, search={"space": SPACE | {"side": {"low": 32, "high": 64}}}))


def test_checks_read_every_side_before_the_first_trial(tmp_path: Path) -> None:
    for name in ("wrong", "one", "two"):
        (tmp_path / name).mkdir()
    wrong = load_config(write_tiny_study(tmp_path / "wrong", search={"space": SPACE | {"side": {"choices": [96, 64]}}}))
    with pytest.raises(ConfigError, match=r"set model\.side to 96"):
        inputs.architecture(slow.Loaded(wrong))
    one, two = (
        slow.Loaded(load_config(write_tiny_study(tmp_path / name, search={"space": space})))
        for name, space in (("one", {}), ("two", SPACE))
    )
    assert "also at 48 pixels" in slow.model(two).text and "pixels" not in slow.model(one).text
    assert two.image_bytes == 2 * one.image_bytes
    assert two.demand.teacher_images == -(-one.demand.teacher_images * 25 // 16)


def test_times_belong_to_one_side(tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    times.write_text("{}")
    path = write_tiny_study(tmp_path, search={"space": SPACE, "cost": "time", "times": str(times)})
    with pytest.raises(ConfigError, match=r"cost time: a table holds the times of one side; leave out space\.side"):
        load_config(path)
    assert yaml.safe_load(path.read_text())["search"]["space"]["side"]
