"""Measured time and memory, against calls of known cost and on models that alternate."""

from __future__ import annotations

import gc
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from medcore.quality import latency as library
from medcore.quality.latency import Effort, compare, extra_bytes, measure, take_turns
from tests.support.helpers import TINY, model_of

SHORT = Effort(rounds=3, block_seconds=1e-4)


def test_a_call_that_sleeps_takes_that_long() -> None:
    found = take_turns({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, 1, SHORT)
    assert found["long"].median_ms >= 20 and found["short"].median_ms >= 2
    assert all(timing.repeats >= 3 and timing.iqr_ms >= 0 for timing in found.values())


def test_calls_take_turns_and_the_clock_ends_them() -> None:
    order: list[str] = []
    take_turns({name: lambda name=name: order.append(name) or time.sleep(1e-3) for name in "ab"}, 1, SHORT)  # type: ignore[misc]
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert "".join(turns) == "ababab"
    found = take_turns({"a": lambda: time.sleep(0.01)}, 1, Effort(rounds=50, block_seconds=1e-4, most_seconds=0.0))
    assert found["a"].repeats < 50


def test_threads_are_those_asked_for_and_are_given_back() -> None:
    before, seen = torch.get_num_threads(), set[int]()
    take_turns({"a": lambda: seen.add(torch.get_num_threads())}, before + 1, SHORT)
    assert seen == {before + 1} and torch.get_num_threads() == before


@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_is_timed_on_batches_of_images_with_a_box_each(autocast: bool) -> None:
    model, shapes = model_of(20), set[tuple[tuple[int, ...], tuple[int, ...]]]()
    model.image_encoder.register_forward_pre_hook(lambda *_: time.sleep(0.02))
    decode = model.decode

    def watched(embeddings: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        shapes.add((tuple(embeddings.shape), tuple(boxes.shape)))
        return decode(embeddings, boxes)

    model.decode = watched  # type: ignore[method-assign]
    found = measure(model, 3, threads=1, autocast=autocast, effort=SHORT)
    assert 20 <= found.encoder.median_ms < found.whole.median_ms
    # sleeping takes no processor
    assert found.encoder.cpu_ms is not None and found.encoder.cpu_ms < found.encoder.median_ms - 15
    assert shapes == {((3, TINY.out_chans, TINY.grid, TINY.grid), (3, 4))}
    assert model.training is False and all(parameter.grad is None for parameter in model.parameters())


def test_peak_bytes_on_paper() -> None:
    """x is there before; y (4 MB) and z (8 MB) are alive together, then z and w (1 MB)."""
    x = torch.zeros(1000, 1000)

    def call() -> torch.Tensor:
        y = x + 1.0
        z = torch.cat([y, y])
        del y
        return z[:250].clone()

    assert extra_bytes(call, torch.device("cpu")) == pytest.approx(12e6, abs=1e3)
    assert extra_bytes(lambda: None, torch.device("cpu")) == 0


def test_peak_bytes_are_not_lessened_by_what_an_earlier_call_left_behind() -> None:
    def leave() -> None:
        left: list[object] = [torch.zeros(1000, 1000)]
        left.append(left)  # a cycle, which only the collector can release

    def call() -> torch.Tensor:
        gc.collect()
        return torch.zeros(1000, 500)

    assert extra_bytes(leave, torch.device("cpu")) == 4e6
    assert extra_bytes(call, torch.device("cpu")) == pytest.approx(2e6, abs=1e3)


def test_peak_bytes_of_a_chain_of_layers_are_its_two_widest_neighbours() -> None:
    widths = [10, 400, 900, 20]
    layers = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    batch = torch.zeros(1000, widths[0])
    with torch.inference_mode():
        found = extra_bytes(lambda: layers(batch), torch.device("cpu"))
    assert found == pytest.approx(4 * 1000 * (400 + 900), rel=0.01)


def test_peak_bytes_of_a_model_hold_its_weights_and_grow_with_the_batch() -> None:
    model = model_of(48)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    one, four = (measure(model, batch, 1, effort=SHORT).peak_bytes for batch in (1, 4))
    image = 4 * 3 * TINY.img_size**2
    assert one > weights + image and 3 * (one - weights) < four - weights + image < 5 * (one - weights)
    both = compare({"wide": model, "narrow": model_of(1)}, 1, 1, effort=SHORT)
    assert both["wide"].peak_bytes == pytest.approx(one, rel=0.01) and both["narrow"].peak_bytes < one


def test_the_device_has_a_name() -> None:
    name = library.device_name(torch.device("cpu"))
    cpus = Path("/proc/cpuinfo")
    assert name and (not cpus.is_file() or "model name" not in cpus.read_text() or name in cpus.read_text())


def test_rounds_end_once_the_medians_are_known_well_enough() -> None:
    quick = compare({"a": model_of(8)}, 1, 1, effort=Effort(rounds=500, block_seconds=1e-4, width=10.0))["a"]
    assert 6 <= quick.whole.repeats < 20
    precise = compare({"a": model_of(8)}, 1, 1, effort=Effort(rounds=40, block_seconds=1e-4, width=0.0))["a"]
    assert precise.whole.repeats >= 40
    once = compare({"a": model_of(8)}, 1, 1, effort=Effort(block_seconds=1e-6, most_seconds=0.0))["a"]
    assert once.whole.repeats == 1 and once.whole.iqr_ms is None and "too few" in once.trouble
