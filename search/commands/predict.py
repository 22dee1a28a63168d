"""`medcore predict`: segment the object in a box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medcore.data.imagefile import UNREADABLE, read_image
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.models.sam import predictor
from results.store.files import make_folder
from search.base.device import best_device


def predict(
    checkpoint: Path, image: Path, box: tuple[float, float, float, float], out: Path, architecture: str | None = None
) -> float:
    """Segment what the box (X0,Y0,X1,Y1, pixels of the original image) holds; write a 0/255 mask, return its share."""
    try:
        pixels = np.asarray(read_image(image))
    except UNREADABLE as error:
        raise MedcoreError(
            f"{image}: cannot be read as an image ({error}); give a PNG, JPEG, BMP, TIFF or WebP file"
        ) from None
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise MedcoreError(
            f"--box {x0:g},{y0:g},{x1:g},{y1:g} does not lie in {image} ({width}×{height}); give X0,Y0,X1,Y1"
        )
    sam = predictor(load(checkpoint, architecture).to(best_device()))
    sam.set_image(pixels)
    masks, _, _ = sam.predict(box=np.asarray(box), multimask_output=False)
    make_folder(out.parent)
    try:
        Image.fromarray(masks[0].astype(np.uint8) * 255).save(out)
    except (OSError, ValueError) as error:
        raise MedcoreError(f"{out}: cannot write the mask ({error})") from None
    return float(masks[0].mean())
