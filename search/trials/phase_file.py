"""The state of a trial's schedule on disk: one file, complete or absent, from which a killed trial continues."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load_with_info, save
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite, by_family, from_families
from medcore.training.plans.plateau import Progress
from medcore.training.schedule import State
from search.trials.meter import PhasePoint


@dataclass
class History:
    """What happened in the phases of a trial so far.

    Attributes:
        points: Figures in their order.
        notes: Remarks for the reason of the trial's row.
        fidelities: What a scheduler saw, as `FIDELITY/NAME` (see `TrialRow.fidelities`).
    """

    points: list[PhasePoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fidelities: dict[str, float] = field(default_factory=dict)


def save_state(path: Path, state: State, history: History) -> None:
    """Write the model, with masks, scores and history in the file's metadata."""
    info = {
        "phases_done": str(state.done),
        "kept": _lists(state.model, state.kept),
        "scores": _lists(state.model, state.scores),
        "series": json.dumps([point.record() for point in history.points]),
        "notes": json.dumps(history.notes),
        "fidelities": json.dumps(history.fidelities),
    }
    if state.progress is not None:
        info["progress"] = json.dumps(dataclasses.asdict(state.progress))
    if state.masked is not None:
        info["masked"] = _lists(state.model, state.masked)
    save(path, state.model, info)


def load_state(path: Path) -> tuple[State, History]:
    """Return what `save_state` wrote, on the CPU.

    Raises:
        MedcoreError: The file is not the state of a trial.
    """
    model, info = load_with_info(path)
    try:
        kept = _arrays(model, info["kept"], bool)
        scores = _arrays(model, info["scores"], np.float64)
        masked = _arrays(model, info["masked"], bool) if "masked" in info else None
        progress = Progress(**json.loads(info["progress"])) if "progress" in info else None
        done, history = int(info["phases_done"]), _history(info)
    except (KeyError, TypeError, ValueError) as error:
        raise MedcoreError(f"{path}: not the state of a trial ({error!r}); delete it to start the trial over") from None
    return State(model, kept, scores, done, progress, masked), history


def _history(info: dict[str, str]) -> History:
    """Return the history in a file's metadata.

    Files without `notes` keep each note in a point of the series.
    """
    series = json.loads(info["series"])
    notes = [entry.pop("note") for entry in series if "note" in entry]
    notes += json.loads(info.get("notes", "[]"))
    return History([PhasePoint(**entry) for entry in series], notes, json.loads(info.get("fidelities", "{}")))


def _lists(model: MedSam, values: PerSite) -> str:
    return json.dumps(by_family(model.arch.sites, [site.tolist() for site in values]))


def _arrays(model: MedSam, text: str, kind: Any) -> PerSite:
    return tuple(np.array(site, dtype=kind) for site in from_families(model.arch.sites, json.loads(text)))
