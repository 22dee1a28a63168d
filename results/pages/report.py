"""The report of a study: one HTML file that needs no network and no neighbour."""

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

from medcore.errors import MedcoreError
from results.pages.front_files import front_cells
from results.plots.front import front_divs
from results.plots.latency_plot import latency_figure
from results.plots.pictures import budget_picture, hypervolume_picture
from results.stats import labels
from results.stats.loss import ALL
from results.stats.pareto import Objective, front_table, sign
from results.store.files import write_by_rename
from results.store.latency import timed_on

#: Members in the budget picture; a front of hundreds would be a picture of stripes.
_BUDGETS = 40


@dataclass(frozen=True)
class Member:
    """A trial of the front that the report looks at, and which rules took it."""

    trial_id: str
    rules: tuple[str, ...]
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """`name`: of a file that would hold it."""

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """For an `img` element: the picture itself."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class HeldOutRow:
    """A model on a held-out part; `cells`: by metric, its mean with the 95 % interval."""

    model: str
    split: str
    images: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        front: what `search.commands.front.front` returns. trials: all trials, with intervals of the front's members.
        members: the first is the chosen one. given_up: see `results.stats.loss`, for the chosen one.
        data: a row for each data set. sheets: a contact sheet for each member that has one.
        model, environment, commands: what to call it -> what it is. notes: what is missing, and why.
        config: the study's configuration as text.
        held_out: what exported models, and the dense one, measured on held-out images.
    """

    front: Mapping[str, Any]
    trials: pd.DataFrame
    members: Sequence[Member]
    given_up: pd.DataFrame
    data: Sequence[Mapping[str, Any]]
    sheets: Sequence[Picture]
    model: Mapping[str, str]
    environment: Mapping[str, str]
    commands: Mapping[str, str]
    notes: Sequence[str]
    config: str
    held_out: Sequence[HeldOutRow] = ()


def write_report(report: Report, path: Path) -> None:
    """Write the page, of about 5 MB and the contact sheets. Raises `MedcoreError` if `path` cannot be written."""
    page = Environment(
        loader=PackageLoader("results.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    objectives: list[Objective] = report.front["objectives"]
    html = page.render(
        report=report,
        study=report.front["study"],
        goals=_goals(objectives),
        chosen=report.members[0],
        answer=_answer(report),
        dense=_dense(report.front["dense"]),
        failures=_failures(report.trials),
        front=front_cells(report.front),
        figures=front_divs(report.trials, objectives, f"Pareto front of {report.front['study']}"),
        times=_times(report.trials),
        timed_on=timed_on(report.front),
        pictures=_pictures(report),
        changes=[_change(row) for row in report.given_up.to_dict("records")],
        paired=bool(report.given_up["lo"].notna().any()),
    )
    write_by_rename(path, html.encode())


def _times(trials: pd.DataFrame) -> str:
    """The picture of FLOPs and time as a piece of HTML, which needs plotly's script; empty if nothing was measured."""
    figure = latency_figure(trials)
    if figure is None:
        return ""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id="times", config={"responsive": True}))


def _goals(objectives: Sequence[Objective]) -> str:
    words = [f"{_title(goal['name'])} {'down' if sign(goal['direction']) > 0 else 'up'}" for goal in objectives]
    return ", ".join(words)


def _answer(report: Report) -> list[str]:
    """The chosen model in a few figures: what it costs, what it keeps and gives up."""
    row = report.members[0].row
    lines = [
        f"{_title(name)}: {labels.text(name, float(row[name]))}"
        for name in ("flops_fraction", "flops_paper_fraction", "encoder_params_fraction", "latency_ms_fraction")
        if pd.notna(row.get(name))
    ]
    whole = report.given_up[report.given_up["dataset"] == ALL]
    for change in whole.to_dict("records")[:3]:
        cells = _change(change)
        sure = f" (95 %: {cells['interval']})" if cells["interval"] else ""
        lines.append(
            f"{cells['metric']}: {cells['chosen']} instead of {cells['dense']}, "
            f"{cells['difference']}{sure}: {cells['verdict']}"
        )
    return lines


def _change(row: Mapping[Any, Any]) -> dict[str, str]:
    """A row of `given_up` as text, with a verdict that does not rest on colour."""
    name, difference = str(row["metric"]), float(row["difference"])
    # a difference is as fine as what it is between
    digits = 4 if max(abs(row["dense"]), abs(row["chosen"])) < 1 else 2
    lower = labels.lower_is_better(name)
    interval = "" if np.isnan(row["lo"]) else f"{_signed(row['lo'], digits)} to {_signed(row['hi'], digits)}"
    verdict = "worse" if (difference > 0) == lower else "better"
    if not difference or (interval and row["lo"] <= 0 <= row["hi"]):
        verdict = "no clear difference"
    return {
        "metric": _title(name),
        "dataset": "all (macro mean)" if row["dataset"] == ALL else str(row["dataset"]),
        "dense": f"{row['dense']:.{digits}f}",
        "chosen": f"{row['chosen']:.{digits}f}",
        "difference": _signed(difference, digits),
        "interval": interval,
        "verdict": verdict,
    }


def _signed(value: float, digits: int) -> str:
    """With a sign, which zero has not, and a true minus."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _dense(dense: Mapping[str, float]) -> dict[str, str]:
    names = [name for name in labels.METRICS if name in dense and not name.endswith("_fraction")]
    return {_title(name): labels.text(name, float(dense[name])) for name in names}


def _failures(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials failed, by reason, the most frequent first."""
    failed = trials[trials["status"] == "failed"]
    reasons = failed["reason"].fillna("unknown") if "reason" in failed else pd.Series("unknown", index=failed.index)
    return {str(reason): int(count) for reason, count in reasons.value_counts().items()}


def _pictures(report: Report) -> list[Picture]:
    """Figures without interaction; what cannot be drawn of this study is left out."""
    front, info = front_table(report.trials, report.front["objectives"]), report.front
    shown = front.iloc[np.unique(np.linspace(0, len(front) - 1, min(_BUDGETS, len(front))).round().astype(int))]
    some = "" if len(shown) == len(front) else f" Shown are {len(shown)} of {len(front)} members, evenly by cost."
    drawings: list[tuple[str, str, str, Callable[[Path], None]]] = [
        (
            "hypervolume.png",
            "Hypervolume over trials",
            "How much of the space between the reference point and the ideal the trials dominate. A flat end says that "
            "more trials would have found little more.",
            lambda path: hypervolume_picture(report.trials, info["objectives"], info["reference"], path),
        ),
        (
            "budgets.png",
            "What each member keeps",
            f"Share of heads and channels left in every encoder block, the cheapest member on top.{some}",
            lambda path: budget_picture(shown, path, info["widths"]["heads"], info["widths"]["channels"]),
        ),
    ]
    pictures = []
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        for name, title, caption, draw in drawings:
            try:
                draw(Path(folder) / name)
            except MedcoreError:  # the picture has nothing to show
                continue
            pictures.append(Picture(name, title, caption, (Path(folder) / name).read_bytes()))
    return pictures


def _title(name: str) -> str:
    return labels.METRICS[name].title if name in labels.METRICS else name
