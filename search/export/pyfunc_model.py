"""A pruned model as MLflow serves it: images and boxes in, masks out.

This file is copied into an MLflow model folder and runs there with the loader and the weights. It imports nothing of
the project that wrote it, so it has its own copy of the project's rules for images (`medcore/data/imagefile.py`). One
row of a table, or of a request's `dataframe_records`, is one image:

    image   text: the bytes of a PNG, JPEG, BMP, TIFF or WebP file in base64
    boxes   one or more [x0, y0, x1, y1] in pixels of that image, as it is shown (EXIF orientation is applied)

and one row of the answer:

    masks           one text a box: a PNG file in base64, grey, 0 or 255, of the image's size
    predicted_iou   the model's own estimate of each mask's IoU; not calibrated

If one of its images or boxes is wrong, the whole request is refused with the row and the reason. Not a medical device.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import io
import math
import struct
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel
from PIL import Image, ImageOps, UnidentifiedImageError

#: An image: (h, w, 3), RGB.
Pixels = npt.NDArray[np.uint8]
#: Only these decoders see what arrives from a network.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
#: What PIL raises, depending on the format, for a file that is truncated, damaged or not an image.
IMAGE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class PrunedModel(PythonModel):
    """The folder's model.

    Its configuration has `device`: `cpu`, `cuda`, … or `auto`, which takes a GPU if there is one.
    """

    def load_context(self, context: Any) -> None:
        """Load the weights with the loader, once per process.

        Args:
            context: MLflow's, with the paths of both files and the configuration.
        """
        self._loader = _module(context.artifacts["loader"])
        device = (context.model_config or {}).get("device", "auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = self._loader.load(context.artifacts["model"]).to(device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Segment the objects in the boxes.

        Args:
            context: MLflow's.
            model_input: Columns `image` and `boxes`.
            params: Not used.

        Returns:
            Columns `masks` and `predicted_iou`, row for row.

        Raises:
            MlflowException: An input is wrong (INVALID_PARAMETER_VALUE, which a server turns into status 400).
        """
        # all rows are read before the first is segmented, because a wrong one must not cost the time of the others
        rows = []
        for index, (image, boxes) in enumerate(zip(model_input["image"], model_input["boxes"], strict=True)):
            try:
                pixels = read_image(image)
                rows.append((pixels, read_boxes(boxes, pixels.shape[1], pixels.shape[0])))
            except ValueError as error:
                raise MlflowException.invalid_parameter_value(f"row {index}: {error}") from None
        answers = [self._segment(pixels, boxes) for pixels, boxes in rows]
        return pd.DataFrame(answers, columns=["masks", "predicted_iou"])

    def _segment(
        self, pixels: npt.NDArray[np.uint8], boxes: Sequence[Sequence[float]]
    ) -> tuple[list[str], list[float]]:
        # one predictor for each image, because it holds the image and a server answers several requests at once
        sam = self._loader.predictor(self._model)
        sam.set_image(pixels)
        masks, estimates = [], []
        for box in boxes:
            mask, estimate, _ = sam.predict(box=np.asarray(box), multimask_output=False)
            masks.append(_png(mask[0]))
            estimates.append(float(estimate[0]))
        return masks, estimates


def read_image(text: Any) -> Pixels:
    """Read an image file in base64 as RGB.

    Pixels of more than 8 bits are min-max scaled.

    Args:
        text: The base64 text.

    Returns:
        Uint8 (h, w, 3).

    Raises:
        ValueError: It is no such text.
    """
    if not isinstance(text, str):
        raise ValueError(f"image: expected the base64 text of an image file, got {type(text).__name__}")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"image: not base64 ({error}); send the bytes of an image file in base64") from None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
                values = np.asarray(picture, dtype=np.float64)
                low, high = values.min(), values.max()
                if not math.isfinite(low + high):
                    raise ValueError("values that are not finite")
                picture = Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
            return np.asarray(picture.convert("RGB"))
    except IMAGE_ERRORS as error:
        reason = "not one of PNG, JPEG, BMP, TIFF, WebP" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"image: these {len(content)} bytes cannot be read as an image ({reason})") from None


def read_boxes(boxes: Any, width: int, height: int) -> list[list[float]]:
    """Read one or more boxes that lie inside an image.

    Args:
        boxes: A list of [x0, y0, x1, y1] in pixels.
        width: Of the image.
        height: Of the image.

    Raises:
        ValueError: They are no such boxes.
    """
    if not isinstance(boxes, (list, tuple, np.ndarray)) or not len(boxes):
        raise ValueError("boxes: expected one or more [x0, y0, x1, y1] in pixels of the image")
    return [_read_box(index, box, width, height) for index, box in enumerate(boxes)]


def _read_box(index: int, box: Any, width: int, height: int) -> list[float]:
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"boxes[{index}]: expected four numbers [x0, y0, x1, y1], got {box!r:.80}") from None
    # both ends belong to the box, so a box of one pixel has x0 = x1; NaN fails every comparison
    if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
        raise ValueError(
            f"boxes[{index}]: [{x0:g}, {y0:g}, {x1:g}, {y1:g}] does not lie in the image of {width}×{height} pixels; "
            "give [x0, y0, x1, y1] with x0 ≤ x1 and y0 ≤ y1"
        )
    return [x0, y0, x1, y1]


def _png(mask: npt.NDArray[np.bool_]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _module(path: str) -> ModuleType:
    """Load the loader without registering a module's name.

    A process may hold several models.
    """
    spec = importlib.util.spec_from_file_location("load_pruned", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mlflow.models.set_model(PrunedModel())
