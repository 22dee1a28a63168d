"""Outputs of the unpruned model for the calibration images, computed once a study (method §6)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.devices import Microbatches, device_of, mixed_precision
from medcore.errors import CheckpointError, MedcoreError, StorageError
from medcore.files import replacing
from medcore.models.sam import MedSam

#: Part of every key, so that answers of an older format are computed again.
TEACHER_FORMAT = "medcore-teacher-1"


@dataclass(frozen=True)
class Teacher:
    """Outputs of the unpruned model for images with their exact boxes.

    Row i belongs to image i. The arrays are never written to, so read-only views (shared memory, memory maps) serve as
    well as owned ones.

    Attributes:
        embeddings: float16 (N, C, g, g), output of the image encoder.
        logits: float16 (N, 1, low, low), the decoder's low-resolution logits.
    """

    embeddings: npt.NDArray[np.float16]
    logits: npt.NDArray[np.float16]

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.logits):
            raise MedcoreError(f"teacher: {len(self.embeddings)} embeddings but {len(self.logits)} logits")

    def __len__(self) -> int:
        return len(self.logits)

    def save(self, path: Path) -> None:
        """Write a safetensors file by rename.

        Raises:
            StorageError: the file cannot be written.
        """
        arrays = {"embeddings": self.embeddings, "logits": self.logits}
        try:
            with replacing(path) as temporary:
                save_file(
                    {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                    temporary,
                    metadata={"format": TEACHER_FORMAT},
                )
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: cannot write the teacher's answers ({error})") from None

    @classmethod
    def load(cls, path: Path) -> Teacher:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is damaged or of another format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("format") != TEACHER_FORMAT:
                    raise ValueError("another format")
                embeddings, logits = file.get_tensor("embeddings"), file.get_tensor("logits")
            if embeddings.ndim != 4 or logits.ndim != 4 or {embeddings.dtype, logits.dtype} != {np.dtype(np.float16)}:
                raise ValueError("arrays of another shape or type")
            return cls(embeddings, logits)
        except (OSError, SafetensorError, ValueError, MedcoreError) as error:
            raise CheckpointError(f"{path}: damaged teacher answers ({error}); delete the file") from None

    def batch(self, indices: npt.NDArray[np.intp], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return copies of some rows as float32.

        Args:
            indices: (B,) rows.
            device: where to put the copies.

        Returns:
            Embeddings (B, C, g, g) and logits (B, 1, low, low).
        """
        embeddings, logits = self.embeddings[indices], self.logits[indices]
        return (
            torch.from_numpy(embeddings.astype(np.float32)).to(device),
            torch.from_numpy(logits.astype(np.float32)).to(device),
        )


@torch.no_grad()
def compute_teacher(model: MedSam, images: ImageSet, batch_size: int = 8, autocast: bool = False) -> Teacher:
    """Run `model` on all images with their exact boxes.

    Batches get smaller if memory runs out. Half precision is enough for the answers, because embeddings stay small, by
    a normalisation at the encoder's end or as they were trained, and logits stay within a few hundred.

    Args:
        model: the unpruned model.
        images: the images.
        batch_size: images in a call.
        autocast: whether to run the model in bfloat16.

    Raises:
        MedcoreError: an answer is not finite in half precision, so that nothing could be learnt from it.
    """
    arch, device = model.arch, device_of(model)
    embeddings = np.empty((len(images), arch.embedding_chans, arch.grid, arch.grid), np.float16)
    logits = np.empty((len(images), 1, arch.low_res, arch.low_res), np.float16)

    def answer(pieces: list[slice]) -> None:
        for chosen in (indices[piece] for piece in pieces):
            with mixed_precision(device, autocast):
                embedding = model.encode(images.tensor(chosen).to(device))
                low = model.decode(embedding, images.box_tensor(chosen).to(device))
            embeddings[chosen] = embedding.half().cpu().numpy()
            logits[chosen] = low.half().cpu().numpy()

    microbatches = Microbatches()
    for start in range(0, len(images), batch_size):
        indices = np.arange(start, min(start + batch_size, len(images)))
        microbatches.run(len(indices), answer)
        if not (np.isfinite(embeddings[indices]).all() and np.isfinite(logits[indices]).all()):
            raise CheckpointError(
                f"teacher: non-finite answer for an image among {images.names[start]} … "
                f"{images.names[indices[-1]]}; check the checkpoint"
            )
    return Teacher(embeddings, logits)
