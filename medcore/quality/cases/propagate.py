"""Segmentation of a volume from one box an object, slice by slice, as the MedSAM challenge does it (method §7).

An object begins in the middle slice of its box, with the box itself. From there it goes up to the last slice of the box
and down to the first. The box of each further slice is the exact box of the object's mask in the slice before, plus a
margin. Where that mask is empty, it is the object's own box.

Objects begin in different slices, so a slice may be needed twice: on the way up by some objects and on the way down by
others. It is encoded once, and its embedding is kept in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medcore.quality.surfaces import Mask

Boxes = NDArray[np.float64]
E = TypeVar("E")


def propagate(
    boxes: Boxes,
    shape: tuple[int, int, int],
    margin: tuple[float, float],
    encode: Callable[[int], E],
    decode: Callable[[E, Boxes], Iterable[Mask]],
    kept: MutableMapping[int, E],
) -> NDArray[np.uint16]:
    """Segment the objects of a volume.

    Args:
        boxes: (objects, 6), x0, y0, z0, x1, y1, z1 in pixels and slices. Slices are whole numbers, and both ends belong
            to the box.
        shape: Slices, rows and columns.
        margin: By how many pixels a mask's box is widened to the left and right, and upward and downward.
        encode: Returns the embedding of a slice. It is called once for each slice of any box.
        decode: Returns the masks (rows, columns) of some objects in a slice, one a box (objects, 4). It is called at
            most twice for a slice.
        kept: Holds embeddings from the way up to the way down; empty at the end.

    Returns:
        (slices, rows, columns), 0 for background and i for object i, which counts from 1. Where objects overlap, the
        last one counts.
    """
    first, last = boxes[:, 2].astype(int), boxes[:, 5].astype(int)
    middle = (first + last) // 2
    own: Boxes = boxes[:, [0, 1, 3, 4]]
    labels = np.zeros(shape, np.uint16)

    def step(index: int, embedding: E, objects: NDArray[np.intp], prompts: Boxes) -> Boxes:
        """Segment some objects in a slice; return their boxes for the next slice."""
        following = []
        for item, mask in zip(objects, decode(embedding, prompts), strict=True):
            np.maximum(labels[index], np.uint16(item + 1) * mask, out=labels[index])
            found = next_box(mask, margin)
            following.append(own[item] if found is None else found)
        return np.array(following)

    upward, downward = own.copy(), own.copy()
    for index in range(min(middle), max(last) + 1):
        here = np.flatnonzero((middle <= index) & (index <= last))
        if not here.size:
            continue
        embedding = encode(index)
        upward[here] = step(index, embedding, here, upward[here])
        begun = here[middle[here] == index]
        downward[begun] = upward[begun]
        if ((first <= index) & (index < middle)).any():
            kept[index] = embedding
    for index in range(max(middle) - 1, min(first) - 1, -1):
        here = np.flatnonzero((first <= index) & (index < middle))
        if here.size:
            embedding = kept.pop(index) if index in kept else encode(index)
            downward[here] = step(index, embedding, here, downward[here])
    return labels


def next_box(mask: Mask, margin: tuple[float, float]) -> Boxes | None:
    """Return the box of the next slice, (4,): the exact box of a mask (rows, columns), widened within the image.

    Args:
        mask: The object in this slice.
        margin: Pixels to the left and right, and upward and downward.

    Returns:
        x0, y0, x1, y1; None if the mask is empty.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    height, width = mask.shape
    across, down = margin
    return np.array(
        [
            max(0.0, columns[0] - across),
            max(0.0, rows[0] - down),
            min(float(width), columns[-1] + across),
            min(float(height), rows[-1] + down),
        ]
    )
