"""Specs as text: what is written reads back, and what is wrong says so in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medcore.errors import MedcoreError
from medcore.spec import ARCHITECTURES, Architecture, EncoderSpec, resolve_architecture
from tests.helpers import TINY


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
    ],
)
def test_wrong_architecture_file_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(TINY.to_dict() | change))
    with pytest.raises(MedcoreError) as caught:
        resolve_architecture(path)
    assert "\n" not in str(caught.value)


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
