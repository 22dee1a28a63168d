"""The sides of the square that trials choose from (method §16). It needs no torch."""

from __future__ import annotations

from medcore.budgets.prices import linear_prices
from medcore.errors import ConfigError
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import Architecture
from search.base.sections.search import SearchConfig
from search.base.sections.space import SpaceConfig


def other_sides(space: SpaceConfig, arch: Architecture) -> tuple[int, ...]:
    """Return the sides, besides the study's own, that trials choose from.

    Args:
        space: The section `search.space`.
        arch: The study's architecture, with its own side.

    Raises:
        ConfigError: The study's own side is not the largest of them.
        CheckpointError: The architecture allows no such side.
    """
    if not space.sides:
        return ()
    if max(space.sides) != arch.img_size:
        raise ConfigError(
            f"search.space.side: the largest side is {max(space.sides)}, but the study's own is {arch.img_size}, to "
            f"which starting points and shares of the cost refer; add {arch.img_size}, or set model.side to "
            f"{max(space.sides)}"
        )
    return tuple(arch_at_side(arch, side).img_size for side in space.sides if side != arch.img_size)


def all_pixels(space: SpaceConfig, arch: Architecture) -> float:
    """Return the pixels of the squares of all sides together, as a multiple of the study's own square."""
    return 1.0 + sum((side / arch.img_size) ** 2 for side in other_sides(space, arch))


def cost_limits(search: SearchConfig, arch: Architecture) -> dict[int, float]:
    """Return the share of the cost that the unpruned model has at each side that trials choose from.

    Args:
        search: The section `search`.
        arch: The study's architecture, with its own side.
    """
    whole = linear_prices(arch, search.metric).dense
    return {side: linear_prices(arch_at_side(arch, side), search.metric).dense / whole for side in search.space.sides}
