"""`medcore predict`: segment the object in a box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medcore.data.imagefile import IMAGE_ERRORS, read_image
from medcore.errors import ConfigError, DataError, StorageError
from medcore.models.checkpoint import load
from medcore.models.sam import predictor
from results.store.files import make_folder
from search.base.device import best_device

Box = tuple[float, float, float, float]


def predict(checkpoint: Path, image: Path, box: Box, out: Path, architecture: str | None = None) -> float:
    """Write the mask of the object in a box.

    The share of the image that it covers is returned.

    Args:
        checkpoint: File of the model.
        image: Image file.
        box: X0, Y0, X1, Y1 in pixels of the image.
        out: File to write, with values 0 and 255.
        architecture: Name or JSON file, for a checkpoint that does not describe itself.

    Raises:
        MedcoreError: The image cannot be read, the box does not lie in it, or the mask cannot be written.
    """
    try:
        pixels = np.asarray(read_image(image))
    except IMAGE_ERRORS as error:
        raise DataError(
            f"{image}: cannot be read as an image ({error}); give a PNG, JPEG, BMP, TIFF or WebP file"
        ) from None
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ConfigError(
            f"--box {x0:g},{y0:g},{x1:g},{y1:g} does not lie in {image} ({width}×{height}); give X0,Y0,X1,Y1"
        )
    sam = predictor(load(checkpoint, architecture).to(best_device()))
    sam.set_image(pixels)
    masks, _, _ = sam.predict(box=np.asarray(box), multimask_output=False)
    make_folder(out.parent)
    try:
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(out)
    except (OSError, ValueError) as error:
        raise StorageError(f"{out}: cannot write the mask ({error})") from None
    return float(masks[0].mean())
