"""How good a model is: its masks at original size, metrics per image, means per data set (method §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from medcore.data.load import ImageSet, Indices
from medcore.devices import Parts, device_of, mixed_precision
from medcore.errors import MedcoreError
from medcore.quality.metrics import LOWER_IS_BETTER, Mask, all_metrics

if TYPE_CHECKING:
    from medcore.models.sam import MedSam


from medcore.models.sam import MedSam

#: Columns of a row that say which image it is; all others are metrics.
LABELS = ("dataset", "name")


def predict_masks(model: MedSam, images: ImageSet, indices: Indices, autocast: bool = False) -> list[Mask]:
    """Masks of the chosen images in one batch, prompted with the exact boxes, at original size.

    The low-resolution logits are upsampled in float32 to the truth's (h, w), bilinearly with
    align_corners=False, and thresholded at 0. The model runs where its parameters lie.

    Args:
        indices: positions in `images`; None means all of them. autocast: run the model in bfloat16.

    Returns: one bool array (h, w) an index, in the order given.

    Raises: MedcoreError if a logit is not finite (NaN > 0 would pass for an empty mask).
    """
    device = device_of(model)
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.intp).reshape(-1)
    if not chosen.size:
        return []
    with torch.inference_mode(), mixed_precision(device, autocast):
        logits = model.segment(images.tensor(chosen).to(device), images.box_tensor(chosen).to(device))
    return masks_of(logits[:, 0].float(), images, chosen)


def masks_of(logits: torch.Tensor, images: ImageSet, indices: npt.NDArray[np.intp]) -> list[Mask]:
    """Masks at original size of low-resolution logits, float (B, low, low), row i for image `indices[i]`.

    Raises: MedcoreError if a logit is not finite.
    """
    _require_finite(logits, images, indices)
    masks = []
    for row, index in zip(logits, indices, strict=True):
        # (1, 1, low, low) -> (1, 1, h, w): the images differ in size
        size = images.truths[index].shape
        full = F.interpolate(row[None, None], size=size, mode="bilinear", align_corners=False)
        masks.append((full[0, 0] > 0).cpu().numpy())
    return masks


def evaluate(model: MedSam, images: ImageSet, batch_size: int = 8, autocast: bool = False) -> list[dict[str, Any]]:
    """Metrics of every image against its mask at original size; in smaller batches where memory runs out.

    Returns: one row an image, in the set's order: dataset, name, then the metrics of `all_metrics`.

    Raises: MedcoreError if a logit is not finite.
    """

    def masks(parts: list[slice]) -> list[Mask]:
        return [mask for part in parts for mask in predict_masks(model, images, indices[part], autocast)]

    rows, parts = [], Parts()
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        rows += _rows(parts.run(len(indices), masks), images, indices)
    return rows


def evaluate_logits(logits: npt.NDArray[np.float32], images: ImageSet) -> list[dict[str, Any]]:
    """As `evaluate`, from low-resolution logits (N, low, low) that are there already, one an image."""
    indices = np.arange(len(images))
    return _rows(masks_of(torch.from_numpy(logits), images, indices), images, indices)


def _rows(masks: Sequence[Mask], images: ImageSet, indices: npt.NDArray[np.intp]) -> list[dict[str, Any]]:
    return [
        {"dataset": images.datasets[index], "name": images.names[index], **all_metrics(mask, images.truths[index])}
        for index, mask in zip(indices, masks, strict=True)
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of each metric m over the rows of `evaluate`.

    Returns: four kinds of keys a metric: `m`, the macro mean (mean over data sets of each data set's mean);
        `m_images`, the mean over images; `m_worst`, the mean of the worst data set (the lowest, for distances
        the highest); `m/<data set>`, the mean of each data set, by name.

    Raises: MedcoreError without rows: a mean over no image would pass for the best distance.
    """
    if not rows:
        raise MedcoreError("evaluation: no image was evaluated; check the data folders and the split")
    datasets = sorted({str(row["dataset"]) for row in rows})
    summary: dict[str, float] = {}
    for metric in (key for key in rows[0] if key not in LABELS):
        means = {dataset: fmean(row[metric] for row in rows if row["dataset"] == dataset) for dataset in datasets}
        summary[metric] = fmean(means.values())
        summary[f"{metric}_images"] = fmean(row[metric] for row in rows)
        worst = max if metric in LOWER_IS_BETTER else min
        summary[f"{metric}_worst"] = worst(means.values())
        summary |= {f"{metric}/{dataset}": mean for dataset, mean in means.items()}
    return summary


def _require_finite(logits: torch.Tensor, images: ImageSet, indices: npt.NDArray[np.intp]) -> None:
    finite = logits.isfinite().flatten(1).all(dim=1).cpu().numpy()
    if not finite.all():
        index = indices[int(np.flatnonzero(~finite)[0])]
        where = f"{images.datasets[index]}/{images.names[index]}"
        raise MedcoreError(
            f"evaluation: the model's logits for {where} are not finite; "
            "use an earlier checkpoint or a lower learning rate"
        )


def low_logits(model: MedSam, images: ImageSet, batch_size: int = 8, autocast: bool = False) -> npt.NDArray[np.float32]:
    """Low-resolution logits of all images, prompted with the exact boxes: float32 (N, low, low)."""
    device = device_of(model)
    batches: list[npt.NDArray[np.float32]] = []

    def answers(parts: list[slice]) -> list[npt.NDArray[np.float32]]:
        found = []
        for chosen in (indices[part] for part in parts):
            with torch.inference_mode(), mixed_precision(device, autocast):
                logits = model.segment(images.tensor(chosen).to(device), images.box_tensor(chosen).to(device))
            found.append(logits[:, 0].float().cpu().numpy())
        return found

    parts = Parts()
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        batches += parts.run(len(indices), answers)
    return np.concatenate(batches)
