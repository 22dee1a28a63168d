"""Models with a pruned decoder in files, and in other programs."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import medcore
from medcore.errors import CheckpointError, ConfigError
from medcore.models.checkpoint import load, save
from medcore.models.cut import prune, with_parts
from medcore.models.decoder.transformer import narrow
from medcore.models.export import MODEL, write_huggingface, write_standalone
from medcore.models.sam import MedSam, predictor
from medcore.models.spec import BLOCKS, DECODER, ENCODER
from tests.support.decoders import ALONE, BOTH, inputs, masks_of, masks_without, model_with_decoder
from tests.support.tiny_vit import little_model

PICTURE = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
BOX = np.array([5, 6, 30, 40])


def loader(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported", folder / "load_pruned.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logits(interactive: Any, several: bool = False) -> np.ndarray[Any, Any]:
    interactive.set_image(PICTURE)
    found: np.ndarray[Any, Any] = interactive.predict(box=BOX, multimask_output=several, return_logits=True)[0]
    return found


def pruned(name: str) -> MedSam:
    if name == "blocks":
        dense = with_parts(model_with_decoder(3, replace(BOTH, parts=(ENCODER,))), (BLOCKS, ENCODER, DECODER))
    elif name == "tiny_vit":
        dense = with_parts(little_model(2), (ENCODER, DECODER))
    else:
        dense = model_with_decoder(3, BOTH if name == "both" else ALONE)
    return prune(dense, masks_of(dense.spec, 4))


@torch.no_grad()
@pytest.mark.parametrize("name", ["both", "alone", "blocks", "tiny_vit"])
def test_a_file_gives_the_model_back(name: str, tmp_path: Path) -> None:
    model = pruned(name)
    save(tmp_path / "model.safetensors", model)
    again = load(tmp_path / "model.safetensors")
    given = inputs(model)
    assert again.spec == model.spec and torch.equal(again.segment(*given), model.segment(*given))
    assert all(np.array_equal(one, two) for one, two in zip(again.kept or (), model.kept or (), strict=True))
    with pytest.raises(CheckpointError, match="parts must be some of"):
        medcore.load(tmp_path / "model.safetensors", parts=["neck"])


@pytest.mark.parametrize("name", ["both", "alone", "blocks", "tiny_vit"])
def test_segment_anything_runs_it_without_medcore(name: str, tmp_path: Path) -> None:
    model = pruned(name)
    files = {path.name for path in write_standalone(tmp_path, model)}
    assert "sam_decoder.py" in files
    script = loader(tmp_path)
    np.testing.assert_allclose(
        logits(script.predictor(script.load(tmp_path / MODEL))), logits(predictor(model)), atol=1e-4
    )


def test_lost_masks_are_refused_and_whole_ones_given(tmp_path: Path) -> None:
    dense = model_with_decoder(1)
    for lost, folder in ((False, tmp_path / "whole"), (True, tmp_path / "lost")):
        folder.mkdir()
        write_standalone(folder, prune(dense, masks_without(dense.spec, *(["decoder_outputs"] if lost else []))))
        script = loader(folder)
        interactive = script.predictor(script.load(folder / MODEL))
        assert logits(interactive).shape == (1, 50, 40)
        if lost:
            with pytest.raises(ValueError, match="has lost some of masks 1 to 3; ask for one mask"):
                logits(interactive, several=True)
        else:
            np.testing.assert_allclose(logits(interactive, True), logits(predictor(dense), True), atol=1e-4)


@pytest.mark.parametrize(
    ("family", "widths"),
    [
        ("decoder_layers", [1]),
        ("decoder_channels", [24, 25]),
        ("decoder_token_heads", [4, 4, -1]),
        ("decoder_hidden", "many"),
        ("decoder_self_heads", [4, True]),
        ("decoder_outputs", None),
    ],
)
def test_wrong_widths_are_one_line(family: str, widths: object, tmp_path: Path) -> None:
    model = model_with_decoder(1)
    write_standalone(tmp_path, model)
    spec = json.loads(model.spec.to_json()) | {family: widths}
    with pytest.raises(ValueError, match=f"^{family} must hold whole numbers"):
        narrow(model.mask_decoder, spec)
    save_file(load_file(tmp_path / MODEL), tmp_path / MODEL, {"format": "medcore-1", "spec": json.dumps(spec)})
    with pytest.raises(ValueError, match=f"not the structure of a model .{family} must hold") as caught:
        loader(tmp_path).load(tmp_path / MODEL)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_a_sam_model_of_transformers_has_a_whole_decoder(tmp_path: Path) -> None:
    dense = model_with_decoder(5)
    model = prune(dense, masks_without(dense.spec, "decoder_channels", "decoder_image_heads"))
    write_huggingface(tmp_path, model)
    again, given = load(tmp_path), inputs(model)
    torch.testing.assert_close(again.segment(*given), model.segment(*given), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match=r"all layers, blocks and outputs, but .*layers\.0.* is gone as a whole"):
        write_huggingface(tmp_path, prune(dense, masks_without(dense.spec, "decoder_layers")))
