"""Files that Pillow alone misreads, and what must not be opened."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medcore.data.imagefile import read_image, read_labels
from medcore.data.pictures.decoding import opened
from tests.support.image_files import blob, noise


def _png16(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    "how", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"compression": "zlib", "predictor": True}]
)
def test_colours_of_12_bits_keep_their_levels(tmp_path: Path, how: dict) -> None:
    colours = noise(1)
    tifffile.imwrite(tmp_path / "deep.tif", colours.astype(np.uint16) * 16, photometric="rgb", **how)
    assert (np.asarray(read_image(tmp_path / "deep.tif")) == colours).all()


def test_png_of_16_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, 4)).astype(np.uint16)
    for channels in (3, 4):
        (tmp_path / "deep.png").write_bytes(_png16(values[..., :channels]))
        assert (np.asarray(read_image(tmp_path / "deep.png")) == values[..., :3] >> 8).all()
    weak = 30000 + values[..., :3] % 100
    (tmp_path / "weak.png").write_bytes(_png16(weak))
    expected = (weak - weak.min()) * (255 / int(weak.max() - weak.min()))
    assert np.abs(np.asarray(read_image(tmp_path / "weak.png")) - expected).max() <= 0.5
    grey = np.repeat(values[..., :1] % 3 * 700, 3, axis=2)
    (tmp_path / "grey.png").write_bytes(_png16(grey))
    assert (read_labels(tmp_path / "grey.png").values == grey[..., 0]).all()
    (tmp_path / "mask.png").write_bytes(_png16(values[..., :3]))
    with pytest.raises(ValueError, match="16-bit"):
        read_labels(tmp_path / "mask.png")


def test_16_bit_colours_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 7, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", values, photometric="rgb", planarconfig="separate")
    (tmp_path / "grey_alpha.png").write_bytes(_png16(values[:2].transpose(1, 2, 0)))
    for name in ("planes.tif", "grey_alpha.png"):
        for read in (read_image, read_labels):
            with pytest.raises(ValueError, match="16-bit"):
                read(tmp_path / name)


def test_a_stack_is_refused_but_a_thumbnail_is_none(tmp_path: Path) -> None:
    page, grey = Image.fromarray(noise(1)), noise(1)[..., 0]
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page])
    page.save(tmp_path / "moving.png", save_all=True, append_images=[Image.fromarray(noise(2))])
    page.save(tmp_path / "moving.webp", save_all=True, append_images=[Image.fromarray(noise(2))])
    tifffile.imwrite(tmp_path / "volume.tif", np.stack([grey] * 3), photometric="minisblack")
    tifffile.imwrite(tmp_path / "short.tif", np.stack([grey] * 3), photometric="minisblack", truncate=True)
    tifffile.imwrite(tmp_path / "fiji.tif", np.stack([grey] * 3), imagej=True)
    for file in sorted(tmp_path.iterdir()):
        for read in (read_image, read_labels):
            with pytest.raises(ValueError, match=r"stack of several pages"):
                read(file)
    with tifffile.TiffWriter(tmp_path / "thumb.tif") as writer:
        writer.write(noise(1), photometric="rgb")
        writer.write(noise(1)[::4, ::4], photometric="rgb", subfiletype=1)
    assert (np.asarray(read_image(tmp_path / "thumb.tif")) == noise(1)).all()


def test_booleans_where_0_is_white_are_read_as_written(tmp_path: Path) -> None:
    mask = blob() > 0
    for name, values in (("bool", mask), ("grey", mask * np.uint8(255)), ("labels", mask * np.uint8(3))):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="miniswhite")
        assert (read_labels(tmp_path / f"{name}.tif").values == values).all(), name
    # a fax machine and ImageMagick mean what is seen
    Image.fromarray(mask).save(tmp_path / "fax.tif", compression="group4", tiffinfo={262: 0})
    assert ((read_labels(tmp_path / "fax.tif").values != 0) == mask).all()
    tifffile.imwrite(tmp_path / "other.tif", mask, software="scanner 1", metadata=None)
    assert ((read_labels(tmp_path / "other.tif").values != 0) == ~mask).all()
    tifffile.imwrite(tmp_path / "unknown.tif", mask, software=False, metadata=None)
    with pytest.raises(ValueError, match=r"MinIsWhite.*inverted"):
        read_labels(tmp_path / "unknown.tif")


def test_deep_pictures_where_0_is_white_look_like_those_of_8_bits(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "x.tif", ramp.astype(dtype), photometric="miniswhite")
        assert (np.asarray(read_image(tmp_path / "x.tif"))[..., 0] == 255 - ramp).all()


def test_signs_and_large_labels_survive(tmp_path: Path) -> None:
    for dtype, labels in ((np.int8, (-1, 0, 100)), (np.int16, (-300, 0, 7)), (np.uint32, (0, 3, 4_000_000_000))):
        values = np.array([labels] * 3, dtype)
        tifffile.imwrite(tmp_path / "x.tif", values)
        assert (read_labels(tmp_path / "x.tif").values == values).all()


def test_values_of_2_and_4_bits_are_not_stretched(tmp_path: Path) -> None:
    for bits in (2, 4):
        values = np.arange(1 << bits, dtype=np.uint8).reshape(2, -1)
        shifts = np.arange(8 - bits, -1, -bits)
        parts = np.pad(values, ((0, 0), (0, -values.shape[1] % len(shifts)))).reshape(2, -1, len(shifts))
        lines = (parts << shifts).sum(axis=2).astype(np.uint8)
        rows = b"".join(b"\0" + line.tobytes() for line in lines)
        head = struct.pack(">IIBBBBB", values.shape[1], 2, bits, 0, 0, 0, 0)
        chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        framed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))
        assert (read_labels(tmp_path / "x.png").values == values).all()


def test_only_lossy_webp_is_lossy(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "maker"  # puts another chunk before the picture
    for lossless in (True, False):
        for more in ({}, {"exif": exif}):
            Image.fromarray(blob()).save(tmp_path / "x.webp", lossless=lossless, **more)
            assert read_labels(tmp_path / "x.webp").lossy is not lossless


def test_content_decides_and_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(1)).save(tmp_path / "x.bmp")
    (tmp_path / "x.bmp").rename(tmp_path / "x.png")
    assert (np.asarray(read_image(tmp_path / "x.png")) == noise(1)).all()
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 48\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "eps.png").write_bytes(eps)
    Image.fromarray(noise(1)).save(tmp_path / "x.gif")
    for name in ("eps.png", "x.gif"):
        with pytest.raises(ValueError, match="not a PNG, JPEG"):
            read_image(tmp_path / name)
    assert not (tmp_path / "was-run").exists()


def test_nothing_but_a_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
    kinds = {"fifo": "FIFO", "link": "broken link", "folder": "folder", "device": "device", "socket": "socket"}
    for name, kind in kinds.items():
        with pytest.raises(OSError, match=kind), opened(tmp_path / f"{name}.png"):
            pass
