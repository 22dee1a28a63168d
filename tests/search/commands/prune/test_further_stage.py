"""`medcore prune` from a checkpoint that is pruned already: budgets, general model, profile and teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, read_info, save
from medcore.models.cost import cost
from medcore.models.cut import prune as cut
from medcore.models.masks import select
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.job import build_table
from search.base.config import Config, load_config
from search.commands.adapt import adapt
from search.commands.prune import prune
from search.commands.sections import scoring_job
from search.study.inputs import calibration_images
from search.study.scoring import score_table
from tests.support.helpers import TINY
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import random_masks, tiny_model

MEDCORE = {"scoring": {"criterion": "medcore"}}
NO_TRAINING = {"steps": 0, "refit_images": 0}


def further(folder: Path, start: Path, **sections: Any) -> Config:
    """The tiny study with another model to prune."""
    return load_config(write_tiny_study(folder, model={"adapted": str(start)}, **sections))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `first.safetensors`, the result of a first stage at half of the FLOPs."""
    folder = tmp_path_factory.mktemp("further")
    config = load_config(write_tiny_study(folder, budget={"fraction": 0.5}))
    prune(config, folder / "first.safetensors")
    return folder


def without_record(folder: Path) -> Path:
    """The first stage's model as earlier versions wrote it."""
    model = load(folder / "first.safetensors")
    model.kept = None
    save(folder / "unknown.safetensors", model)
    return folder / "unknown.safetensors"


def subset(small: MedSam, large: MedSam) -> bool:
    assert small.kept is not None and large.kept is not None
    return all(not (one & ~other).any() for one, other in zip(small.kept, large.kept, strict=True))


def test_shares_stay_those_of_the_dense_encoder(folder: Path) -> None:
    metrics = prune(
        further(folder, folder / "first.safetensors", budget={"fraction": 0.25}), folder / "second.safetensors"
    )
    first, second = (load(folder / f"{name}.safetensors") for name in ("first", "second"))
    dense = cost(ModelSpec.dense(TINY)).flops_paper
    assert cost(second.spec).flops_paper / dense == metrics["flops_paper_fraction"] <= 0.25
    assert all(after <= before for before, after in zip(first.spec.widths, second.spec.widths, strict=True))
    assert subset(second, first)
    assert metrics["heads_removed"] == 12 - sum(second.spec.family("heads"))


def test_the_record_says_which_groups_were_kept(folder: Path, tmp_path: Path) -> None:
    """Without refit and recovery, the dense model cut by the record has the same weights."""
    config = load_config(write_tiny_study(folder, budget={"fraction": 0.5}, recovery=NO_TRAINING))
    prune(config, tmp_path / "one.safetensors")
    config = further(folder, tmp_path / "one.safetensors", budget={"fraction": 0.3}, recovery=NO_TRAINING)
    prune(config, tmp_path / "two.safetensors")
    two, dense = load(tmp_path / "two.safetensors"), load(folder / "adapted.safetensors")
    assert two.kept is not None and not two.spec.is_dense
    again = cut(dense, two.kept)
    assert again.spec == two.spec
    assert all(again.state_dict()[name].equal(value) for name, value in two.state_dict().items())


@pytest.mark.parametrize("allocator", ["uniform", "to_target"])
def test_other_allocators_take_the_pruned_model(folder: Path, tmp_path: Path, allocator: str) -> None:
    budget = {"allocator": allocator, "fraction": 0.3}
    config = further(folder, folder / "first.safetensors", **MEDCORE, budget=budget, recovery=NO_TRAINING)
    metrics = prune(config, tmp_path / "out.safetensors")
    assert metrics["flops_paper_fraction"] == pytest.approx(0.3, abs=0.02)
    assert subset(load(tmp_path / "out.safetensors"), load(folder / "first.safetensors"))


def test_sparsities_of_the_rule_are_cumulative(folder: Path, tmp_path: Path) -> None:
    budget = {"allocator": "rule", "sparsity_heads": 8 / 12, "sparsity_channels": 0.85, "min_count_heads": 0}
    config = further(folder, folder / "first.safetensors", **MEDCORE, budget=budget, recovery=NO_TRAINING)
    metrics = prune(config, tmp_path / "out.safetensors")
    assert (metrics["heads_removed"], metrics["channels_removed"]) == (8, round(0.85 * 192))


def test_scores_compare_the_same_groups_of_both_models(folder: Path) -> None:
    config = further(folder, folder / "first.safetensors", **MEDCORE)
    table, _ = score_table(scoring_job(config, fixed_weights=True))
    first, base = load(folder / "first.safetensors"), load(folder / "base.safetensors")
    assert first.kept is not None
    images = calibration_images(config.datasets, TINY.img_size)
    expected = build_table(cut(base, first.kept), first, images, (3.0,), one_pass=True)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(table.arrays[name], array)


def test_the_general_model_may_be_scored_before_it_is_cut(folder: Path) -> None:
    config = further(folder, folder / "first.safetensors", scoring={"criterion": "medcore", "base": "dense"})
    table, _ = score_table(scoring_job(config, fixed_weights=True))
    first, base = load(folder / "first.safetensors"), load(folder / "base.safetensors")
    assert first.kept is not None
    images = calibration_images(config.datasets, TINY.img_size)
    indices = list(range(len(images)))
    fs = calibration_sums(base, images, indices, (3.0,), one_pass=True)
    fm = calibration_sums(first, images, indices, (3.0,), one_pass=True)
    own, general = cut(base, first.kept).state_dict(), first.state_dict()
    # block 1's MLP channels: row m of lin1.weight, entry m of its bias, column m of lin2.weight
    total = np.zeros(int(first.kept[5].sum()))
    for part, axis in (("lin1.weight", 0), ("lin1.bias", 0), ("lin2.weight", 1)):
        name = f"image_encoder.blocks.1.mlp.{part}"
        dense = fs.means(1)[name][0].double().numpy().take(np.flatnonzero(first.kept[5]), axis)
        squared = (general[name].double().numpy() - own[name].double().numpy()) ** 2
        each = 0.5 * np.sqrt(fm.means(1)[name][0].double().numpy() * dense + 1e-30) * squared
        total += each if each.ndim == 1 else each.sum(axis=1 - axis)
    np.testing.assert_allclose(table.array("reset", "channels")[0, 0, 1, : len(total)], total, rtol=1e-5)


def test_fisher_scores_need_the_record_and_other_criteria_do_not(folder: Path, tmp_path: Path) -> None:
    start = without_record(folder)
    with pytest.raises(MedcoreError, match=r"unknown\.safetensors: .*which groups.*second_order") as caught:
        prune(further(folder, start, **MEDCORE, budget={"fraction": 0.3}), tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value)
    prune(further(folder, start, budget={"fraction": 0.3}, recovery={"steps": 2}), tmp_path / "out.safetensors")
    assert load(tmp_path / "out.safetensors").kept is None


def test_a_share_that_the_model_has_already_removes_nothing(folder: Path, tmp_path: Path) -> None:
    config = further(folder, folder / "first.safetensors", budget={"fraction": 0.5})
    with pytest.raises(MedcoreError, match=r"a budget of 0\.5 removes nothing"):
        prune(config, tmp_path / "out.safetensors")


def test_a_general_model_that_was_cut_in_another_way_is_refused(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "base.safetensors", cut(tiny_model(), random_masks()))
    model = {"base": str(tmp_path / "base.safetensors"), "adapted": str(folder / "first.safetensors")}
    config = load_config(write_tiny_study(folder, model=model, **MEDCORE))
    with pytest.raises(MedcoreError, match="has not the groups"):
        score_table(scoring_job(config))


def test_stages_from_the_previous_equal_separate_commands(folder: Path, tmp_path: Path) -> None:
    """Fresh scores and the first stage's model as teacher, as two runs by hand have them."""
    budgets = [
        {"allocator": "released_rule", "sparsity_heads": share, "sparsity_channels": share} for share in (0.3, 0.2)
    ]
    sections = {**MEDCORE, "recovery": {"steps": 4, "refit_images": 0}}
    schedule = {"stages": budgets[:1], "stages_from": "previous"}
    config = load_config(write_tiny_study(folder, **sections, budget=budgets[1], schedule=schedule))
    prune(config, tmp_path / "out.safetensors")
    sections["recovery"] = {"steps": 2, "refit_images": 0}
    prune(load_config(write_tiny_study(folder, **sections, budget=budgets[0])), tmp_path / "one.safetensors")
    one = further(folder, tmp_path / "one.safetensors", **sections, budget=budgets[1])
    prune(one, tmp_path / "two.safetensors")
    for name, other in (("out.stage1", "one"), ("out", "two")):
        found, expected = load(tmp_path / f"{name}.safetensors"), load(tmp_path / f"{other}.safetensors")
        assert found.spec == expected.spec
        assert all(found.state_dict()[key].equal(value) for key, value in expected.state_dict().items())


def test_a_refit_leaves_what_lies_before_the_new_cut(folder: Path, tmp_path: Path) -> None:
    """Blocks 0 to 2 are protected in the further stage, so they keep the bits of the first stage's model."""
    budget = {"fraction": 0.45, "protected": [0, 1, 2]}
    config = further(folder, folder / "first.safetensors", budget=budget, recovery={"steps": 0})
    prune(config, tmp_path / "out.safetensors")
    before, after = load(folder / "first.safetensors").state_dict(), load(tmp_path / "out.safetensors").state_dict()
    early = [name for name in before if any(f"blocks.{block}." in name for block in (0, 1, 2))]
    assert early and all(before[name].equal(after[name]) for name in early)


def test_rescored_rounds_of_a_further_stage(folder: Path, tmp_path: Path) -> None:
    """Fresh scores compare with the general model at the groups that the rounds have left."""
    for base in ("cut", "dense"):
        config = further(
            folder,
            folder / "first.safetensors",
            scoring={"criterion": "medcore", "base": base},
            budget={"allocator": "uniform", "fraction": 0.25},
            schedule={"rounds": 2, "rescore": True, "rescore_per_dataset": 2},
            recovery=NO_TRAINING,
        )
        assert prune(config, tmp_path / f"{base}.safetensors")["flops_paper_fraction"] < 0.3
        assert subset(load(tmp_path / f"{base}.safetensors"), load(folder / "first.safetensors"))


def test_masks_of_a_second_cut_count_from_the_dense_model() -> None:
    model = tiny_model()
    masks = random_masks()
    once = cut(model, masks)
    twice = cut(once, select(tuple(np.arange(float(width)) for width in once.spec.widths), once.spec))
    assert once.kept is not None and twice.kept is not None
    for site, kept, mask in zip(TINY.sites, once.kept, masks, strict=True):
        assert kept.shape == (site.width,) and kept.tolist() == mask.tolist()
    assert all((one == other).all() for one, other in zip(once.kept, twice.kept, strict=True))


def test_a_pruned_model_trains_and_keeps_its_structure(tmp_path: Path) -> None:
    write_tiny_study(tmp_path)
    start = tmp_path / "pruned.safetensors"
    save(start, cut(load(tmp_path / "adapted.safetensors"), random_masks()))
    settings = {"start": str(start), "out": str(tmp_path / "tuned.safetensors"), "epochs": 1, "lr": 1e-3}
    out = adapt(load_config(write_tiny_study(tmp_path, adapt=settings)))
    before, after = load(start), load(out)
    assert after.spec == before.spec and not after.spec.is_dense
    assert before.kept is not None and after.kept is not None
    assert all((one == other).all() for one, other in zip(before.kept, after.kept, strict=True))
    assert any(not value.equal(before.state_dict()[name]) for name, value in after.state_dict().items())
    assert read_info(out)["origin"] == str(start)
    further = write_tiny_study(
        tmp_path,
        model={"adapted": str(out)},
        scoring={"criterion": "medcore"},
        budget={"allocator": "to_target", "fraction": 0.2},
        recovery={"steps": 0, "refit_images": 0},
    )
    assert prune(load_config(further), tmp_path / "last.safetensors")["flops_paper_fraction"] < 0.25
