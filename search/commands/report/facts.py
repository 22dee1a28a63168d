"""Collect a report's data sets, models, environment, commands and held-out measurements."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.data.kept_splits import folder_splits
from medcore.data.readers import list_folder
from medcore.errors import MedcoreError
from medcore.quality.catalogue import shown
from results.pages.report import HeldOutRow, Member
from results.stats.labels import NOT_RECOVERED, text, title
from results.store.held_out import interval_text, read_measured_images, read_measurements
from results.store.study_info import StudyInfo
from search.base.config import Config
from search.base.provenance import git_revision, machine, versions


@dataclass(frozen=True)
class Call:
    """The arguments of the report that it repeats as a command."""

    study: str
    out: Path
    images: int
    select: tuple[str, ...]


def data_sets(config: Config | None, images: pd.DataFrame) -> list[dict[str, str]]:
    """Return a row per data set.

    It has the folder, and how many images each split has if the folder is there.

    Args:
        config: The study's configuration; None if it cannot be read.
        images: Metrics of every search image for the trials.
    """
    searched = {name: part["name"].nunique() for name, part in images.groupby("dataset")} if len(images) else {}
    if config is None:
        rows = [{"data set": str(name), "used by the search": str(count)} for name, count in searched.items()]
        return rows or [{"data set": "unknown"}]
    section, rows = config.data, []
    most = section.calibration_per_dataset
    purposes = {
        "calibration": section.calibration_split,
        "search": section.search_split,
        "held out": section.report_split,
    }
    for folder in section.folders:
        name, splits = folder.resolve().name, _splits(folder, config.datasets.splits)
        row = {"data set": name, "folder": str(folder)}
        for purpose, split in purposes.items():
            row[f"{purpose} ({split})"] = str(len(splits[split])) if split in splits else "–"
        row["used for calibration"] = "all" if most is None else f"at most {most}"
        row["used by the search"] = str(searched.get(name, "–"))
        rows.append(row)
    return rows


def _splits(folder: Path, saved: Path) -> dict[str, list[str]]:
    """Return the folder's splits without drawing any; none if the folder is absent."""
    try:
        return folder_splits(folder, list_folder(folder).samples, saved, deal=False).names
    except MedcoreError:
        return {}


def models(config: Config | None) -> dict[str, str]:
    """Return the study's architecture and checkpoints.

    The result is empty without a configuration.
    """
    if config is None:
        return {}
    return {
        "Architecture": str(config.model.architecture or "of the checkpoint"),
        "Model that is pruned": str(config.model.adapted),
        "General model": str(config.model.base),
    }


def environment(runs: pd.DataFrame, info: StudyInfo) -> dict[str, str]:
    """Return where all runs of the study ran, and where this report was made."""
    # a failed trial has no versions
    known = runs["versions"].dropna() if "versions" in runs else runs.iloc[:0]
    used = known.iloc[-1] if len(known) else None
    seconds = pd.to_numeric(runs.get("seconds", pd.Series(dtype=float))).sum()
    revisions = [] if "git" not in runs else runs["git"].dropna().unique().tolist()
    about = {name: str(value) for name, value in info.to_dict().items() if name in ("git", "machine")}
    return {
        "Machine of the search": about.get("machine", "unknown"),
        "Versions of the search": _words(used) if isinstance(used, Mapping) else "unknown",
        "Git revisions of the trials": ", ".join(map(str, revisions)) or about.get("git", "unknown"),
        "Time of all trials together": f"{seconds / 3600:.2f} h",
        "Report made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine()}, git {git_revision()}",
        "Versions of the report": _words(versions()),
    }


def commands(call: Call, chosen: Member, config: Config | None) -> dict[str, str]:
    """Return commands by purpose.

    The commands repeat this report and, for a study in a folder, its search and its export.
    """
    words = ["medcore", "report", call.study, "--out", str(call.out), "--images", str(call.images)]
    words += [word for rule in call.select for word in ("--select", rule)]
    listed = {"This report": shlex.join(words)}
    if call.study.startswith("mlflow:") or config is None:
        return listed
    search = ["medcore", "search", f"{call.study}/config.yaml", "--resume"]
    export = ["medcore", "export", call.study, "--select", f"trial:{chosen.trial_id}"]
    listed["The search, or going on with it"] = shlex.join(search)
    listed["The chosen model as a file"] = shlex.join([*export, "--out", f"{chosen.trial_id}.safetensors"])
    return listed


def held_out_rows(folder: Path) -> list[HeldOutRow]:
    """Return all measurements that the study has kept, the dense model's first."""
    known = sorted(read_measurements(folder), key=lambda measured: (measured.split, measured.trial_id is not None))
    rows = []
    for measured in known:
        images = read_measured_images(folder, measured)
        cells = {
            title(name): (text(name, measured.metrics[name]), _bracketed(interval_text(images, name, " to ")))
            for name in shown()
            if name in measured.metrics
        }
        name = NOT_RECOVERED if measured.trial_id is None else measured.name
        rows.append(HeldOutRow(name, measured.split, measured.images, cells))
    return rows


def _bracketed(interval: str) -> str:
    return f"({interval})" if interval else ""


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
