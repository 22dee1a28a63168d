"""What held-out images say of a chosen model: paired differences to the dense model, as it came and recovered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from results.pages.compared import change_rows, change_sentences, compared_held_out
from results.pages.glossary import glossary, tips
from results.pages.other_systems import SYSTEMS, system_cells
from results.stats.intervals import macro_interval
from results.stats.loss import ALL, quality_loss
from results.store.held_out import Measurement, write_measurement
from results.store.trial_row import TrialRow

ROW = TrialRow.from_flat({"trial_id": "t1", "number": 1, "status": "done", "finished": "2026-01-01T00:00:01"})
DENSE = {"trial_id": "t0", "number": 0, "status": "done", "finished": "2026-01-01T00:00:00", "dice": 0.9}


def table(shift: float, seed: int) -> pd.DataFrame:
    """20 images of two data sets, hard ones far from easy ones; `shift` is nearly the same for all."""
    rng = np.random.default_rng(seed)
    dice = np.random.default_rng(0).uniform(0.4, 0.8, 20) + shift + 1e-3 * rng.normal(size=20)
    return pd.DataFrame({"dataset": ["a"] * 5 + ["b"] * 15, "name": [f"i{i}" for i in range(20)], "dice": dice})


def measure(
    study: Path,
    trial_id: str | None,
    shift: float,
    *,
    finished: str | None = None,
    fine_tuned: bool = False,
    split: str = "val/report",
    day: int = 1,
) -> pd.DataFrame:
    images = table(shift, day)
    by_dataset = images.groupby("dataset")["dice"].mean()
    metrics = {"dice": float(by_dataset.mean()), **{f"dice/{name}": value for name, value in by_dataset.items()}}
    made = Measurement(
        trial_id=trial_id,
        fine_tuned=fine_tuned,
        finished=finished,
        checkpoint=f"{trial_id}{finished}{fine_tuned}",
        split=split,
        data="images",
        images=len(images),
        metrics=metrics,
        measured=f"2026-02-{day:02}",
        git="abc",
    )
    write_measurement(study, made, images)
    return images


def test_pairs_are_of_the_same_run_and_the_same_images(tmp_path: Path) -> None:
    dense = measure(tmp_path, None, 0.0, day=1)
    own = measure(tmp_path, "t1", -0.1, finished=ROW.timing.finished, day=2)
    measure(tmp_path, "t1", 0.3, finished="an earlier run", day=3)
    measure(tmp_path, "t2", 0.3, finished="another trial", day=4)
    measure(tmp_path, None, 0.3, split="test", day=5)
    (found,) = compared_held_out(tmp_path, ROW, DENSE)
    assert (found.model, found.split, found.images, found.candidates) == ("trial t1", "val/report", 20, 3)
    assert found.heading == "Trial t1 on 20 held-out images (val/report), next to the dense model, not recovered"
    pd.testing.assert_frame_equal(
        found.loss,
        quality_loss(
            {"dice": dense.groupby("dataset")["dice"].mean().mean()}
            | {f"dice/{name}": value for name, value in dense.groupby("dataset")["dice"].mean().items()},
            {"dice": own.groupby("dataset")["dice"].mean().mean()}
            | {f"dice/{name}": value for name, value in own.groupby("dataset")["dice"].mean().items()},
            dense,
            own,
        ),
    )
    whole = found.loss[found.loss["dataset"] == ALL].iloc[0]
    assert (whole["lo"], whole["hi"]) == pytest.approx(macro_interval(own["dice"] - dense["dice"], own["dataset"]))
    assert whole["hi"] < -0.09  # unpaired, the spread of the images would hide the difference


def test_the_recovered_dense_model_and_a_fine_tuned_one_are_next(tmp_path: Path) -> None:
    measure(tmp_path, None, 0.0, day=1)
    measure(tmp_path, "t1", -0.1, finished=ROW.timing.finished, day=2)
    measure(tmp_path, "t0", 0.1, finished=str(DENSE["finished"]), day=3)
    measure(tmp_path, "t1", 0.05, finished=ROW.timing.finished, fine_tuned=True, day=4)
    found = compared_held_out(tmp_path, ROW, DENSE)
    assert [(each.model, each.against) for each in found] == [
        ("trial t1", "dense model, not recovered"),
        ("trial t1", "dense model after the same recovery"),
        ("trial t1, fine-tuned", "dense model, not recovered"),
        ("trial t1, fine-tuned", "dense model after the same recovery"),
    ]
    changes = [each.loss[each.loss["dataset"] == ALL]["difference"].iloc[0] for each in found]
    assert changes == pytest.approx([-0.1, -0.2, 0.05, -0.05], abs=2e-3)
    assert len(compared_held_out(tmp_path, ROW, None)) == 2
    assert compared_held_out(tmp_path / "none", ROW, DENSE) == []


def test_words_follow_the_interval_and_the_direction() -> None:
    def loss(metric: str, dense: float, chosen: float, low: float, high: float) -> pd.DataFrame:
        row = (metric, ALL, dense, chosen, chosen - dense, low, high)
        return pd.DataFrame([row], columns=["metric", "dataset", "dense", "chosen", "difference", "lo", "hi"])

    (line,) = change_sentences(loss("hd95", 8.0, 9.5, 1.0, 2.0), ["hd95"])
    assert line == "HD95 (px): 9.50 instead of 8.00, +1.50 (95 %: +1.00 to +2.00): worse"
    (line,) = change_sentences(loss("dice", 0.5, 0.6, 0.05, 0.2), ["dice"])
    assert line.endswith("+0.1000 (95 %: +0.0500 to +0.2000): better")
    (line,) = change_sentences(loss("dice", 0.5, 0.6, -0.05, 0.2), ["dice"])
    assert line.endswith(": no clear difference")
    assert change_sentences(loss("dice", 0.5, 0.6, 0.05, 0.2), ["hd95"]) == []


def test_a_single_data_set_is_not_said_twice() -> None:
    one = {"dice": 0.5, "dice/a": 0.5}
    assert [row["dataset"] for row in change_rows(quality_loss(one, one))] == ["all (macro mean)"]
    two = one | {"dice/b": 0.5}
    assert [row["dataset"] for row in change_rows(quality_loss(two, two))] == ["all (macro mean)", "a", "b"]


@pytest.mark.parametrize(("name", "arch"), [("SAM ViT-H", "vit_h"), ("SAM ViT-B, MedSAM", "vit_b")])
def test_costs_of_sam_are_those_that_medcore_counts(name: str, arch: str) -> None:
    system = {each.name: each for each in SYSTEMS}[name]
    counted = cost(ModelSpec.dense(ARCHITECTURES[arch]))
    assert (system.params, system.flops) == (counted.encoder_params, counted.flops)
    assert system.flops_paper == pytest.approx(counted.flops_paper, rel=1e-4)


def test_every_system_names_its_source() -> None:
    assert all(system.source for system in SYSTEMS)
    own, *others = system_cells(ROW, "Dice 0.9 (held-out images)")
    assert own["system"] == "this study, trial t1" and own["flops"] == "–"
    described = (Path(__file__).parents[3] / "docs" / "method.md").read_text()
    assert all(f"| {row['quality']} | {row['source']} |" in described for row in others)
    assert len(others) == len(SYSTEMS) and all(row["quality"] and row["flops"] for row in others)


def test_the_glossary_has_what_the_page_shows() -> None:
    found = glossary(["hd95", "flops_fraction", "an unknown figure"], ["Knee"])
    assert [*found] == ["Knee", "FLOPs left", "HD95"]
    heads = tips()
    assert heads["HD95"] == heads["HD95 (px)"] == found["HD95"]
    assert heads["by the paper's count"] == heads["FLOPs left by the paper's count"]
