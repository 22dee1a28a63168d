"""`medcore latency`: measured time and memory of a checkpoint or of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from results.stats.pareto import front_table
from results.store.latency import Record, add_latency, read_latency
from results.store.trials import checkpoint_file, read_study, read_study_info
from search.export.timing import Progress, _dense, _pairs, _setup

SELECTIONS = ("front", "all")


def latency(
    checkpoint: Path,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    architecture: str | None = None,
    autocast: bool = False,
    progress: Progress = lambda *_: None,
) -> list[Record]:
    """Time and memory of one model, a record a batch size.

    Raises `MedcoreError` for a checkpoint that cannot be read, and where the GPU's memory does not suffice.
    """
    model = load(checkpoint, architecture)
    records: list[Record] = []
    progress(0, len(batches))
    for record in _pairs(model, _dense(model.arch), checkpoint.name, batches, _setup(threads, autocast)):
        records.append(record)
        progress(len(records), len(batches))
    return records


def study_latency(
    study: Path,
    batches: Sequence[int] = (1, 8),
    threads: int | None = None,
    select: str = "front",
    autocast: bool = False,
    again: bool = False,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Record]:
    """Time and memory of a study's models, into its `latency.json`; returns the records of those models, old and new.

    Args:
        select: "front" for its members, "all" for every finished trial.
        again: measure also what was measured before with this device, number of threads, precision and torch.
        say: is told what cannot be measured.

    Each model's figures are written when they are there, so that an interrupted call loses at most one model's.
    Raises `MedcoreError` for a folder that is no study or has no model to measure, an unknown `select`, and where the
    GPU's memory does not suffice.
    """
    if select not in SELECTIONS:
        raise MedcoreError(f"--select {select}: unknown; known are {', '.join(SELECTIONS)}")
    setup, trials, objectives = _setup(threads, autocast), read_study(study), read_study_info(study)["objectives"]
    rows = (front_table(trials, objectives) if select == "front" else trials[trials["status"] == "done"]).to_dict(
        "records"
    )
    sources = {str(row["trial_id"]): checkpoint_file(study, row) for row in rows}
    gone = [trial_id for trial_id, path in sources.items() if not path.is_file()]
    if len(gone) == len(sources):
        raise MedcoreError(
            f"{study}: no finished trial has a checkpoint to measure; give the folder that a search wrote"
        )
    if gone:
        say(f"not measured, as their checkpoints are gone: {', '.join(gone)}")
    known = {(each.trial_id, each.batch) for each in read_latency(study) if each.setup == setup and not again}
    missing = {
        trial_id: left
        for trial_id in sources
        if trial_id not in gone and (left := [batch for batch in batches if (trial_id, batch) not in known])
    }
    done, total = 0, sum(map(len, missing.values()))
    progress(done, total)
    dense: MedSam | None = None
    for trial_id, left in missing.items():
        model = load(sources[trial_id])
        dense = dense or _dense(model.arch)
        for record in _pairs(model, dense, trial_id, left, setup):
            add_latency(study, [record])
            done += 1
            progress(done, total)
    return [each for each in read_latency(study) if each.setup == setup and each.trial_id in sources]
