"""`medcore check` on a tiny study: what it shows, what it measures, and its exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcore.errors import ConfigError
from medcore.models.spec import ModelSpec
from search.base.config import load_config
from search.commands.before import check as command
from search.commands.before import slow
from search.commands.before.check import check
from search.commands.before.checks import problems_of
from search.commands.before.inputs import starts_found
from search.study.disk import disk_need
from tests.support.helpers import TINY
from tests.support.machines.command_line import medcore
from tests.support.studies.rows import write_row
from tests.support.studies.study_files import own_polyps, write_tiny_study


def test_a_good_study_passes_and_gets_its_estimate(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    done = medcore("check", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "80 of 80 can be used" in done.stdout and "problem" not in done.stdout
    words = " ".join(done.stdout.split())  # a narrow terminal wraps them
    assert "6 trials: 3 starting points (dense, knapsack 0.6, uniform 0.5), then 2 sampled, then 1" in words
    assert "a search takes about" in done.stdout and "of disk" in done.stdout
    with Image.open(tmp_path / "runs" / "tiny" / "check.png") as picture:
        assert picture.format == "PNG"
    # nothing is dealt out, computed or started
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tiny"}
    assert [path.name for path in (tmp_path / "runs" / "tiny").iterdir()] == ["check.png"]


def test_figures_are_those_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "cores", lambda: 2)
    config = load_config(write_tiny_study(tmp_path, search={"concurrency": 2}))
    reports: list[tuple[str, int, int]] = []
    checked = check(config, picture=tmp_path / "seen.png", report=lambda *words: reports.append(words))
    (polyps,) = checked.surveys
    assert (polyps.listed, len(polyps.usable), polyps.parts["train"]) == (80, 80, 60)
    assert checked.picture == tmp_path / "seen.png" and reports[-1] == ("images", 80, 80)
    assert checked.time is not None and 0 < checked.time.trial < checked.time.total
    assert (checked.at_once, checked.finished) == (2, 0)
    subject = command.Surveyed(config.absolute())
    amounts = subject.amounts
    assert (amounts.calibration, amounts.recovery, amounts.search) == (8, 60, 10)
    assert (amounts.whole, amounts.sampled, amounts.steps, amounts.prepared) == (4, 2, 4, False)
    assert checked.need == disk_need(subject.demand) and checked.need.most > checked.need.least > 0


def test_problems_are_all_listed_and_the_exit_code_is_2(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path, search={"objectives": [{"name": "hd95_mm", "direction": "min"}]})
    masks = sorted((own_polyps(tmp_path) / "masks").iterdir())
    two_values(masks[37])
    done = medcore("check", config)
    assert done.returncode == 2
    problems = [line for line in done.stderr.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2 and f"{masks[37].stem}.png: a label map with the values 0, 1, 2" in problems[0]
    assert "hd95_mm needs the pixel spacing of every search image; polyps lacks it" in problems[1]


def two_values(mask: Path) -> None:
    """Give a mask two objects."""
    values = (np.asarray(Image.open(mask)) > 0).astype(np.uint8)
    values[:3] = 2
    Image.fromarray(values).save(mask.with_suffix(".png"))


def test_a_space_with_fewer_points_than_trials_is_noted(tmp_path: Path) -> None:
    search = {"trials": 9, "space": {"fraction": 0.5}, "warm_starts": {"dense": True, "knapsack": [], "uniform": []}}
    found = starts_found(load_config(write_tiny_study(tmp_path, search=search)), ModelSpec.dense(TINY))
    assert found.notes == (
        "search.space has 1 point for 6 sampled trials, so some are equal: "
        "give a range of fraction above 0.153, or fewer trials",
    )


def test_a_starting_point_out_of_reach_hides_nothing_else(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path, search={"warm_starts": {"knapsack": [0.01]}})
    two_values(sorted((own_polyps(tmp_path) / "masks").iterdir())[37])
    checked = check(load_config(config))
    problems = problems_of(checked.found.values())
    assert len(problems) == 2 and "search.warm_starts.knapsack: 0.01" in problems[0] and "a label map" in problems[1]
    assert checked.surveys and checked.time is None and checked.at_once == 1


def test_a_starting_point_out_of_reach_leaves_the_figures_of_the_disk(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path, search={"warm_starts": {"knapsack": [0.01]}}))
    checked = check(config, images=0)
    assert len(problems_of(checked.found.values())) == 1 and checked.time is None
    assert checked.found["time"].text == "not checked because of starting points"
    assert checked.need is not None and checked.need.most > 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_is_one_problem(error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(command, "measure", fails)
    config = load_config(write_tiny_study(tmp_path))
    checked = check(config, images=0)
    (problem,) = problems_of(checked.found.values())
    assert problem.startswith("out of memory") and str(error) in problem and "lower recovery.batch_size" in problem
    assert checked.surveys and checked.need is not None and checked.time is None
    error.args = ("mat1 and mat2 shapes cannot be multiplied",)
    if not isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(RuntimeError, match="mat1"):
            check(config, images=0)


def test_no_picture_of_a_patient_is_written_if_none_is_wanted(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    done = medcore("check", config, "--images", "0", "--resume")
    assert done.returncode == 0 and "a search takes about" in done.stdout and ".png" not in done.stdout
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="--images 0 rules out"):
        check(load_config(config), picture=tmp_path / "seen.png", images=0)


def test_a_picture_that_cannot_be_written_is_one_problem(tmp_path: Path) -> None:
    config = write_tiny_study(tmp_path)
    checked = check(load_config(config), picture=config / "seen.png", images=1)
    assert len(checked.found["picture"].problems) == 1 and checked.picture is None and checked.time is not None


def test_a_resumed_study_takes_what_is_left(tmp_path: Path) -> None:
    config = load_config(write_tiny_study(tmp_path)).absolute()
    whole = command.Surveyed(config, resume=True)
    for number in range(4):
        write_row(config.folder, {"trial_id": f"t{number:04}", "number": number, "status": "done"})
    rest = command.Surveyed(config, resume=True)
    rest.surveys = whole.surveys
    # three starting points and one of two sampled trials have ended; the repeat is left
    assert (rest.amounts.whole, rest.amounts.sampled, rest.amounts.prepared) == (1, 1, True)
    assert rest.finished == 4 and rest.demand.missing == 2


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
