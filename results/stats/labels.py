"""What is known of every metric: which way is better, its title, its unit, its short form in text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SI = {"T": 1e12, "G": 1e9, "M": 1e6, "K": 1e3}


@dataclass(frozen=True)
class Metric:
    """`lower`: smaller is better. `kind`: "count" (SI prefixes), "share" (shown in per cent) or "plain"."""

    title: str
    lower: bool
    unit: str = ""
    kind: str = "plain"
    cost: bool = False


METRICS: dict[str, Metric] = {
    "flops": Metric("Encoder FLOPs", True, "FLOPs", "count", cost=True),
    "flops_paper": Metric("Encoder FLOPs, paper's count", True, "FLOPs", "count", cost=True),
    "flops_fraction": Metric("FLOPs left", True, "of dense", "share", cost=True),
    "flops_paper_fraction": Metric("FLOPs left, paper's count", True, "of dense", "share", cost=True),
    "encoder_params": Metric("Encoder parameters", True, "", "count", cost=True),
    "encoder_params_fraction": Metric("Encoder parameters left", True, "of dense", "share", cost=True),
    "boundary_f1": Metric("Boundary F1", False),
    "dice": Metric("Dice", False),
    "iou": Metric("IoU", False),
    "nsd": Metric("NSD", False),
    "hd95": Metric("HD95", True, "px"),
    "assd": Metric("ASSD", True, "px"),
    "leverage_bd95": Metric("Boundary leverage", True, "px per point of parameters"),
    "leverage_reg": Metric("Regional leverage", True, "logits per point of parameters"),
    "leverage_displacement_p95": Metric("Predicted boundary displacement", True, "px"),
    "latency_ms": Metric("Time of a whole call", True, "ms", cost=True),
    "latency_ms_fraction": Metric("Time of a whole call left", True, "of dense", "share", cost=True),
    "encoder_ms": Metric("Time of the encoder", True, "ms", cost=True),
    "encoder_ms_fraction": Metric("Time of the encoder left", True, "of dense", "share", cost=True),
    "peak_mb": Metric("Peak memory", True, "MB", cost=True),
    "seconds": Metric("Time of the trial", True, "s"),
    "memory_mb": Metric("Memory of the trial", True, "MB"),
    "gpu_memory_mb": Metric("GPU memory of the trial", True, "MB"),
}


#: Measured by `medcore latency` when a search is over, so that a study may lack them.
LATENCY = ("latency_ms", "latency_ms_fraction", "encoder_ms", "encoder_ms_fraction", "peak_mb")


def base_name(name: str) -> str | None:
    """Known metric that `name` is or is a variant of (`hd95/kvasir`, `dice_worst`), else None."""
    fits = [known for known in METRICS if name == known or name.startswith((f"{known}/", f"{known}_", f"{known}."))]
    return max(fits, key=len, default=None)


def lower_is_better(name: str) -> bool | None:
    """Direction of a metric or of its variant; None when the metric is not known."""
    base = base_name(name)
    return None if base is None else METRICS[base].lower


def is_cost(name: str) -> bool:
    base = base_name(name)
    return base is not None and METRICS[base].cost


def si(value: float, digits: int = 4) -> str:
    """120e9 -> "120G"; values below a thousand keep `digits` significant digits."""
    for prefix, size in SI.items():
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def text(name: str, value: float | None) -> str:
    """A metric's value as a person reads it, with its unit; a missing one is a dash."""
    if value is None or np.isnan(value):
        return "–"
    metric = METRICS.get(base_name(name) or "")
    if metric is None or not np.isfinite(value):
        return f"{value:.4g}"
    if metric.kind == "share":
        return f"{100 * value:.1f} % {metric.unit}"
    return f"{si(value) if metric.kind == 'count' else f'{value:.4g}'} {metric.unit}".strip()


def axis(name: str, values: npt.ArrayLike, lower: bool | None = None) -> tuple[float, str]:
    """Factor that turns values into axis units, and the axis title with unit and direction of better.

    `lower` overrides the known direction, as an objective states its own; an unknown one is not titled.
    """
    base = base_name(name)
    metric = METRICS[base] if base else Metric(name, bool(lower))
    direction = lower_is_better(name) if lower is None else lower
    numbers = np.abs(np.asarray(values, dtype=np.float64).ravel())
    largest = float(np.max(numbers[np.isfinite(numbers)], initial=0.0))
    variant = name[len(base) :].strip("/_.") if base else ""
    factor, unit = 1.0, metric.unit
    if metric.kind == "share":
        factor, unit = 100.0, f"% {metric.unit}"
    elif metric.kind == "count":
        prefix = next((p for p, size in SI.items() if largest >= size), "")
        factor, unit = 1 / SI.get(prefix, 1.0), prefix + metric.unit
    title = metric.title + (f", {variant}" if variant else "") + (f" ({unit})" if unit else "")
    if direction is not None:
        title += " — lower is better" if direction else " — higher is better"
    return factor, title


#: Columns of a trial's row that hold its held-out means begin so. Nothing is ever chosen by them.
PREFIX = "report/"
