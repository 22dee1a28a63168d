"""Models move to the device for a block and return even if the block raises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from search.base import device


def test_a_model_returns_to_the_cpu_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "best_device", lambda: torch.device("meta"))
    moved: list[str] = []

    class Watched(nn.Linear):
        def cpu(self) -> Watched:
            moved.append("cpu")
            return self

    model = Watched(2, 2)
    with device.on_device(model) as inside:
        assert inside is model and model.weight.device.type == "meta"
    with pytest.raises(RuntimeError, match="inside"), device.on_device(model):
        raise RuntimeError("inside")
    assert moved == ["cpu", "cpu"]
