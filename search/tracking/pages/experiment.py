"""The description of an experiment in MLflow: its studies."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from medcore.errors import printable
from results.pages.markdown import code, plain
from search.tracking.pages.text import END, take_command


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


def experiment_page(studies: Sequence[Entry], server: str | None, address: str) -> str:
    """Return the description of an experiment.

    Args:
        studies: The newest first.
        server: As in `Place`.
        address: The newest study at that server, as commands take it.
    """
    # MLflow shows the first line, and the rest after a click
    lines = [
        f"**[front of {plain(each.name)}]({each.front})** · {plain(each.line)} · [table and commands]({each.run})<br>"
        for each in studies
    ]
    given = [] if server is None else [printable(f"export MLFLOW_TRACKING_URI={shlex.quote(server)}")]
    lines += [
        "",
        "Take the knee of the first one, if its search has ended:",
        "",
        "```",
        *given,
        take_command(address),
        "```",
        "",
        "These are studies of MedCore search: how far can each block of a segmentation model be pruned without losing "
        "the boundary? Each run below a study's run is a trial; its figure "
        f"{code('flops_fraction')} is the share of the dense encoder's FLOPs that is left.",
        "",
        END,
    ]
    return "\n".join(lines)
