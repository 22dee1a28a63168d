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
import re
import struct
import sys
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
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

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

    Grey pixels of more than 8 bits are min-max scaled; 16-bit colours lose their lowest bits.

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
        return np.asarray(_picture(content))
    except IMAGE_ERRORS as error:
        reason = "not one of PNG, JPEG, BMP, TIFF, WebP" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"image: these {len(content)} bytes cannot be read as an image ({reason})") from None


def _picture(content: bytes) -> Image.Image:
    """Decode an image file by the rules of `medcore/data/pictures/decoding.py`."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        _require_one_page(file)
        layout, signed = _layout(file), _tag(file, 339) == 2
        bits = _tag(file, 258) or (16 if ";16" in layout else 8)
        is_deep = file.mode in ("I", "F") or file.mode.startswith("I;16")
        if not is_deep and bits > 8:
            if not layout.startswith(("RGB;16", "RGBA;16")):
                raise ValueError(f"{bits}-bit colours in an arrangement that cannot be read ({file.mode}, {layout})")
            return Image.fromarray(_colours_to_bytes(_joined(content, layout)[..., :3]))
        backwards = _tag(file, 262) == 0
        picture = ImageOps.exif_transpose(file)
    values = np.asarray(picture)
    if is_deep and values.dtype == np.int32 and not signed and bits == 32:
        values = values.view(np.uint32)
    elif signed and picture.mode == "L":
        values = values.view(np.int8)
    elif not is_deep:
        return picture.convert("RGB")
    grey = values.astype(np.float64)
    return Image.fromarray(_to_bytes(-grey if backwards else grey)).convert("RGB")


def _require_one_page(file: ImageFile.ImageFile) -> None:
    count = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    if file.format == "TIFF":
        pages = 0
        for index in range(count):
            file.seek(index)
            pages += not (_tag(file, 254) or 0) & 5  # neither a thumbnail nor a mask
        file.seek(0)
        said = str(_tag(file, 270) or "")
        hidden = (_tag(file, 32997) or 1) > 1 or re.search(r'^images=(?!1\s)\d+|"truncated": true', said, re.MULTILINE)
        count = max(pages, 2 if hidden else 1)
    if count > 1:
        raise ValueError("a stack of several pages; send one page")


def _joined(content: bytes, layout: str) -> npt.NDArray[np.uint16]:
    """Return 16-bit colours, (h, w, C), decoded once for either half of the bytes."""
    mode, order = layout.split(";16")
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    upper, lower = (_decoded_as(content, f"{mode};16{which}") for which in (order, "L" if order == "B" else "B"))
    return upper.astype(np.uint16) * np.uint16(256) + lower


def _decoded_as(content: bytes, layout: str) -> Pixels:
    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        more = [tile.args[1:] if isinstance(tile.args, tuple) else () for tile in file.tile]
        file.tile = [
            tile._replace(args=(layout, *rest) if rest else layout) for tile, rest in zip(file.tile, more, strict=True)
        ]
        return np.asarray(ImageOps.exif_transpose(file))


def _layout(file: ImageFile.ImageFile) -> str:
    arguments: Any = file.tile[0].args if file.tile else ""
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) else ""


def _tag(file: ImageFile.ImageFile, number: int) -> Any:
    value = file.tag_v2.get(number) if isinstance(file, TiffImagePlugin.TiffImageFile) else None
    return value[0] if isinstance(value, tuple) and value else value


def _to_bytes(values: npt.NDArray[np.float64]) -> Pixels:
    low, high = values.min(), values.max()
    if not math.isfinite(low + high):
        raise ValueError("values that are not finite")
    scaled: npt.NDArray[np.float64] = np.rint((values - low) * (255 / max(high - low, 1e-12)))
    return scaled.astype(np.uint8)


def _colours_to_bytes(values: npt.NDArray[np.uint16]) -> Pixels:
    spare = max(int(values.max()).bit_length() - 8, 0)
    if (int(values.max()) - int(values.min())) >> spare < 64:
        return _to_bytes(values.astype(np.float64))
    return np.asarray(values >> spare, np.uint8)


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
