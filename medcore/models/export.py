"""Write models for programs that do not know medcore: one self-contained folder, a SamModel of transformers, or ONNX.

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
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from medcore.errors import CheckpointError, ConfigError, StorageError, brief
from medcore.files import cannot_write
from medcore.models.checkpoint import FORMAT, save
from medcore.models.cut import pad
from medcore.models.formats.huggingface import CONFIG, TIED, config_of, hf_names
from medcore.models.sam import MedSam
from medcore.models.spec import DEFAULT_KIND
from medcore.models.standalone import files_of
from medcore.models.vit.arch import SamVit

MODEL, STRUCTURE, ENCODER, DECODER = "model.safetensors", "model.json", "encoder.onnx", "decoder.onnx"
#: What to do where onnx, onnxscript or onnxruntime is missing.
INSTALL = 'pip install "medcore-search[onnx]"'

#: The newest opset that ONNX Runtime's stable kernels cover and in which layer normalisation is one operator.
_OPSET = 18
#: Protocol buffers end at 2 GiB, so larger weights go into a file next to the graph.
_MOST_BYTES_INSIDE = 1_800_000_000


def write_standalone(folder: Path, model: MedSam, info: Mapping[str, str] | None = None) -> list[Path]:
    """Write weights, structure and the standalone loader.

    The loader needs only torch and segment_anything.

    Args:
        folder: exists; files of the same names are replaced.
        model: of a kind that a loader knows.
        info: further metadata, as for `checkpoint.save`.

    Returns:
        The files.

    Raises:
        ConfigError: the model is of another kind.
        StorageError: the folder cannot be written.
    """
    scripts = files_of(model.arch)
    save(folder / MODEL, model, info)
    try:
        for name, source in scripts.items():
            shutil.copyfile(source, folder / name)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    return [folder / MODEL, _write_structure(folder, model, info), *(folder / name for name in scripts)]


def write_huggingface(folder: Path, model: MedSam, info: Mapping[str, str] | None = None) -> list[Path]:
    """Write a SamModel of transformers: `config.json`, weights under its names, and the structure.

    A SamModel has equal blocks, so a pruned model is written in the dense shapes, with zeros for what is gone. It
    computes the same and is no smaller than the dense model.

    Args:
        folder: exists; files of the same names are replaced.
        model: of segment-anything's kind.
        info: further metadata, as for `checkpoint.save`, for the structure.

    Returns:
        The files.

    Raises:
        ConfigError: the model is of another kind, or has lost a whole layer or output, which a SamModel cannot.
        StorageError: the folder cannot be written.
    """
    arch = model.arch
    if not isinstance(arch, SamVit):
        raise ConfigError(f"a SamModel has an encoder of kind {DEFAULT_KIND}, not {arch.kind}; export another format")
    try:
        whole = pad(model)
    except ValueError as error:
        raise ConfigError(
            f"a SamModel has all layers, blocks and outputs, but {error}; export another format"
        ) from None
    state = {name: tensor.detach().cpu() for name, tensor in whole.state_dict().items()}
    named = {theirs: state[own].contiguous() for own, theirs in hf_names(state).items()}
    named |= {copy: named[original].clone() for copy, original in TIED.items()}
    try:
        # transformers reads no safetensors without this mark
        save_file(named, folder / MODEL, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config_of(arch), indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error) from None
    return [folder / CONFIG, folder / MODEL, _write_structure(folder, model, info)]


def write_onnx(folder: Path, model: MedSam, info: Mapping[str, str] | None = None) -> list[Path]:
    """Write encoder and decoder (see the module's text) and structure.

    `model` is left as it is. A copy of it is exported on the CPU, in float32.

    Args:
        folder: exists; files of the same names are replaced.
        model: the model.
        info: further metadata, as for `checkpoint.save`.

    Returns:
        The files.

    Raises:
        MedcoreError: a package for ONNX is missing, or the model cannot be exported, or its images are padded, or the
            folder cannot be written.
    """
    if model.arch.frame.padded:
        raise ConfigError("the ONNX graph scales whole squares, but this model's are padded; take another format")
    require_onnx()
    structure = _write_structure(folder, model, info)  # first, because it fails at once where no file can be written
    arch = model.arch
    still = copy.deepcopy(model).cpu().float().eval()
    embedding = torch.zeros(1, arch.embedding_chans, arch.grid, arch.grid)
    # two boxes, because the exporter takes a size of 1 for fixed
    boxes = torch.tensor([[0.0, 0.0, arch.img_size / 2, arch.img_size / 2]]).repeat(2, 1)
    image = torch.zeros(1, 3, arch.img_size, arch.img_size)
    _export(folder / ENCODER, _Encoder(still), {"image": image}, "embedding", None)
    free = {"embedding": None, "boxes": {0: torch.export.Dim("prompts", min=1)}}
    _export(folder / DECODER, _Decoder(still), {"embedding": embedding, "boxes": boxes}, "logits", free)
    weights = sorted(path for name in (ENCODER, DECODER) for path in folder.glob(f"{name}.data"))
    return [folder / ENCODER, folder / DECODER, *weights, structure]


def require_onnx() -> None:
    """Check that the packages that torch's exporter needs are installed.

    Raises:
        MedcoreError: one is missing; the message says how to install it.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"ONNX files need the package {package}, which is missing; {INSTALL}")


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
        raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    except torch.onnx.OnnxExporterError as error:
        raise CheckpointError(f"{path}: this model cannot be written as ONNX ({brief(error, first=120)})") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter.

    It prints its progress, and warns of details of its own that no user can change.
    """
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
    """Write `model.json` with the spec and `info`, whose JSON texts become objects."""
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
        raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    return path
