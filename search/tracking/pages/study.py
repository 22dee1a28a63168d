"""The description of a study's run in MLflow."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from medcore.errors import printable
from medcore.quality.catalogue import headlines
from results.pages.markdown import code, plain
from results.stats import labels
from results.stats.columns import HELD_OUT
from results.stats.labels import is_cost
from results.stats.objectives import names_of
from results.store.held_out import held_out_means
from search.tracking.note import StudyNote
from search.tracking.pages.front import front_lines
from search.tracking.pages.standing import Place, Standing
from search.tracking.pages.text import COSTS, END, cell, server_command, short, take_command, with_dense


def study_page(note: StudyNote, standing: Standing, place: Place, room: int, picture: str = "") -> str:
    """Return the description of a study's run.

    It has question, state, front, knee, held-out figures, and how to take a model if there is one.

    Args:
        note: How the study was described at its start.
        standing: How it stands.
        place: Where it is.
        room: Most characters, as long as the table has at least one member of the front.
        picture: Address of the front's picture, relative to the server; empty if there is none.
    """
    info, params = standing.info, note.params
    goals = ", ".join(f"{labels.title(goal.name)} {'↓' if goal.lower_is_better else '↑'}" for goal in info.objectives)
    splits = params.get("data.search_split", "?"), params.get("data.report_split", "?")
    adapted, base = (PurePath(params.get(f"model.{name}", "?")).name for name in ("adapted", "base"))
    # MLflow shows the first lines, and the rest after a click
    state = plain(standing.state(params.get("search.trials", "?")))
    first = [
        f"**[The front in the table of runs]({place.front})** · {state}",
        *_knee_lines(standing, place),
    ]
    head = [
        "<br>".join(first),
        "",
        f"How far can each block of {code(adapted)} be pruned without losing the boundary? "
        f"(general model {code(base)})",
        "",
    ]
    tail = [
        *_held_out_lines(standing),
        *_take_lines(standing, place),
        *(f"- trial {plain(key)} is registered as {code(f'models:/{name}')}" for key, name in place.registered.items()),
        "",
        f"- objectives: {plain(goals)}",
        f"- data: {', '.join(map(code, note.datasets))}; searched on {code(splits[0])}, held out: {code(splits[1])}",
        f"- FLOPs left: of the dense encoder, as they run ({code('flops_fraction')})",
        "- by the paper's count: the same share as the MedCore paper counts FLOPs",
        f"- {code('front.html')} among the artifacts is the front as an interactive picture",
        *(["", f"![front]({picture})"] if picture else []),
        "",
        END,
    ]
    rest = "\n".join(tail)
    return "\n".join([*head, *front_lines(standing, place, room - len("\n".join([*head, "", rest]))), rest])


def _knee_lines(standing: Standing, place: Place) -> list[str]:
    """Return a line on the knee, and one on how to take it."""
    best = standing.chosen
    if best is None:
        return []
    quality = [name for name in names_of(standing.info.objectives) if not is_cost(name)]
    names = [name for name in (*COSTS, *quality) if best.figure(name) is not None]
    figures = ", ".join(with_dense(name, best, standing.info) for name in names)
    take = code(_commands(place, best.trial_id)[-1])
    return [f"**Knee: {plain(best.trial_id)}**, {figures}", f"Take it: {take}"]


def _take_lines(standing: Standing, place: Place) -> list[str]:
    """Return the commands that show the front and take its knee; none without a front."""
    if standing.knee is None:
        return []
    return ["**Take a model:**", "", "```", *_commands(place, standing.knee), "```"]


def _held_out_lines(standing: Standing) -> list[str]:
    """Return what was measured on held-out images."""
    lines = []
    for each in standing.measured:
        means = held_out_means(each)
        known = [name for name in headlines() if HELD_OUT + name in means]
        words = ", ".join(f"{short(name)} {cell(name, means[HELD_OUT + name])}" for name in known)
        lines.append(f"- held out ({code(each.split)}, {each.images} images): {plain(each.name)}: {words}")
    return [*lines, ""] if lines else []


def _commands(place: Place, best: str) -> list[str]:
    """Return the commands that show the front and take its knee; the last one takes it.

    The study's folder has all models. The server has some of them, and none before the search has ended.

    Args:
        place: Where the study is.
        best: The knee.
    """
    if place.server is None:
        return [printable(shlex.join(["medcore", "front", place.folder])), take_command(place.folder)]
    show = printable(shlex.join(["medcore", "front", place.address]))
    take = take_command(place.address if best in place.models else place.folder)
    return [server_command(place.server), show, take]
