"""A model as encoder and decoder of the slices of a case."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from medcore.data.formats.intensities import picture
from medcore.data.formats.npz_case import Case
from medcore.data.formats.windows import Window
from medcore.devices import device_of, mixed_precision
from medcore.errors import CheckpointError
from medcore.models.sam import MedSam, predictor
from medcore.quality.cases.propagate import Boxes, propagate
from medcore.quality.cases.shelf import Shelf
from medcore.quality.surfaces import Mask

#: By how much a mask's box is widened, as a share of the side of the model's square: 3 of 256 pixels.
MARGIN = 3 / 256
#: Objects that are decoded at once. Memory grows with their number.
_AT_ONCE = 16


class Segmenter:
    """A model for one case after the other.

    Slices pass through the transform of `medcore.models.sam.predictor`, so the model sees what `medcore predict` shows
    it.
    """

    def __init__(self, model: MedSam, autocast: bool = False) -> None:
        """Take a model on its device, in evaluation mode; `autocast` runs it in bfloat16."""
        self._model, self._autocast = model, autocast
        self._transform = predictor(model).transform

    def segment(self, case: Case, window: Window = None) -> NDArray[np.uint16]:
        """Segment a case from its boxes.

        Args:
            case: Image and boxes.
            window: Brightness of values that are no pictures yet.

        Returns:
            (slices, rows, columns), 0 for background and i for the object of box i, which counts from 1.

        Raises:
            UnreadableFile: A value of the image is not finite.
            CheckpointError: A logit is not finite.
            StorageError: The temporary file cannot be written.
        """
        size = case.shape[1:]
        inner = self._model.arch.frame.inner(*size)

        def encode(index: int) -> Tensor:
            return self._encode(picture(case.image(index), window))

        def decode(embedding: Tensor, boxes: Boxes) -> Iterator[Mask]:
            return self._decode(embedding, boxes, size, inner)

        with Shelf(device_of(self._model)) as kept:
            return propagate(case.boxes, case.shape, self._margin(size), encode, decode, kept)

    def _margin(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the margin in pixels of an image, along its rows and its columns."""
        across, down = self._transform.apply_coords(np.ones((1, 2)), size)[0]
        pixels = MARGIN * self._model.arch.img_size
        return float(pixels / across), float(pixels / down)

    def _encode(self, image: Image) -> Tensor:
        """Return the embedding of an RGB picture, (1, C, g, g)."""
        pixels = np.asarray(image)
        device = device_of(self._model)
        with torch.inference_mode(), mixed_precision(device, self._autocast):
            fitted = torch.as_tensor(self._transform.apply_image(pixels), device=device).permute(2, 0, 1)[None]
            embedding: Tensor = self._model.image_encoder(self._model.preprocess(fitted))
            return embedding

    def _decode(self, embedding: Tensor, boxes: Boxes, size: tuple[int, int], inner: tuple[int, int]) -> Iterator[Mask]:
        """Yield the masks of boxes in a slice.

        Args:
            embedding: (1, C, g, g).
            boxes: (n, 4), in pixels of the image.
            size: Rows and columns of the image.
            inner: Rows and columns of the image within the model's square.

        Raises:
            CheckpointError: A logit is not finite; NaN > 0 would look like an empty mask.
        """
        device = device_of(self._model)
        prompts = torch.as_tensor(self._transform.apply_boxes(boxes, size), dtype=torch.float32, device=device)
        for some in torch.split(prompts, _AT_ONCE):
            with torch.inference_mode(), mixed_precision(device, self._autocast):
                logits = self._model.decode(embedding, some).float()
            if not bool(logits.isfinite().all()):
                raise CheckpointError(
                    "evaluation: the model's logits are not finite; use an earlier checkpoint or a lower learning rate"
                )
            # one by one, because images may be much larger than the logits
            for field in torch.split(logits, 1):
                yield (self._model.postprocess_masks(field, inner, size)[0, 0] > 0).cpu().numpy()
