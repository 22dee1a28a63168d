"""The encoder of segment-anything itself, to compare ours with."""

from __future__ import annotations

from functools import partial

from torch import nn

import medcore.models.sam  # noqa: F401 - makes torchvision importable, which comes first
from medcore.models.vit.arch import SamVit

# isort: split
from segment_anything.modeling import ImageEncoderViT


def reference_encoder(arch: SamVit) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=arch.img_size,
        patch_size=arch.patch_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        mlp_ratio=arch.mlp_ratio,
        out_chans=arch.out_chans,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=arch.window_size,
        global_attn_indexes=arch.global_attn_indexes,
    )
