"""`--format checkpoint`: the model as a checkpoint of medcore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medcore.errors import CheckpointError
from medcore.models.checkpoint import load, save
from medcore.models.export import MODEL
from medcore.models.formats.precision import FLOAT32, file_precision
from medcore.models.sam import MedSam
from search.export.check import CheckImages, compare, running
from search.export.format import WEIGHTS, ExportFormat


def check(path: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
    """Read the file back and compare it.

    Images are needed only if the file's numbers are rounded.

    Raises:
        CheckpointError: A tensor, a width or a mask differs from the model's.
    """
    written, state = load(path), model.state_dict()
    if written.spec == model.spec and file_precision(path) != FLOAT32:
        return compare("the file read back", running(written), model, images())
    same = all(tensor.equal(state[name]) for name, tensor in written.state_dict().items())
    if written.spec != model.spec or not same:
        raise CheckpointError(f"{path.name}: what was written differs from the trial's model; export it again")
    return f"all {len(state)} tensors, read back, equal the trial's."


def usage(name: str, side: int) -> str:
    """Return the command that segments an image with the file."""
    return f"```\nmedcore predict {name} image.jpg --box 40,60,200,220 --out mask.png\n```"


FORMAT = ExportFormat(
    name="checkpoint",
    suffix=".safetensors",
    files={MODEL: WEIGHTS},
    write=save,
    check=check,
    usage=usage,
)
