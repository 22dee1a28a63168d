"""Layers as linear maps: the map of a token's features is what the layer computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcore.models.linear_map import features_of, has_bias, is_linear_map, linear_map, set_linear_map, tokens_of


def layers() -> list[tuple[nn.Module, torch.Tensor]]:
    tokens, maps = torch.randn(2, 5, 4, 6), torch.randn(2, 6, 5, 4)
    return [
        (nn.Linear(6, 3), tokens),
        (nn.Linear(6, 3, bias=False), tokens),
        (nn.Conv2d(6, 3, 1), maps),
        (nn.Conv2d(6, 3, 3, padding=1, bias=False), maps),
        (nn.Conv2d(6, 3, (3, 5), padding=(1, 2)), maps),
    ]


@torch.no_grad()
@pytest.mark.parametrize("place", range(5))
def test_features_times_the_weight_are_the_output(place: int) -> None:
    torch.manual_seed(place)
    layer, inputs = layers()[place]
    assert is_linear_map(layer)
    for _ in range(2):
        weight, bias = linear_map(layer)
        output = tokens_of(layer, layer(inputs))
        assert output.shape == (2, 5, 4, 3)
        torch.testing.assert_close(features_of(layer, inputs) @ weight.T + bias, output, rtol=1e-4, atol=1e-5)
        set_linear_map(layer, torch.randn_like(weight), torch.randn_like(bias))
        assert has_bias(layer) or not linear_map(layer)[1].any()


@torch.no_grad()
def test_patches_are_cut_out_around_each_token() -> None:
    layer, maps = nn.Conv2d(2, 1, 3, padding=1), torch.randn(1, 2, 4, 3)
    features = features_of(layer, maps)
    for row in range(4):
        for column in range(3):
            expected = torch.zeros(2, 3, 3)
            for down in range(3):
                for right in range(3):
                    y, x = row + down - 1, column + right - 1
                    if 0 <= y < 4 and 0 <= x < 3:
                        expected[:, down, right] = maps[0, :, y, x]
            assert torch.equal(features[0, row, column], expected.flatten())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.LayerNorm(4),
        nn.Identity(),
    ],
)
def test_other_layers_are_none(layer: nn.Module) -> None:
    assert not is_linear_map(layer)
