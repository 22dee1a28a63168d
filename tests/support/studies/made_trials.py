"""Tables of made-up trials and images, and what a picture of them must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from results.stats.objectives import Objective

OBJECTIVES = [
    Objective(name="flops", direction="min"),
    Objective(name="boundary_f1", direction="max"),
    Objective(name="hd95", direction="min"),
]
DENSE_FLOPS, BLOCKS, HEADS, CHANNELS = 972.08e9, 12, 12, 3072


def study(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """A made-up study: quality falls with the FLOPs taken, faster for the rule, with a few broken trials."""
    rng = np.random.default_rng(seed)
    starts = [("dense", 1.0)] + [
        (f"{kind} {share}", share) for share in (0.5, 0.3, 0.15) for kind in ("uniform", "rule")
    ]
    rows = []
    for number in range(n):
        origin, share = starts[number] if number < len(starts) else ("sampled", float(rng.uniform(0.08, 0.95)))
        loss = {"rule": 0.5, "unif": 0.38, "dens": 0.0}.get(origin[:4], 0.3 + 0.1 * rng.exponential())
        quality = 0.9 - loss * (1 - share) ** 2.5 + 0.004 * rng.normal()
        budget = np.clip(share * rng.uniform(0.6, 1.4, (2, BLOCKS)), 0, 1) if share < 1 else np.ones((2, BLOCKS))
        rows.append(
            {
                "trial_id": f"{rng.integers(16**8):08x}",
                "number": number,
                "status": "done",
                "origin": origin,
                "flops": share * DENSE_FLOPS,
                "flops_fraction": share,
                "flops_paper_fraction": share,
                "boundary_f1": quality,
                "hd95": 4 + 45 * (0.92 - quality) * rng.uniform(0.8, 1.2),
                "dice": quality + 0.05,
                "heads": [int(count) for count in np.round(HEADS * budget[0])],
                "channels": [int(count) for count in np.round(CHANNELS * budget[1])],
            }
        )
    frame = pd.DataFrame(rows)
    frame.loc[n - 1, ["status", "boundary_f1", "hd95"]] = ["failed", np.nan, np.nan]
    frame.loc[n - 2, ["boundary_f1", "hd95"]] = [0.02, 410.0]
    return frame


def is_picture(path: Path) -> bool:
    """Return whether the PNG has a sensible size and content, and no partial file is left."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return min(pixels.shape) > 300 and float(pixels.std()) > 5 and not list(path.parent.glob("*.tmp"))


def measured(trials: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Per-image metrics, in two data sets of unequal size."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "trial_id": trial["trial_id"],
            "dataset": "a" if image < 4 else "b",
            "name": f"i{image}",
            "boundary_f1": trial["boundary_f1"] + 0.05 * rng.normal(),
            "hd95": trial["hd95"] + rng.normal(),
            "dice": trial["dice"] + 0.02 * rng.normal(),
        }
        for trial in trials[trials["status"] == "done"].to_dict("records")
        for image in range(count)
    ]
    return pd.DataFrame(rows)
