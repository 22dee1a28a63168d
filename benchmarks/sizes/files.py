"""Claim: an exported model takes no more bytes than its share of the dense file, and what no pruning removes.

Baseline: the file of the dense model in the same precision. The sizes follow from the structure alone, so the weights
are zeros. A published front lists how many heads and channels each member keeps in all, not in which block. That
suffices: every head, and every channel, of an architecture has equally many parameters in all blocks. Each table row is
checked against the front's own share of parameters.

    python -m benchmarks.sizes.files results/published/polyps --arch $MEDCORE_SHARED/weights/vit_ti_256.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from medcore.errors import MedcoreError
from medcore.models.architectures import resolve_architecture
from medcore.models.checkpoint import save
from medcore.models.cost import cost
from medcore.models.formats.precision import FLOAT32, PRECISIONS, in_precision, sizes
from medcore.models.sam import build_empty
from medcore.models.spec import Architecture, ModelSpec
from results.pages.markdown import table
from results.stats.objectives import Objective
from results.stats.pareto import knee, objective_losses

#: What the published studies optimise; FLOPs as shares, which changes no choice.
OBJECTIVES = (Objective("flops_fraction", "min"), Objective("boundary_f1", "max"), Objective("hd95", "min"))


def spread(arch: Architecture, kept: dict[str, int]) -> ModelSpec:
    """A structure that keeps so many groups of each family in all; the first blocks keep all of theirs."""
    widths = []
    left = dict(kept)
    for site in arch.sites:
        widths.append(min(site.width, left[site.family.name]))
        left[site.family.name] -= widths[-1]
    return ModelSpec(arch, tuple(widths))


def spec_of(arch: Architecture, member: pd.Series) -> ModelSpec:
    """The structure of a member of a published front.

    Raises:
        MedcoreError: Its shares are those of another architecture.
    """
    totals = {name: sum(widths) for name, widths in ModelSpec.dense(arch).budget.items()}
    spec = spread(arch, {name: round(member[name] * total) for name, total in totals.items()})
    share = cost(spec).encoder_params / cost(ModelSpec.dense(arch)).encoder_params
    if abs(share - member["encoder_params_fraction"]) > 1e-5:
        raise MedcoreError(f"trial {member['trial']}: {share:.4f} of the parameters, the front says otherwise")
    return spec


def file_bytes(spec: ModelSpec, precision: str) -> int:
    """Write a model of zeros and measure its file."""
    model = build_empty(spec).to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(path, in_precision(model, precision))
        return path.stat().st_size


def report(front: pd.DataFrame, arch: Architecture) -> str:
    """The page: the knee in all precisions, what is never pruned, and the file of every member."""
    best = front.iloc[knee(objective_losses(front, OBJECTIVES))]
    dense = {name: file_bytes(ModelSpec.dense(arch), name) for name in PRECISIONS}
    members = [(member, spec_of(arch, member)) for _, member in front.iterrows()]
    files = {member["trial"]: {name: file_bytes(spec, name) for name in PRECISIONS} for member, spec in members}
    parts = [
        f"# Size of the files: {arch.name}",
        f"The knee is trial {best['trial']} ({best['origin']}) with {best['flops_fraction']:.1%} of the FLOPs and "
        f"{best['encoder_params_fraction']:.1%} of the encoder's parameters.",
        _bound_table(best, arch, files[best["trial"]], dense),
        "The bound is the knee's share of the encoder's parameters times the dense file, plus what is never pruned.",
        _unpruned_table(arch),
        _member_table(front, files, dense),
    ]
    return "\n\n".join(parts) + "\n"


def _bound_table(best: pd.Series, arch: Architecture, files: Mapping[str, int], dense: Mapping[str, int]) -> str:
    rows = []
    for name, size in files.items():
        unpruned = sum(sizes(ModelSpec.dense(arch), name).unpruned.values())
        bound = best["encoder_params_fraction"] * dense[name] + unpruned
        cells = map(_mega, (dense[name], size, unpruned, bound))
        rows.append((name, *cells, f"{size / dense[name]:.1%}", "yes" if size <= bound else "NO"))
    return table(("precision", "dense file", "knee's file", "never pruned", "bound", "of dense", "within"), rows)


def _unpruned_table(arch: Architecture) -> str:
    found = {name: sizes(ModelSpec.dense(arch), name).unpruned for name in PRECISIONS}
    rows = [(part, *(_mega(found[name][part]) for name in PRECISIONS)) for part in found[FLOAT32]]
    return table(("never pruned", *PRECISIONS), rows)


def _member_table(front: pd.DataFrame, files: Mapping[str, Mapping[str, int]], dense: Mapping[str, int]) -> str:
    rows = []
    for _, member in front.iterrows():
        own = files[member["trial"]]
        shares = (f"{member[name]:.1%}" for name in ("flops_fraction", "encoder_params_fraction"))
        cells = map(_mega, own.values())
        rows.append((member["trial"], *shares, *cells, f"{own[FLOAT32] / dense[FLOAT32]:.1%}"))
    rows.append(("dense", "100.0%", "100.0%", *map(_mega, dense.values()), "100.0%"))
    return table(("trial", "FLOPs left", "encoder's parameters left", *PRECISIONS, "of the dense file"), rows)


def _mega(size: float) -> str:
    return f"{size / 1e6:.2f} MB"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("published", type=Path, help="folder with front.csv; sizes.md is written there")
    parser.add_argument("--arch", required=True, help="name or JSON file of the architecture")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    front = pd.read_csv(options.published / "front.csv")
    text = report(front[front["trial"].notna()].reset_index(drop=True), resolve_architecture(options.arch))
    (options.published / "sizes.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
