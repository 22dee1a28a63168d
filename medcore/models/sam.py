"""SAM-style models with a prunable encoder, by MedSAM's protocol (method §1), built on segment_anything.

Images and boxes of `MedSam` are in the model's square of side S = `img_size`: the image resized to all of it, or padded
if the architecture's frame says so. Boxes are XYXY in pixels. Logits have the low resolution of four pixels a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.compat import NoRandomNumbers, defer_init, import_torchvision
from medcore.data.frames.transforms import PaddedResize, SquareResize
from medcore.errors import CheckpointError
from medcore.models.decoder.places import FAMILIES as DECODER_FAMILIES
from medcore.models.decoder.places import OUTPUTS
from medcore.models.decoder.transformer import TwoWayTransformer, Widths, narrow_outputs
from medcore.models.masks import keep_all
from medcore.models.sites import PerSite
from medcore.models.spec import DECODER, ENCODER, Architecture, ModelSpec
from medcore.models.vit.encoder import AttentionMode

# the package's `__init__` imports torchvision, which takes about as long as torch and which only `predictor` needs
defer_init("segment_anything", before=import_torchvision)

from segment_anything.modeling import (  # noqa: E402
    MaskDecoder,
    Sam,
)
from segment_anything.modeling import PromptEncoder as PromptEncoder  # noqa: E402

if TYPE_CHECKING:
    from segment_anything import SamPredictor


class PairwiseMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """segment-anything's mask decoder of unequal widths, for batches of (embedding, prompt) pairs.

    Args:
        arch: the dense architecture.
        widths: groups that are left, by family.
    """

    def __init__(self, arch: Architecture, widths: Widths) -> None:
        shape = arch.decoder
        super().__init__(
            transformer_dim=arch.out_chans,
            transformer=TwoWayTransformer(arch.out_chans, shape.num_heads, widths),
            iou_head_depth=shape.iou_head_depth,
            iou_head_hidden_dim=shape.iou_head_hidden_dim,
        )
        narrow_outputs(self, widths)
        #: Whether masks 1 to 3 can be had.
        self.has_all_masks = all(widths[OUTPUTS.name][:-1])

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts as segment-anything's predictor expects it.

        Args:
            image_embeddings: (P, C, g, g), or (1, C, g, g) shared by all prompts.
            image_pe: positions, (1, C, g, g).
            sparse_prompt_embeddings: (P, T, C).
            dense_prompt_embeddings: (P, C, g, g).
            multimask_output: whether to return all output masks but mask 0, or mask 0 alone.

        Returns:
            Logits (P, K, 4g, 4g) and predicted IoUs (P, K), which are NaN if their output was cut.

        Raises:
            CheckpointError: several masks are wanted of a model that has lost some.
        """
        if multimask_output and not self.has_all_masks:
            raise CheckpointError("this model has lost some of masks 1 to 3; ask for one mask (multimask_output=False)")
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
            image_embeddings: (P, C, g, g), or (1, C, g, g) shared by all prompts.
            image_pe: positions, (1, C, g, g).
            sparse_prompt_embeddings: (P, T, C).
            dense_prompt_embeddings: (P, C, g, g).
            masks: indices of the K output masks wanted; None for all.

        Returns:
            Logits (P, K, 4g, 4g) and predicted IoUs (P, K).

        Raises:
            ValueError: there are neither one nor P embeddings.
        """
        prompts = sparse_prompt_embeddings.shape[0]
        if image_embeddings.shape[0] not in (1, prompts):
            raise ValueError(f"{image_embeddings.shape[0]} image embeddings for {prompts} prompts")
        kept = list(range(self.num_mask_tokens) if masks is None else masks)
        # (P, own tokens + T, C)
        tokens = torch.cat([self.own_tokens().expand(prompts, -1, -1), sparse_prompt_embeddings], dim=1)
        embedding, *finer = self.maps(image_embeddings)
        source = embedding + dense_prompt_embeddings
        answers, image = self.transformer(source, image_pe.expand(prompts, -1, -1, -1), tokens)
        # (P, g·g, C) -> (P, C, g, g) -> (P, C/8, 4g, 4g)
        upscaled = self.upscaled(image.transpose(1, 2).reshape(source.shape), *finer)
        weights = torch.stack([self.output_hypernetworks_mlps[i](answers[:, 1 + i]) for i in kept], dim=1)
        # (P, K, C/8) x (P, C/8, 4g·4g) -> (P, K, 4g, 4g)
        logits = (weights @ upscaled.flatten(2)).view(prompts, len(kept), *upscaled.shape[2:])
        return logits, self.ious(answers[:, 0])[:, kept]

    def own_tokens(self) -> Tensor:
        """Return the learned tokens, (1 + mask tokens, C): the IoU token, then those of the masks."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def maps(self, image_embeddings: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding (P, C, g, g), and finer maps that the encoder returns with it."""
        return (image_embeddings,)

    def upscaled(self, image: Tensor, *_finer: Tensor) -> Tensor:
        """Upscale the image, (P, C, g, g) -> (P, C/8, 4g, 4g)."""
        out: Tensor = self.output_upscaling(image)
        return out

    def ious(self, token: Tensor) -> Tensor:
        """Return predicted IoUs, (P, C) -> (P, masks)."""
        out: Tensor = self.iou_prediction_head(token)
        return out


def prompt_shape(arch: Architecture) -> dict[str, Any]:
    """Return the arguments of segment-anything's prompt encoder."""
    return {
        "embed_dim": arch.out_chans,
        "image_embedding_size": (arch.grid, arch.grid),
        "input_image_size": (arch.img_size, arch.img_size),
        "mask_in_chans": 16,
    }


class MedSam(Sam):  # type: ignore[misc]
    """segment-anything's model with an image encoder and a mask decoder of unequal widths.

    Attributes:
        spec: architecture and the widths of the blocks.
        attention: how the encoder computes attention.
        kept: bool over the dense groups of each site, which of them the model has. None: it is pruned, and no record
            says which groups it kept.
    """

    image_encoder: nn.Module

    def __init__(self, spec: ModelSpec, attention: AttentionMode = "fast") -> None:
        arch = spec.arch
        encoder = arch.build_encoder(spec, attention)
        prompts, masks = arch.build_others(spec) or (
            PromptEncoder(**prompt_shape(arch)),
            PairwiseMaskDecoder(arch, spec.whole_budget),
        )
        super().__init__(
            image_encoder=encoder,
            prompt_encoder=prompts,
            mask_decoder=masks,
            pixel_mean=list(arch.pixel_mean),
            pixel_std=list(arch.pixel_std),
        )
        # segment-anything reads it there, in `preprocess` and in its predictor
        self.image_encoder.img_size = arch.img_size  # type: ignore[assignment]
        self.spec = spec
        self.attention: AttentionMode = attention
        self.kept: PerSite | None = keep_all(spec) if spec.is_dense else None

    @property
    def arch(self) -> Architecture:
        """Return the dense architecture."""
        return self.spec.arch

    @property
    def trained(self) -> list[nn.Module]:
        """Return what a recovery trains by default: the encoder or the decoder or both, where groups are gone.

        Outputs without a part in the mask do not count. If no group is gone, it is the encoder if that can be pruned.
        """
        sites = zip(self.arch.sites, self.spec.widths, strict=True)
        cut = [site for site, width in sites if width < site.width]
        free = {site.name for site in cut if site.family == OUTPUTS}
        gone = {site.family in DECODER_FAMILIES for site in cut if not {site.name, site.within} & free}
        both = {False: self.image_encoder, True: self.mask_decoder}
        return [both[is_decoder] for is_decoder in sorted(gone or {ENCODER not in self.arch.parts})]

    def preprocess(self, x: Tensor) -> Tensor:
        """Scale each image to [0, 1] by its extremes, normalise and pad it (1.1).

        Args:
            x: (..., 3, h, w), of any range.

        Returns:
            Float32 (..., 3, S, S), zero-padded right and below.
        """
        x = x.float()
        low, high = x.amin(dim=(-3, -2, -1), keepdim=True), x.amax(dim=(-3, -2, -1), keepdim=True)
        # a constant image becomes 0
        padded: Tensor = super().preprocess((x - low) / (high - low).clamp_min(1e-8))
        return padded

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Upsample logits bilinearly, in one step for an image that fills the square.

        Where the architecture pads its square there are always two steps (1.3), also for an image without padding.

        Args:
            masks: logits (P, K, low, low).
            input_size: (h, w) of the image within the square.
            original_size: (h, w) of the image file.

        Returns:
            Logits (P, K, *original_size).
        """
        if not self.arch.frame.padded and tuple(input_size) == (self.arch.img_size,) * 2:
            return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)
        full: Tensor = super().postprocess_masks(masks, input_size, original_size)
        return full

    def encode(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (B, 3, S, S), float, each min-max scaled to [0, 1].

        Returns:
            Embeddings (B, embedding_chans, g, g).
        """
        embeddings: Tensor = self.image_encoder((images - self.pixel_mean) / self.pixel_std)
        return embeddings

    def decode(self, embeddings: Tensor, boxes: Tensor) -> Tensor:
        """Decode embedding i with box i.

        Args:
            embeddings: (B, embedding_chans, g, g).
            boxes: (B, 4), XYXY in pixels of the square.

        Returns:
            Logits (B, 1, low, low).
        """
        # box coordinates lose whole pixels in half precision
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
        """Encode images and decode one box for each.

        Args:
            images: as for `encode`.
            boxes: as for `decode`.

        Returns:
            Logits (B, 1, low, low).
        """
        return self.decode(self.encode(images), boxes)

    def run_parts(self, images: Tensor, boxes: Tensor) -> None:
        """Run the parts that can be pruned, for those who watch them; arguments as for `segment`."""
        if DECODER in self.arch.parts:
            self.segment(images, boxes.to(images))
        else:
            self.encode(images)


def build(spec: ModelSpec, attention: AttentionMode = "fast") -> MedSam:
    """Return a model with random weights, float32, in evaluation mode.

    The weights are drawn from torch's global generator.
    """
    model = MedSam(spec, attention)
    model.eval()
    return model


def build_empty(spec: ModelSpec, attention: AttentionMode = "fast") -> MedSam:
    """Return a model whose tensors have shapes but no values (device "meta").

    It draws no random numbers.
    """
    with torch.device("meta"), NoRandomNumbers():
        model = build(spec, attention)
    model.to("meta")
    return model


def adopt(empty: MedSam, state: Mapping[str, Tensor]) -> MedSam:
    """Give a model from `build_empty` the tensors of a complete state dictionary.

    Args:
        empty: changed in place.
        state: its tensors are taken over, not copied.

    Returns:
        The same model.
    """
    empty.load_state_dict(state, assign=True)
    device = next(empty.parameters()).device
    # these two belong to the architecture and are no part of a state dictionary
    empty.pixel_mean = torch.tensor(empty.arch.pixel_mean, device=device).view(-1, 1, 1)
    empty.pixel_std = torch.tensor(empty.arch.pixel_std, device=device).view(-1, 1, 1)
    return empty


def predictor(model: MedSam) -> SamPredictor:
    """Return segment-anything's interactive predictor for this model.

    It resizes to the square, as MedSAM or LiteMedSAM does.
    """
    from segment_anything import SamPredictor

    interactive = SamPredictor(model)
    interactive.transform = (PaddedResize if model.arch.frame.padded else SquareResize)(model.arch.img_size)
    return interactive
