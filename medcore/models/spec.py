"""What a model looks like, as text: the dense architecture and the width each encoder block keeps.

A pruned checkpoint is an `EncoderSpec` (JSON) and a state dictionary; nothing else is needed to rebuild it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from medcore.errors import MedcoreError

T = TypeVar("T")


def _check_types(values: Any, where: str) -> None:
    """Raise `MedcoreError` unless numbers are positive and finite and tuples hold finite numbers, as annotated."""
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if field.type == "str" and not (isinstance(value, str) and value):
            raise MedcoreError(f"{where}: {field.name} must be a text, not {value!r}")
        if field.type == "int" and not (_is_number(value, int) and value >= 1):
            raise MedcoreError(f"{where}: {field.name} must be a positive whole number, not {value!r}")
        if field.type == "float" and not (_is_number(value, int, float) and value > 0):
            raise MedcoreError(f"{where}: {field.name} must be a positive, finite number, not {value!r}")
        if str(field.type).startswith("tuple"):
            kinds, words = ((int,), "whole numbers") if "int" in str(field.type) else ((int, float), "finite numbers")
            if not (isinstance(value, tuple) and all(_is_number(item, *kinds) for item in value)):
                raise MedcoreError(f"{where}: {field.name} must be a list of {words}, not {value!r}")


def _is_number(value: Any, *kinds: type) -> bool:
    """Whether it is finite and of one of these types; True and False, which Python counts as integers, are not."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    return not isinstance(value, float) or math.isfinite(value)


@dataclass(frozen=True)
class DecoderSpec:
    """Mask decoder of segment-anything: the two-way transformer and the IoU head."""

    depth: int = 2
    mlp_dim: int = 2048
    num_heads: int = 8
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256

    def __post_init__(self) -> None:
        _check_types(self, "decoder")


@dataclass(frozen=True)
class Architecture:
    """A dense SAM-style model. Field names are those of segment-anything's `ImageEncoderViT`.

    `pixel_mean` and `pixel_std` are applied after each image has been min-max scaled to [0, 1] (MedSAM's protocol).
    """

    name: str
    img_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    out_chans: int
    window_size: int
    global_attn_indexes: tuple[int, ...]
    decoder: DecoderSpec = DecoderSpec()
    pixel_mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        where = f"architecture {self.name}"
        _check_types(self, where)
        if self.img_size % self.patch_size:
            raise MedcoreError(f"{where}: img_size {self.img_size} is no multiple of patch_size")
        if self.embed_dim % self.num_heads:
            raise MedcoreError(f"{where}: embed_dim {self.embed_dim} is no multiple of num_heads")
        if not 1 <= self.embed_dim * self.mlp_ratio < math.inf:
            raise MedcoreError(f"{where}: mlp_ratio {self.mlp_ratio} makes an MLP of no or endlessly many channels")
        # segment_anything's decoder ends at an eighth of this width and halves it in its cross-attention
        if self.out_chans % 8 or self.out_chans % (2 * self.decoder.num_heads):
            raise MedcoreError(
                f"{where}: out_chans {self.out_chans} is no multiple of 8 and of twice the decoder's num_heads, "
                f"{2 * self.decoder.num_heads}"
            )
        if not all(0 <= block < self.depth for block in self.global_attn_indexes):
            raise MedcoreError(f"{where}: global_attn_indexes name a block outside 0..{self.depth - 1}")
        if len(self.pixel_mean) != 3:
            raise MedcoreError(f"{where}: pixel_mean must hold three numbers, not {self.pixel_mean}")
        if len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
            raise MedcoreError(f"{where}: pixel_std must hold three positive numbers, not {self.pixel_std}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head; pruning never changes it."""
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden channels of a dense block's MLP."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.img_size // self.patch_size

    @property
    def low_res(self) -> int:
        """Side of the decoder's low-resolution logits in pixels (image size / 4 for patches of 16)."""
        return 4 * self.grid

    def window(self, block: int) -> int:
        """Window side of a block in patches; 0 means global attention."""
        return 0 if block in self.global_attn_indexes else self.window_size

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: str = "architecture") -> Architecture:
        """Raises `MedcoreError` naming `where` for unknown, missing or ill-typed fields."""
        values = dict(fields)
        decoder = values.pop("decoder", {})
        if not isinstance(decoder, Mapping):
            raise MedcoreError(f"{where}: decoder must be an object, not {type(decoder).__name__}")
        values["decoder"] = _construct(DecoderSpec, decoder, f"{where}: decoder")
        for name in ("global_attn_indexes", "pixel_mean", "pixel_std"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return _construct(cls, values, where)


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder of unequal widths: heads and MLP channels that each of the L blocks keeps (zero allowed)."""

    arch: Architecture
    heads: tuple[int, ...]
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        for family, counts, most in (
            ("heads", self.heads, self.arch.num_heads),
            ("channels", self.channels, self.arch.mlp_dim),
        ):
            if len(counts) != self.arch.depth:
                raise MedcoreError(f"spec: {len(counts)} {family} counts for {self.arch.depth} blocks")
            if not all(0 <= count <= most for count in counts):
                raise MedcoreError(f"spec: {family} counts must lie in 0..{most}, got {list(counts)}")

    @classmethod
    def dense(cls, arch: Architecture) -> EncoderSpec:
        return cls(arch, (arch.num_heads,) * arch.depth, (arch.mlp_dim,) * arch.depth)

    @property
    def is_dense(self) -> bool:
        return self == EncoderSpec.dense(self.arch)

    def to_dict(self) -> dict[str, Any]:
        return {"arch": self.arch.to_dict(), "heads": list(self.heads), "channels": list(self.channels)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: str = "spec") -> EncoderSpec:
        try:
            arch, heads, channels = fields["arch"], fields["heads"], fields["channels"]
            counts = tuple(map(int, heads)), tuple(map(int, channels))
        except KeyError as missing:
            raise MedcoreError(f"{where}: field {missing} is missing") from None
        except (TypeError, ValueError):
            raise MedcoreError(f"{where}: heads and channels must be lists of whole numbers") from None
        if not isinstance(arch, Mapping):
            raise MedcoreError(f"{where}: arch must be an object")
        return cls(Architecture.from_dict(arch, where), *counts)

    @classmethod
    def from_json(cls, text: str, where: str = "spec") -> EncoderSpec:
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise MedcoreError(f"{where}: not JSON ({error})") from None
        if not isinstance(fields, Mapping):
            raise MedcoreError(f"{where}: expected a JSON object")
        return cls.from_dict(fields, where)


def _construct(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - names):
        raise MedcoreError(f"{where}: unknown field {', '.join(unknown)}; known are {', '.join(sorted(names))}")
    try:
        return kind(**values)
    except TypeError as error:
        raise MedcoreError(f"{where}: {str(error).removeprefix(kind.__name__ + '.__init__() ')}") from None
