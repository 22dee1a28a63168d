"""Registry of figures: every number of a model or a trial that tables, pictures and rules know by name.

Costs and times are entries of this file, quality metrics of `medcore.quality.metrics`; `medcore.quality.catalogue` has
the queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from medcore.registry import Registry

if TYPE_CHECKING:
    from medcore.quality.metrics import MaskPair

#: What a figure is about, in the order of tables.
Group = Literal["cost", "quality", "leverage", "time", "trial"]
GROUPS: tuple[Group, ...] = ("cost", "quality", "leverage", "time", "trial")
#: How a figure is written: with SI prefixes, in per cent, or as it is.
Kind = Literal["count", "share", "plain"]


@dataclass(frozen=True)
class Figure:
    """A number that is known by name.

    Attributes:
        name: Its column in rows and tables.
        title: What people read.
        short: The title for narrow places; by default the whole title.
        lower_is_better: Whether a smaller value is better.
        unit: Such as `px`; of a share, what it is a share of.
        kind: How values are written.
        group: What the figure is about.
    """

    name: str
    title: str
    short: str = field(default="", kw_only=True)
    lower_is_better: bool = field(default=False, kw_only=True)
    unit: str = field(default="", kw_only=True)
    kind: Kind = field(default="plain", kw_only=True)
    group: Group = field(default="trial", kw_only=True)

    def __post_init__(self) -> None:
        """Fill in what follows from other fields."""
        object.__setattr__(self, "short", self.short or self.title)

    @property
    def is_cost(self) -> bool:
        """Return whether the figure says what a model costs to run."""
        return self.group in ("cost", "time")


@dataclass(frozen=True)
class Metric(Figure):
    """A figure of quality: one number for a predicted and a true mask.

    Attributes:
        function: Takes a `medcore.quality.metrics.MaskPair` and returns a finite number.
        worst_value: What the worst possible mask gets. By default it is 0 if more is better, else the larger side of
            the image, as for distances.
        needs_spacing: Whether the metric is in millimetres. It then exists only where the pixel spacing is known.
        headline: Whether the metric is among the few that stand for a model in a line of text.
        always_shown: Whether tables of a front have it even if it is no objective.
        rank: Place among the metrics, the most important first.
    """

    function: Callable[[MaskPair], float]
    group: Group = field(default="quality", kw_only=True)
    worst_value: float | None = field(default=None, kw_only=True)
    needs_spacing: bool = field(default=False, kw_only=True)
    headline: bool = field(default=False, kw_only=True)
    always_shown: bool = field(default=False, kw_only=True)
    rank: int = field(default=100, kw_only=True)

    def worst(self, largest_side: float) -> float:
        """Return the worst value for images whose sides are at most `largest_side` long.

        The side is in pixels, or in millimetres if the metric is.
        """
        if self.worst_value is not None:
            return float(self.worst_value)
        return float(largest_side) if self.lower_is_better else 0.0


F = TypeVar("F", bound=Figure)
FIGURES: Registry[Figure] = Registry("figure")


def add(figure: F) -> F:
    """Register a figure under its name.

    Raises:
        ValueError: Another figure has this name.
    """
    FIGURES.register(figure.name)(figure)
    return figure


def _add_lower(group: Group, name: str, title: str, unit: str = "", kind: Kind = "plain") -> None:
    add(Figure(name, title, lower_is_better=True, unit=unit, kind=kind, group=group))


_add_lower("cost", "flops", "Encoder FLOPs", "FLOPs", "count")
_add_lower("cost", "flops_paper", "Encoder FLOPs, paper's count", "FLOPs", "count")
_add_lower("cost", "flops_fraction", "FLOPs left", "of dense", "share")
_add_lower("cost", "flops_paper_fraction", "FLOPs left, paper's count", "of dense", "share")
_add_lower("cost", "encoder_params", "Encoder parameters", "", "count")
_add_lower("cost", "encoder_params_fraction", "Encoder parameters left", "of dense", "share")
_add_lower("leverage", "leverage_bd95", "Boundary leverage", "px per point of parameters")
_add_lower("leverage", "leverage_reg", "Regional leverage", "logits per point of parameters")
_add_lower("leverage", "leverage_displacement_p95", "Predicted boundary displacement", "px")
_add_lower("time", "latency_ms", "Time of a whole call", "ms")
_add_lower("time", "latency_ms_fraction", "Time of a whole call left", "of dense", "share")
_add_lower("time", "encoder_ms", "Time of the encoder", "ms")
_add_lower("time", "encoder_ms_fraction", "Time of the encoder left", "of dense", "share")
_add_lower("time", "peak_mb", "Peak memory", "MB")
_add_lower("trial", "seconds", "Time of the trial", "s")
_add_lower("trial", "memory_mb", "Memory of the trial", "MB")
_add_lower("trial", "gpu_memory_mb", "GPU memory of the trial", "MB")
