"""Directional, multi-scale distance of high frequencies, as a term of the recovery loss (6.4 to 6.6)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medcore.losses import IGNORED, full_precision
from medcore.training.terms.term import LossTerm, Seen

#: Octaves of frequencies, and directions in each.
SCALES, DIRECTIONS = 3, 4
#: Pixels by which images are mirrored at their frame: the period of the coarsest octave's centre.
_PADDING = 2 ** (SCALES + 1)
#: Energy of a wave too faint for an image of 8 bits. It keeps the noise of a flat image from having weights.
_FAINT = 1e-6


@lru_cache(maxsize=4)
def oriented_filters(height: int, width: int) -> Tensor:
    """Return the transfer functions of the oriented band-pass filters (6.4).

    Octave s is centred at 2^-(s + 2) cycles per pixel, and the first passes everything above. A filter passes one half
    of the frequency plane, so its response is complex, and the magnitude does not depend on the phase of an edge. The
    squared magnitudes of all responses add up to the energy of the signal above the coarsest centre.

    Args:
        height: rows of the transform.
        width: columns of the transform.

    Returns:
        Float64 (SCALES, DIRECTIONS, height, width), in the order of `torch.fft.fftfreq`. Direction k responds to waves
        that run at k·π/DIRECTIONS from the columns' axis.
    """
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    columns = torch.fft.fftfreq(width, dtype=torch.float64)[None, :]
    # the constant has no direction; any frequency below all octaves does for it
    octaves = torch.log2((rows.square() + columns.square()).sqrt().clamp_min(2.0 ** (-SCALES - 3)))
    angle = torch.atan2(rows, columns)
    power = DIRECTIONS - 1
    # Σ_k cos^2(K−1) over K even directions is this constant, for every angle
    total = DIRECTIONS * math.comb(2 * power, power) / 4**power
    filters = []
    for scale in range(SCALES):
        offset = octaves + scale + 2
        radial = torch.cos(math.pi / 2 * offset.clamp(-1, 0 if scale == 0 else 1))
        for direction in range(DIRECTIONS):
            toward = torch.cos(angle - math.pi * direction / DIRECTIONS).clamp_min(0)
            filters.append(radial * toward**power * math.sqrt(2 / total))
    return torch.stack(filters).view(SCALES, DIRECTIONS, height, width)


def band_magnitudes(signal: Tensor) -> Tensor:
    """Return the magnitudes of all filters' responses.

    The signal is mirrored at its frame, so that the frame is no edge.

    Args:
        signal: (B, C, h, w), float32 or float64.

    Returns:
        (B, C, SCALES, DIRECTIONS, h, w).
    """
    height, width = signal.shape[-2:]
    above, left = min(_PADDING, height - 1), min(_PADDING, width - 1)
    padded = F.pad(signal, (left, left, above, above), mode="reflect")
    filters = oriented_filters(*padded.shape[-2:]).to(signal)
    responses = torch.fft.ifft2(torch.fft.fft2(padded)[:, :, None, None] * filters)
    inside = responses[..., above : above + height, left : left + width]
    magnitudes: Tensor = inside.abs()
    return magnitudes


def energy_weights(image: Tensor, counted: Tensor) -> Tensor:
    """Return how much each band, direction and pixel counts, by the energy e of the image there (6.5).

    The weight is e / (e + mean e + 1e-6), with the mean over the directions and counted pixels of an octave of an
    image. So octaves count alike although images have less energy in fine ones, and a highlight counts at most 1.

    Args:
        image: (B, 1, h, w), grey, in [0, 1].
        counted: (B, 1, h, w), 1 where a pixel counts and 0 elsewhere.

    Returns:
        (B, 1, SCALES, DIRECTIONS, h, w) in [0, 1); 0 where a pixel does not count.
    """
    inside = counted[:, :, None, None]
    energy = band_magnitudes(image).square() * inside
    pixels = inside.sum(dim=(-2, -1), keepdim=True).clamp_min(1) * DIRECTIONS
    mean = energy.sum(dim=(-3, -2, -1), keepdim=True) / pixels
    return energy / (energy + mean + _FAINT)


def directional_distance(logits: Tensor, mask: Tensor, teacher_logits: Tensor, image: Tensor) -> Tensor:
    """Return the directional distance of σ(z) to the mask and to the teacher's σ(z_T) (6.6).

    Args:
        logits: z, (B, 1, h, w), of any floating dtype, as all that follow.
        mask: y, (B, 1, h, w), values 0, 1 and `IGNORED`. Ignored pixels are 0 in all signals, and count nowhere.
        teacher_logits: z_T, (B, 1, h, w).
        image: (B, 1, h, w), grey, in [0, 1].

    Returns:
        Scalar: half the sum over bands and directions, of both distances, of the weighted mean magnitude.
    """
    z = full_precision(logits)
    truth = mask.to(z)
    counted = (truth != IGNORED).to(z.dtype)
    targets = torch.cat([truth, teacher_logits.to(z).sigmoid()], dim=1)
    differences = (z.sigmoid() - targets) * counted
    with torch.no_grad():
        weights = energy_weights(image.to(z), counted)
    total = (weights * band_magnitudes(differences)).sum()
    return total / (2 * counted.sum().clamp_min(1))


class Directional(LossTerm):
    """The directional distance at the logits' resolution. It has no parameters."""

    def __call__(self, seen: Seen) -> Tensor:
        """Return (6.6); the image is the mean of its colours, reduced to the logits' size by areas."""
        height, width = seen.logits.shape[-2:]
        grey = F.adaptive_avg_pool2d(seen.images.mean(dim=1, keepdim=True), (height, width))
        return directional_distance(seen.logits, seen.mask, seen.teacher_logits, grey)
