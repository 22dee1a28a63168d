"""The orders in which one round of a schedule may cut and recover (method §6)."""

from __future__ import annotations

from typing import Literal

Order = Literal["heads_first", "mlp_first", "together"]

#: Phases of a round. A pruning phase is named after the family it cuts; "both" cuts the two at once.
PHASES: dict[str, tuple[str, ...]] = {
    "heads_first": ("heads", "heads_recovery", "mlp", "mlp_recovery"),
    "mlp_first": ("mlp", "mlp_recovery", "heads", "heads_recovery"),
    "together": ("both", "both_recovery"),
}
