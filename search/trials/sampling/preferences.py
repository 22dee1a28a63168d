"""The shape of a sampled budget: how much each site prefers to keep (method §14).

In powers of two, the preference of a site in block b is

    ± lean/2 + slope·depth_b + global_bonus·[b is global] + follow·sensitivity_b + spread·residual + offset

where the family gives the sign of `lean` and the offset, and has its own `slope` and `follow`. `depth` rises from −1 to
1, `sensitivity` is the logarithm of the block's Fisher information scaled to [−1, 1], and every site's residual is free
in [−1, 1]. Only the ratios of preferences matter, because the target cost fixes the common scale.

Preferences multiply predicted losses, or shares of a uniform budget (`search.space.shape`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from medcore.models.spec import ENCODER, Architecture, ModelSpec

Floats = npt.NDArray[np.float64]

#: Smallest keep share that a preference stands for. A site's share below it is as good as zero.
_LEAST_SHARE = 1 / 64


def neutral_names(arch: Architecture) -> list[str]:
    """Return the parameters that do not shape a budget when they are 0."""
    families = [family.name for family in arch.families]
    return ["lean", "global_bonus", *(f"{kind}_{family}" for kind in ("slope", "follow") for family in families)]


def residual_names(arch: Architecture) -> list[str]:
    """Return the flat parameter names of the residuals, one a site."""
    return [site.name for site in arch.sites]


def preferences(params: Mapping[str, Any], arch: Architecture, sensitivity: Floats) -> Floats:
    """Return the preferences of the sites, (S,) and positive.

    Args:
        params: Flat parameters of a trial.
        arch: Architecture of the dense model, with L blocks.
        sensitivity: (L,) Fisher information s_b of the blocks.
    """
    # the encoder's blocks come first; those of the decoder have a depth and a sensitivity of their own
    inner = len(arch.encoder_blocks) if ENCODER in arch.parts else 0
    parts = [slice(0, inner), slice(inner, len(arch.blocks))]
    depth = np.concatenate([np.linspace(-1, 1, part.stop - part.start) for part in parts])
    is_global = np.array([block.attends_globally for block in arch.blocks[:inner]] + [False] * (len(depth) - inner))
    scaled = np.concatenate([_log_scaled(np.asarray(sensitivity)[part]) for part in parts])
    powers = [
        site.family.lean * params["lean"] / 2
        + params[f"slope_{site.family.name}"] * depth[site.block]
        + params["global_bonus"] * is_global[site.block]
        + params[f"follow_{site.family.name}"] * scaled[site.block]
        + params["spread"] * params.get(site.name, 0.0)
        + site.family.offset
        for site in arch.sites
    ]
    shape: Floats = np.exp2(np.array(powers))
    return shape


def log_shares(spec: ModelSpec) -> Floats:
    """Return log2 of each site's keep share less their mean.

    The order is that of `residual_names`.
    """
    shares = np.array(spec.widths) / np.array(spec.arch.dense_widths)
    logs: Floats = np.log2(np.maximum(shares, _LEAST_SHARE))
    centred: Floats = logs - logs.mean()
    return centred


def _log_scaled(values: Floats) -> Floats:
    """Return the logarithms less their mean, scaled so that the largest is ±1.

    All 0 if the values are equal.
    """
    known = values > 0
    logs = np.log2(values[known])
    centred = logs - logs.mean() if len(logs) else logs
    largest = float(np.abs(centred).max(initial=0.0))
    scaled = np.full(len(values), -1.0 if known.any() else 0.0)
    scaled[known] = centred / largest if largest > 0 else centred
    return scaled
