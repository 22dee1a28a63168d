"""The check of a machine with a GPU, on the CPU and a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.equality import relative_difference
from benchmarks.gpu.packing import Packing
from benchmarks.on_gpu import PARTS, parsed, run
from search.base.device import best_device
from tests.support.helpers import TINY


@pytest.fixture
def arch(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(TINY.to_dict()))
    return file


@pytest.mark.usefixtures("local_ray")
def test_all_parts_run_and_are_written(arch: Path, tmp_path: Path) -> None:
    sizes = ["--small", str(TINY.img_size), "--images", "20", "--steps", "2", "--batches", "1", "--effort", "0.05"]
    report = run(parsed(["--arch", str(arch), *sizes, "--at-once", "1", "--out", str(tmp_path)]))
    assert report.passed, report.errors
    assert list(report.seconds) == list(PARTS)
    assert [each.precision for each in report.differences] == ["float32"] * 6 + ["bfloat16"] * 3
    # the CPU against itself: the same bits
    assert best_device().type != "cpu" or not any(each.difference for each in report.differences)
    names = [step.name for step in report.steps]
    assert names[0].startswith("statistics") and {"phase both_refit", "phase both_recovery"} <= set(names), names
    assert [(each.at_once, each.trials) for each in report.packings] == [(1, 1)]
    assert all(each.milliseconds > 0 for each in report.speeds)
    written = json.loads((tmp_path / "on_gpu.json").read_text())
    assert len(written["speeds"]) == len(report.speeds) == 2 * 6
    text = (tmp_path / "on_gpu.md").read_text()
    assert "| dense encoder, segment-anything | 1 | bfloat16 |" in text and "failed" not in text


def test_a_part_that_fails_is_in_the_report(arch: Path, tmp_path: Path) -> None:
    options = ["--arch", str(arch), "--small", str(TINY.img_size), "--only", "speed", "--batches", "0"]
    report = run(parsed([*options, "--out", str(tmp_path)]))
    assert not report.passed and list(report.errors) == ["speed"]
    assert "**speed failed:**" in (tmp_path / "on_gpu.md").read_text()


def test_differences_are_relative_to_the_largest_value() -> None:
    one, other = {"a": np.array([1.0, 2.0]), "b": np.array([4.0])}, {"a": np.array([1.0, 2.5]), "b": np.array([5.0])}
    assert relative_difference(one, other) == pytest.approx(1 / 5)
    assert relative_difference(one, one) == 0
    broken = {"a": np.array([np.nan, 2.0]), "b": np.array([5.0])}
    assert relative_difference(broken, other) == relative_difference(other, broken) == np.inf
    assert relative_difference(broken, broken) == 0
    assert relative_difference({"b": np.array([np.inf, 5.0])}, {"b": np.array([np.inf, 1.0])}) == pytest.approx(4)
    assert Packing(4, 8, 60.0).per_hour == pytest.approx(480)
