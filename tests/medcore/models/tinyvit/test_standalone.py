"""The loader of an exported TinyViT gives medcore's logits, and refuses other files in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from medcore.errors import MedcoreError
from medcore.models.checkpoint import read_info
from medcore.models.cut import prune
from medcore.models.export import write_onnx, write_standalone
from medcore.models.sam import predictor
from medcore.models.spec import ModelSpec
from search.export.kinds.standalone import _import
from tests.support.studies.study_files import environment
from tests.support.tiny_vit import DENSE, LITTLE, little_model, random_masks

BOX = np.array([6.0, 10.0, 70.0, 44.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with a hollow block, one that is gone, and uneven widths."""
    place = tmp_path_factory.mktemp("exported")
    model = prune(little_model(8), random_masks(DENSE, 8))
    assert {path.name for path in write_standalone(place, model)} == {
        *("model.safetensors", "model.json", "load_pruned.py", "load_sam.py", "tiny_vit.py")
    }
    return place


@pytest.fixture(scope="module")
def script(folder: Path) -> Iterator[ModuleType]:
    yield _import(folder / "load_pruned.py")


@pytest.mark.parametrize("shape", [(50, 90), (64, 20), (45, 45), (32, 32)])
def test_logits_equal_medcores(folder: Path, script: Any, shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    both = []
    ours = predictor(prune(little_model(8), random_masks(DENSE, 8)))
    for sam in (ours, script.predictor(script.from_pretrained(folder))):
        sam.set_image(picture)
        box = np.minimum(BOX, [shape[1], shape[0]] * 2)
        both.append(sam.predict(box=box, multimask_output=False, return_logits=True)[0][0])
    assert both[0].shape == shape and not list(folder.glob("__pycache__"))
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)


@pytest.mark.parametrize("padded", [True, False])
def test_logits_below_the_squares_size_equal_medcores(tmp_path: Path, padded: bool) -> None:
    """Small logits of a strided stem, where one resize and two differ."""
    arch = replace(LITTLE, img_size=64, stem_stride=2, window_sizes=(3, 3, 4, 4), padded=padded)
    model = little_model(3, ModelSpec.dense(arch))
    assert model.arch.low_res < 64
    write_standalone(tmp_path, model)
    script: Any = _import(tmp_path / "load_pruned.py")
    exported = script.load(tmp_path / "model.safetensors")
    for number, shape in enumerate([(90, 90), (64, 64), (50, 90)]):
        picture = np.random.default_rng(number).integers(0, 255, (*shape, 3), dtype=np.uint8)
        both = []
        for sam in (predictor(model), script.predictor(exported)):
            sam.set_image(picture)
            both.append(sam.predict(box=BOX, multimask_output=False, return_logits=True))
        np.testing.assert_allclose(both[0][0], both[1][0], atol=1e-4)
        low, inner = torch.from_numpy(both[0][2])[None], model.arch.frame.inner(*shape)
        if padded:
            low = F.interpolate(low, (64, 64), mode="bilinear", align_corners=False)[..., : inner[0], : inner[1]]
        expected = F.interpolate(low, shape, mode="bilinear", align_corners=False)
        np.testing.assert_array_equal(both[0][0], expected[0].numpy())


def test_it_runs_where_medcore_is_not(folder: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "image.png")
    code = f"import sys, runpy; sys.modules['medcore'] = None; sys.argv[0] = {str(folder / 'load_pruned.py')!r}; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    paths = [folder / "model.safetensors", tmp_path / "image.png", "6,10,70,44", tmp_path / "mask.png"]
    program = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sam = predictor(prune(little_model(8), random_masks(DENSE, 8)))
    sam.set_image(picture)
    expected = sam.predict(box=BOX, multimask_output=False)[0][0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")) > 0, expected)


def test_wrong_files_are_refused_in_one_line(folder: Path, script: Any, tmp_path: Path) -> None:
    path, state = folder / "model.safetensors", load_file(folder / "model.safetensors")
    info = read_info(path)
    spec = json.loads(info["spec"])

    def refused(match: str, state: dict[str, torch.Tensor] = state, **changes: Any) -> None:
        wrong = {**spec, **{name: value for name, value in changes.items() if name in spec}}
        wrong["arch"] = {**spec["arch"], **{name: value for name, value in changes.items() if name not in spec}}
        save_file(state, tmp_path / "wrong.safetensors", {**info, "spec": json.dumps(wrong)})
        with pytest.raises(ValueError, match=match) as caught:
            script.load(tmp_path / "wrong.safetensors")
        assert "\n" not in str(caught.value)

    for name, value in {
        "kind": "sam_vit",
        "img_size": 2**14,
        "embed_dims": [8, 12, 16],
        "depths": [2, 1, 600, 1],
        "num_heads": [1, 2, "4", 3],
        "window_sizes": [3, 3, 4],
        "merge_strides": [2, 2, 4],
        "mlp_ratio": 1e9,
        "pixel_std": [1, 1, 0],
        "padded": 1,
        "out_chans": 12,
        "blocks": [2] * 7,
        "merges": [1, 2],
    }.items():
        refused("structure", **{name: value})
    refused("structure", stem_stride=2, img_size=40)
    for windows in ([3, 17, 4, 8], [3, 3, 4, 9], [3, 3, 4, 2**16]):
        refused("structure.*window_sizes must be at most the tokens", window_sizes=windows)
    refused("size mismatch", {name: value for name, value in state.items() if "neck.0" not in name})
    refused("not finite", {**state, "image_encoder.neck.0.weight": state["image_encoder.neck.0.weight"] * np.inf})
    count = "image_encoder.patch_embed.seq.0.bn.num_batches_tracked"
    refused("holds torch.float32 instead of torch.int64", {**state, count: torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"holds no .safetensors file"):
        (tmp_path / "empty").mkdir()
        script.from_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="not a model exported by medcore"):
        save_file(state, tmp_path / "bare.safetensors")
        script.load(tmp_path / "bare.safetensors")


def test_graphs_of_padded_squares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedcoreError, match="padded"):
        write_onnx(tmp_path, little_model())
    assert not list(tmp_path.iterdir())
