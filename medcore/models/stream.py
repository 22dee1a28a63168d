"""Watch the residual stream: what each branch of a trunk module takes from it and adds to it (method §11)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from medcore.errors import CheckpointError
from medcore.models.flows import Flow, flow_of
from medcore.models.linear_map import features_of, has_bias, is_linear_map, linear_map, tokens_of
from medcore.models.sam import MedSam
from medcore.models.sites import LinearOutput
from medcore.models.spec import ENCODER


@dataclass(frozen=True)
class Branch:
    """Attention, MLP or the like, which adds to the residual stream through a linear layer; or a layer of the neck.

    Attributes:
        name: name of the site whose groups feed the layer, or path of a layer that no site feeds.
        linear: path of the layer within its trunk module; empty if it is that module.
        stream: path of the module whose input is the stream before the branch, within the trunk module. None: the
            layer's output is the stream after the branch.
        width: groups that the site keeps; 1 for a layer that no site feeds.
        always: whether both modules run also with a width of 0. If not, the branch then adds the layer's bias only.
        site: number of the site in `Architecture.sites`; None for a layer that no site feeds.
    """

    name: str
    linear: str
    stream: str | None
    width: int
    always: bool = False
    site: int | None = None

    @property
    def runs(self) -> bool:
        """Return whether the layer runs in a forward pass."""
        return self.width > 0 or self.always

    def linear_of(self, module: nn.Module) -> nn.Module:
        """Return the layer within the trunk module.

        Raises:
            CheckpointError: the architecture names another kind of layer, or one without a bias behind a site.
        """
        layer = module.get_submodule(self.linear)
        if not is_linear_map(layer) or (self.site is not None and not has_bias(layer)):
            kind = "a linear layer with a bias" if self.site is not None else "linear, or a convolution of stride 1"
            raise CheckpointError(f"{self.name}: its output {self.linear or 'itself'} must be {kind}")
        return layer


@dataclass(frozen=True)
class TrunkModule:
    """A module that the residual stream passes as a whole.

    Attributes:
        path: its path in the model.
        branches: its branches, in the order of the forward pass. A block that was cut as a whole has none.
        starts: whether the model gives it other tensors than the module before it returns.
    """

    path: str
    branches: tuple[Branch, ...]
    starts: bool = False


@dataclass(frozen=True)
class BranchPass:
    """One branch in one forward pass.

    Attributes:
        before: the stream before the branch, (B, …, C); zeros if the layer's output is the stream after it.
        after: the stream after the branch, (B, …, C).
        layer: the linear layer.
        inputs: what it got; None for a branch without groups.
    """

    before: Tensor
    after: Tensor
    layer: nn.Module
    inputs: Tensor | None

    @property
    def features(self) -> Tensor:
        """Return what the layer maps, (B, …, K). K is 0 for a branch without groups."""
        if self.inputs is None:
            return self.before.new_empty((*self.before.shape[:-1], 0))
        return features_of(self.layer, self.inputs)


def trunk_of(model: MedSam) -> tuple[TrunkModule, ...]:
    """Return the modules that the residual stream passes in `model`, with the branches that it still has.

    Raises:
        CheckpointError: a site's output lies outside of the architecture's trunk.
    """
    neck = model.arch.encoder_neck if ENCODER in model.arch.parts else {}
    arch, present = model.arch, {name for name, _ in model.named_modules()}
    trunk, placed, starts = [], 0, {chain[0] for chain in arch.trunks if chain}
    for path in (path for chain in arch.trunks for path in chain):
        branches = []
        for number, (site, width) in enumerate(zip(arch.sites, model.spec.widths, strict=True)):
            if site.output is None or not site.output.module.startswith(f"{path}."):
                continue
            placed += 1
            if site.output.module in present:
                branches.append(_branch(number, site.name, width, site.output, path))
        layers = [_layer(layer, path) for layer in neck if layer == path or layer.startswith(f"{path}.")]
        placed += len(layers)
        trunk.append(TrunkModule(path, (*branches, *layers), starts=path in starts))
    if placed != sum(site.output is not None for site in arch.sites) + len(neck):
        raise CheckpointError(f"architecture {arch.name}: every linear output must lie in exactly one trunk module")
    return tuple(trunk)


def needed_modules(trunk: Sequence[TrunkModule], wanted: Container[str]) -> list[bool]:
    """Return for each trunk module whether it, or one that gets its output, has one of the wanted branches.

    Args:
        trunk: the modules.
        wanted: names of branches.
    """
    needed, later = [False] * len(trunk), False
    for number in reversed(range(len(trunk))):
        needed[number] = later or any(branch.name in wanted for branch in trunk[number].branches)
        later = needed[number] and not trunk[number].starts
    return needed


def flow_into(model: MedSam, path: str, images: Tensor, boxes: Tensor) -> Flow:
    """Return the tensors that a trunk module gets for some images.

    What follows in the model does not run.

    Args:
        model: the model.
        path: path of the trunk module.
        images: (B, 3, S, S), as `MedSam.segment` takes them.
        boxes: (B, 4), alike.

    Returns:
        The stream (B, …, C), and what else the module takes.
    """

    def stop(_module: nn.Module, inputs: Flow) -> None:
        raise _Reached(inputs)

    handle = model.get_submodule(path).register_forward_pre_hook(stop)
    try:
        model.segment(images, boxes)
    except _Reached as reached:
        return reached.flow
    finally:
        handle.remove()
    raise CheckpointError(f"architecture {model.arch.name}: the model does not run {path}")


def observe(trunk: TrunkModule, module: nn.Module, flow: Flow) -> tuple[list[BranchPass], Flow]:
    """Run a trunk module and return what its branches do.

    Args:
        trunk: path and branches.
        module: the module itself, possibly a copy.
        flow: its input, the stream (B, …, C) first.

    Returns:
        One record per branch, in the order of `trunk.branches`, and the output of the module.

    Raises:
        CheckpointError: the branches run in another order, or features and stream do not have the same tokens.
    """
    with _watching(trunk, module, len(trunk.branches)) as seen:
        output = flow_of(module(*flow))
    return _passes(trunk, module, flow[0], seen), output


def observe_branch(trunk: TrunkModule, module: nn.Module, flow: Flow, place: int) -> BranchPass:
    """Run a trunk module as far as one of its branches, and return what that branch does.

    Arguments and errors are those of `observe`; `place` is the branch's number in `trunk.branches`.
    """
    with _watching(trunk, module, place + 1) as seen:
        if seen.expected:
            with suppress(_Reached):
                module(*flow)
    return _passes(trunk, module, flow[0], seen)[place]


@dataclass
class _Seen:
    """What hooks have seen in a forward pass, by the number of the branch.

    Attributes:
        count: number of branches to watch.
        expected: those of them that run.
        before: the stream before each.
        through: input and output of its linear layer.
    """

    count: int
    expected: list[int]
    before: dict[int, Tensor] = field(default_factory=dict)
    through: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@contextmanager
def _watching(trunk: TrunkModule, module: nn.Module, count: int) -> Iterator[_Seen]:
    """Watch the first branches of a module. If there are more, the forward pass ends after the last watched one."""
    watched = trunk.branches[:count]
    seen = _Seen(count, [number for number, branch in enumerate(watched) if branch.runs])
    is_whole = count == len(trunk.branches)

    def enter(number: int, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.before[number] = inputs[0]

    def leave(number: int, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.through[number] = inputs[0], output
        if not is_whole and number == seen.expected[-1]:
            raise _Reached((output,))

    handles = []
    for number in seen.expected:
        stream = watched[number].stream
        if stream is not None:
            handles.append(module.get_submodule(stream).register_forward_pre_hook(partial(enter, number)))
        handles.append(watched[number].linear_of(module).register_forward_hook(partial(leave, number)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _passes(trunk: TrunkModule, module: nn.Module, stream: Tensor, seen: _Seen) -> list[BranchPass]:
    """Return the record of each watched branch.

    Raises:
        CheckpointError: see `observe`.
    """
    added_to = [number for number in seen.expected if trunk.branches[number].stream is not None]
    if list(seen.before) != added_to or list(seen.through) != seen.expected:
        names = ", ".join(trunk.branches[number].name for number in seen.expected)
        raise CheckpointError(f"{trunk.path}: the forward pass must run the sites in their order: {names}")
    passes: list[BranchPass] = []
    for number, branch in enumerate(trunk.branches[: seen.count]):
        layer, inputs = branch.linear_of(module), None
        if number in seen.through:
            inputs, output = seen.through[number]
            added = tokens_of(layer, output)
            start = seen.before[number] if number in seen.before else torch.zeros_like(added)
            _check_tokens(branch, start.shape, tokens_of(layer, inputs).shape, added.shape)
        else:
            start = passes[-1].after if passes else stream
            added = linear_map(layer)[1]
        passes.append(BranchPass(start, start + added, layer, inputs))
    return passes


def _check_tokens(branch: Branch, stream: Sequence[int], inputs: Sequence[int], added: Sequence[int]) -> None:
    if tuple(added) != tuple(stream) or tuple(inputs[:-1]) != tuple(stream[:-1]):
        raise CheckpointError(
            f"{branch.name}: its layer maps {tuple(inputs)} to {tuple(added)}, but the stream is {tuple(stream)}; "
            "build the model with attention 'fast', which keeps the tokens in place"
        )


def _branch(number: int, name: str, width: int, output: LinearOutput, path: str) -> Branch:
    inside = len(path) + 1
    stream = None if output.stream is None else output.stream[inside:]
    return Branch(name, output.module[inside:], stream, width, output.always, number)


def _layer(layer: str, path: str) -> Branch:
    return Branch(layer, layer[len(path) + 1 :], None, 1, always=True)


class _Reached(Exception):
    """Ends a forward pass at the place whose tensors are wanted."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
