"""`medcore check` on a tiny study: what it shows, what it measures, and its exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.base.config import load_config
from search.commands.before import check as command
from search.commands.before.check import check
from search.study.disk import disk_need
from tests.support.machines.command_line import medcore
from tests.support.studies.study_files import own_polyps, write_tiny_study


def test_a_good_study_passes_and_gets_its_estimate(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    done = medcore("check", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 of 80 can be used" in done.stdout and "problem" not in done.stdout
    assert "6 trials: 3 starting points (dense, knapsack 0.6, uniform 0.5), then 2 sampled, then 1" in done.stdout
    assert "a search takes about" in done.stdout and "of disk" in done.stdout
    with Image.open(tmp_path / "runs" / "tiny" / "check.png") as picture:
        assert picture.format == "PNG"
    # nothing is dealt out, computed or started
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tiny"}
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["check.png"]


def test_figures_are_those_of_the_study(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path))
    reports: list[tuple[str, int, int]] = []
    checked = check(config, picture=tmp_path / "seen.png", report=lambda *words: reports.append(words))
    (polyps,) = checked.surveys
    assert (polyps.listed, len(polyps.usable), polyps.parts["train"]) == (80, 80, 60)
    assert checked.picture == tmp_path / "seen.png" and reports[-1] == ("images", 80, 80)
    assert checked.time is not None and 0 < checked.time.trial < checked.time.total
    subject = command.Surveyed(config.absolute())
    amounts = subject.amounts
    assert (amounts.calibration, amounts.recovery, amounts.search) == (8, 60, 10)
    assert (amounts.whole, amounts.sampled, amounts.steps) == (4, 2, 4)
    assert checked.need == disk_need(subject.demand) and checked.need.most > checked.need.least > 0


def test_problems_are_all_listed_and_the_exit_code_is_2(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path, search={"objectives": [{"name": "hd95_mm", "direction": "min"}]})
    masks = sorted((own_polyps(tmp_path) / "masks").iterdir())
    values = (np.asarray(Image.open(masks[37])) > 0).astype(np.uint8)
    values[:3] = 2
    Image.fromarray(values).save(masks[37].with_suffix(".png"))
    done = medcore("check", config)
    assert done.returncode == 2
    problems = [line for line in done.stderr.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2 and f"{masks[37].stem}.png: a label map with the values 0, 1, 2" in problems[0]
    assert "hd95_mm needs the pixel spacing of every search image; polyps lacks it" in problems[1]


def test_left_out_files_are_listed_by_reason(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    images = sorted((own_polyps(tmp_path) / "images").iterdir())
    for image in images[:2]:
        image.write_bytes(b"no picture")
    done = medcore("check", config)
    assert done.returncode == 0 and "78 of 80 can be used" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("left out of polyps")]
    assert line.startswith("left out of polyps: 2 × unreadable image") and line.endswith(images[0].name)


@pytest.mark.parametrize("broken", ["adapted", "base"])
def test_a_model_of_another_kind_is_a_problem(broken: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    config = write_tiny_study(tmp_path)
    save_file({"weight": np.zeros(4, np.float32)}, tmp_path / f"{broken}.safetensors")
    done = medcore("check", config)
    assert done.returncode == 2
    (problem,) = [line for line in done.stderr.splitlines() if line.startswith("problem: ")]
    assert f"{broken}.safetensors" in problem
