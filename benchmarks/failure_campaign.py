"""Claim: no fault of a cluster costs a study a trial, doubles one, or runs one again that has ended.

A search of real trials runs on a head and three worker nodes with an MLflow server, each a machine of its own (Linux
namespaces). Faults strike at moments drawn from a seed; the search is resumed as its own message says. Afterwards the
files and the server are asked by code of this benchmark's own. Finished rounds are in rounds.jsonl and not run again.

    python -m benchmarks.failure_campaign --rounds 25 --trials 32 --seed 0 --out results/published/failures
    python -m benchmarks.failure_campaign --exact --rounds 3 --trials 16 --out results/published/failures/exact
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.campaign import check
from benchmarks.campaign.cluster import Cluster
from benchmarks.campaign.faults import KINDS, draw
from benchmarks.campaign.machines import SetupError, enter_sandbox, in_sandbox, prepare_network
from benchmarks.campaign.record import Record
from benchmarks.campaign.report import summary_line, write_report
from benchmarks.campaign.rounds import Round, Stage
from benchmarks.campaign.storage import Disk

_UNDISTURBED = "undisturbed"


def campaign(arguments: argparse.Namespace, work: Path) -> bool:
    """Play the rounds that are missing and write the report. Returns whether nothing was found."""
    settings = {name: getattr(arguments, name) for name in ("trials", "seed", "workers", "exact", "only")}
    record = Record(arguments.out, settings)
    missing = [number for number in range(1, arguments.rounds + 1) if number not in record.rounds]
    if missing or (not record.rounds and not arguments.only):
        # imported here: it brings torch, which the process outside of the sandbox need not wait for
        from benchmarks.campaign.study import write_study

        prepare_network()
        disk = Disk(work / "disk")
        concurrency = 1 if arguments.exact else arguments.workers
        config = write_study(work / "inputs", disk.place / "runs", arguments.trials, arguments.seed, concurrency)
        stage = Stage(Cluster(work, arguments.workers), disk, config, disk.place / "runs", arguments.trials)
        if not arguments.only or arguments.exact:  # times are compared
            stage.score()
        expected = undisturbed(stage, record, arguments)
        for number in missing:
            name = f"round-{number:03d}"
            result = stage.play(name, draw(arguments.seed, number, arguments.trials, arguments.only))
            if expected is not None:
                result.findings["differences"] = check.differences(expected, check.comparable(stage.study(name)))
            keep(result, record.add(number, result), stage.study(name), work)
            write_report(arguments.out, record)
        disk.unmount()
    write_report(arguments.out, record)
    return record.clean


def undisturbed(stage: Stage, record: Record, arguments: argparse.Namespace) -> dict[str, dict[str, Any]] | None:
    """Measure the search without faults, once; its rows where rounds are compared with them."""
    if not arguments.exact and (0 in record.rounds or arguments.only):
        return None
    result = stage.play(_UNDISTURBED, [])
    if 0 not in record.rounds:
        say(record.add(0, result))
    return check.comparable(stage.study(_UNDISTURBED)) if arguments.exact else None


def keep(result: Round, entry: dict[str, Any], study: Path, work: Path) -> None:
    """Tell; keep a study with findings as evidence, and make room."""
    say(entry)
    if any(result.findings.values()):
        shutil.copytree(study, work / "evidence" / study.name)
    shutil.rmtree(study)


def say(entry: dict[str, Any]) -> None:
    sys.stdout.write(summary_line(entry) + "\n")
    sys.stdout.flush()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--workers", type=int, default=3, help="worker nodes, each for one trial at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for rounds.jsonl and the report")
    parser.add_argument("--exact", action="store_true", help="one trial at a time; rows must equal the undisturbed")
    kinds = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items()).replace("%", "%%")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=KINDS,
        default=[],
        help=f"exactly these strike each round, and no time is compared. {kinds}",
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if not in_sandbox():
        return enter_sandbox("benchmarks.failure_campaign", sys.argv[1:])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="medcore-campaign-"))
    clean = False
    try:
        clean = campaign(arguments, work)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished rounds are kept, start it again to go on\n")
        return 130
    finally:
        if clean:
            shutil.rmtree(work, ignore_errors=True)
        else:
            sys.stderr.write(f"logs and evidence: {work}\n")
    return 0 if clean else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupError as error:
        sys.exit(f"failure_campaign: {error}")
