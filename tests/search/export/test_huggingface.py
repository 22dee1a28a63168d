"""`medcore export --format huggingface`: transformers runs the folder as its card says, and the card says its size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcore.compat import import_torchvision
from medcore.errors import ConfigError
from medcore.models.architectures import spec_from
from medcore.models.checkpoint import load
from medcore.models.export import write_huggingface
from medcore.models.sam import predictor
from search.base.sections.inputs import ModelConfig
from search.commands.cost import cost
from search.commands.export import ExportRequest, export
from search.commands.latency import latency
from search.driver.preflight import checkpoint_files
from tests.support.studies.export_study import SPEC, names, random_model, write_study_of_one

pytestmark = pytest.mark.usefixtures("instant_timing")

FILES = ["MODEL_CARD.md", "config.json", "model.json", "model.safetensors"]


def test_the_folder_and_the_cards_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    pytest.importorskip("transformers")
    study, out, said = write_study_of_one(tmp_path), tmp_path / "hf", list[str]()
    export(ExportRequest(str(study), out, format="huggingface", latency=False), said.append)
    assert names(out) == FILES and spec_from(json.loads((out / "model.json").read_text())["spec"]) == SPEC
    assert "IoU of the masks at least 1.0" in said[0]
    assert "6 heads and 138 channels that are gone are zeros" in said[0] and "the dense model's" in said[0]
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert said[0].removeprefix("checked: ") in card and "with zeros\nfor what is gone" in card
    monkeypatch.chdir(tmp_path)
    picture = np.kron(np.random.default_rng(0).integers(0, 255, (25, 26, 3), dtype=np.uint8), np.ones((10, 10, 1)))
    Image.fromarray(picture.astype(np.uint8)).save("image.jpg")
    scope: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    sam = predictor(load(study / "trials" / "t0000" / "model.safetensors"))
    sam.set_image(np.asarray(Image.open("image.jpg")))
    expected = sam.predict(box=np.array([40, 60, 200, 220]), multimask_output=False)[0][0]
    assert 0.05 < expected.mean() < 0.95
    assert (scope["mask"] & expected).sum() / (scope["mask"] | expected).sum() > 0.999


def test_folders_of_others_are_left_alone_and_own_ones_replaced(tmp_path: Path) -> None:
    study, out = write_study_of_one(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"config\.json"):
        export(ExportRequest(str(study), out, format="huggingface", latency=False))
    (out / "config.json").unlink()
    export(ExportRequest(str(study), out, format="huggingface", latency=False))
    export(ExportRequest(str(study), out, format="standalone", latency=False))
    assert names(out) == ["MODEL_CARD.md", "load_pruned.py", "model.json", "model.safetensors"]
    export(ExportRequest(str(study), out, format="huggingface", latency=False))
    assert names(out) == FILES


def test_commands_take_a_folder_as_a_checkpoint(tmp_path: Path) -> None:
    write_huggingface(tmp_path, random_model(SPEC, 11))
    assert cost(str(tmp_path))["flops_fraction"] == 1  # in dense shapes
    (record,) = latency(tmp_path, (1,))
    assert record.flops_fraction == 1
    names_read = [path.name for path in checkpoint_files(ModelConfig(base=tmp_path, adapted=tmp_path))]
    assert names_read[:2] == ["config.json", "model.safetensors"]
