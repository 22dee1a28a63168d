"""A study of three random models, and records of their times."""

from __future__ import annotations

from pathlib import Path

from medcore.models.checkpoint import save
from medcore.models.spec import ModelSpec
from medcore.quality.timing import Latency, Timing
from results.stats.objectives import Direction, Objective
from results.store.latency import Record, Setup
from search.study.inputs import cost_metrics
from tests.support.helpers import TINY, model_of
from tests.support.studies.rows import write_row, write_study

HERE = Setup("a CPU", 1, False, "2.0")
OBJECTIVES = [Objective("flops", Direction.MIN), Objective("dice", Direction.MAX)]


def measured(whole: float, encoder: float, peak: int = 2_000_000) -> Latency:
    return Latency(Timing(encoder, 0.1, 5), Timing(whole, 0.2, 4), peak)


def record(trial_id: str, whole: float = 30.0, batch: int = 1, setup: Setup = HERE, when: str = "2026-01-01") -> Record:
    return Record(trial_id, 0.5, batch, setup, when, measured(whole, whole / 2), measured(40.0, 25.0, 4_000_000))


def write_timed_study(folder: Path) -> Path:
    """Three trials, two of them on the front; the cheapest is also the quickest to measure."""
    dense = {"dice": 0.9, **cost_metrics(ModelSpec.dense(TINY))}
    info = {"name": "s", "objectives": OBJECTIVES, "dense": dense, "widths": {"heads": 3, "channels": 48}}
    write_study(folder, info | {"reference": {"flops": 2 * dense["flops"], "dice": 0.0}})
    for number, (width, dice) in enumerate(((40, 0.8), (8, 0.7), (44, 0.6))):
        model, place = model_of(width), f"trials/t{number}/model.safetensors"
        save(folder / place, model)
        row = {"trial_id": f"t{number}", "number": number, "status": "done", "origin": "sampled", "dice": dice}
        row |= {"heads": [3] * TINY.depth, "channels": [width] * TINY.depth, "checkpoint": place}
        write_row(folder, row | cost_metrics(model.spec))
    return folder
