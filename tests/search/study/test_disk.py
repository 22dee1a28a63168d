"""How much disk a search needs, compared with what is free."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medcore.errors import StorageError
from medcore.models.checkpoint import save
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from search.base.sections.search import SearchConfig
from search.study.disk import Demand, disk_need, require_space
from search.study.gone import why_gone
from tests.support.helpers import TINY


def demand(**settings: Any) -> Demand:
    search = SearchConfig.model_validate({"trials": 20, "finalists": 0.2, "scheduler": "none"} | settings)
    return Demand(search, ModelSpec.dense(TINY), missing=20, at_once=2, teacher_images=30)


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=count))


def test_the_parts_are_those_that_files_have(tmp_path: Path) -> None:
    save(tmp_path / "m.safetensors", build(ModelSpec.dense(TINY)))
    size = (tmp_path / "m.safetensors").stat().st_size
    parts = disk_need(demand()).parts
    assert parts["weights of 20 trials"] == pytest.approx(20 * size, rel=0.1)
    assert parts["states of 2 running trials"] == pytest.approx(2 * 11 * size, rel=0.1)
    grid, low = TINY.grid, 4 * TINY.grid
    answers = 30 * 2 * (TINY.out_chans * grid**2 + low**2)
    assert parts["answers of the unpruned model"] == answers
    # shards and the whole file are there at the same time
    many = disk_need(dataclasses.replace(demand(), teacher_images=30_000))
    assert many.most == 2 * 1000 * answers and 1000 * answers < many.least < many.most


def test_weights_that_are_removed_are_not_counted_as_kept() -> None:
    everything, front = disk_need(demand()), disk_need(demand(keep="front"))
    assert "weights of 16 trials" in front.parts and front.most < everything.most and front.least < everything.least
    averaged = disk_need(dataclasses.replace(demand(keep="front"), averages=True))
    assert "weights of 20 trials" in averaged.parts and averaged.least == front.least
    nothing = disk_need(dataclasses.replace(demand(), missing=0, teacher_images=0))
    assert (nothing.least, nothing.most) == (0, 0)


def test_too_little_space_is_an_error_and_maybe_too_little_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    need = disk_need(demand())
    assert 0 < need.least < need.most
    free(monkeypatch, need.least - 1)
    with pytest.raises(StorageError, match=r"MB are free.*at least .* at most .*weights of 20 trials.*keep: front"):
        require_space(tmp_path, demand())
    with caplog.at_level(logging.WARNING):
        free(monkeypatch, need.most)
        require_space(tmp_path, demand())
        assert caplog.messages == []
        free(monkeypatch, need.most - 1)
        require_space(tmp_path, demand())
    (message,) = caplog.messages
    assert "states of 2 running trials" in message and "keep: front" in message and "\n" not in message


@pytest.mark.parametrize(
    ("config", "words"),
    [("search: {keep: front}", "search.keep: front"), ("search: {trials: 3}", "is gone"), ("[", "is gone")],
)
def test_why_weights_are_not_there(config: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config)
    message = why_gone(tmp_path, tmp_path / "m.safetensors", "t0007")
    assert words in message and "t0007" in message and "\n" not in message
