"""Two kinds of procedural scenes with one object to segment: an everyday one and an endoscopic one.

They differ in palette, texture, shape family, illumination and edge softness, so that a model of the general domain
has something to learn in the medical one. Both hold distractors: things that look like the object and are not.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medcore.synthetic.shapes import GENERAL_FAMILIES, MEDICAL_FAMILIES, Shape, draw_shape
from medcore.synthetic.textures import Field, any_texture, curves, noise, pixel_grid

#: Red, green, blue in 0..1 of the wall that endoscopes see, from pink to pale and brownish.
_WALLS = ((0.82, 0.52, 0.48), (0.86, 0.52, 0.34), (0.70, 0.38, 0.30), (0.80, 0.66, 0.58), (0.62, 0.54, 0.42))
#: How the lesion's colour differs from the wall's: redder, paler, darker, yellowish.
_TINTS = ((1.10, 0.74, 0.74), (1.12, 1.22, 1.24), (0.80, 0.66, 0.64), (1.06, 1.04, 0.74))


def general_scene(rng: np.random.Generator, size: int) -> tuple[Field, Shape]:
    """Draw textured things of any colour on a textured ground.

    Edges are sharp, light comes from one side, and things cast shadows.

    Args:
        rng: Source of randomness.
        size: Side in pixels.

    Returns:
        The image, float32 (size, size, 3) in 0..1, and the object to segment.
    """
    ground = _palette(rng, None)
    own = _palette(rng, ground)
    image = _material(rng, size, ground)
    for _ in range(int(rng.integers(3, 7))):
        # half of the other things have the object's colours, so that colour alone does not find it
        colours = own if rng.random() < 0.5 else _palette(rng, None)
        _put(rng, image, _general_shape(rng, size, _log_uniform(rng, 0.008, 0.10), margin=0.0), colours)
    target = _general_shape(rng, size, _log_uniform(rng, 0.025, 0.36), margin=0.2)
    _put(rng, image, target, own)
    x, y = pixel_grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / np.float32(size)
    light = 1 + np.float32(rng.uniform(0, 0.5)) * (slope - slope.mean())
    return _expose(rng, image * light[..., None], rng.uniform(0.005, 0.03)), target


def medical_scene(rng: np.random.Generator, size: int) -> tuple[Field, Shape]:
    """Draw a lesion on a wet wall.

    The wall has folds, vessels, a dark lumen and residue. Edges are soft. One lamp lights the scene and leaves
    highlights.

    Args:
        rng: Source of randomness.
        size: Side in pixels.

    Returns:
        The image, float32 (size, size, 3) in 0..1, and the lesion.
    """
    x, y = pixel_grid(size)
    scale = size / 128
    frame = _frame(rng, size)
    lesion = draw_shape(
        rng,
        size,
        str(rng.choice(MEDICAL_FAMILIES, p=(0.8, 0.2))),
        _log_uniform(rng, 0.022, 0.30),
        _centre(rng, size, 0.26),
        softness=scale * rng.uniform(1.2, 5),
        roughness=rng.uniform(0.02, 0.16),
    )
    wall = np.array(_WALLS[rng.integers(len(_WALLS))], dtype=np.float32)
    wall *= rng.uniform(0.9, 1.1, 3).astype(np.float32)
    colour = wall * (1 + np.float32(0.06) * noise(rng, size, 3, octaves=3)[..., None])
    vessels = curves(rng, size, rng.uniform(3, 6), scale * rng.uniform(0.8, 1.6))
    vessels *= np.clip(noise(rng, size, 2) * np.float32(rng.uniform(0.2, 0.6)), 0, 1)
    colour *= 1 - vessels[..., None] * np.array([0.25, 0.55, 0.45], dtype=np.float32)
    colour = _residue(rng, colour, scale)
    height = _folds(rng, size)
    colour = _cover(colour, lesion.alpha, _lesion_colour(rng, wall, vessels))
    # the lesion is a dome on the wall, which shading and highlights follow
    radius = size * np.sqrt(lesion.share / np.pi)
    dome = ndimage.gaussian_filter(np.sqrt(1 - np.square(1 - lesion.depth)), 0.8 * scale)
    height = height * (1 - np.float32(0.8) * lesion.alpha) + dome * np.float32(radius * rng.uniform(0.25, 0.7))

    lamp = np.array(_centre(rng, size, 0.25))
    away = np.hypot(x - np.float32(lamp[0]), y - np.float32(lamp[1])) / np.float32(size)
    light = np.float32(0.25) + np.exp(-np.square(away / np.float32(rng.uniform(0.45, 0.9))))
    light = light * (1 - _lumen(rng, size) * (1 - lesion.alpha)) * (1 - _contact_shadow(rng, lesion, lamp, scale))
    tilt, gloss = _shade(rng, height, lamp)
    image = colour * (light * (np.float32(0.75) + np.float32(0.5) * tilt))[..., None]
    wet = _highlights(rng, gloss, away, scale)
    image = _cover(image, wet, np.array([1.0, 0.98, 0.95], dtype=np.float32))
    image = ndimage.gaussian_filter(image, (scale * rng.uniform(0.2, 0.6),) * 2 + (0,))
    image = _expose(rng, image, rng.uniform(0.004, 0.02)) * frame[..., None]
    inside = frame > 0.5
    return image, Shape(lesion.mask & inside, lesion.alpha * frame, lesion.depth * frame)


def _centre(rng: np.random.Generator, size: int, margin: float) -> tuple[float, float]:
    x, y = rng.uniform(margin * size, (1 - margin) * size, 2)
    return float(x), float(y)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _cover(image: Field, alpha: Field, paint: Field) -> Field:
    """Paint over the image.

    Args:
        image: (size, size, 3).
        alpha: Opacity of the paint, (size, size).
        paint: (size, size, 3) or (3,).
    """
    return image + alpha[..., None] * (paint - image)


def _expose(rng: np.random.Generator, image: Field, grain: float) -> Field:
    """Add sensor noise, then clip to 0..1."""
    speckle = rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(grain) * speckle, 0, 1)


# --- everyday scenes


def _general_shape(rng: np.random.Generator, size: int, share: float, margin: float) -> Shape:
    softness = rng.uniform(0.6, 1.5) if rng.random() < 0.85 else rng.uniform(1.5, 3)
    return draw_shape(
        rng,
        size,
        str(rng.choice(GENERAL_FAMILIES)),
        share,
        _centre(rng, size, margin),
        softness=softness * size / 128,
        roughness=rng.choice((0.0, rng.uniform(0.02, 0.12))),
    )


def _random_colour(rng: np.random.Generator) -> Field:
    hue, saturation, value = rng.uniform(0, 1), rng.beta(2, 2), rng.uniform(0.15, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _palette(rng: np.random.Generator, unlike: Field | None) -> Field:
    """Draw two related colours (2, 3), whose mean is far from the mean of `unlike`."""
    while True:
        colour = _random_colour(rng)
        other = np.clip(colour + rng.normal(0, rng.uniform(0.05, 0.3), 3), 0, 1)
        pair = np.stack([colour, other]).astype(np.float32)
        if unlike is None or np.linalg.norm((pair - unlike).mean(axis=0)) > 0.25:
            return pair


def _material(rng: np.random.Generator, size: int, palette: Field) -> Field:
    """Draw a textured surface (size, size, 3) between two colours."""
    pattern = any_texture(rng, size)[..., None]
    return np.asarray(palette[0] + pattern * (palette[1] - palette[0]), dtype=np.float32)


def _put(rng: np.random.Generator, image: Field, thing: Shape, palette: Field) -> None:
    """Paint an object onto the image in place.

    It casts a shadow to one side, and some things have a bulge or a glossy spot.
    """
    size = image.shape[0]
    window = _around(thing.mask, margin=size // 12)
    patch, alpha, depth = image[window], thing.alpha[window], thing.depth[window]
    side = max(patch.shape[:2])
    surface = _material(rng, side, palette)[: patch.shape[0], : patch.shape[1]]
    reach = rng.uniform(-0.04, 0.04, 2) * size
    shadow = ndimage.shift(ndimage.uniform_filter(alpha, max(1, size // 24)), reach, order=1)
    patch = patch * (1 - np.float32(rng.uniform(0, 0.45)) * shadow[..., None])
    if rng.random() < 0.5:
        surface = surface * (np.float32(0.75) + np.float32(0.4) * np.sqrt(depth))[..., None]
    patch = _cover(patch, alpha, surface)
    if rng.random() < 0.25:
        spot = np.clip(noise(rng, side, 4)[: alpha.shape[0], : alpha.shape[1]] - 1.6, 0, 0.5) * 2 * alpha
        patch = _cover(patch, spot, np.ones(3, dtype=np.float32))
    image[window] = patch


def _around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Return the window that holds the mask, with a margin in pixels.

    The frame cuts the margin.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    first, last = max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin
    left, right = max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin
    return slice(first, last), slice(left, right)


# --- endoscopic scenes


def _lesion_colour(rng: np.random.Generator, wall: Field, vessels: Field) -> Field:
    size = vessels.shape[0]
    tint = np.array(_TINTS[rng.integers(len(_TINTS))], dtype=np.float32)
    strength = np.float32(rng.uniform(0.3, 1.0))
    base = wall * (1 + strength * (tint - 1))
    pits = noise(rng, size, rng.uniform(14, 40), octaves=2, gain=0.7)
    blotch = noise(rng, size, rng.uniform(4, 8))
    relief = 1 + np.float32(rng.uniform(0.02, 0.09)) * pits + np.float32(rng.uniform(0, 0.06)) * blotch
    faint = 1 - np.float32(0.25) * vessels
    return np.asarray(base * (relief * faint)[..., None], dtype=np.float32)


def _residue(rng: np.random.Generator, colour: Field, scale: float) -> Field:
    """Hide the wall behind yellowish patches in some images."""
    if rng.random() > 0.35:
        return colour
    size = colour.shape[0]
    cover = np.clip((noise(rng, size, 3, octaves=3) - np.float32(rng.uniform(1.1, 1.8))) * 3, 0, 0.8)
    paint = np.array([0.78, 0.66, 0.25], dtype=np.float32)
    return _cover(colour, cover, paint * (1 + np.float32(0.1) * noise(rng, size, 24 * scale)[..., None]))


def _folds(rng: np.random.Generator, size: int) -> Field:
    """Return the height of the wall in pixels: gentle relief and a few long ridges."""
    relief = noise(rng, size, 2.5, octaves=2) * np.float32(0.02 * size)
    ridges = curves(rng, size, rng.uniform(1.2, 2.2), size * rng.uniform(0.04, 0.1))
    bumps = noise(rng, size, 14, octaves=2) * np.float32(0.0015 * size)
    return np.asarray(relief + bumps + ridges * np.float32(size * rng.uniform(0, 0.07)), dtype=np.float32)


def _lumen(rng: np.random.Generator, size: int) -> Field:
    """Return the share of light that a dark opening takes away, 0..1.

    Half of the images have none.
    """
    if rng.random() < 0.5:
        return np.zeros((size, size), dtype=np.float32)
    share, softness = rng.uniform(0.02, 0.15), size * rng.uniform(0.06, 0.25)
    hole = draw_shape(
        rng,
        size,
        family="ellipse",
        share=share,
        centre=_centre(rng, size, 0.1),
        softness=softness,
        roughness=rng.uniform(0.0, 0.08),
    )
    return hole.alpha * np.float32(rng.uniform(0.5, 0.9))


def _contact_shadow(rng: np.random.Generator, lesion: Shape, lamp: NDArray[np.float64], scale: float) -> Field:
    """Return the darkening next to the lesion, on the side away from the lamp."""
    rows, columns = np.nonzero(lesion.mask)
    from_lamp = np.array([rows.mean() - lamp[1], columns.mean() - lamp[0]])
    reach = from_lamp / max(float(np.linalg.norm(from_lamp)), 1e-6) * scale * rng.uniform(1, 5)
    blurred = ndimage.gaussian_filter(lesion.alpha, scale * rng.uniform(1.5, 4))
    cast = ndimage.shift(blurred, reach, order=1)
    return np.asarray(cast * (1 - lesion.alpha) * np.float32(rng.uniform(0.1, 0.5)), dtype=np.float32)


def _shade(rng: np.random.Generator, height: Field, lamp: NDArray[np.float64]) -> tuple[Field, Field]:
    """Return the light that the wall sends to an eye straight above.

    Returns:
        Lambert's cosine for a lamp above the wall, and the mirror term, both in 0..1.
    """
    size = height.shape[0]
    x, y = pixel_grid(size)
    down, across = np.gradient(height)
    to_x, to_y = np.float32(lamp[0]) - x, np.float32(lamp[1]) - y
    above = np.float32(size * rng.uniform(0.35, 0.6))
    length = np.sqrt(np.square(to_x) + np.square(to_y) + above**2)
    steepness = np.sqrt(1 + np.square(down) + np.square(across))
    cosine = (above - across * to_x - down * to_y) / (length * steepness)
    # the half vector lies between the eye and the lamp
    half = np.sqrt(np.square(to_x) + np.square(to_y) + np.square(above + length))
    mirror = (above + length - across * to_x - down * to_y) / (half * steepness)
    return np.clip(cosine, 0, 1).astype(np.float32), np.clip(mirror, 0, 1).astype(np.float32)


def _highlights(rng: np.random.Generator, gloss: Field, away: Field, scale: float) -> Field:
    """Return the opacity of the lamp's reflections on the wet surface.

    The reflections are small and saturated, and ripples break them up.
    """
    size = gloss.shape[0]
    ripples = noise(rng, size, rng.uniform(9, 18) / max(scale, 1.0) * scale, octaves=2, gain=0.6)
    score = (gloss - 1) * np.float32(rng.uniform(10, 25)) - away + np.float32(0.35) * ripples
    wanted = rng.uniform(0.001, 0.02)
    level = np.partition(score, -max(1, int(wanted * score.size)), axis=None)[-max(1, int(wanted * score.size))]
    return np.asarray(np.clip((score - level) * 8 + 0.3, 0, 1), dtype=np.float32)


def _frame(rng: np.random.Generator, size: int) -> Field:
    """Return the endoscope's opening, 1 inside and 0 in the black corners.

    A third of the images have no corners.
    """
    if rng.random() < 1 / 3:
        return np.ones((size, size), dtype=np.float32)
    x, y = pixel_grid(size)
    u, v = np.abs(2 * x / np.float32(size) - 1), np.abs(2 * y / np.float32(size) - 1)
    straight = np.float32(rng.uniform(0.9, 1.02)) - np.maximum(u, v)
    corner = np.float32(rng.uniform(1.35, 1.65)) - u - v
    return np.asarray(np.clip(np.minimum(straight, corner) * np.float32(size / 3) + 0.5, 0, 1), dtype=np.float32)
