"""Moments and the output metric against sums by hand and finite differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError, DataError, StorageError
from medcore.models.cut import mask_model, prune
from medcore.models.masks import select
from medcore.models.sam import MedSam, adopt, build_empty
from medcore.models.spec import ModelSpec
from medcore.scoring.moments import ProfileSums, profile_sums, random_signs, spread
from tests.support.helpers import TINY
from tests.support.scoring_samples import PRUNED, discs, seeded
from tests.support.toy.samples import DENSE, TOY

SPECS = pytest.mark.parametrize("spec", [ModelSpec.dense(TINY), DENSE], ids=["vit", "toy"])
SEED = 5


def projected(model: MedSam, images: ImageSet, index: int) -> float:
    """Σ_p sqrt(band_p + 0.05)·ε_p·z_p of one image."""
    mask = images.low_masks(model.arch.low_res)[index].astype(bool)
    square = np.ones((3, 3), dtype=bool)
    band = ndimage.binary_dilation(mask, square) & ~ndimage.binary_erosion(mask, square, border_value=1)
    with torch.no_grad():
        z = model.segment(images.tensor([index]).double(), torch.from_numpy(images.boxes[[index]]))[0, 0].numpy()
    signs = random_signs(SEED, index, model.arch.low_res)[0, 0].numpy()
    return float((np.sqrt(band + 0.05) * signs * z).sum())


def projected_if_moved(model: MedSam, images: ImageSet, module: str, place: tuple[int, int], move: float) -> float:
    """The same of image 1, with one token's channel of a module's output moved."""

    def moved(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed.view(-1, output.shape[-1])[place] += move
        return changed

    handle = model.get_submodule(module).register_forward_hook(moved)
    value = projected(model, images, 1)
    handle.remove()
    return value


@SPECS
def test_moments_are_those_of_the_layers_inputs(spec: ModelSpec) -> None:
    model, images = seeded(spec, 1), discs(3)
    sums = profile_sums(model, images, [0, 2], [2], SEED)
    assert (sums.images, sums.metric_images, sums.skipped) == (2, 1, [])
    assert set(sums.sites) == {number for number, site in enumerate(spec.arch.sites) if site.output is not None}
    for number, found in sums.sites.items():
        output = spec.arch.sites[number].output
        assert output is not None
        seen: list[torch.Tensor] = []
        module = model.get_submodule(output.module)
        handle = module.register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            model.encode(images.tensor([0, 2]).double())
        handle.remove()
        features = seen[0].reshape(-1, seen[0].shape[-1]).numpy()
        assert sums.tokens[number] == len(features) == 2 * spec.arch.grid**2
        np.testing.assert_allclose(found.inputs, features.sum(axis=0), rtol=1e-9)
        np.testing.assert_allclose(found.products, features.T @ features, rtol=1e-9, atol=1e-12)


@SPECS
def test_metric_is_the_gradient_of_the_stream_after_the_part(spec: ModelSpec) -> None:
    """Central differences: one token of one layer's output moves."""
    model, images, step = seeded(spec, 2), discs(2), 1e-5
    sums = profile_sums(model, images, [0, 1], [1], SEED)
    for number in list(sums.sites)[2::5]:
        output = spec.arch.sites[number].output
        assert output is not None
        # the first two channels of g at each token
        places = [(token, channel) for token in range(spec.arch.grid**2) for channel in range(2)]
        moves = [
            [projected_if_moved(model, images, output.module, place, sign * step) for sign in (1, -1)]
            for place in places
        ]
        gradients = np.array([(up - down) / (2 * step) for up, down in moves]).reshape(-1, 2)
        expected = gradients.T @ gradients
        np.testing.assert_allclose(sums.sites[number].metric[:2, :2], expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_shards_and_their_order_do_not_matter(tmp_path: Path) -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(4)
    whole = profile_sums(model, images, range(4), [0, 1, 3], SEED)
    shards = [
        profile_sums(model, images, indices, metric, SEED) for indices, metric in (([2, 3], [3]), ([1, 0], [0, 1]))
    ]
    shards[1].save(tmp_path / "shard.safetensors")
    shards[0].add(ProfileSums.load(tmp_path / "shard.safetensors", model))
    assert (shards[0].images, shards[0].metric_images, shards[0].tokens) == (4, 3, whole.tokens)
    for number, found in whole.sites.items():
        for name, total in found.tensors().items():
            assert total.dtype == torch.float64
            torch.testing.assert_close(total, shards[0].sites[number].tensors()[name])


def test_single_precision_agrees() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(2)
    exact = profile_sums(model, images, [0, 1], [0, 1], SEED)
    single = profile_sums(model.float(), images, [0, 1], [0, 1], SEED)
    for number, found in exact.sites.items():
        for name, total in found.tensors().items():
            limit = 1e-4 * float(total.abs().max())
            torch.testing.assert_close(single.sites[number].tensors()[name], total, rtol=1e-3, atol=limit)


def test_image_that_is_not_finite_is_skipped_and_named() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(3)
    images.boxes[1] = np.nan
    sums = profile_sums(model, images, range(3), range(3), SEED)
    assert (sums.images, sums.metric_images, sums.skipped) == (2, 2, ["disc1"])
    other = profile_sums(model, images, [0, 2], [0, 2], SEED)
    torch.testing.assert_close(sums.sites[0].metric, other.sites[0].metric)


def test_model_is_left_as_it_was() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(2)
    model.train()
    model.mask_decoder.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    calls: list[tuple[int, int]] = []
    with torch.no_grad():
        profile_sums(model, images, [0, 1], [0], SEED, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)] and model.training
    assert before == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_pruned_model_has_the_moments_of_the_groups_that_it_kept() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(2)
    masks = select(tuple(np.arange(float(width)) for width in model.spec.widths), PRUNED)
    smaller = profile_sums(prune(model, masks), images, [0, 1], [0], SEED)
    silenced = profile_sums(mask_model(model, masks), images, [0, 1], [0], SEED)
    for number, site in enumerate(TINY.sites):
        assert site.output is not None
        keep = np.repeat(masks[number], site.output.inner)
        whole, part = silenced.sites[number], smaller.sites[number]
        np.testing.assert_allclose(part.products, whole.products.numpy()[np.ix_(keep, keep)], rtol=1e-4, atol=1e-4)
        if keep.any():  # a branch without groups runs no linear layer
            np.testing.assert_allclose(part.metric, whole.metric, rtol=1e-4, atol=1e-6)


def test_refused_models_and_images() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(1)
    with pytest.raises(DataError, match="no image"):
        profile_sums(model, images, [], [], SEED)
    plain = adopt(build_empty(model.spec, "plain"), model.state_dict())
    with pytest.raises(
        CheckpointError, match=r"sees 81 tokens, its stream has 64; load the model with attention='fast'"
    ):
        profile_sums(plain, images, [0], [], SEED)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    model, path = seeded(ModelSpec.dense(TINY), 1), tmp_path / "shard.safetensors"
    sums = ProfileSums.zeros(model)
    sums.save(path)
    with pytest.raises(CheckpointError, match="damaged partial moments"):
        ProfileSums.load(path, seeded(ModelSpec.dense(TOY), 1))
    sums.sites[0].inputs[0] = torch.nan
    sums.save(path)
    with pytest.raises(CheckpointError, match=r"inputs/0 holds values that are not finite.*; delete the file"):
        ProfileSums.load(path, model)
    path.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="damaged partial moments"):
        ProfileSums.load(path, model)
    with pytest.raises(StorageError, match="cannot write the partial moments"):
        sums.save(tmp_path / "nowhere" / "shard.safetensors")


def test_spread_indices_and_signs() -> None:
    assert spread(10, 4) == [0, 2, 5, 7] and spread(3, 8) == [0, 1, 2] and spread(0, 4) == []
    signs = random_signs(1, 2, 32)
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(float(signs.mean())) < 0.15
    assert torch.equal(signs, random_signs(1, 2, 32))
    assert not torch.equal(signs, random_signs(1, 3, 32)) and not torch.equal(signs, random_signs(2, 2, 32))
