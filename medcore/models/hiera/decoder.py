"""SAM 2's prompt encoder and mask decoder for one image, as far as they differ from segment-anything's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medcore.models.hiera.encoder import unfold
from medcore.models.hiera.masks import choose
from medcore.models.sam import PairwiseMaskDecoder, PromptEncoder

if TYPE_CHECKING:
    from medcore.models.decoder.transformer import Widths
    from medcore.models.hiera.arch import Hiera


class HieraPromptEncoder(PromptEncoder):  # type: ignore[misc]
    """segment-anything's prompt encoder, in which a third token, that of no point, follows the corners of a box."""

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes, (P, 4) XYXY in pixels -> (P, 3, C)."""
        corners: Tensor = super()._embed_boxes(boxes)
        return torch.cat([corners, self.not_a_point_embed.weight.expand(corners.shape[0], 1, -1)], dim=1)


class HieraMaskDecoder(PairwiseMaskDecoder):
    """SAM 2's mask decoder for batches of (embedding, prompt) pairs.

    It reads folded embeddings (P, 4·C, g, g), and adds their finer maps where it upscales the image. The head that
    scores whether the object is in the image has no part in an image's masks, and is left out. Its token attends with
    the others, so it stays.

    Args:
        arch: the dense architecture.
        widths: groups that are left, by family.
    """

    def __init__(self, arch: Hiera, widths: Widths) -> None:
        super().__init__(arch, widths)
        self.obj_score_token = nn.Embedding(1, arch.out_chans)
        self.stable_mask = arch.stable_mask

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts; arguments and results are those of `PairwiseMaskDecoder.forward`.

        With `stable_mask` the one mask is chosen among four, but for a model in training mode.
        """
        prompts = (image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        if multimask_output or self.training or not self.stable_mask:
            return super().forward(image_embeddings, *prompts, multimask_output)
        return choose(*self.predict_masks(image_embeddings, *prompts))

    def own_tokens(self) -> Tensor:
        """Return the learned tokens, (6, C): the IoU token first, and the object's last.

        The order has no part in the attention.
        """
        return torch.cat([super().own_tokens(), self.obj_score_token.weight])

    def maps(self, image_embeddings: Tensor) -> tuple[Tensor, ...]:
        """Return embedding and finer maps."""
        return unfold(image_embeddings)

    def upscaled(self, image: Tensor, *finer: Tensor) -> Tensor:
        """Upscale the image, (P, C, g, g) -> (P, C/8, 4g, 4g), and add the finer map after each step."""
        half, full = finer
        first, norm, activation, second, last = self.output_upscaling
        out: Tensor = last(second(activation(norm(first(image) + half))) + full)
        return out

    def ious(self, token: Tensor) -> Tensor:
        """Return predicted IoUs between 0 and 1, (P, C) -> (P, masks)."""
        return super().ious(token).sigmoid()
