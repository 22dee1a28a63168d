"""Does an exported model say what medcore's own says? Both are run on the same images, and the masks compared."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medcore.data.load import ImageSet, box_of, load_image_set
from medcore.errors import MedcoreError
from medcore.models.checkpoint import load
from medcore.models.export import DECODER, ENCODER, INSTALL, MODEL
from medcore.models.sam import MedSam
from medcore.models.standalone import SCRIPT
from medcore.quality.evaluate import masks_of
from medcore.synthetic.write import make

#: How many images are compared, and the least IoU of the two masks of any of them.
IMAGES, LEAST_IOU = 20, 0.999
#: A large model on a CPU needs half a minute an image: after so many seconds, and images, the comparison ends.
PATIENCE_SECONDS, LEAST_IMAGES = 120, 3

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """Images to compare on, and where they come from."""

    images: ImageSet
    source: str


def sample_images(study: Path, config: Mapping[str, Any], size: int) -> Sample:
    """`IMAGES` images that the study was searched on or, where its data are not at hand, embedded ones.

    config: the study's configuration as plain values, possibly of an older version, or empty.
    """
    try:
        folders, split = [Path(folder) for folder in config["data"]["folders"]], config["data"]["search_split"]
        images, _ = load_image_set(
            folders,
            split,
            size,
            per_dataset=-(-IMAGES // len(folders)),
            save_splits=study.resolve().parent / "splits",
            deal_splits=False,
        )
    except (MedcoreError, LookupError, TypeError, ArithmeticError):
        return embedded_images(size)
    return Sample(images, f"images of the study's part {split}")


def embedded_images(size: int) -> Sample:
    pictures, masks = make("medical", IMAGES, size, seed=0)
    images = ImageSet(
        np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)),
        masks.astype(np.uint8),
        np.stack([box_of(mask) for mask in masks]),
        list(masks),
        ["embedded"] * IMAGES,
        [f"{index:04d}" for index in range(IMAGES)],
    )
    return Sample(images, "embedded images")


def check_checkpoint(path: Path, model: MedSam) -> str:
    """What was read back; raises `MedcoreError` if a tensor or a width differs from the model's."""
    again, state = load(path), model.state_dict()
    if again.spec != model.spec or any(not tensor.equal(state[name]) for name, tensor in again.state_dict().items()):
        raise MedcoreError(f"{path.name}: what was written differs from the trial's model; export it again")
    return f"all {len(state)} tensors, read back, equal the trial's."


def check_standalone(folder: Path, model: MedSam, sample: Sample) -> str:
    """The copied loader against medcore; raises `MedcoreError` if their masks differ."""
    script = _import(folder / SCRIPT.name)
    sam = script.predictor(script.load(folder / MODEL))

    def run(pixels: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> Logits:
        sam.set_image(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        # masks, IoUs, low-resolution logits (1, low, low)
        logits: Logits = sam.predict(box=box, multimask_output=False)[2]
        return logits

    return _compare(SCRIPT.name, run, model, sample)


def check_onnx(folder: Path, model: MedSam, sample: Sample) -> str:
    """ONNX Runtime against torch; raises `MedcoreError` if their masks differ or the package is missing."""
    runtime = require_onnxruntime()
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

    return _compare("ONNX Runtime", run, model, sample)


def require_onnxruntime() -> Any:
    """The package, or a `MedcoreError` that says how to get it."""
    try:
        import onnxruntime
    except ImportError:
        raise MedcoreError(f"the ONNX check needs onnxruntime, which is missing; {INSTALL}") from None
    return onnxruntime


def _compare(name: str, run: Any, model: MedSam, sample: Sample) -> str:
    """`run`: uint8 (3, S, S) and box (4,) -> low-resolution logits (1, low, low)."""
    images = sample.images
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    with torch.inference_mode():
        for index in patiently(len(images)):
            ours.append(model.segment(images.tensor([index]), images.box_tensor([index]))[:, 0])
            theirs.append(torch.from_numpy(np.asarray(run(images.images[index], images.boxes[index]))))
    compared = np.arange(len(ours))
    pairs = zip(*(masks_of(torch.cat(logits), images, compared) for logits in (ours, theirs)), strict=True)
    difference = float((torch.cat(ours) - torch.cat(theirs)).abs().max())
    agreed = agreement(name, [iou(first, second) for first, second in pairs], sample)
    return f"{agreed}, logits differ by at most {difference:.1e}."


def patiently(count: int) -> Iterator[int]:
    """0, 1, … below `count`; ends before where the images have taken too long."""
    start = time.monotonic()
    for index in range(count):
        if index >= LEAST_IMAGES and time.monotonic() - start > PATIENCE_SECONDS:
            return
        yield index


def agreement(name: str, overlaps: Sequence[float], sample: Sample) -> str:
    """What was compared, with the least IoU; raises `MedcoreError` if that is too small."""
    worst, compared = min(overlaps), f"{len(overlaps)} {sample.source}"
    if worst < LEAST_IOU:
        raise MedcoreError(
            f"{name}: its masks differ from medcore's, IoU {worst:.4f} on the worst of {compared}, "
            "so nothing is exported; take another format"
        )
    return f"{name} and medcore agree on {compared}: IoU of the masks at least {worst:.6f}"


def iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """1 for two empty masks, which agree."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0


def _import(path: Path) -> ModuleType:
    """A Python file as a module, without the compiled copy that an import statement would leave beside it."""
    module = ModuleType(path.stem)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    return module
