"""Which image belongs to which split: `splits.json`, seeded splits where there is none, and halves of `val`.

`medcore.data.split_files` reads the files. Video frames come in runs of near copies. So every split made here consists
of blocks of neighbours in natural order of their names (`f2` before `f10`): blocks of 20, and smaller ones in a small
set so that there are at least four. Images of one group, such as those of a patient, are in one block.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medcore.data.names import natural_key
from medcore.data.split_files import FILE_NAME, SplitFile, exists, read_split_file, write_split_file
from medcore.errors import DataError

logger = logging.getLogger(__name__)

#: Shares of the splits of a data set without a manifest.
FRACTIONS: Mapping[str, float] = {"train": 0.75, "val": 0.25}
#: The half of `val` that a search may look at, and the half that is reported once.
SEARCH, REPORT = "val/search", "val/report"
#: Every image of the folder, in all splits.
ALL = "all"
NEIGHBOURS = 20
_EXCLUSIVE = ("train", "val", "test", SEARCH, REPORT)
#: Groups that a warning has named already, with the files of their splits.
_told: set[tuple[object, ...]] = set()


def make_splits(
    names: Sequence[str], fractions: Mapping[str, float], seed: int, groups: Mapping[str, str] | None = None
) -> dict[str, list[str]]:
    """Deal blocks of neighbours out to splits, in proportion to given fractions.

    Args:
        names: Names of images; their order does not matter.
        fractions: Share of each split, positive, with any sum.
        seed: Decides which block goes where.
        groups: Group of each image that has one. A group is in one split; its place is that of its first image.

    Returns:
        Names by split, in natural order. Every name is in exactly one split, and no split is empty if there are at
        least as many groups as splits; an image without a group counts as one.
    """
    units = _units(names, groups or {})
    count = sum(map(len, units))
    width = max(1, min(NEIGHBOURS, count // max(4, len(fractions))))
    blocks = _blocks(units, width)
    while len(blocks) < min(len(fractions), len(units)):  # big groups leave too few blocks
        width = max(1, width // 2)
        blocks = _blocks(units, width)
    shares = np.array(list(fractions.values()), dtype=float) / sum(fractions.values())
    splits: dict[str, list[str]] = {split: [] for split in fractions}
    for index in np.random.default_rng(seed).permutation(len(blocks)):
        # the split that lags most behind its share of all names takes the block
        lag = [share * count - len(split) for share, split in zip(shares, splits.values(), strict=True)]
        untouched = [gap if not split else -np.inf for gap, split in zip(lag, splits.values(), strict=True)]
        chosen = int(np.argmax(untouched if max(untouched) > -np.inf else lag))
        splits[list(splits)[chosen]].extend(blocks[index])
    return {split: sorted(members, key=natural_key) for split, members in splits.items()}


def _units(names: Sequence[str], groups: Mapping[str, str]) -> list[list[str]]:
    """Return the groups, each in natural order, in the order of their first images."""
    units: dict[tuple[str, bool], list[str]] = {}
    for name in sorted(set(names), key=natural_key):
        group = groups.get(name, "")
        units.setdefault((group or name, bool(group)), []).append(name)
    return list(units.values())


def _blocks(units: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Put whole groups into blocks of at most `width` images; a larger group is a block of its own."""
    blocks: list[list[str]] = []
    for unit in units:
        if blocks and len(blocks[-1]) + len(unit) <= width:
            blocks[-1].extend(unit)
        else:
            blocks.append(list(unit))
    return blocks


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


def read_splits(
    root: Path,
    names: Sequence[str],
    seed: int = 0,
    fractions: Mapping[str, float] = FRACTIONS,
    save_to: Path | None = None,
    deal: bool = True,
    groups: Mapping[str, str] | None = None,
    content: SplitFile | None = None,
) -> Splits:
    """Read the splits of a data folder, and make those that are missing.

    `splits.json` in `root` decides. Without it the names are dealt out by `seed`. Halves of `val` that the manifest
    does not have are dealt out too, or are the rest of `val` if it has one of them. The manifest may name images that
    do not exist; they stay in the result. If it puts images of one group into splits that must not know each other,
    that is a logged warning.

    Args:
        root: The data folder.
        names: Names of the images that exist.
        seed: For the splits made here.
        fractions: Shares of the splits of a folder without manifest.
        save_to: File that keeps what is made here. Splits in it are not made again, so that a study's splits survive
            added images and other seeds.
        deal: False uses only the manifest and the saved file; splits that would have to be dealt out are left out.
        groups: Group of each image that has one.
        content: What is saved of the images with the splits; its own splits are ignored.

    Raises:
        DataError: The manifest is no such JSON object, splits (of both files together) share images though they must
            not, or halves of `val` hold images that are not in it.
    """
    manifest = Path(root) / FILE_NAME
    given = _read(manifest, names, root.resolve().name)
    saved = {} if save_to is None else _read(save_to, names, root.resolve().name)
    dealt: dict[str, list[str]] = {}
    if deal and not given and not any(saved.values()):
        dealt = make_splits(names, fractions, seed, groups)
    splits = saved | dealt | given
    halves = [half for half in (SEARCH, REPORT) if half in splits]
    rest: dict[str, list[str]] = {}
    if val := splits.get("val"):
        if deal and not halves:
            dealt |= make_splits(val, {SEARCH: 0.5, REPORT: 0.5}, seed, groups)
        elif len(halves) == 1:
            taken = set(splits[halves[0]])
            rest[REPORT if halves == [SEARCH] else SEARCH] = [name for name in val if name not in taken]
    splits |= dealt | rest
    files = tuple(file for file in (manifest, save_to) if file is not None and file.is_file())
    _check_apart(splits, files, save_to)
    _warn_of_groups(splits, files, groups or {})
    if save_to is not None and deal and any((dealt | rest).values()):
        write_split_file(save_to, replace(content or SplitFile({}), splits=saved | dealt | rest))
        files = (*files, save_to) if save_to not in files else files
    fleeting = frozenset(dealt) if save_to is None else frozenset()
    return Splits({ALL: sorted(set(names), key=natural_key)} | splits, files, fleeting)


def _read(path: Path, names: Sequence[str], dataset: str) -> dict[str, list[str]]:
    """Return the splits in a file; none if it does not exist."""
    if not exists(path):
        return {}
    return {split: list(members) for split, members in read_split_file(path, set(names), dataset).splits.items()}


def _warn_of_groups(splits: Mapping[str, Sequence[str]], files: Sequence[Path], groups: Mapping[str, str]) -> None:
    """Log once which groups are in several splits that must not know each other."""
    places: dict[str, set[str]] = {}
    for split in (split for split in _EXCLUSIVE if split in splits):
        if split == "val" and {SEARCH, REPORT} <= splits.keys():
            continue  # its halves are looked at
        for group in {groups[name] for name in splits[split] if groups.get(name)}:
            places.setdefault(group, set()).add(split)
    spread = sorted((group for group, found in places.items() if len(found) > 1), key=natural_key)
    key = (tuple(files), tuple(spread))
    if spread and key not in _told:
        _told.add(key)
        logger.warning(
            "%s: images of one patient or volume are in several splits: %d groups, such as '%s' in %s; figures may be "
            "too good",
            *(" and ".join(map(str, files)), len(spread), spread[0], ", ".join(sorted(places[spread[0]]))),
        )


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
