"""LiteMedSAM, MobileSAM and SwiftMedSAM: published figures, counted parameters and operations."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES, architecture_from, resolve_architecture
from medcore.models.cost import Cost, cost
from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import MedSam, build, build_empty
from medcore.models.spec import ModelSpec
from medcore.models.tinyvit.arch import TinyVit


def tiny_vit(name: str) -> TinyVit:
    arch = ARCHITECTURES[name]
    assert isinstance(arch, TinyVit)
    return arch


LITE = tiny_vit("lite_medsam")
MOBILE = tiny_vit("mobile_sam")
V1 = dataclasses.replace(LITE, name="v1", depths=(2, 2, 4, 2), decoder=DecoderSpec(1, 1024, 8, iou_head_depth=2))
V2 = dataclasses.replace(LITE, name="v2", depths=(1, 2, 2, 2), decoder=DecoderSpec(1, 256, 4, iou_head_depth=2))
#: Parameters of encoder, prompt encoder and decoder; MAC of the encoder and of decoding one box, and of all.
PUBLISHED = {
    LITE: ((5_726_740, 6_220, 4_058_340), (37_474_352_640, 1_811_302_176, 39_286_704_000), 9_791_300),
    V1: ((5_102_700, 6_220, 1_887_716), (34_166_659_000, 1_245_898_000, 35_413_606_000), 6_996_636),
    V2: ((4_442_436, 6_220, 1_493_732), (28_560_486_000, 1_243_146_000, 29_804_681_000), 5_942_388),
}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def operations(model: MedSam) -> tuple[int, int, int]:
    """Multiply-adds of the encoder, of the decoder for one box, and of all, as torch counts them.

    The decoder of the published code makes four masks for every box.
    """
    arch = model.arch
    with FlopCounterMode(display=False) as encoder, torch.device("meta"):
        build_empty(model.spec, "plain").image_encoder(torch.empty(1, 3, arch.img_size, arch.img_size))
    box = torch.tensor([[10.0, 10.0, 99.0, 80.0]])
    with FlopCounterMode(display=False) as prompt:
        sparse, dense = model.prompt_encoder(points=None, boxes=box, masks=None)
        positions = model.prompt_encoder.get_dense_pe()
    with FlopCounterMode(display=False) as decoder:
        model.mask_decoder.predict_masks(torch.zeros_like(dense), positions, sparse, dense)
    parts = [each.get_total_flops() // 2 for each in (encoder, decoder, prompt)]
    return parts[0], parts[1], sum(parts)


@pytest.mark.parametrize("arch", PUBLISHED, ids=lambda arch: arch.name)
def test_parameters_and_operations_to_the_digit(arch: TinyVit) -> None:
    model = build(ModelSpec.dense(arch))
    counts, macs, total = PUBLISHED[arch]
    parts = (model.image_encoder, model.prompt_encoder, model.mask_decoder)
    assert tuple(map(parameters, parts)) == counts and parameters(model) == total
    found = operations(model)
    assert found == pytest.approx(macs, abs=500)  # published in millions with three decimals
    assert cost(model.spec).encoder_params == counts[0] and cost(model.spec).flops == 2 * found[0]


def fvcore_norms(model: MedSam) -> int:
    """Operations that fvcore counts for normalisations: 5 an entry by layer, 2 an entry by running statistics."""
    found, factors = 0, {nn.LayerNorm: 5, nn.BatchNorm2d: 2}

    def count(module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        nonlocal found
        found += factors[type(module)] * inputs[0].numel()

    for module in model.modules():
        if type(module) in factors:
            module.register_forward_hook(count)
    arch = model.arch
    with torch.no_grad(), torch.device("meta"):
        model.image_encoder(torch.empty(1, 3, arch.img_size, arch.img_size))
    return found


def test_the_gflops_of_the_paper_add_the_normalisations() -> None:
    norms = fvcore_norms(build_empty(ModelSpec.dense(V2), "plain"))
    assert (norms + 29_804_681_000) / 1e9 == pytest.approx(30.04, abs=0.005)


@pytest.mark.parametrize(
    ("arch", "kept", "channels"),
    [(V1, [1] * 8 + [0] * 2 + [1] * 2, 1024), (V2, [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1], 256)],
    ids=["v1", "v2"],
)
def test_a_swift_medsam_is_a_budget_of_blocks_layers_and_channels(
    arch: TinyVit, kept: list[int], channels: int
) -> None:
    """All but a layer of the IoU head, and the heads, whose number changes no tensor."""
    lite = dataclasses.replace(LITE, parts=("encoder", "decoder"))
    decoder = {"decoder_layers": [1, 0], "decoder_channels": [channels, 0]}
    found = cost(ModelSpec.of(lite, {**ModelSpec.dense(lite).budget, "blocks": kept, **decoder}))
    layer = 256 * 257
    expected = cost(ModelSpec.dense(arch)) + Cost(0, 0, 0, layer, 2 * 256 * 256)
    assert found == expected


def test_groups_cost_what_was_counted_on_the_public_module() -> None:
    price = {site.name: site.cost for site in LITE.sites}
    for site, params, flops in (
        ("heads/03", 16_529, 345.29e6),
        ("heads/06", 20_772, 161.82e6),
        ("heads/14", 41_105, 216.07e6),
        ("channels/03", 257, 4.194e6),
        ("channels/06", 321, 1.311e6),
        ("channels/14", 641, 2.621e6),
        ("mbconv/00", 141, 8.978e6),
        ("merges/02", 64 + 128 + 13, 65_536 * 64 + 16_384 * (9 + 128)),
        ("merges/05", 128 + 160 + 13, 16_384 * 128 + 4_096 * (9 + 160)),
        ("merges/12", 160 + 320 + 13, 4_096 * 160 + 4_096 * (9 + 320)),
    ):
        assert price[site].encoder_params == params, site
        assert price[site].flops / 2 == pytest.approx(flops, rel=3e-4), site


def test_state_dictionaries_have_the_published_layout() -> None:
    lite, mobile = (build_empty(ModelSpec.dense(arch)).state_dict() for arch in (LITE, MOBILE))
    assert len(lite) == 435 and list(lite) == list(mobile)
    counts = {part: sum(name.startswith(part) for name in lite) for part in ("mask_decoder", "prompt_encoder")}
    assert counts == {"mask_decoder": 120, "prompt_encoder": 17}
    shapes = {name.removeprefix("image_encoder."): tuple(tensor.shape) for name, tensor in lite.items()}
    for name, shape in {
        "patch_embed.seq.0.c.weight": (32, 3, 1, 1),
        "patch_embed.seq.2.bn.running_var": (64,),
        "layers.0.blocks.1.conv2.c.weight": (256, 1, 3, 3),
        "layers.0.downsample.conv3.bn.num_batches_tracked": (),
        "layers.1.blocks.0.attn.attention_biases": (4, 49),
        "layers.2.blocks.5.attn.attention_biases": (5, 196),
        "layers.2.blocks.0.attn.norm.weight": (160,),
        "layers.3.blocks.1.attn.qkv.weight": (960, 320),
        "layers.3.blocks.0.mlp.fc1.weight": (1280, 320),
        "layers.2.downsample.conv1.c.weight": (320, 160, 1, 1),
        "layers.1.blocks.0.local_conv.c.weight": (128, 1, 3, 3),
        "neck.0.weight": (256, 320, 1, 1),
        "neck.2.weight": (256, 256, 3, 3),
    }.items():
        assert shapes[name] == shape, name
    assert mobile["image_encoder.patch_embed.seq.0.c.weight"].shape == (32, 3, 3, 3)
    assert [LITE.side(stage) for stage in range(4)] == [256, 128, 64, 64] == [MOBILE.side(stage) for stage in range(4)]
    assert (LITE.low_res, MOBILE.low_res) == (256, 256)


def test_architectures_go_through_json_and_wrong_ones_are_one_line() -> None:
    assert resolve_architecture("lite_medsam") == LITE
    fields = json.loads(json.dumps(LITE.to_dict()))
    assert fields["kind"] == "tiny_vit" and architecture_from(fields) == LITE
    wrong: dict[str, Any] = {
        "depths": [2, 2, 6],
        "embed_dims": [64],
        "num_heads": [2, 3, 5, 10],
        "window_sizes": [7, 7, 0, 7],
        "merge_strides": [2, 2, 3],
        "stem_stride": 3,
        "img_size": 250,
        "mlp_ratio": 0.001,
        "mbconv_expand_ratio": 1e5,
    }
    for name, value in wrong.items():
        with pytest.raises(MedcoreError, match=name):
            architecture_from({**fields, name: value})
    for windows in ([7, 129, 14, 7], [7, 7, 14, 2**16]):
        with pytest.raises(MedcoreError, match=r"window_sizes \d+ is more than the stage's (128|64) tokens"):
            architecture_from({**fields, "window_sizes": windows})
    # the first number means nothing, and a window may be the whole image
    assert architecture_from({**fields, "window_sizes": [999, 128, 64, 64]}) != LITE
    with pytest.raises(MedcoreError, match="even"):
        architecture_from({**fields, "embed_dims": [63, 128, 160, 320]})
    with pytest.raises(MedcoreError, match="depths"):
        architecture_from({**fields, "depths": [2, 2, 600, 2]})
