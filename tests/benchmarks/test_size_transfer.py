"""The benchmark of large images, on a tiny model."""

from __future__ import annotations

import mmap

import numpy as np
import torch

from benchmarks.size_transfer import Meter, run_all, synthetic_images, table_of
from medcore.models.cost import cost
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY


def test_all_steps_run_and_are_measured() -> None:
    model, steps = run_all(TINY, 2, 0.3, torch.device("cpu"))
    names = ["moments", "moments and metric", "orders and curves", "knapsack", "cut", "refit"]
    assert [step.name for step in steps] == names
    assert 0.2 < cost(model.spec).flops_paper / cost(ModelSpec.dense(TINY)).flops_paper <= 0.3
    assert all(step.cpu_seconds >= 0 and step.resident > 0 and step.cuda == 0 for step in steps)
    table = table_of(steps, "tiny")
    assert table.count("\n") == 2 + len(steps) and "| refit | 2 |" in table


def test_the_peak_of_a_step_is_its_own() -> None:
    meter = Meter(torch.device("cpu"))
    size = 2**27

    def touch_new_pages() -> None:
        # an array may get pages that the process has kept since an earlier test
        np.frombuffer(mmap.mmap(-1, size), np.uint8)[:: mmap.PAGESIZE] = 1

    meter.run("large", 1, touch_new_pages)
    meter.run("small", 1, lambda: None)
    large, small = meter.steps
    assert large.resident - large.before > 0.9 * size
    assert small.resident - small.before < 0.1 * size


def test_boxes_enclose_the_masks() -> None:
    images = synthetic_images(3, 64)
    for mask, (x0, y0, x1, y1) in zip(images.masks, images.boxes.astype(int), strict=True):
        assert mask.sum() == mask[y0 : y1 + 1, x0 : x1 + 1].sum()
        assert all(edge.any() for edge in (mask[y0], mask[y1], mask[:, x0], mask[:, x1]))
