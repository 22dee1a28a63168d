"""How figures are written: titles, units, short forms, axes. What is known of a figure is in the registry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medcore.quality.catalogue import latency_names
from medcore.quality.figures import FIGURES, Figure

#: Names of the dense model: as `study.json` has its figures, and as the trial that prunes nothing but is trained.
NOT_RECOVERED = "dense model, not recovered"
RECOVERED = "dense model after the same recovery"
SI = {"T": 1e12, "G": 1e9, "M": 1e6, "K": 1e3}


def base_name(name: str) -> str | None:
    """Return the known figure that `name` is or is a variant of, else None.

    Variants are such as `hd95/kvasir` and `dice_worst`.
    """
    fits = [known for known in FIGURES if name == known or name.startswith((f"{known}/", f"{known}_", f"{known}."))]
    return max(fits, key=len, default=None)


def lower_is_better(name: str) -> bool | None:
    """Return the direction of a figure or its variant; None if it is unknown."""
    base = base_name(name)
    return None if base is None else FIGURES[base].lower_is_better


def is_cost(name: str) -> bool:
    """Return whether a figure or its variant says what a model costs to run."""
    base = base_name(name)
    return base is not None and FIGURES[base].is_cost


def is_latency(name: str) -> bool:
    """Return whether `medcore latency` measures this figure or variant.

    A study may lack it.
    """
    return name.partition("_batch")[0] in latency_names()


def title(name: str) -> str:
    """Return the title of a known figure; another name stands for itself."""
    return FIGURES[name].title if name in FIGURES else name


def short_title(name: str) -> str:
    """Return the title of a known figure for narrow places; another name stands for itself."""
    return FIGURES[name].short if name in FIGURES else name


def column_title(name: str) -> str:
    """Return the title of a figure with its unit, for the head of a column that holds bare numbers."""
    unit = FIGURES[name].unit if name in FIGURES and FIGURES[name].kind == "plain" else ""
    return f"{title(name)} ({unit})" if unit else title(name)


def share_of_dense(name: str) -> str:
    """Return the figure that gives a cost as a share of the dense model's; the name itself if there is none.

    Pictures draw it, because tables state every cost as such a share.
    """
    share = f"{name}_fraction"
    return share if is_cost(name) and share in FIGURES else name


def arrow_title(name: str) -> str:
    """Return the title of a known figure with an arrow towards better."""
    return f"{FIGURES[name].title} {'↓' if FIGURES[name].lower_is_better else '↑'}"


def si(value: float, digits: int = 4) -> str:
    """Write a number with an SI prefix, 120e9 as `120G`.

    Below a thousand it keeps `digits` significant digits.
    """
    for prefix, size in SI.items():
        if abs(value) >= size:
            return f"{value / size:.{digits}g}{prefix}"
    return f"{value:.{digits}g}"


def text(name: str, value: float | None) -> str:
    """Write a figure's value with its unit; a missing one is a dash."""
    if value is None or np.isnan(value):
        return "–"
    base = base_name(name)
    if base is None or not np.isfinite(value):
        return f"{value:.4g}"
    figure = FIGURES[base]
    if figure.kind == "share":
        return f"{100 * value:.1f} % {figure.unit}"
    return f"{si(value) if figure.kind == 'count' else f'{value:.4g}'} {figure.unit}".strip()


def axis(name: str, values: npt.ArrayLike, lower: bool | None = None) -> tuple[float, str]:
    """Return the factor that turns values into axis units, and the axis title.

    The title has the unit and the direction of better.

    Args:
        name: A figure or a variant of one; another name is its own title.
        values: Any shape; their size decides the SI prefix.
        lower: Overrides the known direction, as an objective states its own. An unknown direction is not titled.
    """
    base = base_name(name)
    figure = FIGURES[base] if base else Figure(name, name)
    direction = lower_is_better(name) if lower is None else lower
    numbers = np.abs(np.asarray(values, dtype=np.float64).ravel())
    largest = float(np.max(numbers[np.isfinite(numbers)], initial=0.0))
    variant = name[len(base) :].strip("/_.") if base else ""
    factor, unit = 1.0, figure.unit
    if figure.kind == "share":
        factor, unit = 100.0, f"% {figure.unit}"
    elif figure.kind == "count":
        prefix = next((p for p, size in SI.items() if largest >= size), "")
        factor, unit = 1 / SI.get(prefix, 1.0), prefix + figure.unit
    words = figure.title + (f", {variant}" if variant else "") + (f" ({unit})" if unit else "")
    if direction is not None:
        words += " — lower is better" if direction else " — higher is better"
    return factor, words
