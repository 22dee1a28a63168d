"""adapt, score, prune: one model through the command line, on a tiny pair with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcore.data.load import load_image_set
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, read_info
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.score_table import ScoreTable
from medcore.training.train import EpochRow, TrainLog
from search.base.config import load_config
from search.cli import demo_pair
from search.commands.adapt import adapt
from search.commands.evaluate import evaluate as evaluate_file
from search.study import fit as training
from search.study.inputs import load_split
from tests.support.helpers import TINY
from tests.support.machines.command_line import medcore
from tests.support.studies.study_files import own_polyps, write_tiny_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


def test_adapt_writes_a_dense_checkpoint_that_differs_from_its_origin(folder: Path) -> None:
    out = folder / "medical.safetensors"
    config = write_tiny_study(folder, adapt={"out": str(out), "epochs": 1, "lr": 1e-3})
    result = medcore("adapt", config)
    assert result.returncode == 0, result.stderr
    adapted, base = load(out), load(folder / "base.safetensors")
    assert adapted.spec == ModelSpec.dense(TINY)
    changed = [name for name, value in adapted.state_dict().items() if not value.equal(base.state_dict()[name])]
    assert any(name.startswith("image_encoder.") for name in changed)
    assert not any(name.startswith("prompt_encoder.") for name in changed)


def test_adapt_that_stops_early_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "medical.safetensors"
    config = load_config(write_tiny_study(tmp_path, adapt={"out": str(out), "epochs": 3}))
    logs = iter(
        [
            TrainLog(stopped="non-finite loss or gradient at step 0 of epoch 0"),
            TrainLog(
                [EpochRow(0, 0.5, 0.6, 1e-4)], best_epoch=0, stopped="non-finite loss or gradient at step 2 of epoch 1"
            ),
        ]
    )
    monkeypatch.setattr(training, "train", lambda *arguments, **options: next(logs))
    with pytest.raises(MedcoreError, match=r"^adapt: non-finite loss .*nothing is written: lower adapt\.lr$"):
        adapt(config)
    assert not out.exists()
    assert adapt(config) == out and out.is_file()
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("adapt ended after 1 of 3 epochs: non-finite loss or gradient at step 2 of epoch 1;")


def test_adapt_does_not_hand_back_the_training_of_another_base(folder: Path) -> None:
    out = folder / "again.safetensors"
    settings = {"out": str(out), "epochs": 1}
    config = write_tiny_study(folder, adapt=settings)
    assert medcore("adapt", config).returncode == 0
    written = out.read_bytes()
    config = write_tiny_study(folder, adapt=settings, model={"base": str(folder / "adapted.safetensors")})
    result = medcore("adapt", config)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "which differs in starting weights; delete it" in result.stderr and out.read_bytes() == written


def test_evaluate_takes_the_splits_of_the_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(write_tiny_study(tmp_path))
    data, checkpoint, splits = own_polyps(tmp_path), tmp_path / "base.safetensors", tmp_path / "runs" / "splits"
    (data / "splits.json").unlink()
    with pytest.raises(MedcoreError, match="there are no saved splits"):
        evaluate_file(checkpoint, [data], "val/report", splits=splits)
    assert not splits.exists()
    reported = load_split(config.datasets, "val/report", TINY.img_size)
    for index in range(9):  # a new deal would differ
        for kind in ("images", "masks"):
            (data / kind / f"a{index}.png").write_bytes((data / kind / "medical_0000.png").read_bytes())
    command = ["evaluate", checkpoint, "--data", data, "--split", "val/report", "--json", "-"]
    result = medcore(*command, "--splits", splits)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    rows = evaluate(load(checkpoint), reported)
    assert (answer["images"], answer["skipped"]) == (len(rows), 9)
    assert answer["dice"] == pytest.approx(summarise(rows)["dice"])
    assert "dealt out" not in result.stderr and result.stderr.count("in no split of") == 9
    evaluate_file(checkpoint, [data], "val/report")
    assert sum("dealt out just now" in message for message in caplog.messages) == 1


def test_the_demo_chooses_its_models_without_the_reported_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(demo_pair, "GENERAL_IMAGES", 24)
    monkeypatch.setattr(demo_pair, "MEDICAL_IMAGES", 24)
    monkeypatch.setattr(demo_pair, "train", lambda model, training, val, *rest, **options: seen.append((training, val)))
    medical = demo_pair.make_pair(tmp_path, lambda *_: None)
    assert len(seen) == 2
    for folder, (trained, validation) in zip((tmp_path / "general", medical), seen, strict=True):
        reported = load_image_set([folder], "val/report", 128, save_splits=tmp_path / "splits", deal_splits=False)[0]
        assert reported.names and not set(reported.names) & {*trained.names, *validation.names}


def test_score_is_computed_once(folder: Path) -> None:
    config = write_tiny_study(folder)
    result = medcore("score", config)
    assert result.returncode == 0, result.stderr
    (path,) = (folder / "runs" / "cache").glob("scores-*.safetensors")
    assert ScoreTable.load(path).datasets == ("polyps",)
    assert path.with_suffix(".png").stat().st_size > 1000
    written = path.stat().st_mtime_ns
    assert medcore("score", config).returncode == 0
    assert path.stat().st_mtime_ns == written


def test_prune_removes_what_the_rule_says(folder: Path) -> None:
    config = write_tiny_study(folder, budget={"allocator": "rule", "head_sparsity": 0.5, "mlp_sparsity": 0.5})
    out = folder / "pruned.safetensors"
    result = medcore("prune", config, "--out", out)
    assert result.returncode == 0, result.stderr
    model = load(out)
    assert sum(model.spec.family("heads")) == 6 and sum(model.spec.family("channels")) == 2 * TINY.mlp_dim
    metrics = json.loads(read_info(out)["metrics"])
    assert metrics["flops"] == cost(model.spec).flops
    measured = medcore("evaluate", out, "--data", folder / "polyps", "--split", "val/report", "--json", "-")
    assert json.loads(measured.stdout)["boundary_f1"] == pytest.approx(metrics["boundary_f1"], abs=1e-3)
