"""Losses on logits: the scoring loss (method §3), the recovery loss and the training loss (method §6).

All sums and transforms are in float32 or better, also under autocast; float64 input stays float64.

A mask's pixels are 0, 1, or `IGNORED`. Ignored pixels add nothing to a sum, have no gradient, and do not count in a
mean over pixels. Sides to an ignored pixel are no boundary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Value of a mask's pixels that count nowhere.
IGNORED = 255.0
#: Logit whose probability is 0 in float32.
_NEVER = -100.0
#: Added to the numerator and the denominator of the soft Dice.
DICE_SMOOTH = 1e-5
#: Cycles per pixel above which the recovery loss compares spectra.
HIGH_FREQUENCY = 0.25
#: Added to the denominator of the Dice of the released code.
RELEASED_SMOOTH = 1e-6
#: λ1..λ4 of the recovery loss: boundary, embedding, boundary logits, frequency.
LAMBDAS = (1.0, 0.5, 2.0, 0.5)


def boundary_band(mask: Tensor) -> Tensor:
    """Return the band b = dilate3×3(mask) − erode3×3(mask) (3.1).

    Ignored pixels and those outside the frame neither dilate nor erode, because a cut there is no boundary to learn. So
    a mask that fills the frame has an empty band.

    Args:
        mask: (B, 1, H, W), floating, values 0, 1 and `IGNORED`.

    Returns:
        (B, 1, H, W), same dtype, values 0 and 1; 0 where a pixel is ignored.
    """
    ignored = mask == IGNORED
    # outside the frame stands what neither dilates nor erodes
    dilated = _largest_around(F.pad(mask.masked_fill(ignored, 0), (1, 1, 1, 1), value=0))
    eroded = -_largest_around(F.pad(-mask.masked_fill(ignored, 1), (1, 1, 1, 1), value=-1))
    return (dilated - eroded).masked_fill(ignored, 0)


def soft_dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the soft Dice loss of each image, the second half of (3.2).

    It is 1 − (2·Σ σ(z)y + 1e-5) / (Σ σ(z)² + Σ y² + 1e-5), with sums over the image's pixels.

    Args:
        logits: z, (B, 1, H, W).
        mask: y, (B, 1, H, W), values 0, 1 and `IGNORED`.

    Returns:
        (B,), one loss an image.
    """
    z, y, _ = _counted(full_precision(logits), mask)
    probability, truth = z.sigmoid().flatten(1), y.flatten(1)
    overlap = (probability * truth).sum(dim=1)
    size = probability.square().sum(dim=1) + truth.square().sum(dim=1)
    return 1 - (2 * overlap + DICE_SMOOTH) / (size + DICE_SMOOTH)


def score_loss_parts(logits: Tensor, mask: Tensor, band: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two terms of one image's scoring loss (3.2).

    The loss is region + w·boundary for every boundary weight w.

    Args:
        logits: z, (1, 1, low, low).
        mask: y, same shape, values 0, 1 and `IGNORED`.
        band: `boundary_band(mask)`.

    Returns:
        Region and boundary, two scalars: Σ BCE + soft Dice loss, and Σ band·BCE.

    Raises:
        ValueError: There is more than one image, but the Fisher is a mean of squared gradients of single images.
    """
    if logits.shape[0] != 1 or logits.shape != mask.shape or logits.shape != band.shape:
        shapes = [tuple(tensor.shape) for tensor in (logits, mask, band)]
        raise ValueError(f"logits, mask and band of one image expected, each (1, 1, h, w), got {shapes}")
    z, y, _ = _counted(full_precision(logits), mask)
    cross_entropy = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    region = cross_entropy.sum() + soft_dice_loss(z, y).sum()
    return region, (_like(band, z) * cross_entropy).sum()


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return soft Dice + BCE, the loss of training and fine-tuning (method §6).

    Dice is a mean over images, BCE a mean over pixels.

    Args:
        logits: (B, 1, h, w); resized to the mask's size bilinearly (align_corners=False) if it differs.
        mask: (B, 1, H, W), values 0, 1 and `IGNORED`.

    Returns:
        Scalar.
    """
    z, y, scale = _counted(_resize(full_precision(logits), mask), mask)
    return soft_dice_loss(z, y).mean() + F.binary_cross_entropy_with_logits(z, y) * scale


def segmentation_losses(logits: Tensor, mask: Tensor) -> Tensor:
    """Return `segmentation_loss` of several maps of logits with one mask, all at once.

    Args:
        logits: (B, M, h, w), M maps of each image.
        mask: (B, 1, h, w), values 0, 1 and `IGNORED`.

    Returns:
        (M,), the loss of each map.
    """
    maps = full_precision(logits)
    truth = _like(mask, maps).expand_as(maps)
    z, y, scale = _counted(maps.flatten(0, 1).unsqueeze(1), truth.flatten(0, 1).unsqueeze(1))
    cross_entropy = F.binary_cross_entropy_with_logits(z, y, reduction="none").flatten(1).mean(dim=1)
    return (soft_dice_loss(z, y) + cross_entropy * scale).view(maps.shape[:2]).mean(dim=0)


def high_frequency_distance(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of |FFT(σ(z)) − FFT(y)| over high frequencies (6.2).

    High are radii of more than 0.25 cycles per pixel. The radius of bin (i, j) is hypot(fftfreq(h)[i], fftfreq(w)[j]),
    as in `numpy.fft.fftfreq`. The transform is the plain, unscaled sum (`norm="backward"`), so the figure grows with
    the image's side.

    Args:
        logits: z, (B, 1, h, w).
        mask: y, (B, 1, h, w), values 0, 1 and `IGNORED`. Ignored pixels are 0 in both.

    Returns:
        Scalar.
    """
    z, y, _ = _counted(full_precision(logits), mask)
    # the transform is linear, so one transform of the difference is enough
    spectrum = torch.fft.fft2(z.sigmoid() - y)
    height, width = spectrum.shape[-2:]
    rows = torch.fft.fftfreq(height, device=logits.device, dtype=torch.float64)
    columns = torch.fft.fftfreq(width, device=logits.device, dtype=torch.float64)
    high = rows[:, None].square() + columns[None, :].square() > HIGH_FREQUENCY**2
    difference: Tensor = spectrum.abs()
    return difference[..., high].mean()


def released_dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice loss of the released code's recovery: 1 − 2·Σ σ(z)y / (Σ σ(z) + Σ y + 1e-6).

    Args:
        logits: z, (B, 1, H, W).
        mask: y, (B, 1, H, W), values 0, 1 and `IGNORED`.

    Returns:
        (B,), one loss an image.
    """
    z, y, _ = _counted(full_precision(logits), mask)
    probability, truth = z.sigmoid().flatten(1), y.flatten(1)
    overlap = (probability * truth).sum(dim=1)
    return 1 - 2 * overlap / (probability.sum(dim=1) + truth.sum(dim=1) + RELEASED_SMOOTH)


def released_frequency_distance(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the frequency term of the released code's recovery.

    It is the mean of |rFFT(σ(z)) − rFFT(y)| over all bins of the half spectrum, of which low ones count as 0.

    Args:
        logits: z, (B, 1, h, w).
        mask: y, (B, 1, h, w), values 0, 1 and `IGNORED`. Ignored pixels are 0 in both.

    Returns:
        Scalar.
    """
    z, y, _ = _counted(full_precision(logits), mask)
    spectrum = torch.fft.rfft2(z.sigmoid() - y)
    rows = torch.fft.fftfreq(logits.shape[-2], device=logits.device, dtype=torch.float64)
    columns = torch.fft.rfftfreq(logits.shape[-1], device=logits.device, dtype=torch.float64)
    high = rows[:, None].square() + columns[None, :].square() > HIGH_FREQUENCY**2
    difference: Tensor = spectrum.abs() * high
    return difference.mean()


def recovery_loss(
    logits_low: Tensor,
    mask_low: Tensor,
    mask_full: Tensor,
    embedding: Tensor,
    teacher_embedding: Tensor,
    teacher_logits: Tensor,
    lambdas: tuple[float, float, float, float] = LAMBDAS,
    *,
    released: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the recovery loss (6.2).

    Every mean is over all pixels of the batch that count, or over all entries.

    Args:
        logits_low: z, (B, 1, low, low), of any floating dtype, as all that follow.
        mask_low: (B, 1, low, low), values 0, 1 and `IGNORED`.
        mask_full: (B, 1, S, S), as `mask_low`; segmentation and boundary terms are taken at this size.
        embedding: (B, C, g, g).
        teacher_embedding: (B, C, g, g).
        teacher_logits: (B, 1, low, low).
        lambdas: weights λ1..λ4 of boundary, embedding, boundary_logits and frequency.
        released: whether Dice and the frequency term are those of the released code.

    Returns:
        The weighted sum, a scalar that carries the gradient; and the five detached terms before weighting:
        segmentation = ½·BCE + ½·Dice, boundary = mean((1 + 4·band)·BCE), embedding = MSE,
        boundary_logits = mean(band·(z − z_teacher)²), frequency = `high_frequency_distance`.
    """
    z = full_precision(logits_low)
    z_full, truth_full, scale = _counted(_resize(z, mask_full), mask_full)
    features = full_precision(embedding)
    shift, low = z - _like(teacher_logits, z), _like(mask_low, z)
    weights = 1 + 4 * boundary_band(_like(mask_full, z))
    terms = {
        "segmentation": _segmentation(z_full, mask_full, released),
        "boundary": F.binary_cross_entropy_with_logits(z_full, truth_full, weights) * scale,
        "embedding": F.mse_loss(features, _like(teacher_embedding, features)),
        "boundary_logits": (boundary_band(low) * shift.square()).mean() * _scale(low == IGNORED),
        "frequency": (released_frequency_distance if released else high_frequency_distance)(z, mask_low),
    }
    weighted = [scale * term for scale, term in zip((1.0, *lambdas), terms.values(), strict=True)]
    return torch.stack(weighted).sum(), {name: term.detach() for name, term in terms.items()}


def _segmentation(logits: Tensor, mask: Tensor, released: bool) -> Tensor:
    """Return ½·BCE + ½·Dice at the size of the mask."""
    if not released:
        return segmentation_loss(logits, mask) / 2
    z, y, scale = _counted(logits, mask)
    return (released_dice_loss(logits, mask).mean() + F.binary_cross_entropy_with_logits(z, y) * scale) / 2


def _counted(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits and mask with ignored pixels as sure background, and `_scale`."""
    y = _like(mask, logits)
    ignored = y == IGNORED
    return logits.masked_fill(ignored, _NEVER), y.masked_fill(ignored, 0), _scale(ignored)


def _scale(ignored: Tensor) -> Tensor:
    """Return the factor from a mean over all pixels to one over those that count; exactly 1 if all do."""
    return ignored.numel() / (ignored.numel() - torch.count_nonzero(ignored)).clamp(min=1)


def _largest_around(padded: Tensor) -> Tensor:
    """Return the largest value of each 3×3 neighbourhood, (B, 1, H, W) from (B, 1, H + 2, W + 2).

    First along rows, then along columns; on a CPU this takes a tenth of the time of `max_pool2d`.
    """
    across = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return torch.maximum(torch.maximum(across[..., :-2, :], across[..., 1:-1, :]), across[..., 2:, :])


def full_precision(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is if it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.to(device=other.device, dtype=other.dtype)


def _resize(logits: Tensor, mask: Tensor) -> Tensor:
    if logits.shape[-2:] == mask.shape[-2:]:
        return logits
    return F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
