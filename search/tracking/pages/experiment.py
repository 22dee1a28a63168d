"""The description of an experiment in MLflow: its studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from results.pages.markdown import code, plain
from search.tracking.pages.text import END, server_command, take_command


@dataclass(frozen=True)
class Entry:
    """A study in the description of its experiment.

    Attributes:
        name: Of the study.
        front: The page with its front, relative to the server.
        run: The page of its run, relative to the server.
        line: How it stands, knee first.
    """

    name: str
    front: str
    run: str
    line: str


@dataclass(frozen=True)
class Newest:
    """Where the model of an experiment's newest study is.

    Attributes:
        address: The study, as commands take it; empty if it has no model.
        server: Address of the server without a login if the study is there; None if it is a folder.
    """

    address: str = ""
    server: str | None = None


def experiment_page(studies: Sequence[Entry], newest: Newest, room: int) -> str:
    """Return the description of an experiment.

    Args:
        studies: The newest first. The oldest ones are left out if there is no room for them.
        newest: Where the model of the first one is.
        room: Most characters, as long as there is at least one study.
    """
    texts = (_page(studies[:count], newest) for count in range(len(studies), 1, -1))
    return next((text for text in texts if len(text) <= room), _page(studies[:1], newest))


def _page(studies: Sequence[Entry], newest: Newest) -> str:
    # MLflow shows the first line, and the rest after a click
    lines = [
        f"**[front of {plain(each.name)}]({each.front})** · {plain(each.line)} · [table and commands]({each.run})<br>"
        for each in studies
    ]
    if newest.address:
        given = [] if newest.server is None else [server_command(newest.server)]
        lines += ["", "Take the knee of the first one:", "", "```", *given, take_command(newest.address), "```"]
    lines += [
        "",
        "These are studies of MedCore search: how far can each block of a segmentation model be pruned without losing "
        "the boundary? Each run below a study's run is a trial; its figure "
        f"{code('flops_fraction')} is the share of the dense encoder's FLOPs that is left.",
        "",
        END,
    ]
    return "\n".join(lines)
