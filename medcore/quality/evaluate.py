"""Quality of a model: its masks at original size, metrics per image, means per data set (method §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from medcore.data.load import ImageSet, Indices
from medcore.devices import Microbatches, device_of, mixed_precision
from medcore.errors import CheckpointError, DataError
from medcore.models.sam import MedSam
from medcore.quality.figures import FIGURES
from medcore.quality.metrics import all_metrics
from medcore.quality.surfaces import Mask

#: Columns of a row that say which image it is; all others are metrics.
LABELS = ("dataset", "name")

Logits = npt.NDArray[np.float32]


def predict_masks(model: MedSam, images: ImageSet, indices: Indices, autocast: bool = False) -> list[Mask]:
    """Segment the chosen images in one batch, prompted with the exact boxes.

    The low-resolution logits are upsampled in float32 to the truth's (h, w), bilinearly with
    align_corners=False, and thresholded at 0.

    Args:
        model: Runs on the device of its parameters.
        images: Images with boxes and true masks.
        indices: Positions in `images`; None means all of them.
        autocast: Whether to run the model in bfloat16.

    Returns:
        One bool array (h, w) at original size an index, in the order given.

    Raises:
        MedcoreError: A logit is not finite; NaN > 0 would look like an empty mask.
    """
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.intp).reshape(-1)
    if not chosen.size:
        return []
    return masks_of(_segment(model, images, chosen, autocast), images, chosen)


def masks_of(logits: Tensor, images: ImageSet, indices: npt.NDArray[np.intp]) -> list[Mask]:
    """Return masks at original size of low-resolution logits.

    Where the images have sizes within the square, logits are first resized to the square and cut to the image (1.3).

    Args:
        logits: float (B, low, low), row i for image `indices[i]`.
        images: Images with true masks.
        indices: Positions in `images`.

    Raises:
        MedcoreError: A logit is not finite.
    """
    _require_finite(logits, images, indices)
    masks = []
    for row, index in zip(logits, indices, strict=True):
        # (1, 1, low, low) -> (1, 1, h, w): the images differ in size
        size, inner, side = images.truths[index].shape, images.inner_size(index), images.size
        field = row[None, None]
        if images.inner:
            field = F.interpolate(field, (side, side), mode="bilinear", align_corners=False)
            field = field[..., : inner[0], : inner[1]]
        full = F.interpolate(field, size=size, mode="bilinear", align_corners=False)
        masks.append((full[0, 0] > 0).cpu().numpy())
    return masks


def evaluate(model: MedSam, images: ImageSet, batch_size: int = 8, autocast: bool = False) -> list[dict[str, Any]]:
    """Measure every image against its mask at original size.

    Batches get smaller if memory runs out.

    Args:
        model: Runs on the device of its parameters.
        images: Images with boxes and true masks.
        batch_size: Images in a call.
        autocast: Whether to run the model in bfloat16.

    Returns:
        One row an image, in the set's order: dataset, name, then the metrics of `all_metrics`. Ignored pixels are
        background in both masks. Metrics in millimetres are left out unless the spacing of every image is known,
        because a mean over some of the images would stand next to means over all.

    Raises:
        MedcoreError: A logit is not finite.
    """

    def masks(pieces: list[slice]) -> list[Mask]:
        return [mask for piece in pieces for mask in predict_masks(model, images, indices[piece], autocast)]

    rows, microbatches = [], Microbatches()
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        rows += _rows(microbatches.run(len(indices), masks), images, indices)
    return rows


def evaluate_logits(logits: Logits, images: ImageSet) -> list[dict[str, Any]]:
    """Measure as `evaluate` does, from known low-resolution logits (N, low, low)."""
    indices = np.arange(len(images))
    return _rows(masks_of(torch.from_numpy(logits), images, indices), images, indices)


def low_logits(model: MedSam, images: ImageSet, batch_size: int = 8, autocast: bool = False) -> Logits:
    """Return the low-resolution logits of all images, float32 (N, low, low).

    The prompts are the exact boxes.
    """
    batches: list[Logits] = []

    def logits(pieces: list[slice]) -> list[Logits]:
        return [_segment(model, images, indices[piece], autocast).cpu().numpy() for piece in pieces]

    microbatches = Microbatches()
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        batches += microbatches.run(len(indices), logits)
    return np.concatenate(batches)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average each metric m over the rows of `evaluate`.

    Returns:
        Four kinds of keys a metric: `m`, the macro mean (mean over data sets of each data set's mean); `m_images`,
        the mean over images; `m_worst`, the mean of the worst data set (the lowest, for distances the highest);
        `m/<data set>`, the mean of each data set, by name.

    Raises:
        MedcoreError: There are no rows; a mean over no image would look like the best distance.
    """
    if not rows:
        raise DataError("evaluation: no image was evaluated; check the data folders and the split")
    datasets = sorted({str(row["dataset"]) for row in rows})
    summary: dict[str, float] = {}
    for metric in (key for key in rows[0] if key not in LABELS):
        means = {dataset: fmean(row[metric] for row in rows if row["dataset"] == dataset) for dataset in datasets}
        summary[metric] = fmean(means.values())
        summary[f"{metric}_images"] = fmean(row[metric] for row in rows)
        worst = max if metric in FIGURES and FIGURES[metric].lower_is_better else min
        summary[f"{metric}_worst"] = worst(means.values())
        summary |= {f"{metric}/{dataset}": mean for dataset, mean in means.items()}
    return summary


def _segment(model: MedSam, images: ImageSet, chosen: npt.NDArray[np.intp], autocast: bool) -> Tensor:
    """Return low-resolution logits of some images in one batch.

    The logits are float32 (B, low, low) on the model's device.
    """
    device = device_of(model)
    with torch.inference_mode(), mixed_precision(device, autocast):
        logits = model.segment(images.tensor(chosen).to(device), images.box_tensor(chosen).to(device))
    return logits[:, 0].float()


def _rows(masks: Sequence[Mask], images: ImageSet, indices: npt.NDArray[np.intp]) -> list[dict[str, Any]]:
    rows, spaced = [], images.is_spaced
    for index, mask in zip(indices, masks, strict=True):
        void = images.void(index)
        counted = mask if void is None else mask & ~void
        figures = all_metrics(counted, images.truths[index], images.spacing(index) if spaced else None)
        rows.append({"dataset": images.datasets[index], "name": images.names[index], **figures})
    return rows


def _require_finite(logits: Tensor, images: ImageSet, indices: npt.NDArray[np.intp]) -> None:
    finite = logits.isfinite().flatten(1).all(dim=1).cpu().numpy()
    if not finite.all():
        index = indices[int(np.flatnonzero(~finite)[0])]
        where = f"{images.datasets[index]}/{images.names[index]}"
        raise CheckpointError(
            f"evaluation: the model's logits for {where} are not finite; "
            "use an earlier checkpoint or a lower learning rate"
        )
