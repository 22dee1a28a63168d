"""Several problems at once, so that one start shows all that must be done."""

from __future__ import annotations

from collections.abc import Sequence

from medcore.errors import MedcoreError


class ManyProblems(MedcoreError):
    """Problems of several checks or nodes. A cluster may have so many that the message is longer than others."""

    most = 20_000


def listed(problems: Sequence[str]) -> str:
    """Return one problem as it is, several numbered after their count."""
    if len(problems) == 1:
        return problems[0]
    numbered = (f"({number}) {problem}" for number, problem in enumerate(problems, start=1))
    return f"nothing was started, there are {len(problems)} problems: {'; '.join(numbered)}"
