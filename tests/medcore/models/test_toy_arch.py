"""A new encoder is one file: the toy is described, cut, scored, budgeted, recovered and saved like the ViT."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medcore.errors import MedcoreError
from medcore.models.architectures import families, resolve_architecture, spec_from_json
from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.cut import mask_model, prune
from medcore.models.export import write_standalone
from medcore.models.groups import group_sums
from medcore.models.masks import keep_all
from medcore.models.sam import MedSam, build, build_empty, predictor
from medcore.models.sites import by_family
from medcore.models.spec import ModelSpec
from tests.support.toy.samples import DENSE, PLACES, TOY, direct_sums, random_masks, random_spec, toy_model
from tests.support.training_samples import assert_same, weights

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[4.0, 8.0, 40.0, 50.0], [20.0, 1.0, 60.0, 33.0]])


def worst(one: MedSam, other: MedSam) -> float:
    with torch.no_grad():
        return float((one.segment(IMAGES, BOXES) - other.segment(IMAGES, BOXES)).abs().max())


def test_sites_lie_coarse_to_fine_and_what_holds_others_comes_first() -> None:
    assert [site.name for site in TOY.sites] == [
        *("blocks/01", "blocks/02", "blocks/03"),
        *("toy_heads/01", "toy_heads/02", "toy_heads/03"),
        "stem/00",
        *("hidden/01", "hidden/02", "hidden/03"),
    ]
    assert DENSE.widths == (1, 1, 1, 2, 4, 3, 10, 24, 48, 16)
    assert [family.name for family in TOY.families] == list(by_family(TOY.sites, TOY.sites))
    assert {"blocks", "toy_heads", "stem", "hidden", "heads", "channels"} <= families().keys()


def test_every_tensor_of_a_site_exists_and_has_its_groups_on_its_axis() -> None:
    model = toy_model()
    state = model.state_dict()
    for site in TOY.sites:
        model.get_submodule(site.watch.module)
        for part in site.tensors:
            if part.axis is not None:
                assert state[part.name].shape[part.axis] == part.outer * site.width * part.inner, part
    # a block's group holds all of the block
    for number in range(1, 4):
        path = TOY.blocks[number].path
        held = {part.name for part in TOY.sites[PLACES[f"blocks/{number:02d}"]].tensors}
        assert held == {name for name in state if name.startswith(f"{path}.")}


@pytest.mark.parametrize("seed", range(8))
def test_formulas_equal_counts(seed: int) -> None:
    spec = random_spec(seed) if seed else DENSE
    encoder = build_empty(spec, "plain").image_encoder
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        embedding = encoder(torch.empty(1, 3, 64, 64))
    assert embedding.shape == (1, TOY.out_chans, TOY.grid, TOY.grid)
    params = sum(parameter.numel() for parameter in encoder.parameters())
    found = cost(spec)
    assert (found.encoder_params, found.flops, found.flops_paper) == (params, *(counter.get_total_flops(),) * 2)


@pytest.mark.parametrize("seed", range(10))
def test_cut_equals_masked(seed: int) -> None:
    model = toy_model(seed)
    masks = random_masks(DENSE, seed)
    cut, masked = prune(model, masks), mask_model(model, masks)
    kept = ModelSpec(TOY, tuple(int(mask.sum()) for mask in masks))
    assert cut.spec == kept and masked.spec == DENSE
    assert worst(cut, masked) <= 1e-4
    if kept != DENSE:
        assert worst(cut, model) > 1e-4
    again = random_masks(cut.spec, seed + 100)
    assert worst(prune(cut, again), mask_model(cut, again)) <= 1e-4


def test_all_and_nothing() -> None:
    model = toy_model()
    whole = prune(model, keep_all(DENSE))
    assert whole.spec == DENSE and worst(whole, model) == 0
    nothing = tuple(np.zeros(width, bool) for width in DENSE.widths)
    bare = prune(model, nothing)
    assert set(bare.spec.widths) == {0} and cost(bare.spec) == TOY.fixed
    assert worst(bare, mask_model(model, nothing)) <= 1e-4


def test_a_block_that_is_gone_takes_all_within_it() -> None:
    model = toy_model()
    masks = keep_all(DENSE)
    masks[PLACES["blocks/02"]][:] = False
    cut = prune(model, masks)
    assert cut.spec.widths == (1, 0, 1, 2, 0, 3, 10, 24, 0, 16)
    assert isinstance(cut.image_encoder.blocks[1], nn.Identity)
    assert not [name for name in cut.state_dict() if "blocks.1." in name]
    tokens = torch.randn(2, 64, TOY.dim)
    silenced = mask_model(model, masks).image_encoder.blocks
    assert torch.equal(silenced[1](tokens), tokens) and not torch.equal(silenced[0](tokens), tokens)


def test_the_right_rows_stay() -> None:
    model = toy_model()
    masks = keep_all(DENSE)
    masks[PLACES["toy_heads/01"]][0] = False
    masks[PLACES["stem/00"]][:] = np.arange(10) % 2 == 1
    old, new = model.image_encoder, prune(model, masks).image_encoder
    # rows of head 1: its q, k and v, six wide each
    assert torch.equal(new.blocks[0].qkv.weight, old.blocks[0].qkv.weight[18:])
    assert torch.equal(new.blocks[0].qkv.bias, old.blocks[0].qkv.bias[18:])
    assert torch.equal(new.blocks[0].biases, old.blocks[0].biases[1:])
    assert torch.equal(new.blocks[0].proj.weight, old.blocks[0].proj.weight[:, 6:])
    assert torch.equal(new.blocks[0].proj.bias, old.blocks[0].proj.bias)
    assert torch.equal(new.stem.conv1.weight, old.stem.conv1.weight[1::2])
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(new.stem.norm, name), getattr(old.stem.norm, name)[1::2]), name
    assert new.stem.norm.num_batches_tracked == 7
    assert torch.equal(new.stem.conv2.weight, old.stem.conv2.weight[:, 1::2])
    assert torch.equal(new.stem.conv2.bias, old.stem.conv2.bias)


@pytest.mark.parametrize("seed", range(4))
def test_group_sums_by_brute_force(seed: int) -> None:
    spec = random_spec(seed) if seed else DENSE
    values = {name: value.detach().double() for name, value in toy_model(seed, spec).named_parameters()}
    for site, width, expected in zip(TOY.sites, spec.widths, direct_sums(values, spec), strict=True):
        sums = group_sums(site, width, values) if width else torch.zeros(0)
        assert sums.tolist() == pytest.approx(expected, rel=1e-9), site.name


def test_a_group_costs_the_parameters_that_it_takes() -> None:
    ones = {name: torch.ones_like(value) for name, value in toy_model().named_parameters()}
    for site in TOY.sites:
        per_group = site.cost.encoder_params
        if site.family.name == "blocks":
            held = [other for other in TOY.sites if other.within == site.name]
            per_group += sum(other.width * other.cost.encoder_params for other in held)
        assert group_sums(site, site.width, ones).tolist() == [per_group] * site.width, site.name


def test_json_round_trip_and_architecture_file(tmp_path: Path) -> None:
    spec = random_spec(3)
    assert spec_from_json(spec.to_json()) == spec
    fields = json.loads(spec.to_json())
    assert fields["arch"]["kind"] == "toy" and fields["hidden"] == list(spec.family("hidden"))
    path = tmp_path / "own.json"
    path.write_text(json.dumps(TOY.to_dict()))
    assert resolve_architecture(path) == TOY
    for change in ({"heads": [1, 2]}, {"heads": [1.5, 2, 3]}, {"img_size": 60}, {"kind": "toys"}, {"depth": 3}):
        path.write_text(json.dumps(TOY.to_dict() | change))
        with pytest.raises(MedcoreError, match=next(iter(change))):
            resolve_architecture(path)
    del fields["stem"]
    with pytest.raises(MedcoreError, match="field 'stem' is missing"):
        spec_from_json(json.dumps(fields))


@pytest.mark.parametrize("seed", range(3))
def test_checkpoints_come_back_exactly(seed: int, tmp_path: Path) -> None:
    model = prune(toy_model(seed), random_masks(DENSE, seed))
    save(tmp_path / "toy.safetensors", model)
    again = load(tmp_path / "toy.safetensors")
    assert again.spec == model.spec and again.image_encoder.stem.norm.num_batches_tracked.dtype == torch.int64
    assert_same(weights(model), weights(again))
    assert worst(model, again) == 0
    again.train()
    again.encode(IMAGES)


def test_a_state_dictionary_is_loaded_by_its_architecture_file(tmp_path: Path) -> None:
    model = toy_model()
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in weights(model).items()},
               tmp_path / "toy.pth")  # fmt: skip
    (tmp_path / "toy.json").write_text(json.dumps(TOY.to_dict()))
    again = load(tmp_path / "toy.pth")
    assert again.spec == DENSE and again.image_encoder.neck.weight.dtype == torch.float32
    assert again.image_encoder.stem.norm.num_batches_tracked == 7


def test_copies_and_pickles_are_cut_alike() -> None:
    """Sites of a copied architecture are copies too."""
    model, masks = toy_model(), random_masks(DENSE, 4)
    expected = weights(prune(model, masks))
    assert_same(expected, weights(prune(copy.deepcopy(model), masks)))
    spec = pickle.loads(pickle.dumps(random_spec(2)))
    assert spec == random_spec(2) and ModelSpec.of(spec.arch, spec.budget) == spec


def test_the_loader_for_programs_without_medcore_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="sam_vit"):
        write_standalone(tmp_path, toy_model())
    assert not list(tmp_path.iterdir())


def test_interactive_prediction_by_segment_anythings_predictor() -> None:
    model = toy_model()
    picture = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    interactive = predictor(model)
    interactive.set_image(picture)
    masks, _, _ = interactive.predict(box=np.array([10, 5, 60, 30]), multimask_output=False)
    assert masks.shape == (1, 40, 90)
    with torch.no_grad():
        square = torch.from_numpy(interactive.transform.apply_image(picture)).permute(2, 0, 1)[None]
        expected = model.image_encoder(model.preprocess(square))
    torch.testing.assert_close(interactive.get_image_embedding(), expected)


def test_a_larger_toy_is_nothing_but_other_numbers() -> None:
    arch = dataclasses.replace(TOY, name="large", img_size=96, heads=(1, 5), hidden=(8, 64), stem=3)
    model = build(ModelSpec.dense(arch))
    with torch.no_grad():
        logits = model.segment(torch.rand(1, 3, 96, 96), BOXES[:1])
    assert logits.shape == (1, 1, 48, 48)
    assert cost(model.spec).encoder_params == sum(p.numel() for p in model.image_encoder.parameters())
