"""Run a pruned SAM 2 without medcore. It needs this folder, torch, torchvision and segment_anything.

    python load_pruned.py model.safetensors image.png X0,Y0,X1,Y1 mask.png

or, with this folder's files in the folder of the program:

    from load_pruned import from_pretrained, predictor
    sam = predictor(from_pretrained("folder"))        # segment_anything's own SamPredictor; load() takes a file
    sam.set_image(pixels)                             # uint8 (h, w, 3), RGB
    masks, _, _ = sam.predict(box=box, multimask_output=False)   # box: X0, Y0, X1, Y1 in pixels of that image

The structure is read from the file's own metadata. `hiera.py` holds the encoder, `hiera_masks.py` the choice of a mask,
and `load_sam.py` the reader of files and what all exported models share. Images are resized to the square. A model is
one of images: there is no memory for videos. Not a medical device.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def _sibling(name: str) -> ModuleType:
    """Run a file of this folder as a module, whatever the program's search path is.

    No compiled copy is left in the folder.
    """
    path = Path(__file__).with_name(f"{name}.py")
    module = ModuleType(name)
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    return module


_sam: Any = _sibling("load_sam")
_encoder: Any = _sibling("hiera")
_masks: Any = _sibling("hiera_masks")

_LARGEST, _LARGEST_SIDE, _DEEPEST, _STAGES = 2**16, 2**13, 512, 4
#: Fields of the architecture and of its decoder that are positive whole numbers, with their limits.
_ARCH = {"img_size": _LARGEST_SIDE, "pos_embed_size": _LARGEST_SIDE}
_ARCH |= dict.fromkeys(("embed_dim", "num_heads", "out_chans"), _LARGEST)
_DECODER = dict.fromkeys(("mlp_dim", "num_heads", "iou_head_hidden_dim"), _LARGEST) | dict.fromkeys(
    ("depth", "iou_head_depth"), _DEEPEST
)


class HieraPromptEncoder(_sam.PromptEncoder):  # type: ignore[misc]
    """segment_anything's prompt encoder, in which the token of no point follows the corners of a box."""

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners: Tensor = super()._embed_boxes(boxes)
        return torch.cat([corners, self.not_a_point_embed.weight.expand(corners.shape[0], 1, -1)], dim=1)


class HieraMaskDecoder(_sam.MaskDecoder):  # type: ignore[misc]
    """segment_anything's mask decoder with SAM 2's finer maps, its token for the object, and its choice of a mask.

    Attributes:
        stable_mask: whether an unstable mask 0 gives way to the one of the others with the highest predicted IoU.
    """

    stable_mask = True

    def __init__(self, transformer_dim: int, **others: Any) -> None:
        super().__init__(transformer_dim=transformer_dim, **others)
        self.obj_score_token = nn.Embedding(1, transformer_dim)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts of one image: folded embeddings (1, 4·C, g, g) -> logits (P, K, 4g, 4g), IoUs (P, K)."""
        logits, ious = self.predict_masks(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        if multimask_output:
            return logits[:, 1:], ious[:, 1:]
        if not self.stable_mask:
            return logits[:, :1], ious[:, :1]
        chosen: tuple[Tensor, Tensor] = _masks.choose(logits, ious)
        return chosen

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return all masks, (P, 4, 4g, 4g), and their predicted IoUs, (P, 4)."""
        prompts = len(sparse_prompt_embeddings)
        embedding, half, full = _encoder.unfold(image_embeddings)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.obj_score_token.weight])
        tokens = torch.cat([own.expand(prompts, -1, -1), sparse_prompt_embeddings], dim=1)
        source = embedding + dense_prompt_embeddings
        answers, image = self.transformer(source, image_pe.expand(prompts, -1, -1, -1), tokens)
        first, norm, activation, second, last = self.output_upscaling
        maps = activation(norm(first(image.transpose(1, 2).reshape(source.shape)) + half))
        maps = last(second(maps) + full)
        kernels = [mlp(answers[:, 1 + mask]) for mask, mlp in enumerate(self.output_hypernetworks_mlps)]
        logits = torch.stack(kernels, dim=1) @ maps.flatten(2)
        return logits.view(prompts, -1, *maps.shape[2:]), self.iou_prediction_head(answers[:, 0]).sigmoid()


class PrunedHiera(_sam.PrunedSam):  # type: ignore[misc]
    """segment_anything's model with SAM 2's encoder of unequal widths and its mask decoder.

    Args:
        spec: {"arch": fields of the dense architecture, ...} and the groups that are left, by family.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        arch = spec["arch"]
        side, grid = arch["img_size"], arch["img_size"] // 16
        widths = {name: counts for name, counts in spec.items() if name != "arch"}
        prompts = HieraPromptEncoder(
            embed_dim=arch["out_chans"],
            image_embedding_size=(grid, grid),
            input_image_size=(side, side),
            mask_in_chans=16,
        )
        # that of the parent builds another encoder
        _sam.Sam.__init__(
            self,
            image_encoder=_encoder.HieraEncoder(arch, widths),
            prompt_encoder=prompts,
            mask_decoder=_sam.mask_decoder(spec, HieraMaskDecoder),
            pixel_mean=arch["pixel_mean"],
            pixel_std=arch["pixel_std"],
        )
        self.mask_decoder.stable_mask = arch["stable_mask"]


def _check_structure(spec: Any) -> None:
    """Check the fields of a structure, and that no layer is too large to build.

    Raises:
        ValueError: a field is missing or of the wrong kind, or two contradict each other.
    """
    arch = spec.get("arch") if isinstance(spec, dict) else None
    decoder = arch.get("decoder") if isinstance(arch, dict) else None
    if not isinstance(arch, dict) or not isinstance(decoder, dict) or arch.get("kind") != "hiera":
        raise ValueError("it has no Hiera architecture with a decoder")
    for fields, limits in ((arch, _ARCH), (decoder, _DECODER)):
        for name, most in limits.items():
            if not _is_count(fields.get(name), most, least=1):
                raise ValueError(f"{name} must be a whole number in 1..{most}, not {fields.get(name)!r:.40}")
    depths, windows = (_list(arch, name, _STAGES, _LARGEST, least=1) for name in ("depths", "window_sizes"))
    blocks, width, ratio = sum(depths), arch["embed_dim"], arch.get("mlp_ratio", 0)
    if blocks > _DEEPEST:
        raise ValueError(f"depths must be at most {_DEEPEST} together")
    if not _is_number(ratio) or not (width * ratio >= 1 and 8 * width * max(ratio, 1) <= _LARGEST):
        raise ValueError(f"embed_dim and mlp_ratio must make 1..{_LARGEST} channels, not {ratio!r:.40}")
    for name, least in (("pixel_mean", -_LARGEST), ("pixel_std", 1e-6)):
        colours = arch.get(name)
        if not isinstance(colours, list) or len(colours) != 3 or not all(_is_number(c) and c >= least for c in colours):
            raise ValueError(f"{name} must hold three numbers from {least}, not {colours!r:.40}")
    whole = arch.get("global_attn_indexes")
    if not isinstance(whole, list) or not all(_is_count(block, blocks - 1) for block in whole):
        raise ValueError(f"global_attn_indexes must name blocks, not {whole!r:.40}")
    if not isinstance(arch.get("stable_mask"), bool):
        raise ValueError("stable_mask must be true or false")
    sides = [arch["img_size"] // (4 * 2**stage) for stage in range(_STAGES)]
    if arch["img_size"] % 32 or sides[0] % windows[0] or arch["pos_embed_size"] > sides[0]:
        raise ValueError("img_size is no multiple of 32 and of a window, or smaller than the table of positions")
    if any(window > side for window, side in zip(windows, sides, strict=True)):
        raise ValueError(f"window_sizes must be at most the tokens along a side of their stage, not {windows!r:.40}")
    if width % arch["num_heads"] or arch["out_chans"] % 8 or arch["out_chans"] % (2 * decoder["num_heads"]):
        raise ValueError("embed_dim is no multiple of num_heads, or out_chans none of 8 and of twice the decoder's")
    for name in ("heads", "channels"):
        _list(spec, name, blocks, _LARGEST)
    if "blocks" in spec:
        # blocks that begin a stage always stay
        _list(spec, "blocks", blocks - _STAGES + 1, 1)


def _list(fields: dict[str, Any], name: str, count: int, most: int, least: int = 0) -> list[int]:
    """Return a list of so many whole numbers.

    Raises:
        ValueError: it is missing, has another length, or holds something else.
    """
    values = fields.get(name)
    if not isinstance(values, list) or len(values) != count or not all(_is_count(each, most, least) for each in values):
        raise ValueError(f"{name} must hold {count} whole numbers in {least}..{most}, not {values!r:.40}")
    return values


def _is_count(value: Any, most: int, least: int = 0) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # False for NaN


# its functions that load a model load this kind
_sam._check_structure, _sam.PrunedSam = _check_structure, PrunedHiera
load, from_pretrained, predictor = _sam.load, _sam.from_pretrained, _sam.predictor

if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        _sam.main(*sys.argv[1:])
    except (ValueError, OSError) as wrong:
        sys.exit(f"load_pruned.py: {wrong}")
