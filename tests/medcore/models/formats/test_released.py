"""Files of the paper's released code: what is loaded computes what the masks of that code compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.checkpoint import load
from medcore.models.cost import cost
from medcore.models.formats.content import Content
from medcore.models.formats.released import released_structure
from medcore.models.formats.structure import resolve
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY

HEADS = torch.tensor([1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0]).float()
NEURONS = (torch.rand(4 * 48, generator=torch.Generator().manual_seed(2)) < 0.4).float()
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[4.0, 8.0, 40.0, 50.0], [10.0, 2.0, 60.0, 33.0]])


@pytest.fixture(scope="module")
def model() -> MedSam:
    torch.manual_seed(5)
    return build(ModelSpec.dense(TINY))


def written(model: MedSam, **changes: Any) -> dict[str, Any]:
    payload = {"format_version": 1, "model_type": "vit_b", "state_dict": dict(model.state_dict())}
    return {**payload, "head_mask": None, "neuron_mask": None, "metadata": {"stage": 1}, **changes}


def logits(model: MedSam) -> torch.Tensor:
    with torch.no_grad():
        return model.segment(IMAGES, BOXES)


def masked_logits(model: MedSam) -> torch.Tensor:
    """As that code computes: the inputs of `proj` and `lin2` are multiplied by the masks."""

    def gate(mask: torch.Tensor) -> Callable[..., Any]:
        return lambda _, inputs: (inputs[0] * mask,)

    hooks = []
    for number, block in enumerate(model.image_encoder.blocks):  # type: ignore[arg-type]
        heads = HEADS[3 * number : 3 * number + 3].repeat_interleave(8)
        proj: nn.Module = block.attn.proj
        hooks.append(proj.register_forward_pre_hook(gate(heads)))
        hooks.append(block.mlp.lin2.register_forward_pre_hook(gate(NEURONS[48 * number : 48 * number + 48])))
    try:
        return logits(model)
    finally:
        for hook in hooks:
            hook.remove()


def compact(model: MedSam) -> dict[str, Any]:
    """A compact file, cut tensor by tensor."""
    state, blocks = dict(model.state_dict()), []
    for number in range(4):
        heads = HEADS[3 * number : 3 * number + 3].nonzero().flatten().tolist()
        neurons = NEURONS[48 * number : 48 * number + 48].nonzero().flatten().tolist()
        rows = [24 * part + 8 * head + each for part in range(3) for head in heads for each in range(8)]
        columns = [8 * head + each for head in heads for each in range(8)]
        path = f"image_encoder.blocks.{number}"
        for name in ("attn.qkv.weight", "attn.qkv.bias"):
            state[f"{path}.{name}"] = state[f"{path}.{name}"][rows].clone()
        state[f"{path}.attn.proj.weight"] = state[f"{path}.attn.proj.weight"][:, columns].clone()
        for name in ("mlp.lin1.weight", "mlp.lin1.bias"):
            state[f"{path}.{name}"] = state[f"{path}.{name}"][neurons].clone()
        state[f"{path}.mlp.lin2.weight"] = state[f"{path}.mlp.lin2.weight"][:, neurons].clone()
        blocks.append(
            {
                "original_num_heads": 3,
                "original_mlp_hidden_dim": 48,
                "embed_dim": 24,
                "head_dim": 8,
                "num_heads": len(heads),
                "mlp_hidden_dim": len(neurons),
                "kept_heads": heads,
                "kept_neurons": neurons,
            }
        )
    manifest = {"format_version": 1, "model_type": "vit_b", "blocks": blocks}
    return written(model, state_dict=state, compact_manifest=manifest)


def test_masked_and_compact_files_compute_what_the_masks_do(model: MedSam, tmp_path: Path) -> None:
    expected = masked_logits(model)
    assert (expected - logits(model)).abs().max() > 1e-3
    torch.save(written(model, head_mask=HEADS, neuron_mask=NEURONS), tmp_path / "masked.pth")
    torch.save(compact(model), tmp_path / "compact.pth")
    pruned, small = load(tmp_path / "masked.pth", TINY), load(tmp_path / "compact.pth", TINY)
    kept = HEADS.view(4, 3).sum(dim=1).int().tolist()
    assert pruned.spec == small.spec and pruned.spec.budget["heads"] == kept
    for loaded in (pruned, small):
        assert (logits(loaded) - expected).abs().max() < 1e-5
    torch.save(written(model, head_mask=HEADS), tmp_path / "heads.pth")
    assert load(tmp_path / "heads.pth", TINY).spec.budget == {"heads": kept, "channels": [48] * 4}
    torch.save(written(model), tmp_path / "dense.pth")
    assert load(tmp_path / "dense.pth", TINY).spec.is_dense


def test_the_description_next_to_a_file_comes_before_its_model_type(model: MedSam, tmp_path: Path) -> None:
    torch.save(compact(model), tmp_path / "m.pth")
    assert resolve(tmp_path / "m.pth", Content({}, 1, outer=compact(model)), None) == ARCHITECTURES["vit_b"]
    (tmp_path / "m.json").write_text(json.dumps(TINY.to_dict()))
    assert load(tmp_path / "m.pth").arch == TINY


def test_the_paper_s_sizes(tmp_path: Path) -> None:
    """Masks of ViT-B at 0.5/0.7: 72 of 144 heads and 25 805 of 36 864 channels are gone (method §9)."""
    heads, neurons = torch.ones(144), torch.ones(12 * 3072)
    heads[torch.randperm(144)[:72]] = 0
    neurons[torch.randperm(12 * 3072)[:25805]] = 0
    outer = written(build(ModelSpec.dense(TINY)), state_dict={}, head_mask=heads, neuron_mask=neurons)
    arch = ARCHITECTURES["vit_b"]
    spec, masks = released_structure(tmp_path, outer, arch)
    left = ModelSpec(arch, tuple(int(mask.sum()) for mask in masks))
    removed = 1 - cost(left).encoder_params / cost(spec).encoder_params
    assert spec.is_dense and removed == pytest.approx((72 * 196_800 + 25_805 * 1_537) / 89_670_912)
    assert removed == pytest.approx(0.600, abs=5e-4)


def block_of(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda payload: payload["compact_manifest"]["blocks"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda payload: payload.update(format_version=2), "format_version 2"),
        (lambda payload: payload.update(head_mask=HEADS), "both masks and compact_manifest"),
        (lambda payload: payload.update(compact_manifest=[]), "list of 4"),
        (lambda payload: payload["compact_manifest"].update(blocks=[None] * 4), "block 0"),
        (block_of(num_heads=2), "instead of"),
        (block_of(num_heads=4), "0..3"),
        (block_of(mlp_hidden_dim=1.0), "whole number"),
        (block_of(embed_dim=768), "embed_dim of block 1 is 768"),
        (block_of(num_heads=10**30), "num_heads of block 1"),
        (block_of(num_heads=10**600), "num_heads of block 1"),
    ],
)
def test_compact_files_that_contradict_themselves(
    change: Callable[[dict[str, Any]], None], words: str, model: MedSam, tmp_path: Path
) -> None:
    payload = compact(model)
    change(payload)
    torch.save(payload, tmp_path / "m.pth")
    with pytest.raises(MedcoreError) as caught:
        load(tmp_path / "m.pth", TINY)
    assert words in str(caught.value) and str(tmp_path / "m.pth") in str(caught.value)


@pytest.mark.parametrize("mask", [torch.ones(5), torch.full((12,), 0.5), [1] * 12, torch.full((12,), float("nan"))])
def test_masks_that_do_not_fit(mask: Any, model: MedSam, tmp_path: Path) -> None:
    torch.save(written(model, head_mask=mask), tmp_path / "m.pth")
    with pytest.raises(MedcoreError, match=r"m\.pth: head_mask"):
        load(tmp_path / "m.pth", TINY)
