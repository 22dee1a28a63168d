"""What every allocator has to respect, and the price of single groups (method §5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medcore.errors import ConfigError
from medcore.models.cost import cost
from medcore.models.sites import Site
from medcore.models.spec import ENCODER, Architecture, ModelSpec

#: Figures of `medcore.models.cost` that a budget can meet.
Metric = Literal["flops_paper", "flops", "encoder_params", "call_flops", "decoder_flops", "decoder_params"]
METRICS: tuple[Metric, ...] = get_args(Metric)

Floats = Sequence[float] | npt.NDArray[np.float64]

#: Added before rounding down, because decimal shares have no exact binary form: 0.29 · 100 is 28.999999999999996.
DECIMAL = 1e-9


@dataclass(frozen=True)
class Limits:
    """What a budget leaves alone.

    Attributes:
        protected: blocks that give up nothing more.
        least_count: family -> groups that every site keeps, or all that it has.
        least_share: family -> share of the dense groups that every site keeps, rounded down.
        multiple: widths of rounded families are multiples of this, because odd widths cost time.
        current: widths of a model that is pruned already; no site grows beyond them. None: dense.
    """

    protected: tuple[int, ...] = ()
    least_count: Mapping[str, int] = field(default_factory=dict)
    least_share: Mapping[str, float] = field(default_factory=dict)
    multiple: int = 1
    current: ModelSpec | None = None

    def least(self, site: Site) -> int:
        """Return the number of groups that a site keeps at least.

        Raises:
            MedcoreError: it is below 0 or above that of the dense site.
        """
        name = site.family.name
        share = int(np.floor(self.least_share.get(name, 0.0) * site.width + DECIMAL))
        minima = (self.least_count.get(name, 0), share)
        for least in minima:
            if not 0 <= least <= site.width:
                raise ConfigError(f"budget: the minimum kept ({name}) must lie in 0..{site.width}, got {least}")
        return max(minima)

    def widths(self, arch: Architecture) -> tuple[int, ...]:
        """Return the number of groups of each site before the budget."""
        return arch.dense_widths if self.current is None else self.current.widths

    def blocks(self, arch: Architecture) -> tuple[int, ...]:
        """Return the distinct protected blocks in order.

        Raises:
            MedcoreError: a protected block does not exist.
        """
        return check_blocks(arch, self.protected, "protected")


def with_rule_minima(limits: Limits, arch: Architecture) -> Limits:
    """Fill in the counts and shares that MedCore's rule leaves, where the limits have none."""
    return replace(
        limits,
        least_count={family.name: family.least_count for family in arch.families} | dict(limits.least_count),
        least_share={family.name: family.least_share for family in arch.families} | dict(limits.least_share),
    )


@dataclass(frozen=True)
class GroupCosts:
    """Costs of single groups.

    These costs are exact, because every cost figure is linear in the widths.

    Attributes:
        groups: cost of one group of every site, (S,) float64.
        dense: cost of the dense encoder.
        fixed: cost of what no pruning removes.
    """

    groups: npt.NDArray[np.float64]
    dense: float
    fixed: float


def group_costs(arch: Architecture, metric: Metric) -> GroupCosts:
    """Price the groups of an architecture in one figure.

    Raises:
        MedcoreError: the figure is unknown.
    """
    if metric not in METRICS:
        raise ConfigError(f"budget: unknown metric '{metric}'; known are {', '.join(METRICS)}")
    groups = np.array([getattr(site.cost, metric) for site in arch.sites], dtype=np.float64)
    dense = float(getattr(cost(ModelSpec.dense(arch)), metric))
    return GroupCosts(groups, dense, float(getattr(arch.fixed, metric)))


def costless(arch: Architecture, metric: Metric) -> npt.NDArray[np.bool_]:
    """Mark the sites whose groups, with all that lies in them, cost nothing in one figure, (S,).

    To cut them would buy nothing, so budgets that meet this figure leave them whole.
    """
    totals: dict[str, float] = {}
    costs = group_costs(arch, metric).groups
    # sites come after the site that holds them
    for site, own in reversed(list(zip(arch.sites, costs, strict=True))):
        totals[site.name] = totals.get(site.name, 0.0) + float(own)
        if site.within is not None:
            totals[site.within] = totals.get(site.within, 0.0) + totals[site.name]
    return np.array([totals[site.name] == 0 for site in arch.sites], dtype=bool)


def smallest_fraction(
    arch: Architecture,
    metric: Metric = "flops_paper",
    protected: Collection[int] = (),
    current: ModelSpec | None = None,
) -> float:
    """Return the share of the dense encoder's cost that no budget can remove.

    This cost remains if every unprotected block loses all its groups.

    Args:
        arch: the dense architecture.
        metric: which cost.
        protected: blocks that give up nothing.
        current: widths of a model that is pruned already; None: dense.

    Returns:
        A share in 0..1.

    Raises:
        MedcoreError: the metric is unknown, or a protected block does not exist.
    """
    costs, blocks = group_costs(arch, metric), check_blocks(arch, protected, "protected")
    widths = Limits(current=current).widths(arch)
    kept = [width if site.block in blocks else 0 for site, width in zip(arch.sites, widths, strict=True)]
    return float(costs.fixed + costs.groups @ kept) / costs.dense


def last_blocks(arch: Architecture, count: int) -> tuple[int, ...]:
    """Return the numbers of the last blocks of the encoder, or of the decoder's layers if it alone can be pruned."""
    depth = len(arch.encoder_blocks) if ENCODER in arch.parts else arch.decoder.depth
    return tuple(range(max(0, depth - count), depth))


def check_blocks(arch: Architecture, blocks: Collection[int], name: str) -> tuple[int, ...]:
    """Return distinct block numbers in order.

    Args:
        arch: the architecture of the blocks.
        blocks: their numbers.
        name: what the blocks are, for the message.

    Raises:
        MedcoreError: a block does not exist.
    """
    count = len(arch.blocks)
    for block in blocks:
        if not 0 <= block < count:
            raise ConfigError(f"budget: {name} names block {block}; blocks are 0..{count - 1}")
    return tuple(sorted(set(blocks)))
