"""What several tests share: a tiny architecture and the place of the real images and weights."""

from __future__ import annotations

import mmap
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from medcore.models.decoder.spec import DecoderSpec
from medcore.models.sam import MedSam, build
from medcore.models.spec import ModelSpec
from medcore.models.vit.arch import SamVit

T = TypeVar("T")

#: Grid 8 with windows of 3, so that window padding is exercised; two window and two global blocks.
TINY = SamVit(
    name="tiny",
    img_size=64,
    patch_size=8,
    embed_dim=24,
    depth=4,
    num_heads=3,
    mlp_ratio=2,
    out_chans=32,
    window_size=3,
    global_attn_indexes=(1, 3),
    decoder=DecoderSpec(depth=1, mlp_dim=32, num_heads=2, iou_head_depth=2, iou_head_hidden_dim=16),
)


def shared_dir() -> Path:
    """Folder with the real images and weights (`MEDCORE_SHARED` or `../shared`); skips the test where absent."""
    path = Path(os.environ.get("MEDCORE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (path / "weights" / "medical.pth").is_file():
        pytest.skip(f"real images and weights are absent: no {path}/weights/medical.pth (set MEDCORE_SHARED)")
    return path


@contextmanager
def held_port() -> Iterator[int]:
    """A port of this computer, given out once. A process that names it may listen there; until then it refuses."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = int(held.getsockname()[1])
        if sys.platform != "linux":  # elsewhere a server could not bind what is bound here
            held.close()
        yield port


def nvidia_smi(folder: Path, *megabytes: int | str) -> Path:
    """A folder for PATH with a program that tells of GPUs of these sizes, as the driver's own does."""
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{size}'\n" for size in megabytes))
    program.chmod(0o755)
    return folder


def use_memory(count: int) -> None:
    """Have `count` new bytes in use for a moment: pages from the system, not what the process has freed and kept."""
    pages = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.ndarray(count, dtype=np.uint8, buffer=pages).fill(1)
    pages.close()


def spec_of(arch: SamVit, heads: Sequence[int], channels: Sequence[int]) -> ModelSpec:
    """A ViT's spec from the heads and MLP channels that each block keeps."""
    return ModelSpec(arch, (*heads, *channels))


def model_of(width: int) -> MedSam:
    """A tiny model with all heads, `width` MLP channels in every block and weights that depend on the width."""
    torch.manual_seed(width)
    return build(spec_of(TINY, (TINY.num_heads,) * TINY.depth, (width,) * TINY.depth))


def halves(values: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Split one value a site of a ViT into those of its heads and those of its MLP channels."""
    depth = len(values) // 2
    return values[:depth], values[depth:]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses longer files to this process, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
