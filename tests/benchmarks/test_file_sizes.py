"""The benchmark of file sizes, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.sizes.files import file_bytes, report, spec_of
from medcore.errors import MedcoreError
from medcore.models.checkpoint import save
from medcore.models.cost import cost
from medcore.models.sam import build
from medcore.models.spec import ModelSpec
from tests.support.helpers import TINY
from tests.support.helpers import spec_of as widths

SPEC = widths(TINY, (2, 0, 3, 1), (48, 5, 0, 1))


def member(spec: ModelSpec, trial: str, flops: float, quality: float) -> dict[str, object]:
    """A row of `front.csv`, which has shares and no budget."""
    dense = ModelSpec.dense(TINY)
    shares = {name: sum(kept) / sum(dense.budget[name]) for name, kept in spec.budget.items()}
    params = cost(spec).encoder_params / cost(dense).encoder_params
    figures = {"flops_fraction": flops, "encoder_params_fraction": params, "boundary_f1": quality, "hd95": 1 / quality}
    return {"trial": trial, "origin": "sampled", **figures, **shares}


def test_a_file_is_as_large_as_that_of_the_real_structure(tmp_path: Path) -> None:
    """The front does not say which block keeps what; only names and numbers in the header depend on it."""
    found = spec_of(TINY, pd.Series(member(SPEC, "t0", 0.5, 0.8)))
    assert found != SPEC and {name: sum(kept) for name, kept in found.budget.items()} == {"heads": 6, "channels": 54}
    save(tmp_path / "real.safetensors", build(SPEC))
    assert file_bytes(found, "float32") == pytest.approx((tmp_path / "real.safetensors").stat().st_size, abs=200)
    with pytest.raises(MedcoreError, match=r"trial t0: .* the front says otherwise"):
        spec_of(TINY, pd.Series(member(SPEC, "t0", 0.5, 0.8) | {"encoder_params_fraction": 0.1}))


def test_the_page_shows_the_knee_within_its_bound() -> None:
    small, large = widths(TINY, (0, 0, 1, 0), (0, 0, 0, 1)), widths(TINY, (3, 3, 3, 3), (48, 48, 48, 1))
    rows = [member(small, "t0", 0.1, 0.2), member(SPEC, "t1", 0.2, 0.9), member(large, "t2", 0.9, 0.91)]
    page = report(pd.DataFrame(rows), TINY)
    assert "The knee is trial t1 (sampled)" in page and "| decoder |" in page
    bounds = [line.split(" | ") for line in page.splitlines() if line.startswith(("| float", "| bfloat"))]
    assert len(bounds) == 3 and all(cells[2] == f"{file_bytes(SPEC, cells[0][2:]) / 1e6:.2f} MB" for cells in bounds)
