"""Moments of the inputs of linear outputs, and a metric of what they add to the stream (method §12).

Both are sums over images of the model to prune, so that shards of a study can be added. One image is in work at a time.
Sums of ViT-B, with 3072 MLP groups a block, take 1 GB of memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medcore.data.load import ImageSet
from medcore.devices import device_of
from medcore.errors import CheckpointError, DataError, StorageError
from medcore.files import replacing
from medcore.losses import IGNORED, boundary_band
from medcore.models.linear_map import linear_map
from medcore.models.sam import MedSam
from medcore.models.sites import LinearOutput
from medcore.models.spec import Architecture
from medcore.scoring.fisher import Progress

_FORMAT = "medcore-moments-1"
#: Added to the boundary band, so that pixels away from the boundary count a little (12.1).
INTERIOR = 0.05


@dataclass
class SiteSums:
    """Sums of one site with a linear output of F input and C output features, float64.

    Attributes:
        inputs: Σ a over tokens and images, (F,).
        products: Σ a·aᵀ, (F, F).
        metric: Σ g·gᵀ, (C, C).
    """

    inputs: Tensor
    products: Tensor
    metric: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums by name."""
        return {"inputs": self.inputs, "products": self.products, "metric": self.metric}


@dataclass
class ProfileSums:
    """Sums over images of one model.

    Attributes:
        arch: architecture of the model.
        sites: number of a site -> its sums, for every site with a linear output.
        tokens: number of a site -> tokens in `inputs` and `products`.
        images: images in the moments.
        metric_images: images in the metric.
        skipped: names of images that were left out because a value was not finite.
    """

    arch: Architecture
    sites: dict[int, SiteSums]
    tokens: dict[int, int]
    images: int = 0
    metric_images: int = 0
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def zeros(cls, model: MedSam) -> ProfileSums:
        """Return sums over no image, on the model's device."""
        sites = {}
        for number, shape in _shapes(model).items():
            outputs, inputs = shape
            sizes = ((inputs,), (inputs, inputs), (outputs, outputs))
            sites[number] = SiteSums(
                *(torch.zeros(size, dtype=torch.float64, device=device_of(model)) for size in sizes)
            )
        return cls(model.arch, sites, dict.fromkeys(sites, 0))

    def add(self, other: ProfileSums) -> None:
        """Add the sums over other images of the same model, in place.

        Shards that are added in a fixed order give the same bits in any process.
        """
        for number, mine in self.sites.items():
            for name, total in mine.tensors().items():
                total += other.sites[number].tensors()[name].to(total.device)
            self.tokens[number] += other.tokens[number]
        self.images += other.images
        self.metric_images += other.metric_images
        self.skipped += other.skipped

    def cpu(self) -> ProfileSums:
        """Return the sums on the CPU."""
        for sums in self.sites.values():
            sums.inputs, sums.products, sums.metric = sums.inputs.cpu(), sums.products.cpu(), sums.metric.cpu()
        return self

    def save(self, path: Path) -> None:
        """Write a safetensors file by rename.

        Raises:
            StorageError: the file cannot be written.
        """
        tensors = {
            f"{name}/{number}": total.contiguous()
            for number, sums in self.sites.items()
            for name, total in sums.tensors().items()
        }
        counts = {
            "images": self.images,
            "metric_images": self.metric_images,
            "tokens": self.tokens,
            "skipped": self.skipped,
        }
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"format": _FORMAT, "counts": json.dumps(counts)})
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: cannot write the partial moments ({error})") from None

    @classmethod
    def load(cls, path: Path, model: MedSam) -> ProfileSums:
        """Read what `save` wrote for the same model.

        Raises:
            CheckpointError: the file is damaged, of another model, or holds values that are not finite.
        """
        sums = cls.zeros(model).cpu()
        try:
            with safe_open(path, framework="pt") as file:
                note = file.metadata() or {}
                if note.get("format") != _FORMAT:
                    raise ValueError(f"format {note.get('format')}")
                for number, site in sums.sites.items():
                    for name, total in site.tensors().items():
                        total.copy_(_checked(file.get_tensor(f"{name}/{number}"), total, f"{name}/{number}"))
            counts = json.loads(note["counts"])
            sums.images, sums.metric_images = int(counts["images"]), int(counts["metric_images"])
            sums.tokens = {number: int(counts["tokens"][str(number)]) for number in sums.sites}
            sums.skipped = list(map(str, counts["skipped"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: damaged partial moments ({error}); delete the file and compute the profile again"
            ) from None
        return sums


def profile_sums(
    model: MedSam,
    images: ImageSet,
    indices: Sequence[int],
    metric_indices: Sequence[int],
    seed: int,
    progress: Progress | None = None,
) -> ProfileSums:
    """Sum moments and the output metric over images, with exact boxes (12.1, 12.2).

    One forward pass of an image serves both. The signs of an image depend on `seed` and its index alone, so shards and
    their order do not matter. The model's mode and `requires_grad` are unchanged.

    Args:
        model: the adapted model, dense or pruned.
        images: images with masks and boxes.
        indices: images of the moments.
        metric_indices: those among them that also give the metric.
        seed: seed of the random signs.
        progress: called after each image.

    Returns:
        The sums on the CPU, over the images whose values are finite.

    Raises:
        DataError: no image is given.
        CheckpointError: a linear output sees other tokens than its stream has.
    """
    if len(indices) == 0:
        raise DataError("second-order profile: no image; check the data folder, its split and the image count")
    sums, both = ProfileSums.zeros(model), set(metric_indices)
    with _frozen(model), _watching(model) as seen:
        for done, index in enumerate(indices):
            gradients = None
            if index in both:
                gradients = _gradients(model, images, index, seed, seen)
            else:
                with torch.no_grad():
                    model.run_parts(images.tensor([index]).to(_like(model)), images.box_tensor([index]))
            _add(sums, images.names[index], seen, gradients)
            seen.clear()
            if progress is not None:
                progress(done + 1, len(indices))
    return sums.cpu()


def _like(model: MedSam) -> Tensor:
    """Return a tensor of the encoder's device and dtype."""
    return next(model.image_encoder.parameters())


def random_signs(seed: int, index: int, side: int) -> Tensor:
    """Return the signs ε of one image, float32 (1, 1, side, side), -1 or 1."""
    bits = np.random.default_rng([seed, index]).integers(0, 2, (1, 1, side, side), dtype=np.int8)
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1)


def spread(total: int, count: int) -> list[int]:
    """Return `count` indices of `total`, evenly spread, or all of them if there are fewer."""
    count = min(total, count)
    return [number * total // count for number in range(count)]


@dataclass
class _Seen:
    """Input and output of one linear layer for one image: features (N, F), and what it adds (1, …, C)."""

    features: Tensor
    added: Tensor


def _gradients(model: MedSam, images: ImageSet, index: int, seed: int, seen: dict[int, _Seen]) -> dict[int, Tensor]:
    """Return ∂/∂(output of each layer) of Σ_p sqrt(band_p + 0.05)·ε_p·z_p for one image (12.1).

    The sum leaves out ignored pixels.
    """
    like = _like(model)
    mask = torch.from_numpy(images.low_masks(model.arch.low_res, [index]))[:, None].to(like)
    boxes = torch.as_tensor(images.boxes[[index]]).to(like)
    with torch.enable_grad():
        logits = model.segment(images.tensor([index]).to(like), boxes)
        signs = random_signs(seed, index, model.arch.low_res).to(logits)
        weights = (boundary_band(mask) + INTERIOR).sqrt().masked_fill(mask == IGNORED, 0)
        projected = (weights * signs * logits).sum()
        found = torch.autograd.grad(projected, [one.added for one in seen.values()], materialize_grads=True)
    # (1, …, C) -> (N, C)
    return {number: values.flatten(0, -2) for number, values in zip(seen, found, strict=True)}


@torch.no_grad()
def _add(sums: ProfileSums, name: str, seen: dict[int, _Seen], gradients: dict[int, Tensor] | None) -> None:
    """Add one image, or note its name if a value is not finite.

    Products of two entries are finite if the squared norm is. One synchronisation with the device serves all.
    """
    values = [one.features for one in seen.values()] + list((gradients or {}).values())
    norms = torch.stack([torch.linalg.vector_norm(value) for value in values])
    if not bool(norms.square().isfinite().all()):
        sums.skipped.append(name)
        return
    for number, one in seen.items():
        site, features = sums.sites[number], one.features
        site.inputs += features.double().sum(dim=0)
        site.products += (features.T @ features).double()
        sums.tokens[number] += len(features)
    sums.images += 1
    if gradients is not None:
        for number, gradient in gradients.items():
            sums.sites[number].metric += (gradient.T @ gradient).double()
        sums.metric_images += 1


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode without gradients for parameters, and restore it afterwards."""
    training = model.training
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
        model.train(training)


@contextmanager
def _watching(model: MedSam) -> Iterator[dict[int, _Seen]]:
    """Record the input and output of every linear output in each forward pass, by number of the site."""
    seen: dict[int, _Seen] = {}
    streams: dict[str, int] = {}
    shapes = _shapes(model)
    handles = []
    for number, site in enumerate(model.arch.sites):
        if number in shapes and site.output is not None:
            linear, stream = site.output.module, site.output.stream
            if stream is not None:
                handles.append(model.get_submodule(stream).register_forward_pre_hook(_stream_hook(stream, streams)))
            handles.append(
                model.get_submodule(linear).register_forward_hook(_output_hook(site.output, number, seen, streams))
            )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _stream_hook(stream: str, streams: dict[str, int]) -> Callable[..., None]:
    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        streams[stream] = inputs[0].shape[:-1].numel()

    return note


def _output_hook(
    output: LinearOutput, number: int, seen: dict[int, _Seen], streams: dict[str, int]
) -> Callable[..., Tensor]:
    def note(_module: nn.Module, inputs: tuple[Tensor, ...], added: Tensor) -> Tensor:
        features = inputs[0].detach().flatten(0, -2)
        if output.stream is not None and len(features) != streams.get(output.stream):
            raise CheckpointError(
                f"second-order profile: {output.module} sees {len(features)} tokens, its stream has "
                f"{streams.get(output.stream)}; load the model with attention='fast'"
            )
        if torch.is_grad_enabled() and not added.requires_grad:
            # no parameter needs a gradient, so the graph starts at the first of these outputs
            added.requires_grad_(True)
        seen[number] = _Seen(features, added)
        return added

    return note


def _shapes(model: MedSam) -> dict[int, tuple[int, int]]:
    """Return the shape (C, F) of the weight of every linear output that the model still has, by number of the site."""
    shapes, present = {}, {name for name, _ in model.named_modules()}
    for number, site in enumerate(model.arch.sites):
        if site.output is not None and site.output.module in present:
            rows, columns = linear_map(model.get_submodule(site.output.module))[0].shape
            shapes[number] = (rows, columns)
    return shapes


def _checked(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {like.dtype} {tuple(like.shape)}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite")
    return tensor
