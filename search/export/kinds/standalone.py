"""`--format standalone`: a folder with the weights and a loader that needs nothing of medcore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from medcore.models.export import MODEL, STRUCTURE, write_standalone
from medcore.models.sam import MedSam
from medcore.models.standalone import DECODER_FILES, FILES, SCRIPT
from search.export.check import CheckImages, Logits, compare
from search.export.format import DESCRIPTION, LOADER, WEIGHTS, ExportFormat


def check(folder: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
    """Compare the copied loader with medcore.

    Raises:
        CheckpointError: Their masks differ.
    """
    script = _import(folder / SCRIPT.name)
    sam = script.predictor(script.load(folder / MODEL))

    def run(pixels: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> Logits:
        sam.set_image(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        # masks, IoUs, low-resolution logits (1, low, low)
        logits: Logits = sam.predict(box=box, multimask_output=False)[2]
        return logits

    return compare(SCRIPT.name, run, model, images())


def usage(name: str, side: int) -> str:
    """Return the command that segments an image in the folder, and the same in Python."""
    return f"""```
python {SCRIPT.name} {MODEL} image.jpg 40,60,200,220 mask.png
```

In Python, with this folder as the current one:

```python
import numpy as np
from load_pruned import from_pretrained, predictor
from PIL import Image

sam = predictor(from_pretrained("."))  # segment-anything's SamPredictor
sam.set_image(np.asarray(Image.open("image.jpg").convert("RGB")))
masks, _, _ = sam.predict(box=np.array([40, 60, 200, 220]), multimask_output=False)
```"""


def _import(path: Path) -> ModuleType:
    """Load a Python file as a module.

    An import statement would leave a compiled copy in the folder.
    """
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    return module


FORMAT = ExportFormat(
    name="standalone",
    kinds=tuple(FILES),
    files={
        MODEL: WEIGHTS,
        STRUCTURE: DESCRIPTION,
        SCRIPT.name: LOADER,
        **{
            name: "part of the loader"
            for scripts in (*FILES.values(), DECODER_FILES)
            for name in scripts
            if name != SCRIPT.name
        },
    },
    write=write_standalone,
    check=check,
    usage=usage,
    library="segment-anything",
)
