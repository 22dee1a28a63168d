"""TinyViT against an encoder that is written out from its description, position by position."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.models.tinyvit.arch import TinyVit
from medcore.models.tinyvit.encoder import TinyVitEncoder
from tests.support.tiny_vit import DENSE, LITTLE, little_model, random_spec

State = Mapping[str, Tensor]


def conv_norm(state: State, path: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolve (B, C, h, w), then normalise with the running statistics."""
    weight = state[f"{path}.c.weight"]
    out = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    gamma, beta, mean, variance = (
        state[f"{path}.bn.{name}"][None, :, None, None] for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (out - mean) / (variance + 1e-5).sqrt() * gamma + beta


def layer_norm(state: State, path: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise over the last axis."""
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / (variance + eps).sqrt() * state[f"{path}.weight"] + state[f"{path}.bias"]


def attend_in_a_window(state: State, path: str, tokens: Tensor, side: int, heads: int, width: int) -> Tensor:
    """Attend among the tokens (side·side, C) of one window, query by query."""
    qkv = layer_norm(state, f"{path}.norm", tokens) @ state[f"{path}.qkv.weight"].T + state[f"{path}.qkv.bias"]
    table = state[f"{path}.attention_biases"]
    found = torch.zeros(len(tokens), heads * width, dtype=tokens.dtype)
    for head in range(heads):
        first = 3 * width * head
        q, k, v = (qkv[:, first + width * part : first + width * (part + 1)] for part in range(3))
        for query in range(len(tokens)):
            products = k @ q[query] / width**0.5
            for key in range(len(tokens)):
                down, across = abs(query // side - key // side), abs(query % side - key % side)
                products[key] += table[head, down * side + across]
            found[query, width * head : width * (head + 1)] = products.softmax(dim=0) @ v
    return found @ state[f"{path}.proj.weight"].T + state[f"{path}.proj.bias"]


def attend(state: State, path: str, x: Tensor, side: int, heads: int, width: int) -> Tensor:
    """Attend window by window, (C, h, w) -> (C, h, w); what lies outside of the map is 0 before the normalisation."""
    dim, height, length = x.shape
    padded = torch.zeros(dim, -(-height // side) * side, -(-length // side) * side, dtype=x.dtype)
    padded[:, :height, :length] = x
    for top in range(0, padded.shape[1], side):
        for left in range(0, padded.shape[2], side):
            window = padded[:, top : top + side, left : left + side]
            attended = attend_in_a_window(state, path, window.reshape(dim, -1).T, side, heads, width)
            padded[:, top : top + side, left : left + side] = attended.T.reshape(window.shape)
    return padded[:, :height, :length]


def reference(arch: TinyVit, state: State, image: Tensor) -> Tensor:
    """Encode one image (1, 3, S, S) in the precision of the state."""
    x = conv_norm(state, "patch_embed.seq.0", image, arch.stem_stride)
    x = conv_norm(state, "patch_embed.seq.2", F.gelu(x), arch.stem_stride)
    for stage, depth in enumerate(arch.depths):
        dim = arch.embed_dims[stage]
        for number in range(depth):
            path = f"layers.{stage}.blocks.{number}"
            if stage == 0:
                inner = F.gelu(conv_norm(state, f"{path}.conv1", x))
                inner = F.gelu(conv_norm(state, f"{path}.conv2", inner, groups=inner.shape[1]))
                x = F.gelu(x + conv_norm(state, f"{path}.conv3", inner))
                continue
            heads = arch.num_heads[stage]
            x = x + attend(state, f"{path}.attn", x[0], arch.window_sizes[stage], heads, dim // heads)
            x = conv_norm(state, f"{path}.local_conv", x, groups=dim)
            last = layer_norm(state, f"{path}.mlp.norm", x.permute(0, 2, 3, 1))
            hidden = F.gelu(last @ state[f"{path}.mlp.fc1.weight"].T + state[f"{path}.mlp.fc1.bias"])
            x = x + (hidden @ state[f"{path}.mlp.fc2.weight"].T + state[f"{path}.mlp.fc2.bias"]).permute(0, 3, 1, 2)
        if stage + 1 < len(arch.depths):
            path = f"layers.{stage}.downsample"
            inner = F.gelu(conv_norm(state, f"{path}.conv1", x))
            inner = F.gelu(conv_norm(state, f"{path}.conv2", inner, arch.merge_strides[stage], groups=inner.shape[1]))
            x = conv_norm(state, f"{path}.conv3", inner)
    for layer in (0, 2):
        x = F.conv2d(x, state[f"neck.{layer}.weight"], padding=layer // 2)
        x = layer_norm(state, f"neck.{layer + 1}", x.permute(0, 2, 3, 1), eps=1e-6).permute(0, 3, 1, 2)
    return x


STRIDED = TinyVit(
    name="strided",
    img_size=48,
    stem_stride=2,
    embed_dims=(4, 6, 8),
    depths=(1, 2, 1),
    num_heads=(1, 3, 2),
    window_sizes=(7, 5, 2),
    merge_strides=(1, 2),
    mlp_ratio=2.0,
    mbconv_expand_ratio=3.0,
    out_chans=16,
    decoder=LITTLE.decoder,
)


@pytest.mark.parametrize("arch", [LITTLE, STRIDED], ids=lambda arch: arch.name)
def test_an_image_is_encoded_as_described(arch: TinyVit) -> None:
    encoder = little_model(3, ModelSpec.dense(arch)).image_encoder.double()
    image = torch.randn(1, 3, arch.img_size, arch.img_size, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(arch, encoder.state_dict(), image)
        assert expected.shape == (1, arch.out_chans, arch.grid, arch.grid)
        torch.testing.assert_close(encoder(image), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_fast_and_plain_attention_agree(seed: int) -> None:
    spec = random_spec(seed) if seed else DENSE
    fast = little_model(seed, spec).double()
    plain = build(spec, "plain").double()
    plain.load_state_dict(fast.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fast.encode(images), plain.encode(images), rtol=1e-9, atol=1e-9)


def test_every_parameter_gets_the_gradient_of_the_plain_operations() -> None:
    fast = little_model(1).double()
    plain = build(DENSE, "plain").double()
    plain.load_state_dict(fast.state_dict())
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def gradients(model: MedSam) -> tuple[Tensor, ...]:
        return torch.autograd.grad(model.encode(image).square().sum(), list(model.image_encoder.parameters()))

    for one, other in zip(gradients(fast), gradients(plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


def test_a_convolution_is_a_linear_map_and_takes_another() -> None:
    layer = little_model(2).image_encoder.double().layers[0].blocks[0].conv3
    tokens = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    weight, bias = layer.linear_map()
    torch.testing.assert_close(layer(tokens), tokens @ weight.T + bias)
    other, shift = torch.randn_like(weight), torch.randn_like(bias)
    layer.set_linear_map(other, shift)
    torch.testing.assert_close(layer(tokens), tokens @ other.T + shift)
    torch.testing.assert_close(layer.linear_map(), (other, shift))


def test_an_unknown_way_of_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="slow"):
        TinyVitEncoder(LITTLE.to_dict(), DENSE.budget, "slow")
