"""Measures the times of an encoder's parts by width (method §5, time).

Sites of equal shape take equally long, so all of them get a width at once and share the time that it adds. Encoders are
timed whole, not block by block, because a block alone finds its weights in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import nn

from medcore.errors import ConfigError, MedcoreError
from medcore.models.sites import Site
from medcore.models.spec import DECODER, Architecture, ModelSpec
from medcore.quality.latency import Effort, device_name, seconds_of
from medcore.quality.time_table import Conditions, SiteTimes, TimeTable

#: Parts into which the measured widths divide the dense width, and the unit of the widths of rounded families.
_PARTS, _UNIT = 8, 8
#: Quantile of the timed blocks that counts. Other programs on the machine can only add time.
_QUANTILE = 0.25
#: Length of a measurement by default. Few long rounds would see fewer states of a busy machine.
EFFORT = Effort(rounds=15, block_seconds=0.01, most_seconds=300.0)

#: Sites of equal shape by their index.
Shape = tuple[int, ...]


def measure_sites(
    arch: Architecture,
    device: torch.device,
    *,
    threads: int | None = None,
    batch: int = 1,
    autocast: bool = False,
    effort: Effort | None = None,
) -> TimeTable:
    """Measure the time of every site at several widths.

    The weights are random, because they do not matter for time. The encoders of all widths are in memory at once.

    Args:
        arch: The dense architecture.
        device: Device to run on.
        threads: Of the CPU; by default as many as torch uses now.
        batch: Images in a call.
        autocast: Whether to run in bfloat16.
        effort: How long to measure.

    Returns:
        The table.

    Raises:
        MedcoreError: The times contradict each other, because something else was running.
        ConfigError: The mask decoder can be pruned, too.
        torch.OutOfMemoryError: A GPU cannot hold the encoders or a call.
    """
    if DECODER in arch.parts:
        raise ConfigError("time table: only an encoder's sites are timed, so parts must be encoder alone")
    count = threads or torch.get_num_threads()
    shapes = shapes_of(arch)
    base = _base_widths(arch)
    specs = {base: ModelSpec(arch, base), arch.dense_widths: ModelSpec.dense(arch)}
    for shape in shapes:
        for width in measured_widths(arch.sites[shape[0]]):
            widths = _with(base, shape, width)
            specs[widths] = ModelSpec(arch, widths)
    images = torch.rand(batch, 3, arch.img_size, arch.img_size, generator=torch.Generator().manual_seed(0)).to(device)
    calls = {widths: _call(spec, images, autocast) for widths, spec in specs.items()}
    taken = seconds_of(calls, count, effort or EFFORT)
    ms = {widths: 1e3 * float(np.quantile(seconds, _QUANTILE)) for widths, seconds in taken.items()}
    sites = _site_times(arch, shapes, lambda shape, width: ms[_with(base, shape, width)])
    in_base = sum(site.at_all_widths()[width] for site, width in zip(sites, base, strict=True))
    if ms[base] <= in_base:
        raise MedcoreError(
            "time table: single sites took longer than the whole encoder, so something else was running; measure again"
        )
    return TimeTable(
        arch=arch,
        conditions=Conditions(device_name(device), count, batch, autocast, str(torch.__version__)),
        measured=datetime.now(UTC).isoformat(timespec="milliseconds"),
        fixed_ms=ms[base] - float(in_base),
        dense_ms=ms[arch.dense_widths],
        sites=sites,
    )


def shapes_of(arch: Architecture) -> list[Shape]:
    """Return the sites of equal family, width and cost, which take equally long."""
    alike: dict[object, list[int]] = {}
    for index, site in enumerate(arch.sites):
        alike.setdefault((site.family, site.width, site.cost), []).append(index)
    return [tuple(indices) for indices in alike.values()]


def measured_widths(site: Site) -> tuple[int, ...]:
    """Return the widths at which a site is timed, rising from 0 to the dense width.

    They are one group, or 8 for a rounded family, and eighths of the dense width in whole units of these.
    """
    unit = _UNIT if site.family.rounded else 1
    eighths = (round(part * site.width / _PARTS / unit) * unit for part in range(1, _PARTS))
    return tuple(sorted({0, min(unit, site.width), site.width, *(width for width in eighths if width < site.width)}))


def _base_widths(arch: Architecture) -> tuple[int, ...]:
    """Return the widths of an encoder without groups, but for those that hold other sites."""
    held = {site.within for site in arch.sites}
    return tuple(site.width if site.name in held else 0 for site in arch.sites)


def _with(widths: Sequence[int], shape: Shape, width: int) -> tuple[int, ...]:
    """Return widths in which all sites of a shape have another one."""
    return tuple(width if index in shape else old for index, old in enumerate(widths))


def _call(spec: ModelSpec, images: torch.Tensor, autocast: bool) -> Callable[[], object]:
    """Return a call of an encoder with random weights."""
    encoder: nn.Module = spec.arch.build_encoder(spec, "fast").to(images.device).eval()

    def call() -> object:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            return encoder(images)

    return call


def _site_times(
    arch: Architecture, shapes: Sequence[Shape], ms_of: Callable[[Shape, int], float]
) -> tuple[SiteTimes, ...]:
    """Return the times of all sites from those of encoders in which the sites of one shape have a width.

    Times never fall with the width, because a fall is noise: the nearest rising times by least squares count.
    """
    found: dict[int, SiteTimes] = {}
    for shape in shapes:
        widths = measured_widths(arch.sites[shape[0]])
        added = np.array([ms_of(shape, width) for width in widths[1:]]) - ms_of(shape, 0)
        times = np.maximum(isotonic_regression(added).x, 0.0) / len(shape)
        found |= {index: SiteTimes(widths, (0.0, *map(float, times))) for index in shape}
    return tuple(found[index] for index in range(len(arch.sites)))
