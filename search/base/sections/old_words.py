"""Settings of the ViT's families under the names that they had before every family had its own."""

from __future__ import annotations

#: Old key -> key of today.
VIT_WORDS = {
    "head_sparsity": "sparsity_heads",
    "mlp_sparsity": "sparsity_channels",
    "min_heads": "min_count_heads",
    "min_channel_share": "min_share_channels",
    "channel_multiple": "multiple",
}
