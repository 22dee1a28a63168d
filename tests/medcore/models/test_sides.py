"""Models on a square of another side: tables against NumPy, costs against counts, and what stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.flop_counter import FlopCounterMode

from medcore.errors import MedcoreError
from medcore.models.architectures import ARCHITECTURES
from medcore.models.cost import cost
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam, build_empty
from medcore.models.sides.arch import arch_at_side
from medcore.models.sides.resized import at_side, resize_positions, resize_relative
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit
from tests.support.helpers import TINY
from tests.support.scoring_samples import PRUNED, seeded
from tests.support.tiny_vit import LITTLE, little_model
from tests.support.toy.samples import toy_model

BOX = torch.tensor([[10.0, 12.0, 30.0, 35.0]])


def answers(model: MedSam, side: int) -> torch.Tensor:
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.segment(image.to(next(model.parameters())), BOX)


@pytest.mark.parametrize("make", [lambda: seeded(PRUNED, 0), little_model, toy_model], ids=["vit", "tinyvit", "toy"])
def test_at_its_own_side_a_model_is_a_copy_bit_for_bit(make: Callable[[], MedSam]) -> None:
    model = make()
    copy = at_side(model, model.arch.img_size)
    assert copy.spec == model.spec
    assert torch.equal(answers(copy, model.arch.img_size), answers(model, model.arch.img_size))
    shared = {tensor.data_ptr() for tensor in model.state_dict().values() if tensor.numel()}
    assert not shared & {tensor.data_ptr() for tensor in copy.state_dict().values()}


@pytest.mark.parametrize("side", [32, 40, 56, 72])
def test_groups_and_weights_stay_and_only_position_tables_change(side: int) -> None:
    scores = tuple(np.arange(float(width)) for width in ModelSpec.dense(TINY).widths)
    model = prune(seeded(ModelSpec.dense(TINY), 1), select(scores, PRUNED)).float()
    model.image_encoder.neck.requires_grad_(False)
    resized = at_side(model, side)
    assert resized.arch == dataclasses.replace(TINY, img_size=side) and resized.spec.widths == PRUNED.widths
    assert all(np.array_equal(*pair) for pair in zip(resized.kept, model.kept, strict=True))
    before, after = model.state_dict(), resized.state_dict()
    changed = {name for name in before if before[name].shape != after[name].shape}
    # blocks 1 and 3 attend globally; windows of 3 tokens have tables of their own
    tables = {f"image_encoder.blocks.{number}.attn.rel_pos_{axis}" for number in (1, 3) for axis in "hw"}
    assert changed == {"image_encoder.pos_embed"} | tables
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - changed)
    assert {name for name, parameter in resized.named_parameters() if not parameter.requires_grad} == {
        name for name, parameter in model.named_parameters() if not parameter.requires_grad
    }
    assert not resized.training
    grid = side // TINY.patch_size
    assert resized.encode(torch.rand(1, 3, side, side)).shape == (1, TINY.out_chans, grid, grid)
    assert answers(resized, side).shape == (1, 1, 4 * grid, 4 * grid)


@pytest.mark.parametrize("arch", [TINY, ARCHITECTURES["vit_b"]], ids=["tiny", "vit_b"])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_costs_at_a_side_equal_counts(arch: SamVit, share: float) -> None:
    small = arch_at_side(arch, int(arch.img_size * share))
    widths = tuple(width * 2 // 3 for width in small.dense_widths)
    encoder = build_empty(ModelSpec(small, widths), "plain").image_encoder
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        encoder(torch.empty(1, 3, small.img_size, small.img_size))
    found = cost(ModelSpec(small, widths))
    assert found.flops == counter.get_total_flops()
    assert found.encoder_params == sum(parameter.numel() for parameter in encoder.parameters())


def bicubic(line: np.ndarray, new: int) -> np.ndarray:
    """Keys' cubic convolution with a = −0.75 of one line, edges repeated."""
    old, a = len(line), -0.75
    result = np.zeros(new)
    for place in range(new):
        centre = (place + 0.5) * old / new - 0.5
        for near in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - near)
            inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
            outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            result[place] += (inner if x <= 1 else outer) * line[min(max(near, 0), old - 1)]
    return result


@pytest.mark.parametrize(("old", "new"), [(8, 6), (8, 5), (6, 9)])
def test_positions_are_interpolated_bicubically(old: int, new: int) -> None:
    table = np.random.default_rng(0).normal(size=(old, old + 1, 3))
    expected = np.apply_along_axis(bicubic, 1, np.apply_along_axis(bicubic, 0, table, new), new + 1)
    found = resize_positions(torch.from_numpy(table)[None], (new, new + 1))[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_a_smooth_table_keeps_its_values() -> None:
    """Constants stay; a smooth field agrees with SciPy's spline, another cubic, but for its edge."""
    assert torch.allclose(resize_positions(torch.full((1, 8, 8, 2), 1.5), (5, 5)), torch.tensor(1.5))
    rows, columns = np.mgrid[:16, :16] / 16
    field = np.sin(3 * rows) + np.cos(2 * columns)
    found = resize_positions(torch.from_numpy(field)[None, ..., None], (12, 12))[0, ..., 0].numpy()
    spline = ndimage.zoom(field, 12 / 16, order=3, grid_mode=True, mode="grid-constant")
    np.testing.assert_allclose(found[2:-2, 2:-2], spline[2:-2, 2:-2], atol=0.02)


@pytest.mark.parametrize(("old", "new"), [(15, 11), (15, 9), (7, 15)])
def test_relative_positions_are_interpolated_linearly(old: int, new: int) -> None:
    table = np.random.default_rng(1).normal(size=(old, 4))
    places = (np.arange(new) + 0.5) * old / new - 0.5
    expected = np.stack([np.interp(places, np.arange(old), column) for column in table.T], axis=1)
    found = resize_relative(torch.from_numpy(table), new).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # the distance 0 stays in the middle
    np.testing.assert_allclose(found[new // 2], table[old // 2], atol=1e-12)


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        (lambda: seeded(PRUNED, 0), 60, "60 pixels does not fit tiny, whose own has 64: .* no multiple of patch_size"),
        (lambda: seeded(PRUNED, 0), 0, "0 pixels does not fit tiny"),
        (lambda: seeded(PRUNED, 0), 2**20, "1048576 pixels does not fit tiny"),
        (little_model, 16, "window_sizes 8 is more than the stage's"),
        (toy_model, 32, "architecture toy: image_encoder.* depends on the side"),
    ],
    ids=["multiple", "zero", "huge", "window", "table"],
)
def test_a_side_that_does_not_fit_is_one_line(model: Callable[[], MedSam], side: int, message: str) -> None:
    with pytest.raises(MedcoreError, match=message) as raised:
        at_side(model(), side)
    assert "\n" not in str(raised.value)


def test_tinyvit_has_no_table_of_the_grid() -> None:
    model = little_model()
    resized = at_side(model, 40)
    assert all(torch.equal(resized.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert answers(resized, 40).isfinite().all() and resized.arch.grid != LITTLE.grid
