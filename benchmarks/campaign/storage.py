"""A small disk that holds the studies and can be filled up."""

from __future__ import annotations

from pathlib import Path

from benchmarks.campaign.machines import run

_SIZE = "256m"


class Disk:
    """Mounted at `place`; machines that are made later see it too."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(place)])
        self.place, self._filler = place, place / "filler"

    def fill(self) -> None:
        """Leave not a byte."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(b"\0" * size):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it out of this process's sight, even if it is still in use."""
        run(["umount", "--lazy", str(self.place)])
