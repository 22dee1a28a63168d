"""Files of LiteMedSAM and MobileSAM are recognised, loaded strictly, and refused in one line if something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from search.commands.cost import cost

State = dict[str, Tensor]


def state_of(name: str) -> State:
    torch.manual_seed(3)
    return dict(build(ModelSpec.dense(ARCHITECTURES[name])).state_dict())


@pytest.fixture(scope="module")
def lite() -> State:
    return state_of("lite_medsam")


def same(path: Path, state: State) -> bool:
    loaded = load(path).state_dict()
    return list(loaded) == list(state) and all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "optimizer": {}},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "training", "parallel"],
)
def test_a_lite_medsam_file_is_recognised(wrapped: Callable[[State], Any], lite: State, tmp_path: Path) -> None:
    torch.save(wrapped(lite), tmp_path / "lite_medsam.pth")
    assert load(tmp_path / "lite_medsam.pth").arch == ARCHITECTURES["lite_medsam"]
    assert same(tmp_path / "lite_medsam.pth", lite)


def test_a_mobile_sam_file_holds_a_classifier_besides(tmp_path: Path) -> None:
    state = state_of("mobile_sam")
    classifier = {
        "image_encoder.norm_head.weight": torch.ones(320),
        "image_encoder.norm_head.bias": torch.zeros(320),
        "image_encoder.head.weight": torch.zeros(1000, 320),
        "image_encoder.head.bias": torch.zeros(1000),
    }
    torch.save(state | classifier, tmp_path / "mobile_sam.pt")
    assert load(tmp_path / "mobile_sam.pt").arch == ARCHITECTURES["mobile_sam"]
    assert same(tmp_path / "mobile_sam.pt", state)
    torch.save(state | {"image_encoder.tail.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(MedcoreError, match=r"unknown tensors .*tail"):
        load(tmp_path / "other.pt")


def test_an_incomplete_file_says_what_is_missing(lite: State, tmp_path: Path) -> None:
    short = {name: value for name, value in lite.items() if "layers.2.blocks.5.attn.attention_biases" not in name}
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(MedcoreError, match=r"the nearest is lite_medsam, with 434 of 435 shapes"):
        load(tmp_path / "short.pth")
    with pytest.raises(MedcoreError, match=r"missing image_encoder.layers.2.blocks.5.attn.attention_biases"):
        load(tmp_path / "short.pth", "lite_medsam")
    with pytest.raises(MedcoreError, match=r"no mobile_sam model, image_encoder.patch_embed.seq.0.c.weight is"):
        load(tmp_path / "short.pth", "mobile_sam")


def test_the_cost_command_knows_both() -> None:
    found = cost("lite_medsam")
    assert (found["encoder_params"], found["flops"]) == (5_726_740, 2 * 37_474_352_640)
    assert found["heads"] == [4, 4, 5, 5, 5, 5, 5, 5, 10, 10] and found["interiors"] == [1] * 10
    assert found["mbconv"] == [256, 256] and found["merges"] == [128, 160, 320]
    assert cost("mobile_sam")["flops"] > found["flops"]
