import copy
import dataclasses

import numpy as np
import pytest
import torch

from medcore.checkpoint import load, save
from medcore.errors import MedcoreError
from medcore.prune import prune
from medcore.recovery import RecoverySettings
from medcore.schedule import PHASES, CascadeSettings, cascade
from medcore.spec import EncoderSpec
from medcore.teacher import compute_teacher
from tests.helpers import TINY
from tests.training_samples import assert_same, random_images, random_masks, tiny_model, weights

RECOVERY = RecoverySettings(steps=3, lr=1e-3, batch_size=2)
SETTINGS = CascadeSettings(RECOVERY, dataclasses.replace(RECOVERY, steps=2))


@pytest.fixture(scope="module")
def images():
    return random_images(4)


@pytest.fixture(scope="module")
def teacher(images):
    return compute_teacher(tiny_model(), images)


@pytest.mark.parametrize("order", PHASES)
def test_phases_widths_and_logs(order, images, teacher):
    model, masks = tiny_model(), random_masks()
    before, seen, steps = weights(model), [], []
    settings = dataclasses.replace(SETTINGS, order=order)

    def on_phase(name, current, log):
        seen.append((name, current.spec.heads, current.spec.channels, None if log is None else log.steps))

    result = cascade(
        model, masks, images, teacher, settings, 0, on_phase, on_step=lambda *event: steps.append(event[:2])
    )
    heads = tuple(int(keep.sum()) for keep in masks.heads)
    channels = tuple(int(keep.sum()) for keep in masks.channels)
    all_heads, all_channels = EncoderSpec.dense(TINY).heads, EncoderSpec.dense(TINY).channels
    assert (
        seen
        == {
            "heads_first": [
                ("heads", heads, all_channels, None),
                ("heads_recovery", heads, all_channels, 3),
                ("mlp", heads, channels, None),
                ("mlp_recovery", heads, channels, 2),
            ],
            "mlp_first": [
                ("mlp", all_heads, channels, None),
                ("mlp_recovery", all_heads, channels, 2),
                ("heads", heads, channels, None),
                ("heads_recovery", heads, channels, 3),
            ],
            "together": [("both", heads, channels, None), ("both_recovery", heads, channels, 5)],
        }[order]
    )
    assert result.spec == EncoderSpec(TINY, heads, channels)
    assert len(steps) == 5
    assert_same(before, weights(model))


@pytest.mark.parametrize("order", PHASES)
def test_without_recovery_all_orders_prune_alike(order, images, teacher):
    none = RecoverySettings(steps=0)
    model, masks = tiny_model(), random_masks()
    result = cascade(model, masks, images, teacher, CascadeSettings(none, none, order), 0)
    assert_same(weights(result), weights(prune(model, masks)))


@pytest.mark.parametrize("order", PHASES)
def test_a_resumed_cascade_ends_in_the_same_weights(order, images, teacher, tmp_path):
    settings = dataclasses.replace(SETTINGS, order=order)
    masks, files = random_masks(), []

    def keep(name, current, log):
        files.append(tmp_path / f"{len(files)}.safetensors")
        save(files[-1], current)

    whole = weights(cascade(tiny_model(), masks, images, teacher, settings, 5, keep))
    assert len(files) == len(settings.phases)
    for done, file in enumerate(files, start=1):
        torch.manual_seed(done)
        start = load(file)
        before = weights(start)
        resumed = cascade(start, masks, images, teacher, settings, 5, done=done)
        assert_same(weights(resumed), whole)
        assert_same(weights(start), before)


def test_the_seed_decides(images, teacher):
    ends = [cascade(tiny_model(), random_masks(), images, teacher, SETTINGS, seed) for seed in (0, 0, 1)]
    positions = [end.image_encoder.pos_embed for end in ends]
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])


def test_the_callback_can_end_the_cascade(images, teacher):
    def stop(name, current, log):
        if log is not None:
            raise RuntimeError(name)

    with pytest.raises(RuntimeError, match=r"^heads_recovery$"):
        cascade(tiny_model(), random_masks(), images, teacher, SETTINGS, 0, stop)


def test_a_model_from_another_phase_is_refused(images, teacher):
    with pytest.raises(MedcoreError, match="pass the model saved after phase 1"):
        cascade(tiny_model(), random_masks(), images, teacher, SETTINGS, 0, done=1)
    with pytest.raises(MedcoreError, match="5 phases done"):
        cascade(tiny_model(), random_masks(), images, teacher, SETTINGS, 0, done=5)


def test_masks_may_empty_every_block(images, teacher):
    masks = copy.deepcopy(random_masks())
    for keep in (*masks.heads, *masks.channels):
        keep[:] = False
    result = cascade(tiny_model(), masks, images, teacher, SETTINGS, 0)
    assert result.spec.heads == result.spec.channels == (0,) * TINY.depth
    with torch.no_grad():
        assert result.segment(images.tensor(), images.box_tensor()).isfinite().all()


def test_an_unknown_order_is_named():
    with pytest.raises(MedcoreError, match="unknown order 'sideways'; known are heads_first"):
        CascadeSettings(order="sideways")


def test_phases_have_streams_of_their_own(images, teacher, monkeypatch):
    seeds = []

    def note(model, images, teacher, settings, seed, on_step):
        seeds.append(seed)

    monkeypatch.setattr("medcore.schedule.recover", note)
    cascade(tiny_model(), random_masks(), images, teacher, SETTINGS, 0)
    cascade(tiny_model(), random_masks(), images, teacher, SETTINGS, 1)
    assert len(np.unique(seeds)) == 4
