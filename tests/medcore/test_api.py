"""The functions of `import medcore`, as their own example uses them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import medcore
import medcore.api
from medcore.models.checkpoint import save
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY, model_of
from tests.support.image_files import image_folder


def test_the_example_in_its_description_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dense = model_of(48)
    save("medical.pth.safetensors", dense)
    image_folder(tmp_path / "kvasir-seg", [f"a{number}" for number in range(8)])
    parts = {"train": ["a0", "a1", "a2", "a3", "a4", "a5"], "val": ["a6", "a7"]}
    (tmp_path / "kvasir-seg" / "splits.json").write_text(json.dumps(parts))
    text = (medcore.api.__doc__ or "").partition("offers them.\n\n")[2].partition("\nModels run")[0]
    example = textwrap.dedent(text).replace('"medical.pth", "vit_b"', '"medical.pth.safetensors"')
    example = example.replace("0.1)", "0.4)").replace("steps=300", "steps=2")
    space: dict[str, object] = {}
    exec(example, space)
    pruned = medcore.load("pruned.safetensors")
    assert cost(pruned.spec).flops_paper <= 0.4 * cost(ModelSpec.dense(TINY)).flops_paper
    again = space["pruned"]
    assert isinstance(again, torch.nn.Module)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in pruned.state_dict().items())


def test_a_refit_brings_the_pruned_model_closer_to_the_dense_one(tmp_path: Path) -> None:
    dense = model_of(48)
    image_folder(tmp_path / "set", [f"a{number}" for number in range(6)])
    images = medcore.load_images([tmp_path / "set"], "all", TINY.img_size)
    profile = medcore.score(dense, images)
    pruned = medcore.prune(dense, profile, medcore.allocate(dense, profile, 0.5))
    with torch.inference_mode():
        wanted = dense.encode(images.tensor())
        before = (pruned.encode(images.tensor()) - wanted).square().mean()
        medcore.refit(pruned, dense, images)
        after = (pruned.encode(images.tensor()) - wanted).square().mean()
    assert after < before
    assert np.isfinite(list(medcore.evaluate(pruned, images).values())).all()


def test_the_import_loads_no_torch_and_names_what_there_is() -> None:
    code = "import sys, medcore; assert 'torch' not in sys.modules; print({*medcore.__all__} <= {*dir(medcore)})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    with pytest.raises(AttributeError, match="prume"):
        medcore.prume  # type: ignore[attr-defined]  # noqa: B018
