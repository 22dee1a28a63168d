"""Time of dense and pruned models, and of segment-anything's own encoder with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu.inputs import FRACTION
from medcore.budgets.targets import uniform_to_target
from medcore.devices import mixed_precision
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from medcore.quality.latency import Effort, compare, take_turns

# isort: split
# only after medcore.models.sam, which makes torchvision importable
from segment_anything.modeling import ImageEncoderViT


@dataclass(frozen=True)
class Speed:
    """Median time of one kind of call.

    Attributes:
        what: Model and call.
        batch: Images in a call.
        precision: `float32`, or `bfloat16` for autocast.
        milliseconds: Median.
        width: Width of the median's 95 % interval as a share of it.
    """

    what: str
    batch: int
    precision: str
    milliseconds: float
    width: float


def speeds(arch: SamVit, batches: Sequence[int], device: torch.device, effort: Effort) -> list[Speed]:
    """Measure dense and pruned models, and segment-anything's encoder next to ours.

    Args:
        arch: Architecture of the models, which get random weights.
        batches: Numbers of images in a call.
        device: Where the models run.
        effort: How long to measure.
    """
    torch.manual_seed(0)
    dense = build(ModelSpec.dense(arch)).to(device).eval()
    pruned = build(uniform_to_target(arch, FRACTION, "flops_paper")).to(device).eval()
    reference = segment_anything_encoder(dense).to(device).eval()
    models = {"dense": dense, f"{FRACTION:.0%} of the FLOPs": pruned}
    found = []
    for batch in batches:
        for precision in ("float32", "bfloat16"):
            autocast = precision == "bfloat16"
            for name, latency in compare(models, batch, autocast=autocast, effort=effort).items():
                whole, encoder = latency.whole, latency.encoder
                found.append(Speed(f"{name}, call", batch, precision, whole.median_ms, whole.width))
                found.append(Speed(f"{name}, encoder", batch, precision, encoder.median_ms, encoder.width))
            images = torch.rand(batch, 3, arch.img_size, arch.img_size, device=device)
            encoders: dict[str, nn.Module] = {"ours": dense.image_encoder, "segment-anything": reference}
            calls = {name: _call(encoder, images, device, autocast) for name, encoder in encoders.items()}
            for name, timing in take_turns(calls, effort=effort).items():
                found.append(Speed(f"dense encoder, {name}", batch, precision, timing.median_ms, timing.width))
    return found


def segment_anything_encoder(model: MedSam) -> nn.Module:
    """Return segment-anything's encoder with the weights of a dense model."""
    arch = model.arch
    assert isinstance(arch, SamVit)
    encoder: nn.Module = ImageEncoderViT(
        img_size=arch.img_size,
        patch_size=arch.patch_size,
        embed_dim=arch.embed_dim,
        depth=arch.depth,
        num_heads=arch.num_heads,
        mlp_ratio=arch.mlp_ratio,
        out_chans=arch.out_chans,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=arch.window_size,
        global_attn_indexes=arch.global_attn_indexes,
    )
    encoder.load_state_dict(model.image_encoder.state_dict())
    return encoder


def _call(encoder: nn.Module, images: Tensor, device: torch.device, autocast: bool) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode(), mixed_precision(device, autocast):
            encoder(images)

    return call
