"""Parameters and FLOPs of an encoder, from its spec alone (method §9)."""

from __future__ import annotations

from medcore.models.sites import Cost
from medcore.models.spec import ModelSpec

__all__ = ["Cost", "cost"]


def cost(spec: ModelSpec) -> Cost:
    """Return the cost of an encoder of any widths (method §9).

    The cost is the fixed part plus, for each site, its groups times their price.
    """
    total = spec.arch.fixed
    for site, width in zip(spec.arch.sites, spec.widths, strict=True):
        total = total + site.cost * width
    return total
