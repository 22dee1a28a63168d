"""Rules for masks, from a configuration or from options to the samples of every command."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcore.data.formats.windows import ReadingRules
from medcore.data.load import load_image_set
from medcore.data.mask_rules import MaskRules
from medcore.errors import DataError, MedcoreError
from medcore.models.checkpoint import load
from medcore.quality.evaluate import evaluate, predict_masks
from medcore.quality.metrics import all_metrics
from search.base.config import load_config
from search.commands.evaluate import Frames
from search.commands.evaluate import evaluate as evaluate_file
from search.commands.predict import predict
from search.export.check import check_images
from search.export.sheets import Sheets
from search.study.inputs import load_split
from tests.support.helpers import TINY
from tests.support.studies.study_files import own_polyps, write_tiny_study

RULES = {"labels": [1, 2], "ignore": [255], "objects": "components", "smallest_object": 10}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose masks are label maps: two objects, dust, and an unsure rim."""
    folder = tmp_path_factory.mktemp("labels")
    config = write_tiny_study(folder, data={"folders": [str(folder / "polyps")], **RULES})
    for file in (own_polyps(folder) / "masks").iterdir():
        with Image.open(file) as mask:
            values = np.zeros(mask.size[::-1], np.uint8)
        values[10:30, 10:30], values[8:10, 10:30], values[40:60, 20:50], values[0, 0] = 1, 255, 2, 2
        Image.fromarray(values).save(file)
    return config


def test_a_configuration_decides_for_every_command(study: Path) -> None:
    config = load_config(study)
    rules = ReadingRules((1, 2), (255,), "components", 10)
    assert config.data.rules == rules
    images = load_split(config.datasets, "val/search", TINY.img_size)
    assert set(images.names) == {f"{source}#{part}" for source in set(images.sources) for part in (2, 3)}
    assert len(set(images.sources)) == len(images) / 2 and images.voids
    sheets = Sheets(config.model, config.datasets, autocast=False)
    assert sheets.dense_images()["name"].tolist() == images.names
    checked = check_images(config.folder, config.model_dump(mode="json"), TINY.img_size)
    assert "images of the study" in checked.source and set(checked.images.names) <= set(images.names)


def test_evaluate_counts_images_and_objects(study: Path) -> None:
    checkpoint, data = study.parent / "base.safetensors", study.parent / "polyps"
    with pytest.raises(DataError, match=r"values 0, 1, 2, 255;"):
        evaluate_file(checkpoint, [data], "train")
    rules = MaskRules("any", (255,), "components", 10)
    result = evaluate_file(checkpoint, [data], "train", rules=rules, frames=Frames("both"))
    assert result["model_frame"]["images"] == result["images"] == result["images_by_dataset"]["polyps"]
    assert result["model_frame"]["objects"] == result["objects"] and result["model_frame"]["empty_masks"] == 0
    images, skipped = load_image_set([data], "train", TINY.img_size, rules=rules)
    assert result["objects"] == len(images) == 2 * result["images"]
    dust = [entry for entry in skipped if "1 objects (#1) of fewer than 10 pixels" in entry.reason]
    assert len(dust) == result["images"]
    whole = evaluate_file(checkpoint, [data], "train", rules=MaskRules((2,)))
    assert whole["objects"] == whole["images"] == result["images"]


def test_metrics_leave_ignored_pixels_out(study: Path) -> None:
    model = load(study.parent / "base.safetensors")
    images, _ = load_image_set(
        [study.parent / "polyps"], "train", TINY.img_size, per_dataset=3, rules=MaskRules((1,), (255,))
    )
    rows = evaluate(model, images)
    for index, (row, mask) in enumerate(zip(rows, predict_masks(model, images, None), strict=True)):
        void = images.void(index)
        assert void is not None and void.any()
        assert {key: row[key] for key in ("dice", "hd95")} == {
            key: value
            for key, value in all_metrics(mask & ~void, images.truths[index]).items()
            if key in ("dice", "hd95")
        }


def test_predict_does_not_wait_for_what_is_no_file(study: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("gone.png")
    for name, kind in (("a.png", "FIFO"), ("b.png", "broken link")):
        with pytest.raises(MedcoreError, match=rf"{name}.*{kind}"):
            predict(study.parent / "base.safetensors", tmp_path / name, (1, 1, 9, 9), tmp_path / "o.png")
