"""ONNX files say in ONNX Runtime what the model says in torch, for any number of boxes and for empty blocks."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from medcore.data.load import load_image_set
from medcore.errors import MedcoreError
from medcore.models import export
from medcore.models.architectures import spec_from
from medcore.models.checkpoint import load
from medcore.models.cut import prune
from medcore.models.export import write_onnx, write_standalone
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.synthetic.write import make
from tests.support.helpers import TINY, shared_dir, spec_of

UNEQUAL = spec_of(TINY, heads=(2, 0, 3, 1), channels=(48, 5, 0, 1))


def random_model(spec: ModelSpec) -> MedSam:
    torch.manual_seed(11)
    return build(spec)


class Runtime:
    """Both ONNX files of a folder in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )

    def __call__(self, pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """(3, S, S) of any range, (B, 4) -> (B, 1, low, low)."""
        (embedding,) = self.encoder.run(None, {"image": pixels[None].astype(np.float32)})
        logits: np.ndarray = self.decoder.run(None, {"embedding": embedding, "boxes": boxes.astype(np.float32)})[0]
        return logits


def in_torch(model: MedSam, pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        embedding = model.image_encoder(model.preprocess(torch.from_numpy(pixels[None])))
        logits: np.ndarray = model.decode(embedding, torch.from_numpy(boxes)).numpy()
    return logits


def random_boxes(count: int, side: int, seed: int = 0) -> np.ndarray:
    """float32 (B, 4), XYXY."""
    corners = np.random.default_rng(seed).uniform(0, side, (count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[MedSam, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    model = random_model(UNEQUAL)
    files = write_onnx(folder, model, {"trial": "t0007", "row": '{"dice": 0.5}'})
    assert sorted(files) == sorted(folder.iterdir())
    return model, folder


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_any_number_of_boxes(count: int, exported: tuple[MedSam, Path]) -> None:
    model, folder = exported
    pixels, boxes = make("medical", 1, TINY.img_size, seed=1)[0][0].transpose(2, 0, 1), random_boxes(count, 64)
    answer = Runtime(folder)(pixels, boxes)
    assert answer.shape == (count, 1, TINY.low_res, TINY.low_res)
    np.testing.assert_allclose(answer, in_torch(model, pixels, boxes), atol=1e-5)


def test_masks_of_twenty_images(exported: tuple[MedSam, Path]) -> None:
    model, folder = exported
    run, pictures = Runtime(folder), make("medical", 20, TINY.img_size, seed=2)[0].transpose(0, 3, 1, 2)
    for pixels, box in zip(pictures, random_boxes(20, 64), strict=True):
        ours, theirs = in_torch(model, pixels, box[None]), run(pixels, box[None])
        assert iou(ours > 0, theirs > 0) >= 0.999 and 0.01 < (ours > 0).mean() < 0.99


def test_pixels_of_any_range_and_a_constant_image(exported: tuple[MedSam, Path]) -> None:
    run, boxes = Runtime(exported[1]), random_boxes(1, 64)
    pixels = make("medical", 1, TINY.img_size, seed=1)[0][0].transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_allclose(run(pixels / 255, boxes), run(pixels, boxes), atol=1e-5)
    assert np.isfinite(run(np.full_like(pixels, 7), boxes)).all()


def test_structure_beside_it(exported: tuple[MedSam, Path]) -> None:
    described = json.loads((exported[1] / "model.json").read_text())
    assert spec_from(described["spec"]) == UNEQUAL
    assert described["trial"] == "t0007" and described["row"] == {"dice": 0.5} and described["format"] == "medcore-1"


def test_large_grids_and_weights_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 1600 tokens in a block of global attention take the fused kernel; windows of 3 do not divide the grid
    arch = dataclasses.replace(TINY, img_size=320)
    model = random_model(spec_of(arch, heads=(1, 2, 0, 3), channels=(3, 0, 9, 48))).train()
    monkeypatch.setattr(export, "_MOST_BYTES_INSIDE", 0)
    files = write_onnx(tmp_path, model)
    assert [path.name for path in files[2:4]] == ["decoder.onnx.data", "encoder.onnx.data"] and model.training
    pixels, boxes = make("medical", 1, 320, seed=1)[0][0].transpose(2, 0, 1), random_boxes(3, 320)
    np.testing.assert_allclose(Runtime(tmp_path)(pixels, boxes), in_torch(model.eval(), pixels, boxes), atol=1e-4)


def test_real_weights_on_real_images(tmp_path: Path) -> None:
    """A budget with another number of heads in every neighbouring block, one block without heads, one without MLP."""
    shared = shared_dir()
    dense = load(shared / "weights" / "medical.pth")
    heads, channels = (5, 4, 0, 6, 3, 2, 1, 5, 4, 3, 2, 6), (768, 100, 300, 0, 5, 700, 1, 333, 512, 640, 64, 768)
    chance = np.random.default_rng(0)

    def keep(width: int, count: int) -> Any:
        return chance.permutation(np.arange(width) < count)

    model = prune(dense, (*(keep(6, count) for count in heads), *(keep(768, count) for count in channels)))
    write_onnx(tmp_path, model)
    run, folders = Runtime(tmp_path), sorted(path for path in (shared / "data").iterdir() if path.is_dir())
    images, _ = load_image_set(folders, "val", model.arch.img_size, per_dataset=20 // len(folders))
    assert len(images) == 20
    for pixels, box in zip(images.images, images.boxes, strict=True):
        ours, theirs = in_torch(model, pixels, box[None]), run(pixels, box[None])
        assert (ours > 0).any() and iou(ours > 0, theirs > 0) >= 0.999


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_cure(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MedcoreError, match=rf"package {package}, which is missing; pip install \"medcore-search\[onnx\]"
    ):
        write_onnx(tmp_path, random_model(UNEQUAL))


@pytest.mark.parametrize("write", [write_onnx, write_standalone])
def test_folders_that_are_none(write: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedcoreError, match="cannot"):
        write(tmp_path / "file", random_model(UNEQUAL))
