"""The families of groups in a transformer's blocks, for every encoder that has such blocks (method §2)."""

from __future__ import annotations

from medcore.models.sites import Family

#: Default sparsities are the paper's operating point 0.5/0.7; its other one is 0.84/0.95.
HEADS = Family("heads", "Attention heads", "head", stage="heads", lean=1, least_count=1, sparsity=0.5)
CHANNELS = Family(
    "channels",
    "MLP channels",
    "channel",
    stage="mlp",
    lean=-1,
    least_share=0.05,
    sparsity=0.7,
    rounded=True,
)
WHOLE_BLOCKS = Family("blocks", "Blocks", "block", stage="blocks", offset=2.0, elective=True)
