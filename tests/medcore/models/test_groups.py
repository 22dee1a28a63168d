"""Sums over groups against index sets written out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medcore.models.architectures import ARCHITECTURES
from medcore.models.groups import gate_gradients, group_sums, kept_entries, slice_sums
from medcore.models.sites import Cost, Family, Site, TensorSlice, Watch
from tests.support.helpers import TINY

VIT_B = ARCHITECTURES["vit_b"]
DEPTH, HEAD, CHANNEL = VIT_B.depth, VIT_B.sites[0], VIT_B.sites[-1]


def site_of(*tensors: TensorSlice, width: int = 3) -> Site:
    return Site(Family("things", "things", "thing", stage="things"), 0, width, tensors, Watch("nowhere"), Cost(1, 1, 1))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entries_of(part: TensorSlice, width: int, group: int) -> list[int]:
    """Positions along the axis that belong to a group, by the definition: entry (o, g, i) belongs to group g."""
    triples = itertools.product(range(part.outer), range(width), range(part.inner))
    return [position for position, (_, owner, _) in enumerate(triples) if owner == group]


def direct_sum(part: TensorSlice, width: int, group: int, values: torch.Tensor) -> float:
    """The sum over one group, entry by entry."""
    if part.axis is None:
        return sum(values.flatten().tolist())
    wanted = set(entries_of(part, width, group))
    pairs = np.ndenumerate(values.numpy())
    return sum(float(value) for index, value in pairs if index[part.axis] in wanted)


LAYOUTS = [
    (TensorSlice("t", axis=axis, outer=outer, inner=inner), shape)
    for axis, shape in ((0, (None,)), (0, (None, 2)), (1, (2, None)), (1, (4, None, 3)), (2, (3, 2, None)))
    for outer, inner in ((1, 1), (3, 1), (1, 4), (3, 2))
]


@pytest.mark.parametrize(("part", "shape"), LAYOUTS)
@pytest.mark.parametrize("width", [1, 3])
def test_slices_of_every_layout(part: TensorSlice, shape: tuple[int | None, ...], width: int) -> None:
    length = part.outer * width * part.inner
    values = random(width, *(length if side is None else side for side in shape))
    sums = slice_sums(part, width, values)
    assert sums.shape == (width,)
    expected = [direct_sum(part, width, group, values) for group in range(width)]
    np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-12)
    for group in range(width):
        keep = torch.arange(width) == group
        assert kept_entries(part, keep).nonzero().squeeze(1).tolist() == entries_of(part, width, group)
    assert kept_entries(part, torch.ones(width, dtype=torch.bool)).all()


def test_a_whole_tensor_is_one_group() -> None:
    values = random(0, 4, 5)
    part = TensorSlice("t", axis=None)
    torch.testing.assert_close(slice_sums(part, 1, values), values.sum().reshape(1))
    assert slice_sums(part, 0, values).shape == (0,)


def test_head_sums_add_qkv_rows_biases_and_proj_columns() -> None:
    heads, width, residual = 3, TINY.head_dim, TINY.embed_dim
    names = [part.name for part in TINY.sites[0].tensors]
    weight, bias = random(0, 3 * heads * width, residual), random(1, 3 * heads * width)
    proj = random(2, residual, heads * width)
    sums = group_sums(TINY.sites[0], heads, dict(zip(names, (weight, bias, proj), strict=True)))
    for head in range(heads):
        columns = [head * width + offset for offset in range(width)]
        rows = [part * heads * width + column for part in range(3) for column in columns]
        expected = weight[rows].sum() + bias[rows].sum() + proj[:, columns].sum()
        torch.testing.assert_close(sums[head], expected)


def test_channel_sums_add_row_bias_and_column() -> None:
    names = [part.name for part in TINY.sites[-1].tensors]
    lin1, bias, lin2 = random(1, 6, 4), random(2, 6), random(3, 4, 6)
    sums = group_sums(TINY.sites[-1], 6, dict(zip(names, (lin1, bias, lin2), strict=True)))
    for channel in range(6):
        torch.testing.assert_close(sums[channel], lin1[channel].sum() + bias[channel] + lin2[:, channel].sum())


def test_groups_cover_every_parameter_once() -> None:
    # a group of vit_b holds 196 800 (head) and 1 537 (channel) parameters (method §9)
    shapes = [(3 * 2 * 64, 768), (3 * 2 * 64,), (768, 2 * 64)]
    ones = {part.name: torch.ones(shape) for part, shape in zip(HEAD.tensors, shapes, strict=True)}
    assert group_sums(HEAD, 2, ones).tolist() == [196_800] * 2
    shapes = [(2, 768), (2,), (768, 2)]
    ones = {part.name: torch.ones(shape) for part, shape in zip(CHANNEL.tensors, shapes, strict=True)}
    assert group_sums(CHANNEL, 2, ones).tolist() == [1_537] * 2


def test_block_without_groups() -> None:
    for site, shapes in ((HEAD, [(0, 4), (0,), (4, 0)]), (CHANNEL, [(0, 4), (0,), (4, 0)])):
        empty = {part.name: torch.zeros(shape) for part, shape in zip(site.tensors, shapes, strict=True)}
        assert group_sums(site, 0, empty).shape == (0,)


def test_another_axis_may_be_empty() -> None:
    """A convolution between two sites, of which the other has lost all of its groups."""
    site = site_of(TensorSlice("weight", axis=1, output=True), TensorSlice("bias", axis=0))
    values = {"weight": torch.zeros(0, 3, 2), "bias": random(0, 3)}
    torch.testing.assert_close(group_sums(site, 3, values), values["bias"])
    assert gate_gradients(site, 3, values, values).tolist() == [0.0] * 3


def test_tensors_without_values_are_left_out() -> None:
    """Buffers such as running means go with their groups but have no gradients."""
    site = site_of(TensorSlice("weight", axis=0), TensorSlice("running_mean", axis=0))
    values = random(0, 3, 2)
    torch.testing.assert_close(group_sums(site, 3, {"weight": values}), values.sum(dim=1))


def test_gate_gradients_are_derivatives_of_gates_on_the_output() -> None:
    """Autograd through gates on the marked slices only, of three layouts at once."""
    width = 3
    parts = (
        TensorSlice("rows", axis=0, outer=3, inner=2),
        TensorSlice("columns", axis=1, inner=2, output=True),
        TensorSlice("outer columns", axis=1, outer=2, output=True),
        TensorSlice("missing", axis=0, output=True),
    )
    weights = {"rows": random(0, 18, 4), "columns": random(1, 5, 6), "outer columns": random(2, 2, 6, 3)}
    probes = {name: random(number + 7, *value.shape) for number, (name, value) in enumerate(weights.items())}
    gates = torch.ones(width, dtype=torch.float64, requires_grad=True)
    owners = {"columns": [0, 0, 1, 1, 2, 2], "outer columns": [0, 1, 2, 0, 1, 2]}
    gated = {"columns": gates[owners["columns"]], "outer columns": gates[owners["outer columns"]][:, None]}
    leaves = {name: (value * gated.get(name, 1.0)) for name, value in weights.items()}
    loss = sum((leaves[name] * probes[name]).sin().sum() for name in leaves)
    (expected,) = torch.autograd.grad(loss, [gates])
    gradients = {name: probes[name] * (weights[name] * probes[name]).cos() for name in weights}
    got = gate_gradients(site_of(*parts), width, weights, gradients)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected)


def test_the_gate_of_a_whole_block_adds_its_tensors() -> None:
    site = site_of(
        TensorSlice("weight", axis=None, output=True),
        TensorSlice("bias", axis=None, output=True),
        TensorSlice("inside", axis=None),
        width=1,
    )
    weights = {"weight": random(0, 4, 5), "bias": random(1, 4), "inside": random(2, 3)}
    gradients = {name: random(5 + number, *value.shape) for number, (name, value) in enumerate(weights.items())}
    expected = sum((weights[name] * gradients[name]).sum() for name in ("weight", "bias"))
    torch.testing.assert_close(gate_gradients(site, 1, weights, gradients), torch.as_tensor(expected).reshape(1))
