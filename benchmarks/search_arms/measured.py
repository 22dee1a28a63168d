"""Finished models on the report images, and the record of an arm that figures are computed from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks.search_arms.charges import trial_seconds
from benchmarks.search_arms.figures import Finished
from benchmarks.search_arms.runner import ArmStudy
from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.quality.evaluate import evaluate, summarise
from results.store.files import read_json, write_json
from results.store.trial_row import TrialRow
from results.store.trials import all_rows, read_row, trial_folder
from search.base.device import best_device
from search.trials.ledger import all_issued

_SHARE, _QUALITY = "flops_paper_fraction", "boundary_f1"


class Record(NamedTuple):
    """What one arm and seed did.

    Attributes:
        arm: Name of the arm.
        seed: The seed.
        charged: Processor seconds of its statistics.
        spent: All its processor seconds.
        finished: Its finished trials in order.
        counts: Number of rows by status.
    """

    arm: str
    seed: int
    charged: float
    spent: float
    finished: list[Finished]
    counts: Counter[str]


def measure_reports(study: Path, images: ImageSet, autocast: bool) -> None:
    """Measure each finished model on the report images, and write the means to `report.json` in the trial's folder."""
    for row in all_rows(study):
        file = _report_file(study, row.trial_id)
        if not row.is_done or file.is_file():
            continue
        model = load(study / str(row.checkpoint)).to(best_device())
        write_json(file, summarise(evaluate(model, images, autocast=autocast)))


def remove_weights(study: Path) -> None:
    """Remove the files of measured models, because a benchmark of many arms would fill the disk."""
    for row in all_rows(study):
        if row.is_done and _report_file(study, row.trial_id).is_file():
            (study / str(row.checkpoint)).unlink(missing_ok=True)


def record_of(study: ArmStudy) -> Record:
    """Return what an arm did, from its folder."""
    seconds, finished, folder = study.charged, [], study.folder
    for issued in all_issued(folder):
        seconds += trial_seconds(folder, issued.trial_id)
        row = read_row(folder, issued.trial_id)
        if row is not None and row.is_done:
            finished.append(_finished(folder, row, seconds))
    counts: Counter[str] = Counter(row.status for row in all_rows(folder))
    return Record(study.arm.name, study.seed, study.charged, seconds, finished, counts)


def dense_quality(record: Record) -> float:
    """Return the Boundary F1 of the recovered dense model on the report images.

    Raises:
        MedcoreError: Its trial failed.
    """
    if not record.finished:
        raise MedcoreError(f"seed {record.seed}: the dense model's trial failed; see error.txt in its folder")
    return record.finished[0].reported


def _finished(study: Path, row: TrialRow, seconds: float) -> Finished:
    report = read_json(_report_file(study, row.trial_id), "start again")
    return Finished(
        seconds=seconds,
        candidate=row.repeats or row.trial_id,
        share=float(row.metrics[_SHARE]),
        searched=float(row.metrics[_QUALITY]),
        reported=float(report[_QUALITY]),
    )


def _report_file(study: Path, trial_id: str) -> Path:
    return trial_folder(study, trial_id) / "report.json"
