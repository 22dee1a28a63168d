"""The cost formulas against counted parameters, counted operations and the published figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.sam import build_empty
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY, halves, spec_of
from tests.support.reference_encoder import reference_encoder

VIT_B = ARCHITECTURES["vit_b"]
ODD = dataclasses.replace(TINY, img_size=80, window_size=4, global_attn_indexes=(), mlp_ratio=3.5, out_chans=24)


def random_spec(arch: SamVit, seed: int) -> ModelSpec:
    """Random widths; one block without heads, one without channels."""
    rng = np.random.default_rng(seed)
    heads = rng.integers(0, arch.num_heads + 1, arch.depth)
    channels = rng.integers(0, arch.mlp_dim + 1, arch.depth)
    heads[rng.integers(arch.depth)] = channels[rng.integers(arch.depth)] = 0
    return spec_of(arch, tuple(heads.tolist()), tuple(channels.tolist()))


def counted_flops(encoder: torch.nn.Module, arch: SamVit) -> int:
    """Operations of one image, counted on shapes alone."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        encoder(torch.empty(1, 3, arch.img_size, arch.img_size))
    return int(counter.get_total_flops())


@pytest.mark.parametrize("arch", [TINY, ODD, VIT_B], ids=["tiny", "odd", "vit_b"])
@pytest.mark.parametrize("seed", range(3))
def test_formulas_equal_counts(arch: SamVit, seed: int) -> None:
    spec = random_spec(arch, seed)
    encoder = build_empty(spec, "plain").image_encoder
    assert cost(spec).flops == counted_flops(encoder, arch)
    assert cost(spec).encoder_params == sum(parameter.numel() for parameter in encoder.parameters())


VITS = [arch for arch in ARCHITECTURES.values() if isinstance(arch, SamVit)]


@pytest.mark.parametrize("arch", [TINY, ODD, *VITS], ids=lambda arch: arch.name)
def test_dense_formulas_equal_counts_on_segment_anything(arch: SamVit) -> None:
    with torch.device("meta"):
        encoder = reference_encoder(arch)
    dense = cost(ModelSpec.dense(arch))
    assert dense.flops == counted_flops(encoder, arch)
    assert dense.encoder_params == sum(parameter.numel() for parameter in encoder.parameters())


def test_published_figures_of_vit_b() -> None:
    dense = cost(ModelSpec.dense(VIT_B))
    assert dense.encoder_params == 89_670_912
    assert dense.flops_paper == pytest.approx(926.5e9, abs=0.05e9)
    assert dense.flops == pytest.approx(972.08e9, abs=0.005e9)
    heads, channels = halves([site.cost.flops_paper for site in VIT_B.sites])
    assert heads[0] == pytest.approx(1.816e9, abs=0.0005e9)
    assert heads[2] == pytest.approx(5.906e9, abs=0.0005e9)
    assert channels[5] == pytest.approx(12.583e6, abs=0.0005e6)


def test_groups_cost_what_removing_them_saves() -> None:
    dense = cost(ModelSpec.dense(VIT_B))
    heads, channels = halves([site.cost.flops_paper for site in VIT_B.sites])
    for block in range(VIT_B.depth):
        one = np.eye(VIT_B.depth, dtype=int)[block]
        less_head = cost(spec_of(VIT_B, tuple((12 - one).tolist()), (3072,) * 12))
        less_channel = cost(spec_of(VIT_B, (12,) * 12, tuple((3072 - one).tolist())))
        assert dense.flops_paper - less_head.flops_paper == heads[block]
        assert dense.flops_paper - less_channel.flops_paper == channels[block]
        assert dense.encoder_params - less_head.encoder_params == 196_800
        assert dense.encoder_params - less_channel.encoder_params == 1_537


def test_the_papers_60_percent_row() -> None:
    # 72 heads and 25,805 channels go
    keep = np.full(12, 12 * 3072 - 25_805) // 12 + (np.arange(12) < (12 * 3072 - 25_805) % 12)
    spec = spec_of(VIT_B, (6,) * 12, tuple(map(int, keep)))
    removed = 1 - cost(spec).encoder_params / cost(ModelSpec.dense(VIT_B)).encoder_params
    assert removed == pytest.approx(0.600, abs=0.0005)
