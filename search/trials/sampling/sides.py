"""The sides of the square that trials choose from (method §16). It needs no torch."""

from __future__ import annotations

from medcore.budgets.prices import linear_prices
from medcore.errors import ConfigError
from medcore.models.sides.arch import arch_at_side
from medcore.models.spec import Architecture, ModelSpec
from search.base.sections.dimensions import Fixed
from search.base.sections.search import SearchConfig
from search.base.sections.space import SpaceConfig
from search.trials.sampling.reach import share_limits


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


def cost_limits(search: SearchConfig, start: ModelSpec) -> dict[int, tuple[float, float]]:
    """Return the smallest and the largest share of the cost at each side that trials choose from (16.3).

    The smallest is what a budget can meet, the largest what the model to prune has. Both are shares of the cost of the
    unpruned model at the study's own side. If all trials have one share, sides that cannot take it up are left out.

    Args:
        search: The section `search`.
        start: Widths of the model to prune, at the study's own side.
    """
    whole = linear_prices(start.arch, search.metric).dense
    found = {}
    for side in search.space.sides:
        resized = ModelSpec(arch_at_side(start.arch, side), start.widths)
        ratio = linear_prices(resized.arch, search.metric).dense / whole
        least, most = (share * ratio for share in share_limits(search, resized))
        fixed = search.space.fraction
        if not isinstance(fixed, Fixed) or float(fixed.root) < most:
            found[side] = least, most
    return found
