"""`medcore export` in its three forms, on a small study with random weights: what is written agrees, or nothing is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from medcore.errors import MedcoreError
from medcore.models.checkpoint import load, read_info, save
from medcore.models.sam import MedSam, build, predictor
from medcore.models.spec import EncoderSpec
from medcore.synthetic.write import write_folder
from results.store.trials import compact, write_images, write_row, write_study
from search.commands import export as choose
from search.export import check as export_check
from search.export import formats as exports
from search.export import timing as latency
from search.study.inputs import cost_metrics
from tests.support.helpers import TINY
from tests.support.study_files import medcore

SPEC = EncoderSpec(TINY, heads=(2, 0, 3, 1), channels=(48, 5, 0, 1))
FOLDER_FILES = {
    "standalone": ["MODEL_CARD.md", "load_pruned.py", "model.json", "model.safetensors"],
    "onnx": ["MODEL_CARD.md", "decoder.onnx", "encoder.onnx", "model.json"],
}


def random_model(spec: EncoderSpec, seed: int) -> MedSam:
    torch.manual_seed(seed)
    return build(spec)


def write_study_of_one(place: Path) -> Path:
    """A study of one trial, with its data and configuration."""
    folder = place / "runs" / "s"
    data = write_folder(place / "polyps", "medical", 80, TINY.img_size, seed=3)
    dense = {"dice": 0.9, **cost_metrics(EncoderSpec.dense(TINY))}
    objectives = [{"name": "flops", "direction": "min"}, {"name": "dice", "direction": "max"}]
    reference = {"flops": 2 * dense["flops"], "dice": 0.0}
    widths = {"heads": 3, "channels": 48}
    info = {"name": "s", "objectives": objectives, "reference": reference, "dense": dense, "widths": widths}
    write_study(folder, info)
    row = {"trial_id": "t0000", "number": 0, "status": "done", "origin": "sampled", "dice": 0.8, "dice/polyps": 0.8}
    row |= {"heads": [*SPEC.heads], "channels": [*SPEC.channels], "checkpoint": "trials/t0000/model.safetensors"}
    write_images(folder, "t0000", [{"dataset": "polyps", "name": f"{i}", "dice": 0.7 + i / 10} for i in range(3)])
    write_row(folder, row | cost_metrics(SPEC))
    compact(folder)
    save(folder / "trials" / "t0000" / "model.safetensors", random_model(SPEC, 11))
    save(place / "base.safetensors", random_model(EncoderSpec.dense(TINY), 1))
    config = {
        "model": {"base": str(place / "base.safetensors"), "adapted": "gone.pth"},
        "data": {"folders": [str(data)], "search_split": "val", "calibration_split": "train"},
        "of another version": True,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study_of_one(tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoint_with_its_card(study: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "new" / "best.safetensors", list[str]()
    row = choose.export(str(study), "knee", out, "checkpoint", said.append)
    assert names(out.parent) == ["best.card.md", "best.safetensors"] and row["trial_id"] == "t0000"
    assert len({path.stat().st_mode for path in out.parent.iterdir()}) == 1
    source = load(study / "trials" / "t0000" / "model.safetensors").state_dict()
    assert all(torch.equal(tensor, source[name]) for name, tensor in load(out).state_dict().items())
    info = read_info(out)
    assert (info["study"], info["select"], json.loads(info["row"])["dice"]) == ("s", "knee", 0.8)
    checked, timed = said
    assert checked == f"checked: all {len(source)} tensors, read back, equal the trial's."
    share = cost_metrics(SPEC)["flops_fraction"]
    assert timed.startswith("time: ") and f"of the dense model's for {share:.1%} of the FLOPs (" in timed
    card = (tmp_path / "new" / "best.card.md").read_text(encoding="utf-8")
    assert "medcore predict best.safetensors" in card and "`gone.pth` |" in card and "0.8 |" in card
    assert f"`{tmp_path / 'base.safetensors'}` (SHA-256 " in card
    assert "| whole call, one image |" in card and "| encoder, 8 images |" in card and "Measured at the export" in card
    again: list[str] = []
    choose.export(str(study), "knee", out, "checkpoint", again.append, time_it=False)
    assert again == [checked] and "Not measured." in (tmp_path / "new" / "best.card.md").read_text(encoding="utf-8")


def test_standalone_folder(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    out, said = tmp_path / "alone", list[str]()
    (out / "kept").mkdir(parents=True)
    (out / "encoder.onnx").write_text("of another model, exported here before")
    (out / "MODEL_CARD.md").write_text("of that model")
    choose.export(str(study), "knee", out, "standalone", said.append)
    assert names(out) == sorted([*FOLDER_FILES["standalone"], "kept"])
    assert (
        "load_pruned.py and medcore agree on 20 images of the study's part val: IoU of the masks at least 1.0"
        in said[0]
    )
    assert said[0].removeprefix("checked: ") in (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    described = json.loads((out / "model.json").read_text())
    assert described["row"]["dice"] == 0.8 and EncoderSpec.from_dict(described["spec"]) == SPEC


def test_files_that_no_export_wrote_are_not_touched(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "model.safetensors").write_text("mine")
    with pytest.raises(MedcoreError, match=r"it holds model\.safetensors, which no export wrote; give another folder"):
        choose.export(str(study), "knee", out, "standalone")
    (out / "model.safetensors").rename(out / "encoder.onnx")
    choose.export(str(study), "knee", out, "standalone", time_it=False)
    assert names(out) == sorted([*FOLDER_FILES["standalone"], "encoder.onnx"])
    assert (out / "encoder.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "kind"), [("t0000", "standalone"), ("t0000/model.safetensors", "checkpoint"), ("new/deep", "onnx")]
)
def test_a_studys_trials_are_no_place_for_an_export(out: str, kind: str, study: Path) -> None:
    before = (study / "trials" / "t0000" / "model.safetensors").read_bytes()
    with pytest.raises(MedcoreError, match="lies among a study's trials"):
        choose.export(str(study), "knee", study / "trials" / out, kind)
    assert (study / "trials" / "t0000" / "model.safetensors").read_bytes() == before
    assert names(study / "trials") == ["t0000"]


def test_time_that_cannot_be_measured_costs_a_sentence(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(latency, "compare", full)
    said = list[str]()
    choose.export(str(study), "knee", tmp_path / "best.safetensors", "checkpoint", said.append)
    assert said[1].startswith("Time was not measured: ") and "No space left" in said[1]
    assert said[1] in (tmp_path / "best.card.md").read_text(encoding="utf-8")


def test_onnx_folder_through_the_command_line_and_the_cards_example(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "onnx"
    result = medcore("export", study, "--select", "knee", "--out", out, "--format", "onnx")
    assert result.returncode == 0 and names(out) == FOLDER_FILES["onnx"], result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("checked: ")]
    assert "ONNX Runtime and medcore agree on 20 images of the study's part val: IoU of the masks at least 1.0" in line
    assert f"wrote {out}" in result.stdout and "Warning" not in result.stderr
    # the example reads image.jpg and leaves the mask in `mask`
    monkeypatch.chdir(out)
    picture = np.kron(np.random.default_rng(0).integers(0, 255, (25, 26, 3), dtype=np.uint8), np.ones((10, 10, 1)))
    Image.fromarray(picture.astype(np.uint8)).save("image.jpg")
    scope: dict[str, Any] = {}
    example = (out / "MODEL_CARD.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(example, scope)
    sam = predictor(load(study / "trials" / "t0000" / "model.safetensors"))
    sam.set_image(np.asarray(Image.open("image.jpg")))
    expected = sam.predict(box=np.array([40, 60, 200, 220]), multimask_output=False)[0][0]
    assert 0.05 < expected.mean() < 0.95
    assert (scope["mask"] & expected).sum() / (scope["mask"] | expected).sum() > 0.999


@pytest.mark.parametrize("kind", ["standalone", "onnx"])
def test_an_export_that_differs_appears_nowhere(
    kind: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path, model: MedSam, info: dict[str, str]) -> list[Path]:
        return right(folder, random_model(SPEC, 12), info)

    right = getattr(exports, f"write_{kind}")
    monkeypatch.setattr(exports, f"write_{kind}", write)
    with pytest.raises(MedcoreError, match=r"masks differ from medcore's, IoU 0\.\d+ on the worst of 20 images of"):
        choose.export(str(study), "knee", tmp_path / "out", kind)
    assert names(tmp_path / "out") == []


def test_a_checkpoint_that_differs_appears_nowhere(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "save", lambda path, _, info: save(path, random_model(SPEC, 12), info))
    with pytest.raises(MedcoreError, match=r"^best\.safetensors: what was written differs"):
        choose.export(str(study), "knee", tmp_path / "out" / "best.safetensors")
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("text", [None, "a: [", "- 1", "data: null", "data: {folders: [gone], search_split: val}"])
def test_without_the_studys_data_embedded_images_are_compared(text: str | None, study: Path, tmp_path: Path) -> None:
    (study / "config.yaml").unlink() if text is None else (study / "config.yaml").write_text(text)
    said = list[str]()
    choose.export(str(study), "knee", tmp_path / "alone", "standalone", said.append)
    assert "agree on 20 embedded images" in said[0]


@pytest.mark.parametrize(
    ("out", "kind", "reason"),
    [
        ("best.pth", "checkpoint", r"must end in \.safetensors"),
        ("best.safetensors", "onnx", "onnx writes several files; give a folder"),
        ("best.safetensors", "standalone", "standalone writes several files; give a folder"),
        ("taken", "standalone", "standalone writes several files; give a folder"),
        ("best", "torchscript", "--format torchscript: unknown; known are checkpoint, standalone, onnx, mlflow"),
    ],
)
def test_targets_of_another_kind(out: str, kind: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(MedcoreError, match=reason):
        choose.export("no such study", "knee", tmp_path / out, kind)


def test_onnx_without_its_runtime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MedcoreError, match=r'needs onnxruntime, which is missing; pip install "medcore-search\[onnx\]"'
    ):
        choose.export("no such study", "knee", tmp_path, "onnx")


def test_a_slow_model_is_compared_on_fewer_images(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_check, "PATIENCE_SECONDS", -1)
    said = list[str]()
    choose.export(str(study), "knee", tmp_path / "alone", "standalone", said.append)
    assert "agree on 3 images of the study's part val" in said[0]


def test_masks_that_are_both_empty_agree() -> None:
    empty, full = np.zeros((2, 2), np.bool_), np.ones((2, 2), np.bool_)
    assert export_check.iou(empty, empty) == 1 and export_check.iou(empty, full) == 0
