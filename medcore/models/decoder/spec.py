"""Shape of segment-anything's mask decoder."""

from __future__ import annotations

from dataclasses import dataclass

from medcore.models.fields import check_fields

#: Tokens that the decoder adds to those of the prompts: one for the predicted IoUs, and one for each mask.
MASK_TOKENS = 4
OWN_TOKENS = 1 + MASK_TOKENS
#: Tokens of a box, one for each of two corners.
BOX_TOKENS = 2
#: Layers of the MLP that turns a mask's token into a kernel.
KERNEL_DEPTH = 3


@dataclass(frozen=True)
class DecoderSpec:
    """Shape of segment-anything's mask decoder.

    Attributes:
        depth: layers of the two-way transformer.
        mlp_dim: hidden width of its MLPs.
        num_heads: of its attention.
        iou_head_depth: layers of the IoU head.
        iou_head_hidden_dim: hidden width of the IoU head.
    """

    depth: int = 2
    mlp_dim: int = 2048
    num_heads: int = 8
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256

    def __post_init__(self) -> None:
        check_fields(self, "decoder")
