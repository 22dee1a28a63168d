"""A trial's record: columns out and in, constructors, what a row must have."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from results.store.trial_row import Provenance, Timing, TrialRow

TRIAL = {
    "trial_id": "t0007",
    "number": 7,
    "seed": 11,
    "origin": "uniform 0.5",
    "params": {"lr": 1e-4, "order": "together", "budget": {"heads": [1]}},
}
#: A row as a search has always written it, keys in their order on disk.
FLAT: dict[str, Any] = {
    "trial_id": "t0007",
    "number": 7,
    "status": "done",
    "reason": None,
    "seed": 11,
    "origin": "uniform 0.5",
    "param/lr": 1e-4,
    "param/order": "together",
    "dice": 0.9,
    "dice/kvasir": 0.8,
    "flops": 10.0,
    "leverage_bd95": None,
    "weights": {"criterion": "fisher", "blend": 0.5},
    "heads": [3, 0],
    "channels": [48, 7],
    "checkpoint": "trials/t0007/model.safetensors",
    "seconds": 3.5,
    "seconds/recovery": 3.0,
    "memory_mb": 100.0,
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:00:03+00:00",
    "versions": {"torch": "2"},
    "git": "abc",
}


def test_a_row_of_a_search_has_the_same_bytes_after_both_conversions() -> None:
    row = TrialRow.from_flat(FLAT)
    assert row.params == {"lr": 1e-4, "order": "together"} and row.budget == {"heads": (3, 0), "channels": (48, 7)}
    assert row.metrics == {"dice": 0.9, "dice/kvasir": 0.8, "flops": 10.0, "leverage_bd95": None} and not row.extra
    assert row.timing == Timing(3.5, {"recovery": 3.0}, FLAT["started"], FLAT["finished"])
    assert row.memory == {"memory_mb": 100.0} and row.provenance == Provenance({"torch": "2"}, "abc")
    assert json.dumps(row.to_flat()) == json.dumps(FLAT)


def test_done_builds_the_row_that_is_on_disk() -> None:
    row = TrialRow.done(
        TRIAL,
        metrics={"dice": 0.9, "dice/kvasir": 0.8, "flops": 10.0, "leverage_bd95": None},
        budget={"heads": (3, 0), "channels": (48, 7)},
        weights=FLAT["weights"],
        checkpoint=FLAT["checkpoint"],
        timing=Timing(3.5, {"recovery": 3.0}, FLAT["started"], FLAT["finished"]),
        memory={"memory_mb": 100.0},
        provenance=Provenance({"torch": "2"}, "abc"),
    )
    assert json.dumps(row.to_flat()) == json.dumps(FLAT) and row.is_done


def test_a_failed_row_has_one_line_of_reason_and_its_time() -> None:
    row = TrialRow.failed(TRIAL, "\n  first line \nsecond", datetime(2026, 1, 1, tzinfo=UTC))
    flat = row.to_flat()
    assert flat["reason"] == "first line" and flat["status"] == "failed" and not row.is_done
    assert list(flat)[6:] == ["param/lr", "param/order", "seconds", "started", "finished"]
    assert TrialRow.failed(TRIAL, "", datetime.now(UTC)).reason == "unknown"


def test_a_stopped_row_names_its_last_phase() -> None:
    row = TrialRow.stopped(TRIAL, "r1/heads_recovery", datetime(2026, 1, 1, tzinfo=UTC))
    assert row.status == "stopped" and row.reason == "stopped by the scheduler after r1/heads_recovery"
    assert not row.is_done and TrialRow.from_flat(row.to_flat()) == row


def test_a_stopped_row_keeps_its_figures_so_far_apart_from_metrics() -> None:
    figures = {"refit/dice": 0.4, "part/dice": 0.6, "part/dice/kvasir": 0.5}
    row = TrialRow.stopped(TRIAL, "part", datetime(2026, 1, 1, tzinfo=UTC), figures)
    flat = row.to_flat()
    assert {name: flat[f"fidelity/{name}"] for name in figures} == figures and "dice" not in flat
    again = TrialRow.from_flat(flat | {"fidelity/other/dice": None})
    assert again == row and again.fidelities == figures and not again.metrics and again.repeats is None


def test_a_repeat_names_its_first_run_in_every_state() -> None:
    issued = TRIAL | {"repeats": "t0001"}
    started = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [TrialRow.done(issued, metrics={"dice": 0.9}), TrialRow.failed(issued, "killed", started)]
    for row in (*rows, TrialRow.stopped(issued, "part", started)):
        assert row.repeats == row.to_flat()["repeats"] == "t0001" and TrialRow.from_flat(row.to_flat()) == row
    assert TrialRow.done(TRIAL, repeats="t0002", fidelities={"part/dice": 0.6}).repeats == "t0002"


def test_a_row_of_a_table_lacks_what_other_trials_have() -> None:
    flat = FLAT | {"param/only": None, "seconds/other": None, "report/dice": None, "gpu_memory_mb": None}
    flat |= {"report/iou": 0.7, "latency_device": "CPU", "decoder": np.array([1, 2]), "finetune": {"epochs": 3}}
    row = TrialRow.from_flat(flat)
    assert "only" not in row.params and row.timing.stages == {"recovery": 3.0} and "gpu_memory_mb" not in row.memory
    assert row.held_out == {"iou": 0.7} and row.extra == {"latency_device": "CPU"}
    assert row.budget["decoder"] == (1, 2) and row.fine_tuned == {"epochs": 3}
    again = TrialRow.from_flat(row.to_flat())
    assert again == row


def test_an_empty_list_is_no_budget() -> None:
    row = TrialRow.from_flat(FLAT | {"notes": []})
    assert "notes" not in row.budget and row.extra == {"notes": []}


def test_figures_are_finite_numbers_of_any_column() -> None:
    row = TrialRow.from_flat(FLAT | {"hd95": float("nan"), "flag": True})
    assert row.figure("dice") == 0.9 and row.figure("seconds/recovery") == 3.0 and row.figure("memory_mb") == 100.0
    assert all(row.figure(name) is None for name in ("hd95", "flag", "leverage_bd95", "absent", "origin", "heads"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"trial_id": None}, "trial_id is missing"),
        ({"number": 1.5}, "integer"),
        ({"trial_id": "../x"}, "folder name"),
        ({"status": "gone"}, "status 'gone'"),
        ({"seconds": "x"}, "seconds must be a number"),
        ({"seconds/recovery": [1]}, "seconds/recovery must be a number"),
        ({"fidelity/refit/dice": "x"}, "fidelity/refit/dice must be a number"),
        ({"repeats": "t0007"}, "repeats names no other trial"),
        ({"repeats": "../t0001"}, "repeats names no other trial"),
        ({"repeats": 1}, "repeats names no other trial"),
    ],
)
def test_a_row_needs_an_identity_and_numbers_of_time(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        TrialRow.from_flat(FLAT | change)
