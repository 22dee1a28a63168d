"""The table of scores that a study computes once and every trial mixes (method §3 and §4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medcore.errors import MedcoreError
from medcore.files import replacing
from medcore.models.spec import EncoderSpec

Floats = npt.NDArray[np.float64]

#: Part of every key, so that a table of an older format is computed anew.
FORMAT = "medcore-scores-2"
_FAMILIES = ("heads", "channels")
_CRITERIA = ("zero", "reset", "michel", "activation", "magnitude")
_ARRAYS = (*(f"{criterion}_{family}" for criterion in _CRITERIA for family in _FAMILIES), "block_fisher")


@dataclass(frozen=True)
class ScoreTable:
    """Unmixed scores per data set, block and group; float64.

    D data sets, W boundary weights, L blocks, H heads, M channels. The axis of 3 holds the coefficients a, b,
    c of a + 2w·b + w²·c, so zero scores and block sums are exact for every boundary weight w; reset scores,
    which hold a square root, and gate gradients, which hold an absolute value, are known at the nodes only: reset
    scores at any other w would need the Fisher terms of every parameter, three times the size of both models. Blocks
    narrower than H or M (pruned models) end in zeros.

    Attributes:
        datasets: names (D,). nodes: boundary weights (W,) of the reset scores.
        zero_heads: (D, 3, L, H). zero_channels: (D, 3, L, M).
        reset_heads: (D, W, L, H). reset_channels: (D, W, L, M).
        michel_heads: (D, W, L, H). michel_channels: (D, W, L, M). Mean |∂loss/∂gate| of a gate on the group's output.
        activation_heads: (D, L, H). activation_channels: (D, L, M). See `medcore.scoring.activations`.
        magnitude_heads: (L, H). magnitude_channels: (L, M). ΣθM² of the group.
        block_fisher: (D, 3, L), FM summed over each block.
        meta: JSON-able notes: images used and skipped per data set, hashes of what the table was made from.
        spec: widths of the scored model; None for a dense one.
    """

    datasets: tuple[str, ...]
    nodes: tuple[float, ...]
    zero_heads: Floats
    zero_channels: Floats
    reset_heads: Floats
    reset_channels: Floats
    michel_heads: Floats
    michel_channels: Floats
    activation_heads: Floats
    activation_channels: Floats
    magnitude_heads: Floats
    magnitude_channels: Floats
    block_fisher: Floats
    meta: dict[str, Any] = field(default_factory=dict)
    spec: EncoderSpec | None = None

    def widths(self, family: str) -> tuple[int, ...]:
        """Groups of every block; family is "heads" or "channels"."""
        if self.spec is not None:
            return self.spec.heads if family == "heads" else self.spec.channels
        array = self.zero_heads if family == "heads" else self.zero_channels
        depth, width = array.shape[-2:]
        return (int(width),) * int(depth)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with JSON metadata; it appears complete or not at all."""
        path = Path(path)
        header = {
            "datasets": list(self.datasets),
            "nodes": list(self.nodes),
            "meta": self.meta,
            "spec": None if self.spec is None else self.spec.to_dict(),
        }
        arrays = {name: np.ascontiguousarray(getattr(self, name), dtype=np.float64) for name in _ARRAYS}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(arrays, temporary, metadata={"format": FORMAT, "table": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            raise MedcoreError(f"{path}: cannot write the score table ({error})") from None

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Raises `MedcoreError` naming the file if it is missing, no table, inconsistent or not finite."""
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except FileNotFoundError:
            raise MedcoreError(f"{path}: no such score table; run the scoring first") from None
        except (OSError, SafetensorError) as error:
            raise MedcoreError(f"{path}: not a readable score table ({error})") from None
        if metadata.get("format") != FORMAT:
            raise MedcoreError(f"{path}: not a score table of format {FORMAT}; score again")
        if missing := [name for name in _ARRAYS if name not in arrays]:
            raise MedcoreError(f"{path}: score table lacks {', '.join(missing)}; score again")
        try:
            header = json.loads(metadata["table"])
            spec = None if header["spec"] is None else EncoderSpec.from_dict(header["spec"], str(path))
            table = cls(
                datasets=tuple(header["datasets"]),
                nodes=tuple(header["nodes"]),
                **{name: arrays[name] for name in _ARRAYS},
                meta=header["meta"],
                spec=spec,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MedcoreError(f"{path}: the score table's header is damaged ({error!r}); score again") from None
        table._validate(str(path))
        return table

    def _validate(self, where: str) -> None:
        sets, nodes = len(self.datasets), len(self.nodes)
        if self.spec is not None:
            arch = self.spec.arch
            depth, heads, channels = arch.depth, arch.num_heads, arch.mlp_dim
        elif self.zero_heads.ndim == self.zero_channels.ndim == 4:
            depth, heads = self.zero_heads.shape[-2:]
            channels = self.zero_channels.shape[-1]
        else:
            shapes = f"{self.zero_heads.shape} and {self.zero_channels.shape}"
            raise MedcoreError(f"{where}: zero_heads and zero_channels have shapes {shapes}; score again")
        leading: dict[str, tuple[int, ...]] = {
            "zero": (sets, 3),
            "reset": (sets, nodes),
            "michel": (sets, nodes),
            "activation": (sets,),
            "magnitude": (),
        }
        expected: dict[str, tuple[int, ...]] = {"block_fisher": (sets, 3, depth)}
        for criterion, shape in leading.items():
            for family, width in zip(_FAMILIES, (heads, channels), strict=True):
                expected[f"{criterion}_{family}"] = (*shape, depth, width)
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise MedcoreError(f"{where}: {name} has shape {array.shape}, expected {shape}; score again")
            if not np.isfinite(array).all():
                raise MedcoreError(f"{where}: {name} holds values that are not finite; score again")


def table_key(**parts: Any) -> str:
    """Name for a score table: SHA-256 of all it depends on (hashes of weights and data, split, settings).

    Equal parts give equal keys whatever their order; dataclasses, paths, tuples and mappings are accepted.
    """
    text = json.dumps(parts, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"table_key: {type(value).__name__} has no stable text form")
