"""Large intermediate arrays: in memory while they are small, else in a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medcore.devices import Microbatches
from medcore.errors import StorageError

Floats = npt.NDArray[np.float32]

#: Bytes from which an array lies in a temporary file.
LARGE = 256 * 2**20


def scratch(shape: Sequence[int], large: int = LARGE) -> Floats:
    """Return a float32 array to fill in.

    A large one lies in a temporary file, whose space is reserved at once. The file has no name, so it disappears with
    the array.

    Args:
        shape: the shape.
        large: bytes from which a file is used.

    Raises:
        StorageError: the folder for temporary files has too little space.
    """
    count = 4 * prod(shape)
    if count < large:
        return np.empty(tuple(shape), np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            # a full disk would otherwise kill the process at the first write into the map
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, count)
            return np.memmap(file, np.float32, "w+", shape=tuple(shape))
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: no space for {count / 1e9:.1f} GB of intermediate features "
            f"({error.strerror}); free some, or set TMPDIR to a larger folder"
        ) from None


def collect(count: int, batch_size: int, work: Callable[[slice], Sequence[Tensor]]) -> list[Floats]:
    """Compute arrays image by image, in batches that get smaller if memory runs out.

    Args:
        count: number of images, at least 1.
        batch_size: images in a call.
        work: takes rows and returns tensors that begin with these rows, always equally many.

    Returns:
        One float32 array (count, …) for each tensor.

    Raises:
        StorageError: see `scratch`.
    """
    arrays: list[Floats] = []
    microbatches = Microbatches()

    def fill(pieces: list[slice]) -> None:
        for piece in pieces:
            rows = slice(start + piece.start, start + piece.stop)
            results = work(rows)
            if not arrays:
                arrays.extend(scratch((count, *result.shape[1:])) for result in results)
            for array, result in zip(arrays, results, strict=True):
                array[rows] = result.detach().float().cpu().numpy()

    for start in range(0, count, batch_size):
        microbatches.run(min(batch_size, count - start), fill)
    return arrays


def batches(count: int, batch_size: int) -> list[slice]:
    """Cut `count` rows into slices of `batch_size`; the last one may be shorter."""
    return [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
