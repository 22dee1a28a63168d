"""The report of a study: one HTML file that needs neither a network nor other files."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medcore.errors import printable
from medcore.quality.catalogue import cost_shares, figures, headlines, known_costs, latency_names
from results.pages.compared import Compared, change_rows, change_sentences
from results.pages.glossary import glossary, tips
from results.pages.noise import noise_sentences, recovered_sentence, repeats_sentence
from results.pages.other_systems import CAPTION, system_cells
from results.pages.report_tables import common_choice, doubt_of, report_cells, time_cells
from results.plots.front import front_divs, save_front_picture
from results.plots.latency_plot import latency_figure
from results.plots.panels import NothingToDraw
from results.plots.pictures import budget_picture, hypervolume_picture
from results.stats import labels
from results.stats.loss import ALL
from results.stats.objectives import Objective
from results.stats.pareto import front_table
from results.stats.seed_noise import runs_in, seed_interval
from results.store.files import write_by_rename
from results.store.front import Front
from results.store.held_out import candidates_sentence
from results.store.latency import timed_on
from results.store.trial_row import TrialRow

#: Members in the budget picture; a front of hundreds would be a picture of stripes.
_BUDGETS = 40


@dataclass(frozen=True)
class Member:
    """A trial of the front that the report shows, and the rules that chose it."""

    row: TrialRow
    rules: tuple[str, ...]

    @property
    def trial_id(self) -> str:
        """The trial's id."""
        return self.row.trial_id


@dataclass(frozen=True)
class Picture:
    """A PNG with its words; `name` is that of a file that would hold it."""

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture itself, for an `img` element."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class HeldOutRow:
    """A model on a held-out split.

    `cells` has the mean and its 95 % interval by the metric's title.
    """

    model: str
    split: str
    images: int
    cells: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """Content of a report.

    Attributes:
        front: The study's front.
        trials: All trials, with intervals of the front's members.
        members: The first is the chosen one.
        loss: What `results.stats.loss.quality_loss` gives for the chosen one.
        data: A row for each data set.
        sheets: A contact sheet for each member that has one.
        model: Facts about the dense model, by name.
        environment: Facts about the machine and the code, by name.
        commands: Command lines, by what they do.
        notes: What is missing, and why.
        config: The study's configuration as text.
        held_out: What exported models, and the dense one, measured on held-out images.
        compared: The chosen model next to others on held-out images.
        images: Whether pictures of patients were wanted.
    """

    front: Front
    trials: pd.DataFrame
    members: Sequence[Member]
    loss: pd.DataFrame
    data: Sequence[Mapping[str, Any]]
    sheets: Sequence[Picture]
    model: Mapping[str, str]
    environment: Mapping[str, str]
    commands: Mapping[str, str]
    notes: Sequence[str]
    config: str
    held_out: Sequence[HeldOutRow] = ()
    compared: Sequence[Compared] = ()
    images: bool = True


def write_report(report: Report, path: Path) -> None:
    """Write the page, of about 5 MB and the contact sheets.

    Raises:
        StorageError: The file cannot be written.
    """
    page = Environment(
        loader=PackageLoader("results.pages", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    info = report.front.info
    html = page.render(
        report=report,
        study=info.name,
        families=" and ".join(_uncapitalised(family.title) for family in info.prunable()),
        goals=_goals(info.objectives),
        chosen=report.members[0],
        headline=[(each.heading, change_sentences(each.loss, headlines())) for each in report.compared],
        costs=_costs(report.members[0].row),
        searched=_searched(report),
        dense=_dense(info.dense),
        repeats=repeats_sentence(report.front),
        recovered=recovered_sentence(report.front),
        noise=noise_sentences(report.front),
        failures=_failures(report.trials),
        front=report_cells(report.front),
        chose=common_choice(report.front),
        figures=front_divs(report.trials, info.objectives, f"Pareto front of {info.name}"),
        front_picture=_front_picture(report),
        time_rows=time_cells(report.front),
        times=_times(report.trials),
        timed_on=timed_on(report.front.members),
        pictures=_pictures(report),
        changes=change_rows(report.loss),
        held_out_changes=[(each, change_rows(each.loss)) for each in report.compared],
        candidates_sentence=candidates_sentence,
        paired=bool(report.loss["lo"].notna().any()),
        systems=system_cells(report.members[0].row, _own_quality(report)),
        systems_caption=CAPTION,
        glossary=_glossary(report),
        tips=tips(),
        title=labels.title,
    )
    write_by_rename(path, html.encode())


def _shown(value: Any) -> Any:
    """Return a value of the page; control codes out of files become escapes. HTML of ours stays as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value, keep="\n")


def _front_picture(report: Report) -> Picture | None:
    """Draw the front for paper, on which the interactive figure would not fit."""
    info = report.front.info
    return _picture(
        "front.png",
        "Pareto front",
        "",
        lambda path: save_front_picture(report.trials, info.objectives, path, title=f"Pareto front of {info.name}"),
    )


def _glossary(report: Report) -> dict[str, str]:
    """Return explanations of the words and figures that the page has."""
    names = [
        *known_costs(report.front.info.dense),
        *report.front.quality,
        *report.loss["metric"],
        *report.front.info.dense,
    ]
    names += latency_names() if timed_on(report.front.members) else []
    terms = ["Dense model", "Pareto front", "Knee", "Hypervolume", "Search images", "Held-out images", "95 % interval"]
    return glossary(names, terms)


def _times(trials: pd.DataFrame) -> str:
    """Return the picture of FLOPs and time as HTML, which needs plotly's script.

    The text is empty if nothing was measured.
    """
    figure = latency_figure(trials)
    if figure is None:
        return ""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id="times", config={"responsive": True}))


def _goals(objectives: Sequence[Objective]) -> str:
    names = {goal: labels.title(labels.share_of_dense(goal.name)) for goal in objectives}
    return ", ".join(f"{name} {'down' if goal.lower_is_better else 'up'}" for goal, name in names.items())


def _costs(row: TrialRow) -> list[str]:
    """Return what is left of the chosen model's costs, one sentence a figure; a time in doubt is no fact."""
    time = "latency_ms_fraction"
    return [
        f"{labels.title(name)}: "
        + (f"not known, because {doubt}" if name == time and (doubt := doubt_of(row)) else labels.text(name, value))
        for name in (*cost_shares(), time)
        if (value := row.figure(name)) is not None
    ]


def _searched(report: Report) -> list[str]:
    """Return what the search images say of the chosen model: what it keeps and loses, and its spread over seeds."""
    return change_sentences(report.loss, headlines()) + _over_seeds(report.members[0].row, report.front)


def _own_quality(report: Report) -> str:
    """Return the headline figures of the chosen model for the table of other systems, of held-out images if known."""
    loss, images = (report.compared[0].loss, "held-out") if report.compared else (report.loss, "search")
    whole = loss[(loss["dataset"] == ALL) & loss["metric"].isin(headlines())]
    pairs = whole[["metric", "chosen"]].itertuples(index=False, name=None)
    words = [f"{labels.title(name)} {labels.text(name, value)}" for name, value in pairs]
    return f"{', '.join(words)} ({images} images)" if words else ""


def _over_seeds(row: TrialRow, front: Front) -> list[str]:
    """Return the interval over seeds of each objective that is no cost; none for a single run."""
    intervals = {name: seed_interval(row.metrics, name) for name in front.objectives_of_quality}
    return [
        f"{labels.title(name)} over {runs_in(row.metrics)} seeds (95 %): {ends[0]:.4g} to {ends[1]:.4g}"
        for name, ends in intervals.items()
        if ends is not None
    ]


def _uncapitalised(text: str) -> str:
    """Return the text with a small first letter.

    A text that begins with an abbreviation stays as it is.
    """
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _dense(dense: Mapping[str, float | None]) -> dict[str, str]:
    known = [figure for figure in figures() if figure.kind != "share" and dense.get(figure.name) is not None]
    return {figure.title: labels.text(figure.name, dense[figure.name]) for figure in known}


def _failures(trials: pd.DataFrame) -> dict[str, int]:
    """Count the trials that failed, by reason, the most frequent first."""
    failed = trials[trials["status"] == "failed"]
    reasons = failed["reason"].fillna("unknown") if "reason" in failed else pd.Series("unknown", index=failed.index)
    return {str(reason): int(count) for reason, count in reasons.value_counts().items()}


def _pictures(report: Report) -> list[Picture]:
    """Draw figures without interaction; those that have nothing to show are left out."""
    info, front = report.front.info, front_table(report.trials, report.front.info.objectives)
    shown = front.iloc[np.unique(np.linspace(0, len(front) - 1, min(_BUDGETS, len(front))).round().astype(int))]
    some = "" if len(shown) == len(front) else f" Shown are {len(shown)} of {len(front)} members, evenly by cost."
    families = " and ".join(family.name for family in info.prunable())
    pictures = [
        _picture(
            "hypervolume.png",
            "Hypervolume over trials",
            "How much of the space between the reference point and the ideal the trials dominate. A flat end says that "
            "more trials would have found little more.",
            lambda path: hypervolume_picture(report.trials, info.objectives, info.reference, path),
        ),
        _picture(
            "budgets.png",
            "What each member keeps",
            f"Share of {families} left in every encoder block, the cheapest member on top.{some}",
            lambda path: budget_picture(shown, path, info),
        ),
    ]
    return [picture for picture in pictures if picture is not None]


def _picture(name: str, title: str, caption: str, draw: Callable[[Path], None]) -> Picture | None:
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        path = Path(folder) / name
        try:
            draw(path)
        except NothingToDraw:
            return None
        return Picture(name, title, caption, path.read_bytes())
