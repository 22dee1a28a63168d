"""Embedded data: procedural images for a general and a medical domain, and the small model that learns them.

The images are made from a seed, so that the demo and the tests need no download. The mask of each image holds exactly
one connected object, which covers 1.5 to 40 % of the frame. Other things that look like objects are distractors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medcore.data.pictures.layouts import IMAGES, MASKS
from medcore.data.split_files import FILE_NAME, SplitFile, write_split_file
from medcore.data.splits import FRACTIONS, make_splits
from medcore.errors import ConfigError, StorageError
from medcore.files import replacing
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.vit.arch import SamVit
from medcore.synthetic.scenes import general_scene, medical_scene
from medcore.synthetic.shapes import Shape
from medcore.synthetic.textures import Field

#: A small SAM: 128 px in 16 x 16 patches of 8 px, windows of 8 patches, two global blocks.
DEMO_ARCH = SamVit(
    name="demo",
    img_size=128,
    patch_size=8,
    embed_dim=64,
    depth=4,
    num_heads=4,
    mlp_ratio=4.0,
    out_chans=64,
    window_size=8,
    global_attn_indexes=(1, 3),
    decoder=DecoderSpec(depth=2, mlp_dim=128, num_heads=4, iou_head_depth=2, iou_head_hidden_dim=32),
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.25, 0.25, 0.25),
)
#: Smallest and largest share of the frame that the object covers.
LEAST_SHARE, MOST_SHARE = 0.015, 0.40

_SCENES: dict[str, Callable[[np.random.Generator, int], tuple[Field, Shape]]] = {
    "general": general_scene,
    "medical": medical_scene,
}


def make(domain: str, n: int, size: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw n images with their masks.

    Image i depends on (domain, size, seed, i) alone, so a longer set starts with the shorter one.

    Args:
        domain: `general` or `medical`.
        n: Number of images.
        size: Side in pixels, at least 32.
        seed: Not negative.

    Returns:
        Images, uint8 (n, size, size, 3) in RGB, and masks, bool (n, size, size).

    Raises:
        ConfigError: The domain is unknown, the size is below 32 or a number is negative.
    """
    if domain not in _SCENES:
        raise ConfigError(f"unknown synthetic domain '{domain}'; known are {', '.join(_SCENES)}")
    if size < 32 or n < 0 or seed < 0:
        raise ConfigError(f"synthetic images: need size >= 32, n >= 0, seed >= 0; got {size}, {n}, {seed}")
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    masks = np.empty((n, size, size), dtype=np.bool_)
    for index in range(n):
        rng = np.random.default_rng([seed, list(_SCENES).index(domain), index])
        image, masks[index] = _draw(domain, rng, size)
        np.rint(image * 255, out=images[index], casting="unsafe")
    return images, masks


def write_folder(root: Path, domain: str, n: int, size: int, seed: int) -> Path:
    """Write images of `make` as a data folder.

    It holds `images/*.png`, `masks/*.png` (0 and 255) and `splits.json`. Three quarters are `train`, the rest is `val`.
    The manifest is written last, so a folder that has one is complete. Files of the same names are replaced.

    Args:
        root: The folder to make.
        domain: As for `make`.
        n: As for `make`.
        size: As for `make`.
        seed: As for `make`; it also decides the splits.

    Returns:
        The folder.

    Raises:
        ConfigError: As for `make`.
        StorageError: The folder cannot be written.
    """
    root = Path(root)
    images, masks = make(domain, n, size, seed)
    names = [f"{domain}_{index:04d}" for index in range(n)]
    try:
        for kind, pictures in ((IMAGES[0], images), (MASKS[0], masks.astype(np.uint8) * 255)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            for name, picture in zip(names, pictures, strict=True):
                _save_png(root / kind / f"{name}.png", picture)
    except OSError as error:
        raise StorageError(f"{root}: cannot write synthetic images ({error}); choose another folder") from None
    write_split_file(root / FILE_NAME, SplitFile(make_splits(names, FRACTIONS, seed)))
    return root


def _draw(domain: str, rng: np.random.Generator, size: int) -> tuple[Field, NDArray[np.bool_]]:
    """Draw scenes until one has a single object of the right size; most do at once."""
    while True:
        image, target = _SCENES[domain](rng, size)
        if LEAST_SHARE <= target.share <= MOST_SHARE and ndimage.label(target.mask)[1] == 1:
            return image, target.mask


def _save_png(path: Path, picture: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
