"""`--format onnx`: a folder with encoder and decoder for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medcore.errors import ConfigError
from medcore.models.export import DECODER, ENCODER, INSTALL, STRUCTURE, require_onnx, write_onnx
from medcore.models.formats.precision import FLOAT32
from medcore.models.sam import MedSam
from search.export.check import CheckImages, Logits, compare
from search.export.format import DESCRIPTION, ExportFormat

_BESIDE = "weights of the graph of that name"


def check(folder: Path, model: MedSam, images: Callable[[], CheckImages]) -> str:
    """Compare ONNX Runtime with torch, on the CPU.

    Raises:
        CheckpointError: Their masks differ.
    """
    runtime = require_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    encoder, decoder = (
        runtime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        for name in (ENCODER, DECODER)
    )

    def run(pixels: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> Logits:
        (embedding,) = encoder.run(None, {"image": pixels[None].astype(np.float32)})
        logits: Logits = decoder.run(None, {"embedding": embedding, "boxes": box[None]})[0][0]
        return logits

    return compare("ONNX Runtime", run, model, images())


def requires() -> None:
    """Check that a model can be written and run.

    Raises:
        MedcoreError: A package is missing; the message says how to get it.
    """
    require_onnx()
    require_runtime()


def require_runtime() -> Any:
    """Return the package `onnxruntime`.

    Raises:
        ConfigError: It is missing; the message says how to get it.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"the ONNX check needs onnxruntime, which is missing; {INSTALL}") from None
    return onnxruntime


def usage(name: str, side: int) -> str:
    """Return a program that segments an image in the folder."""
    return f"""```python
import numpy as np, onnxruntime as ort
from PIL import Image

encoder, decoder = ort.InferenceSession("{ENCODER}"), ort.InferenceSession("{DECODER}")
picture = Image.open("image.jpg").convert("RGB")
square = np.asarray(picture.resize(({side}, {side}), Image.Resampling.BICUBIC), dtype=np.float32)
(embedding,) = encoder.run(None, {{"image": square.transpose(2, 0, 1)[None]}})
boxes = np.array([[40, 60, 200, 220]], dtype=np.float32)         # X0, Y0, X1, Y1 in the picture, one row a box
boxes *= np.tile([{side} / picture.width, {side} / picture.height], 2).astype(np.float32)
(logits,) = decoder.run(None, {{"embedding": embedding, "boxes": boxes}})
full = Image.fromarray(logits[0, 0]).resize(picture.size, Image.Resampling.BILINEAR)
mask = np.asarray(full) > 0
```"""


FORMAT = ExportFormat(
    name="onnx",
    files={
        STRUCTURE: DESCRIPTION,
        ENCODER: "image (1, 3, S, S) float32, of any range -> embedding (1, C, g, g)",
        DECODER: "embedding, boxes (B, 4) float32 XYXY in pixels of the square -> logits (B, 1, low, low)",
        # protocol buffers of more than 2 GiB have a second file
        f"{ENCODER}.data": _BESIDE,
        f"{DECODER}.data": _BESIDE,
    },
    write=write_onnx,
    check=check,
    usage=usage,
    requires=requires,
    # graphs of half precision would need other inputs and kernels, which few runtimes have on a CPU
    precisions=(FLOAT32,),
    library="onnxruntime",
)
