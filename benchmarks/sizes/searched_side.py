"""Question: does a search find a better front if each trial may also choose the side of its square?

Two searches of equally many trials a seed, by the same settings: one at the checkpoint's own side, one with
`search.space.side`. All figures are those of the search images, because the question is what the search chooses.

    OMP_NUM_THREADS=1 python -m benchmarks.sizes.searched_side search/configs/polyps.yaml --sides 256 192 \\
        --out results/published/grid
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from results.pages.markdown import table
from results.store.trials import read_study
from search.base.config import Config, load_config, validate
from search.commands.front import front
from search.commands.search import search

#: Shares of the FLOPs at which the best trials of each side are compared.
SHARES = (0.08, 0.15, 0.3)


def changed(config: Config, sides: list[int], seed: int, options: argparse.Namespace) -> Config:
    """The configuration of one search; no sides for one at the checkpoint's own."""
    values = config.model_dump()
    name = f"{'-'.join(map(str, sides)) or 'own'}-{seed}"
    values |= {"seed": seed, "study": name, "output": options.work.absolute()}
    values["search"]["trials"] = options.trials
    values["search"]["space"]["side"] = {"choices": sides} if sides else None
    values["recovery"]["steps"] = options.steps
    values["tracking"] |= {"kind": "files", "uri": None}
    return validate(values, "benchmark")


def measured(config: Config, sides: list[int], own: int) -> dict[str, Any]:
    """Run one search, or read it, and return its row of the table."""
    if not search(config, resume=config.folder.is_dir()).complete:
        raise SystemExit("interrupted; the same command continues")
    found = front(str(config.folder))
    row: dict[str, Any] = {"sides": " or ".join(map(str, sides or [own])), "seed": config.seed}
    row |= {"trials": found.done, "hypervolume": found.hypervolume, "front": len(found.members)}
    row["smaller"] = sum(member.params.get("side", own) != own for member in found.members)
    trials = read_study(config.folder)
    trials = trials[trials["status"] == "done"]
    smaller = trials.get("param/side", pd.Series(own, index=trials.index)) != own
    row["tried_smaller"] = int(smaller.sum())
    for share in SHARES:
        within = trials["flops_paper_fraction"] <= share
        for name, part in (("own", trials[within & ~smaller]), ("other", trials[within & smaller])):
            row[f"{name}_{share:g}"] = part["boundary_f1"].max() if len(part) else float("nan")
    return row


def text_of(rows: pd.DataFrame) -> str:
    """The table in Markdown."""
    head = ["sides", "seed", "trials (of a smaller side)", "hypervolume, relative", "front (of a smaller side)"]
    head += [f"best Boundary F1 at ≤ {share:.0%}: own side / smaller" for share in SHARES]
    lines = []
    for row in rows.to_dict("records"):
        cells = [row["sides"], str(row["seed"]), f"{row['trials']} ({row['tried_smaller']})"]
        cells += [f"{row['hypervolume']:.4f}", f"{row['front']} ({row['smaller']})"]
        cells += [" / ".join(_figure(row[f"{name}_{share:g}"]) for name in ("own", "other")) for share in SHARES]
        lines.append(cells)
    return table(head, lines) + "\n"


def _figure(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", required=True, help="the largest is the checkpoint's own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--work", type=Path, default=Path("runs/searched-side"), help="folder of the studies")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config, own = load_config(options.config).absolute(), max(options.sides)
    found = [
        measured(changed(config, sides, seed, options), sides, own)
        for seed in range(options.seeds)
        for sides in ([], options.sides)
    ]
    rows = pd.DataFrame(found)
    # in shares of the search at the checkpoint's own side with the same seed
    rows["hypervolume"] /= rows.groupby("seed")["hypervolume"].transform("first")
    options.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.out / "searched.csv", index=False, float_format="%.5g")
    (options.out / "searched.md").write_text(text_of(rows))


if __name__ == "__main__":
    main()
