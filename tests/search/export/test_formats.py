"""`medcore export` on a small study with random weights: what is written agrees with the model, or nothing appears."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medcore.errors import CheckpointError, ConfigError
from medcore.models.architectures import spec_from
from medcore.models.checkpoint import load, read_info, save
from medcore.models.sam import MedSam, predictor
from results.pages.markdown import plain
from search.commands.export import ExportRequest, export
from search.export import check as export_check
from search.export import timing as latency
from search.export.check import CheckImages
from search.export.format import ExportFormat
from search.export.formats import FORMATS
from search.study.inputs import cost_metrics
from tests.search.export.conftest import measure_nothing
from tests.support.machines.command_line import Done, medcore
from tests.support.studies.export_study import SPEC, names, random_model, replace_format, write_study_of_one

pytestmark = pytest.mark.usefixtures("instant_timing")

FOLDER_FILES = {
    "standalone": ["MODEL_CARD.md", "load_pruned.py", "model.json", "model.safetensors"],
    "onnx": ["MODEL_CARD.md", "decoder.onnx", "encoder.onnx", "model.json"],
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study_of_one(tmp_path)


@pytest.fixture(scope="module")
def onnx_export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Done]:
    """A study, the folder of its trial's ONNX export, and what the command said. ONNX takes seconds to write."""
    place = tmp_path_factory.mktemp("onnx")
    study, out = write_study_of_one(place), place / "onnx"
    with pytest.MonkeyPatch.context() as monkeypatch:
        measure_nothing(monkeypatch)
        done = medcore("export", study, "--select", "knee", "--out", out, "--format", "onnx")
    return study, out, done


def test_checkpoint_with_its_card(study: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "new" / "best.safetensors", list[str]()
    row = export(ExportRequest(str(study), out), said.append)
    assert names(out.parent) == ["best.card.md", "best.safetensors"] and row.trial_id == "t0000"
    assert len({path.stat().st_mode for path in out.parent.iterdir()}) == 1
    source = load(study / "trials" / "t0000" / "model.safetensors").state_dict()
    assert all(torch.equal(tensor, source[name]) for name, tensor in load(out).state_dict().items())
    info = read_info(out)
    assert (info["study"], info["select"], json.loads(info["row"])["dice"]) == ("s", "knee", 0.8)
    checked, timed, size = said
    assert size.startswith("size: ") and "in float32" in size
    assert checked == f"checked: all {len(source)} tensors, read back, equal the trial's."
    share = cost_metrics(SPEC)["flops_fraction"]
    # on a busy machine it says that instead of a time
    assert timed.startswith("time: ") and f" for {share:.1%} of the FLOPs" in timed
    card = (tmp_path / "new" / "best.card.md").read_text(encoding="utf-8")
    assert "medcore predict best.safetensors" in card and "`gone.pth` |" in card and "0.8 |" in card
    assert f"`{tmp_path / 'base.safetensors'}` (SHA-256 " in card
    assert "| whole call, one image |" in card and "| encoder, 8 images |" in card and "Measured at the export" in card
    again: list[str] = []
    export(ExportRequest(str(study), out, latency=False), again.append)
    assert again == [checked, size] and "Not measured." in (tmp_path / "new" / "best.card.md").read_text(
        encoding="utf-8"
    )


def test_standalone_folder(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    out, said = tmp_path / "alone", list[str]()
    (out / "kept").mkdir(parents=True)
    (out / "encoder.onnx").write_text("of another model, exported here before")
    (out / "MODEL_CARD.md").write_text("of that model")
    export(ExportRequest(str(study), out, format="standalone"), said.append)
    assert names(out) == sorted([*FOLDER_FILES["standalone"], "kept"])
    assert (
        "load_pruned.py and medcore agree on 20 images of the study's part val: IoU of the masks at least 1.0"
        in said[0]
    )
    assert said[0].removeprefix("checked: ") in (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    described = json.loads((out / "model.json").read_text())
    assert described["row"]["dice"] == 0.8 and spec_from(described["spec"]) == SPEC


def test_files_that_no_export_wrote_are_not_touched(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "model.safetensors").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*model\.safetensors"):
        export(ExportRequest(str(study), out, format="standalone"))
    (out / "model.safetensors").rename(out / "encoder.onnx")
    export(ExportRequest(str(study), out, format="standalone", latency=False))
    assert names(out) == sorted([*FOLDER_FILES["standalone"], "encoder.onnx"])
    assert (out / "encoder.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("out", "kind"), [("t0000", "standalone"), ("t0000/model.safetensors", "checkpoint"), ("new/deep", "onnx")]
)
def test_a_studys_trials_are_no_place_for_an_export(out: str, kind: str, study: Path) -> None:
    before = (study / "trials" / "t0000" / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"--out .*trials"):
        export(ExportRequest(str(study), study / "trials" / out, format=kind))
    assert (study / "trials" / "t0000" / "model.safetensors").read_bytes() == before
    assert names(study / "trials") == ["t0000"]


def test_time_that_cannot_be_measured_costs_a_sentence(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(latency, "compare", full)
    said = list[str]()
    export(ExportRequest(str(study), tmp_path / "best.safetensors"), said.append)
    assert said[1].startswith("Time was not measured: ") and "No space left" in said[1]
    assert plain(said[1]) in (tmp_path / "best.card.md").read_text(encoding="utf-8")


def test_onnx_folder_through_the_command_line_and_the_cards_example(
    onnx_export: tuple[Path, Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, written, result = onnx_export
    out = tmp_path / "onnx"
    shutil.copytree(written, out)
    assert result.returncode == 0 and names(out) == FOLDER_FILES["onnx"], result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("checked: ")]
    assert "ONNX Runtime and medcore agree on 20 images of the study's part val: IoU of the masks at least 1.0" in line
    assert f"wrote {written}" in result.stdout and "Warning" not in result.stderr
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


def test_a_standalone_export_that_differs_appears_nowhere(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path, model: MedSam, info: Mapping[str, str]) -> object:
        return right(folder, random_model(SPEC, 12), info)

    right = FORMATS["standalone"].write
    replace_format(monkeypatch, "standalone", write=write)
    with pytest.raises(CheckpointError, match=r"IoU 0\.\d+ .* 20 images"):
        export(ExportRequest(str(study), tmp_path / "out", format="standalone"))
    assert names(tmp_path / "out") == []


def test_an_onnx_export_that_differs_appears_nowhere(
    study: Path, onnx_export: tuple[Path, Path, Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path, model: MedSam, info: Mapping[str, str]) -> None:
        shutil.copytree(onnx_export[1], folder, dirs_exist_ok=True)

    save(study / "trials" / "t0000" / "model.safetensors", random_model(SPEC, 12))
    replace_format(monkeypatch, "onnx", write=write)
    with pytest.raises(CheckpointError, match=r"IoU 0\.\d+ .* 20 images"):
        export(ExportRequest(str(study), tmp_path / "out", format="onnx"))
    assert names(tmp_path / "out") == []


def test_a_checkpoint_that_differs_appears_nowhere(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_format(monkeypatch, "checkpoint", write=lambda path, _, info: save(path, random_model(SPEC, 12), info))
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        export(ExportRequest(str(study), tmp_path / "out" / "best.safetensors"))
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("text", [None, "data: null", "data: {folders: [gone], search_split: val}"])
def test_without_the_studys_data_embedded_images_are_compared(text: str | None, study: Path, tmp_path: Path) -> None:
    (study / "config.yaml").unlink() if text is None else (study / "config.yaml").write_text(text)
    said = list[str]()
    export(ExportRequest(str(study), tmp_path / "alone", format="standalone"), said.append)
    assert "agree on 20 embedded images" in said[0]


@pytest.mark.parametrize(
    ("out", "kind", "reason"),
    [
        ("best.pth", "checkpoint", r"best\.pth.*\.safetensors"),
        ("best.safetensors", "onnx", r"best\.safetensors.*onnx.*folder"),
        ("best.safetensors", "standalone", r"best\.safetensors.*standalone.*folder"),
        ("taken", "standalone", r"taken.*standalone.*folder"),
        ("best", "torchscript", r"torchscript.*checkpoint, standalone, onnx, mlflow"),
    ],
)
def test_targets_of_another_kind(out: str, kind: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=reason):
        export(ExportRequest("no such study", tmp_path / out, format=kind))


def test_onnx_without_its_runtime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r'onnxruntime.* pip install "medcore-search\[onnx\]"'):
        export(ExportRequest("no such study", tmp_path, format="onnx"))


def test_a_slow_model_is_compared_on_fewer_images(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_check, "PATIENCE_SECONDS", -1)
    said = list[str]()
    export(ExportRequest(str(study), tmp_path / "alone", format="standalone"), said.append)
    assert "agree on 3 images of the study's part val" in said[0]


def test_a_format_is_one_record(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are described, and those of an earlier export give way to it, only by what the record says."""

    def write(folder: Path, model: MedSam, info: Mapping[str, str]) -> None:
        (folder / "shape.txt").write_text(str(model.spec.widths))

    def check(folder: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
        assert len(images().images) == 20 and (folder / "shape.txt").is_file()
        return "looked at."

    shape = ExportFormat(
        name="shape",
        files={"shape.txt": "widths of the blocks"},
        write=write,
        check=check,
        usage=lambda name, side: f"Read {name} for {side} pixels.",
    )
    monkeypatch.setitem(FORMATS._entries, "shape", shape)
    out, said = tmp_path / "out", list[str]()
    export(ExportRequest(str(study), out, format="standalone", latency=False))
    export(ExportRequest(str(study), out, format="shape", latency=False), said.append)
    assert names(out) == ["MODEL_CARD.md", "shape.txt"] and said[0] == "checked: looked at."
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "widths of the blocks" in card and "Read out for 64 pixels." in card
    export(ExportRequest(str(study), out, format="standalone", latency=False))
    assert names(out) == FOLDER_FILES["standalone"]
