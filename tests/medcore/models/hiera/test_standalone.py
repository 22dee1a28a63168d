"""The loader of an exported SAM 2 gives medcore's logits, and refuses other files in one line; and ONNX graphs do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medcore.models.checkpoint import read_info
from medcore.models.cut import prune
from medcore.models.export import write_onnx, write_standalone
from medcore.models.sam import MedSam, predictor
from medcore.models.spec import ModelSpec
from search.export.kinds.standalone import _import
from tests.support.hiera import BOTH, DEEP, LITTLE, little_model, random_masks

BOX = np.array([6.0, 10.0, 70.0, 44.0])
PICTURE = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)


def pruned(arch: Any, seed: int = 8) -> MedSam:
    spec = ModelSpec.dense(arch)
    return prune(little_model(seed, spec), random_masks(spec, seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported")
    names = {path.name for path in write_standalone(place, pruned(DEEP))}
    scripts = ("load_pruned.py", "load_sam.py", "hiera.py", "hiera_masks.py")
    assert names == {"model.safetensors", "model.json", *scripts}
    assert not any("medcore.models" in (place / name).read_text() for name in scripts)
    return place


@pytest.mark.parametrize(
    ("arch", "several"),
    [(DEEP, False), (DEEP, True), (BOTH, False), (dataclasses.replace(LITTLE, stable_mask=False), False)],
    ids=["one", "three", "decoder", "mask 0"],
)
def test_logits_equal_medcores(arch: Any, several: bool, tmp_path: Path) -> None:
    model = pruned(arch, 4)
    write_standalone(tmp_path, model)
    script: Any = _import(tmp_path / "load_pruned.py")
    both = []
    for sam in (predictor(model), script.predictor(script.from_pretrained(tmp_path))):
        sam.set_image(PICTURE)
        both.append(sam.predict(box=BOX, multimask_output=several, return_logits=True)[:2])
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert not list(tmp_path.glob("__pycache__"))


def test_wrong_files_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    script: Any = _import(folder / "load_pruned.py")
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
        "embed_dim": 9,
        "depths": [1, 2, 600, 1],
        "num_heads": "2",
        "window_sizes": [8, 4, 7, 2],
        "global_attn_indexes": [7],
        "pos_embed_size": 25,
        "mlp_ratio": 1e9,
        "pixel_std": [1, 1, 0],
        "stable_mask": 1,
        "out_chans": 12,
        "blocks": [2] * 4,
        "heads": [1, 2],
    }.items():
        refused("not the structure of a model", **{name: value})
    refused("size mismatch", {name: value for name, value in state.items() if "neck.convs.0" not in name})
    refused("not finite", {**state, "image_encoder.no_mem_embed": state["image_encoder.no_mem_embed"] * np.inf})


@pytest.mark.slow
def test_onnx_graphs_meet_at_the_folded_embedding(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = pruned(LITTLE)
    write_onnx(tmp_path, model)
    image = torch.rand(1, 3, 96, 96)
    boxes = torch.tensor([[4.0, 8.0, 40.0, 60.0], [12.0, 3.0, 80.0, 51.0], [1.0, 1.0, 90.0, 90.0]])
    encoder, decoder = (
        runtime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("encoder", "decoder")
    )
    (embedding,) = encoder.run(None, {"image": image.numpy()})
    (logits,) = decoder.run(None, {"embedding": embedding, "boxes": boxes.numpy()})
    with torch.no_grad():
        folded = model.image_encoder(model.preprocess(image))
        np.testing.assert_allclose(embedding, folded.numpy(), atol=1e-4)
        np.testing.assert_allclose(logits, model.decode(folded, boxes).numpy(), atol=1e-4)
