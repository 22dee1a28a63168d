"""Pictures and data folders for the tests of data handling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 40, width: int = 30) -> np.ndarray:
    """Random colours: uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blob(height: int = 40, width: int = 30) -> np.ndarray:
    """A rectangle of 255 on 0: uint8 (height, width)."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 4 : height // 2, width // 3 : width // 2] = 255
    return mask


def image_folder(root: Path, names: list[str], **size: int) -> Path:
    """Write a data folder of PNG files with these names; returns it."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for seed, name in enumerate(names):
        Image.fromarray(noise(seed, **size)).save(root / "images" / f"{name}.png")
        Image.fromarray(blob(**size)).save(root / "masks" / f"{name}.png")
    return root
