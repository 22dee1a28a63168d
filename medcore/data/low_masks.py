"""Low-resolution masks by the nearest neighbour, as the released code of MedCore makes them (method §1)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from medcore.data.frames.frame import Frame
from medcore.data.imageset import ImageSet, Indices


@dataclass(frozen=True, eq=False)
class NearestImageSet(ImageSet):
    """An image set whose low-resolution masks take the nearest pixel of the mask at original size."""

    @classmethod
    def of(cls, images: ImageSet) -> NearestImageSet:
        """Return the same samples; the arrays are shared."""
        return cls(**{field.name: getattr(images, field.name) for field in fields(images)})

    def subset(self, indices: Indices) -> NearestImageSet:
        """Return copies of the chosen samples as a set of their own, in the order given."""
        return NearestImageSet.of(super().subset(indices))

    def low_masks(self, low: int, indices: Indices = None) -> NDArray[np.float32]:
        """Return masks at the decoder's resolution.

        Args:
            low: Side of the result.
            indices: Which masks.

        Returns:
            Float32 (B, low, low), 0, 1 or `losses.IGNORED`.
        """
        chosen = self._positions(indices)
        masks = np.zeros((len(chosen), low, low), np.float32)
        frame = Frame(low, padded=bool(self.inner))
        for row, index in enumerate(chosen):
            masks[row] = frame.mask(self.truths[index], self.void(index))
        return masks

    def fingerprint(self) -> str:
        """Return a text that differs from that of the same samples with other low-resolution masks."""
        return f"{super().fingerprint()}-nearest"
