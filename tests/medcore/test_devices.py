"""Batches in parts: the parts cover the batch, their gradients add up to its gradient, and only memory is a reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medcore import devices
from medcore.devices import Microbatches, is_out_of_memory, slices
from medcore.models.sam import MedSam
from medcore.quality.evaluate import evaluate
from medcore.training.loop import AdamW
from medcore.training.recovery import RecoverySettings, recover
from medcore.training.teacher import compute_teacher
from medcore.training.train import TrainSettings, train
from tests.support.training_samples import random_images, tiny_model, weights

SETTINGS = RecoverySettings(steps=1, lr=1e-3, batch_size=5)


def limited(model: MedSam, most: int) -> MedSam:
    """The model on a device with room for `most` images: more of them ask for memory that no machine has."""

    def allocate(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            torch.empty(2**50)

    model.image_encoder.register_forward_pre_hook(allocate)
    return model


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 2), (5, 2), (7, 7), (8, 3), (9, 1)])
def test_slices_cover_a_batch_evenly(count: int, size: int) -> None:
    parts = [list(range(count))[part] for part in slices(count, size)]
    assert [item for part in parts for item in part] == list(range(count))
    lengths = {len(part) for part in parts}
    assert max(lengths) <= size and max(lengths) - min(lengths) <= 1 and len(parts) == np.ceil(count / size)


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_the_limit_is_halved_only_as_far_as_needed_and_kept() -> None:
    parts, tried = Microbatches(), []

    def work(pieces: list[slice]) -> int:
        tried.append(max(piece.stop - piece.start for piece in pieces))
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(pieces)

    assert parts.run(16, work) == 8 and tried == [16, 8, 4, 2]
    assert parts.run(4, work) == 2 and tried[4:] == [2]
    assert parts.run(2, work) == 1 and parts.note(2) is None
    assert parts.note(16) == "batch 16 in 8 parts: out of memory"


def test_other_errors_and_single_images_that_do_not_fit_are_raised() -> None:
    def broken(pieces: list[slice]) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    def full(pieces: list[slice]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="shapes"):
        Microbatches().run(4, broken)
    with pytest.raises(torch.OutOfMemoryError):
        Microbatches().run(4, full)


@pytest.mark.parametrize(("most", "count"), [(4, 2), (2, 3), (1, 5)])
def test_gradients_of_parts_are_the_batchs(most: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch 5 in unequal parts too. AdamW hides a gradient's scale, so the gradients themselves are compared."""
    images = random_images(6)
    teacher = compute_teacher(tiny_model(1), images)
    seen: list[dict[str, torch.Tensor]] = []
    losses = []
    for model in (tiny_model(2), limited(tiny_model(2), most)):
        gradients: dict[str, torch.Tensor] = {}

        def note(optimizer: torch.optim.Optimizer, model: MedSam = model, into: dict[str, torch.Tensor] = gradients):
            into |= {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}

        monkeypatch.setattr(AdamW, "step", note)
        log = recover(model, images, teacher, SETTINGS, seed=0)
        seen.append(gradients)
        losses.append((log.losses[0], *log.terms[0].values()))
    assert log.split == f"batch 5 in {count} parts: out of memory"
    whole, split = seen
    assert whole.keys() == split.keys() and len(whole) > 10
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-9)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_recovery_training_teacher_and_evaluation_end_alike_where_memory_is_short() -> None:
    images = random_images(6)
    whole, short = compute_teacher(tiny_model(1), images), compute_teacher(limited(tiny_model(1), 1), images)
    np.testing.assert_allclose(short.logits, whole.logits, rtol=2e-3, atol=2e-3)
    models = tiny_model(2), limited(tiny_model(2), 2)
    for model in models:
        recover(model, images, whole, dataclasses.replace(SETTINGS, steps=3, batch_size=4), seed=0)
    _assert_close(*models)
    logs = [train(model, images, images, TrainSettings(epochs=1, batch_size=4), seed=0) for model in models]
    _assert_close(*models)
    assert logs[0].epochs[0].val_loss == pytest.approx(logs[1].epochs[0].val_loss, rel=1e-4)
    rows = [evaluate(model, images, batch_size=4) for model in models]
    assert [row["name"] for row in rows[1]] == [row["name"] for row in rows[0]]
    for one, other in zip(*rows, strict=True):
        assert one["dice"] == pytest.approx(other["dice"], abs=0.02)


def _assert_close(one: MedSam, other: MedSam) -> None:
    theirs = weights(other)
    for name, value in weights(one).items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=2e-4)


def test_bfloat16_runs_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without instructions for it, a product of matrices took 40 times as long as in float32."""
    cpu, one = torch.device("cpu"), torch.ones(1, 1)
    devices._warn_of_float32.cache_clear()
    for is_fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "is_fast_in_bfloat16", lambda _device, is_fast=is_fast: is_fast)
        for _ in range(2):
            with devices.mixed_precision(cpu, enabled=True):
                assert (one @ one).dtype == expected
        with devices.mixed_precision(cpu, enabled=False):
            assert (one @ one).dtype == torch.float32
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "this processor has no instructions for bfloat16"
    ]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_processors_are_told_by_their_instructions(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    has = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    assert devices.is_fast_in_bfloat16.__wrapped__(torch.device("cpu")) == (has or machine == "aarch64")
    assert devices.is_fast_in_bfloat16.__wrapped__(torch.device("cuda"))
