from __future__ import annotations

import pytest
import torch

from medcore.training.loop import all_finite

LARGE = torch.finfo(torch.float32).max


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_entry_that_is_not_finite_is_found(bad: float, dtype: torch.dtype) -> None:
    tensors = [torch.ones(3, 4, dtype=dtype), torch.zeros(5, dtype=dtype), torch.zeros(0)]
    assert all_finite(tensors)
    tensors[1][2] = bad
    assert not all_finite(tensors)
    tensors[1][3] = -bad
    assert not all_finite(tensors)


def test_a_sum_that_overflows_is_no_infinite_entry() -> None:
    assert all_finite([torch.full((4,), LARGE), torch.full((70_000,), 1.0, dtype=torch.float16)])
    assert all_finite([torch.full((70_000,), 60_000.0, dtype=torch.float16)])
    assert all_finite([])
