"""A few samples as the model gets them: the image in its square, the mask's outline and the box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from results.plots.panels import NothingToDraw
from results.plots.pictures import SKY, STYLE, YELLOW, save

_COLUMNS, _CELL = 4, 2.2


@dataclass(frozen=True, eq=False)
class Shown:
    """One sample in the model's square.

    Attributes:
        dataset: Name of its data set.
        name: Name of the sample.
        image: uint8 (S, S, 3).
        mask: bool (S, S).
        box: float (4,): x0, y0, x1, y1, both ends inclusive.
    """

    dataset: str
    name: str
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    box: npt.NDArray[np.float32]


def sample_picture(samples: Sequence[Shown], path: Path, title: str) -> None:
    """Write the picture as PNG.

    Args:
        samples: What to draw, row by row.
        path: The file.
        title: Above all rows.

    Raises:
        NothingToDraw: There is no sample.
        StorageError: The file cannot be written.
    """
    if not samples:
        raise NothingToDraw("nothing to draw: a picture of samples needs at least one")
    columns = min(_COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    with mpl.rc_context({**STYLE, "axes.grid": False, "savefig.dpi": 120}):
        figure = Figure(figsize=(_CELL * columns, (_CELL + 0.35) * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, sample in zip(axes, samples, strict=False):
            ax.imshow(sample.image)
            # background around the mask closes outlines that the frame cuts
            height, width = sample.mask.shape
            places = np.arange(-1, width + 1), np.arange(-1, height + 1)
            ax.contour(*places, np.pad(sample.mask, 1).astype(float), levels=[0.5], colors=[YELLOW], linewidths=1.4)
            x0, y0, x1, y1 = (float(corner) for corner in sample.box)
            ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, ec=SKY, lw=1.4))
            ax.set_title(f"{sample.dataset}\n{_short(sample.name)}", fontsize=7)
            ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        for ax in axes:
            ax.axis("off")
        figure.suptitle(title, fontsize=10, fontweight="bold")
        save(figure, path)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
