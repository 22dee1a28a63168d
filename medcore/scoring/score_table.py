"""The table of scores that a study computes once and every trial mixes (method §3 and §4)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from medcore.errors import CheckpointError, ConfigError, StorageError
from medcore.files import replacing
from medcore.models.architectures import spec_from
from medcore.models.fields import is_number
from medcore.models.sites import by_family
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.scoring.stored import read_arrays

if TYPE_CHECKING:
    from medcore.scoring.profile import Profile

Floats = npt.NDArray[np.float64]

#: Part of every key, so that a table of an older format is computed again.
FORMAT = "medcore-scores-2"
#: Statistic of a group -> the axes of its array before the family's sites and groups. "datasets" has D entries, "terms"
#: the three coefficients of a quadratic in the boundary weight (or its value at the only node), "nodes" one entry a
#: tabulated boundary weight.
STATISTICS: dict[str, tuple[str, ...]] = {
    "zero": ("datasets", "terms"),
    "reset": ("datasets", "nodes"),
    "michel": ("datasets", "nodes"),
    "activation": ("datasets",),
    "magnitude": (),
}


@dataclass(frozen=True)
class FamilySites:
    """The sites of one family, as a table knows them.

    Attributes:
        blocks: number of the block of each site, (S,).
        widths: groups that each site of the scored model has, (S,).
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class ScoreTable:
    """Unmixed scores per data set, site and group; float64.

    There are D data sets, W boundary weights (nodes) and L blocks; a family has S sites of at most G groups. Arrays of
    a family end in (S, G), and sites narrower than G end in zeros.

    | statistic | leading axes | meaning |
    |---|---|---|
    | zero | D, 3 | coefficients a, b, c of the zero score a + 2w·b + w²·c, so it is exact for every boundary weight w |
    | | D, 1 | instead, from one backward pass an image: the zero score at the only node |
    | reset | D, W | reset scores |
    | michel | D, W | mean of the absolute ∂loss/∂gate of a gate on the group's output |
    | activation | D | see `medcore.scoring.activations` |
    | magnitude | – | ΣθM² of the group |

    Reset scores hold a square root and gate gradients an absolute value, so both exist at the nodes only. At any other
    w they would need the Fisher terms of every parameter, three times the size of both models.

    Attributes:
        datasets: names, (D,).
        nodes: boundary weights, (W,).
        families: family name -> its sites.
        arrays: "STATISTIC_FAMILY" -> array.
        block_fisher: (D, 3, L) or (D, 1, L), FM summed over each block; (D, 0, L) if it was not computed.
        meta: JSON-able notes: images used and skipped per data set, hashes of what the table was made from.
        profile: second-order profile of the same model, for the criterion that reads it. It has a file of its own.
    """

    datasets: tuple[str, ...]
    nodes: tuple[float, ...]
    families: Mapping[str, FamilySites]
    arrays: Mapping[str, Floats]
    block_fisher: Floats
    meta: dict[str, Any] = field(default_factory=dict)
    profile: Profile | None = None

    def array(self, statistic: str, family: str) -> Floats:
        """Return one statistic of one family.

        Raises:
            ConfigError: the table was made without this statistic.
        """
        try:
            return self.arrays[f"{statistic}_{family}"]
        except KeyError:
            raise ConfigError(
                f"scores: the table lacks the {statistic} statistic of {family}; score again with Fisher statistics"
            ) from None

    @property
    def has_fisher(self) -> bool:
        """Return whether the table was made with passes over images, not from the weights alone."""
        return bool(self.block_fisher.shape[1] > 0)

    def at_weight(self, terms: Floats, w: float) -> Floats:
        """Return a quadratic in the boundary weight at w (3.4).

        Args:
            terms: (D, 3, …) coefficients a, b, c of a + 2w·b + w²·c, or (D, 1, …), the value at the only node.
            w: the boundary weight.

        Returns:
            (D, …).

        Raises:
            ConfigError: there are no terms, or the single one belongs to another weight.
        """
        if not self.has_fisher:
            raise ConfigError("scores: the table lacks Fisher information; score again with Fisher statistics")
        if terms.shape[1] == 1:
            if not np.isclose(self.nodes[0], w, rtol=1e-9, atol=1e-12):
                raise ConfigError(
                    f"scores: the table holds for boundary weight {self.nodes[0]:g} only, not for {w:g}; "
                    "score again for every weight"
                )
            return terms[:, 0]
        values: Floats = terms[:, 0] + 2 * w * terms[:, 1] + w**2 * terms[:, 2]
        return values

    def widths(self, family: str) -> tuple[int, ...]:
        """Return the number of groups of each site of the scored model."""
        return self.families[family].widths

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with JSON metadata; it appears complete or not at all.

        Raises:
            MedcoreError: the file cannot be written.
        """
        path = Path(path)
        header = {
            "datasets": list(self.datasets),
            "nodes": list(self.nodes),
            "meta": self.meta,
            "families": {name: dataclasses.asdict(sites) for name, sites in self.families.items()},
        }
        arrays = {**self.arrays, "block_fisher": self.block_fisher}
        arrays = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file(arrays, temporary, metadata={"format": FORMAT, "table": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: cannot write the score table ({error})") from None

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read what `save` wrote, or what earlier versions did.

        Raises:
            MedcoreError: the file is missing, no table, inconsistent or holds values that are not finite.
        """
        metadata, arrays = read_arrays(path, FORMAT, "score table")
        try:
            header = json.loads(metadata["table"])
            families = _families(header, arrays, str(path))
            wanted = [f"{statistic}_{family}" for family in families for statistic in STATISTICS]
            if missing := [name for name in (*wanted, "block_fisher") if name not in arrays]:
                raise CheckpointError(f"{path}: score table lacks {', '.join(missing)}; score again")
            table = cls(
                datasets=tuple(header["datasets"]),
                nodes=tuple(header["nodes"]),
                families=families,
                arrays={name: arrays[name] for name in wanted},
                block_fisher=arrays["block_fisher"],
                meta=header["meta"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path}: the score table's header is damaged ({error!r}); score again") from None
        table._validate(str(path))
        return table

    def _validate(self, where: str) -> None:
        # one term is what one backward pass for the only node gives
        terms = 1 if len(self.nodes) == 1 and self.block_fisher.shape[1:2] == (1,) else 3
        sizes = {"datasets": len(self.datasets), "terms": terms, "nodes": len(self.nodes)}
        # arrays may be larger than their sites need, never smaller
        blocks = 1 + max((block for sites in self.families.values() for block in sites.blocks), default=-1)
        blocks = max((blocks, *self.block_fisher.shape[-1:]))
        expected: dict[str, tuple[int, ...]] = {"block_fisher": (sizes["datasets"], terms, blocks)}
        for family, sites in self.families.items():
            if len(sites.blocks) != len(sites.widths) or min((*sites.blocks, *sites.widths, 0)) < 0:
                raise CheckpointError(f"{where}: blocks and widths of {family} do not fit each other; score again")
            groups = max((*sites.widths, *self.array("magnitude", family).shape[-1:], 0))
            for statistic, axes in STATISTICS.items():
                shape = (*(sizes[axis] for axis in axes), len(sites.widths), groups)
                expected[f"{statistic}_{family}"] = shape
        for name, shape in expected.items():
            array = self.block_fisher if name == "block_fisher" else self.arrays[name]
            if array.shape != shape:
                raise CheckpointError(f"{where}: {name} has shape {array.shape}, expected {shape}; score again")
            if not np.isfinite(array).all():
                raise CheckpointError(f"{where}: {name} holds values that are not finite; score again")


def families_of(spec: ModelSpec) -> dict[str, FamilySites]:
    """Return the families of a model as a score table describes them."""
    sites, widths = by_family(spec.arch.sites, spec.arch.sites), spec.budget
    return {
        name: FamilySites(tuple(site.block for site in members), tuple(widths[name])) for name, members in sites.items()
    }


def _families(header: Mapping[str, Any], arrays: Mapping[str, Floats], where: str) -> dict[str, FamilySites]:
    """Return the families of a table.

    Headers of earlier versions hold the spec of a pruned ViT, or null for a dense one.
    """
    if "families" in header:
        return {
            name: FamilySites(_whole(sites["blocks"]), _whole(sites["widths"]))
            for name, sites in header["families"].items()
        }
    if header["spec"] is not None:
        return families_of(spec_from(header["spec"], where))
    families = {}
    for family in SamVit.encoder_families:
        magnitude = arrays.get(f"magnitude_{family.name}")
        if magnitude is None or magnitude.ndim != 2:
            raise CheckpointError(f"{where}: score table lacks magnitude_{family.name}; score again")
        depth, width = map(int, magnitude.shape)
        families[family.name] = FamilySites(tuple(range(depth)), (width,) * depth)
    return families


def _whole(values: Any) -> tuple[int, ...]:
    if not all(is_number(value, int) for value in values):
        raise ValueError(f"{values!r:.40} are not whole numbers")
    return tuple(values)


def table_key(**parts: Any) -> str:
    """Return the name of a score table, a SHA-256 of all that it depends on.

    Args:
        parts: hashes of weights and data, the split, settings. Equal parts give equal keys whatever their order.
            Dataclasses, paths, tuples and mappings are accepted.
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
