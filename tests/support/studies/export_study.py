"""A study of one trial with random weights, to export from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medcore.models.checkpoint import save
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from results.store.trials import compact, write_images
from search.export.formats import FORMATS
from search.study.inputs import cost_metrics
from tests.support.helpers import TINY, spec_of
from tests.support.studies.rows import write_row, write_study
from tests.support.studies.study_files import link_polyps

SPEC = spec_of(TINY, (2, 0, 3, 1), (48, 5, 0, 1))


def random_model(spec: ModelSpec, seed: int) -> MedSam:
    torch.manual_seed(seed)
    return build(spec)


def write_study_of_one(place: Path) -> Path:
    """A study of one trial, with its data and configuration."""
    folder, data = place / "runs" / "s", link_polyps(place)
    dense = {"dice": 0.9, **cost_metrics(ModelSpec.dense(TINY))}
    objectives = [{"name": "flops", "direction": "min"}, {"name": "dice", "direction": "max"}]
    reference = {"flops": 2 * dense["flops"], "dice": 0.0}
    widths = {"heads": 3, "channels": 48}
    info = {"name": "s", "objectives": objectives, "reference": reference, "dense": dense, "widths": widths}
    write_study(folder, info)
    row = {"trial_id": "t0000", "number": 0, "status": "done", "origin": "sampled", "dice": 0.8, "dice/polyps": 0.8}
    row |= {**SPEC.budget, "checkpoint": "trials/t0000/model.safetensors"}
    write_images(folder, "t0000", [{"dataset": "polyps", "name": f"{i}", "dice": 0.7 + i / 10} for i in range(3)])
    write_row(folder, row | cost_metrics(SPEC))
    compact(folder)
    save(folder / "trials" / "t0000" / "model.safetensors", random_model(SPEC, 11))
    save(place / "base.safetensors", random_model(ModelSpec.dense(TINY), 1))
    config = {
        "model": {"base": str(place / "base.safetensors"), "adapted": "gone.pth"},
        "data": {"folders": [str(data)], "search_split": "val", "calibration_split": "train"},
        "of another version": True,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def names(folder: Path) -> list[str]:
    """Names of what lies in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


def replace_format(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Replace parts of an export format until the test ends."""
    monkeypatch.setitem(FORMATS._entries, name, dataclasses.replace(FORMATS[name], **changes))
