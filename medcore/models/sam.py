"""SAM-style models with a prunable encoder, by MedSAM's protocol (method §1): built on segment_anything.

Frames: images and boxes handed to `MedSam` are in the model's square (side S = `img_size`, the image resized,
not padded); boxes are XYXY in pixels; logits have the low resolution of four pixels a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.library import Library
from torch.nn import functional as F

from medcore.data.imagefile import to_square
from medcore.models.encoder import AttentionMode, ImageEncoder
from medcore.models.spec import Architecture, EncoderSpec


def _import_torchvision() -> tuple[ModuleType, Library | None]:
    """Import torchvision even where its compiled operators do not fit the installed torch.

    torchvision then stops at registering shapes for `nms` and `qnms`, which do not exist; prompted prediction
    needs neither. Both are declared without an implementation; the library must be kept, or they vanish.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return torchvision, None
    declared = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        declared.define(schema)  # type: ignore[no-untyped-call]
    import torchvision

    return torchvision, declared


_TORCHVISION = _import_torchvision()

from segment_anything import SamPredictor  # noqa: E402
from segment_anything.modeling import (  # noqa: E402
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)


class PairwiseMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """segment-anything's mask decoder for as many embeddings as prompts (pairs) or one for all prompts."""

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `predict_masks`, for output mask 0 alone or, with `multimask_output`, for all others."""
        kept = range(1, self.num_mask_tokens) if multimask_output else range(1)
        return self.predict_masks(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, masks=kept
        )

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        masks: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts.

        Args:
            image_embeddings: (P, C, g, g), or (1, C, g, g) shared by all prompts. image_pe: (1, C, g, g).
            sparse_prompt_embeddings: (P, T, C). dense_prompt_embeddings: (P, C, g, g).
            masks: indices of the K output masks wanted; None for all.

        Returns: logits (P, K, 4g, 4g) and predicted IoUs (P, K).

        Raises: ValueError if there are neither one nor P embeddings.
        """
        prompts = sparse_prompt_embeddings.shape[0]
        if image_embeddings.shape[0] not in (1, prompts):
            raise ValueError(f"{image_embeddings.shape[0]} image embeddings for {prompts} prompts")
        kept = list(range(self.num_mask_tokens) if masks is None else masks)
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        # (P, 1 + mask tokens + T, C)
        tokens = torch.cat([learned.expand(prompts, -1, -1), sparse_prompt_embeddings], dim=1)
        source = image_embeddings + dense_prompt_embeddings
        answers, image = self.transformer(source, image_pe.expand(prompts, -1, -1, -1), tokens)
        # (P, g·g, C) -> (P, C, g, g) -> (P, C/8, 4g, 4g)
        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(source.shape))
        weights = torch.stack([self.output_hypernetworks_mlps[i](answers[:, 1 + i]) for i in kept], dim=1)
        # (P, K, C/8) x (P, C/8, 4g·4g) -> (P, K, 4g, 4g)
        logits = (weights @ upscaled.flatten(2)).view(prompts, len(kept), *upscaled.shape[2:])
        return logits, self.iou_prediction_head(answers[:, 0])[:, kept]


class MedSam(Sam):  # type: ignore[misc]
    """Image encoder of unequal widths, prompt encoder and mask decoder of segment-anything.

    Attributes:
        spec: architecture and the widths of the encoder's blocks.
    """

    image_encoder: ImageEncoder

    def __init__(self, spec: EncoderSpec, attention: AttentionMode = "fast") -> None:
        arch = spec.arch
        decoder = arch.decoder
        super().__init__(
            image_encoder=ImageEncoder(spec, attention),
            prompt_encoder=PromptEncoder(
                embed_dim=arch.out_chans,
                image_embedding_size=(arch.grid, arch.grid),
                input_image_size=(arch.img_size, arch.img_size),
                mask_in_chans=16,
            ),
            mask_decoder=PairwiseMaskDecoder(
                transformer_dim=arch.out_chans,
                transformer=TwoWayTransformer(
                    depth=decoder.depth,
                    embedding_dim=arch.out_chans,
                    num_heads=decoder.num_heads,
                    mlp_dim=decoder.mlp_dim,
                ),
                iou_head_depth=decoder.iou_head_depth,
                iou_head_hidden_dim=decoder.iou_head_hidden_dim,
            ),
            pixel_mean=list(arch.pixel_mean),
            pixel_std=list(arch.pixel_std),
        )
        self.spec = spec
        self.attention: AttentionMode = attention

    @property
    def arch(self) -> Architecture:
        return self.spec.arch

    def preprocess(self, x: Tensor) -> Tensor:
        """Min-max scale each image of (..., 3, h, w) to [0, 1], normalise, zero-pad to the model's square."""
        x = x.float()
        low, high = x.amin(dim=(-3, -2, -1), keepdim=True), x.amax(dim=(-3, -2, -1), keepdim=True)
        # a constant image becomes 0
        padded: Tensor = super().preprocess((x - low) / (high - low).clamp_min(1e-8))
        return padded

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Logits (P, K, low, low) -> (P, K, *original_size), in one bilinear step for a full square."""
        if tuple(input_size) == (self.arch.img_size, self.arch.img_size):
            return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)
        full: Tensor = super().postprocess_masks(masks, input_size, original_size)
        return full

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S), float, min-max scaled to [0, 1] -> embeddings (B, out_chans, g, g)."""
        embeddings: Tensor = self.image_encoder((images - self.pixel_mean) / self.pixel_std)
        return embeddings

    def decode(self, embeddings: Tensor, boxes: Tensor) -> Tensor:
        """Embedding i (B, out_chans, g, g) with box i (B, 4), XYXY pixels -> logits (B, 1, low, low)."""
        # Box coordinates lose whole pixels in half precision.
        with torch.autocast(boxes.device.type, enabled=False):
            sparse, dense = self.prompt_encoder(points=None, boxes=boxes.float(), masks=None)
            positions = self.prompt_encoder.get_dense_pe()
        logits: Tensor = self.mask_decoder(
            image_embeddings=embeddings,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )[0]
        return logits

    def segment(self, images: Tensor, boxes: Tensor) -> Tensor:
        """`encode`, then `decode`: one box for each image -> logits (B, 1, low, low)."""
        return self.decode(self.encode(images), boxes)


def build(spec: EncoderSpec, attention: AttentionMode = "fast") -> MedSam:
    """A model with random weights (torch's global generator), float32, in evaluation mode."""
    model = MedSam(spec, attention)
    model.eval()
    return model


def build_empty(spec: EncoderSpec, attention: AttentionMode = "fast") -> MedSam:
    """A model whose tensors have shapes but no values (device "meta"); it draws no random numbers."""
    with torch.device("meta"):
        return build(spec, attention)


def adopt(empty: MedSam, state: Mapping[str, Tensor]) -> MedSam:
    """Let a model from `build_empty` take over the tensors of a complete state dictionary; returns it."""
    empty.load_state_dict(state, assign=True)
    device = next(empty.parameters()).device
    # these two belong to the architecture and are no part of a state dictionary
    empty.pixel_mean = torch.tensor(empty.arch.pixel_mean, device=device).view(-1, 1, 1)
    empty.pixel_std = torch.tensor(empty.arch.pixel_std, device=device).view(-1, 1, 1)
    return empty


class SquareResize:
    """Image and prompt transform of a `SamPredictor`: to the model's square as MedSAM does, without padding.

    `original_size` is (h, w); coordinates are XY, boxes XYXY, in pixels of the original image.
    """

    def __init__(self, side: int) -> None:
        self.target_length = side

    def apply_image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 (h, w, 3) -> uint8 (S, S, 3), as images are read for training and evaluation."""
        return to_square(Image.fromarray(image), self.target_length).transpose(1, 2, 0)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """float (B, 3, h, w) -> (B, 3, S, S), close to `apply_image`, which is what the model expects."""
        size = (self.target_length, self.target_length)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords(self, coords: npt.NDArray[Any], original_size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Points (..., 2) of the original image -> of the square."""
        height, width = original_size
        return np.asarray(coords, dtype=float) * (self.target_length / width, self.target_length / height)

    def apply_boxes(self, boxes: npt.NDArray[Any], original_size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Boxes (B, 4) of the original image -> (B, 4) of the square."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """As `apply_coords`, for tensors."""
        height, width = original_size
        return coords.float() * torch.tensor(
            (self.target_length / width, self.target_length / height), device=coords.device
        )

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """As `apply_boxes`, for tensors."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)


def predictor(model: MedSam) -> SamPredictor:
    """segment-anything's interactive predictor for this model; it resizes to the square, as MedSAM does."""
    interactive = SamPredictor(model)
    interactive.transform = SquareResize(model.arch.img_size)
    return interactive
