"""Intensities: measured values of a scan, and how a window turns them into a picture.

Scans hold numbers such as Hounsfield units, far more than the 256 steps of the model's input. A window maps a range of
them to 0..255; values outside become black or white.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcore.data.formats.windows import PRESETS, Window

#: The darkest and the brightest value.
Limits = tuple[float, float]
Numbers = NDArray[np.integer] | NDArray[np.floating]

#: Percentiles of the values that are not 0, as the MedSAM challenge prepares scans other than CT.
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Intensities:
    """Measured values of a slice, which a window turns into a picture.

    Attributes:
        values: (height, width), finite.
        limits: Returns the darkest and the brightest value where the user gives no window. It may take long.
        inverted: Whether large values are dark.
    """

    values: Numbers
    limits: Callable[[], Limits]
    inverted: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height, as a picture does."""
        height, width = self.values.shape
        return width, height


def picture(image: Image.Image | Intensities, window: Window) -> Image.Image:
    """Return an image as RGB of 8 bits a channel.

    Args:
        image: A picture stays as it is, because its values are no measurements.
        window: The user's window; None takes the limits that come with the values.
    """
    if isinstance(image, Image.Image):
        return image
    low, high = image.limits() if window is None else _limits(window)
    values = np.asarray(image.values, np.float64)
    share = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    grey = np.rint(255 * (1 - share if image.inverted else share)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def usual_limits(values: Numbers, slope: float = 1.0, offset: float = 0.0) -> Limits:
    """Return the 0.5th and 99.5th percentile of the finite values that are not 0.

    Args:
        values: Stored values, any shape.
        slope: Measured values are stored values times this.
        offset: Plus this.

    Returns:
        Limits of measured values; 0 and 0 if all of them are 0.
    """
    counted = values[values != -offset / slope]
    if counted.dtype.kind == "f":
        counted = counted[np.isfinite(counted)]
    if not counted.size:
        return 0.0, 0.0
    ends = sorted(float(value) * slope + offset for value in np.percentile(counted, _PERCENTILES))
    return ends[0], ends[1]


def _limits(window: str | tuple[float, float]) -> Limits:
    level, width = PRESETS[window] if isinstance(window, str) else window
    return level - width / 2, level + width / 2
