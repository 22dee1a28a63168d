"""A table of measured times, and curves of predicted losses, for the tiny architecture."""

from __future__ import annotations

import numpy as np

from medcore.quality.time_table import Conditions, SiteTimes, TimeTable
from tests.support.helpers import TINY

CONDITIONS = Conditions("a CPU", 1, 1, False, "2.0")
#: Heads take long and channels little, unlike in FLOPs. 1 of 17 ms is left without groups.
_HEADS = SiteTimes((0, 1, 3), (0.0, 1.0, 3.0))
_CHANNELS = SiteTimes((0, 8, 48), (0.0, 0.5, 1.0))
TABLE = TimeTable(TINY, CONDITIONS, "2026-01-01", 1.0, 17.2, (_HEADS,) * 4 + (_CHANNELS,) * 4)
#: S arrays (G + 1,), which fall with the width.
CURVES = tuple((1 - np.arange(width + 1) / width) ** 2 for width in TINY.dense_widths)
