"""What all descriptions in MLflow share: how they end, and how figures are written.

A description ends with a line that the page does not show. A text that users put below it stays.
"""

from __future__ import annotations

import shlex

from medcore.errors import printable
from medcore.quality.catalogue import headlines
from medcore.quality.figures import FIGURES
from results.pages.markdown import plain
from results.stats import labels
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow

#: Ends what medcore writes of a description.
END = "<!-- medcore writes what is above this line; your own text below it stays -->"
#: How a description of earlier versions began after the study's name. It had no such line.
_EARLIER = ": how far each block of"
#: Most characters in the tag of a run, which MLflow cuts, and in that of an experiment, which old servers refuse.
LONGEST, LONGEST_OF_EXPERIMENT = 8000, 5000
#: Most characters of a run's description as medcore writes it, so that users have room for words of their own.
MOST = 7000
#: Costs in tables, the FLOPs that run first.
COSTS = ("flops_fraction", "flops_paper_fraction")


def own_words(earlier: str | None) -> str:
    """Return the user's own words in a description, as they follow a new one; empty if there are none."""
    if not earlier:
        return ""
    before, mark, own = earlier.partition(END)
    if not mark:
        own = "" if _EARLIER in before.partition("\n")[0] else f"\n\n{before}"
    return own if own.strip() else ""


def room_above(own: str) -> int:
    """Return how many characters a run's description may have above a user's own words."""
    return min(MOST, LONGEST - len(own))


def one_line(row: TrialRow) -> str:
    """Return a trial in one line: `t0007: FLOPs left 22.1 %, BF1 0.712`."""
    names = [name for name in ("flops_fraction", headlines()[0]) if row.figure(name) is not None]
    return f"{row.trial_id}: " + ", ".join(f"{short(name)} {cell(name, row.figure(name))}" for name in names)


def take_command(study: str) -> str:
    """Return the command that takes a study's knee."""
    return printable(shlex.join(["medcore", "export", study, "--select", "knee", "--out", "best.safetensors"]))


def server_command(server: str) -> str:
    """Return the command that names a server to the commands after it."""
    return printable(f"export MLFLOW_TRACKING_URI={shlex.quote(server)}")


def with_dense(name: str, row: TrialRow, info: StudyInfo) -> str:
    """Write a figure next to the dense model's; shares need no comparison."""
    words, dense = f"{short(name)} {cell(name, row.figure(name))}", info.dense.get(name)
    return words if name in COSTS or dense is None else f"{words} (dense {cell(name, dense)})"


def short(name: str) -> str:
    """Return the title of a figure for narrow places."""
    return FIGURES[name].short if name in FIGURES else name


def heading(name: str) -> str:
    """Return the title of a figure's column, with its unit, in Markdown."""
    unit = FIGURES[name].unit if name in FIGURES and FIGURES[name].kind == "plain" else ""
    return plain((short(name) if name in COSTS else labels.title(name)) + (f" ({unit})" if unit else ""))


def cell(name: str, value: float | None) -> str:
    """Write a figure without its unit; a missing one is a dash."""
    if value is None or value != value:
        return "–"
    if name in FIGURES and FIGURES[name].kind == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.4f}" if abs(value) < 1 else labels.si(value)
