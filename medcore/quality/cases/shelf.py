"""A store for the embeddings of slices, bounded in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, MutableMapping
from types import TracebackType

import torch
from torch import Tensor

from medcore.errors import StorageError

#: Bytes of embeddings in memory; more of them go to a temporary file.
_IN_MEMORY = 256 << 20


class Shelf(MutableMapping[int, Tensor]):
    """Embeddings by the number of their slice, of one shape and type.

    They are kept bit by bit, in memory and beyond a limit in a temporary file without a name.
    """

    def __init__(self, device: torch.device, most: int = _IN_MEMORY) -> None:
        """Keep at most `most` bytes in memory; embeddings return to the device."""
        self._device = device
        self._file = tempfile.SpooledTemporaryFile(max_size=most)  # noqa: SIM115  closed by __exit__
        self._places: dict[int, int] = {}
        self._next = 0
        self._like: tuple[torch.Size, torch.dtype] | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __setitem__(self, index: int, embedding: Tensor) -> None:
        """Keep an embedding.

        Raises:
            StorageError: The file cannot be written.
        """
        data = embedding.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        self._like = (embedding.shape, embedding.dtype)
        self._places[index], self._next = self._next, self._next + 1
        try:
            self._file.seek(self._places[index] * len(data))
            self._file.write(data)
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()}: the embeddings of slices cannot be written ({error.strerror}); set TMPDIR "
                "to a folder with more space"
            ) from None

    def __getitem__(self, index: int) -> Tensor:
        place = self._places[index]
        assert self._like is not None  # as something is kept
        shape, dtype = self._like
        count = shape.numel() * dtype.itemsize
        self._file.seek(place * count)
        return torch.frombuffer(bytearray(self._file.read(count)), dtype=dtype).view(shape).to(self._device)

    def __delitem__(self, index: int) -> None:
        del self._places[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
