"""`medcore export`: from a finished or running study to a model to use elsewhere, or to all models of its front."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcore.errors import CheckpointError, ConfigError, MedcoreError, brief, printable
from medcore.models.architectures import spec_from_json
from medcore.models.checkpoint import read_info
from results.pages.card_head import without_head
from results.stats.objectives import names_of
from results.stats.pareto import front_table
from results.stats.select import choose
from results.store.files import make_folder, write_by_rename
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow, row_of
from results.store.trials import read_study
from search.base.sections.training import FinetuneConfig
from search.export.candidate import BY_OPTION, Choice, fine_tuned, measured
from search.export.card_fields import card_fields
from search.export.format import ExportFormat
from search.export.formats import CARD, FORMATS, check_target, exported
from search.export.write import Written, write_export
from search.study.gone import why_gone
from search.tracking.remote import ADDRESS, download_model, download_study, open_results
from search.tracking.server.registry import Registration, check_registration, register
from search.tracking.view import LINK

Say = Callable[[str], None]

#: Value of `--select` that exports every member of the front, and the table of what was written.
FRONT, TABLE = "front", "exported.csv"
_AT_THE_SERVER = "the study's folder was not at hand, only its MLflow server"
_NOT_MEASURED = f"left out, because --select {FRONT} measures these images only with --held-out"


@dataclass(frozen=True)
class ExportRequest:
    """What to export, in which format, and what to do before and after.

    Attributes:
        study: Folder of a study, or `mlflow:<experiment>/<run>` at a server that has the model.
        out: A `.safetensors` file for a checkpoint, else a folder. With `FRONT`, the folder of all of them.
        select: Rule that chooses the trial, see `results.stats.select`.
        format: A name in `search.export.formats.FORMATS`.
        dtype: Precision of the numbers in the files, a name in `medcore.models.formats.precision.PRECISIONS`. None for
            that of the checkpoint that the study pruned.
        register: Name under which an MLflow model becomes a version at the study's MLflow server.
        held_out: Measure the model on the study's held-out split first, unless that was done before. If it is not
            possible, a warning is logged and the card says so. None measures a single model, and no whole front,
            because every look at these images biases the best result.
        finetune: Train the model at full length before all that.
        settings: For the training, instead of the study's own.
        latency: Measure time and memory for the card.
        ray_address: Of a running cluster, for `finetune.workers` > 1.
        card: What the user states for the head of the card, `KEY=VALUE`, see `search.export.card_fields`.
        tracking_uri: MLflow server for the held-out figures and the registration. By default the one that the study
            went to, if `MLFLOW_TRACKING_URI` names it too, or the study's own file.
    """

    study: str
    out: Path
    select: str = "knee"
    format: str = "checkpoint"
    dtype: str | None = None
    register: str | None = None
    held_out: bool | None = None
    finetune: bool = False
    settings: FinetuneConfig | None = None
    latency: bool = True
    ray_address: str | None = None
    card: Sequence[str] = ()
    tracking_uri: str | None = None


@dataclass(frozen=True)
class Exported:
    """A member of the front after its export.

    Attributes:
        row: Its row; with the figures of what was exported if that worked.
        place: Its file or folder.
        written: What was written; None if the export failed.
        problem: Why it failed.
    """

    row: TrialRow
    place: Path
    written: Written | None = None
    problem: str = ""

    def record(self, objectives: Sequence[str]) -> dict[str, Any]:
        """Return its line of the table of what was written."""
        names = dict.fromkeys(["flops_fraction", *objectives])
        size = None if self.written is None else self.written.size
        return {
            "trial_id": self.row.trial_id,
            "origin": printable(str(self.row.origin)),
            **{name: self.row.metrics.get(name) for name in names},
            "written": "" if size is None else self.place.name,
            "dtype": None if size is None else size.precision,
            "bytes": None if size is None else size.written,
            "dense_bytes": None if size is None else size.sizes.dense,
            "checked": "" if self.written is None else self.written.checked,
            "problem": printable(self.problem),
        }


def export(request: ExportRequest, say: Say = lambda _: None) -> TrialRow:
    """Write the chosen trial's model with a model card next to it.

    Check the written file before it appears.

    Args:
        request: What to export.
        say: Takes lines on what the check and the clock measured, and on what was registered.

    Returns:
        The row of the model that was exported.

    Raises:
        MedcoreError: The server has no such study or model, the format, place or rule does not fit, the checkpoint is
            gone, a package is missing, fine-tuning is not possible, or the export differs from the trial's model. Also
            if the model cannot be registered; then it is written all the same.
    """
    if request.study.startswith(ADDRESS):
        return _export_from_server(request, say)
    kind = check_target(request.format, request.out)
    kind.require_precision(request.dtype)
    card_fields(request.card)
    if request.register is not None:
        check_registration(Path(request.study), kind.name, request.register, request.tracking_uri)
    trials, info = open_results(request.study)
    return _export(request, kind, info, row_of(choose(trials, info.objectives, request.select)), say).row


def _export_from_server(request: ExportRequest, say: Say) -> TrialRow:
    """Export a model that a search has sent to MLflow.

    Raises:
        MedcoreError: As `export`, or the request needs the images or files of the study's folder.
    """
    needs = {"--finetune": request.finetune, "--register": request.register, "--held-out": request.held_out}
    if wanted := [option for option, value in needs.items() if value]:
        raise ConfigError(f"{request.study}: {wanted[0]} needs the study's folder; give that to export from")
    kind = check_target(request.format, request.out)
    kind.require_precision(request.dtype)
    with tempfile.TemporaryDirectory(prefix="medcore-") as temporary:
        folder = download_study(request.study, Path(temporary), request.tracking_uri)
        info = read_study_info(folder)
        row = row_of(choose(read_study(folder), info.objectives, request.select))
        download_model(request.study, row, folder, request.tracking_uri)
        own = replace(request, study=str(folder), held_out=False)
        return _export(own, kind, info, row, say, _AT_THE_SERVER).row


def export_front(request: ExportRequest, say: Say = lambda _: None) -> list[Exported]:
    """Write every member of the front into a folder, each named like its trial, and a table of what was written.

    The failure of one member does not stop the others. The table grows with each member, so that an export that is
    killed has one too.

    Args:
        request: What to export; `out` is the folder of all members, and `register` is None.
        say: Takes lines on each member.

    Returns:
        The members, those that failed too, in the order of the front.

    Raises:
        MedcoreError: The study is in MLflow, the format or the folder does not fit, there is no front, or the folder
            cannot be written.
    """
    _require_folder(request.study)
    if request.register is not None:
        raise ConfigError("--register holds one model under its name; give --select a rule that chooses one trial")
    if request.out.is_file() or request.out.suffix == ".safetensors":
        raise ConfigError(f"--out {request.out}: --select {FRONT} writes several models; give a folder")
    kind = check_target(request.format, _place(request, "trial"))
    kind.require_precision(request.dtype)
    card_fields(request.card)
    trials, info = open_results(request.study)
    rows = [row_of(row) for row in front_table(trials, info.objectives).to_dict("records")]
    if not rows:
        raise MedcoreError(f"{request.study}: the front is empty: no trial finished with finite objectives")
    make_folder(request.out)
    done: list[Exported] = []
    links: set[str] = set()

    def once(line: str) -> None:
        """Say where the study is in MLflow for the first member only."""
        _, is_link, page = line.partition(LINK)
        if not is_link:
            say(line)
        elif page not in links:
            links.add(page)
            say(is_link + page)

    for row in rows:
        done += [_member(request, info, row, once)]
        _write_table(request.out, [each.record(names_of(info.objectives)) for each in done])
    return done


def _require_folder(study: str) -> None:
    if study.startswith(ADDRESS):
        raise ConfigError(f"{study}: --select {FRONT} needs the study's folder; give that to export from")


def _place(request: ExportRequest, trial_id: str) -> Path:
    """Return the file or folder of one member of the front."""
    suffix = "" if request.format not in FORMATS else FORMATS[request.format].suffix or ""
    return request.out / f"{trial_id}{suffix}"


def _member(request: ExportRequest, info: StudyInfo, row: TrialRow, say: Say) -> Exported:
    """Export one member of the front; a failure is part of what is returned."""
    place = _place(request, row.trial_id)
    one = replace(request, out=place, select=f"trial:{row.trial_id}", held_out=bool(request.held_out))

    def tell(line: str) -> None:
        say(f"{row.trial_id}: {line}")

    try:
        kind = check_target(request.format, place)
        return _export(one, kind, info, row, tell, _NOT_MEASURED if request.held_out is None else BY_OPTION)
    except (MedcoreError, OSError, RuntimeError) as error:  # torch's lack of memory is a RuntimeError
        problem = brief(error, first=200)
        tell(f"not exported: {problem}")
        return Exported(row, place, problem=problem)


def _export(
    request: ExportRequest, kind: ExportFormat, info: StudyInfo, row: TrialRow, say: Say, why_not: str = BY_OPTION
) -> Exported:
    """Export one trial; `why_not` says why held-out figures are not measured."""
    study, out = Path(request.study), request.out
    choice = Choice(study, info, request.select, row, card=card_fields(request.card))
    if not choice.source.is_file():
        raise CheckpointError(why_gone(study, choice.source, row.trial_id))
    kind.require_kind(spec_from_json(read_info(choice.source)["spec"], str(choice.source)).arch)
    if request.finetune:
        choice = fine_tuned(choice, request.settings, say, request.ray_address)
    choice = measured(choice, request.held_out is not False, say, request.tracking_uri, why_not=why_not)
    figures = choice.figures
    written = write_export(kind, out, choice, request.latency, request.dtype)
    for line in written.lines():
        say(line)
    if request.register is not None:
        card = without_head((out / CARD).read_text(encoding="utf-8"))
        model = Registration(request.register, exported(out), study=info.name, row=figures.to_flat(), card=card)
        say(register(study, out, model, request.tracking_uri))
    return Exported(figures, out, written)


def _write_table(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of what was exported, as CSV."""
    text = io.StringIO()
    if records:
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    write_by_rename(folder / TABLE, text.getvalue().encode())
