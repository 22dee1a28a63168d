"""What needs no torch in a schedule: the order of a round, and steps and rates of a recovery (method §6, §13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medcore.errors import ConfigError
from medcore.models.architectures import families as known_families
from medcore.models.sites import Family

#: Course of a learning rate over a training.
RateSchedule = Literal["constant", "cosine"]
#: Whose recovery loss: that of the paper's text (6.2), or that of its released code.
LossVariant = Literal["text", "released"]
#: Where the masks lie whose complexity weighs the images of a recovery (6.1).
MaskSize = Literal["square", "low"]
#: Layers of the neck that a refit solves for: none, the 1 × 1 convolutions, or all.
NeckLayers = Literal["none", "pointwise", "all"]
#: The order that cuts all families at once.
TOGETHER = "together"

_FIRST = "_first"
#: Share of the FLOPs at which a recovery has the given number of steps, and the largest factor on them.
_EVEN_AT, _MOST_STEPS = 0.15, 4.0


def recovery_rate(fraction: float) -> float:
    """Return the learning rate of a recovery after a refit (13.3).

    Smaller models need larger steps.

    Args:
        fraction: share of the dense encoder's FLOPs that is left, above 0.
    """
    return float(1e-4 * max(1.0, 0.1 / fraction) ** 1.5)


def even_steps(steps: int, fraction: float) -> int:
    """Return the steps of a recovery whose time hardly depends on what was cut (13.4).

    Args:
        steps: Steps at 15 % of the FLOPs.
        fraction: Share of the dense encoder's FLOPs that is left, above 0.

    Returns:
        Between a quarter of `steps` and four times as many; at least 1 unless `steps` is 0.
    """
    factor = min(_MOST_STEPS, max(1 / _MOST_STEPS, _EVEN_AT / fraction))
    return max(min(1, steps), round(steps * factor))


def orders(families: Sequence[Family]) -> tuple[str, ...]:
    """Return the names of the orders for these families.

    There is one that begins with each stage, and one that cuts all at once.
    """
    return (*dict.fromkeys(f"{family.stage}{_FIRST}" for family in families), TOGETHER)


def all_orders() -> tuple[str, ...]:
    """Return the names of the orders of all registered architectures."""
    return orders(tuple(known_families().values()))


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
