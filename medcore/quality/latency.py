"""Time and memory of a model on the device that runs it, because fewer FLOPs do not always take less time.

Models that are compared take turns, so that a machine that slows down or is shared slows all of them. Each turn
begins with calls that warm up and do not count. On a GPU every timed call includes the wait for the GPU.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from medcore.devices import device_of
from medcore.models.sam import MedSam
from medcore.quality.timing import Latency, Timing, timing_of

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
#: Seconds on the wall and of the processors.
_Clocks = tuple[float, float]


@dataclass(frozen=True)
class Effort:
    """Length of a measurement.

    Attributes:
        rounds: Most turns of each model.
        block_seconds: Length of a turn, which has one call at least.
        most_seconds: No round begins after this time.
        width: Models need no more rounds once the 95 % intervals of all medians are this share of them wide.
    """

    rounds: int = 40
    block_seconds: float = 0.03
    most_seconds: float = 20.0
    width: float = 0.03


def measure(
    model: MedSam, batch: int = 1, threads: int | None = None, autocast: bool = False, effort: Effort | None = None
) -> Latency:
    """Measure time and memory of a single model, as `compare` does.

    Args:
        model: Runs on the device of its parameters.
        batch: Images in a call.
        threads: Of the CPU; by default as many as torch uses now.
        autocast: Whether to run in bfloat16.
        effort: How long to measure.

    Returns:
        The model's figures.
    """
    return compare({"": model}, batch, threads, autocast, effort)[""]


def compare(
    models: Mapping[str, MedSam],
    batch: int = 1,
    threads: int | None = None,
    autocast: bool = False,
    effort: Effort | None = None,
) -> dict[str, Latency]:
    """Measure time and memory of every model on random images and boxes.

    The time of an encoder is a part of the time of whole calls, so it is never longer.

    Args:
        models: Each runs on the device of its parameters.
        batch: Images in a call.
        threads: Of the CPU; by default as many as torch uses now.
        autocast: Whether to run in bfloat16.
        effort: How long to measure.

    Returns:
        Figures by name.

    Raises:
        torch.OutOfMemoryError: A GPU cannot hold a call.
    """
    effort = effort or Effort()
    timed = {name: _Calls(model, batch, autocast) for name, model in models.items()}
    begin = time.monotonic()
    with _threads(threads):
        for done in range(effort.rounds):
            spent = time.monotonic() - begin
            if done and (spent > effort.most_seconds or all(each.settled(effort.width) for each in timed.values())):
                break
            for each in timed.values():
                each.turn(effort.block_seconds)
        return {name: each.latency() for name, each in timed.items()}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads within the block; None leaves their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def take_turns(
    calls: Mapping[Name, Call], threads: int | None = None, effort: Effort | None = None
) -> dict[Name, Timing]:
    """Time functions one after the other, round by round.

    Args:
        calls: The functions by name.
        threads: Of the CPU; by default as many as torch uses now.
        effort: How long to measure.

    Returns:
        Times by name.
    """
    return {name: timing_of(seconds) for name, seconds in seconds_of(calls, threads, effort).items()}


def seconds_of(
    calls: Mapping[Name, Call], threads: int | None = None, effort: Effort | None = None
) -> dict[Name, list[float]]:
    """Time functions as `take_turns` does.

    Args:
        calls: The functions by name.
        threads: Of the CPU; by default as many as torch uses now.
        effort: How long to measure.

    Returns:
        Seconds of every timed block by name, at least one.
    """
    effort = effort or Effort()
    count = threads or torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=count) for name, call in calls.items()}
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    begin = time.monotonic()
    for _ in range(effort.rounds):
        for name, timer in timers.items():
            taken[name] += timer.blocked_autorange(min_run_time=effort.block_seconds).times
        if time.monotonic() - begin > effort.most_seconds:
            break
    return taken


def extra_bytes(call: Call, device: torch.device) -> int:
    """Return the bytes that a call needs at most, beyond what was held before it.

    The numbers come from torch's allocator for `device`.
    """
    if device.type != "cuda":
        return _extra_bytes_on_cpu(call)
    torch.cuda.synchronize(device)
    before: int = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    peak: int = torch.cuda.max_memory_allocated(device)
    return peak - before


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or CPU that its driver or the system gives."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor(), platform.machine()]), "unknown CPU")


class _Calls:
    """One model with its input, and the seconds of its calls so far."""

    def __init__(self, model: MedSam, batch: int, autocast: bool) -> None:
        self._model, self._device, self._autocast = model, device_of(model), autocast
        side = model.arch.img_size
        pixels = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        self._images = pixels.to(self._device)
        # the middle of each image
        self._boxes = (side * torch.tensor([0.25, 0.25, 0.75, 0.75])).repeat(batch, 1).to(self._device)
        self._encoder: list[float] = []
        self._whole: list[float] = []
        self._encoder_cpu: list[float] = []
        self._whole_cpu: list[float] = []

    def turn(self, least_seconds: float) -> None:
        """Warm up with one call, then time calls until they have taken `least_seconds`."""
        self._call()
        begin = time.perf_counter()
        while True:
            start, encoded, end = self._call()
            self._encoder.append(encoded[0] - start[0])
            self._whole.append(end[0] - start[0])
            self._encoder_cpu.append(encoded[1] - start[1])
            self._whole_cpu.append(end[1] - start[1])
            if time.perf_counter() - begin >= least_seconds:
                return

    def settled(self, width: float) -> bool:
        """Tell whether the medians are known to this share of them."""
        return timing_of(self._whole).width <= width and timing_of(self._encoder).width <= width

    def latency(self) -> Latency:
        """Return the figures of all turns."""
        encoder, whole = timing_of(self._encoder, self._encoder_cpu), timing_of(self._whole, self._whole_cpu)
        return Latency(encoder, whole, self._peak_bytes())

    def _call(self) -> tuple[_Clocks, _Clocks, _Clocks]:
        """Segment the images; return the clocks before, after the encoder, and at the end."""
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            start = self._clocks()
            embeddings = self._model.encode(self._images)
            encoded = self._clocks()
            self._model.decode(embeddings, self._boxes)
            return start, encoded, self._clocks()

    def _clocks(self) -> _Clocks:
        """Return the time on the wall and of the processors, after the device has done its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.process_time()

    def _peak_bytes(self) -> int:
        tensors = [*self._model.parameters(), *self._model.buffers(), self._images, self._boxes]
        resident: int = sum(tensor.nbytes for tensor in tensors)

        def segment() -> Tensor:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                return self._model.segment(self._images, self._boxes)

        return resident + extra_bytes(segment, self._device)


def _extra_bytes_on_cpu(call: Call) -> int:
    """Add up the profiler's record of every allocation and release.

    The record is read in the form that the profiler writes for other programs.
    """
    # the profiler reads this when it first starts; without it, it reports start and stop on standard error
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    gc.collect()  # garbage of an earlier call that is freed during this one would lower its peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        call()
    with tempfile.TemporaryDirectory(prefix="medcore-") as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0]
    changes.sort(key=lambda event: event["ts"])
    return int(np.cumsum([0, *(event["args"]["Bytes"] for event in changes)]).max())
