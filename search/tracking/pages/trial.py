"""The description of a trial's run in MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from medcore.quality.catalogue import headlines
from results.pages.markdown import plain
from results.stats.choices import schedule_summary
from results.stats.objectives import names_of
from results.stats.seed_noise import runs_in
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow
from search.tracking.pages.text import COSTS, END, cell, short, with_dense

#: In the description of a trial's run if the trial is on the front.
ON_FRONT = "**On the front**"
_BARS = "▁▂▃▄▅▆▇█"


def trial_page(row: TrialRow, info: StudyInfo, study: str, notes: Sequence[str] = ()) -> str:
    """Return the description of a trial's run: what it is, its figures, its budget as bars.

    Args:
        row: The trial.
        info: The study.
        study: Page of the study's run, relative to the server.
        notes: Further paragraphs in Markdown, for example on the front.
    """
    what = f"repeat of {row.repeats} with another seed" if row.repeats else row.origin or "trial"
    lines = [f"**{plain(row.trial_id)}**, {plain(what)}, of the study [{plain(info.name)}]({study})", ""]
    if row.reason:
        lines += [f"{row.status}: {plain(row.reason)}", ""]
    names = [name for name in (*COSTS, *headlines(), *names_of(info.objectives)) if row.figure(name) is not None]
    figures = [with_dense(name, row, info) for name in dict.fromkeys(names)]
    lines += [", ".join(figures), ""] if figures else []
    lines += [f"Chose: {plain(chose)}", ""] if (chose := schedule_summary(row)) else []
    for note in notes:
        lines += [note, ""]
    bars = [_bar(name, row, info) for name in row.budget if len(_widths(name, row, info)) == len(row.budget[name])]
    if bars:
        lines += ["Kept of each block, from the first to the last (· is nothing):", "", "```", *bars, "```", ""]
    return "\n".join([*lines, END])


def member(row: TrialRow, front: str, is_knee: bool) -> str:
    """Return what a description says of a member of the front, with its means if it is repeated.

    Args:
        row: The trial, with means over its runs.
        front: Page of the front, relative to the server.
        is_knee: Whether the rule `knee` takes it.
    """
    words = f"{ON_FRONT}{', and its knee' if is_knee else ''} ([the whole front]({front}))."
    runs = runs_in(row.to_flat())
    names = [name for name in headlines() if row.figure(name) is not None]
    means = ", ".join(f"{short(name)} {cell(name, row.figure(name))}" for name in names)
    return words if runs == 1 else f"{words} Means over {runs} runs: {means}."


def _bar(family: str, row: TrialRow, info: StudyInfo) -> str:
    """Draw how much of a family each site keeps, with the share of all its groups."""
    kept, widths = row.budget[family], _widths(family, row, info)
    shares = [have / max(1, width) for have, width in zip(kept, widths, strict=True)]
    bars = "".join("·" if not share else _BARS[min(7, int(8 * share))] for share in shares)
    return f"{family:<12} {bars}  {100 * sum(kept) / max(1, sum(widths)):.0f} %"


def _widths(family: str, row: TrialRow, info: StudyInfo) -> list[int]:
    """Return a family's groups of every site of the dense model; none if the study does not know the family."""
    widths = info.widths.get(family, [])
    return widths if isinstance(widths, list) else [widths] * len(row.budget[family])
