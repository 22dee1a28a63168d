"""The architecture of a checkpoint that does not describe itself, and the one whose shapes fit best."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from medcore.errors import CheckpointError, MedcoreError
from medcore.models.architectures import ARCHITECTURES, resolve_architecture
from medcore.models.formats.content import Content
from medcore.models.formats.huggingface import CONFIG, read_config
from medcore.models.formats.names import match
from medcore.models.formats.released import is_released, released_architecture
from medcore.models.sam import build_empty
from medcore.models.spec import Architecture, ModelSpec

Shapes = dict[str, tuple[int, ...]]


def resolve(path: Path, content: Content, arch: str | Path | Architecture | None) -> Architecture:
    """Return the dense architecture of a checkpoint.

    Args:
        path: the file or folder.
        content: what it holds.
        arch: what the caller asks for. None: what the checkpoint or a file next to it says, or else the known
            architecture whose shapes fit.

    Raises:
        MedcoreError: none of these exists, or a description next to the file is wrong.
    """
    wanted = resolve_architecture(arch, folder=path.parent) if isinstance(arch, (str, Path)) else arch
    if content.folder is not None:
        # also checked if the caller names one, because it fixes what no shape shows
        described = read_config(content.folder / CONFIG)
        if wanted is not None and wanted != described:
            raise CheckpointError(f"{path}: holds a {described.name} model, not the {wanted.name} asked for")
        return described
    if wanted is not None:
        return wanted
    if (own := path.with_suffix(".json")).is_file() and own != path:
        return resolve_architecture(own)
    if is_released(content.outer) and (named := released_architecture(content.outer)) is not None:
        return named
    found = _next_to(path)
    if len(found) == 1:
        return found[0]
    names = list(content.state)
    if (config := path.with_name(CONFIG)).is_file() and match(path, names, list(_shapes("vit_b"))).hugging_face:
        return read_config(config)
    alike: list[str] = []
    for name, known in ARCHITECTURES.items():
        # the shapes of another kind differ, and take time to build
        if alike and known.kind != ARCHITECTURES[alike[0]].kind:
            continue
        if _agreement(content.state, name) == len(_shapes(name)):
            alike.append(name)
    if len(alike) == 1:
        return ARCHITECTURES[alike[0]]
    if alike:
        raise CheckpointError(
            f"{path}: its shapes are those of {' and '.join(alike)}, which differ in what no shape shows; name one"
        )
    reason = f"its folder has {len(found) or 'no'} architecture file{'s' if found else ''}"
    known_names = ", ".join(ARCHITECTURES)
    raise CheckpointError(
        f"{path}: {reason}; name the architecture ({known_names} or a JSON file); {fitting(content.state)}"
    )


def fitting(state: Mapping[str, Tensor], but: Architecture | None = None) -> str:
    """Name the known architecture whose shapes fit best, as advice for a message.

    Args:
        state: tensors by name.
        but: the architecture that does not fit.
    """
    counts = {name: _agreement(state, name) for name in ARCHITECTURES if but is None or name != but.name}
    best = max(counts, key=lambda name: counts[name])
    if 2 * counts[best] <= len(_shapes(best)):
        return "name the right architecture" if but is not None else "none of the known ones fits its shapes"
    return f"the nearest is {best}, with {counts[best]} of {len(_shapes(best))} shapes"


def _next_to(path: Path) -> list[Architecture]:
    """Return the architectures that files in the same folder describe."""
    found = []
    for candidate in sorted(path.parent.glob("*.json")):
        try:
            found.append(resolve_architecture(candidate))
        except MedcoreError:  # some other JSON file
            continue
    return found


@lru_cache(maxsize=len(ARCHITECTURES))
def _shapes(name: str) -> Shapes:
    """Return the shapes of a known architecture's tensors."""
    model = build_empty(ModelSpec.dense(ARCHITECTURES[name]))
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _agreement(state: Mapping[str, Tensor], name: str) -> int:
    """Count the tensors of a known architecture that are in `state` with the same shape."""
    shapes = _shapes(name)
    try:
        found = match(Path(), list(state), list(shapes)).found
    except CheckpointError:
        return 0
    return sum(tuple(state[theirs].shape) == shapes[own] for own, theirs in found.items())
