"""Fisher terms against plain per-image autograd of the loss as method §3 writes it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.spec import ModelSpec
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.sums import CalibrationSums
from tests.support.helpers import TINY, halves
from tests.support.scoring_samples import PRUNED, brute_force, discs, score_loss_of, seeded


@pytest.mark.parametrize("spec", [ModelSpec.dense(TINY), PRUNED], ids=["dense", "pruned"])
def test_terms_give_the_fisher_at_every_boundary_weight(spec: ModelSpec) -> None:
    model, images = seeded(spec, 1), discs(3)
    sums = calibration_sums(model, images, range(3))
    assert (sums.used, sums.skipped) == (3, [])
    for w in (0.0, 3.0, 7.5):
        expected = brute_force(model, images, [0, 1, 2], w)
        per_block = np.zeros(TINY.depth)
        for name, value in expected.items():
            if name.startswith("blocks."):
                _, block, inside = name.split(".", 2)
                per_block[int(block)] += float(value.sum())
                if inside.startswith(("attn.qkv", "attn.proj", "mlp.")):
                    a, b, c = sums.parameters[int(block)][inside] / 3
                    torch.testing.assert_close(a + 2 * w * b + w**2 * c, value, rtol=1e-5, atol=1e-12)
        a, b, c = sums.block_fisher().T.numpy()
        np.testing.assert_allclose(a + 2 * w * b + w**2 * c, per_block, rtol=1e-6)


def test_single_precision_agrees_and_the_subset_is_respected() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 2), discs(4)
    exact = calibration_sums(model, images, [3, 1])
    single = calibration_sums(model.float(), images, [3, 1])
    np.testing.assert_allclose(single.block_fisher(), exact.block_fisher(), rtol=1e-3)
    assert single.parameters[0]["attn.qkv.weight"].dtype == torch.float32


def test_image_without_finite_gradients_is_skipped_and_named() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(3)
    images.boxes[1] = np.nan
    sums = calibration_sums(model, images, range(3))
    assert (sums.used, sums.skipped) == (2, ["disc1"])
    torch.testing.assert_close(sums.block_fisher(), calibration_sums(model, images, [0, 2]).block_fisher())
    torch.testing.assert_close(sums.active, calibration_sums(model, images, [0, 2]).active)
    with pytest.raises(MedcoreError, match="no calibration image"):
        calibration_sums(model, images, [])


def test_model_is_left_as_it_was_and_arrays_may_be_read_only() -> None:
    model, images = seeded(ModelSpec.dense(TINY), 1), discs(2)
    for array in (images.images, images.masks, images.boxes):
        array.setflags(write=False)
    model.train()
    model.mask_decoder.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    calls: list[tuple[int, int]] = []
    with torch.no_grad():
        calibration_sums(model, images, range(2), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert model.training
    assert before == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("spec", [ModelSpec.dense(TINY), PRUNED], ids=["dense", "pruned"])
def test_gate_gradients_are_the_change_of_the_loss_with_a_gate(spec: ModelSpec) -> None:
    """Central differences: the gate is moved by scaling the group's columns of the output projection."""
    model, images, w, step = seeded(spec, 3), discs(2), 2.0, 1e-4
    sums = calibration_sums(model, images, range(2), nodes=(0.0, w))

    def moved(block: int, module: str, columns: slice, factor: float, index: int) -> float:
        weight = model.image_encoder.get_submodule(f"blocks.{block}.{module}").weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, columns] *= factor
            loss = score_loss_of(model, images, index, w)
            weight.copy_(kept)
        return loss

    heads, channels = halves(sums.gates)
    groups = [(0, "attn.proj", 8, 1, heads), (3, "attn.proj", 8, 0, heads)]
    groups += [(0, "mlp.lin2", 1, 5, channels), (3, "mlp.lin2", 1, 11, channels)]
    for block, module, width, group, gates in groups:
        columns = slice(group * width, (group + 1) * width)
        expected = 0.0
        for index in range(2):
            up, down = (moved(block, module, columns, 1 + sign * step, index) for sign in (1, -1))
            expected += abs(up - down) / (2 * step)
        assert float(gates[block][1, group]) == pytest.approx(expected, rel=1e-4)


def test_activations_against_a_forward_pass_by_hand() -> None:
    model, images = seeded(PRUNED, 4), discs(2)
    sums = calibration_sums(model, images, range(2))
    block = model.image_encoder.get_submodule("blocks.0")
    hidden = []
    handle = block.norm2.register_forward_hook(lambda _module, _inputs, out: hidden.append(out))
    with torch.no_grad():
        for index in range(2):
            model.encode(images.tensor([index]).double())
    handle.remove()
    expected = sum(torch.nn.functional.gelu(block.mlp.lin1(each)).abs().mean(dim=(0, 1, 2)) for each in hidden)
    active_heads, active_channels = halves(sums.active)
    torch.testing.assert_close(active_channels[0], expected)
    assert [len(values) for values in active_heads] == list(PRUNED.family("heads"))
    assert (active_heads[0] > 0).all()


def test_sums_add_up_and_survive_the_disk(tmp_path: Path) -> None:
    model, images = seeded(PRUNED, 1), discs(4)
    whole = calibration_sums(model, images, range(4), nodes=(0.0, 3.0))
    parts = [calibration_sums(model, images, indices, nodes=(0.0, 3.0)) for indices in ([0, 1], [2, 3])]
    parts[1].save(tmp_path / "part.safetensors")
    parts[0].add(CalibrationSums.load(tmp_path / "part.safetensors", PRUNED))
    assert parts[0].used == 4
    for one, other in zip(parts[0].parameters, whole.parameters, strict=True):
        torch.testing.assert_close(one, other)
    for name in ("others", "gates", "active"):
        torch.testing.assert_close(getattr(parts[0], name), getattr(whole, name))
    (tmp_path / "part.safetensors").write_bytes(b"half")
    with pytest.raises(MedcoreError, match="damaged partial scores"):
        CalibrationSums.load(tmp_path / "part.safetensors", PRUNED)
    with pytest.raises(MedcoreError, match="cannot write the partial scores"):
        whole.save(tmp_path / "nowhere" / "part.safetensors")
