"""Which image belongs to which part: `splits.json`, seeded parts where there is none, and halves of `val`.

A manifest is a JSON object `{"train": [names], "val": [names], ...}`; names stand with or without the file
ending. Video frames come in runs of near copies, so every part made here consists of blocks of neighbours in
natural name order (`f2` before `f10`): blocks of 20, smaller ones in a small set so that there are at least
four.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medcore.errors import MedcoreError
from medcore.files import replacing
from medcore.imagefile import EXTENSIONS

FILE_NAME = "splits.json"
#: Parts of a data set without a manifest.
FRACTIONS: Mapping[str, float] = {"train": 0.75, "val": 0.25}
#: Half of `val` that a search may look at, and half that is reported once.
SEARCH, REPORT = "val/search", "val/report"
#: Every image of the folder, whatever part it belongs to.
ALL = "all"
NEIGHBOURS = 20
_EXCLUSIVE = ("train", "val", "test")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that reads runs of digits as numbers."""
    pieces = re.split(r"(\d+)", name)
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in pieces if p)


def stem(name: str) -> str:
    """A manifest's entry without folder and without the ending of an image file (other dots stay)."""
    base = Path(name)
    return base.stem if base.suffix.lower() in EXTENSIONS else base.name


def make_parts(names: Sequence[str], fractions: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Deals blocks of neighbours out to parts, in proportion to `fractions` (positive, any sum), by `seed`.

    Every name lands in exactly one part; parts keep natural order. The result does not depend on the order of
    `names`. With at least as many names as parts no part is empty.
    """
    ordered = sorted(set(names), key=natural_key)
    width = max(1, min(NEIGHBOURS, len(ordered) // max(4, len(fractions))))
    blocks = [ordered[i : i + width] for i in range(0, len(ordered), width)]
    shares = np.array(list(fractions.values()), dtype=float) / sum(fractions.values())
    parts: dict[str, list[str]] = {part: [] for part in fractions}
    for index in np.random.default_rng(seed).permutation(len(blocks)):
        # the part that lags most behind its share of all names takes the block
        lag = [share * len(ordered) - len(part) for share, part in zip(shares, parts.values(), strict=True)]
        untouched = [gap if not part else -np.inf for gap, part in zip(lag, parts.values(), strict=True)]
        chosen = int(np.argmax(untouched if max(untouched) > -np.inf else lag))
        parts[list(parts)[chosen]].extend(blocks[index])
    return {part: sorted(members, key=natural_key) for part, members in parts.items()}


def read_splits(
    root: Path,
    names: Sequence[str],
    seed: int = 0,
    fractions: Mapping[str, float] = FRACTIONS,
    save_to: Path | None = None,
) -> dict[str, list[str]]:
    """Parts of a data folder: name of the part -> names of images.

    `splits.json` in `root` decides; without it the `names` are dealt out by `seed`. `val/search` and
    `val/report` are made from `val` unless the manifest has them, and `all` is every one of `names`. The
    manifest may name images that do not exist; they stay in the result.

    Args:
        root: data folder.
        names: names (stems) of the images that exist.
        seed: for the parts made here.
        fractions: shares of the parts of a folder without manifest.
        save_to: file that keeps what was made here. If it exists it is read instead of making parts anew, so
            that a study's parts survive added images and other seeds; otherwise it is written.

    Raises:
        MedcoreError: for a manifest that is no such JSON object, or has an image in two of train, val, test.
    """
    manifest = Path(root) / FILE_NAME
    given = load_manifest(manifest) if manifest.is_file() else {}
    made: dict[str, list[str]] = load_manifest(save_to) if save_to is not None and save_to.is_file() else {}
    if not made:
        made = {} if given else make_parts(names, fractions, seed)
        if val := {**made, **given}.get("val"):
            made |= make_parts(val, {SEARCH: 0.5, REPORT: 0.5}, seed)
        if save_to is not None:
            save_manifest(save_to, made)
    return {ALL: sorted(set(names), key=natural_key)} | made | given


def load_manifest(path: Path) -> dict[str, list[str]]:
    """Reads a manifest; repeated names are dropped. Raises `MedcoreError` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MedcoreError(f"{path}: not a readable splits file ({error})") from None
    shape = 'expected an object {"train": [names], "val": [names]}'
    if not isinstance(content, dict):
        raise MedcoreError(f"{path}: {shape}")
    parts: dict[str, list[str]] = {}
    for part, entries in content.items():
        if not isinstance(entries, list) or not all(isinstance(entry, (str, int)) for entry in entries):
            raise MedcoreError(f"{path}: part '{part}' is no list of names; {shape}")
        parts[part] = list(dict.fromkeys(stem(str(entry)) for entry in entries))
    for one, other in itertools.combinations([part for part in _EXCLUSIVE if part in parts], 2):
        if common := set(parts[one]) & set(parts[other]):
            example = min(common, key=natural_key)
            both = f"{len(common)} images ({example}, ...) are in both '{one}' and '{other}'"
            raise MedcoreError(f"{path}: {both}; keep them apart")
    return parts


def save_manifest(path: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Writes a manifest by rename. Raises `MedcoreError` if the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise MedcoreError(f"{path}: cannot write the splits ({error}); choose a writable place") from None
