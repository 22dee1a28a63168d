"""SAM 2's image path against transformers' Sam2Model, with random weights."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from medcore.compat import import_torchvision
from medcore.models.hiera.encoder import unfold
from medcore.models.hiera.masks import STABLE, stability
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from tests.support.hiera import LITTLE, little_model

BOXES = torch.tensor([[4.0, 8.0, 40.0, 50.0], [10.0, 2.0, 60.0, 33.0], [1.0, 30.0, 90.0, 80.0]])
IMAGES = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))

#: transformers' names: patterns of the model's, in this order.
RULES = (
    (r"^image_encoder\.(conv_s[01])", r"mask_decoder.\1"),
    (r"^image_encoder\.no_mem_embed", "no_memory_embedding"),
    (r"^image_encoder\.trunk\.patch_embed\.proj", "vision_encoder.backbone.patch_embed.projection"),
    (r"^image_encoder\.trunk", "vision_encoder.backbone"),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv", r"vision_encoder.neck.convs.\1"),
    (r"(backbone\.blocks\.\d+\.mlp)\.layers\.0", r"\1.proj_in"),
    (r"(backbone\.blocks\.\d+\.mlp)\.layers\.1", r"\1.proj_out"),
    (r"(layers\.\d\.mlp)\.lin1", r"\1.proj_in"),
    (r"(layers\.\d\.mlp)\.lin2", r"\1.proj_out"),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.0", r"\1.proj_in"),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.1", r"\1.layers.0"),
    (r"(iou_prediction_head|output_hypernetworks_mlps\.\d)\.layers\.2", r"\1.proj_out"),
    (r"\.norm_final_attn", ".layer_norm_final_attn"),
    (r"\.norm(\d)", r".layer_norm\1"),
    (r"(attn\w*)\.out_proj", r"\1.o_proj"),
    (r"output_upscaling\.0", "upscale_conv1"),
    (r"output_upscaling\.1", "upscale_layer_norm"),
    (r"output_upscaling\.3", "upscale_conv2"),
    (r"mask_downscaling\.0", "mask_embed.conv1"),
    (r"mask_downscaling\.1", "mask_embed.layer_norm1"),
    (r"mask_downscaling\.3", "mask_embed.conv2"),
    (r"mask_downscaling\.4", "mask_embed.layer_norm2"),
    (r"mask_downscaling\.6", "mask_embed.conv3"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
)


def renamed(name: str) -> str:
    for pattern, text in RULES:
        name = re.sub(pattern, text, name)
    return name


def state_for_transformers(model: MedSam) -> dict[str, Tensor]:
    state = {renamed(name): tensor for name, tensor in model.state_dict().items()}
    # segment-anything has a table a point's kind
    points = [f"prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4)]
    state["prompt_encoder.point_embed.weight"] = torch.cat([state.pop(name) for name in points])
    state["shared_image_embedding.positional_embedding"] = state["prompt_encoder.shared_embedding.positional_embedding"]
    return state


@pytest.fixture(scope="module")
def both() -> tuple[MedSam, Any]:
    """The same weights in both programs."""
    import_torchvision()  # as transformers does, but also where its operators do not fit this torch
    transformers = pytest.importorskip("transformers")
    model, arch = little_model(5), LITTLE
    with torch.no_grad():
        # with large logits some masks are stable
        for parameter in model.mask_decoder.output_hypernetworks_mlps[0].layers[-1].parameters():
            parameter.mul_(10)
    dims = [arch.dim(stage) for stage in range(4)]
    vision = {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": arch.embed_dim,
            "num_attention_heads": arch.num_heads,
            "image_size": [96, 96],
            "window_positional_embedding_background_size": [arch.pos_embed_size] * 2,
            "blocks_per_stage": list(arch.depths),
            "embed_dim_per_stage": dims,
            "num_attention_heads_per_stage": [arch.num_heads * 2**stage for stage in range(4)],
            "window_size_per_stage": list(arch.window_sizes),
            "global_attention_blocks": list(arch.global_attn_indexes),
            "mlp_ratio": arch.mlp_ratio,
        },
        "backbone_channel_list": dims[::-1],
        "backbone_feature_sizes": [[arch.side(stage)] * 2 for stage in range(3)],
        "fpn_hidden_size": arch.out_chans,
    }
    decoder = {
        "hidden_size": arch.out_chans,
        "mlp_dim": arch.decoder.mlp_dim,
        "num_hidden_layers": arch.decoder.depth,
        "num_attention_heads": arch.decoder.num_heads,
        "iou_head_depth": arch.decoder.iou_head_depth,
        "iou_head_hidden_dim": arch.decoder.iou_head_hidden_dim,
    }
    prompts = {"hidden_size": arch.out_chans, "image_size": 96, "patch_size": 16}
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder, attn_implementation="eager"
    )
    theirs = transformers.Sam2Model(config).eval()
    outcome = theirs.load_state_dict(state_for_transformers(model), strict=False)
    assert not outcome.unexpected_keys
    # the head that scores the object has no part in a mask
    assert {name.split(".")[1] for name in outcome.missing_keys} == {"pred_obj_score_head"}
    return model, theirs


def test_all_maps_of_the_encoder_are_equal(both: tuple[MedSam, Any]) -> None:
    model, theirs = both
    with torch.no_grad():
        ours = unfold(model.encode(IMAGES))
        expected = theirs.get_image_embeddings((IMAGES - model.pixel_mean) / model.pixel_std)
    assert [tuple(each.shape) for each in ours] == [(3, 16, 6, 6), (3, 4, 12, 12), (3, 2, 24, 24)]
    for one, other in zip(ours, reversed(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def answers(model: MedSam, several: bool) -> tuple[Tensor, Tensor]:
    sparse, dense = model.prompt_encoder(points=None, boxes=BOXES, masks=None)
    folded, positions = model.encode(IMAGES), model.prompt_encoder.get_dense_pe()
    logits, ious = model.mask_decoder(folded, positions, sparse, dense, multimask_output=several)
    return logits, ious


@pytest.mark.parametrize("several", [False, True], ids=["one", "three"])
def test_masks_and_predicted_ious_are_equal(both: tuple[MedSam, Any], several: bool) -> None:
    model, theirs = both
    normed = (IMAGES - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        logits, ious = answers(model, several)
        expected = theirs(normed, input_boxes=BOXES[:, None], multimask_output=several)
    torch.testing.assert_close(logits, expected.pred_masks[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ious, expected.iou_scores[:, 0], rtol=1e-5, atol=1e-5)


def test_the_rule_has_both_answers_here(both: tuple[MedSam, Any]) -> None:
    """So the test above compares stable masks and others."""
    model, _ = both
    plain = little_model(5, ModelSpec.dense(dataclasses.replace(LITTLE, stable_mask=False)))
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        single, chosen = plain.segment(IMAGES, BOXES), model.segment(IMAGES, BOXES)
    is_stable = stability(single)[:, 0] >= STABLE
    assert set(is_stable.tolist()) == {True, False}
    same = [torch.allclose(one, other, atol=1e-5) for one, other in zip(single, chosen, strict=True)]
    assert same == is_stable.tolist()
