"""Registry of allocators, which turn a configured budget into the widths of every site (method §5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from medcore.budgets.knapsack import Target, budget_within, knapsack_budget
from medcore.budgets.limits import Floats, Limits, Metric
from medcore.budgets.prices import Prices
from medcore.budgets.released_rule import released_rule
from medcore.budgets.rule import rule
from medcore.budgets.targets import per_site, to_target, uniform_to_target
from medcore.errors import ConfigError
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.registry import Registry


@dataclass(frozen=True)
class Request:
    """What an allocator has to allocate.

    Attributes:
        arch: the dense architecture.
        sensitivity: (L,) Fisher information s_b of the blocks (5.1).
        sparsity: family -> share of its groups to remove, for allocators that work by sparsity.
        fraction: share of the dense encoder's `metric` to keep, for allocators that meet a target.
        metric: cost that `fraction` is a fraction of.
        limits: what to leave alone.
        curves: S arrays (G + 1,), predicted loss of keeping k groups of each site; for allocators that need the
            second-order profile (method §12).
        prices: the cost of `fraction` instead of `metric`, such as measured time; for allocators that need no linear
            cost.
        within: several costs to stay within in place of `fraction`; for allocators that can meet more than one.
    """

    arch: Architecture
    sensitivity: Floats
    sparsity: Mapping[str, float] = field(default_factory=dict)
    fraction: float = 1.0
    metric: Metric = "flops_paper"
    limits: Limits = field(default_factory=Limits)
    curves: PerSite | None = None
    prices: Prices | None = None
    within: tuple[Target, ...] = ()


Allocator = Callable[[Request], ModelSpec]

ALLOCATORS: Registry[Allocator] = Registry("allocator")
#: Those that meet sparsities, not a share of the cost.
BY_SPARSITY = ("rule", "released_rule")


@ALLOCATORS.register("rule")
def by_rule(request: Request) -> ModelSpec:
    """Allocate by MedCore's rule at the given sparsities."""
    return rule(request.arch, request.sparsity, request.sensitivity, request.limits)


@ALLOCATORS.register("released_rule")
def by_released_rule(request: Request) -> ModelSpec:
    """Allocate by the rule as MedCore's released code applies it."""
    return released_rule(request.arch, request.sparsity, request.sensitivity, request.limits)


@ALLOCATORS.register("uniform")
def by_share(request: Request) -> ModelSpec:
    """Allocate the same share to every block, at the given cost."""
    _refuse_prices(request, "uniform")
    return uniform_to_target(request.arch, request.fraction, request.metric, request.limits)


@ALLOCATORS.register("to_target")
def by_sensitivity(request: Request) -> ModelSpec:
    """Allocate shares in proportion to the blocks' sensitivity, at the given cost."""
    _refuse_prices(request, "to_target")
    shape = per_site(request.arch, request.sensitivity)
    return to_target(request.arch, shape, request.fraction, request.metric, request.limits)


@ALLOCATORS.register("knapsack")
def by_loss(request: Request) -> ModelSpec:
    """Allocate so that the predicted loss is least within the given cost, or within several.

    Raises:
        MedcoreError: the request has no curves, or the cost is out of reach.
    """
    if request.curves is None:
        raise ConfigError(
            "budget: the allocator 'knapsack' needs the second-order profile, and none was computed; "
            "choose another allocator"
        )
    if request.within:
        return budget_within(request.arch, request.curves, request.within, request.limits).spec
    return knapsack_budget(
        request.arch,
        request.curves,
        request.fraction,
        metric=request.metric,
        limits=request.limits,
        prices=request.prices,
    )


def _refuse_prices(request: Request, name: str) -> None:
    if request.prices is not None:
        raise ConfigError(
            f"budget: the allocator '{name}' cannot meet a share of {request.prices.name}; choose the allocator "
            "'knapsack' or a cost that is counted"
        )
