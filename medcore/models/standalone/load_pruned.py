"""Run a pruned model without medcore. It needs this file, torch, torchvision and segment_anything.

    python load_pruned.py model.safetensors image.png X0,Y0,X1,Y1 mask.png

or, with this file in the folder of the program:

    from load_pruned import from_pretrained, predictor
    sam = predictor(from_pretrained("folder"))        # segment_anything's own SamPredictor; load() takes a file
    sam.set_image(pixels)                             # uint8 (h, w, 3), RGB
    masks, _, _ = sam.predict(box=box, multimask_output=False)   # box: X0, Y0, X1, Y1 in pixels of that image

The structure (architecture, and the heads and MLP channels that each block keeps) is read from the file's own
metadata. The model is segment_anything's `Sam` with narrower linear layers; its images are resized to a square, not
padded, and min-max scaled to [0, 1]. `sam_decoder.py` holds a mask decoder that can be pruned. Not a medical device.
"""

from __future__ import annotations

import json
import math
import runpy
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.library import Library
from torch.nn import functional as F

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    # torchvision's compiled operators do not fit this torch; prediction needs none, but two have to be declared
    if "torchvision::nms does not exist" not in str(error):
        raise
    _DECLARED = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _DECLARED.define(_schema)  # type: ignore[no-untyped-call]

from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
#: Largest whole number of a structure, largest side of an image, and most layers: nothing larger is ever built.
_LARGEST, _LARGEST_SIDE, _DEEPEST = 2**16, 2**13, 512
#: Fields of the architecture and of its decoder that are positive whole numbers, with their limits.
_ARCH = dict.fromkeys(("patch_size", "embed_dim", "num_heads", "out_chans", "window_size"), _LARGEST)
_ARCH |= {"img_size": _LARGEST_SIDE, "depth": _DEEPEST}
_DECODER = dict.fromkeys(("mlp_dim", "num_heads", "iou_head_hidden_dim"), _LARGEST) | dict.fromkeys(
    ("depth", "iou_head_depth"), _DEEPEST
)


def load(path: str | Path) -> PrunedSam:
    """Load a model: float32, on the CPU, in evaluation mode.

    Structure, names, shapes and sizes are checked before memory is allocated for the model.

    Args:
        path: `.safetensors` written by medcore.

    Raises:
        ValueError: the file is no such model, is truncated, or contradicts itself; the message is one line.
        OSError: the file cannot be read.
    """
    metadata, state = read_safetensors(Path(path))
    if metadata.get("format") != "medcore-1" or "spec" not in metadata:
        raise ValueError(f"{path}: not a model exported by medcore")
    try:
        spec = json.loads(metadata["spec"])
        _check_structure(spec)
        with torch.device("meta"):  # shapes alone, so that the file's tensors are the only ones
            model = PrunedSam(spec)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not the structure of a model ({error})") from None
    expected, given = ({key: tuple(value.shape) for key, value in each.items()} for each in (model.state_dict(), state))
    if wrong := sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)):
        name = wrong[0]
        raise ValueError(f"{path}: size mismatch for {name!r:.80}: {given.get(name)}, expected {expected.get(name)}")
    weights = {name: tensor.float() for name, tensor in state.items()}
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: weights are not finite (NaN or infinite) in {broken[0]}")
    model.load_state_dict(weights, strict=True, assign=True)
    model.pixel_mean, model.pixel_std = (
        torch.tensor(spec["arch"][name], dtype=torch.float32).view(-1, 1, 1) for name in ("pixel_mean", "pixel_std")
    )
    model.eval()
    return model


def from_pretrained(folder: str | Path) -> PrunedSam:
    """Load the only model of a folder, as `load` does.

    Args:
        folder: an export, or a downloaded repository; the model lies in it or in a folder inside it.

    Raises:
        ValueError: it is no folder, or holds no model or several; further errors as of `load`.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{place}: no such folder; load() reads a file, and a repository must be downloaded first")
    names = ("[!.]*.safetensors", "[!.]*/[!.]*.safetensors")
    found = sorted(str(path.relative_to(place)) for name in names for path in place.glob(name) if path.is_file())
    if len(found) != 1:
        what = f"{len(found)} models ({str(found[:3])[1:-1]})" if found else "no .safetensors file"
        raise ValueError(f"{place}: it holds {what}; give the folder of one export, or give load() the file")
    return load(place / found[0])


def predictor(model: PrunedSam) -> SamPredictor:
    """Return segment_anything's interactive predictor for this model."""
    interactive = SamPredictor(model)
    interactive.transform = SquareResize(model.image_encoder.img_size)
    return interactive


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file.

    The file is 8 bytes for the header's length, the header as JSON, then the numbers of one tensor after another.

    Raises:
        ValueError: the file has another format or is truncated.
        OSError: the file cannot be read.
    """
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    try:
        if not 8 < start <= len(content):
            raise ValueError("its header does not end in the file")
        header = json.loads(content[8:start])
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are no texts")
        spans = {name: _span(name, entry) for name, entry in header.items()}
        _check_order(spans, len(content) - start)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not safetensors, or truncated ({error})") from None
    return metadata, {name: _tensor(content, start, *span) for name, span in spans.items()}


def _span(name: str, entry: Any) -> tuple[int, int, list[int], torch.dtype]:
    """Return where a tensor begins and ends, its shape and its type, if they agree."""
    where = f"tensor {name!r:.80}"
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str) or entry["dtype"] not in _DTYPES:
        raise ValueError(f"{where} has no type of {', '.join(_DTYPES)}")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), _DTYPES[entry["dtype"]]
    if not isinstance(shape, list) or not all(_is_count(side, 2**40) for side in shape) or len(shape) > 8:
        raise ValueError(f"{where} has no shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(place, 2**62) for place in offsets):
        raise ValueError(f"{where} has no place")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{where} takes {offsets[1] - offsets[0]} bytes, which its shape does not")
    return offsets[0], offsets[1], shape, dtype


def _check_order(spans: dict[str, tuple[int, int, list[int], torch.dtype]], size: int) -> None:
    """Check that the tensors follow one another from the first byte to the last."""
    end = 0
    for name, (first, last, *_) in sorted(spans.items(), key=lambda each: each[1][:2]):
        if first != end:
            raise ValueError(f"tensor {name!r:.80} begins at byte {first} of the numbers instead of {end}")
        end = last
    if end != size:
        raise ValueError(f"it has {size} bytes of numbers instead of {end}")


def _tensor(content: bytearray, start: int, first: int, last: int, shape: list[int], dtype: torch.dtype) -> Tensor:
    if first == last:  # a block without heads or channels
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=math.prod(shape), offset=start + first).reshape(shape)


def _is_count(value: Any, most: int, least: int = 0) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # False for NaN


def _check_structure(spec: Any) -> None:
    """Check the fields of a structure, and that no layer is too large to build.

    Raises:
        ValueError: a field is missing or of the wrong kind, or two contradict each other.
    """
    arch = spec.get("arch") if isinstance(spec, dict) else None
    decoder = arch.get("decoder") if isinstance(arch, dict) else None
    if not isinstance(arch, dict) or not isinstance(decoder, dict):
        raise ValueError("it has no architecture with a decoder")
    for fields, limits in ((arch, _ARCH), (decoder, _DECODER)):
        for name, most in limits.items():
            if not _is_count(fields.get(name), most, least=1):
                raise ValueError(f"{name} must be a whole number in 1..{most}, not {fields.get(name)!r:.40}")
    ratio, blocks, width = arch.get("mlp_ratio"), arch["depth"], arch["embed_dim"]
    if not _is_number(ratio) or not 1 <= width * ratio <= _LARGEST:
        raise ValueError(f"mlp_ratio must make 1..{_LARGEST} channels, not {ratio!r:.40}")
    for name, least in (("pixel_mean", -_LARGEST), ("pixel_std", 1e-6)):
        colours = arch.get(name)
        if not isinstance(colours, list) or len(colours) != 3 or not all(_is_number(c) and c >= least for c in colours):
            raise ValueError(f"{name} must hold three numbers from {least}, not {colours!r:.40}")
    whole = arch.get("global_attn_indexes")
    if not isinstance(whole, list) or not all(_is_count(block, blocks - 1) for block in whole):
        raise ValueError(f"global_attn_indexes must name blocks, not {whole!r:.40}")
    if arch["img_size"] % arch["patch_size"] or width % arch["num_heads"]:
        raise ValueError("img_size is no multiple of patch_size, or embed_dim none of num_heads")
    if arch["out_chans"] % 8 or arch["out_chans"] % (2 * decoder["num_heads"]):
        raise ValueError("out_chans is no multiple of 8 and of twice the decoder's num_heads")
    for name, most in (("heads", arch["num_heads"]), ("channels", int(width * ratio)), ("blocks", 1)):
        counts = spec.get(name, [1] * blocks if name == "blocks" else None)
        if not isinstance(counts, list) or len(counts) != blocks or not all(_is_count(each, most) for each in counts):
            raise ValueError(f"{name} must hold {blocks} whole numbers in 0..{most}, not {counts!r:.40}")


def mask_decoder(spec: dict[str, Any], kind: type[MaskDecoder] = MaskDecoder) -> MaskDecoder:
    """Return the mask decoder of a structure; `sam_decoder.py` knows those of unequal widths."""
    width, shape = spec["arch"]["out_chans"], spec["arch"]["decoder"]
    decoder = kind(
        transformer_dim=width,
        transformer=TwoWayTransformer(shape["depth"], width, shape["num_heads"], shape["mlp_dim"]),
        iou_head_depth=shape["iou_head_depth"],
        iou_head_hidden_dim=shape["iou_head_hidden_dim"],
    )
    if "decoder" in list(spec["arch"].get("parts", ())):
        runpy.run_path(str(Path(__file__).with_name("sam_decoder.py")))["narrow"](decoder, spec)
    return decoder


class PrunedSam(Sam):  # type: ignore[misc]
    """segment_anything's model with blocks of unequal width; images are prepared as MedSAM does.

    Args:
        spec: {"arch": fields of the dense architecture, "heads": [...], "channels": [...]}, one number a block.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        arch = spec["arch"]
        grid = arch["img_size"] // arch["patch_size"]
        encoder = ImageEncoderViT(
            **{name: arch[name] for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")},
            **{name: arch[name] for name in ("mlp_ratio", "out_chans", "window_size", "global_attn_indexes")},
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
        )
        left = spec.get("blocks", [1] * arch["depth"])
        for number, (heads, channels) in enumerate(zip(spec["heads"], spec["channels"], strict=True)):
            _narrow(encoder.blocks[number], heads, channels, arch["embed_dim"], arch["embed_dim"] // arch["num_heads"])
            if not left[number]:
                encoder.blocks[number] = nn.Identity()
        super().__init__(
            image_encoder=encoder,
            prompt_encoder=PromptEncoder(
                embed_dim=arch["out_chans"],
                image_embedding_size=(grid, grid),
                input_image_size=(arch["img_size"], arch["img_size"]),
                mask_in_chans=16,
            ),
            mask_decoder=mask_decoder(spec),
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
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """Return the bias for every token, (..., C) -> (..., C)."""
        bias: Tensor = self.proj.bias  # type: ignore[union-attr, assignment]
        return bias.expand(x.shape).contiguous()


def _narrow(block: Any, heads: int, channels: int, dim: int, head_dim: int) -> None:
    """Give a block so many heads and MLP channels; the width of a head stays."""
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
    """Segment what a box X0,Y0,X1,Y1 of an image file holds; write a 0/255 mask."""
    sam = predictor(load(model))
    with Image.open(image) as file:
        if file.mode[0] in "IF":
            raise ValueError(f"{image}: more than 8 bits a channel; convert it to 8 bits")
        sam.set_image(np.asarray(ImageOps.exif_transpose(file).convert("RGB")))
    masks, _, _ = sam.predict(box=np.array([float(part) for part in box.split(",")]), multimask_output=False)
    Image.fromarray(masks[0].astype(np.uint8) * 255).save(mask)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as wrong:
        sys.exit(f"load_pruned.py: {wrong}")
