"""`medcore report`: everything about a study in one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medcore.data.load import list_folder, read_splits
from medcore.data.splits import saved_file
from medcore.errors import MedcoreError
from results.pages.report import HeldOutRow, Member, Picture, Report, write_report
from results.plots.contact_sheet import MAX_BYTES
from results.stats.labels import METRICS, is_cost, text
from results.stats.loss import given_up
from results.stats.pareto import front_table
from results.stats.select import choose
from results.stats.uncertainty import with_intervals
from results.store.files import make_folder, write_by_rename
from results.store.held_out import interval_text, read_measured_images, read_measurements
from results.store.trials import StudyInfo, checkpoint_file, read_images, read_study, read_study_info
from search.base.config import Config, saved_config
from search.base.logins import hide_login
from search.base.provenance import git_revision, machine, versions
from search.commands.front import front_of
from search.export.sheets import Sheets
from search.tracking.note import FILE
from search.tracking.remote import results_folder, send_report


@dataclass
class _Seen:
    """What running the models again has given."""

    sheets: list[Picture] = field(default_factory=list)
    others: list[Picture] = field(default_factory=list)
    dense_images: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)


def report(
    study: str,
    out: Path,
    images: int = 12,
    select: Sequence[str] = (),
    log: bool = False,
    say: Callable[[str], None] = lambda _: None,
    sheets: Path | None = None,
) -> list[str]:
    """Write the report of a study (folder or `mlflow:<experiment>/<run>`) to `out`. Returns what it had to leave out.

    Args:
        images: rows of a contact sheet.
        select: rules (`results.stats.select`) for the members to look at, the chosen one first; by default the knee,
            the cheapest, and the best by the first objective that is no cost.
        log: also put the report, and the sheets, on the study's parent run in MLflow, where it has one.
        sheets: folder for a contact sheet of every front member, in files of their own.

    Raises `MedcoreError` for a study without a finished trial, a rule that takes none, an `out` that cannot be written.
    """
    if out.is_dir():
        raise MedcoreError(f"--out {out}: is a folder; name the file to write")
    make_folder(out.parent)
    with results_folder(study) as folder:
        info, measured = read_study_info(folder), read_images(folder)
        trials = with_intervals(read_study(folder), measured, info["objectives"])
        members = _members(trials, info, select)
        config, notes = _config(folder)
        others = _front_members(trials, info) if sheets is not None else []
        # running models takes long, so all that can fail comes before it
        held_out = _held_out(folder)
        if sheets is not None:
            make_folder(sheets)
        seen = _look(config, folder, members, others, measured, images, say) if config else _Seen()
        written = (folder / "config.yaml").read_text() if config else ""
        about = {str(key): str(value) for key, value in info.items() if key in ("git", "machine")}
    chosen = members[0]
    own = measured[measured["trial_id"] == chosen.trial_id] if len(measured) else None
    write_report(
        Report(
            front=front_of(trials, info),
            trials=trials,
            members=members,
            given_up=given_up(info["dense"], chosen.row, seen.dense_images, own),
            data=_data(config, measured),
            sheets=seen.sheets,
            model=_model(config),
            environment=_environment(trials, about),
            commands=_commands(study, out, images, select, chosen, config),
            notes=[*notes, *seen.notes],
            config=hide_login(written),
            held_out=held_out,
        ),
        out,
    )
    files = [] if sheets is None else [sheets / picture.name for picture in seen.others]
    for file, picture in zip(files, seen.others, strict=True):
        write_by_rename(file, picture.png)
    if sheets is not None:
        say(f"wrote {sheets}: {len(files)} contact sheets")
    unsent = send_report(Path(study), out, files) if log and (Path(study) / FILE).is_file() else None
    return [*notes, *seen.notes, *([unsent] if unsent else [])]


def _members(trials: pd.DataFrame, info: StudyInfo, select: Sequence[str]) -> list[Member]:
    """Each trial once, with all rules that took it."""
    names = [objective["name"] for objective in info["objectives"]]
    firsts = [next((name for name in names if is_cost(name) == cost), None) for cost in (True, False)]
    rules = select or ["knee", *(f"best:{name}" for name in firsts if name)]
    taken: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for rule in dict.fromkeys(rules):
        row = choose(trials, info["objectives"], rule)
        taken.setdefault(str(row["trial_id"]), ([], {str(key): value for key, value in row.items()}))[0].append(rule)
    return [Member(trial_id, tuple(why), row) for trial_id, (why, row) in taken.items()]


def _front_members(trials: pd.DataFrame, info: StudyInfo) -> list[Member]:
    rows = front_table(trials, info["objectives"]).to_dict("records")
    return [Member(str(row["trial_id"]), ("on the front",), {str(k): v for k, v in row.items()}) for row in rows]


def _config(folder: Path) -> tuple[Config | None, list[str]]:
    """What a report needs of the study's configuration, so that sections of another version do not matter."""
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text())
        recovery = {"autocast": values.get("recovery", {}).get("autocast", False)}
        return saved_config(values | {"recovery": recovery}, str(path), "recovery"), []
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        reason = f"{path} is missing or corrupt"
    except MedcoreError as error:
        reason = str(error)
    return None, [f"Without the study's configuration there are no contact sheets: {reason}."]


def _look(
    config: Config,
    folder: Path,
    members: Sequence[Member],
    others: Sequence[Member],
    measured: pd.DataFrame,
    count: int,
    say: Callable[[str], None],
) -> _Seen:
    """Contact sheets and the dense model's metrics; a note where data or checkpoints are absent.

    others: whose sheets are not for the page.
    """
    present = [member for member in members if checkpoint_file(folder, member.row).is_file()]
    if not present:
        return _Seen(notes=[f"No contact sheets: the study holds no checkpoint of trial {_names(members)}."])
    try:
        sheets = Sheets(config)
        say(f"the dense model on {len(sheets)} search images")
        seen = _Seen(dense_images=sheets.dense_images())
        seen.sheets, seen.notes = sheets.draw(folder, members, measured, count, say)
    except MedcoreError as error:
        return _Seen(notes=[f"No contact sheets, and no intervals of what is given up: {error}."])
    try:
        most = len(others) * MAX_BYTES
        seen.others, notes = sheets.draw(folder, others, measured, count, say, most) if others else ([], [])
    except MedcoreError as error:
        notes = [f"No contact sheets of the other front members: {error}."]
    seen.notes += [note for note in notes if note not in seen.notes]
    return seen


def _data(config: Config | None, measured: pd.DataFrame) -> list[dict[str, str]]:
    """A row a data set: its folder, and how many images each part of it has, as far as the folder tells."""
    searched = {name: part["name"].nunique() for name, part in measured.groupby("dataset")} if len(measured) else {}
    if config is None:
        return [{"data set": str(name), "used by the search": str(count)} for name, count in searched.items()] or [
            {"data set": "unknown"}
        ]
    data = config.data
    rows = []
    for folder in data.folders:
        name = folder.resolve().name
        row = {"data set": name, "folder": str(folder)}
        parts = _parts(folder, config.output / "splits")
        uses = {"calibration": data.calibration_split, "search": data.search_split, "held out": data.report_split}
        row |= {f"{use} ({part})": str(len(parts[part])) if part in parts else "–" for use, part in uses.items()}
        row["used for calibration"] = "all" if (most := data.calibration_per_dataset) is None else f"at most {most}"
        row["used by the search"] = str(searched.get(name, "–"))
        rows.append(row)
    return rows


def _parts(folder: Path, place: Path) -> dict[str, list[str]]:
    """The folder's parts, read only; none where it is absent."""
    try:
        names = [sample.name for sample in list_folder(folder).samples]
        return read_splits(folder, names, save_to=saved_file(folder, place), deal=False).parts
    except MedcoreError:
        return {}


def _model(config: Config | None) -> dict[str, str]:
    if config is None:
        return {}
    return {
        "Architecture": str(config.model.architecture or "of the checkpoint"),
        "Model that is pruned": str(config.model.adapted),
        "General model": str(config.model.base),
    }


def _environment(trials: pd.DataFrame, study: Mapping[str, str]) -> dict[str, str]:
    """Where the trials ran, and where this report was made."""
    # a failed trial has none
    known = trials["versions"].dropna() if "versions" in trials else trials.iloc[:0]
    used = known.iloc[-1] if len(known) else None
    seconds = pd.to_numeric(trials.get("seconds", pd.Series(dtype=float))).sum()
    revisions = [] if "git" not in trials else trials["git"].dropna().unique().tolist()
    return {
        "Machine of the search": study.get("machine", "unknown"),
        "Versions of the search": _words(used) if isinstance(used, Mapping) else "unknown",
        "Git revisions of the trials": ", ".join(map(str, revisions)) or study.get("git", "unknown"),
        "Time of all trials together": f"{seconds / 3600:.2f} h",
        "Report made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}, git {git_revision()}",
        "Versions of the report": _words(versions()),
    }


def _commands(
    study: str, out: Path, images: int, select: Sequence[str], chosen: Member, config: Config | None
) -> dict[str, str]:
    words = ["medcore", "report", study, "--out", str(out), "--images", str(images)]
    words += [word for rule in select for word in ("--select", rule)]
    commands = {"This report": shlex.join(words)}
    if study.startswith("mlflow:") or config is None:
        return commands
    file = f"{chosen.trial_id}.safetensors"
    return commands | {
        "The search, or going on with it": shlex.join(["medcore", "search", f"{study}/config.yaml", "--resume"]),
        "The chosen model as a file": shlex.join(
            ["medcore", "export", study, "--select", f"trial:{chosen.trial_id}", "--out", file]
        ),
    }


def _held_out(folder: Path) -> list[HeldOutRow]:
    """All measurements that the study has kept, the dense model's first."""
    known = sorted(read_measurements(folder), key=lambda found: (found.split, found.trial_id is not None))
    rows = []
    for found in known:
        images = read_measured_images(folder, found)
        cells = {
            METRICS[name].title: f"{text(name, found.metrics[name])} ({interval_text(images, name)})"
            for name in METRICS
            if name in found.metrics
        }
        rows.append(HeldOutRow(found.name, found.split, found.images, cells))
    return rows


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _names(members: Sequence[Member]) -> str:
    return ", ".join(member.trial_id for member in members)
