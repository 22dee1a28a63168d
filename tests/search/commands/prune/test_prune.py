"""`medcore prune` with the shipped recipes, on ViT-B of segment-anything with random weights and random scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load, read_info
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from medcore.scoring.criteria import ScoringWeights, block_sensitivity
from medcore.synthetic.write import write_folder
from search.base.config import Config
from search.base.sections.pruning import BudgetConfig
from search.commands.prune import allocate, prune, removed, targets
from search.commands.sections import scoring_job
from search.study.inputs import cost_metrics
from search.study.scoring import table_path
from tests.support.scoring_samples import random_table
from tests.support.studies.study_files import write_tiny_study

VIT_B = ARCHITECTURES["vit_b"]
DENSE = ModelSpec.dense(VIT_B)
CONFIGS = Path(__file__).parents[4] / "search" / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in segment-anything's format, and one image each to calibrate, search and report on."""
    folder = tmp_path_factory.mktemp("vit_b")
    torch.manual_seed(0)
    model = build(ModelSpec.dense(VIT_B))
    torch.save({name: tensor.half() for name, tensor in model.state_dict().items()}, folder / "sam.pth")
    write_folder(folder / "ClinicDB", "medical", 3, 96, seed=0)
    names = sorted(path.stem for path in (folder / "ClinicDB" / "images").iterdir())
    parts = {"train": names[:1], "val/search": names[1:2], "val/report": names[2:], "val": names[1:]}
    (folder / "ClinicDB" / "splits.json").write_text(json.dumps(parts))
    return folder


def shipped(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Config:
    """A shipped configuration with this test's files, without recovery (13 s an image and step here)."""
    for name, value in (("SAM_CHECKPOINT", "sam.pth"), ("MEDSAM_CHECKPOINT", "sam.pth"), ("POLYPS", "")):
        monkeypatch.setenv(name, str(folder / value))
    values = yaml.safe_load((CONFIGS / recipe).read_text())
    values["output"] = str(folder / "runs")
    values["data"]["folders"] = values["data"]["folders"][:1]
    values["scoring"]["mixture"] = {"ClinicDB": 1.0}
    values["recovery"]["steps"] = 0
    for section, change in changes.items():
        values[section] = values.get(section, {}) | change
    return Config.model_validate(values)


def budgets(config: Config) -> tuple[BudgetConfig, ...]:
    return *config.schedule.stages, config.budget


def put_random_scores(config: Config) -> None:
    """A table where the scoring job would have left its own: it costs half a minute an image at 1024 px here."""
    table = replace(random_table(VIT_B, datasets=1), datasets=("ClinicDB",))
    table.save(table_path(scoring_job(config)))


def test_papers_recipe_removes_what_the_paper_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shipped("paper.yaml", folder, monkeypatch, tracking={"uri": "http://me:secret@h"})
    put_random_scores(config)
    metrics = prune(config, folder / "paper.safetensors")
    assert (metrics["heads_removed"], metrics["channels_removed"]) == (72, 25805)
    assert 1 - metrics["encoder_params_fraction"] == pytest.approx(0.600, abs=5e-4)
    info = read_info(folder / "paper.safetensors")
    assert json.loads(info["metrics"]) == metrics
    assert "http://h" in info["config"] and "secret" not in info["config"]


def test_two_stages_end_where_the_paper_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shipped("two_stage.yaml", folder, monkeypatch, schedule={"rescore": False})
    put_random_scores(config)
    metrics = prune(config, folder / "two.safetensors")
    assert 1 - metrics["encoder_params_fraction"] == pytest.approx(0.866, abs=0.002)
    assert (metrics["heads_removed"], metrics["channels_removed"]) == (121, 35021)
    assert load(folder / "two.safetensors").spec.arch == VIT_B


def test_stages_cut_the_blocks_they_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shipped("two_stage.yaml", folder, monkeypatch)
    sensitivity = block_sensitivity(random_table(VIT_B), ScoringWeights())
    first, second = allocate(budgets(config), DENSE, sensitivity)
    assert first.family("heads")[10:] == (12, 12) and first.family("channels")[10:] == (3072, 3072)
    for family in ("heads", "channels"):
        assert second.family(family)[:10] == first.family(family)[:10]


def test_faithful_recipes_have_the_counts_of_the_released_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensitivity = block_sensitivity(random_table(VIT_B), ScoringWeights())
    expected = {"faithful.yaml": (72, 25805, 0.600), "faithful_two_stage.yaml": (121, 35005, 0.866)}
    for recipe, (heads, channels, share) in expected.items():
        config = shipped(recipe, folder, monkeypatch)
        spec = allocate(budgets(config), DENSE, sensitivity)[-1]
        assert (removed(spec)["heads_removed"], removed(spec)["channels_removed"]) == (heads, channels)
        assert 1 - cost_metrics(spec)["encoder_params_fraction"] == pytest.approx(share, abs=1e-3)
        weights = config.scoring.weights()
        assert (weights.correlation_over, config.scoring.base, config.data.low_masks) == ("mixture", "dense", "nearest")
        recovery = config.recovery
        assert (recovery.loss, recovery.complexity, recovery.batch_size) == ("released", "low", 1)
    assert config.schedule.stages_from == "previous"


def test_minimum_widths_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    least = {"min_heads": 2, "min_channel_share": 0.1}
    sensitivity = block_sensitivity(random_table(VIT_B), ScoringWeights())
    for recipe in ("progressive.yaml", "paper.yaml"):
        config = shipped(recipe, folder, monkeypatch, budget=least)
        (spec,) = allocate(budgets(config), DENSE, sensitivity)
        assert min(spec.family("heads")) >= 2 and min(spec.family("channels")) >= 307


def test_progressive_recipe_takes_equal_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shipped("progressive.yaml", folder, monkeypatch)
    sensitivity = block_sensitivity(random_table(VIT_B), ScoringWeights())
    widths = [
        sum(spec.family("channels"))
        for spec in targets(allocate(budgets(config), DENSE, sensitivity), config.schedule.rounds, DENSE)
    ]
    dense = sum(ModelSpec.dense(VIT_B).family("channels"))
    steps = [before - after for before, after in zip([dense, *widths], widths, strict=False)]
    assert len(steps) == 5 and max(steps) - min(steps) <= 12


def test_progressive_pruning_with_fresh_scores_end_to_end(tmp_path: Path) -> None:
    """A small model through three rounds, with fresh scores in two of them, with recovery."""
    path = write_tiny_study(
        tmp_path,
        schedule={"rounds": 3, "rescore": True, "rescore_per_dataset": 2, "order": "together"},
        budget={"allocator": "uniform", "fraction": 0.5, "channel_multiple": 8},
    )
    config = Config.model_validate(yaml.safe_load(path.read_text()))
    metrics = prune(config, tmp_path / "pruned.safetensors")
    spec = load(tmp_path / "pruned.safetensors").spec
    assert all(count % 8 == 0 for count in spec.family("channels"))
    assert metrics["flops_paper_fraction"] == pytest.approx(0.5, abs=0.06)
    assert 0 <= metrics["boundary_f1"] <= 1
