"""Folders of image and mask files: pairs by name, in natural order."""

from __future__ import annotations

from pathlib import Path

from medcore.data.readers import list_folder
from tests.support.image_files import image_folder


def test_listing_is_in_natural_order(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", ["10", "9", "1"])
    listing = list_folder(root, dataset="named")
    assert [(s.dataset, s.name) for s in listing.samples] == [("named", n) for n in ("1", "9", "10")]
