"""Keep masks: from scores and a budget, and as the record of what a pruned model has kept.

Within a site the lowest scores go first (method §5).
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np

from medcore.errors import CheckpointError
from medcore.models.decoder.places import FREE, OUTPUTS
from medcore.models.sites import Array, PerSite, Site, by_family, from_families
from medcore.models.spec import DECODER, Architecture, ModelSpec


def select(scores: PerSite, spec: ModelSpec) -> PerSite:
    """Keep the highest-scored groups of every site.

    Among equal scores the lower index goes first.

    Args:
        scores: one value per group of the model to prune, in its current widths.
        spec: the widths to keep.

    Returns:
        Bool keep masks in the shapes of `scores`.

    Raises:
        MedcoreError: a score is NaN, a site has fewer groups than it is to keep, or the number of sites differs.
    """
    if len(scores) != len(spec.widths):
        raise CheckpointError(
            f"masks: scores of {len(scores)} sites for a model of {len(spec.widths)}; "
            "score this model before pruning it"
        )
    sites = zip(spec.arch.sites, scores, spec.widths, strict=True)
    return tuple(_keep_highest(site, values, count) for site, values, count in sites)


def keep_all(spec: ModelSpec) -> PerSite:
    """Return masks that keep every group of a model with the widths of `spec`."""
    return tuple(np.ones(width, dtype=bool) for width in spec.widths)


def masks_without_outputs(spec: ModelSpec, names: Collection[str], where: str) -> PerSite:
    """Return masks that keep all but some outputs of the decoder, which have no part in the answer to a box.

    Args:
        spec: widths of the model.
        names: of outputs in `medcore.models.decoder.places.FREE`.
        where: place of the model, for messages.

    Raises:
        CheckpointError: the decoder is none of the model's parts, or an output is unknown.
    """
    if unknown := sorted(set(names) - FREE.keys()):
        raise CheckpointError(f"{where}: no output {', '.join(unknown)} to leave out; known are {', '.join(FREE)}")
    if DECODER not in spec.arch.parts:
        raise CheckpointError(f"{where}: outputs are left out of a decoder that can be pruned; add {DECODER} to parts")
    gone = {path for name in names for path in FREE[name]}
    sites = zip(spec.arch.sites, spec.widths, strict=True)
    return tuple(np.full(width, site.family != OUTPUTS or site.watch.module not in gone) for site, width in sites)


def narrowed(kept: PerSite, masks: PerSite) -> PerSite:
    """Return what is left of earlier masks after a further cut.

    Args:
        kept: bool over the groups of a model.
        masks: bool over the groups that are True in `kept`.

    Returns:
        Bool over the groups of `kept`.
    """
    left = tuple(site.copy() for site in kept)
    for site, mask in zip(left, masks, strict=True):
        site[np.flatnonzero(site)[~mask]] = False
    return left


def pack_kept(arch: Architecture, kept: PerSite) -> str:
    """Return masks over the dense groups as JSON: one row of hexadecimal bits a site, by family."""
    rows = [np.packbits(mask).tobytes().hex() for mask in kept]
    return json.dumps(by_family(arch.sites, rows))


def unpack_kept(spec: ModelSpec, text: str, where: str) -> PerSite:
    """Undo `pack_kept` for a model with the widths of `spec`.

    Args:
        spec: the widths of the pruned model.
        text: what `pack_kept` returned.
        where: place of the text, for messages.

    Raises:
        MedcoreError: the text is damaged, or marks other numbers of groups than the widths.
    """
    try:
        rows = from_families(spec.arch.sites, json.loads(text))
        masks = [
            np.unpackbits(np.frombuffer(bytes.fromhex(row), np.uint8), count=site.width).astype(bool)
            for site, row in zip(spec.arch.sites, rows, strict=True)
        ]
        sizes = [len(bytes.fromhex(row)) for row in rows]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: the record of kept groups is damaged ({error}); write the file again"
        ) from None
    expected = [-(-site.width // 8) for site in spec.arch.sites]
    if sizes != expected or tuple(int(mask.sum()) for mask in masks) != spec.widths:
        raise CheckpointError(f"{where}: the record of kept groups does not fit the widths; write the file again")
    return tuple(masks)


def _keep_highest(site: Site, values: Array, count: int) -> Array:
    where, word = f"block {site.block}", site.family.singular
    if len(values) < count:
        raise CheckpointError(
            f"masks: {where} has {len(values)} {word} scores but is to keep {count}; "
            "the budget must not exceed the model's widths"
        )
    if np.isnan(values).any():
        index = int(np.flatnonzero(np.isnan(values))[0])
        raise CheckpointError(f"masks: the score of {where} {word} {index} is NaN; score again")
    # stable, so equal scores stay in index order and the lower index is dropped first
    order = np.argsort(values, kind="stable")
    mask = np.ones(len(values), dtype=bool)
    mask[order[: len(values) - count]] = False
    return mask
