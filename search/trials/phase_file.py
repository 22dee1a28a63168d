"""The state of a trial's schedule on disk, one file that is complete or absent, so that a killed trial can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load_with_info, save
from medcore.models.groups import PerGroup
from medcore.training.schedule import State

#: Rows of the phase series: phase, step, name, value.
Series = list[dict[str, Any]]


def save_state(path: Path, state: State, series: Series) -> None:
    """Write the model, with masks, scores and series in its metadata."""
    info = {
        "phases_done": str(state.done),
        "kept": json.dumps(_lists(state.kept)),
        "scores": json.dumps(_lists(state.scores)),
        "series": json.dumps(series),
    }
    save(path, state.model, info)


def load_state(path: Path) -> tuple[State, Series]:
    """What `save_state` wrote, on the CPU. Raises `MedcoreError` naming a file that is not one."""
    model, info = load_with_info(path)
    try:
        kept = _arrays(json.loads(info["kept"]), bool)
        scores = _arrays(json.loads(info["scores"]), np.float64)
        done, series = int(info["phases_done"]), json.loads(info["series"])
    except (KeyError, TypeError, ValueError) as error:
        raise MedcoreError(f"{path}: not the state of a trial ({error!r}); delete it to start the trial anew") from None
    return State(model, kept, scores, done), series


def _lists(groups: PerGroup) -> dict[str, list[list[Any]]]:
    return {
        "heads": [block.tolist() for block in groups.heads],
        "channels": [block.tolist() for block in groups.channels],
    }


def _arrays(lists: dict[str, list[list[Any]]], kind: Any) -> PerGroup:
    heads, channels = (
        tuple(np.array(block, dtype=kind) for block in lists[family]) for family in ("heads", "channels")
    )
    return PerGroup(heads, channels)
