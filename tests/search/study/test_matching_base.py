"""The general model is cut like an adapted one, also where outputs of the decoder are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medcore.models.checkpoint import load, save
from medcore.models.cut import prune
from medcore.models.spec import ModelSpec
from search.base.config import load_config
from search.study.inputs import matching_base
from tests.support.studies.study_files import write_tiny_study


def test_a_pruned_model_without_outputs_has_a_match(tmp_path: Path) -> None:
    pair = load_config(write_tiny_study(tmp_path)).model
    dense = load(pair.adapted)
    masks = tuple(np.arange(width) % 2 == 0 for width in ModelSpec.dense(dense.arch).widths)
    save(tmp_path / "pruned.safetensors", prune(dense, masks))
    changes = {"adapted": tmp_path / "pruned.safetensors", "parts": ("encoder", "decoder"), "drop": ("iou",)}
    found = matching_base(pair.model_copy(update=changes))
    assert found.kept is not None and found.spec.budget["decoder_outputs"] == [1, 1, 1, 0]
    assert all(np.array_equal(one, two) for one, two in zip(found.kept, masks, strict=False))
