"""Toy models, budgets and masks for the tests of a new architecture."""

from __future__ import annotations

import numpy as np
import torch

from medcore.models.sam import MedSam, build
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from tests.support.toy.arch import Toy

TOY = Toy()
DENSE = ModelSpec.dense(TOY)
#: Place of each site by its name.
PLACES = {site.name: place for place, site in enumerate(TOY.sites)}


def toy_model(seed: int = 0, spec: ModelSpec = DENSE) -> MedSam:
    """Random weights, and running statistics that are not those of a new model."""
    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        for parameter in model.image_encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        norm = model.image_encoder.stem.norm
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 2.0)
        norm.num_batches_tracked.fill_(7)
    return model


def random_spec(seed: int) -> ModelSpec:
    """Random widths; about a third of the blocks is gone, and any other site may be empty."""
    chance = np.random.default_rng(seed)

    def width(most: int) -> int:
        return int(chance.random() < 0.7) if most == 1 else int(chance.choice([0, chance.integers(most + 1), most]))

    return ModelSpec(TOY, tuple(width(site.width) for site in TOY.sites))


def random_masks(spec: ModelSpec, seed: int) -> PerSite:
    """Draw masks in which each site keeps a random share, everything or nothing."""
    chance = np.random.default_rng(seed)
    return tuple(chance.random(width) < chance.choice([0.0, 0.6, 1.0], p=[0.2, 0.5, 0.3]) for width in spec.widths)


def direct_sums(values: dict[str, torch.Tensor], spec: ModelSpec) -> list[list[float]]:
    """Sums over the groups of all sites, slice by slice as the modules use them."""
    sums = {site.name: [] for site in TOY.sites}
    stem = "image_encoder.stem"
    for group in range(spec.family("stem")[0]):
        rows = ("conv1.weight", "norm.weight", "norm.bias")
        total = sum(float(values[f"{stem}.{name}"][group].sum()) for name in rows)
        sums["stem/00"].append(total + float(values[f"{stem}.conv2.weight"][:, group].sum()))
    for number in range(1, 4):
        path, d = f"image_encoder.blocks.{number - 1}", TOY.head_dim
        if spec.family("blocks")[number - 1]:
            inside = [value for name, value in values.items() if name.startswith(f"{path}.")]
            sums[f"blocks/{number:02d}"] = [sum(float(value.sum()) for value in inside)]
        for group in range(spec.family("toy_heads")[number - 1]):
            rows, columns = slice(3 * d * group, 3 * d * (group + 1)), slice(d * group, d * (group + 1))
            total = float(values[f"{path}.qkv.weight"][rows].sum()) + float(values[f"{path}.qkv.bias"][rows].sum())
            total += float(values[f"{path}.biases"][group].sum())
            sums[f"toy_heads/{number:02d}"].append(total + float(values[f"{path}.proj.weight"][:, columns].sum()))
        for group in range(spec.family("hidden")[number - 1]):
            total = float(values[f"{path}.lin1.weight"][group].sum()) + float(values[f"{path}.lin1.bias"][group])
            sums[f"hidden/{number:02d}"].append(total + float(values[f"{path}.lin2.weight"][:, group].sum()))
    return [sums[site.name] for site in TOY.sites]
