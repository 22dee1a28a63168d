"""Run a pruned model without medcore. It needs this file, torch, torchvision and segment_anything.

    python load_pruned.py model.safetensors image.png X0,Y0,X1,Y1 mask.png

or, with this file in the folder of the program:

    from load_pruned import load, predictor
    sam = predictor(load("model.safetensors"))        # segment_anything's own SamPredictor
    sam.set_image(pixels)                             # uint8 (h, w, 3), RGB
    masks, _, _ = sam.predict(box=box, multimask_output=False)   # box: X0, Y0, X1, Y1 in pixels of that image

The structure (architecture, and the heads and MLP channels that each block keeps) is read from the file's own
metadata. The model is segment_anything's `Sam` with narrower linear layers; its images are resized to a square,
not padded, and min-max scaled to [0, 1], as it was trained. Not a medical device.
"""

from __future__ import annotations

import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.library import Library
from torch.nn import functional as F

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    # torchvision's compiled operators do not fit this torch; prompted prediction needs none of them, so it is enough
    # that the two for which torchvision registers shapes are declared
    if "torchvision::nms does not exist" not in str(error):
        raise
    _DECLARED = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _DECLARED.define(_schema)  # type: ignore[no-untyped-call]

from segment_anything import SamPredictor
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load(path: str | Path) -> PrunedSam:
    """Load a model: float32, on the CPU, in evaluation mode.

    Args:
        path: `.safetensors` written by medcore.

    Raises:
        ValueError: the file is no such model or is truncated.
        RuntimeError: tensors do not fit the model's structure.
    """
    metadata, state = read_safetensors(Path(path))
    if metadata.get("format") != "medcore-1":
        raise ValueError(f"{path}: not a model exported by medcore")
    model = PrunedSam(json.loads(metadata["spec"]))
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    model.eval()
    return model


def predictor(model: PrunedSam) -> SamPredictor:
    """Return segment_anything's interactive predictor for this model."""
    interactive = SamPredictor(model)
    interactive.transform = SquareResize(model.image_encoder.img_size)
    return interactive


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file.

    The file is 8 bytes for the header's length, the header as JSON, then the numbers.

    Raises:
        ValueError: the file has another format or is truncated.
    """
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:start])
        metadata = header.pop("__metadata__", {})
        state = {name: _tensor(content, start, entry) for name, entry in header.items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not safetensors, or truncated ({error})") from None
    return metadata, state


def _tensor(content: bytearray, start: int, entry: dict[str, Any]) -> Tensor:
    first, last = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if first == last:  # a block without heads or channels
        return torch.empty(entry["shape"], dtype=dtype)
    count = (last - first) // dtype.itemsize
    return torch.frombuffer(content, dtype=dtype, count=count, offset=start + first).reshape(entry["shape"])


class PrunedSam(Sam):  # type: ignore[misc]
    """segment_anything's model with blocks of unequal width.

    Images are prepared as MedSAM does.

    Args:
        spec: {"arch": fields of the dense architecture, "heads": [...], "channels": [...]}, one number a block.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        arch, decoder = spec["arch"], spec["arch"]["decoder"]
        grid = arch["img_size"] // arch["patch_size"]
        encoder = ImageEncoderViT(
            **{name: arch[name] for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")},
            **{name: arch[name] for name in ("mlp_ratio", "out_chans", "window_size", "global_attn_indexes")},
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
        )
        for block, heads, channels in zip(encoder.blocks, spec["heads"], spec["channels"], strict=True):
            _narrow(block, heads, channels, arch["embed_dim"], arch["embed_dim"] // arch["num_heads"])
        super().__init__(
            image_encoder=encoder,
            prompt_encoder=PromptEncoder(
                embed_dim=arch["out_chans"],
                image_embedding_size=(grid, grid),
                input_image_size=(arch["img_size"], arch["img_size"]),
                mask_in_chans=16,
            ),
            mask_decoder=MaskDecoder(
                transformer_dim=arch["out_chans"],
                transformer=TwoWayTransformer(
                    depth=decoder["depth"],
                    embedding_dim=arch["out_chans"],
                    num_heads=decoder["num_heads"],
                    mlp_dim=decoder["mlp_dim"],
                ),
                iou_head_depth=decoder["iou_head_depth"],
                iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
            ),
            pixel_mean=arch["pixel_mean"],
            pixel_std=arch["pixel_std"],
        )

    def preprocess(self, x: Tensor) -> Tensor:
        """Scale each image (..., 3, S, S) of any range to [0, 1], then normalise it."""
        x = x.float()
        low, high = x.amin(dim=(-3, -2, -1), keepdim=True), x.amax(dim=(-3, -2, -1), keepdim=True)
        scaled: Tensor = super().preprocess((x - low) / (high - low).clamp_min(1e-8))
        return scaled

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Upsample logits (P, K, low, low) of a full square to (P, K, *original_size)."""
        return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)


class BiasOnly(nn.Module):
    """What is left of an attention without heads: the bias of its output."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        # names and shapes of the tensors stay those of segment_anything's attention
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Return the bias for every token, (..., C) -> (..., C)."""
        bias: Tensor = self.proj.bias  # type: ignore[union-attr, assignment]
        return bias.expand(x.shape).contiguous()


def _narrow(block: Any, heads: int, channels: int, dim: int, head_dim: int) -> None:
    """Give a block of segment_anything's encoder so many heads and MLP channels.

    The width of a head stays.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        block.attn.qkv = nn.Linear(dim, 3 * heads * head_dim)
        block.attn.proj = nn.Linear(heads * head_dim, dim)
        block.mlp.lin1 = nn.Linear(dim, channels)
        block.mlp.lin2 = nn.Linear(channels, dim)
    block.attn.num_heads = heads
    if not heads:
        block.attn = BiasOnly(block.attn)


class SquareResize:
    """Transform of a `SamPredictor` to the model's square, without padding."""

    def __init__(self, side: int) -> None:
        self.side = side

    def apply_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Resize an image: uint8 (h, w, 3) -> uint8 (S, S, 3)."""
        return np.array(Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BICUBIC))

    def apply_coords(self, coords: np.ndarray[Any, Any], original_size: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Move XY points (..., 2) of an image of size (h, w) to the square."""
        height, width = original_size
        return np.asarray(coords, dtype=float) * (self.side / width, self.side / height)

    def apply_boxes(self, boxes: np.ndarray[Any, Any], original_size: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Move XYXY boxes (B, 4) of an image of size (h, w) to the square."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)


def main(model: str, image: str, box: str, mask: str) -> None:
    """Segment what a box of an image file holds and write a 0/255 mask.

    Args:
        model: path of the model.
        image: path of the image.
        box: X0,Y0,X1,Y1 in pixels.
        mask: path of the mask to write.
    """
    sam = predictor(load(model))
    sam.set_image(np.asarray(Image.open(image).convert("RGB")))
    masks, _, _ = sam.predict(box=np.array([float(part) for part in box.split(",")]), multimask_output=False)
    Image.fromarray(masks[0].astype(np.uint8) * 255).save(mask)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
