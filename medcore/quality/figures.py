"""Registry of figures: every number of a model or a trial that tables, pictures and rules know by name.

Costs and times are entries of this file, quality metrics of `medcore.quality.metrics`; `medcore.quality.catalogue` has
the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        meaning: One sentence that explains the figure to a reader who does not know it. A plugin may leave it empty.
    """

    name: str
    title: str
    short: str = field(default="", kw_only=True)
    lower_is_better: bool = field(default=False, kw_only=True)
    unit: str = field(default="", kw_only=True)
    kind: Kind = field(default="plain", kw_only=True)
    group: Group = field(default="trial", kw_only=True)
    meaning: str = field(default="", kw_only=True)

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


def _add_lower(
    group: Group, name: str, title: str, unit: str = "", kind: Kind = "plain", *, short: str = "", meaning: str
) -> None:
    add(Figure(name, title, short=short, lower_is_better=True, unit=unit, kind=kind, group=group, meaning=meaning))


#: What FLOPs are left, as they run, comes first everywhere; the count of the MedCore paper follows under its own name.
_add_lower(
    "cost",
    "flops_fraction",
    "FLOPs left",
    "of dense",
    "share",
    meaning="FLOPs of the pruned image encoder as they run, as a share of the dense encoder's: padded windows, "
    "relative positions and the neck count.",
)
_add_lower(
    "cost",
    "flops_paper_fraction",
    "FLOPs left by the paper's count",
    "of dense",
    "share",
    short="by the paper's count",
    meaning="The same share as the MedCore paper counts it: windows without padding, no relative positions, no neck.",
)
_add_lower(
    "cost",
    "encoder_params_fraction",
    "Encoder parameters left",
    "of dense",
    "share",
    short="parameters left",
    meaning="Weights of the pruned image encoder as a share of the dense encoder's.",
)
_add_lower(
    "cost",
    "flops",
    "Encoder FLOPs",
    "FLOPs",
    "count",
    meaning="Floating-point operations of the image encoder for one image as they run; a multiply-add is two.",
)
_add_lower(
    "cost",
    "flops_paper",
    "Encoder FLOPs by the paper's count",
    "FLOPs",
    "count",
    meaning="The same as the MedCore paper counts them: windows without padding, no relative positions, no neck.",
)
_add_lower("cost", "encoder_params", "Encoder parameters", "", "count", meaning="Weights of the image encoder.")
_add_lower(
    "cost",
    "call_flops_fraction",
    "FLOPs of a call left",
    "of dense",
    "share",
    meaning="FLOPs of the pruned image encoder for one image and of the pruned mask decoder for one box, as a share of "
    "the dense model's.",
)
_add_lower(
    "cost",
    "decoder_flops_fraction",
    "Decoder FLOPs left",
    "of dense",
    "share",
    meaning="FLOPs of the pruned mask decoder for one box as a share of the dense decoder's.",
)
_add_lower(
    "cost",
    "decoder_params_fraction",
    "Decoder parameters left",
    "of dense",
    "share",
    meaning="Weights of the pruned mask decoder as a share of the dense decoder's.",
)
_add_lower(
    "cost",
    "call_flops",
    "FLOPs of a call",
    "FLOPs",
    "count",
    meaning="Floating-point operations of the image encoder for one image and of the mask decoder for one box.",
)
_add_lower(
    "cost",
    "decoder_flops",
    "Decoder FLOPs",
    "FLOPs",
    "count",
    meaning="Floating-point operations of the mask decoder for one box and one mask; a multiply-add is two.",
)
_add_lower("cost", "decoder_params", "Decoder parameters", "", "count", meaning="Weights of the mask decoder.")
_add_lower(
    "leverage",
    "leverage_bd95",
    "Boundary leverage",
    "px per point of parameters",
    meaning="How far the cut is predicted to move the boundary before recovery (95th percentile), for each percentage "
    "point of encoder parameters that it removes.",
)
_add_lower(
    "leverage",
    "leverage_reg",
    "Regional leverage",
    "logits per point of parameters",
    meaning="How much the cut changes the logits of the whole image before recovery, on average, for each percentage "
    "point of encoder parameters that it removes.",
)
_add_lower(
    "leverage",
    "leverage_displacement_p95",
    "Predicted boundary displacement",
    "px",
    meaning="95th percentile near the boundary of the change in logits divided by their slope: how far the cut is "
    "predicted to move the boundary before recovery.",
)
_add_lower(
    "time",
    "latency_ms",
    "Time of a whole call",
    "ms",
    short="call (ms)",
    meaning="Median time from one image and one box to its mask: encoder, prompt encoder and mask decoder.",
)
_add_lower(
    "time",
    "latency_ms_fraction",
    "Time of a whole call left",
    "of dense",
    "share",
    short="time of a call left",
    meaning="The same time as a share of the dense model's, which took turns with this one.",
)
_add_lower(
    "time",
    "encoder_ms",
    "Time of the encoder",
    "ms",
    short="encoder (ms)",
    meaning="Median time of the image encoder within a call.",
)
_add_lower(
    "time",
    "encoder_ms_fraction",
    "Time of the encoder left",
    "of dense",
    "share",
    short="time of the encoder left",
    meaning="The same time as a share of the dense encoder's, which took turns with this one.",
)
_add_lower(
    "time",
    "peak_mb",
    "Peak memory",
    "MB",
    short="peak memory (MB)",
    meaning="Size of all tensors at the worst moment of a call, weights included.",
)
_add_lower("trial", "seconds", "Time of the trial", "s", meaning="Time of all phases of the trial on its worker.")
_add_lower("trial", "memory_mb", "Memory of the trial", "MB", meaning="Largest resident memory of the trial's process.")
_add_lower(
    "trial",
    "gpu_memory_mb",
    "GPU memory of the trial",
    "MB",
    meaning="Largest memory that the trial's tensors took on the GPU.",
)

#: Words of tables and pictures that are no figures of a model, each with a sentence that explains it.
TERMS: Mapping[str, str] = {
    "Dense model": "The model before pruning. As it came it is called not recovered; trials are to be compared "
    "with it after the same recovery, because further training alone changes its figures.",
    "Pareto front": "The trials that no other trial beats in every objective.",
    "Knee": "The member of the front nearest to the best value of every objective, each scaled to the front's range: "
    "giving up more starts to cost more there.",
    "Hypervolume": "Size of the space between the front and a fixed bad point, so a larger one is a better front.",
    "Search images": "The images by which the search chose, so figures on them are somewhat too good.",
    "Held-out images": "Images that took no part in scoring, training or search.",
    "95 % interval": "Where the mean would lie in 95 of 100 repetitions; by a bootstrap over images unless a table "
    "says that it is over seeds.",
    "BLR95": "Boundary leverage ratio: how many times further a percentage point of parameters moves the boundary "
    "(95th percentile) if it is taken from the attention rather than from MLPs. Above 1, the attention is fragile.",
    "RLR": "Regional leverage ratio: the same for the logits of the whole image instead of the boundary.",
    "BSR": "Boundary specificity, BLR95 / RLR: above 1 attention matters more at the boundary than elsewhere.",
    "Win rate": "Share of grid points at which the step that cuts the attention moves the boundary further.",
}
