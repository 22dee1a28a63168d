"""Question: at equal processor seconds, does the search find better fronts than grids and other samplers?

Every arm runs trials of the same study, one after the other in this process and one thread, until it has used its
processor seconds. Statistics are computed once. Each arm is charged for those that it uses: Fisher information only
where MedCore's scores or rule are. The search images choose, and the report images are measured for the table only.

    OMP_NUM_THREADS=1 python -m benchmarks.search_against_grid arms.yaml --seconds 1800 --seeds 5 --work runs/arms \\
        --out runs/arms-table

A stopped benchmark continues with the same command. Every arm and seed has a study in `--work`, and the seconds of
each trial are in its folder.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.search_arms.arms import ARMS, DENSE_ARM, Arm, config_of
from benchmarks.search_arms.charges import Charges
from benchmarks.search_arms.measured import Record, dense_quality, measure_reports, record_of, remove_weights
from benchmarks.search_arms.prepared import Prepared, parts_of
from benchmarks.search_arms.report import Setting, write_report
from benchmarks.search_arms.runner import ArmStudy, run_study
from medcore.errors import ConfigError, MedcoreError
from results.store.files import read_json, write_json
from search.base.config import Config, load_config
from search.base.device import pin_threads
from search.base.provenance import git_revision, machine
from search.commands.sections import trial_settings

DEFAULT = Path("search/configs/polyps.yaml")


class Benchmark:
    """All arms and seeds on one configuration."""

    def __init__(self, config: Config, options: argparse.Namespace, console: Console) -> None:
        self.options, self.console = options, console
        self.work = options.work.absolute()
        self.trials = options.trials_like or config.search.trials
        self.config = config.absolute().model_copy(update={"output": self.work})
        self.arms = [ARMS[name] for name in options.arms]
        check_plan(self.work / "plan.json", options.seconds, self.trials)
        configs = [self.config_of(arm, 0) for arm in (DENSE_ARM, *self.arms)]
        self.charges = Charges(self.work / "statistics.json")
        self.prepared = Prepared.of(self.config, configs, self.charges)

    def config_of(self, arm: Arm, seed: int) -> Config:
        return config_of(arm, self.config, seed, self.work, self.trials)

    def run(self) -> None:
        """Run what is missing, seed by seed, and write the report if a folder is given."""
        records, dense = [], {}
        for seed in range(self.options.seeds):
            dense[seed] = dense_quality(self.run_arm(DENSE_ARM, seed))
            records += [self.run_arm(arm, seed) for arm in self.arms]
        if self.options.out is not None:
            order = {arm.name: place for place, arm in enumerate(self.arms)}
            write_report(sorted(records, key=lambda record: order[record.arm]), self.setting(dense), self.options.out)
            self.console.print(f"wrote table.md, table.csv, hypervolume.png in {self.options.out}", markup=False)

    def run_arm(self, arm: Arm, seed: int) -> Record:
        """Run one arm and seed, unless it has ended; the dense model alone has no limit of seconds."""
        config = self.config_of(arm, seed)
        study = ArmStudy(
            arm,
            config,
            self.prepared.shared_for(config),
            seed,
            charged=self.prepared.seconds_for(config),
            seconds=math.inf if arm is DENSE_ARM else self.options.seconds,
        )
        images, autocast = self.prepared.report_images, config.recovery.autocast
        run_study(study, lambda: measure_reports(study.folder, images, autocast))
        remove_weights(study.folder)
        record = record_of(study)
        counts = ", ".join(f"{count} {status}" for status, count in record.counts.items())
        self.console.print(f"{config.study}: {record.spent:.0f} processor seconds, {counts}", markup=False)
        return record

    def setting(self, dense: dict[int, float]) -> Setting:
        used = dict.fromkeys(part for arm in self.arms for part in parts_of(trial_settings(self.config_of(arm, 0))))
        return Setting(
            name=self.config.study,
            seconds=self.options.seconds,
            seeds=self.options.seeds,
            steps=self.config.recovery.steps,
            trials=self.trials,
            machine=machine(),
            git=git_revision(),
            parts={part: self.charges.seconds(part) for part in used},
            dense=dense,
        )


def check_plan(file: Path, seconds: float, trials: int) -> None:
    """Write down what a folder of studies is for, or check that it is still the same.

    A search plans its finalists by the seconds, so studies of other seconds are no beginning of these.

    Raises:
        ConfigError: The folder is of another plan.
    """
    plan = {"seconds": seconds, "trials": trials}
    if file.is_file() and read_json(file, "start again with another --work") != plan:
        raise ConfigError(f"{file.parent}: these studies have another --seconds or --trials-like; give another --work")
    write_json(file, plan)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help=" ".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--seconds", type=float, default=1800.0, help="processor seconds of each arm and seed")
    parser.add_argument("--work", type=Path, required=True, help="folder of the studies and of the cache")
    parser.add_argument("--out", type=Path, help="folder for table.md, table.csv and hypervolume.png")
    parser.add_argument(
        "--trials-like", type=int, help="number of trials for which samplers plan; default: that of the configuration"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options, console = parsed(), Console(width=200)
    logging.getLogger("medcore.budgets.targets").setLevel(logging.ERROR)  # a grid would repeat one warning
    pin_threads(1)
    if torch.cuda.is_available():
        raise SystemExit("processor seconds do not count a GPU; set CUDA_VISIBLE_DEVICES to an empty value")
    try:
        Benchmark(load_config(options.config), options, console).run()
    except MedcoreError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
