"""`--format huggingface`: a folder that transformers' SamModel loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medcore.errors import CheckpointError
from medcore.models.checkpoint import load
from medcore.models.export import MODEL, STRUCTURE, write_huggingface
from medcore.models.formats.huggingface import CONFIG
from medcore.models.sam import MedSam
from medcore.models.spec import DEFAULT_KIND, ModelSpec
from search.export.check import CheckImages, compare, running
from search.export.format import ExportFormat


def check(folder: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
    """Read the folder back and compare its masks with the model's.

    Raises:
        CheckpointError: Architecture or masks differ.
    """
    whole = load(folder)
    if whole.spec != ModelSpec.dense(model.arch):
        raise CheckpointError(f"{folder.name}: its configuration differs from the model's; export it again")
    agreed = compare("the folder read back", running(whole), model, images())
    return f"{agreed} {size_note(model.spec)}"


def size_note(spec: ModelSpec) -> str:
    """Say that a pruned model is as large as the dense one in this format; empty for a dense model."""
    if spec.is_dense:
        return ""
    gone = dict.fromkeys((family.singular for family in spec.arch.families), 0)
    for site, width in zip(spec.arch.sites, spec.widths, strict=True):
        gone[site.family.singular] += site.width - width
    listed = " and ".join(f"{count} {name}s" for name, count in gone.items())
    return (
        f"A SamModel has one width for all blocks, so the {listed} that are gone are zeros in dense shapes: file, "
        "memory and time are the dense model's. The other formats are smaller."
    )


def usage(name: str, side: int) -> str:
    """Return a program that segments an image with transformers."""
    return f"""A SamModel has one width for all blocks. A pruned model is therefore written in dense shapes, with zeros
for what is gone. Its masks are the pruned model's; file size, memory and time are the dense model's, not those above.

```python
import numpy as np, torch
from PIL import Image
from transformers import SamModel

model = SamModel.from_pretrained("{name}").float().eval()
picture = Image.open("image.jpg").convert("RGB")
square = np.asarray(picture.resize(({side}, {side}), Image.Resampling.BICUBIC), dtype=np.float32)
scaled = (square - square.min()) / max(square.max() - square.min(), 1e-8)  # no SamProcessor: it pads and normalises
mean, std = (np.float32(getattr(model.config, "medcore")[key]) for key in ("pixel_mean", "pixel_std"))
pixels = torch.from_numpy(((scaled - mean) / std).transpose(2, 0, 1)[None])
box = np.array([40, 60, 200, 220]) * np.tile([{side} / picture.width, {side} / picture.height], 2)
with torch.no_grad():
    boxes = torch.tensor(box[None, None]).float()
    logits = model(pixels, input_boxes=boxes, multimask_output=False).pred_masks
full = Image.fromarray(logits[0, 0, 0].numpy()).resize(picture.size, Image.Resampling.BILINEAR)
mask = np.asarray(full) > 0
```"""


FORMAT = ExportFormat(
    name="huggingface",
    kinds=(DEFAULT_KIND,),
    files={
        STRUCTURE: "what is left of each block, and the trial's row as JSON, for people and other programs",
        CONFIG: "the dense architecture, as transformers' SamConfig",
        MODEL: "weights under SamModel's names, in the dense shapes, with zeros for what is gone",
    },
    write=write_huggingface,
    check=check,
    usage=usage,
    marker=STRUCTURE,
    library="transformers",
)
