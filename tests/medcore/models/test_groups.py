"""Sums over groups against index sets written out by hand."""

import numpy as np
import torch

from medcore.models.groups import PerGroup, channel_sums, head_sums


def test_head_sums_add_qkv_rows_biases_and_proj_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    heads, width, residual = 3, 4, 5
    weight = torch.rand(3 * heads * width, residual, generator=generator, dtype=torch.float64)
    bias = torch.rand(3 * heads * width, generator=generator, dtype=torch.float64)
    proj = torch.rand(residual, heads * width, generator=generator, dtype=torch.float64)
    sums = head_sums(weight, bias, proj, heads)
    for head in range(heads):
        columns = [head * width + offset for offset in range(width)]
        rows = [part * heads * width + column for part in range(3) for column in columns]
        expected = weight[rows].sum() + bias[rows].sum() + proj[:, columns].sum()
        torch.testing.assert_close(sums[head], expected)


def test_channel_sums_add_row_bias_and_column() -> None:
    generator = torch.Generator().manual_seed(1)
    lin1, bias = torch.rand(6, 4, generator=generator), torch.rand(6, generator=generator)
    lin2 = torch.rand(4, 6, generator=generator)
    sums = channel_sums(lin1, bias, lin2)
    for channel in range(6):
        torch.testing.assert_close(sums[channel], lin1[channel].sum() + bias[channel] + lin2[:, channel].sum())


def test_groups_cover_every_parameter_once() -> None:
    # a group of vit_b holds 196 800 (head) and 1 537 (channel) parameters (method §9)
    heads = head_sums(torch.ones(3 * 2 * 64, 768), torch.ones(3 * 2 * 64), torch.ones(768, 2 * 64), 2)
    assert heads.tolist() == [196_800] * 2
    assert channel_sums(torch.ones(2, 768), torch.ones(2), torch.ones(768, 2)).tolist() == [1_537] * 2


def test_block_without_groups() -> None:
    assert head_sums(torch.zeros(0, 4), torch.zeros(0), torch.zeros(4, 0), 0).shape == (0,)
    assert channel_sums(torch.zeros(0, 4), torch.zeros(0), torch.zeros(4, 0)).shape == (0,)


def test_depth_counts_blocks() -> None:
    assert PerGroup((np.zeros(2),) * 3, (np.zeros(4),) * 3).depth == 3
