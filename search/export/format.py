"""What a form of export has to say about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcore.errors import ConfigError
from medcore.models.formats.precision import FLOAT32, PRECISIONS
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture
from search.export.check import CheckImages

#: Meaning of the file that holds a model's weights, wherever it is.
WEIGHTS = "weights, and the structure as JSON in the metadata (`spec`)"
#: Meaning of the loader that is copied with a model.
LOADER = "rebuilds and runs the model; needs torch, torchvision and segment_anything"
#: Meaning of the file that describes a model to people.
DESCRIPTION = "structure and the trial's row as JSON, for people and other programs"


def needs_nothing() -> None:
    """Require no package beyond those of medcore."""


@dataclass(frozen=True)
class ExportFormat:
    """One form in which a model leaves a study: a single file, or several in a folder.

    Attributes:
        name: Value of `--format`.
        files: Meaning of each file that may be written, by its name in the folder. A format of one file has one entry,
            and the user chooses the file's name.
        write: Writes a model. Takes the file or the folder, which exists, the model with its numbers in the precision
            to write, and further metadata.
        check: Compares what was written with the model. Takes the file or the folder, the float32 model, and a function
            that returns the images to compare on. Returns a sentence for the card; raises `MedcoreError` if they
            differ.
        usage: Returns Markdown that says how to run the model. Takes the name of the file or folder, and the side of
            the model's square in pixels.
        suffix: Ending of the one file; None for a folder.
        requires: Raises `MedcoreError` if a package is missing.
        kinds: Kinds of architecture that it can hold; None for all.
        marker: File without which the others are not taken for an earlier export's, because their names are common.
        precisions: Precisions in which it can be written, see `medcore.models.formats.precision`.
        library: Name of the library that runs what was written, for the card's head.
    """

    name: str
    files: Mapping[str, str]
    write: Callable[[Path, MedSam, Mapping[str, str]], object]
    check: Callable[[Path, MedSam, Callable[[], CheckImages]], str]
    usage: Callable[[str, int], str]
    suffix: str | None = None
    requires: Callable[[], object] = needs_nothing
    kinds: tuple[str, ...] | None = None
    marker: str | None = None
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    library: str = "medcore"

    @property
    def is_folder(self) -> bool:
        """Whether the format has several files in a folder."""
        return self.suffix is None

    def require_kind(self, arch: Architecture) -> None:
        """Check that the format can hold a model of this architecture.

        Raises:
            ConfigError: It cannot.
        """
        if self.kinds is not None and arch.kind not in self.kinds:
            raise ConfigError(
                f"--format {self.name} holds models of kind {', '.join(self.kinds)} only, not {arch.kind}; use "
                "--format checkpoint or onnx"
            )

    def require_precision(self, precision: str | None) -> None:
        """Check that the format can be written in a precision that the user names; None names none.

        Raises:
            ConfigError: It cannot, or the precision is unknown.
        """
        if precision is not None and precision not in PRECISIONS:
            raise ConfigError(f"--dtype {precision}: unknown; known are {', '.join(PRECISIONS)}")
        if precision is not None and precision not in self.precisions:
            raise ConfigError(
                f"--dtype {precision}: --format {self.name} holds {' and '.join(self.precisions)} only; leave --dtype "
                f"out, or set it to {FLOAT32}"
            )

    def meaning(self, name: str) -> str:
        """Return what a file that was written is for."""
        if not self.is_folder:
            return next(iter(self.files.values()))
        return self.files.get(name, "part of the model")
