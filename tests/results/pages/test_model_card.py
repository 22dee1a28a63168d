"""The model card: every figure from its source, nothing invented where a source is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
import pytest

from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.quality.timing import Conditions, Latency, Timing
from results.pages.model_card import Export, model_card
from results.stats.intervals import macro_interval
from results.stats.labels import text
from results.store.held_out import HeldOut, Measurement
from results.store.latency import Record, Setup
from results.store.study_info import study_info
from results.store.trial_row import TrialRow
from tests.support.helpers import TINY, spec_of

SPEC = spec_of(TINY, (2, 0, 3, 1), (48, 5, 0, 1))
ROW: dict[str, Any] = {
    "trial_id": "t0007",
    "number": 7,
    "status": "done",
    "seed": 11,
    "origin": "sampled",
    "git": "abc123",
    "finished": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"},
    "dice": 0.9,
    "dice/kvasir": 0.95,
    "dice/clinic": 0.85,
    "dice_worst": 0.85,
    "hd95": 4.0,
    "hd95/kvasir": 3.0,
    "hd95/clinic": 5.0,
    **SPEC.budget,
}
INFO: dict[str, Any] = {
    "name": "polyps",
    "objectives": [{"name": "dice", "direction": "max"}],
    "reference": {"dice": 0.0},
    "dense": {"dice": 0.91, "hd95": 3.9},
    "widths": {"heads": TINY.num_heads, "channels": TINY.mlp_dim},
}
#: A row without any figure.
BARE: dict[str, Any] = {"trial_id": "t0000", "number": 0, "status": "done"}
CONFIG = {
    "seed": 5,
    "model": {"architecture": "tiny", "base": "w/general.pth", "adapted": "w/medical.pth"},
    "data": {
        "folders": ["data/kvasir", "data/clinic"],
        "calibration_split": "train",
        "calibration_per_dataset": 128,
        "search_split": "val/search",
        "report_split": "val/report",
    },
}
IMAGES = pd.DataFrame(
    {"dataset": ["kvasir"] * 3 + ["clinic"] * 2, "dice": [0.9, 0.95, 1.0, 0.8, 0.9], "hd95": [3.0, 2, 4, 5, 5]}
)
EXPORT = Export(
    info=study_info(INFO),
    rule="hd95<=8,best:dice",
    row=TrialRow.from_flat(ROW),
    spec=SPEC,
    checked="masks agree.",
    files={"model.safetensors": "weights"},
    usage="```\nrun it\n```\n",
    git="def456",
    config=CONFIG,
    images=IMAGES,
    hashes={"w/general.pth": "0123456789abcdef" * 4},
)


def cells(card: str, first: str) -> list[str]:
    """Cells of the only table row that starts with `first`."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_origin_data_and_check() -> None:
    card = model_card(EXPORT)
    assert "---\n\n# polyps, trial t0007: a pruned tiny\n" in card and "**Not a medical device.**" in card
    assert cells(card, "general model")[1] == "`w/general.pth` (SHA-256 0123456789abcdef…)"
    assert cells(card, "adapted")[1] == "`w/medical.pth`"
    assert cells(card, "chosen by the rule")[1] == "`hd95<=8,best:dice`"
    assert cells(card, "seed of the study, of the trial")[1] == "5, 11"
    assert cells(card, "code of the trial, of the export")[1] == "abc123, def456"
    assert cells(card, "versions")[1] == "python 3.11.7, torch 2.13.0"
    assert cells(card, "kvasir") == ["kvasir", "`data/kvasir`", "3"] and cells(card, "clinic")[2] == "2"
    assert "part `train`, at most 128 images" in card and "`val/search`" in card and "`val/report`" in card
    assert "Checked at the export: masks agree." in card and "```\nrun it\n```" in card


def test_metrics_come_from_the_row_with_intervals_from_the_images() -> None:
    card = model_card(EXPORT)
    low, high = macro_interval(IMAGES["dice"], IMAGES["dataset"])
    head = ["this model", "95 % interval", "dense model, not recovered", "clinic", "kvasir"]
    assert cells(card, "macro mean")[1:] == head
    assert cells(card, "Dice ↑")[1:] == ["0.9", f"{low:.4g} to {high:.4g}", "0.91", "0.85", "0.95"]
    assert cells(card, "HD95 ↓")[1] == "4 px" and cells(card, "HD95 ↓")[3:] == ["3.9 px", "5 px", "3 px"]
    assert "Boundary F1 ↑" not in card


def test_figures_of_a_repeated_trial_are_called_means() -> None:
    columns = {"seeds": 3, "seed_sd/dice": 0.02, "single/dice": 0.92, "single/hd95": 4.5}
    row = TrialRow.from_flat(ROW | columns)
    card = model_card(dataclasses.replace(EXPORT, row=row))
    assert cells(card, "Dice ↑")[1:] == cells(model_card(EXPORT), "Dice ↑")[1:]
    reach = 4.302653 * 0.02 / 3**0.5  # t(2) of 97.5 %
    assert (
        f"means over 3 runs of the trial with different seeds. Their 95 % intervals over seeds: Dice {0.9 - reach:.4g}"
        in card
    )
    assert "Its own figures: Dice 0.92, HD95 4.5 px." in card
    assert "different seeds" not in model_card(EXPORT)


def test_cost_and_structure_come_from_the_spec() -> None:
    card, this, dense = model_card(EXPORT), cost(SPEC), cost(ModelSpec.dense(TINY))
    share = f"{this.flops / dense.flops:.1%}"
    assert f"needs {share} of the dense encoder's FLOPs" in card
    assert cells(card, "Encoder FLOPs")[1:] == [text("flops", this.flops), text("flops", dense.flops), share]
    assert cells(card, "Encoder parameters")[3] == f"{this.encoder_params / dense.encoder_params:.1%}"
    assert cells(card, "1") == ["1", "whole image", "0 of 3", "5 of 48"]
    assert cells(card, "2") == ["2", "windows of 3", "3 of 3", "0 of 48"]
    assert "nothing but the output bias left: Attention heads of block 1, MLP channels of block 2." in card


def test_time_and_memory_as_measured() -> None:
    dense = Latency(Timing(40.0, 0.5, 9), Timing(50.0, 1.0, 8), 8_000_000)
    this = Latency(Timing(30.0, 0.25, 7), Timing(45.0, 2.0, 6), 6_000_000)
    setup = Setup("a CPU", 2, False, "2.0")
    records = [Record("", 0.5, batch, setup, "2026-01-01", this, dense) for batch in (1, 8)]
    card = model_card(dataclasses.replace(EXPORT, latency=records, latency_note="That was left out."))
    assert cells(card, "encoder, one image")[1:] == ["30 ms (0.25; 7)", "40 ms (0.5; 9)", "75.0%"]
    assert cells(card, "whole call, 8 images")[1:] == ["45 ms (2; 6)", "50 ms (1; 8)", "90.0%"]
    assert cells(card, "peak memory, 8 images")[1:] == ["6.0 MB", "8.0 MB", "75.0%"]
    assert "on a CPU, 2 threads, float32, torch 2.0:" in card and "That was left out." in card
    assert "Not measured." not in card and "Not measured. Fewer FLOPs are not" in model_card(EXPORT)


def test_times_of_a_busy_machine_are_not_known() -> None:
    """Other programs do not take part in processor time, and none in memory."""
    dense = Latency(Timing(40.0, 0.5, 9, 39.9, 40.1, 36.0), Timing(50.0, 1.0, 8, 49.9, 50.1, 48.0), 8_000_000)
    this = Latency(Timing(30.0, 0.2, 7, 29.9, 30.1, 27.0), Timing(45.0, 2.0, 6, 44.9, 45.1, 42.0), 6_000_000)
    quiet = Record("", 0.5, 1, Setup("a CPU", 2, False, "2.0"), "2026-01-01", this, dense)
    busy = dataclasses.replace(quiet, batch=8, conditions=Conditions(waited=0.4))
    card = model_card(dataclasses.replace(EXPORT, latency=[quiet, busy]))
    for part in ("encoder", "whole call"):
        assert cells(card, f"{part}, 8 images")[1:] == ["not known"] * 3
        assert "not known" not in cells(card, f"{part}, one image")
    assert cells(card, "encoder, 8 images, processor time")[1:] == ["27 ms", "36 ms", "75.0%"]
    assert cells(card, "peak memory, 8 images")[3] == "75.0%"
    assert "Times of batch 8 are not known: the machine was busy" in card and "batch 1 are not known" not in card


def test_what_is_not_known_is_not_claimed() -> None:
    row = TrialRow.from_flat(BARE | {"dice": 0.5})
    info = study_info(INFO | {"objectives": [], "dense": {}})
    bare = dataclasses.replace(EXPORT, row=row, info=info, config={}, images=pd.DataFrame(), hashes={})
    card = model_card(bare)
    assert "configuration was not there" in card and "`w/" not in card
    assert cells(card, "Dice ↑")[1:] == ["0.5", "–", "–"]
    assert "holds no metric" in model_card(dataclasses.replace(bare, row=TrialRow.from_flat(BARE)))
    unfinished = dataclasses.replace(EXPORT, images=IMAGES.assign(dice=[0.9, None, 1.0, 0.8, 0.9]))
    assert cells(model_card(unfinished), "Dice ↑")[2] == "–"


@pytest.mark.parametrize("config", [{"data": None}, {"data": {"folders": ["d"]}}, {"model": None}, {"model": {}}])
def test_configurations_of_other_versions(config: dict[str, Any]) -> None:
    assert model_card(dataclasses.replace(EXPORT, config=config)).count("\n## ") == 8


def test_bars_in_names_do_not_break_the_tables() -> None:
    card = model_card(dataclasses.replace(EXPORT, files={"a|b": "c"}))
    assert "| `a\\|b` | c |" in card


def test_a_dense_model_has_no_empty_blocks() -> None:
    dense = ModelSpec.dense(TINY)
    row = TrialRow.from_flat(ROW | dense.budget)
    assert "output bias left" not in model_card(dataclasses.replace(EXPORT, spec=dense, row=row))


def test_held_out_figures_come_first_and_say_how_often_was_looked() -> None:
    def measured(trial_id: str | None, dice: float) -> Measurement:
        metrics = {"dice": dice, "dice/kvasir": dice, "dice/clinic": dice}
        return Measurement(trial_id, False, None, str(dice), "val/report", "d", 5, metrics, "2026-03-04T05:06:07", "g")

    images, other = IMAGES.assign(dice=[0.5, 0.6, 0.7, 0.8, 0.8]), IMAGES.assign(dice=0.75)
    found = HeldOut(measured("t0007", 0.7), images, measured(None, 0.75), other, candidates=3)
    card = model_card(dataclasses.replace(EXPORT, held_out=found))
    held_out, search = (part for part in card.split("## Quality")[1].split("## Cost")[0].split("**Search images**"))
    low, high = macro_interval(images["dice"], images["dataset"])
    assert cells(held_out, "Dice ↑") == [
        *("Dice ↑", "0.7", f"{low:.4g} to {high:.4g}", "0.75", "0.75 to 0.75", "0.7", "0.7")
    ]
    assert "part `val/report`, 5 images" in held_out and "measured 2026-03-04" in held_out
    assert "3 candidates of this study were measured on it" in held_out
    assert cells(search, "Dice ↑")[1] == "0.9" and "an honest figure is lower" not in card
    alone = dataclasses.replace(found, dense=None, dense_images=None, candidates=1)
    card = model_card(dataclasses.replace(EXPORT, held_out=alone, row=TrialRow.from_flat(BARE)))
    assert cells(card, "Dice ↑")[3] == "–" and "1 candidate of this study was measured on it." in card


def test_the_card_says_that_the_model_was_pruned_before() -> None:
    start = {"heads": [1] * TINY.depth, "channels": [TINY.mlp_dim // 4] * TINY.depth}
    shares = f"{1 / TINY.num_heads:.0%} of the heads and 25% of the channels"
    for info, expected in ((INFO, False), (INFO | {"start": start}, True)):
        export = Export(
            info=study_info(info), rule="knee", row=TrialRow.from_flat(ROW), spec=SPEC, checked="", files={}, usage=""
        )
        assert (f"was pruned already: it had {shares}" in model_card(export)) == expected
