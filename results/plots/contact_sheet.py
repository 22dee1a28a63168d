"""Contact sheets: the same images segmented by the dense and by a pruned model, and where their boundaries fail.

A mean hides what happens to single images, and a high Dice hides a broken boundary, so the worst images come first.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt

from medcore.quality.catalogue import headlines, worst_by
from medcore.quality.figures import FIGURES
from medcore.quality.metrics import TOLERANCE_PX
from medcore.quality.surfaces import Mask, surface
from results.plots.panels import NothingToDraw
from results.plots.pictures import BLUE, SKY, STYLE, VERMILION, YELLOW, show_as_is
from results.store.files import write_by_rename

Pixels = npt.NDArray[np.uint8]

ROWS = 12
MAX_BYTES = 700_000
#: Warm colours are the truth's, cold ones the prediction's, in masks and in errors.
_TRUTH, _PREDICTION, _MISSED, _FALSE = YELLOW, SKY, VERMILION, BLUE
_COLUMNS = ("Image", "Truth", "Dense, not recovered", "Pruned model", "Boundary error of the pruned")
#: Inches: side of a cell, and space left of all cells, above and below.
_CELL, _LEFT, _TOP, _BOTTOM = 1.8, 0.5, 0.7, 0.5
_SQUARE = np.ones((3, 3), dtype=bool)
#: Space around the object in its close-up, as a share of its longer side.
_MARGIN = 0.15
#: Longer side of a drawn image in pixels; the sheet's resolution shows no more.
_SIDE = 320


@dataclass(frozen=True, eq=False)
class Case:
    """One image with its masks at original size.

    Attributes:
        dataset: Name of its data set.
        name: Name of the image.
        image: uint8 (h, w, 3).
        truth: bool (h, w).
        dense: The dense model's prediction, bool (h, w).
        pruned: The pruned model's prediction, bool (h, w).
        dense_metrics: Metrics of the dense model's prediction, at least the headlines.
        pruned_metrics: The same of the pruned model's prediction.
    """

    dataset: str
    name: str
    image: Pixels
    truth: Mask
    dense: Mask
    pruned: Mask
    dense_metrics: Mapping[str, float]
    pruned_metrics: Mapping[str, float]


def contact_sheet(cases: Sequence[Case], path: Path, title: str, rows: int = ROWS, max_bytes: int = MAX_BYTES) -> None:
    """Write the sheet as PNG: a row an image, the pruned model's largest HD95 first.

    Args:
        cases: Images to choose from.
        path: The file.
        title: Above all rows.
        rows: How many images to draw.
        max_bytes: The file's size at most.

    Raises:
        NothingToDraw: There are no images.
        StorageError: The file cannot be written.
    """
    if not cases:
        raise NothingToDraw("nothing to draw: a contact sheet needs at least one image")
    worst = sorted(cases, key=lambda case: (-case.pruned_metrics[worst_by()], case.dataset, case.name))[:rows]
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        # laid out by hand: matplotlib's own layout takes seconds for 60 axes
        width, height = _LEFT + _CELL * len(_COLUMNS), _TOP + _BOTTOM + _CELL * len(worst)
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(len(worst), len(_COLUMNS), squeeze=False)
        figure.subplots_adjust(
            left=_LEFT / width, right=0.995, top=1 - _TOP / height, bottom=_BOTTOM / height, wspace=0.03, hspace=0.12
        )
        for case, line in zip(worst, axes, strict=True):
            _row(case, line)
        for ax, name in zip(axes[0], _COLUMNS, strict=True):
            ax.set_title(name, fontsize=9)
        figure.text(0.01, 1 - 0.25 / height, title, fontsize=12, fontweight="bold", va="center")
        figure.legend(handles=_legend(), loc="lower center", ncols=5)
        write_by_rename(path, _within(figure, max_bytes))


def boundary_error(pred: Mask, truth: Mask, tolerance: float = TOLERANCE_PX) -> tuple[Mask, Mask]:
    """Return missed and false boundary, bool (h, w) each.

    Missed are surface pixels (7.2) of the truth farther than `tolerance` pixels from the prediction's surface, false
    the reverse. If one mask is empty, the whole surface of the other is an error.
    """
    surfaces = [surface(mask) for mask in (truth, pred)]
    missed, false = (
        own & (np.asarray(distance_transform_edt(~other)) > tolerance if other.any() else np.ones_like(own))
        for own, other in (surfaces, surfaces[::-1])
    )
    return missed, false


def _row(case: Case, axes: Sequence[Axes]) -> None:
    view = _view(case)
    whole, close = _shrink(case.image), _shrink(case.image[view])
    truth, dense, pruned = (mask[view] for mask in (case.truth, case.dense, case.pruned))
    all_rows, all_columns = map(slice, (0, 0), case.truth.shape)
    frames = [(all_rows, all_columns), view, view, view, view]
    for ax, picture, frame in zip(axes, (whole, close, close, close, _faded(close)), frames, strict=True):
        # in the image's own pixels, whatever resolution is drawn
        ax.imshow(picture, extent=_extent(*frame), interpolation="antialiased")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    y, x = view
    box = Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False, ec="white", lw=1)
    axes[0].add_patch(box)
    for ax, mask, colour in ((axes[1], truth, _TRUTH), (axes[2], dense, _PREDICTION), (axes[3], pruned, _PREDICTION)):
        if ax is not axes[1]:
            _contour(ax, truth, view, _TRUTH, 0.9)
        _contour(ax, mask, view, colour, 1.4)
    _errors(axes[4], pruned, truth, view)
    axes[0].set_ylabel(f"{case.dataset}\n{_short(case.name)}", fontsize=7)
    for ax, metrics in ((axes[2], case.dense_metrics), (axes[3], case.pruned_metrics)):
        ax.set_xlabel(_caption(metrics), fontsize=7.5, labelpad=2)


def _caption(metrics: Mapping[str, float]) -> str:
    """Write the metric that orders the sheet, and the most important one.

    Such as `HD95 12.3 px, BF1 0.71`.
    """
    words = []
    for figure in (FIGURES[name] for name in dict.fromkeys((worst_by(), headlines()[0]))):
        value = metrics[figure.name]
        words.append(f"{figure.short} {value:.1f} {figure.unit}" if figure.unit else f"{figure.short} {value:.2f}")
    return ", ".join(words)


def _view(case: Case) -> tuple[slice, slice]:
    """Return rows and columns of the close-up.

    It holds all three masks with a margin, is about square and lies inside the frame.
    """
    union = case.truth | case.dense | case.pruned
    spans = []
    for axis, size in ((1, union.shape[0]), (0, union.shape[1])):
        occupied = np.flatnonzero(union.any(axis=axis))
        spans.append((int(occupied[0]), int(occupied[-1]) + 1, size) if len(occupied) else (0, size, size))
    side = (1 + 2 * _MARGIN) * max(stop - start for start, stop, _ in spans)
    slices = []
    for start, stop, size in spans:
        length = min(size, round(side))
        first = min(max(0, (start + stop - length) // 2), size - length)
        slices.append(slice(first, first + length))
    return slices[0], slices[1]


def _contour(ax: Axes, mask: Mask, view: tuple[slice, slice], colour: str, width: float) -> None:
    """Draw the mask's outline along pixel edges, as the metrics see it.

    An empty mask has none.
    """
    if mask.any():
        # background around the close-up closes outlines that its frame cuts
        padded = np.pad(mask, 1).astype(float)
        y, x = (np.arange(part.start - 1, part.stop + 1) for part in view)
        ax.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width)


def _extent(y: slice, x: slice) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a part of an image for matplotlib."""
    return x.start - 0.5, x.stop - 0.5, y.stop - 0.5, y.start - 0.5


def _errors(ax: Axes, pred: Mask, truth: Mask, view: tuple[slice, slice]) -> None:
    missed, false = boundary_error(pred, truth)
    right = surface(pred) & ~false
    # one pixel of a close-up of 500 would be lost at the sheet's resolution
    thick = max(1, round(max(pred.shape) / 150))
    layer = np.zeros((*pred.shape, 4))
    for mask, colour in ((right, "#FFFFFF"), (false, _FALSE), (missed, _MISSED)):
        layer[binary_dilation(mask, _SQUARE, iterations=thick)] = mpl.colors.to_rgba(colour)
    ax.imshow(layer, extent=_extent(*view), interpolation="nearest")


def _shrink(pixels: Pixels) -> Pixels:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _faded(pixels: Pixels) -> Pixels:
    """Return the picture grey and dark, so that only the errors have colour."""
    grey = 0.45 * np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)
    return np.repeat(grey[:, :, None].astype(np.uint8), 3, axis=2)


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _legend() -> list[Any]:
    lines = (
        (_TRUTH, "truth"),
        (_PREDICTION, "prediction"),
        (_MISSED, f"missed boundary (> {TOLERANCE_PX:g} px away)"),
        (_FALSE, f"false boundary (> {TOLERANCE_PX:g} px away)"),
    )
    handles: list[Any] = [Line2D([], [], color=colour, lw=2.5, label=label) for colour, label in lines]
    right = Rectangle((0, 0), 1, 1, fc="white", ec="#777777", label="right boundary")
    return [*handles, right]


def _within(figure: Figure, max_bytes: int) -> bytes:
    """Return a PNG with a palette of 256 colours, as sharp as `max_bytes` allow.

    Without a palette photographs compress badly.
    """
    show_as_is(figure)
    raw, dpi = io.BytesIO(), 115.0
    figure.savefig(raw, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    data = _packed(raw)
    while len(data) > max_bytes and dpi > 40:
        # bytes go with the number of pixels, nearly
        dpi *= 0.97 * (max_bytes / len(data)) ** 0.5
        raw = io.BytesIO()
        figure.savefig(raw, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
        data = _packed(raw)
    return data


def _packed(raw: io.BytesIO) -> bytes:
    packed = io.BytesIO()
    with Image.open(raw) as picture:
        picture.convert("RGB").quantize(256).save(packed, format="png", optimize=True)
    return packed.getvalue()
