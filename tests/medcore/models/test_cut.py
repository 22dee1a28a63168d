"""A cut model equals the masked one, whatever is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcore.models.checkpoint import load
from medcore.models.cut import mask_model, pad, prune
from medcore.models.sam import MedSam, build
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, halves, shared_dir

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[4.0, 8.0, 40.0, 50.0], [20.0, 1.0, 60.0, 33.0]])


def random_model(spec: ModelSpec, seed: int) -> MedSam:
    torch.manual_seed(seed)
    model = build(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def random_masks(spec: ModelSpec, seed: int) -> PerSite:
    """Each block keeps a random share; about every third loses all its heads or all its channels."""
    rng = np.random.default_rng(seed)

    def one(width: int) -> np.ndarray:
        return rng.random(width) < rng.choice([0.0, rng.random(), 1.0])

    return tuple(map(one, spec.widths))


def keep(spec: ModelSpec, value: bool) -> PerSite:
    return tuple(np.full(width, value) for width in spec.widths)


def worst(a: MedSam, b: MedSam, images: torch.Tensor = IMAGES, boxes: torch.Tensor = BOXES) -> float:
    with torch.no_grad():
        return float((a.segment(images, boxes) - b.segment(images, boxes)).abs().max())


@pytest.mark.parametrize("seed", range(8))
def test_cut_equals_masked(seed: int) -> None:
    model = random_model(ModelSpec.dense(TINY), seed)
    masks = random_masks(model.spec, seed)
    cut = prune(model, masks)
    heads, channels = halves(masks)
    assert cut.spec.family("heads") == tuple(int(mask.sum()) for mask in heads)
    assert cut.spec.family("channels") == tuple(int(mask.sum()) for mask in channels)
    assert worst(cut, mask_model(model, masks)) <= 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_model_can_be_cut_again(seed: int) -> None:
    first = prune(random_model(ModelSpec.dense(TINY), seed), random_masks(ModelSpec.dense(TINY), seed))
    masks = random_masks(first.spec, seed + 100)
    assert worst(prune(first, masks), mask_model(first, masks)) <= 1e-4


def test_all_and_nothing() -> None:
    model = random_model(ModelSpec.dense(TINY), 0)
    whole = prune(model, keep(model.spec, True))
    assert whole.spec == model.spec and worst(whole, model) == 0
    nothing = prune(model, keep(model.spec, False))
    assert set(nothing.spec.widths) == {0}
    assert worst(nothing, mask_model(model, keep(model.spec, False))) <= 1e-4
    assert worst(nothing, model) > 1e-3


def test_the_right_rows_stay() -> None:
    model = random_model(ModelSpec.dense(TINY), 0)
    masks = keep(model.spec, True)
    heads, channels = halves(masks)
    heads[2][1] = False
    channels[0][:] = np.arange(48) % 2 == 1
    cut = prune(model, masks)
    old, new = model.image_encoder.blocks[2].attn, cut.image_encoder.blocks[2].attn
    # rows of q, k and v: heads 0 and 2 of 3, eight wide, in each third of 24
    rows = [third * 24 + row for third in range(3) for row in (*range(8), *range(16, 24))]
    assert torch.equal(new.qkv.weight, old.qkv.weight[rows]) and torch.equal(new.qkv.bias, old.qkv.bias[rows])
    assert torch.equal(new.proj.weight, old.proj.weight[:, [*range(8), *range(16, 24)]])
    assert torch.equal(new.rel_pos_h, old.rel_pos_h) and torch.equal(new.proj.bias, old.proj.bias)
    old_mlp, new_mlp = model.image_encoder.blocks[0].mlp, cut.image_encoder.blocks[0].mlp
    assert torch.equal(new_mlp.lin1.weight, old_mlp.lin1.weight[1::2])
    assert torch.equal(new_mlp.lin1.bias, old_mlp.lin1.bias[1::2])
    assert torch.equal(new_mlp.lin2.weight, old_mlp.lin2.weight[:, 1::2])


def test_the_original_is_left_alone_and_flags_travel() -> None:
    model = random_model(ModelSpec.dense(TINY), 0)
    model.prompt_encoder.requires_grad_(False)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut = prune(model, random_masks(model.spec, 3))
    with torch.no_grad():
        for parameter in (*cut.parameters(), *mask_model(model, keep(model.spec, False)).parameters()):
            parameter.fill_(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert cut.training and cut.attention == model.attention
    assert not any(parameter.requires_grad for parameter in cut.prompt_encoder.parameters())
    assert all(parameter.requires_grad for parameter in cut.image_encoder.parameters())


def test_a_cut_model_trains() -> None:
    cut = prune(random_model(ModelSpec.dense(TINY), 5), random_masks(ModelSpec.dense(TINY), 5))
    optimiser = torch.optim.AdamW(cut.image_encoder.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = cut.segment(IMAGES, BOXES).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


def test_unfit_masks_are_refused() -> None:
    model = random_model(ModelSpec.dense(TINY), 0)
    masks = keep(model.spec, True)
    heads, channels = halves(masks)
    with pytest.raises(ValueError, match="masks have shapes"):
        prune(model, (*heads[:3], *channels))
    with pytest.raises(ValueError, match="masks have shapes"):
        mask_model(model, (*heads, *(mask[:5] for mask in channels)))
    with pytest.raises(ValueError, match="boolean"):
        prune(model, (*(mask.astype(float) for mask in heads), *channels))


def test_real_weights_cut_equals_masked() -> None:
    model = load(shared_dir() / "weights" / "medical.pth")
    masks = random_masks(model.spec, 0)
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert worst(prune(model, masks), mask_model(model, masks), images, 4 * BOXES[:1]) <= 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_filling_up_with_zeros_changes_nothing(seed: int) -> None:
    cut = prune(random_model(ModelSpec.dense(TINY), seed), random_masks(ModelSpec.dense(TINY), seed))
    whole = pad(cut)
    assert whole.spec.is_dense and worst(cut, whole) <= 1e-5
    zeros = sum(int((tensor == 0).sum()) for tensor in whole.state_dict().values())
    sizes = (sum(tensor.numel() for tensor in model.state_dict().values()) for model in (whole, cut))
    assert zeros == next(sizes) - next(sizes)
