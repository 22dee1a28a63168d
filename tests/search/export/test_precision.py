"""`medcore export --dtype`: files keep the precision of the study's checkpoint, and their masks are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medcore.errors import CheckpointError, ConfigError
from medcore.models.checkpoint import load, save
from medcore.models.cost import cost
from medcore.models.formats.precision import PRECISIONS, file_precision, in_precision, sizes
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from results.store.study_info import read_study_info, write_study
from search.commands.export import ExportRequest, export
from search.export.check import CheckImages, agreement, embedded_images
from search.export.format import ExportFormat
from search.export.formats import FORMATS
from tests.support.helpers import TINY
from tests.support.studies.export_study import SPEC, names, random_model, replace_format, write_study_of_one

pytestmark = pytest.mark.usefixtures("instant_timing")

WEIGHTS = {
    "checkpoint": "best.safetensors",
    "standalone": "out/model.safetensors",
    "huggingface": "out/model.safetensors",
    "mlflow": "out/artifacts/model.safetensors",
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study that pruned a float16 checkpoint; the numbers of its trial fit into float16."""
    folder = write_study_of_one(tmp_path)
    torch.save(random_model(ModelSpec.dense(TINY), 1).half().state_dict(), tmp_path / "half.pth")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["adapted"] = str(tmp_path / "half.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    save(folder / "trials" / "t0000" / "model.safetensors", in_precision(random_model(SPEC, 11), "float16").float())
    return folder


def run(study: Path, place: Path, kind: str = "checkpoint", **options: Any) -> tuple[Path, list[str]]:
    """Export; return the file with the weights, and what was said."""
    said = list[str]()
    out = place / ("best.safetensors" if kind == "checkpoint" else "out")
    export(ExportRequest(str(study), out, format=kind, latency=False, held_out=False, **options), said.append)
    return place / WEIGHTS[kind], said


@pytest.mark.parametrize("kind", WEIGHTS)
def test_files_keep_the_precision_of_the_checkpoint_and_say_their_size(kind: str, study: Path, tmp_path: Path) -> None:
    weights, said = run(study, tmp_path, kind)
    assert file_precision(weights) == "float16"
    checked, size = said
    assert "in float16 and medcore in float32 agree on 20 images" in checked and "1.000000 on average" in checked
    found, spec = sizes(SPEC, "float16"), ModelSpec.dense(TINY) if kind == "huggingface" else SPEC
    assert weights.stat().st_size == pytest.approx(sizes(spec, "float16").model, abs=60_000)
    numbers = weights.stat().st_size - 8 - int.from_bytes(weights.read_bytes()[:8], "little")
    # a SamModel has the positions of image and prompts twice: 2 x (channels / 2) numbers of 2 bytes
    assert numbers == sizes(spec, "float16").model + (2 * TINY.out_chans if kind == "huggingface" else 0)
    assert f"{weights.stat().st_size / 1e6:.2f} MB in float16" in size and f"{found.dense / 1e6:.2f} MB" in size
    assert f"{sum(found.unpruned.values()) / 1e3:.0f} kB of either are never pruned (decoder" in size
    if kind != "mlflow":
        source = load(weights if kind != "huggingface" else weights.parent)
        assert all(tensor.dtype == torch.float32 for tensor in source.state_dict().values())
    (card,) = [path for path in tmp_path.rglob("*") if path.name in ("MODEL_CARD.md", "best.card.md")]
    text = card.read_text(encoding="utf-8")
    assert "## Size on disk" in text and "dense model in float16" in text and "| – decoder |" in text


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_file_is_no_larger_than_its_share_of_the_dense_file_and_what_is_never_pruned(
    dtype: str, study: Path, tmp_path: Path
) -> None:
    def file(name: str, spec: ModelSpec) -> tuple[int, int]:
        """Bytes of a trial's exported file, and those of its header: names, structure and the trial's row."""
        model = in_precision(random_model(spec, 11), dtype).float()
        save(study / "trials" / "t0000" / "model.safetensors", model)
        weights, _ = run(study, tmp_path / name, dtype=dtype)
        return weights.stat().st_size, 8 + int.from_bytes(weights.read_bytes()[:8], "little")

    (whole, _), (smaller, header) = file("dense", ModelSpec.dense(TINY)), file("pruned", SPEC)
    share = cost(SPEC).encoder_params / cost(ModelSpec.dense(TINY)).encoder_params
    unpruned = sum(sizes(SPEC, dtype).unpruned.values())
    assert share < 0.8 and header < 2**16
    assert smaller <= share * whole + unpruned + header


def test_the_user_decides_and_what_the_study_recorded_comes_next(study: Path, tmp_path: Path) -> None:
    assert file_precision(run(study, tmp_path, dtype="float32")[0]) == "float32"
    (tmp_path / "half.pth").write_bytes(b"damaged since")
    assert file_precision(run(study, tmp_path)[0]) == "float32"
    write_study(study, read_study_info(study).model_copy(update={"precision": "float16"}))
    assert read_study_info(study).precision == "float16"
    assert file_precision(run(study, tmp_path)[0]) == "float16"


def test_rounding_that_changes_masks_is_refused_and_names_the_way_out(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = in_precision(random_model(SPEC, 12), "float16")
    replace_format(monkeypatch, "checkpoint", write=lambda path, _, info: save(path, other, info))
    with pytest.raises(CheckpointError, match=r"in float16 its masks differ.*--dtype float32") as caught:
        run(study, tmp_path / "new")
    assert "\n" not in str(caught.value) and names(tmp_path / "new") == []


def test_one_pixel_of_a_small_mask_is_no_reason_to_refuse() -> None:
    images = embedded_images(64)
    half = CheckImages(images.images, images.source, "float16")
    assert "0.999500 on average and at least 0.990" in agreement("it", [0.9901, *[1.0] * 18, 0.9999], half)
    for overlaps in ([0.9899, *[1.0] * 19], [0.9985] * 20):
        with pytest.raises(CheckpointError):
            agreement("it", overlaps, half)
    with pytest.raises(CheckpointError, match="take another format"):
        agreement("it", [0.9985, *[1.0] * 19], images)


def test_a_format_of_one_precision_says_so(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, model: MedSam, info: Any) -> None:
        assert next(model.parameters()).dtype == torch.float32
        save(path, model, info)

    def check(path: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
        return "looked at."

    one = ExportFormat("one", {"m": "weights"}, write, check, lambda *_: "", ".safetensors", precisions=("float32",))
    monkeypatch.setitem(FORMATS._entries, "one", one)
    said = list[str]()
    out = tmp_path / "one.safetensors"
    export(ExportRequest(str(study), out, format="one", latency=False, held_out=False), said.append)
    assert "not in float16 like the study's checkpoint" in said[-1] and file_precision(out) == "float32"
    for kind, dtype in (("one", "float16"), ("onnx", "bfloat16"), ("checkpoint", "int8")):
        with pytest.raises(ConfigError, match=f"--dtype {dtype}.*float32"):
            FORMATS[kind].require_precision(dtype)
