"""Choices of a schedule that need no torch: the order of a round, and how a learning rate falls (method §6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medcore.errors import ConfigError
from medcore.models.architectures import KINDS
from medcore.models.sites import Family

#: Course of a learning rate over a training.
RateSchedule = Literal["constant", "cosine"]
#: The order that cuts all families at once.
TOGETHER = "together"

_FIRST = "_first"


def recovery_rate(fraction: float) -> float:
    """Return the learning rate of a recovery after a refit (13.3).

    Smaller models need larger steps.

    Args:
        fraction: share of the dense encoder's FLOPs that is left, above 0.
    """
    return float(1e-4 * max(1.0, 0.1 / fraction) ** 1.5)


def orders(families: Sequence[Family]) -> tuple[str, ...]:
    """Return the names of the orders for these families.

    There is one that begins with each stage, and one that cuts all at once.
    """
    return (*dict.fromkeys(f"{family.stage}{_FIRST}" for family in families), TOGETHER)


def all_orders() -> tuple[str, ...]:
    """Return the names of the orders of all registered architectures."""
    return tuple(dict.fromkeys(name for kind in KINDS for name in orders(KINDS[kind].families)))


def phase_names(order: str, families: Sequence[Family]) -> list[tuple[str, tuple[Family, ...]]]:
    """Return the pruning phases of one round.

    An order that begins with a stage of another architecture stands for the families' own order.

    Args:
        order: a name in `orders`.
        families: families of the architecture.

    Returns:
        Name of each pruning phase and the families that it cuts. A recovery follows each of them.

    Raises:
        MedcoreError: the order is unknown.
    """
    if order == TOGETHER:
        return [("both" if len(families) == 2 else "all", tuple(families))]
    first = [family for family in families if f"{family.stage}{_FIRST}" == order]
    if not first and order not in all_orders():
        raise ConfigError(f"schedule: unknown order '{order}'; known are {', '.join(orders(families))}")
    rest = [family for family in families if family not in first]
    return [(family.stage, (family,)) for family in (*first, *rest)]
