"""The scoring job: calibration images in, a table of scores out; in parts that may run anywhere (method §3, §4)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.groups import Array, channel_sums, head_sums
from medcore.models.sam import MedSam
from medcore.scoring.fisher import Progress, calibration_sums
from medcore.scoring.score_table import ScoreTable
from medcore.scoring.sums import CalibrationSums

Floats = npt.NDArray[np.float64]

#: Boundary weights at which reset scores and gate gradients are tabulated unless told otherwise.
NODES = (0.0, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Part:
    """One piece of a scoring job: which model looks at which calibration images.

    Attributes:
        dataset: None for the general model (FS, all images together), a name for the adapted one (FM).
        number: place in its group; sums of a group are added in this order.
        indices: rows of the image set.
    """

    dataset: str | None
    number: int
    indices: tuple[int, ...]


def parts(images: ImageSet, size: int = 32) -> list[Part]:
    """Cut a scoring job into parts of at most `size` images, the same ones whoever computes them."""
    groups: dict[str | None, list[int]] = {None: list(range(len(images)))}
    for index, dataset in enumerate(images.datasets):
        groups.setdefault(dataset, []).append(index)
    return [
        Part(dataset, number, tuple(indices[start : start + size]))
        for dataset, indices in groups.items()
        for number, start in enumerate(range(0, len(indices), size))
    ]


def build_table(
    base: MedSam,
    adapted: MedSam,
    images: ImageSet,
    nodes: Sequence[float] = NODES,
    progress: Progress | None = None,
    part_size: int = 32,
) -> ScoreTable:
    """Score every group of `adapted` (θM) against `base` (θS): FM per data set, FS on all images together.

    Both models must have the same widths. Pruned models may be scored too: `base` cut by the same masks.

    Raises:
        MedcoreError: the models differ in structure, or a data set has no image with finite gradients.
    """
    plan = parts(images, part_size)
    total = sum(len(part.indices) for part in plan)
    done = 0

    def report(count: int, _all: int) -> None:
        if progress is not None:
            progress(done + count, total)

    def compute(part: Part) -> CalibrationSums:
        nonlocal done
        model = base if part.dataset is None else adapted
        sums = calibration_sums(model, images, part.indices, nodes, report)
        done += len(part.indices)
        return sums

    return assemble(base, adapted, plan, nodes, compute)


def assemble(
    base: MedSam,
    adapted: MedSam,
    plan: Sequence[Part],
    nodes: Sequence[float],
    sums_of: Callable[[Part], CalibrationSums],
) -> ScoreTable:
    """The table from the sums of all parts of a plan; at most two groups' sums are in memory at once.

    Parts are asked for in their order, so the result does not depend on who computed them, to the last bit.

    Raises:
        MedcoreError: the models differ in structure, or a data set has no image with finite gradients.
    """
    if base.spec != adapted.spec:
        raise MedcoreError("scoring: the general and the adapted model differ in architecture or widths")
    groups = [list(group) for _, group in itertools.groupby(plan, key=lambda part: part.dataset)]
    general = _total(groups[0], sums_of)
    rows, used, skipped = [], {}, {}
    for group in groups[1:]:
        terms, name = _total(group, sums_of), str(group[0].dataset)
        rows.append(_score_blocks(base, adapted, general, terms, nodes))
        used[name], skipped[name] = terms.used, terms.skipped
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    meta = {
        "architecture": adapted.arch.name,
        "images": used,
        "skipped": skipped,
        "base_images": general.used,
        "base_skipped": general.skipped,
    }
    return ScoreTable(
        datasets=tuple(used),
        nodes=tuple(map(float, nodes)),
        **arrays,
        **_magnitudes(adapted),
        meta=meta,
        spec=None if adapted.spec.is_dense else adapted.spec,
    )


def _total(group: Sequence[Part], sums_of: Callable[[Part], CalibrationSums]) -> CalibrationSums:
    """Sums over all parts of one model and data set."""
    total = sums_of(group[0])
    for part in group[1:]:
        total.add(sums_of(part))
    if total.used == 0:
        raise MedcoreError(
            f"scoring: none of {len(total.skipped)} images has finite gradients (first: {total.skipped[0]}); "
            "check the checkpoint"
        )
    return total


@torch.no_grad()
def _score_blocks(
    base: MedSam, adapted: MedSam, general: CalibrationSums, terms: CalibrationSums, nodes: Sequence[float]
) -> dict[str, Floats]:
    """One data set's arrays of the table, by `ScoreTable`'s names and without its leading axis."""
    arch, spec = adapted.arch, adapted.spec
    widths = {"heads": arch.num_heads, "channels": arch.mlp_dim}
    leading = {"zero": (3,), "reset": (len(nodes),), "michel": (len(nodes),), "activation": ()}
    arrays = {
        f"{criterion}_{family}": np.zeros((*axes, arch.depth, width))
        for criterion, axes in leading.items()
        for family, width in widths.items()
    }
    blocks = zip(base.image_encoder.blocks, adapted.image_encoder.blocks, strict=True)
    for number, (block_base, block_adapted) in enumerate(blocks):
        start, end = _parameters(block_base), _parameters(block_adapted)
        heads, channels = spec.heads[number], spec.channels[number]
        fisher = {name: total / terms.used for name, total in terms.parameters[number].items()}
        fisher_base = {name: total / general.used for name, total in general.parameters[number].items()}
        for term in range(3):
            weighted = {name: 0.5 * value[term].double() * end[name].square() for name, value in fisher.items()}
            per_head, per_channel = _groups(weighted, heads)
            arrays["zero_heads"][term, number, :heads] = per_head
            arrays["zero_channels"][term, number, :channels] = per_channel
        for node, w in enumerate(nodes):
            weighted = {
                name: 0.5
                * (_at(value, w) * _at(fisher_base[name].to(value.device), w) + 1e-30).sqrt()
                * (end[name] - start[name].to(end[name].device)).square()
                for name, value in fisher.items()
            }
            per_head, per_channel = _groups(weighted, heads)
            arrays["reset_heads"][node, number, :heads] = per_head
            arrays["reset_channels"][node, number, :channels] = per_channel
        arrays["michel_heads"][:, number, :heads] = terms.gate_heads[number] / terms.used
        arrays["michel_channels"][:, number, :channels] = terms.gate_channels[number] / terms.used
        arrays["activation_heads"][number, :heads] = terms.active_heads[number] / terms.used
        arrays["activation_channels"][number, :channels] = terms.active_channels[number] / terms.used
    return arrays | {"block_fisher": terms.block_fisher().T.numpy().copy()}


@torch.no_grad()
def _magnitudes(model: MedSam) -> dict[str, Floats]:
    """Σθ² of every group, (L, H) and (L, M)."""
    arch = model.arch
    heads, channels = np.zeros((arch.depth, arch.num_heads)), np.zeros((arch.depth, arch.mlp_dim))
    for number, block in enumerate(model.image_encoder.blocks):
        squares = {name: value.square() for name, value in _parameters(block).items()}
        width = model.spec.heads[number]
        per_head, per_channel = _groups(squares, width)
        heads[number, :width], channels[number, : len(per_channel)] = per_head, per_channel
    return {"magnitude_heads": heads, "magnitude_channels": channels}


def _parameters(block: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.double() for name, parameter in block.named_parameters()}


def _at(terms: Tensor, w: float) -> Tensor:
    """Fisher information at a boundary weight, float64; rounding may push a vanishing sum below 0."""
    a, b, c = terms.double().unbind()
    return (a + 2 * w * b + w**2 * c).clamp_min(0)


def _groups(values: Mapping[str, Tensor], heads: int) -> tuple[Array, Array]:
    """Sum a per-parameter quantity of one block over its heads and its channels."""
    per_head = (
        head_sums(values["attn.qkv.weight"], values["attn.qkv.bias"], values["attn.proj.weight"], heads)
        if heads
        else torch.zeros(0)
    )
    per_channel = channel_sums(values["mlp.lin1.weight"], values["mlp.lin1.bias"], values["mlp.lin2.weight"])
    return per_head.cpu().numpy(), per_channel.cpu().numpy()
