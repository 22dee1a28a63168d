"""Trials that sample the side of their square: what is shared, what shares refer to, and what happens to the models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from benchmarks.sizes import searched_side
from medcore.budgets.prices import linear_prices
from medcore.errors import CheckpointError, ConfigError
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from results.pages.compared import compared_held_out
from results.stats.columns import is_average
from results.stats.labels import NOT_RECOVERED
from results.store.held_out import on_same_images, read_measurements
from results.store.trials import all_rows
from search.base.config import load_config
from search.base.sections.search import SearchConfig
from search.base.sections.space import SpaceConfig
from search.commands.before import inputs, slow
from search.commands.export import ExportRequest, export
from search.commands.latency import study_latency
from search.commands.sections import config_at, study_jobs, trial_settings
from search.export.sheets import Sheets
from search.study.inputs import load_split, search_images
from search.study.prepare import prepare
from search.trials.attempt import begin
from search.trials.sampling.sides import all_pixels, cost_limits, other_sides
from search.trials.sampling.space import Domain
from search.trials.trial import trial_phases
from tests.search.export.conftest import measure_nothing
from tests.support.helpers import TINY
from tests.support.studies.search_here import search_here
from tests.support.studies.study_files import own_polyps, write_tiny_study
from tests.support.training_samples import assert_same, weights

SPACE: dict[str, Any] = {"fraction": {"low": 0.2, "high": 1.0, "log": True}, "side": {"choices": [64, 48]}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a study whose sampled trials have two sides."""
    search = {"trials": 13, "finalists": 0.31, "space": SPACE, "sampler": "tpe"}  # four finalists, of which two average
    sections = {"search": search, "recovery": {"steps": 2}}
    path = write_tiny_study(tmp_path_factory.mktemp("sides"), **sections)
    search_here(path)
    return path


def test_every_trial_has_a_side_and_its_costs_are_shares_of_the_largest(study: Path) -> None:
    config = load_config(study)
    rows = sorted(all_rows(config.folder), key=lambda row: row.number)
    assert all(row.is_done for row in rows) and {row.params["side"] for row in rows[3:]} == {48, 64}
    assert {row.params["side"] for row in rows[:3]} == {64}  # starting points
    whole, groups = cost(ModelSpec.dense(TINY)), {}
    for row in rows:
        model = load(config.folder / str(row.checkpoint))
        assert model.arch.img_size == row.params["side"]
        assert row.metrics["flops"] == cost(model.spec).flops
        assert row.metrics["flops_fraction"] == pytest.approx(cost(model.spec).flops / whole.flops)
        prices = linear_prices(model.arch, config.search.metric)
        most = prices.dense / whole.flops_paper
        # the budget is met to one group, whatever the side
        groups[model.arch.img_size] = max(float(np.diff(costs).max()) for costs in prices.tables) / whole.flops_paper
        met, wanted = row.metrics["flops_paper_fraction"], min(row.params["fraction"], most)
        if row.origin not in ("dense", "uniform 0.5"):
            assert wanted - groups[model.arch.img_size] < met <= wanted + 1e-9
        figures = summarise(evaluate(model, search_images(config.datasets, model.arch.frame)))
        assert row.metrics["boundary_f1"] == pytest.approx(figures["boundary_f1"], abs=1e-6)


def test_finalists_have_the_side_of_what_they_repeat(study: Path) -> None:
    rows = {row.trial_id: row for row in all_rows(load_config(study).folder)}
    first = {row.trial_id: row.repeats or row.origin.rpartition(" ")[2] for row in list(rows.values())[9:]}
    assert len(first) == 4 and sum(is_average(rows[name].origin) for name in first) == 2
    for name, repeated in first.items():
        assert rows[name].params["side"] == rows[repeated].params["side"]
        assert rows[name].metrics["flops"] == rows[repeated].metrics["flops"]


def test_a_trial_is_that_of_a_study_with_this_side(study: Path, tmp_path: Path) -> None:
    """Statistics, streams, teacher and images are those of the trial's side: the weights are equal to the bit."""
    config = load_config(study)
    row = next(row for row in all_rows(config.folder) if row.params["side"] == 48 and row.origin == "sampled")
    alone = config_at(config, 48).model_copy(update={"output": tmp_path})
    images = search_images(alone.datasets, arch_at_side(TINY, 48).frame)
    shared = prepare(trial_settings(alone), study_jobs(alone), images)
    ratio = linear_prices(TINY, "flops_paper").dense / linear_prices(shared.arch, "flops_paper").dense
    params = {name: value for name, value in row.params.items() if name != "side"}
    params["fraction"] = min(1.0, ratio * params["fraction"])
    trial = {"trial_id": "t0000", "number": 0, "seed": row.seed, "repeats": None, "averages": (), "teaches": True}
    trial |= {"origin": "sampled", "params": params, "study_dir": str(tmp_path)}
    (*_, last) = trial_phases(trial | {"attempt": begin(tmp_path, "t0000", "a node")}, shared)
    assert last.row is not None and last.row.metrics["boundary_f1"] == row.metrics["boundary_f1"]
    assert last.row.metrics["flops"] == row.metrics["flops"]
    assert last.row.metrics["flops_fraction"] > row.metrics["flops_fraction"]
    own, other = (load(place / str(each.checkpoint)) for place, each in ((config.folder, row), (tmp_path, last.row)))
    assert_same(weights(own), weights(other))


def test_a_model_of_another_side_is_drawn_beside_the_dense_one(study: Path) -> None:
    config = load_config(study)
    row = next(row for row in all_rows(config.folder) if row.params["side"] == 48)
    sheets = Sheets(config.model, config.datasets, autocast=False)
    table = sheets.dense_images()
    member = SimpleNamespace(trial_id=row.trial_id, row=row, rules=["best"])
    pictures, notes = sheets.draw(config.folder, [member], table.assign(trial_id=row.trial_id), 2)
    assert notes == [] and pictures[0].name == f"{row.trial_id}.png"


def test_times_of_all_sides_stand_beside_one_dense_model(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)
    config = load_config(study)
    rows = {row.trial_id: row for row in all_rows(config.folder)}
    records = study_latency(config.folder, [1], select="all")
    assert {rows[record.trial_id].params["side"] for record in records} == {48, 64}
    for record in records:
        assert record.flops_fraction == pytest.approx(rows[record.trial_id].metrics["flops_fraction"])


def test_samples_that_vanish_on_a_small_square_are_named(tmp_path: Path) -> None:
    """Objects of one pixel that 64 x 64 pixels show, and that lies between those of 48 x 48."""
    path = write_tiny_study(tmp_path, search={"space": SPACE, "trials": 3})
    folder = own_polyps(tmp_path)
    config = load_config(path)
    names = search_images(config.datasets, TINY.img_size).names[:3]
    for file in (folder / "masks").iterdir():
        if file.stem in names:
            with Image.open(file) as mask:
                width, height = mask.size
            numbers = Image.fromarray(np.arange(width * height, dtype=np.int32).reshape(height, width))
            large, small = (np.asarray(numbers.resize((side, side), Image.Resampling.NEAREST)) for side in (64, 48))
            values = np.zeros(width * height, np.uint8)
            values[np.setdiff1d(large, small)[0]] = 255
            Image.fromarray(values.reshape(height, width)).save(file)
    with pytest.raises(
        ConfigError, match=r"squares of 64 and 48 pixels show different objects, 3 are in one of them only"
    ):
        slow.images(slow.Loaded(config))


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
    assert found[None].data != found[row.trial_id].data
    assert on_same_images(found[row.trial_id], found[None])
    compared = compared_held_out(config.folder, row, None)
    assert [each.against for each in compared] == [NOT_RECOVERED] and compared[0].loss.iloc[0]["dense"] > 0
    card = out.with_suffix(".card.md").read_text(encoding="utf-8")
    share = row.metrics["flops_fraction"]
    assert f"needs {share:.1%} of the dense encoder's FLOPs, on a square of 48 pixels instead of 64." in card
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


def test_the_benchmark_tells_sides_apart(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searched_side, "search", lambda *_, **__: SimpleNamespace(complete=True))
    config = load_config(study)
    row = searched_side.measured(config, [64, 48], 64)
    first = [each for each in all_rows(config.folder) if each.repeats is None]
    within = [each for each in first if each.metrics["flops_paper_fraction"] <= 0.3]
    small = [each.metrics["boundary_f1"] for each in within if each.params["side"] == 48]
    assert row["trials"] == len(first) == 11 and row["tried_smaller"] == sum(
        each.params["side"] == 48 for each in first
    )
    assert small and row["other_0.3"] == pytest.approx(max(small), abs=0.05)  # repeats make it a mean
    assert "| 64 or 48 | 0 | 11 (" in searched_side.text_of(pd.DataFrame([row]))


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
    assert two.demand.teacher_images == one.demand.teacher_images + -(-one.demand.teacher_images * 9 // 16)


def test_shares_that_a_side_can_take_up() -> None:
    """From what is left when all that can go is gone, to what the model to prune has."""
    settings = SearchConfig(space={"fraction": {"low": 0.05, "high": 1}, "side": {"choices": [64, 48]}})
    start = ModelSpec(TINY, tuple(width // 2 for width in TINY.dense_widths))
    whole = cost(ModelSpec.dense(TINY)).flops_paper
    found = cost_limits(settings, start)
    for side in (64, 48):
        most = cost(ModelSpec(arch_at_side(TINY, side), start.widths)).flops_paper / whole
        least = cost(ModelSpec(arch_at_side(TINY, side), (0,) * len(start.widths))).flops_paper / whole
        assert found[side] == pytest.approx((least, most))
    share = (found[48][1] + found[64][1]) / 2  # too much for the small square
    fixed = SearchConfig(space={"fraction": share, "side": {"choices": [64, 48]}})
    assert list(cost_limits(fixed, start)) == [64]


def test_times_belong_to_one_side(tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    times.write_text("{}")
    path = write_tiny_study(tmp_path, search={"space": SPACE, "cost": "time", "times": str(times)})
    with pytest.raises(ConfigError, match=r"cost time: a table holds the times of one side; leave out space\.side"):
        load_config(path)
    assert yaml.safe_load(path.read_text())["search"]["space"]["side"]
