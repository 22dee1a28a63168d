"""The scoring job: from calibration images to a table of scores, in parts for any process (method §3, §4)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, DataError
from medcore.models.groups import group_sums
from medcore.models.sam import MedSam
from medcore.models.sites import Array, Site, by_family
from medcore.models.spec import ModelSpec
from medcore.scoring.fisher import Progress, calibration_sums
from medcore.scoring.score_table import STATISTICS, ScoreTable, families_of
from medcore.scoring.sums import CalibrationSums

Floats = npt.NDArray[np.float64]

#: Default boundary weights at which reset scores and gate gradients are tabulated.
NODES = (0.0, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Part:
    """One piece of a scoring job: a model and calibration images.

    Attributes:
        dataset: None for the general model (FS, all images together), a name for the adapted one (FM).
        number: place in its group; sums of a group are added in this order.
        indices: rows of the image set.
    """

    dataset: str | None
    number: int
    indices: tuple[int, ...]


def parts(images: ImageSet, size: int = 32) -> list[Part]:
    """Cut a scoring job into parts of at most `size` images.

    The parts depend on nothing but the arguments, so every process cuts the same ones.
    """
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
    *,
    one_pass: bool = False,
    general: MedSam | None = None,
) -> ScoreTable:
    """Score every group of `adapted` (θM) against `base` (θS) (method §3, §4).

    FM is computed per data set, FS on all images together.

    Args:
        base: the general model. To score a pruned model, cut it by the same masks.
        adapted: the model to score, of the same widths.
        images: the calibration images.
        nodes: boundary weights of reset scores and gate gradients.
        progress: called after each image with the counts of the whole job.
        part_size: most images of a part.
        one_pass: whether one backward pass an image serves the only node; the table then holds for this weight alone.
        general: the dense general model, if FS is that of the dense model at the groups that `adapted` has kept. None:
            FS is that of `base`.

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
        scored = adapted if part.dataset is not None else base if general is None else general
        sums = calibration_sums(scored, images, part.indices, nodes, report, one_pass=one_pass)
        done += len(part.indices)
        if scored is general and adapted.kept is not None:
            return sums.restricted(adapted.kept)
        return sums

    return assemble(base, adapted, plan, nodes, compute)


def assemble(
    base: MedSam,
    adapted: MedSam,
    plan: Sequence[Part],
    nodes: Sequence[float],
    sums_of: Callable[[Part], CalibrationSums],
) -> ScoreTable:
    """Compute the table from the sums of all parts of a plan.

    At most two groups' sums are in memory at once. `sums_of` is called for the parts in their order. So the result is
    the same to the last bit wherever the parts are computed.

    Args:
        base: the general model.
        adapted: the model to score.
        plan: the parts, as `parts` returns them.
        nodes: boundary weights of reset scores and gate gradients.
        sums_of: returns the sums of a part.

    Raises:
        MedcoreError: the models differ in structure, or a data set has no image with finite gradients.
    """
    if base.spec != adapted.spec:
        raise CheckpointError("scoring: the general and the adapted model differ in architecture or widths")
    groups = [list(group) for _, group in itertools.groupby(plan, key=lambda part: part.dataset)]
    general = _total(groups[0], sums_of)
    rows, used, skipped = [], {}, {}
    for group in groups[1:]:
        terms, name = _total(group, sums_of), str(group[0].dataset)
        rows.append(_score_blocks(base, adapted, general, terms, nodes))
        used[name], skipped[name] = terms.used, terms.skipped
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    block_fisher = arrays.pop("block_fisher")
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
        families=families_of(adapted.spec),
        arrays=arrays | _magnitudes(adapted),
        block_fisher=block_fisher,
        meta=meta,
    )


def weights_table(model: MedSam, datasets: Sequence[str]) -> ScoreTable:
    """Return a table with the statistics of the weights alone, which needs no pass over images.

    It serves criteria that need neither gradients nor activations. It stays in memory.

    Args:
        model: the model to score.
        datasets: names of the calibration data sets.
    """
    return ScoreTable(
        datasets=tuple(datasets),
        nodes=(),
        families=families_of(model.spec),
        arrays=_magnitudes(model),
        block_fisher=np.zeros((len(datasets), 0, len(model.arch.blocks))),
        meta={"architecture": model.arch.name, "images": {}, "skipped": {}, "base_images": 0, "base_skipped": []},
    )


def _total(group: Sequence[Part], sums_of: Callable[[Part], CalibrationSums]) -> CalibrationSums:
    """Add up the sums of all parts of one model and data set."""
    total = sums_of(group[0])
    for part in group[1:]:
        total.add(sums_of(part))
    if total.used == 0:
        raise DataError(
            f"scoring: none of {len(total.skipped)} images has finite gradients (first: {total.skipped[0]}); "
            "check the checkpoint"
        )
    return total


@dataclass(frozen=True)
class _Slot:
    """The place of one site's scores in its family's arrays."""

    site: Site
    width: int
    row: int

    def write(self, arrays: Mapping[str, Floats], statistic: str, values: Any, at: int | None = None) -> None:
        """Write (…, G) into the site's row, under index `at` of the first axis if given."""
        array = arrays[f"{statistic}_{self.site.family.name}"]
        target = array if at is None else array[at]
        target[..., self.row, : self.width] = values


def _slots(spec: ModelSpec) -> list[_Slot]:
    rows: Counter[str] = Counter()
    slots = []
    for site, width in zip(spec.arch.sites, spec.widths, strict=True):
        slots.append(_Slot(site, width, rows[site.family.name]))
        rows[site.family.name] += 1
    return slots


def _zeros(spec: ModelSpec, statistic: str, *leading: int) -> dict[str, Floats]:
    """Return an array of zeros for every family.

    The axes are the leading ones, sites, and groups of the widest dense site.
    """
    sites = by_family(spec.arch.sites, spec.arch.dense_widths)
    return {f"{statistic}_{name}": np.zeros((*leading, len(widths), max(widths))) for name, widths in sites.items()}


@torch.no_grad()
def _score_blocks(
    base: MedSam, adapted: MedSam, general: CalibrationSums, terms: CalibrationSums, nodes: Sequence[float]
) -> dict[str, Floats]:
    """Return one data set's arrays of the table (4.1, 4.2).

    The arrays have the table's names and lack its leading axis.
    """
    spec, sizes = adapted.spec, {"terms": terms.terms, "nodes": len(nodes)}
    arrays: dict[str, Floats] = {}
    for statistic, axes in STATISTICS.items():
        if axes[:1] == ("datasets",):
            arrays |= _zeros(spec, statistic, *(sizes[axis] for axis in axes[1:]))
    slots = _slots(spec)
    for number, block in enumerate(spec.arch.blocks):
        start, end = _parameters(base, block.path), _parameters(adapted, block.path)
        fisher, fisher_base = terms.means(number), general.means(number)
        own = [slot for slot in slots if slot.site.block == number and slot.width]
        for term in range(terms.terms):
            weighted = {name: 0.5 * value[term].double() * end[name].square() for name, value in fisher.items()}
            for slot in own:
                slot.write(arrays, "zero", _group_sums(slot, weighted), at=term)
        for node, w in enumerate(nodes):
            weighted = {
                name: 0.5
                * (_at(value, w) * _at(fisher_base[name].to(value.device), w) + 1e-30).sqrt()
                * (end[name] - start[name].to(end[name].device)).square()
                for name, value in fisher.items()
            }
            for slot in own:
                slot.write(arrays, "reset", _group_sums(slot, weighted), at=node)
    for slot, gates, active in zip(slots, terms.gates, terms.active, strict=True):
        slot.write(arrays, "michel", gates / terms.used)
        slot.write(arrays, "activation", active / terms.used)
    return arrays | {"block_fisher": terms.block_fisher().T.numpy().copy()}


@torch.no_grad()
def _magnitudes(model: MedSam) -> dict[str, Floats]:
    """Return Σθ² of every group."""
    arrays, slots = _zeros(model.spec, "magnitude"), _slots(model.spec)
    for number, block in enumerate(model.arch.blocks):
        squares = {name: value.square() for name, value in _parameters(model, block.path).items()}
        for slot in slots:
            if slot.site.block == number and slot.width:
                slot.write(arrays, "magnitude", _group_sums(slot, squares))
    return arrays


def _parameters(model: MedSam, path: str) -> dict[str, Tensor]:
    """Return the parameters of one block by their names in the model, float64."""
    return {f"{path}.{name}": value.double() for name, value in model.get_submodule(path).named_parameters()}


def _at(terms: Tensor, w: float) -> Tensor:
    """Return the Fisher information at a boundary weight (3.4), float64.

    A single term is the information at the only node. Rounding may push a vanishing sum below 0, so negative values
    become 0.
    """
    if len(terms) == 1:
        return terms[0].double()
    a, b, c = terms.double().unbind()
    return (a + 2 * w * b + w**2 * c).clamp_min(0)


def _group_sums(slot: _Slot, values: Mapping[str, Tensor]) -> Array:
    return group_sums(slot.site, slot.width, values).cpu().numpy()
