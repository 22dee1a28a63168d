"""The paper's rule at a cost target, so that budgets of the same cost can be compared (method §5)."""

from __future__ import annotations

from collections.abc import Collection

from medcore.budgets.limits import (
    DECIMAL,
    Floats,
    Limits,
    Metric,
    check_blocks,
    costless,
    group_costs,
    last_blocks,
    with_rule_minima,
)
from medcore.budgets.rule import rule
from medcore.errors import ConfigError
from medcore.models.sites import Family
from medcore.models.spec import Architecture, ModelSpec


def rule_to_target(
    arch: Architecture,
    fraction: float,
    sensitivity: Floats,
    metric: Metric = "flops_paper",
    protected: Collection[int] | None = None,
    current: ModelSpec | None = None,
) -> ModelSpec:
    """Apply the rule at a sparsity that meets a cost (method §5, rule at a target).

    The cost is at most `fraction` of the dense model's, and close to it. The family of most groups leads, and the
    others follow at their own pace until they cannot grow. The last two blocks are protected unless `protected` is
    given. They lose this protection if the target is out of reach with it, as in the paper's second stage. Families
    that the rule does not cut by default, or that cost nothing in `metric`, stay whole.

    A slightly lower sparsity may meet the target too. One more group to remove can make the rounded quotas move others
    between blocks where they cost more or less, so the cost does not fall strictly with the sparsity.

    Args:
        arch: the dense architecture.
        fraction: share of the dense encoder's `metric`, in (0, 1].
        sensitivity: (L,) s_b of the blocks.
        metric: which cost to meet.
        protected: blocks that give up nothing.
        current: widths of a model that is pruned already; None: dense.

    Raises:
        MedcoreError: the rule's minima cost more than the target, or `protected` names a block that does not exist.
    """
    if not _families(arch, metric):
        raise ConfigError(f"budget: MedCore's rule removes nothing of {arch.name}; use another allocator")
    given = None if protected is None else check_blocks(arch, protected, "protected")
    attempts = [last_blocks(arch, 2), ()] if given is None else [given]
    for blocks in attempts:
        spec = _bisected(arch, fraction, sensitivity, metric, Limits(blocks, current=current))
        if spec is not None:
            return spec
    minima = " and ".join(
        f"{family.least_count} {family.singular}"
        if family.least_count
        else f"{100 * family.least_share:g} % of the {family.name}"
        for family in _families(arch, metric)
    )
    raise ConfigError(
        f"budget: the rule cannot reach a {metric} fraction of {fraction:g} with {minima} kept in each block; "
        "ask for a larger fraction or use another allocator"
    )


def _bisected(
    arch: Architecture, fraction: float, sensitivity: Floats, metric: Metric, limits: Limits
) -> ModelSpec | None:
    """Bisect over the leading family's sparsity, in steps of one group.

    Returns:
        The budget; None if even the highest sparsity misses the target.
    """
    families = _families(arch, metric)
    gone, most = ({family.name: share(arch, family, limits) for family in families} for share in (_gone, _most))
    # the family of the smallest steps
    totals = {family: sum(site.width for site in arch.sites if site.family == family) for family in families}
    leader = max(reversed(families), key=totals.__getitem__)
    pace = {family.name: family.sparsity / leader.sparsity for family in families}
    total = totals[leader]

    def at(removed: int) -> ModelSpec:
        # past the point where the leader can give no more, the others continue up to their own limits
        sparsity = {name: min(max(removed / total * pace[name], gone[name]), most[name]) for name in pace}
        return rule(arch, sparsity, sensitivity, limits)

    # DECIMAL, because a share times its whole can fall short of the whole number it stands for
    low, high = 0, int(max(most[family.name] / pace[family.name] * total for family in families) + DECIMAL)
    if _fraction(at(high), metric) > fraction:
        return None
    while low < high:
        middle = (low + high) // 2
        if _fraction(at(middle), metric) <= fraction:
            high = middle
        else:
            low = middle + 1
    return at(low)


def _families(arch: Architecture, metric: Metric) -> list[Family]:
    """Return the families that the rule cuts by default, if they cost anything in this figure."""
    counted = {site.family for site, free in zip(arch.sites, costless(arch, metric), strict=True) if not free}
    return [family for family in arch.families if family.sparsity and family in counted]


def _most(arch: Architecture, family: Family, limits: Limits) -> float:
    """Return the highest sparsity of a family that the rule's minima allow."""
    minima = with_rule_minima(limits, arch)
    pairs = [pair for pair in zip(arch.sites, limits.widths(arch), strict=True) if pair[0].family == family]
    free = sum(max(now - minima.least(site), 0) for site, now in pairs if site.block not in limits.protected)
    return free / sum(site.width for site, _ in pairs) + _gone(arch, family, limits)


def _gone(arch: Architecture, family: Family, limits: Limits) -> float:
    """Return the sparsity of a family before the budget."""
    pairs = [pair for pair in zip(arch.sites, limits.widths(arch), strict=True) if pair[0].family == family]
    total = sum(site.width for site, _ in pairs)
    return (total - sum(now for _, now in pairs)) / total


def _fraction(spec: ModelSpec, metric: Metric) -> float:
    costs = group_costs(spec.arch, metric)
    return float(costs.fixed + costs.groups @ spec.widths) / costs.dense
