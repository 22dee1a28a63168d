"""What is seen of the residual stream equals what the blocks compute by hand, on two architectures."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from medcore.errors import CheckpointError
from medcore.models.cut import prune
from medcore.models.sam import MedSam, build
from medcore.models.sites import LinearOutput
from medcore.models.spec import ModelSpec
from medcore.models.stream import flow_into, observe, observe_branch, trunk_of
from tests.support.helpers import TINY
from tests.support.toy.arch import Toy
from tests.support.toy.samples import random_masks as toy_masks
from tests.support.toy.samples import toy_model
from tests.support.training_samples import random_images, random_masks, tiny_model

IMAGES = random_images(3)


def cut_tiny() -> MedSam:
    """Block 2 has no heads, block 1 no channels."""
    masks = list(random_masks(1))
    masks[TINY.depth + 1][:] = False
    return prune(tiny_model(1), tuple(masks))


@torch.no_grad()
def streams_by_hand(model: MedSam, images: torch.Tensor) -> list[torch.Tensor]:
    """The stream before the first block, and after every attention and every MLP."""
    encoder = model.image_encoder
    x = encoder.patch_embed((images - model.pixel_mean) / model.pixel_std) + encoder.pos_embed
    seen = [x]
    for block in encoder.blocks:
        x = x + (block.attn(block.norm1(x)) if block.attn.num_heads else block.attn.proj.bias)
        seen.append(x)
        x = x + (block.mlp(block.norm2(x)) if block.mlp.mlp_dim else block.mlp.lin2.bias)
        seen.append(x)
    return seen


@torch.no_grad()
def test_a_vits_streams_are_those_computed_by_hand() -> None:
    model, images = cut_tiny(), IMAGES.tensor()
    expected = streams_by_hand(model, images)
    trunk = trunk_of(model)
    *blocks, neck = trunk
    assert [[branch.name for branch in module.branches] for module in blocks] == [
        [f"heads/{block:02d}", f"channels/{block:02d}"] for block in range(TINY.depth)
    ]
    assert neck.path == "image_encoder.neck" and not neck.starts
    assert [branch.name for branch in neck.branches] == ["image_encoder.neck.0", "image_encoder.neck.2"]
    for block, module in enumerate(blocks):
        (x,) = flow_into(model, module.path, images, IMAGES.box_tensor())
        assert torch.equal(x, expected[2 * block])
        part = model.get_submodule(module.path)
        passes, (output,) = observe(module, part, (x,))
        assert torch.equal(output, expected[2 * block + 2])
        for place, each in enumerate(passes):
            assert torch.equal(each.before, expected[2 * block + place])
            assert torch.equal(each.after, expected[2 * block + place + 1])
            layer, width = module.branches[place].linear_of(part), module.branches[place].width
            assert each.features.shape[-1] == width * (TINY.head_dim if place == 0 else 1)
            torch.testing.assert_close(layer(each.features), each.after - each.before, rtol=1e-4, atol=1e-5)
            alone = observe_branch(module, part, (x,), place)
            assert all(
                torch.equal(getattr(alone, name), getattr(each, name)) for name in ("before", "features", "after")
            )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_a_toys_streams_follow_each_other(seed: int) -> None:
    model = toy_model(seed)
    model = prune(model, toy_masks(model.spec, seed))
    (x,) = flow_into(model, trunk_of(model)[0].path, IMAGES.tensor(), IMAGES.box_tensor())
    for number, module in enumerate(trunk_of(model)):
        is_whole = bool(model.spec.family("blocks")[number])
        assert len(module.branches) == (2 if is_whole else 0)
        passes, (output,) = observe(module, model.get_submodule(module.path), (x,))
        for each, following in itertools.pairwise(passes):
            assert torch.equal(each.after, following.before)
        assert torch.equal(passes[0].before if passes else output, x)
        x = passes[-1].after if passes else x
        assert torch.equal(output, x)


@torch.no_grad()
def test_only_what_is_wanted_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    module = trunk_of(model)[1]
    (x,) = flow_into(model, module.path, IMAGES.tensor(), IMAGES.box_tensor())
    block = model.get_submodule(module.path)
    (expected, _), _ = observe(module, block, (x,))
    monkeypatch.setattr(block.mlp, "forward", None)  # calling it would fail
    found = observe_branch(module, block, (x,), 0)
    assert torch.equal(found.features, expected.features) and torch.equal(found.before, expected.before)


@torch.no_grad()
def test_windows_that_move_the_tokens_are_refused() -> None:
    model = build(ModelSpec.dense(TINY), "plain")
    first, second = trunk_of(model)[:2]
    (x,) = flow_into(model, first.path, IMAGES.tensor(), IMAGES.box_tensor())
    with pytest.raises(CheckpointError, match=r"heads/00: .* attention 'fast'"):
        observe(first, model.get_submodule(first.path), (x,))
    observe(second, model.get_submodule(second.path), (x,))  # the whole image is one window


class Swapped(Toy):
    """Names the MLP's output for the heads, and the other way round."""

    @property
    def encoder_sites(self):  # type: ignore[no-untyped-def]
        swap = {"toy_heads": "lin2", "hidden": "proj"}

        def swapped(site):  # type: ignore[no-untyped-def]
            if site.output is None:
                return site
            path = self.blocks[site.block].path
            stream = {"lin2": "norm2", "proj": "norm1"}[swap[site.family.name]]
            return dataclasses.replace(
                site, output=LinearOutput(f"{path}.{swap[site.family.name]}", f"{path}.{stream}")
            )

        return tuple(map(swapped, super().encoder_sites))


@torch.no_grad()
def test_sites_that_run_in_another_order_are_refused() -> None:
    model = build(ModelSpec.dense(Swapped()))
    module = trunk_of(model)[0]
    (x,) = flow_into(model, module.path, IMAGES.tensor(), IMAGES.box_tensor())
    with pytest.raises(CheckpointError, match="must run the sites in their order"):
        observe(module, model.get_submodule(module.path), (x,))


def test_what_cannot_be_watched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model()
    monkeypatch.setattr(Toy, "encoder_trunks", (("image_encoder.blocks.0", "image_encoder.blocks.1"),))
    with pytest.raises(CheckpointError, match="exactly one trunk module"):
        trunk_of(model)
    monkeypatch.undo()
    module = trunk_of(model)[0]
    block = model.get_submodule(module.path)
    block.proj = nn.Linear(block.proj.in_features, block.proj.out_features, bias=False)
    with pytest.raises(CheckpointError, match=r"toy_heads/01: .* linear layer with a bias"):
        module.branches[0].linear_of(block)
    monkeypatch.setattr(Toy, "encoder_neck", {"image_encoder.elsewhere": 3})
    with pytest.raises(CheckpointError, match="exactly one trunk module"):
        trunk_of(model)
    monkeypatch.undo()
    monkeypatch.setattr(model, "segment", lambda images, _boxes: images)
    with pytest.raises(CheckpointError, match=r"does not run image_encoder\.blocks\.0"):
        flow_into(model, module.path, torch.from_numpy(np.zeros((1, 3, 64, 64), np.float32)), torch.zeros(1, 4))
