"""How segment-anything's interactive predictor brings images and prompts into a model's square."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from medcore.data.frames.frame import Frame, by_area
from medcore.data.imagefile import to_square


class SquareResize:
    """Transform of a `SamPredictor` to the model's square, without padding.

    It resizes images and prompts as MedSAM does. `original_size` is (h, w); coordinates are XY, boxes XYXY, in pixels
    of the original image.
    """

    def __init__(self, side: int) -> None:
        self.target_length = side

    def apply_image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize an image as for training: uint8 (h, w, 3) -> uint8 (S, S, 3)."""
        return to_square(Image.fromarray(image), self.target_length).transpose(1, 2, 0)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize a batch: float (B, 3, h, w) -> (B, 3, S, S).

        The result is close to that of `apply_image`, which is what the model expects.
        """
        size = (self.target_length, self.target_length)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords(self, coords: npt.NDArray[Any], original_size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Move points (..., 2) of the original image to the square."""
        height, width = original_size
        return np.asarray(coords, dtype=float) * (self.target_length / width, self.target_length / height)

    def apply_boxes(self, boxes: npt.NDArray[Any], original_size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Move boxes (B, 4) of the original image to the square."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Move points as `apply_coords` does, for tensors."""
        height, width = original_size
        return coords.float() * torch.tensor(
            (self.target_length / width, self.target_length / height), device=coords.device
        )

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Move boxes as `apply_boxes` does, for tensors."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)


class PaddedResize(SquareResize):
    """The same to a square that is padded right and below, as LiteMedSAM does."""

    def apply_image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize an image as for training: uint8 (h, w, 3) -> uint8, the longest side S."""
        return by_area(image, Frame(self.target_length, padded=True).inner(*image.shape[:2]))

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize a batch: float (B, 3, h, w) -> the longest side S.

        The result is close to that of `apply_image`, which is what the model expects.
        """
        size = Frame(self.target_length, padded=True).inner(*image.shape[-2:])
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords(self, coords: npt.NDArray[Any], original_size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Move points (..., 2) of the original image to the square."""
        return np.asarray(coords, dtype=float) * (self.target_length / max(original_size))

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Move points as `apply_coords` does, for tensors."""
        return coords.float() * (self.target_length / max(original_size))
