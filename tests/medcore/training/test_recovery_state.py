"""A killed recovery resumes from its file and ends in the same bits, even if the file is old or damaged."""

from __future__ import annotations

import dataclasses
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medcore.errors import StorageError
from medcore.training.recovery import RecoveryFile, RecoverySettings, recover
from medcore.training.teacher import compute_teacher
from tests.support.helpers import files_of_at_most
from tests.support.studies.study_files import environment
from tests.support.training_samples import assert_same, random_images, tiny_model, weights

SETTINGS = RecoverySettings(steps=24, lr=1e-3, batch_size=2, schedule="cosine", warmup=2, weight_decay=0.1, average=0.5)

#: A recovery as a program of its own, that kills itself after a given step.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from medcore.training.recovery import RecoveryFile, recover
from medcore.training.teacher import compute_teacher
from tests.medcore.training.test_recovery_state import SETTINGS
from tests.support.training_samples import random_images, tiny_model

def step(number, loss, terms):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

images = random_images(4)
file = RecoveryFile(Path(sys.argv[1]), 3, clock=lambda: 0.0)
recover(tiny_model(2), images, compute_teacher(tiny_model(1), images), SETTINGS, 5, step, file)
"""


@pytest.fixture(scope="module")
def images():
    return random_images(4)


@pytest.fixture(scope="module")
def teacher(images):
    return compute_teacher(tiny_model(1), images)


@pytest.fixture(scope="module")
def undisturbed(images, teacher):
    model = tiny_model(2)
    log = recover(model, images, teacher, SETTINGS, seed=5)
    return weights(model), log


def eager(path: Path, every: int = 3) -> RecoveryFile:
    """A file for which saving takes no time, so that nothing but the steps decides."""
    return RecoveryFile(path, every, clock=lambda: 0.0)


def test_a_killed_recovery_ends_in_the_same_bits(tmp_path, images, teacher, undisturbed):
    path = tmp_path / "recovery.pt"
    died = subprocess.run([sys.executable, "-c", PROGRAM, str(path), "13"], env=environment(), timeout=120)
    assert died.returncode == -signal.SIGKILL and path.is_file()
    seen = []
    model = tiny_model(2)
    log = recover(model, images, teacher, SETTINGS, 5, lambda step, *_: seen.append(step), eager(path))
    assert seen[0] == 12  # 14 steps were done, 12 of them saved
    assert_same(weights(model), undisturbed[0])
    assert log == undisturbed[1]


@pytest.mark.parametrize("last", [0, 2, 10, 13, 17, 23])
def test_wherever_it_stops(tmp_path, images, teacher, undisturbed, last):
    """Also before the first save, after the last step, and together with the copy that a blow-up would bring back."""

    def leave(step, loss, terms):
        if step == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(tiny_model(2), images, teacher, SETTINGS, 5, leave, eager(tmp_path / "a"))
    model = tiny_model(2)
    log = recover(model, images, teacher, SETTINGS, seed=5, file=eager(tmp_path / "a"))
    assert_same(weights(model), undisturbed[0])
    assert log == undisturbed[1]


def test_a_blow_up_after_resuming_brings_back_the_same_copy(tmp_path, images, teacher):
    def run(file, stop):
        model = tiny_model(2)

        def step(number, loss, terms):
            if number == stop:
                raise KeyboardInterrupt
            if number == 18:
                with torch.no_grad():
                    model.image_encoder.pos_embed.fill_(torch.nan)

        return recover(model, images, teacher, SETTINGS, 5, step, file), weights(model)

    log, expected = run(None, None)
    assert log.stopped is not None
    with pytest.raises(KeyboardInterrupt):
        run(eager(tmp_path / "a"), 16)
    again, got = run(eager(tmp_path / "a"), None)
    assert again == log
    assert_same(got, expected)


@pytest.mark.parametrize("change", ["seed", "settings", "garbage", "truncated", "optimizer", "mean"])
def test_what_is_not_of_this_recovery_is_left_aside(tmp_path, images, teacher, undisturbed, change, caplog):
    path = tmp_path / "recovery.pt"
    settings = dataclasses.replace(SETTINGS, lr=2e-3) if change == "settings" else SETTINGS
    recover(tiny_model(2), images, teacher, settings, 6 if change == "seed" else 5, file=eager(path))
    if change == "garbage":
        path.write_bytes(b"no state")
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    if change == "optimizer":
        content = torch.load(path, weights_only=True)
        content["optimizer"]["state"] = {0: 5}
        torch.save(content, path)
    if change == "mean":  # half of the steps are averaged, but the file holds no mean
        content = torch.load(path, weights_only=True)
        torch.save(content | {"mean": []}, path)
    model = tiny_model(2)
    with caplog.at_level(logging.WARNING):
        recover(model, images, teacher, SETTINGS, seed=5, file=RecoveryFile(path, 0))
    assert_same(weights(model), undisturbed[0])
    assert ("no state of a recovery" in caplog.text) == (change in ("garbage", "truncated", "optimizer", "mean"))


def test_saving_takes_a_bounded_share_of_the_time(tmp_path, images, teacher, undisturbed):
    """A clock that runs a second each time it is read: two a step without a save, so a save lasts one and rests 20."""
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    saves = []
    path = tmp_path / "a"

    def step(number, loss, terms):
        if path.is_file():
            saves.append(number)
            path.unlink()

    model = tiny_model(2)
    recover(model, images, teacher, SETTINGS, 5, step, RecoveryFile(path, 1, clock))
    assert saves == [0, 20]
    assert_same(weights(model), undisturbed[0])
    recover(tiny_model(2), images, teacher, SETTINGS, 5, file=RecoveryFile(tmp_path / "b", 0))
    assert not (tmp_path / "b").exists()


def test_a_full_disk_is_one_line_and_leaves_the_former_state(tmp_path, images, teacher):
    """The process may write no file above 4 KiB: the system's own error, as of a full disk."""
    path = tmp_path / "a"
    path.write_bytes(b"former")
    reason = r"a: cannot write the recovery's state \(File too large\); free some"
    with files_of_at_most(4096), pytest.raises(StorageError, match=reason):
        recover(tiny_model(2), images, teacher, SETTINGS, 6, file=eager(path))
    assert path.read_bytes() == b"former" and [entry.name for entry in tmp_path.iterdir()] == ["a"]
