"""Windows of scans as a user gives them: by name, by level and width, or one for each data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from medcore.data.mask_rules import MaskRules

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


def window_of(rules: MaskRules, dataset: str) -> Window:
    """Return the window of a data set; rules for masks alone have none."""
    return rules.window(dataset) if isinstance(rules, ReadingRules) else None


def check_window(window: Window) -> None:
    """Check a window that a user gave.

    Raises:
        ValueError: The preset is unknown, or a number is not finite, or the width is not above 0.
    """
    if isinstance(window, str) and window not in PRESETS:
        raise ValueError(f"unknown window '{window}'; known are {', '.join(PRESETS)}, or [level, width]")
    if isinstance(window, tuple) and not (all(map(math.isfinite, window)) and window[1] > 0):
        raise ValueError(f"a window is [level, width] with a width above 0, got {list(window)}")
