"""What the groups of every site cost: counted figures, or measured time (method §5, knapsack)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcore.budgets.limits import Metric, group_costs
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.time_table import TimeTable

#: Name of measured time where costs are named.
TIME = "time"


@dataclass(frozen=True)
class Prices:
    """Cost of every site at every width.

    The cost of an encoder is `fixed` plus one entry of every table.

    Attributes:
        tables: S arrays (G + 1,) float64: cost of keeping k groups, 0 for k = 0.
        dense: cost of the dense encoder.
        fixed: cost of what no pruning removes.
        name: name of the cost, for messages.
    """

    tables: PerSite
    dense: float
    fixed: float
    name: str

    def total(self, spec: ModelSpec) -> float:
        """Return the cost of an encoder of these widths."""
        return self.fixed + float(sum(table[width] for table, width in zip(self.tables, spec.widths, strict=True)))


def linear_prices(arch: Architecture, metric: Metric = "flops_paper") -> Prices:
    """Return the prices of a counted figure, which are exact (method §9).

    Raises:
        MedcoreError: the figure is unknown.
    """
    costs = group_costs(arch, metric)
    tables = tuple(group * np.arange(width + 1.0) for group, width in zip(costs.groups, arch.dense_widths, strict=True))
    return Prices(tables, costs.dense, costs.fixed, metric)


def measured_prices(table: TimeTable) -> Prices:
    """Return the prices in milliseconds that a table of measured times gives (5.11).

    `dense` is the sum that the table predicts, so that a share of 1 keeps everything.
    """
    tables = tuple(site.at_all_widths() for site in table.sites)
    return Prices(tables, table.predict(ModelSpec.dense(table.arch)), table.fixed_ms, TIME)
