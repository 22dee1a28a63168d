"""Specs as text: what is written reads back, and what is wrong says so in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES, resolve_architecture
from medcore.models.sam import build
from medcore.models.spec import Architecture, EncoderSpec
from tests.support.helpers import TINY


def test_json_round_trip() -> None:
    spec = EncoderSpec(TINY, (3, 0, 1, 2), (48, 1, 0, 7))
    assert EncoderSpec.from_json(spec.to_json()) == spec
    assert not spec.is_dense and EncoderSpec.dense(TINY).is_dense


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_official_architectures_resolve(name: str) -> None:
    arch = resolve_architecture(name)
    assert (arch.img_size, arch.grid, arch.head_dim) == (1024, 64, 64 if name != "vit_h" else 80)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 0},
        {"patch_size": 7},
        {"global_attn_indexes": 5},
        {"global_attn_indexes": [99]},
        {"embed_dim": "wide"},
        {"mlp_ratio": -1},
        {"decoder": 3},
        {"decoder": {"depth": "two"}},
        {"unknown": 1},
        {"num_heads": 7},
        {"num_heads": True},
        {"name": ["tiny"]},
        {"mlp_ratio": float("inf")},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": 0.01},
        {"mlp_ratio": 1e308},
        {"pixel_mean": [0.5]},
        {"pixel_mean": [0, 0, float("nan")]},
        {"pixel_std": [1, 1]},
        {"pixel_std": [1, 0, 1]},
        {"pixel_std": [1, float("inf"), 1]},
        {"global_attn_indexes": [1.5]},
        {"global_attn_indexes": [-1]},
        {"out_chans": 36},
        {"decoder": {"num_heads": 3}},
        {"decoder": {"num_heads": 32}},
    ],
)
def test_wrong_architecture_file_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(TINY.to_dict() | change))
    with pytest.raises(MedcoreError) as caught:
        resolve_architecture(path)
    message = str(caught.value)
    assert "\n" not in message and next(iter(change)) in message


def test_missing_field_and_unknown_name() -> None:
    fields = TINY.to_dict()
    del fields["depth"]
    with pytest.raises(MedcoreError, match="depth"):
        Architecture.from_dict(fields)
    with pytest.raises(MedcoreError, match="vit_x"):
        resolve_architecture("vit_x")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arch": 1, "heads": [], "channels": []}'])
def test_wrong_spec_text(text: str) -> None:
    with pytest.raises(MedcoreError):
        EncoderSpec.from_json(text)


@pytest.mark.parametrize(("heads", "channels"), [((3,) * 3, (1,) * 4), ((4,) * 4, (1,) * 4), ((1,) * 4, (-1,) * 4)])
def test_counts_outside_the_architecture(heads: tuple[int, ...], channels: tuple[int, ...]) -> None:
    with pytest.raises(MedcoreError):
        EncoderSpec(TINY, heads, channels)


@pytest.mark.parametrize(("out_chans", "heads"), [(8, 1), (8, 4), (24, 12), (48, 8), (40, 4)])
def test_widths_that_are_accepted_make_a_decoder_that_runs(out_chans: int, heads: int) -> None:
    arch = replace(TINY, out_chans=out_chans, decoder=replace(TINY.decoder, num_heads=heads))
    with torch.no_grad():
        logits = build(EncoderSpec.dense(arch)).segment(torch.rand(1, 3, 64, 64), torch.tensor([[4.0, 4, 30, 40]]))
    assert logits.shape == (1, 1, arch.low_res, arch.low_res) and logits.isfinite().all()
