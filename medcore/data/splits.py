"""Which image belongs to which split: `splits.json`, seeded splits where there is none, and halves of `val`.

A manifest is a JSON object `{"train": [names], "val": [names], ...}`; a name may have the file's ending or not. Video
frames come in runs of near copies. So every split made here consists of blocks of neighbours in natural order of their
names (`f2` before `f10`): blocks of 20, and smaller ones in a small set so that there are at least four.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcore.data.names import natural_key
from medcore.data.readers import stem
from medcore.errors import DataError, StorageError, brief
from medcore.files import replacing

FILE_NAME = "splits.json"
#: Shares of the splits of a data set without a manifest.
FRACTIONS: Mapping[str, float] = {"train": 0.75, "val": 0.25}
#: The half of `val` that a search may look at, and the half that is reported once.
SEARCH, REPORT = "val/search", "val/report"
#: Every image of the folder, in all splits.
ALL = "all"
NEIGHBOURS = 20
_EXCLUSIVE = ("train", "val", "test", SEARCH, REPORT)


def make_splits(names: Sequence[str], fractions: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Deal blocks of neighbours out to splits, in proportion to given fractions.

    Args:
        names: Names of images; their order does not matter.
        fractions: Share of each split, positive, with any sum.
        seed: Decides which block goes where.

    Returns:
        Names by split, in natural order. Every name is in exactly one split, and no split is empty if there are at
        least as many names as splits.
    """
    ordered = sorted(set(names), key=natural_key)
    width = max(1, min(NEIGHBOURS, len(ordered) // max(4, len(fractions))))
    blocks = [ordered[i : i + width] for i in range(0, len(ordered), width)]
    shares = np.array(list(fractions.values()), dtype=float) / sum(fractions.values())
    splits: dict[str, list[str]] = {split: [] for split in fractions}
    for index in np.random.default_rng(seed).permutation(len(blocks)):
        # the split that lags most behind its share of all names takes the block
        lag = [share * len(ordered) - len(split) for share, split in zip(shares, splits.values(), strict=True)]
        untouched = [gap if not split else -np.inf for gap, split in zip(lag, splits.values(), strict=True)]
        chosen = int(np.argmax(untouched if max(untouched) > -np.inf else lag))
        splits[list(splits)[chosen]].extend(blocks[index])
    return {split: sorted(members, key=natural_key) for split, members in splits.items()}


@dataclass(frozen=True)
class Splits:
    """The splits of a data folder.

    Attributes:
        names: Names of images by split; `all` among them.
        files: Where the splits are written: the folder's manifest and the saved file, if they exist.
        fleeting: Splits that were dealt out by seed and are saved nowhere.
    """

    names: dict[str, list[str]]
    files: tuple[Path, ...]
    fleeting: frozenset[str]

    def unassigned(self, split: str) -> set[str]:
        """Return the images of the folder that a reader of `split` may miss.

        Args:
            split: Any split.

        Returns:
            Names that are in no split; for a half of `val`, also those of `val` that are in neither half.
        """
        if split == ALL:
            return set()
        known = {name for each, names in self.names.items() if each != ALL for name in names}
        if split in (SEARCH, REPORT):
            known -= set(self.names.get("val", ())) - {*self.names.get(SEARCH, ()), *self.names.get(REPORT, ())}
        return set(self.names[ALL]) - known


def saved_file(folder: Path, place: Path) -> Path:
    """Return the file in `place` that keeps a data folder's splits.

    A hash of the folder's path keeps folders of one name apart.

    Args:
        folder: The data folder.
        place: Folder of saved splits.
    """
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
    """Read the splits of a data folder, and make those that are missing.

    `splits.json` in `root` decides. Without it the names are dealt out by `seed`. Halves of `val` that the manifest
    does not have are dealt out too, or are the rest of `val` if it has one of them. The manifest may name images that
    do not exist; they stay in the result.

    Args:
        root: The data folder.
        names: Names of the images that exist.
        seed: For the splits made here.
        fractions: Shares of the splits of a folder without manifest.
        save_to: File that keeps what is made here. Splits in it are not made again, so that a study's splits survive
            added images and other seeds.
        deal: False uses only the manifest and the saved file; splits that would have to be dealt out are left out.

    Raises:
        DataError: The manifest is no such JSON object, splits (of both files together) share images though they must
            not, or halves of `val` hold images that are not in it.
    """
    manifest = Path(root) / FILE_NAME
    given = load_manifest(manifest) if os.path.lexists(manifest) else {}
    saved = load_manifest(save_to) if save_to is not None and os.path.lexists(save_to) else {}
    dealt: dict[str, list[str]] = {}
    if deal and not given and not any(saved.values()):
        dealt = make_splits(names, fractions, seed)
    splits = saved | dealt | given
    halves = [half for half in (SEARCH, REPORT) if half in splits]
    rest: dict[str, list[str]] = {}
    if val := splits.get("val"):
        if deal and not halves:
            dealt |= make_splits(val, {SEARCH: 0.5, REPORT: 0.5}, seed)
        elif len(halves) == 1:
            taken = set(splits[halves[0]])
            rest[REPORT if halves == [SEARCH] else SEARCH] = [name for name in val if name not in taken]
    splits |= dealt | rest
    files = tuple(file for file in (manifest, save_to) if file is not None and file.is_file())
    _check_apart(splits, files, save_to)
    if save_to is not None and deal and any((dealt | rest).values()):
        save_manifest(save_to, saved | dealt | rest)
        files = (*files, save_to) if save_to not in files else files
    fleeting = frozenset(dealt) if save_to is None else frozenset()
    return Splits({ALL: sorted(set(names), key=natural_key)} | splits, files, fleeting)


def _check_apart(splits: Mapping[str, Sequence[str]], files: Sequence[Path], saved: Path | None) -> None:
    """Check that splits which must not know each other share no image.

    Raises:
        DataError: Two of them do, or a half of `val` holds images that are not in it; the message names the files.
    """
    where = " and ".join(map(str, files))
    remedy = "keep them apart" + (f", or delete {saved} to deal out its splits again" if saved in files else "")
    for one, other in itertools.combinations([split for split in _EXCLUSIVE if split in splits], 2):
        common = set(splits[one]) & set(splits[other])
        if common and not (one == "val" and other in (SEARCH, REPORT)):
            raise DataError(f"{where}: {_some(common)} are in both '{one}' and '{other}'; {remedy}")
    for half in (SEARCH, REPORT):
        if "val" in splits and (outside := set(splits.get(half, ())) - set(splits["val"])):
            raise DataError(f"{where}: {_some(outside)} of '{half}' are not in 'val'; {remedy}")


def _some(names: set[str]) -> str:
    return f"{len(names)} images ({min(names, key=natural_key)}, ...)"


def load_manifest(path: Path) -> dict[str, list[str]]:
    """Read a manifest; repeated names are dropped.

    Args:
        path: The JSON file.

    Returns:
        Names by split, without the endings of files.

    Raises:
        DataError: The file is no manifest.
    """
    if not path.is_file():  # opening a named pipe would wait for its writer
        kind = "a link to nothing" if path.is_symlink() and not path.exists() else "no regular file"
        raise DataError(f"{path}: {kind}; put the splits there, or delete it so that splits are dealt out")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise DataError(f"{path}: not a readable splits file (nested too deeply)") from None
    except (OSError, ValueError) as error:  # ValueError also for bytes that are no text, and for thousands of digits
        raise DataError(f"{path}: not a readable splits file ({brief(error, first=200)})") from None
    shape = 'expected an object {"train": [names], "val": [names]}'
    if not isinstance(content, dict):
        raise DataError(f"{path}: {shape}")
    splits: dict[str, list[str]] = {}
    for split, entries in content.items():
        if not isinstance(entries, list) or not all(isinstance(entry, (str, int)) for entry in entries):
            raise DataError(f"{path}: split '{split}' is no list of names; {shape}")
        splits[split] = list(dict.fromkeys(stem(str(entry)) for entry in entries))
    return splits


def save_manifest(path: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Write a manifest by rename.

    Args:
        path: The file; its folder is made if it does not exist.
        splits: Names by split.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot write the splits ({error}); choose a writable place") from None
