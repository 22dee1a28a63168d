"""`medcore adapt` from a pruned checkpoint, and a further stage from what it writes."""

from __future__ import annotations

from pathlib import Path

from medcore.models.checkpoint import load, read_info, save
from medcore.models.cut import prune as cut
from search.base.config import load_config
from search.commands.adapt import adapt
from search.commands.prune import prune
from tests.support.studies.study_files import write_tiny_study
from tests.support.training_samples import random_masks


def test_a_pruned_model_trains_and_keeps_its_structure(tmp_path: Path) -> None:
    write_tiny_study(tmp_path)
    start = tmp_path / "pruned.safetensors"
    save(start, cut(load(tmp_path / "adapted.safetensors"), random_masks()))
    settings = {"start": str(start), "out": str(tmp_path / "tuned.safetensors"), "epochs": 1, "lr": 1e-3}
    out = adapt(load_config(write_tiny_study(tmp_path, adapt=settings)))
    before, after = load(start), load(out)
    assert after.spec == before.spec and not after.spec.is_dense
    assert before.kept is not None and after.kept is not None
    assert all((one == other).all() for one, other in zip(before.kept, after.kept, strict=True))
    assert any(not value.equal(before.state_dict()[name]) for name, value in after.state_dict().items())
    assert read_info(out)["origin"] == str(start)
    further = write_tiny_study(
        tmp_path,
        model={"adapted": str(out)},
        scoring={"criterion": "medcore"},
        budget={"allocator": "to_target", "fraction": 0.2},
        recovery={"steps": 0, "refit_images": 0},
    )
    assert prune(load_config(further), tmp_path / "last.safetensors")["flops_paper_fraction"] < 0.25
