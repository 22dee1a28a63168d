"""`medcore prune` on a tiny pair: the defaults end to end, and the rule on one or two backward passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcore.budgets.knapsack import knapsack_budget
from medcore.models.checkpoint import load, read_info
from medcore.models.cost import cost
from medcore.models.cut import prune as cut
from medcore.models.masks import select
from medcore.models.sides.resized import at_side
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import known_sensitivity, mix
from medcore.scoring.profile import Profile
from search.base.config import Config, load_config
from search.commands.prune import allocate, prune
from search.commands.score import score
from search.commands.sections import scoring_job
from search.export.held_out import Candidate, _HeldOutImages
from search.study.inputs import adapted_model, base_model, load_split
from search.study.scoring import score_table
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study

RULE = {"scoring": {"criterion": "medcore"}, "budget": {"allocator": "rule"}}


def tiny(folder: Path, **sections: Any) -> Config:
    return load_config(write_tiny_study(folder, **sections))


def test_the_defaults_are_a_knapsack_a_refit_and_a_recovery(tmp_path: Path) -> None:
    config, reports = tiny(tmp_path, budget={"fraction": 0.4}), []
    metrics = prune(config, tmp_path / "pruned.safetensors", lambda *report: reports.append(report))
    jobs = list(dict.fromkeys(name for name, _, _ in reports))
    assert [job for job in jobs if job in ("scores", "profile", "teacher")] == ["profile", "teacher"]
    model = load(tmp_path / "pruned.safetensors")
    (profile,) = (
        Profile.load(path, ModelSpec.dense(TINY)) for path in (config.output / "cache").glob("profile-*.safetensors")
    )
    assert model.spec == knapsack_budget(TINY, profile.curves, 0.4)
    assert metrics["flops_paper_fraction"] <= 0.4
    assert metrics["heads_removed"] == 12 - sum(model.spec.family("heads"))
    images = load_split(config.datasets, config.data.report_split, TINY.img_size)
    assert metrics["boundary_f1"] == summarise(evaluate(model, images))["boundary_f1"]
    assert json.loads(read_info(tmp_path / "pruned.safetensors")["metrics"]) == metrics
    assert not list((config.output / "cache").glob("scores-*"))  # Fisher information takes longest


def test_the_refit_brings_the_logits_back(tmp_path: Path) -> None:
    """No recovery step: the model of the same masks without a refit is further from the unpruned one."""
    config = tiny(tmp_path, recovery={"steps": 0}, budget={"fraction": 0.5})
    prune(config, tmp_path / "refit.safetensors")
    plain = config.model_copy(update={"recovery": config.recovery.model_copy(update={"refit_images": 0})})
    prune(plain, tmp_path / "cut.safetensors")
    refit, only_cut = (load(tmp_path / f"{name}.safetensors") for name in ("refit", "cut"))
    assert refit.spec == only_cut.spec
    images, dense = load_split(config.datasets, "val/report", TINY.img_size), adapted_model(config.model)

    def distance(model: Any) -> float:
        streams = [each.encode(images.tensor()).detach() for each in (model, dense)]
        return float((streams[0] - streams[1]).norm())

    assert distance(refit) < distance(only_cut)


def test_a_smaller_side_changes_both_models_and_the_meaning_of_shares(tmp_path: Path) -> None:
    config = tiny(tmp_path, model={"side": 40}, budget={"fraction": 0.5}, recovery={"steps": 1})
    metrics = prune(config, tmp_path / "small.safetensors")
    model, arch = load(tmp_path / "small.safetensors"), replace(TINY, img_size=40)
    assert model.arch == arch == adapted_model(config.model).arch == base_model(config.model).arch
    assert metrics["flops"] == cost(model.spec).flops
    assert metrics["flops_paper_fraction"] <= 0.5
    assert metrics["flops_paper"] <= 0.5 * cost(ModelSpec.dense(arch)).flops_paper
    images = load_split(config.datasets, config.data.report_split, 40)
    assert metrics["boundary_f1"] == summarise(evaluate(model, images))["boundary_f1"]
    # the file of the unpruned model has its own side; held-out figures are taken at that of the study
    seen = _HeldOutImages(tmp_path / "study", "val/report", images, lambda _: None)
    dense = at_side(adapted_model(config.model.model_copy(update={"side": None})), 40)
    assert seen.measured(Candidate(config.model.adapted))[0].metrics == summarise(evaluate(dense, images))


def rule_of(config: Config, *, fixed_weights: bool) -> tuple[tuple[int, ...], PerSite]:
    """The rule's widths and its masks, from a table for the configured weight or for every weight."""
    table, _ = score_table(scoring_job(config, fixed_weights=fixed_weights))
    weights = config.scoring.weights(config.seed)
    (spec,) = allocate([config.budget], ModelSpec.dense(TINY), known_sensitivity(table, weights))
    return spec.widths, select(mix(table, weights, TINY), spec)


def test_the_rule_cuts_alike_on_one_and_on_two_backward_passes(tmp_path: Path) -> None:
    config = tiny(tmp_path, **RULE)
    one, two = (rule_of(config, fixed_weights=fixed) for fixed in (True, False))
    assert one[0] == two[0]
    # scores that agree to rounding rank alike
    assert [site.tolist() for site in one[1]] == [site.tolist() for site in two[1]]
    metrics = prune(config, tmp_path / "rule.safetensors")
    assert (metrics["heads_removed"], metrics["channels_removed"]) == (6, round(0.7 * 192))
    assert load(tmp_path / "rule.safetensors").spec == cut(adapted_model(config.model), one[1]).spec


def test_one_backward_pass_is_enough_for_the_rule(tmp_path: Path) -> None:
    config = tiny(tmp_path, **RULE, recovery={"steps": 0, "refit_images": 0})
    job = scoring_job(config, fixed_weights=True)
    assert job.only == 3.0
    prune(config, tmp_path / "rule.safetensors")
    (table,) = (config.output / "cache").glob("scores-*.safetensors")
    assert score_table(job)[1] == table


def test_score_writes_a_table_and_two_pictures(tmp_path: Path) -> None:
    config, reports = tiny(tmp_path), []
    table, heatmaps, curves = score(config, lambda *report: reports.append(report))
    assert {name for name, _, total in reports if total} == {"scores", "profile"}
    assert table.name.startswith("scores-") and (heatmaps.suffixes, curves.suffixes) == ([".png"], [".curves", ".png"])
    assert all(path.stat().st_size > 1000 for path in (table, heatmaps, curves))
