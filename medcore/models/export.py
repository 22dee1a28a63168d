"""Write models for programs that do not know medcore: one self-contained folder, or ONNX.

The two ONNX files meet at the image embedding, so that an image is encoded once for all of its boxes:

    encoder.onnx  image (1, 3, S, S) float32, resized to the square, of any range -> embedding (1, C, g, g)
    decoder.onnx  embedding (1, C, g, g), boxes (B, 4) float32 XYXY in pixels of the square -> logits (B, 1, low, low)

B is free. Min-max scaling and normalisation are part of the encoder's graph.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcore.errors import MedcoreError
from medcore.files import first_line
from medcore.models.checkpoint import FORMAT, save
from medcore.models.sam import MedSam
from medcore.models.standalone import SCRIPT

MODEL, STRUCTURE, ENCODER, DECODER = "model.safetensors", "model.json", "encoder.onnx", "decoder.onnx"
#: What to do where onnx, onnxscript or onnxruntime is missing.
INSTALL = 'pip install "medcore-search[onnx]"'

#: The newest opset that ONNX Runtime's stable kernels cover and in which layer normalisation is one operator.
_OPSET = 18
#: Protocol buffers end at 2 GiB; larger weights go into a file beside the graph.
_MOST_BYTES_INSIDE = 1_800_000_000


def write_standalone(folder: Path, model: MedSam, info: Mapping[str, str] | None = None) -> list[Path]:
    """Write weights, structure and the loader that needs only torch and segment_anything. Returns the files.

    Args:
        folder: exists; files of the same names are replaced. info: further metadata, as for `checkpoint.save`.

    Raises: MedcoreError if the folder cannot be written.
    """
    save(folder / MODEL, model, info)
    try:
        shutil.copyfile(SCRIPT, folder / SCRIPT.name)
    except OSError as error:
        raise MedcoreError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    return [folder / MODEL, _write_structure(folder, model, info), folder / SCRIPT.name]


def write_onnx(folder: Path, model: MedSam, info: Mapping[str, str] | None = None) -> list[Path]:
    """Write encoder, decoder (see the module's text) and structure. Returns the files.

    Args: as `write_standalone`. `model` is left as it is; its copy is exported on the CPU, in float32.

    Raises: MedcoreError if a package for ONNX is missing, the model cannot be exported or the folder not written.
    """
    require_onnx()
    arch = model.arch
    still = copy.deepcopy(model).cpu().float().eval()
    embedding = torch.zeros(1, arch.out_chans, arch.grid, arch.grid)
    # two boxes: the exporter takes a size of 1 for fixed
    boxes = torch.tensor([[0.0, 0.0, arch.img_size / 2, arch.img_size / 2]]).repeat(2, 1)
    image = torch.zeros(1, 3, arch.img_size, arch.img_size)
    _export(folder / ENCODER, _Encoder(still), {"image": image}, "embedding", None)
    free = {"embedding": None, "boxes": {0: torch.export.Dim("prompts", min=1)}}
    _export(folder / DECODER, _Decoder(still), {"embedding": embedding, "boxes": boxes}, "logits", free)
    beside = sorted(path for name in (ENCODER, DECODER) for path in folder.glob(f"{name}.data"))
    return [folder / ENCODER, folder / DECODER, *beside, _write_structure(folder, model, info)]


def require_onnx() -> None:
    """Raises `MedcoreError` with the cure if a package that torch's exporter asks for is missing."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MedcoreError(f"ONNX files need the package {package}, which is missing; {INSTALL}")


class _Encoder(nn.Module):
    def __init__(self, model: MedSam) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.model.image_encoder(self.model.preprocess(image))
        return embedding


class _Decoder(nn.Module):
    def __init__(self, model: MedSam) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        return self.model.decode(embedding, boxes)


def _export(path: Path, module: nn.Module, inputs: dict[str, Tensor], output: str, free: dict[str, Any] | None) -> None:
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=free,
                opset_version=_OPSET,
                external_data=size > _MOST_BYTES_INSIDE,
                dynamo=True,
                verbose=False,
            )
    except OSError as error:
        raise MedcoreError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    except torch.onnx.OnnxExporterError as error:
        raise MedcoreError(f"{path}: this model cannot be written as ONNX ({first_line(error)})") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress, and warns of details of its own that no user can change."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_structure(folder: Path, model: MedSam, info: Mapping[str, str] | None) -> Path:
    """`model.json`: the spec, and `info` in which texts that are JSON are objects."""
    entries: dict[str, Any] = {"format": FORMAT, "spec": model.spec.to_dict()}
    for name, text in (info or {}).items():
        try:
            entries[name] = json.loads(text)
        except ValueError:
            entries[name] = text
    path = folder / STRUCTURE
    try:
        path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise MedcoreError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    return path
