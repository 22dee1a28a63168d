"""The same work on the CPU and on a device: how far apart are the results?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.size_transfer import synthetic_images
from medcore.data.imageset import ImageSet
from medcore.devices import device_of, mixed_precision
from medcore.models.cut import prune
from medcore.models.masks import select
from medcore.models.sam import MedSam, build
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.evaluate import low_logits
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.moments import profile_sums
from medcore.scoring.profile import build_profile
from medcore.training.recovery import RecoverySettings, recover
from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.refit.refit import refit
from medcore.training.teacher import compute_teacher

#: Largest difference, relative to the largest value, that counts as equal.
TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}
#: Steps and rate of the recovery. AdamW divides by the gradient's size, so a weight moves by at most steps × rate, and
#: the sign of a gradient near 0 is chance. The tolerance is relative to that way.
_STEPS, _RATE = 3, 1e-4

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far a result on the device is from the CPU's.

    Attributes:
        part: What was computed.
        precision: `float32`, or `bfloat16` for autocast.
        difference: Largest absolute difference divided by the largest absolute value.
        tolerance: Largest difference that counts as equal.
    """

    part: str
    precision: str
    difference: float
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


def differences(arch: Architecture, count: int, device: torch.device) -> Iterator[Difference]:
    """Compare every step of a trial, one after the other.

    Args:
        arch: Architecture of the model, which gets random weights.
        count: Number of images.
        device: Where to compute.
    """
    torch.manual_seed(0)
    model, images = build(ModelSpec.dense(arch)).eval(), synthetic_images(count, arch.img_size)
    for precision, tolerance in TOLERANCE.items():
        parts = _parts(images, autocast=precision == "bfloat16")
        for part, work in parts.items():
            here, there = work(copy.deepcopy(model)), work(copy.deepcopy(model).to(device))
            yield Difference(part, precision, relative_difference(there, here), tolerance)


def relative_difference(one: Values, other: Values) -> float:
    """Return the largest difference of arrays with the same names, relative to the largest value of `other`.

    Values that are not finite must be the same in both; otherwise the difference is infinite.
    """
    apart, largest = 0.0, 0.0
    for name, expected in other.items():
        here, wanted = np.asarray(one[name], np.float64), np.asarray(expected, np.float64)
        finite = np.isfinite(wanted)
        if not np.array_equal(here[~finite], wanted[~finite], equal_nan=True) or not np.isfinite(here[finite]).all():
            return float("inf")
        apart = max(apart, float(np.abs(here[finite] - wanted[finite]).max(initial=0.0)))
        largest = max(largest, float(np.abs(wanted[finite]).max(initial=0.0)))
    return apart / max(largest, float(np.finfo(np.float64).tiny))


def _parts(images: ImageSet, autocast: bool) -> dict[str, Callable[[MedSam], Values]]:
    """Return the work to compare; what has no lower precision is left out of bfloat16."""
    everyone = list(range(len(images)))

    def encoder(model: MedSam) -> Values:
        with torch.inference_mode(), mixed_precision(device_of(model), autocast):
            return {"": model.encode(images.tensor(everyone).to(device_of(model))).float().cpu().numpy()}

    def logits(model: MedSam) -> Values:
        return {"": low_logits(model, images, autocast=autocast)}

    def recovery(model: MedSam) -> Values:
        teacher, small = compute_teacher(model, images, autocast=autocast), _half(model)
        before = _weights(small)
        settings = RecoverySettings(steps=_STEPS, lr=_RATE, batch_size=2, autocast=autocast)
        recover(small, images, teacher, settings, seed=0)
        # most of a weight stays, so the movement is compared
        return {"mean": np.array([np.mean([np.abs(v - before[k]).mean() for k, v in _weights(small).items()])])}

    parts = {"encoder": encoder, "encoder and decoder": logits, "recovery: mean movement of the weights": recovery}
    if autocast:
        return parts

    def scores(model: MedSam) -> Values:
        means = calibration_sums(model, images, everyone, (3.0,), one_pass=True).means(1)
        return {name: terms.double().cpu().numpy() for name, terms in means.items()}

    def curves(model: MedSam) -> Values:
        sums = profile_sums(model, images, everyone, everyone, seed=0)  # before the model leaves its device
        profile = build_profile(model.cpu(), sums)
        return {str(number): curve for number, curve in enumerate(profile.curves)}

    def refitted(model: MedSam) -> Values:
        settings, small = RefitSettings(images=len(images), neck="all"), _half(model)
        refit(small, record_streams(model, images, settings), settings)
        return {"": low_logits(small, images)}

    return parts | {"Fisher information": scores, "predicted losses": curves, "logits after the refit": refitted}


def _half(model: MedSam) -> MedSam:
    """Return the model with the first half of the groups of each site."""
    arch = model.arch
    spec = ModelSpec(arch, tuple(-(-width // 2) for width in model.spec.widths))
    return prune(model, select(tuple(-np.arange(site.width, dtype=np.float64) for site in arch.sites), spec))


def _weights(model: MedSam) -> dict[str, np.ndarray]:
    state = model.image_encoder.state_dict()
    return {name: value.detach().float().cpu().numpy().copy() for name, value in state.items()}
