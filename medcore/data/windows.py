"""Windows: which measured values of a scan are black and which are white.

Scans hold numbers such as Hounsfield units, far more than the 256 steps of the model's input. A window maps a range of
them to 0..255; values outside become black or white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcore.data.labels import MaskRules

#: Level and width in Hounsfield units, as radiologists set them for CT.
PRESETS: Mapping[str, tuple[float, float]] = {
    "abdomen": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}
#: A preset, level and width, or None for the reader's own limits.
Window = str | tuple[float, float] | None
#: One window for all data sets, or the window of each by its name.
Windows = Window | Mapping[str, Window]

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


@dataclass(frozen=True)
class ReadingRules(MaskRules):
    """What the user says about files: about masks, and the windows of scans.

    Attributes:
        windows: One window for all data sets, or one by data set; those that are not named have none.
    """

    windows: Windows = None

    def window(self, dataset: str) -> Window:
        """Return the window of a data set."""
        return self.windows.get(dataset) if isinstance(self.windows, Mapping) else self.windows


#: No rules.
NO_RULES = ReadingRules()


def check_window(window: Window) -> None:
    """Check a window that a user gave.

    Raises:
        ValueError: The preset is unknown, or a number is not finite, or the width is not above 0.
    """
    if isinstance(window, str) and window not in PRESETS:
        raise ValueError(f"unknown window '{window}'; known are {', '.join(PRESETS)}, or [level, width]")
    if isinstance(window, tuple) and not (all(map(math.isfinite, window)) and window[1] > 0):
        raise ValueError(f"a window is [level, width] with a width above 0, got {list(window)}")


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
