"""The unpruned model's answers of a study: in shards, resumed, done once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcore.data.load import ImageSet
from medcore.errors import CheckpointError
from medcore.training.teacher import Teacher, compute_teacher
from search.base.config import Config, load_config
from search.commands.sections import study_jobs, teacher_job
from search.study.inputs import adapted_model, recovery_images
from search.study.teacher import TeacherJob, study_teacher, teacher_path
from tests.support.helpers import TINY, files_of_at_most
from tests.support.studies.study_files import write_tiny_study

SECTIONS = {"data": {"recovery_per_dataset": 7}, "scoring": {"part_size": 3}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(write_tiny_study(tmp_path_factory.mktemp("study"), **SECTIONS))


@pytest.fixture(scope="module")
def images(config: Config) -> ImageSet:
    return recovery_images(config.datasets, TINY.img_size)


def job_in(folder: Path, config: Config) -> TeacherJob:
    """The job with an output folder of its own, so that nothing is cached."""
    return replace(teacher_job(config), cache=folder / "cache")


def assert_equal(one: Teacher, other: Teacher) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    np.testing.assert_array_equal(one.logits, other.logits)


def test_shards_give_the_answers_on_all_images_in_their_order(config: Config, images: ImageSet, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    job = job_in(tmp_path, config)
    found = study_teacher(job, lambda done, total: calls.append((done, total)))
    assert job.images.names == images.names and len(found) == 7
    assert calls == [(3, 7), (6, 7), (7, 7)]
    whole = compute_teacher(adapted_model(config.model), images)
    np.testing.assert_allclose(found.logits, whole.logits, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(found.embeddings, whole.embeddings, rtol=2e-3, atol=2e-3)
    assert [file.suffix for file in sorted(job.cache.iterdir())] == [".lock", ".safetensors"]


def test_interrupted_job_continues_and_is_done_once(config: Config, tmp_path: Path) -> None:
    whole = study_teacher(job_in(tmp_path / "whole", config))

    def stop(done: int, total: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    again, calls = job_in(tmp_path / "again", config), []
    with pytest.raises(KeyboardInterrupt):
        study_teacher(again, stop)
    (folder,) = again.cache.glob("*.parts")
    assert sorted(file.name for file in folder.iterdir()) == ["0000.safetensors", "0001.safetensors"]
    assert_equal(study_teacher(again, lambda done, total: calls.append((done, total))), whole)
    assert calls == [(7, 7)] and not folder.exists()
    calls.clear()
    assert_equal(study_teacher(again, lambda done, total: calls.append((done, total))), whole)
    assert not calls


def test_the_file_is_named_by_its_inputs(config: Config, images: ImageSet, tmp_path: Path) -> None:
    job = job_in(tmp_path, config)
    others = [replace(job, autocast=True), replace(job, shard_size=4), replace(job, images=images.subset(range(5)))]
    others.append(replace(job, model=config.model.model_copy(update={"adapted": config.model.base})))
    assert len({teacher_path(each) for each in (job, *others)}) == 5
    assert teacher_path(replace(job, resources=replace(job.resources, cpu=2))) == teacher_path(job)


def test_a_damaged_file_is_named(config: Config, tmp_path: Path) -> None:
    job = job_in(tmp_path, config)
    study_teacher(job)
    path = teacher_path(job)
    for content in (path.read_bytes()[:-9], b"half", b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{path.name}: damaged teacher answers .*delete the file"):
            study_teacher(job)
    path.unlink()
    assert len(study_teacher(job)) == 7


def test_a_full_disk_is_named_and_leaves_nothing_half(config: Config, tmp_path: Path) -> None:
    job = job_in(tmp_path, config)
    with pytest.raises(Exception, match="cannot write the teacher's answers"), files_of_at_most(2000):
        study_teacher(job)
    assert len(study_teacher(job)) == 7


def test_calibration_images_are_loaded_once_if_they_are_the_recovery_images(config: Config) -> None:
    data = config.data.model_copy(update={"calibration_per_dataset": 7})
    jobs = study_jobs(config.model_copy(update={"data": data}))
    assert jobs.teacher.images is jobs.scoring.calibration is jobs.profile.calibration
    apart = study_jobs(config)
    assert len(apart.teacher.images) == 7 and len(apart.scoring.calibration) == 8


def test_answers_on_other_images_are_refused(config: Config, tmp_path: Path) -> None:
    job = job_in(tmp_path, config)
    found = study_teacher(job)
    Teacher(found.embeddings[:-1], found.logits[:-1]).save(teacher_path(job))
    with pytest.raises(CheckpointError, match="answers on 6 images for 7; delete the file"):
        study_teacher(job)
