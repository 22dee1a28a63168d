"""Commands before a study: init and check."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from medcore.errors import printable
from search.base.config import load_config, override
from search.cli.options import ConfigPath, RayAddress
from search.cli.terminal import LOADING, say, show, status, warn

if TYPE_CHECKING:
    from search.commands.before.check import Checked
    from search.commands.before.survey import DataSurvey

#: Reasons that a table lists for each data set.
_REASONS = 8


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with checkpoints and data sets, in folders of any depth.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: FOLDER/medcore.yaml.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Known architecture of checkpoints that do not tell their own, such as medsam2.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a configuration from what is found in a folder.

    Comments in the file say what was found and why it was chosen.
    """
    status.doing("looking for checkpoints and data sets", logged=False)
    from search.commands.before.init import init as run

    written = run(folder, out, arch=arch, force=force)
    for line in written.lines:
        say(line)
    say(f"wrote {written.path}\nnext: medcore check {written.path}")


def check(
    config: ConfigPath,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    ray_address: RayAddress = None,
    picture: Annotated[
        Path | None, typer.Option(help="File for a picture of a few masks; default: check.png in the study's folder.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, max=40, help="Samples of each data set in the picture; 0: no picture of a patient.")
    ] = 4,
    resume: Annotated[bool, typer.Option("--resume", help="Check before a study is resumed.")] = False,
) -> None:
    """Check a configuration, its checkpoints and every image, and estimate time and disk.

    No trial starts. The exit code is 2 if a search would fail.
    """
    status.doing(LOADING, logged=False)
    from search.commands.before.check import check as run

    settings = override(load_config(config), trials=None, name=name, tracking_uri=None)
    checked = run(
        settings, resume=resume, ray_address=ray_address, picture=picture, images=images, report=status.report
    )
    show(_checks_table(checked))
    if checked.surveys:
        show(_data_table(checked.surveys), _splits_table(checked.surveys))
    for each in checked.surveys:
        for line in _left_out(each):
            say(line)
    if checked.picture is not None:
        say(f"wrote {checked.picture}")
    if line := _forecast(checked):
        say(line)
    problems = list(dict.fromkeys(problem for each in checked.found.values() for problem in each.problems))
    for problem in problems:
        warn(f"problem: {problem}")
    if problems:
        raise typer.Exit(2)


def _checks_table(checked: Checked) -> Table:
    """Show the outcome of each check."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("check", "", "found"):
        table.add_column(title, overflow="fold")
    for name, found in checked.found.items():
        state = Text("problem", "bold red") if found.problems else Text("note" if found.notes else "ok", "green")
        words = "; ".join(filter(None, [found.text, *found.problems, *found.notes]))
        table.add_row(name, state, printable(words))
    return table


def _data_table(surveys: list[DataSurvey]) -> Table:
    """Show what each data folder holds."""
    table = Table(title="every image, read once", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("data set", overflow="fold")
    for title in ("images", "usable", "objects", "left out"):
        table.add_column(title, justify="right")
    for title in ("sizes", "values of masks"):
        table.add_column(title, overflow="fold")
    for each in surveys:
        figures = map(str, (each.listed, len(each.usable), each.objects, len(each.skipped)))
        table.add_row(printable(each.name), *figures, _sizes(each.sizes), printable(", ".join(each.values)))
    return table


def _splits_table(surveys: list[DataSurvey]) -> Table:
    """Show how many usable images each split has."""
    table = Table(title="usable images by split", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("data set", overflow="fold")
    splits = list(dict.fromkeys(split for each in surveys for split in each.parts))
    for split in splits:
        table.add_column(printable(split), justify="right")
    for each in surveys:
        table.add_row(printable(each.name), *(str(each.parts.get(split, "–")) for split in splits))
    return table


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Return the one size, or the smallest and the largest, and how many there are."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    if not ordered:
        return "–"
    names = [f"{width}×{height}" for width, height in ordered]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} sizes)"


def _left_out(survey: DataSurvey) -> list[str]:
    """Return one line for each reason why files were left out, the most frequent first."""
    reasons = Counter(entry.reason for entry in survey.skipped)
    lines = []
    for reason, count in reasons.most_common(_REASONS):
        first = next(entry for entry in survey.skipped if entry.reason == reason)
        lines.append(f"left out of {survey.name}: {count} × {reason}, such as {first.path}")
    if len(reasons) > _REASONS:
        lines.append(f"left out of {survey.name}: {len(reasons) - _REASONS} further reasons")
    return lines


def _forecast(checked: Checked) -> str:
    """Say how long a search takes, and how much disk; empty if that is not known."""
    from search.base.terminal.times import duration
    from search.study.disk import size_text

    if checked.time is None or checked.need is None:
        return ""
    time, need = checked.time, checked.need
    what, first = ("a search", "first") if not checked.finished else ("the rest of the search", "next")
    return (
        f"{what} takes about {duration(time.total)} on an idle machine and at most {size_text(need.most)} of disk: "
        f"{duration(time.before)} before the {first} trial; a trial that runs to its end takes {duration(time.trial)}, "
        f"{checked.at_once} at once"
    )
