"""Hiera's groups are cut, masked, summed and priced like any other's, also where a stage begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.cut import mask_model, pad, prune
from medcore.models.groups import group_sums
from medcore.models.hiera.arch import Hiera
from medcore.models.hiera.encoder import HieraEncoder, fold, unfold
from medcore.models.hiera.masks import choose, stability
from medcore.models.sam import MedSam, build, build_empty
from medcore.models.sides.resized import at_side
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from tests.support.hiera import BOTH, DEEP, DENSE, LITTLE, little_model, random_masks
from tests.support.training_samples import assert_same, weights

IMAGES = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[4.0, 8.0, 40.0, 60.0], [12.0, 3.0, 80.0, 51.0]])
ARCHS = pytest.mark.parametrize("arch", [LITTLE, DEEP, BOTH], ids=["encoder", "blocks", "decoder"])


def random_spec(arch: Hiera, seed: int) -> ModelSpec:
    return ModelSpec(arch, tuple(int(mask.sum()) for mask in random_masks(ModelSpec.dense(arch), seed)))


def worst(one: MedSam, other: MedSam) -> float:
    with torch.no_grad():
        return float((one.segment(IMAGES, BOXES) - other.segment(IMAGES, BOXES)).abs().max())


def test_sites_lie_by_family_and_heads_double_from_stage_to_stage() -> None:
    assert DENSE.budget == {"heads": [2, 4, 4, 8, 8, 8, 16], "channels": [20, 40, 40, 80, 80, 80, 160]}
    # blocks 1, 3 and 6 begin a stage, so they cannot go
    assert [site.name for site in DEEP.sites if site.family.name == "blocks"] == [
        *("blocks/00", "blocks/02", "blocks/04", "blocks/05")
    ]
    assert [block.area for block in LITTLE.blocks] == [
        *("windows of 8", "windows of 8", "windows of 4", "windows of 4", "whole image", "windows of 4"),
        "windows of 4",
    ]


@ARCHS
def test_every_tensor_of_a_site_exists_and_has_its_groups_on_its_axis(arch: Hiera) -> None:
    model = build_empty(ModelSpec.dense(arch))
    state = model.state_dict()
    for site in arch.encoder_sites:
        model.get_submodule(site.watch.module)
        if site.output is not None and site.output.stream is not None:
            model.get_submodule(site.output.stream)
        for part in site.tensors:
            assert part.name in state
            if part.axis is not None:
                assert state[part.name].shape[part.axis] == part.outer * site.width * part.inner, part


@ARCHS
@pytest.mark.parametrize("seed", range(3))
def test_formulas_equal_counts(arch: Hiera, seed: int) -> None:
    spec = random_spec(arch, seed) if seed else ModelSpec.dense(arch)
    model = build_empty(spec, "plain")
    # positions of the prompts are random numbers that a model without values has none of
    with torch.device("meta"):
        images, sparse = torch.empty(1, 3, 96, 96), torch.empty(1, 3, 16)
        dense = torch.empty(1, 16, 6, 6)
        with FlopCounterMode(display=False) as encoder:
            folded = model.image_encoder(images)
        with FlopCounterMode(display=False) as decoder:
            model.mask_decoder(folded, dense, sparse, dense, multimask_output=False)
    found = cost(spec)
    assert folded.shape == (1, 64, 6, 6)
    assert found.encoder_params == sum(each.numel() for each in model.image_encoder.parameters())
    assert found.decoder_params == sum(each.numel() for each in model.mask_decoder.parameters())
    assert found.flops == encoder.get_total_flops() > found.flops_paper
    assert found.decoder_flops == decoder.get_total_flops()


@ARCHS
@pytest.mark.parametrize("seed", range(2))
def test_cut_equals_masked(arch: Hiera, seed: int) -> None:
    dense = ModelSpec.dense(arch)
    model = little_model(seed, dense)
    masks = random_masks(dense, seed)
    cut, masked = prune(model, masks), mask_model(model, masks)
    assert masked.spec == dense and worst(cut, masked) <= 1e-5 < worst(cut, model)
    again = random_masks(cut.spec, seed + 100)
    assert worst(prune(cut, again), mask_model(cut, again)) <= 1e-5


@pytest.mark.parametrize("family", [family.name for family in BOTH.families])
def test_cut_equals_masked_family_by_family(family: str) -> None:
    dense = ModelSpec.dense(BOTH)
    model = little_model(7, dense)
    masks = tuple(np.arange(site.width) % 2 == (site.family.name == family) for site in BOTH.sites)
    masks = tuple(
        mask if site.family.name == family else np.ones_like(mask) for site, mask in zip(BOTH.sites, masks, strict=True)
    )
    cut = prune(model, masks)
    assert not cut.spec.is_dense and worst(cut, mask_model(model, masks)) <= 1e-5
    # outputs of other masks have no part in mask 0
    assert (worst(cut, model) == 0) == (family == "decoder_outputs")


def test_all_and_nothing() -> None:
    model = little_model()
    bare = prune(model, tuple(np.zeros(width, bool) for width in DENSE.widths))
    assert set(bare.spec.widths) == {0} and cost(bare.spec) == LITTLE.fixed
    assert worst(pad(bare), bare) <= 1e-5
    assert worst(prune(model, tuple(np.ones(width, bool) for width in DENSE.widths)), model) == 0


def test_the_right_rows_stay_where_a_stage_begins() -> None:
    masks: PerSite = tuple(np.ones(width, dtype=bool) for width in DENSE.widths)
    masks[1][2] = masks[8][5] = False
    model = little_model()
    old, new = model.image_encoder.trunk.blocks[1], prune(model, masks).image_encoder.trunk.blocks[1]
    # 16 wide with 4 heads: rows of q, k and v of heads 0, 1 and 3
    columns = [*range(0, 8), *range(12, 16)]
    rows = [16 * part + row for part in range(3) for row in columns]
    assert old.attn.qkv.weight.shape == (48, 8) and torch.equal(new.attn.qkv.weight, old.attn.qkv.weight[rows])
    assert torch.equal(new.attn.qkv.bias, old.attn.qkv.bias[rows])
    assert torch.equal(new.attn.proj.weight, old.attn.proj.weight[:, columns])
    assert torch.equal(new.proj.weight, old.proj.weight)
    left = [channel for channel in range(40) if channel != 5]
    assert torch.equal(new.mlp.layers[0].weight, old.mlp.layers[0].weight[left])
    assert torch.equal(new.mlp.layers[1].weight, old.mlp.layers[1].weight[:, left])


def test_a_group_costs_the_parameters_that_it_takes() -> None:
    ones = {name: torch.ones_like(value) for name, value in little_model(0).named_parameters()}
    price = {site.name: site.cost.encoder_params for site in DEEP.sites}
    for site in DEEP.encoder_sites:
        inside = sum(other.width * price[other.name] for other in DEEP.sites if other.within == site.name)
        expected = site.cost.encoder_params + inside
        assert group_sums(site, site.width, ones).tolist() == [expected] * site.width, site.name


@pytest.mark.parametrize("seed", range(3))
def test_fast_and_plain_attention_agree(seed: int) -> None:
    spec = random_spec(DEEP, seed) if seed else ModelSpec.dense(DEEP)
    fast, plain = little_model(seed, spec).double(), build(spec, "plain").double()
    plain.load_state_dict(fast.state_dict())
    images = torch.randn(1, 3, 96, 96, dtype=torch.float64)

    def gradients(model: MedSam) -> tuple[Tensor, ...]:
        parameters = [each for each in model.image_encoder.parameters() if each.numel()]
        return torch.autograd.grad(model.encode(images).square().sum(), parameters, allow_unused=True)

    with torch.no_grad():
        torch.testing.assert_close(fast.encode(images), plain.encode(images), rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(fast), gradients(plain), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_an_unknown_way_of_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="slow"):
        HieraEncoder(LITTLE.to_dict(), DENSE.budget, "slow")


def test_maps_of_three_sides_are_one_tensor_and_come_back() -> None:
    maps = (torch.rand(2, 16, 3, 3), torch.rand(2, 4, 6, 6), torch.rand(2, 2, 12, 12))
    folded = fold(*maps)
    assert folded.shape == (2, 64, 3, 3)
    for one, other in zip(unfold(folded), maps, strict=True):
        assert torch.equal(one, other)
    # a place has the channels of its own pixels
    assert set(folded[0, 16:32, 1, 2].tolist()) == set(maps[1][0, :, 2:4, 4:6].flatten().tolist())


def test_an_unstable_mask_gives_way_to_the_best_of_the_others() -> None:
    logits = torch.zeros(3, 4, 10, 10)
    for mask in range(1, 4):
        logits[:, mask] = mask
    # of 100 pixels above the lower threshold 97 are above the upper one; then 98; then there is no pixel at all
    logits[0, 0].view(-1)[:97] = logits[1, 0].view(-1)[:98] = 1.0
    logits[2, 0] = -1.0
    ious = torch.tensor([[0.9, 0.1, 0.3, 0.2]]).repeat(3, 1)
    assert stability(logits[:, :1])[:, 0].tolist() == pytest.approx([0.97, 0.98, 1.0])
    chosen, predicted = choose(logits, ious)
    assert torch.equal(chosen[0, 0], logits[0, 2]) and torch.equal(chosen[1:, 0], logits[1:, 0])
    assert predicted[:, 0].tolist() == pytest.approx([0.3, 0.9, 0.9])
    # a model in training mode answers with mask 0, as SAM 2 does
    model = little_model(5)
    plain = little_model(5, ModelSpec.dense(replace(LITTLE, stable_mask=False)))
    with torch.no_grad():
        assert not torch.allclose(model.segment(IMAGES, BOXES), plain.segment(IMAGES, BOXES))
        torch.testing.assert_close(model.train().segment(IMAGES, BOXES), plain.segment(IMAGES, BOXES))


@ARCHS
def test_checkpoints_come_back_exactly(arch: Hiera, tmp_path: Path) -> None:
    dense = ModelSpec.dense(arch)
    model = prune(little_model(1, dense), random_masks(dense, 1))
    save(tmp_path / "little.safetensors", model)
    again = load(tmp_path / "little.safetensors")
    assert again.spec == model.spec and again.kept is not None and model.kept is not None
    assert all((one == other).all() for one, other in zip(again.kept, model.kept, strict=True))
    assert_same(weights(model), weights(again))
    assert worst(model, again) == 0


def test_another_square_takes_the_same_tensors() -> None:
    model = little_model(3)
    smaller = at_side(model, 64)
    assert_same(dict(model.state_dict()), dict(smaller.state_dict()))
    with torch.no_grad():
        assert smaller.segment(IMAGES[..., :64, :64], BOXES / 2).shape == (2, 1, 16, 16)
