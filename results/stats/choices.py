"""What a trial chose besides its budget, in a few words: criterion and schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_KEYS = ("criterion", "blend", "order", "rounds", "rescore")
_ORDERS = {"heads_first": "heads first", "mlp_first": "MLP first", "together": "together"}


def chose(row: Mapping[str, Any]) -> str:
    """`fisher + medcore, 2 rounds, fresh scores, together`; empty for rows of a study that knows no such choice."""
    criterion, blend, order, rounds, rescore = (row.get(f"param/{key}") for key in _KEYS)
    if isinstance(weights := row.get("weights"), Mapping):  # what ran: a start made by hand may lie outside the space
        criterion, blend = weights["criterion"], weights["blend"]
    if criterion is None or order is None or rounds is None:
        return ""
    name = str(criterion)
    if criterion != "medcore" and blend is not None and float(blend) < 1:
        name += " + medcore"
    parts = [name, f"{int(rounds)} round{'' if int(rounds) == 1 else 's'}"]
    # fresh scores need a second round
    parts += ["fresh scores"] if rescore == "yes" and int(rounds) > 1 else []
    return ", ".join([*parts, _ORDERS.get(str(order), str(order))])


def differ(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the trials chose differently, so that it is worth a column."""
    return len({chose(row) for row in rows}) > 1
