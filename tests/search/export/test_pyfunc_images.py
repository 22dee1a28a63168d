"""The served model reads images by the project's rules, although it has its own copy of them."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medcore.data.imagefile import read_image
from search.export import pyfunc_model


def text_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_images_are_read_as_medcore_reads_them(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    deep = np.random.default_rng(1).integers(0, 40000, (20, 30), dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.fromarray(noise).save(tmp_path / "alpha.png")
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(noise[..., :3]).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.bmp")
    Image.fromarray(noise[..., :3]).save(tmp_path / "lossless.webp", lossless=True)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tiff")
    colours = (noise[..., :3].astype(np.uint16) * 16)[:, :20]
    for name, how in {
        "plain": {},
        "zlib": {"compression": "zlib"},
        "turned": {"extratags": [(274, 3, 1, 6, True)]},
    }.items():
        tifffile.imwrite(tmp_path / f"colours_{name}.tif", colours, photometric="rgb", **how)
    tifffile.imwrite(tmp_path / "weak.tif", colours % 97 + 30000, photometric="rgb")
    for kind in (np.int8, np.uint8, np.uint16, np.int16, np.uint32):
        for light in ("minisblack", "miniswhite"):
            with suppress(ValueError):  # Pillow reads no signed numbers where 0 is white
                tifffile.imwrite(tmp_path / "x.tif", (deep >> 9).astype(kind), photometric=light)
                read_image(tmp_path / "x.tif")
                (tmp_path / "x.tif").rename(tmp_path / f"{np.dtype(kind)}_{light}.tif")
    (tmp_path / "x.tif").unlink(missing_ok=True)
    assert sum(path.suffix == ".tif" for path in tmp_path.iterdir()) >= 11
    for path in tmp_path.iterdir():
        # lines, as the command base64 breaks them
        pixels = pyfunc_model.read_image(base64.encodebytes(path.read_bytes()).decode())
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, np.asarray(read_image(path))), path.name
    assert pyfunc_model.read_image(text_of(tmp_path / "turned.jpg")).shape == (30, 20, 3)


def test_stacks_and_planes_are_refused_as_medcore_refuses_them(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 40000, (3, 20, 30), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", deep, photometric="minisblack")
    tifffile.imwrite(tmp_path / "planes.tif", deep, photometric="rgb", planarconfig="separate")
    for name, words in (("stack.tif", "several pages"), ("planes.tif", "16-bit")):
        with pytest.raises(ValueError, match=words):
            pyfunc_model.read_image(text_of(tmp_path / name))
        with pytest.raises(ValueError, match=words):
            read_image(tmp_path / name)
