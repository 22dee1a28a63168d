"""What a measurement of time and memory gives; apart from it, so that figures can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call: median and interquartile range over `repeats` timed blocks."""

    median_ms: float
    iqr_ms: float
    repeats: int


@dataclass(frozen=True)
class Latency:
    """One batch through a model.

    Attributes:
        encoder: images -> embeddings; the part that is pruned.
        whole: encoder, prompt encoder and mask decoder, a box for each image.
        peak_bytes: tensors alive at the worst moment of a whole call: weights, input and all that torch's allocator
            hands out meanwhile. What the process needs besides (libraries and their scratch memory) is not in it.
    """

    encoder: Timing
    whole: Timing
    peak_bytes: int
