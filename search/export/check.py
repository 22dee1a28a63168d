"""Images on which an exported model and medcore's own are compared, and how far the two may differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from medcore.data.frames.frame import Frame
from medcore.data.load import ImageSet, box_of, load_image_set
from medcore.errors import CheckpointError, MedcoreError
from medcore.models.formats.precision import FLOAT32
from medcore.models.sam import MedSam
from medcore.quality.evaluate import masks_of
from medcore.quality.metrics import iou
from medcore.synthetic.write import make
from search.base.sections.inputs import DataConfig
from search.study.saved import values_here

#: How many images are compared, and the least IoU of the two masks of any of them. If numbers are rounded, this is the
#: least mean, because one pixel of a small mask costs more; no image may then fall below the second limit.
IMAGES, LEAST_IOU, LEAST_ROUNDED_IOU = 20, 0.999, 0.99
#: The comparison ends after so many seconds and images, because a large model on a CPU takes half a minute an image.
PATIENCE_SECONDS, LEAST_IMAGES = 120, 3

Logits = npt.NDArray[np.float32]
#: Runs an exported model: an image as it is within the square, uint8 (3, h, w), and a box (4,), XYXY -> low-resolution
#: logits (1, low, low).
Run = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float32]], Logits]


@dataclass(frozen=True)
class CheckImages:
    """Images to compare on.

    Attributes:
        images: The images, with exact boxes.
        source: Where they come from, in words.
        precision: Of the numbers in the exported files.
    """

    images: ImageSet
    source: str
    precision: str = FLOAT32


def check_images(study: Path, config: Mapping[str, Any], size: int | Frame) -> CheckImages:
    """Return images of the study, or embedded ones if its data are missing.

    Args:
        study: The study's folder.
        config: Its configuration as plain values, possibly of an older version, or empty.
        size: The model's frame, or the side of its square in pixels.
    """
    try:
        data = values_here(study, config)["data"]
        folders, split = [Path(folder) for folder in data["folders"]], data["search_split"]
        images, _ = load_image_set(
            folders,
            split,
            size,
            per_dataset=-(-IMAGES // len(folders)),
            save_splits=study.resolve().parent / "splits",
            deal_splits=False,
            rules=DataConfig.rules_of(data),
        )
    except (MedcoreError, LookupError, TypeError, ValueError, ArithmeticError):
        return embedded_images(size)
    return CheckImages(images, f"images of the study's part {split}")


def embedded_images(size: int | Frame) -> CheckImages:
    """Return `IMAGES` embedded medical images that fill the square of this size."""
    frame = Frame.of(size)
    pictures, masks = make("medical", IMAGES, frame.side, seed=0)
    images = ImageSet(
        images=np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)),
        masks=masks.astype(np.uint8),
        boxes=np.stack([box_of(mask) for mask in masks]),
        truths=list(masks),
        datasets=["embedded"] * IMAGES,
        names=[f"{index:04d}" for index in range(IMAGES)],
        inner=[(frame.side, frame.side)] * IMAGES if frame.padded else [],
    )
    return CheckImages(images, "embedded images")


def compare(name: str, run: Run, model: MedSam, sample: CheckImages) -> str:
    """Run an exported model and medcore's own on the same images.

    Args:
        name: What runs the exported model, for the sentence.
        run: Runs it on one image.
        model: Medcore's own.
        sample: The images.

    Returns:
        A sentence on how well they agree.

    Raises:
        CheckpointError: Their masks differ.
    """
    images = sample.images
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    with torch.inference_mode():
        for index in patiently(len(images)):
            ours.append(model.segment(images.tensor([index]), images.box_tensor([index]))[:, 0])
            height, width = images.inner_size(index)
            pixels = np.ascontiguousarray(images.images[index][:, :height, :width])
            theirs.append(torch.from_numpy(np.asarray(run(pixels, images.boxes[index]))))
    compared = np.arange(len(ours))
    pairs = zip(*(masks_of(torch.cat(logits), images, compared) for logits in (ours, theirs)), strict=True)
    difference = float((torch.cat(ours) - torch.cat(theirs)).abs().max())
    agreed = agreement(name, [iou(first, second) for first, second in pairs], sample)
    return f"{agreed}, logits differ by at most {difference:.1e}."


def running(model: MedSam) -> Run:
    """Return how a model of medcore that was read back runs."""

    def run(pixels: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> Logits:
        image = torch.from_numpy(pixels)[None].float()
        low, high = image.amin(), image.amax()
        scaled = (image - low) / (high - low).clamp_min(1e-8)
        side = model.arch.img_size
        scaled = F.pad(scaled, (0, side - image.shape[-1], 0, side - image.shape[-2]))
        logits: Logits = model.segment(scaled, torch.from_numpy(box)[None])[0].numpy()
        return logits

    return run


def patiently(count: int) -> Iterator[int]:
    """Yield 0, 1, … below `count`, and stop early if the images take too long."""
    start = time.monotonic()
    for index in range(count):
        if index >= LEAST_IMAGES and time.monotonic() - start > PATIENCE_SECONDS:
            return
        yield index


def agreement(name: str, overlaps: Sequence[float], sample: CheckImages) -> str:
    """Describe how well two models agree.

    Args:
        name: What runs the exported model.
        overlaps: IoU of the two masks of each image.
        sample: The images.

    Returns:
        A sentence that names the comparison and the least IoU, without a full stop. If numbers are rounded, it names
        the mean too.

    Raises:
        CheckpointError: The least IoU is too small, or the mean is.
    """
    if sample.precision != FLOAT32:
        return _rounded_agreement(name, overlaps, sample)
    worst, compared = min(overlaps), f"{len(overlaps)} {sample.source}"
    if worst < LEAST_IOU:
        raise CheckpointError(
            f"{name}: its masks differ from medcore's, IoU {worst:.4f} on the worst of {compared}, "
            "so nothing is exported; take another format"
        )
    return f"{name} and medcore agree on {compared}: IoU of the masks at least {worst:.6f}"


def _rounded_agreement(name: str, overlaps: Sequence[float], sample: CheckImages) -> str:
    """Describe how well a model with rounded numbers and the float32 model agree, as `agreement` does."""
    mean, worst, compared = float(np.mean(overlaps)), min(overlaps), f"{len(overlaps)} {sample.source}"
    if mean < LEAST_IOU or worst < LEAST_ROUNDED_IOU:
        raise CheckpointError(
            f"{name}: in {sample.precision} its masks differ from the float32 model's, IoU {mean:.4f} on average and "
            f"{worst:.4f} on the worst of {compared}, so nothing is exported; take --dtype {FLOAT32}"
        )
    return (
        f"{name} in {sample.precision} and medcore in {FLOAT32} agree on {compared}: IoU of the masks {mean:.6f} on "
        f"average and at least {worst:.6f}"
    )
