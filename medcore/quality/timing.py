"""Results of a measurement of time and memory, in a file of their own so that they can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call.

    Attributes:
        median_ms: Median over the timed blocks.
        iqr_ms: Interquartile range over the timed blocks.
        repeats: Number of timed blocks.
    """

    median_ms: float
    iqr_ms: float
    repeats: int


@dataclass(frozen=True)
class Latency:
    """One batch through a model.

    Attributes:
        encoder: From images to embeddings; this module is pruned.
        whole: Encoder, prompt encoder and mask decoder, a box for each image.
        peak_bytes: Tensors alive at the worst moment of a whole call: weights, input and what torch's allocator gives
            out during the call. Libraries and their scratch memory do not count.
    """

    encoder: Timing
    whole: Timing
    peak_bytes: int
