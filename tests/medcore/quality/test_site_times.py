"""Measurement of the times of an encoder's parts, with a clock that follows a known formula."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from medcore.models.architectures import ARCHITECTURES
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality import site_times
from medcore.quality.latency import Effort
from medcore.quality.site_times import measure_sites, measured_widths, shapes_of
from tests.support.helpers import TINY
from tests.support.toy.samples import TOY, random_spec

CPU = torch.device("cpu")
Widths = tuple[int, ...]


def true_ms(arch: Architecture, widths: Widths) -> float:
    """A time that is linear in the widths, with a start-up time for every part that runs."""
    pairs = zip(arch.sites, widths, strict=True)
    return 7.0 + sum(1e-3 * site.cost.encoder_params * width + (0.5 if width else 0) for site, width in pairs)


def with_clock(arch: Architecture, monkeypatch: pytest.MonkeyPatch, noise: float = 0.0) -> None:
    chance = np.random.default_rng(0)

    def seconds_of(calls: Mapping[Widths, object], threads: int, effort: Effort) -> dict[Widths, list[float]]:
        assert threads == 2
        return {
            widths: [1e-3 * (true_ms(arch, widths) + noise * chance.exponential()) for _ in range(9)]
            for widths in calls
        }

    monkeypatch.setattr(site_times, "seconds_of", seconds_of)


def test_an_additive_clock_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(TINY, monkeypatch)
    table = measure_sites(TINY, CPU, threads=2)
    assert table.fixed_ms == pytest.approx(7.0) and table.conditions.threads == 2
    assert table.dense_ms == pytest.approx(true_ms(TINY, TINY.dense_widths))
    chance = np.random.default_rng(1)
    for _ in range(20):
        widths = tuple(int(width) for width in (*chance.integers(0, 4, 4), *(8 * chance.integers(0, 7, 4))))
        assert table.predict(ModelSpec(TINY, widths)) == pytest.approx(true_ms(TINY, widths))


def test_groups_that_hold_sites_have_a_time_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(TOY, monkeypatch)
    table = measure_sites(TOY, CPU, threads=2)
    measured = [measured_widths(site) for site in TOY.sites]
    for seed in range(20):
        widths = tuple(max(each for each in grid if each <= width)
                       for grid, width in zip(measured, random_spec(seed).widths, strict=True))  # fmt: skip
        spec = ModelSpec(TOY, widths)
        assert table.predict(spec) == pytest.approx(true_ms(TOY, spec.widths))


def test_noise_gives_rising_times(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(TINY, monkeypatch, noise=5.0)
    table = measure_sites(TINY, CPU, threads=2)
    assert all((np.diff(site.at_all_widths()) >= 0).all() for site in table.sites)


def test_sites_of_equal_shape_are_measured_together() -> None:
    # windows of 3, whole image; their MLPs are alike
    assert shapes_of(TINY) == [(0, 2), (1, 3), (4, 5, 6, 7)]
    assert [len(shape) for shape in shapes_of(ARCHITECTURES["vit_b"])] == [8, 4, 12]
    assert sorted(index for shape in shapes_of(TOY) for index in shape) == list(range(len(TOY.sites)))


def test_measured_widths() -> None:
    vit_b = ARCHITECTURES["vit_b"]
    assert measured_widths(vit_b.sites[0]) == (0, 1, 2, 3, 4, 6, 8, 9, 10, 12)
    assert measured_widths(vit_b.sites[-1]) == (0, 8, 384, 768, 1152, 1536, 1920, 2304, 2688, 3072)
    assert measured_widths(TINY.sites[0]) == (0, 1, 2, 3)
    assert [measured_widths(site) for site in TOY.sites if site.width == 1] == [(0, 1)] * 3


@pytest.mark.parametrize("autocast", [False, True])
def test_encoders_really_run(autocast: bool) -> None:
    effort = Effort(rounds=1, block_seconds=1e-5)
    for arch in (TINY, TOY):
        table = measure_sites(arch, CPU, threads=1, batch=2, autocast=autocast, effort=effort)
        assert table.dense_ms > 0 and table.arch == arch
        assert (table.conditions.batch, table.conditions.autocast) == (2, autocast)
