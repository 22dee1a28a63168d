"""The residual stream of the unpruned model for the calibration images: what a refit aims at (method §11).

The streams are recorded once a study while they are small. Otherwise every refit computes them again, one trunk module
at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcore.data.load import ImageSet
from medcore.devices import device_of
from medcore.errors import ConfigError, DataError
from medcore.models.flows import Flow
from medcore.models.linear_map import is_pointwise
from medcore.models.sam import MedSam
from medcore.models.stream import TrunkModule, flow_into, needed_modules, observe, trunk_of
from medcore.training.loop import check_range
from medcore.training.orders import NeckLayers
from medcore.training.refit.scratch import Floats, collect

#: Most bytes of recorded streams. ViT-B at 1024 pixels would need 0.3 GB for each image.
RECORDED_BYTES = 10**9


@dataclass(frozen=True)
class RefitSettings:
    """Settings of a refit (method §11).

    Attributes:
        images: calibration images that it looks at; 0 switches refits off.
        ridge: λ of (11.2).
        batch_size: images of a forward pass.
        neck: which layers of the neck behind a cut encoder to refit, as `NeckLayers` has them. "pointwise", the 1 × 1
            convolutions, is best before a recovery, and "all" without one.

    Raises:
        ConfigError: a value is out of range.
    """

    images: int = 64
    ridge: float = 1e-3
    batch_size: int = 8
    neck: NeckLayers = "pointwise"

    def __post_init__(self) -> None:
        if self.neck not in get_args(NeckLayers):
            raise ConfigError(f"refit: neck must be one of {', '.join(get_args(NeckLayers))}, not {self.neck!r}")
        check_range(
            "refit", images=(self.images, 0, inf), ridge=(self.ridge, 0, 1e6), batch_size=(self.batch_size, 1, inf)
        )


@dataclass(frozen=True)
class StreamAfter:
    """The unpruned model's stream after one branch.

    Attributes:
        values: float32 (N, …, C). The array may be read-only, and is never written to.
        variance: variance over images and tokens, summed over the C features.
    """

    values: Floats
    variance: float

    @classmethod
    def of(cls, values: Floats) -> StreamAfter:
        """Measure the variance, one image at a time."""
        axes = tuple(range(values.ndim - 2))
        mean = np.mean([image.mean(axis=axes, dtype=np.float64) for image in values], axis=0)
        squares = [np.square(image - mean).sum(axis=-1).mean() for image in values]
        return cls(values, float(np.mean(squares)))

    def batch(self, rows: slice, device: torch.device) -> Tensor:
        """Return copies of some images' streams, (B, …, C)."""
        return torch.tensor(self.values[rows], device=device)


#: The streams after the branches of one trunk module, by the name of the branch.
ModuleStreams = Mapping[str, StreamAfter]


class DenseStreams(Protocol):
    """A source of the unpruned model's streams."""

    @property
    def images(self) -> ImageSet:
        """Return the calibration images that the streams belong to."""

    @property
    def widths(self) -> tuple[int, ...] | None:
        """Return the widths of the model of the streams; None for a dense one."""

    def by_module(self, device: torch.device, wanted: Container[str] | None = None) -> Iterator[ModuleStreams]:
        """Yield the streams of each trunk module, in the order of the forward pass.

        Args:
            device: where to compute if something has to be computed.
            wanted: names of the branches whose streams are wanted, None for all. Others may be missing.
        """


@dataclass(frozen=True)
class RecordedStreams:
    """Streams in memory or in shared memory, as NumPy arrays.

    Attributes:
        images: the calibration images.
        modules: for each trunk module the streams after its branches.
        widths: widths of the model of the streams; None for a dense one.
    """

    images: ImageSet
    modules: tuple[ModuleStreams, ...]
    widths: tuple[int, ...] | None = None

    def by_module(self, device: torch.device, wanted: Container[str] | None = None) -> Iterator[ModuleStreams]:
        """Yield what was recorded."""
        return iter(self.modules)


@dataclass(frozen=True)
class LiveStreams:
    """Streams that are computed whenever they are needed, one trunk module at a time.

    Attributes:
        images: the calibration images.
        model: the unpruned model, which stays as it is.
        batch_size: images of a forward pass.
    """

    images: ImageSet
    model: MedSam
    batch_size: int = RefitSettings.batch_size

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the widths of the model of the streams."""
        return self.model.spec.widths

    @torch.no_grad()
    def by_module(self, device: torch.device, wanted: Container[str] | None = None) -> Iterator[ModuleStreams]:
        """Compute and yield the streams of one trunk module after the other."""
        flow: list[Floats] = []
        trunk = trunk_of(self.model)
        names = {branch.name for module in trunk for branch in module.branches} if wanted is None else wanted
        for module, is_needed in zip(trunk, needed_modules(trunk, names), strict=True):
            if not is_needed:
                yield {}
                continue
            if module.starts:
                flow = first_flow(self.model, module.path, self.images, self.batch_size)
            results = self._run(module, flow, device)
            after, flow = results[: len(module.branches)], results[len(module.branches) :]
            yield {branch.name: StreamAfter.of(values) for branch, values in zip(module.branches, after, strict=True)}

    @torch.no_grad()
    def _run(self, trunk: TrunkModule, flow: list[Floats], device: torch.device) -> list[Floats]:
        """Return the stream after each branch of a module, and then the module's output."""
        module = self.model.get_submodule(trunk.path)
        if device_of(self.model) != device:
            # other work may use the model meanwhile, so it stays on its own device
            module = copy.deepcopy(module).to(device)

        def work(rows: slice) -> list[Tensor]:
            passes, output = observe(trunk, module, tensors(flow, rows, device))
            return [*(each.after for each in passes), *output]

        return collect(len(self.images), self.batch_size, work)


def record_streams(
    model: MedSam, images: ImageSet, settings: RefitSettings, most: int = RECORDED_BYTES
) -> RecordedStreams | LiveStreams:
    """Record the unpruned model's streams for refits, if they are small enough.

    Args:
        model: the unpruned model.
        images: images to choose from, evenly over the set.
        settings: how many images, and how many at a time.
        most: bytes that the recorded streams may take.

    Returns:
        Recorded streams, or a source that computes them if they would take more than `most` bytes.

    Raises:
        DataError: there are no images.
    """
    chosen = evenly_chosen(images, settings.images)
    live, device = LiveStreams(chosen, model, settings.batch_size), device_of(model)
    names = {branch.name for module in trunk_of(model) for branch in module.branches}
    wanted = names - left_out(model, settings.neck)
    first = LiveStreams(chosen.subset([0]), model).by_module(device, wanted)
    size = sum(after.values.nbytes for module in first for after in module.values())
    if size * len(chosen) > most:
        return live
    return RecordedStreams(chosen, tuple(live.by_module(device, wanted)), model.spec.widths)


def left_out(model: MedSam, neck: NeckLayers) -> set[str]:
    """Return the layers of the neck for which a refit does not solve."""
    if neck == "all":
        return set()
    layers = {layer: model.get_submodule(layer) for layer in model.arch.encoder_neck}
    return {layer for layer, module in layers.items() if neck == "none" or not is_pointwise(module)}


def evenly_chosen(images: ImageSet, count: int) -> ImageSet:
    """Return at most `count` images, at equal distances in the set.

    Raises:
        DataError: that is no image.
    """
    if min(count, len(images)) == 0:
        raise DataError("refit: needs at least one calibration image; set the number of refit images above 0")
    if count >= len(images):
        return images
    return images.subset(even_places(len(images), count))


def even_places(total: int, count: int) -> npt.NDArray[np.intp]:
    """Return (count,) places of `total` at equal distances, both ends among them."""
    return np.linspace(0, total - 1, count).round().astype(np.intp)


@torch.no_grad()
def first_flow(model: MedSam, path: str, images: ImageSet, batch_size: int) -> list[Floats]:
    """Return what enters a trunk module: the stream (N, …, C) first.

    Args:
        model: the model.
        path: path of the trunk module.
        images: the N images.
        batch_size: images of a forward pass.
    """
    device = device_of(model)

    def work(rows: slice) -> Flow:
        indices = range(len(images))[rows]
        return flow_into(model, path, images.tensor(indices).to(device), images.box_tensor(indices).to(device))

    return collect(len(images), batch_size, work)


def tensors(flow: Sequence[Floats], rows: slice, device: torch.device) -> Flow:
    """Return copies of some images' rows of a flow."""
    return tuple(torch.tensor(array[rows], device=device) for array in flow)
