"""Predicted loss of every site against the share of groups that it keeps (method §12)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from medcore.models.sites import Array, Family, PerSite
from medcore.models.spec import Architecture
from results.plots.panels import NothingToDraw
from results.plots.pictures import STYLE, save

#: Losses below this share of the largest one of the picture are outside of the view.
_SMALLEST = 1e-8
_COLOURS = "cividis"


def save_curves(curves: PerSite, arch: Architecture, path: Path) -> None:
    """Write a PNG with one panel a family and one line a site.

    The vertical axis is logarithmic and the same in all panels, because predicted losses are comparable over blocks and
    families. Colours say which block a line belongs to. Families without a curve, whose sites cannot be refit, are left
    out.

    Args:
        curves: (G+1,) a site, entry k is the predicted loss of keeping k groups; infinite where it is unknown.
        arch: The architecture.
        path: The file.

    Raises:
        NothingToDraw: No site has a curve.
        StorageError: The file cannot be written.
    """
    drawn = {family: _of_family(curves, arch, family) for family in arch.families}
    drawn = {family: sites for family, sites in drawn.items() if sites}
    if not drawn:
        raise NothingToDraw("nothing to draw: no site has a curve of predicted losses")
    largest = max(float(curve.max()) for sites in drawn.values() for _, curve in sites)
    blocks = Normalize(0, max(1, len(arch.blocks) - 1))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 3.6 * len(drawn), 3.4), layout="constrained")
        axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        for ax, (family, sites) in zip(axes, drawn.items(), strict=True):
            _draw(ax, family, sites, blocks)
            ax.set(yscale="log", ylim=(largest * _SMALLEST, 3 * largest))
        axes[0].set_ylabel("Predicted loss with the rest refit")
        figure.colorbar(ScalarMappable(blocks, _COLOURS), ax=axes, label="Block", pad=0.02)
        save(figure, path)


def _of_family(curves: PerSite, arch: Architecture, family: Family) -> list[tuple[int, Array]]:
    """Return the block and the curve of each site of a family that has a finite one with some loss."""
    pairs = [(site.block, curve) for site, curve in zip(arch.sites, curves, strict=True) if site.family == family]
    return [(block, curve) for block, curve in pairs if np.isfinite(curve).all() and curve.max() > 0]


def _draw(ax: Axes, family: Family, sites: Sequence[tuple[int, Array]], blocks: Normalize) -> None:
    colours = mpl.colormaps[_COLOURS]
    marker = "o" if max(len(curve) for _, curve in sites) <= 32 else None
    for block, curve in sites:
        share = 100 * np.arange(len(curve)) / (len(curve) - 1)
        # a loss of 0 has no place on a logarithmic axis
        seen = curve > 0
        ax.plot(share[seen], curve[seen], color=colours(blocks(block)), lw=1.3, marker=marker, ms=3)
    ax.set(title=family.title, xlabel=f"{family.title} kept (%)", xlim=(-2, 102))
