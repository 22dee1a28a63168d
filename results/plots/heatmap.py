"""Scores at a glance: sites × groups, or sites × quantiles of many groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medcore.models.sites import Array, Family, PerSite
from medcore.models.spec import Architecture
from results.plots.pictures import STYLE, save

_QUANTILES = np.linspace(0, 1, 21)


#: Families of more groups a site are drawn as quantiles.
_MOST_CELLS = 32


def save_score_heatmaps(criteria: Mapping[str, PerSite], arch: Architecture, path: Path) -> None:
    """Write a PNG of the scores' log10 by site.

    Each criterion is a row of maps, one map a family. Wide families show quantiles of each site's scores. Colours span
    each map on its own, because criteria have different units. Sites may differ in width; what a site lacks stays
    blank.

    Raises:
        MedcoreError: `path` cannot be written.
    """
    families = arch.families
    depth = max(sum(site.family == family for site in arch.sites) for family in families)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5 * len(families), len(criteria) * (0.22 * depth + 0.9)), layout="constrained")
        axes = figure.subplots(len(criteria), len(families), squeeze=False)
        for (name, scores), row in zip(criteria.items(), axes, strict=True):
            for family, axis in zip(families, row, strict=True):
                pairs = zip(arch.sites, scores, strict=True)
                own = [values for site, values in pairs if site.family == family]
                label = _draw(figure, axis, own, family)
                axis.set(title=f"{name}: {family.title}", ylabel="block", yticks=range(0, len(own), 2))
                axis.set_xlabel(label if axis in axes[-1] else "")
        save(figure, path)


def _draw(figure: Figure, axis: Axes, sites: Sequence[Array], family: Family) -> str:
    """Draw one map. Returns the label of its horizontal axis."""
    widest = max(map(len, sites))
    if widest <= _MOST_CELLS:
        values, label = np.full((len(sites), widest), np.nan), family.singular
        for cells, scores in zip(values, sites, strict=True):
            cells[: len(scores)] = scores
    else:
        values, label = np.full((len(sites), len(_QUANTILES)), np.nan), f"quantile of the block's {family.name} (%)"
        for cells, scores in zip(values, sites, strict=True):
            if len(scores):
                cells[:] = np.quantile(scores, _QUANTILES)
        axis.set_xticks(range(0, len(_QUANTILES), 5), [f"{100 * q:.0f}" for q in _QUANTILES[::5]])
    image = axis.imshow(np.log10(np.maximum(values, 1e-30)), aspect="auto", cmap="cividis")
    figure.colorbar(image, ax=axis, label="log₁₀ score")
    return label
