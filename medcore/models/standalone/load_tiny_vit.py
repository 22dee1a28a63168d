"""Run a pruned LiteMedSAM or MobileSAM without medcore. It needs this folder, torch, torchvision and segment_anything.

    python load_pruned.py model.safetensors image.png X0,Y0,X1,Y1 mask.png

or, with this folder's files in the folder of the program:

    from load_pruned import from_pretrained, predictor
    sam = predictor(from_pretrained("folder"))        # segment_anything's own SamPredictor; load() takes a file
    sam.set_image(pixels)                             # uint8 (h, w, 3), RGB
    masks, _, _ = sam.predict(box=box, multimask_output=False)   # box: X0, Y0, X1, Y1 in pixels of that image

The structure is read from the file's own metadata. `tiny_vit.py` holds the encoder, `load_sam.py` the reader of files
and what all exported models share. The longest side of an image becomes the model's square, by area, and the square is
padded right and below; or the image is resized to all of it, if the structure says so. Not a medical device.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


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
_encoder: Any = _sibling("tiny_vit")
# the count of batches that a normalisation has seen is a whole number
_sam._DTYPES["I64"] = torch.int64

_LARGEST, _LARGEST_SIDE, _DEEPEST = 2**16, 2**13, 512
_DECODER = {
    "depth": _DEEPEST,
    "iou_head_depth": _DEEPEST,
    "mlp_dim": _LARGEST,
    "num_heads": _LARGEST,
    "iou_head_hidden_dim": _LARGEST,
}


def load(path: str | Path) -> Any:
    """Load a model: float32, on the CPU, in evaluation mode.

    Structure, names, shapes and sizes are checked before memory is allocated for the model.

    Args:
        path: `.safetensors` written by medcore.

    Raises:
        ValueError: the file is no such model, is truncated, or contradicts itself; the message is one line.
        OSError: the file cannot be read.
    """
    metadata, state = _sam.read_safetensors(Path(path))
    if metadata.get("format") != "medcore-1" or "spec" not in metadata:
        raise ValueError(f"{path}: not a model exported by medcore")
    try:
        spec = json.loads(metadata["spec"])
        _check_structure(spec)
        with torch.device("meta"):  # shapes alone, so that the file's tensors are the only ones
            model = PrunedTinyVit(spec)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not the structure of a model ({error})") from None
    expected = model.state_dict()
    shapes, given = ({key: tuple(value.shape) for key, value in each.items()} for each in (expected, state))
    if wrong := sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name)):
        name = wrong[0]
        raise ValueError(f"{path}: size mismatch for {name!r:.80}: {given.get(name)}, expected {shapes.get(name)}")
    floats = {name: value.is_floating_point() for name, value in expected.items()}
    if wrong := [name for name, value in state.items() if value.is_floating_point() != floats[name]]:
        raise ValueError(f"{path}: {wrong[0]} holds {state[wrong[0]].dtype} instead of {expected[wrong[0]].dtype}")
    weights = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: weights are not finite (NaN or infinite) in {broken[0]}")
    model.load_state_dict(weights, strict=True, assign=True)
    model.pixel_mean, model.pixel_std = (
        torch.tensor(spec["arch"][name], dtype=torch.float32).view(-1, 1, 1) for name in ("pixel_mean", "pixel_std")
    )
    model.eval()
    return model


def from_pretrained(folder: str | Path) -> Any:
    """Load the only model of a folder, as `load` does.

    Args:
        folder: an export, or a downloaded repository; the model lies in it or in a folder inside it.

    Raises:
        ValueError: it is no folder, or holds no model or several; further errors as of `load`.
    """
    return _sam.from_pretrained(folder)


def predictor(model: Any) -> Any:
    """Return segment_anything's interactive predictor for this model."""
    interactive = _sam.SamPredictor(model)
    side = model.image_encoder.img_size
    interactive.transform = PaddedResize(side) if model.padded else _sam.SquareResize(side)
    return interactive


class PaddedResize:
    """Transform of a `SamPredictor`: the longest side becomes that of the square."""

    def __init__(self, side: int) -> None:
        self.side = side

    def apply_image(self, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Resize an image by area: uint8 (h, w, 3) -> uint8 (h', w', 3), the longest side S."""
        scale = self.side / max(image.shape[:2])
        resized: np.ndarray[Any, Any] = image.astype(np.float32)
        for axis in (0, 1):
            old = image.shape[axis]
            new = max(1, int(old * scale + 0.5))
            step = old / new
            starts, pixels = np.arange(new)[:, None] * step, np.arange(old)[None, :]
            covered = np.minimum(starts + step, pixels + 1) - np.maximum(starts, pixels)
            shares = (covered.clip(0) / step).astype(np.float32)
            resized = np.moveaxis(np.tensordot(shares, resized, axes=(1, axis)), 0, axis)
        rounded: np.ndarray[Any, Any] = np.rint(resized).clip(0, 255).astype(np.uint8)
        return rounded

    def apply_coords(self, coords: np.ndarray[Any, Any], original_size: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Move XY points (..., 2) of an image of size (h, w) to the square."""
        return np.asarray(coords, dtype=float) * (self.side / max(original_size))

    def apply_boxes(self, boxes: np.ndarray[Any, Any], original_size: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Move XYXY boxes (B, 4) of an image of size (h, w) to the square."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)


class PrunedTinyVit(_sam.Sam):  # type: ignore[misc]
    """segment_anything's model with a TinyViT encoder of unequal widths.

    Args:
        spec: {"arch": fields of the dense architecture, ...} and the groups that are left, by family.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        arch = spec["arch"]
        side, width = arch["img_size"], arch["out_chans"]
        widths = {name: counts for name, counts in spec.items() if name != "arch"}
        super().__init__(
            image_encoder=_encoder.TinyVitEncoder(arch, widths),
            prompt_encoder=_sam.PromptEncoder(
                embed_dim=width,
                image_embedding_size=(side // _shrinks(arch)[-1],) * 2,
                input_image_size=(side, side),
                mask_in_chans=16,
            ),
            mask_decoder=_sam.mask_decoder(spec),
            pixel_mean=arch["pixel_mean"],
            pixel_std=arch["pixel_std"],
        )
        self.padded = arch["padded"]

    def preprocess(self, x: Tensor) -> Tensor:
        """Scale each image (..., 3, h, w) of any range to [0, 1], then normalise and pad it."""
        x = x.float()
        low, high = x.amin(dim=(-3, -2, -1), keepdim=True), x.amax(dim=(-3, -2, -1), keepdim=True)
        scaled: Tensor = super().preprocess((x - low) / (high - low).clamp_min(1e-8))
        return scaled

    def postprocess_masks(self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]) -> Tensor:
        """Upsample logits (P, K, low, low) to (P, K, *original_size), by way of the square if that is padded."""
        if not self.padded:
            return F.interpolate(masks, original_size, mode="bilinear", align_corners=False)
        full: Tensor = super().postprocess_masks(masks, input_size, original_size)
        return full


def _shrinks(arch: dict[str, Any]) -> list[int]:
    """Return the pixels along one side of a token of each stage."""
    shrinks = [arch["stem_stride"] ** 2]
    for stride in arch["merge_strides"]:
        shrinks.append(shrinks[-1] * stride)
    return shrinks


def _check_structure(spec: Any) -> None:
    """Check the fields of a structure, and that no layer is too large to build.

    Raises:
        ValueError: a field is missing or of the wrong kind, or two contradict each other.
    """
    arch = spec.get("arch") if isinstance(spec, dict) else None
    decoder = arch.get("decoder") if isinstance(arch, dict) else None
    if not isinstance(arch, dict) or not isinstance(decoder, dict) or arch.get("kind") != "tiny_vit":
        raise ValueError("it has no TinyViT architecture with a decoder")
    sizes = {"img_size": _LARGEST_SIDE, "out_chans": _LARGEST, "stem_stride": 2}
    for fields, limits in ((arch, sizes), (decoder, _DECODER)):
        for name, most in limits.items():
            if not _is_count(fields.get(name), most, least=1):
                raise ValueError(f"{name} must be a whole number in 1..{most}, not {fields.get(name)!r:.40}")
    dims, depths = _list(arch, "embed_dims", None, _LARGEST), _list(arch, "depths", None, _DEEPEST)
    stages = len(dims)
    heads = _list(arch, "num_heads", stages, _LARGEST)
    windows = _list(arch, "window_sizes", stages, _LARGEST)
    _list(arch, "merge_strides", stages - 1, 2)
    shrinks = _shrinks(arch)
    if not 2 <= stages == len(depths) or sum(depths) > _DEEPEST:
        raise ValueError(f"embed_dims and depths must hold a number a stage, at most {_DEEPEST} blocks together")
    for name in ("mlp_ratio", "mbconv_expand_ratio"):
        if not _is_number(arch.get(name)) or not 0 < arch[name] * max(dims) <= _LARGEST:
            raise ValueError(f"{name} must make 1..{_LARGEST} channels, not {arch.get(name)!r:.40}")
    for name, least in (("pixel_mean", -_LARGEST), ("pixel_std", 1e-6)):
        colours = arch.get(name)
        if not isinstance(colours, list) or len(colours) != 3 or not all(_is_number(c) and c >= least for c in colours):
            raise ValueError(f"{name} must hold three numbers from {least}, not {colours!r:.40}")
    if not isinstance(arch.get("padded"), bool):
        raise ValueError("padded must be true or false")
    if any(window > arch["img_size"] // shrink for window, shrink in zip(windows[1:], shrinks[1:], strict=True)):
        raise ValueError(f"window_sizes must be at most the tokens along a side of their stage, not {windows!r:.40}")
    if dims[0] % 2 or arch["img_size"] % shrinks[-1] or any(d % h for d, h in zip(dims[1:], heads[1:], strict=True)):
        raise ValueError("img_size is no multiple of the strides, or embed_dims none of num_heads")
    if arch["out_chans"] % 8 or arch["out_chans"] % (2 * decoder["num_heads"]):
        raise ValueError("out_chans is no multiple of 8 and of twice the decoder's num_heads")
    blocks, first = sum(depths), depths[0]
    sites = {"blocks": blocks, "interiors": blocks - first, "heads": blocks - first, "channels": blocks - first}
    for name, count in {**sites, "mbconv": first, "merges": stages - 1}.items():
        _list(spec, name, count, 1 if name in ("blocks", "interiors") else _LARGEST, least=0)


def _list(fields: dict[str, Any], name: str, count: int | None, most: int, least: int = 1) -> list[int]:
    """Return a list of whole numbers.

    Raises:
        ValueError: it is missing, has another length, or holds something else.
    """
    values = fields.get(name)
    known = isinstance(values, list) and 0 < len(values) <= _LARGEST and (count is None or len(values) == count)
    if not known or not all(_is_count(value, most, least) for value in values or ()):
        raise ValueError(f"{name} must hold whole numbers in {least}..{most}, not {values!r:.40}")
    return list(values or ())


def _is_count(value: Any, most: int, least: int = 0) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # False for NaN


# its functions that load a model load this kind
_sam.load, _sam.predictor = load, predictor

if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    try:
        _sam.main(*sys.argv[1:])
    except (ValueError, OSError) as wrong:
        sys.exit(f"load_pruned.py: {wrong}")
