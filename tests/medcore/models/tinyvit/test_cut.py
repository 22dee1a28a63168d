"""TinyViT's groups are cut, masked, summed and priced like any other's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medcore.models.architectures import spec_from_json
from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.cut import mask_model, prune
from medcore.models.groups import group_sums
from medcore.models.masks import keep_all
from medcore.models.sam import MedSam, build_empty
from tests.support.tiny_vit import DENSE, LITTLE, PLACES, little_model, masks_without, random_masks, random_spec
from tests.support.training_samples import assert_same, weights

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[4.0, 8.0, 20.0, 30.0], [2.0, 1.0, 28.0, 17.0]])


def worst(one: MedSam, other: MedSam) -> float:
    with torch.no_grad():
        return float((one.segment(IMAGES, BOXES) - other.segment(IMAGES, BOXES)).abs().max())


def test_sites_lie_coarse_to_fine() -> None:
    assert [site.name for site in LITTLE.sites] == [
        *(f"blocks/{number:02d}" for number in (0, 1, 3, 5, 6, 7, 9)),
        *(f"{family}/{number:02d}" for family in ("interiors", "heads", "channels") for number in (3, 5, 6, 7, 9)),
        *("mbconv/00", "mbconv/01"),
        *("merges/02", "merges/04", "merges/08"),
    ]
    assert DENSE.budget == {
        "blocks": [1] * 7,
        "interiors": [1] * 5,
        "heads": [2, 4, 4, 4, 3],
        "channels": [30, 40, 40, 40, 60],
        "mbconv": [16, 16],
        "merges": [12, 16, 24],
    }
    assert [block.path.removeprefix("image_encoder.layers.") for block in LITTLE.blocks] == [
        *("0.blocks.0", "0.blocks.1", "0.downsample", "1.blocks.0", "1.downsample"),
        *("2.blocks.0", "2.blocks.1", "2.blocks.2", "2.downsample", "3.blocks.0"),
    ]
    assert [block.attends_globally for block in LITTLE.blocks] == [False] * 9 + [True]


def test_every_tensor_of_a_site_exists_and_has_its_groups_on_its_axis() -> None:
    model = little_model()
    state = model.state_dict()
    for site in LITTLE.sites:
        model.get_submodule(site.watch.module)
        for part in site.tensors:
            if part.axis is not None:
                assert state[part.name].shape[part.axis] == part.outer * site.width * part.inner, part
    for number, block in enumerate(LITTLE.blocks):
        if f"blocks/{number:02d}" in PLACES:
            held = {part.name for part in LITTLE.sites[PLACES[f"blocks/{number:02d}"]].tensors}
            assert held == {name for name in state if name.startswith(f"{block.path}.")}


@pytest.mark.parametrize("seed", range(8))
def test_formulas_equal_counts(seed: int) -> None:
    spec = random_spec(seed) if seed else DENSE
    encoder = build_empty(spec, "plain").image_encoder
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        embedding = encoder(torch.empty(1, 3, 32, 32))
    assert embedding.shape == (1, LITTLE.out_chans, 8, 8)
    assert cost(spec).encoder_params == sum(parameter.numel() for parameter in encoder.parameters())
    assert cost(spec).flops == counter.get_total_flops() >= cost(spec).flops_paper


@pytest.mark.parametrize("seed", range(10))
def test_cut_equals_masked(seed: int) -> None:
    model = little_model(seed)
    masks = random_masks(DENSE, seed)
    cut, masked = prune(model, masks), mask_model(model, masks)
    assert masked.spec == DENSE and worst(cut, masked) <= 1e-4 < worst(cut, model)
    again = random_masks(cut.spec, seed + 100)
    assert worst(prune(cut, again), mask_model(cut, again)) <= 1e-4


def test_all_and_nothing() -> None:
    model = little_model()
    whole = prune(model, keep_all(DENSE))
    assert whole.spec == DENSE and worst(whole, model) == 0
    nothing = tuple(np.zeros(width, bool) for width in DENSE.widths)
    bare = prune(model, nothing)
    assert set(bare.spec.widths) == {0} and cost(bare.spec) == LITTLE.fixed
    assert worst(bare, mask_model(model, nothing)) <= 1e-4


def test_a_hollow_block_is_its_convolution_and_a_block_that_is_gone_is_nothing() -> None:
    model = little_model()
    tokens = torch.randn(2, 8, 8, 16)
    place = model.image_encoder.layers[2].blocks
    hollow = masks_without("interiors/06")
    cut = prune(model, hollow)
    assert cut.spec.budget["heads"] == [2, 4, 0, 4, 3] and cut.spec.budget["blocks"] == [1] * 7
    silenced = mask_model(model, hollow).image_encoder.layers[2].blocks
    # what is left of attention and MLP in the masked model is 0, the output biases included
    for blocks in (cut.image_encoder.layers[2].blocks, silenced):
        torch.testing.assert_close(blocks[1](tokens), place[1].local_conv(tokens))
    assert not [name for name in cut.state_dict() if "2.blocks.1.attn" in name or "2.blocks.1.mlp" in name]
    gone = masks_without("blocks/06")
    cut = prune(model, gone)
    assert cut.spec.budget["interiors"] == [1, 1, 0, 1, 1] and cut.spec.budget["channels"] == [30, 40, 0, 40, 60]
    assert isinstance(cut.image_encoder.layers[2].blocks[1], nn.Identity)
    assert torch.equal(mask_model(model, gone).image_encoder.layers[2].blocks[1](tokens), tokens)
    first = mask_model(model, masks_without("blocks/00")).image_encoder.layers[0].blocks
    assert torch.equal(first[0](tokens[..., :8]), tokens[..., :8])


def test_the_right_rows_stay() -> None:
    model = little_model()
    old = model.image_encoder.layers
    new = prune(model, masks_without("heads/05", 1)).image_encoder.layers
    kept = [0, 2, 3]
    # rows of head h: its q, k and v, four wide each
    rows = np.concatenate([np.arange(12 * head, 12 * (head + 1)) for head in kept])
    columns = np.concatenate([np.arange(4 * head, 4 * (head + 1)) for head in kept])
    one, other = old[2].blocks[0].attn, new[2].blocks[0].attn
    assert torch.equal(other.qkv.weight, one.qkv.weight[rows]) and torch.equal(other.qkv.bias, one.qkv.bias[rows])
    assert torch.equal(other.attention_biases, one.attention_biases[kept])
    assert torch.equal(other.proj.weight, one.proj.weight[:, columns])
    new = prune(model, masks_without("merges/04", 3)).image_encoder.layers
    left = [channel for channel in range(16) if channel != 3]
    one, other = old[1].downsample, new[1].downsample
    for conv in ("conv1", "conv2"):
        mine, theirs = getattr(other, conv), getattr(one, conv)
        assert torch.equal(mine.c.weight, theirs.c.weight[left])
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(mine.bn, name), getattr(theirs.bn, name)[left]), name
    assert torch.equal(other.conv3.c.weight, one.conv3.c.weight[:, left])
    assert_same(dict(other.conv3.bn.state_dict()), dict(one.conv3.bn.state_dict()))


def test_a_group_costs_the_parameters_that_it_takes() -> None:
    ones = {name: torch.ones_like(value) for name, value in little_model().named_parameters()}

    def held_by(name: str) -> int:
        inside = [site for site in LITTLE.sites if site.within == name]
        return sum(site.width * (site.cost.encoder_params + held_by(site.name)) for site in inside)

    for site in LITTLE.sites:
        expected = site.cost.encoder_params + held_by(site.name)
        assert group_sums(site, site.width, ones).tolist() == [expected] * site.width, site.name


@pytest.mark.parametrize("seed", range(3))
def test_checkpoints_come_back_exactly(seed: int, tmp_path: Path) -> None:
    model = prune(little_model(seed), random_masks(DENSE, seed))
    save(tmp_path / "little.safetensors", model)
    again = load(tmp_path / "little.safetensors")
    assert again.spec == model.spec == spec_from_json(model.spec.to_json())
    assert again.kept is not None and model.kept is not None
    assert all((one == other).all() for one, other in zip(again.kept, model.kept, strict=True))
    assert_same(weights(model), weights(again))
    assert worst(model, again) == 0
