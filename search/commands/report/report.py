"""`medcore report`: everything about a study in one HTML file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medcore.errors import ConfigError, MedcoreError
from results.pages.compared import Compared, compared_held_out
from results.pages.report import HeldOutRow, Member, Report, write_report
from results.stats.labels import is_cost
from results.stats.loss import quality_loss
from results.stats.objectives import names_of
from results.stats.pareto import front_table
from results.stats.seed_noise import recovered_dense
from results.stats.select import choose
from results.stats.uncertainty import with_intervals
from results.store.files import make_folder, write_by_rename
from results.store.front import front_of
from results.store.study_info import StudyInfo, read_study_info
from results.store.trial_row import TrialRow, row_of
from results.store.trials import read_images, read_runs, read_study
from search.base.config import Config, at_home, saved_config
from search.base.logins import hide_login
from search.commands.report.facts import Call, commands, data_sets, environment, held_out_rows, models
from search.commands.report.render import Rendered, Rendering, render
from search.study.saved import saved_values
from search.tracking.note import FILE
from search.tracking.remote import results_folder, send_report

_OLD_SHEETS = "--images 0: contact sheets that an earlier --log has sent are still in MLflow; delete them there"


@dataclass(frozen=True)
class _Study:
    """What a report reads of a study's folder.

    Attributes:
        info: What `study.json` says.
        trials: The trial table with intervals.
        runs: A row for each run, also of repeated trials.
        images: Metrics of every search image for the trials.
        members: The members of the front to look at, the chosen one first.
        others: All members of the front, if their sheets are wanted.
        config: The study's configuration; None if it cannot be read.
        text: Text of that configuration.
        notes: What the report has to leave out for want of it.
        held_out: Measurements on held-out images.
        compared: The chosen member next to others on held-out images.
    """

    info: StudyInfo
    trials: pd.DataFrame
    runs: pd.DataFrame
    images: pd.DataFrame
    members: list[Member]
    others: list[Member]
    config: Config | None
    text: str
    notes: list[str]
    held_out: list[HeldOutRow]
    compared: list[Compared]


def report(
    study: str,
    out: Path,
    *,
    images: int = 12,
    select: Sequence[str] = (),
    log: bool = False,
    say: Callable[[str], None] = lambda _: None,
    sheets: Path | None = None,
    tracking_uri: str | None = None,
) -> list[str]:
    """Write the report of a study.

    Args:
        study: Folder or `mlflow:<experiment>/<run>`.
        out: HTML file to write.
        images: Rows of a contact sheet; 0 leaves out every picture of a patient.
        select: Rules (`results.stats.select`) for the members to look at, the chosen one first. The default is the
            knee, the cheapest, and the best by the first objective that is no cost.
        log: Whether to put the report on the study's parent run in MLflow, if it has one, and a contact sheet on the
            run of each trial on the front.
        say: Receives one-line messages for people.
        sheets: Folder for a contact sheet of every front member, as files of their own.
        tracking_uri: The server for `log`. By default it is the study's own file, or the server that it went to before
            if `MLFLOW_TRACKING_URI` names it too.

    Returns:
        The parts that the report had to leave out.

    Raises:
        MedcoreError: The study has no finished trial, a rule selects none, or `out` cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name the file to write")
    if sheets is not None and not images:
        raise ConfigError(f"--sheets {sheets}: contact sheets show patients, which --images 0 rules out; leave one out")
    make_folder(out.parent)
    is_sent = log and (Path(study) / FILE).is_file()
    with results_folder(study) as folder:
        # running models takes long, so everything that can fail comes before it
        known = _read(folder, select, others=is_sent or sheets is not None)
        if sheets is not None:
            make_folder(sheets)
        wanted = Rendering(folder, known.members, known.others, known.images, images)
        rendered = render(known.config, wanted, say) if known.config else Rendered()
    notes = [*known.notes, *rendered.notes, *([_OLD_SHEETS] if is_sent and not images else [])]
    write_report(_page(known, rendered, Call(study, out, images, tuple(select)), notes), out)
    with tempfile.TemporaryDirectory(prefix="medcore-") as temporary:
        files = [(sheets or Path(temporary)) / picture.name for picture in rendered.others]
        for file, picture in zip(files, rendered.others, strict=True):
            write_by_rename(file, picture.png)
        if sheets is not None:
            say(f"wrote {sheets}: {len(files)} contact sheets")
        unsent = send_report(Path(study), out, files, tracking_uri, say) if is_sent else None
    return [*notes, *([unsent] if unsent else [])]


def _read(folder: Path, select: Sequence[str], *, others: bool) -> _Study:
    info, images = read_study_info(folder), read_images(folder)
    trials = with_intervals(read_study(folder), images, info.objectives)
    config, notes = _config(folder)
    members = members_of(trials, info, select)
    return _Study(
        info=info,
        trials=trials,
        runs=read_runs(folder),
        images=images,
        members=members,
        others=_front_members(trials, info) if others else [],
        config=config,
        text=(folder / "config.yaml").read_text() if config else "",
        notes=notes,
        held_out=held_out_rows(folder),
        compared=compared_held_out(folder, members[0].row, recovered_dense(trials)),
    )


def _page(known: _Study, rendered: Rendered, call: Call, notes: list[str]) -> Report:
    """Return what the page shows."""
    chosen = known.members[0]
    own = known.images[known.images["trial_id"] == chosen.trial_id] if len(known.images) else None
    return Report(
        front=front_of(known.trials, known.info),
        trials=known.trials,
        members=known.members,
        loss=quality_loss(known.info.dense, chosen.row.metrics, rendered.dense_images, own),
        data=data_sets(known.config, known.images),
        sheets=rendered.sheets,
        model=models(known.config),
        environment=environment(known.runs, known.info),
        commands=commands(call, chosen, known.config),
        notes=notes,
        config=hide_login(known.text),
        held_out=known.held_out,
        compared=known.compared,
        images=call.images > 0,
    )


def members_of(trials: pd.DataFrame, info: StudyInfo, select: Sequence[str]) -> list[Member]:
    """Return each selected trial once, with all rules that selected it."""
    names = names_of(info.objectives)
    firsts = [next((name for name in names if is_cost(name) == cost), None) for cost in (True, False)]
    rules = select or ["knee", *(f"best:{name}" for name in firsts if name)]
    rows: dict[str, TrialRow] = {}
    chosen_by: dict[str, list[str]] = {}
    for rule in dict.fromkeys(rules):
        row = row_of(choose(trials, info.objectives, rule))
        rows.setdefault(row.trial_id, row)
        chosen_by.setdefault(row.trial_id, []).append(rule)
    return [Member(row, tuple(chosen_by[trial_id])) for trial_id, row in rows.items()]


def _front_members(trials: pd.DataFrame, info: StudyInfo) -> list[Member]:
    records = front_table(trials, info.objectives).to_dict("records")
    return [Member(row_of(record), ("on the front",)) for record in records]


def _config(folder: Path) -> tuple[Config | None, list[str]]:
    """Return the sections of the configuration that a report needs, else a note.

    Other sections may be of another version.
    """
    try:
        values = at_home(saved_values(folder), folder)
        recovery = {"autocast": values.get("recovery", {}).get("autocast", False)}
        return saved_config(values | {"recovery": recovery}, str(folder / "config.yaml"), "recovery"), []
    except MedcoreError as error:
        why = "Without the study's configuration there are neither contact sheets nor intervals of what is given up"
        return None, [f"{why}: {error}."]
