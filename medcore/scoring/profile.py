"""The second-order profile of a model: in which order its groups go, and what that costs (method §12)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from medcore.errors import CheckpointError, DataError, StorageError
from medcore.files import replacing
from medcore.models.linear_map import linear_map
from medcore.models.sam import MedSam
from medcore.models.sites import Array, LinearOutput, PerSite, Site
from medcore.models.spec import Architecture, ModelSpec
from medcore.scoring.moments import ProfileSums, SiteSums
from medcore.scoring.score_table import table_key
from medcore.scoring.second_order import RIDGE, Removal, remove_all
from medcore.scoring.stored import read_arrays
from medcore.shrinkage import ridge_for

Floats = npt.NDArray[np.float64]

#: Part of every key, so that a profile of an older format is computed again.
FORMAT = "medcore-profile-1"


@dataclass(frozen=True)
class Profile:
    """Removal orders and predicted losses of all sites, in the order of `Architecture.sites`.

    A site without a linear output cannot be refit. Its order is 0..G-1 and its curve is infinite below G, so that an
    allocator keeps the site whole.

    Attributes:
        orders: int64 (G,) a site, the groups in the order of their removal.
        curves: float64 (G+1,) a site, entry k is the predicted loss of keeping k groups with the rest refit; it never
            increases with k and ends in 0.
        meta: JSON-able notes: architecture, images used and skipped.
    """

    orders: PerSite
    curves: PerSite
    meta: dict[str, Any] = field(default_factory=dict)

    def scores(self) -> PerSite:
        """Return the place of each group in its site's removal order, float64 (G,); higher means keep."""
        return tuple(np.argsort(order, kind="stable").astype(np.float64) for order in self.orders)

    def restricted(self, kept: PerSite) -> Profile:
        """Return the profile of what an earlier cut has left.

        Groups keep their relative order and their own step of the curve. The steps are exact if the cut took the first
        groups of the order.

        Args:
            kept: bool (G,) a site, over the groups of this profile.

        Returns:
            The profile in the widths after the cut; groups have their numbers in the smaller model.
        """
        orders, curves = [], []
        for order, curve, keep in zip(self.orders, self.curves, kept, strict=True):
            stays = keep[order]
            # number in the smaller model of each group that is kept
            orders.append((np.cumsum(keep) - 1)[order[stays]])
            curves.append(_restricted_curve(curve, stays))
        return Profile(tuple(orders), tuple(curves), self.meta)

    def dense_curves(self, arch: Architecture) -> PerSite:
        """Return the curves over all widths of the dense model, (G+1,) a site, as budgets read them.

        A site of a pruned model cannot grow, so the entries above its width are never used; they are 0.
        """
        return tuple(
            np.append(curve, np.zeros(site.width + 1 - len(curve)))
            for site, curve in zip(arch.sites, self.curves, strict=True)
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with JSON metadata by rename.

        Raises:
            StorageError: the file cannot be written.
        """
        path = Path(path)
        arrays = {f"order/{number}": order for number, order in enumerate(self.orders)}
        arrays |= {f"curve/{number}": curve for number, curve in enumerate(self.curves)}
        note = {"format": FORMAT, "meta": json.dumps(self.meta)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, note)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: cannot write the second-order profile ({error})") from None

    @classmethod
    def load(cls, path: str | Path, spec: ModelSpec) -> Profile:
        """Read what `save` wrote for a model of these widths, and check it.

        Raises:
            CheckpointError: the file is missing, damaged, of another architecture, an order is no permutation, or a
                curve is not finite or increases.
        """
        metadata, arrays = read_arrays(path, FORMAT, "second-order profile")
        arch = spec.arch
        try:
            meta = json.loads(metadata["meta"])
            if meta["architecture"] != arch.name:
                raise ValueError(f"it belongs to {meta['architecture']}, not to {arch.name}")
            orders = tuple(arrays[f"order/{number}"] for number in range(len(arch.sites)))
            curves = tuple(arrays[f"curve/{number}"] for number in range(len(arch.sites)))
            for site, width, order, curve in zip(arch.sites, spec.widths, orders, curves, strict=True):
                _check(site, width, order, curve)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: the second-order profile does not fit ({error}); delete the file") from None
        return cls(orders, curves, meta)


def profile_key(**parts: Any) -> str:
    """Return the name of a profile, a SHA-256 of all that it depends on; `parts` are those of `table_key`."""
    return table_key(format=FORMAT, **parts)


def build_profile(model: MedSam, sums: ProfileSums) -> Profile:
    """Compute orders and curves of all sites on the CPU in float64.

    The same sums give the same bits in every process with one thread.

    Args:
        model: the model, dense or pruned.
        sums: its sums; their images give the moments, and their metric images the metric.

    Raises:
        DataError: no image has finite values.
        CheckpointError: the sums are of another architecture.
    """
    if sums.arch != model.arch:
        raise CheckpointError(f"second-order profile: sums of {sums.arch.name} for a model of {model.arch.name}")
    if not sums.metric_images:
        first = f" (first: {sums.skipped[0]})" if sums.skipped else ""
        raise DataError(
            f"second-order profile: no image of the metric has finite values, {len(sums.skipped)} were skipped{first}; "
            "check the checkpoint"
        )
    removals = []
    for number, site in enumerate(model.arch.sites):
        if site.output is None:
            removals.append(_whole(model.spec.widths[number]))
        elif not model.spec.widths[number]:
            removals.append(Removal(np.zeros(0, np.int64), np.zeros(1)))
        else:
            moments = _moments(sums.sites[number], sums.tokens[number])
            metric = sums.sites[number].metric.numpy() / sums.metric_images
            ridge = ridge_for(moments, sums.tokens[number], RIDGE)
            weight = _weight(model, site.output)
            removals.append(remove_all(moments, metric, weight, site.output.inner, ridge=ridge))
    meta = {
        "architecture": model.arch.name,
        "images": sums.images,
        "metric_images": sums.metric_images,
        "skipped": sums.skipped,
    }
    return Profile(tuple(one.order for one in removals), tuple(one.curve for one in removals), meta)


def _moments(sums: SiteSums, tokens: int) -> Floats:
    """Return the centred covariance of the inputs, (F, F)."""
    mean = sums.inputs.numpy() / tokens
    covariance: Floats = sums.products.numpy() / tokens - np.outer(mean, mean)
    return covariance


def _weight(model: MedSam, output: LinearOutput) -> Floats:
    weight = linear_map(model.get_submodule(output.module))[0].detach().double().cpu()
    values: Floats = weight.numpy()
    return values


def _whole(width: int) -> Removal:
    """Return the result for a site that cannot be refit."""
    return Removal(np.arange(width), np.append(np.full(width, np.inf), 0.0))


def _restricted_curve(curve: Array, stays: Array) -> Array:
    """Return the curve of the kept groups; `stays` (G,) marks them in the order of removal."""
    if not np.isfinite(curve).all():
        return _whole(int(stays.sum())).curve
    # steps in the order of removal: step i leads from G − i to G − i − 1 groups
    steps = -np.diff(curve)[::-1][stays]
    return np.concatenate([[0.0], np.cumsum(steps)])[::-1].copy()


def _check(site: Site, width: int, order: Array, curve: Array) -> None:
    """Check one site's arrays.

    Raises:
        ValueError: they do not fit the site.
    """
    is_row = order.dtype == np.int64 and order.shape == (width,)
    if not is_row or not np.array_equal(np.sort(order), np.arange(width)):
        raise ValueError(f"the order of {site.name} is no permutation of {width} groups")
    if curve.dtype != np.float64 or curve.shape != (width + 1,):
        raise ValueError(f"the curve of {site.name} has shape {curve.shape}, expected {(width + 1,)}")
    if site.output is None:
        if not np.array_equal(curve, _whole(width).curve):
            raise ValueError(f"{site.name} cannot be refit, but its curve is not infinite")
    elif not np.isfinite(curve).all() or curve[-1] != 0 or (np.diff(curve) > 0).any():
        raise ValueError(f"the curve of {site.name} is not finite, increases or does not end in 0")
