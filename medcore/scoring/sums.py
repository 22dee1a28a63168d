"""Sums over calibration images, all that scores are made of: parts over disjoint images add up and go to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medcore.errors import MedcoreError
from medcore.files import replacing
from medcore.models.sam import MedSam

#: Modules whose parameters belong to prunable groups; their Fisher terms are kept per parameter.
GROUPED = ("attn.qkv.", "attn.proj.", "mlp.lin1.", "mlp.lin2.")
_FORMAT = "medcore-sums-1"
_PER_BLOCK = ("others", "gate_heads", "gate_channels", "active_heads", "active_channels")


@dataclass
class CalibrationSums:
    """Sums over `used` images; lists have one entry a block, W is the number of boundary weights (nodes).

    Attributes:
        parameters: name inside the block (`attn.qkv.weight`) -> (3, *parameter shape), terms A, B, C of the Fisher
            information on the model's device and in its dtype; qkv, proj, lin1 and lin2 only.
        others: (3,) float64, the same terms summed over the block's other parameters.
        gate_heads, gate_channels: (W, H_l) and (W, M_l) float64, |∂loss/∂gate|.
        active_heads, active_channels: (H_l,) and (M_l,) float64, see `medcore.scoring.activations`.
        used: number of images in the sums. skipped: names of those left out because a gradient was not finite.
    """

    parameters: list[dict[str, Tensor]]
    others: list[Tensor]
    gate_heads: list[Tensor]
    gate_channels: list[Tensor]
    active_heads: list[Tensor]
    active_channels: list[Tensor]
    used: int = 0
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def zeros(cls, model: MedSam, nodes: Sequence[float]) -> CalibrationSums:
        """Nothing yet, in the widths of `model`."""

        def empty(parameter: Tensor) -> Tensor:
            return torch.zeros((3, *parameter.shape), dtype=parameter.dtype, device=parameter.device)

        def double(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        blocks = [model.image_encoder.get_submodule(f"blocks.{number}") for number in range(model.arch.depth)]
        spec = model.spec
        return cls(
            parameters=[
                {name: empty(value) for name, value in block.named_parameters() if name.startswith(GROUPED)}
                for block in blocks
            ],
            others=[double(3) for _ in blocks],
            gate_heads=[double(len(nodes), heads) for heads in spec.heads],
            gate_channels=[double(len(nodes), channels) for channels in spec.channels],
            active_heads=[double(heads) for heads in spec.heads],
            active_channels=[double(channels) for channels in spec.channels],
        )

    def add(self, other: CalibrationSums) -> None:
        """Take in the sums over other images of the same model, in place.

        Rounding depends on the order of additions only, so parts added in a fixed order give the same bits whoever
        computed them.
        """
        for mine, theirs in zip(self.parameters, other.parameters, strict=True):
            for name, total in mine.items():
                total += theirs[name].to(total.device)
        for name in _PER_BLOCK:
            for total, part in zip(getattr(self, name), getattr(other, name), strict=True):
                total += part
        self.used += other.used
        self.skipped += other.skipped

    def block_fisher(self) -> Tensor:
        """(L, 3) float64: mean terms A, B, C summed over all parameters of each block."""
        rows = []
        for parameters, others in zip(self.parameters, self.others, strict=True):
            grouped = [total.reshape(3, -1).double().sum(dim=1).cpu() for total in parameters.values()]
            rows.append(torch.stack([*grouped, others]).sum(dim=0))
        return torch.stack(rows) / self.used

    def save(self, path: Path) -> None:
        """Write a safetensors file by rename. Raises `MedcoreError` if the folder takes none."""
        tensors = {
            f"parameters/{block}/{name}": total
            for block, terms in enumerate(self.parameters)
            for name, total in terms.items()
        }
        for name in _PER_BLOCK:
            tensors |= {f"{name}/{block}": total for block, total in enumerate(getattr(self, name))}
        note = {"format": _FORMAT, "used": str(self.used), "skipped": json.dumps(self.skipped)}
        try:
            with replacing(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=note)
        except (OSError, SafetensorError) as error:
            raise MedcoreError(f"{path}: cannot write the partial scores ({error})") from None

    @classmethod
    def load(cls, path: Path, depth: int) -> CalibrationSums:
        """Raises `MedcoreError` naming the file if it is not what `save` wrote for a model of `depth` blocks."""
        try:
            with safe_open(path, framework="pt") as file:
                note = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if note.get("format") != _FORMAT:
                raise ValueError(f"format {note.get('format')}")
            parameters: list[dict[str, Tensor]] = [{} for _ in range(depth)]
            for name, tensor in tensors.items():
                if name.startswith("parameters/"):
                    _, block, inside = name.split("/")
                    parameters[int(block)][inside] = tensor
            per_block = {name: [tensors[f"{name}/{block}"] for block in range(depth)] for name in _PER_BLOCK}
            used, skipped = int(note["used"]), json.loads(note["skipped"])
            sums = cls(parameters, **per_block, used=used, skipped=skipped)
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise MedcoreError(f"{path}: damaged partial scores ({error}); delete the file and score again") from None
        return sums
