"""Sums over calibration images, from which all scores are computed.

Sums over disjoint images can be added, and written to files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medcore.errors import CheckpointError, StorageError
from medcore.files import replacing
from medcore.models.groups import kept_entries
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite, by_family
from medcore.models.spec import Architecture, ModelSpec

_FORMAT = "medcore-sums-1"


@dataclass
class CalibrationSums:
    """Sums over `used` images.

    W is the number of boundary weights (nodes), G the groups that a site has, T the number of terms of the Fisher
    information: three (A, B, C) that hold for every boundary weight, or one, F(w) at the only node w.

    Attributes:
        spec: structure of the scored model.
        parameters: for every block, name inside the block (`attn.qkv.weight`) -> (T, *parameter shape), terms of the
            Fisher information on the model's device and in its dtype, of modules with parameters that belong to groups.
        others: for every block, (T,) float64, the same terms summed over the block's other parameters.
        gates: for every site, (W, G) float64, |∂loss/∂gate|.
        active: for every site, (G,) float64, see `medcore.scoring.activations`.
        used: number of images in the sums.
        skipped: names of images that were left out because a gradient was not finite.
    """

    spec: ModelSpec
    parameters: list[dict[str, Tensor]]
    others: list[Tensor]
    gates: list[Tensor]
    active: list[Tensor]
    used: int = 0
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def zeros(cls, model: MedSam, nodes: Sequence[float], terms: int = 3) -> CalibrationSums:
        """Return sums over no image, in the widths of `model`, with T = `terms`."""

        def empty(parameter: Tensor) -> Tensor:
            return torch.zeros((terms, *parameter.shape), dtype=parameter.dtype, device=parameter.device)

        def double(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        spec, grouped = model.spec, {_module(part.name) for site in model.arch.sites for part in site.tensors}
        return cls(
            spec=spec,
            parameters=[
                {
                    name: empty(value)
                    for name, value in model.get_submodule(block.path).named_parameters()
                    if _module(f"{block.path}.{name}") in grouped
                }
                for block in model.arch.blocks
            ],
            others=[double(terms) for _ in model.arch.blocks],
            gates=[double(len(nodes), width) for width in spec.widths],
            active=[double(width) for width in spec.widths],
        )

    @property
    def terms(self) -> int:
        """Return T."""
        return len(self.others[0])

    def means(self, block: int) -> dict[str, Tensor]:
        """Return the mean Fisher terms of one block.

        Returns:
            Name in the model -> (T, *parameter shape).
        """
        path = self.spec.arch.blocks[block].path
        return {f"{path}.{name}": total / self.used for name, total in self.parameters[block].items()}

    def add(self, other: CalibrationSums) -> None:
        """Add the sums over other images of the same model, in place.

        Rounding depends on the order of additions only. So parts that are added in a fixed order give the same bits in
        any process.
        """
        for mine, theirs in zip(self.parameters, other.parameters, strict=True):
            for name, total in mine.items():
                total += theirs[name].to(total.device)
        for totals, parts in ((self.others, other.others), (self.gates, other.gates), (self.active, other.active)):
            for total, part in zip(totals, parts, strict=True):
                total += part
        self.used += other.used
        self.skipped += other.skipped

    def restricted(self, kept: PerSite) -> CalibrationSums:
        """Return the sums of the parameters that a cut leaves.

        The values stay those of this model, which was not cut when its gradients were taken.

        Args:
            kept: bool, one for each group that the model has.
        """
        arch = self.spec.arch
        places = {f"{block.path}.": number for number, block in enumerate(arch.blocks)}
        parameters = [dict(tensors) for tensors in self.parameters]
        for site, mask in zip(arch.sites, kept, strict=True):
            keep = torch.tensor(mask)
            for part in site.tensors:
                path = next((path for path in places if part.name.startswith(path)), None)
                own = {} if path is None else parameters[places[path]]
                name = part.name.removeprefix(path or "")
                if name in own and part.axis is not None:
                    entries = kept_entries(part, keep).nonzero().squeeze(1)
                    own[name] = own[name].index_select(part.axis + 1, entries.to(own[name].device))
                elif not mask.any():
                    own.pop(name, None)
        masks = [torch.tensor(mask) for mask in kept]
        return CalibrationSums(
            spec=ModelSpec(arch, tuple(int(mask.sum()) for mask in kept)),
            parameters=parameters,
            others=self.others,
            gates=[total[:, mask] for total, mask in zip(self.gates, masks, strict=True)],
            active=[total[mask] for total, mask in zip(self.active, masks, strict=True)],
            used=self.used,
            skipped=self.skipped,
        )

    def block_fisher(self) -> Tensor:
        """Return the mean terms summed over all parameters of each block.

        Returns:
            (L, T) float64.
        """
        rows = []
        for parameters, others in zip(self.parameters, self.others, strict=True):
            grouped = [total.reshape(self.terms, -1).double().sum(dim=1).cpu() for total in parameters.values()]
            rows.append(torch.stack([*grouped, others]).sum(dim=0))
        return torch.stack(rows) / self.used

    def save(self, path: Path) -> None:
        """Write a safetensors file by rename.

        Raises:
            MedcoreError: the file cannot be written.
        """
        tensors = {
            f"parameters/{block}/{name}": total
            for block, terms in enumerate(self.parameters)
            for name, total in terms.items()
        }
        tensors |= dict(zip(_names(self.spec.arch), [*self.others, *self.gates, *self.active], strict=True))
        note = {"format": _FORMAT, "used": str(self.used), "skipped": json.dumps(self.skipped)}
        try:
            with replacing(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=note)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: cannot write the partial scores ({error})") from None

    @classmethod
    def load(cls, path: Path, spec: ModelSpec) -> CalibrationSums:
        """Read what `save` wrote for a model with the structure `spec`.

        Raises:
            MedcoreError: the file is damaged or of another structure.
        """
        blocks, sites = len(spec.arch.blocks), len(spec.arch.sites)
        try:
            with safe_open(path, framework="pt") as file:
                note = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if note.get("format") != _FORMAT:
                raise ValueError(f"format {note.get('format')}")
            parameters: list[dict[str, Tensor]] = [{} for _ in range(blocks)]
            for name, tensor in tensors.items():
                if name.startswith("parameters/"):
                    _, block, inside = name.split("/")
                    parameters[int(block)][inside] = tensor
            totals = [tensors[name] for name in _names(spec.arch)]
            others, gates, active = totals[:blocks], totals[blocks : blocks + sites], totals[blocks + sites :]
            used, skipped = int(note["used"]), json.loads(note["skipped"])
            sums = cls(spec, parameters, others, gates, active=active, used=used, skipped=skipped)
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            raise CheckpointError(
                f"{path}: damaged partial scores ({error}); delete the file and score again"
            ) from None
        return sums


def _module(parameter: str) -> str:
    """Return the path of the module that holds a parameter."""
    return parameter.rpartition(".")[0]


def _names(arch: Architecture) -> list[str]:
    """Return a file's keys for the sums that are kept by block or by site.

    The sums of every block come first, then the gates and then the activations of every site.
    """
    numbered = [
        f"{family}/{number}"
        for family, sites in by_family(arch.sites, arch.sites).items()
        for number in range(len(sites))
    ]
    others = [f"others/{number}" for number in range(len(arch.blocks))]
    return others + [f"gate_{name}" for name in numbered] + [f"active_{name}" for name in numbered]
