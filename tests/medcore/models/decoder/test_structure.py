"""The mask decoder: segment-anything's to the bit, its counts, and cuts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medcore.errors import CheckpointError
from medcore.models.architectures import ARCHITECTURES, spec_from_json
from medcore.models.cost import cost
from medcore.models.cut import mask_model, pad, prune
from medcore.models.decoder.places import FAMILIES
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import MedSam, build, build_empty
from medcore.models.sites import by_family
from medcore.models.spec import DECODER, ENCODER, ModelSpec
from tests.support.decoders import ALONE, BOTH, SHAPE, inputs, masks_of, masks_without, model_with_decoder

# isort: split
# only after medcore.models.sam, which makes torchvision importable
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

VIT_B = replace(ARCHITECTURES["vit_b"], parts=(ENCODER, DECODER))


def reference(shape: DecoderSpec, dim: int) -> MaskDecoder:
    transformer = TwoWayTransformer(shape.depth, dim, shape.num_heads, shape.mlp_dim)
    return MaskDecoder(
        transformer_dim=dim,
        transformer=transformer,
        iou_head_depth=shape.iou_head_depth,
        iou_head_hidden_dim=shape.iou_head_hidden_dim,
    )


def arguments(dim: int, grid: int, tokens: int = 2) -> dict[str, Tensor]:
    maps = (1, dim, grid, grid)
    return {
        "image_embeddings": torch.randn(maps),
        "image_pe": torch.randn(maps),
        "sparse_prompt_embeddings": torch.randn(1, tokens, dim),
        "dense_prompt_embeddings": torch.randn(maps),
    }


@torch.no_grad()
@pytest.mark.parametrize(
    "shape", [SHAPE, DecoderSpec(1, 16, 2, 2, 8), DecoderSpec(3, 20, 8, 1, 8)], ids=["two", "one", "three"]
)
def test_dense_decoders_are_segment_anythings(shape: DecoderSpec) -> None:
    ours = build(ModelSpec.dense(replace(BOTH, decoder=shape))).mask_decoder
    theirs = reference(shape, BOTH.out_chans)
    theirs.load_state_dict(ours.state_dict())
    for tokens in (2, 5):
        given = arguments(BOTH.out_chans, BOTH.grid, tokens)
        found, expected = (decoder(**given, multimask_output=True) for decoder in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_new_decoders_draw_the_same_numbers() -> None:
    torch.manual_seed(5)
    theirs = reference(SHAPE, BOTH.out_chans).state_dict()
    torch.manual_seed(5)
    ours = type(build_empty(ModelSpec.dense(BOTH)).mask_decoder)(BOTH, ModelSpec.dense(BOTH).whole_budget).state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_groups_cost_what_is_published() -> None:
    """Counts of systems that were checked against the public modules: parameters and multiply-adds of one group."""
    groups = {
        site.name: (site.cost.decoder_params, site.cost.decoder_flops // 2) for site in VIT_B.decoder_places.sites
    }
    assert groups["decoder_channels/12"] == (513, 3_584)
    assert groups["decoder_self_heads/13"] == (32_864, 232_512)
    assert {groups[f"decoder_token_heads/{block}"] for block in (12, 13, 14)} == {(16_432, 34_529_280)}
    assert groups["decoder_image_heads/12"] == (16_432, 34_529_280)
    assert groups["decoder_hidden/15"] == (289, 288) and groups["decoder_hidden/19"] == (261, 260)
    inside = [site for site in VIT_B.sites if "decoder_layers/12" in (site.name, site.within)]
    assert sum(site.cost.decoder_params * site.width for site in inside) == 1_579_520
    assert sum(site.cost.decoder_flops * site.width for site in inside) == 2 * 561_668_608
    assert cost(ModelSpec.dense(VIT_B)).decoder_params == 4_058_340


def counted(model: MedSam) -> tuple[int, int]:
    """Parameters of the decoder, and FLOPs that torch counts for one box and one mask."""
    arch = model.arch
    empty = build_empty(model.spec)
    embedding = torch.empty(1, arch.out_chans, arch.grid, arch.grid, device="meta")
    tokens = torch.empty(1, 2, arch.out_chans, device="meta")
    with FlopCounterMode(display=False) as counter:
        empty.mask_decoder(embedding, embedding, tokens, embedding, multimask_output=False)
    return sum(value.numel() for value in model.mask_decoder.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("seed", range(12))
def test_costs_are_those_that_torch_counts(seed: int) -> None:
    model = model_with_decoder(seed)
    if seed:
        model = prune(model, masks_of(model.spec, seed))
    found = cost(model.spec)
    assert (found.decoder_params, found.decoder_flops) == counted(model)
    assert found.encoder_params == sum(value.numel() for value in model.image_encoder.parameters())
    assert found.flops_for(3) == found.flops + 3 * found.decoder_flops and found.call_flops == found.flops_for(1)


def test_costs_at_the_published_size() -> None:
    model = build_empty(ModelSpec.dense(VIT_B))
    found = cost(model.spec)
    assert (found.decoder_params, found.decoder_flops) == counted(model)
    assert found == cost(ModelSpec.dense(ARCHITECTURES["vit_b"]))


@torch.no_grad()
@pytest.mark.parametrize("arch", [BOTH, ALONE], ids=["both", "alone"])
@pytest.mark.parametrize("seed", range(8))
def test_cut_and_masked_models_answer_alike(arch: object, seed: int) -> None:
    model = model_with_decoder(seed, arch)  # type: ignore[arg-type]
    masks = masks_of(model.spec, seed)
    given = inputs(model, seed=seed)
    smaller = prune(model, masks)
    torch.testing.assert_close(smaller.segment(*given), mask_model(model, masks).segment(*given), rtol=1e-4, atol=1e-5)
    again = prune(smaller, masks_of(smaller.spec, seed + 100))
    silenced = mask_model(smaller, masks_of(smaller.spec, seed + 100))
    torch.testing.assert_close(again.segment(*given), silenced.segment(*given), rtol=1e-4, atol=1e-5)
    assert spec_from_json(again.spec.to_json()) == again.spec and again.kept is not None
    assert tuple(int(mask.sum()) for mask in again.kept) == again.spec.widths


@torch.no_grad()
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_alone(family: str) -> None:
    model = model_with_decoder(3)
    masks, given = masks_without(model.spec, family), inputs(model)
    smaller = prune(model, masks)
    found, dense = smaller.segment(*given), model.segment(*given)
    torch.testing.assert_close(found, mask_model(model, masks).segment(*given), rtol=1e-4, atol=1e-5)
    assert torch.equal(found, dense) == (family == "decoder_outputs")
    if not any(site.width == 1 for site in model.arch.sites if site.family.name == family):
        torch.testing.assert_close(pad(smaller).segment(*given), found, rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(ValueError, match="gone as a whole"):
            pad(smaller)


@torch.no_grad()
def test_what_is_free_with_one_mask() -> None:
    """Kernels of masks 1 to 3 and the predicted IoUs: 552 036 parameters, and no bit of the mask."""
    dense = ModelSpec.dense(VIT_B)
    left = build_empty(ModelSpec(VIT_B, tuple(int(mask.sum()) for mask in masks_without(dense, "decoder_outputs"))))
    free = [sum(value.numel() for value in each.parameters()) for each in (build_empty(dense), left)]
    assert free[0] - free[1] == 552_036 == cost(dense).decoder_params - cost(left.spec).decoder_params
    model = model_with_decoder(1)
    smaller, given = prune(model, masks_without(model.spec, "decoder_outputs")), inputs(model)
    assert torch.equal(smaller.segment(*given), model.segment(*given))
    many = arguments(BOTH.out_chans, BOTH.grid)
    assert smaller.mask_decoder(**many, multimask_output=False)[1].isnan().all()
    with pytest.raises(CheckpointError, match="has lost some of masks 1 to 3"):
        smaller.mask_decoder(**many, multimask_output=True)


@torch.no_grad()
def test_a_layer_keeps_its_place() -> None:
    """Without layer 0, layer 1 still adds its first attention to the tokens, and knows their positions."""
    model = model_with_decoder(2)
    masks = list(masks_without(model.spec))
    place = next(place for place, site in enumerate(model.arch.sites) if site.family.name == "decoder_layers")
    masks[place] = np.array([False])
    decoder = prune(model, tuple(masks)).mask_decoder
    theirs = reference(SHAPE, BOTH.out_chans)
    theirs.load_state_dict(model.mask_decoder.state_dict())
    theirs.transformer.layers = nn.ModuleList([theirs.transformer.layers[1]])
    given = arguments(BOTH.out_chans, BOTH.grid)
    expected = theirs(**given, multimask_output=False)[0]
    torch.testing.assert_close(decoder(**given, multimask_output=False)[0], expected, rtol=0, atol=1e-6)


def test_parts_decide_what_can_be_pruned() -> None:
    encoder = replace(BOTH, parts=(ENCODER,))
    assert encoder.families == encoder.encoder_families and ALONE.families == FAMILIES
    assert BOTH.sites[: len(encoder.sites)] == encoder.sites
    assert by_family(ALONE.sites, ALONE.dense_widths) == {
        name: widths for name, widths in ModelSpec.dense(BOTH).budget.items() if name.startswith("decoder_")
    }
    assert "parts" not in encoder.to_dict() and BOTH.to_dict()["parts"] == (ENCODER, DECODER)
    costs = [cost(ModelSpec.dense(arch)) for arch in (encoder, BOTH, ALONE)]
    assert costs[0] == costs[1] == costs[2]


@pytest.mark.parametrize("parts", [(), (DECODER, ENCODER), ("neck",), (ENCODER, ENCODER), [ENCODER], (1,)])
def test_unknown_parts_are_refused(parts: Sequence[object]) -> None:
    with pytest.raises(CheckpointError, match="parts must be"):
        replace(BOTH, parts=parts)
    fields: Mapping[str, object] = ModelSpec.dense(BOTH).to_dict()
    assert fields["arch"]["parts"] == (ENCODER, DECODER)  # type: ignore[index]
