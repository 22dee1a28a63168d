import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

import medcore.data.imageset
from medcore.data.imageset import boundary_complexity
from medcore.errors import MedcoreError
from medcore.training.loop import COSINE_FLOOR, LastGood, RunningMean, rate_factor
from medcore.training.recovery import RecoverySettings, Training, draw_batches, recover
from medcore.training.teacher import Teacher, compute_teacher
from tests.support.helpers import TINY
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

SHORT = RecoverySettings(steps=6, lr=1e-3, batch_size=2)


def complexity_by_scipy(mask):
    square = np.ones((3, 3), bool)
    grown = ndimage.binary_dilation(mask, square)
    shrunk = ndimage.binary_erosion(mask, square, border_value=1)
    return (grown & ~shrunk).sum() / (math.sqrt(mask.sum()) + 1)


def test_boundary_complexity_equals_scipy_morphology():
    masks = (np.random.default_rng(3).random((19, 40, 40)) < 0.3).astype(np.uint8)
    masks[:10] = [ndimage.binary_opening(mask, iterations=1) for mask in masks[:10]]
    masks[4] = 0
    expected = [complexity_by_scipy(mask.astype(bool)) for mask in masks]
    assert boundary_complexity(masks, chunk=4) == pytest.approx(expected, rel=1e-6)
    assert boundary_complexity(masks)[4] == 0


def test_a_square_can_be_counted_on_paper():
    mask = np.zeros((1, 20, 20), np.uint8)
    mask[0, 5:15, 5:15] = 1  # 10 x 10: dilated 12 x 12, eroded 8 x 8
    assert boundary_complexity(mask)[0] == pytest.approx((144 - 64) / 11)


def test_images_are_drawn_in_proportion_to_complexity():
    complexity = np.array([1.0, 0.0, 3.0, 4.0, 2.0])
    drawn = draw_batches(complexity, 5000, 4, seed=1)
    frequency = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    # standard error of a share p among 20 000 draws is at most 0.0035
    assert frequency == pytest.approx(complexity / 10, abs=0.015)
    assert frequency[1] == 0
    np.testing.assert_array_equal(draw_batches(complexity, 7, 4, seed=1), drawn[:7])


def test_the_low_masks_may_give_the_complexity():
    model, images = tiny_model(), random_images(5)
    teacher = compute_teacher(model, images)
    low = images.low_masks(TINY.low_res).astype(bool)
    found = Training(model, images, teacher, RecoverySettings(complexity="low"), seed=0).complexity
    assert found == pytest.approx([max(complexity_by_scipy(mask), 1e-4) for mask in low], rel=1e-6)
    square = Training(model, images, teacher, RecoverySettings(), seed=0).complexity
    assert square == pytest.approx(images.complexity) and square.tolist() != found.tolist()


def test_the_released_loss_trains_other_weights():
    images = random_images(5)
    ends = []
    for loss in ("text", "released"):
        model = tiny_model()
        recover(model, images, compute_teacher(model, images), dataclasses.replace(SHORT, loss=loss), seed=0)
        ends.append(weights(model))
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_images_without_any_boundary_are_drawn_evenly():
    drawn = draw_batches(np.zeros(4), 1000, 4, seed=0)
    assert np.bincount(drawn.ravel()) / drawn.size == pytest.approx(np.full(4, 0.25), abs=0.04)


def test_the_teacher_is_the_model_in_half_precision_and_copies_on_reading():
    model, images = tiny_model(), random_images(5)
    teacher = compute_teacher(model, images, batch_size=2)
    assert teacher.embeddings.dtype == teacher.logits.dtype == np.float16
    assert teacher.embeddings.shape == (5, TINY.out_chans, TINY.grid, TINY.grid)
    for array in (teacher.embeddings, teacher.logits):
        array.setflags(write=False)
    embeddings, logits = teacher.batch(np.array([4, 1, 1]), torch.device("cpu"))
    with torch.no_grad():
        expected = model.segment(images.tensor([4, 1, 1]), images.box_tensor([4, 1, 1]))
    torch.testing.assert_close(logits, expected, rtol=2e-3, atol=2e-3)
    embeddings.zero_()  # a copy: the teacher stays
    assert np.abs(teacher.embeddings[4]).max() > 0


def test_a_non_finite_teacher_is_refused():
    model = tiny_model()
    with torch.no_grad():
        model.image_encoder.pos_embed[0, 0, 0, 0] = math.nan
    with pytest.raises(MedcoreError, match="teacher: non-finite"):
        compute_teacher(model, random_images(2))


@pytest.mark.parametrize("autocast", [False, True])
def test_recovery_reduces_the_loss_and_leaves_the_decoder(autocast):
    images = random_images(4)
    teacher = compute_teacher(tiny_model(1), images)
    model = tiny_model(2)
    before, seen = weights(model), []
    model.mask_decoder.iou_token.weight.requires_grad_(False)
    settings = RecoverySettings(steps=40, lr=2e-3, batch_size=4, autocast=autocast, warmup=3, schedule="cosine")
    log = recover(model, images, teacher, settings, seed=0, on_step=lambda *event: seen.append(event))
    assert log.stopped is None
    assert log.steps == len(log.terms) == 40
    assert np.mean(log.losses[-5:]) < 0.8 * log.losses[0]
    assert seen == [(step, log.losses[step], log.terms[step]) for step in range(40)]
    for terms, loss in zip(log.terms, log.losses, strict=True):
        assert loss == pytest.approx(np.dot((1.0, *settings.lambdas), list(terms.values())), rel=1e-5)
    after = weights(model)
    rest = [name for name in before if not name.startswith("image_encoder")]
    assert rest
    assert_same({name: before[name] for name in rest}, {name: after[name] for name in rest})
    assert not torch.equal(before["image_encoder.pos_embed"], after["image_encoder.pos_embed"])
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert set(frozen) == {
        "mask_decoder.iou_token.weight",
        *(name for name, parameter in tiny_model().named_parameters() if not parameter.requires_grad),
    }
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_seed_decides_and_global_randomness_does_not():
    images = random_images(5)
    teacher = compute_teacher(tiny_model(1), images)
    results = []
    for seed, noise in ((3, 0), (3, 99), (4, 0)):
        model = tiny_model(2)
        torch.manual_seed(noise)
        np.random.default_rng(noise)
        state = torch.get_rng_state()
        recover(model, images, teacher, SHORT, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        results.append(weights(model))
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["image_encoder.pos_embed"], results[2]["image_encoder.pos_embed"])


def test_blocks_with_nothing_to_train_are_no_obstacle():
    images = random_images(3)
    teacher = compute_teacher(tiny_model(1), images)
    model = tiny_model(2, heads=(0, 0, 3, 1))
    log = recover(model, images, teacher, dataclasses.replace(SHORT, weight_decay=0.1), seed=0)
    assert log.steps == 6
    assert log.stopped is None


def test_what_the_masks_give_is_computed_once_for_all_phases(monkeypatch):
    images, model = random_images(3), tiny_model(2)
    teacher = compute_teacher(tiny_model(1), images)
    pooled, measured = [], []
    pool, measure = torch.nn.functional.adaptive_avg_pool2d, medcore.data.imageset.boundary_complexity
    monkeypatch.setattr(
        torch.nn.functional, "adaptive_avg_pool2d", lambda masks, low: pooled.append(len(masks)) or pool(masks, low)
    )
    monkeypatch.setattr(
        medcore.data.imageset, "boundary_complexity", lambda masks: measured.append(len(masks)) or measure(masks)
    )
    for seed in range(3):
        recover(model, images, teacher, SHORT, seed=seed)
    assert sum(pooled) == 3 and measured == [3]


def test_no_figure_is_fetched_before_the_backward_pass(monkeypatch):
    images, model = random_images(2), tiny_model(2)
    teacher, log = compute_teacher(tiny_model(1), images), []
    for name in ("__float__", "item", "tolist", "__bool__"):
        fetch = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, fetch=fetch: log.append("fetch") or fetch(tensor))
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda tensor: log.append("backward") or backward(tensor))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recover(model, images, teacher, dataclasses.replace(SHORT, steps=1), seed=0)
    assert log[0] == "backward" and "fetch" in log


def test_no_steps_change_nothing():
    images, model = random_images(2), tiny_model()
    before = weights(model)
    log = recover(model, images, compute_teacher(model, images), RecoverySettings(steps=0), seed=0)
    assert (log.steps, log.stopped) == (0, None)
    assert_same(before, weights(model))


@pytest.mark.parametrize(("average", "count"), [(0.0, 1), (0.5, 3), (0.34, 2), (1.0, 6)])
def test_the_result_is_the_mean_over_the_last_steps(average, count):
    images = random_images(4)
    teacher = compute_teacher(tiny_model(1), images)
    after = []

    def keep(step, loss, terms):
        after.append(weights(plain))

    plain, averaged = tiny_model(2), tiny_model(2)
    recover(plain, images, teacher, SHORT, seed=0, on_step=keep)
    log = recover(averaged, images, teacher, dataclasses.replace(SHORT, average=average), seed=0)
    assert log.steps == 6 and log.stopped is None
    for name, value in weights(averaged).items():
        expected = torch.stack([each[name].double() for each in after[-count:]]).mean(dim=0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    if count == 1:
        assert_same(weights(averaged), weights(plain))


def test_trouble_leads_to_the_last_good_copy_and_not_to_a_mean():
    images = random_images(4)
    teacher = compute_teacher(tiny_model(1), images)
    results = []
    for average in (0.0, 0.9):
        model = tiny_model(2)

        def poison(step, loss, terms, model=model):
            if step == 14:
                with torch.no_grad():
                    model.image_encoder.pos_embed.fill_(math.nan)

        settings = dataclasses.replace(SHORT, steps=30, average=average)
        assert recover(model, images, teacher, settings, seed=0, on_step=poison).stopped is not None
        results.append(weights(model))
    assert_same(*results)


def test_a_running_mean_is_the_mean():
    parameter = torch.nn.Parameter(torch.zeros(5))
    mean, values = RunningMean([parameter], [3]), np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    for step, value in enumerate(values):
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))
        mean.saw(step)
        assert len(mean.values) == (step >= 3)
    mean.put()
    np.testing.assert_allclose(parameter.detach(), values[3:].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_a_non_finite_loss_ends_with_the_last_good_copy():
    images, model = random_images(4), tiny_model(2)
    teacher = compute_teacher(tiny_model(1), images)
    settings = dataclasses.replace(SHORT, steps=30)

    def poison(step, loss, terms):
        if step == 14:
            with torch.no_grad():
                model.image_encoder.pos_embed.fill_(math.nan)

    log = recover(model, images, teacher, settings, seed=0, on_step=poison)
    assert log.steps == 15
    assert log.stopped is not None
    assert "non-finite loss" in log.stopped
    assert all(value.isfinite().all() for value in weights(model).values())
    # the copy was taken before step 10: the weights after ten steps
    clean = tiny_model(2)
    recover(clean, images, teacher, dataclasses.replace(settings, steps=10), seed=0)
    assert_same(weights(clean), weights(model))


def test_a_teacher_with_infinities_ends_at_once_and_leaves_the_weights():
    images, model = random_images(2), tiny_model()
    good = compute_teacher(model, images)
    before = weights(model)
    log = recover(model, images, Teacher(good.embeddings, good.logits * np.float16(np.nan)), SHORT, seed=0)
    assert log.steps == 0
    assert log.stopped is not None
    assert_same(before, weights(model))


def test_a_last_step_into_infinity_is_undone():
    images, model = random_images(2), tiny_model()

    def poison(step, loss, terms):
        if step == SHORT.steps - 1:
            with torch.no_grad():
                model.image_encoder.pos_embed.fill_(math.inf)

    log = recover(model, images, compute_teacher(tiny_model(1), images), SHORT, seed=0, on_step=poison)
    assert log.stopped == "non-finite weights after step 5"
    assert model.image_encoder.pos_embed.isfinite().all()


def test_an_exception_in_the_callback_unfreezes_the_model():
    images, model = random_images(2), tiny_model()
    flags = [parameter.requires_grad for parameter in model.parameters()]

    def leave(step, loss, terms):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(model, images, compute_teacher(model, images), SHORT, seed=0, on_step=leave)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_teacher_and_images_must_match():
    images, model = random_images(3), tiny_model()
    teacher = compute_teacher(model, images.subset([0, 1]))
    with pytest.raises(MedcoreError, match="3 images but 2 teacher answers"):
        recover(model, images, teacher, SHORT, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"lr": math.nan},
        {"batch_size": 0},
        {"schedule": "linear"},
        {"lambdas": (1.0, -1.0, 0.0, 0.0)},
        {"average": 1.5},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(MedcoreError, match=f"recovery: .*{next(iter(wrong))}"):
        RecoverySettings(**wrong)


def test_rates_at_the_ends_of_the_schedules():
    assert [rate_factor(step, 10, "constant") for step in (0, 9)] == [1, 1]
    assert [rate_factor(step, 10, "cosine") for step in (0, 9)] == pytest.approx([1, COSINE_FLOOR])
    warm = [rate_factor(step, 12, "cosine", warmup=2) for step in range(12)]
    assert warm[:3] == [0.5, 1, 1]
    assert warm[-1] == pytest.approx(COSINE_FLOOR)
    assert warm[2:] == sorted(warm[2:], reverse=True)
    assert rate_factor(0, 1, "cosine") == 1


def test_a_copy_is_never_taken_of_bad_weights():
    parameter = torch.nn.Parameter(torch.ones(3))
    good = LastGood([parameter], every=2)
    with torch.no_grad():
        parameter.fill_(math.nan)
    good.saw(2)
    good.restore()
    assert parameter.tolist() == [1, 1, 1]
