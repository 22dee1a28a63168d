"""The part of a report for which models run again: contact sheets, and the dense model's metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medcore.errors import MedcoreError
from results.pages.report import Member, Picture
from results.plots.contact_sheet import MAX_BYTES
from results.store.trials import checkpoint_file
from search.base.config import Config
from search.export.sheets import Sheets
from search.study.gone import removes_weights


@dataclass(frozen=True)
class Rendering:
    """Which sheets to draw.

    Attributes:
        study: The study's folder.
        members: Members whose sheets are for the page.
        others: Members whose sheets become files.
        images: Metrics of every search image for the trials, which tell the worst images.
        rows: Rows of a sheet; without any, no sheet is drawn.
    """

    study: Path
    members: Sequence[Member]
    others: Sequence[Member]
    images: pd.DataFrame
    rows: int


@dataclass
class Rendered:
    """What running the models gave.

    Attributes:
        sheets: Contact sheets for the page.
        others: Contact sheets for files.
        dense_images: Metrics of every search image for the dense model.
        notes: What is missing, and why.
    """

    sheets: list[Picture] = field(default_factory=list)
    others: list[Picture] = field(default_factory=list)
    dense_images: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)


def _metrics_alone(config: Config, say: Callable[[str], None]) -> Rendered:
    """Measure the dense model and draw nothing."""
    try:
        sheets = Sheets(config.model, config.datasets, autocast=config.recovery.autocast)
        say(f"the dense model on {len(sheets)} search images")
        return Rendered(dense_images=sheets.dense_images())
    except MedcoreError as error:
        return Rendered(notes=[f"No intervals of what is given up: {error}."])


def render(config: Config, wanted: Rendering, say: Callable[[str], None]) -> Rendered:
    """Draw the contact sheets and measure the dense model.

    Leave a note where data or checkpoints are absent.
    """
    study, images, rows = wanted.study, wanted.images, wanted.rows
    if not rows:
        return _metrics_alone(config, say)
    if not any(checkpoint_file(study, member.row).is_file() for member in wanted.members):
        names = ", ".join(member.trial_id for member in wanted.members)
        why = ", because search.keep: front removed weights off the front" if removes_weights(study) else ""
        return Rendered(notes=[f"No contact sheets: the study holds no checkpoint of trial {names}{why}."])
    try:
        sheets = Sheets(config.model, config.datasets, autocast=config.recovery.autocast)
        say(f"the dense model on {len(sheets)} search images")
        rendered = Rendered(dense_images=sheets.dense_images())
        rendered.sheets, rendered.notes = sheets.draw(study, wanted.members, images, rows, say)
    except MedcoreError as error:
        return Rendered(notes=[f"No contact sheets, and no intervals of what is given up: {error}."])
    notes: list[str] = []
    try:
        if wanted.others:
            most = len(wanted.others) * MAX_BYTES
            rendered.others, notes = sheets.draw(study, wanted.others, images, rows, say, most_bytes=most)
    except MedcoreError as error:
        notes = [f"No contact sheets of the other front members: {error}."]
    rendered.notes += [note for note in notes if note not in rendered.notes]
    return rendered
