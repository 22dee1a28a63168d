"""`medcore export`: from a finished or running study to a model to use elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medcore.errors import CheckpointError, ConfigError
from medcore.models.architectures import spec_from_json
from medcore.models.checkpoint import read_info
from results.stats.select import choose
from results.store.trial_row import TrialRow, row_of
from search.base.sections.training import FinetuneConfig
from search.export.candidate import Choice, fine_tuned, measured
from search.export.formats import CARD, check_target, exported
from search.export.write import write_export
from search.tracking.remote import open_results
from search.tracking.server.registry import Registration, check_registration, register


@dataclass(frozen=True)
class ExportRequest:
    """What to export, in which format, and what to do before and after.

    Attributes:
        study: Folder of a study.
        out: A `.safetensors` file for a checkpoint, else a folder.
        select: Rule that chooses the trial, see `results.stats.select`.
        format: A name in `search.export.formats.FORMATS`.
        register: Name under which an MLflow model becomes a version at the study's MLflow server.
        held_out: Measure the model on the study's held-out split first, unless that was done before. If it is not
            possible, a warning is logged and the card says so.
        finetune: Train the model at full length before all that.
        settings: For the training, instead of the study's own.
        latency: Measure time and memory for the card.
        ray_address: Of a running cluster, for `finetune.workers` > 1.
        tracking_uri: MLflow server for the held-out figures and the registration. By default the one that the study
            went to, if `MLFLOW_TRACKING_URI` names it too, or the study's own file.
    """

    study: str
    out: Path
    select: str = "knee"
    format: str = "checkpoint"
    register: str | None = None
    held_out: bool = True
    finetune: bool = False
    settings: FinetuneConfig | None = None
    latency: bool = True
    ray_address: str | None = None
    tracking_uri: str | None = None


def export(request: ExportRequest, say: Callable[[str], None] = lambda _: None) -> TrialRow:
    """Write the chosen trial's model with a model card next to it.

    Check the written file before it appears.

    Args:
        request: What to export.
        say: Takes lines on what the check and the clock measured, and on what was registered.

    Returns:
        The row of the model that was exported.

    Raises:
        MedcoreError: The study is in MLflow (which holds no checkpoints), the format, place or rule does not fit, the
            checkpoint is gone, a package is missing, fine-tuning is not possible, or the export differs from the
            trial's model. Also if the model cannot be registered; then it is written all the same.
    """
    if request.study.startswith("mlflow:"):
        raise ConfigError(
            f"{request.study}: MLflow holds the rows, not the checkpoints; give the study's folder to export from"
        )
    study, out = Path(request.study), request.out
    kind = check_target(request.format, out)
    if request.register is not None:
        check_registration(study, kind.name, request.register, request.tracking_uri)
    trials, info = open_results(request.study)
    row = choose(trials, info.objectives, request.select)
    choice = Choice(study, info, request.select, row_of(row))
    if not choice.source.is_file():
        trial_id = choice.row.trial_id
        raise CheckpointError(f"{choice.source}: the checkpoint of trial {trial_id} is gone; choose another trial")
    kind.require_kind(spec_from_json(read_info(choice.source)["spec"], str(choice.source)).arch)
    if request.finetune:
        choice = fine_tuned(choice, request.settings, say, request.ray_address)
    choice = measured(choice, request.held_out, say, request.tracking_uri)
    figures = choice.figures
    for line in write_export(kind, out, choice, request.latency):
        say(line)
    if request.register is not None:
        card = (out / CARD).read_text(encoding="utf-8")
        model = Registration(request.register, exported(out), study=info.name, row=figures.to_flat(), card=card)
        say(register(study, out, model, request.tracking_uri))
    return figures
