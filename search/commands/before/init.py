"""`medcore init`: a commented configuration from what lies in a folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medcore.errors import CheckpointError, ConfigError, DataError, StorageError, one_line
from medcore.files import replacing
from medcore.models.architectures import ARCHITECTURES
from search.base.config import Config, load_config
from search.base.device import best_device
from search.base.provenance import machine
from search.commands.before.found import Checkpoint, Found, Pair, architecture_text, choose, find, quoted
from search.commands.before.slow import free_memory
from search.study.disk import size_text


@dataclass(frozen=True)
class Written:
    """A configuration that was written.

    Attributes:
        path: The file.
        lines: What was found, for people.
    """

    path: Path
    lines: list[str]


def init(folder: Path, out: Path | None = None, *, arch: str | None = None, force: bool = False) -> Written:
    """Write a configuration from the checkpoints and data folders below a folder.

    Args:
        folder: Where to look.
        out: The file; by default `medcore.yaml` in the folder.
        arch: Name of the architecture of checkpoints that do not tell their own.
        force: Whether to replace the file.

    Raises:
        ConfigError: There is no such folder, the file exists, the architecture is not a known one, or a name has a
            character that it cannot hold.
        CheckpointError: No checkpoint was found.
        DataError: No data folder was found.
        StorageError: The file cannot be written.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one that holds checkpoints and data")
    path = folder / "medcore.yaml" if out is None else out.absolute()
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; add --force to replace it, or give another file with --out")
    if arch is not None and arch not in ARCHITECTURES:
        raise ConfigError(f"unknown architecture {arch!r:.80}; known are {', '.join(ARCHITECTURES)}")
    found = find(folder, arch)
    pair = choose(found.checkpoints, folder)
    reasons = f" ({one_line('; '.join(found.unused), 600)})" if found.unused else ""
    if not found.checkpoints:
        advice = "put one there" + (", or name its architecture with --arch" if found.unused and arch is None else "")
        raise CheckpointError(f"{folder}: no checkpoint of a known model was found{reasons}; {advice}")
    if not found.data:
        raise DataError(f"{folder}: no data folder was found{reasons}; see docs/data.md for the layouts that are read")
    lines = list(_summary(found, pair))
    text = configuration(folder, found, pair, lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            _require_same(load_config(temporary), folder, found, pair)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); give another file with --out") from None
    return Written(path, lines)


def configuration(folder: Path, found: Found, pair: Pair, lines: list[str]) -> str:
    """Return the text of the file.

    Args:
        folder: Where everything lies.
        found: Checkpoints and data folders.
        pair: The chosen checkpoints.
        lines: What was found, for the head of the file.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._") or "study"
    head = ["Written by `medcore init`. A key that is left out has its default.", *lines]
    parts = [
        *(f"# {_comment(line)}" for line in head),
        f"study: {json.dumps(name)}",
        f"output: {quoted(folder / 'runs')}  # every study has a folder of its own in there",
        "model:",
        *_model(folder, pair),
        "data:",
        "  folders:",
        *(f"    - {quoted(each.path)}  # {each.images} images{_splits(each.splits)}" for each in found.data),
    ]
    if doubts := [f"{each.path.name}: {each.doubt}" for each in found.data if each.doubt]:
        parts += [f"  # {_comment(line)}" for line in doubts]
        parts += ["  labels: any  # every value but 0 is the object; or list the values, such as [1, 2]"]
    if best_device().type == "cuda":
        parts += ["recovery:", "  autocast: true  # bfloat16, because there is a GPU"]
    parts += ["search:", "  trials: 48  # more find a better front; `medcore check` says how long they take"]
    if pair.medical is None:
        parts += ["adapt:", f"  out: {quoted(folder / 'adapted.safetensors')}  # what `medcore adapt` writes"]
    return "\n".join(parts) + "\n"


def _require_same(config: Config, folder: Path, found: Found, pair: Pair) -> None:
    """Check that what was written names what was found."""
    _, base, adapted = _chosen(folder, pair)
    read_back = (config.model.base, config.model.adapted, *config.data.folders)
    for read, there in zip(read_back, (base, adapted, *(each.path for each in found.data)), strict=True):
        if read != there:
            raise ConfigError(f"{there}: a configuration would read this name as {read}; rename it")


def _chosen(folder: Path, pair: Pair) -> tuple[Checkpoint, Path, Path]:
    """Return the checkpoint that tells the architecture, and the paths of the general and the medical one."""
    chosen = pair.medical or pair.general
    assert chosen is not None
    adapted = folder / "adapted.safetensors" if pair.medical is None else pair.medical.path
    return chosen, (pair.general or chosen).path, adapted


def _model(folder: Path, pair: Pair) -> Iterator[str]:
    chosen, base, adapted = _chosen(folder, pair)
    described = architecture_text(chosen)
    if described is not None:
        text = described if os.sep not in described else quoted(Path(described))
        yield f"  architecture: {text}  # the tensors have its shapes"
    general, medical = pair.general, pair.medical
    if general is None:
        yield "  # no general model was found; the default criterion reads only the medical one"
        yield f"  base: {quoted(base)}"
    else:
        yield f"  base: {quoted(base)}  # the general model, {pair.reason}"
    if medical is None:
        yield "  # no medical model was found: `medcore adapt` makes it from the general one"
        yield f"  adapted: {quoted(adapted)}"
    else:
        yield f"  adapted: {quoted(adapted)}  # the medical model, which is pruned, {pair.reason}"


def _summary(found: Found, pair: Pair) -> Iterator[str]:
    """Yield what was found, one line each."""
    for role, chosen in (("general", pair.general), ("medical", pair.medical)):
        if chosen is None:
            yield f"{role} model: none"
        else:
            yield f"{role} model: {chosen.path} ({chosen.arch.name}, {pair.reason})"
    others = [each for each in found.checkpoints if each not in (pair.general, pair.medical)]
    yield from (f"not used: {each.path} ({each.arch.name}{'' if each.is_dense else ', pruned'})" for each in others)
    yield from (f"data: {each.path}, {each.images} images{_splits(each.splits)}" for each in found.data)
    yield from (f"not used: {reason}" for reason in found.unused)
    free = free_memory()
    memory = "" if free is None else f", {size_text(free)} of memory free"
    yield f"machine: {machine()}{memory}"
    if pair.medical is None:
        yield "next, before a search: `medcore adapt` with this file makes the medical model"


def _splits(own: bool) -> str:
    return ", splits.json" if own else ", splits are dealt out and saved"


def _comment(text: str) -> str:
    return one_line(text, 400)
