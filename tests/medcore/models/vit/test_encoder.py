"""The encoder against segment-anything's own, and the whole model against segment-anything's own path."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcore.data.frames.transforms import SquareResize
from medcore.models.checkpoint import load
from medcore.models.sam import MedSam, build, build_empty, predictor
from medcore.models.spec import ModelSpec
from medcore.models.vit import encoder
from medcore.models.vit.arch import SamVit
from medcore.models.vit.encoder import AttentionMode
from tests.support.helpers import TINY, shared_dir, spec_of
from tests.support.reference_encoder import reference_encoder

# isort: split
# only after medcore.models.sam, which makes torchvision importable
from segment_anything.modeling import MaskDecoder, Sam

UNEQUAL = spec_of(TINY, heads=(2, 0, 3, 1), channels=(48, 5, 0, 1))
EMPTY = spec_of(TINY, heads=(0,) * 4, channels=(0,) * 4)
MODES: tuple[AttentionMode, ...] = ("fast", "plain")


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Large weights everywhere, biases and positions included, so that every part shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.5 if "rel_pos" in name or parameter.dim() == 1 else 0.2
            parameter.normal_(std=spread, generator=generator)


def random_model(spec: ModelSpec, attention: AttentionMode = "fast", seed: int = 0) -> MedSam:
    model = build(spec, attention)
    randomise(model, seed)
    return model


def images_of(arch: SamVit, count: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, arch.img_size, arch.img_size, generator=torch.Generator().manual_seed(seed))


def boxes_of(arch: SamVit, count: int, seed: int = 0) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * arch.img_size
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def relative(difference: Tensor, reference: Tensor) -> float:
    return float(difference.detach().abs().max() / reference.detach().abs().max())


@pytest.fixture(params=["as chosen", "fused"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with the kernel chosen for few tokens on a CPU, and with the fused one."""
    if request.param == "fused":
        monkeypatch.setattr(encoder, "_MOST_TOKENS_UNFUSED", 0)


@pytest.mark.parametrize("window", [3, 4, 8, 5])
@pytest.mark.parametrize("mode", MODES)
def test_dense_encoder_equals_segment_anything(mode: AttentionMode, window: int, kernel: None) -> None:
    arch = dataclasses.replace(TINY, window_size=window)
    reference = reference_encoder(arch)
    randomise(reference)
    ours = arch.build_encoder(ModelSpec.dense(arch), mode)
    ours.load_state_dict(reference.state_dict())
    images = images_of(arch)
    expected = reference(images)
    assert relative(ours(images) - expected, expected) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_segment_anything(mode: AttentionMode, kernel: None) -> None:
    reference = reference_encoder(TINY)
    randomise(reference)
    ours = TINY.build_encoder(ModelSpec.dense(TINY), mode)
    ours.load_state_dict(reference.state_dict())
    probe = torch.randn(2, TINY.out_chans, TINY.grid, TINY.grid)
    for model in (reference, ours):
        (model(images_of(TINY)) * probe).sum().backward()
    for (name, expected), parameter in zip(reference.named_parameters(), ours.parameters(), strict=True):
        assert expected.grad is not None and parameter.grad is not None, name
        assert relative(parameter.grad - expected.grad, expected.grad) < 1e-4, name


@pytest.mark.parametrize("spec", [UNEQUAL, EMPTY, ModelSpec.dense(TINY)])
def test_fast_attention_equals_plain_attention(spec: ModelSpec, kernel: None) -> None:
    fast, plain = random_model(spec, "fast"), random_model(spec, "plain")
    expected = plain.encode(images_of(TINY))
    assert relative(fast.encode(images_of(TINY)) - expected, expected) < 1e-5
    fast.encode(images_of(TINY)).square().mean().backward()
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all() for parameter in fast.image_encoder.parameters()
    )


def test_an_empty_block_leaves_its_output_biases() -> None:
    block = random_model(EMPTY).image_encoder.blocks[0]
    tokens = torch.randn(2, 8, 8, TINY.embed_dim)
    torch.testing.assert_close(block(tokens), tokens + block.attn.proj.bias + block.mlp.lin2.bias)


def test_empty_layers_warn_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        build(EMPTY)
    assert [str(warning.message) for warning in seen] == []


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_autocast_stays_close(mode: AttentionMode, kernel: None) -> None:
    torch.manual_seed(0)
    model = build(UNEQUAL, mode)
    images, boxes = images_of(TINY), boxes_of(TINY, 2)
    expected = model.segment(images, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.segment(images, boxes)
    logits.float().mean().backward()
    assert relative(logits.float() - expected, expected) < 0.1
    assert all(p.grad.isfinite().all() for p in model.image_encoder.parameters() if p.grad is not None)


def test_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="flash"):
        build(UNEQUAL, "flash")  # type: ignore[arg-type]


def test_build_empty_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    empty = build_empty(UNEQUAL)
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_of_pairs_decodes_as_segment_anything_does_one_by_one() -> None:
    model = random_model(ModelSpec.dense(TINY))
    embeddings, boxes = model.encode(images_of(TINY, 4)), boxes_of(TINY, 4)
    together = model.decode(embeddings, boxes)
    for index in range(4):
        sparse, dense = model.prompt_encoder(points=None, boxes=boxes[index : index + 1], masks=None)
        alone, _ = MaskDecoder.predict_masks(
            model.mask_decoder,
            embeddings[index : index + 1],
            model.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
        )
        torch.testing.assert_close(together[index], alone[0, :1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("multimask", [False, True])
def test_one_embedding_serves_several_prompts(multimask: bool) -> None:
    model = random_model(ModelSpec.dense(TINY))
    embedding, positions = model.encode(images_of(TINY, 1)), model.prompt_encoder.get_dense_pe()
    sparse, dense = model.prompt_encoder(points=None, boxes=boxes_of(TINY, 3), masks=None)
    ours = model.mask_decoder(embedding, positions, sparse, dense, multimask)
    masks, scores = MaskDecoder.predict_masks(model.mask_decoder, embedding, positions, sparse, dense)
    kept = slice(1, None) if multimask else slice(0, 1)
    torch.testing.assert_close(ours, (masks[:, kept], scores[:, kept]), rtol=1e-4, atol=1e-4)


def test_unpaired_embeddings_are_refused() -> None:
    model = build(UNEQUAL)
    with pytest.raises(ValueError, match="2 image embeddings for 3 prompts"):
        model.decode(model.encode(images_of(TINY, 2)), boxes_of(TINY, 3))


def test_box_coordinates_keep_their_precision_under_autocast() -> None:
    model = random_model(UNEQUAL)
    seen = []
    model.mask_decoder.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    embedding = model.encode(images_of(TINY, 1)).detach()
    box = torch.tensor([[10.25, 11.5, 50.75, 61.0]])
    model.decode(embedding, box)
    with torch.autocast("cpu", torch.bfloat16):
        model.decode(embedding, box)
    for name in ("sparse_prompt_embeddings", "image_pe"):
        assert torch.equal(seen[0][name], seen[1][name])


def test_preprocess_scales_each_image_and_pads() -> None:
    arch = dataclasses.replace(TINY, pixel_mean=(0.5, 0.25, 0.0), pixel_std=(0.5, 1.0, 2.0))
    model = build(ModelSpec.dense(arch))
    picture = torch.randint(40, 90, (1, 3, 32, 64), generator=torch.Generator().manual_seed(0)).float()
    picture[0, 0, 0, 0], picture[0, 1, 0, 0] = 20, 120
    seen = model.preprocess(picture)
    scaled = (picture - 20) / 100
    mean, std = torch.tensor(arch.pixel_mean).view(3, 1, 1), torch.tensor(arch.pixel_std).view(3, 1, 1)
    torch.testing.assert_close(seen[..., :32, :], (scaled - mean) / std)
    assert seen.shape[-2:] == (64, 64) and (seen[..., 32:, :] == 0).all()
    flat = model.preprocess(torch.full((1, 3, 64, 64), 7, dtype=torch.uint8))
    torch.testing.assert_close(flat[0, :, 0, 0], -mean.flatten() / std.flatten())


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_predictor_gives_the_mask_of_segment(size: tuple[int, int]) -> None:
    model = random_model(UNEQUAL)
    picture = np.random.default_rng(0).integers(0, 200, (*size, 3), dtype=np.uint8)
    box = np.array([8, 9, 40, 41])
    interactive = predictor(model)
    interactive.set_image(picture)
    masks, _, low = interactive.predict(box=box, multimask_output=False)

    resize = SquareResize(64)
    square = torch.as_tensor(resize.apply_image(picture).transpose(2, 0, 1).copy()).float()[None]
    scaled = (square - square.min()) / (square.max() - square.min())
    own_box = torch.tensor([[8 * 64 / size[1], 9 * 64 / size[0], 40 * 64 / size[1], 41 * 64 / size[0]]])
    logits = model.segment(scaled, own_box)
    torch.testing.assert_close(torch.as_tensor(low[None]), logits.detach(), rtol=1e-4, atol=1e-4)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False) > 0
    assert 0 < expected.float().mean() < 1
    assert np.array_equal(masks[0], expected[0, 0].numpy())


def test_square_resize_agrees_between_arrays_and_tensors() -> None:
    resize, size = SquareResize(64), (32, 128)
    boxes = np.array([[4.0, 8.0, 100.0, 30.0]])
    assert resize.apply_boxes(boxes, size).tolist() == [[2, 16, 50, 60]]
    assert resize.apply_boxes_torch(torch.as_tensor(boxes), size).tolist() == [[2, 16, 50, 60]]
    picture = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    tensor = resize.apply_image_torch(torch.as_tensor(picture.transpose(2, 0, 1).copy()).float()[None])
    assert np.abs(tensor[0].numpy() - resize.apply_image(picture).transpose(2, 0, 1)).max() < 6


def test_real_weights_equal_segment_anything() -> None:
    ours = load(shared_dir() / "weights" / "medical.pth")
    theirs = Sam(reference_encoder(ours.arch), ours.prompt_encoder, ours.mask_decoder, [0, 0, 0], [1, 1, 1])
    theirs.image_encoder.load_state_dict(ours.image_encoder.state_dict())
    images = images_of(ours.arch, 1)
    with torch.no_grad():
        expected = theirs.image_encoder(images)
        assert relative(ours.encode(images) - expected, expected) < 1e-4
