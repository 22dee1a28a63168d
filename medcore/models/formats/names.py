"""Which tensor of a file is which tensor of the model: wrappers, prefixes and the names of other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medcore.errors import CheckpointError, shown
from medcore.models.formats.huggingface import TIED, hf_names
from medcore.models.formats.sam2 import sam2_names
from medcore.models.formats.text import nearest, some

#: Keys under which training scripts keep the state dictionary.
WRAPPERS = ("state_dict", "model_state_dict", "model")
#: Most parts of a name that may be a wrapper's.
_DEEPEST_PREFIX = 8
#: Names that tell other models of the same family.
_RELATIVES = {
    "image_encoder.trunk.": "SAM 2",
    "vision_model.": "a CLIP-like model of transformers",
}


@dataclass(frozen=True)
class Match:
    """Tensors of a file under the model's names.

    Attributes:
        found: the file's name of each tensor of the model that was found.
        extra: tensors of the file that belong to none of the model's.
        prefix: what all names in the file begin with.
        hugging_face: whether the names are those of transformers.
        copies: pairs of a model's tensor and the file's name of a second copy of it.
    """

    found: dict[str, str]
    extra: tuple[str, ...]
    prefix: str
    hugging_face: bool
    copies: tuple[tuple[str, str], ...] = ()


def unwrap(path: Path, content: Any) -> Mapping[Any, Any]:
    """Return the state dictionary in what a file holds.

    Training scripts save the optimiser and the epoch with the model.

    Args:
        path: the file, for messages.
        content: what the file holds.

    Raises:
        CheckpointError: there is no state dictionary, or it holds values that are no tensors.
    """
    for _ in range(len(WRAPPERS)):
        if not isinstance(content, Mapping):
            break
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]]
        if not inner:
            break
        if len(inner) > 1:
            raise CheckpointError(f"{path}: holds several state dictionaries, {some(inner)}; save one of them alone")
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: holds no state dictionary but a {type(content).__name__}; save one, plain or as "
            f"{' or '.join(repr(key) for key in WRAPPERS)}"
        )
    if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: no state dictionary, {some(strange)} are not tensors")
    if strange := [name for name in content if not isinstance(name, str)]:
        raise CheckpointError(f"{path}: no state dictionary, the names {some(strange)} are no texts")
    return content


def match(path: Path, names: Sequence[str], expected: Sequence[str]) -> Match:
    """Find the model's tensors among those of a file.

    Names may have any common prefix, such as `module.` of parallel training or `model.` of Lightning. Tensors outside
    of the prefix belong to the wrapper, such as the weights of a loss, and are no part of the model.

    Args:
        path: the file, for messages.
        names: names in the file.
        expected: names of the model's tensors.

    Raises:
        CheckpointError: the file holds two such models, or nothing of one.
    """
    own, other = {name: name for name in expected}, {theirs: name for name, theirs in hf_names(expected).items()}
    targets = (own, other, {theirs: name for name, theirs in sam2_names(expected).items()})
    counted = [(target, prefix, count) for target in targets for prefix, count in _prefixes(names, target).items()]
    if not counted:
        raise CheckpointError(f"{path}: {_nothing(names, expected)}")
    target, prefix, most = max(counted, key=lambda each: (each[2], not each[1]))
    if most == len(target) and len(twins := [each[1] for each in counted if each[2] == most]) > 1:
        raise CheckpointError(
            f"{path}: holds {len(twins)} models, with the prefixes {some(map(repr, twins))}; save one of them alone"
        )
    inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    found = {target[name]: full for name, full in inside.items() if name in target}
    copies = tuple((other[theirs], inside[copy]) for copy, theirs in TIED.items() if copy in inside and theirs in other)
    copies = copies if target is other else ()
    found = dict(copies) | found
    taken = {*found.values(), *(copy for _, copy in copies)}
    extra = tuple(full for full in inside.values() if full not in taken)
    return Match(found, extra, prefix, target is other, copies)


def missing(absent: Sequence[str], extra: Sequence[str]) -> str:
    """Name the absent tensors, the first with the most similar name in the file."""
    close = nearest(absent[0], extra)
    return some(absent) + (f" (the file's nearest name is {shown(close)})" if close else "")


def _prefixes(names: Sequence[str], target: Mapping[str, str]) -> Counter[str]:
    """Count the names that are in `target` behind each prefix."""
    counted = Counter[str]()
    for name in names:
        start = 0
        for _ in range(_DEEPEST_PREFIX):
            if name[start:] in target:
                counted[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counted


def _nothing(names: Sequence[str], expected: Sequence[str]) -> str:
    """Say what is there in place of a model."""
    relative = next((model for part, model in _RELATIVES.items() if any(part in name for name in names)), None)
    if relative is not None:
        what = f"holds {relative}, not a model of the architecture that was named"
    else:
        what = f"holds none of the model's tensors, but {len(names)} others ({some(names)})"
    close = next((pair for name in names[:20] if (pair := nearest(name, expected))), None)
    return f"{what}; expected names such as {close or expected[0]}"
