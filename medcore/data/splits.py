"""Which image belongs to which part: `splits.json`, seeded parts where there is none, and halves of `val`.

A manifest is a JSON object `{"train": [names], "val": [names], ...}`; names stand with or without the file
ending. Video frames come in runs of near copies, so every part made here consists of blocks of neighbours in
natural name order (`f2` before `f10`): blocks of 20, smaller ones in a small set so that there are at least
four.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcore.data.imagefile import EXTENSIONS
from medcore.errors import MedcoreError
from medcore.files import replacing

FILE_NAME = "splits.json"
#: Parts of a data set without a manifest.
FRACTIONS: Mapping[str, float] = {"train": 0.75, "val": 0.25}
#: Half of `val` that a search may look at, and half that is reported once.
SEARCH, REPORT = "val/search", "val/report"
#: Every image of the folder, whatever part it belongs to.
ALL = "all"
NEIGHBOURS = 20
_EXCLUSIVE = ("train", "val", "test", SEARCH, REPORT)


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


@dataclass(frozen=True)
class Splits:
    """Parts of a data folder.

    Attributes:
        parts: name of the part -> names of images; `all` among them.
        files: where they stand: the folder's manifest and the saved file, as far as these exist.
        fleeting: parts that were dealt out by seed and are saved nowhere.
    """

    parts: dict[str, list[str]]
    files: tuple[Path, ...]
    fleeting: frozenset[str]

    def unassigned(self, part: str) -> set[str]:
        """Images of the folder that a reader of `part` may miss: those in no part, for a half those in no half too."""
        if part == ALL:
            return set()
        known = {name for each, names in self.parts.items() if each != ALL for name in names}
        if part in (SEARCH, REPORT):
            known -= set(self.parts.get("val", ())) - {*self.parts.get(SEARCH, ()), *self.parts.get(REPORT, ())}
        return set(self.parts[ALL]) - known


def saved_file(folder: Path, place: Path) -> Path:
    """Where the parts of a data folder are saved in `place`; a hash of its path keeps folders of one name apart."""
    whole = folder.resolve()
    return place / f"{whole.name}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}.splits.json"


def read_splits(
    root: Path,
    names: Sequence[str],
    seed: int = 0,
    fractions: Mapping[str, float] = FRACTIONS,
    save_to: Path | None = None,
    deal: bool = True,
) -> Splits:
    """Parts of a data folder.

    `splits.json` in `root` decides; without it the `names` are dealt out by `seed`. Halves of `val` that the manifest
    does not have are dealt out too, or are the rest of `val` where it has one of them. The manifest may name images
    that do not exist; they stay in the result.

    Args:
        root: data folder.
        names: names (stems) of the images that exist.
        seed: for the parts made here.
        fractions: shares of the parts of a folder without manifest.
        save_to: file that keeps what was made here. Parts in it are not made anew, so that a study's parts survive
            added images and other seeds.
        deal: False: only manifest and saved file count; parts that would have to be dealt out are left out.

    Raises:
        MedcoreError: for a manifest that is no such JSON object, or for parts (of both files together) that share
            images though they must not, or halves of `val` that reach beyond it.
    """
    manifest = Path(root) / FILE_NAME
    given = load_manifest(manifest) if manifest.is_file() else {}
    saved = load_manifest(save_to) if save_to is not None and save_to.is_file() else {}
    dealt: dict[str, list[str]] = {}
    if deal and not given and not any(saved.values()):
        dealt = make_parts(names, fractions, seed)
    parts = saved | dealt | given
    halves = [half for half in (SEARCH, REPORT) if half in parts]
    rest: dict[str, list[str]] = {}
    if val := parts.get("val"):
        if deal and not halves:
            dealt |= make_parts(val, {SEARCH: 0.5, REPORT: 0.5}, seed)
        elif len(halves) == 1:
            taken = set(parts[halves[0]])
            rest[REPORT if halves == [SEARCH] else SEARCH] = [name for name in val if name not in taken]
    parts |= dealt | rest
    files = tuple(file for file in (manifest, save_to) if file is not None and file.is_file())
    _check_apart(parts, files, save_to)
    if save_to is not None and deal and any((dealt | rest).values()):
        save_manifest(save_to, saved | dealt | rest)
        files = (*files, save_to) if save_to not in files else files
    fleeting = frozenset(dealt) if save_to is None else frozenset()
    return Splits({ALL: sorted(set(names), key=natural_key)} | parts, files, fleeting)


def _check_apart(parts: Mapping[str, Sequence[str]], files: Sequence[Path], saved: Path | None) -> None:
    """Raise `MedcoreError` naming the files if images are in two parts of which one must not know the other."""
    where = " and ".join(map(str, files))
    remedy = "keep them apart" + (f", or delete {saved} to deal out its parts anew" if saved in files else "")
    for one, other in itertools.combinations([part for part in _EXCLUSIVE if part in parts], 2):
        common = set(parts[one]) & set(parts[other])
        if common and not (one == "val" and other in (SEARCH, REPORT)):
            raise MedcoreError(f"{where}: {_some(common)} are in both '{one}' and '{other}'; {remedy}")
    for half in (SEARCH, REPORT):
        if "val" in parts and (outside := set(parts.get(half, ())) - set(parts["val"])):
            raise MedcoreError(f"{where}: {_some(outside)} of '{half}' are not in 'val'; {remedy}")


def _some(names: set[str]) -> str:
    return f"{len(names)} images ({min(names, key=natural_key)}, ...)"


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
    return parts


def save_manifest(path: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Writes a manifest by rename. Raises `MedcoreError` if the place cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise MedcoreError(f"{path}: cannot write the splits ({error}); choose a writable place") from None
