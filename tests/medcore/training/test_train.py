import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

import medcore.training.train
from medcore.errors import CheckpointError, DataError, MedcoreError, StorageError
from medcore.training.flips import flipped_boxes
from medcore.training.loop import AdamW
from medcore.training.train import TrainSettings, flipped, train, validation_loss
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

SHORT = TrainSettings(epochs=4, lr=1e-3, batch_size=2, horizontal_flip=True, vertical_flip=True)


def part(tensors, name):
    return {key: value for key, value in tensors.items() if key.startswith(name)}


@pytest.mark.parametrize("autocast", [False, True])
def test_training_reduces_the_loss_and_leaves_the_prompt_encoder(autocast):
    model, images, validation, rows = tiny_model(), random_images(12), random_images(4, seed=1), []
    before = weights(model)
    settings = TrainSettings(epochs=6, lr=3e-3, batch_size=2, autocast=autocast, patience=0)
    log = train(model, images, validation, settings, seed=0, on_epoch=rows.append)
    assert (log.stopped, log.out_of_patience) == (None, False)
    assert rows == log.epochs
    assert [row.epoch for row in rows] == list(range(6))
    assert rows[-1].train_loss < 0.8 * rows[0].train_loss
    assert rows[-1].lr == pytest.approx(0.01 * settings.lr)
    after = weights(model)
    assert_same(part(before, "prompt_encoder"), part(after, "prompt_encoder"))
    for name in ("image_encoder", "mask_decoder"):
        assert any(not torch.equal(value, after[key]) for key, value in part(before, name).items())
    # the weights are those of the best epoch
    best = min(rows, key=lambda row: row.val_loss)
    assert log.best_epoch == best.epoch
    assert validation_loss(model, validation, settings) == best.val_loss


def test_the_prompt_encoder_trains_if_told():
    model = tiny_model()
    before = weights(model)
    train(model, random_images(2), None, dataclasses.replace(SHORT, epochs=1), 0, train_prompt_encoder=True)
    after = weights(model)
    assert not torch.equal(
        before["prompt_encoder.point_embeddings.2.weight"], after["prompt_encoder.point_embeddings.2.weight"]
    )


def test_the_seed_decides_and_global_randomness_does_not():
    results = []
    for seed, noise in ((0, 0), (0, 9), (1, 0)):
        model = tiny_model()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        train(model, random_images(5), None, dataclasses.replace(SHORT, epochs=1), seed)
        assert torch.equal(torch.get_rng_state(), state)
        results.append(weights(model))
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["image_encoder.pos_embed"], results[2]["image_encoder.pos_embed"])


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("interrupted", [1])
def test_a_resumed_training_ends_in_the_same_weights(validated, interrupted, tmp_path):
    images, validation = random_images(5), random_images(2, seed=1) if validated else None
    whole = tiny_model()
    expected = train(whole, images, validation, SHORT, seed=3)
    path = tmp_path / "training.state"

    def interrupt(row):
        if row.epoch == interrupted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), images, validation, SHORT, seed=3, on_epoch=interrupt, state_path=path)
    resumed, rows = tiny_model(), []
    log = train(resumed, images, validation, SHORT, seed=3, on_epoch=rows.append, state_path=path)
    assert log == expected
    assert [row.epoch for row in rows] == list(range(interrupted + 1, 4))
    assert_same(weights(whole), weights(resumed))
    # a finished training only brings its weights back
    again = tiny_model()
    assert train(again, images, validation, SHORT, 3, on_epoch=rows.clear, state_path=path) == expected
    assert_same(weights(whole), weights(again))
    assert list(tmp_path.iterdir()) == [path]


def test_patience_ends_training_and_the_best_is_kept(monkeypatch):
    losses, seen = iter([3.0, 1.0, 2.0, 1.0, 5.0]), []
    model = tiny_model()

    def given(model, images, settings, world):
        seen.append(weights(model))
        return next(losses)

    monkeypatch.setattr(medcore.training.train, "validation_loss", given)
    settings = dataclasses.replace(SHORT, epochs=9, patience=3)
    log = train(model, random_images(2), random_images(1), settings, seed=0)
    assert (len(log.epochs), log.best_epoch, log.out_of_patience, log.stopped) == (5, 1, True, None)
    assert_same(weights(model), seen[1])


@pytest.mark.parametrize("validated", [True, False])
def test_non_finite_numbers_end_with_good_weights(validated, tmp_path):
    model, images, path = tiny_model(), random_images(4), tmp_path / "training.state"

    def poison(row):
        if row.epoch == 1:
            with torch.no_grad():
                model.image_encoder.pos_embed.fill_(math.nan)

    validation = random_images(2, seed=1) if validated else None
    log = train(model, images, validation, SHORT, seed=0, on_epoch=poison, state_path=path)
    assert len(log.epochs) == 2
    assert log.stopped is not None
    assert log.stopped.startswith("non-finite loss or gradient at step 0 of epoch 2")
    assert all(value.isfinite().all() for value in weights(model).values())
    assert train(tiny_model(), images, validation, SHORT, seed=0, state_path=path) == log


def test_an_update_into_infinity_is_undone(monkeypatch):
    model, calls = tiny_model(), []
    step = AdamW.step

    def wild(self, *args, **kwargs):
        calls.append(1)
        result = step(self, *args, **kwargs)
        if len(calls) == 14:
            with torch.no_grad():
                model.image_encoder.pos_embed.fill_(math.inf)
        return result

    monkeypatch.setattr(AdamW, "step", wild)
    settings = dataclasses.replace(SHORT, epochs=2, batch_size=1)
    log = train(model, random_images(20), None, settings, seed=0)
    assert log.stopped == "non-finite loss or gradient at step 14 of epoch 0"
    assert all(value.isfinite().all() for value in weights(model).values())


@pytest.mark.parametrize("axis", [2, 3])
def test_flipped_boxes_are_the_flipped_masks_boxes(axis):
    images = random_images(6)
    batch = images.tensor(), images.mask_tensor(), images.box_tensor()
    chosen, lengths = np.array([True, False, True, True, False, False]), np.full(6, images.size)
    pictures, masks = (flipped(part, chosen, axis, lengths) for part in batch[:2])
    boxes = flipped_boxes(batch[2], chosen, axis, lengths)
    for index in range(6):
        expected = images.masks[index]
        if chosen[index]:
            expected = np.flip(expected, axis - 2)
        np.testing.assert_array_equal(masks[index, 0].numpy(), expected)
        rows, columns = np.nonzero(expected)
        assert boxes[index].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        assert (pictures[index].mean(0)[masks[index, 0] == 1].mean() > pictures[index].mean()).item()
    # the originals stay
    assert torch.equal(batch[2], torch.from_numpy(images.boxes.copy()))


ONE = dataclasses.replace(SHORT, epochs=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """State file of a finished training of `tiny_model(0)` on random images, without validation."""
    path = tmp_path_factory.mktemp("finished") / "training.state"
    train(tiny_model(), random_images(2), None, ONE, seed=0, state_path=path)
    return path


def other_pixels(images):
    return dataclasses.replace(images, images=images.images // 2)


def other_masks(images):
    return dataclasses.replace(images, masks=images.masks[:, ::-1])


def other_boxes(images):
    return dataclasses.replace(images, boxes=images.boxes + 1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"settings": dataclasses.replace(ONE, lr=1e-4)}, "settings"),
        ({"model": tiny_model(1)}, "starting weights"),
        ({"model": tiny_model(heads=(3, 2, 3, 3))}, "architecture, starting weights"),
        ({"train": other_pixels(random_images(2))}, "training images"),
        ({"train": other_masks(random_images(2))}, "training images"),
        ({"train": other_boxes(random_images(2))}, "training images"),
        ({"val": random_images(2)}, "validation images"),
        ({"train_prompt_encoder": True}, "trained parameters"),
    ],
)
def test_a_state_of_another_training_is_refused_and_the_difference_named(changed, named, finished):
    arguments = {"model": tiny_model(), "train": random_images(2), "val": None, "settings": ONE, "seed": 0}
    content, before = finished.read_bytes(), weights((arguments | changed)["model"])
    with pytest.raises(CheckpointError) as caught:
        train(**arguments | changed, state_path=finished)
    message = str(caught.value)
    assert message.startswith(f"{finished}: belongs to another training, which differs in {named}; delete it")
    assert "\n" not in message and finished.read_bytes() == content
    assert_same(before, weights((arguments | changed)["model"]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: [1, 2],
        lambda state: "text",
        lambda state: torch.zeros(3),
        lambda state: {"other": 1},
        lambda state: {**state, "identity": "text of an older format"},
        lambda state: {**state, "parameters": state["parameters"][1:]},
        lambda state: {**state, "parameters": [value[..., :1] for value in state["parameters"]]},
        lambda state: {**state, "parameters": 5},
        lambda state: {**state, "best": state["parameters"]},
        lambda state: {**state, "optimizer": {}},
        lambda state: {**state, "optimizer": {"param_groups": [], "state": {}}},
        lambda state: {**state, "optimizer": {"param_groups": [5], "state": {}}},
        lambda state: {**state, "optimizer": {**state["optimizer"], "state": {0: 5}}},
        lambda state: {**state, "log": {"epochs": 3}},
        lambda state: {**state, "log": {**state["log"], "best_epoch": 7}},
        lambda state: {**state, "log": {**state["log"], "unknown": 7}},
        lambda state: {name: value for name, value in state.items() if name != "log"},
    ],
)
def test_a_file_with_something_else_is_one_line(damage, finished, tmp_path):
    path, model = tmp_path / "training.state", tiny_model()
    before = weights(model)
    torch.save(damage(torch.load(finished, weights_only=True)), path)
    with pytest.raises(CheckpointError) as caught:
        train(model, random_images(2), None, ONE, seed=0, state_path=path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a training state (") and "\n" not in message
    assert message.endswith("delete it to start from the beginning")
    assert_same(before, weights(model))


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02.", b"PK\x03\x04" + bytes(80), None])
def test_a_damaged_file_is_one_line(content, finished, tmp_path):
    path = tmp_path / "training.state"
    path.write_bytes(finished.read_bytes()[:200] if content is None else content)
    with pytest.raises(CheckpointError, match=r"training\.state"):
        train(tiny_model(), random_images(2), None, ONE, seed=0, state_path=path)


def test_a_state_that_cannot_be_written_is_one_line(tmp_path):
    missing = tmp_path / "nowhere" / "training.state"
    with pytest.raises(StorageError, match=r"training\.state"):
        train(tiny_model(), random_images(2), None, ONE, seed=0, state_path=missing)


def test_a_training_that_stops_at_once_leaves_no_state(tmp_path):
    model, path = tiny_model(), tmp_path / "training.state"
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.fill_(math.nan)
    log = train(model, random_images(2), None, ONE, seed=0, state_path=path)
    assert log.stopped is not None and not log.epochs and not path.exists()


def test_steps_raise_no_warning():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        log = train(tiny_model(), random_images(2), random_images(1, seed=1), ONE, seed=0)
    assert len(log.epochs) == 1 and [str(warning.message) for warning in seen] == []


def test_no_epochs_change_nothing_and_no_images_are_an_error():
    model, images = tiny_model(), random_images(2)
    before = weights(model)
    assert train(model, images, None, dataclasses.replace(SHORT, epochs=0), seed=0).epochs == []
    assert_same(before, weights(model))
    with pytest.raises(DataError, match="no images"):
        train(model, images, images.subset([]), SHORT, seed=0)


@pytest.mark.parametrize(
    "wrong", [{"epochs": -1}, {"clip": 0.0}, {"jitter": 0.5}, {"schedule": "step"}, {"batch_size": 0}]
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(MedcoreError, match=f"training: .*{next(iter(wrong))}"):
        TrainSettings(**wrong)
