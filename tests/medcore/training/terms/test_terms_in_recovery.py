"""Further terms in a recovery: what they add, what they leave alone, and how a killed recovery resumes with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, save
from medcore.training.recovery import RecoveryFile, RecoverySettings, recover
from medcore.training.teacher import compute_teacher
from medcore.training.terms.registry import LOSS_TERMS
from search.base.config import validate
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

PLAIN = RecoverySettings(steps=6, lr=1e-3, batch_size=2, warmup=2, weight_decay=0.1, average=0.5)
TERMS = {"directional": 2.0, "lomix": 0.5}
BOTH = dataclasses.replace(PLAIN, terms=TERMS)


@pytest.fixture(scope="module")
def images():
    return random_images(4)


@pytest.fixture(scope="module")
def teacher(images):
    return compute_teacher(tiny_model(1), images)


@pytest.fixture(scope="module")
def undisturbed(images, teacher):
    model = tiny_model(2)
    log = recover(model, images, teacher, BOTH, seed=5)
    return model, log


def test_terms_add_to_the_loss_and_train_the_encoder_only(images, teacher, undisturbed):
    model, log = undisturbed
    assert list(log.terms[0])[5:] == ["directional", "lomix"] == list(TERMS)
    for terms, loss in zip(log.terms, log.losses, strict=True):
        assert loss == pytest.approx(np.dot([1, *PLAIN.lambdas, *TERMS.values()], list(terms.values())), rel=1e-5)
    assert all(value > 0 for terms in log.terms for value in terms.values())
    plain, start = tiny_model(2), weights(tiny_model(2))
    recover(plain, images, teacher, PLAIN, seed=5)
    changed = [name for name, value in weights(model).items() if not torch.equal(value, start[name])]
    assert changed and all(name.startswith("image_encoder.") for name in changed)
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(model).items())


def test_nothing_of_a_term_reaches_a_saved_model(tmp_path: Path, undisturbed):
    save(tmp_path / "model.safetensors", undisturbed[0])
    assert load(tmp_path / "model.safetensors").state_dict().keys() == tiny_model().state_dict().keys()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in undisturbed[0].modules())


@pytest.mark.parametrize("last", [2, 4])
def test_a_recovery_with_terms_resumes_in_the_same_bits(tmp_path: Path, images, teacher, undisturbed, last: int):
    def leave(step, loss, terms):
        if step == last:
            raise KeyboardInterrupt

    def file():
        return RecoveryFile(tmp_path / "state", 1, clock=lambda: 0.0)

    with pytest.raises(KeyboardInterrupt):
        recover(tiny_model(2), images, teacher, BOTH, 5, leave, file())
    kept = torch.load(tmp_path / "state", weights_only=True)
    heads = len(kept["parameters"]) - len(list(tiny_model().image_encoder.parameters()))
    assert heads == 2 + 2 + 4 * 4 + 1  # side heads with biases, four subsets with two convolutions each, α
    assert [group["lr"] for group in kept["optimizer"]["param_groups"]] == pytest.approx([1e-3, 1e-2])
    model = tiny_model(2)
    log = recover(model, images, teacher, BOTH, seed=5, file=file())
    assert_same(weights(model), weights(undisturbed[0]))
    assert log == undisturbed[1]


def test_a_weight_of_zero_is_no_term(images, teacher):
    without, zero = tiny_model(2), tiny_model(2)
    off = dataclasses.replace(PLAIN, steps=2, terms=dict.fromkeys(LOSS_TERMS, 0.0))
    logs = [recover(without, images, teacher, dataclasses.replace(PLAIN, steps=2), 5)]
    logs.append(recover(zero, images, teacher, off, 5))
    assert_same(weights(without), weights(zero))
    assert logs[0] == logs[1]
    assert off.identity == dataclasses.replace(PLAIN, steps=2).identity != BOTH.identity
    assert "terms" not in off.identity  # as an earlier version wrote it


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"direction": 1.0}, "unknown loss term 'direction'; known are directional, lomix"),
        ({"lomix": -1.0}, r"terms.lomix is -1.0; it must be between"),
        ({"lomix": float("nan")}, "terms.lomix is nan"),
    ],
)
def test_wrong_terms_are_named(terms: dict[str, float], reason: str):
    with pytest.raises(MedcoreError, match=f"recovery: .*{reason}"):
        RecoverySettings(terms=terms)


@pytest.mark.parametrize(
    ("terms", "line"),
    [
        ({"direction": 1.0}, "mine.yaml: recovery.terms: 'direction' is not one of directional, lomix"),
        ({"lomix": -1}, "mine.yaml: recovery.terms.lomix: Input should be greater than or equal to 0"),
        (["lomix"], "mine.yaml: recovery.terms: expected keys with values"),
    ],
)
def test_a_wrong_configuration_is_one_line(terms: object, line: str):
    values = {"study": "s", "model": {"base": "a", "adapted": "b"}, "data": {"folders": ["d"]}}
    with pytest.raises(MedcoreError) as caught:
        validate(values | {"recovery": {"terms": terms}}, "mine.yaml")
    assert str(caught.value) == line
    config = validate(values | {"recovery": {"terms": TERMS}}, "mine.yaml")
    assert config.recovery.terms == TERMS
