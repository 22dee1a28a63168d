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
from medcore.quality.catalogue import cost_shares, figures, headlines
from results.pages.front_files import front_cells
from results.pages.noise import noise_sentences, recovered_sentence, repeats_sentence
from results.plots.front import front_divs
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

    `cells` has the mean with the 95 % interval by metric.
    """

    model: str
    split: str
    images: int
    cells: Mapping[str, str]


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
        answer=_answer(report),
        dense=_dense(info.dense),
        repeats=repeats_sentence(report.front),
        recovered=recovered_sentence(report.front),
        noise=noise_sentences(report.front),
        failures=_failures(report.trials),
        front=front_cells(report.front),
        figures=front_divs(report.trials, info.objectives, f"Pareto front of {info.name}"),
        times=_times(report.trials),
        timed_on=timed_on(report.front.members),
        pictures=_pictures(report),
        changes=[_change(row) for row in report.loss.to_dict("records")],
        paired=bool(report.loss["lo"].notna().any()),
    )
    write_by_rename(path, html.encode())


def _shown(value: Any) -> Any:
    """Return a value of the page; control codes out of files become escapes. HTML of ours stays as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value, keep="\n")


def _times(trials: pd.DataFrame) -> str:
    """Return the picture of FLOPs and time as HTML, which needs plotly's script.

    The text is empty if nothing was measured.
    """
    figure = latency_figure(trials)
    if figure is None:
        return ""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id="times", config={"responsive": True}))


def _goals(objectives: Sequence[Objective]) -> str:
    words = [f"{labels.title(goal.name)} {'down' if goal.lower_is_better else 'up'}" for goal in objectives]
    return ", ".join(words)


def _answer(report: Report) -> list[str]:
    """Describe the chosen model by its costs, by what it keeps and loses, and by its spread over seeds."""
    row = report.members[0].row
    lines = [
        f"{labels.title(name)}: {labels.text(name, value)}"
        for name in (*cost_shares(), "latency_ms_fraction")
        if (value := row.figure(name)) is not None
    ]
    whole = report.loss[report.loss["dataset"] == ALL]
    for change in whole[whole["metric"].isin(headlines())].to_dict("records"):
        cells = _change(change)
        sure = f" (95 %: {cells['interval']})" if cells["interval"] else ""
        lines.append(
            f"{cells['metric']}: {cells['chosen']} instead of {cells['dense']} of the dense model, not recovered, "
            f"{cells['difference']}{sure}: {cells['verdict']}"
        )
    return lines + _over_seeds(row, report.front)


def _over_seeds(row: TrialRow, front: Front) -> list[str]:
    """Return the interval over seeds of each objective that is no cost; none for a single run."""
    intervals = {name: seed_interval(row.metrics, name) for name in front.objectives_of_quality}
    return [
        f"{labels.title(name)} over {runs_in(row.metrics)} seeds (95 %): {ends[0]:.4g} to {ends[1]:.4g}"
        for name, ends in intervals.items()
        if ends is not None
    ]


def _change(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return a row of `quality_loss` as text with a verdict.

    The verdict is a word, so that it does not depend on colour.
    """
    name, difference = str(row["metric"]), float(row["difference"])
    # a difference is as fine as what it is between
    digits = 4 if max(abs(row["dense"]), abs(row["chosen"])) < 1 else 2
    lower = labels.lower_is_better(name)
    interval = "" if np.isnan(row["lo"]) else f"{_signed(row['lo'], digits)} to {_signed(row['hi'], digits)}"
    verdict = "worse" if (difference > 0) == lower else "better"
    if not difference or (interval and row["lo"] <= 0 <= row["hi"]):
        verdict = "no clear difference"
    return {
        "metric": labels.title(name),
        "dataset": "all (macro mean)" if row["dataset"] == ALL else str(row["dataset"]),
        "dense": f"{row['dense']:.{digits}f}",
        "chosen": f"{row['chosen']:.{digits}f}",
        "difference": _signed(difference, digits),
        "interval": interval,
        "verdict": verdict,
    }


def _uncapitalised(text: str) -> str:
    """Return the text with a small first letter.

    A text that begins with an abbreviation stays as it is.
    """
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _signed(value: float, digits: int) -> str:
    """Write a number with its sign, a true minus; zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


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
