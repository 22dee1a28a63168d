"""The quick checks: each takes a moment and needs neither torch nor Ray, so that mistakes show within seconds."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from medcore.errors import ConfigError, StorageError, brief
from medcore.quality.catalogue import metrics
from medcore.quality.figures import FIGURES
from results.stats.objectives import Direction
from search.base.config import Config
from search.base.logins import hide_login
from search.commands.before import inputs
from search.commands.before.checks import Check, Found, Subject, log_notes, require, run_checks
from search.nodes.ports import is_listening, why_unreachable

#: Seconds to wait for a server. A whole check must end within five.
_PATIENCE = 2.0
_PORTS = {"http": 80, "https": 443}
#: What to do about a tracking server that cannot be used.
SERVER_ADVICE = (
    "start it or fix its address and login, or leave the tracking address out: the study then keeps a file of its own, "
    "and `medcore sync` sends it later"
)


def _has_trials(folder: Path) -> bool:
    if not (folder / "trials").is_dir():
        return False
    from search.trials.ledger import all_issued  # here, because its tables take long to import

    return bool(all_issued(folder))


def study(subject: Subject) -> Found:
    """Find a study that exists already.

    Raises:
        ConfigError: It has trials, and is not to be resumed.
    """
    folder = subject.config.folder
    if not ((folder / "config.yaml").is_file() and _has_trials(folder)):
        return Found(f"{folder}, new")
    if not subject.resume:
        raise ConfigError(f"{folder}: this study exists; add --resume to continue it, or choose another --name")
    return Found(f"{folder}, resumed")


def output(subject: Subject) -> Found:
    """Find an output folder that cannot be written.

    Raises:
        StorageError: It cannot.
    """
    folder = subject.config.folder
    place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not place.is_dir():
        raise StorageError(f"{folder}: cannot be made, {place} is no folder; choose another `output`")
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"medcore")
    except OSError as error:
        raise StorageError(f"{folder}: {place} cannot be written ({error.strerror}); choose another `output`") from None
    return Found(f"{place} can be written")


def objectives(subject: Subject) -> Found:
    """Find objectives that no trial has."""
    config = subject.config
    datasets = [folder.resolve().name for folder in config.data.folders]
    qualities = [metric.name for metric in metrics()]
    costs = [name for name in FIGURES if FIGURES[name].group == "cost"]
    known = {*costs, *qualities, *(f"{name}_{mean}" for name in qualities for mean in ("images", "worst"))}
    known |= {f"{name}/{dataset}" for name in qualities for dataset in datasets}
    wanted = config.search.objectives
    problems, notes = [], []
    for objective in wanted:
        if objective.name not in known:
            near = difflib.get_close_matches(objective.name, sorted(known), n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            listed = ", ".join([*costs, *qualities])
            problems.append(f"search.objectives: unknown objective {objective.name}{guess}; known are {listed}")
        elif objective.name in FIGURES and (less := FIGURES[objective.name].lower_is_better) != (
            objective.direction is Direction.MIN
        ):
            better = "less" if less else "more"
            notes.append(
                f"search.objectives: {objective.name} has direction {objective.direction.value}, but {better} is better"
            )
    text = ", ".join(f"{objective.name} {objective.direction.value}" for objective in wanted)
    return Found(text, tuple(notes), tuple(problems))


def gpu(subject: Subject) -> Found:
    """Find out whether the settings ask for a GPU that this machine lacks."""
    return gpu_found(subject, has_gpu(), "this machine shows no GPU")


def gpu_found(subject: Subject, exists: bool, absent: str) -> Found:
    """Return whether the GPU that a trial asks for exists.

    Args:
        subject: The search.
        exists: Whether this machine has a GPU.
        absent: What to say if it has none.

    Raises:
        ConfigError: The settings ask for a share of a GPU, and there is none.
    """
    share = subject.config.search.gpus_per_trial
    if subject.ray_address or os.environ.get("RAY_ADDRESS"):
        return Found("those of the cluster")
    if share not in ("auto", 0) and not exists:
        raise ConfigError(
            f"search.gpus_per_trial is {share:g}, but {absent}; set it to auto or 0, or mend the driver and "
            "CUDA_VISIBLE_DEVICES"
        )
    return Found("this machine has a GPU" if exists else "none, the trials run on the CPU")


def has_gpu() -> bool:
    """Tell whether there is a sign of a GPU; torch may still be unable to use it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    devices = any(next(Path("/dev").glob(name), None) for name in ("nvidia*", "nvhost*", "kfd", "dxg"))
    return devices or Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None


def server(subject: Subject) -> Found:
    """Find a tracking server where nothing listens; whether it can be written is a slow check."""
    config = subject.config
    uri = config.tracking.uri
    if uri is None:
        return Found("a file of the study's own")
    shown = hide_login(uri)
    try:
        parts = urlsplit(uri)
        port = _PORTS.get(parts.scheme) and (parts.port or _PORTS[parts.scheme])
    except ValueError as error:
        raise ConfigError(f"tracking.uri: {shown}: {brief(error)}; mend the address") from None
    if port is None or _has_trials(config.folder) or _has_proxy(parts.scheme, parts.hostname or ""):
        return Found(shown)
    if not is_listening(f"{parts.hostname}:{port}", _PATIENCE):
        reason = f"tracking.uri: nothing answers at {shown}; {SERVER_ADVICE}"
        return Found("", problems=(reason,))
    return Found(f"{shown} listens")


def cluster(subject: Subject) -> Found:
    """Find a Ray cluster that does not run."""
    address = subject.ray_address or os.environ.get("RAY_ADDRESS")
    if address is None:
        return Found("a Ray of this machine's own")
    reason = why_unreachable(address)
    return Found(address, problems=() if reason is None else (reason,))


def require_quick(config: Config, ray_address: str | None = None, resume: bool = False) -> tuple[str, ...]:
    """Run the quick checks before a search, log their notes and return them.

    Args:
        config: The configuration.
        ray_address: The cluster, as the user gave it.
        resume: Whether the study may have trials.

    Raises:
        MedcoreError: A check has found a problem.
    """
    found = run_checks(QUICK, Subject(config.absolute(), ray_address, resume)).values()
    require(found)
    return log_notes(found)


def _has_proxy(scheme: str, host: str) -> bool:
    """Tell whether requests to a host go through a proxy, which alone knows whether the host answers."""
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


_BY_NAME = (
    Check("study", study),
    Check("output", output),
    Check("checkpoints", inputs.checkpoints),
    Check("architecture", inputs.architecture, after=("checkpoints",)),
    Check("objectives", objectives),
    Check("starting points", inputs.starting_points, after=("architecture", "checkpoints")),
    Check("GPU", gpu),
    Check("server", server),
    Check("cluster", cluster),
    Check("images", inputs.data),
    Check("splits", inputs.parts, after=("images",)),
)
#: Masks are read only if all else is in order, because what reads them takes long to import.
QUICK: Sequence[Check] = (*_BY_NAME, Check("masks", inputs.masks, after=tuple(check.name for check in _BY_NAME)))
