"""`medcore export`: from a finished or running study to a model to use elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcore.errors import MedcoreError
from results.stats.select import choose
from results.store.files import plain_record
from search.base.config import FinetuneConfig
from search.export.candidate import fine_tuned, measured
from search.export.formats import CARD, Choice, check_target, exported, write_export
from search.tracking.registry import check_registration
from search.tracking.registry import register as register_folder
from search.tracking.remote import open_results


def export(
    study: str,
    rule: str,
    out: Path,
    kind: str = "checkpoint",
    say: Callable[[str], None] = lambda _: None,
    register: str | None = None,
    measure: bool = True,
    finetune: bool = False,
    settings: FinetuneConfig | None = None,
    time_it: bool = True,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Write the chosen trial's model to `out` with a model card beside it, check it, and return the row of that model.

    Args:
        out: a `.safetensors` file for a checkpoint, else a folder. kind: one of `search.export.formats.KINDS`.
        say: is told what the check and the clock measured, and what was registered.
        register: an MLflow model becomes a version of this name at the study's MLflow server.
        measure: first measure the model on the study's held-out part, unless that was done before; where it cannot be
            done there is a logged warning, and the card says so.
        finetune: before all that, train it at full length. settings: for this, instead of the study's own.
        time_it: measure time and memory for the card.
        ray_address: of a running cluster, for `finetune.workers` > 1.

    Raises `MedcoreError` for a study in MLflow (it holds no checkpoints), a name of another kind, a rule that takes
    no trial, a checkpoint that is gone, a missing package, an export that differs from the trial's model, and a
    fine-tuning that is not possible or learnt nothing; and for a model that cannot be registered, which is written all
    the same.
    """
    if study.startswith("mlflow:"):
        raise MedcoreError(
            f"{study}: MLflow holds the rows, not the checkpoints; give the study's folder to export from"
        )
    check_target(kind, out)
    if register is not None:
        check_registration(Path(study), kind, register)
    trials, info = open_results(study)
    row = choose(trials, info["objectives"], rule)
    record: dict[str, Any] = plain_record(row.dropna())
    choice = Choice(Path(study), info, rule, record)
    if not choice.source.is_file():
        raise MedcoreError(f"{choice.source}: the checkpoint of trial {row['trial_id']} is gone; choose another trial")
    if finetune:
        choice = fine_tuned(choice, settings, say, ray_address)
    choice = measured(choice, measure, say)
    figures = dict(choice.figures)
    for line in write_export(kind, out, choice, time_it):
        say(line)
    if register is not None:
        card = (out / CARD).read_text(encoding="utf-8")
        say(register_folder(Path(study), out, exported(out), register, figures, info["name"], card))
    return figures
