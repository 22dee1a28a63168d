"""`medcore evaluate`: counts, intervals and both frames, with an empty mask among the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.nn import functional as F

from medcore.data.load import load_image_set
from medcore.models.checkpoint import load
from medcore.quality.evaluate import evaluate as evaluate_model
from medcore.quality.evaluate import summarise
from medcore.quality.metrics import all_metrics
from medcore.quality.model_frame import WideBoxes
from search.cli.tables import frames_table
from search.commands.evaluate import Frames, evaluate, figures
from tests.support.helpers import TINY
from tests.support.studies.study_files import own_polyps, write_tiny_study

SIDE = TINY.img_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images to test on; the mask of one of them is black, and that of one to train on."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_tiny_study(folder)
    data = own_polyps(folder)
    names = sorted(path.stem for path in (data / "images").iterdir())
    (data / "splits.json").write_text(json.dumps({"test": names[:12], "train": names[12:], "val": []}))
    for name in (names[4], names[20]):
        black = data / "masks" / f"{name}.png"
        Image.fromarray(np.zeros_like(np.asarray(Image.open(black)))).save(black)
    return folder


def test_both_frames_of_one_checkpoint(folder: Path) -> None:
    data = folder / "polyps"
    result = evaluate(folder / "base.safetensors", [data], "test", frames=Frames("both", WideBoxes(5, 7)))
    model, (images, _) = load(folder / "base.safetensors"), load_image_set([data], "test", SIDE)
    rows = evaluate_model(model, images)
    assert (result["images"], result["skipped"], result["images_by_dataset"]) == (11, 1, {"polyps": 11})
    assert {name: result[name] for name in summarise(rows)} == pytest.approx(summarise(rows))
    inside = result["model_frame"]
    assert (inside["side"], inside["widen_px"], inside["box_seed"]) == (SIDE, 5, 7)
    assert (inside["images"], inside["empty_masks"], inside["images_by_dataset"]) == (12, 1, {"polyps": 12})
    # by hand: exact boxes of the masks in the square, widened; the black mask has the whole square as box
    dice = []
    for path in sorted((data / "images").iterdir())[:12]:
        picture = np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
        mask = np.asarray(Image.open(data / "masks" / f"{path.stem}.png").convert("L"))
        truth = np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 127
        box = np.array([[0, 0, SIDE, SIDE]], np.float32)
        if truth.any():
            ys, xs = np.nonzero(truth)
            exact = np.array([[xs.min(), ys.min(), xs.max(), ys.max()]], np.float32)
            box = WideBoxes(5, 7).of(exact, [path.name], SIDE)
        scaled = torch.from_numpy((picture - picture.min()) / (picture.max() - picture.min())).permute(2, 0, 1)[None]
        with torch.no_grad():
            low = model.segment(scaled, torch.from_numpy(box))
        found = F.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0].numpy() > 0
        dice.append(all_metrics(found, truth)["dice"])
    assert inside["dice"] == pytest.approx(np.mean(dice), abs=1e-6)


@pytest.mark.parametrize(("frame", "absent"), [("original", "model_frame"), ("model", "images")])
def test_a_frame_that_was_not_asked_for_is_absent(folder: Path, frame: str, absent: str) -> None:
    result = evaluate(folder / "base.safetensors", [folder / "polyps"], "test", frames=Frames(frame))
    assert absent not in result and result["flops_fraction"] == 1


def test_intervals_are_bootstraps_over_images() -> None:
    random = np.random.default_rng(0)
    values = random.random(200)
    rows = [{"dataset": "one", "name": str(number), "dice": value} for number, value in enumerate(values)]
    found = figures(rows)
    low, high = found["intervals"]["dice"]
    error = values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.3 * error)
    assert found["dice"] == pytest.approx(values.mean())
    single = figures([*rows[:3], {"dataset": "two", "name": "x", "dice": 0.5}])
    assert single["intervals"] == {"dice": None} and single["images_by_dataset"] == {"one": 3, "two": 1}


def test_the_table_says_how_many_images_and_which_frame(folder: Path) -> None:
    result = evaluate(folder / "base.safetensors", [folder / "polyps"], "test", frames=Frames("both"))
    console = Console(width=140, record=True)
    with console.capture() as capture:
        console.print(frames_table("base", result))
    text = capture.get()
    assert "original size" in text and f"{SIDE} px frame" in text and "1 empty masks counted" in text
    assert "11" in text and "12" in text and " to " in text
