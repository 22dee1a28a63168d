"""The whole path through the command line: search, front, export, and the exported file in a fresh Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import front_against_baselines
from tests.support.machines.command_line import medcore, medcore_program
from tests.support.machines.rays import Rays
from tests.support.studies.study_files import environment, write_tiny_study

pytestmark = pytest.mark.usefixtures("local_ray", "short_timing")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, rays: Rays) -> Path:
    """Folder of a finished study of six trials."""
    rays.local()
    folder = tmp_path_factory.mktemp("study")
    starts = {"knapsack": [0.6], "uniform": [0.5], "rule": [0.6]}
    result = medcore("search", write_tiny_study(folder, search={"warm_starts": starts}))
    assert result.returncode == 0, result.stderr
    assert "on the front" in result.stdout
    return folder / "runs" / "tiny"


def test_every_trial_has_one_row(searched: Path) -> None:
    trials = pd.read_parquet(searched / "trials.parquet")
    assert sorted(trials["number"]) == list(range(6))
    assert set(trials["status"]) <= {"done", "stopped"}, trials["reason"].tolist()
    assert {"dense", "knapsack 0.6", "uniform 0.5", "rule 0.6"} < set(trials["origin"])
    assert trials["repeats"].notna().tolist() == [False] * 5 + [True]
    images, done = pd.read_parquet(searched / "images.parquet"), trials[trials["status"] == "done"]
    assert images.groupby("trial_id").size().to_dict() == dict.fromkeys(done["trial_id"], len(images) // len(done))
    assert (searched / "curves.png").is_file()
    dense = trials[trials["origin"] == "dense"].iloc[0]
    assert dense["flops_fraction"] == 1
    names = ("leverage", "pruning", "refit", "recovery", "evaluation", "saving")
    parts = done[[f"seconds/{part}" for part in names]]
    np.testing.assert_allclose(parts.sum(axis=1), done["seconds"])
    series = json.loads((searched / "trials/t0000/phases.json").read_text())
    assert {entry["name"] for entry in series if entry["phase"] == "system"} >= {"process_memory_megabytes"}


def test_front_needs_no_server_and_prints_one_json_object(searched: Path) -> None:
    result = medcore_program("front", searched, "--json")
    front = json.loads(result.stdout)
    # the last trial repeats a member, which counts once
    assert front["trials"] + front["further_runs"] == 6 and front["further_runs"] == 1 and front["failed"] == 0
    flops = [row["flops"] for row in front["front"]]
    assert flops == sorted(flops) and front["hypervolume"] > 0


def test_exported_checkpoint_keeps_its_promise(searched: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.safetensors"
    trial_id = json.loads(medcore("front", searched, "--json").stdout)["front"][0]["trial_id"]
    trials = pd.read_parquet(searched / "trials.parquet").set_index("trial_id")
    row = trials.loc[trial_id]  # what the front shows is the mean over its runs
    result = medcore("export", searched, "--select", f"trial:{trial_id}", "--out", out)
    assert result.returncode == 0, result.stderr
    data = searched.parents[1] / "polyps"
    result = medcore("evaluate", out, "--data", data, "--split", "val/search", "--json", "-")
    measured = json.loads(result.stdout)
    for metric in ("dice", "iou", "boundary_f1", "hd95", "nsd", "assd", "flops", "encoder_params"):
        assert measured[metric] == pytest.approx(row[metric], abs=1e-3), metric


def test_exported_checkpoint_runs_in_segment_anything_alone_with_medcore(searched: Path, tmp_path: Path) -> None:
    out, mask, direct = (tmp_path / name for name in ("best.safetensors", "mask.png", "direct.npy"))
    assert medcore("export", searched, "--select", "knee", "--out", out).returncode == 0
    image = next((searched.parents[1] / "polyps" / "images").glob("*.png"))
    assert medcore("predict", out, image, "--box", "8,8,50,50", "--out", mask).returncode == 0
    script = f"""
import sys, numpy as np
from PIL import Image
from medcore.models.checkpoint import load
from medcore.models.sam import predictor
sam = predictor(load({str(out)!r}))
assert type(sam).__module__ == "segment_anything.predictor"
assert not {{"ray", "mlflow", "optuna", "search", "results"}} & set(sys.modules)
sam.set_image(np.asarray(Image.open({str(image)!r}).convert("RGB")))
np.save({str(direct)!r}, sam.predict(box=np.array([8, 8, 50, 50]), multimask_output=False)[0][0])
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(), cwd=tmp_path)
    assert np.array_equal(np.asarray(Image.open(mask)) > 0, np.load(direct))


def test_benchmark_compares_the_front_with_its_baselines(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(searched.parents[1] / "tiny.yaml")
    monkeypatch.setattr(sys, "argv", ["front_against_baselines", config, "--out", str(tmp_path)])
    front_against_baselines.main()
    models = pd.read_csv(tmp_path / "comparison.csv")
    # the front has a member at the rule's cost, and may have one at the uniform budget's
    methods = models["method"].tolist()
    assert methods[:4] == ["unpruned", "searched", "rule", "rule, schedule of the searched"]
    assert models["model"][1].startswith("searched ≤ 0.6 (t000")
    pairs = pd.read_csv(tmp_path / "differences.csv")
    assert pairs["baseline"].tolist()[:2] == ["rule 0.6", "rule 0.6, schedule of the searched"]
    assert (pairs["boundary_f1_lo"] <= pairs["boundary_f1"]).all()


def test_study_that_exists_is_not_overwritten(searched: Path) -> None:
    result = medcore("search", searched.parents[1] / "tiny.yaml")
    assert result.returncode == 2
    assert "--resume" in result.stderr and result.stderr.count("\n") == 1


def test_finished_study_resumes_elsewhere_without_running_anything(searched: Path) -> None:
    """The whole project has moved, and the study's own copy of the configuration starts it."""
    old, new = searched.parents[1], searched.parents[1].with_name("moved")

    def written() -> dict[str, int]:
        files = [
            *searched.glob("trials/*/row.json"),
            *searched.parent.glob("cache/*"),
            *searched.parent.glob("splits/*"),
        ]
        return {str(path): path.stat().st_mtime_ns for path in files if path.suffix != ".lock"}

    before = written()
    old.rename(new)
    result = medcore("search", new / "runs" / "tiny" / "config.yaml", "--resume")
    kept = medcore("evaluate", new / "adapted.safetensors", "--data", new / "polyps", "--split", "val/report",
                   "--splits", new / "runs" / "splits")  # fmt: skip
    assert not old.exists()
    new.rename(old)
    assert (result.returncode, kept.returncode) == (0, 0), result.stderr + kept.stderr
    assert before == written()


def test_changed_configuration_cannot_be_resumed(searched: Path, tmp_path: Path) -> None:
    text = (searched.parents[1] / "tiny.yaml").read_text().replace("steps: 4", "steps: 5")
    (tmp_path / "changed.yaml").write_text(text)
    result = medcore("search", tmp_path / "changed.yaml", "--resume")
    assert result.returncode == 2 and "recovery.steps" in result.stderr
