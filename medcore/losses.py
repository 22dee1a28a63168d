"""Losses on logits: the scoring loss (method §3), the recovery loss and the training loss (method §6).

All sums and transforms are in float32 or better, also under autocast; float64 input stays float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Added to the numerator and the denominator of the soft Dice.
DICE_SMOOTH = 1e-5
#: Cycles per pixel above which the recovery loss compares spectra.
HIGH_FREQUENCY = 0.25
#: λ1..λ4 of the recovery loss: boundary, embedding, boundary logits, frequency.
LAMBDAS = (1.0, 0.5, 2.0, 0.5)


def boundary_band(mask: Tensor) -> Tensor:
    """Return the band b = dilate3×3(mask) − erode3×3(mask) (3.1).

    Pixels outside the frame neither dilate nor erode, because a cut by the frame is no boundary to learn. So a mask
    that fills the frame has an empty band.

    Args:
        mask: (B, 1, H, W), floating, values 0 and 1.

    Returns:
        (B, 1, H, W), same dtype, values 0 and 1.
    """
    dilated = F.max_pool2d(mask, kernel_size=3, stride=1, padding=1)
    eroded = -F.max_pool2d(-mask, kernel_size=3, stride=1, padding=1)
    return dilated - eroded


def soft_dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the soft Dice loss of each image, the second half of (3.2).

    It is 1 − (2·Σ σ(z)y + 1e-5) / (Σ σ(z)² + Σ y² + 1e-5), with sums over the image's pixels.

    Args:
        logits: z, (B, 1, H, W).
        mask: y, (B, 1, H, W), values 0 and 1.

    Returns:
        (B,), one loss an image.
    """
    probability = _full_precision(logits).sigmoid().flatten(1)
    truth = _like(mask, probability).flatten(1)
    overlap = (probability * truth).sum(dim=1)
    size = probability.square().sum(dim=1) + truth.square().sum(dim=1)
    return 1 - (2 * overlap + DICE_SMOOTH) / (size + DICE_SMOOTH)


def score_loss_parts(logits: Tensor, mask: Tensor, band: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two terms of one image's scoring loss (3.2).

    The loss is region + w·boundary for every boundary weight w.

    Args:
        logits: z, (1, 1, low, low).
        mask: y, same shape, values 0 and 1.
        band: `boundary_band(mask)`.

    Returns:
        Region and boundary, two scalars: Σ BCE + soft Dice loss, and Σ band·BCE.

    Raises:
        ValueError: There is more than one image, but the Fisher is a mean of squared gradients of single images.
    """
    if logits.shape[0] != 1 or logits.shape != mask.shape or logits.shape != band.shape:
        shapes = [tuple(tensor.shape) for tensor in (logits, mask, band)]
        raise ValueError(f"logits, mask and band of one image expected, each (1, 1, h, w), got {shapes}")
    z = _full_precision(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(z, _like(mask, z), reduction="none")
    region = cross_entropy.sum() + soft_dice_loss(z, mask).sum()
    return region, (_like(band, z) * cross_entropy).sum()


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return soft Dice + BCE, the loss of training and fine-tuning (method §6).

    Dice is a mean over images, BCE a mean over pixels.

    Args:
        logits: (B, 1, h, w); resized to the mask's size bilinearly (align_corners=False) if it differs.
        mask: (B, 1, H, W), values 0 and 1.

    Returns:
        Scalar.
    """
    z = _resize(_full_precision(logits), mask)
    return soft_dice_loss(z, mask).mean() + F.binary_cross_entropy_with_logits(z, _like(mask, z))


def high_frequency_distance(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of |FFT(σ(z)) − FFT(y)| over high frequencies (6.2).

    High are radii of more than 0.25 cycles per pixel. The radius of bin (i, j) is hypot(fftfreq(h)[i], fftfreq(w)[j]),
    as in `numpy.fft.fftfreq`. The transform is the plain, unscaled sum (`norm="backward"`), so the figure grows with
    the image's side.

    Args:
        logits: z, (B, 1, h, w).
        mask: y, (B, 1, h, w), values 0 and 1.

    Returns:
        Scalar.
    """
    probability = _full_precision(logits).sigmoid()
    # the transform is linear, so one transform of the difference is enough
    spectrum = torch.fft.fft2(probability - _like(mask, probability))
    height, width = spectrum.shape[-2:]
    rows = torch.fft.fftfreq(height, device=logits.device, dtype=torch.float64)
    columns = torch.fft.fftfreq(width, device=logits.device, dtype=torch.float64)
    high = rows[:, None].square() + columns[None, :].square() > HIGH_FREQUENCY**2
    difference: Tensor = spectrum.abs()
    return difference[..., high].mean()


def recovery_loss(
    logits_low: Tensor,
    mask_low: Tensor,
    mask_full: Tensor,
    embedding: Tensor,
    teacher_embedding: Tensor,
    teacher_logits: Tensor,
    lambdas: tuple[float, float, float, float] = LAMBDAS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the recovery loss (6.2).

    Every mean is over all pixels or entries of the batch.

    Args:
        logits_low: z, (B, 1, low, low), of any floating dtype, as all that follow.
        mask_low: (B, 1, low, low), values 0 and 1.
        mask_full: (B, 1, S, S), values 0 and 1; segmentation and boundary terms are taken at this size.
        embedding: (B, C, g, g).
        teacher_embedding: (B, C, g, g).
        teacher_logits: (B, 1, low, low).
        lambdas: weights λ1..λ4 of boundary, embedding, boundary_logits and frequency.

    Returns:
        The weighted sum, a scalar that carries the gradient; and the five detached terms before weighting:
        segmentation = ½·BCE + ½·Dice, boundary = mean((1 + 4·band)·BCE), embedding = MSE,
        boundary_logits = mean(band·(z − z_teacher)²), frequency = `high_frequency_distance`.
    """
    z = _full_precision(logits_low)
    z_full, truth_full = _resize(z, mask_full), _like(mask_full, z)
    features = _full_precision(embedding)
    shift = z - _like(teacher_logits, z)
    terms = {
        "segmentation": segmentation_loss(z_full, truth_full) / 2,
        "boundary": F.binary_cross_entropy_with_logits(z_full, truth_full, 1 + 4 * boundary_band(truth_full)),
        "embedding": F.mse_loss(features, _like(teacher_embedding, features)),
        "boundary_logits": (boundary_band(_like(mask_low, z)) * shift.square()).mean(),
        "frequency": high_frequency_distance(z, mask_low),
    }
    weighted = [scale * term for scale, term in zip((1.0, *lambdas), terms.values(), strict=True)]
    return torch.stack(weighted).sum(), {name: term.detach() for name, term in terms.items()}


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.to(device=other.device, dtype=other.dtype)


def _resize(logits: Tensor, mask: Tensor) -> Tensor:
    if logits.shape[-2:] == mask.shape[-2:]:
        return logits
    return F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
