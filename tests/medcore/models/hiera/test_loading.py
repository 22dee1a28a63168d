"""Files of SAM 2 and MedSAM2: their layout, what is left out of them, and refusals in one line."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES, architecture_from
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.formats.sam2 import sam2_names
from medcore.models.hiera.arch import Hiera
from medcore.models.sam import build_empty
from medcore.models.spec import ModelSpec
from search.commands.cost import cost as priced
from tests.support.hiera import LITTLE, little_model
from tests.support.training_samples import assert_same, weights

#: Names of the image path in SAM 2's files, with counts of layers for `sam2_tiny`: B blocks, P blocks that begin a
#: stage. Written down from SAM 2's own modules.
LAYOUT = (
    *(f"image_encoder.trunk.{name}" for name in ("pos_embed", "pos_embed_window")),
    *(f"image_encoder.trunk.patch_embed.proj.{each}" for each in ("weight", "bias")),
    *(
        f"image_encoder.trunk.blocks.B.{layer}.{each}"
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.layers.0", "mlp.layers.1")
        for each in ("weight", "bias")
    ),
    *(f"image_encoder.trunk.blocks.P.proj.{each}" for each in ("weight", "bias")),
    *(f"image_encoder.neck.convs.{level}.conv.{each}" for level in range(4) for each in ("weight", "bias")),
    "no_mem_embed",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    *(f"sam_prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4)),
    *(f"sam_prompt_encoder.{name}.weight" for name in ("not_a_point_embed", "no_mask_embed")),
    *(
        f"sam_prompt_encoder.mask_downscaling.{layer}.{each}"
        for layer in (0, 1, 3, 4, 6)
        for each in ("weight", "bias")
    ),
    *(f"sam_mask_decoder.{name}.weight" for name in ("iou_token", "mask_tokens", "obj_score_token")),
    *(
        f"sam_mask_decoder.{layer}.{each}"
        for layer in (
            *(
                f"transformer.layers.{number}.{part}"
                for number in range(2)
                for part in (
                    *(
                        f"{attention}.{proj}_proj"
                        for attention in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
                        for proj in ("q", "k", "v", "out")
                    ),
                    *("norm1", "norm2", "norm3", "norm4", "mlp.layers.0", "mlp.layers.1"),
                )
            ),
            *(f"transformer.final_attn_token_to_image.{proj}_proj" for proj in ("q", "k", "v", "out")),
            "transformer.norm_final_attn",
            *(f"output_upscaling.{layer}" for layer in (0, 1, 3)),
            *("conv_s0", "conv_s1"),
            *(f"output_hypernetworks_mlps.{mask}.layers.{layer}" for mask in range(4) for layer in range(3)),
            *(f"iou_prediction_head.layers.{layer}" for layer in range(3)),
        )
        for each in ("weight", "bias")
    ),
)
#: Names of what only videos need.
VIDEO = (
    *(
        f"sam_mask_decoder.pred_obj_score_head.layers.{layer}.{each}"
        for layer in range(3)
        for each in ("weight", "bias")
    ),
    *(f"obj_ptr_proj.layers.{layer}.{each}" for layer in range(3) for each in ("weight", "bias")),
    *("obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias", "mask_downsample.weight", "mask_downsample.bias"),
    *("maskmem_tpos_enc", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial"),
    "memory_attention.layers.0.self_attn.q_proj.weight",
    "memory_attention.norm.bias",
    "memory_encoder.mask_downsampler.encoder.0.weight",
    "memory_encoder.fuser.layers.1.gamma",
)


def sam2(name: str) -> Hiera:
    arch = ARCHITECTURES[name]
    assert isinstance(arch, Hiera)
    return arch


def layout(arch: Hiera) -> Iterator[str]:
    for name in LAYOUT:
        for place in arch.places:
            if ".B." in name or (".P." in name and place.pools):
                yield re.sub(r"\.[BP]\.", f".{place.number}.", name)
        if not re.search(r"\.[BP]\.", name):
            yield name


@pytest.mark.parametrize("name", ["sam2_tiny", "sam2_small", "sam2_base_plus", "sam2_large", "medsam2"])
def test_the_image_path_of_the_published_files_is_the_model(name: str) -> None:
    arch = sam2(name)
    state = build_empty(ModelSpec.dense(arch)).state_dict()
    assert set(sam2_names(state).values()) == set(layout(arch)) and len(state) == len(list(layout(arch)))


def test_published_sizes_hold_the_same_memory_besides() -> None:
    """The README of SAM 2 lists 38.9, 46, 80.8 and 224.4 million parameters, those for videos included."""
    published = {"sam2_tiny": 38.9, "sam2_small": 46, "sam2_base_plus": 80.8, "sam2_large": 224.4}
    for name, millions in published.items():
        parameters = sum(each.numel() for each in build_empty(ModelSpec.dense(sam2(name))).parameters())
        found = cost(ModelSpec.dense(sam2(name)))
        assert parameters == found.encoder_params + found.decoder_params + 6_220
        assert parameters / 1e6 == pytest.approx(millions - 7.62, abs=0.06)


@pytest.mark.parametrize("name", ["medsam2", "sam2_base_plus", "sam2_large"])
def test_operations_of_published_sizes_equal_counts(name: str) -> None:
    spec = ModelSpec.dense(sam2(name))
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        build_empty(spec, "plain").image_encoder(torch.empty(1, 3, spec.arch.img_size, spec.arch.img_size))
    assert cost(spec).flops == counter.get_total_flops()


def test_shapes_and_sides() -> None:
    arch, state = sam2("sam2_tiny"), build_empty(ModelSpec.dense(sam2("sam2_tiny"))).state_dict()
    for name, shape in {
        "trunk.patch_embed.proj.weight": (96, 3, 7, 7),
        "trunk.pos_embed": (1, 96, 7, 7),
        "trunk.pos_embed_window": (1, 96, 8, 8),
        "trunk.blocks.0.attn.qkv.weight": (288, 96),
        "trunk.blocks.1.attn.qkv.weight": (576, 96),
        "trunk.blocks.1.attn.proj.weight": (192, 192),
        "trunk.blocks.1.proj.weight": (192, 96),
        "trunk.blocks.11.mlp.layers.0.weight": (3072, 768),
        "neck.convs.0.conv.weight": (256, 768, 1, 1),
        "neck.convs.3.conv.weight": (256, 96, 1, 1),
        "conv_s0.weight": (32, 256, 1, 1),
        "conv_s1.weight": (64, 256, 1, 1),
        "no_mem_embed": (1, 1, 256),
    }.items():
        assert tuple(state[f"image_encoder.{name}"].shape) == shape, name
    assert [arch.side(stage) for stage in range(4)] == [256, 128, 64, 32]
    assert (arch.grid, arch.low_res, arch.embedding_chans) == (64, 256, 1024)
    assert (sam2("medsam2").grid, sam2("medsam2").low_res) == (32, 128)
    # the window of a stage begins with its second block
    areas = [block.area for block in arch.blocks]
    assert areas[:5] == ["windows of 8", "windows of 8", "windows of 4", "windows of 4", "windows of 14"]
    assert [number for number, block in enumerate(arch.blocks) if block.attends_globally] == [5, 7, 9]
    assert areas[10:] == ["windows of 14", "windows of 7"]
    assert [site.width for site in arch.sites[:12]] == [1, 2, 2, 4, 4, 4, 4, 4, 4, 4, 8, 8]


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A small model in SAM 2's layout, with what videos need."""
    state = little_model(2).state_dict()
    names = sam2_names(state)
    return {names[name]: tensor for name, tensor in state.items()} | {name: torch.ones(2) for name in VIDEO}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_is_read_and_what_videos_need_is_left_out(
    prefix: str, published: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"model": {prefix + name: tensor for name, tensor in published.items()}}, tmp_path / "sam2.pt")
    assert_same(weights(load(tmp_path / "sam2.pt", LITTLE)), weights(little_model(2)))


def test_everything_else_is_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    def refusal(state: dict[str, Tensor], arch: Any = LITTLE) -> str:
        torch.save({"model": state}, tmp_path / "wrong.pt")
        with pytest.raises(MedcoreError) as caught:
            load(tmp_path / "wrong.pt", arch)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "unknown tensors sam_mask_decoder.tail.weight" in refusal(
        {**published, "sam_mask_decoder.tail.weight": torch.ones(1)}
    )
    without = {name: tensor for name, tensor in published.items() if name != "sam_mask_decoder.conv_s1.bias"}
    assert "missing image_encoder.conv_s1.bias" in refusal(without)
    assert "image_encoder.no_mem_embed is" in refusal({**published, "no_mem_embed": torch.zeros(1, 1, 4)})
    assert "SAM 2" in refusal(published, "vit_b")


def test_a_file_whose_side_no_shape_shows_needs_a_name(tmp_path: Path) -> None:
    shapes = build_empty(ModelSpec.dense(sam2("medsam2"))).state_dict()
    names = sam2_names(shapes)
    torch.save({"model": {names[name]: torch.zeros(each.shape) for name, each in shapes.items()}}, tmp_path / "tiny.pt")
    with pytest.raises(MedcoreError, match=r"shapes are those of sam2_tiny and medsam2, .*; name one"):
        load(tmp_path / "tiny.pt")
    assert load(tmp_path / "tiny.pt", "medsam2").arch.img_size == 512
    named = priced(str(tmp_path / "tiny.pt"), architecture="medsam2")
    assert named["call_flops"] == priced("medsam2")["call_flops"] < priced("sam2_tiny")["call_flops"]
    with pytest.raises(MedcoreError, match="sam2_tiny is an architecture itself; leave out --arch"):
        priced("sam2_tiny", architecture="medsam2")


def test_architectures_go_through_json_and_wrong_ones_are_one_line() -> None:
    fields = json.loads(json.dumps(LITTLE.to_dict()))
    assert fields["kind"] == "hiera" and architecture_from(fields) == LITTLE
    wrong: dict[str, Any] = {
        "depths": [1, 2, 3],
        "window_sizes": [8, 4, 0, 2],
        "global_attn_indexes": [7],
        "num_heads": 3,
        "img_size": 80,
        "mlp_ratio": 1e5,
        "pos_embed_size": 25,
        "stable_mask": 1,
        "embed_dim": 2**14,
    }
    for name, value in wrong.items():
        with pytest.raises(MedcoreError, match=name) as caught:
            architecture_from({**fields, name: value})
        assert "\n" not in str(caught.value)
    for windows, reason in {
        (8, 4, 7, 2): "window_sizes 7 is more than the stage's 6 tokens",
        (10, 4, 4, 2): "window_sizes 10 does not divide 24 tokens",
        (8, 4, 5, 2): "window_sizes must be even",
    }.items():
        with pytest.raises(MedcoreError, match=reason):
            dataclasses.replace(LITTLE, window_sizes=windows)
    with pytest.raises(MedcoreError, match="parts: decoder needs stable_mask false"):
        dataclasses.replace(LITTLE, parts=("decoder",))
    with pytest.raises(MedcoreError, match="depths"):
        dataclasses.replace(LITTLE, depths=(1, 2, 600, 1))
