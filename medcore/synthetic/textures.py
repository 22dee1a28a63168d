"""Random fields for procedural images: smooth noise, curves, stripes, cells. All are float32 (size, size)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


@lru_cache(maxsize=4)
def pixel_grid(size: int) -> tuple[Field, Field]:
    """Return x and y of the pixel centres in pixels; both are read-only and shared."""
    y, x = (axis.astype(np.float32) + np.float32(0.5) for axis in np.mgrid[:size, :size])
    x.flags.writeable = y.flags.writeable = False
    return x, y


def noise(rng: np.random.Generator, size: int, cells: float, octaves: int = 1, gain: float = 0.5) -> Field:
    """Draw smooth noise of about zero mean and unit variance.

    Args:
        rng: Source of randomness.
        size: Side in pixels.
        cells: Knots of the coarsest octave along the side; each further octave doubles them.
        octaves: Number of sheets that are added; those finer than the pixels become white noise.
        gain: Amplitude of an octave relative to the coarser one.
    """
    total = np.zeros((size, size), dtype=np.float32)
    power = 0.0
    for octave in range(octaves):
        knots, amplitude = cells * 2**octave, gain**octave
        if knots >= size:
            sheet = rng.standard_normal((size, size), dtype=np.float32)
        else:
            count = int(np.ceil(knots)) + 4
            values = rng.standard_normal((count, count), dtype=np.float32)
            down, across = rng.uniform(1, 2, 2)
            rows = _interpolate(values, size, knots, float(down))
            sheet = _interpolate(np.ascontiguousarray(rows.T), size, knots, float(across))
        total += np.float32(amplitude) * sheet
        power += amplitude**2
    return np.asarray(total / np.float32(np.sqrt(power)), dtype=np.float32)


def _interpolate(values: Field, size: int, knots: float, shift: float) -> Field:
    """Interpolate along the first axis by cubics: (knots + 4, M) -> (size, M).

    The weights of a pixel have unit length, so that white knots give the same variance on and between knots. Four taps
    replace a matrix product, because the threads of BLAS cost more than they save at this size.
    """
    places = shift + (np.arange(size, dtype=np.float32) + 0.5) * np.float32(knots / size)
    first = np.floor(places).astype(np.intp) - 1
    rest = (places - np.floor(places)).astype(np.float32)
    taps = np.stack(
        [
            ((2 - rest) * rest - 1) * rest,
            (3 * rest - 5) * rest * rest + 2,
            ((4 - 3 * rest) * rest + 1) * rest,
            (rest - 1) * rest * rest,
        ]
    )
    taps /= np.sqrt(np.square(taps).sum(axis=0))
    result = np.zeros((size, values.shape[1]), dtype=np.float32)
    for offset, weight in enumerate(taps):
        result += weight[:, None] * np.take(values, first + offset, axis=0)
    return result


def curves(rng: np.random.Generator, size: int, cells: float, width: float) -> Field:
    """Draw winding lines along the zero level of a noise.

    Args:
        rng: Source of randomness.
        size: Side in pixels.
        cells: Knots of the noise along the side.
        width: Width of a line in pixels.

    Returns:
        1 on a line, 0 away from it.
    """
    level = noise(rng, size, cells, octaves=2, gain=0.35)
    slope = cells * 2.0 / size  # typical change of the noise from pixel to pixel
    return np.asarray(np.exp(-np.square(level / np.float32(slope * width))), dtype=np.float32)


def stripes(rng: np.random.Generator, size: int) -> Field:
    """Draw 4 to 14 wavy bands between 0 and 1 in any direction, soft or hard."""
    x, y = pixel_grid(size)
    angle, count = rng.uniform(0, np.pi), rng.uniform(4, 14)
    turn = np.float32(2 * np.pi * count / size)
    phase = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    wave = np.sin(turn * phase + np.float32(rng.uniform(0, 1.5)) * noise(rng, size, 3))
    return np.asarray(0.5 + 0.5 * np.tanh(wave * np.float32(rng.uniform(0.7, 5))), dtype=np.float32)


def checks(rng: np.random.Generator, size: int) -> Field:
    """Draw a slightly blurred checker board or tiling, turned by any angle.

    It has 3 to 9 tiles along the side, between 0 and 1.
    """
    x, y = pixel_grid(size)
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 9)
    scale = np.float32(np.pi * count / size)
    u = scale * (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)))
    v = scale * (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle)))
    return np.asarray(0.5 + 0.5 * np.tanh(4 * np.sin(u) * np.sin(v)), dtype=np.float32)


def cells(rng: np.random.Generator, size: int) -> Field:
    """Draw patches of constant value between 0 and 1.

    The patches are the Voronoi cells of 8 to 20 random seeds, with bent edges.
    """
    x, y = pixel_grid(size)
    count = int(rng.integers(8, 21))
    seeds = rng.uniform(0, size, (count, 2)).astype(np.float32)
    values = rng.uniform(0, 1, count).astype(np.float32)
    bend = noise(rng, size, 6) * np.float32(size / 60)
    distance = np.square(x[0][None, :, None] - seeds[:, 0]) + np.square(y[:, :1, None] - seeds[:, 1])
    distance += bend[..., None]
    return np.asarray(values[np.argmin(distance, axis=2)], dtype=np.float32)


def grain(rng: np.random.Generator, size: int) -> Field:
    """Draw cloudy to grainy noise between 0 and 1."""
    sheet = noise(rng, size, rng.uniform(2, 20), octaves=4, gain=rng.uniform(0.4, 0.8))
    return np.asarray(0.5 + 0.5 * np.tanh(sheet), dtype=np.float32)


def any_texture(rng: np.random.Generator, size: int) -> Field:
    """Draw one of the patterns above, grain most often; between 0 and 1."""
    kind = rng.choice(4, p=(0.5, 0.2, 0.15, 0.15))
    return (grain, stripes, checks, cells)[kind](rng, size)
