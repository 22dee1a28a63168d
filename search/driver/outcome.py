"""The outcome of a search, as numbers and as one line of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcore.errors import one_line
from results.store.trials import all_rows


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    Attributes:
        done: Trials that are complete.
        failed: Trials that could not be completed.
        wanted: Size of the whole search.
        interrupted: Whether the user stopped it before all trials ended.
        message: One line for people, which says why and what to do if trials are missing.
        stopped: Trials that a scheduler stopped early.
    """

    done: int
    failed: int
    wanted: int
    interrupted: bool
    message: str
    stopped: int = 0

    @property
    def complete(self) -> bool:
        """Whether every trial has ended."""
        return self.done + self.failed + self.stopped >= self.wanted

    @property
    def is_empty(self) -> bool:
        """Whether every trial has ended and none is complete, so that there is no front."""
        return self.complete and not self.done


def outcome_of(
    study: Path, trials: int, interrupted: bool, *, problem: str | None, excluded: Sequence[str], command: str
) -> Outcome:
    """Return the outcome that a study's rows show.

    Args:
        study: The study's folder.
        trials: Size of the whole search.
        interrupted: Whether the user stopped it.
        problem: Why it ended early, if it did.
        excluded: Each excluded node and why.
        command: What the user types to continue.
    """
    rows = all_rows(study)
    counts = Counter(row.status for row in rows)
    ended = sum(counts.values())
    summary = f"{counts['done']} trials done, {counts['failed']} failed"
    reasons = Counter(row.reason or "unknown reason" for row in rows if row.status == "failed")
    if reasons and not counts["done"]:
        reason, often = reasons.most_common(1)[0]
        summary += f" ({often} of them: {one_line(reason, 300)})"
    if counts["stopped"]:
        summary += f", {counts['stopped']} stopped early"
    nodes = "".join(f"; excluded was {line}" for line in excluded if line not in (problem or ""))
    if ended >= trials:
        message = summary + nodes
    else:
        why = "stopped by request" if interrupted else f"ended early ({problem or 'Ray Tune stopped without a reason'})"
        message = f"{why}: {summary}, {trials - ended} of {trials} missing{nodes}; go on with: {command}"
    is_interrupted = interrupted and ended < trials
    return Outcome(counts["done"], counts["failed"], trials, is_interrupted, message, stopped=counts["stopped"])
